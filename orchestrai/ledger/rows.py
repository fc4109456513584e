"""The rows the engine writes: one NamedTuple per append-only table, with the columns that have a source today."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, compress
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

    attempt_id: str
    task_id: str
    attempt_no: int
    attempt_kind: str  # first, retry, reroute, repair
    batch_id: str
    task_index: int
    sample: int
    key: bytes
    offer_id: int
    est_input_tokens: int | None
    est_output_tokens: int | None
    system_digest: str | None
    chain_id: str | None
    task_type: str | None
    priority: int | None
    tags: str | None
    queued_at: int
    started_at: int
    backoff_ms: float | None


class AttemptRow(NamedTuple):
    """How one request ended."""

    attempt_id: str
    task_id: str
    status: str  # succeeded, failed, cancelled, in_doubt
    error_class: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    retryable: int | None = None
    retry_after_ms: int | None = None
    model_used: str | None = None
    service_tier: str | None = None
    input_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_source: str = "none"
    usage_raw: str | None = None
    cost: int | None = None
    list_cost: int | None = None
    cost_source: str = "unknown"  # computed, zero, unknown
    price_id: str | None = None
    price_match: str | None = None
    finished_at: int = 0
    duration_ms: float | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    streamed: int = 0
    finish_reason: str | None = None
    schema_valid: int | None = None
    response_id: str | None = None
    request_id: str | None = None
    rl_requests_left: int | None = None
    rl_tokens_left: int | None = None


class TaskRow(NamedTuple):
    """How one task of a call was settled; its answer is the attempt it names."""

    task_id: str
    batch_id: str
    task_index: int
    sample: int
    key: bytes
    status: str
    error_class: str | None
    error: str | None
    attempts: int
    answer_attempt_id: str | None
    reused_from: str | None  # task_id of the task whose answer was reused
    cost: int | None
    list_cost: int | None
    chain_id: str | None
    task_type: str | None
    priority: int | None
    tags: str | None
    queued_at: int
    settled_at: int
    duration_ms: float | None


class QuotaRow(NamedTuple):
    """What an account's quota window was told to be at one moment."""

    platform: str
    account: str  # a short hash; empty where the platform does not tell accounts apart
    window: str  # in the provider's own word
    used_percent: float | None
    resets_at: int | None  # [µs since 1970]
    source: str
    observed_at: int  # [µs since 1970]


class Payload(NamedTuple):
    """A text that is kept once."""

    ref: str  # task_id of a prompt, attempt_id of an answer, SHA-256 in hex of a system prompt
    kind: str  # prompt, messages (JSON), system, answer
    text: str


_TOGETHER: Final = 16  # rows in one statement: below the 999 parameters of older builds of SQLite
_FULL_PAYLOAD: Final = (True,) * len(Payload._fields)

_TABLES: Final[dict[type, str]] = {
    OfferRow: "offers",
    SendRow: "sends",
    AttemptRow: "attempts",
    TaskRow: "tasks",
    QuotaRow: "quota",
    Payload: "payloads",
}
Row = OfferRow | SendRow | AttemptRow | TaskRow | QuotaRow | Payload


def insert(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Insert rows that are not there yet, leaving out what is None.

    sqlite3 spends longer on binding one None than on storing a number, and most rows are half empty: rows that
    fill the same columns share a statement (measured: 15 to 5 µs a row).
    """
    alike: dict[tuple[Any, tuple[bool, ...]], list[tuple[Any, ...]]] = {}
    for row in rows:
        kind: Any = type(row)
        if kind is Payload:  # always full
            alike.setdefault((kind, _FULL_PAYLOAD), []).append(row)
            continue
        filled = tuple([value is not None for value in row])
        alike.setdefault((kind, filled), []).append(tuple(compress(row, filled)))
    for (kind, filled), values in alike.items():
        statement = _statement(kind, filled)
        try:
            execute_together(connection, *statement, values)
        except (OverflowError, UnicodeEncodeError, sqlite3.ProgrammingError):
            # A value that no column can hold, said by somebody's adapter: its row is kept without it.
            execute_together(connection, *statement, [tuple(map(_storable, row)) for row in values])


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
    """Run a statement that takes many rows, a few rows at a time; returns the number of rows changed.

    sqlite3 gives the interpreter up at every step and must get it back, which takes long while a notebook computes:
    one step for many rows instead of one for each.

    Args:
        connection: In a transaction.
        before: The statement up to its rows.
        row: The marks of one row: `(?, ?)`.
        after: The rest of the statement.
        values: The rows.
    """
    changed = 0
    for start in range(0, len(values), _TOGETHER):
        some = values[start : start + _TOGETHER]
        statement = f"{before}{', '.join([row] * len(some))}{after}"
        changed += connection.execute(statement, list(chain.from_iterable(some))).rowcount
    return changed


@lru_cache(maxsize=512)
def _statement(kind: Any, filled: tuple[bool, ...]) -> tuple[str, str, str]:
    columns = tuple(compress(kind._fields, filled))
    before = f"INSERT INTO {_TABLES[kind]} ({', '.join(columns)}) VALUES "  # noqa: S608 - names from this file
    return before, f"({', '.join('?' * len(columns))})", " ON CONFLICT DO NOTHING"
