"""Frames as files: CSV that no spreadsheet runs, Parquet, and files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import secrets
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrai.errors import InvalidFile

if TYPE_CHECKING:
    import pandas as pd

NEEDS_PYARROW: Final = 'Parquet needs pyarrow: pip install "orchestrai[parquet]"'

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the beginning of a formula (OWASP)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # begins like one and is none


@contextlib.contextmanager
def replacing(path: Path, *, keep: bool = True) -> Iterator[Path]:
    """Give a new name in the folder of a file, which takes the file's place once it is written and on disk.

    Args:
        path: The file to replace; where it is a link, what it points at.
        keep: False takes the new file away instead.

    Raises:
        InvalidFile: It cannot be written. The file is as it was.
    """
    with refusals(path):
        target = path.resolve()
        temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
        try:
            yield temporary
            if keep:
                if target.exists():
                    temporary.chmod(target.stat().st_mode & 0o777)
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Make an error of the system one that names the file."""
    try:
        yield
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be written ({error.strerror or error}).") from None


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV in UTF-8; a text that a spreadsheet would run as a formula has a `'` before it."""
    frame = _with_index(frame)
    cells = {number: _safe_column(frame.iloc[:, number]) for number in range(frame.shape[1])}
    # Rows end in a line feed, so the writer takes a carriage return for an ordinary character: then quote all text.
    bare = any(isinstance(cell, str) and "\r" in cell for column in cells.values() for cell in column)
    type(frame)(cells).set_axis([_safe(str(label)) for label in frame.columns], axis=1).to_csv(
        path,
        index=False,
        encoding="utf-8",
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL,
    )


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with an index of its own as columns; row numbers are left out."""
    import pandas as pd

    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(allow_duplicates=True)


def _safe_column(column: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    column = column.reset_index(drop=True)
    if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
        return column.astype(object).map(_safe)
    return column


def _safe(value: Any) -> Any:
    """Return a cell as CSV holds it: nested values as JSON, and no text that a spreadsheet would run."""
    from orchestrai.prompts import cell_text

    if isinstance(value, list | tuple | dict | set) or getattr(value, "ndim", False):
        value = cell_text(value)
    if isinstance(value, Decimal):
        return format(value, "f")  # never 1E-12
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as Parquet; cells of several types in one column become text."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

    columns = {}
    for number in range(frame.shape[1]):
        column = frame.iloc[:, number]
        if column.dtype == object:
            try:
                pa.array(column, from_pandas=True)
            except (pa.ArrowException, OverflowError):  # several types in one column
                column = column.map(_as_text)
        columns[number] = column
    whole = type(frame)(columns, index=frame.index).set_axis(frame.columns, axis=1)
    whole.attrs = frame.attrs
    whole.to_parquet(path, engine="pyarrow")


def _as_text(value: Any) -> str | None:
    from orchestrai.prompts import cell_text, is_missing

    return None if is_missing(value) else cell_text(value)
