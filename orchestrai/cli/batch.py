"""`orchestrai batch`: many prompts, from a file into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from orchestrai import text
from orchestrai.cli import files, outputs, records, render
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
    call_options,
)
from orchestrai.cli.running import one_interrupt, run_batch
from orchestrai.orchestrator import Orchestrator
from orchestrai.result import Result
from orchestrai.results.batch_result import BatchResult

ROWS_SHOWN: Final = 10  # results of a batch that a terminal shows
ERRORS_SHOWN: Final = 5  # kinds of failures


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
    if output is not None:
        outputs.check_output(output, input)
    options = call_options(
        type, platform, strict, model, system, max_tokens, temperature, schema, tag, max_cost, deadline, no_reuse, yes
    )
    options |= {
        "prompt": prompt,
        "into": into,
        "concurrency": parallel,
        "name": name,
        "on_error": "stop" if fail_fast else "continue",
    }
    with one_interrupt(), Orchestrator(project) as orchestrator:
        tasks = files.read_tasks(input, prompt, [finding.name for finding in orchestrator.findings])
        outcome = run_batch(orchestrator, tasks, options, context.obj[1:])
        if outcome.error is not None:
            render.error(outcome.error)
        if outcome.result is not None:
            _deliver(outcome.result, output, format)
    if outcome.batch_id is not None:
        render.message(f"orchestrai resume {outcome.batch_id} goes on with it from anywhere.")
    return outcome.code


def _deliver(result: BatchResult, output: Path | None, format: Format) -> None:
    """Write a batch to its file, if it has one, and print it."""
    if output is not None:
        outputs.write_batch(output, result)
    if format is Format.json and output is not None:
        render.show_json(records.batch_totals(result) | {"output": str(output)})
    elif format is Format.json:
        render.show_json(records.batch_record(result))
    else:
        show_batch(result, rows=output is None)
        if output is not None:
            render.message(f"Written to {output}")


def show_batch(batch: BatchResult, *, rows: bool) -> None:
    """Print a batch: its totals, its first results where `rows` is set, and its failures by kind."""
    counted = [f"{text.count(batch.success_count)} of {text.count(len(batch))} answered", *text.outcomes(batch)]
    spent = [
        f"cost {text.total(result.cost for result in batch)}",
        f"list cost {text.list_total(batch)}",
        f"{text.count(batch.total_tokens)} tokens",
        text.duration(batch.duration_s),
    ]
    render.show_text(" · ".join(counted))
    render.show_text(" · ".join(spent))
    if rows and len(batch):
        print()
        render.show_table(
            [_row(result, batch) for result in batch.results[:ROWS_SHOWN]],
            ("row", "status", "prompt", "answer", "platform", "cost"),
            right={0, 5},
            prose={2, 3},
        )
        if len(batch) > ROWS_SHOWN:
            render.show_text(f"… {text.count(len(batch) - ROWS_SHOWN)} more (--output FILE writes all of them)")
    groups = [group for group in text.failure_groups(batch) if group.kind != "cancelled"]
    if groups:
        print()
        for group in groups[:ERRORS_SHOWN]:
            render.show_text(f"{text.count(group.size)} x {text.excerpt(text.failure(group.first), 200)}")


def _row(result: Result, batch: BatchResult) -> list[str]:
    return [
        text.place(result, sampled=batch.sampled),
        result.status,
        text.excerpt(text.prompt_text(result.task.prompt), 32),
        text.excerpt(result.output or "" if result.success else result.error or "", 48),
        text.excerpt(result.platform or "", 16),
        text.money(result.cost),
    ]
