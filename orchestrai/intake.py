"""Intake: whatever a caller gives as prompts becomes Tasks, one for each row, in order."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, get_args

from orchestrai.attachments import Attachment
from orchestrai.errors import InvalidInput, InvalidPrompt, InvalidTemplate, nearest
from orchestrai.messages import Message, lone_surrogate, prompt_from
from orchestrai.parents import within_call
from orchestrai.prompts import Missing, Rows, RowTemplates, Template, is_missing, refuse_missing
from orchestrai.task import TASK_OPTIONS, Task

if TYPE_CHECKING:
    import pandas as pd

_FIELDS: Final = frozenset(("prompt", *TASK_OPTIONS))
_PROMPT_COLUMN: Final = "prompt"  # where the prompts of a DataFrame stand when there is no template
_UNNAMED: Final = "value"  # the column of a Series without a name
_NO_PROMPT: Final = "the prompt is missing"


@dataclass(frozen=True, slots=True)
class Intake:
    """What a call is to do, before any of it is planned.

    Args:
        tasks: One for each row of the input, in its order, with the call's options where the row set none. The
            task of a row that is not sent stands there too; where a value was missing its prompt is "".
        refused: Row, counted from 0 → why it is not sent.
        labels: The index labels of a DataFrame or Series; None for other inputs.
        frame: The input as a frame: a copy of the DataFrame, the Series as its one column, or the row dicts; None
            for prompts and Tasks.
        columns: The columns that any template reads, as text.
    """

    tasks: list[Task]
    refused: dict[int, str]
    labels: Sequence[Any] | None = None
    frame: pd.DataFrame | None = None
    columns: tuple[str, ...] = ()


def take(
    prompts: Any,
    *,
    prompt: str | None = None,
    missing: Missing = "skip",
    options: Mapping[str, Any],
    parents: Sequence[Any] | None = None,
) -> Intake:
    """Return one Task for each row of whatever `batch`, `plan` and `start` accept.

    Args:
        prompts: Strings, lists of messages, Tasks and dicts of Task fields, mixed, in any iterable; with `prompt`
            dicts are rows. A DataFrame (its `prompt` column when `prompt` is None), a Series (of prompts; with
            `prompt` a column named as the Series is, "value" without a name), or anything with `to_pandas()`.
        prompt: Template for rows.
        missing: "skip" refuses the rows without a value that a template reads; "error" refuses the call.
        options: Task options of the call. With rows, `system`, `files`, `model`, `platform` and the values of
            `tags` are templates too. A task's own fields win, and tags are merged.
        parents: A parent for each row, which takes the place of an option `parent`.

    Raises:
        InvalidInput: The input is of no such kind, a row has an unknown field, or an option an impossible value;
            with `missing="error"` also: a row has no value. The message names the row, counted from 0. Or a row's parent
            is not among the rows, or rows wait for each other in a circle.
        InvalidTemplate: A template is not well formed, or reads a column that the rows do not have.
        InvalidPrompt: A row is neither a string nor a list of messages.
    """
    call = _Call(prompt, missing, options, parents)
    source = _framed(prompts)
    if source is None:
        values = list(_iterable(prompts))
        if prompt is None:
            return call.intake(values)
        dicts = [_row_dict(value, row) for row, value in enumerate(values)]
        return call.intake_rows(Rows(dicts), frame=_frame_of(dicts))
    labels = source.index.tolist()
    if source.ndim == 2:
        return call.intake_rows(Rows(source), labels=labels, frame=source.copy())
    frame = source.to_frame(name=_UNNAMED if source.name is None else source.name).copy()
    if prompt is not None:
        return call.intake_rows(Rows(frame), labels=labels, frame=frame)
    # Without a template a Series is a list of prompts: braces in the options stay braces, as they do with a list.
    return call.intake(Rows(frame).cells(0), labels=labels, frame=frame, columns=(str(frame.columns[0]),))


def take_one(prompt: Any, *, options: Mapping[str, Any]) -> Task:
    """Return the Task of one prompt: a string, a list of messages, a Task, or a dict of Task fields.

    Args:
        prompt: The prompt.
        options: Task options of the call; the task's own fields win, and tags are merged.

    Raises:
        InvalidPrompt: It is none of these, missing, empty, or holds a lone surrogate.
        InvalidInput: An option has an impossible value.
    """
    if _framed(prompt) is not None:
        raise InvalidPrompt("A frame holds many prompts: send its rows with batch(frame, prompt=…).")
    task, reason = _Call(None, "skip", options).task(prompt, None)
    if reason is not None:
        raise InvalidPrompt(_sentence(reason))
    return task


def take_each(
    prompts: Iterable[Any], *, prompt: str | None = None, missing: Missing = "skip", options: Mapping[str, Any]
) -> Iterator[tuple[int, Task, str | None, Any]]:
    """Return an iterator that reads the input only as far as it is asked to, for inputs of any length.

    Args:
        prompts: As in `take`. Frames are in memory already and are taken whole. With dicts as rows the first one
            decides which columns there are.
        prompt: As in `take`.
        missing: As in `take`; "error" raises at the row.
        options: As in `take`.

    Returns:
        Row (counted from 0), Task, why it is not sent (None when it is), index label (None without an index).

    Raises:
        InvalidInput: As `take`; what concerns a row of an iterable is raised when that row is reached.
    """
    if _framed(prompts) is None:
        read = _Reader(prompt, missing, options).read
        return (read(row, value) for row, value in enumerate(_iterable(prompts)))
    intake = take(prompts, prompt=prompt, missing=missing, options=options)
    labels = intake.labels or ()
    return ((row, task, intake.refused.get(row), labels[row]) for row, task in enumerate(intake.tasks))


async def take_each_async(
    prompts: AsyncIterable[Any], *, prompt: str | None = None, missing: Missing = "skip", options: Mapping[str, Any]
) -> AsyncIterator[tuple[int, Task, str | None, Any]]:
    """Yield what `take_each` yields, from an asynchronous iterable.

    Raises:
        InvalidInput: As `take_each`.
    """
    read = _Reader(prompt, missing, options).read
    row = 0
    async for value in prompts:
        yield read(row, value)
        row += 1


class _Call:
    """The template and the options of one call, checked once."""

    __slots__ = ("missing", "options", "parents", "prompt")

    def __init__(
        self,
        prompt: str | None,
        missing: Missing,
        options: Mapping[str, Any],
        parents: Sequence[Any] | None = None,
    ) -> None:
        if prompt is not None and not isinstance(prompt, str):
            raise InvalidTemplate(f"prompt= is a template (a string with {{column}}), not {type(prompt).__name__}.")
        if missing not in get_args(Missing):
            raise InvalidInput(f'missing is "skip" or "error", not {missing!r}.')
        for name in options:
            if name not in TASK_OPTIONS:
                raise InvalidInput(f"unknown option {name!r}.{nearest(name, TASK_OPTIONS)}")
        self.prompt = prompt
        self.missing = missing
        given = {name: value for name, value in options.items() if value is not None}
        if not isinstance(given.get("tags", {}), Mapping):
            raise InvalidInput(f"tags is a dict of labels, not {type(given['tags']).__name__}.")
        # Made once for its checks (an impossible value is an error of the call, not one of each row) and for its
        # tuples (an iterator of files would be empty after the first row).
        checked = Task("-", **given)
        if reason := _unsendable(checked):
            raise InvalidInput(_sentence(reason))
        self.options = {name: getattr(checked, name) for name in given}
        self.parents = parents

    def intake_rows(
        self, rows: Rows, *, labels: Sequence[Any] | None = None, frame: pd.DataFrame | None = None
    ) -> Intake:
        """Return the Intake of rows with columns, all templates filled."""
        given = self.options if self.parents is None else {**self.options, "parent": self.parents}
        filled = RowTemplates(self.prompt, given).fill(rows)
        if self.parents is not None:
            filled.varying["parent"] = [*self.parents]
        values: Sequence[Any] = filled.prompts or ()
        columns = filled.columns
        if self.prompt is None and (rows.count or rows.columns):
            values, columns = _prompt_cells(rows), tuple(dict.fromkeys((_PROMPT_COLUMN, *columns)))
        return self.intake(
            values,
            options=filled.options_by_row(rows.count),
            lost=filled.missing,
            labels=labels,
            frame=frame,
            columns=columns,
        )

    def intake(
        self,
        values: Sequence[Any],
        *,
        options: Iterable[dict[str, Any]] | None = None,
        lost: Mapping[int, str | None] | None = None,
        labels: Sequence[Any] | None = None,
        frame: pd.DataFrame | None = None,
        columns: tuple[str, ...] = (),
    ) -> Intake:
        """Return the Intake of prompts in their final form.

        Args:
            values: Anything that `task` accepts.
            options: Options of each row, where they are not those of the call.
            lost: Row → its column without a value.
            labels: See Intake, as for the other two.
            frame: See Intake.
            columns: See Intake.
        """
        tasks: list[Task] = []
        refused: dict[int, str] = {}
        reason: str | None
        without: dict[int, str | None] = dict(lost or {})
        if options is None and self.parents is not None:
            options = ({**self.options, "parent": parent} for parent in self.parents)
        for row, (value, given) in enumerate(zip(values, options or repeat(self.options), strict=False)):
            if row in without:
                task, reason = Task("", **given), _no_value(without[row])
            else:
                task, reason = self.task(value, row, given)
                if reason is _NO_PROMPT:
                    without[row] = None
            tasks.append(task)
            if reason is not None:
                refused[row] = reason
        if self.missing == "error":
            refuse_missing(without, labels)
        return Intake(within_call(tasks, values), refused, labels, frame, columns)

    def task(self, value: Any, row: int | None, given: Mapping[str, Any] | None = None) -> tuple[Task, str | None]:
        """Return the task of one value of the input, and why it is not sent.

        Args:
            value: A string, a list of messages, a Task, a dict of Task fields, or a missing value.
            row: Where it stands, counted from 0; None when it is the only one.
            given: Options of this row; those of the call by default.
        """
        given = self.options if given is None else given
        if type(value) is str:
            task = Task(value, **given)
        elif isinstance(value, Task):
            task = _completed(value, given)
        elif is_missing(value):
            return Task("", **given), _NO_PROMPT
        elif isinstance(value, Mapping):
            task = _from_fields(value, row, given)
            if is_missing(value.get("prompt")):
                return task, _NO_PROMPT
        elif isinstance(value, str):  # NumPy's strings and enums: the text, without the class
            task = Task(str.__str__(value), **given)
        else:
            task = Task(prompt_from(value, "the prompt" if row is None else f"the prompt of row {row}"), **given)
        return task, _unsendable(task)


class _Reader:
    """Reads the values of an input of unknown length, one after the other."""

    __slots__ = ("_call", "_columns", "_templates")

    def __init__(self, prompt: str | None, missing: Missing, options: Mapping[str, Any]) -> None:
        self._call = _Call(prompt, missing, options)
        self._templates = None if prompt is None else RowTemplates(prompt, self._call.options)
        self._columns: dict[Any, None] = {}

    def read(self, row: int, value: Any) -> tuple[int, Task, str | None, Any]:
        """Return the row, its task, why it is not sent, and no label."""
        lost: dict[int, str | None]
        if self._templates is None:
            task, reason = self._call.task(value, row)
            lost = {row: None} if reason is _NO_PROMPT else {}
        else:
            fields = _row_dict(value, row)
            if fields is not None:
                self._columns = self._columns or dict.fromkeys(fields)
                fields = self._columns | dict(fields)
            rows = Rows([fields], first=row)
            filled = self._templates.fill(rows)
            lost = {row + first: column for first, column in filled.missing.items()}  # this row was its row 0
            assert filled.prompts is not None
            given = next(filled.options_by_row(rows.count))
            task, reason = self._call.task(filled.prompts[0], row, given)
            reason = _no_value(lost[row]) if lost else reason
        if self._call.missing == "error":
            refuse_missing(lost)
        return row, task, reason, None


def _framed(value: Any) -> Any:
    """Return a DataFrame or Series as it is, anything that converts itself to one converted, else None."""
    if hasattr(value, "to_pandas") and not isinstance(value, type):
        value = value.to_pandas()
    pandas = sys.modules.get("pandas")  # nobody can hold a frame before pandas was imported
    return value if pandas is not None and isinstance(value, pandas.DataFrame | pandas.Series) else None


def _iterable(prompts: Any) -> Iterable[Any]:
    """Return the input if it holds prompts one by one.

    Raises:
        InvalidInput: It is a single prompt, or nothing that can be walked through.
    """
    if isinstance(prompts, str | Task | Message):
        kind = "string" if isinstance(prompts, str) else type(prompts).__name__
        raise InvalidInput(f"A batch is a list of prompts, not one {kind}. Send one with run(…), or put it in a list.")
    if isinstance(prompts, AsyncIterable):
        raise InvalidInput("An asynchronous iterable is read as it comes by as_completed(…), not all at once.")
    if isinstance(prompts, Mapping):
        raise InvalidInput("A batch is a list of prompts, not a dict. Give list(d.values()), or a DataFrame.")
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | bytearray):
        raise InvalidInput(f"A batch is a list of prompts or a DataFrame, not {type(prompts).__name__}.")
    return prompts


def _row_dict(value: Any, row: int) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if is_missing(value):
        return None
    raise InvalidInput(
        f"row {row} is a {type(value).__name__}: prompt= is a template for rows (a DataFrame, a Series or dicts). "
        "Leave it out to send the prompts as they are."
    )


def _frame_of(rows: Sequence[Mapping[Any, Any] | None]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([row or {} for row in rows], index=range(len(rows)))


def _prompt_cells(rows: Rows) -> list[Any]:
    """Return the cells of the `prompt` column."""
    try:
        position = Template(f"{{{_PROMPT_COLUMN}}}", "the input").positions(rows.columns)[_PROMPT_COLUMN]
    except InvalidTemplate as error:
        raise InvalidTemplate(f"{error} Give prompt= a template to send other columns.") from None
    return rows.cells(position)


def _completed(task: Task, given: Mapping[str, Any]) -> Task:
    """Return the task with the given options where it sets none itself; tags are merged."""
    changes = {name: value for name, value in given.items() if getattr(task, name) is None}
    if task.tags is not None and "tags" in given:
        changes["tags"] = {**given["tags"], **task.tags}
    return replace(task, **changes) if changes else task


def _from_fields(fields: Mapping[Any, Any], row: int | None, given: Mapping[str, Any]) -> Task:
    """Return the task that a dict of Task fields describes; its prompt is "" where there is none."""
    where = "the task" if row is None else f"row {row}"
    if "role" in fields and "content" in fields:
        raise InvalidPrompt(f"{where} is a single message. A prompt is a list of messages, a batch a list of prompts.")
    for name in fields:
        if name not in _FIELDS:
            raise InvalidInput(
                f"{where}: unknown field {name!r}.{nearest(name, _FIELDS)} "
                "A dict holds Task fields; give prompt= a template to use dicts as rows."
            )
    own = {name: value for name, value in fields.items() if name != "prompt" and not is_missing(value)}
    prompt = fields.get("prompt")
    try:
        return _completed(Task("" if is_missing(prompt) else prompt_from(prompt), **own), given)
    except InvalidInput as error:
        raise type(error)(f"{where}: {error}") from None


def _unsendable(task: Task) -> str | None:
    """Return why no provider would accept the task, or None."""
    prompt = task.prompt
    if type(prompt) is str:
        if (not prompt or prompt.isspace()) and not task.files:
            return "the prompt is empty"
        system = task.system
        if prompt.isascii() and task.tags is None and (system is None or (type(system) is str and system.isascii())):
            return None  # the common case, without looking at each letter
    elif not any(isinstance(part, Attachment) or part.strip() for _, part in _parts(task)) and not task.files:
        return "the prompt is empty"
    for where, text in _texts(task):
        if not text.isascii() and (at := lone_surrogate(text)) is not None:
            return (
                f"{where} holds a lone surrogate (U+{ord(text[at]):04X} at position {at}), which no provider accepts: "
                "repair the text, or drop it with text.encode('utf-8', 'ignore').decode()"
            )
    return None


def _parts(task: Task) -> Iterator[tuple[str, Any]]:
    """Yield every part of the messages of a task, and what to call it."""
    if isinstance(task.prompt, str):
        yield "the prompt", task.prompt
        return
    for i, message in enumerate(task.prompt):
        for part in (message.content,) if isinstance(message.content, str) else message.content:
            yield f"message {i} of the prompt", part


def _texts(task: Task) -> Iterator[tuple[str, str]]:
    """Yield every text of a task that leaves this machine or reaches the ledger, and what to call it."""
    for where, part in _parts(task):
        if isinstance(part, str):
            yield where, part
    if isinstance(task.system, str):
        yield "the system prompt", task.system
    for key, value in (task.tags or {}).items():
        for text in (key, value):
            if isinstance(text, str):
                yield f"the tag {key!r}", text


def _no_value(column: str | None) -> str:
    return _NO_PROMPT if column is None else f"column {column!r} has no value"


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."
