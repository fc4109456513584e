"""`orchestrai costs` and `orchestrai prune`: what was spent, and history that is removed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.records import plain
from orchestrai.cli.running import REFUSED, SUCCEEDED
from orchestrai.costs.period import moment_of
from orchestrai.errors import InvalidInput
from orchestrai.orchestrator import Orchestrator
from orchestrai.text import count, counted, duration, money

if TYPE_CHECKING:
    import pandas as pd


class By(StrEnum):
    """What costs are grouped by."""

    platform = "platform"
    model = "model"
    day = "day"
    chain = "chain"
    batch = "batch"
    type = "type"


_KEYS: Final = {
    By.platform: ("platform", "tier"),
    By.model: ("platform", "model", "tier"),
    By.day: ("day",),
    By.chain: ("chain", "chain_id"),
    By.batch: ("batch",),
    By.type: ("task_type",),
}
_FIGURES: Final = ("tasks", "succeeded", "cost", "list_cost", "saved", "input_tokens", "output_tokens")
_MISSING: Final = {
    "cost": ("unknown_cost", "unknown"),
    "list_cost": ("unpriced", "unpriced"),
}  # who counts it, and says it
_NAMES: Final = ("platform", "model", "chain")
_TASK: Final = ("task_id", "depth", "platform", "model", "status", "cost", "list_cost", "input_tokens", "output_tokens",
                "duration_s")  # fmt: skip
_TITLES: Final = {
    "cost": "billed",
    "list_cost": "list cost",
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "duration_s": "time",
    "task_type": "type",
}


def costs(
    chain_id: Annotated[
        str | None, typer.Option("--chain-id", metavar="NAME", help="The tasks of one chain, by its name or id.")
    ] = None,
    by: Annotated[
        By | None,
        typer.Option("--by", metavar="WHAT", help="Group all history by platform, model, day, chain, batch or type."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="MOMENT", help="From then on: 2026-11-01, 24h, 7d or today."),
    ] = None,
    sql: Annotated[
        str | None, typer.Option("--sql", metavar="SELECT", help="One SELECT over the ledger; - reads it from stdin.")
    ] = None,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Show what was spent and saved.

    Without options: today by platform.
    """
    if sum(option is not None for option in (chain_id, by, sql)) > 1:
        raise InvalidInput("Choose one of --chain-id, --by and --sql.")
    if since is not None and (chain_id is not None or sql is not None):
        raise InvalidInput("--since goes with --by; a chain is shown whole, and a SELECT says itself since when.")
    with Orchestrator(project) as orchestrator:
        asked = orchestrator.costs
        if sql is not None:
            frame = asked.sql(sys.stdin.read() if sql == "-" else sql, money="decimal")
            _show(frame, {name: name for name in frame.columns}, format, {"query": "sql"})
            return SUCCEEDED
        if chain_id is not None:
            frame = asked.lineage(chain_id, money="decimal").drop(columns="parents")
            totals = {name: _sum(frame[name]) for name in ("cost", "list_cost")}
            totals |= {
                missing: sum(amount is None for amount in frame[name]) for name, (missing, _) in _MISSING.items()
            }
            _show(frame, _titled(_TASK), format, {"query": "chain", "chain": chain_id, "total": totals})
            return SUCCEEDED
        grouped, since = by or By.platform, since if since is not None or by is not None else "today"
        frame = getattr(asked, f"by_{grouped}")(since=since, money="decimal")
        value = asked.summary(since=since, money="decimal")["value"]
        totals = {name: value[name] for name in value.index}
        about = {"query": f"by_{grouped}", "since": since, "total": totals}
        if format is Format.text and not len(frame) and not value["reused"]:
            render.show_text("Nothing was asked today." if since == "today" else "Nothing was asked in that time.")
            return SUCCEEDED
        _show(frame, _titled((*_KEYS[grouped], *_FIGURES)), format, about)
    return SUCCEEDED


def prune(
    before: Annotated[
        str, typer.Option("--before", metavar="MOMENT", help="Older history goes: 2026-01-01, or how long ago: 90d.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Remove history from before a moment, for good.

    Requests, answers, and what they cost.
    """
    with Orchestrator(project) as orchestrator:
        moment = moment_of(before, "--before")
        if not yes:
            if not sys.stdin.isatty():
                render.error("This removes history for good. Nobody could be asked, so nothing was removed: add --yes.")
                return REFUSED
            going = orchestrator.costs.summary(until=moment)["value"]["attempts"]
            question = (
                f"Remove {counted(int(going), 'request')} with what was answered, from before {before}, for good?"
            )
            if not typer.confirm(question, err=True):
                return REFUSED
        pruned = orchestrator.costs.prune(before=moment)
    if format is Format.json:
        render.show_json(pruned._asdict())
    else:
        tasks = counted(pruned.tasks, "reused or unsent task")
        render.show_text(f"Removed {counted(pruned.requests, 'request')}, {tasks} and {counted(pruned.calls, 'call')}.")
    return SUCCEEDED


def _titled(columns: tuple[str, ...]) -> dict[str, str]:
    """Return columns with their titles."""
    return {name: _TITLES.get(name, name.replace("_", " ")) for name in columns}


def _show(frame: pd.DataFrame, columns: Mapping[str, str], format: Format, about: dict[str, Any]) -> None:
    """Print a frame: as JSON whole, as text the given columns under their titles and the total below."""
    rows = frame.to_dict("records")
    if format is Format.json:
        record = {**about, "rows": [{str(name): plain(value) for name, value in row.items()} for row in rows]}
        if "total" in record:
            record["total"] = {name: plain(value) for name, value in about["total"].items()}
        render.show_json(record)
        return
    numbers = {
        place
        for place, name in enumerate(columns)
        if frame[name].dtype.kind in "iuf" or any(isinstance(row[name], Decimal) for row in rows)
    }
    render.show_table(
        [[_cell(name, row) for name in columns] for row in rows],
        [*columns.values()],
        right=numbers,
        prose={place for place, name in enumerate(columns) if name in _NAMES},
    )
    if "total" in about:
        print()
        render.show_text(_total_line(about["total"]))


def _total_line(totals: dict[str, Any]) -> str:
    parts = [f"billed {_known(totals, 'cost')}", f"list cost {_known(totals, 'list_cost')}"]
    if "saved" in totals:
        parts.append(f"saved {money(totals['saved'])}")
        parts.append(f"{count(totals['succeeded'])} of {count(totals['tasks'])} tasks succeeded")
        parts += [f"{count(totals['reused'])} reused"] if totals["reused"] else []
    if totals["unknown_cost"]:
        parts.append(f"{count(totals['unknown_cost'])} of unknown cost")
    return " · ".join(parts)


def _known(row: Mapping[Any, Any], name: str) -> str:
    """Return an amount of a row, which is a sum of what is known where the row counts what is not."""
    missing, word = _MISSING[name]
    if not row.get(missing):
        return money(row[name])
    return word if row[missing] == row.get("attempts") else f"at least {money(row[name])}"


def _sum(amounts: Any) -> Any:
    return sum(filter(None, amounts), Decimal(0))


def _cell(name: str, row: Mapping[Any, Any]) -> str:
    import pandas as pd

    value = row[name]
    if name in _MISSING and isinstance(value, Decimal):
        return _known(row, name)
    if name in ("cost", "list_cost", "saved"):
        return "unknown" if pd.isna(value) else money(Decimal(value))
    if not isinstance(value, list | tuple | dict) and pd.isna(value):
        return str(row["batch_id"]) if name == "batch" and "batch_id" in row else ""
    if name.endswith("_s"):
        return duration(float(value))
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}" if value.tz is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and name != "seq":
        return count(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
