"""Calls: what one call of an orchestrator is made of, from its options to its result."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrai import confirmation
from orchestrai import intake as intake_module
from orchestrai.engine.batch import Run
from orchestrai.engine.books import RunOptions
from orchestrai.engine.draft import Draft
from orchestrai.engine.engine import Engine
from orchestrai.engine.lineage import Rules
from orchestrai.engine.origins import Origins
from orchestrai.engine.prepare import Prepared, Preparer
from orchestrai.errors import ConfirmationNeeded, InvalidInput, NotConfirmed, PlanStale, PlanWarning
from orchestrai.explanation import Explanation
from orchestrai.ids import new_id, now_us
from orchestrai.intake import Intake
from orchestrai.ledger import history
from orchestrai.ledger.queries import consenting, give_consent
from orchestrai.ledger.reservations import MeterState, other_meters, state_of
from orchestrai.limits.budget import Budget, call_meter
from orchestrai.limits.quota import Meter
from orchestrai.options import check_call, latest_of, max_cost_of
from orchestrai.plan import Plan, Quota
from orchestrai.platforms.catalogue import with_settings
from orchestrai.platforms.discovery import Finding
from orchestrai.pricing import PriceList, to_pico
from orchestrai.result import Result
from orchestrai.results import frames
from orchestrai.results.batch_result import BatchResult
from orchestrai.routing import preflight
from orchestrai.routing.explain import Warned, plan_of, sheet, window_use
from orchestrai.routing.offers import Offer, Router
from orchestrai.routing.planner import Limits
from orchestrai.schemas import answer_schema
from orchestrai.settings import Settings
from orchestrai.task import Task
from orchestrai.text import excerpt, prompt_text


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
        task = intake_module.take_one(prompt, options=self.with_defaults(options))
        if (task.samples or 1) > 1:
            raise InvalidInput("One prompt is answered once here; several samples of it are a batch.")
        return task

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


def read_batch(
    around: Surroundings,
    prompts: Any,
    options: Mapping[str, Any],
    call: Mapping[str, Any],
    parents: Sequence[Any] | None = None,
) -> Intake:
    """Read the whole input of a batch; nothing is decided and nothing is sent.

    Args:
        around: What the calls of the orchestrator share.
        prompts: The input.
        options: Options of its tasks.
        call: Options of the call.
        parents: A parent for each row.

    Raises:
        InvalidInput: The input or an option cannot be used.
    """
    check_call(call)
    intake = intake_module.take(
        prompts,
        prompt=call.get("prompt"),
        missing=call.get("missing") or "skip",
        options=around.with_defaults(options),
        parents=parents,
    )
    schema = answer_schema(options["schema"]) if options.get("schema") is not None else None
    frames.check_columns(intake.frame, call.get("into"), schema, intake.columns)
    return intake


class BatchCall:
    """One batch, from its input to its result.

    Args:
        around: What the calls of its orchestrator share.
        intake: Its input.
        call: Options of the call.
        again: Asks tasks once more, under the same options.
        run_plan: Runs a plan that was made of it.
    """

    def __init__(
        self,
        around: Surroundings,
        intake: Intake,
        call: Mapping[str, Any],
        again: Callable[[list[Task], Mapping[str, Any]], Awaitable[BatchResult]],
        run_plan: Callable[[BatchCall, Plan], Awaitable[BatchResult]],
    ) -> None:
        self.intake = intake
        self.call = call
        self._around = around
        self._again = again
        self._run_plan = run_plan
        preparer = around.preparer(whole=True)
        self.prepared: Prepared = preparer.prepare(intake.tasks, refused=intake.refused, labels=intake.labels)
        self.run = around.run("batch", call)
        self.run.progress.step = _step_of(intake.tasks, call)
        self._schema = self._one_schema()
        self._sampled = any((task.samples or 1) > 1 for task in intake.tasks)

    def plan(self, draft: Draft) -> Plan:
        """Return what a draft of it comes to."""
        count = len(self.prepared.items) + len(self.prepared.refused)
        made = sheet(draft.fresh, draft.reused, draft.copies, self.prepared.refused, count)
        return planned(self._around, self.run, draft, made, lambda plan: self._run_plan(self, plan))

    def finish(self) -> BatchResult:
        """Return its result so far; a task that is not settled yet stands in it as cancelled."""
        run, intake, call = self.run, self.intake, self.call
        places = [(i, sample) for i, task in enumerate(intake.tasks) for sample in range(task.samples or 1)]
        so_far = run.results or [self.prepared.refused.get(position) for position in range(len(places))]
        results = [
            result if result is not None else _unfinished(intake, index, sample)
            for (index, sample), result in zip(places, so_far, strict=True)
        ]
        return BatchResult(
            results,
            status=run.status,
            duration_s=run.progress.elapsed_s,
            frame=intake.frame,
            into=call.get("into"),
            schema=self._schema,
            batch_id=run.books.batch_id,
            name=call.get("name"),
            project=self._around.project,
            ledger_path=self._around.ledger_path,
            sampled=self._sampled,
            retry=self._retry,
        )

    async def _retry(self, tasks: list[Task]) -> BatchResult:
        kept = ("mix", "concurrency", "reuse", "progress", "max_cost", "deadline", "confirm")
        again = {name: self.call[name] for name in kept if self.call.get(name) is not None}
        return await self._again(tasks, again)

    def _one_schema(self) -> Any:
        tasks = self.intake.tasks
        schemas = {task.schema if task.schema.__hash__ else id(task.schema) for task in tasks}
        return answer_schema(tasks[0].schema) if len(schemas) == 1 and tasks[0].schema else None


def planned(
    around: Surroundings,
    run: Run,
    draft: Draft,
    made: Any,
    runner: Callable[[Plan], Awaitable[BatchResult]] | None = None,
) -> Plan:
    """Return the plan that a draft comes to, with what has to be asked before it runs."""
    settings = around.settings
    chosen = {(offer.platform.name, offer.model): offer for offer in made.known}
    fresh = draft.fresh
    excluded: dict[str, str] = {}
    for route in {id(item.route): item.route for item in fresh}.values():
        excluded.update(route.excluded)
    for name, _ in chosen:
        excluded.pop(name, None)
    forced = set(chosen)
    for item in fresh:
        offer = item.route.offers[0] if item.route.offers else None
        if offer is not None and not _asked_for(item.task, offer):
            forced.discard((offer.platform.name, offer.model))

    def meters(task: Task, offer: Offer) -> tuple[Meter, ...]:
        return (*offer.meters, *(run.limits.budgets(task, offer) if offer.tier == "paid" else ()))

    def questions(plan: Plan) -> tuple[Any, ...]:
        if not plan.by_platform:
            return ()
        used = {name for name, _ in chosen}
        trained = {
            f.name: f.platform.account or ""
            for f in around.findings()
            if f.platform is not None and f.name in used and _trains_unasked(f)
        }
        agreed = around.engine().ledger.read(consenting) if trained else set()
        strangers = {
            name: f'Where that is turned off, write data_use = "none" under [platforms.{name}] in the settings.'
            for name, account in trained.items()
            if (name, account) not in agreed
        }
        return preflight.questions(
            plan,
            ask_above=settings.ask_above,
            forced=forced,
            without_cash=[
                f.name
                for f in around.findings()
                if f.automatic and f.barred is None and f.tier in ("free", "subscription")
            ],
            strangers=strangers,
        )

    return plan_of(
        made,
        draft.outlook,
        meters,
        excluded,
        draft.outline.bound if draft.outline.binding else None,
        Warned(settings.warn_at, settings.estimate_above_tokens),
        runner,
        questions,
    )


def _trains_unasked(finding: Finding) -> bool:
    """Return True for a platform whose plan may train on the data, and that the person did not choose."""
    return not finding.chosen and finding.data_use == "may_train"


def _asked_for(task: Task, offer: Offer) -> bool:
    """Return True where a task names the platform or the model itself, so that nothing about it is a surprise."""
    return offer.platform.name in task.platforms or task.model is not None


class Preflight:
    """Says and asks what has to be said and asked before calls run; each thing once.

    Args:
        around: What the calls of the orchestrator share.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._said: set[tuple[str, float]] = set()

    async def pass_(self, plan: Plan, confirm: str | None) -> None:
        """Let a plan pass, once it is said and asked what has to be.

        Raises:
            ConfirmationNeeded: A person would have to agree, and nobody could answer.
            NotConfirmed: The person did not agree.
        """
        if self._passes(plan, confirm):
            return
        self._judge(plan, confirm, await confirmation.ask(plan))

    def pass_sync(self, plan: Plan, confirm: str | None) -> None:
        """Do the same in a caller that cannot await: a person can be asked in a terminal alone.

        Raises:
            ConfirmationNeeded: As `pass_`.
            NotConfirmed: As `pass_`.
        """
        if self._passes(plan, confirm):
            return
        self._judge(plan, confirm, confirmation.ask_in_terminal(plan))

    def _passes(self, plan: Plan, confirm: str | None) -> bool:
        """Return True where nobody has to be asked; what has to be said is said."""
        if confirm != "always" and (confirm == "never" or not plan.questions):
            self._say(plan)
            return True
        return False

    def _say(self, plan: Plan) -> None:
        for text in preflight.to_say(plan, self._said, self._around.settings.warn_at):
            # The line of code that says so explains nothing, and the caller's is far up, behind a loop.
            warnings.warn_explicit(text, PlanWarning, "orchestrai", 1)

    def _judge(self, plan: Plan, confirm: str | None, answer: bool | None) -> None:
        if answer is None and confirm != "always" and all(question.kind == "quota" for question in plan.questions):
            self._say(plan)
            return
        asked = " ".join(question.text for question in plan.questions) or "It was to be confirmed."
        if answer is None:
            raise ConfirmationNeeded(
                f'{asked} Nobody could answer, so nothing was sent. Look at orch.last_plan, then run it with confirm="never".',
                plan,
            )
        if not answer:
            raise NotConfirmed(f"Nothing was sent. ({asked})", plan)
        if any(question.kind == "training" for question in plan.questions):
            names = {name for name, _, _ in plan.by_platform}
            agreed = [
                (f.name, f.platform.account or "")
                for f in self._around.findings()
                if f.platform is not None and f.name in names and _trains_unasked(f)
            ]
            self._around.engine().ledger.file.write(lambda c: give_consent(c, agreed, now_us()))


def refuse_stale(plan: Plan, now: Plan) -> None:
    """Refuse to run a plan that would now cost more than it said.

    Raises:
        PlanStale: It would.
    """
    most, expected = plan.cost.high, now.cost.expected
    if most is not None and (expected is None or expected > most):
        cost = "an unknown amount" if expected is None else f"about ${expected:.4f}"
        raise PlanStale(f"This would now cost {cost}; when it was planned, it was at most ${most:.4f}.", now)


def _step_of(tasks: Sequence[Task], call: Mapping[str, Any]) -> str | None:
    """Return what displays call the step of a chain that these tasks are: the beginning of what they are asked."""
    if not tasks or tasks[0].chain is None:
        return None
    return f"chain step: {excerpt(call.get('prompt') or prompt_text(tasks[0].prompt), 60)}"


def _unfinished(intake: Intake, index: int, sample: int) -> Result:
    return Result(
        intake.tasks[index],
        status="cancelled",
        error="not finished",
        error_class="cancelled",
        index=index,
        row=intake.labels[index] if intake.labels is not None else None,
        sample=sample,
    )


def explained(connection: Any, task_id: str) -> Explanation:
    """Return what the ledger tells of a task, and of the one whose answer it took."""
    outcome = history.outcome_of(connection, task_id)
    source = outcome["reused_from"] if outcome is not None else None
    return Explanation(
        task_id,
        history.attempts_of(connection, task_id),
        outcome,
        history.attempts_of(connection, source) if source else (),
    )


def quota_of(around: Surroundings, engine: Engine | None = None) -> Quota:
    """Return every quota window of the platforms that were found, and every budget, as they stand now.

    Args:
        around: What the calls of the orchestrator share.
        engine: Whose ledger is read; None opens it.
    """
    router = around.router()
    meters: dict[str, Meter] = {}
    for finding in around.findings():
        if finding.platform is not None and finding.barred is None:
            meters.update((meter.id, meter) for meter in router.meters(finding.platform, finding.platform.model))
    meters.update((budget.meter.id, budget.meter) for budget in around.budgets)
    now = now_us()

    def look(connection: Any) -> list[MeterState]:
        return [state_of(connection, meter, now) for meter in (*meters.values(), *other_meters(connection, meters))]

    states = (engine or around.engine()).ledger.read(look)
    uses = [window_use(state.meter, state, now) for state in states]
    scale = [
        use.limit / state.meter.window.whole if state.meter.window.whole else 1.0
        for use, state in zip(uses, states, strict=True)
    ]

    def widget() -> Any:
        from orchestrai.notebook.meters import Meters  # the packages of widgets are loaded where one is wanted

        opened = around.engine()  # meters that outlive their orchestrator do not open its ledger again
        return Meters(lambda: quota_of(around, opened))

    return Quota(uses, [state.reserved * one for state, one in zip(states, scale, strict=True)], widget)
