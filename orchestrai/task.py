"""Task: one prompt to be answered once, with everything that can change the answer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import orjson

from orchestrai import attachments
from orchestrai.attachments import Attachment
from orchestrai.errors import InvalidInput, nearest
from orchestrai.handoff import HandoffContext, digest_of, marked_slots
from orchestrai.ids import is_id
from orchestrai.messages import Prompt, canonical, check_characters, described, prompt_from
from orchestrai.text import excerpt
from orchestrai.values import quickly_made

if TYPE_CHECKING:
    import pandas as pd

TaskType = Literal[
    "code_generation",
    "refactoring",
    "research",
    "data_analysis",
    "documentation",
    "code_review",
    "sql_db_work",
    "testing",
    "debugging",
    "planning",
]
Effort = Literal["minimal", "low", "medium", "high"]

TASK_TYPES: Final = frozenset(get_args(TaskType))
_KEY_VERSION: Final = 1  # raise it when the meaning of a key changes: older answers are then asked again


@quickly_made
@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to be answered once. Unset options are None and take the value of the call.

    Args:
        prompt: A string or a list of messages.
        system: System prompt.
        platform: Platform tried first; a tuple is an order.
        strict: With `platform`: never fall back to another.
        model: A requirement: never replaced by another model.
        schema: Pydantic model, dataclass, TypedDict, Literal or JSON Schema dict of the answer.
        samples: Number of independent answers.
        max_tokens: Output limit [tokens].
        temperature: Sampling temperature.
        effort: Reasoning effort.
        timeout_s: Wall clock of one attempt [s].
        extra: `{platform: {field: value}}`, passed to that provider as it is.
        files: Text files and images that go with the prompt: paths or attachments.
        chain: Chain the task belongs to: its name, or the id of one of its runs.
        parent: Whose answers it works with, one or several: a Result, the id of a task or memory, a HandoffContext; of the same
            batch a Task or its index. Their texts take the place of `{parent}` or `{parents}`, or stand at the end.
        depends_on: Tasks that have to succeed before it starts; of their texts it is given nothing.
        type: Kind of work; orders platforms of equal cost.
        priority: 0 first … 10 last.
        tags: Free labels that reach the ledger.
        context: Anything of the caller's own; carried along, never sent.

    Raises:
        InvalidPrompt: The prompt is neither a string nor a list of messages.
        InvalidInput: An option has an impossible value.
    """

    prompt: Prompt
    system: str | None = None
    platform: str | tuple[str, ...] | None = None
    strict: bool | None = None
    model: str | None = None
    schema: Any = None
    samples: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    effort: Effort | None = None
    timeout_s: float | None = None
    extra: Mapping[str, Mapping[str, Any]] | None = None
    files: tuple[str | Path | Attachment, ...] | None = None
    chain: str | None = None
    parent: Any = None
    depends_on: Any = None
    type: TaskType | None = None
    priority: int | None = None
    tags: Mapping[str, str] | None = None
    context: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if type(self.prompt) is not str:
            object.__setattr__(self, "prompt", prompt_from(self.prompt))
        files: Any = self.files  # what was given may be one file, or any sequence of them
        if files is not None and type(files) is not tuple:
            one = isinstance(files, str | Path | Attachment)
            object.__setattr__(self, "files", (files,) if one else _several("files", files))
        for file in self.files or ():
            if not isinstance(file, str | Path | Attachment):
                raise InvalidInput(f"files are paths or attachments, not {type(file).__name__}.")
        for name in ("parent", "depends_on"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, named_tasks(name, getattr(self, name)))
        hints: Any = self.platform
        if hints is not None and not isinstance(hints, str | tuple):
            object.__setattr__(self, "platform", _several("platform", hints))
        _check_options(self)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform hints in order, as a tuple."""
        hint = self.platform
        return () if hint is None else (hint,) if isinstance(hint, str) else hint

    @property
    def key(self) -> str:
        """32 hex digits of all that can change the answer; tasks with equal keys are asked once.

        It covers prompt, system, schema, digests of the files (which are read for it), model, max_tokens,
        temperature, effort, extra and the answers of its parents; not platform, tags, priority or timeout.
        """
        return self.sample_key(0).hex()

    def sample_key(self, sample: int, schema_digest: str | None = None, handed: Any = None) -> bytes:
        """Return the key of the given sample: the first 16 bytes of a SHA-256.

        Args:
            sample: Number of the independent answer, from 0.
            schema_digest: Digest of the schema where the caller has compiled it already.
            handed: What the task is handed, as JSON, where more is known of it than the task says itself.
        """
        if self.schema is not None and schema_digest is None:
            from orchestrai import schemas

            schema_digest = schemas.answer_schema(self.schema).digest
        value = (
            _KEY_VERSION,
            canonical(self.prompt),
            self.system,
            schema_digest,
            [described(a) for a in attached(self)] if self.files else None,
            self.model,
            self.max_tokens,
            None if self.temperature is None else float(self.temperature),  # 0 asks for what 0.0 asks for
            self.effort,
            self.extra,
            sample,
        )
        if handed is None and self.parent:
            handed = {"parents": [_mark(parent) for parent in self.parent]}
        if handed is not None:  # else the key is what it was before there were parents
            value = (*value, handed, marked_slots(self.prompt))  # type: ignore[assignment]  # a longer tuple
        try:
            text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=_as_json)
        except TypeError:  # lone surrogates; such a task is refused before sending, but it has a key
            text = repr(value).encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).digest()[:16]

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, prompt: str, **options: Any) -> list[Task]:
        """Return one Task for each row of a DataFrame, in its order.

        Args:
            frame: Any DataFrame.
            prompt: Template; `{column}` is replaced by the cell's text.
            **options: Task options; strings among them may hold `{column}` too.

        Raises:
            InvalidTemplate: The template names a column that the frame does not have.
            InvalidInput: A row has a missing value that the template reads.
        """
        from orchestrai import prompts

        return prompts.tasks_from_rows(frame, prompt, options, missing="error", make=cls)


TASK_OPTIONS: Final = tuple(f.name for f in fields(Task) if f.name != "prompt")


def attached(task: Task) -> tuple[Attachment, ...]:
    """Return the files of a task, hashed; those given as paths are read.

    Raises:
        InvalidInput: A file cannot be read.
    """
    return tuple(f if isinstance(f, Attachment) else attachments.from_path(f) for f in task.files or ())


def _as_json(value: Any) -> Any:
    """Make the rarer values of `extra` hashable: sets and bytes by content, anything else by its text."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _check_options(task: Task) -> None:
    """Refuse values that no platform could mean anything by."""
    for name, text in (("system", task.system), ("model", task.model), ("chain", task.chain)):
        if text is not None and not isinstance(text, str):
            raise InvalidInput(f"{name} is a string, not {type(text).__name__}.")
        if text is not None and name != "system":  # a system prompt may differ by row, and refuses its row alone
            check_characters(name, text)
    if task.samples is not None and not (_is_whole(task.samples) and task.samples >= 1):
        raise InvalidInput(f"samples is a whole number of at least 1, not {task.samples!r}.")
    if task.max_tokens is not None and not (_is_whole(task.max_tokens) and task.max_tokens >= 1):
        raise InvalidInput(f"max_tokens is a whole number of at least 1, not {task.max_tokens!r}.")
    if task.timeout_s is not None and not (_is_number(task.timeout_s) and 0 < task.timeout_s < math.inf):
        raise InvalidInput(f"timeout_s is a number of seconds above 0, not {task.timeout_s!r}.")
    if task.temperature is not None and not (_is_number(task.temperature) and 0 <= task.temperature <= 2):
        raise InvalidInput(f"temperature lies between 0 and 2, not at {task.temperature!r}.")
    if task.priority is not None and not (_is_whole(task.priority) and 0 <= task.priority <= 10):
        raise InvalidInput(f"priority is a whole number from 0 (first) to 10 (last), not {task.priority!r}.")
    if task.strict is not None and not isinstance(task.strict, bool):
        raise InvalidInput(f"strict is True or False, not {task.strict!r}.")
    if task.type is not None and task.type not in TASK_TYPES:
        raise InvalidInput(f"unknown task type {task.type!r}.{nearest(task.type, TASK_TYPES)}")
    if task.effort is not None and task.effort not in get_args(Effort):
        raise InvalidInput(f"unknown effort {task.effort!r}.{nearest(task.effort, get_args(Effort))}")
    if task.tags is not None:
        _check_tags(task.tags)
    if task.extra is not None and not (
        isinstance(task.extra, Mapping) and all(isinstance(fields, Mapping) for fields in task.extra.values())
    ):
        raise InvalidInput(f"extra is a dict of dicts, {{platform: {{field: value}}}}, not {task.extra!r}.")


def _several(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, Iterable):
        raise InvalidInput(f"{name} is one value or a list of them, not {values!r}.")
    return tuple(values)


def named_tasks(name: str, given: Any) -> tuple[Any, ...]:
    """Return what a task names of other tasks, one or several, as a tuple.

    Args:
        name: Name of the option.
        given: What was given for it.

    Raises:
        InvalidInput: Something among it names no task.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    others = tuple(given) if several else (given,)
    for other in others:
        if isinstance(other, bool) or not (isinstance(other, str | int | Task | HandoffContext) or _is_result(other)):
            raise InvalidInput(
                f"{name} is a Result, a HandoffContext, the id of a task, or a Task or index of the same batch; "
                f"not {type(other).__name__}."
            )
        if isinstance(other, str) and not is_id(other):
            raise InvalidInput(
                f"{name} names a task by its Result or its id (32 hex digits), and {excerpt(other, 40)!r} is none. A text "
                "of your own is handed over from memory: parent=await orch.memory.add(text)."
            )
    return others


def _is_result(value: Any) -> bool:
    """Return True for a Result, whose module stands above this one."""
    return hasattr(value, "task_id") and hasattr(value, "output")


def _mark(parent: Any) -> list[Any]:
    """Return what of a parent can change the answer: its text, or as long as that is not known, what it comes from."""
    if isinstance(parent, HandoffContext):
        return [parent.digest, None]
    if isinstance(parent, Task):
        return ["task", parent.key]
    if isinstance(parent, str | int):
        return ["named", parent]
    return [digest_of(parent.output or ""), None]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_tags(tags: object) -> None:
    if not isinstance(tags, Mapping):
        raise InvalidInput(f"tags is a dict of labels, not {type(tags).__name__}.")
    for name, value in tags.items():
        if not isinstance(name, str) or not (isinstance(value, str) or _is_number(value)):
            raise InvalidInput(f"tags is a dict of labels, name to text; {name!r}: {value!r} is none.")
