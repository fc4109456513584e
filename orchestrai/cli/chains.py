"""`orchestrai chains`: the runs of chains in the ledger, and the steps of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.running import SUCCEEDED
from orchestrai.errors import InvalidInput, nearest

if TYPE_CHECKING:
    from orchestrai.chains.steps import Step


def chains(
    chain: Annotated[
        str | None, typer.Argument(metavar="[CHAIN]", help="Name of a chain, or id of a run: list its steps.")
    ] = None,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """List the chains of the ledger, the newest first; or the steps of one: who answered what, from whom, at what cost."""
    from orchestrai.cli import render
    from orchestrai.orchestrator import Orchestrator

    with Orchestrator(project) as orchestrator:
        runs = orchestrator.chains()
        if chain is None:
            if format is Format.json:
                render.show_json({"chains": [run_record(run) for run in runs]})
            else:
                render.show_chains(runs)
            return SUCCEEDED
        run = _meant(runs, chain, orchestrator.project)
        steps = orchestrator.chain(run["chain_id"]).steps
    if format is Format.json:
        render.show_json({**run_record(run), "steps": [step_record(step) for step in steps]})
    else:
        render.show_steps(steps)
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


def run_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run of a chain as the object that `chains` prints."""
    from orchestrai.cli.records import usd
    from orchestrai.pricing import from_pico

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


def step_record(step: Step) -> dict[str, Any]:
    """Return a step of a chain as the object that `chains CHAIN` prints."""
    from orchestrai.cli.records import usd

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
