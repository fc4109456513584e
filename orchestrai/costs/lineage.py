"""Lineage: the tasks of a chain, who handed to whom, and what each and all that came of it cost."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from orchestrai.costs.mirror import Mirror
from orchestrai.costs.sql import frame, rows
from orchestrai.costs.transfer import marks
from orchestrai.errors import InvalidInput, nearest
from orchestrai.results.frames import Money

if TYPE_CHECKING:
    import sqlite3

    import pandas as pd

_LOOKED_UP: Final = 500  # ids in one statement of SQLite

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


def lineage(mirror: Mirror, ledger: Any, name: str, money: Money) -> pd.DataFrame:
    """Return the tasks of a chain, or of the line that a task stands in; see `Costs.lineage`."""
    chain, task = _found(mirror, name)
    condition, key = ("chain_id = $key", chain) if chain is not None else ("task_id = $key", task)
    found = frame(mirror, _TASKS.format(condition=condition), {"key": key}, money=money)
    ids: list[str] = found["task_id"].tolist()
    handed: list[tuple[str, str]] = ledger.read(lambda c: _handed(c, ids))
    parents: dict[str, list[str]] = defaultdict(list)
    for child, parent in handed:
        parents[child].append(parent)
    for child, parent in zip(ids, found["parent_task_id"], strict=True):
        if isinstance(parent, str) and not parents[child]:
            parents[child].append(parent)
    found.insert(2, "parents", [tuple(parents[child]) for child in ids])
    if task is not None and chain is not None:
        line = _line(task, parents)
        found = found[[child in line for child in ids]].reset_index(drop=True)
    return found.assign(cost_below=_below(found, money))


def _found(mirror: Mirror, name: str) -> tuple[str | None, str | None]:
    """Return the id of the chain that is meant, and of the task where it is a task."""
    by_name = rows(
        mirror,
        "SELECT chain_id FROM chains WHERE chain_id = $name OR name = $name ORDER BY chain_id = $name DESC, "
        "created_at DESC LIMIT 1",
        {"name": name},
    ) or rows(mirror, "SELECT chain_id FROM ledger.work WHERE chain_id = ? LIMIT 1", [name])
    if by_name:
        return by_name[0][0], None
    task = rows(
        mirror,
        "SELECT chain_id FROM attempts WHERE task_id = $id UNION ALL SELECT chain_id FROM tasks WHERE task_id = $id LIMIT 1",
        {"id": name},
    )
    if task:
        return task[0][0], name
    known = [row[0] for row in rows(mirror, "SELECT DISTINCT coalesce(name, chain_id) FROM (SELECT DISTINCT chain_id FROM "
             "ledger.work WHERE chain_id IS NOT NULL) LEFT JOIN chains USING (chain_id) LIMIT 10000")]  # fmt: skip
    raise InvalidInput(f"{name!r} is no chain and no task of this ledger.{nearest(name, known)}")


def _handed(connection: sqlite3.Connection, tasks: list[str]) -> list[tuple[str, str]]:
    """Return child and parent of every hand-off to these tasks."""
    found: list[tuple[str, str]] = []
    for start in range(0, len(tasks), _LOOKED_UP):
        some = tasks[start : start + _LOOKED_UP]
        found += connection.execute(
            f"SELECT task_id, parent_task_id FROM handoffs WHERE kind = 'parent' AND task_id IN ({marks(some)}) ORDER BY task_id, position",  # noqa: S608
            some,
        ).fetchall()
    return found


def _line(task: str, parents: dict[str, list[str]]) -> set[str]:
    """Return a task, those it came from and those that came of it."""
    children: dict[str, list[str]] = defaultdict(list)
    for child, some in parents.items():
        for parent in some:
            children[parent].append(child)
    line = {task}
    for following in (parents, children):
        waiting = [task]
        while waiting:
            for other in following.get(waiting.pop(), ()):
                if other not in line:
                    line.add(other)
                    waiting.append(other)
    return line


def _below(found: pd.DataFrame, money: Money) -> Any:
    """Return what each task and all that came of it cost, along first parents; unknown costs are left out."""
    import pandas as pd

    nothing = Decimal(0) if money == "decimal" else 0.0
    below = dict(zip(found["task_id"], found["cost"].where(found["cost"].notna(), nothing), strict=True))
    for task, parent in reversed(list(zip(found["task_id"], found["parent_task_id"], strict=True))):
        if isinstance(parent, str) and parent in below and parent != task:  # children stand behind their parents
            below[parent] += below[task]
    return pd.Series(list(below.values()), index=found.index, dtype=object if money == "decimal" else "float64")
