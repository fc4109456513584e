"""SQL over the mirror: one SELECT, nothing but the ledger's tables, and frames whose dtypes the data does not change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

from orchestrai.costs.mirror import Mirror
from orchestrai.errors import InvalidQuery
from orchestrai.results.frames import Money, check_money, text_column

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]

_WHOLE: Final = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT"}
)
_LARGE: Final = frozenset({"UBIGINT", "HUGEINT", "UHUGEINT"})  # sums of whole numbers, which fit 64 bits but are wider
_WORDS: Final = frozenset({"VARCHAR", "JSON", "UUID"})
_READS_ONLY: Final = (
    "orch.costs.sql takes one SELECT. It cannot change anything, read files or load extensions; "
    "write a result with orch.costs.export(frame, path)."
)


def frame(
    mirror: Mirror, query: str, parameters: Parameters = (), *, money: Money = "float", checked: bool = False
) -> pd.DataFrame:
    """Return the rows of a query.

    Args:
        mirror: Where it is asked.
        query: One SELECT; `?` or `$name` stand for parameters.
        parameters: Their values.
        money: Columns of type DECIMAL as float64, or as objects: exact Decimal, None for unknown.
        checked: True for a query that is not of this package.

    Returns:
        Whole numbers are Int64, DECIMAL and DOUBLE float64, text `str`, truth boolean, moments datetime64[us, UTC], days
        datetime64[us], anything else objects; whatever the rows are.

    Raises:
        InvalidInput: `money` is neither.
        InvalidQuery: It is not one SELECT, or cannot be run; the message shows where.
        LedgerError: The ledger cannot be read.
    """
    import duckdb
    import pandas as pd

    check_money(money)
    with mirror.cursor() as cursor:
        try:
            if checked:
                _check(cursor, query)
            types, names, values = _interruptible(cursor, lambda: _fetched(cursor, query, parameters, money))
        except duckdb.Error as error:
            raise InvalidQuery(_said(cursor, query, parameters, error)) from None
    columns = {i: _typed(values[f"c{i}"], kind, money) for i, kind in enumerate(types)}
    return pd.DataFrame(columns).set_axis(names, axis=1)


def _fetched(
    cursor: duckdb.DuckDBPyConnection, query: str, parameters: Parameters, money: Money
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Return types, names and values of the columns of a query."""
    relation = cursor.sql(query, params=parameters or None)
    types = [str(kind) for kind in relation.types]
    values = relation.project(", ".join(_asked(i, kind, money) for i, kind in enumerate(types))).fetchnumpy()
    return types, _distinct(relation.columns), values


def _interruptible(cursor: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Run a query in a thread of its own, so that Ctrl-C ends it.

    DuckDB looks for signals between its steps alone, and a step may take minutes (measured).
    """
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            return done.result()
        except KeyboardInterrupt:
            cursor.interrupt()  # heard within a tenth of a second
            raise


def rows(mirror: Mirror, query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query of this package as Python's own values; money is Decimal."""
    with mirror.cursor() as cursor:
        found: list[tuple[Any, ...]] = cursor.execute(query, parameters or None).fetchall()
        return found


def tag_pointer(key: str) -> str:
    """Return a tag's name as a JSON pointer (RFC 6901): any text names a key, none is a path."""
    return "/" + str(key).replace("~", "~0").replace("/", "~1")


def _check(cursor: duckdb.DuckDBPyConnection, query: str) -> None:
    try:
        kinds = [statement.type.name for statement in cursor.extract_statements(query)]
    except TypeError:  # no string, or none that UTF-8 can hold
        raise InvalidQuery(f"A query is a text, not {query!r}. {_READS_ONLY}") from None
    if kinds == ["MULTI"]:
        raise InvalidQuery("A PIVOT names its values: PIVOT … ON platform IN ('openai', 'gemini') USING sum(cost).")
    if kinds != ["SELECT"]:
        what = "no statement" if not kinds else f"{len(kinds)} statements" if len(kinds) > 1 else kinds[0]
        raise InvalidQuery(f"This is {what}. {_READS_ONLY}")


def _said(cursor: duckdb.DuckDBPyConnection, query: str, parameters: Parameters, error: duckdb.Error) -> str:
    """Return what DuckDB says of an error, with its position in the very text that was given."""
    import duckdb

    words = str(error)
    with contextlib.suppress(duckdb.Error):
        cursor.execute("ROLLBACK")
        cursor.execute("BEGIN TRANSACTION READ ONLY")
    try:
        cursor.execute(query, parameters or None)
    except duckdb.Error as again:
        words = str(again)
    if isinstance(error, duckdb.PermissionException) or "read-only mode" in words:
        words = f"{words}\n\n{_READS_ONLY}"
    return words


def _asked(place: int, kind: str, money: Money) -> str:
    """Return the column as it can be taken without loss: text for what NumPy has no type for."""
    exact = kind in _LARGE or (kind.startswith("DECIMAL") and money == "decimal") or kind in _WORDS - {"VARCHAR"}
    return f"#{place + 1} :: VARCHAR AS c{place}" if exact else f"#{place + 1} AS c{place}"


def _typed(values: Any, kind: str, money: Money) -> Any:
    import numpy as np
    import pandas as pd

    missing = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    plain = np.ma.getdata(values)
    if kind in _LARGE:
        whole = [None if missing is not None and missing[i] else int(value) for i, value in enumerate(plain)]
        fits = all(value is None or abs(value) < 2**63 for value in whole)
        return pd.array(whole, dtype="Int64") if fits else pd.Series(whole, dtype=object)
    if kind.startswith("DECIMAL") and money == "decimal":
        exact = [None if missing is not None and missing[i] else Decimal(value) for i, value in enumerate(plain)]
        return pd.Series(exact, dtype=object)
    if kind in _WORDS:
        return text_column([None if missing is not None and missing[i] else value for i, value in enumerate(plain)])
    if kind in _WHOLE or kind == "BOOLEAN":
        mask = np.zeros(len(plain), dtype=bool) if missing is None else missing
        array = pd.arrays.BooleanArray if kind == "BOOLEAN" else pd.arrays.IntegerArray
        return array(plain.astype("bool" if kind == "BOOLEAN" else "int64"), mask.copy())
    if kind.startswith("DECIMAL") or kind in ("DOUBLE", "FLOAT"):
        floats = plain.astype("float64")
        return floats if missing is None else np.where(missing, np.nan, floats)
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        moments = plain.astype("datetime64[us]")
        if missing is not None:
            moments = np.where(missing, np.datetime64("NaT", "us"), moments)
        series = pd.Series(moments)
        return series.dt.tz_localize("UTC") if kind == "TIMESTAMP WITH TIME ZONE" else series
    objects = np.empty(len(plain), dtype=object)
    objects[:] = [None if missing is not None and missing[i] else value for i, value in enumerate(plain)]
    return pd.Series(objects, dtype=object)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names with a number behind those that stand twice."""
    found: list[str] = []
    for name in names:
        new, number = name, 1
        while new in found:
            new, number = f"{name}_{number}", number + 1
        found.append(new)
    return found
