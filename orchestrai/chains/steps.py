"""Steps: what one run of a chain has done, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from orchestrai.ledger import chain_steps
from orchestrai.pricing import from_pico

EXCERPT: Final = 300
"""Characters of prompts and answers that a step shows."""


@dataclass(slots=True)
class Step:
    """One step of a chain: a task, with every request that was made for it.

    Args:
        task_id: The task that answered; the newest that was tried where none did.
        status: succeeded, failed, skipped, cancelled, or running.
        platform: Who answered, or was asked last.
        model: The model.
        tier: free, subscription, paid or local.
        parents: Steps whose answers it was handed, by task id.
        after: Steps it came after, by task id.
        depth: Steps from the farthest root.
        root_task_id: Where its line of first parents begins.
        attempts: Requests made for it, in every call.
        cost: Cash over all of them [USD]; the sum of what is known.
        list_cost: What the same tokens cost on the paid API [USD]; the sum of what is known.
        unpriced: Requests of unknown cost.
        input_tokens: Input [tokens].
        output_tokens: Output [tokens].
        reused: Its answer came from outside of this run.
        started_at: First request [µs since 1970].
        finished_at: Last reply [µs since 1970].
        error_class: Why it has no answer.
        error: The same in words.
        prompt: Beginning of its prompt.
        answer: Beginning of its answer.
    """

    task_id: str
    status: str = "running"
    platform: str | None = None
    model: str | None = None
    tier: str | None = None
    parents: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    depth: int = 0
    root_task_id: str | None = None
    attempts: int = 0
    cost: Decimal = Decimal(0)
    list_cost: Decimal = Decimal(0)
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    reused: bool = False
    started_at: int | None = None
    finished_at: int | None = None
    error_class: str | None = None
    error: str | None = None
    prompt: str | None = None
    answer: str | None = None
    tasks: set[str] = field(default_factory=set)  # every task that stands for it

    @property
    def duration_s(self) -> float:
        """From its first request to its last reply [s]; 0 while that is not known."""
        if self.started_at is None or self.finished_at is None:
            return 0.0
        return (self.finished_at - self.started_at) / 1e6


def steps_of(connection: Any, chain_id: str) -> list[Step]:
    """Return the steps of a run, in the order in which they began.

    Tasks with the same key are one step: what was asked again, retried elsewhere or reused in a later call. What was
    skipped or cancelled in an earlier call than the newest is left out.
    """
    steps: dict[bytes, Step] = {}
    for row in chain_steps.requests_of(connection, chain_id, EXCERPT):
        step = steps.setdefault(row["key"], Step(row["task_id"]))
        step.tasks.add(row["task_id"])
        _add_request(step, row)
    outcomes = chain_steps.outcomes_of(connection, chain_id)
    sources = chain_steps.sources_of(connection, chain_id, EXCERPT)
    newest = max((row["batch_id"] for row in outcomes), default="")
    for row in outcomes:
        known = steps.get(row["key"])
        if known is None and row["reused_from"] is None and row["batch_id"] < newest:
            continue
        step = known or steps.setdefault(row["key"], Step(row["task_id"], reused=row["reused_from"] is not None))
        step.tasks |= {row["task_id"], *([row["reused_from"]] if row["reused_from"] else ())}
        if step.status != "succeeded":
            _add_outcome(step, row, sources)
    _connect(steps.values(), chain_steps.handoffs_of(connection, chain_id))
    return sorted(steps.values(), key=lambda step: (step.started_at or 0, step.depth))


def _add_request(step: Step, row: Mapping[str, Any]) -> None:
    step.attempts += 1
    step.cost += from_pico(row["cost"]) or 0
    step.list_cost += from_pico(row["list_cost"]) or 0
    step.unpriced += row["cost"] is None
    step.input_tokens += row["input_tokens"] or 0
    step.output_tokens += row["output_tokens"] or 0
    step.started_at = step.started_at or row["started_at"]
    step.finished_at = row["finished_at"] or step.finished_at
    if step.status == "succeeded":
        return
    step.task_id, step.status = row["task_id"], row["status"]
    step.platform, step.model, step.tier = row["platform"], row["model"], row["tier"]
    step.depth, step.root_task_id = row["depth"] or 0, row["root_task_id"]
    step.error_class, step.error = row["error_class"], row["error"]
    step.prompt, step.answer = row["prompt"], row["answer"]


def _add_outcome(step: Step, row: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> None:
    step.status, step.error_class, step.error = row["status"], row["error_class"], row["error"]
    step.depth, step.root_task_id = row["depth"] or 0, row["root_task_id"]
    step.started_at = step.started_at or row["queued_at"]
    step.finished_at = step.finished_at or row["settled_at"]
    source = sources.get(row["reused_from"] or "")
    if source is not None:
        step.platform, step.model, step.tier = source["platform"], source["model"], source["tier"]
        step.prompt, step.answer = source["prompt"], source["answer"]


def _connect(steps: Iterable[Step], handoffs: Iterable[Mapping[str, Any]]) -> None:
    """Tell each step what came before it; parents outside of the run stand by their own ids."""
    by_task = {task_id: step for step in steps for task_id in step.tasks}
    for row in handoffs:
        step = by_task.get(row["task_id"])
        if step is None:
            continue
        parent = by_task.get(row["memory_id"] or "") or by_task.get(row["parent_task_id"])
        name = parent.task_id if parent is not None else row["memory_id"] or row["parent_task_id"]
        if row["kind"] == "parent":
            step.parents = tuple(dict.fromkeys((*step.parents, name)))
        else:
            step.after = tuple(dict.fromkeys((*step.after, name)))
