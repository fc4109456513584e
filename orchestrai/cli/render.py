"""What commands print: data on stdout, progress and messages on stderr.

Styles appear only in a terminal, and not with `NO_COLOR`. Every text from outside (of a model, a provider, a file)
passes `orchestrai.text.printable`, and rich is given `Text` and never markup, so none of it can drive a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from orchestrai import plan_text, text
from orchestrai.cli.records import json_text
from orchestrai.pricing import from_pico
from orchestrai.result import Result

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrai.chains.steps import Step
    from orchestrai.plan import Plan, Quota
    from orchestrai.results.batch_result import BatchResult

ROWS_SHOWN: Final = 10  # results of a batch that a terminal shows
ERRORS_SHOWN: Final = 5  # kinds of failures

_DIM: Final = "dim"
_WORD_STYLES: Final = {
    "succeeded": "green",
    "yes": "green",
    "failed": "red",
    "wrong": "red",
    "no": "yellow",
    "cancelled": "yellow",
    "skipped": "yellow",
}

Facts = Sequence[tuple[str, str]]
"""Labels and their values, one line each."""


def show_json(value: Any) -> None:
    """Print a value as JSON on stdout, in UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    data = (json_text(value, indent=2) + "\n").encode("utf-8")
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def show_text(value: str) -> None:
    """Print a text from outside on stdout, without what could drive a terminal."""
    print(text.printable(value))


def message(value: str) -> None:
    """Print a message for the person on stderr."""
    print(text.printable(value), file=sys.stderr, flush=True)


def error(value: str) -> None:
    """Print an error on stderr."""
    if (console := _console(sys.stderr)) is None:
        message(f"Error: {value}")
        return
    from rich.text import Text

    console.print(Text.assemble(("Error: ", "bold red"), text.printable(value)), soft_wrap=True)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal's stderr that something is under way."""
    console = _console(sys.stderr)
    if console is None:
        yield
        return
    from rich.text import Text

    with console.status(Text(text.printable(what))):
        yield


@contextlib.contextmanager
def downloading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a download on stderr: a bar in a terminal, a line for each fifth elsewhere.

    Returns:
        A function that is called with the bytes that are there and the bytes of the whole.
    """
    console = _console(sys.stderr)
    if console is None:
        shown = 0

        def line(done: int, total: int) -> None:
            nonlocal shown
            if (fifths := 5 * done // total) > shown:
                shown = fifths
                message(f"{what}: {megabytes(done)} of {megabytes(total)}")

        yield line
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(text.printable(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def megabytes(size: int) -> str:
    """Return a size [bytes] as `92.9 MB`."""
    return f"{size / 1e6:.1f} MB"


def show_facts(facts: Facts) -> None:
    """Print labels and values on stdout, one fact a line."""
    width = max(len(label) for label, _ in facts)
    console = _console(sys.stdout)
    for label, value in facts:
        shown = text.printable(value)
        if console is None:
            print(f"{label:<{width}}  {shown}".rstrip())
            continue
        from rich.text import Text

        line = Text.assemble((f"{label:<{width}}  ", _DIM), (shown, _WORD_STYLES.get(value, "")))
        console.print(line, soft_wrap=True)


def show_table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, right: Collection[int] = ()) -> None:
    """Print a table on stdout: fitted to a terminal's width, or in plain text with aligned columns.

    Args:
        rows: Cells as text, each row as long as `headers`.
        headers: Titles of the columns.
        right: Numbers of the columns that are aligned to the right.
    """
    console = _console(sys.stdout)
    if console is None:
        print(text.table(rows, headers, right=right))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for number, title in enumerate(headers):
        table.add_column(Text(title), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(text.printable(cell), style=_WORD_STYLES.get(cell, "")) for cell in row))
    console.print(table)


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
        ("list cost", list_price(result.list_cost)),
        ("tokens", text.tokens(result).removeprefix("tokens ").replace(" tokens in", " in")),
        ("time", text.duration(result.duration_s)),
    ]
    if result.reused:
        facts.append(("reused", f"answered {text.moment(result.answered_at)}"))
    if result.finish_reason == "length":
        facts.append(("note", "the answer was cut off at the output limit"))
    if not result.success:
        facts.append(("error", text.failure(result)))
    show_facts(facts)
    if result.success and answer:
        print()
        show_text(result.output or "")


def show_batch(batch: BatchResult, *, rows: bool) -> None:
    """Print a batch: its totals, its first results where `rows` is set, and its failures by kind."""
    for line in batch_lines(batch):
        show_text(line)
    if rows and len(batch):
        print()
        show_table(
            [_row(result, batch) for result in batch.results[:ROWS_SHOWN]],
            ("row", "status", "prompt", "answer", "platform", "cost"),
            right={0, 5},
        )
        if len(batch) > ROWS_SHOWN:
            show_text(f"… {text.count(len(batch) - ROWS_SHOWN)} more (--output FILE writes all of them)")
    groups = [group for group in text.failure_groups(batch) if group.kind != "cancelled"]
    if groups:
        print()
        for group in groups[:ERRORS_SHOWN]:
            show_text(f"{text.count(group.size)} x {text.excerpt(text.failure(group.first), 200)}")


def batch_lines(batch: BatchResult) -> list[str]:
    """Return the totals of a batch: how many, then how much."""
    counted = [f"{text.count(batch.success_count)} of {text.count(len(batch))} answered", *text.outcomes(batch)]
    spent = [
        f"cost {text.total(result.cost for result in batch)}",
        f"list cost {text.list_total(batch)}",
        f"{text.count(batch.total_tokens)} tokens",
        text.duration(batch.duration_s),
    ]
    return [" · ".join(counted), " · ".join(spent)]


def show_plan(plan: Plan) -> None:
    """Print a plan: its sums, what a person should know, its quotas, its first and last tasks."""
    show_facts([("plan", plan_text.plan_line(plan)), *plan_text.plan_facts(plan)])
    for note in (*plan.warnings, *(question.text for question in plan.questions)):
        show_text(f"! {note}")
    if plan.quota_after:
        print()
        show_table(plan_text.window_rows(plan.quota_after, planned=True), plan_text.QUOTA_TITLES, right={2, 3, 4})
    if len(plan):
        print()
        show_table(plan_text.plan_rows(plan), plan_text.PLAN_TITLES, right={0, 4, 5})
    if plan.excluded:
        print()
        show_facts([(name, f"not asked: {text.excerpt(why, 200)}") for name, why in plan.excluded.items()])


def show_quota(quota: Quota) -> None:
    """Print the meters of quota windows and budgets."""
    if len(quota):
        show_table(plan_text.window_rows(quota, planned=False), plan_text.QUOTA_TITLES, right={2, 3, 4})
    else:
        show_text(plan_text.quota_block(quota))


def show_calls(calls: Sequence[Mapping[str, Any]]) -> None:
    """Print calls, those under way first as they are the newest."""
    if not calls:
        show_text("No call is under way, and none was made lately.")
        return
    rows = []
    for call in calls:
        settled = sum(call["settled"].values())
        failed = settled - call["settled"].get("succeeded", 0)
        total = "?" if call["task_count"] is None else text.count(call["task_count"])
        rows.append(
            [call["status"], text.excerpt(call["name"] or "", 30), call["kind"], text.excerpt(call["project"] or "", 24),
             f"{text.count(settled)}/{total}", text.count(failed), text.money(from_pico(call["cost"])),
             text.local_time(call["created_at"]), str(call["pid"]), call["batch_id"]]
        )  # fmt: skip
    titles = ("status", "name", "kind", "project", "settled", "failed", "cost", "since", "process", "batch")
    show_table(rows, titles, right={4, 5, 6})


def show_chains(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print the runs of chains, the newest first."""
    if not runs:
        show_text("There is no chain in this ledger.")
        return
    rows = [
        [text.excerpt(run["name"], 40), text.excerpt(run["project"] or "", 24), text.count(run["tasks"]),
         str(run["depth"] or 0), text.count(run["attempts"]),
         ("at least " if run["unpriced"] else "") + text.money(from_pico(run["cost"] or 0)),
         text.local_time(run["created_at"]), text.local_time(run["last_at"]), run["chain_id"]]
        for run in runs
    ]  # fmt: skip
    titles = ("name", "project", "tasks", "depth", "attempts", "cost", "since", "last", "run")
    show_table(rows, titles, right={2, 3, 4, 5})


def show_steps(steps: Sequence[Step]) -> None:
    """Print the steps of a chain in the order in which they began; parents by their numbers."""
    if not steps:
        show_text("This chain has no steps yet.")
        return
    numbers = {step.task_id: str(i) for i, step in enumerate(steps, 1)}
    rows = [
        [numbers[step.task_id], ", ".join(numbers.get(parent, parent[:8]) for parent in (*step.parents, *step.after)),
         step.status, step.platform or "", str(step.attempts), text.money(step.cost),
         text.excerpt(step.prompt or "", 40), text.excerpt(step.answer or step.error or "", 40), step.task_id]
        for step in steps
    ]  # fmt: skip
    titles = ("step", "follows", "status", "platform", "attempts", "cost", "prompt", "answer", "task")
    show_table(rows, titles, right={0, 4, 5})


def list_price(amount: Any) -> str:
    """Return a list cost [USD], or that there is none."""
    return "unpriced" if amount is None else text.money(amount)


def _row(result: Result, batch: BatchResult) -> list[str]:
    return [
        text.place(result, sampled=batch.sampled),
        result.status,
        text.excerpt(text.prompt_text(result.task.prompt), 32),
        text.excerpt(result.output or "" if result.success else result.error or "", 48),
        text.excerpt(result.platform or "", 16),
        text.money(result.cost),
    ]


def _console(stream: IO[str] | None) -> Console | None:
    """Return a rich console where styles are wanted: in a terminal that has them, without `NO_COLOR`."""
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, emoji=False, markup=False)
