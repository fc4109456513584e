"""Retry: whether a failed attempt is made again on the same platform, and how long to wait before it.

A pure decision: no clock, no sleep. The engine owns the waiting, so that nothing holds a place while it waits. How
often and how long one task is tried are tenacity's strategies, asked directly instead of through its retrying loop.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

from tenacity import RetryCallState, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from orchestrai.errors import ErrorClass, InvalidSettings
from orchestrai.limits.allowance import LONGEST_TOLD_S, told_wait_s

RETRYABLE: Final = frozenset[ErrorClass]({"rate", "overloaded", "timeout", "connection", "reply"})
"""Failures that another attempt at the same platform may cure. The others stay: a window that is used up, an empty
balance, a refused key and a refused request are answered the same way again."""


class Uniform(Protocol):
    """A source of numbers in [0, 1), as `random.Random`."""

    def random(self) -> float:
        """Return the next one."""


class RetryPolicy:
    """When to try again, and after how long.

    Faults wait a random time below a bound that doubles with every attempt ("full jitter"; source: AWS Architecture
    Blog, "Exponential Backoff And Jitter"). A wait that the platform tells is kept to the full, with a little more at
    random, so that not all tasks come back in the same instant, and with more each time it is told again.

    Args:
        attempts: Attempts at one task, the first included.
        base_s: Bound of the wait after the first attempt [s].
        most_s: Bound of every wait that the platform did not tell [s].
        jitter: Most that is added to a wait that it told, as a share of it (or of `base_s`, if that is longer).
        rate_attempts: Attempts at one task while the platform says "too fast" and tells when to come back: such a
            refusal is no fault, so there may be more of them. Never fewer than `attempts`.

    Raises:
        InvalidSettings: A number is out of range.
    """

    def __init__(
        self,
        attempts: int = 6,
        base_s: float = 0.5,
        most_s: float = 60.0,
        jitter: float = 0.1,
        rate_attempts: int = 10,
    ) -> None:
        if attempts < 1:
            raise InvalidSettings(f"attempts is at least 1, the first try, not {attempts}.")
        if not (0 < base_s <= most_s < math.inf and 0 < jitter <= 1):
            raise InvalidSettings(
                "waits need 0 < base_s <= most_s [s] and 0 < jitter <= 1, "
                f"not base_s={base_s}, most_s={most_s}, jitter={jitter}."
            )
        self.attempts = attempts
        self.rate_attempts = max(attempts, rate_attempts)
        self._stop = stop_after_attempt(self.attempts)
        self._stop_when_told = stop_after_attempt(self.rate_attempts)
        self._wait = _WaitFullJitter(multiplier=base_s, max=most_s)
        self._wait_as_told = _WaitAsTold(base_s, jitter, self._wait)

    def wait_s(self, kind: ErrorClass, attempt_no: int, retry_after_s: float | None, random: Uniform) -> float | None:
        """Return how long to wait before the next attempt at this platform [s].

        Args:
            kind: What the last attempt failed with.
            attempt_no: Attempts made so far; 0 before the first, which never waits.
            retry_after_s: Wait that the platform told [s]. What is no number from 0 up is taken for not told.
            random: Where chance comes from: a `random.Random`.

        Returns:
            The wait, never shorter than the one told; None when this platform is not to be tried again.
        """
        if attempt_no < 1:
            return 0.0
        told_s = told_wait_s(retry_after_s)
        if kind not in RETRYABLE or (told_s is not None and told_s > LONGEST_TOLD_S):
            return None
        failure = _Failure(attempt_no, told_s or 0.0, random)
        stop = self._stop_when_told if kind == "rate" and told_s is not None else self._stop
        if stop(failure):
            return None
        return (self._wait if told_s is None else self._wait_as_told)(failure)


class _Failure(RetryCallState):
    """What tenacity's strategies read of a call. Its own constructor is left out: it reads the clock."""

    def __init__(self, attempt_number: int, told_s: float, random: Uniform) -> None:
        self.attempt_number = attempt_number
        self.told_s = told_s
        self.random = random


class _WaitFullJitter(wait_exponential):
    """Wait anything below tenacity's exponential bound, by our source of chance instead of the global one."""

    def __call__(self, retry_state: RetryCallState) -> float:
        assert isinstance(retry_state, _Failure)
        return super().__call__(retry_state) * retry_state.random.random()


class _WaitAsTold(wait_base):
    """Wait as long as told, a little longer the first time, and by a growing random time when told again.

    A platform that refuses the same task twice has more callers than it admits: those that come back together are
    refused together, until they are spread out.
    """

    def __init__(self, base_s: float, jitter: float, spread: _WaitFullJitter) -> None:
        self.base_s = base_s
        self.jitter = jitter
        self.spread = spread

    def __call__(self, retry_state: RetryCallState) -> float:
        assert isinstance(retry_state, _Failure)
        share = 1.0 - retry_state.random.random()  # in (0, 1]
        longer = share * self.jitter * max(retry_state.told_s, self.base_s)
        if retry_state.attempt_number > 1:
            longer += self.spread(retry_state)
        return retry_state.told_s + longer
