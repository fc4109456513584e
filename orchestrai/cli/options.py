"""The options that commands share, declared once for typer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrai.cli.files import read_json_object
from orchestrai.errors import InvalidInput


class Format(StrEnum):
    """How data is printed."""

    text = "text"
    json = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]
ProjectOption = Annotated[
    Path | None,
    typer.Option(
        "--project",
        metavar="PATH",
        exists=True,
        file_okay=False,
        help="Folder of a project that has a ledger of its own; without it, the ledger is yours.",
    ),
]
InputOption = Annotated[
    Path, typer.Option("--input", "-i", metavar="FILE", help="Tasks: .json, .jsonl, .csv or .parquet.")
]
PromptTemplateOption = Annotated[
    str | None, typer.Option("--prompt", metavar="TEMPLATE", help="Prompt of each row, with {column} for its cells.")
]
PlatformOption = Annotated[
    str | None, typer.Option("--platform", metavar="NAME[,NAME]", help="Platforms tried first, in this order.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="With --platform: never fall back to another platform.")]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="NAME", help="The model that must answer.")]
SystemOption = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System prompt.")]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", min=1, metavar="N", help="Limit of each answer [tokens].")
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", min=0, max=2, metavar="NUMBER", help="Sampling temperature.")
]
SchemaOption = Annotated[
    Path | None, typer.Option("--schema", metavar="FILE", help="JSON file with the JSON Schema of each answer.")
]
TypeOption = Annotated[
    str | None,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="Kind of work: code_generation, refactoring, research, data_analysis, documentation, code_review, "
        "sql_db_work, testing, debugging or planning.",
    ),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Label in the ledger; may be repeated.")
]
MaxCostOption = Annotated[
    str | None,
    typer.Option(
        "--max-cost", metavar="USD", help="Hard cap on the cash it may cost; 0: nothing that costs cash runs."
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline", min=0, metavar="SECONDS", help="How long tasks may wait for a quota window to begin anew."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before cash or quota is used.")]
NoReuseOption = Annotated[bool, typer.Option("--no-reuse", help="Ask again even when the ledger has the answer.")]


def call_options(
    type: str | None,
    platform: str | None,
    strict: bool,
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    schema: Path | None,
    tag: list[str] | None,
    max_cost: str | None,
    deadline: float | None,
    no_reuse: bool,
    yes: bool = False,
) -> dict[str, Any]:
    """Return the options that `submit`, `batch` and `plan` share, as the orchestrator takes them."""
    names = tuple(name.strip() for name in (platform or "").split(",") if name.strip())
    return {
        "type": type,
        "platform": names or None,
        "strict": strict,
        "model": model,
        "system": system,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "schema": None if schema is None else read_json_object(schema, "a JSON Schema"),
        "tags": _tags(tag or ()) or None,
        "max_cost": max_cost,
        "deadline": deadline,
        "reuse": False if no_reuse else None,
        "confirm": "never" if yes else None,
    }


def _tags(given: Sequence[str]) -> dict[str, str]:
    tags = {}
    for tag in given:
        key, sign, value = tag.partition("=")
        if not key or not sign:
            raise InvalidInput(f"--tag {tag}: a tag is KEY=VALUE.")
        tags[key] = value
    return tags
