"""`orchestrai submit`: one prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrai import text
from orchestrai.cli import outputs, render
from orchestrai.cli.options import (
    DeadlineOption,
    Format,
    FormatOption,
    MaxCostOption,
    MaxTokensOption,
    ModelOption,
    NoReuseOption,
    PlatformOption,
    ProjectOption,
    SchemaOption,
    StrictOption,
    SystemOption,
    TagOption,
    TemperatureOption,
    TypeOption,
    YesOption,
    call_options,
)
from orchestrai.cli.records import json_text, result_record
from orchestrai.cli.running import BAD_INPUT, exit_code
from orchestrai.errors import InvalidInput
from orchestrai.orchestrator import Orchestrator
from orchestrai.result import Result


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
    if output is not None:
        outputs.check_writable(output)
    options = call_options(
        type, platform, strict, model, system, max_tokens, temperature, schema, tag, max_cost, deadline, no_reuse, yes
    )
    options |= {"files": tuple(file or ()), "chain": chain_id, "parent": tuple(parent or ())}
    words = _stdin() if prompt == "-" else prompt
    with Orchestrator(project) as orchestrator:
        result = orchestrator.run_sync(words, on_error="continue", **options)
    record = result_record(result)
    if output is not None and output.suffix.lower() == ".json":
        outputs.write_text(output, json_text(record, indent=2) + "\n")
    elif output is not None and result.success:
        outputs.write_text(output, f"{result.output}\n")
    if format is Format.json:
        render.show_json(record)
    else:
        show_result(result, answer=output is None)
    if result.error_class == "input":
        return BAD_INPUT
    return exit_code([] if result.success else [result])


def show_result(result: Result, *, answer: bool = True) -> None:
    """Print a result: its facts, then the answer.

    Args:
        result: The result.
        answer: False leaves the answer out, where it was written to a file.
    """
    facts = [
        ("task", result.task_id or "not recorded"),
        ("platform", result.platform or "none"),
        ("model", result.model or "unknown"),
        ("success", "yes" if result.success else "no"),
        ("cost", text.money(result.cost)),
        ("list cost", "unpriced" if result.list_cost is None else text.money(result.list_cost)),
        ("tokens", text.tokens(result).removeprefix("tokens ").replace(" tokens in", " in")),
        ("time", text.duration(result.duration_s)),
    ]
    if result.reused:
        facts.append(("reused", f"answered {text.moment(result.answered_at)}"))
    if result.finish_reason == "length":
        facts.append(("note", "the answer was cut off at the output limit"))
    if not result.success:
        facts.append(("error", text.failure(result)))
    render.show_facts(facts)
    if result.success and answer:
        print()
        render.show_text(result.output or "")


def _stdin() -> str:
    """Return the text that comes in on stdin, without the line break at its end."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"stdin: no text in UTF-8 (byte {error.start}).") from None
