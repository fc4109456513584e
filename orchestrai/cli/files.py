"""Batch files: what can be read as tasks is read and checked whole, before anything is sent."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from orchestrai.errors import InvalidFile, InvalidInput, nearest
from orchestrai.results.files import NEEDS_PYARROW
from orchestrai.task import TASK_OPTIONS, Task

if TYPE_CHECKING:
    import pandas as pd

KINDS: Final = ("json", "jsonl", "csv", "parquet")
"""The kinds of batch files, by the ending of their name."""

_METADATA: Final = "metadata"  # joins the tags
_SEPARATORS: Final = (",", ";", "\t")  # the first that the header holds


def kind_of(path: Path) -> str:
    """Return json, jsonl, csv or parquet, by the ending of the name.

    Raises:
        InvalidFile: It ends differently.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise InvalidFile(f"{path}: unknown kind of file {path.suffix!r}, use one of .{', .'.join(KINDS)}.")
    return kind


def read_tasks(path: Path, template: str | None, platforms: Collection[str]) -> list[Task] | pd.DataFrame | list[Any]:
    """Return the tasks of a batch file, as `Orchestrator.batch` takes them.

    Args:
        path: A JSON list, one JSON value a line (jsonl), CSV or Parquet.
        template: Template for rows; None takes tasks from JSON and the `prompt` column from tables.
        platforms: The names that a task may give as its platform.

    Returns:
        Tasks for JSON without a template, the row objects for JSON with one, else a DataFrame. Cells of a CSV file
        are text, exactly as they stand, and missing where they are empty.

    Raises:
        InvalidFile: The file cannot be read, holds nothing, or a row is no task; the message names the file, the
            row and the field.
    """
    kind = kind_of(path)
    if kind in ("json", "jsonl"):
        items = list(_json_items(path) if kind == "json" else _json_lines(path))
        if not items:
            raise InvalidFile(f"{path}: holds no tasks.")
        if template is not None:
            return [_row_object(item) for item in items]
        reader = _TaskReader(platforms)
        return [reader.read(item) for item in items]
    frame = _read_csv(path) if kind == "csv" else _read_parquet(path)
    if frame.empty:
        raise InvalidFile(f"{path}: holds no rows.")
    if template is None and "prompt" not in frame.columns:
        hint = nearest("prompt", frame.columns)
        raise InvalidFile(f"{path}: no column 'prompt'.{hint} Rename one, or give --prompt a template with {{column}}.")
    return frame


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        path: The file.
        what: What it is to be, for the message: "a JSON Schema".

    Raises:
        InvalidFile: It cannot be read, or holds something else.
    """
    value = _parsed(_text(path), str(path))
    if not isinstance(value, dict):
        raise InvalidFile(f"{path}: {what} is a JSON object, not {_json_type(value)}.")
    return value


# --- JSON


class _Item(NamedTuple):
    """One value of a JSON file, and where it stands: "tasks.json, item 3"."""

    where: str
    value: Any


def _json_items(path: Path) -> Iterator[_Item]:
    value = _parsed(_text(path), str(path))
    if not isinstance(value, list):
        raise InvalidFile(
            f"{path}: a JSON batch file is a list of prompts or of task objects, not {_json_type(value)}."
        )
    return (_Item(f"{path}, item {number} (from 0)", item) for number, item in enumerate(value))


def _json_lines(path: Path) -> Iterator[_Item]:
    # Only line feeds end a line: str.splitlines would also split at U+2028 inside a string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _Item(where, _parsed(line, where, lines=False))


def _parsed(text: str, where: str, *, lines: bool = True) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        at = f", line {error.lineno}, column {error.colno}" if lines else f", column {error.colno}"
        raise InvalidFile(f"{where}{at}: no valid JSON ({error.msg}).") from None


def _row_object(item: _Item) -> dict[str, Any]:
    if not isinstance(item.value, dict):
        raise InvalidFile(f"{item.where}: with --prompt every row is an object, this is {_json_type(item.value)}.")
    return item.value


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field of a task object may hold."""

    what: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_parents(value: Any) -> bool:
    return all(_is_whole(one) or isinstance(one, str) for one in (value if isinstance(value, list) else [value]))


_TEXT: Final = _Field("a string", lambda value: isinstance(value, str))
_WHOLE: Final = _Field("a whole number", _is_whole)
_NUMBER: Final = _Field("a number", _is_number)
_OBJECT: Final = _Field("an object", lambda value: isinstance(value, dict))
_PARENTS: Final = _Field("the number of an item (from 0), the id of a task, or a list of these", _is_parents)
_FIELDS: Final[Mapping[str, _Field]] = {
    "prompt": _Field("a string or a list of messages", lambda value: isinstance(value, str | list)),
    "system": _TEXT,
    "platform": _Field("a string or a list of strings", lambda value: isinstance(value, str) or _is_texts(value)),
    "strict": _Field("true or false", lambda value: isinstance(value, bool)),
    "model": _TEXT,
    "schema": _Field("a JSON Schema object", lambda value: isinstance(value, dict)),
    "samples": _WHOLE,
    "max_tokens": _WHOLE,
    "temperature": _NUMBER,
    "effort": _TEXT,
    "timeout_s": _NUMBER,
    "extra": _Field(
        "an object of objects", lambda value: isinstance(value, dict) and all(map(_OBJECT.fits, value.values()))
    ),
    "files": _Field("a list of paths", _is_texts),
    "chain": _TEXT,
    "type": _TEXT,
    "priority": _NUMBER,
    "tags": _OBJECT,
    "context": _OBJECT,
    "parent": _PARENTS,
    "depends_on": _PARENTS,
    _METADATA: _OBJECT,
}
assert set(_FIELDS) == {"prompt", _METADATA, *TASK_OPTIONS}, "a new field of Task is missing here"


class _TaskReader:
    """Makes Tasks of the values of a JSON file, each checked field by field."""

    def __init__(self, platforms: Collection[str]) -> None:
        self._platforms = platforms
        self._schemas: dict[bytes, dict[str, Any]] = {}  # equal schemas become one object, which is compiled once

    def read(self, item: _Item) -> Task:
        value = {"prompt": item.value} if isinstance(item.value, str) else item.value
        if not isinstance(value, dict):
            raise InvalidFile(f"{item.where}: a task is a string or an object, not {_json_type(value)}.")
        fields = {name: field for name, field in value.items() if field is not None}
        for name, field in fields.items():
            known = _FIELDS.get(name)
            if known is None:
                raise InvalidFile(
                    f"{item.where}: unknown field {name!r}.{nearest(name, _FIELDS)} "
                    "(To send rows of your own fields, give --prompt a template.)"
                )
            if not known.fits(field):
                raise InvalidFile(f"{item.where}, field {name!r}: must be {known.what}, not {_json_type(field)}.")
        self._check_prompt(item.where, fields)
        self._check_platforms(item.where, fields.get("platform"))
        for path in fields.get("files", ()):
            if not Path(path).expanduser().is_file():
                raise InvalidFile(f"{item.where}, field 'files': there is no file {path!r}.")
        labels = {**fields.pop(_METADATA, {}), **fields.get("tags", {})}
        if labels:
            fields["tags"] = {key: label if isinstance(label, str) else _label(label) for key, label in labels.items()}
        if "schema" in fields:
            fields["schema"] = self._schema(item.where, fields["schema"])
        return _task(item.where, fields)

    def _check_prompt(self, where: str, fields: Mapping[str, Any]) -> None:
        prompt = fields.get("prompt")
        if prompt is None:
            raise InvalidFile(f"{where}: the field 'prompt' is missing.")
        if isinstance(prompt, str) and not prompt.strip() and not fields.get("files"):
            raise InvalidFile(f"{where}, field 'prompt': is empty.")

    def _check_platforms(self, where: str, hint: str | list[str] | None) -> None:
        for name in [hint] if isinstance(hint, str) else hint or ():
            if name not in self._platforms:
                known = ", ".join(sorted(self._platforms))
                raise InvalidFile(
                    f"{where}, field 'platform': unknown platform {name!r}.{nearest(name, self._platforms)} "
                    f"Known: {known or 'none'}."
                )

    def _schema(self, where: str, schema: dict[str, Any]) -> dict[str, Any]:
        from orchestrai.schemas import answer_schema

        text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
        if text not in self._schemas:
            try:
                answer_schema(schema)
            except InvalidInput as error:
                raise InvalidFile(f"{where}, field 'schema': {error}") from None
            self._schemas[text] = schema
        return self._schemas[text]


def _task(where: str, fields: Mapping[str, Any]) -> Task:
    try:
        return Task(**fields)
    except InvalidInput as error:
        raise InvalidFile(f"{where}, field {_refused(fields)!r}: {error}") from None


def _refused(fields: Mapping[str, Any]) -> str:
    """Return the field that Task refuses: the one that is refused alone."""
    for name, value in fields.items():
        try:
            Task(**{"prompt": "-", name: value})
        except InvalidInput:
            return name
    return "prompt"


def _label(value: Any) -> str:
    return orjson.dumps(value).decode()


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names: dict[type, str] = {str: "a string", dict: "an object", list: "a list"}
    return names.get(type(value)) or f"the number {value}"


# --- tables


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    text = _text(path)
    csv.field_size_limit(2**31 - 1)  # a cell may be a whole document; the default is 131,072 characters
    # Without newline="" line breaks inside of cells would be changed.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
    header: list[str] = []
    rows: list[list[str]] = []
    line = 1
    try:
        for cells in reader:
            if cells and not header:
                header = _checked_header(cells, f"{path}, line {line}")
            elif cells:
                if len(cells) != len(header):
                    raise InvalidFile(f"{path}, line {line}: {len(cells)} fields, but the header has {len(header)}.")
                rows.append(cells)
            line = reader.line_num + 1  # where the next row begins
    except csv.Error as error:
        raise InvalidFile(f"{path}, line {line}: no valid CSV ({error}).") from None
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    texts = ([cell or None for cell in column] for column in columns)
    return pd.DataFrame({name: pd.Series(cells, dtype="str") for name, cells in zip(header, texts, strict=True)})


def _separator(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    return next((mark for mark in _SEPARATORS if mark in header), _SEPARATORS[0])


def _checked_header(names: list[str], where: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise InvalidFile(f"{where}: two columns are named {name!r}. Rename one.")
    return names


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    _check_readable(path)
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
    except ImportError:
        raise InvalidFile(f"{path}: {NEEDS_PYARROW}") from None
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidFile(f"{path}: no readable Parquet file ({error}).") from None


# --- bytes


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise InvalidFile(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise InvalidFile(f"{path}: this is a folder, not a file.") from None
    except OSError as error:
        raise InvalidFile(f"{path}: cannot read this file ({error.strerror}).") from None


def _text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    _check_readable(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: no text in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    if not text.strip():
        raise InvalidFile(f"{path}: the file is empty.")
    return text
