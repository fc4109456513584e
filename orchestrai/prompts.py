"""Templates: a prompt with `{column}` in it, filled from rows. A template sees labels and text, never objects."""

from __future__ import annotations

import datetime as dt
import json
import math
import os.path
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from orchestrai.errors import InvalidInput, InvalidTemplate, nearest
from orchestrai.handoff import Slot, guarded, template_pieces
from orchestrai.messages import Prompt

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Missing = Literal["skip", "error"]
"""What becomes of a row with a missing value: it is not sent, or the whole call is refused."""

TEMPLATED_OPTIONS: Final = ("system", "files", "model", "platform", "tags")
"""The options that may hold `{column}` when the input is rows."""

_BRACES: Final = re.compile(r"\{\{|\}\}|\{|\}")
_LISTED: Final = 10  # column labels and rows that an error names before it says "…"
_PANDAS_MISSING: Final = frozenset({"NAType", "NaTType"})  # by name, so that nothing imports pandas


@dataclass(frozen=True, slots=True)
class Template:
    """A text in which `{Any column label}` stands for the text of that column's cell.

    What is between two braces is one whole label, looked up as it is written: dots, brackets, `!r` and `:>9` are
    letters of the label, never attribute access, item access or a format. `{{` and `}}` are braces. Nothing else is
    interpreted, and a cell is inserted once: braces in it stay braces. A label that itself holds a brace cannot be
    written.

    Args:
        text: The template.
        where: What to call it in an error ("prompt", "system").

    Raises:
        InvalidTemplate: A brace is not closed, closes nothing, or holds nothing; the message names the position,
            counted from 0.
    """

    text: str
    where: str = "prompt"
    columns: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _literals: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _labels: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidTemplate(f"{self.where}: a template is a string, not {type(self.text).__name__}.")
        literals, labels = _split(self.text, self.where)
        object.__setattr__(self, "_literals", literals)
        object.__setattr__(self, "_labels", labels)
        object.__setattr__(self, "columns", tuple(dict.fromkeys(labels)))

    def check(self, columns: Iterable[Any]) -> None:
        """Make sure that the rows have every column that the template reads, exactly once.

        Args:
            columns: The labels of the rows; those that are no strings match by their `str`.

        Raises:
            InvalidTemplate: A column is missing (the message names the nearest one) or its label is not unique.
        """
        self.positions(columns)

    def positions(self, columns: Iterable[Any]) -> dict[str, int]:
        """Return where each column that the template reads stands among the labels, counted from 0.

        Raises:
            InvalidTemplate: As `check`.
        """
        names = [str(label) for label in columns]
        found: dict[str, int] = {}
        for label in self.columns:
            count = names.count(label)
            if count == 0:
                raise InvalidTemplate(f"{self.where}: {_no_column(label, names)}")
            if count > 1:
                raise InvalidTemplate(
                    f"{self.where}: {count} columns are labelled {label!r}, so {{{label}}} is not clear. Rename one."
                )
            found[label] = names.index(label)
        return found

    def render(self, values: Mapping[Any, Any] | Callable[[str], Any]) -> str:
        """Return the text with every column replaced by its cell.

        Args:
            values: Cells by label, or a function from label to cell that raises KeyError for an unknown one.

        Raises:
            InvalidTemplate: A column is not there.
            InvalidInput: A cell is missing (None, NaN, NaT, NA) or cannot be written as text.
        """
        texts: dict[str, list[str]] = {}
        for label in self.columns:
            value = self._looked_up(values, label)
            if is_missing(value):
                raise InvalidInput(f"{self.where}: column {label!r} has no value.")
            texts[label] = [cell_text(value)]
        return self.render_columns(texts, 1)[0]

    def render_columns(self, texts: Mapping[str, Sequence[str]], count: int) -> list[str]:
        """Return the rendered text of `count` rows, given the texts of each column that is read.

        Raises:
            InvalidTemplate: A column is not there.
        """
        if not self.columns:
            return ["".join(self._literals)] * count
        pieces: list[Iterable[str]] = []
        for literal, label in zip(self._literals, self._labels, strict=False):  # one literal more, added below
            if label not in texts:
                raise InvalidTemplate(f"{self.where}: {_no_column(label, list(texts))}")
            if literal:
                pieces.append(repeat(literal))
            pieces.append(texts[label])
        pieces.append(repeat(self._literals[-1]))
        return list(map("".join, zip(*pieces, strict=False)))  # the repeated literals have no end

    def _looked_up(self, values: Mapping[Any, Any] | Callable[[str], Any], label: str) -> Any:
        try:
            return values[label] if isinstance(values, Mapping) else values(label)
        except KeyError:
            pass
        known = {str(key): key for key in values} if isinstance(values, Mapping) else {}
        if label not in known or not isinstance(values, Mapping):
            raise InvalidTemplate(f"{self.where}: {_no_column(label, list(known))}")
        return values[known[label]]


def _split(text: str, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the literal pieces and the labels between them; there is one literal more than labels."""
    literals: list[str] = []
    labels: list[str] = []
    piece = ""
    at = 0
    while brace := _BRACES.search(text, at):
        start, found = brace.start(), brace.group()
        piece += text[at:start]
        at = brace.end()
        if len(found) == 2:
            piece += found[0]
            continue
        if found == "}":
            raise InvalidTemplate(f"{where}: the '}}' at position {start} closes nothing. Write }}}} for a brace.")
        end, inner = text.find("}", at), text.find("{", at)
        if end < 0 or 0 <= inner < end:
            raise InvalidTemplate(f"{where}: the '{{' at position {start} is not closed. Write {{{{ for a brace.")
        if end == at:
            raise InvalidTemplate(
                f"{where}: the braces at position {start} name no column. Write {{column}}, or {{{{}}}} for braces."
            )
        literals.append(piece)
        labels.append(text[at:end])
        piece, at = "", end + 1
    return (*literals, piece + text[at:]), tuple(labels)


def _no_column(label: str, names: Sequence[str]) -> str:
    known = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    hint = nearest(label, names) or " Write {{ and }} for braces that name no column."
    return f"no column {_short(label)!r}.{hint} The columns are: {known or 'none'}."


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def is_missing(value: Any) -> bool:
    """Return True for None, NaN, NaT and NA, whatever library they come from; lists and arrays are values."""
    if value is None:
        return True
    if isinstance(value, float | complex):
        return bool(value != value)  # noqa: PLR0124 - the definition of NaN (IEEE 754)
    kind = type(value)
    if kind.__name__ in _PANDAS_MISSING:
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    # NumPy scalars: float32 NaN and datetime64 NaT differ from themselves; arrays would compare element by element.
    return kind.__module__ == "numpy" and kind.__name__ != "ndarray" and bool(value != value)  # noqa: PLR0124 - as above


def cell_text(value: Any) -> str:
    """Return what a template inserts for the value of a cell.

    It is the value's `str`, with these exceptions: lists, tuples, dicts, sets and arrays are JSON (letters of every
    script kept, missing values null), dates and times are ISO 8601. A float is written as a float, also where a
    column holds only whole numbers: the text of a cell, and with it the key of its task, must not depend on other
    rows. Whole numbers with gaps are written as such from a nullable column: `df.astype({"id": "Int64"})`.

    Raises:
        InvalidInput: The value is bytes, or holds something that JSON cannot.
    """
    if isinstance(value, str):
        return str.__str__(value)  # the text of enums and NumPy strings, not their name
    if isinstance(value, dt.date | dt.time):  # datetime and pandas' Timestamp are dates
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInput("bytes cannot be put into a prompt. Decode them first: value.decode('utf-8').")
    if isinstance(value, list | tuple | Mapping | set | frozenset) or _is_array(value):
        return _json_text(value)
    return str(value)


def _json_text(value: Any) -> str:
    try:
        return json.dumps(_plain(value), ensure_ascii=False)
    except RecursionError:
        raise InvalidInput("the cell holds a value nested too deep, or inside itself.") from None


def _plain(value: Any) -> Any:
    """Return the value in JSON's own types."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool | int):
        return value
    if is_missing(value):
        return None
    if isinstance(value, float):
        return None if math.isinf(value) else value  # JSON has no word for infinity
    if isinstance(value, Mapping):
        return {k if isinstance(k, str) else cell_text(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):  # sorted: the order of a set differs between processes
        return sorted((_plain(item) for item in value), key=str)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # NumPy arrays and scalars
        return _plain((value.astype(str) if value.dtype.kind in "mM" else value).tolist())  # nanoseconds are no dates
    return cell_text(value)


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and bool(getattr(value, "ndim", 0))


class Rows:
    """Rows that are read column by column: a DataFrame, or a sequence of dicts.

    Args:
        source: A pandas DataFrame, or dicts; a dict without a key has a missing value there, and so has None in
            the place of a dict.
        first: What errors call the first row.
    """

    __slots__ = ("_first", "_frame", "_rows", "columns", "count")

    def __init__(self, source: pd.DataFrame | Sequence[Mapping[Any, Any] | None], first: int = 0) -> None:
        self.count = len(source)
        self._first = first
        self._frame: Any = None
        self._rows: Sequence[Mapping[Any, Any] | None] = ()
        self.columns: list[Any]
        if isinstance(source, Sequence):
            self._rows = source
            self.columns = list(dict.fromkeys(label for row in source if row for label in row))
        else:
            self._frame = source
            self.columns = list(source.columns)

    @property
    def absent(self) -> list[int]:
        """The rows, counted from 0, that are missing as a whole."""
        return [row for row, fields in enumerate(self._rows) if fields is None]

    def cells(self, position: int) -> list[Any]:
        """Return the values of the column at a position, one for each row."""
        if self._frame is None:
            label = self.columns[position]
            return [None if row is None else row.get(label) for row in self._rows]
        column = self._frame.iloc[:, position]
        if str(column.dtype).lower() in ("float32", "float16"):  # `tolist` would widen 0.1 to 0.10000000149011612
            return list(column.array)
        return list(column.tolist())

    def texts(self, label: str, position: int) -> list[str | None]:
        """Return the text of each cell of a column; None where the value is missing.

        Raises:
            InvalidInput: A cell cannot be written as text; the message names the column and the row.
        """
        cells = self.cells(position)
        return [
            cell if type(cell) is str else _text_of(cell, label, row) for row, cell in enumerate(cells, self._first)
        ]


def _text_of(cell: Any, label: str, row: int) -> str | None:
    if type(cell) is int:
        return str(cell)
    if is_missing(cell):
        return None
    try:
        return cell_text(cell)
    except InvalidInput as error:
        raise InvalidInput(f"column {label!r}, row {row}: {error}") from None


@dataclass(frozen=True, slots=True)
class Filled:
    """Rows after their templates were filled.

    Args:
        prompts: The prompt of each row; "" where a value is missing. None when there was no template for it.
        options: Options that are the same in every row.
        varying: Options that differ, each with its value for each row; None where a value is missing.
        missing: Row, counted from 0 → the first column that a template reads and that has no value there, or None
            where the whole row is missing.
        columns: The columns that any template reads, in order.
    """

    prompts: list[Prompt] | None
    options: dict[str, Any]
    varying: dict[str, list[Any]]
    missing: dict[int, str | None]
    columns: tuple[str, ...]

    def options_by_row(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the options of each row."""
        if not self.varying:
            yield from repeat(self.options, count)
            return
        names = tuple(self.varying)
        for values in zip(*self.varying.values(), strict=True):
            yield {**self.options, **dict(zip(names, values, strict=True))}


class RowTemplates:
    """The templates of one call, parsed once: that of the prompt, and those among its options.

    Args:
        prompt: Template of the prompt; None when prompts come from elsewhere. With `parent` or `chain` among the options
            `{parent}`, `{parents}` and `{shared.NAME}` are no columns but places of what is handed over.
        options: Task options; `system`, `files`, `model`, `platform` and the values of `tags` may hold `{column}`.

    Raises:
        InvalidTemplate: A template is not well formed.
    """

    __slots__ = ("_handed", "columns", "options", "prompt")

    def __init__(self, prompt: str | None, options: Mapping[str, Any]) -> None:
        self._handed = options.get("parent") is not None or options.get("chain") is not None
        self.prompt: Any = (
            None if prompt is None else Template(prompt) if not self._handed else _slotted(prompt, options)
        )
        self.options = {
            name: _parsed(value, name) if name in TEMPLATED_OPTIONS else value for name, value in options.items()
        }
        self.columns = tuple(dict.fromkeys(label for template in self._all() for label in template.columns))

    def fill(self, rows: Rows) -> Filled:
        """Return the prompt and the options of every row.

        Raises:
            InvalidTemplate: A template reads a column that the rows do not have, or one of two with the same label.
            InvalidInput: A cell cannot be written as text, or would lead a file out of its folder.
        """
        positions: dict[str, int] = {}
        missing: dict[int, str | None] = dict.fromkeys(rows.absent)
        if rows.columns or rows.count > len(missing):  # an empty list has no columns to be missed
            for template in self._all():
                positions |= template.positions(rows.columns)
        texts: dict[str, list[str]] = {label: [""] * rows.count for label in self.columns}
        for label, position in positions.items():
            found = rows.texts(label, position)
            if None in found:
                for row in [row for row, text in enumerate(found) if text is None]:
                    missing.setdefault(row, label)
            texts[label] = [text or "" for text in found]
        prompts: list[Any] | None = None if self.prompt is None else _rendered(self.prompt, texts, rows.count)
        if prompts is not None and self._handed:
            prompts = [guarded(pieces) for pieces in prompts]
        options: dict[str, Any] = {}
        varying: dict[str, list[Any]] = {}
        for name, value in self.options.items():
            if any(template.columns for template in _templates(value)):
                varying[name] = _rendered(value, texts, rows.count)
            else:
                options[name] = _rendered(value, texts, 1)[0]
        for row in missing:
            if prompts is not None:
                prompts[row] = ""
            for values in varying.values():
                values[row] = None
        return Filled(prompts, options, varying, missing, self.columns)

    def _all(self) -> Iterator[Template]:
        for value in (self.prompt, *self.options.values()):
            yield from _templates(value)


def _slotted(prompt: str, options: Mapping[str, Any]) -> tuple[Template | Slot, ...]:
    """Return a prompt's template as templates, with the places of what is handed over between them."""
    Template(prompt)  # what is wrong with it is told by its place in the whole
    pieces = template_pieces(prompt, parents=options.get("parent") is not None)
    return tuple(piece if isinstance(piece, Slot) else Template(piece) for piece in pieces)


def _parsed(value: Any, where: str) -> Any:
    """Return an option's value with every string in it as a Template."""
    if isinstance(value, str):
        return Template(value, where)
    if isinstance(value, Path):
        return Template(str(value), where)
    if isinstance(value, list | tuple):
        return tuple(_parsed(item, f"{where}[{i}]") for i, item in enumerate(value))
    if isinstance(value, Mapping):
        return {key: _parsed(item, f"{where}[{key!r}]") for key, item in value.items()}
    return value


def _templates(value: Any) -> Iterator[Template]:
    if isinstance(value, Template):
        yield value
    elif isinstance(value, tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _templates(item)


def _rendered(value: Any, texts: Mapping[str, Sequence[str]], count: int) -> list[Any]:
    """Return an option's value for each row, its templates filled."""
    if isinstance(value, Template):
        found = value.render_columns(texts, count)
        if value.where.startswith("files"):
            _keep_in_folder(value, found)
        return found
    if isinstance(value, tuple) and value:
        return list(zip(*(_rendered(item, texts, count) for item in value), strict=True))
    if isinstance(value, dict) and value:
        columns = [_rendered(item, texts, count) for item in value.values()]
        return [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]
    return [value] * count


def _keep_in_folder(template: Template, paths: Sequence[str]) -> None:
    """Refuse cells that climb out of the folder which the template names (`docs/{name}.txt` with `../../key`).

    A template that begins with a column leaves the choice of the folder to the rows.
    """
    if not template.columns or not template._literals[0]:  # noqa: SLF001 - a function of this class's module
        return
    folder = os.path.dirname(template._literals[0]) or "."  # noqa: PTH120, SLF001 - text of a path, as above
    for path in paths:
        if ".." not in path:
            continue
        steps = os.path.relpath(path, folder)
        if steps == ".." or steps.startswith(f"..{os.sep}"):
            raise InvalidInput(
                f"{template.where}: {_short(path)!r} leads out of the folder {folder!r} that the template names. "
                "Correct the cell, or let a column hold the whole path."
            )


def tasks_from_rows(
    rows: pd.DataFrame | Sequence[Mapping[Any, Any]],
    template: str,
    options: Mapping[str, Any],
    *,
    missing: Missing,
    make: Callable[..., T],
) -> list[T]:
    """Return one task for each row, in order.

    Args:
        rows: A DataFrame or a sequence of dicts.
        template: Template of the prompt.
        options: Task options; `system`, `files`, `model`, `platform` and the values of `tags` may hold `{column}`.
        missing: "error" refuses rows with a missing value that a template reads; "skip" leaves them out.
        make: Called with each prompt and its options as keywords.

    Raises:
        InvalidTemplate: A template is not well formed, or names a column that the rows do not have.
        InvalidInput: A cell cannot be written as text; with `missing="error"` also: a value is missing.
    """
    table = Rows(rows)
    filled = RowTemplates(template, options).fill(table)
    if missing == "error":
        refuse_missing(filled.missing)
    assert filled.prompts is not None
    each = zip(filled.prompts, filled.options_by_row(table.count), strict=True)
    return [make(prompt, **kept) for row, (prompt, kept) in enumerate(each) if row not in filled.missing]


def refuse_missing(missing: Mapping[int, str | None], labels: Sequence[Any] | None = None) -> None:
    """Raise when rows have missing values.

    Args:
        missing: Row, counted from 0 → its column without a value, or None when the prompt itself is missing.
        labels: Index labels of the rows, named beside their positions.

    Raises:
        InvalidInput: There is any; the message names the first ones.
    """
    if not missing:
        return
    named = [
        f"row {row}"
        + (f" (index {labels[row]!r})" if labels is not None and labels[row] != row else "")
        + f" in {_what(missing[row])}"
        for row in sorted(missing)[:_LISTED]
    ]
    more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    raise InvalidInput(
        f"{len(missing)} of the rows have no value: {', '.join(named)}{more}. "
        'Fill them, drop them, or skip them with missing="skip".'
    )


def _what(column: str | None) -> str:
    return "the prompt" if column is None else f"column {column!r}"
