"""What commands print: data on stdout, progress and messages on stderr.

Styles appear only in a terminal, and not with `NO_COLOR`. Every text from outside (of a model, a provider, a file)
passes `orchestrai.text.printable`, and rich is given `Text` and never markup, so none of it can drive a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from orchestrai import text
from orchestrai.cli.records import json_text

if TYPE_CHECKING:
    from rich.console import Console

_GAP: Final = 2  # columns of a terminal between two columns of a table
_PROSE_WIDTH: Final = 10  # least of a column that may take several lines
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


def show_table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], *, right: Collection[int] = (), prose: Collection[int] = ()
) -> None:
    """Print a table on stdout, in plain text with aligned columns; in a terminal, fitted to its width.

    An amount or an id is never broken: where a terminal is too narrow for that, each row is a block of facts.

    Args:
        rows: Cells as text, each row as long as `headers`.
        headers: Titles of the columns.
        right: Numbers of the columns that are aligned to the right.
        prose: Numbers of the columns that may take several lines.
    """
    console = _console(sys.stdout)
    if console is None:
        print(text.table(rows, headers, right=right))
        return
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    titles = [title.replace(" ", "\n") for title in headers]
    cells = [[text.printable(" ".join(cell.split())) for cell in row] for row in rows]
    widths = [max(map(cell_len, [*title.split(), *column])) for title, *column in zip(titles, *cells, strict=True)]
    needed = [min(width, _PROSE_WIDTH) if i in prose else width for i, width in enumerate(widths)]
    if sum(needed) + _GAP * (len(needed) - 1) > console.width:
        for number, row in enumerate(rows):
            print("\n" * bool(number), end="")
            show_facts([(title, cell) for title, cell in zip(headers, row, strict=True) if cell])
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold", show_edge=False)
    for i, title in enumerate(titles):
        table.add_column(
            Text(title), justify="right" if i in right else "left", overflow="fold", no_wrap=i not in prose
        )
    for row in cells:
        table.add_row(*(Text(cell, style=_WORD_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def _console(stream: IO[str] | None) -> Console | None:
    """Return a rich console where styles are wanted: in a terminal that has them, without `NO_COLOR`."""
    if stream is None or not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, emoji=False, markup=False)
