"""What the engine asks of the ledger: answers that can be reused, and who works on what."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from orchestrai.ledger.answers import chunks, marks, rows_in
from orchestrai.ledger.rows import QuotaRow
from orchestrai.limits.quota import Meter

_NEWEST: Final = 4_000  # requests that experience is drawn from

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


class Replied(NamedTuple):
    """What an answer took, and what had been guessed."""

    model: str  # that was asked for
    guessed: int | None  # input [tokens]
    input_tokens: int | None
    output_tokens: int | None
    duration_ms: float | None


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
        where = f"WHERE s.seq IN ({marks(chunk)}){' AND s.batch_id = ?' if batch_id else ''}"
        for row in connection.execute(f"{_ANSWERS} {where}", [*chunk, batch_id] if batch_id else chunk):
            found.setdefault(row[0], []).append(StoredAnswer(*row))
    for answers in found.values():
        answers.sort(key=lambda answer: answer.send_seq, reverse=True)
    return found


def claims_on(connection: sqlite3.Connection, claims: Iterable[bytes]) -> dict[bytes, Claim]:
    """Return who works on the given tasks."""
    rows = rows_in(connection, "SELECT claim, task_id, send_seq, owner_id FROM claims WHERE claim IN", claims)
    return {row[0]: Claim(*row) for row in rows}


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


def newest_replies(connection: sqlite3.Connection) -> list[Replied]:
    """Return the newest answers of all models, against what was guessed of them."""
    rows = connection.execute(
        "SELECT o.model_requested, s.est_input_tokens, a.input_tokens, a.output_tokens, a.duration_ms FROM sends s "
        "JOIN attempts a ON a.send_seq = s.seq JOIN offers o USING (offer_id) WHERE a.status = 'succeeded' AND s.seq > "
        "(SELECT coalesce(max(seq), 0) FROM sends) - ?",
        (_NEWEST,),
    )
    return [Replied(*row) for row in rows]


def readings_and_requests(connection: sqlite3.Connection, meter: Meter) -> list[tuple[float, int]]:
    """Return the last readings of a window, the newest first, each with the requests that its account was sent by then.

    Requests before the oldest of them do not count.
    """
    told = readings(connection, meter, 50)
    if not told:
        return []
    sent = [
        at
        for (at,) in connection.execute(
            "SELECT s.started_at FROM sends s JOIN offers o USING (offer_id) WHERE o.platform = ? "
            "AND coalesce(o.account, '') = ? AND s.seq > (SELECT coalesce(max(seq), 0) FROM sends) - ? ORDER BY 1",
            (meter.platform, meter.account, 10 * _NEWEST),
        )
    ]
    return [(used, bisect_right(sent, at)) for used, _, _, at in told]


def readings(connection: sqlite3.Connection, meter: Meter, most: int) -> list[tuple[float, int | None, str, int]]:
    """Return the newest words of the provider about a meter: percent used, reset [µs], who told it, when [µs]."""
    words = (meter.id, *meter.window.told_as)
    return connection.execute(
        "SELECT used_percent, resets_at, source, observed_at FROM quota WHERE platform = ? AND account = ? "  # noqa: S608 - marks only
        f"AND window IN ({marks(words)}) AND used_percent IS NOT NULL ORDER BY observed_at DESC LIMIT ?",
        (meter.platform, meter.account, *words, most),
    ).fetchall()


def spent_since(connection: sqlite3.Connection, since: int) -> tuple[int, int, int]:
    """Return the cash [pico-USD] of the requests that ended since a moment [µs], their number, and how many are unpriced."""
    found = connection.execute(
        "SELECT coalesce(sum(cost), 0), count(*), count(*) - count(cost) FROM attempts WHERE finished_at >= ?", (since,)
    )
    spent: tuple[int, int, int] = found.fetchone()
    return spent


def consenting(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the platforms and accounts whose plan may train on the data, and of which a person agreed to it."""
    return {(row[0], row[1]) for row in connection.execute("SELECT platform, account FROM consents")}


def give_consent(connection: sqlite3.Connection, accounts: Iterable[tuple[str, str]], now: int) -> None:
    """Keep that a person agreed to platforms whose plan may train on the data."""
    for platform, account in accounts:
        connection.execute("INSERT OR IGNORE INTO consents VALUES (?, ?, ?)", (platform, account, now))


def running_batch(connection: sqlite3.Connection, name: str, digest: bytes) -> str | None:
    """Return the newest batch of this name and these tasks that is not finished, or None."""
    row = connection.execute(
        "SELECT batch_id FROM batches WHERE name = ? AND digest = ? AND status <> 'finished' "
        "ORDER BY created_at DESC LIMIT 1",
        (name, digest),
    ).fetchone()
    return row[0] if row else None
