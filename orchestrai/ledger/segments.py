"""Which memories a search index has: one row per sealed part of it. What no row names is no part of an index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple


class SegmentRow(NamedTuple):
    """A sealed part of an index: every memory between two numbers that was not deleted when it was made."""

    name: str  # of its folder
    embedding: str  # identity of the embedding that its vectors are of
    first_seq: int
    last_seq: int
    chunks: int
    reached: int  # of them, by the graph of the part from one of them
    digest: bytes  # of its files and ids
    made_at: int  # [µs since 1970]


def segments_of(connection: sqlite3.Connection, embedding: str) -> list[SegmentRow]:
    """Return the parts of the index of one embedding, in the order of their memories; no two overlap."""
    rows = connection.execute(
        "SELECT name, embedding, first_seq, last_seq, chunks, reached, digest, made_at FROM segments WHERE embedding = ? "
        "ORDER BY first_seq",
        (embedding,),
    )
    return [SegmentRow(*row) for row in rows]


def names_of_all(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the parts of every index."""
    return {name for (name,) in connection.execute("SELECT name FROM segments")}


def seal(connection: sqlite3.Connection, row: SegmentRow, absorbed: Iterable[str]) -> bool:
    """Add a part in the place of those that it absorbed; False, and nothing is changed, where another is in its way."""
    gone = set(absorbed)
    others = {other.name: other for other in segments_of(connection, row.embedding)}
    if row.name in others:  # this transaction is run again
        return True
    in_the_way = any(
        o.first_seq <= row.last_seq and row.first_seq <= o.last_seq for o in others.values() if o.name not in gone
    )
    if in_the_way or not gone <= others.keys():
        return False
    connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in gone])
    connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    return True


def drop(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Take away parts that cannot be used: their memories are unsealed again."""
    connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in names])
