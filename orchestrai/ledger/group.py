"""Group: what one transaction of the ledger holds, and how it is written.

Openings (commit 1 of an attempt) are claimed, checked against quotas and budgets, and recorded; settlings (commit 2)
are recorded, give their claim back and turn what was reserved into what was used. All of it or nothing, in the
ledger's thread.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple

from orchestrai.errors import LedgerError
from orchestrai.ids import now_us
from orchestrai.ledger import queries, reservations
from orchestrai.ledger.answers import RecentAnswers, chunks
from orchestrai.ledger.reservations import Charge, Full, Hold, Reserving
from orchestrai.ledger.rows import (
    AnswerRow,
    AttemptRow,
    HandoffRow,
    LoggedAnswer,
    MemoryRow,
    OfferRow,
    OutcomeRow,
    PromptRow,
    QuotaRow,
    SendRow,
    SystemRow,
    execute_together,
    insert,
)
from orchestrai.limits.quota import Meter


class NotGranted(Enum):
    """Why a request may not leave."""

    HELD = "held"  # somebody else is working on this task
    ANSWERED = "answered"  # somebody else has answered it meanwhile


Grant = int | NotGranted | Full
"""The ledger's answer to an opening: the number of the request that is recorded now and may leave, or why it may not."""


class Opening(NamedTuple):
    """Commit 1: the record of a request before it leaves."""

    row: SendRow
    claim: bytes  # what nobody else may work on meanwhile
    since: int | None  # newest answer when its own was looked for; None: do not look again
    prompt: tuple[str, str] | None  # kind and text, with a task's first request
    kept: tuple[OfferRow | SystemRow, ...]  # what it names, where the ledger may not have it yet
    holds: tuple[Hold, ...]  # what it may use of quotas and budgets
    handoffs: tuple[HandoffRow, ...]  # what its task was handed, with the first request
    granted: asyncio.Future[Grant]


class Settling(NamedTuple):
    """Commit 2: how a request, or a whole task, ended."""

    attempt: AttemptRow | None = None
    answer: str | None = None  # its text, where it is kept
    key: bytes | None = None  # of a task that this answers for good
    outcome: OutcomeRow | None = None  # of a task that no attempt of its own settles
    claim: tuple[bytes, str] | None = None  # given back, with the id of its task
    quota: tuple[QuotaRow, ...] = ()  # what was told with it
    memory: MemoryRow | None = None  # the answer, where others work with it
    handoffs: tuple[HandoffRow, ...] = ()  # of a task that was never asked
    charge: Charge | None = None  # what the request used of quotas and budgets; None where it had reserved nothing
    committed: Callable[[LedgerError | None], None] | None = None  # on the loop, once it is durable, or cannot be


class Job(NamedTuple):
    """Anything else that belongs into a transaction."""

    work: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class Group(NamedTuple):
    """What one transaction holds."""

    openings: list[Opening]
    settlings: list[Settling]
    jobs: list[Job]


class Known:
    """What the ledger's thread knows of the file, as long as nobody else writes to it."""

    def __init__(self) -> None:
        self.answers = RecentAnswers()
        self.newest_send = 0
        self.meters: set[Meter] = set()  # that are in the ledger as they are
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
        self.meters.clear()
        self.answers.forget()


class Writing:
    """The writing of one group, in the ledger's thread; called again where the log was exchanged under it.

    Args:
        owner_id: Who writes.
        known: What is known of the file.
        group: What to write.
        owed: Groups before it whose ends could not be written then, as far as anybody knows.
    """

    def __init__(self, owner_id: str, known: Known, group: Group, owed: list[Group]) -> None:
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
        insert(connection, MemoryRow, [s.memory for s in settlings if s.memory is not None])
        insert(connection, HandoffRow, [row for s in settlings for row in s.handoffs])
        insert(connection, QuotaRow, [row for s in settlings for row in s.quota])
        charges = {s.attempt.send_seq: s.charge for s in settlings if s.attempt is not None and s.charge is not None}
        if charges:
            reservations.settle(connection, charges)
        for given_back in chunks(s.claim for s in settlings if s.claim is not None):
            # A task has one claim, so both lists together name the pairs; SQLite looks no pair up by its key, and reads
            # every claim there is.
            marks = ", ".join("?" * len(given_back))
            connection.execute(
                f"DELETE FROM claims WHERE claim IN ({marks}) AND task_id IN ({marks})",  # noqa: S608 - only marks
                [*chain.from_iterable(zip(*given_back, strict=True))],
            )

    def _open(self, connection: sqlite3.Connection, openings: list[Opening]) -> list[Grant]:
        """Claim the tasks and record the requests that may leave; return the answer to each opening."""
        if not openings:
            return []
        since = {o.row.key: o.since for o in openings if o.since is not None}
        answered = self._answers.came_since(connection, since)
        asking = [o for o in openings if o.since is None or o.row.key not in answered]
        reserving, full = self._check(connection, asking)
        if full:
            asking = [o for o in asking if id(o) not in full]
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
        handoffs: list[HandoffRow] = []
        sends, prompts, leaving, kept = [], [], [], {}
        for opening in openings:
            row = opening.row
            holder = holders.get(opening.claim)
            if opening.since is not None and row.key in answered:
                grants.append(NotGranted.ANSWERED)
                continue
            if id(opening) in full:
                grants.append(full[id(opening)])
                continue
            newest += 1  # in step with `asking`; a number that nobody uses is no harm
            if holder is not None and holder.task_id != row.task_id:
                grants.append(NotGranted.HELD)
                if reserving is not None:
                    reserving.withdraw(opening.holds, row.batch_id)
                continue
            grants.append(newest)
            sends.append((newest, *row[1:]))
            if opening.holds:
                leaving.append((newest, opening.holds))
            if opening.prompt is not None:
                prompts.append((newest, *opening.prompt))
            handoffs += opening.handoffs
            kept.update(dict.fromkeys(opening.kept))
        self._known.newest_send = newest
        insert(connection, SendRow, sends)
        insert(connection, PromptRow, prompts)
        insert(connection, HandoffRow, handoffs)
        if reserving is not None:
            reserving.reserve(leaving)
        for kind in (OfferRow, SystemRow):
            insert(connection, kind, [row for row in kept if type(row) is kind])
        return grants

    def _check(self, connection: sqlite3.Connection, asking: list[Opening]) -> tuple[Reserving | None, dict[int, Full]]:
        """Set aside what requests may use of quotas and budgets; return also which of them find no room, by identity."""
        metered = [o for o in asking if o.holds]
        if not metered:
            return None, {}
        meters = {hold.meter for o in metered for hold in o.holds} - self._known.meters
        if meters:
            reservations.note_meters(connection, meters)
            self._known.meters |= meters
        reserving = Reserving(connection, now_us())
        checked = [(o, reserving.check(o.holds, o.row.batch_id)) for o in metered]
        return reserving, {id(o): full for o, full in checked if full is not None}


def _is_there(connection: sqlite3.Connection, group: Group, grants: Sequence[Grant]) -> bool:
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
