"""Lane: how many requests one account of a platform gets at once, whoever asks."""

from __future__ import annotations

import asyncio
from collections import deque


class Lane:
    """Places for requests under way; shared by all calls of this process to one account.

    Args:
        limit: Number of places.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self._usual = limit
        self._asked: list[int] = []  # ceilings of the calls under way
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Take a place, first come first served."""
        if self.in_flight < self.limit and not self._waiting:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given a place while being cancelled
                self.release()
            raise

    def release(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._admit()

    def widen(self, limit: int) -> None:
        """Raise the number of places to what a call asks for, until it narrows the lane again."""
        self._asked.append(limit)
        self.limit = max(self._usual, *self._asked)
        self._admit()

    def narrow(self, limit: int) -> None:
        """Take back what a call asked for by `widen`."""
        self._asked.remove(limit)
        self.limit = max([self._usual, *self._asked])

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
