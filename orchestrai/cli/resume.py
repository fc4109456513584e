"""`orchestrai resume`: the command that made a batch, repeated."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.errors import InvalidInput
from orchestrai.orchestrator import Orchestrator
from orchestrai.text import count, local_time


def resume(
    context: typer.Context,
    batch: Annotated[
        str | None,
        typer.Argument(metavar="BATCH", help="Id or name of a batch; without it, the newest that has answers missing."),
    ] = None,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Go on with a batch that has answers missing.

    It repeats the command that made the batch, in its folder; the input file is read again. What is answered costs nothing.
    """
    with Orchestrator(project) as orchestrator:
        found = _command_of(orchestrator.resumable(batch), batch)
    render.message(found.told)
    os.chdir(found.folder)
    made = ["batch", *found.arguments]
    program = context.find_root().command
    with program.make_context("orchestrai", [*made, "--format", format.value], obj=made) as repeated:
        return int(program.invoke(repeated))


class _Command(NamedTuple):
    """A command of an earlier time.

    Args:
        folder: The folder it was made in.
        arguments: Those of `orchestrai batch`.
        told: What it is about, in a line.
    """

    folder: Path
    arguments: list[str]
    told: str


def _command_of(call: Mapping[str, Any] | None, named: str | None) -> _Command:
    """Return the command of a batch.

    Args:
        call: What the ledger tells of the batch; None when it knows none.
        named: The name or id that was asked for.

    Raises:
        InvalidInput: There is no such batch, it still runs, no shell made it, or its folder is gone.
    """
    if call is None and named is None:
        raise InvalidInput("There is no batch to go on with: every one that a shell made has all its answers.")
    if call is None:
        raise InvalidInput(
            f"There is no batch {named!r} in this ledger (orchestrai status lists those of the last day)."
        )
    batch = f"batch {call['name'] or call['batch_id']}"
    if call["status"] == "running":
        raise InvalidInput(f"{batch} is still running, in process {call['pid']}.")
    if call["command"] is None:
        raise InvalidInput(f"{batch} was not made by `orchestrai batch`. Run the cell or script again that made it.")
    command = json.loads(call["command"])
    folder = Path(command["folder"])
    if not folder.is_dir():
        raise InvalidInput(f"{batch} was made in {folder}, which is gone.")
    answered = call["settled"].get("succeeded", 0)
    total = "?" if call["task_count"] is None else count(call["task_count"])
    told = f"{batch} of {local_time(call['created_at'])}: {count(answered)} of {total} are answered."
    return _Command(folder, command["arguments"], told)
