"""Segments: closed ranges of the ledger as Parquet files, so that only the first kernel ever reads them from SQLite.

A range is closed once every request in it has its end; then nothing of it changes. Files lie in the ledger's own
private folder, are written beside their final name, and are named after what is in them, so that one of another ledger
(a backup that was put in its place) is not taken. They hold no text of a prompt, an answer or an error. They may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrai.costs.transfer import Table

if TYPE_CHECKING:
    import sqlite3

    import duckdb

SEGMENT: Final = 32_768  # numbers of rows in one file
_FORM: Final = 1  # of the columns; files of another form are not read


class Segment(NamedTuple):
    """A range of a table that a file can hold: numbers above `above`, up to `upto`."""

    table: Table
    above: int
    upto: int
    path: Path

    def write(self, duck: duckdb.DuckDBPyConnection) -> None:
        """Write the range from the mirror, whole or not at all.

        Raises:
            OSError: There is no room, or no permission.
            duckdb.Error: Likewise.
        """
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            day = " EXCLUDE (day)" if self.table.day_of else ""  # of the person's time zone, which may change
            duck.execute(
                f"COPY (SELECT *{day} FROM ledger.{self.table.name} WHERE seq > {self.above} AND seq <= {self.upto} "  # noqa: S608
                f"ORDER BY seq) TO {_text(fresh)} (FORMAT parquet, COMPRESSION zstd)"
            )
            fresh.chmod(0o600)  # DuckDB makes files for everybody; the folder is private meanwhile
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)


def load(duck: duckdb.DuckDBPyConnection, table: Table, found: Sequence[Segment]) -> list[Segment]:
    """Add the rows of segments to the mirror; returns those that have no file, or one that cannot be read."""
    import duckdb

    there = [segment for segment in found if segment.path.exists()]
    day = f", {table.day_of} :: DATE AS day" if table.day_of else ""

    def read(some: Sequence[Segment]) -> bool:
        paths = ", ".join(_text(segment.path) for segment in some)
        try:  # all in one statement: one each takes three times as long
            duck.execute(f"INSERT INTO ledger.{table.name} SELECT *{day} FROM read_parquet([{paths}])")  # noqa: S608
        except duckdb.Error:  # one is cut, or was deleted under our hands; none of the rows are in
            return False
        return True

    if there and not read(there):
        there = [segment for segment in there if read([segment])]
    return [segment for segment in found if segment not in there]


def segments(connection: sqlite3.Connection, table: Table, folder: Path, newest: int) -> list[Segment]:
    """Return the whole ranges of a table up to its newest number, each with the file that would hold it."""
    found = []
    for above in range(0, newest - newest % SEGMENT, SEGMENT):
        upto = above + SEGMENT
        if stamp := _stamp(connection, table, above, upto):
            found.append(Segment(table, above, upto, folder / f"{table.name}-{_FORM}-{above}-{stamp}.parquet"))
    return found


def discard(folder: Path, below: Mapping[str, int]) -> None:
    """Delete the segments that hold numbers below the given ones, by table."""
    for path in folder.glob("*.parquet"):
        table, _, rest = path.name.partition("-")
        above = rest.split("-")[1] if rest.count("-") == 2 else ""
        if not above.isdigit() or int(above) + 1 < below.get(table, 0):
            path.unlink(missing_ok=True)


def make_private(folder: Path) -> None:
    """Make the folder of the segments, for its owner alone.

    Raises:
        OSError: It cannot be made.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if sys.platform != "win32":
        os.chmod(folder, 0o700)  # noqa: PTH101 - where it was there with other modes


def _stamp(connection: sqlite3.Connection, table: Table, above: int, upto: int) -> str | None:
    """Return what tells the rows of a range from those of any other ledger; None where it has none."""
    ends = connection.execute(
        f"SELECT task_id, seq FROM (SELECT task_id, seq FROM {table.log} WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT 1) "  # noqa: S608
        f"UNION ALL SELECT task_id, seq FROM (SELECT task_id, seq FROM {table.log} WHERE seq > ?1 AND seq <= ?2 "
        "ORDER BY seq DESC LIMIT 1)",
        (above, upto),
    ).fetchall()
    return hashlib.sha256(repr(ends).encode()).hexdigest()[:16] if ends else None


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
