"""What the engine asks of the ledger: answers that can be reused, and who works on what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from orchestrai.ledger.rows import QuotaRow

T = TypeVar("T")

_CHUNK: Final = 500  # keys per statement, below SQLite's limit of 999 parameters in old builds


_ANSWERS: Final = """
SELECT t.key, t.task_id, a.list_cost, a.attempt_id, a.model_used, a.input_tokens, a.cache_read_tokens,
       a.cache_write_tokens, a.output_tokens, a.reasoning_tokens, a.usage_source, a.finish_reason, a.finished_at,
       o.platform, o.model_requested, o.tier, o.demo, p.text
FROM tasks t
JOIN attempts a ON a.attempt_id = t.answer_attempt_id
JOIN sends s ON s.attempt_id = t.answer_attempt_id
JOIN offers o USING (offer_id)
JOIN payloads p ON p.ref = t.answer_attempt_id AND p.kind = 'answer'
WHERE t.status = 'succeeded' AND t.reused_from IS NULL AND a.finish_reason IS NOT 'length'
"""


class StoredAnswer(NamedTuple):
    """An answer in the ledger, with what decides whether it may be reused."""

    key: bytes
    task_id: str
    list_cost: int | None
    attempt_id: str
    model: str | None
    input_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    usage_source: str
    finish_reason: str | None
    answered_at: int
    platform: str
    model_requested: str
    tier: str
    demo: int
    text: str


class Claim(NamedTuple):
    """A task somebody is working on."""

    claim: bytes
    task_id: str
    attempt_id: str
    owner_id: str


def newest_task(connection: sqlite3.Connection) -> int:
    """Return the sequence number of the task settled last; 0 in a new ledger."""
    (newest,) = connection.execute("SELECT coalesce(max(seq), 0) FROM tasks").fetchone()
    return int(newest)


def find_answers(
    connection: sqlite3.Connection, keys: Iterable[bytes], batch_id: str | None = None
) -> dict[bytes, list[StoredAnswer]]:
    """Return the whole answers to the given keys, newest first.

    Args:
        connection: A reading connection.
        keys: Task keys.
        batch_id: Take answers of this batch alone.
    """
    found: dict[bytes, list[StoredAnswer]] = {}
    for chunk in _chunks(keys):
        where = f"t.key IN ({_marks(chunk)}){' AND t.batch_id = ?' if batch_id else ''}"
        rows = connection.execute(
            f"{_ANSWERS} AND {where} ORDER BY t.seq DESC", [*chunk, batch_id] if batch_id else chunk
        )
        for row in rows:
            found.setdefault(row[0], []).append(StoredAnswer(*row))
    return found


def newer_answers(connection: sqlite3.Connection, since: dict[bytes, int]) -> set[bytes]:
    """Return the keys that were answered after the given sequence numbers."""
    newer: set[bytes] = set()
    for chunk in _chunks(since):
        rows = connection.execute(
            f"SELECT key, max(seq) FROM tasks WHERE key IN ({_marks(chunk)}) AND status = 'succeeded' "  # noqa: S608 - marks only
            "AND reused_from IS NULL GROUP BY key",
            chunk,
        )
        newer.update(key for key, seq in rows if seq > since[key])
    return newer


def claims_on(connection: sqlite3.Connection, claims: Iterable[bytes]) -> dict[bytes, Claim]:
    """Return who works on the given tasks."""
    found: dict[bytes, Claim] = {}
    for chunk in _chunks(claims):
        rows = connection.execute(
            f"SELECT claim, task_id, attempt_id, owner_id FROM claims WHERE claim IN ({_marks(chunk)})",  # noqa: S608 - marks only
            chunk,
        )
        found.update((row[0], Claim(*row)) for row in rows)
    return found


def claiming_owners(connection: sqlite3.Connection) -> list[str]:
    """Return the owners that have claims, dead ones among them."""
    return [owner for (owner,) in connection.execute("SELECT DISTINCT owner_id FROM claims")]


def newest_quota(connection: sqlite3.Connection) -> list[QuotaRow]:
    """Return the newest reading of every quota window of every account."""
    rows = connection.execute(
        "SELECT platform, account, window, used_percent, resets_at, source, max(observed_at) FROM quota "
        "GROUP BY platform, account, window ORDER BY platform, account, window"
    )
    return [QuotaRow(*row) for row in rows]


def running_batch(connection: sqlite3.Connection, name: str, digest: bytes) -> str | None:
    """Return the newest batch of this name and these tasks that is not finished, or None."""
    row = connection.execute(
        "SELECT batch_id FROM batches WHERE name = ? AND digest = ? AND status <> 'finished' "
        "ORDER BY created_at DESC LIMIT 1",
        (name, digest),
    ).fetchone()
    return row[0] if row else None


def _chunks(values: Iterable[T]) -> Iterator[Sequence[T]]:
    listed = list(values)
    for start in range(0, len(listed), _CHUNK):
        yield listed[start : start + _CHUNK]


def _marks(chunk: Sequence[Any]) -> str:
    return ", ".join("?" * len(chunk))
