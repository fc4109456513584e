"""Progress as text on stderr: a live line in a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from orchestrai import text
from orchestrai.options import ProgressMode

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from orchestrai.engine.progress import Progress

_FRAME_S: Final = 0.1  # ten frames a second, whatever the rate of answers
_SPARSE_S: Final = 10.0  # interval of plain lines


@contextlib.contextmanager
def show_progress(progress: Progress, mode: ProgressMode) -> Iterator[None]:
    """Show a call's progress while inside; a display that fails never hurts the call.

    Args:
        progress: Read ten times a second at the most.
        mode: "auto" shows it in a terminal, "text" everywhere, "off" nowhere; "widget" is "auto" where there are
            no widgets.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if mode == "off" or (mode != "text" and not terminal):
        yield
        return
    done = threading.Event()
    show = _live if terminal and not os.environ.get("CI") else _sparse
    thread = threading.Thread(target=show, args=(progress, done), name="orchestrai-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=2)


def progress_text(progress: Progress) -> str:
    """Return one line: counts, rate, time left, cost and failures."""
    total = f"{progress.total:,}" if progress.total is not None else "?"
    parts = [f"{progress.settled:,}/{total}"]
    for count, word in (
        (progress.failed, "failed"),
        (progress.reused, "reused"),
        (progress.skipped, "skipped"),
        (progress.cancelled, "cancelled"),
        (progress.running, "running"),
    ):
        if count:
            parts.append(f"{count:,} {word}")
    if progress.rate:
        parts.append(f"{progress.rate:.1f}/s")
    if progress.eta_s is not None and progress.ended is None:
        parts.append(f"{text.duration(progress.eta_s)} left")
    parts.append(f"cost {'at least ' if progress.unpriced else ''}{text.money(progress.cost)}")
    if progress.errors:
        parts.append("errors: " + ", ".join(f"{kind} {n:,}" for kind, n in progress.errors.most_common(3)))
    return " · ".join(parts)


def _live(progress: Progress, done: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (SpinnerColumn(), BarColumn(bar_width=28), TextColumn("{task.fields[line]}", markup=False))
    with Bar(*columns, console=console, refresh_per_second=10, transient=False) as bar:
        task = bar.add_task("", total=progress.total, line="")
        while not done.wait(_FRAME_S):
            _frame(bar, task, progress)
        _frame(bar, task, progress)


def _frame(bar: Bar, task: object, progress: Progress) -> None:
    bar.update(task, total=progress.total, completed=progress.settled, line=progress_text(progress))  # type: ignore[arg-type]  # rich's TaskID is an int in disguise


def _sparse(progress: Progress, done: threading.Event) -> None:
    while not done.wait(_SPARSE_S):
        print(progress_text(progress), file=sys.stderr, flush=True)  # noqa: T201 - showing is its purpose
    print(progress_text(progress), file=sys.stderr, flush=True)  # noqa: T201 - likewise
