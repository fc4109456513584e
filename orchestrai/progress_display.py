"""Progress display: shows a call under way where it can be shown, and never hurts it.

In a notebook it is the panel, or one line that is written anew; in a terminal a live line; in logs a line now and
then. A thread of its own looks at the call ten times a second at the most and shows what it sees, so a display that
is slow, raises or hangs costs the call nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrai.notebook import kernel
from orchestrai.options import ProgressMode
from orchestrai.progress_view import ProgressView, Watch, progress_block, progress_line
from orchestrai.text import count

if TYPE_CHECKING:
    from orchestrai.engine.progress import Progress

FRAME_S: Final = 0.1
"""Time between two looks [s]."""

_LINE_S: Final = 0.5  # between two versions of a line in a notebook
_SPARSE_S: Final = 10.0  # between two lines of a log
_CLOSE_S: Final = 5.0  # a widget that is closed before a page has drawn it is an error there
_GOODBYE_S: Final = 2.0  # how long the last frame is waited for


class Screen(Protocol):
    """Where views are shown."""

    every_s: float

    def show(self, view: ProgressView) -> None:
        """Show a view."""

    def end(self, view: ProgressView) -> None:
        """Show the last view, in a form that stays."""


class Display:
    """Shows a call on a screen until the call ends.

    Args:
        watch: Looks at the call.
        screen: Where it is shown.
    """

    def __init__(self, watch: Watch, screen: Screen) -> None:
        self._watch = watch
        self._screen = screen
        self._over = threading.Event()
        self._is_broken = False
        self._thread = threading.Thread(target=self._run, name="orchestrai-progress", daemon=True)
        self._thread.start()

    def over(self) -> None:
        """Say that the call has ended; the last view follows by itself."""
        self._over.set()

    def close(self) -> None:
        """Show the last view and wait until it is shown."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_GOODBYE_S)

    def _run(self) -> None:
        while not self._over.wait(self._screen.every_s):
            if not self._is_broken:  # what failed once is not tried again until the end
                self._try(self._screen.show)
        self._try(self._screen.end)

    def _try(self, show: Callable[[ProgressView], None]) -> None:
        try:
            show(self._watch.look())
        except Exception as error:  # noqa: BLE001 - whatever a widget, its front-end or an observer of it does
            if not self._is_broken:
                self._is_broken = True
                _warn(error)


def _warn(error: Exception) -> None:
    """Say once that a display failed, and that nothing else did."""
    # In a thread a warning that is an error would only end the thread.
    with contextlib.suppress(Warning):
        warnings.warn(
            f"The progress display failed ({type(error).__name__}: {error}); the call goes on without it.",
            RuntimeWarning,
            stacklevel=2,
        )


def interrupted(progress: Progress) -> str:
    """Return the line that a notebook shows in place of a traceback when a batch was interrupted."""
    total = progress.settled if progress.total is None else progress.total
    return (
        f"Interrupted: {count(progress.succeeded)} of {count(total)} tasks have their answer, and nothing is running. "
        "orch.last_batch has them; run the cell again for the rest."
    )


@contextlib.contextmanager
def showing(watch: Watch, mode: ProgressMode, cancel: Callable[[], object]) -> Iterator[None]:
    """Show a call while inside; as `open_display`."""
    screen = open_screen(watch, mode, cancel)
    display = None if screen is None else Display(watch, screen)
    try:
        yield
    finally:
        if display is not None:
            display.close()


def open_screen(watch: Watch, mode: ProgressMode, cancel: Callable[[], object], *, keep: bool = False) -> Screen | None:
    """Return where a call is shown, in the cell or terminal of the caller.

    Args:
        watch: Looks at the call.
        mode: "auto": the panel in a notebook with somebody in front of it, a line now and then in one without, a live
            line in a terminal, else nothing. "widget": the panel wherever there are widgets. "text": lines.
        cancel: Cancels the call; from any thread.
        keep: A panel lives on after the call, in layouts.

    Returns:
        The screen; None where nothing is shown.
    """
    try:
        return _screen(watch, mode, cancel, keep=keep)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with widgets here
        _warn(error)
        return _Lines()


def _screen(watch: Watch, mode: ProgressMode, cancel: Callable[[], object], *, keep: bool) -> Screen | None:
    if mode == "off":
        return None
    in_kernel = kernel.kernel() is not None
    if in_kernel and kernel.has_widgets() and (mode == "widget" or (mode == "auto" and kernel.is_attended())):
        panel = PanelScreen(watch, cancel, keep=keep)
        panel.place()
        return panel
    if in_kernel:
        return _Line(watch.look()) if kernel.is_attended() else _Lines()
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if is_terminal and not os.environ.get("CI"):
        return _Live()
    return _Lines() if mode == "text" or is_terminal else None


class PanelScreen:
    """The panel in the output of cells; once the call ends, HTML that stays takes its place.

    Args:
        watch: Looks at the call.
        cancel: Called when the button of the panel is pressed.
        keep: The panel lives on after the call: it may stand in a layout too.
    """

    every_s = FRAME_S

    def __init__(self, watch: Watch, cancel: Callable[[], object], *, keep: bool) -> None:
        from orchestrai.notebook.panel import Panel

        self._view = watch.look()
        self.panel = Panel(self._view, cancel)
        self._keep = keep
        self._places: list[Any] = []
        self._cell: object = None
        self._is_over = False
        self._placing = threading.Lock()

    def place(self) -> None:
        """Show the panel in the output of the present cell too, once."""
        from IPython.display import display

        from orchestrai.notebook.panel import static

        cell = getattr(kernel.shell(), "execution_count", None)
        with self._placing:
            if cell is not None and cell == self._cell:
                return
            self._cell = cell
            if self._is_over:
                display(static(self._view), raw=True)  # type: ignore[no-untyped-call]  # IPython's display has no types
            else:
                self._places.append(display(self.panel, display_id=True))  # type: ignore[no-untyped-call]  # likewise

    def show(self, view: ProgressView) -> None:
        """Show a newer view."""
        if view != self._view:
            self._view = view
            self.panel.show(view)

    def end(self, view: ProgressView) -> None:
        """Put HTML that needs no kernel in the place of the panel, wherever it was shown."""
        from orchestrai.notebook.panel import static

        with self._placing:
            self._view, self._is_over = view, True
            for place in self._places:
                if place is not None:
                    place.update(static(view), raw=True)
        try:
            self.panel.show(view)  # in a layout, or on a page that was loaded again, it is still there
        finally:
            if not self._keep:
                self._close()

    def _close(self) -> None:
        """Free the widget: where somebody looks on, only once a page that lags behind has drawn it."""
        if not kernel.is_attended():
            self.panel.close()
            return
        later = threading.Timer(_CLOSE_S, self.panel.close)
        later.daemon = True
        later.start()


class _Line:
    """One line in the output of a cell, written anew."""

    every_s = _LINE_S

    def __init__(self, view: ProgressView) -> None:
        from IPython.display import display

        self._place = display({"text/plain": progress_line(view)}, raw=True, display_id=True)  # type: ignore[no-untyped-call]  # likewise

    def show(self, view: ProgressView) -> None:
        if self._place is not None:
            self._place.update({"text/plain": progress_line(view)}, raw=True)

    def end(self, view: ProgressView) -> None:
        if self._place is not None:
            self._place.update({"text/plain": progress_block(view)}, raw=True)


class _Lines:
    """A line on stderr now and then."""

    every_s = _SPARSE_S

    def show(self, view: ProgressView) -> None:
        print(progress_line(view), file=sys.stderr, flush=True)  # noqa: T201 - showing is its purpose

    end = show


class _Live:
    """A live line in a terminal."""

    every_s = FRAME_S

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        columns = (SpinnerColumn(), BarColumn(bar_width=28), TextColumn("{task.fields[line]}", markup=False))
        self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=10)
        self._task = self._bar.add_task("", total=None, line="")
        self._bar.start()

    def show(self, view: ProgressView) -> None:
        total = None if view.percent is None else 100
        self._bar.update(self._task, total=total, completed=view.percent or 0, line=progress_line(view))

    def end(self, view: ProgressView) -> None:
        self.show(view)
        self._bar.columns = self._bar.columns[1:]  # nothing turns any more
        self._bar.stop()
