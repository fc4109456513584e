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
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from orchestrai.errors import LedgerError
from orchestrai.ids import now_us
from orchestrai.ledger import queries
from orchestrai.ledger.answers import RecentAnswers
from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.rows import (
    AnswerRow,
    AttemptRow,
    LoggedAnswer,
    OfferRow,
    OutcomeRow,
    PromptRow,
    QuotaRow,
    SendRow,
    SystemRow,
    execute_together,
    insert,
)

_FULL_GROUP: Final = 48  # rows that are committed without waiting for more: a burst then leaves in parts
_FAST_FULL_GROUP: Final = 256  # the same where requests come back at once
_LEAST_LINGER_S: Final = 0.002
_FAST_S: Final = 0.050  # requests that come back sooner come in such numbers that commits are what they cost
_FAST_LINGER_S: Final = 0.006
_BUSY_LINGER_S: Final = 0.020  # the same while the loop has its hands full: nobody waits for this group then
_BUSY: Final = 0.75  # part of the time
_LONGEST_LINGER_S: Final = 0.010
_LINGER_SHARE: Final = 0.03  # of the usual latency of a request: what company may cost


class NotGranted(Enum):
    """Why a request may not leave."""

    HELD = "held"  # somebody else is working on this task
    ANSWERED = "answered"  # somebody else has answered it meanwhile


Grant = int | NotGranted
"""The ledger's answer to an opening: the number of the request that is recorded now and may leave, or why it may not."""


class Opening(NamedTuple):
    """Commit 1: the record of a request before it leaves."""

    row: SendRow
    claim: bytes  # what nobody else may work on meanwhile
    since: int | None  # newest answer when its own was looked for; None: do not look again
    prompt: tuple[str, str] | None  # kind and text, with a task's first request
    kept: tuple[OfferRow | SystemRow, ...]  # what it names, where the ledger may not have it yet
    granted: asyncio.Future[Grant]


class Settling(NamedTuple):
    """Commit 2: how a request, or a whole task, ended."""

    attempt: AttemptRow | None = None
    answer: str | None = None  # its text, where it is kept
    key: bytes | None = None  # of a task that this answers for good
    outcome: OutcomeRow | None = None  # of a task that no attempt of its own settles
    claim: tuple[bytes, str] | None = None  # given back, with the id of its task
    quota: tuple[QuotaRow, ...] = ()  # what was told with it
    committed: Callable[[LedgerError | None], None] | None = None  # on the loop, once it is durable, or cannot be


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
        self._owed: list[_Group] = []  # groups whose ends could not be written, and will be with the next group
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._linger_since = 0.0, 0.0  # time and CPU time of the loop's thread
        self._open = 0  # attempts between their opening and their settling
        self._latency_s = 0.0  # moving average over requests
        self._idle = asyncio.Event()
        self._idle.set()
        self._known = _Known()  # of the ledger's thread
        self._groups: queue.SimpleQueue[tuple[_Group, list[_Group]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="orchestrai-ledger", daemon=True)
        self._thread.start()

    async def open(
        self,
        row: SendRow,
        claim: bytes,
        since: int | None,
        prompt: tuple[str, str] | None,
        kept: tuple[OfferRow | SystemRow, ...],
    ) -> Grant:
        """Record a request that is about to leave; send it only when the answer is its number.

        Raises:
            LedgerError: It could not be recorded, so nothing may be sent.
        """
        granted: asyncio.Future[Grant] = self._loop.create_future()
        self._open += 1
        self._pending.openings.append(Opening(row, claim, since, prompt, kept, granted))
        self._consider()
        try:
            return await granted
        except asyncio.CancelledError:
            # Cancelled between the commit and this line: it is recorded, and does not leave.
            if not granted.cancelled() and granted.exception() is None:
                self._end_unsent(granted.result())
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
        if nobody_else or jobs or len(openings) + len(settlings) >= self._full():
            self._flush()
        elif self._timer is None:
            self._linger_since = self._loop.time(), time.thread_time()
            self._timer = self._loop.call_later(self._linger_s(), self._lingered)

    def _full(self) -> int:
        return _FAST_FULL_GROUP if self._latency_s < _FAST_S else _FULL_GROUP

    def _linger_s(self) -> float:
        """Return how long a group waits for company: little beside the requests, but never for one row alone."""
        if self._latency_s < _FAST_S:
            return _FAST_LINGER_S
        return min(_LONGEST_LINGER_S, max(_LEAST_LINGER_S, _LINGER_SHARE * self._latency_s))

    def _lingered(self) -> None:
        """Commit, unless the loop was busy all the while and requests are fast: then more rows come than time is lost."""
        self._timer = None
        since, cpu = self._linger_since
        waited, worked = self._loop.time() - since, time.thread_time() - cpu
        if self._latency_s < _FAST_S and waited < _BUSY_LINGER_S and worked > _BUSY * waited:
            self._timer = self._loop.call_later(_FAST_LINGER_S, self._lingered)
        else:
            self._flush()

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
        owed, self._owed = self._owed, []
        self._under_way = True
        self._groups.put((group._replace(openings=wanted), owed))

    def _end_unsent(self, grant: Grant) -> None:
        """Record that a request that was granted never left."""
        if isinstance(grant, int):
            self.settle(Settling(_never_sent(grant)))

    def _committed(
        self, group: _Group, owed: list[_Group], grants: Sequence[Grant], values: list[Any], error: LedgerError | None
    ) -> None:
        """Hand the outcome of a group to those who wait for it."""
        if error is not None and isinstance(error.__cause__, sqlite3.OperationalError | OSError):
            # It may pass (a full disk, a foreign lock). Until then what ended stays claimed, and is not asked again.
            self._owed = [*owed, group._replace(openings=[], jobs=[])]
        for settling in group.settlings:
            if settling.committed is not None:
                settling.committed(error)
        for i, opening in enumerate(group.openings):
            grant = grants[i] if error is None else NotGranted.HELD
            if not isinstance(grant, int):
                self._open -= 1
            if opening.granted.cancelled():
                self._end_unsent(grant)
            elif error is not None:
                opening.granted.set_exception(error)
            else:
                opening.granted.set_result(grant)
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
        while (given := self._groups.get()) is not None:
            group, owed = given
            grants: list[Grant] = []
            values: list[Any] = []
            error: LedgerError | None = None
            writing = _Writing(self._owner_id, self._known, group, owed)
            try:
                grants, values = self._file.write(writing)
            except LedgerError as failed:
                error = failed
            except Exception as failed:  # noqa: BLE001 - whatever a job raises must reach the loop, or it waits for ever
                error = LedgerError(f"{self._file.path}: {type(failed).__name__}: {failed}")
                error.__cause__ = failed
            if error is not None:
                self._known.forget()
            try:
                self._loop.call_soon_threadsafe(self._committed, group, owed, grants, values, error)
            except RuntimeError:  # the loop was closed under us at interpreter exit; the rows are durable
                return


class _Known:
    """What the ledger's thread knows of the file, as long as nobody else writes to it."""

    def __init__(self) -> None:
        self.answers = RecentAnswers()
        self.newest_send = 0
        self._version: int | None = None  # of the file, as this connection sees it
        self._connection: sqlite3.Connection | None = None

    def catch_up(self, connection: sqlite3.Connection) -> None:
        """Read on, where another connection has written since; in a transaction that writes."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != self._version or connection is not self._connection:
            self.answers.catch_up(connection)
            (self.newest_send,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sends").fetchone()
            self._version, self._connection = version, connection

    def forget(self) -> None:
        """Begin anew, after a transaction that did not come to its end."""
        self._connection = None
        self.answers.forget()


class _Writing:
    """The writing of one group, in the ledger's thread; called again where the log was exchanged under it.

    Args:
        owner_id: Who writes.
        known: What is known of the file.
        group: What to write.
        owed: Groups before it whose ends could not be written then, as far as anybody knows.
    """

    def __init__(self, owner_id: str, known: _Known, group: _Group, owed: list[_Group]) -> None:
        self._owner_id = owner_id
        self._known = known
        self._answers = known.answers
        self._group = group
        self._owed = owed
        self._done: tuple[list[Grant], list[Any]] | None = None

    def __call__(self, connection: sqlite3.Connection) -> tuple[list[Grant], list[Any]]:
        """Write the group, unless it is there already; return the grants, and the values of its jobs."""
        openings, settlings, jobs = self._group
        if self._done is not None:  # it was written to a log that is gone, unless it was folded into the file before
            self._known.forget()
            if _is_there(connection, self._group, self._done[0]):
                return self._done
        self._known.catch_up(connection)
        values = [job.work(connection) for job in jobs]
        for owed in self._owed:
            if not _is_there(connection, owed, ()):
                self._settle(connection, owed.settlings)
        self._settle(connection, settlings)
        self._done = self._open(connection, openings), values
        return self._done

    def _settle(self, connection: sqlite3.Connection, settlings: list[Settling]) -> None:
        if not settlings:
            return
        insert(connection, AttemptRow, [s.attempt for s in settlings if s.attempt is not None])
        insert(
            connection,
            AnswerRow,
            [(s.attempt.send_seq, s.answer) for s in settlings if s.attempt is not None and s.answer is not None],
        )
        answered = [(s.key, s.attempt.send_seq) for s in settlings if s.attempt is not None and s.key is not None]
        insert(connection, LoggedAnswer, self._answers.add(connection, answered))
        insert(connection, OutcomeRow, [s.outcome for s in settlings if s.outcome is not None])
        insert(connection, QuotaRow, [row for s in settlings for row in s.quota])
        execute_together(
            connection,
            "DELETE FROM claims WHERE (claim, task_id) IN (VALUES ",
            "(?, ?)",
            ")",
            [s.claim for s in settlings if s.claim is not None],
        )

    def _open(self, connection: sqlite3.Connection, openings: list[Opening]) -> list[Grant]:
        """Claim the tasks and record the requests that may leave; return the answer to each opening."""
        if not openings:
            return []
        since = {o.row.key: o.since for o in openings if o.since is not None}
        answered = self._answers.came_since(connection, since)
        asking = [o for o in openings if o.since is None or o.row.key not in answered]
        newest = self._known.newest_send
        taken = execute_together(
            connection,
            "INSERT INTO claims (claim, task_id, send_seq, owner_id) VALUES ",
            "(?, ?, ?, ?)",
            " ON CONFLICT (claim) DO UPDATE SET send_seq = excluded.send_seq WHERE task_id = excluded.task_id",
            [(o.claim, o.row.task_id, seq, self._owner_id) for seq, o in enumerate(asking, newest + 1)],
        )
        holders = queries.claims_on(connection, [o.claim for o in asking]) if taken < len(asking) else {}
        grants: list[Grant] = []
        sends, prompts, kept = [], [], {}
        for opening in openings:
            row = opening.row
            holder = holders.get(opening.claim)
            if opening.since is not None and row.key in answered:
                grants.append(NotGranted.ANSWERED)
                continue
            newest += 1  # in step with `asking`; a number that nobody uses is no harm
            if holder is not None and holder.task_id != row.task_id:
                grants.append(NotGranted.HELD)
                continue
            grants.append(newest)
            sends.append((newest, *row[1:]))
            if opening.prompt is not None:
                prompts.append((newest, *opening.prompt))
            kept.update(dict.fromkeys(opening.kept))
        self._known.newest_send = newest
        insert(connection, SendRow, sends)
        insert(connection, PromptRow, prompts)
        for kind in (OfferRow, SystemRow):
            insert(connection, kind, [row for row in kept if type(row) is kind])
        return grants


def _is_there(connection: sqlite3.Connection, group: _Group, grants: Sequence[Grant]) -> bool:
    """Return True when a group that may have been written was: all of it or nothing is, so one row tells."""
    for opening, grant in zip(group.openings, grants, strict=False):
        if isinstance(grant, int):
            found = connection.execute("SELECT attempt_id FROM sends WHERE seq = ?", (grant,)).fetchone()
            return bool(found == (opening.row.attempt_id,))
    for settling in group.settlings:
        if settling.attempt is not None:
            number = settling.attempt.send_seq
            return connection.execute("SELECT 1 FROM attempts WHERE send_seq = ?", (number,)).fetchone() is not None
    for settling in group.settlings:
        if settling.outcome is not None:
            name = settling.outcome.task_id
            return connection.execute("SELECT 1 FROM outcomes WHERE task_id = ?", (name,)).fetchone() is not None
    return False


def _never_sent(send_seq: int) -> AttemptRow:
    return AttemptRow(
        send_seq,
        "cancelled",
        error_class="cancelled",
        error_message="cancelled before it was sent",
        cost=0,
        list_cost=0,
        cost_source="zero",
        finished_at=now_us(),
    )
