"""Lineage: the tasks of a chain, who handed to whom, and what each and all that came of it cost."""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from orchestrai.costs.mirror import Mirror
from orchestrai.costs.sql import frame, rows
from orchestrai.errors import InvalidInput, nearest
from orchestrai.results.frames import Money

if TYPE_CHECKING:
    import sqlite3

    import pandas as pd

    from orchestrai.ledger.ledger import Ledger

# In DuckDB.
_CALLED: Final = """
SELECT chain_id FROM chains WHERE chain_id = $name OR name = $name ORDER BY chain_id = $name DESC, created_at DESC LIMIT 1
"""
_NAMES: Final = """
SELECT DISTINCT coalesce(name, chain_id)
FROM (SELECT DISTINCT chain_id FROM ledger.work WHERE chain_id IS NOT NULL) LEFT JOIN chains USING (chain_id) LIMIT 10000
"""
_TASKS: Final = """
WITH used AS (
    SELECT task_id, sum(input_tokens) :: BIGINT AS input_tokens, sum(output_tokens) :: BIGINT AS output_tokens,
           sum(cost) AS cost, bool_or(cost IS NULL) AS some_unknown, sum(list_cost) AS list_cost, count(*) AS attempts,
           arg_max(platform, seq) AS platform, arg_max(model, seq) AS model, any_value(parent_task_id) AS parent_task_id,
           any_value(depth) AS depth, min(started_at) AS started_at, any_value(queued_at) AS queued_at,
           any_value(chain_id) AS chain_id, any_value(task_type) AS task_type
    FROM attempts WHERE {condition} GROUP BY task_id
), settled AS (SELECT * FROM tasks WHERE {condition})
SELECT coalesce(u.task_id, t.task_id) AS task_id, coalesce(u.parent_task_id, t.parent_task_id) AS parent_task_id,
       coalesce(u.depth, t.depth) AS depth, coalesce(u.chain_id, t.chain_id) AS chain_id,
       coalesce(u.task_type, t.task_type) AS task_type, u.platform, u.model, coalesce(t.status, 'open') AS status,
       coalesce(t.reused, false) AS reused, CASE WHEN NOT coalesce(some_unknown, false) THEN coalesce(u.cost, 0) END AS cost,
       coalesce(u.list_cost, t.list_cost) AS list_cost, u.input_tokens, u.output_tokens, coalesce(u.attempts, 0) AS attempts,
       coalesce(u.started_at, t.queued_at) AS started_at, t.settled_at, t.duration_s
FROM used u FULL JOIN settled t ON u.task_id = t.task_id
ORDER BY depth NULLS FIRST, coalesce(u.queued_at, t.queued_at), task_id
"""
# In SQLite, which looks up single tasks faster.
_LINE: Final = """
WITH RECURSIVE before (id) AS (
    VALUES (:task) UNION SELECT parent_task_id FROM handoffs JOIN before ON task_id = id WHERE kind = 'parent'
), since (id) AS (
    VALUES (:task) UNION SELECT task_id FROM handoffs JOIN since ON parent_task_id = id WHERE kind = 'parent'
)
SELECT id FROM before UNION SELECT id FROM since
"""
_HANDED: Final = """
SELECT task_id, parent_task_id FROM handoffs
WHERE kind = 'parent' AND task_id IN (SELECT value FROM json_each(?)) ORDER BY task_id, position
"""


def lineage(mirror: Mirror, ledger: Ledger, name: str, money: Money) -> pd.DataFrame:
    """Return the tasks of a chain, or of the line that a task stands in; see `Costs.lineage`."""
    import pandas as pd

    chain = _chain(mirror, name)
    if chain is not None:
        found = frame(mirror, _TASKS.format(condition="chain_id = $chain"), {"chain": chain}, money=money)
    else:
        line = ledger.read(lambda c: _line(c, name))
        found = frame(mirror, _TASKS.format(condition="list_contains($line, task_id)"), {"line": line}, money=money)
        if not len(found):
            known = [chain for (chain,) in rows(mirror, _NAMES)]
            raise InvalidInput(f"{name!r} is no chain and no task of this ledger.{nearest(name, known)}")
    ids: list[str] = found["task_id"].tolist()
    parents: dict[str, list[str]] = defaultdict(list)
    for child, parent in ledger.read(lambda c: c.execute(_HANDED, (json.dumps(ids),)).fetchall()):
        parents[child].append(parent)
    found.insert(2, "parents", pd.Series([tuple(parents[child]) for child in ids], dtype=object))
    return found.assign(cost_below=_below(found, money))


def _chain(mirror: Mirror, name: str) -> str | None:
    """Return the id of the chain that is meant: of that id, else the newest run of that name."""
    for query in (_CALLED, "SELECT chain_id FROM ledger.work WHERE chain_id = $name LIMIT 1"):
        for (chain,) in rows(mirror, query, {"name": name}):
            return str(chain)
    return None


def _line(connection: sqlite3.Connection, task: str) -> list[str]:
    """Return a task, those it came from and those that came of it."""
    return [found for (found,) in connection.execute(_LINE, {"task": task})]


def _below(found: pd.DataFrame, money: Money) -> Any:
    """Return what each task and all that came of it cost, along first parents; unknown costs are left out."""
    import pandas as pd

    nothing = Decimal(0) if money == "decimal" else 0.0
    own = dict(zip(found["task_id"], found["cost"].where(found["cost"].notna(), nothing), strict=True))
    parent_of = dict(zip(found["task_id"], found["parent_task_id"], strict=True))
    below = dict(own)
    for task, cost in own.items():
        seen, parent = {task}, parent_of[task]
        while isinstance(parent, str) and parent in below and parent not in seen:  # a ledger may say anything
            below[parent] += cost
            seen.add(parent)
            parent = parent_of[parent]
    return pd.Series(list(below.values()), index=found.index, dtype=object if money == "decimal" else "float64")
