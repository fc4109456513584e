"""Queues: what waits for each lane in one call, and the workers that take from it.

Tasks wait as small items and never as coroutines; workers take from the queue, one attempt at a time, so memory grows
with concurrency and not with what is waiting. A task that has to wait for its next attempt goes back to the queue by a
timer and holds no place meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from orchestrai.engine.engine import Engine
from orchestrai.engine.item import Item
from orchestrai.engine.lane import ELSEWHERE_S, Lane, TurnedAway
from orchestrai.engine.progress import Progress
from orchestrai.errors import ErrorClass
from orchestrai.limits.admission import Ticket
from orchestrai.limits.cooldown import PATIENCE_S
from orchestrai.routing.offers import Offer

BUSY_S: Final = 0.25
"""Between looks at a window of which others hold what is left [s]."""


class LaneUse(NamedTuple):
    """A lane that a call uses, at one moment: requests at once and places for them, pace [1/s], rest and why."""

    platform: str
    model: str
    waiting: int
    in_flight: int
    places: int
    pace: float | None
    rests_s: float | None
    why: ErrorClass | None


class _Queue:
    """What waits for one lane."""

    __slots__ = ("items", "lane", "pause", "workers")

    def __init__(self, lane: Lane) -> None:
        self.items: deque[Item] = deque()
        self.lane = lane
        self.workers = 0
        self.pause: asyncio.TimerHandle | None = None  # nothing leaves until it fires: a window has no room


class Queues:
    """The queues of one call; on the engine's loop.

    Args:
        engine: Whose lanes they are.
        concurrency: Most attempts at once over all lanes; None for as many as the lanes take.
        progress: Where attempts under way are counted.
        attempt: Makes one attempt of a task, and sees to what follows from it.
        turned_away: Takes a task whose lane is not worth waiting for.
        spawn: Runs a worker, given as a coroutine function and its arguments, until the call ends.
    """

    def __init__(
        self,
        engine: Engine,
        concurrency: int | None,
        progress: Progress,
        attempt: Callable[[Item, Lane, Ticket], Coroutine[Any, Any, None]],
        turned_away: Callable[[Item, TurnedAway], None],
        spawn: Callable[..., None],
    ) -> None:
        self._engine = engine
        self._concurrency = concurrency
        self._progress = progress
        self._attempt = attempt
        self._turned_away = turned_away
        self._spawn = spawn
        self._queues: dict[tuple[str, str], _Queue] = {}  # by platform and model
        self._widened: list[Lane] = []  # by this call's ceiling, until it ends
        self._timers: set[asyncio.TimerHandle] = set()
        self._running = False

    def start(self) -> None:
        """Let workers take what waits."""
        self._running = True
        self.pump()

    def stop(self) -> None:
        """Let no more attempts begin."""
        self._running = False

    def close(self) -> None:
        """Give the lanes back as they were, and bring nothing back by a timer."""
        self.stop()
        for timer in self._timers:
            timer.cancel()
        for lane in self._widened:
            lane.narrow(self._concurrency or 0)

    def put(self, item: Item) -> None:
        """Queue a task for the lane of its offer; workers see it at the next `pump`."""
        self._of(item).items.append(item)

    def put_later(self, item: Item, wait_s: float) -> None:
        """Put a task back in its queue after a while; it holds no place meanwhile."""

        def back() -> None:
            self._timers.discard(timer)
            queue = self._of(item)
            if queue.lane.admission.why is None:
                queue.items.appendleft(item)
            else:  # else one task would be every probe of a resting platform, and soon run out of attempts
                queue.items.append(item)
            self._pump(queue)

        timer = self._engine.loop.loop.call_later(wait_s, back)
        self._timers.add(timer)

    def take_all(self, item: Item) -> list[Item]:
        """Return a task with all that waits for the same lane, and leave nothing there."""
        queue = self._of(item)
        waiting = [item, *queue.items]
        queue.items.clear()
        return waiting

    def pump(self) -> None:
        """Start workers where there is something to take and a place to take it in."""
        for queue in [*self._queues.values()]:
            self._pump(queue)

    def pause(self, item: Item, wait_s: float) -> None:
        """Put a task back and let nothing leave for its lane for a while."""
        queue = self._of(item)
        queue.items.appendleft(item)
        if queue.pause is None:
            queue.pause = self._engine.loop.loop.call_later(wait_s, self._resume, queue)
            self._timers.add(queue.pause)

    def made_room(self, offer: Offer) -> None:
        """Look again at once where a request that has ended may have made room."""
        queue = self._queues.get((offer.platform.name, offer.model))
        if (
            queue is not None
            and queue.pause is not None
            and queue.pause.when() - self._engine.loop.loop.time() <= BUSY_S
        ):
            queue.pause.cancel()
            self._resume(queue)

    def lanes(self) -> list[LaneUse]:
        """Return the lanes that the call uses, in the order of their first use; from any thread."""
        now = self._engine.loop.loop.time()
        used = []
        for (platform, model), queue in list(self._queues.items()):
            admission = queue.lane.admission
            until = admission.resting_until
            rests_s = None if until is None else until - now
            places = (len(queue.items), admission.in_flight, admission.limit)
            used.append(LaneUse(platform, model, *places, admission.pace, rests_s, admission.why))
        return used

    def _of(self, item: Item) -> _Queue:
        """Return the queue of the lane that a task takes now."""
        offer = item.offer
        known = (offer.platform.name, offer.model)
        queue = self._queues.get(known)
        if queue is None:
            lane = self._engine.lane(offer.platform, offer.model)
            lane.reconsider()
            queue = self._queues[known] = _Queue(lane)
            if self._concurrency is not None and offer.platform.transport == "api":
                lane.widen(self._concurrency)
                self._widened.append(lane)
        return queue

    def _pump(self, queue: _Queue) -> None:
        if not self._running or not queue.items or queue.pause is not None:
            return
        wanted = min(len(queue.items), queue.lane.admission.ceiling - queue.workers)
        if self._concurrency is not None:
            wanted = min(wanted, self._concurrency - sum(other.workers for other in self._queues.values()))
        for _ in range(wanted):
            queue.workers += 1
            self._spawn(self._work, queue)

    def _resume(self, queue: _Queue) -> None:
        if queue.pause is not None:
            self._timers.discard(queue.pause)
            queue.pause = None
        self._pump(queue)

    async def _work(self, queue: _Queue) -> None:
        """Take tasks from one lane's queue until it is empty."""
        items, lane, progress = queue.items, queue.lane, self._progress
        try:
            while items and queue.pause is None and self._running:
                item = items.popleft()
                size = item.size
                try:
                    ticket = lane.take(size)
                    if ticket is None:
                        ticket = await lane.turn(size, ELSEWHERE_S if item.has_another_offer else PATIENCE_S)
                except TurnedAway as away:
                    self._turned_away(item, away)
                    await asyncio.sleep(0)  # thousands may be turned away in a row
                    continue
                progress.running += 1
                try:
                    await self._attempt(item, lane, ticket)
                finally:
                    progress.running -= 1
        except BaseException:  # a fault, or the end of the call; it goes on, and no more workers are started
            self.stop()
            raise
        finally:
            queue.workers -= 1
            if not queue.workers:  # another platform may now have the places of this one
                self.pump()
