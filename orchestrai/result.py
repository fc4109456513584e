"""Result: the outcome of one task, with its usage and its money."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from orchestrai.errors import ErrorClass, HandoffContextMissing, TaskFailed
from orchestrai.task import Task
from orchestrai.values import quickly_made

Status = Literal["succeeded", "failed", "cancelled", "skipped"]
Tier = Literal["free", "subscription", "paid", "local"]
UsageSource = Literal["provider", "cli", "estimated", "none"]


@quickly_made
@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more attempts; None is unknown, never zero for unknown.

    Args:
        input_tokens: All input, cached and written ones included [tokens].
        cache_read_tokens: Part of the input that came from the provider's cache [tokens].
        cache_write_tokens: Part of the input written to the provider's cache [tokens].
        output_tokens: All output, reasoning included [tokens].
        reasoning_tokens: Part of the output that was reasoning [tokens].
        source: Who counted: the provider's reply, a command-line client's report, an estimate, or nobody.
    """

    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    source: UsageSource = "none"

    @property
    def total_tokens(self) -> int | None:
        """Input and output together; None when either is unknown."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Return the sum of two attempts; what one of them does not know counts by the other alone."""
        if self.source == "none":
            return other
        if other.source == "none":
            return self

        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            add(self.input_tokens, other.input_tokens),
            add(self.cache_read_tokens, other.cache_read_tokens),
            add(self.cache_write_tokens, other.cache_write_tokens),
            add(self.output_tokens, other.output_tokens),
            add(self.reasoning_tokens, other.reasoning_tokens),
            self.source if self.source == other.source else "estimated",
        )


NO_USAGE = Usage()


@quickly_made
@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one task. `bool(r)` is `r.success`, `str(r)` the answer or `''`.

    Args:
        task: The task, with the options of its call filled in.
        output: The answer; None on failure.
        parsed: The validated value when the task has a schema.
        status: succeeded, failed, cancelled or skipped.
        error: What went wrong, in one line; None on success.
        error_class: Why, in one word of `orchestrai.errors.ErrorClass`.
        finish_reason: Why the model stopped: stop, length, filter, tool; None when unknown.
        platform: Who answered, or who failed last.
        model: The model that answered, as the provider names it.
        tier: free, subscription, paid or local.
        usage: Tokens over every attempt of the task in this call.
        cost: Cash over every attempt in this call [USD]; 0 on free, subscription, local and when reused;
            None when unknown.
        list_cost: What the same tokens cost on the paid API [USD]; None when unpriced.
        duration_s: From the first attempt's start to the answer [s]; 0 when reused.
        attempts: Requests sent for it in this call.
        reused: True when the answer came from the ledger or from an equal task of the same call.
        index: Position in the input.
        row: Label of the row in the input frame's index; None for other inputs.
        sample: Number of the independent answer, from 0.
        answered_at: When the answer was given [µs since 1970, UTC].
        task_id: Id of the task in the ledger.
        batch_id: Id of the call in the ledger.
        chain_id: Id of its chain, if any.
        parent_id: Task id of its first parent, if any.
        reused_from: Task id of the one that was asked, when the answer is reused.
    """

    task: Task
    output: str | None = None
    parsed: Any = None
    status: Status = "failed"
    error: str | None = None
    error_class: ErrorClass | None = None
    finish_reason: str | None = None
    platform: str | None = None
    model: str | None = None
    tier: Tier | None = None
    usage: Usage = NO_USAGE
    cost: Decimal | None = Decimal(0)
    list_cost: Decimal | None = None
    duration_s: float = 0.0
    attempts: int = 0
    reused: bool = False
    index: int = 0
    row: Any = None
    sample: int = 0
    answered_at: int | None = None
    task_id: str | None = None
    batch_id: str | None = None
    chain_id: str | None = None
    parent_id: str | None = None
    reused_from: str | None = None

    @property
    def success(self) -> bool:
        """True when there is an answer."""
        return self.status == "succeeded"

    def __bool__(self) -> bool:
        return self.status == "succeeded"

    def __str__(self) -> str:
        return self.output or ""

    def raise_for_failure(self) -> Result:
        """Return this result, or raise when it is no success.

        Raises:
            TaskFailed: The task failed, was cancelled or skipped; the error carries this result.
            HandoffContextMissing: What its parent handed over is gone or was altered; nothing was sent.
        """
        if self.status == "succeeded":
            return self
        where = f" on {self.platform}" if self.platform else ""
        kind = HandoffContextMissing if (self.status, self.error_class) == ("failed", "parent") else TaskFailed
        raise kind(f"{self.status}{where} ({self.error_class}): {self.error}", self)

    def display_markdown(self) -> None:
        """Show the answer as Markdown in a notebook: raw HTML in it stays text, links go to the web or to mail alone, and
        pictures are their descriptions.
        """
        from IPython.display import display

        from orchestrai import text
        from orchestrai.markdown import markdown_block

        shown = {"text/plain": text.result_block(self), "text/html": markdown_block(self.output or text.failure(self))}
        display(shown, raw=True)  # type: ignore[no-untyped-call]  # IPython's display has no types

    def __repr__(self) -> str:
        from orchestrai import text

        return text.result_line(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        from orchestrai import html, text

        return {"text/plain": text.result_block(self), "text/html": html.result_block(self)}
