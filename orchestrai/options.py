"""The options of the calls, once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from orchestrai.attachments import Attachment
from orchestrai.task import Effort, TaskType

F = TypeVar("F", bound=Callable[..., Any])

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
    type: TaskType | None
    priority: int
    tags: Mapping[str, str]


class CallOptions(TaskOptions, total=False):
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
    """Show another call's signature to inspectors and completion, which cannot read `Unpack`."""

    def give(function: F) -> F:
        function.__signature__ = inspect.signature(other)  # type: ignore[attr-defined]  # inspect reads it from here
        return function

    return give
