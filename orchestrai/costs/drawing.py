"""How each frame is drawn into a part of a figure: alone, or beside others on the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import plotly.graph_objects as go

from orchestrai import text
from orchestrai.costs.figures import (
    BILLED,
    CLEAR,
    INK,
    LINES,
    LISTED,
    Figure,
    colours,
    dollars,
    label,
    nothing,
    unknown,
)

if TYPE_CHECKING:
    import pandas as pd

Period = Literal["day", "week", "month"]

BARS: Final = 12  # rows of a table, bars of a plot
_MOST_DAYS: Final = 120  # bars by day; beyond, by week, then by month
_GAP: Final = "\u00a0"  # never broken
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_BAR: Final = 4  # characters
_CELL: Final = 26  # characters that stand in one line of the first column
_BETWEEN: Final = "rgba(0,158,115,0.22)"  # what was saved, behind lines
_MONEY_AXIS: Final = {"tickprefix": "$", "tickformat": "~g", "rangemode": "tozero"}
_DAY_MS: Final = 86_400_000


def tiles(figure: Figure, summary: pd.DataFrame, row: int = 1) -> None:
    """Draw the figures of a summary as numbers with their change."""
    for col, (measure, title) in enumerate(TILES, start=1):
        value, before = summary["value"][measure], summary["before"][measure]
        known = not unknown(value)
        prefix, suffix, form = _number_form(measure, float(value) if known else 0.0)
        shown: dict[str, Any] = {
            "value": float(value) * (100 if suffix == "%" else 1) if known else None,
            "title": {"text": title, "font": {"size": 12}},
            "number": {"prefix": prefix, "suffix": suffix, "valueformat": form, "font": {"size": 19, "color": INK}},
            "mode": "number",
        }
        if known:
            compared = not unknown(before) and bool(before)
            colour = {"color": INK if compared else CLEAR}  # unseen, so that all numbers stand in one line
            shown |= {
                "mode": "number+delta",
                "delta": {
                    "reference": float(before if compared else value) * (100 if suffix == "%" else 1),
                    "relative": True,
                    "valueformat": "+.0%",
                    "increasing": colour,
                    "decreasing": colour,
                    "font": {"size": 12},
                    "position": "bottom",
                },
            }
        figure.add_trace(go.Indicator(**shown), row=row, col=col)


TILES: Final = (
    ("cost", "billed"),
    ("list_cost", "list cost"),
    ("saved", "saved"),
    ("tasks", "tasks"),
    ("success_rate", "succeeded"),
    ("input_tokens", "tokens in"),
    ("p95_s", "p95 time"),
)


def period_of(frame: pd.DataFrame) -> Period:
    """Return what a bar stands for: a week or a month where there are many days."""
    days = frame["day"].dropna()
    span = (days.max() - days.min()).days if len(days) else 0
    return "day" if span <= _MOST_DAYS else "week" if span <= 7 * _MOST_DAYS else "month"


def by_day(figure: Figure, frame: pd.DataFrame, of: str, row: int = 1, col: int = 1) -> None:
    """Draw money by day, week or month, stacked by platform."""
    known = frame[frame["day"].notna()]
    if not known[of].any():
        nothing(figure, row, col, "nothing billed" if len(known) and of == "cost" else "nothing yet")
        return
    period = period_of(known)
    totals = known.assign(day=_begins(known["day"], period)).groupby(["platform", "day"])[of].sum()
    for platform, colour in colours(sorted(known["platform"].unique())).items():
        sums = totals[platform]
        if not sums.any():
            continue  # nothing was billed there
        figure.add_trace(
            go.Bar(
                x=sums.index.tolist(),
                y=sums.tolist(),
                name=label(platform),
                legendgroup=label(platform),
                marker={"color": colour},
                hovertemplate="%{x|%Y-%m-%d}<br>$%{y:,.6~f}",
                showlegend=True,
            ),
            row=row,
            col=col,
        )
    figure.update_layout(barmode="stack")
    _date_axis(figure, known["day"], "%b %Y" if period == "month" else "%b %d", row, col)
    figure.update_yaxes(**_MONEY_AXIS, row=row, col=col)


def savings(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw cumulative list cost and cash, and what lies between."""
    known = frame[frame["day"].notna()]
    if not len(known):
        nothing(figure, row, col)
        return
    days = _begins(known["day"], "day")
    lines = (
        ("billed", "cost_so_far", BILLED, None),
        ("at list prices, nothing reused", "full_cost_so_far", LISTED, "tonexty"),
    )
    for name, column, colour, fill in lines:
        figure.add_trace(
            go.Scatter(
                x=days,
                y=known[column].tolist(),
                name=name,
                mode="lines+markers" if len(days) < 40 else "lines",
                line={"color": colour, "width": 2},
                fill=fill,
                fillcolor=_BETWEEN,
                hovertemplate="%{x|%Y-%m-%d}<br>$%{y:,.6~f}",
                showlegend=legend,
            ),
            row=row,
            col=col,
        )
    _date_axis(figure, known["day"], "%b %d", row, col)
    figure.update_yaxes(**_MONEY_AXIS, row=row, col=col)


def table(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1) -> None:
    """Draw platforms and models as a table with bars in its cells."""
    shown = frame.head(BARS)
    cells: list[list[str]] = [
        [
            f"{label(platform, width=_CELL)} · {label(model, width=_CELL)}"
            for platform, model in zip(shown["platform"], shown["model"], strict=True)
        ],
        [label(tier) for tier in shown["tier"]],
        _bars(shown["tasks"], lambda value: text.count(int(value))),
        _bars(shown["cost"], dollars),
        _bars(shown["list_cost"], dollars),
        ["" if unknown(rate) else f"{rate:.1%}" for rate in shown["success_rate"]],
        [_seconds(value) for value in shown["p50_s"]],
        [_seconds(value) for value in shown["p95_s"]],
    ]
    if not len(shown):
        cells = [["nothing yet"], *([""] for _ in cells[1:])]
    titles = ("platform · model", "tier", "tasks", "billed", "list cost", "success", "p50", "p95")
    common = {
        "line": {"color": LINES}, "fill": {"color": CLEAR}, "align": "left", "font": {"color": INK, "size": 12}, "height": 24,
    }  # fmt: skip
    figure.add_trace(
        go.Table(
            columnwidth=[3.5, 1.6, 1.7, 2.5, 2.5, 1.3, 1.2, 1.2],
            header={**common, "values": list(titles)},
            cells={**common, "values": cells},
        ),
        row=row,
        col=col,
    )


def groups(
    figure: Figure,
    frame: pd.DataFrame,
    names: Sequence[str],
    columns: Sequence[tuple[str, str, str]],
    unit: str,
    *,
    stacked: bool = False,
) -> None:
    """Draw columns of a frame as bars beside each other, one group for each row.

    Args:
        figure: Where.
        frame: What; the first rows are drawn.
        names: Name of each row.
        columns: Column, title, colour.
        unit: `$` stands before numbers, anything else below them.
        stacked: One bar for a row, of all its columns.
    """
    if not len(frame):
        nothing(figure)
        return
    shown = frame.head(BARS)
    ticks = [f"{name}{'&#8203;' * i}" for i, name in enumerate(names[: len(shown)])]  # two rows of one name stay two
    money = unit == "$"
    for column, title, colour in columns:
        figure.add_trace(
            go.Bar(
                y=ticks,
                x=shown[column].astype("float64").tolist(),
                name=title,
                orientation="h",
                marker={"color": colour},
                hovertemplate="%{y}<br>$%{x:,.6~f}" if money else "%{y}<br>%{x:,.4~g} " + unit,
            )
        )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(
        **({"tickprefix": "$"} if money else {"title": {"text": unit}}),
        tickformat="~s" if unit == "tokens" else "~g",
        range=[0, 103] if unit == "%" else None,
    )
    beside = 1 if stacked else len(columns)
    figure.update_layout(height=150 + (10 + 16 * beside) * len(shown), barmode="stack" if stacked else "group")


def _number_form(measure: str, value: float) -> tuple[str, str, str]:
    if measure in ("cost", "list_cost", "saved"):
        size = abs(value)
        return "$", "", ",.2f" if size >= 1 or not size else ".4~f" if size >= 0.01 else ".2~g"
    if measure == "success_rate":
        return "", "%", ".1f"
    if measure == "p95_s":
        return "", " s", ".2~f"
    return "", "", ",d" if value < 1e6 else ".3~s"


def _bars(values: pd.Series[Any], shown: Callable[[Any], str]) -> list[str]:
    most = max(map(float, values), default=0.0)
    cells = []
    for value in values:
        eighths = round(8 * _BAR * float(value) / most) if most > 0 else 0
        bar = "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
        cells.append(f"{shown(value)}{_GAP}{bar}" if bar else shown(value))
    return cells


def _seconds(value: float) -> str:
    return "" if unknown(value) else text.duration(value).replace(" ", _GAP)


def table_height(frame: pd.DataFrame) -> int:
    """Return the room that the table takes [px]: a platform and a model that are long take a line each."""
    shown = frame.head(BARS)
    lengths = [len(str(p)) + len(str(m)) for p, m in zip(shown["platform"], shown["model"], strict=True)]
    return 28 + sum(24 + 22 * (length > _CELL) for length in lengths or [0])


def _begins(days: pd.Series[Any], period: Period) -> list[str]:
    """Return the first day of the period that each day is in."""
    found = days.to_numpy().astype("datetime64[D]")
    if period == "month":
        found = found.astype("datetime64[M]").astype("datetime64[D]")
    elif period == "week":
        found = found - (found.astype("int64") + 3) % 7  # 1970 began on a Thursday
    return [str(day) for day in found]


def _date_axis(figure: Figure, days: pd.Series[Any], form: str, row: int, col: int) -> None:
    few = (days.max() - days.min()).days <= 7  # without a tick for every hour
    figure.update_xaxes(type="date", tickformat=form, dtick=_DAY_MS if few else None, row=row, col=col)
