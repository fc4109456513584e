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
from typing import Any, Final

from orchestrai.errors import LedgerError
from orchestrai.ids import now_us
from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.group import Grant, Group, Job, Known, NotGranted, Opening, Settling, Writing
from orchestrai.ledger.reservations import NOTHING, Hold
from orchestrai.ledger.rows import AttemptRow, HandoffRow, OfferRow, SendRow, SystemRow

_FULL_GROUP: Final = 48  # rows that are committed without waiting for more: a burst then leaves in parts
_FAST_FULL_GROUP: Final = 256  # the same where requests come back at once
_LEAST_LINGER_S: Final = 0.002
_FAST_S: Final = 0.050  # requests that come back sooner come in such numbers that commits are what they cost
_FAST_LINGER_S: Final = 0.006
_BUSY_LINGER_S: Final = 0.020  # the same while the loop has its hands full: nobody waits for this group then
_BUSY: Final = 0.75  # part of the time
_LONGEST_LINGER_S: Final = 0.010
_LINGER_SHARE: Final = 0.08  # of the usual latency of a request: what company may cost


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
        self._pending = Group([], [], [])
        self._owed: list[Group] = []  # groups whose ends could not be written, and will be with the next group
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._linger_since = 0.0, 0.0  # time and CPU time of the loop's thread
        self._open = 0  # attempts between their opening and their settling
        self._latency_s = 0.0  # moving average over requests
        self._idle = asyncio.Event()
        self._idle.set()
        self._known = Known()  # of the ledger's thread
        self._groups: queue.SimpleQueue[tuple[Group, list[Group]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="orchestrai-ledger", daemon=True)
        self._thread.start()

    async def open(
        self,
        row: SendRow,
        claim: bytes,
        since: int | None,
        prompt: tuple[str, str] | None,
        kept: tuple[OfferRow | SystemRow, ...],
        holds: tuple[Hold, ...] = (),
        handoffs: tuple[HandoffRow, ...] = (),
    ) -> Grant:
        """Record a request that is about to leave; send it only when the answer is its number.

        Raises:
            LedgerError: It could not be recorded, so nothing may be sent.
        """
        granted: asyncio.Future[Grant] = self._loop.create_future()
        self._open += 1
        self._pending.openings.append(Opening(row, claim, since, prompt, kept, holds, handoffs, granted))
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
        self._pending.jobs.append(Job(work, done))
        self._consider()
        return done

    def note(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Run `work` inside the next transaction; a ledger that cannot be written is told by the results that need it."""
        self.do(work).add_done_callback(_ignore)

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
        group, self._pending = self._pending, Group([], [], [])
        # Who was cancelled while waiting has nothing to record; its task may settle in this very group.
        wanted = [o for o in group.openings if not o.granted.cancelled()]
        self._open -= len(group.openings) - len(wanted)
        owed, self._owed = self._owed, []
        self._under_way = True
        self._groups.put((group._replace(openings=wanted), owed))

    def _end_unsent(self, grant: Grant) -> None:
        """Record that a request that was granted never left."""
        if isinstance(grant, int):
            self.settle(Settling(_never_sent(grant), charge=NOTHING))

    def _committed(
        self, group: Group, owed: list[Group], grants: Sequence[Grant], values: list[Any], error: LedgerError | None
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
            writing = Writing(self._owner_id, self._known, group, owed)
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


def _ignore(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
