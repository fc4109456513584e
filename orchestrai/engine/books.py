"""Books: what a call records of itself, its attempts and its settled tasks; nothing is shown before it is durable."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import orjson

from orchestrai.engine.engine import Engine
from orchestrai.engine.item import Item, Work
from orchestrai.engine.named import Named
from orchestrai.engine.reuse import reused_result
from orchestrai.errors import ErrorClass, LedgerError
from orchestrai.ids import new_id, now_us
from orchestrai.ledger import queries
from orchestrai.ledger.chains import memory_of
from orchestrai.ledger.group import Settling
from orchestrai.ledger.reservations import Charge, forget_call
from orchestrai.ledger.rows import AttemptRow, MemoryRow, OutcomeRow, QuotaRow
from orchestrai.limits.quota import Meter
from orchestrai.platforms.protocol import Reply
from orchestrai.pricing import from_pico, to_pico
from orchestrai.result import NO_USAGE, Result
from orchestrai.text import excerpt

_NO_COST: Final = Decimal(0)


class Asked(NamedTuple):
    """The task that was asked, whose answer others take too."""

    task_id: str
    send_seq: int | None  # its request that was answered; None where none was


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
        mix: Several models may answer; False: one, the best that every task can be asked of.
        latest: Until when tasks may wait for a quota window to begin anew [µs since 1970]; None for not at all.
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
    mix: bool = True
    latest: int | None = None
    described: Mapping[str, Any] = field(default_factory=dict)


class Books:
    """The records of one call, on the engine's loop.

    Args:
        engine: The ledger.
        options: What the call says about itself.
        left: Called when a task is settled, before that is durable.
        published: Called with position and result once the result is durable; with the error when it cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        options: RunOptions,
        left: Callable[[Item], None],
        published: Callable[[int, Result, LedgerError | None], None],
    ) -> None:
        self.journal = engine.journal
        self.batch_id = new_id()
        self.scope: str | None = None  # batch whose answers alone count; None for all
        self.continues = False  # whether it goes on with an unfinished batch
        self.unpublished = 0  # settled, on their way to the ledger
        self._engine = engine
        self._options = options
        self._left = left
        self._show = published
        self.named = Named(engine.journal)
        self._recorded = False
        self._command: str | None = None

    async def scope_of(self, items: list[Item]) -> str | None:
        """Return the batch whose answers alone count: the unfinished one that this call continues without other reuse.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        name = self._options.name
        if self._options.reuse or name is None:
            return None
        digest = _digest(items)
        found: str | None = await self._engine.ledger.read_soon(lambda c: queries.running_batch(c, name, digest))
        return found

    async def open_call(self, items: list[Item] | None, total: int | None) -> None:
        """Record the call, or continue the unfinished one of the same name and tasks.

        Args:
            items: Its tasks; None while the input is being read.
            total: Their number, with those that are never sent.
        """
        options = self._options
        digest = None if items is None else _digest(items)
        row = (
            options.name,
            options.kind,
            options.project,
            self._engine.ledger.owner_id,
            digest,
            total,
            orjson.dumps(options.described, default=str).decode(),
            now_us(),
            self._engine.lib_version,
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

        if named is None:
            self.journal.note(record)
        else:
            # Looked for and recorded in one transaction: two processes that start at once share one batch.
            self.batch_id = await self.journal.do(record)
            self.continues = self.batch_id != fresh
            self.scope = None if options.reuse else self.batch_id
        self._recorded = True
        if self._command is not None:
            self._write_command()

    def note_command(self, command: str) -> None:
        """Record how a shell makes the call again [JSON], once the call itself is recorded."""
        self._command = command
        if self._recorded:
            self._write_command()

    def _write_command(self) -> None:
        update = (
            "UPDATE batches SET options = json_set(options, '$.command', json(?)), revision = revision + 1 "
            "WHERE batch_id = ?"
        )
        row = (self._command, self.batch_id)
        self.journal.note(lambda c: c.execute(update, row).rowcount)

    def close_call(self, status: str, settled: int, meter: Meter | None = None) -> None:
        """Record how the call ended, and forget the meter that was its own."""
        if meter is not None:
            name = meter.id
            self.journal.note(lambda c: forget_call(c, name))
        update = (
            "UPDATE batches SET status = ?, finished_at = ?, revision = revision + 1, "
            "task_count = coalesce(task_count, ?) WHERE batch_id = ?"
        )
        row = (status, now_us(), settled, self.batch_id)
        self.journal.note(lambda c: c.execute(update, row).rowcount)

    def claim(self, item: Item) -> bytes:
        """Return what nobody else may work on while this task is: its key, in the scope of its reuse."""
        if self._options.reuse:
            return item.key
        scope = self.batch_id if self._options.name is not None else item.work.task_id if item.work else self.batch_id
        return hashlib.sha256(item.key + scope.encode()).digest()[:16]

    def begin(self, item: Item) -> Work:
        """Start the record of a task whose turn has come."""
        item.work = Work(now_us(), repairs_left=self._options.repair_attempts)
        return item.work

    def since_began_ms(self, work: Work) -> float | None:
        """Return how long ago the first request of a task left [ms]; None when none did."""
        return None if work.began is None else (self._engine.loop.loop.time() - work.began) * 1000

    def record(
        self, row: AttemptRow, latency_s: float, quota: tuple[QuotaRow, ...] = (), charge: Charge | None = None
    ) -> None:
        """Record an attempt that does not settle its task."""
        self.journal.settle(Settling(row, quota=quota, charge=charge), latency_s)

    def settle_success(
        self,
        item: Item,
        row: AttemptRow,
        latency_s: float,
        reply: Reply,
        parsed: Any,
        quota: tuple[QuotaRow, ...] = (),
        charge: Charge | None = None,
    ) -> None:
        """Settle a task with an answer; it is published once it is durable."""
        output = reply.text if item.schema is None else item.schema.output(parsed, reply.text)
        model = sys.intern(reply.model) if reply.model else item.offer.model  # a few models, many answers
        result = self._result(item, "succeeded", output=output, parsed=parsed, model=model, reply=reply)
        self._settle(item, result, row, latency_s, quota, charge, reply.text if self._options.keep_texts else None)

    def settle_failure(
        self,
        item: Item,
        error_class: ErrorClass,
        error: str,
        row: AttemptRow | None = None,
        latency_s: float | None = None,
        reply: Reply | None = None,
        quota: tuple[QuotaRow, ...] = (),
        charge: Charge | None = None,
    ) -> None:
        """Settle a task without an answer."""
        result = self._result(item, "failed", error=error, error_class=error_class, reply=reply)
        self._settle(item, result, row, latency_s, quota, charge)

    def settle_skipped(self, item: Item, error: str, error_class: ErrorClass = "window") -> None:
        """Settle a task that waited for a window until its deadline, or for a parent that failed."""
        result = self._result(item, "skipped", error=error, error_class=error_class)
        self._settle(item, result, None, None)

    def settle_cancelled(self, item: Item) -> Result | None:
        """Settle a task that the caller ended; what never began has nothing to record, and its result is returned."""
        result = self._result(item, "cancelled", error="cancelled", error_class="cancelled")
        if item.work is None:
            return result
        self._settle(item, result, None, None)
        return None

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
            self._engine.loop.loop.time() - began if began is not None else 0.0,
            work.attempts if work is not None else 0,
            reused=False,
            index=item.index,
            row=item.row,
            sample=item.sample,
            answered_at=work.answered_at if work is not None else None,
            task_id=work.task_id if work is not None else None,
            batch_id=self.batch_id,
            chain_id=item.lineage.chain_id if item.lineage is not None else None,
            parent_id=item.lineage.parent_id if item.lineage is not None else None,
        )

    def _settle(
        self,
        item: Item,
        result: Result,
        row: AttemptRow | None,
        latency_s: float | None,
        quota: tuple[QuotaRow, ...] = (),
        charge: Charge | None = None,
        answer: str | None = None,
    ) -> None:
        """Write commit 2 of a task, and of the equal tasks that take its answer."""
        self._left(item)
        work = item.work
        assert work is not None
        self.unpublished += 1
        asked = Asked(work.task_id, row.send_seq if row is not None else None)
        settling = Settling(
            row,
            answer,
            item.key if answer is not None and result.finish_reason != "length" else None,
            self._outcome(item, result) if row is None else None,
            (self.claim(item), work.task_id),
            quota,
            _memory(item, result, asked, as_it_came=result.output == answer),
            item.lineage.rows(work.task_id) if item.lineage is not None and row is None else (),
            charge,
            partial(self._published, item.position, result),
        )
        self.journal.settle(settling, latency_s)
        self._settle_copies(item, result, asked)

    def _settle_copies(self, item: Item, result: Result, source: Asked) -> None:
        """Give the equal tasks the outcome of the one that was asked."""
        for copy in item.copies or ():
            self._settle_as(copy, result, source)
        item.copies = None

    def _settle_as(self, item: Item, found: Result, source: Asked) -> None:
        """Settle a task with the outcome of another, equal one."""
        work = item.work or self.begin(item)
        result = reused_result(item, found, self.batch_id, work.task_id, source.task_id)
        work.list_cost = to_pico(result.list_cost)
        self._left(item)
        settling = Settling(
            outcome=self._outcome(item, result, reused_from=source.task_id),
            memory=_memory(item, result, source, as_it_came=item.schema is None),
            handoffs=item.lineage.rows(work.task_id) if item.lineage is not None else (),
            committed=partial(self._published, item.position, result),
        )
        self.unpublished += 1
        self.journal.settle(settling)
        self._settle_copies(item, found, source)  # it may itself have stood for others while it waited

    def settle_reused(self, item: Item, found: Result, source: Asked) -> None:
        """Settle a task, and the equal ones of the call, with an answer of the ledger.

        Args:
            item: The task.
            found: The answer as a result.
            source: The task that was asked then.
        """
        self._settle_as(item, found, source)

    def _outcome(self, item: Item, result: Result, reused_from: str | None = None) -> OutcomeRow:
        task, work = item.task, item.work
        assert work is not None
        return OutcomeRow(
            work.task_id,
            self.batch_id,
            item.index,
            item.sample,
            item.key,
            result.status,
            result.error_class,
            excerpt(result.error, 500) if result.error else None,
            result.attempts,
            reused_from,
            work.cost,
            work.list_cost,
            *lineage_columns(item, work.task_id),
            task.type,
            task.priority,
            orjson.dumps(task.tags).decode() if task.tags else None,
            work.queued_at,
            now_us(),
            result.duration_s * 1000,
        )

    def _published(self, position: int, result: Result, error: LedgerError | None) -> None:
        self.unpublished -= 1
        self._show(position, result, error)


def lineage_columns(item: Item, task_id: str) -> tuple[str | None, str | None, str | None, int | None]:
    """Return the columns that say where a task stands: chain, parent, root and depth."""
    lineage = item.lineage
    if lineage is None:
        return (None, None, None, None)
    return lineage.chain_id, lineage.parent_id, lineage.root or task_id, lineage.depth


def _memory(item: Item, result: Result, asked: Asked, *, as_it_came: bool) -> MemoryRow | None:
    """Return the answer as a memory, where others may work with it; one that is as it came is kept once."""
    lineage = item.lineage
    if lineage is None or not lineage.remembers or result.output is None:
        return None
    return memory_of(asked.task_id, result.output, asked.send_seq, lineage.chain_id, now_us(), as_it_came=as_it_came)


def _digest(items: list[Item]) -> bytes:
    keys = (item.key if item.lineage is None else item.lineage.first_key for item in items)
    return hashlib.sha256(b"".join(keys)).digest()


def _usd(pico: int | None) -> Decimal | None:
    return _NO_COST if pico == 0 else from_pico(pico)  # most are 0, and share one object
