"""Run: one call with all its tasks, from the first queue to the last committed result.

Where a task goes is decided here; how it waits there, in `queues`; what an attempt does, in `attempt`. A result is
published in one place alone: the callback of the commit that made it durable.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from orchestrai.engine.attempt import attempt
from orchestrai.engine.books import Asked, Books, RunOptions
from orchestrai.engine.draft import Draft, drafted_for, plan_again
from orchestrai.engine.engine import Engine
from orchestrai.engine.held import HeldTasks
from orchestrai.engine.item import Item
from orchestrai.engine.lane import TurnedAway
from orchestrai.engine.progress import Progress
from orchestrai.engine.queues import BUSY_S, Queues
from orchestrai.engine.reuse import usable
from orchestrai.engine.steps import Steps
from orchestrai.errors import ErrorClass, LedgerError
from orchestrai.ids import now_us
from orchestrai.ledger.queries import StoredAnswer
from orchestrai.ledger.reservations import Full
from orchestrai.pricing import PriceList
from orchestrai.result import Result
from orchestrai.routing.offers import Offer
from orchestrai.routing.planner import Limits, Outlook
from orchestrai.routing.windows import used_up

if TYPE_CHECKING:
    from orchestrai.limits.retry import RetryPolicy

RunStatus = Literal["running", "finished", "cancelled", "stopped"]

_DEFAULT_PRIORITY: Final = 5
_NOTHING: Final[Mapping[int, Result]] = {}
_NO_LIMITS: Final = Limits()
_DEAD_S: Final = 1.0  # between looks for processes that died with some of it
_WAITED_S: Final = 90.0  # for a window that begins anew; a later one ends the lane for this call


class Run:
    """One call under way. Everything but `progress`, `results` and `status` belongs to the engine's loop.

    Args:
        engine: The ledger and its lanes.
        prices: List prices.
        retry: When and how long to wait for another attempt.
        options: What the call says about itself.
        limits: What the call's own limits forbid.
        preferences: Task type → platforms that suit it, as the catalogue records it.
        on_result: Called on the loop with each durable result; without it results are kept in `results`.
        on_piece: Called on the loop with each piece of a streamed answer.
    """

    def __init__(
        self,
        engine: Engine,
        prices: PriceList,
        retry: RetryPolicy,
        options: RunOptions,
        *,
        limits: Limits = _NO_LIMITS,
        preferences: Mapping[str, Any] = MappingProxyType({}),
        on_result: Callable[[Result], None] | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.journal = engine.journal
        self.prices = prices
        self.retry = retry
        self.options = options
        self.limits = limits
        self.outlook = Outlook(now_us())
        self.on_piece = on_piece
        self.pieces = 0
        self.random = random.Random()  # noqa: S311 - spreads waits
        self.books = Books(engine, options, self._leave, self._published)
        self.progress = Progress()
        self.results: list[Result | None] = []
        self.status: RunStatus = "running"
        self.error: LedgerError | None = None
        self.first_failure: Result | None = None
        self._on_result = on_result
        self.queues = Queues(
            engine, options.concurrency, self.progress, partial(attempt, self), self._turned_away, self._spawn
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsettled: set[Item] = set()  # what still needs a result
        self.unrecorded: dict[int, Result] = {}  # by position; settled, but the ledger could not be written
        self._primaries: dict[bytes, Item] = {}  # by key; equal tasks join the first
        self._held = HeldTasks(engine.ledger, self._settle_from_ledger, self._enqueue)
        self._steps = Steps(lambda position: self.results[position])
        self._taking_over = False  # whether dead processes are looked for
        self._going_on = False  # whether tasks that became ready are seen to
        self._preferences = preferences
        self._only_model: str | None = None  # with `mix=False`, once it is known
        self._open_input = True
        self._group: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    # The life of a run.

    async def draft(self, items: list[Item]) -> Draft:
        """Decide which task goes where; nothing is sent, and nothing is written.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        scope = self.books.scope or await self.books.scope_of(items)
        drafted = await drafted_for(
            items,
            self.engine,
            self.options,
            self.limits,
            self._preferences,
            self._primaries,
            scope,
            self._only_model,
        )
        self.outlook, self._only_model = drafted.outlook, drafted.model
        return drafted

    async def execute(
        self,
        items: list[Item] | None = None,
        refused: Mapping[int, Result] = _NOTHING,
        draft: Draft | None = None,
    ) -> None:
        """Run until every task is settled and durable; a call that was stopped ends with what it has.

        Args:
            items: All tasks; None leaves the input open for `feed` and `close_input`. The list is emptied, so that
                an item is gone once its task is settled.
            refused: Results of tasks that are never sent, by position.
            draft: Where they go, if that is decided already.

        Raises:
            LedgerError: The ledger cannot be written; what was answered is in `results` all the same, and in
                `unrecorded` what is not in the ledger.
        """
        self._ended.clear()
        with self.engine.loop.working():
            try:
                if items is not None:
                    self.results = [None] * (len(items) + len(refused))
                    self.progress.total = len(self.results)
                    await self.books.open_call(items, self.progress.total)
                    for position, result in refused.items():
                        self._publish(position, result)
                    if draft is not None and self.books.continues and draft.scope != self.books.scope:
                        draft = None  # another process was quicker to begin the same batch
                    await self.feed(items, draft)
                    draft = None
                    items.clear()
                    self.close_input()
                else:
                    await self.books.open_call(None, None)
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    if self.status == "running":
                        self.queues.start()
                    self._go_on()
                    while not self._complete() and self.status == "running":
                        self._changed.clear()
                        await self._changed.wait()
                    for task in self._tasks:
                        task.cancel()
            finally:
                try:
                    await self._end()
                finally:
                    self._ended.set()
        if self.error is not None:
            if self._on_result is None:
                for position, result in self.unrecorded.items():
                    self.results[position] = result
            raise self.error

    def stop(self, status: RunStatus = "cancelled") -> None:
        """End the call now and keep what it has; on the loop."""
        if self.status == "running":
            self.status = status
            self.queues.stop()
            self._changed.set()

    async def ended(self) -> None:
        """Wait until the call is not, or no longer, under way."""
        await self._ended.wait()

    async def feed(self, items: list[Item], draft: Draft | None = None) -> None:
        """Add tasks: those answered before are settled from the ledger, equal ones join, the rest are queued.

        Args:
            items: The tasks.
            draft: Where they go, if that is decided already.
        """
        self._unsettled.update(items)
        if draft is None:
            try:
                draft = await self.draft(items)
            except LedgerError as error:
                self._break(error)  # who waits for these tasks learns it from the call
                raise
        late = []  # equal to a task that was settled while the ledger was read
        for copy, first in draft.copies:
            if first not in self._unsettled:
                late.append(copy)
            elif first.copies is None:
                first.copies = [copy]
            else:
                first.copies.append(copy)
        fresh = []
        for item in draft.fresh:
            if item.lineage is not None and (item.lineage.awaited or self._steps.has_to_wait(item)):
                self._steps.hold(item)
            else:
                fresh.append(item)
        self._primaries.update((item.key, item) for item in (*fresh, *(item for item, _, _ in draft.reused)))
        if self.status != "running":  # stopped already, by a refused row or by a close
            return
        for item, found, source in draft.reused:
            self.books.settle_reused(item, found, source)
        if any(item.task.priority is not None for item in fresh):
            fresh.sort(key=lambda item: _DEFAULT_PRIORITY if item.task.priority is None else item.task.priority)
        for item in fresh:
            self._place(item)
        self.queues.pump()
        self._go_on()
        self._changed.set()
        if late:
            await self.feed(late)

    def close_input(self) -> None:
        """Say that no more tasks will come."""
        self._open_input = False
        self._changed.set()

    def _complete(self) -> bool:
        return not self._open_input and not self._unsettled and not self.books.unpublished

    async def _end(self) -> None:
        """Settle what was left, wait until all of it is durable, and close the call's row."""
        self.queues.close()
        if self.status == "running":
            self.status = "finished" if self._complete() else "cancelled"
        for item in sorted(self._unsettled, key=lambda item: item.position):
            never_began = self.books.settle_cancelled(item)
            if never_began is not None:
                self._leave(item)
                self._publish(item.position, never_began)
        while self.books.unpublished and self.error is None:
            self._changed.clear()
            await self._changed.wait()
        self.progress.running = 0
        self.progress.ended = self.progress.started + self.progress.elapsed_s
        self.books.close_call(self.status, self.progress.settled, self.limits.call)
        await self.journal.drain()

    # Where tasks go.

    def fall_back(self, item: Item, why: str) -> None:
        """Put a task that one platform failed for good in the queue of the next that can run it."""
        item.fall_back(why, self.options.repair_attempts)
        self._enqueue(item)

    def _turned_away(self, item: Item, away: TurnedAway) -> None:
        """Send a task elsewhere whose platform is not worth waiting for, or settle it."""
        if item.work is None:
            self.books.begin(item)
        if away.kind == "window":
            self._close(item, str(away))
        elif item.has_another_offer:
            self.fall_back(item, str(away))
        else:
            self.books.settle_failure(item, away.kind, item.told(str(away)))

    def _place(self, item: Item) -> None:
        """Queue a task where its plan sends it, or settle it where there is no place for it."""
        if item.route.offers:
            self.queues.put(item)
            return
        why = item.route.why_none()
        if item.work is None:
            self.books.begin(item)
        if self.options.latest is not None and item.route.lacks == "window":
            self.books.settle_skipped(item, why)
        else:
            self.books.settle_failure(item, item.route.lacks or "request", why)

    def _enqueue(self, item: Item) -> None:
        self.queues.put(item)
        self.queues.pump()

    # Tasks that wait for others of the call.

    def _go_on(self) -> None:
        """See to the tasks whose parents are settled, unless somebody does."""
        if self._group is not None and self._steps.any_ready and not self._going_on and self.status == "running":
            self._going_on = True
            self._spawn(self._feed_ready)

    async def _feed_ready(self) -> None:
        """Feed the tasks whose parents are settled, and skip those that cannot start."""
        try:
            while (ready := self._steps.take_ready()) and self.status == "running":
                lost = await asyncio.to_thread(self._steps.joined, ready)
                for item, why in lost:
                    self.books.begin(item)
                    self.books.settle_skipped(item, why, "parent")
                gone = {id(item) for item, _ in lost}
                await self.feed([item for item in ready if id(item) not in gone])
        finally:
            self._going_on = False

    # Windows and budgets without room.

    def no_room(self, item: Item, full: Full) -> None:
        """Let a task wait whose request finds no room in a quota window or a budget, or send it elsewhere."""
        if full.busy:  # the end of a request makes room; of somebody else's, nobody tells
            self.queues.pause(item, BUSY_S)
            if not self._taking_over:
                self._taking_over = True
                self._spawn(self._take_over)
            return
        wait_s = None if full.until is None else max(0.001, (full.until - now_us()) / 1e6)
        latest = self.options.latest
        if wait_s is not None and (wait_s <= _WAITED_S or (latest is not None and full.until <= latest)):  # type: ignore[operator]  # it is told
            self.queues.pause(item, wait_s)
            return
        why = used_up(full.meter, full.until)
        if full.until is not None and full.meter.window.unit != "usd":  # a budget may count this task and not the next
            self._close(item, why)
        elif item.has_another_offer:
            self.fall_back(item, why)
        else:
            error_class: ErrorClass = "budget" if full.meter.window.unit == "usd" else "window"
            self.books.settle_failure(item, error_class, item.told(why))

    async def _take_over(self) -> None:
        """Settle what dead processes hold of the windows; they give nothing back themselves. Once a second is enough."""
        try:
            await self.engine.ledger.recover()
            await asyncio.sleep(_DEAD_S)
        finally:
            self._taking_over = False

    def _close(self, item: Item, why: str) -> None:
        """Send nothing more to a lane in this call, and plan anew for what waits for it."""
        offer = item.offer
        self.limits = self.limits._replace(closed={**self.limits.closed, (offer.platform.name, offer.model): why})
        self._spawn(self._plan_anew, self.queues.take_all(item), offer, why)

    async def _plan_anew(self, items: list[Item], closed: Offer, why: str) -> None:
        """Plan for tasks whose lane was closed, by what is known now."""
        for item in items:
            if item.work is None:
                self.books.begin(item)
            item.give_up(closed, why, self.options.repair_attempts)
        await plan_again(items, self.engine, self.options, self.limits, self._preferences)
        for item in items:
            self._place(item)
        self.queues.pump()
        self._changed.set()

    # Tasks that another call or process is working on.

    def hold(self, item: Item) -> None:
        """Wait for somebody else's answer to the same task, without holding a place."""
        if self._held.add(self.books.claim(item), item):
            self._spawn(self._held.look_after, self.books.scope)

    # Settling and publishing.

    def _settle_from_ledger(self, item: Item, answers: list[StoredAnswer] | None) -> bool:
        """Settle a task with an answer of the ledger, if one may be reused."""
        for answer in answers or ():
            found = usable(answer, item)
            if found is not None:
                self.books.settle_reused(item, found, Asked(answer.task_id, answer.send_seq))
                return True
        return False

    def _leave(self, item: Item) -> None:
        self._unsettled.discard(item)
        if self._primaries.get(item.key) is item:
            del self._primaries[item.key]  # what is done is forgotten; a later repeat is found in the ledger

    def _published(self, position: int, result: Result, error: LedgerError | None) -> None:
        """Show a result that is durable now; one that cannot be made durable breaks the call and goes with its error."""
        if error is None:
            self._publish(position, result)
        else:
            self.unrecorded[position] = result
            self._break(error)
            self._changed.set()

    def _publish(self, position: int, result: Result) -> None:
        self.progress.add(result)
        if self._on_result is not None:
            self._on_result(result)
        else:
            self.results[position] = result
            self._steps.settled(position)
            self._go_on()
        if result.status == "failed" and self.first_failure is None:
            self.first_failure = result
            if self.options.on_error == "stop":
                self.stop("stopped")
        if not self._unsettled or self.status != "running":
            self._changed.set()

    # What runs beside each other.

    def _spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Run something until the call ends; a ledger that cannot be used breaks the call."""

        async def guarded() -> None:
            try:
                await work(*arguments)
            except LedgerError as error:
                self._break(error)

        assert self._group is not None
        task = self._group.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _break(self, error: LedgerError) -> None:
        if self.error is None:
            self.error = error
        self.stop("stopped")
