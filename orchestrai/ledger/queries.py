"""What the engine asks of the ledger: answers that can be reused, and who works on what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from orchestrai.ledger.answers import chunks
from orchestrai.ledger.rows import QuotaRow

_ANSWERS: Final = """
SELECT s.key, s.task_id, a.list_cost, s.seq, a.model_used, a.input_tokens, a.cache_read_tokens, a.cache_write_tokens,
       a.output_tokens, a.reasoning_tokens, a.usage_source, a.finish_reason, a.finished_at, o.platform,
       o.model_requested, o.tier, o.demo, t.text
FROM sends s
JOIN attempts a ON a.send_seq = s.seq
JOIN offers o USING (offer_id)
JOIN answers t ON t.send_seq = s.seq
"""


class StoredAnswer(NamedTuple):
    """An answer in the ledger, with what decides whether it may be reused."""

    key: bytes
    task_id: str
    list_cost: int | None
    send_seq: int
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
    send_seq: int
    owner_id: str


def stored_answers(
    connection: sqlite3.Connection, by_key: dict[bytes, list[int]], batch_id: str | None = None
) -> dict[bytes, list[StoredAnswer]]:
    """Return the answers that were found, newest first; those without a text any more are left out.

    Args:
        connection: A reading connection.
        by_key: Key → requests that answered it, newest first, as `RecentAnswers.find` returns them.
        batch_id: Take answers of this batch alone.
    """
    found: dict[bytes, list[StoredAnswer]] = {}
    for chunk in chunks(send_seq for sends in by_key.values() for send_seq in sends):
        where = f"WHERE s.seq IN ({_marks(chunk)}){' AND s.batch_id = ?' if batch_id else ''}"
        for row in connection.execute(f"{_ANSWERS} {where}", [*chunk, batch_id] if batch_id else chunk):
            found.setdefault(row[0], []).append(StoredAnswer(*row))
    for answers in found.values():
        answers.sort(key=lambda answer: answer.send_seq, reverse=True)
    return found


def claims_on(connection: sqlite3.Connection, claims: Iterable[bytes]) -> dict[bytes, Claim]:
    """Return who works on the given tasks."""
    found: dict[bytes, Claim] = {}
    for chunk in chunks(claims):
        rows = connection.execute(
            f"SELECT claim, task_id, send_seq, owner_id FROM claims WHERE claim IN ({_marks(chunk)})",  # noqa: S608 - marks only
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


def _marks(chunk: Sequence[Any]) -> str:
    return ", ".join("?" * len(chunk))
