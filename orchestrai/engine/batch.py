"""Run: one call with all its tasks, from the first queue to the last committed result.

Tasks wait in one queue per platform, as small items and never as coroutines; workers take from the queue, one
attempt at a time, so memory grows with concurrency and not with what is waiting. A task that has to wait for its
next attempt goes back to the queue by a timer and holds no place meanwhile. A result is published in one place
alone: the callback of the commit that made it durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from orchestrai.engine.attempt import attempt
from orchestrai.engine.engine import Engine
from orchestrai.engine.item import Item, Work
from orchestrai.engine.lane import Lane
from orchestrai.engine.progress import Progress
from orchestrai.engine.reuse import reused_result, usable
from orchestrai.errors import ErrorClass, LedgerError
from orchestrai.ids import new_id, now_us
from orchestrai.ledger import queries
from orchestrai.ledger.lock import is_alive
from orchestrai.ledger.queries import StoredAnswer
from orchestrai.ledger.rows import AttemptRow, Payload, TaskRow
from orchestrai.ledger.writer import Settling
from orchestrai.platforms.protocol import Reply
from orchestrai.pricing import Price, PriceList, from_pico
from orchestrai.result import NO_USAGE, Result
from orchestrai.text import excerpt

if TYPE_CHECKING:
    from orchestrai.limits.retry import RetryPolicy

RunStatus = Literal["running", "finished", "cancelled", "stopped"]

_DEFAULT_PRIORITY: Final = 5
_NO_COST: Final = Decimal(0)
_NOTHING: Final[Mapping[int, Result]] = {}
_HELD_FIRST_S: Final = 0.05  # first look at a task that somebody else is working on
_HELD_MOST_S: Final = 1.0  # and the longest pause between looks


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a call says about itself, beyond its tasks.

    Args:
        kind: batch, run, stream or as_completed.
        name: Name of the batch.
        project: Project it belongs to.
        reuse: Take answers from the ledger.
        on_error: "stop" ends the call at the first failure.
        concurrency: Ceiling over all platforms.
        repair_attempts: How often an unusable answer is asked again.
        keep_texts: Keep prompts and answers in the ledger.
        described: Options of the call as they are kept with it.
    """

    kind: str = "batch"
    name: str | None = None
    project: str | None = None
    reuse: bool = True
    on_error: Literal["continue", "stop"] = "continue"
    concurrency: int | None = None
    repair_attempts: int = 1
    keep_texts: bool = True
    described: Mapping[str, Any] = field(default_factory=dict)


class Run:
    """One call under way. Everything but `progress`, `results` and `status` belongs to the engine's loop.

    Args:
        engine: The ledger and its lanes.
        prices: List prices.
        retry: When and how long to wait for another attempt.
        options: What the call says about itself.
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
        on_result: Callable[[Result], None] | None = None,
        on_piece: Callable[[str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.journal = engine.journal
        self.prices = prices
        self.retry = retry
        self.options = options
        self.on_piece = on_piece
        self.pieces = 0
        self.random = random.Random()  # noqa: S311 - spreads waits
        self.batch_id = new_id()
        self.progress = Progress()
        self.results: list[Result | None] = []
        self.status: RunStatus = "running"
        self.error: LedgerError | None = None
        self.first_failure: Result | None = None
        self._on_result = on_result
        self._queues: dict[str, deque[Item]] = {}
        self._lanes: dict[str, Lane] = {}
        self._workers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._unsettled: dict[int, Item] = {}  # by position; the items that still need a result
        self._unpublished = 0  # settled, on their way to the ledger
        self.unrecorded: dict[int, Result] = {}  # by position; settled, but the ledger could not be written
        self._primaries: dict[bytes, Item] = {}  # by key; equal tasks join the first
        self._held: dict[bytes, Item] = {}  # by claim; somebody else works on them
        self._noted: set[str] = set()  # price ids already written
        self._systems: dict[str, str] = {}  # digests of system prompts
        self._scope: str | None = None  # batch whose answers alone count; None for all
        self._open_input = True
        self._group: asyncio.TaskGroup | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    # The life of a run.

    async def execute(self, items: list[Item] | None = None, refused: Mapping[int, Result] = _NOTHING) -> None:
        """Run until every task is settled and durable; a call that was stopped ends with what it has.

        Args:
            items: All tasks; None leaves the input open for `feed` and `close_input`.
            refused: Results of tasks that are never sent, by position.

        Raises:
            LedgerError: The ledger cannot be written; what was answered is in `results` all the same, and in
                `unrecorded` what is not in the ledger.
        """
        self._ended.clear()
        with self.engine.loop.working():
            try:
                if items is not None:
                    self.results = [None] * (len(items) + len(refused))
                    await self._begin(items)
                    for position, result in refused.items():
                        self._publish(position, result)
                    await self.feed(items)
                    self.close_input()
                else:
                    await self._begin(None)
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    self._pump_all()
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
            self._changed.set()

    async def ended(self) -> None:
        """Wait until the call is not, or no longer, under way."""
        await self._ended.wait()

    async def feed(self, items: list[Item]) -> None:
        """Add tasks: those answered before are settled from the ledger, equal ones join, the rest are queued."""
        fresh = []
        for item in items:
            self._unsettled[item.position] = item
            first = self._primaries.get(item.key)
            if first is not None:
                first.copies = [*(first.copies or ()), item]
                continue
            self._primaries[item.key] = item
            fresh.append(item)
        answers: dict[bytes, list[StoredAnswer]] = {}
        if self.options.reuse or self._scope:
            keys, scope = [item.key for item in fresh], self._scope
            try:
                newest, answers = await self.engine.ledger.read_soon(
                    lambda c: (queries.newest_task(c), queries.find_answers(c, keys, scope))
                )
            except LedgerError as error:
                self._break(error)  # who waits for these tasks learns it from the call
                raise
            for item in fresh:
                item.since = newest
        if any(item.task.priority is not None for item in fresh):
            fresh.sort(key=lambda item: _DEFAULT_PRIORITY if item.task.priority is None else item.task.priority)
        for item in fresh:
            if not self._reuse(item, answers.get(item.key)):
                self._enqueue(item)
        self._pump_all()
        self._changed.set()

    def close_input(self) -> None:
        """Say that no more tasks will come."""
        self._open_input = False
        self._changed.set()

    def _complete(self) -> bool:
        return not self._open_input and not self._unsettled and not self._unpublished

    async def _begin(self, items: list[Item] | None) -> None:
        """Record the call, or continue the unfinished one of the same name and tasks."""
        options = self.options
        digest = None
        if items is not None:
            self.progress.total = len(self.results)
            digest = hashlib.sha256(b"".join(item.key for item in items)).digest()
        row = (
            options.name,
            options.kind,
            options.project,
            self.engine.ledger.owner_id,
            digest,
            self.progress.total,
            orjson.dumps(options.described, default=str).decode(),
            now_us(),
            self.engine.lib_version,
        )
        named = (options.name, digest) if options.name is not None and digest is not None else None
        fresh = self.batch_id

        def record(connection: Any) -> str:
            batch_id = (queries.running_batch(connection, *named) if named else None) or fresh
            connection.execute(
                "INSERT INTO batches (batch_id, name, kind, project, owner_id, digest, task_count, options, status, "
                "created_at, lib_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'running', ?, ?) ON CONFLICT (batch_id) DO "
                "UPDATE SET status = 'running', owner_id = excluded.owner_id, revision = revision + 1",
                (batch_id, *row),
            )
            return batch_id

        recorded = self.journal.do(record)
        if named is None:
            recorded.add_done_callback(_ignore)
            return
        # Looked for and recorded in one transaction: two processes that start at once share one batch.
        self.batch_id = await recorded
        self._scope = None if options.reuse else self.batch_id

    async def _end(self) -> None:
        """Settle what was left, wait until all of it is durable, and close the call's row."""
        for timer in self._timers:
            timer.cancel()
        if self.status == "running":
            self.status = "finished" if self._complete() else "cancelled"
        for item in list(self._unsettled.values()):
            self._settle_cancelled(item)
        while self._unpublished and self.error is None:
            self._changed.clear()
            await self._changed.wait()
        self.progress.running = 0
        self.progress.ended = self.progress.started + self.progress.elapsed_s
        finished, status, batch_id = now_us(), self.status, self.batch_id
        self.journal.do(
            lambda c: (
                c.execute(
                    "UPDATE batches SET status = ?, finished_at = ?, revision = revision + 1, "
                    "task_count = coalesce(task_count, ?) WHERE batch_id = ?",
                    (status, finished, self.progress.settled, batch_id),
                ).rowcount
            )
        ).add_done_callback(_ignore)
        await self.journal.drain()

    # Queues and workers.

    def _enqueue(self, item: Item) -> None:
        name = item.offer.platform.name
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = deque()
            self._workers[name] = 0
            lane = self._lanes[name] = self.engine.lane(item.offer.platform)
            ceiling = self.options.concurrency
            if ceiling is not None and item.offer.platform.transport == "api":
                lane.widen(ceiling)
        queue.append(item)

    def _pump_all(self) -> None:
        for name in self._queues:
            self._pump(name)

    def _pump(self, name: str) -> None:
        """Start workers while there is something to take and a place to take it in."""
        group, queue = self._group, self._queues[name]
        if group is None or not queue or self.status != "running":
            return
        lane = self._lanes[name]
        wanted = min(len(queue), lane.limit - self._workers[name])
        if self.options.concurrency is not None:
            wanted = min(wanted, self.options.concurrency - sum(self._workers.values()))
        for _ in range(wanted):
            self._workers[name] += 1
            self._spawn(group, self._work(name))

    def _spawn(self, group: asyncio.TaskGroup, work: Any) -> None:
        task = group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, name: str) -> None:
        """Take tasks from one platform's queue until it is empty."""
        queue, lane = self._queues[name], self._lanes[name]
        progress = self.progress
        try:
            while queue and self.status == "running":
                await lane.acquire()
                try:
                    if not queue:
                        break
                    item = queue.popleft()
                    progress.running += 1
                    try:
                        await attempt(self, item)
                    finally:
                        progress.running -= 1
                finally:
                    lane.release()
        except LedgerError as error:
            self._break(error)
        except BaseException:
            self.stop()  # a fault of ours, or the end of the call: start no more workers
            raise
        finally:
            self._workers[name] -= 1
            if not self._workers[name]:  # another platform may now have the places of this one
                self._pump_all()

    def later(self, item: Item, wait_s: float) -> None:
        """Put a task back in its queue after a while; it holds no place meanwhile."""

        def back() -> None:
            self._timers.discard(timer)
            self._queues[item.offer.platform.name].appendleft(item)
            self._pump(item.offer.platform.name)

        timer = self.engine.loop.loop.call_later(wait_s, back)
        self._timers.add(timer)

    # Tasks that another call or process is working on.

    def hold(self, item: Item) -> None:
        """Wait for somebody else's answer to the same task, without holding a place."""
        first = not self._held
        self._held[self.claim(item)] = item
        if first and self._group is not None:
            self._spawn(self._group, self._watch())

    async def _watch(self) -> None:
        """Look after the held tasks until there are none."""
        try:
            await self._look_after_held()
        except LedgerError as error:
            self._break(error)

    async def _look_after_held(self) -> None:
        """Take the answer of each held task, or the task itself once nobody works on it."""
        ledger, pause = self.engine.ledger, _HELD_FIRST_S
        while self._held:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _HELD_MOST_S)
            held = dict(self._held)  # as it is looked for: what is held meanwhile waits for the next look
            keys = [item.key for item in held.values()]
            look = partial(_look, keys=keys, claims=list(held), batch_id=self._scope)
            try:
                newest, answers, working = await ledger.read_soon(look)
                owners = {claim.owner_id for claim in working.values()}
                if any(not is_alive(ledger.folder / "owners", owner) for owner in owners):
                    await ledger.recover()
                    continue
            except LedgerError as error:
                self._break(error)
                return
            for claim, item in held.items():
                if self._reuse(item, answers.get(item.key)):
                    del self._held[claim]
                elif claim not in working:
                    del self._held[claim]
                    item.since = newest
                    self._enqueue(item)
                    self._pump(item.offer.platform.name)

    def claim(self, item: Item) -> bytes:
        """Return what nobody else may work on while this task is: its key, in the scope of its reuse."""
        if self.options.reuse:
            return item.key
        scope = self.batch_id if self.options.name is not None else item.work.task_id if item.work else self.batch_id
        return hashlib.sha256(item.key + scope.encode()).digest()[:16]

    # What attempts report.

    def begin(self, item: Item) -> Work:
        """Start the record of a task whose turn has come."""
        item.work = Work(now_us(), repairs_left=self.options.repair_attempts)
        return item.work

    def system_digest(self, system: str | None) -> str | None:
        """Return the digest under which a system prompt is kept; computed once for each."""
        if not system:
            return None
        known = self._systems.get(system)
        if known is None:
            known = self._systems[system] = hashlib.sha256(system.encode("utf-8")).hexdigest()
        return known

    def note_price(self, price: Price) -> None:
        """Keep the price vector that attempts were priced with, once."""
        if price.price_id in self._noted:
            return
        self._noted.add(price.price_id)
        row = {**price.row(), "first_used_at": now_us()}
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        self.journal.do(
            lambda c: (
                c.execute(
                    f"INSERT OR IGNORE INTO prices ({columns}) VALUES ({marks})",  # noqa: S608 - names of Price.row
                    tuple(row.values()),
                ).rowcount
            )
        ).add_done_callback(_ignore)

    def record(self, row: AttemptRow, latency_s: float) -> None:
        """Record an attempt that does not settle its task."""
        self.journal.settle(Settling(row, None, None, (), None), latency_s)

    def settle_success(self, item: Item, row: AttemptRow, latency_s: float, reply: Reply, parsed: Any) -> None:
        """Settle a task with an answer; it is published once it is durable."""
        output = reply.text if item.schema is None else item.schema.output(parsed, reply.text)
        model = sys.intern(reply.model) if reply.model else item.offer.model  # a few models, many answers
        result = self._result(item, "succeeded", output=output, parsed=parsed, model=model, reply=reply)
        payloads = (Payload(row.attempt_id, "answer", reply.text),) if self.options.keep_texts else ()
        self._settle(item, result, row, latency_s, payloads)

    def settle_failure(
        self,
        item: Item,
        error_class: ErrorClass,
        error: str,
        row: AttemptRow | None = None,
        latency_s: float | None = None,
        reply: Reply | None = None,
    ) -> None:
        """Settle a task without an answer."""
        result = self._result(item, "failed", error=error, error_class=error_class, reply=reply)
        self._settle(item, result, row, latency_s)

    def _settle_cancelled(self, item: Item) -> None:
        result = self._result(item, "cancelled", error="cancelled", error_class="cancelled")
        if item.work is None:  # it never began: there is nothing to record
            self._unsettled.pop(item.position, None)
            self._publish(item.position, result)
        else:
            self._settle(item, result, None, None)

    def _result(
        self,
        item: Item,
        status: Any,
        *,
        output: str | None = None,
        parsed: Any = None,
        error: str | None = None,
        error_class: ErrorClass | None = None,
        model: str | None = None,
        reply: Reply | None = None,
    ) -> Result:
        work, offer = item.work, item.offer if item.route.offers else None
        cost = _usd(work.cost) if work is not None else _NO_COST
        list_cost = cost if work is None or work.list_cost == work.cost else _usd(work.list_cost)
        began = work.began if work is not None else None
        return Result(
            item.task,
            output,
            parsed,
            status,
            error,
            error_class,
            reply.finish_reason if reply is not None else None,
            offer.platform.name if offer is not None and work is not None else None,
            model,
            offer.tier if offer is not None and work is not None else None,
            work.usage if work is not None else NO_USAGE,
            cost,
            list_cost,
            self.engine.loop.loop.time() - began if began is not None else 0.0,
            work.attempts if work is not None else 0,
            reused=False,
            index=item.index,
            row=item.row,
            sample=item.sample,
            answered_at=work.answered_at if work is not None else None,
            task_id=work.task_id if work is not None else None,
            batch_id=self.batch_id,
            chain_id=item.task.chain,
        )

    def _settle(
        self,
        item: Item,
        result: Result,
        row: AttemptRow | None,
        latency_s: float | None,
        payloads: tuple[Payload, ...] = (),
    ) -> None:
        """Write commit 2 of a task, and of the equal tasks that take its answer."""
        self._leave(item)
        assert item.work is not None
        answer_id = item.work.answer_attempt_id
        task = self._task_row(item, result, answer_id)
        self._unpublished += 1
        published = partial(self._published, item.position, result)
        self.journal.settle(Settling(row, task, self.claim(item), payloads, published), latency_s)
        self._settle_copies(item, result, answer_id, item.work.task_id)

    def _settle_copies(self, item: Item, result: Result, answer_id: str | None, source: str) -> None:
        """Give the equal tasks the outcome of the one that was asked."""
        for copy in item.copies or ():
            self._settle_as(copy, result, answer_id, source)
        item.copies = None

    def _settle_as(self, item: Item, found: Result, answer_id: str | None, source: str) -> None:
        """Settle a task with the outcome of another, equal one."""
        work = self.begin(item)
        result = reused_result(item, found, self.batch_id, work.task_id)
        self._leave(item)
        row = self._task_row(item, result, answer_id, reused_from=source)
        self._unpublished += 1
        self.journal.settle(Settling(None, row, None, (), partial(self._published, item.position, result)))

    def _reuse(self, item: Item, answers: list[StoredAnswer] | None) -> bool:
        """Settle a task with an answer of the ledger, if one may be reused."""
        for answer in answers or ():
            found = usable(answer, item)
            if found is not None:
                self._settle_as(item, found, answer.attempt_id, answer.task_id)
                self._settle_copies(item, found, answer.attempt_id, answer.task_id)
                return True
        return False

    def _leave(self, item: Item) -> None:
        self._unsettled.pop(item.position, None)
        if self._primaries.get(item.key) is item and self._on_result is not None:
            del self._primaries[item.key]  # a lazy call forgets what is done; a repeat is found in the ledger

    def _task_row(self, item: Item, result: Result, answer_id: str | None, reused_from: str | None = None) -> TaskRow:
        task, work = item.task, item.work
        assert work is not None
        return TaskRow(
            work.task_id,
            self.batch_id,
            item.index,
            item.sample,
            item.key,
            result.status,
            result.error_class,
            excerpt(result.error, 500) if result.error else None,
            result.attempts,
            answer_id,
            reused_from,
            work.cost,
            work.list_cost,
            task.chain,
            None,
            None,
            None,
            None,
            task.type,
            task.priority,
            orjson.dumps(task.tags).decode() if task.tags else None,
            work.queued_at,
            now_us(),
            result.duration_s * 1000,
        )

    # Publishing.

    def _published(self, position: int, result: Result, error: LedgerError | None) -> None:
        """Show a result that is durable now; one that cannot be made durable breaks the call and goes with its error."""
        self._unpublished -= 1
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
        if result.status == "failed" and self.first_failure is None:
            self.first_failure = result
            if self.options.on_error == "stop":
                self.stop("stopped")
        if not self._unsettled or self.status != "running":
            self._changed.set()

    def _break(self, error: LedgerError) -> None:
        if self.error is None:
            self.error = error
        self.stop("stopped")


def _usd(pico: int | None) -> Decimal | None:
    return _NO_COST if pico == 0 else from_pico(pico)  # most are 0, and share one object


def _look(
    connection: Any, *, keys: list[bytes], claims: list[bytes], batch_id: str | None
) -> tuple[int, dict[bytes, list[StoredAnswer]], dict[bytes, queries.Claim]]:
    # In this order: an answer that comes after the newest task was read is noticed when the task is opened.
    return (
        queries.newest_task(connection),
        queries.find_answers(connection, keys, batch_id),
        queries.claims_on(connection, claims),
    )


def _ignore(done: asyncio.Future[Any]) -> None:
    """Let a broken ledger be reported by the results that need it, once."""
    if not done.cancelled():
        done.exception()
