"""Handle: a batch that runs in the background."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from orchestrai.engine.loop import Errand, awake
from orchestrai.engine.progress import Progress
from orchestrai.errors import shown_as
from orchestrai.notebook import kernel
from orchestrai.progress_display import Display, PanelScreen, Screen, interrupted
from orchestrai.progress_view import Watch, progress_block

if TYPE_CHECKING:
    from orchestrai.engine.batch import Run, RunStatus
    from orchestrai.notebook.panel import Panel
    from orchestrai.results.batch_result import BatchResult


class Handle:
    """A batch that was started and goes on by itself; `await` it, look at it, or cancel it.

    Args:
        run: The call under way.
        errand: Its work on the engine's loop.
        result: Makes the result so far.
        watch: Looks at the call.
        screen: Where it is shown from its start; None where it is not.
    """

    def __init__(
        self, run: Run, errand: Errand[Any], result: Callable[[], BatchResult], watch: Watch, screen: Screen | None
    ) -> None:
        self._run = run
        self._errand = errand
        self._result = result
        self._watch = watch
        self._panel = screen if isinstance(screen, PanelScreen) else None
        self._displays = [] if screen is None else [self._shown_on(screen)]

    @property
    def status(self) -> RunStatus:
        """running, finished, cancelled or stopped."""
        return self._run.status

    @property
    def progress(self) -> Progress:
        """Counts and sums so far."""
        return self._run.progress

    @property
    def result(self) -> BatchResult:
        """The result so far; a task that is not settled yet stands in it as cancelled, "not finished"."""
        return self._result()

    @property
    def batch_id(self) -> str:
        """Id of the batch in the ledger."""
        return self._run.books.batch_id

    def note_command(self, folder: str, arguments: Sequence[str]) -> None:
        """Record how a shell makes this batch again, for `orchestrai resume`; not where texts are not kept.

        Args:
            folder: The folder it was made in.
            arguments: Those of `orchestrai batch`; they may hold a template, and no secret.
        """
        if self._run.options.keep_texts:
            command = json.dumps({"folder": folder, "arguments": [*arguments]})
            self._run.engine.loop.loop.call_soon_threadsafe(self._run.books.note_command, command)

    @property
    def panel(self) -> Panel:
        """The live panel of this batch: an ipywidgets DOM widget, for a `VBox`, a `Tab` or a dashboard."""
        return self._panel_screen().panel

    def cancel(self) -> None:
        """End the batch and keep what is finished; from any thread. `await` then returns the partial result."""
        self._errand.stop()

    def wait(self) -> BatchResult:
        """Wait without `await`; an interrupt cancels the batch.

        Raises:
            BatchStopped: A task failed under `on_error="stop"`.
            LedgerError: The ledger could not be written.
        """
        if self._panel is not None:
            self._panel.panel.hear_while_blocked()
        try:
            self._errand.wait_sync()
        except KeyboardInterrupt as error:
            shown_as(error, interrupted(self._run.progress))
            raise
        finally:
            self._close_displays()
        return self._result()

    def __await__(self) -> Generator[Any, Any, BatchResult]:
        return self._wait().__await__()

    async def _wait(self) -> BatchResult:
        # The batch is not the caller's to stop: who waits and is cancelled leaves it running.
        with awake():
            await asyncio.shield(asyncio.wrap_future(self._errand.future))
        self._close_displays()
        return self._result()

    def _shown_on(self, screen: Screen) -> Display:
        """Show the batch on a screen until it ends."""
        display = Display(self._watch, screen)
        self._errand.future.add_done_callback(lambda _: display.over())
        return display

    def _close_displays(self) -> None:
        """Wait until the displays show how it ended."""
        for display in self._displays:
            display.close()

    def _panel_screen(self) -> PanelScreen:
        if self._panel is None:
            self._panel = PanelScreen(self._watch, self.cancel, keep=True)
            self._displays.append(self._shown_on(self._panel))
        return self._panel

    def _ipython_display_(self) -> None:
        """Show the panel while the batch runs, and how it ended afterwards."""
        if kernel.has_widgets():
            self._panel_screen().place()
        else:
            print(progress_block(self._watch.look()))  # noqa: T201 - showing is its purpose

    def __repr__(self) -> str:
        if "_run" not in vars(self):  # a traceback may show it half made
            return "<Handle: not started>"
        done, total = self._run.progress.settled, self._run.progress.total
        return f"<Handle: {self.status}, {done:,} of {total or 0:,} settled>"
