"""Graph: a chain as a figure, who fed whom from left to right."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go

from orchestrai import text
from orchestrai.chains.steps import Step
from orchestrai.costs.figures import Figure, canvas, colours, label, nothing

_LINE: Final = "rgba(128,128,128,0.6)"  # seen on light and on dark
_SMALLEST, _LARGEST = 16.0, 46.0  # diameters of steps [px]
_NAMED: Final = 40  # steps that have their prompts written below them
_SYMBOLS: Final = {"failed": "x", "skipped": "circle-open", "cancelled": "circle-open", "running": "circle-open"}


def figure(name: str, steps: Sequence[Step], frame: pd.DataFrame) -> Figure:
    """Return the figure of a chain.

    Args:
        name: Its name.
        steps: Its steps.
        frame: The same as a frame, for places that draw no figures.

    Returns:
        A plotly figure: a column for each depth, lines from parents to children (dotted where a step only came after
        another), a colour for each platform, the area of a step by its cost (by its list cost where nothing cost cash).
    """
    made = canvas(f"Chain {label(name)}: {text.counted(len(steps), 'step')}", frame)
    if not steps:
        nothing(made)
        return made
    places = _places(steps)
    fed = [(parent, step) for step in steps for parent in step.parents]
    came_after = [(other, step) for step in steps for other in step.after if other not in step.parents]
    for dash, pairs in (("solid", fed), ("dot", came_after)):
        x, y = _lines(places, pairs)
        if x:
            line = {"color": _LINE, "width": 1.5, "dash": dash}
            made.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
    weights = _weights(steps)
    for platform, colour in colours(sorted(map(_platform, steps))).items():
        own = [step for step in steps if _platform(step) == platform]
        made.add_trace(_markers(own, platform, colour, places, weights, named=len(steps) <= _NAMED))
    deepest = max(x for x, _ in places.values())
    tallest = max(abs(y) for _, y in places.values())
    made.update_xaxes(visible=False, range=[-0.5, deepest + 0.5])
    made.update_yaxes(visible=False, range=[-tallest - 0.7, tallest + 0.7])
    made.update_layout(height=min(1200, 260 + round(96 * tallest)))
    return made


def _markers(
    steps: Sequence[Step],
    platform: str,
    colour: str,
    places: dict[str, tuple[float, float]],
    weights: dict[str, float],
    *,
    named: bool,
) -> Any:
    return go.Scatter(
        x=[places[step.task_id][0] for step in steps],
        y=[places[step.task_id][1] for step in steps],
        mode="markers+text" if named else "markers",
        name=label(platform),
        text=[label(step.prompt, "", 24) for step in steps],
        textposition="bottom center",
        hovertext=[_hover(step) for step in steps],
        hoverinfo="text",
        marker={
            "color": colour,
            "opacity": 1,
            "size": [weights[step.task_id] for step in steps],
            "symbol": [_SYMBOLS.get(step.status, "circle") for step in steps],
            "line": {"color": _LINE, "width": 1},
        },
    )


def _platform(step: Step) -> str:
    return step.platform or "never sent"


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
        f"{_platform(step)} {step.model or ''} · {step.status}{' · reused' if step.reused else ''}",
        f"{text.money(step.cost)} of cash, {text.money(step.list_cost).lstrip('$')} at list prices · {text.counted(step.attempts, 'attempt')}",
        *_wrapped("asked", step.prompt),
        *_wrapped("said", step.answer or step.error),
    ]
    return "<br>".join(label(line, "", 120) for line in lines)


def _wrapped(what: str, words: str | None) -> list[str]:
    return textwrap.wrap(f"{what}: {text.excerpt(words, 240)}", 70) if words else []
