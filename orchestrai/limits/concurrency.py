"""Concurrency: how many requests at once, found by trying: more while it goes well, fewer when the platform suffers."""

from __future__ import annotations

from typing import Final

_SATURATED: Final = 0.8  # of the limit must be in use for an answer to raise it (source: Inspect AI's limiter)
_GROWTH: Final = 2.0  # places won by an answer in slow start: the limit triples with every round
_STEADY_GROWTH: Final = 0.05  # … afterwards: five per cent a round, one place at least
_CUT: Final = 0.8  # of the limit is kept (source: Inspect AI's limiter)
_TROUBLE: Final = 0.3  # share of failures at which the platform is taken to suffer, not just to err
_MEMORY: Final = 1 / 20  # weight of the newest outcome in that share


class Concurrency:
    """A limit that grows with answers and is cut by failures (AIMD with slow start; source: RFC 5681).

    It grows only while it is used, so that it says what was tried and not what was hoped. Single failures are the
    business of retries: the limit is cut when three in ten of the recent outcomes were failures, and once per episode:
    failures of requests that were sent before a cut belong to it.

    Args:
        start: Places at first.
        ceiling: Most places, ever.
    """

    __slots__ = (
        "_asked",
        "_cut_from",
        "_round_ends",
        "_round_limit",
        "_round_most",
        "_slow_until",
        "_usual",
        "_wanted",
        "ceiling",
        "limit",
        "trouble",
    )

    def __init__(self, start: int, ceiling: int) -> None:
        self.ceiling = self._usual = ceiling
        self.limit = min(start, ceiling)
        self.trouble = 0.0  # share of failures among recent outcomes, from 0 to 1
        self._asked: list[int] = []  # ceilings of the calls under way
        self._wanted = float(self.limit)  # with fractions, and beyond the ceiling what an earlier, wider call found
        self._slow_until = float("inf")  # where slow start ends
        self._round_ends = 0  # with the answer to the first request after this one
        self._round_limit = self.limit  # when the round began
        self._round_most = 0  # requests under way at once in it
        self._cut_from = 0  # failures of earlier requests are part of the last cut

    @property
    def is_suffering(self) -> bool:
        """True when so much fails that it is no accident."""
        return self.trouble >= _TROUBLE

    def answered(self, order: int, newest: int, in_flight: int) -> None:
        """Count an answer.

        Args:
            order: Number of its request.
            newest: Number of the newest request.
            in_flight: Requests under way when it came, its own included.
        """
        if self.trouble:
            self.trouble = self.trouble * (1 - _MEMORY) if self.trouble > 0.001 else 0.0
        if self.limit >= self.ceiling:
            return
        # What is in use is judged by rounds: answers often come in waves, and the places they leave are filled later.
        if order > self._round_ends:
            self._round_ends = newest
            self._round_limit = self.limit
            self._round_most = in_flight
        elif in_flight > self._round_most:
            self._round_most = in_flight
        if self._round_most < _SATURATED * self._round_limit or self.is_suffering:
            return
        if self._wanted < self._slow_until:
            self._wanted += _GROWTH
        else:
            self._wanted += max(1.0 / self._wanted, _STEADY_GROWTH)
        self._settle()

    def failed(self, order: int, newest: int) -> bool:
        """Count a failure that may mean too many at once; return True when it cut the limit.

        Args:
            order: Number of the request that failed.
            newest: Number of the newest request.
        """
        if order < self._cut_from:
            return False
        self.trouble += (1.0 - self.trouble) * _MEMORY
        if not self.is_suffering:
            return False
        self._cut_from = newest + 1
        self.trouble /= 2  # the narrower limit is judged by what comes of it
        self._wanted = max(1.0, self.limit * _CUT)
        self._slow_until = self._wanted
        self._settle()
        return True

    def open_wide(self) -> None:
        """Stop searching for the limit from below: something else says how fast requests may leave."""
        self._wanted = max(self._wanted, float(self.ceiling))
        self._settle()

    def widen(self, ceiling: int) -> None:
        """Raise the ceiling to what a call asks for, until it narrows it again."""
        self._asked.append(ceiling)
        self._set_ceiling()

    def narrow(self, ceiling: int) -> None:
        """Take back what a call asked for by `widen`."""
        self._asked.remove(ceiling)
        self._set_ceiling()

    def _set_ceiling(self) -> None:
        self.ceiling = max([self._usual, *self._asked])
        self._settle()

    def _settle(self) -> None:
        self.limit = min(int(self._wanted), self.ceiling)
