"""Questions to the mirror, each one query that aggregates in DuckDB and returns a frame.

Every function takes the mirror and the part of the ledger that is asked about; `costs.py` documents what comes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrai.costs.mirror import Mirror
from orchestrai.costs.period import Part
from orchestrai.costs.sql import frame, rows
from orchestrai.errors import InvalidInput, nearest
from orchestrai.results.frames import Money

if TYPE_CHECKING:
    import pandas as pd

_NOTHING: Final = "0 :: DECIMAL(38, 12)"
_FIGURES: Final = f"""
count(*) FILTER (task) AS tasks, count(*) FILTER (succeeded) AS succeeded,
count(*) FILTER (succeeded) / nullif(count(*) FILTER (task), 0) AS success_rate, count(*) FILTER (reused) AS reused,
count(*) FILTER (attempt) AS attempts, coalesce(sum(cost), {_NOTHING}) AS cost,
coalesce(sum(list_cost), {_NOTHING}) AS list_cost, coalesce(sum(saved), {_NOTHING}) AS saved,
count(*) FILTER (cost IS NULL) AS unknown_cost, coalesce(sum(input_tokens), 0) :: BIGINT AS input_tokens,
coalesce(sum(cache_read_tokens), 0) :: BIGINT AS cache_read_tokens,
coalesce(sum(output_tokens), 0) :: BIGINT AS output_tokens,
coalesce(sum(reasoning_tokens), 0) :: BIGINT AS reasoning_tokens,
quantile_cont(duration_s, 0.5) AS p50_s, quantile_cont(duration_s, 0.95) AS p95_s
"""
_DEAREST: Final = "ORDER BY cost DESC, list_cost DESC, tasks DESC"
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
TOP_BY: Final = ("cost", "list_cost", "duration_s", "input_tokens", "output_tokens", "attempts")
"""What `top` can order by."""


def summary(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of a part and of the one before."""
    import pandas as pd

    figures = f"SELECT {_FIGURES}, count(*) FILTER (status = 'in_doubt') AS in_doubt, count(*) FILTER (status = 'open') AS open FROM ledger.work"  # noqa: S608
    names = [*_names(mirror, figures)]
    found = []
    for one in (part, part.before()):
        if one is None:
            found.append([None] * len(names))
            continue
        where, parameters = one.where()
        found.append(list(rows(mirror, f"{figures} WHERE {where}", parameters)[0]))
    exact = pd.DataFrame({"value": found[0], "before": found[1]}, index=pd.Index(names, name="measure"), dtype=object)
    floats = exact.astype("float64")
    change = floats["value"] / floats["before"].where(floats["before"] != 0) - 1
    kept = exact if money == "decimal" else floats
    return kept.assign(change=change).assign(unit=[_UNITS.get(name, "count") for name in names])[
        ["unit", "value", "before", "change"]
    ]


def by_platform(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each platform and tier."""
    return _grouped(mirror, part, money, "platform, tier", only="platform IS NOT NULL")


def by_model(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each model of each platform."""
    return _grouped(mirror, part, money, "platform, model, tier", only="platform IS NOT NULL")


def by_day(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each day."""
    return _grouped(mirror, part, money, "day", order="ORDER BY day")


def by_type(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each task type."""
    return _grouped(mirror, part, money, "task_type")


def by_chain(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each run of a chain."""
    where, parameters = part.where()
    return frame(
        mirror,
        f"SELECT chain_id, coalesce(name, chain_id) AS chain, created_at, g.* EXCLUDE (chain_id) FROM ("  # noqa: S608
        f"SELECT chain_id, {_FIGURES} FROM ledger.work WHERE {where} AND chain_id IS NOT NULL GROUP BY chain_id) g "
        f"LEFT JOIN chains USING (chain_id) {_DEAREST}, chain_id",
        parameters,
        money=money,
        checked=False,
    )


def by_batch(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return the figures of each call."""
    where, parameters = part.where()
    return frame(
        mirror,
        f"SELECT batch_id, name AS batch, kind, project, status, created_at, g.* EXCLUDE (batch_id) FROM ("  # noqa: S608
        f"SELECT batch_id, {_FIGURES} FROM ledger.work WHERE {where} GROUP BY batch_id) g "
        f"LEFT JOIN batches USING (batch_id) {_DEAREST}, batch_id",
        parameters,
        money=money,
        checked=False,
    )


def by_tag(mirror: Mirror, part: Part, money: Money, key: str) -> pd.DataFrame:
    """Return the figures of each value of a tag."""
    where, parameters = part.where()
    pointer = "/" + str(key).replace("~", "~0").replace("/", "~1")  # RFC 6901: any text names a key, none is a path
    return frame(
        mirror,
        # Each distinct set of tags is taken apart once, however many tasks have it.
        f"WITH values AS (SELECT tags, tags :: JSON ->> $key AS value FROM (SELECT DISTINCT tags FROM ledger.work)) "  # noqa: S608
        f"SELECT value, {_FIGURES} FROM ledger.work JOIN values USING (tags) WHERE {_named(where)} AND value IS NOT NULL "
        f"GROUP BY value {_DEAREST}, value",
        {"key": pointer, **{f"p{i}": value for i, value in enumerate(parameters)}},
        money=money,
        checked=False,
    )


def savings(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return what was saved, by what saved it."""
    where, parameters = part.where()
    return frame(
        mirror,
        f"SELECT kind, count(*) AS times, coalesce(sum(saved), {_NOTHING}) AS saved, "  # noqa: S608
        "coalesce(sum(saved) :: DOUBLE / nullif(sum(sum(saved)) OVER () :: DOUBLE, 0), 0) AS share, "
        f"count(*) FILTER (unpriced) AS unpriced FROM ledger.savings WHERE {where} GROUP BY kind ORDER BY saved DESC, kind",
        parameters,
        money=money,
        checked=False,
    )


def saved_by_day(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return list cost and cost, day by day and summed up: what the plot of savings shows."""
    where, parameters = part.where()
    return frame(
        mirror,
        "SELECT day, cost, full_cost, sum(cost) OVER (ORDER BY day) AS cost_so_far, "  # noqa: S608
        "sum(full_cost) OVER (ORDER BY day) AS full_cost_so_far FROM (SELECT day, "
        f"coalesce(sum(cost), {_NOTHING}) AS cost, coalesce(sum(cost) FILTER (saved IS NOT NULL), {_NOTHING}) + "
        f"coalesce(sum(saved), {_NOTHING}) AS full_cost FROM ledger.work WHERE {where} GROUP BY day) ORDER BY day",
        parameters,
        money=money,
        checked=False,
    )


def day_by_platform(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return cost and list cost of each platform on each day."""
    where, parameters = part.where()
    return frame(
        mirror,
        f"SELECT day, platform, tier, coalesce(sum(cost), {_NOTHING}) AS cost, "  # noqa: S608
        f"coalesce(sum(list_cost), {_NOTHING}) AS list_cost, count(*) FILTER (task) AS tasks FROM ledger.work "
        f"WHERE {where} AND platform IS NOT NULL GROUP BY ALL ORDER BY ALL",
        parameters,
        money=money,
        checked=False,
    )


def estimates(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return what was expected of attempts beside what came."""
    where, parameters = part.where("started_at")
    return frame(
        mirror,
        "SELECT platform, model, count(*) AS attempts, sum(est_input_tokens) :: BIGINT AS est_input_tokens, "  # noqa: S608
        "sum(input_tokens) :: BIGINT AS input_tokens, sum(input_tokens) / nullif(sum(est_input_tokens), 0) AS input_ratio, "
        "quantile_cont(input_tokens / nullif(est_input_tokens, 0), 0.05) AS input_ratio_p05, "
        "quantile_cont(input_tokens / nullif(est_input_tokens, 0), 0.95) AS input_ratio_p95, "
        "sum(est_output_tokens) FILTER (output_tokens IS NOT NULL) :: BIGINT AS output_limit_tokens, "
        "sum(output_tokens) :: BIGINT AS output_tokens, sum(est_cost) AS est_cost, sum(cost) AS cost, "
        "sum(cost) FILTER (est_cost IS NOT NULL) / nullif(sum(est_cost) FILTER (cost IS NOT NULL), 0) AS cost_ratio "
        "FROM attempts "
        f"WHERE {where} AND status = 'succeeded' AND est_input_tokens IS NOT NULL AND input_tokens IS NOT NULL "
        "GROUP BY ALL ORDER BY attempts DESC, platform, model",
        parameters,
        money=money,
        checked=False,
    )


def latency(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return where the time of settled tasks went."""
    where, parameters = part.where("finished_at")
    return frame(
        mirror,
        # What earlier attempts of a task took at a provider counts with it; most tasks have none.
        "WITH settled AS (SELECT task_id, platform, model, attempt_no, duration_s, backoff_s, ttft_s, "  # noqa: S608
        f"epoch_us(finished_at) - epoch_us(queued_at) AS whole_us FROM attempts WHERE {where} AND settles), "
        "earlier AS (SELECT task_id, sum(duration_s) AS duration_s FROM attempts WHERE NOT settles GROUP BY task_id), "
        "split AS (SELECT s.platform, s.model, s.ttft_s, whole_us / 1e6 AS whole_s, coalesce(s.backoff_s, 0) AS throttle_s, "
        "s.duration_s + coalesce(e.duration_s, 0) AS provider_s FROM settled s LEFT JOIN earlier e USING (task_id)) "
        "SELECT platform, model, count(*) AS tasks, "
        "avg(greatest(0, whole_s - throttle_s - provider_s)) AS queue_s, avg(throttle_s) AS throttle_s, "
        "avg(provider_s) AS provider_s, "
        "quantile_cont(greatest(0, whole_s - throttle_s - provider_s), 0.95) AS queue_p95_s, "
        "quantile_cont(throttle_s, 0.95) AS throttle_p95_s, quantile_cont(provider_s, 0.5) AS provider_p50_s, "
        "quantile_cont(provider_s, 0.95) AS provider_p95_s, quantile_cont(provider_s, 0.99) AS provider_p99_s, "
        "quantile_cont(ttft_s, 0.5) AS ttft_p50_s FROM split GROUP BY ALL ORDER BY tasks DESC, platform, model",
        parameters,
        money=money,
        checked=False,
    )


def outcomes(mirror: Mirror, part: Part, money: Money) -> pd.DataFrame:
    """Return how attempts and tasks ended."""
    where, parameters = part.where()
    return frame(
        mirror,
        "SELECT status, error_class, platform, count(*) FILTER (attempt) AS attempts, count(*) FILTER (task) AS tasks, "  # noqa: S608
        f"count(*) FILTER (reused) AS reused, coalesce(sum(cost), {_NOTHING}) AS cost FROM ledger.work WHERE {where} "
        "GROUP BY ALL ORDER BY attempts + tasks DESC, status, error_class, platform",
        parameters,
        money=money,
        checked=False,
    )


def top(mirror: Mirror, part: Part, money: Money, by: str, limit: int) -> pd.DataFrame:
    """Return the tasks with the most of something."""
    if by not in TOP_BY:
        raise InvalidInput(f"by={by!r} is none of {', '.join(TOP_BY)}.{nearest(by, TOP_BY)}")
    where, parameters = part.where("settled_at")
    summed = by in ("input_tokens", "output_tokens")
    # Money and time are known of a task; only tokens have to be summed over attempts before they can be ordered.
    few = (
        f"(SELECT task_id, sum({by}) AS amount FROM attempts WHERE task_id IN (SELECT task_id FROM tasks WHERE {where}) "  # noqa: S608
        f"GROUP BY task_id ORDER BY amount DESC NULLS LAST, task_id LIMIT {int(limit)})"
        if summed
        else f"(SELECT task_id, {by} AS amount FROM tasks WHERE {where} AND NOT reused ORDER BY amount DESC NULLS LAST, "  # noqa: S608
        f"task_id LIMIT {int(limit)})"
    )
    return frame(
        mirror,
        f"WITH few AS MATERIALIZED {few}, "  # noqa: S608
        "used AS (SELECT task_id, sum(input_tokens) :: BIGINT AS input_tokens, sum(output_tokens) :: BIGINT AS output_tokens "
        "FROM attempts WHERE task_id IN (SELECT task_id FROM few) GROUP BY task_id) "
        "SELECT task_id, platform, model, t.status, error_class, cost, list_cost, input_tokens, output_tokens, duration_s, "
        "attempts, b.name AS batch, batch_id, task_index, chain_id, settled_at FROM few JOIN tasks t USING (task_id) "
        "LEFT JOIN used USING (task_id) LEFT JOIN batches b USING (batch_id) ORDER BY amount DESC NULLS LAST, task_id",
        parameters,
        money=money,
        checked=False,
    )


def outliers(mirror: Mirror, part: Part, money: Money, factor: float) -> pd.DataFrame:
    """Return the tasks that took far more than is usual in their batch at their model."""
    where, parameters = part.where("settled_at")
    return frame(
        mirror,
        "WITH mine AS (SELECT batch_id, task_id, task_index, t.platform, t.model, t.list_cost, t.cost, a.output_tokens, "  # noqa: S608
        "t.duration_s FROM tasks t JOIN (SELECT task_id, output_tokens FROM attempts WHERE settles) a USING (task_id) "
        f"WHERE {where} AND t.status = 'succeeded'), "
        "usual AS (SELECT batch_id, platform, model, median(output_tokens) AS usual_output_tokens, "
        "median(duration_s) AS usual_duration_s FROM mine GROUP BY ALL HAVING count(*) >= 10) "
        "SELECT task_id, platform, model, output_tokens, usual_output_tokens, "
        "output_tokens / nullif(usual_output_tokens, 0) AS output_ratio, duration_s, usual_duration_s, "
        "duration_s / nullif(usual_duration_s, 0) AS duration_ratio, cost, list_cost, batch_id, task_index "
        "FROM mine JOIN usual USING (batch_id, platform, model) "
        f"WHERE output_ratio > {float(factor)} OR duration_ratio > {float(factor)} "
        "ORDER BY greatest(coalesce(output_ratio, 0), coalesce(duration_ratio, 0)) DESC, task_id",
        parameters,
        money=money,
        checked=False,
    )


def quota(mirror: Mirror, money: Money) -> pd.DataFrame:
    """Return the newest reading of each quota window, and when it would be used up at this pace."""
    return frame(
        mirror,
        """
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
        """,
        money=money,
        checked=False,
    )


def _grouped(
    mirror: Mirror, part: Part, money: Money, key: str, *, only: str = "true", order: str = _DEAREST
) -> pd.DataFrame:
    where, parameters = part.where()
    return frame(
        mirror,
        f"SELECT {key}, {_FIGURES} FROM ledger.work WHERE {where} AND {only} GROUP BY {key} {order}, {key}",  # noqa: S608
        parameters,
        money=money,
        checked=False,
    )


def _names(mirror: Mirror, query: str) -> list[str]:
    with mirror.cursor() as cursor:
        return list(cursor.sql(query).columns)


def _named(where: str) -> str:
    """Return a condition with `$p0`, `$p1`, … for its question marks, so that it stands beside named parameters."""
    pieces = where.split("?")
    return pieces[0] + "".join(f"$p{i}{piece}" for i, piece in enumerate(pieces[1:]))
