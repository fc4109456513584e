"""Batches: which one is meant, and its requests in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from orchestrai.costs.mirror import Mirror
from orchestrai.costs.sql import frame, rows
from orchestrai.errors import InvalidInput, nearest

if TYPE_CHECKING:
    import pandas as pd

_DRAWN: Final = 1_000  # requests that are shown one by one

_NEWEST: Final = """
SELECT batch_id, name FROM batches
WHERE kind <> 'run' AND ($project IS NULL OR project = $project) AND batch_id IN (SELECT batch_id FROM ledger.attempts)
ORDER BY created_at DESC LIMIT 1
"""
_NAMED: Final = """
SELECT batch_id, name FROM batches WHERE batch_id = $batch OR name = $batch
ORDER BY batch_id = $batch DESC, created_at DESC LIMIT 1
"""
# Nobody knows when a request in doubt ended; that its process was gone may have been noticed days later. So it is shown
# up to the last end that is known.
_MINE: Final = """
WITH mine AS (
    SELECT *, CASE status WHEN 'open' THEN now()
                          WHEN 'in_doubt' THEN greatest(started_at, max(finished_at) FILTER (status <> 'in_doubt') OVER ())
                          ELSE finished_at END AS ended_at
    FROM attempts WHERE batch_id = $batch
)
"""
_ONE_BY_ONE: Final = """
SELECT task_id, parent_task_id, task_index, platform, model, status, cost, started_at,
       coalesce(duration_s, epoch_us(ended_at - started_at) / 1e6) AS seconds
FROM mine ORDER BY seq
"""
_UNDER_WAY: Final = """
, times AS (
    SELECT platform, epoch_us(started_at) AS began, epoch_us(ended_at) AS ended FROM mine
), span AS (
    SELECT min(began) AS first, greatest(1, (max(ended) - min(began)) / 200) AS step FROM times
), steps AS (SELECT first + range * step AS at_us FROM span, range(201)),
places AS (SELECT DISTINCT platform FROM times)
SELECT platform, make_timestamptz(at_us :: BIGINT) AS moment,
       (SELECT count(*) FROM times t WHERE t.platform = p.platform AND t.began <= at_us AND t.ended > at_us) AS under_way
FROM places p, steps ORDER BY platform, moment
"""


def find_batch(mirror: Mirror, given: Any, project: str | None = None) -> tuple[str | None, str | None]:
    """Return id and name of the batch that is meant.

    Args:
        mirror: The ledger.
        given: Its name (the newest of that name), its id, or a BatchResult; None for the newest that sent anything.
        project: Where the newest is looked for.

    Raises:
        InvalidInput: There is no such batch; the message names the nearest.
    """
    if given is None:
        newest = rows(mirror, _NEWEST, {"project": project})
        return newest[0] if newest else (None, None)
    wanted = getattr(given, "batch_id", None) or str(given)
    found = rows(mirror, _NAMED, {"batch": wanted})
    if not found:
        raise InvalidInput(f"{wanted!r} is no batch of this ledger.{nearest(wanted, batch_names(mirror))}")
    return found[0]


def batch_names(mirror: Mirror) -> list[str]:
    """Return the names that batches have."""
    return [name for (name,) in rows(mirror, "SELECT DISTINCT name FROM batches WHERE name IS NOT NULL LIMIT 10000")]


def timeline(mirror: Mirror, batch_id: str | None) -> tuple[pd.DataFrame, bool]:
    """Return the requests of a batch; or, of a large one, how many were under way in each of 200 steps, and False."""
    batch = {"batch": batch_id}
    ((count,),) = rows(mirror, "SELECT count(*) FROM attempts WHERE batch_id = $batch", batch)
    single = count <= _DRAWN
    return frame(mirror, _MINE + (_ONE_BY_ONE if single else _UNDER_WAY), batch), single
