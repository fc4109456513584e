"""Steps: tasks that wait for others of their own call, and what becomes of them when those are settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from orchestrai.engine.item import Item
from orchestrai.engine.lineage import join
from orchestrai.result import Result

_PART: Final = 64  # tasks that are told together; their parents' texts are hashed and measured meanwhile


class Steps:
    """Holds tasks until everything before them has a result.

    Args:
        result_at: Returns the result at a position, once it is settled.
    """

    def __init__(self, result_at: Callable[[int], Result | None]) -> None:
        self._result_at = result_at
        self._missing: dict[Item, int] = {}  # how many results a task waits for
        self._waiting: dict[int, list[Item]] = {}  # who waits for the result at a position
        self._ready: list[Item] = []

    def hold(self, item: Item) -> None:
        """Hold a task; it is ready at once where everything before it is settled already."""
        missing = self._not_settled(item)
        for position in missing:
            self._waiting.setdefault(position, []).append(item)
        if missing:
            self._missing[item] = len(missing)
        else:
            self._ready.append(item)

    def has_to_wait(self, item: Item) -> bool:
        """Return True for a task with others before it that have no result yet."""
        return item.lineage is not None and bool(self._not_settled(item))

    def settled(self, position: int) -> None:
        """Note that there is a result at a position."""
        for item in self._waiting.pop(position, ()):
            self._missing[item] -= 1
            if not self._missing[item]:
                del self._missing[item]
                self._ready.append(item)

    def give_back(self, item: Item) -> None:
        """Go on holding a task that was ready and could not start."""
        self._missing[item] = 0

    @property
    def waiting(self) -> list[Item]:
        """The tasks that are held and not ready."""
        return [*self._missing]

    @property
    def any_ready(self) -> bool:
        """True when a task can start, or can be told that it cannot."""
        return bool(self._ready)

    def take_ready(self) -> list[Item]:
        """Return some of the tasks that are ready, and forget them."""
        ready, self._ready = self._ready[:_PART], self._ready[_PART:]
        return ready

    def joined(self, items: Iterable[Item]) -> list[tuple[Item, str]]:
        """Give tasks what they awaited; return those that cannot start, each with the reason. In a worker thread."""
        reasons = [(item, join(item, self._result_at)) for item in items]
        return [(item, why) for item, why in reasons if why is not None]

    def _not_settled(self, item: Item) -> list[int]:
        assert item.lineage is not None
        return [position for position in item.lineage.positions if self._result_at(position) is None]
