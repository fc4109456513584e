"""Memories as the ledger holds them: the truth about each, whatever a search index says."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from orchestrai.ledger.answers import rows_in
from orchestrai.ledger.metadata import condition

_SELECT: Final = """
SELECT m.seq, m.memory_id, m.digest, m.chars, coalesce(m.text, a.text), m.metadata, m.chain_id, m.created_at, m.deleted_at
FROM memories m LEFT JOIN answers a ON a.send_seq = m.send_seq
"""


class MemoryRecord(NamedTuple):
    """One memory."""

    seq: int  # in the order in which they were added
    memory_id: str
    digest: bytes  # SHA-256 of the text as it was added
    chars: int
    text: str | None  # None once it was deleted or forgotten
    metadata: str | None  # JSON
    chain_id: str | None
    created_at: int  # [µs since 1970]
    deleted_at: int | None

    @property
    def is_whole(self) -> bool:
        """True while the text is there, as it was added."""
        return self.deleted_at is None and self.text is not None and digest_of(self.text) == self.digest


def digest_of(text: str) -> bytes:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).digest()


def delete(connection: sqlite3.Connection, memory_id: str, now: int) -> bool:
    """Take away text and metadata of a memory, and keep that it was there; False where it never was."""
    connection.execute(
        "UPDATE memories SET text = NULL, send_seq = NULL, metadata = NULL, deleted_at = ? "
        "WHERE memory_id = ? AND deleted_at IS NULL",
        (now, memory_id),
    )
    return connection.execute("SELECT 1 FROM memories WHERE memory_id = ?", (memory_id,)).fetchone() is not None


def read_memories(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, MemoryRecord]:
    """Return the memories of these ids by id, deleted ones too; those that never were are left out."""
    return {record.memory_id: record for record in _read(connection, "m.memory_id", ids)}


def memories_at(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, MemoryRecord]:
    """Return the memories of these numbers by number, deleted ones too."""
    return {record.seq: record for record in _read(connection, "m.seq", numbers)}


def matching(connection: sqlite3.Connection, where: Mapping[str, Any] | None) -> list[MemoryRecord]:
    """Return the memories whose metadata meets a condition, in the order in which they were added; no deleted ones.

    Raises:
        InvalidInput: The condition is none.
    """
    met, values = condition(where)
    rows = connection.execute(f"{_SELECT} WHERE m.deleted_at IS NULL AND {met} ORDER BY m.seq", values)
    return [MemoryRecord(*row) for row in rows]


def numbers_matching(connection: sqlite3.Connection, where: Mapping[str, Any] | None) -> set[int]:
    """Return the numbers of the memories whose metadata meets a condition; no deleted ones.

    Raises:
        InvalidInput: The condition is none.
    """
    met, values = condition(where)
    rows = connection.execute(f"SELECT m.seq FROM memories m WHERE m.deleted_at IS NULL AND {met}", values)  # noqa: S608 - values are bound
    return {seq for (seq,) in rows}


def sizes_between(connection: sqlite3.Connection, spans: Iterable[tuple[int, int | None]]) -> dict[int, int]:
    """Return number and size [characters] of the memories in these spans that are not deleted, in order.

    Args:
        connection: A reading connection.
        spans: First and last number of each; a last one of None has no end.
    """
    return {
        seq: chars
        for first, last in spans
        for seq, chars in connection.execute(
            "SELECT seq, chars FROM memories WHERE deleted_at IS NULL AND seq >= ? AND (? IS NULL OR seq <= ?) ORDER BY seq",
            (first, last, last),
        )
    }


def newest_number(connection: sqlite3.Connection) -> int:
    """Return the number of the newest memory, deleted or not; 0 without any."""
    (newest,) = connection.execute("SELECT coalesce(max(seq), 0) FROM memories").fetchone()
    return int(newest)


def _read(connection: sqlite3.Connection, column: str, values: Iterable[Any]) -> Iterable[MemoryRecord]:
    return (MemoryRecord(*row) for row in rows_in(connection, f"{_SELECT} WHERE {column} IN", values))
