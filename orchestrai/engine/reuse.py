"""Reuse: which answers of the ledger answer a task of today, and what they look like as results."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from orchestrai.engine.item import Item
from orchestrai.ledger.queries import StoredAnswer
from orchestrai.pricing import from_pico
from orchestrai.result import Result, Usage
from orchestrai.schemas import InvalidAnswer


def usable(answer: StoredAnswer, item: Item) -> Result | None:
    """Return the stored answer as a result, or None when it may not be reused for this task.

    It must validate under today's schema and come from a model that this call allows; an answer of the demo
    model counts only where the demo model would be asked now. (That it succeeded and was not cut off is asked
    of the ledger already.)
    """
    task = item.task
    if answer.demo and not (item.route.offers and item.offer.platform.demo):
        return None
    if item.route.only_model is not None and answer.model_requested != item.route.only_model:
        return None
    if task.strict and task.platforms:
        allowed = {offer.model for offer in item.route.offers}
        if answer.model_requested not in allowed and answer.model not in allowed:
            return None
    parsed, output = None, answer.text
    if item.schema is not None:
        try:
            parsed = item.schema.parse(answer.text)
        except InvalidAnswer:
            return None
        output = item.schema.output(parsed, answer.text)
    usage = Usage(
        answer.input_tokens,
        answer.cache_read_tokens,
        answer.cache_write_tokens,
        answer.output_tokens,
        answer.reasoning_tokens,
        answer.usage_source,  # type: ignore[arg-type]  # written by AttemptRow from a Usage
    )
    return Result(
        task,
        output,
        parsed,
        "succeeded",
        finish_reason=answer.finish_reason,
        platform=answer.platform,
        model=answer.model or answer.model_requested,
        tier=answer.tier,  # type: ignore[arg-type]  # written by SendRow from a platform
        usage=usage,
        list_cost=from_pico(answer.list_cost),
        answered_at=answer.answered_at,
        task_id=answer.task_id,
    )


def reused_result(item: Item, found: Result, batch_id: str, task_id: str, source: str) -> Result:
    """Return the outcome `found` as the outcome of another, equal task: it cost nothing more.

    Args:
        item: That task.
        found: The outcome.
        batch_id: Id of the call.
        task_id: Id of the task.
        source: Id of the task that was asked.
    """
    lineage = item.lineage
    return replace(
        found,
        task=item.task,
        cost=Decimal(0),
        duration_s=0.0,
        attempts=0,
        reused=found.success,
        index=item.index,
        row=item.row,
        sample=item.sample,
        task_id=task_id,
        batch_id=batch_id,
        chain_id=lineage.chain_id if lineage is not None else None,
        parent_id=lineage.parent_id if lineage is not None else None,
        reused_from=source if found.success else None,
    )
