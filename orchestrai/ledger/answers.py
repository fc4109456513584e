"""Answers by key: a log in the order in which they came, folded into an index now and then.

Keys are hashes, so a row added to an index over them touches a page of its own: more bytes than all else that is
written for a task. A log costs next to nothing, and thousands of keys folded at once, in their order, share pages.
What is not folded yet is remembered by whoever looks, and read on from where it was read last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

FOLD_AT: Final = 4096
"""Answers in the log that are folded together."""

_CHUNK: Final = 480  # values per statement, twice below the 999 parameters that older builds of SQLite take


class RecentAnswers:
    """The answers that are in the log, by key; for one thread at a time."""

    def __init__(self) -> None:
        self.newest = 0
        """Number of the newest answer there was when it was last looked."""
        self._folded = 0
        self._connection: sqlite3.Connection | None = None
        self._numbers: dict[bytes, int] = {}  # in the log, of the newest answer to a key
        self._older: dict[bytes, list[int]] = {}  # of those before it, which are rare

    def catch_up(self, connection: sqlite3.Connection) -> None:
        """Read on in the log; from its start where the connection is another than before."""
        if connection is not self._connection:  # what was read from a log that was exchanged may not be in this one
            self.forget()
            self._connection = connection
        (folded,) = connection.execute("SELECT upto FROM answer_fold").fetchone()
        if folded != self._folded:
            self._begin_at(folded)
        for seq, key in connection.execute(
            "SELECT seq, key FROM answer_log WHERE seq > ? ORDER BY seq", (self.newest,)
        ):
            self._note(seq, key)

    def forget(self) -> None:
        """Begin anew, after a transaction that did not come to its end."""
        self._connection = None
        self._begin_at(0)

    def add(self, connection: sqlite3.Connection, answers: Sequence[tuple[bytes, int]]) -> list[tuple[int, bytes, int]]:
        """Return the rows of new answers for the log, which is folded first where it is long.

        Args:
            connection: In a transaction, all caught up.
            answers: Key and request of each.
        """
        if self.newest - self._folded >= FOLD_AT:
            self._fold(connection)
        rows = [(seq, key, send_seq) for seq, (key, send_seq) in enumerate(answers, self.newest + 1)]
        for seq, key, _ in rows:
            self._note(seq, key)
        return rows

    def find(self, connection: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, list[int]]:
        """Return the requests that answered these keys, newest first."""
        self.catch_up(connection)
        wanted = list(keys)
        numbers = [
            seq for key in wanted if key in self._numbers for seq in (self._numbers[key], *self._older.get(key, ()))
        ]
        # The log before the index: what is folded meanwhile is then found twice, and never missed.
        rows = [*_found(connection, "answer_log", "seq", numbers), *_found(connection, "answer_keys", "key", wanted)]
        found: dict[bytes, set[int]] = {}
        for key, send_seq in rows:
            found.setdefault(key, set()).add(send_seq)
        return {key: sorted(sends, reverse=True) for key, sends in found.items()}

    def came_since(self, connection: sqlite3.Connection, since: dict[bytes, int]) -> set[bytes]:
        """Return the keys that may have been answered after the given numbers; all that were are among them.

        Args:
            connection: In a transaction, all caught up.
            since: Key → number of the newest answer when its own were looked for.
        """
        came = {key for key, seen in since.items() if self._numbers.get(key, 0) > seen}
        lost = [key for key, seen in since.items() if seen < self._folded and key not in came]
        came.update(key for key, _ in _found(connection, "answer_keys", "key", lost))  # it does not say when
        return came

    def _note(self, seq: int, key: bytes) -> None:
        before = self._numbers.get(key)
        if before is not None:
            self._older.setdefault(key, []).append(before)
        self._numbers[key] = self.newest = seq

    def _begin_at(self, folded: int) -> None:
        self._numbers.clear()
        self._older.clear()
        self._folded = self.newest = folded

    def _fold(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO answer_keys SELECT key, send_seq FROM answer_log ORDER BY key, send_seq ON CONFLICT DO NOTHING"
        )
        connection.execute("DELETE FROM answer_log")
        connection.execute("UPDATE answer_fold SET upto = ?", (self.newest,))
        self._begin_at(self.newest)


def _found(connection: sqlite3.Connection, table: str, by: str, values: Sequence[Any]) -> Iterator[tuple[bytes, int]]:
    """Return key and request of the rows of a table that have one of these values."""
    return rows_in(connection, f"SELECT key, send_seq FROM {table} WHERE {by} IN", values)  # noqa: S608 - names from this file


def chunks(values: Iterable[T]) -> Iterator[Sequence[T]]:
    """Yield the values in pieces that one statement can take."""
    listed = list(values)
    for start in range(0, len(listed), _CHUNK):
        yield listed[start : start + _CHUNK]


def rows_in(
    connection: sqlite3.Connection, statement: str, values: Iterable[Any], before: Sequence[Any] = ()
) -> Iterator[Any]:
    """Yield the rows of a statement that ends in `IN`, for any number of values.

    Args:
        connection: A connection.
        statement: The statement up to `IN`.
        values: What stands behind it.
        before: What is bound in the statement itself.
    """
    for chunk in chunks(values):
        yield from connection.execute(f"{statement} ({marks(chunk)})", (*before, *chunk))


def marks(values: Sequence[Any]) -> str:
    """Return a question mark for each value, to bind them in `IN (…)`."""
    return ", ".join("?" * len(values))
