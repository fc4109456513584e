"""Surroundings: what the calls of an orchestrator share, and what each of them is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrai import intake
from orchestrai.engine.batch import Run
from orchestrai.engine.books import RunOptions
from orchestrai.engine.engine import Engine
from orchestrai.engine.lineage import Rules
from orchestrai.engine.origins import Origins
from orchestrai.engine.prepare import Preparer
from orchestrai.errors import InvalidInput
from orchestrai.ids import new_id, now_us
from orchestrai.ledger.reservations import MeterState, other_meters, state_of
from orchestrai.limits.budget import Budget, call_meter
from orchestrai.limits.quota import Meter
from orchestrai.options import latest_of, max_cost_of
from orchestrai.plan import Quota
from orchestrai.platforms.catalogue import with_settings
from orchestrai.platforms.discovery import Finding
from orchestrai.pricing import PriceList, to_pico
from orchestrai.routing.explain import window_use
from orchestrai.routing.offers import Offer, Router
from orchestrai.routing.planner import Limits
from orchestrai.settings import Settings
from orchestrai.task import Task


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the calls of an orchestrator share.

    Args:
        settings: Its settings.
        project: Name of its project.
        ledger_path: Where its ledger is.
        prices: List prices.
        budgets: Budgets of the settings.
        findings: Returns what was found of each platform.
        router: Returns where tasks may go.
        engine: Opens the ledger.
    """

    settings: Settings
    project: str
    ledger_path: str
    prices: PriceList
    budgets: tuple[Budget, ...]
    findings: Callable[[], Sequence[Finding]]
    router: Callable[[], Router]
    engine: Callable[[], Engine]

    def run(self, kind: str, call: Mapping[str, Any], **outlets: Any) -> Run:
        """Return a run for a call that is about to be made."""
        from orchestrai.limits.retry import RetryPolicy  # tenacity is loaded by the first call, not by the import

        reuse = call.get("reuse")
        options = RunOptions(
            kind=kind,
            name=call.get("name"),
            project=self.project,
            reuse=self.settings.reuse if reuse is None else reuse,
            on_error="stop" if call.get("on_error") == "stop" else "continue",
            concurrency=call.get("concurrency") or self.settings.concurrency,
            repair_attempts=self.settings.repair_attempts,
            keep_texts=self.settings.keep_texts,
            mix=call.get("mix") is not False,
            latest=latest_of(call, now_us()),
            described={
                key: value
                for key, value in call.items()
                if isinstance(value, str | int | float) and (key != "prompt" or self.settings.keep_texts)
            },
        )
        preferences = with_settings(self.settings.catalogue).preferences
        retry = RetryPolicy(attempts=self.settings.attempts)
        limits = self._limits(call)
        return Run(self.engine(), self.prices, retry, options, limits=limits, preferences=preferences, **outlets)

    def preparer(self, *, streaming: bool = False, whole: bool = False) -> Preparer:
        """Return what turns the tasks of one call into items."""
        return Preparer(self.router(), self.origins(), streaming=streaming, whole=whole)

    def origins(self) -> Origins:
        """Return what looks up the chains and parents of tasks."""
        settings = self.settings
        rules = Rules(settings.handoff_summary, settings.handoff_fit)
        return Origins(self.engine, self.project, rules, keep_texts=settings.keep_texts)

    def with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return task options with those of the settings where none are given."""
        return {"timeout_s": self.settings.timeout_s, **options}

    def one_task(self, prompt: Any, options: Mapping[str, Any]) -> Task:
        """Return the task of a call that has one.

        Raises:
            InvalidInput: The prompt or an option cannot be used.
        """
        task = intake.take_one(prompt, options=self.with_defaults(options))
        if (task.samples or 1) > 1:
            raise InvalidInput("One prompt is answered once here; several samples of it are a batch.")
        return task

    def quota(self, engine: Engine | None = None) -> Quota:
        """Return every quota window of the platforms that were found, and every budget, as they stand now.

        Args:
            engine: Whose ledger is read; None opens it.
        """
        meters: dict[str, Meter] = {}
        for finding in self.findings():
            if (platform := finding.platform) is not None and finding.barred is None:
                meters.update((meter.id, meter) for meter in self.router().meters(platform, platform.model))
        meters.update((budget.meter.id, budget.meter) for budget in self.budgets)
        now = now_us()

        def look(connection: Any) -> list[MeterState]:
            return [state_of(connection, meter, now) for meter in (*meters.values(), *other_meters(connection, meters))]

        states = (engine or self.engine()).ledger.read(look)
        uses = [window_use(state.meter, state, now) for state in states]
        scale = [
            use.limit / state.meter.window.whole if state.meter.window.whole else 1.0
            for use, state in zip(uses, states, strict=True)
        ]

        def widget() -> Any:
            from orchestrai.notebook.meters import Meters  # the packages of widgets are loaded where one is wanted

            opened = self.engine()  # meters that outlive their orchestrator do not open its ledger again
            return Meters(lambda: self.quota(opened))

        return Quota(uses, [state.reserved * one for state, one in zip(states, scale, strict=True)], widget)

    def _limits(self, call: Mapping[str, Any]) -> Limits:
        max_cost = max_cost_of(call)
        own = () if not max_cost else (call_meter(max_cost, new_id()),)
        if not own and not self.budgets:
            return Limits(no_cash=max_cost is not None)
        budgets = [(budget, budget.meter) for budget in self.budgets]

        def counted_in(task: Task, offer: Offer) -> tuple[Meter, ...]:
            name, tags, chain = offer.platform.name, task.tags, task.chain
            return (*own, *(meter for budget, meter in budgets if budget.counts(name, tags, chain)))

        return Limits(
            no_cash=max_cost is not None and not max_cost,
            counts_cash=True,
            capped=bool(own) or any(budget.hard for budget in self.budgets),
            allowance=to_pico(self.settings.task_allowance),
            budgets=counted_in,
            call=own[0] if own else None,
        )
