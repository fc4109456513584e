"""`orch.costs`: questions about what was spent, each answered by one call with a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrai.costs import questions
from orchestrai.costs.mirror import Mirror
from orchestrai.costs.period import Moment, Part, moment_of
from orchestrai.costs.sql import Parameters, frame
from orchestrai.errors import InvalidInput
from orchestrai.pricing import PriceList
from orchestrai.results.frames import Money

if TYPE_CHECKING:
    import pandas as pd

    from orchestrai.costs.figures import Figure
    from orchestrai.costs.plots import Plots
    from orchestrai.ledger.housekeeping import Forgotten, Pruned
    from orchestrai.ledger.ledger import Ledger


class Costs:
    """What a ledger's requests cost, saved and waited for.

    Every question takes `since=` and `until=` (a day such as "2026-11-01", how long ago such as "24h" or "7d", "today", a
    date, datetime or timedelta), `project=` (the name of one project) and `money=` ("float": float64 USD; "decimal":
    exact Decimal objects), and sees the ledger as it is at that moment, with what other processes have written.

    Frames that group have these columns behind their keys: `tasks`, `succeeded` (Int64), `success_rate` (float64, of the
    tasks), `reused` (tasks answered from the ledger), `attempts` (Int64), `cost` (cash), `list_cost` (the same tokens on the
    paid API), `saved` (list cost minus cost, and the list cost of what was reused) [USD], `unknown_cost` and
    `unpriced` (attempts whose cost, or list cost, nobody knows: they count in no sum), `input_tokens`,
    `cache_read_tokens`, `output_tokens`, `reasoning_tokens` [tokens] (Int64), `p50_s`, `p95_s` (time of a request at its
    provider [s], float64). An empty ledger gives empty frames with the same columns and dtypes.

    Args:
        opened: Returns the ledger, opened on first use.
        prices: Prices of today.
    """

    def __init__(self, opened: Callable[[], Ledger], prices: PriceList) -> None:
        self._opened = opened
        self._prices = prices
        self._made: tuple[Ledger, Mirror] | None = None

    @property
    def mirror(self) -> Mirror:
        """The ledger in DuckDB, as the questions see it."""
        ledger = self._opened()
        if self._made is None or self._made[0] is not ledger:
            self.close()
            self._made = ledger, Mirror(ledger)
        return self._made[1]

    def sql(self, query: str, parameters: Parameters = (), *, money: Money = "float") -> pd.DataFrame:
        """Return the rows of one SELECT in DuckDB's SQL: `orch.costs.sql("SELECT platform, sum(cost) FROM attempts GROUP BY 1")`.

        Tables and views: attempts, tasks, batches, chains, prices, quota, v_daily, v_savings, v_price_tiers; their columns
        are in docs/how-to/costs.md. Nothing can be changed, no file read, no extension loaded.

        Args:
            query: The statement; `?` or `$name` stand for parameters.
            parameters: Their values, as a list or a dict.
            money: Columns of type DECIMAL as float64, or as exact Decimal objects.

        Returns:
            Whole numbers are Int64, DECIMAL and DOUBLE float64, text `str`, truth `boolean`, moments datetime64[us, UTC],
            days datetime64[us], anything else objects; whatever the rows are.

        Raises:
            InvalidQuery: It is not one SELECT, or cannot be run; the message shows where.
        """
        return frame(self.mirror, query, parameters, money=money, checked=True)

    def summary(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of a period beside those of the period of the same length before.

        Returns:
            One row per measure (the index): tasks, succeeded, success_rate, reused, attempts, cost, list_cost, saved,
            unknown_cost, unpriced, input_tokens, cache_read_tokens, output_tokens, reasoning_tokens, p50_s, p95_s,
            in_doubt, open (requests under way). Columns: `unit` (str), `value`, `before` (float64; exact objects with
            money="decimal"; `before` is unknown without `since`), `change` (float64: 0.25 is a quarter more).
        """
        return questions.summary(self.mirror, Part.of(since, until, project), money)

    def by_platform(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each platform; tasks answered from the ledger belong to none (`summary` has them).

        Returns:
            One row per `platform`, `tier` (str), the dearest first; then the columns that all groups have.
        """
        return questions.by_platform(self.mirror, Part.of(since, until, project), money)

    def by_model(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each model.

        Returns:
            One row per `platform`, `model`, `tier` (str), the dearest first; then the columns that all groups have.
        """
        return questions.by_model(self.mirror, Part.of(since, until, project), money)

    def by_day(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each day.

        Returns:
            One row per `day` (datetime64[us], a day in this machine's time zone) in order; then the columns that all
            groups have.
        """
        return questions.by_day(self.mirror, Part.of(since, until, project), money)

    def by_chain(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each run of a chain.

        Returns:
            One row per `chain_id` (str), the dearest first, with its name `chain` (str) and `created_at` (datetime64[us,
            UTC]); then the columns that all groups have.
        """
        return questions.by_chain(self.mirror, Part.of(since, until, project), money)

    def by_batch(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each call.

        Returns:
            One row per `batch_id` (str), the dearest first, with its name `batch`, `kind`, `project`, `status` (str) and
            `created_at` (datetime64[us, UTC]); then the columns that all groups have.
        """
        return questions.by_batch(self.mirror, Part.of(since, until, project), money)

    def by_type(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return the figures of each task type.

        Returns:
            One row per `task_type` (str, missing for tasks without), the dearest first; then the columns that all groups
            have.
        """
        return questions.by_type(self.mirror, Part.of(since, until, project), money)

    def by_tag(
        self,
        key: str,
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
        money: Money = "float",
    ) -> pd.DataFrame:
        """Return the figures of each value of one tag.

        Args:
            key: The tag's name.
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.
            money: How money is written.

        Returns:
            One row per `value` (str), the dearest first; tasks without the tag are left out; then the columns that all
            groups have.
        """
        return questions.by_tag(self.mirror, Part.of(since, until, project), money, key)

    def savings(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return what was saved, by what saved it.

        `free`, `subscription` and `local` are list cost minus cost of requests that such a platform answered; `cache` is
        what cached input saved against the full price of the same tokens, wherever it was (list costs have it in them
        already); `reuse` the list cost of answers that were taken from the ledger. A plan's fee is not in it.

        Returns:
            One row per `kind` (str), the largest first: `times` (Int64: requests or tasks), `saved` [USD], `share`
            (float64), `unpriced` (Int64: times without a list price, which count as nothing).
        """
        return questions.savings(self.mirror, Part.of(since, until, project), money)

    def estimates(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return what was expected of answered requests beside what came.

        Returns:
            One row per `platform`, `model` (str): `attempts` (Int64), `est_input_tokens`, `input_tokens` [tokens] (Int64),
            `input_ratio` (float64, actual to expected, and `_p05`, `_p95` of single requests), `output_limit_tokens` (where
            a limit was given), `output_tokens` (Int64), `est_cost` (what the plan expected, where the price is known), `cost`
            [USD], `cost_ratio` (float64, actual to expected cost of the requests where both are known).
        """
        return questions.estimates(self.mirror, Part.of(since, until, project), money)

    def latency(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> pd.DataFrame:
        """Return where the time of settled tasks went: in our queue, in waits after refusals, at the provider.

        Returns:
            One row per `platform`, `model` (str): `tasks` (Int64); means `queue_s`, `throttle_s`, `provider_s`;
            percentiles `queue_p95_s`, `throttle_p95_s`, `provider_p50_s`, `provider_p95_s`, `provider_p99_s`; `ttft_p50_s`
            (time to the first token of streams) [s] (float64).
        """
        return questions.latency(self.mirror, Part.of(since, until, project))

    def outcomes(
        self, *, since: Moment = None, until: Moment = None, project: str | None = None, money: Money = "float"
    ) -> pd.DataFrame:
        """Return how requests and tasks ended.

        Returns:
            One row per `status`, `error_class`, `platform` (str): `attempts` that ended so, `tasks` that were settled so,
            `reused` (Int64), `cost` [USD].
        """
        return questions.outcomes(self.mirror, Part.of(since, until, project), money)

    def top(
        self,
        by: Literal["cost", "list_cost", "duration_s", "input_tokens", "output_tokens", "attempts"] = "cost",
        limit: int = 20,
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
        money: Money = "float",
    ) -> pd.DataFrame:
        """Return the tasks with the most of something; `orch.explain(task_id)` tells all about one.

        Args:
            by: Of what.
            limit: Most rows.
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.
            money: How money is written.

        Returns:
            `task_id`, `platform`, `model`, `status`, `error_class` (str), `cost`, `list_cost` [USD], `input_tokens`,
            `output_tokens` [tokens] (Int64, all attempts), `duration_s` [s], `attempts` (Int64), `batch` (its name),
            `batch_id` (str), `task_index` (Int64), `chain_id` (str), `settled_at` (datetime64[us, UTC]).
        """
        return questions.top(self.mirror, Part.of(since, until, project), money, by, limit)

    def outliers(
        self,
        factor: float = 5.0,
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
        money: Money = "float",
    ) -> pd.DataFrame:
        """Return the tasks whose output or time was far above what is usual in their batch at their model.

        Args:
            factor: How many times the median; groups of fewer than ten tasks have no usual.
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.
            money: How money is written.

        Returns:
            `task_id`, `platform`, `model` (str), `output_tokens` (Int64), `usual_output_tokens`, `output_ratio`, `duration_s`,
            `usual_duration_s`, `duration_ratio` (float64), `cost`, `list_cost` [USD], `batch_id` (str), `task_index` (Int64).
        """
        return questions.outliers(self.mirror, Part.of(since, until, project), money, factor)

    def quota(self) -> pd.DataFrame:
        """Return the newest word of the providers about each quota window; `orch.quota` has what is counted here.

        Returns:
            One row per window, the fullest first: `platform`, `account`, `window` (str), `percent`, `left_percent` (float64),
            `resets_at` (datetime64[us, UTC]), `source` (str), `observed_at`, `percent_per_hour` (float64, in this period
            of the window), `full_at` (when it would be used up at this pace).
        """
        return questions.quota(self.mirror)

    def lineage(self, chain: Any, *, money: Money = "float") -> pd.DataFrame:
        """Return the tasks of a chain, or those that a task came from and that came of it, in whatever chain they are.

        Args:
            chain: A chain, its name (its newest run), its id, or the id of a task.
            money: How money is written.

        Returns:
            One row per task, parents first: `task_id`, `parent_task_id` (str, the first parent), `parents` (tuple of all),
            `depth` (Int64), `chain_id`, `task_type`, `platform`, `model`, `status` (str), `reused` (boolean), `cost`,
            `list_cost` [USD], `input_tokens`, `output_tokens`, `attempts` (Int64), `started_at`, `settled_at`
            (datetime64[us, UTC]), `duration_s` [s], `cost_below` (its own and of all that came of it) [USD].

        Raises:
            InvalidInput: There is no such chain; the message names the nearest.
        """
        from orchestrai.costs.lineage import lineage

        name = getattr(chain, "id", chain)
        if not isinstance(name, str):
            raise InvalidInput(
                f"{type(chain).__name__} is no chain: give a chain, its name or id, or the id of a task."
            )
        return lineage(self.mirror, self._opened(), name, money)

    def reprice(
        self,
        model: str,
        *,
        at: Moment = None,
        processing: Literal["sync", "batch"] = "sync",
        service_tier: str | None = None,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
        money: Money = "float",
    ) -> pd.DataFrame:
        """Return what history would have cost on another model: the same tokens at its price.

        Another model counts and writes other numbers of tokens, so this is a comparison of prices, not a forecast.

        Args:
            model: Its name, or `provider/model`.
            at: Whose prices: those in force at that moment; now by default.
            processing: "batch" for the price of provider's batch APIs.
            service_tier: A tier of the provider, such as "flex" or "priority".
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.
            money: How money is written.

        Returns:
            One row per `platform`, `model`, `tier` (str) that answered: `attempts`, `unknown` (without known tokens),
            `input_tokens`, `output_tokens` (Int64), `cost`, `list_cost`, `repriced_cost`, `difference` (against the cash
            of the same attempts) [USD]; and of the price `repriced_as` ("provider/model"), `price_match`, `price_source`,
            `price_version` (str), `price_since` (datetime64[us]: its first day, where it has one).

        Raises:
            InvalidInput: No list has a price for it; the message names the nearest model.
        """
        from orchestrai.costs.reprice import find_price, reprice

        price = find_price(
            self.mirror, self._prices, model, at=moment_of(at, "at"), processing=processing, service_tier=service_tier
        )
        return reprice(self.mirror, Part.of(since, until, project), price, money)

    @property
    def plot(self) -> Plots:
        """Figures of the questions: `orch.costs.plot.by_day()`, `.by_platform()`, `.savings()`, `.timeline(batch)`, …"""
        from orchestrai.costs.plots import Plots

        return Plots(self)

    def dashboard(self, *, since: Moment = "30d", until: Moment = None, project: str | None = None) -> Figure:
        """Return one figure of it all: billed, list cost, saved, tasks, success, tokens and p95 with their change, cost per
        day, savings, platforms and models, and the newest batch.

        Args:
            since: From this moment on; the change is against the same time before.
            until: Up to this moment.
            project: Of this project alone.
        """
        from orchestrai.costs.plots import dashboard

        return dashboard(self, since, until, project)

    def export(self, value: Any, path: str | Path) -> Path:
        """Write a frame to .csv or .parquet, or a figure or the dashboard to one .html file that needs no network.

        In CSV a text that a spreadsheet would run as a formula has a `'` before it. A file is replaced whole or not at all.

        Args:
            value: A DataFrame, or what `plot` and `dashboard` return.
            path: The file.

        Returns:
            The file's path.

        Raises:
            InvalidFile: It cannot be written, or has another ending.
        """
        from orchestrai.costs.export import export

        return export(value, Path(path))

    def prune(self, *, before: Moment) -> Pruned:
        """Remove the history from before a moment for good: requests, tasks and calls, with their texts.

        What is under way stays, and the newest request and outcome. Answers that are removed are not reused any more; quotas
        and budgets are counted elsewhere and stay as they are. The file keeps its size and fills up again.

        Args:
            before: A day such as "2026-01-01", how long ago such as "90d", or a date, datetime or timedelta.

        Returns:
            What was removed: `requests`, `tasks` (that no request of their own had settled), `calls`.

        Raises:
            InvalidInput: The moment cannot be understood.
            LedgerError: The ledger cannot be written; the same call again goes on.
        """
        from orchestrai.costs.forgetting import prune

        return prune(self._opened(), before)

    def forget(self, task: Any, batch: Any, tag: Mapping[str, str] | str | None) -> Forgotten:
        """Forget texts; see `Orchestrator.forget`."""
        from orchestrai.costs.forgetting import forget

        return forget(self._opened(), self.mirror, task, batch, tag)

    def close(self) -> None:
        """Let go of the mirror; the next question builds it again."""
        if self._made is not None:
            self._made[1].close()
            self._made = None

    def start_anew(self) -> None:
        """Let go, in a forked child, of a mirror whose threads are its parent's."""
        if self._made is not None:
            self._made[1].forget()
            self._made = None

    def __repr__(self) -> str:
        return (
            "<orch.costs: summary, by_platform, by_model, by_day, by_chain, by_batch, by_tag, by_type, savings, top, "
            "outliers, estimates, latency, outcomes, quota, lineage, reprice, sql, plot, dashboard, export, prune>"
        )
