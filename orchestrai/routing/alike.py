"""Alike tasks: one route, one length, one output limit. They cost the same everywhere, so a plan weighs them as one."""

from __future__ import annotations

from typing import Final, NamedTuple

from orchestrai.routing.offers import Route
from orchestrai.task import Task

UNPRICED: Final = 10**15  # pico-dollars: what has no price may cost anything, and is taken last


class Alike(NamedTuple):
    """A class of alike tasks: they cost the same everywhere.

    Args:
        task: One of them.
        size: Their input [tokens].
        route: Where they may go.
        columns: Their offers, best first.
        cash: What one of them is expected to cost at each of these [pico-USD].
        late: How far behind its hints each of these is.
    """

    task: Task
    size: int
    route: Route
    columns: tuple[int, ...]
    cash: tuple[int, ...]
    late: tuple[int, ...]
