"""Assignment: which tasks take which places, so that all of them together cost the least that the windows allow.

The relaxation leaves at most one class of alike tasks per window split; its fractions are rounded down, and the tasks
that this leaves over go to the cheapest place with room. With windows that count tasks nothing is split, so the
assignment is the cheapest; with windows that count tokens or cash it costs at most one task's dearest price per window
that binds more than the bound, which is told.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from orchestrai.routing.relaxation import Instance, Relaxed, relax

_WHOLE: Final = 1e-6  # tasks: as near is whole
_SAVING: Final = 1e-9  # of the dearest task: what is worth a move


class Assignment(NamedTuple):
    """Who goes where.

    Args:
        placed: How many tasks of each class are at each place; int64 (classes, places).
        cost: What they cost together.
        bound: The least that any assignment costs.
        relaxed: The assignment in which tasks may be split, from which it was made.
    """

    placed: Any
    cost: float
    bound: float
    relaxed: Relaxed


def assign(instance: Instance) -> Assignment:
    """Return the assignment that costs least, within what the module promises."""
    relaxed = relax(instance)
    rounding = _Rounding(instance, relaxed)
    rounding.take_back()
    rounding.place_rest()
    if instance.uses:
        while rounding.filled():
            pass
    placed = rounding.placed
    finite = np.where(placed > 0, instance.cost, 0.0)
    return Assignment(placed, float((placed * finite).sum()), relaxed.bound, relaxed)


class _Rounding:
    """An assignment of whole tasks, made from one with fractions."""

    def __init__(self, instance: Instance, relaxed: Relaxed) -> None:
        self._instance = instance
        self._prices = relaxed.prices
        self._uses: dict[int, list[tuple[int, Any]]] = {}
        for window, place, amount in instance.uses:
            self._uses.setdefault(place, []).append((window, amount))
        classes, places = instance.cost.shape
        self.placed = np.zeros((classes, places), dtype=np.int64)
        self.placed[np.arange(classes), relaxed.taken] = instance.counts
        self._rest: list[int] = []  # the class of each task that has no place yet
        torn: dict[int, list[tuple[int, float]]] = {}
        for one, there, count in relaxed.moved:
            torn.setdefault(one, []).append((there, count))
        for one, moves in sorted(torn.items()):
            self._split(one, int(relaxed.taken[one]), moves)
        self._left = [room - used for room, used in zip(instance.room, self._used(), strict=True)]

    def _split(self, one: int, here: int, moves: list[tuple[int, float]]) -> None:
        count = int(self._instance.counts[one])
        shares = [*moves, (here, count - sum(share for _, share in moves))]
        self.placed[one] = 0
        for place, share in shares:
            whole = min(max(0, math.floor(share + _WHOLE)), count)
            self.placed[one, place] += whole
            count -= whole
        self._rest += [one] * count

    def _used(self) -> list[int]:
        used = [0] * len(self._instance.room)
        for place, uses in self._uses.items():
            for window, amount in uses:
                used[window] += int(self.placed[:, place] @ amount)
        return used

    def take_back(self) -> None:
        """Take tasks out of windows that are over-full, those that lose least by it first: no plan breaks a window."""
        if all(left >= 0 for left in self._left):
            return
        cost = self._instance.cost + 0.0
        for place, uses in self._uses.items():
            for window, amount in uses:
                cost[:, place] += self._prices[window] * amount
        for window, left in enumerate(self._left):
            if left >= 0:
                continue
            places = [place for place, uses in self._uses.items() if any(w == window for w, _ in uses)]
            losses = []
            for place in places:
                for member in np.flatnonzero(self.placed[:, place]):
                    others = np.delete(cost[member], place)
                    losses.append((float(others.min() - cost[member, place]), int(member), place))
            for _, one, here in sorted(losses):
                while self._left[window] < 0 and self.placed[one, here]:
                    self._move(one, here, -1)
                    self._rest.append(one)
                if self._left[window] >= 0:
                    break

    def place_rest(self) -> None:
        """Give the tasks that are left over the cheapest place with room; nowhere has room for all."""
        cost = self._instance.cost
        for one in sorted(self._rest, key=lambda one: -float(cost[one, -1] - cost[one].min())):
            places = np.argsort(cost[one], kind="stable").tolist()
            self._move(one, next(place for place in places if self._fits(one, place)), 1)
        self._rest = []

    def filled(self) -> bool:
        """Use room that rounding left, by the tasks that save most there; True when it may have made room elsewhere."""
        cost = self._instance.cost
        dearest = np.where(self.placed > 0, cost, -np.inf)  # of the places that a class has
        here = dearest.argmax(axis=1)
        most = dearest[np.arange(len(here)), here]
        savings, classes, places = [], [], []
        for place, uses in self._uses.items():
            saving = most - cost[:, place]
            fitting = saving > _SAVING
            for window, amount in uses:
                fitting &= amount <= self._left[window]
            ones = np.flatnonzero(fitting)
            savings.append(saving[ones])
            classes.append(ones)
            places.append(np.full(len(ones), place))
        order = np.argsort(-np.concatenate(savings), kind="stable")
        moved = False
        for one, place in zip(
            np.concatenate(classes)[order].tolist(), np.concatenate(places)[order].tolist(), strict=True
        ):
            while self.placed[one, here[one]] and self._fits(one, place):
                self._move(one, int(here[one]), -1)
                self._move(one, place, 1)
                moved = True
        return moved

    def _fits(self, one: int, place: int) -> bool:
        if not math.isfinite(self._instance.cost[one, place]):
            return False
        return all(int(amount[one]) <= self._left[window] for window, amount in self._uses.get(place, ()))

    def _move(self, one: int, place: int, count: int) -> None:
        self.placed[one, place] += count
        for window, amount in self._uses.get(place, ()):
            self._left[window] -= count * int(amount[one])
