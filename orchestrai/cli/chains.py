"""`orchestrai chains`: the runs of chains in the ledger, and the steps of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from orchestrai import text
from orchestrai.chains.steps import Step
from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.records import usd
from orchestrai.cli.running import SUCCEEDED
from orchestrai.errors import InvalidInput, nearest
from orchestrai.orchestrator import Orchestrator
from orchestrai.pricing import from_pico


def chains(
    chain: Annotated[
        str | None, typer.Argument(metavar="CHAIN", help="Name of a chain, or id of a run: list its steps.")
    ] = None,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """List the chains, or the steps of one.

    Chains stand with the newest first; steps in the order in which they began: who answered what, from whom, at what cost.
    """
    with Orchestrator(project) as orchestrator:
        runs = orchestrator.chains()
        if chain is None:
            if format is Format.json:
                render.show_json({"chains": [_run_record(run) for run in runs]})
            else:
                _show_runs(runs)
            return SUCCEEDED
        run = _meant(runs, chain, orchestrator.project)
        steps = orchestrator.chain(run["chain_id"]).steps
    if format is Format.json:
        render.show_json({**_run_record(run), "steps": [_step_record(step) for step in steps]})
    else:
        _show_steps(steps)
    return SUCCEEDED


def _meant(runs: list[dict[str, Any]], chain: str, project: str) -> dict[str, Any]:
    """Return the run of this id, else the newest of this name, in this project before others.

    Raises:
        InvalidInput: There is none.
    """
    for one in (
        *(run for run in runs if run["chain_id"] == chain),
        *(run for run in runs if run["name"] == chain and run["project"] == project),
        *(run for run in runs if run["name"] == chain),
    ):
        return one
    known = [run["name"] for run in runs]
    raise InvalidInput(
        f"There is no chain {chain!r} in this ledger.{nearest(chain, known)} (orchestrai chains lists them.)"
    )


def _run_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run of a chain as the object that `chains` prints."""
    return {
        "chain_id": run["chain_id"],
        "name": run["name"],
        "project": run["project"],
        "tasks": run["tasks"],
        "attempts": run["attempts"],
        "depth": run["depth"] or 0,
        "cost": usd(from_pico(run["cost"] or 0)),
        "cost_complete": not run["unpriced"],
        "list_cost": usd(from_pico(run["list_cost"])),
        "created_at_us": run["created_at"],
        "last_at_us": run["last_at"],
    }


def _step_record(step: Step) -> dict[str, Any]:
    """Return a step of a chain as the object that `chains CHAIN` prints."""
    return {
        "task_id": step.task_id,
        "status": step.status,
        "platform": step.platform,
        "model": step.model,
        "tier": step.tier,
        "parents": list(step.parents),
        "after": list(step.after),
        "depth": step.depth,
        "root_task_id": step.root_task_id,
        "attempts": step.attempts,
        "cost": usd(step.cost),
        "list_cost": usd(step.list_cost),
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "reused": step.reused,
        "error_class": step.error_class,
        "error": step.error,
        "prompt": step.prompt,
        "answer": step.answer,
    }


def _show_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print the runs of chains, the newest first."""
    if not runs:
        render.show_text("There is no chain in this ledger.")
        return
    rows = [
        [text.excerpt(run["name"], 40), text.excerpt(run["project"] or "", 24), text.count(run["tasks"]),
         str(run["depth"] or 0), ("at least " if run["unpriced"] else "") + text.money(from_pico(run["cost"] or 0)),
         text.local_time(run["last_at"]), run["chain_id"]]
        for run in runs
    ]  # fmt: skip
    titles = ("name", "project", "tasks", "depth", "cost", "last", "run")
    render.show_table(rows, titles, right={2, 3, 4}, prose={0, 1, 5})


def _show_steps(steps: Sequence[Step]) -> None:
    """Print the steps of a chain in the order in which they began; parents by their numbers."""
    if not steps:
        render.show_text("This chain has no steps yet.")
        return
    numbers = {step.task_id: str(i) for i, step in enumerate(steps, 1)}
    rows = [
        [numbers[step.task_id], ", ".join(numbers.get(parent, parent[:8]) for parent in (*step.parents, *step.after)),
         step.status, step.platform or "", str(step.attempts), text.money(step.cost),
         text.excerpt(step.prompt or "", 40), text.excerpt(step.answer or step.error or "", 40), step.task_id]
        for step in steps
    ]  # fmt: skip
    titles = ("step", "follows", "status", "platform", "attempts", "cost", "prompt", "answer", "task")
    render.show_table(rows, titles, right={0, 4, 5}, prose={1, 3, 6, 7})
