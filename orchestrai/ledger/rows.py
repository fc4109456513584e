"""The rows the engine writes: one NamedTuple per append-only table, with the columns that have a source today."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, compress, repeat
from operator import is_not
from typing import Any, Final, NamedTuple


class OfferRow(NamedTuple):
    """A way to be answered, kept once; its id is a digest of the rest, so that every process finds the same."""

    offer_id: int
    platform: str
    transport: str
    provider: str
    tier: str
    model_requested: str
    demo: int  # 1 for the embedded demo model
    account: str | None
    server_address: str | None
    processing: str
    route_reason: str
    route_rank: int


class SendRow(NamedTuple):
    """One request, before it leaves; see `schema` for the meaning of the columns."""

    seq: int  # given when it is written; 0 before
    attempt_id: str
    task_id: str
    attempt_no: int
    attempt_kind: str  # first, retry, reroute, repair
    prompt_seq: int | None  # the task's first request, which has its text; None when this is the first
    batch_id: str
    task_index: int
    sample: int
    key: bytes
    offer_id: int
    est_input_tokens: int | None
    est_output_tokens: int | None
    est_cost: int | None  # expected cash
    system_digest: str | None
    chain_id: str | None
    parent_task_id: str | None  # the first of its parents
    root_task_id: str | None  # where its line of first parents begins
    depth: int | None  # steps from the farthest root; None outside of chains
    task_type: str | None
    priority: int | None
    tags: str | None
    queued_at: int
    started_at: int
    backoff_ms: float | None


class AttemptRow(NamedTuple):
    """How one request ended."""

    send_seq: int
    status: str  # succeeded, failed, cancelled, in_doubt
    settles: int = 0  # 1 when its task is settled by it
    cost: int | None = None
    list_cost: int | None = None
    cost_source: str = "unknown"  # computed, zero, unknown
    price_id: str | None = None
    price_match: str | None = None
    finished_at: int = 0
    duration_ms: float | None = None
    queue_ms: float | None = None
    streamed: int = 0
    schema_valid: int | None = None
    task_cost: int | None = None  # of all attempts, where it settles a task that needed several
    task_list_cost: int | None = None
    task_ms: float | None = None
    # What failed.
    error_class: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    retryable: int | None = None
    retry_after_ms: int | None = None
    # What came back.
    usage_source: str = "none"
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_raw: str | None = None
    http_status: int | None = None
    model_used: str | None = None
    service_tier: str | None = None
    ttft_ms: float | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    rl_requests_left: int | None = None
    rl_tokens_left: int | None = None


class OutcomeRow(NamedTuple):
    """How a task was settled that no attempt of its own settled."""

    task_id: str
    batch_id: str
    task_index: int
    sample: int
    key: bytes
    status: str
    error_class: str | None
    error: str | None
    attempts: int
    reused_from: str | None  # task_id of the task whose answer was reused
    cost: int | None
    list_cost: int | None
    chain_id: str | None
    parent_task_id: str | None
    root_task_id: str | None
    depth: int | None
    task_type: str | None
    priority: int | None
    tags: str | None
    queued_at: int
    settled_at: int
    duration_ms: float | None


class MemoryRow(NamedTuple):
    """What memory holds: a text of its own, or the answer of a request."""

    memory_id: str  # of an answer: the id of the task that was asked
    digest: bytes  # SHA-256 of the text in UTF-8
    chars: int
    text: str | None  # None where it is the answer as it came
    send_seq: int | None  # the request that was answered
    metadata: str | None  # JSON
    chain_id: str | None
    created_at: int


class HandoffRow(NamedTuple):
    """What a task was handed by another, or that it waited for it."""

    task_id: str
    position: int
    kind: str  # parent, after
    parent_task_id: str
    memory_id: str | None
    digest: bytes | None
    spans: str | None  # JSON: what of the text it was given; None for all


class QuotaRow(NamedTuple):
    """What an account's quota window was told to be at one moment."""

    platform: str
    account: str  # a short hash; empty where the platform does not tell accounts apart
    window: str  # in the provider's own word
    used_percent: float | None
    resets_at: int | None  # [µs since 1970]
    source: str
    observed_at: int  # [µs since 1970]


class PromptRow(NamedTuple):
    """The text of a task."""

    send_seq: int  # its first request
    kind: str  # prompt, or messages (JSON)
    text: str


class AnswerRow(NamedTuple):
    """The text that came back."""

    send_seq: int
    text: str


class LoggedAnswer(NamedTuple):
    """An answer that can be reused, as the log of answers has it."""

    seq: int
    key: bytes
    send_seq: int


class SystemRow(NamedTuple):
    """A system prompt, kept once."""

    digest: str  # SHA-256 in hex
    text: str


_TABLES: Final[dict[type, str]] = {
    AnswerRow: "answers",
    AttemptRow: "attempts",
    HandoffRow: "handoffs",
    LoggedAnswer: "answer_log",
    MemoryRow: "memories",
    OfferRow: "offers",
    OutcomeRow: "outcomes",
    PromptRow: "prompts",
    QuotaRow: "quota",
    SendRow: "sends",
    SystemRow: "systems",
}
_TOGETHER: Final = (32, 16, 8)  # rows in one statement; fewer as they are
_MOST_VALUES: Final = 999  # parameters of a statement that older builds of SQLite take


def insert(connection: sqlite3.Connection, kind: type, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows that are not there yet, leaving out what is None.

    sqlite3 spends longer on binding one None than on storing a number, and most rows are half empty: rows that
    fill the same columns share a statement (measured: 15 to 5 µs a row).

    Args:
        connection: In a transaction.
        kind: Class of the rows, or what has its fields in their order.
        rows: The rows.
    """
    alike: dict[tuple[bool, ...], list[tuple[Any, ...]]] = {}
    for row in rows:
        filled = tuple(map(is_not, row, _NONES))
        same = alike.get(filled)
        if same is None:
            same = alike[filled] = []
        same.append(row if False not in filled else tuple(compress(row, filled)))
    for filled, values in alike.items():
        statement = _statement(kind, filled)
        try:
            execute_together(connection, *statement, values)
        except (OverflowError, UnicodeEncodeError, sqlite3.ProgrammingError):
            # A value that no column can hold, said by somebody's adapter: its row is kept without it.
            execute_together(connection, *statement, [tuple(map(_storable, row)) for row in values])


_NONES: Final = repeat(None)


def _storable(value: Any) -> Any:
    """Return the value if SQLite can hold it, else the nearest text, or None for unknown."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    return value if isinstance(value, float | bytes) else None


def execute_together(
    connection: sqlite3.Connection, before: str, row: str, after: str, values: Sequence[tuple[Any, ...]]
) -> int:
    """Run a statement that takes many rows, many rows at a time; returns the number of rows changed.

    sqlite3 gives the interpreter up at every step and must get it back, which takes long while a notebook computes:
    one step for many rows instead of one for each. Few numbers of rows, so that few statements are prepared.

    Args:
        connection: In a transaction.
        before: The statement up to its rows.
        row: The marks of one row: `(?, ?)`.
        after: The rest of the statement.
        values: The rows.
    """
    changed = start = 0
    while (left := len(values) - start) > 0:
        count = next((size for size in _TOGETHER if size <= left and size * len(values[0]) <= _MOST_VALUES), left)
        some = values[start : start + count]
        changed += connection.execute(_together(before, row, after, count), [*chain.from_iterable(some)]).rowcount
        start += count
    return changed


@lru_cache(maxsize=1024)
def _together(before: str, row: str, after: str, count: int) -> str:
    return f"{before}{', '.join([row] * count)}{after}"


@lru_cache(maxsize=512)
def _statement(kind: Any, filled: tuple[bool, ...]) -> tuple[str, str, str]:
    columns = tuple(compress(kind._fields, filled))
    before = f"INSERT INTO {_TABLES[kind]} ({', '.join(columns)}) VALUES "  # noqa: S608 - names from this file
    return before, f"({', '.join('?' * len(columns))})", " ON CONFLICT DO NOTHING"
