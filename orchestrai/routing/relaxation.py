"""Relaxation: the least that an assignment can cost when tasks may be split, and a price for every window.

Tasks may go anywhere that has room; a price per unit of each window makes them choose. At given prices every task takes
its cheapest place, and what that costs, less what the windows are worth, bounds every assignment from below. This bound
is concave and made of flat pieces; it is climbed along edges, from window prices of zero, each time as far as it rises
(the dual simplex method with bound flipping: Fourer, "Notes on the dual simplex method", 1994). At the top at most one
class of alike tasks per window is split. A step passes thousands of tasks that change their mind, so that a hundred
thousand tasks take some dozens of steps over arrays.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

_NOISE: Final = 1e-12  # of the dearest: keeps classes apart that cost the same, so that no step has length zero
_GOLDEN: Final = (5**0.5 - 1) / 2
_EXACT: Final = 1e-7  # tasks: what counts as none
_FLAT: Final = 1e-9  # tasks per unit: a slope that is none
_STILL: Final = 1e-12  # tasks per unit: places that become dearer alike
_FEW: Final = 256  # classes that are walked through one by one
_LOOKS: Final = 80  # at most, along one edge
_STEPS: Final = 60  # per window, at most


class Use(NamedTuple):
    """What the tasks at a place take of a window.

    Args:
        window: Which window.
        place: Which place.
        amount: For each class, what one of its tasks takes, in the window's whole numbers; int64.
    """

    window: int
    place: int
    amount: Any


@dataclass(frozen=True, slots=True)
class Instance:
    """Who may go where, at what cost, and how much room there is.

    Args:
        cost: What a task of a class costs at a place; infinite where it may not go; float64 (classes, places). The last
            place is nowhere, which uses no window.
        counts: How many alike tasks each class has; int64 (classes,).
        uses: What the places take of the windows.
        room: How much each window has left.
    """

    cost: Any
    counts: Any
    uses: tuple[Use, ...]
    room: tuple[int, ...]


class Relaxed(NamedTuple):
    """The relaxation's solution.

    Args:
        taken: The place of each class; int64 (classes,).
        moved: Class, place and how many of its tasks are there instead; a fraction of a task is possible.
        prices: What a unit of each window is worth; float64.
        bound: The least that any assignment costs.
    """

    taken: Any
    moved: list[tuple[int, int, float]]
    prices: Any
    bound: float


class _Unused(NamedTuple):
    """A window that is not used up: its price is zero."""

    window: int


class _Torn(NamedTuple):
    """A class that is as well off in one place as in another."""

    one: int
    here: int
    there: int


def relax(instance: Instance) -> Relaxed:
    """Return the cheapest assignment in which tasks may be split, its prices and its bound."""
    return _Climb(instance).top()


class _Climb:
    """The way up, from prices of zero."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        counts, cost = instance.counts, instance.cost.T
        self._counts = counts.astype(np.float64)
        places, classes = cost.shape
        steps = np.outer(np.arange(1.0, places + 1), np.arange(1.0, classes + 1)) * _GOLDEN
        self._cost = cost + _NOISE * _dearest(cost[:-1]) * (steps - np.floor(steps))
        self._scale = np.ones(len(instance.room))
        self._room = np.array(instance.room, dtype=np.float64)
        for window in range(len(instance.room)):
            amounts = [use.amount for use in instance.uses if use.window == window]
            if not amounts:
                continue
            least, most = min(a.min() for a in amounts), max(a.max() for a in amounts)
            if least == most > 0:  # it counts tasks: whole ones only
                self._scale[window], self._room[window] = least, instance.room[window] // int(least)
            else:
                self._scale[window] = max(1.0, float(np.mean([a.mean() for a in amounts])))
                self._room[window] /= self._scale[window]
        self._uses = [(w, p, a / self._scale[w]) for w, p, a in instance.uses]
        self._prices = np.zeros(len(instance.room))
        self._taken = self._cost.argmin(axis=0)
        self._edges: list[_Unused | _Torn] = [_Unused(window) for window in range(len(instance.room))]

    def top(self) -> Relaxed:
        """Climb to the top."""
        shares = np.zeros(len(self._edges))
        for _ in range(_STEPS * len(self._edges)):
            shares = self._shares()
            leaving = int(shares.argmin())
            if shares[leaving] >= -_EXACT * max(1.0, self._room.max(initial=0.0) * 1e-9):
                break
            self._climb(leaving, -float(shares[leaving]))
        moved = [
            (edge.one, edge.there, float(share))
            for edge, share in zip(self._edges, shares, strict=True)
            if isinstance(edge, _Torn)
        ]
        prices = self._prices / self._scale
        return Relaxed(self._taken, moved, prices, _bound(self._instance, prices))

    def _shares(self) -> Any:
        """Return how many tasks each edge moves, or how much room it leaves; below zero where it holds the climb back."""
        while True:
            shares = np.linalg.solve(self._normals().T, self._room - self._used(self._taken))
            stay: dict[int, float] = {}
            for edge, share in zip(self._edges, shares, strict=True):
                if isinstance(edge, _Torn):
                    stay[edge.one] = stay.get(edge.one, self._counts[edge.one]) - share
            over = [one for one, count in stay.items() if count < -_EXACT]
            if not over:
                return shares
            self._turn(over[0], shares)

    def _turn(self, one: int, shares: Any) -> None:
        """Look at a torn class from another of its places, because fewer than none of its tasks are where it is now."""
        mine = [edge for edge in self._edges if isinstance(edge, _Torn) and edge.one == one]
        most = max(mine, key=lambda edge: float(shares[self._edges.index(edge)]))
        for edge in mine:
            there = edge.here if edge is most else edge.there
            self._edges[self._edges.index(edge)] = _Torn(one, most.there, there)
        self._taken[one] = most.there

    def _climb(self, leaving: int, slope: float) -> None:
        """Go along the edge on which one of the conditions that hold us is given up, as far as the bound rises."""
        unit = np.zeros(len(self._edges))
        unit[leaving] = 1.0
        direction = np.linalg.solve(self._normals(), unit)
        direction[np.abs(direction) < _EXACT * np.abs(direction).max() * 1e-4] = 0.0
        held = [edge for place, edge in enumerate(self._edges) if place != leaving]
        torn = {edge.one for edge in held if isinstance(edge, _Torn)}
        edge = _Edge(self, direction, slope, sorted(torn))
        end, stop = self._end(edge, held)
        step, stop = edge.rise(end, stop)
        self._taken = edge.taken
        self._edges[leaving] = stop
        self._prices = self._exact_prices(self._prices + step * direction)

    def _end(self, edge: _Edge, held: list[_Unused | _Torn]) -> tuple[float, _Unused | _Torn | None]:
        """Return where the edge ends at the latest: a price falls to zero, or a torn class finds a third place."""
        end: float = np.inf
        stop: _Unused | _Torn | None = None
        unused = {one.window for one in held if isinstance(one, _Unused)}
        for window, change in enumerate(edge.direction):
            if window not in unused and change < -1e-12 and self._prices[window] / -change < end:
                end, stop = max(0.0, float(self._prices[window] / -change)), _Unused(window)
        for one in {torn.one for torn in held if isinstance(torn, _Torn)}:
            others = {torn.there for torn in held if isinstance(torn, _Torn) and torn.one == one}
            change = edge.change(one, 0.0, others)
            if change is not None and change[0] < end:
                end, stop = change[0], _Torn(one, int(self._taken[one]), change[1])
        return end, stop

    def _exact_prices(self, near: Any) -> Any:
        """Return the prices at which every edge holds, so that no rounding adds up."""
        sides = [
            0.0 if isinstance(edge, _Unused) else self._cost[edge.here, edge.one] - self._cost[edge.there, edge.one]
            for edge in self._edges
        ]
        try:
            found = np.linalg.solve(self._normals(), np.array(sides))
        except np.linalg.LinAlgError:
            found = near
        return np.maximum(found, 0.0)

    def _normals(self) -> Any:
        """Return for each edge how it uses the windows: one row each."""
        rows = np.zeros((len(self._edges), len(self._edges)))
        for row, edge in zip(rows, self._edges, strict=True):
            if isinstance(edge, _Unused):
                row[edge.window] = 1.0
                continue
            for window, place, amount in self._uses:
                if place == edge.there:
                    row[window] += amount[edge.one]
                elif place == edge.here:
                    row[window] -= amount[edge.one]
        return rows

    def _used(self, taken: Any) -> Any:
        used = np.zeros(len(self._edges))
        for window, place, amount in self._uses:
            used[window] += self._counts[taken == place] @ amount[taken == place]
        return used

    # What an edge needs.

    @property
    def counts(self) -> Any:
        """How many tasks each class has; float64."""
        return self._counts

    @property
    def taken(self) -> Any:
        """The place of each class."""
        return self._taken

    def cost_at(self, prices: Any) -> Any:
        """Return what each class costs at each place with its windows paid; (places, classes)."""
        return self.worth(self._cost.copy(), prices)

    def worth(self, into: Any, prices: Any) -> Any:
        """Add to each place what it uses, at some prices."""
        for window, place, amount in self._uses:
            if prices[window]:
                into[place] += prices[window] * amount
        return into

    @property
    def prices(self) -> Any:
        """Where we are."""
        return self._prices


class _Edge:
    """One edge: where each class goes along it, and how steep the bound is."""

    def __init__(self, climb: _Climb, direction: Any, slope: float, torn: list[int]) -> None:
        self.direction = direction
        self.taken = climb.taken.copy()
        self._slope = slope
        self._torn = torn
        self._counts = climb.counts
        self._cost = climb.cost_at(climb.prices)
        self._rate = climb.worth(np.zeros_like(self._cost), direction)
        self._every = np.arange(len(self.taken))

    def rise(self, end: float, stop: _Unused | _Torn | None) -> tuple[float, _Unused | _Torn]:
        """Return how far the bound rises, and what holds us there."""
        low, high = 0.0, min(end, self._enough())
        ones = self._every
        taken, slope = self._look(high, ones)
        while slope > _FLAT:
            if high == end and stop is not None:
                self.taken = taken
                return end, stop
            low, high, self.taken, self._slope = high, min(end, 2 * high + 1.0), taken, slope
            taken, slope = self._look(high, ones)
        for _ in range(_LOOKS):
            # A class that is in one place at both ends is there between them.
            differ = taken != self.taken[ones]
            ones, taken = ones[differ], taken[differ]
            if len(ones) <= _FEW or high - low <= 1e-14 * high:
                break
            middle = (low + high) / 2
            there, slope = self._look(middle, ones)
            if slope > _FLAT:
                low, self.taken[ones], self._slope = middle, there, slope
            else:
                high, taken = middle, there
        return self._walk(low, ones)

    def _enough(self) -> float:
        """Return a place behind the top: where it would be if every class changed its place once only."""
        here, most = self.taken, np.full(len(self.taken), np.inf)
        fall = np.zeros(len(self.taken))
        cost, rate = self._cost[here, self._every], self._rate[here, self._every]
        for place_cost, place_rate in zip(self._cost, self._rate, strict=True):
            faster = rate - place_rate
            with np.errstate(divide="ignore", invalid="ignore"):
                at = np.where(faster > _STILL, np.maximum(place_cost - cost, 0.0) / faster, np.inf)
            sooner = at < most
            most[sooner], fall[sooner] = at[sooner], faster[sooner]
        most[self._torn] = np.inf
        order = np.argsort(most, kind="stable")
        slopes = self._slope - np.cumsum(self._counts[order] * fall[order])
        behind = np.flatnonzero((slopes <= _FLAT) & np.isfinite(most[order]))
        if len(behind):
            return float(most[order[behind[0]]]) * (1 + 1e-9) + 1e-300
        return float(most[np.isfinite(most)].max(initial=0.5)) * 2

    def _look(self, at: float, ones: Any) -> tuple[Any, float]:
        """Return where some classes go at a place of the edge, and the slope there; the others stay where they are."""
        rate = self._rate[:, ones]
        taken = (self._cost[:, ones] + at * rate).argmin(axis=0)
        now = self.taken[ones]
        if len(ones) == len(self._every):
            taken[self._torn] = now[self._torn]
        every = np.arange(len(ones))
        return taken, self._slope + float(self._counts[ones] @ (rate[taken, every] - rate[now, every]))

    def _walk(self, low: float, classes: Any) -> tuple[float, _Torn]:
        """Go through the classes that change their mind, one by one, to the one at which the bound rises no more."""
        changes: list[tuple[float, int, int]] = []
        for one in classes:
            change = self.change(int(one), low)
            if change is not None:
                changes.append((change[0], int(one), change[1]))
        heapq.heapify(changes)
        while changes:
            at, one, place = heapq.heappop(changes)
            here = int(self.taken[one])
            self._slope += float(self._counts[one] * (self._rate[place, one] - self._rate[here, one]))
            change = None
            if self._slope > _FLAT:
                self.taken[one] = place
                change = self.change(one, at)
                if change is not None:
                    heapq.heappush(changes, (change[0], one, change[1]))
            if self._slope <= _FLAT or not changes:  # the latter by rounding only
                self.taken[one] = here
                return at, _Torn(one, here, place)
        raise ArithmeticError("an edge without an end")

    def change(self, one: int, low: float, others: set[int] | frozenset[int] = frozenset()) -> tuple[float, int] | None:
        """Return where on the edge a class changes its place, and to which; None when it does not."""
        here = int(self.taken[one])
        cost, rate = self._cost[:, one], self._rate[:, one]
        faster = rate[here] - rate
        found = None
        for place in np.flatnonzero(faster > _STILL):
            if place not in others and np.isfinite(cost[place]):
                at = max(low, float((cost[place] - cost[here]) / faster[place]))
                if found is None or (at, rate[place]) < (found[0], rate[found[1]]):
                    found = at, int(place)
        return found


def _dearest(cost: Any) -> float:
    return float(np.abs(cost[np.isfinite(cost)]).max(initial=1.0))


def _bound(instance: Instance, prices: Any) -> float:
    """Return what every assignment costs at least, by the prices of the windows; any prices give a bound."""
    cost = instance.cost.T.copy()
    for window, place, amount in instance.uses:
        cost[place] += prices[window] * amount
    return float(instance.counts @ cost.min(axis=0) - np.dot(prices, instance.room))
