"""Calls: what one call of an orchestrator is made of, from its options to its result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from orchestrai import intake as intake_module
from orchestrai.confirmation import questions
from orchestrai.engine.batch import Run
from orchestrai.engine.draft import Draft
from orchestrai.engine.prepare import Prepared
from orchestrai.errors import PlanStale
from orchestrai.intake import Intake
from orchestrai.limits.quota import Meter
from orchestrai.options import check_call
from orchestrai.plan import Plan
from orchestrai.result import Result
from orchestrai.results import frames
from orchestrai.results.batch_result import BatchResult
from orchestrai.routing.explain import Warned, plan_of, sheet
from orchestrai.routing.offers import Offer
from orchestrai.schemas import answer_schema
from orchestrai.surroundings import Surroundings
from orchestrai.task import Task
from orchestrai.text import excerpt, money, prompt_text


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
    chosen = {(offer.platform.name, offer.model) for offer in made.known}
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

    return plan_of(
        made,
        draft.outlook,
        meters,
        excluded,
        draft.outline.bound if draft.outline.binding else None,
        Warned(settings.warn_at, settings.estimate_above_tokens),
        runner,
        lambda plan: questions(around, plan, forced),
    )


def _asked_for(task: Task, offer: Offer) -> bool:
    """Return True where a task names the platform or the model itself, so that nothing about it is a surprise."""
    return offer.platform.name in task.platforms or task.model is not None


def refuse_stale(plan: Plan, now: Plan) -> None:
    """Refuse to run a plan that would now cost more than it said.

    Raises:
        PlanStale: It would.
    """
    most, expected = plan.cost.high, now.cost.expected
    if most is not None and (expected is None or expected > most):
        cost = "an unknown amount" if expected is None else f"about {money(expected)}"
        raise PlanStale(f"This would now cost {cost}; when it was planned, it was at most {money(most)}.", now)


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
