"""Places: from classes of alike tasks and the room of their windows to a column for every task.

What counts is, in this order: that a task has a place at all, that its hints are followed, cash, and the order of
preference. The four are one number per task and offer, so that one solver weighs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from orchestrai.limits.quota import Meter
from orchestrai.routing.alike import UNPRICED, Alike
from orchestrai.routing.assign import Assignment, assign
from orchestrai.routing.relaxation import Instance, Use

_PREFERENCE: Final = 1e-10  # of the dearest task: what an earlier place in the order of preference is worth
_DEAREST: Final = 1.5  # of the dearest task: what has no price
_NOTHING: Final = 1e-8  # of the dearest task: costs that differ by preference only


class Placing:
    """Tasks that are given their places; each call of `place` has the room that earlier ones left.

    Args:
        classes: The classes of alike tasks.
        width: How many columns there are.
        uses: Returns what a task of a class uses at one of its offers (a place in its `columns`), by meter.
        room: Meter's id → how much it has left.
    """

    def __init__(
        self,
        classes: Sequence[Alike],
        width: int,
        uses: Callable[[Alike, int], list[tuple[Meter, int]]],
        room: dict[str, int],
    ) -> None:
        self._classes = classes
        self._width = width
        self._uses = uses
        self._room = dict(room)
        self._unit = max((c for one in classes for c in one.cash if c < UNPRICED), default=0) or 1
        self.columns: dict[int, int | None] = {}  # task → its column; None for no place
        self.binding: set[str] = set()  # meters that are worth something: they have too little room
        self.cash = 0  # expected [pico-USD] of all that is priced
        self.gap = 0  # by which another assignment could at most be cheaper [pico-USD]

    @property
    def short(self) -> bool:
        """True when a task has no place."""
        return None in self.columns.values()

    def place(self, tasks: Sequence[int], numbers: Sequence[int]) -> None:
        """Give some tasks their places, the first ones the better.

        Args:
            tasks: Which, in their order.
            numbers: For each task of the call, the number of its class.
        """
        counts = Counter(numbers[at] for at in tasks)
        present = sorted(counts)
        instance, windows = self._instance(present, counts)
        found = assign(instance)
        self._book(present, found, instance, windows)
        better = {number: self._queue(number, found.placed[row]) for row, number in enumerate(present)}
        for at in tasks:
            queue = better[numbers[at]]
            column, left = queue[-1]
            self.columns[at] = column
            if left == 1:
                queue.pop()
            else:
                queue[-1] = column, left - 1

    def _instance(self, present: list[int], counts: Counter[int]) -> tuple[Instance, list[str]]:
        """Return the classes as numbers, and the meters that its windows stand for."""
        windows = list(self._room)
        place_of = {name: place for place, name in enumerate(windows)}
        late = max((late for number in present for late in self._classes[number].late), default=0)
        behind = 2.0 * (self._width + 1)  # outweighs every chain of swaps by which one task could get its hint
        nowhere = behind * (1 + behind * late)
        cost = np.full((len(present), self._width + 1), np.inf)
        cost[:, -1] = nowhere
        amounts: dict[tuple[int, int], np.ndarray] = {}
        for row, number in enumerate(present):
            one = self._classes[number]
            for place, column in enumerate(one.columns):
                uses = [(place_of[m.id], amount) for m, amount in self._uses(one, place) if m.id in place_of]
                if any(amount > self._room[windows[window]] for window, amount in uses):
                    continue
                cash = min(one.cash[place] / self._unit, _DEAREST)
                cost[row, column] = cash + behind * one.late[place] + _PREFERENCE * place
                for window, amount in uses:
                    if (window, column) not in amounts:
                        amounts[window, column] = np.zeros(len(present), dtype=np.int64)
                    amounts[window, column][row] = amount
        used = tuple(Use(window, column, amount) for (window, column), amount in sorted(amounts.items(), key=_first))
        multiples = np.array([counts[number] for number in present], dtype=np.int64)
        return Instance(cost, multiples, used, tuple(self._room.values())), windows

    def _book(self, present: list[int], found: Assignment, instance: Instance, windows: list[str]) -> None:
        """Take what is placed out of the room, and add up what it costs."""
        for window, column, amount in instance.uses:
            self._room[windows[window]] -= int(found.placed[:, column] @ amount)
        self.binding |= {name for name, price in zip(windows, found.relaxed.prices, strict=True) if price > 0}
        for row, number in enumerate(present):
            one = self._classes[number]
            self.cash += sum(
                cash * int(found.placed[row, column])
                for column, cash in zip(one.columns, one.cash, strict=True)
                if cash < UNPRICED
            )
        gap = self._gap(present, found, instance)
        if gap > _NOTHING * max(1, int(instance.counts.sum()) // 100):
            self.gap += int(gap * self._unit)

    def _gap(self, present: list[int], found: Assignment, instance: Instance) -> float:
        """Return how much cash another assignment could at most save [of the dearest task's].

        Where hints are missed or tasks have no place, that is against the cash of the relaxation, which follows hints and
        gives places as well as can be.
        """
        cash = np.zeros_like(instance.cost)
        for row, number in enumerate(present):
            one = self._classes[number]
            cash[row, list(one.columns)] = [min(c / self._unit, _DEAREST) for c in one.cash]
        spent = float((found.placed * cash).sum())
        if found.cost - spent < 0.5:  # neither is the case
            return found.cost - found.bound
        taken, moved = found.relaxed.taken, found.relaxed.moved
        least = float(instance.counts @ cash[np.arange(len(taken)), taken])
        least += sum(count * (cash[one, there] - cash[one, taken[one]]) for one, there, count in moved)
        return spent - float(least)

    def _queue(self, number: int, placed: np.ndarray) -> list[tuple[int | None, int]]:
        """Return which columns a class has and how often, the best last; no place comes first."""
        columns: list[int | None] = [None, *reversed(self._classes[number].columns)]
        return [(c, int(placed[-1 if c is None else c])) for c in columns if placed[-1 if c is None else c]]


def _first(item: tuple[tuple[int, int], object]) -> tuple[int, int]:
    return item[0]
