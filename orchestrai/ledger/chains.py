"""Chains as the ledger holds them: their runs, who handed what to whom, and what their tasks share."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from orchestrai.ids import new_id
from orchestrai.ledger.answers import chunks, rows_in
from orchestrai.ledger.history import first_near
from orchestrai.ledger.memories import digest_of
from orchestrai.ledger.rows import MemoryRow, insert

_COLUMNS: Final = "chain_id, name, project, created_at"
_SOURCES: Final = """
SELECT m.memory_id, m.digest, m.chars, length(CAST(coalesce(m.text, t.text) AS BLOB)),
       substr(coalesce(m.text, t.text), 1, ?), m.deleted_at, m.created_at, o.platform,
       coalesce(a.model_used, o.model_requested), s.chain_id
FROM memories m LEFT JOIN answers t ON t.send_seq = m.send_seq LEFT JOIN sends s ON s.seq = m.send_seq
LEFT JOIN offers o USING (offer_id) LEFT JOIN attempts a ON a.send_seq = m.send_seq WHERE m.memory_id IN
"""
_ANSWERED: Final = """
SELECT s.task_id, a.status, s.task_id, s.seq, t.text, s.chain_id, a.finished_at
FROM sends s JOIN attempts a ON a.send_seq = s.seq LEFT JOIN answers t ON t.send_seq = s.seq
WHERE a.settles AND s.seq >= ? AND s.task_id IN
"""
_SETTLED: Final = """
SELECT task_id, status, coalesce(reused_from, task_id), NULL, NULL, chain_id, settled_at FROM outcomes WHERE task_id IN
"""


class ChainRow(NamedTuple):
    """One run of a chain."""

    chain_id: str
    name: str
    project: str | None
    created_at: int  # [µs since 1970]


class Source(NamedTuple):
    """The answer that a memory stands for, with what there is to say of it without reading its text."""

    memory_id: str
    digest: bytes
    chars: int
    size: int | None  # of the text in UTF-8 [bytes]
    beginning: str | None  # None once the text was deleted or forgotten
    deleted_at: int | None
    created_at: int
    platform: str | None  # None for memories that no model wrote
    model: str | None
    chain_id: str | None  # of the task that was answered


class Answered(NamedTuple):
    """A task of the ledger and what was answered."""

    task_id: str
    status: str
    source: str  # the task that was asked: itself, or the one whose answer it took
    send_seq: int | None
    text: str | None
    chain_id: str | None
    finished_at: int


class Place(NamedTuple):
    """Where a task stands in a chain."""

    root_task_id: str | None
    depth: int | None


def find_chain(connection: sqlite3.Connection, name: str, project: str | None) -> ChainRow | None:
    """Return the run that a name or an id means: of that id, else the newest of that name in the project."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM chains WHERE chain_id = ?", (name,)).fetchone()  # noqa: S608 - names from this file
    if row is None:
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM chains WHERE name = ? AND project IS ? ORDER BY created_at DESC, chain_id DESC LIMIT 1",  # noqa: S608 - names from this file
            (name, project),
        ).fetchone()
    return None if row is None else ChainRow(*row)


def chain_of(
    connection: sqlite3.Connection, name: str, project: str | None, now: int, *, new: bool = False
) -> ChainRow:
    """Return the run that a name or an id means, made where there is none; in a transaction that writes.

    Args:
        connection: In a transaction, so that two processes that begin at once begin the same run.
        name: Name of the chain, or id of a run.
        project: Project it belongs to.
        now: Now [µs since 1970].
        new: Make a new run of that name in any case.
    """
    known = find_chain(connection, name, project)
    if known is not None and not new:
        return known
    row = ChainRow(new_id(), name if known is None else known.name, project, now)
    connection.execute(f"INSERT INTO chains ({_COLUMNS}) VALUES (?, ?, ?, ?)", row)  # noqa: S608 - names from this file
    return row


def sources(connection: sqlite3.Connection, ids: Iterable[str], beginning: int) -> dict[str, Source]:
    """Return the memories of these ids, with the first characters of each.

    Args:
        connection: A reading connection.
        ids: Ids of memories.
        beginning: Number of characters.
    """
    return {row[0]: Source(*row) for row in rows_in(connection, _SOURCES, ids, (beginning,))}


def answered(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Answered]:
    """Return what is known of tasks by their ids; those that the ledger never had are left out.

    Args:
        connection: A reading connection.
        ids: Ids of tasks.
    """
    found: dict[str, Answered] = {}
    for chunk in chunks(ids):
        earliest = min(first_near(connection, task_id) for task_id in chunk)
        found.update((row[0], Answered(*row)) for row in rows_in(connection, _ANSWERED, chunk, (earliest,)))
        found.update((row[0], Answered(*row)) for row in rows_in(connection, _SETTLED, chunk))
    return found


def memory_of(
    task_id: str, text: str, send_seq: int | None, chain_id: str | None, now: int, *, as_it_came: bool
) -> MemoryRow:
    """Return an answer as a memory.

    Args:
        task_id: The task that was asked; the memory has its id.
        text: The answer.
        send_seq: The request that was answered.
        chain_id: Run of its chain.
        now: Now [µs since 1970].
        as_it_came: It is the text that the model sent, which the ledger keeps already.
    """
    kept = None if as_it_came and send_seq is not None else text
    return MemoryRow(task_id, digest_of(text), len(text), kept, send_seq, None, chain_id, now)


def remember(connection: sqlite3.Connection, rows: Sequence[MemoryRow]) -> None:
    """Keep memories that are not there yet, in a transaction that writes; one that was deleted stays deleted."""
    insert(connection, MemoryRow, rows)


def places(connection: sqlite3.Connection, chain_id: str, ids: Collection[str]) -> dict[str, Place]:
    """Return where tasks stand in a run of a chain."""
    found: dict[str, Place] = {}
    for table in ("sends", "outcomes"):
        statement = f"SELECT task_id, root_task_id, depth FROM {table} WHERE chain_id = ? AND task_id IN"  # noqa: S608 - names from this file
        found.update((row[0], Place(*row[1:])) for row in rows_in(connection, statement, ids, (chain_id,)))
    return found


def shared_values(connection: sqlite3.Connection, chain_id: str) -> dict[str, tuple[str, int]]:
    """Return what the tasks of a run share: name → value as JSON, and its revision."""
    rows = connection.execute("SELECT name, value, revision FROM shared WHERE chain_id = ? ORDER BY name", (chain_id,))
    return {name: (value, revision) for name, value, revision in rows}


def share(
    connection: sqlite3.Connection, chain_id: str, name: str, value: str, revision: int | None, now: int
) -> int | None:
    """Set a shared value and return its new revision; None where another was quicker.

    Args:
        connection: In a transaction that writes.
        chain_id: Run of a chain.
        name: Name of the value.
        value: The value as JSON.
        revision: Revision that is to be replaced, 0 for none; None to replace any.
        now: Now [µs since 1970].
    """
    row = connection.execute(
        "SELECT revision, value FROM shared WHERE chain_id = ? AND name = ?", (chain_id, name)
    ).fetchone()
    present = 0 if row is None else int(row[0])
    if revision is not None and present != revision:
        return None
    connection.execute(
        "INSERT INTO shared VALUES (?, ?, ?, ?, ?) ON CONFLICT (chain_id, name) DO UPDATE SET value = excluded.value, "
        "revision = excluded.revision, changed_at = excluded.changed_at",
        (chain_id, name, value, present + 1, now),
    )
    return present + 1
