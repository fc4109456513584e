"""Housekeeping: history that is removed, and texts that are forgotten while what they cost stays on record.

Rows go in small transactions, so that nobody else waits for long; what is interrupted goes on where it is called again.
The newest request and outcome always stay, because numbers must go on growing for whoever reads on from the last one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from orchestrai.ids import now_us
from orchestrai.ledger.answers import chunks, marks

T = TypeVar("T")

_NO_ERROR: Final = "UPDATE outcomes SET error = NULL WHERE seq IN"
_NO_TEMPLATE: Final = "UPDATE batches SET options = json_remove(options, '$.prompt', '$.command'), revision = revision + 1 WHERE batch_id IN"
_AT_ONCE: Final = 2_000  # requests in one transaction


class Store(Protocol):
    """What is kept tidy: `orchestrai.ledger.ledger.Ledger`."""

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query."""

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a transaction."""


class Pruned(NamedTuple):
    """What was removed."""

    requests: int
    tasks: int
    """That no request of their own had settled."""
    calls: int


class Forgotten(NamedTuple):
    """What was forgotten."""

    prompts: int
    answers: int


class Bounds(NamedTuple):
    """The first request and the first outcome that stay."""

    send: int
    outcome: int


def bounds(connection: sqlite3.Connection, before_us: int) -> Bounds:
    """Return what stays when history before a moment goes: all since, what is under way, and the newest row of each."""
    send = _first(connection, "sends", "started_at", before_us)
    (claimed,) = connection.execute("SELECT min(send_seq) FROM claims").fetchone()
    (held,) = connection.execute("SELECT min(send_seq) FROM reservations").fetchone()
    send = min(seq for seq in (send, claimed, held) if seq is not None)
    while True:  # a task that goes on keeps its first request, which has its prompt
        (first,) = connection.execute(
            "SELECT min(prompt_seq) FROM sends WHERE seq >= ?1 AND prompt_seq < ?1", (send,)
        ).fetchone()
        if first is None:
            return Bounds(send, _first(connection, "outcomes", "settled_at", before_us))
        send = first


def prune(store: Store, before_us: int) -> Pruned:
    """Remove requests and tasks from before a moment [µs since 1970], with their texts.

    Raises:
        LedgerError: The ledger cannot be written; what was removed by then is gone.
    """
    keep = store.read(lambda c: bounds(c, before_us))
    requests = tasks = 0
    store.write(lambda c: _delete_memories(c, "send_seq < ?", (keep.send,)))
    while count := store.write(lambda c: _prune_sends(c, keep.send)):
        requests += count
    while count := store.write(lambda c: _prune_outcomes(c, keep.outcome)):
        tasks += count
    calls = store.write(lambda c: _prune_rest(c, before_us))
    return Pruned(requests, tasks, calls)


def forget(store: Store, sends: Sequence[int], outcomes: Sequence[int], batches: Sequence[str]) -> Forgotten:
    """Remove the texts of requests (prompts, answers, errors, what providers said of usage) and of calls (templates).

    What is deleted is overwritten in the file, and their answers are not reused any more.

    Args:
        store: The ledger.
        sends: Numbers of requests, with those of the tasks whose answers were taken.
        outcomes: Numbers of outcomes.
        batches: Ids of calls.

    Raises:
        LedgerError: The ledger cannot be written; what was forgotten by then is gone.
    """
    prompts = answers = 0
    for some in chunks(sends):
        found = store.write(partial(_securely, work=partial(_forget_sends, numbers=some)))
        prompts, answers = prompts + found[0], answers + found[1]
    for some in chunks(outcomes):
        store.write(partial(_securely, work=partial(_clear, statement=_NO_ERROR, values=some)))
    for named in chunks(batches):
        store.write(partial(_securely, work=partial(_clear, statement=_NO_TEMPLATE, values=named)))
    store.write(partial(_securely, work=_drop_unused_systems))
    return Forgotten(prompts, answers)


def _first(connection: sqlite3.Connection, table: str, moment: str, since_us: int) -> int:
    """Return the number of the first row since a moment; of the newest where there is none."""
    row = connection.execute(
        f"SELECT seq FROM {table} WHERE {moment} >= ? ORDER BY seq LIMIT 1",  # noqa: S608 - names of this module
        (since_us,),
    ).fetchone()
    if row is not None:
        return int(row[0])
    (newest,) = connection.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()  # noqa: S608
    return int(newest)


def _prune_sends(connection: sqlite3.Connection, below: int) -> int:
    numbers = [
        seq
        for (seq,) in connection.execute("SELECT seq FROM sends WHERE seq < ? ORDER BY seq LIMIT ?", (below, _AT_ONCE))
    ]
    if not numbers:
        return 0
    ends = (numbers[0], numbers[-1])
    connection.execute(
        "DELETE FROM answer_keys WHERE (key, send_seq) IN (SELECT key, seq FROM sends WHERE seq BETWEEN ? AND ?)", ends
    )
    connection.execute(
        "DELETE FROM handoffs WHERE task_id IN (SELECT task_id FROM sends WHERE seq BETWEEN ? AND ?)", ends
    )
    for table in ("prompts", "answers", "attempts"):
        connection.execute(f"DELETE FROM {table} WHERE send_seq BETWEEN ? AND ?", ends)  # noqa: S608
    connection.execute("DELETE FROM sends WHERE seq BETWEEN ? AND ?", ends)
    return len(numbers)


def _prune_outcomes(connection: sqlite3.Connection, below: int) -> int:
    numbers = [
        seq
        for (seq,) in connection.execute(
            "SELECT seq FROM outcomes WHERE seq < ? ORDER BY seq LIMIT ?", (below, _AT_ONCE)
        )
    ]
    if not numbers:
        return 0
    ends = (numbers[0], numbers[-1])
    connection.execute(
        "DELETE FROM handoffs WHERE task_id IN (SELECT task_id FROM outcomes WHERE seq BETWEEN ? AND ?)", ends
    )
    return connection.execute("DELETE FROM outcomes WHERE seq BETWEEN ? AND ?", ends).rowcount


def _prune_rest(connection: sqlite3.Connection, before_us: int) -> int:
    """Remove what nothing refers to any more; the newest reading of a window stays."""
    _drop_unused_systems(connection)
    connection.execute(
        "DELETE FROM quota WHERE observed_at < ? AND seq NOT IN "
        "(SELECT max(seq) FROM quota GROUP BY platform, account, window)",
        (before_us,),
    )
    return connection.execute(
        "DELETE FROM batches WHERE created_at < ? AND status <> 'running' AND batch_id NOT IN (SELECT batch_id FROM sends) "
        "AND batch_id NOT IN (SELECT batch_id FROM outcomes)",
        (before_us,),
    ).rowcount


def _securely(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do something while SQLite overwrites what it deletes."""
    connection.execute("PRAGMA secure_delete = ON")
    try:
        return work(connection)
    finally:
        connection.execute("PRAGMA secure_delete = OFF")


def _forget_sends(connection: sqlite3.Connection, numbers: Sequence[int]) -> tuple[int, int]:
    _delete_memories(connection, f"send_seq IN ({marks(numbers)})", numbers)
    connection.execute(
        f"DELETE FROM answer_keys WHERE (key, send_seq) IN (SELECT key, seq FROM sends WHERE seq IN ({marks(numbers)}))",  # noqa: S608
        numbers,
    )
    _clear(connection, "UPDATE attempts SET error_message = NULL, usage_raw = NULL WHERE send_seq IN", numbers)
    return (
        _clear(connection, "DELETE FROM prompts WHERE send_seq IN", numbers),
        _clear(connection, "DELETE FROM answers WHERE send_seq IN", numbers),
    )


def _delete_memories(connection: sqlite3.Connection, where: str, values: Iterable[Any]) -> int:
    """Delete the memories that are answers of these requests, with the text where it is not the answer as it came."""
    return connection.execute(
        f"UPDATE memories SET deleted_at = ?, metadata = NULL, text = NULL WHERE {where} AND deleted_at IS NULL",  # noqa: S608
        (now_us(), *values),
    ).rowcount


def _drop_unused_systems(connection: sqlite3.Connection) -> int:
    """Delete system prompts that no request with a text uses."""
    return connection.execute(
        "DELETE FROM systems WHERE digest NOT IN (SELECT s.system_digest FROM sends s "
        "JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) WHERE s.system_digest IS NOT NULL)"
    ).rowcount


def _clear(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> int:
    return connection.execute(f"{statement} ({marks(values)})", values).rowcount
