"""The options of the calls, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args

from orchestrai.attachments import Attachment
from orchestrai.errors import InvalidInput, InvalidSettings, nearest
from orchestrai.messages import check_characters
from orchestrai.settings import dollars
from orchestrai.task import Effort, TaskType

F = TypeVar("F", bound=Callable[..., Any])

Confirm = Literal["auto", "always", "never"]
OnError = Literal["continue", "stop", "raise"]
ProgressMode = Literal["auto", "widget", "text", "off"]


class TaskOptions(TypedDict, total=False):
    """Options of a task; those of `orchestrai.Task` of the same names."""

    system: str | None
    platform: str | Sequence[str] | None
    strict: bool
    model: str | None
    schema: Any
    samples: int
    max_tokens: int | None
    temperature: float | None
    effort: Effort | None
    timeout_s: float
    extra: Mapping[str, Mapping[str, Any]] | None
    files: Sequence[str | Path | Attachment]
    chain: str | None
    parent: Any
    depends_on: Any
    type: TaskType | None
    priority: int
    tags: Mapping[str, str]


class SpendOptions(TypedDict, total=False):
    """Options of every call that say what it may cost, and whether it asks first."""

    max_cost: Decimal | float | str | None
    deadline: float | datetime | None
    confirm: Confirm


class CallOptions(TaskOptions, SpendOptions, total=False):
    """Options of `start`, `as_completed` and the sync calls: those of `Orchestrator.batch`."""

    prompt: str | None
    into: str | None
    missing: Literal["skip", "error"]
    mix: bool
    concurrency: int | None
    on_error: OnError
    reuse: bool | None
    name: str | None
    progress: ProgressMode


def signature_of(other: Callable[..., Any]) -> Callable[[F], F]:
    """Show another call's parameters to inspectors and completion, which cannot read `Unpack`."""

    def give(function: F) -> F:
        own = inspect.signature(function).return_annotation
        shown = inspect.signature(other).replace(return_annotation=own)
        function.__signature__ = shown  # type: ignore[attr-defined]  # inspect reads it from here
        return function

    return give


def check_call(call: Mapping[str, Any], on_error: Sequence[str] = ("continue", "stop")) -> None:
    """Refuse options of a call that no call could mean; those of tasks are checked with the tasks.

    Args:
        call: The options that were given; None is not given.
        on_error: What `on_error` may be for this call.

    Raises:
        InvalidInput: One has an impossible value.
    """
    for name, known in (
        ("on_error", on_error),
        ("progress", get_args(ProgressMode)),
        ("confirm", get_args(Confirm)),
    ):
        value = call.get(name)
        if value is not None and value not in known:
            raise InvalidInput(f"{name} is one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
    for name in ("reuse", "mix"):
        if not isinstance(call.get(name), bool | None):
            raise InvalidInput(f"{name} is True or False, not {call[name]!r}.")
    for name in ("name", "into"):
        text = call.get(name)
        if not isinstance(text, str | None) or text == "":
            raise InvalidInput(f"{name} is a string that is not empty, not {text!r}.")
        if text is not None:
            check_characters(name, text)
    max_cost_of(call)
    latest_of(call, 0)
    ceiling = call.get("concurrency")
    if ceiling is not None and (isinstance(ceiling, bool) or not isinstance(ceiling, int) or ceiling < 1):
        raise InvalidInput(f"concurrency is a whole number of at least 1, not {ceiling!r}.")


def max_cost_of(call: Mapping[str, Any]) -> Decimal | None:
    """Return the hard cap of a call [USD]; None without one.

    Raises:
        InvalidInput: It is no amount of USD.
    """
    if call.get("max_cost") is None:
        return None
    try:
        return dollars(call["max_cost"], "max_cost")
    except InvalidSettings as error:
        raise InvalidInput(str(error)) from None


def latest_of(call: Mapping[str, Any], now_us: int) -> int | None:
    """Return until when the tasks of a call may wait for a window [µs since 1970]; None for not at all.

    Args:
        call: Its options; `deadline` is a number of seconds from now, or a moment (local time where it has no zone).
        now_us: Now [µs since 1970].

    Raises:
        InvalidInput: It is neither.
    """
    deadline = call.get("deadline")
    if deadline is None:
        return None
    if isinstance(deadline, datetime):
        return int(deadline.astimezone(UTC).timestamp() * 1_000_000)
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 <= deadline < 10**10:
        raise InvalidInput(f"deadline is a number of seconds from now, or a datetime, not {deadline!r}.")
    return now_us + int(deadline * 1_000_000)
