"""The way from the engine's loop to a consumer on another loop, in batches of one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from orchestrai.engine.loop import awake

T = TypeVar("T")


class Outlet(Generic[T]):
    """A queue from the engine's loop to one consumer on its own loop.

    Args:
        loop: The consumer's loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[T] = deque()
        self._ended = False
        self._armed = False
        self._wake = asyncio.Event()

    def push(self, value: T) -> None:
        """Hand a value over, from the engine's loop."""
        self._ready.append(value)
        self._arm()

    def end(self) -> None:
        """Say that nothing more comes, from any thread."""
        self._ended = True
        self._arm()

    async def get(self) -> T | None:
        """Return the next value, or None after the end; on the consumer's loop."""
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._ended:
                return None
            self._armed = False
            self._wake.clear()
            if not self._ready and not self._ended:  # looked at again, now that the next push will wake us
                with awake():
                    await self._wake.wait()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the consumer's loop is closed; nobody listens any more
                self._ended = True
