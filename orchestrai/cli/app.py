"""The command line: `orchestrai submit`, `batch`, `plan`, `resume`, `status`, `quota`, `chains`, `costs`, `prune`,
`platforms`, `model fetch` and `demo`.

Data goes to stdout, progress and messages to stderr. Exit codes: 0 all succeeded, 1 some tasks failed, 2 bad input,
3 nothing could run, 4 refused by the budget or by the person, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrai.cli import chains, costs, demo
from orchestrai.cli.options import (
    DeadlineOption,
    Format,
    FormatOption,
    InputOption,
    MaxCostOption,
    MaxTokensOption,
    ModelOption,
    NoReuseOption,
    PlatformOption,
    ProjectOption,
    PromptTemplateOption,
    SchemaOption,
    StrictOption,
    SystemOption,
    TagOption,
    TemperatureOption,
    TypeOption,
    YesOption,
    task_options,
)
from orchestrai.cli.running import (
    BAD_INPUT,
    INTERRUPTED,
    NOTHING_RAN,
    REFUSED,
    SUCCEEDED,
    TASKS_FAILED,
    exit_code,
    one_interrupt,
    run_batch,
)
from orchestrai.errors import ConfirmationNeeded, InvalidInput, NotConfirmed, OrchestraiError
from orchestrai.version import __version__

if TYPE_CHECKING:
    from orchestrai.orchestrator import Orchestrator
    from orchestrai.results.batch_result import BatchResult

_COMPLETION: Final = "_ORCHESTRAI_COMPLETE"  # how typer's shell completion calls
_READER_LEFT: Final = 141  # what a shell reports of a program whose reader has gone: 128 + SIGPIPE

# typer brings click along under changing names; the class of its complaints is the parent of the public one.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


app = typer.Typer(
    name="orchestrai",
    help="Send prompts to the cheapest AI that can answer them: durable, and with every cent on record.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
model_app = typer.Typer(help="The embedded demo model.")
model_app.command()(demo.fetch)


def main() -> None:
    """Run the command of this process's arguments and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what it has to say is printed.

    Args:
        arguments: The words after `orchestrai`.
    """
    from orchestrai.cli import render

    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout once more at its end; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _READER_LEFT
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "orchestrai"
        render.error(f"{getattr(error, 'format_message', error.__str__)()} ({path} --help lists what there is.)")
        return BAD_INPUT
    except (InvalidInput, OSError) as error:
        render.error(str(error))
        return BAD_INPUT
    except (ConfirmationNeeded, NotConfirmed) as error:
        render.error(str(error))
        return REFUSED
    except OrchestraiError as error:
        render.error(str(error))
        return NOTHING_RAN
    if code == INTERRUPTED:
        render.message("Interrupted. To go on, run the same command again: what is finished is kept.")
    return code


def _invoke(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors leave it as they are, which typer's own `main` would change."""
    command = typer.main.get_command(app)
    if _COMPLETION in os.environ:  # the shell asks how a line could go on
        command.main(arguments, prog_name="orchestrai")
    try:
        with command.make_context("orchestrai", list(arguments), obj=arguments) as context:
            code = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return code if isinstance(code, int) else SUCCEEDED


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"orchestrai {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Send prompts to the cheapest AI that can answer them: durable, and with every cent on record."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def submit(
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The prompt; - reads it from stdin.")],
    type: TypeOption = None,
    platform: PlatformOption = None,
    strict: StrictOption = False,
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    schema: SchemaOption = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            exists=True,
            dir_okay=False,
            metavar="PATH",
            help="Text file or image that goes with it; may be repeated.",
        ),
    ] = None,
    tag: TagOption = None,
    chain_id: Annotated[
        str | None,
        typer.Option(
            "--chain-id", metavar="NAME", help="Chain that the task belongs to: its name, or the id of a run."
        ),
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(
            "--parent",
            metavar="TASK_ID",
            help="Task whose answer it works with, in the place of {parent}; may be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the answer there (.json: everything about it)."),
    ] = None,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    yes: YesOption = False,
    no_reuse: NoReuseOption = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Answer one prompt."""
    from orchestrai.cli import outputs, render
    from orchestrai.cli.records import json_text, result_record

    if output is not None:
        outputs.check_writable(output)
    options = task_options(type, platform, strict, model, system, max_tokens, temperature, schema, tag)
    options |= {
        "files": tuple(file or ()),
        "chain": chain_id,
        "parent": tuple(parent or ()),
        "reuse": False if no_reuse else None,
    }
    options |= _spending(max_cost, deadline, yes)
    text = _stdin() if prompt == "-" else prompt
    with _orchestrator(project) as orchestrator:
        result = orchestrator.run_sync(text, on_error="continue", **options)
    record = result_record(result)
    if output is not None and output.suffix.lower() == ".json":
        outputs.write_text(output, json_text(record, indent=2) + "\n")
    elif output is not None and result.success:
        outputs.write_text(output, f"{result.output}\n")
    if format is Format.json:
        render.show_json(record)
    else:
        render.show_result(result, answer=output is None)
    if result.error_class == "input":
        return BAD_INPUT
    return SUCCEEDED if result.success else exit_code([result])


@app.command()
def batch(
    context: typer.Context,
    input: InputOption,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Results: .json, .jsonl, .csv or .parquet."),
    ] = None,
    prompt: PromptTemplateOption = None,
    into: Annotated[str | None, typer.Option("--into", metavar="NAME", help="Name of the answer's column.")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, metavar="N", help="Most requests under way at once.")
    ] = None,
    type: TypeOption = None,
    platform: PlatformOption = None,
    strict: StrictOption = False,
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    schema: SchemaOption = None,
    tag: TagOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Name of the batch: shown, and found again in the ledger."),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first task that fails.")] = False,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    no_reuse: NoReuseOption = False,
    yes: YesOption = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Answer many prompts in parallel.

    Interrupted, or with failures, `orchestrai resume` or the same command goes on where it ended: what is answered costs
    nothing.
    """
    from orchestrai.cli import files, outputs, render

    if output is not None:
        outputs.check_output(output, input)
    options = task_options(type, platform, strict, model, system, max_tokens, temperature, schema, tag)
    with one_interrupt(), _orchestrator(project) as orchestrator:
        names = [finding.name for finding in orchestrator.findings]
        tasks = files.read_tasks(input, prompt, names)
        options |= {
            "prompt": prompt,
            "into": into,
            "concurrency": parallel,
            "name": name,
            "on_error": "stop" if fail_fast else "continue",
            "reuse": False if no_reuse else None,
            **_spending(max_cost, deadline, yes),
        }
        outcome = run_batch(orchestrator, tasks, options, context.obj[1:])
        if outcome.error is not None:
            render.error(outcome.error)
        if outcome.result is not None:
            _deliver(outcome.result, output, format)
    if outcome.batch_id is not None:
        render.message(f"orchestrai resume {outcome.batch_id} goes on with it from anywhere.")
    return outcome.code


@app.command()
def resume(
    batch: Annotated[
        str | None,
        typer.Argument(
            metavar="[BATCH]", help="Id or name of a batch; without it, the newest that has answers missing."
        ),
    ] = None,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Go on with a batch that was interrupted, killed, or left with failures: what is answered costs nothing.

    It repeats the command that made the batch, in its folder; the input file is read again.
    """
    from orchestrai.cli import render, resuming

    with _orchestrator(project) as orchestrator:
        found = resuming.command_of(orchestrator.resumable(batch), batch)
    render.message(found.told)
    os.chdir(found.folder)
    return _invoke(["batch", *found.arguments, "--format", format.value])


def _deliver(result: BatchResult, output: Path | None, format: Format) -> None:
    """Write a batch to its file, if it has one, and print it."""
    from orchestrai.cli import outputs, records, render

    if output is not None:
        outputs.write_batch(output, result)
    if format is Format.json:
        whole = records.batch_record(result) if output is None else records.batch_totals(result)
        render.show_json(whole if output is None else whole | {"output": str(output)})
        return
    render.show_batch(result, rows=output is None)
    if output is not None:
        render.message(f"Written to {output}")


@app.command()
def plan(
    input: InputOption,
    prompt: PromptTemplateOption = None,
    type: TypeOption = None,
    platform: PlatformOption = None,
    strict: StrictOption = False,
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    schema: SchemaOption = None,
    tag: TagOption = None,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    no_reuse: NoReuseOption = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Show what `batch` would do with a file, and send nothing: who answers what, at what cost, out of which quota."""
    from orchestrai.cli import files, records, render

    options = task_options(type, platform, strict, model, system, max_tokens, temperature, schema, tag)
    with _orchestrator(project) as orchestrator:
        tasks = files.read_tasks(input, prompt, [finding.name for finding in orchestrator.findings])
        options |= {"prompt": prompt, "reuse": False if no_reuse else None, **_spending(max_cost, deadline, False)}
        made = orchestrator.plan(tasks, **options)
    if format is Format.json:
        render.show_json(records.plan_record(made))
    else:
        render.show_plan(made)
    return SUCCEEDED if not made.unplaced else NOTHING_RAN if made.unplaced == len(made) else TASKS_FAILED


@app.command()
def quota(format: FormatOption = Format.text, project: ProjectOption = None) -> int:
    """Show how much of every quota window and budget is used, until when, and who says so. No model is asked for it."""
    from orchestrai.cli import records, render

    with _orchestrator(project) as orchestrator:
        _read_quota(orchestrator)
        meters = orchestrator.quota
    if format is Format.json:
        render.show_json({"windows": [records.window_record(use, held) for use, held in meters.rows()]})
    else:
        render.show_quota(meters)
    return SUCCEEDED


@app.command()
def status(
    task: Annotated[
        str | None, typer.Option("--task", metavar="ID", help="Tell every attempt, wait, route and price of one task.")
    ] = None,
    hours: Annotated[float, typer.Option("--hours", min=0, help="How far back finished calls are listed.")] = 24,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """List the calls under way in every process that shares the ledger, and those of the last day; or explain one task."""
    from orchestrai.cli import records, render
    from orchestrai.ids import now_us

    with _orchestrator(project) as orchestrator:
        if task is not None:
            explanation = orchestrator.explain(task)
            if format is Format.json:
                render.show_json(records.explanation_record(explanation))
            else:
                render.show_text(repr(explanation))
            return SUCCEEDED if explanation.attempts or explanation.outcome else BAD_INPUT
        calls = orchestrator.calls(now_us() - int(hours * 3_600_000_000))
    if format is Format.json:
        render.show_json({"calls": [records.call_record(call) for call in calls]})
    else:
        render.show_calls(calls)
    return SUCCEEDED


@app.command()
def platforms(format: FormatOption = Format.text, project: ProjectOption = None) -> int:
    """List what can answer, how much of each plan is left, and how to get the rest. No model is asked for it."""
    from orchestrai.cli import records, render

    with _orchestrator(project) as orchestrator:
        _read_quota(orchestrator)
        listing, ledger = orchestrator.platforms, orchestrator.ledger_path
    if format is Format.json:
        render.show_json({"platforms": [records.platform_record(row) for row in listing], "ledger": str(ledger)})
    else:
        titles, rows = listing.table()
        render.show_table(rows, titles)
        print()
        render.show_facts([(row.name, row.why) for row in listing])
        render.message(f"\nLedger: {ledger}")
    return SUCCEEDED if listing.found else NOTHING_RAN


def _read_quota(orchestrator: Orchestrator) -> None:
    """Ask the clients of plans how much of them is left, where there are any."""
    from orchestrai.cli import render

    if any(hasattr(finding.platform, "quota") for finding in orchestrator.findings):
        with render.waiting("asking how much of the plans is left …"):
            orchestrator.read_quota()


def _spending(max_cost: str | None, deadline: float | None, yes: bool) -> dict[str, Any]:
    return {"max_cost": max_cost, "deadline": deadline, "confirm": "never" if yes else None}


def _orchestrator(project: Path | None) -> Orchestrator:
    from orchestrai.orchestrator import Orchestrator

    return Orchestrator(project=project)


def _stdin() -> str:
    """Return the text that comes in on stdin, without the line break at its end."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"stdin: no text in UTF-8 (byte {error.start}).") from None


app.command()(chains.chains)
app.command()(costs.costs)
app.command()(costs.prune)
app.command()(demo.demo)
app.add_typer(model_app, name="model")

if __name__ == "__main__":
    main()
