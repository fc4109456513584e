"""Mirror: the ledger inside this kernel's DuckDB, brought up to date before every question.

Logs (requests, outcomes, readings of quotas) are read on from the last number that was seen; of requests that had no
end then, the ends are looked for. Each read is one short transaction on the ledger's own connection: a moment of the
ledger, which holds up nobody, whatever other processes write meanwhile.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from orchestrai.costs.segments import Segment, load, make_private, segments
from orchestrai.costs.tables import ATTEMPTS, BATCHES, LOGS, OUTCOMES, SMALL
from orchestrai.costs.transfer import CHUNK, Chunk, Table
from orchestrai.ledger.answers import chunks, marks

if TYPE_CHECKING:
    import sqlite3

    import duckdb

T = TypeVar("T")

_AT_ONCE: Final = 4 * CHUNK  # numbers that one transaction reads of each log
_LATE_MS: Final = 60_000  # by which ids of several processes may be out of order
_KEPT_TO_ITSELF: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # a name in SQL is a table here, never a variable of a caller
    "temp_directory": "",
}


class Source(Protocol):
    """What is mirrored: `orchestrai.ledger.ledger.Ledger`."""

    @property
    def folder(self) -> Path:
        """The ledger's own folder."""

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query."""


@dataclass
class _News:
    """What one transaction found."""

    version: tuple[sqlite3.Connection, int]
    first: dict[str, int | None]  # lowest number of each log
    upto: dict[str, int]  # to which each was read
    pruned: bool = False  # the beginning of a log is gone, and calls with it
    logs: dict[str, list[Chunk]] = field(default_factory=dict)
    ended: list[Chunk] = field(default_factory=list)
    batches: list[Chunk] = field(default_factory=list)
    small: dict[str, tuple[int, Chunk]] = field(default_factory=dict)  # number of rows, and all of them
    complete: bool = True


class Mirror:
    """A ledger in DuckDB; one per ledger and kernel, for any thread.

    Args:
        source: The ledger.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._folder = source.folder / "segments"
        self._lock = threading.RLock()
        self._duck: duckdb.DuckDBPyConnection | None = None
        self._start()

    def _start(self) -> None:
        self._version: tuple[sqlite3.Connection, int] | None = None
        self._first: dict[str, int | None] = {}
        self._last = {table.name: 0 for table in LOGS}
        self._open: list[int] = []  # requests whose end was not there yet
        self._unfinished: list[str] = []  # batches that may still change
        self._newest_batch = ""
        self._rows: dict[str, int] = {}

    @contextlib.contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection that sees the ledger as it is now, and can change nothing.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        with self._lock:
            self.refresh()
            assert self._duck is not None
            cursor = self._duck.cursor()
            try:
                cursor.execute("BEGIN TRANSACTION READ ONLY")
                yield cursor
            finally:
                cursor.close()

    def refresh(self) -> None:
        """Read what is new in the ledger.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        with self._lock:
            duck = self._duck or self._opened()
            while True:
                news = self._source.read(self._look)
                if news is None:
                    return
                duck.execute("BEGIN TRANSACTION")
                try:
                    self._keep(duck, news)
                    duck.execute("COMMIT")
                except BaseException:  # whatever it was, it goes on, and the mirror begins anew
                    self.close()
                    raise
                if news.complete:
                    return

    def close(self) -> None:
        """Let go of it; a later question builds it again."""
        with self._lock:
            if self._duck is not None:
                self._duck.close()
                self._duck = None
            self._start()

    def forget(self) -> None:
        """Let go, in a forked child, of a DuckDB whose threads are its parent's.

        Closing it there waits for those threads for ever, so it is kept out of reach until the process ends.
        """
        if self._duck is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._duck))
            self._duck = None

    # Reading: in the ledger's transaction.

    def _look(self, connection: sqlite3.Connection) -> _News | None:
        connection.execute("BEGIN")  # one moment of the ledger, for all that is read here
        try:
            (number,) = connection.execute("PRAGMA data_version").fetchone()
            version = self._version
            if version is not None and version[0] is connection and version[1] == number:
                return None
            news = _News((connection, number), {}, {})
            for table in LOGS:
                first, last = _ends(connection, table)
                seen = self._last[table.name]
                upto = min(last, seen + _AT_ONCE)
                news.first[table.name], news.upto[table.name] = first, upto
                news.pruned = news.pruned or self._first.get(table.name) not in (None, first)
                news.logs[table.name] = table.read_range(connection, seen, upto)
                news.complete = news.complete and upto == last
            news.ended = list(self._ends_of_open(connection))
            news.batches = list(self._changed_batches(connection, everything=news.pruned))
            for table in SMALL:
                (count,) = connection.execute(f"SELECT count(*) FROM {table.source}").fetchone()  # noqa: S608
                if count != self._rows.get(table.name):
                    news.small[table.name] = count, table.read(connection, "true", ())
            return news
        finally:
            connection.execute("ROLLBACK")

    def _ends_of_open(self, connection: sqlite3.Connection) -> Iterator[Chunk]:
        for some in chunks(self._open):
            yield ATTEMPTS.read(connection, f"s.seq IN ({marks(some)}) AND a.send_seq IS NOT NULL", some)

    def _changed_batches(self, connection: sqlite3.Connection, *, everything: bool) -> Iterator[Chunk]:
        if everything:
            yield BATCHES.read(connection, "true", ())
            return
        for some in chunks(self._unfinished):
            yield BATCHES.read(connection, f"batch_id IN ({marks(some)})", some)
        yield BATCHES.read(connection, "batch_id > ?", (_a_minute_before(self._newest_batch),))

    # Keeping: in a transaction of DuckDB.

    def _keep(self, duck: duckdb.DuckDBPyConnection, news: _News) -> None:
        if news.pruned:
            self._drop_pruned(duck, news.first)
        for table in LOGS:
            if pieces := news.logs[table.name]:
                table.store(duck, pieces)
        ended = [chunk for chunk in news.ended if chunk]
        _replace(duck, ATTEMPTS, "seq", "BIGINT", ended)
        _replace(duck, BATCHES, "batch_id", "VARCHAR", [chunk for chunk in news.batches if chunk])
        for table in SMALL:
            if table.name in news.small:
                count, rows = news.small[table.name]
                duck.execute(f"DELETE FROM ledger.{table.name}")  # noqa: S608
                if rows:
                    table.store(duck, [rows])
                self._rows[table.name] = count
        self._note_open(duck, ended)
        self._batches_of_others(duck)
        self._first, self._last = news.first, news.upto
        self._unfinished = _column(duck, "SELECT batch_id FROM ledger.batches WHERE status <> 'finished'")
        self._newest_batch = _column(duck, "SELECT max(batch_id) FROM ledger.batches")[0] or ""
        self._version = news.version if news.complete else None

    def _note_open(self, duck: duckdb.DuckDBPyConnection, ended: Sequence[Chunk]) -> None:
        still = self._open
        if ended:
            still = _column(
                duck,
                f"SELECT seq FROM ledger.attempts WHERE seq IN ({marks(still)}) AND status IS NULL",  # noqa: S608
                still,
            )
        above = self._last[ATTEMPTS.name]
        self._open = still + _column(duck, "SELECT seq FROM ledger.attempts WHERE seq > ? AND status IS NULL", (above,))

    def _drop_pruned(self, duck: duckdb.DuckDBPyConnection, first: Mapping[str, int | None]) -> None:
        """Forget what was pruned from the ledger since: always a beginning of a log, and calls, which are read anew."""
        for name, number in first.items():
            duck.execute(f"DELETE FROM ledger.{name} WHERE seq < ?", (number or 0,))  # noqa: S608
        duck.execute("DELETE FROM ledger.batches")

    def _batches_of_others(self, duck: duckdb.DuckDBPyConnection) -> None:
        """Read the batches of new rows that were not found among the newest, as after a change of the clock."""
        missing = _column(
            duck,
            "SELECT DISTINCT batch_id FROM (SELECT batch_id FROM ledger.attempts WHERE seq > ? UNION ALL "
            "SELECT batch_id FROM ledger.outcomes WHERE seq > ?) ANTI JOIN ledger.batches USING (batch_id)",
            [self._last[table.name] for table in (ATTEMPTS, OUTCOMES)],
        )
        for some in chunks(missing):
            if chunk := self._source.read(partial(BATCHES.read, where=f"batch_id IN ({marks(some)})", values=some)):
                BATCHES.store(duck, [chunk])

    # The first opening.

    def _opened(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        duck = duckdb.connect(":memory:", config=_KEPT_TO_ITSELF)
        try:
            duck.execute("CREATE SCHEMA ledger")
            for table in (*LOGS, BATCHES, *SMALL):
                duck.execute(table.create)
            duck.execute(files("orchestrai.costs").joinpath("views.sql").read_text("utf-8"))
            duck.execute("SET preserve_insertion_order = false")  # a quarter faster, and no order is lost that counts
            for table in (ATTEMPTS, OUTCOMES):
                self._load_closed(duck, table)
            self._open = _column(duck, "SELECT seq FROM ledger.attempts WHERE status IS NULL")
            duck.execute("SET preserve_insertion_order = true")
            duck.execute("SET enable_external_access = false")
            duck.execute("SET lock_configuration = true")
        except BaseException:  # whatever it was, it goes on, and no half a mirror is kept
            duck.close()
            raise
        self._duck = duck
        return duck

    def _load_closed(self, duck: duckdb.DuckDBPyConnection, table: Table) -> None:
        """Load the whole ranges of a table: from their files, and from the ledger where there are none yet."""
        import duckdb

        def look(connection: sqlite3.Connection) -> tuple[int | None, list[Segment]]:
            first, last = _ends(connection, table)
            return first, segments(connection, table, self._folder, last)

        first, found = self._source.read(look)
        self._first[table.name] = first
        missing = load(duck, table, found)
        if missing:
            with contextlib.suppress(OSError):
                make_private(self._folder)
        for segment, pieces in self._read_ahead(table, missing):
            table.store(duck, pieces)
            with contextlib.suppress(OSError, duckdb.Error):  # no room on the disk: the next kernel reads it again
                if not _still_open(duck, segment):
                    segment.write(duck)
        if found:
            self._last[table.name] = found[-1].upto

    def _read_ahead(self, table: Table, wanted: list[Segment]) -> Iterator[tuple[Segment, list[Chunk]]]:
        """Yield ranges with their rows; the next is read while one is stored."""

        def read(segment: Segment) -> list[Chunk]:
            return self._source.read(lambda c: table.read_range(c, segment.above, segment.upto))

        if not wanted:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="orchestrai-mirror") as thread:
            ahead = thread.submit(read, wanted[0])
            for segment, following in zip(wanted, [*wanted[1:], None], strict=True):
                pieces = ahead.result()
                if following is not None:
                    ahead = thread.submit(read, following)
                yield segment, pieces


def _ends(connection: sqlite3.Connection, table: Table) -> tuple[int | None, int]:
    """Return the lowest number of a log, and the highest (0 where it is empty); two statements, each a look at one row."""
    (first,) = connection.execute(f"SELECT min(seq) FROM {table.log}").fetchone()  # noqa: S608
    (last,) = connection.execute(f"SELECT max(seq) FROM {table.log}").fetchone()  # noqa: S608
    return first, last or 0


def _still_open(duck: duckdb.DuckDBPyConnection, segment: Segment) -> bool:
    if segment.table is not ATTEMPTS:
        return False
    query = "SELECT 1 FROM ledger.attempts WHERE seq > ? AND seq <= ? AND status IS NULL LIMIT 1"
    return bool(_column(duck, query, segment[1:3]))


def _replace(duck: duckdb.DuckDBPyConnection, table: Table, key: str, kind: str, pieces: Sequence[Chunk]) -> None:
    """Put rows in the place of those with the same keys; the key is the first column."""
    assert next(iter(table.columns)) == key
    for chunk in pieces:
        duck.execute(
            f"DELETE FROM ledger.{table.name} WHERE {key} IN (SELECT unnest(from_json(?, '[\"{kind}\"]')))",  # noqa: S608
            (chunk[0],),
        )
        table.store(duck, [chunk])


def _column(duck: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> list[Any]:
    return [row[0] for row in duck.execute(query, parameters).fetchall()]


def _a_minute_before(batch_id: str) -> str:
    """Return the beginning of ids that were made a minute before another."""
    try:
        return f"{max(0, int(batch_id[:12], 16) - _LATE_MS):012x}"
    except ValueError:
        return ""
