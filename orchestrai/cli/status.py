"""`orchestrai status`: the calls under way and of late, and all about one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from orchestrai import text
from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.records import usd
from orchestrai.cli.running import SUCCEEDED
from orchestrai.errors import InvalidInput
from orchestrai.explanation import Explanation
from orchestrai.ids import now_us
from orchestrai.orchestrator import Orchestrator
from orchestrai.pricing import from_pico


def status(
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="Tell every attempt, wait, route and price of one task.")
    ] = None,
    hours: Annotated[
        float, typer.Option("--hours", min=0, metavar="H", help="How far back finished calls are listed.")
    ] = 24,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """List the calls under way and of late, or explain one task.

    Calls under way are those of every process that shares the ledger.
    """
    with Orchestrator(project) as orchestrator:
        if task is not None:
            explanation = orchestrator.explain(task)
            if not explanation.attempts and explanation.outcome is None:
                raise InvalidInput(f"There is no task {task!r} in this ledger.")
            if format is Format.json:
                render.show_json(_explanation_record(explanation))
            else:
                render.show_text(repr(explanation))
            return SUCCEEDED
        calls = orchestrator.calls(now_us() - int(hours * 3_600_000_000))
    if format is Format.json:
        render.show_json({"calls": [{**call, "cost": usd(from_pico(call["cost"]))} for call in calls]})
    else:
        _show(calls)
    return SUCCEEDED


def _explanation_record(explanation: Explanation) -> dict[str, Any]:
    """Return a task's history as an object; money in USD."""

    def row(given: Mapping[str, Any]) -> dict[str, Any]:
        money = {name: usd(from_pico(given[name])) for name in ("cost", "list_cost")}
        return {**given, **money}

    return {
        "task_id": explanation.task_id,
        "attempts": [row(one) for one in explanation.attempts],
        "outcome": None if explanation.outcome is None else row(explanation.outcome),
        "source": [row(one) for one in explanation.source],
    }


def _show(calls: Sequence[Mapping[str, Any]]) -> None:
    """Print calls, those under way first as they are the newest."""
    if not calls:
        render.show_text("No call is under way, and none was made lately.")
        return
    rows = []
    for call in calls:
        answered, failed = (call["settled"].get(status, 0) for status in ("succeeded", "failed"))
        total = "?" if call["task_count"] is None else text.count(call["task_count"])
        rows.append(
            [call["status"], text.excerpt(f"{call['name'] or call['kind']} in {call['project']}", 60),
             f"{text.count(answered)}/{total}", text.count(failed), text.money(from_pico(call["cost"])),
             text.local_time(call["created_at"]), call["batch_id"]]
        )  # fmt: skip
    titles = ("status", "call", "answered", "failed", "cost", "since", "batch")
    render.show_table(rows, titles, right={2, 3, 4}, prose={1, 5})
