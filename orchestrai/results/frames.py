"""Results as DataFrames, built column by column, with dtypes that do not depend on the answers.

The answer column is called `into`, by default `output`; with a schema there is one column for each top-level
field instead. The columns about the answer start with the same name: `output_status`, `output_cost`, …

Which columns this library made is remembered in `frame.attrs["orchestrai"]`, a plain list of labels, so that
a cell can be run again on its own output while a column of the user's own is never overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal, TypeGuard, get_args

from orchestrai import text
from orchestrai.errors import ColumnExists, InvalidInput
from orchestrai.result import Result
from orchestrai.schemas import AnswerField, AnswerSchema

if TYPE_CHECKING:
    import pandas as pd

Money = Literal["float", "decimal"]
"""Money columns as float64 USD with NaN for unknown, or as objects: exact Decimal USD, None for unknown."""

_DEFAULT_INTO: Final = "output"
_MADE: Final = "orchestrai"  # the key of DataFrame.attrs under which our columns are listed
_ABOUT: Final = ("status", "error")
_DETAILS: Final = (
    "platform",
    "model",
    "tier",
    "cost",
    "list_cost",
    "input_tokens",
    "output_tokens",
    "duration_s",
    "attempts",
    "reused",
    "finish",
    "task_id",
)

_Column = tuple[str, Callable[[], Any]]  # a label, and what builds its values


def check_columns(
    frame: pd.DataFrame | None, into: str | None, schema: AnswerSchema | None, read_columns: Iterable[Any] = ()
) -> None:
    """Refuse a call whose answers would overwrite a column of the input; call it before anything is sent.

    A column is replaced only if an earlier call made it and this call does not read it.

    Args:
        frame: The input; None for other inputs.
        into: Name of the answer column as the user gave it; None when it was not given.
        schema: The compiled schema of the call, if any.
        read_columns: Labels that the templates of the call read.

    Raises:
        ColumnExists: A column would be lost, or two columns would have one name. The message names the
            column and two ways out.
    """
    ours = _names(into, schema)
    twice = next((name for i, name in enumerate(ours) if name in ours[:i]), None)
    if twice is not None:
        way = _other_name(frame, into, schema) if into is None else "leave `into` out"
        raise ColumnExists(
            f"A field of the schema and the answer's own columns would share the name {twice!r}: {way}, or rename the field."
        )
    if frame is None:
        if "prompt" in ours:
            way = _other_name(frame, into, schema)
            raise ColumnExists(
                f"The answer's column 'prompt' and the one of the prompts would share that name: {way}, or pass the "
                "prompts as a DataFrame whose column has another name."
            )
        return
    made, read = _made(frame), frozenset(read_columns)
    for name in ours:
        if name in frame.columns and (name not in made or name in read):
            why = "this call reads it" if name in made else "no earlier call made it"
            raise ColumnExists(
                f"The answer's column {name!r} is already in the frame and {why}, so it is not replaced: "
                f"{_other_name(frame, into, schema)}, or drop it first with df.drop(columns={name!r})."
            )


def answer_frame(
    results: Sequence[Result],
    frame: pd.DataFrame | None,
    *,
    into: str | None,
    schema: AnswerSchema | None,
    sampled: bool,
    details: bool,
    money: Money = "float",
) -> pd.DataFrame:
    """Return the input's columns with the answers beside them, one row for each result.

    Args:
        results: The results, in the order of the rows.
        frame: The input, one row for each result and in their order; None for other inputs.
        into: Name of the answer column as the user gave it; None when it was not given.
        schema: The compiled schema of the answers, if any.
        sampled: True when there are several independent answers for each prompt.
        details: True for the columns about platform, money, tokens and time as well.
        money: How money is written.

    Returns:
        A new frame with the index of the input, or a RangeIndex. Columns, with `output` standing for `into`:
        the input's, or `prompt` (text); `output` (text), or one column for each field of the schema in the
        field's dtype; `output_status`, `output_error` (text); `output_sample` (Int64) when sampled. With
        details `output_platform`, `_model`, `_tier`, `_finish`, `_task_id` (text), `_cost`, `_list_cost`
        [USD] (float64, NaN where unknown, or Decimal objects), `_input_tokens`, `_output_tokens` [tokens]
        (Int64), `_duration_s` [s] (float64), `_attempts` (Int64), `_reused` (bool).
    """
    import pandas as pd

    ours = _columns(results, into, schema, sampled=sampled, details=details, money=money)
    made: list[Any] = []
    if frame is None:
        prompts = text_column([text.prompt_text(r.task.prompt) for r in results])
        kept = pd.DataFrame({"prompt": prompts}, index=pd.RangeIndex(len(results)))
    else:
        # Also what an earlier call of the same name knew beside its answer: it is not true of the new one.
        replaced = _made(frame).intersection(_names(into, schema))
        kept = frame.loc[:, [label not in replaced for label in frame.columns.get_level_values(0)]]
        made = [label for label in kept.columns.get_level_values(0) if label in _made(frame)]
    added = pd.DataFrame({i: build() for i, (_, build) in enumerate(ours)}).set_axis(kept.index)
    names = [name for name, _ in ours]
    added.columns = pd.Index(names)
    if kept.columns.nlevels > 1:
        added.columns = pd.MultiIndex.from_tuples([(name, *[""] * (kept.columns.nlevels - 1)) for name in names])
    whole = pd.concat([kept, added], axis=1)
    whole.attrs = {**kept.attrs, _MADE: made + names}
    return whole


def check_money(money: Money) -> None:
    """Refuse a way to write money that there is not.

    Raises:
        InvalidInput: It is neither "float" nor "decimal".
    """
    if money not in get_args(Money):
        raise InvalidInput(f"money is 'float' or 'decimal', not {money!r}.")


def part(frame: pd.DataFrame, rows: Sequence[int]) -> pd.DataFrame:
    """Return a new frame of the given rows, in their order and repeated where they are.

    Args:
        frame: Any DataFrame.
        rows: Positions from 0.
    """
    return frame.copy() if rows == range(len(frame)) else frame.iloc[list(rows)].copy()


def _prefix(into: str | None) -> str:
    return _DEFAULT_INTO if into is None else into


def _field_labels(into: str | None, schema: AnswerSchema) -> list[str]:
    return [field.name if into is None else f"{into}_{field.name}" for field in schema.fields]


def _has_fields(schema: AnswerSchema | None) -> TypeGuard[AnswerSchema]:
    """Tell whether an answer fills a column for each field; a label or any other single value fills one as text."""
    return schema is not None and bool(schema.fields)


def _names(into: str | None, schema: AnswerSchema | None) -> list[str]:
    """Return every label that a frame of such a call can have beside the input's, in order."""
    prefix = _prefix(into)
    answer = _field_labels(into, schema) if _has_fields(schema) else [prefix]
    return answer + [f"{prefix}_{name}" for name in (*_ABOUT, "sample", *_DETAILS)]


def _made(frame: pd.DataFrame) -> frozenset[str]:
    """Return the labels that earlier calls made; whatever else stands in the attribute is not ours."""
    listed = frame.attrs.get(_MADE)
    return frozenset(x for x in listed if isinstance(x, str)) if isinstance(listed, list | tuple) else frozenset()


def _other_name(frame: pd.DataFrame | None, into: str | None, schema: AnswerSchema | None) -> str:
    """Return the advice to give a value of `into` with which every column finds room; else to rename the field."""
    taken = {"prompt"} if frame is None else set(frame.columns.get_level_values(0))
    numbered = (f"{into or 'answer'}_{i}" for i in range(2, len(taken) + 3))  # each label blocks one of them at most
    for name in chain(("answer",), numbered):
        names = _names(name, schema)
        if len(set(names)) == len(names) and taken.isdisjoint(names):
            return f'choose another name with into="{name}"'
    return "rename the field of the schema"


def _columns(
    results: Sequence[Result],
    into: str | None,
    schema: AnswerSchema | None,
    *,
    sampled: bool,
    details: bool,
    money: Money,
) -> list[_Column]:
    prefix = _prefix(into)
    about = [*_ABOUT, *(["sample"] if sampled else []), *(_DETAILS if details else ())]
    built = [(f"{prefix}_{name}", partial(_DATA[name], results, money)) for name in about]
    return [*_answer(results, into, schema), *built]


def _answer(results: Sequence[Result], into: str | None, schema: AnswerSchema | None) -> list[_Column]:
    if not _has_fields(schema):
        return [(_prefix(into), lambda: text_column([r.output for r in results]))]
    rows = [{} if r.parsed is None else schema.row(r.parsed) for r in results]
    return [
        (label, partial(_field, rows, field))
        for label, field in zip(_field_labels(into, schema), schema.fields, strict=True)
    ]


def _field(rows: list[dict[str, Any]], field: AnswerField) -> Any:
    return _typed([row.get(field.name) for row in rows], field.dtype)


def text_column(values: list[str | None]) -> Any:
    """Return strings in the string dtype of the installed pandas: `str` from version 3 on, `string` before."""
    import pandas as pd

    dtype: Any = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"
    try:
        return pd.array(values, dtype=dtype)
    except UnicodeEncodeError:  # Arrow holds UTF-8; a lone surrogate, which is no character, becomes "?"
        return pd.array([v if v is None else v.encode(errors="replace").decode() for v in values], dtype=dtype)


def _typed(values: list[Any], dtype: str) -> Any:
    """Return values in a dtype; as objects where a valid answer does not fit it (an integer beyond 64 bits)."""
    import numpy as np
    import pandas as pd

    if dtype in ("str", "string"):
        return text_column(values)
    wanted: Any = dtype  # the stubs list literal names only
    if dtype != "object":
        try:
            return pd.array(values, dtype=wanted)
        except (TypeError, ValueError, OverflowError):
            pass
    objects = np.empty(len(values), dtype=object)  # filled cell by cell: lists stay cells, they do not become axes
    objects[:] = values
    return pd.Series(objects, dtype=object)  # a bare array of strings would become text again


def _dollars(amounts: list[Decimal | None], money: Money) -> Any:
    import numpy as np

    if money == "decimal":
        return _typed(amounts, "object")
    return np.array([math.nan if amount is None else float(amount) for amount in amounts], dtype="float64")


_DATA: Final[Mapping[str, Callable[[Sequence[Result], Money], Any]]] = {
    "status": lambda results, _: text_column([r.status for r in results]),
    "error": lambda results, _: text_column([r.error for r in results]),
    "sample": lambda results, _: _typed([r.sample for r in results], "Int64"),
    "platform": lambda results, _: text_column([r.platform for r in results]),
    "model": lambda results, _: text_column([r.model for r in results]),
    "tier": lambda results, _: text_column([r.tier for r in results]),
    "cost": lambda results, money: _dollars([r.cost for r in results], money),
    "list_cost": lambda results, money: _dollars([r.list_cost for r in results], money),
    "input_tokens": lambda results, _: _typed([r.usage.input_tokens for r in results], "Int64"),
    "output_tokens": lambda results, _: _typed([r.usage.output_tokens for r in results], "Int64"),
    "duration_s": lambda results, _: _typed([r.duration_s for r in results], "float64"),
    "attempts": lambda results, _: _typed([r.attempts for r in results], "Int64"),
    "reused": lambda results, _: _typed([r.reused for r in results], "bool"),
    "finish": lambda results, _: text_column([r.finish_reason for r in results]),
    "task_id": lambda results, _: text_column([r.task_id for r in results]),
}
