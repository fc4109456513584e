"""What the ledger tells of a task and of calls under way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from orchestrai.explanation import Explanation

_LATE_US: Final = 60_000_000  # by which rows of several processes may be out of order
_NEAR: Final = 500  # requests that are looked through one by one

_ATTEMPTS: Final = """
SELECT s.task_id, s.batch_id, s.attempt_no, s.attempt_kind, o.platform, o.model_requested, o.tier, o.route_reason,
       o.route_rank, s.est_input_tokens, s.queued_at, s.started_at, s.backoff_ms, a.status, a.settles, a.error_class,
       a.error_message, a.http_status, a.retry_after_ms, a.model_used, a.finished_at, a.duration_ms, a.queue_ms,
       a.input_tokens, a.cache_read_tokens, a.cache_write_tokens, a.output_tokens, a.reasoning_tokens, a.usage_source,
       a.cost, a.list_cost, a.cost_source, a.price_match, p.provider AS price_provider, p.model AS price_model,
       p.unit_prices, p.source AS price_source, p.source_version AS price_version, p.effective_from AS price_since,
       a.request_id
FROM sends s JOIN offers o USING (offer_id) LEFT JOIN attempts a ON a.send_seq = s.seq LEFT JOIN prices p USING (price_id)
WHERE s.task_id = ? AND s.seq >= ? ORDER BY s.seq
"""
_OUTCOME: Final = """
SELECT task_id, batch_id, status, error_class, error, attempts, reused_from, cost, list_cost, queued_at, settled_at
FROM outcomes WHERE task_id = ?
"""
_RUNNING: Final = """
SELECT b.batch_id, b.name, b.kind, b.project, b.status, b.task_count, b.created_at, b.finished_at, b.owner_id, w.pid,
       w.host
FROM batches b JOIN owners w USING (owner_id)
WHERE b.status = 'running' OR b.created_at >= ? ORDER BY b.created_at DESC
"""
_COMMANDS: Final = """
SELECT b.batch_id, b.name, b.kind, b.project, b.status, b.task_count, b.created_at, b.finished_at, b.owner_id, w.pid,
       w.host, json_extract(b.options, '$.command') AS command
FROM batches b JOIN owners w USING (owner_id)
WHERE CASE WHEN ?1 IS NULL THEN command IS NOT NULL ELSE b.batch_id = ?1 OR b.name = ?1 END
ORDER BY b.created_at DESC LIMIT 20
"""
_SETTLED: Final = """
SELECT status, count(*), sum(cost), sum(unpriced) FROM (
    SELECT status, max(rank), sum(cost) AS cost, count(*) - count(cost) AS unpriced FROM (
        SELECT s.task_index, s.sample, a.status, a.cost, (a.status = 'succeeded') << 60 | a.finished_at AS rank
        FROM sends s JOIN attempts a ON a.send_seq = s.seq WHERE s.batch_id = ?1 AND s.seq >= ?2 AND a.settles
        UNION ALL
        SELECT task_index, sample, status, 0, (status = 'succeeded') << 60 | settled_at FROM outcomes WHERE batch_id = ?1
    ) GROUP BY task_index, sample
) GROUP BY status
"""
"""A batch that went on under its name has settled some tasks twice: each counts once, by its answer or else the newest end.
The status is that of the row with the highest rank, as SQLite promises for a column beside one max()."""


def attempts_of(connection: sqlite3.Connection, task_id: str) -> list[dict[str, Any]]:
    """Return every request of a task, in order, each with how it was routed, how it ended and what it was priced by."""
    return _dicts(connection.execute(_ATTEMPTS, (task_id, first_near(connection, task_id))))


def outcome_of(connection: sqlite3.Connection, task_id: str) -> dict[str, Any] | None:
    """Return how a task was settled that no request of its own settled; None for others."""
    found = _dicts(connection.execute(_OUTCOME, (task_id,)))
    return found[0] if found else None


def explanation_of(connection: sqlite3.Connection, task_id: str) -> Explanation:
    """Return what the ledger tells of a task, and of the one whose answer it took."""
    outcome = outcome_of(connection, task_id)
    source = outcome["reused_from"] if outcome is not None else None
    return Explanation(
        task_id,
        attempts_of(connection, task_id),
        outcome,
        attempts_of(connection, source) if source else (),
    )


def calls_since(connection: sqlite3.Connection, since_us: int, is_alive: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return the calls under way in any process, and those begun since a moment, newest first.

    Args:
        connection: A reading connection.
        since_us: The moment [µs since 1970].
        is_alive: Tells whether an owner's process lives.

    Returns:
        batch_id, name, kind, project, status ("running" only while its process lives, else "interrupted"), task_count,
        created_at, finished_at [µs], pid, host, settled (tasks by status), cost (of the requests that settled them
        [pico-USD]; None where one is unknown).
    """
    calls = _dicts(connection.execute(_RUNNING, (since_us,)))
    for call in calls:
        _told(connection, call, is_alive)
    return calls


def first_near(connection: sqlite3.Connection, task_id: str) -> int:
    """Return a request's number before which none of a task can be."""
    return _first_since(connection, _moment(task_id) - _LATE_US)


def resumable(
    connection: sqlite3.Connection, named: str | None, is_alive: Callable[[str], bool]
) -> dict[str, Any] | None:
    """Return the batch that a shell could go on with: the one of an id or name, or the newest that is not all answered.

    Args:
        connection: A reading connection.
        named: Id or name of a batch; None for the newest that a shell made, ended, and left unfinished or with failures. One
            whose command was given again since counts as what came of that.
        is_alive: Tells whether an owner's process lives.

    Returns:
        What `calls_since` tells of a call, and `command`: JSON, None where no shell made it. None when there is none.
    """
    given_again: set[str] = set()
    for call in _dicts(connection.execute(_COMMANDS, (named,))):
        if call["command"] in given_again:
            continue
        _told(connection, call, is_alive)
        left = call["status"] != "finished" or any(status != "succeeded" for status in call["settled"])
        if named is not None or (left and call["status"] != "running"):
            return call
        given_again.add(call["command"])
    return None


def _told(connection: sqlite3.Connection, call: dict[str, Any], is_alive: Callable[[str], bool]) -> None:
    """Complete what is told of a call: whether it still runs, its tasks by status, what they cost."""
    if call["status"] == "running" and not is_alive(call["owner_id"]):
        call["status"] = "interrupted"
    first = _first_since(connection, call["created_at"] - _LATE_US)
    rows = connection.execute(_SETTLED, (call["batch_id"], first)).fetchall()
    call["settled"] = {status: count for status, count, _, _ in rows}
    call["cost"] = None if any(unpriced for *_, unpriced in rows) else sum(cost for _, _, cost, _ in rows)
    del call["owner_id"]


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _first_since(connection: sqlite3.Connection, moment_us: int) -> int:
    """Return a request's number before which none was sent since a moment: found by halving, as numbers grow with time."""
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM sends").fetchone()
    low, high = 0, int(last)
    while high - low > _NEAR:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT started_at FROM sends WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[0] >= moment_us:
            high = middle
        else:
            low = middle
    return low


def _moment(task_id: str) -> int:
    """Return when an id was made [µs since 1970]; 0 for what is no id of ours."""
    try:
        return (int(task_id, 16) >> 80) * 1_000
    except ValueError:
        return 0
