"""Group commit: many attempts share one durable transaction and one wake-up each way.

The event loop collects openings (commit 1) and settlings (commit 2); one thread commits them, one group at a time.
A group's answers come back in a single call. What makes this cheap is the number of rows in a group, so a group
waits a little for company: as long as it pays, and never once nobody else can join it (docs/explanation/engine.md).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from orchestrai.errors import LedgerError
from orchestrai.ids import now_us
from orchestrai.ledger import queries
from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.rows import AttemptRow, OfferRow, Payload, QuotaRow, SendRow, TaskRow, execute_together, insert

_FULL_GROUP: Final = 256  # rows that are committed without waiting for more
_LEAST_LINGER_S: Final = 0.002
_FAST_S: Final = 0.020  # requests that come back sooner come in such numbers that commits are what they cost
_FAST_LINGER_S: Final = 0.006
_LONGEST_LINGER_S: Final = 0.010
_LINGER_SHARE: Final = 0.02  # of the usual latency of a request: what company may cost


class Grant(Enum):
    """The ledger's answer to an opening."""

    GRANTED = "granted"  # it is recorded: send
    HELD = "held"  # somebody else is working on this task
    ANSWERED = "answered"  # somebody else has answered it meanwhile


class Opening(NamedTuple):
    """Commit 1: the record of a request before it leaves."""

    row: SendRow
    claim: bytes  # what nobody else may work on meanwhile
    since: int | None  # newest task known when the ledger was searched for an answer; None: do not look again
    kept: tuple[Payload | OfferRow, ...]  # what it names, where the ledger may not have it yet
    granted: asyncio.Future[Grant]


class Settling(NamedTuple):
    """Commit 2: how a request, or a whole task, ended."""

    attempt: AttemptRow | None
    task: TaskRow | None
    claim: bytes | None  # given back
    kept: tuple[Payload | QuotaRow, ...]  # what belongs to it: the answer's text, what was told of quotas
    committed: Callable[[LedgerError | None], None] | None  # called on the loop once it is durable, or cannot be


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class _Group(NamedTuple):
    openings: list[Opening]
    settlings: list[Settling]
    jobs: list[_Job]


class Journal:
    """The event loop's side of a ledger: rows go in, acknowledgements come out.

    All methods run on the loop. One group is under way at a time; what arrives meanwhile forms the next.

    Args:
        file: The ledger.
        loop: The engine's loop.
        owner_id: Who claims tasks here.
    """

    def __init__(self, file: LedgerFile, loop: asyncio.AbstractEventLoop, owner_id: str) -> None:
        self._file = file
        self._loop = loop
        self._owner_id = owner_id
        self._pending = _Group([], [], [])
        self._owed: list[Settling] = []  # could not be written, and will be with the next group
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._open = 0  # attempts between their opening and their settling
        self._latency_s = 0.0  # moving average over requests
        self._idle = asyncio.Event()
        self._idle.set()
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="orchestrai-ledger", daemon=True)
        self._thread.start()

    async def open(self, row: SendRow, claim: bytes, since: int | None, kept: tuple[Payload | OfferRow, ...]) -> Grant:
        """Record a request that is about to leave; send it only when the answer is GRANTED.

        Raises:
            LedgerError: It could not be recorded, so nothing may be sent.
        """
        granted: asyncio.Future[Grant] = self._loop.create_future()
        self._open += 1
        self._pending.openings.append(Opening(row, claim, since, kept, granted))
        self._consider()
        try:
            return await granted
        except asyncio.CancelledError:
            # Cancelled between the commit and this line: it is recorded, and does not leave.
            if not granted.cancelled() and granted.exception() is None and granted.result() is Grant.GRANTED:
                self._end_unsent(row)
            raise

    def settle(self, settling: Settling, latency_s: float | None = None) -> None:
        """Record an end; its `committed` is the only place where a result may be published.

        Args:
            settling: The rows.
            latency_s: How long the request took [s]; None when none was under way.
        """
        if settling.attempt is not None:
            self._open -= 1
        if latency_s is not None:
            self._latency_s += 0.05 * (latency_s - self._latency_s) if self._latency_s else latency_s
        self._pending.settlings.append(settling)
        self._consider()

    def do(self, work: Callable[[sqlite3.Connection], Any]) -> asyncio.Future[Any]:
        """Run `work` inside the next transaction; the future has its value once it is durable."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._pending.jobs.append(_Job(work, done))
        self._consider()
        return done

    async def drain(self) -> None:
        """Wait until everything that was given is durable."""
        while not self._idle.is_set():
            self._flush()
            await self._idle.wait()

    async def close(self) -> None:
        """Make everything durable and end the thread."""
        await self.drain()
        if self._owed:  # there may be room on the disk again; if not, the next process finds these in doubt
            self.do(lambda _connection: None).add_done_callback(asyncio.Future.exception)
            await self.drain()
        self._groups.put(None)  # the thread has nothing left to do and ends at once

    def _consider(self) -> None:
        """Commit now, or let the group wait for company."""
        self._idle.clear()
        if self._under_way:
            return
        openings, settlings, jobs = self._pending
        nobody_else = self._open <= len(openings)  # every open attempt waits here: nobody can join
        if nobody_else or jobs or len(openings) + len(settlings) >= _FULL_GROUP:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._linger_s(), self._flush)

    def _linger_s(self) -> float:
        """Return how long a group waits for company: little beside the requests, but never for one row alone."""
        if self._latency_s < _FAST_S:
            return _FAST_LINGER_S
        return min(_LONGEST_LINGER_S, max(_LEAST_LINGER_S, _LINGER_SHARE * self._latency_s))

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._under_way:
            return
        if not any(self._pending):
            self._idle.set()
            return
        group, self._pending = self._pending, _Group([], [], [])
        # Who was cancelled while waiting has nothing to record; its task may settle in this very group.
        wanted = [o for o in group.openings if not o.granted.cancelled()]
        self._open -= len(group.openings) - len(wanted)
        settlings, self._owed = [*self._owed, *group.settlings], []
        self._under_way = True
        self._groups.put(_Group(wanted, settlings, group.jobs))

    def _end_unsent(self, row: SendRow) -> None:
        """Record that a request that was granted never left."""
        self.settle(Settling(_never_sent(row), None, None, (), None))

    def _committed(self, group: _Group, grants: Sequence[Grant], values: list[Any], error: LedgerError | None) -> None:
        """Hand the outcome of a group to those who wait for it."""
        if error is not None and isinstance(error.__cause__, sqlite3.OperationalError | OSError):
            # It may pass (a full disk, a foreign lock). Until then what ended stays claimed, and is not asked again.
            self._owed = [settling._replace(committed=None) for settling in group.settlings]
        for settling in group.settlings:
            if settling.committed is not None:
                settling.committed(error)
        for i, opening in enumerate(group.openings):
            granted = error is None and grants[i] is Grant.GRANTED
            if not granted:
                self._open -= 1
            if opening.granted.cancelled():
                if granted:
                    self._end_unsent(opening.row)
            elif error is not None:
                opening.granted.set_exception(error)
            else:
                opening.granted.set_result(grants[i])
        for i, job in enumerate(group.jobs):
            if job.done.done():
                continue
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(values[i])
        self._under_way = False
        if any(self._pending):
            self._consider()
        else:
            self._idle.set()

    # From here on: the ledger's thread.

    def _work(self) -> None:
        while (group := self._groups.get()) is not None:
            grants: list[Grant] = []
            values: list[Any] = []
            error: LedgerError | None = None
            try:
                grants, values = self._file.write(lambda connection, group=group: self._apply(connection, group))  # type: ignore[misc]  # mypy does not infer lambdas with defaults
            except LedgerError as failed:
                error = failed
            except Exception as failed:  # noqa: BLE001 - whatever a job raises must reach the loop, or it waits for ever
                error = LedgerError(f"{self._file.path}: {type(failed).__name__}: {failed}")
                error.__cause__ = failed
            try:
                self._loop.call_soon_threadsafe(self._committed, group, grants, values, error)
            except RuntimeError:  # the loop was closed under us at interpreter exit; the rows are durable
                return

    def _apply(self, connection: sqlite3.Connection, group: _Group) -> tuple[list[Grant], list[Any]]:
        """Write a group; may run again with the same group, so every statement is idempotent."""
        values = [job.work(connection) for job in group.jobs]
        _settle(connection, group.settlings)
        grants = self._claim(connection, group.openings)
        granted = [o for o, grant in zip(group.openings, grants, strict=True) if grant is Grant.GRANTED]
        insert(connection, [o.row for o in granted])
        insert(connection, [row for o in granted for row in o.kept])
        return grants, values

    def _claim(self, connection: sqlite3.Connection, openings: list[Opening]) -> list[Grant]:
        since = {o.row.key: o.since for o in openings if o.since is not None}
        answered = queries.newer_answers(connection, since) if since else set()
        asking = [o for o in openings if o.since is None or o.row.key not in answered]
        taken = execute_together(
            connection,
            "INSERT INTO claims (claim, task_id, attempt_id, owner_id) VALUES ",
            "(?, ?, ?, ?)",
            " ON CONFLICT (claim) DO UPDATE SET attempt_id = excluded.attempt_id WHERE task_id = excluded.task_id",
            [(o.claim, o.row.task_id, o.row.attempt_id, self._owner_id) for o in asking],
        )
        holders = queries.claims_on(connection, [o.claim for o in asking]) if taken < len(asking) else {}

        def grant(opening: Opening) -> Grant:
            if opening.since is not None and opening.row.key in answered:
                return Grant.ANSWERED
            holder = holders.get(opening.claim)
            return Grant.GRANTED if holder is None or holder.task_id == opening.row.task_id else Grant.HELD

        return [grant(opening) for opening in openings]


def _never_sent(row: SendRow) -> AttemptRow:
    return AttemptRow(
        row.attempt_id,
        row.task_id,
        "cancelled",
        error_class="cancelled",
        error_message="cancelled before it was sent",
        cost=0,
        list_cost=0,
        cost_source="zero",
        finished_at=now_us(),
    )


def _settle(connection: sqlite3.Connection, settlings: list[Settling]) -> None:
    insert(connection, [s.attempt for s in settlings if s.attempt is not None])
    insert(connection, [row for s in settlings for row in s.kept])
    insert(connection, [s.task for s in settlings if s.task is not None])
    execute_together(
        connection,
        "DELETE FROM claims WHERE (claim, task_id) IN (VALUES ",
        "(?, ?)",
        ")",
        [(s.claim, s.task.task_id) for s in settlings if s.claim is not None and s.task is not None],
    )
