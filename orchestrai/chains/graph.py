"""Graph: a chain as a figure, who fed whom from left to right."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from orchestrai import text
from orchestrai.chains.steps import Step
from orchestrai.html import platform_colour

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LINE: Final = "rgba(128, 128, 128, 0.6)"  # seen on light and on dark
_INK: Final = "#808080"
_SMALLEST, _LARGEST = 16.0, 46.0  # diameters of steps [px]
_SYMBOLS: Final = {"failed": "x", "skipped": "circle-open", "cancelled": "circle-open", "running": "circle-open"}


def figure(name: str, steps: Sequence[Step]) -> go.Figure:
    """Return the figure of a chain.

    Args:
        name: Its name.
        steps: Its steps.

    Returns:
        A plotly figure: a column for each depth, lines from parents to children (dotted where a step only came after
        another), a colour for each platform, the area of a step by its cost (by its list cost where nothing cost cash).
    """
    import plotly.graph_objects as go

    places = _places(steps)
    weights = _weights(steps)
    made = go.Figure()
    for dash, pairs in (
        ("solid", [(parent, step) for step in steps for parent in step.parents]),
        ("dot", [(parent, step) for step in steps for parent in step.after if parent not in step.parents]),
    ):
        x, y = _lines(places, pairs)
        if x:
            line = {"color": _LINE, "width": 1.5, "dash": dash}
            made.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
    platforms = sorted({step.platform or "never sent" for step in steps})
    for place, platform in enumerate(platforms):
        own = [step for step in steps if (step.platform or "never sent") == platform]
        made.add_trace(
            go.Scatter(
                x=[places[step.task_id][0] for step in own],
                y=[places[step.task_id][1] for step in own],
                mode="markers",
                name=harmless(platform),
                marker={
                    "color": platform_colour(place),
                    "size": [weights[step.task_id] for step in own],
                    "symbol": [_SYMBOLS.get(step.status, "circle") for step in own],
                    "line": {"color": _LINE, "width": 1},
                },
                hovertext=[_hover(step) for step in own],
                hoverinfo="text",
            )
        )
    axis = {"visible": False, "zeroline": False}
    deepest = max((x for x, _ in places.values()), default=0)
    made.update_layout(
        title={"text": harmless(f"{name}: {len(steps)} steps" if steps else f"{name}: nothing yet")},
        xaxis={**axis, "range": [-0.4, deepest + 0.4]},
        yaxis=axis,
        font={"color": _INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 50, "b": 10},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": -0.05},
    )
    return made


def harmless(words: str) -> str:
    """Return a text that plotly shows as it is: no markup, no formula, nothing that drives a reader."""
    shown = text.printable(words)
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        shown = shown.replace(sign, entity)
    return shown


def _places(steps: Sequence[Step]) -> dict[str, tuple[float, float]]:
    """Return where each step stands: its depth, and near the middle of its parents."""
    columns: dict[int, list[Step]] = {}
    for step in steps:
        columns.setdefault(step.depth, []).append(step)
    places: dict[str, tuple[float, float]] = {}
    for depth in sorted(columns):
        column = columns[depth]

        def height(step: Step) -> float:
            above = [places[parent][1] for parent in (*step.parents, *step.after) if parent in places]
            return sum(above) / len(above) if above else 0.0

        for row, step in enumerate(sorted(column, key=height)):
            places[step.task_id] = (float(depth), row - (len(column) - 1) / 2)
    return places


def _weights(steps: Sequence[Step]) -> dict[str, float]:
    """Return the diameter of each step [px]: its area grows with what it cost."""
    paid = any(step.cost for step in steps)
    money = {step.task_id: float(step.cost if paid else step.list_cost) for step in steps}
    most = max(money.values(), default=0.0) or 1.0
    return {name: _SMALLEST + (_LARGEST - _SMALLEST) * (amount / most) ** 0.5 for name, amount in money.items()}


def _lines(
    places: dict[str, tuple[float, float]], pairs: Iterable[tuple[str, Step]]
) -> tuple[list[float | None], list[float | None]]:
    x: list[float | None] = []
    y: list[float | None] = []
    for parent, step in pairs:
        if parent in places:  # one outside of this run has no place in it
            (x0, y0), (x1, y1) = places[parent], places[step.task_id]
            x += [x0, x1, None]
            y += [y0, y1, None]
    return x, y


def _hover(step: Step) -> str:
    lines = [
        f"{step.platform or 'never sent'} {step.model or ''} · {step.status}{' · reused' if step.reused else ''}",
        f"{text.money(step.cost)} cash, {text.money(step.list_cost)} list · {step.attempts} attempts",
        *_wrapped("asked", step.prompt),
        *_wrapped("said", step.answer or step.error),
    ]
    return "<br>".join(harmless(line) for line in lines)


def _wrapped(what: str, words: str | None) -> list[str]:
    return textwrap.wrap(f"{what}: {text.excerpt(words, 240)}", 70) if words else []
