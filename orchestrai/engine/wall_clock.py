"""The wall clock of attempts: one timer for all of them."""

from __future__ import annotations

import asyncio


class Deadline:
    """When an attempt must have ended; `overrun` says that it was ended for it."""

    __slots__ = ("at", "overrun", "task")

    def __init__(self, at: float, task: asyncio.Task[object]) -> None:
        self.at = at
        self.task = task
        self.overrun = False


class WallClock:
    """Cancels what overruns its deadline.

    Nearly every attempt ends in time, so the timer is set for the earliest deadline it knows and then looks again;
    a timer for each attempt costs several times as much (measured with `asyncio.timeout`).

    Args:
        loop: The engine's loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> Deadline:
        """Let the running task have so many seconds from now."""
        task = asyncio.current_task()
        assert task is not None
        deadline = Deadline(self._loop.time() + seconds, task)
        self._running.add(deadline)
        if self._timer is None or deadline.at < self._timer.when():
            self._set(deadline.at)
        return deadline

    def end(self, deadline: Deadline) -> bool:
        """Forget it; True when the task was cancelled for overrunning it, which is now taken back."""
        self._running.discard(deadline)
        if deadline.overrun:
            deadline.task.uncancel()
        return deadline.overrun

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for deadline in self._running:
            if deadline.at <= now and not deadline.overrun:
                deadline.overrun = True
                deadline.task.cancel()
        waiting = [deadline.at for deadline in self._running if not deadline.overrun]
        if waiting:
            self._set(min(waiting))
