"""Lanes: a batch in time, drawn request by request, or by how many were under way."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from orchestrai.costs.figures import INK, Figure, colours, dollars, label, nothing

if TYPE_CHECKING:
    import pandas as pd

_STATUS_COLOURS: Final = {"succeeded": "#009e73", "failed": "#dc3d43", "open": "#56b4e9", "in_doubt": "#cc79a7"}


def timeline(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw the attempts of a batch as bars in time, in lanes by platform, with lines from parents to children."""
    known = frame[frame["started_at"].notna()]
    if not len(known):
        nothing(figure, row, col)
        return
    lanes, counts = _lanes(known)
    placed = known.assign(lane=lanes, started_at=_on_the_clock(known["started_at"]))
    for status, some in placed.groupby("status", sort=False):
        colour = _STATUS_COLOURS.get(str(status), "#e69f00")
        figure.add_trace(
            go.Bar(
                base=some["started_at"].tolist(),
                x=(some["seconds"] * 1000).tolist(),  # a date axis counts milliseconds
                y=some["lane"].tolist(),
                orientation="h",
                name=label(str(status).replace("_", " ")),
                marker={"color": colour, "line": {"width": 1, "color": colour}},  # seen however short it is
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
    span = (known["started_at"].max() - known["started_at"].min()).total_seconds() + known["seconds"].max()
    figure.update_xaxes(type="date", tickformat=_clock(span), row=row, col=col)


def load(figure: Figure, frame: pd.DataFrame, row: int = 1, col: int = 1, *, legend: bool = True) -> None:
    """Draw how many requests of a large batch were under way, by platform."""
    shown = colours(sorted(frame["platform"].unique()))
    for platform, colour in shown.items():
        some = frame[frame["platform"] == platform]
        figure.add_trace(
            go.Scatter(
                x=_on_the_clock(some["moment"]).tolist(), y=some["under_way"].astype("float64").tolist(),
                name=label(platform), stackgroup="one", line={"width": 0.5, "color": colour}, showlegend=legend,
            ),
            row=row,
            col=col,
        )  # fmt: skip
    span = frame["moment"].max() - frame["moment"].min()
    figure.update_xaxes(type="date", tickformat=_clock(span.total_seconds()), row=row, col=col)
    figure.update_yaxes(title={"text": "requests under way"}, rangemode="tozero", row=row, col=col)


def _clock(seconds: float) -> str:
    """Return how moments of a span are written; plotly writes the second line where it changes."""
    return ("%H:%M:%S.%L" if seconds < 8 else "%H:%M:%S") + "\n%b %d, %Y"


def _on_the_clock(moments: pd.Series[Any]) -> pd.Series[Any]:
    """Return moments as a clock here shows them; plotly knows no time zones."""
    here: pd.Series[Any] = moments.dt.tz_convert(moments.min().to_pydatetime().astimezone().tzinfo).dt.tz_localize(None)
    return here


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
            placed["task_id"], placed["started_at"], placed["seconds"], placed["lane"], strict=True
        )
    }
    xs: list[Any] = []
    ys: list[Any] = []
    for parent, start, lane in zip(placed["parent_task_id"], placed["started_at"], placed["lane"], strict=True):
        if isinstance(parent, str) and parent in ended:
            xs += [ended[parent][0], start, None]
            ys += [ended[parent][1], lane, None]
    if xs:
        line = {"color": INK, "width": 1}
        figure.add_trace(
            go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False), row=row, col=col
        )
