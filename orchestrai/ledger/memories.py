"""Memories as the ledger holds them: the truth about each, whatever a search index says."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from orchestrai.ledger.answers import chunks

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


def read_memories(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, MemoryRecord]:
    """Return the memories of these ids by id, deleted ones too; those that never were are left out."""
    found: dict[str, MemoryRecord] = {}
    for chunk in chunks(ids):
        rows = connection.execute(f"{_SELECT} WHERE m.memory_id IN ({', '.join('?' * len(chunk))})", chunk)
        found.update((row[1], MemoryRecord(*row)) for row in rows)
    return found
