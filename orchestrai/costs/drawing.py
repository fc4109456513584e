"""How each frame is drawn into a part of a figure: alone, or beside others on the dashboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from orchestrai import text
from orchestrai.costs.figures import INK, Figure, colours, dollars, label, nothing

if TYPE_CHECKING:
    import pandas as pd

BARS: Final = 12  # rows of a table, bars of a plot
_MOST_DAYS: Final = 120  # bars by day; beyond, by week, then by month
_GAP: Final = "\u00a0"  # never broken
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_BAR: Final = 6  # characters
_BILLED, _LISTED, _SAVED = "#0072b2", "#8a8a8a", "rgba(0,158,115,0.22)"
_CLEAR: Final = "rgba(0,0,0,0)"
_STATUS_COLOURS: Final = {"succeeded": "#009e73", "failed": "#dc3d43", "open": "#56b4e9", "in_doubt": "#cc79a7"}


def tiles(figure: Figure, summary: pd.DataFrame, row: int = 1) -> None:
    """Draw the figures of a summary as numbers with their change."""
    for col, (measure, title) in enumerate(TILES, start=1):
        value, before = summary["value"][measure], summary["before"][measure]
        known = value is not None and value == value  # noqa: PLR0124 - NaN
        prefix, suffix, form = _number_form(measure, float(value) if known else 0.0)
        shown: dict[str, Any] = {
            "value": float(value) * (100 if suffix == "%" else 1) if known else None,
            "title": {"text": title, "font": {"size": 12}},
            "number": {"prefix": prefix, "suffix": suffix, "valueformat": form, "font": {"size": 19, "color": INK}},
            "mode": "number",
        }
        if known and before is not None and before == before and before:  # noqa: PLR0124 - NaN
            reference = float(before) * (100 if suffix == "%" else 1)
            grey = {"color": INK}
            shown |= {
                "mode": "number+delta",
                "delta": {
                    "reference": reference, "relative": True, "valueformat": "+.0%", "increasing": grey,
                    "decreasing": grey, "font": {"size": 12}, "position": "bottom",
                },
            }  # fmt: skip
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


def by_day(figure: Figure, frame: pd.DataFrame, of: str, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw money by day, stacked by platform; by week or month where there are many days."""
    import pandas as pd

    if not len(frame):
        nothing(figure, row, col)
        return
    span = (frame["day"].max() - frame["day"].min()).days
    unit = "D" if span <= _MOST_DAYS else "W" if span <= 7 * _MOST_DAYS else "M"
    moved = frame.assign(day=frame["day"].dt.to_period(unit).dt.start_time)
    totals = moved.groupby(["platform", "day"], sort=True)[of].sum()
    shown = colours(sorted(frame["platform"].unique()))
    for platform, colour in shown.items():
        sums = totals[platform]
        if not sums.any():
            continue  # nothing was billed there
        figure.add_trace(
            go.Bar(
                x=[pd.Timestamp(day).strftime("%Y-%m-%d") for day in sums.index],
                y=sums.tolist(),
                name=label(platform),
                legendgroup=label(platform),
                marker={"color": colour},
                hovertemplate="%{x|%Y-%m-%d}<br>$%{y:,.6~f}",
                showlegend=legend,
            ),
            row=row,
            col=col,
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(type="date", tickformat="%b %d" if unit != "M" else "%b %Y", row=row, col=col)
    if span <= 7:
        figure.update_xaxes(dtick=86_400_000, row=row, col=col)
    figure.update_yaxes(tickprefix="$", tickformat="~g", rangemode="tozero", row=row, col=col)


def savings(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw cumulative list cost and cash, and what lies between."""
    if not len(frame):
        nothing(figure, row, col)
        return
    days = frame["day"].dt.strftime("%Y-%m-%d").tolist()
    mode = "lines+markers" if len(days) < 40 else "lines"
    lines = (
        ("billed", frame["cost_so_far"], _BILLED, None),
        ("at list prices, nothing reused", frame["full_cost_so_far"], _LISTED, "tonexty"),
    )
    for name, values, colour, fill in lines:
        figure.add_trace(
            go.Scatter(
                x=days, y=values.astype("float64").tolist(), name=name, mode=mode, line={"color": colour, "width": 2},
                fill=fill, fillcolor=_SAVED, hovertemplate="%{x|%Y-%m-%d}<br>$%{y:,.6~f}", showlegend=legend,
            ),
            row=row,
            col=col,
        )  # fmt: skip
    figure.update_xaxes(type="date", tickformat="%b %d", row=row, col=col)
    if len(days) <= 8:
        figure.update_xaxes(dtick=86_400_000, row=row, col=col)
    figure.update_yaxes(tickprefix="$", tickformat="~g", rangemode="tozero", row=row, col=col)


def table(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1) -> None:
    """Draw platforms and models as a table with bars in its cells."""
    shown = frame.head(BARS)
    cells: list[list[str]] = [
        [
            f"{label(platform)} · {label(model)}"
            for platform, model in zip(shown["platform"], shown["model"], strict=True)
        ],
        [label(tier) for tier in shown["tier"]],
        _bars(shown["tasks"], lambda value: text.count(int(value))),
        _bars(shown["cost"], dollars),
        _bars(shown["list_cost"], dollars),
        ["" if rate != rate else f"{rate:.1%}" for rate in shown["success_rate"]],  # noqa: PLR0124 - NaN
        [_seconds(value) for value in shown["p50_s"]],
        [_seconds(value) for value in shown["p95_s"]],
    ]
    if not len(shown):
        cells = [["nothing yet"], *([""] for _ in cells[1:])]
    titles = ("platform · model", "tier", "tasks", "billed", "list cost", "success", "p50", "p95")
    common = {"line": {"color": "rgba(128,128,128,0.25)"}, "fill": {"color": _CLEAR}, "align": "left"}
    figure.add_trace(
        go.Table(
            columnwidth=[3, 1.4, 1.9, 2.3, 2.3, 1.3, 1.1, 1.1],
            header={**common, "values": list(titles), "font": {"color": INK, "size": 12}, "height": 24},
            cells={**common, "values": cells, "font": {"color": INK, "size": 12}, "height": 24},
        ),
        row=row,
        col=col,
    )


def timeline(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw the attempts of a batch as bars in time, in lanes by platform, with lines from parents to children."""
    if not len(frame):
        nothing(figure, row, col)
        return
    lanes, counts = _lanes(frame)
    placed = frame.assign(lane=lanes)
    for status, some in placed.groupby("status", sort=False):
        figure.add_trace(
            go.Bar(
                base=some["started_at"].dt.tz_localize(None).tolist(),
                x=(some["seconds"] * 1000).tolist(),  # a date axis counts milliseconds
                y=some["lane"].tolist(),
                orientation="h",
                name=label(str(status).replace("_", " ")),
                marker={"color": _STATUS_COLOURS.get(str(status), "#e69f00"), "line": {"width": 0}},
                width=min(0.7, 0.12 * max(counts.total(), 3)),
                customdata=[
                    [label(model), index, f"{seconds:.2f} s", dollars(cost)]
                    for model, index, seconds, cost in zip(
                        some["model"], some["task_index"], some["seconds"], some["cost"], strict=True
                    )
                ],
                hovertemplate="task %{customdata[1]}, %{customdata[0]}<br>%{customdata[2]}, %{customdata[3]}",
                showlegend=legend,
            ),
            row=row,
            col=col,
        )
    _links(figure, placed, row, col)
    if legend:
        figure.update_layout(barmode="overlay", height=min(1200, max(280, 150 + 11 * counts.total())))
    ticks, names, start = [], [], 0
    for platform, count in counts.items():
        ticks.append(start + (count - 1) / 2)
        names.append(label(platform))
        start += count
    figure.update_yaxes(
        tickvals=ticks, ticktext=names, autorange="reversed", showgrid=False, zeroline=False, row=row, col=col
    )
    span = (frame["started_at"].max() - frame["started_at"].min()).total_seconds() + frame["seconds"].max()
    figure.update_xaxes(type="date", tickformat=_clock(span), row=row, col=col)


def load(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw how many requests of a large batch were under way, by platform."""
    shown = colours(sorted(frame["platform"].unique()))
    for platform, colour in shown.items():
        some = frame[frame["platform"] == platform]
        figure.add_trace(
            go.Scatter(
                x=some["moment"].dt.tz_localize(None).tolist(), y=some["under_way"].astype("float64").tolist(),
                name=label(platform), stackgroup="one", line={"width": 0.5, "color": colour}, showlegend=legend,
            ),
            row=row,
            col=col,
        )  # fmt: skip
    span = frame["moment"].max() - frame["moment"].min()
    figure.update_xaxes(type="date", tickformat=_clock(span.total_seconds()), row=row, col=col)
    figure.update_yaxes(title={"text": "requests under way"}, rangemode="tozero", row=row, col=col)


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
    figure.update_xaxes(**({"tickprefix": "$"} if money else {"title": {"text": unit}}), tickformat="~g")
    beside = 1 if stacked else len(columns)
    figure.update_layout(height=150 + (10 + 16 * beside) * len(shown), barmode="stack" if stacked else "group")


def tree(figure: Figure, frame: pd.DataFrame) -> None:
    """Draw the tasks of a chain: depth from left to right, lines from parents, and what each cost."""
    if not len(frame):
        nothing(figure)
        return
    depth = frame["depth"].astype("float64").fillna(0).tolist()
    place: dict[str, tuple[float, float]] = {}
    filled: dict[float, int] = {}
    for task, column in zip(frame["task_id"], depth, strict=True):
        place[task] = (column, -filled.get(column, 0))
        filled[column] = filled.get(column, 0) + 1
    xs: list[float | None] = []
    ys: list[float | None] = []
    for task, parents in zip(frame["task_id"], frame["parents"], strict=True):
        for parent in parents:
            if parent in place:
                xs += [place[parent][0], place[task][0], None]
                ys += [place[parent][1], place[task][1], None]
    figure.add_trace(
        go.Scatter(
            x=xs, y=ys, mode="lines", line={"color": "rgba(128,128,128,0.6)"}, hoverinfo="skip", showlegend=False
        )
    )
    few = len(frame) <= 60
    texts = [
        f"{label(platform, 'from the ledger')} · {dollars(cost)}"
        for platform, cost in zip(frame["platform"], frame["cost"], strict=True)
    ]
    hover = [
        f"{label(task[:12])}…<br>{label(model)}<br>{label(status)}<br>cost {dollars(cost)}<br>with all below: "
        f"{dollars(below).replace('$', 'USD ')}"
        for task, model, status, cost, below in zip(
            frame["task_id"], frame["model"], frame["status"], frame["cost"], frame["cost_below"], strict=True
        )
    ]
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in place.values()],
            y=[y for _, y in place.values()],
            mode="markers+text" if few else "markers",
            text=texts,
            textposition="top center",
            hovertext=hover,
            hoverinfo="text",
            marker={"size": 14, "color": [_STATUS_COLOURS.get(status, "#e69f00") for status in frame["status"]]},
            showlegend=False,
        )
    )
    figure.update_xaxes(title={"text": "step"}, dtick=1, range=[min(depth) - 0.5, max(depth) + 0.5], showgrid=False)
    figure.update_yaxes(visible=False, range=[-max(filled.values()) + 0.3, 0.7])
    figure.update_layout(height=max(260, min(1200, 120 + 48 * max(filled.values()))))


def _number_form(measure: str, value: float) -> tuple[str, str, str]:
    if measure in ("cost", "list_cost", "saved"):
        size = abs(value)
        return "$", "", ",.2f" if size >= 1 or not size else ".4~f" if size >= 0.01 else ".2~g"
    if measure == "success_rate":
        return "", "%", ".1f"
    if measure == "p95_s":
        return "", " s", ".2~f"
    return "", "", ",d" if value < 1e6 else ".3~s"


def _bars(values: Any, shown: Any) -> list[str]:
    most = max((float(value) for value in values if value == value), default=0.0)  # noqa: PLR0124 - NaN
    cells = []
    for value in values:
        eighths = round(8 * _BAR * float(value) / most) if most > 0 else 0
        bar = "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")
        cells.append(f"{shown(value)}{_GAP}{bar}" if bar else shown(value))
    return cells


def _seconds(value: float) -> str:
    return "" if value != value else text.duration(value).replace(" ", _GAP)  # noqa: PLR0124 - NaN


def table_height(frame: pd.DataFrame) -> int:
    """Return the room that the table takes [px]: a long name takes two lines or three in a narrow cell."""
    shown = frame.head(BARS)
    names = [
        len(str(platform)) + min(32, len(str(model)))
        for platform, model in zip(shown["platform"], shown["model"], strict=True)
    ]
    return 36 + sum(26 + 16 * (length // 24) for length in names) + 26 * (not names)


def _clock(seconds: float) -> str:
    """Return how moments of a span are written."""
    return "%H:%M:%S.%L" if seconds < 8 else "%H:%M:%S"


def _lanes(frame: pd.DataFrame) -> tuple[list[int], Counter[str]]:
    """Return a lane for each attempt, where it meets no other, and the number of lanes of each platform."""
    own: list[int] = [0] * len(frame)
    ends: dict[str, list[float]] = {}
    starts = frame["started_at"].astype("int64") / 1e6
    order = sorted(range(len(frame)), key=lambda i: starts.iloc[i])
    for i in order:
        platform, start = frame["platform"].iloc[i], starts.iloc[i]
        lanes = ends.setdefault(platform, [])
        lane = next((lane for lane, end in enumerate(lanes) if end <= start), len(lanes))
        if lane == len(lanes):
            lanes.append(0.0)
        lanes[lane] = start + frame["seconds"].iloc[i]
        own[i] = lane
    counts = Counter({platform: len(ends[platform]) for platform in sorted(ends)})
    before, base = 0, {}
    for platform, count in counts.items():
        base[platform] = before
        before += count
    return [base[platform] + lane for platform, lane in zip(frame["platform"], own, strict=True)], counts


def _links(figure: Figure, placed: pd.DataFrame, row: int, col: int) -> None:
    import pandas as pd

    ended = {
        task: (start + pd.Timedelta(seconds=seconds), lane)
        for task, start, seconds, lane in zip(
            placed["task_id"], placed["started_at"].dt.tz_localize(None), placed["seconds"], placed["lane"], strict=True
        )
    }
    xs: list[Any] = []
    ys: list[Any] = []
    for parent, start, lane in zip(
        placed["parent_task_id"], placed["started_at"].dt.tz_localize(None), placed["lane"], strict=True
    ):
        if isinstance(parent, str) and parent in ended:
            xs += [ended[parent][0], start, None]
            ys += [ended[parent][1], lane, None]
    if xs:
        line = {"color": INK, "width": 1}
        figure.add_trace(
            go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False), row=row, col=col
        )
