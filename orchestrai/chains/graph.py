"""Graph: the steps of a chain as a figure, with excerpts of what was asked and said."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd

from orchestrai import text
from orchestrai.chains.steps import Step
from orchestrai.costs.figures import Figure, canvas, label
from orchestrai.costs.graph import Node, draw


def figure(name: str, steps: Sequence[Step], frame: pd.DataFrame) -> Figure:
    """Return the figure of a chain; `orchestrai.costs.graph.draw` says what it shows.

    Args:
        name: Its name.
        steps: Its steps.
        frame: The same as a frame, for places that draw no figures.
    """
    made = canvas(f"Chain {label(name)}: {text.counted(len(steps), 'step')}", frame)
    draw(made, [_node(step) for step in steps])
    return made


def _node(step: Step) -> Node:
    return Node(
        step.task_id, step.depth, step.parents, step.after, _platform(step), step.status, float(step.cost),
        float(step.list_cost), label(step.prompt, "", 24), _told(step),
    )  # fmt: skip


def _platform(step: Step) -> str:
    return step.platform or "never sent"


def _told(step: Step) -> str:
    list_cost = text.money(step.list_cost).lstrip("$")  # a label holds one dollar sign at the most
    lines = [
        f"{_platform(step)} {step.model or ''} · {step.status}{' · reused' if step.reused else ''}",
        f"{text.money(step.cost)} of cash, {list_cost} at list prices · {text.counted(step.attempts, 'attempt')}",
        *_wrapped("asked", step.prompt),
        *_wrapped("said", step.answer or step.error),
    ]
    return "<br>".join(label(line, "", 120) for line in lines)


def _wrapped(what: str, words: str | None) -> list[str]:
    return textwrap.wrap(f"{what}: {text.excerpt(words, 240)}", 70) if words else []
