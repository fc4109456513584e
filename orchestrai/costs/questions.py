"""Questions to the mirror, each one query that aggregates in DuckDB and returns a frame.

Every function takes the mirror and the part of the ledger that is asked about; `costs.py` documents what comes back. In
a query, `{where}` stands for that part, and `{figures}` for what every group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from orchestrai.costs.mirror import Mirror
from orchestrai.costs.period import Part
from orchestrai.costs.sql import frame, tag_pointer
from orchestrai.errors import InvalidInput, nearest
from orchestrai.results.frames import Money, check_money

if TYPE_CHECKING:
    import pandas as pd

TOP_BY: Final = ("cost", "list_cost", "duration_s", "input_tokens", "output_tokens", "attempts")
"""What `top` can order by."""

_FIGURES: Final = """
    count(*) FILTER (task) AS tasks, count(*) FILTER (succeeded) AS succeeded,
    count(*) FILTER (succeeded) / nullif(count(*) FILTER (task), 0) AS success_rate, count(*) FILTER (reused) AS reused,
    count(*) FILTER (attempt) AS attempts, coalesce(sum(cost), 0) AS cost, coalesce(sum(list_cost), 0) AS list_cost,
    coalesce(sum(saved), 0) AS saved, count(*) FILTER (cost IS NULL) AS unknown_cost,
    count(*) FILTER (attempt AND list_cost IS NULL) AS unpriced,
    coalesce(sum(input_tokens), 0) :: BIGINT AS input_tokens,
    coalesce(sum(cache_read_tokens), 0) :: BIGINT AS cache_read_tokens,
    coalesce(sum(output_tokens), 0) :: BIGINT AS output_tokens,
    coalesce(sum(reasoning_tokens), 0) :: BIGINT AS reasoning_tokens,
    quantile_cont(duration_s, 0.5) AS p50_s, quantile_cont(duration_s, 0.95) AS p95_s
"""
_UNITS: Final = {
    "cost": "USD",
    "list_cost": "USD",
    "saved": "USD",
    "success_rate": "share",
    "p50_s": "s",
    "p95_s": "s",
    "input_tokens": "tokens",
    "cache_read_tokens": "tokens",
    "output_tokens": "tokens",
    "reasoning_tokens": "tokens",
}
_SUMMARY: Final = """
SELECT {figures}, count(*) FILTER (status = 'in_doubt') AS in_doubt, count(*) FILTER (status = 'open') AS open
FROM ledger.work WHERE {where}
"""
_GROUPED: Final = """
SELECT {key}, {figures} FROM ledger.work WHERE {where} AND {only} GROUP BY {key}
ORDER BY cost DESC, list_cost DESC, tasks DESC, {key}
"""
_BY_DAY: Final = "SELECT day, {figures} FROM ledger.work WHERE {where} GROUP BY day ORDER BY day"
_BY_CHAIN: Final = """
SELECT chain_id, coalesce(name, chain_id) AS chain, created_at, g.* EXCLUDE (chain_id)
FROM (SELECT chain_id, {figures} FROM ledger.work WHERE {where} AND chain_id IS NOT NULL GROUP BY chain_id) g
LEFT JOIN chains USING (chain_id) ORDER BY cost DESC, list_cost DESC, tasks DESC, chain_id
"""
_BY_BATCH: Final = """
SELECT batch_id, name AS batch, kind, project, status, created_at, g.* EXCLUDE (batch_id)
FROM (SELECT batch_id, {figures} FROM ledger.work WHERE {where} GROUP BY batch_id) g
LEFT JOIN batches USING (batch_id) ORDER BY cost DESC, list_cost DESC, tasks DESC, batch_id
"""
# Each distinct set of tags is taken apart once, however many tasks have it.
_BY_TAG: Final = """
WITH values AS (SELECT tags, tags :: JSON ->> $key AS value FROM (SELECT DISTINCT tags FROM ledger.work))
SELECT value, {figures} FROM ledger.work JOIN values USING (tags) WHERE {where} AND value IS NOT NULL GROUP BY value
ORDER BY cost DESC, list_cost DESC, tasks DESC, value
"""
_SAVINGS: Final = """
SELECT kind, count(*) AS times, coalesce(sum(saved), 0) AS saved,
       coalesce(sum(saved) :: DOUBLE / nullif(sum(sum(saved)) OVER () :: DOUBLE, 0), 0) AS share,
       count(*) FILTER (unpriced) AS unpriced
FROM ledger.savings WHERE {where} GROUP BY kind ORDER BY saved DESC, kind
"""
_SAVED_BY_DAY: Final = """
SELECT day, cost, full_cost, sum(cost) OVER (ORDER BY day) AS cost_so_far, sum(full_cost) OVER (ORDER BY day) AS full_cost_so_far
FROM (SELECT day, coalesce(sum(cost), 0) AS cost,
             coalesce(sum(cost) FILTER (saved IS NOT NULL), 0) + coalesce(sum(saved), 0) AS full_cost
      FROM ledger.work WHERE {where} GROUP BY day)
ORDER BY day
"""
_DAY_BY_PLATFORM: Final = """
SELECT day, platform, tier, coalesce(sum(cost), 0) AS cost, coalesce(sum(list_cost), 0) AS list_cost,
       count(*) FILTER (task) AS tasks
FROM ledger.work WHERE {where} AND platform IS NOT NULL GROUP BY ALL ORDER BY ALL
"""
_ESTIMATES: Final = """
SELECT platform, model, count(*) AS attempts, sum(est_input_tokens) :: BIGINT AS est_input_tokens,
       sum(input_tokens) :: BIGINT AS input_tokens, sum(input_tokens) / nullif(sum(est_input_tokens), 0) AS input_ratio,
       quantile_cont(input_tokens / nullif(est_input_tokens, 0), 0.05) AS input_ratio_p05,
       quantile_cont(input_tokens / nullif(est_input_tokens, 0), 0.95) AS input_ratio_p95,
       sum(est_output_tokens) FILTER (output_tokens IS NOT NULL) :: BIGINT AS output_limit_tokens,
       sum(output_tokens) :: BIGINT AS output_tokens, sum(est_cost) AS est_cost, sum(cost) AS cost,
       sum(cost) FILTER (est_cost IS NOT NULL) / nullif(sum(est_cost) FILTER (cost IS NOT NULL), 0) AS cost_ratio
FROM attempts
WHERE {where} AND status = 'succeeded' AND est_input_tokens IS NOT NULL AND input_tokens IS NOT NULL
GROUP BY ALL ORDER BY attempts DESC, platform, model
"""
# What earlier attempts of a task took at a provider counts with it; most tasks have none.
_LATENCY: Final = """
WITH settled AS (
    SELECT task_id, platform, model, attempt_no, duration_s, backoff_s, ttft_s,
           epoch_us(finished_at) - epoch_us(queued_at) AS whole_us
    FROM attempts WHERE {where} AND settles
), earlier AS (
    SELECT task_id, sum(duration_s) AS duration_s FROM attempts WHERE NOT settles GROUP BY task_id
), split AS (
    SELECT s.platform, s.model, s.ttft_s, coalesce(s.backoff_s, 0) AS throttle_s,
           s.duration_s + coalesce(e.duration_s, 0) AS provider_s,
           greatest(0, whole_us / 1e6 - throttle_s - provider_s) AS queue_s
    FROM settled s LEFT JOIN earlier e USING (task_id)
)
SELECT platform, model, count(*) AS tasks, avg(queue_s) AS queue_s, avg(throttle_s) AS throttle_s,
       avg(provider_s) AS provider_s, quantile_cont(queue_s, 0.95) AS queue_p95_s,
       quantile_cont(throttle_s, 0.95) AS throttle_p95_s, quantile_cont(provider_s, 0.5) AS provider_p50_s,
       quantile_cont(provider_s, 0.95) AS provider_p95_s, quantile_cont(provider_s, 0.99) AS provider_p99_s,
       quantile_cont(ttft_s, 0.5) AS ttft_p50_s
FROM split GROUP BY ALL ORDER BY tasks DESC, platform, model
"""
_OUTCOMES: Final = """
SELECT status, error_class, platform, count(*) FILTER (attempt) AS attempts, count(*) FILTER (task) AS tasks,
       count(*) FILTER (reused) AS reused, coalesce(sum(cost), 0) AS cost
FROM ledger.work WHERE {where} GROUP BY ALL ORDER BY attempts + tasks DESC, status, error_class, platform
"""
# Money and time are known of a task; only tokens have to be summed over attempts before they can be ordered.
_TOP: Final = """
WITH few AS MATERIALIZED (SELECT task_id, {amount} AS amount FROM {among} ORDER BY amount DESC NULLS LAST, task_id LIMIT $limit),
used AS (
    SELECT task_id, sum(input_tokens) :: BIGINT AS input_tokens, sum(output_tokens) :: BIGINT AS output_tokens
    FROM attempts WHERE task_id IN (SELECT task_id FROM few) GROUP BY task_id
)
SELECT task_id, platform, model, t.status, error_class, cost, list_cost, input_tokens, output_tokens, duration_s, attempts,
       b.name AS batch, batch_id, task_index, chain_id, settled_at
FROM few JOIN tasks t USING (task_id) LEFT JOIN used USING (task_id) LEFT JOIN batches b USING (batch_id)
ORDER BY amount DESC NULLS LAST, task_id
"""
_OF_TASKS: Final = "tasks WHERE {where} AND NOT reused"
_OF_ATTEMPTS: Final = "attempts WHERE task_id IN (SELECT task_id FROM tasks WHERE {where}) GROUP BY task_id"
_OUTLIERS: Final = """
WITH mine AS (
    SELECT batch_id, task_id, task_index, t.platform, t.model, t.list_cost, t.cost, a.output_tokens, t.duration_s
    FROM tasks t JOIN (SELECT task_id, output_tokens FROM attempts WHERE settles) a USING (task_id)
    WHERE {where} AND t.status = 'succeeded'
), usual AS (
    SELECT batch_id, platform, model, median(output_tokens) AS usual_output_tokens, median(duration_s) AS usual_duration_s
    FROM mine GROUP BY ALL HAVING count(*) >= 10
)
SELECT task_id, platform, model, output_tokens, usual_output_tokens,
       output_tokens / nullif(usual_output_tokens, 0) AS output_ratio, duration_s, usual_duration_s,
       duration_s / nullif(usual_duration_s, 0) AS duration_ratio, cost, list_cost, batch_id, task_index
FROM mine JOIN usual USING (batch_id, platform, model)
WHERE output_ratio > $factor :: DOUBLE OR duration_ratio > $factor :: DOUBLE
ORDER BY greatest(coalesce(output_ratio, 0), coalesce(duration_ratio, 0)) DESC, task_id
"""
_QUOTA: Final = """
WITH told AS (
    SELECT *, row_number() OVER (PARTITION BY platform, account, "window" ORDER BY observed_at DESC) AS place,
           first_value(used_percent) OVER period AS began, min(observed_at) OVER period AS began_at
    FROM quota WINDOW period AS (PARTITION BY platform, account, "window", resets_at ORDER BY observed_at)
), newest AS (
    SELECT *, epoch_us(observed_at) - epoch_us(began_at) AS span_us FROM told WHERE place = 1
), paced AS (
    SELECT *, CASE WHEN span_us > 0 AND used_percent > began
                   THEN (used_percent - began) / (span_us / 3.6e9) END AS percent_per_hour FROM newest
)
SELECT platform, account, "window", used_percent AS percent, 100 - used_percent AS left_percent, resets_at, source,
       observed_at, percent_per_hour,
       CASE WHEN percent_per_hour > 0 THEN observed_at
           + to_microseconds(least(1e15, (100 - used_percent) / percent_per_hour * 3.6e9) :: BIGINT) END AS full_at
FROM paced ORDER BY percent DESC NULLS LAST, platform, "window"
"""


def summary(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of a part and of the one before."""
    import pandas as pd

    check_money(money)
    value, earlier = _figures(mirror, part), part.before()
    before = dict.fromkeys(value) if earlier is None else _figures(mirror, earlier)
    exact = pd.DataFrame({"value": value, "before": before}, dtype=object).rename_axis("measure")
    floats = exact.astype("float64")
    shown = exact if money == "decimal" else floats
    change = floats["value"] / floats["before"].where(floats["before"] != 0) - 1
    units = [_UNITS.get(name, "count") for name in value]
    return pd.DataFrame({"unit": units, "value": shown["value"], "before": shown["before"], "change": change})


def by_platform(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each platform and tier."""
    return _ask(mirror, part, money, _GROUPED, key="platform, tier", only="platform IS NOT NULL")


def by_model(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each model of each platform."""
    return _ask(mirror, part, money, _GROUPED, key="platform, model, tier", only="platform IS NOT NULL")


def by_type(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each task type."""
    return _ask(mirror, part, money, _GROUPED, key="task_type", only="true")


def by_day(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each day."""
    return _ask(mirror, part, money, _BY_DAY)


def by_chain(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each run of a chain."""
    return _ask(mirror, part, money, _BY_CHAIN)


def by_batch(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each call."""
    return _ask(mirror, part, money, _BY_BATCH)


def by_tag(mirror: Mirror, part: Part, money: Money, key: str) -> pd.DataFrame:
    """Return the figures of each value of a tag."""
    return _ask(mirror, part, money, _BY_TAG, {"key": tag_pointer(key)})


def savings(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return what was saved, by what saved it."""
    return _ask(mirror, part, money, _SAVINGS)


def saved_by_day(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return list cost and cost, day by day and summed up: what the plot of savings shows."""
    return _ask(mirror, part, money, _SAVED_BY_DAY)


def day_by_platform(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return cost and list cost of each platform on each day."""
    return _ask(mirror, part, money, _DAY_BY_PLATFORM)


def estimates(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return what was expected of attempts beside what came."""
    return _ask(mirror, part, money, _ESTIMATES, moment="started_at")


def latency(mirror: Mirror, part: Part) -> pd.DataFrame:
    """Return where the time of settled tasks went."""
    return _ask(mirror, part, "float", _LATENCY, moment="finished_at")


def outcomes(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return how attempts and tasks ended."""
    return _ask(mirror, part, money, _OUTCOMES)


def top(mirror: Mirror, part: Part, money: Money, by: str, limit: int) -> pd.DataFrame:
    """Return the tasks with the most of something."""
    check_choice("by", by, TOP_BY)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < 2**63:
        raise InvalidInput(f"limit= is a whole number of at least 1, not {limit!r}.")
    amount, among = (f"sum({by})", _OF_ATTEMPTS) if by.endswith("_tokens") else (by, _OF_TASKS)
    query = _TOP.replace("{amount}", amount).replace("{among}", among)
    return _ask(mirror, part, money, query, {"limit": limit}, moment="settled_at")


def outliers(mirror: Mirror, part: Part, money: Money, factor: float) -> pd.DataFrame:
    """Return the tasks that took far more than is usual in their batch at their model."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise InvalidInput(f"factor= is a number above 0, not {factor!r}.")
    return _ask(mirror, part, money, _OUTLIERS, {"factor": float(factor)}, moment="settled_at")


def check_choice(name: str, given: str, known: Sequence[str]) -> None:
    """Refuse an argument that is none of the words it can be.

    Raises:
        InvalidInput: It is none; the message names the nearest.
    """
    if given not in known:
        raise InvalidInput(f"{name}={given!r} is none of {', '.join(known)}.{nearest(given, known)}")


def quota(mirror: Mirror) -> pd.DataFrame:
    """Return the newest reading of each quota window, and when it would be used up at this pace."""
    return frame(mirror, _QUOTA)


def _ask(
    mirror: Mirror,
    part: Part,
    money: Money,
    query: str,
    values: dict[str, Any] | None = None,
    *,
    moment: str = "moment",
    **words: str,
) -> pd.DataFrame:
    """Return the rows of a query about a part of the ledger; `words` are of this module, `values` are parameters."""
    where, bounds = part.where(moment)
    return frame(
        mirror, query.format(where=where, figures=_FIGURES, **words), {**bounds, **(values or {})}, money=money
    )


def _figures(mirror: Mirror, part: Part) -> dict[str, Any]:
    where, bounds = part.where()
    with mirror.cursor() as cursor:
        asked = cursor.execute(_SUMMARY.format(where=where, figures=_FIGURES), bounds)
        return dict(zip([column[0] for column in asked.description], asked.fetchall()[0], strict=True))
