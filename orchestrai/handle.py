"""Handle: a batch that runs in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from orchestrai.engine.loop import Errand
from orchestrai.engine.progress import Progress

if TYPE_CHECKING:
    from orchestrai.engine.batch import Run, RunStatus
    from orchestrai.results.batch_result import BatchResult


class Handle:
    """A batch that was started and goes on by itself; `await` it, look at it, or cancel it.

    Args:
        run: The call under way.
        errand: Its work on the engine's loop.
        result: Makes the result so far.
    """

    def __init__(self, run: Run, errand: Errand[Any], result: Callable[[], BatchResult]) -> None:
        self._run = run
        self._errand = errand
        self._result = result

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

    def cancel(self) -> None:
        """End the batch and keep what is finished; from any thread. `await` then returns the partial result."""
        self._errand.stop()

    def wait(self) -> BatchResult:
        """Wait without `await`; an interrupt cancels the batch.

        Raises:
            BatchStopped: A task failed under `on_error="stop"`.
            LedgerError: The ledger could not be written.
        """
        self._errand.wait_sync()
        return self._result()

    def __await__(self) -> Generator[Any, Any, BatchResult]:
        return self._wait().__await__()

    async def _wait(self) -> BatchResult:
        # The batch is not the caller's to stop: who waits and is cancelled leaves it running.
        await asyncio.shield(asyncio.wrap_future(self._errand.future))
        return self._result()

    def __repr__(self) -> str:
        if "_run" not in vars(self):  # a traceback may show it half made
            return "<Handle: not started>"
        done, total = self._run.progress.settled, self._run.progress.total
        return f"<Handle: {self.status}, {done:,} of {total or 0:,} settled>"
