"""Lane: when the requests to one account's model leave, whoever asks.

All calls of this process share a lane. What decides is `limits.admission`; here is what waits for the decision.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, NamedTuple

from orchestrai.errors import ErrorClass
from orchestrai.limits.admission import Admission, Ticket
from orchestrai.limits.allowance import LONGEST_TOLD_S
from orchestrai.limits.cooldown import PATIENCE_S
from orchestrai.limits.rate import ToldLimits

ELSEWHERE_S: Final = 10.0
"""How long a platform that does not answer is waited for where another one could [s]; else `PATIENCE_S`."""

_WHY: Final[dict[ErrorClass, str]] = {
    "window": "a quota window of it is used up",
    "balance": "no money is left there",
    "key": "it refuses the credentials",
    "rate": "it asks for a long pause",
}


class TurnedAway(Exception):
    """The platform is not worth waiting for: the task goes elsewhere.

    Args:
        kind: Why.
        text: The same for people, with what the platform said last.
    """

    def __init__(self, kind: ErrorClass, text: str) -> None:
        super().__init__(text)
        self.kind: ErrorClass = kind


class _Turn(NamedTuple):
    """Somebody who waits for a ticket."""

    turn: asyncio.Future[Ticket]
    tokens: float
    patience_s: float


class Lane:
    """The way to one account's model; on the engine's loop.

    Args:
        admission: When requests may leave.
    """

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Turn] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_words = ""  # of the platform's newest refusal

    def take(self, tokens: float) -> Ticket | None:
        """Return a ticket for a request that may leave now; None when it has to wait for its `turn`.

        Args:
            tokens: Its input, estimated [tokens].
        """
        if self._waiting:
            return None
        admission, now = self.admission, self._loop.time()
        at = admission.when(now, tokens)
        return admission.begin(now, tokens) if at is not None and at <= now else None

    async def turn(self, tokens: float, patience_s: float = PATIENCE_S) -> Ticket:
        """Wait for a ticket, first come first served.

        Args:
            tokens: As `take`.
            patience_s: How long a platform that does not answer is waited for [s].

        Raises:
            TurnedAway: Waiting is of no use, or no longer.
        """
        turn: asyncio.Future[Ticket] = self._loop.create_future()
        self._waiting.append(_Turn(turn, tokens, patience_s))
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.unused(turn.result())  # it was given while its owner was being cancelled
            raise

    def unused(self, ticket: Ticket) -> None:
        """Give a ticket back whose request never left."""
        self.end(ticket, "cancelled")

    def end(
        self,
        ticket: Ticket,
        kind: ErrorClass | None = None,
        *,
        retry_after_s: float | None = None,
        limits: ToldLimits | None = None,
        tokens: int | None = None,
        words: str = "",
    ) -> None:
        """Count how a request ended; once for each ticket.

        Args:
            ticket: What it left with.
            kind: None for an answer, else what it failed with.
            retry_after_s: Wait that was told [s].
            limits: What the headers said.
            tokens: Input tokens that were counted.
            words: What the platform said to its failure.
        """
        if words:
            self._last_words = words
        self.admission.end(ticket, self._loop.time(), kind, retry_after_s, limits, tokens)
        if self._waiting:
            self._admit()

    def widen(self, ceiling: int) -> None:
        """Raise the most places to what a call asks for, until it narrows the lane again."""
        self.admission.widen(ceiling)
        self._admit()

    def narrow(self, ceiling: int) -> None:
        """Take back what a call asked for by `widen`."""
        self.admission.narrow(ceiling)

    def reconsider(self) -> None:
        """Let a new call try a platform that was out of quota, money or a key: the person may have seen to it."""
        self.admission.reconsider(self._loop.time())

    def _admit(self) -> None:
        """Give tickets to those who wait, as far as there are any now, and look again when there are more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            turn, tokens, _ = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            now = self._loop.time()
            at = self.admission.when(now, tokens)
            if at is None:
                return
            if at > now:
                self._turn_away(now, at)
                if self._waiting:
                    self._timer = self._loop.call_at(at, self._admit)
                return
            self._waiting.popleft()
            turn.set_result(self.admission.begin(now, tokens))

    def _turn_away(self, now: float, at: float) -> None:
        """Turn those away who would wait in vain, or for too long; who can go elsewhere does so sooner."""
        staying: deque[_Turn] = deque()
        for waiting in self._waiting:
            if waiting.turn.done():
                continue
            try:
                self._refuse_if_away(now, at, waiting.patience_s)
            except TurnedAway as away:
                waiting.turn.set_exception(away)
            else:
                staying.append(waiting)
        self._waiting = staying

    def _refuse_if_away(self, now: float, at: float, patience_s: float) -> None:
        """Turn a request away that would have to wait in vain, or for too long.

        Raises:
            TurnedAway: It would.
        """
        kind = self.admission.away(now, patience_s)
        if kind is None and at - now > LONGEST_TOLD_S:
            kind = self.admission.why or "rate"
        if kind is None:
            return
        why = _WHY.get(kind, "it has not answered for long")
        until = self.admission.resting_until
        if kind in ("window", "rate") and until is not None and until > now:
            moment = time.localtime(time.time() + until - now)
            why += f" until {time.strftime('%Y-%m-%d %H:%M', moment)}"
        words = f" ({self._last_words})" if self._last_words else ""
        raise TurnedAway(kind, f"not asked, because {why}{words}")
