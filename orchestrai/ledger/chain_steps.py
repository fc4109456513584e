"""What the ledger tells of one run of a chain: its requests, its settled tasks, who handed what to whom."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

_REQUESTS: Final = """
SELECT s.task_id, s.key, s.batch_id, s.parent_task_id, s.root_task_id, s.depth, s.started_at, o.platform, o.tier,
       coalesce(a.model_used, o.model_requested) AS model, coalesce(a.status, 'running') AS status, a.settles,
       a.error_class, a.error_message AS error, a.input_tokens, a.output_tokens, a.cost, a.list_cost, a.finished_at,
       substr(p.text, 1, :width) AS prompt, substr(t.text, 1, :width) AS answer
FROM sends s JOIN offers o USING (offer_id) LEFT JOIN attempts a ON a.send_seq = s.seq
LEFT JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) LEFT JOIN answers t ON t.send_seq = s.seq
WHERE s.chain_id = :chain ORDER BY s.seq
"""
_OUTCOMES: Final = """
SELECT task_id, key, batch_id, parent_task_id, root_task_id, depth, status, error_class, error, reused_from, queued_at,
       settled_at
FROM outcomes WHERE chain_id = ? ORDER BY seq
"""
_TEXTS: Final = """
SELECT m.memory_id, substr(p.text, 1, :width) AS prompt, substr(coalesce(m.text, t.text), 1, :width) AS answer,
       o.platform, o.tier, coalesce(a.model_used, o.model_requested) AS model
FROM outcomes c JOIN memories m ON m.memory_id = c.reused_from LEFT JOIN sends s ON s.seq = m.send_seq
LEFT JOIN offers o USING (offer_id) LEFT JOIN attempts a ON a.send_seq = s.seq
LEFT JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) LEFT JOIN answers t ON t.send_seq = s.seq
WHERE c.chain_id = :chain
"""
_HANDOFFS: Final = """
SELECT h.task_id, h.kind, h.parent_task_id, h.memory_id, h.spans FROM handoffs h
JOIN (SELECT task_id FROM sends WHERE chain_id = :chain UNION SELECT task_id FROM outcomes WHERE chain_id = :chain)
USING (task_id) ORDER BY h.task_id, h.position
"""
_RUNS: Final = """
SELECT c.chain_id, c.name, c.project, c.created_at, count(DISTINCT s.task_id) AS tasks, count(s.seq) AS attempts,
       max(s.depth) AS depth, sum(a.cost) AS cost, sum(a.list_cost) AS list_cost,
       count(s.seq) - count(a.cost) AS unpriced, max(a.finished_at) AS last_at
FROM chains c LEFT JOIN sends s ON s.chain_id = c.chain_id LEFT JOIN attempts a ON a.send_seq = s.seq
GROUP BY c.chain_id ORDER BY c.created_at DESC, c.chain_id DESC
"""


def requests_of(connection: sqlite3.Connection, chain_id: str, width: int) -> list[dict[str, Any]]:
    """Return every request of a chain in order, with the first characters of its task's prompt and of its answer."""
    return _dicts(connection.execute(_REQUESTS, {"chain": chain_id, "width": width}))


def outcomes_of(connection: sqlite3.Connection, chain_id: str) -> list[dict[str, Any]]:
    """Return the tasks of a chain that no request of their own settled, in order."""
    return _dicts(connection.execute(_OUTCOMES, (chain_id,)))


def sources_of(connection: sqlite3.Connection, chain_id: str, width: int) -> dict[str, dict[str, Any]]:
    """Return what is known of the answers that tasks of a chain took over, by the task that was asked."""
    rows = _dicts(connection.execute(_TEXTS, {"chain": chain_id, "width": width}))
    return {row["memory_id"]: row for row in rows}


def handoffs_of(connection: sqlite3.Connection, chain_id: str) -> list[dict[str, Any]]:
    """Return what the tasks of a chain were handed, and what they came after."""
    return _dicts(connection.execute(_HANDOFFS, {"chain": chain_id}))


def runs_of_chains(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return every run of every chain, the newest first, with the sums over its requests [pico-USD]."""
    return _dicts(connection.execute(_RUNS))


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
