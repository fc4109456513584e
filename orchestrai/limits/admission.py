"""Admission: when the next request of a lane may leave; everything that limits it, asked as one.

    ticket = admission.begin(now, tokens)           when `admission.when(now, tokens)` said now
    admission.end(ticket, now, kind=…, limits=…)    however it ended

A lane is one account of a platform with one model: limits, outages and quotas of one say nothing of another. It
reads no clock: `now` is the caller's, monotonic, in seconds.
"""

from __future__ import annotations

from typing import Final

from orchestrai.errors import ErrorClass, InvalidSettings
from orchestrai.limits.allowance import LONGEST_TOLD_S, RetryAllowance, told_wait_s
from orchestrai.limits.concurrency import Concurrency
from orchestrai.limits.cooldown import PATIENCE_S, Cooldown
from orchestrai.limits.rate import Pace, ToldLimits

START: Final = 10
"""Requests at once to a platform of which nothing is known yet."""

_STRAIN: Final = frozenset[ErrorClass]({"overloaded", "timeout", "connection"})
_REFUSALS: Final = frozenset[ErrorClass]({"rate", "window", "balance", "key"}) | _STRAIN


class Ticket:
    """One request under way."""

    __slots__ = ("counted", "order", "sent_at", "sent_tokens", "tokens")

    def __init__(self, order: int, sent_at: float, tokens: float, sent_tokens: float) -> None:
        self.order = order  # its number on this lane, from 1
        self.sent_at = sent_at
        self.tokens = tokens  # estimated
        self.counted = tokens  # against the limit of tokens
        self.sent_tokens = sent_tokens  # estimated of all requests of this lane up to this one


class Admission:
    """When requests of one lane may leave.

    Args:
        start: Requests at once at first; more once answers come.
        ceiling: Most requests at once, unless a call asks for more.
        rpm: Requests per minute that settings tell; None to learn them from replies.
        tpm: Tokens per minute, likewise.
        allowance: Retries that all lanes of the platform share; None for an allowance of its own.

    Raises:
        InvalidSettings: A number is out of range.
    """

    def __init__(
        self,
        start: int = START,
        ceiling: int = 64,
        *,
        rpm: float | None = None,
        tpm: float | None = None,
        allowance: RetryAllowance | None = None,
    ) -> None:
        if start < 1 or ceiling < 1:
            raise InvalidSettings(f"a lane needs at least one place, not start={start}, ceiling={ceiling}.")
        for name, told in (("rpm", rpm), ("tpm", tpm)):
            if told is not None and not 0 < told < float("inf"):
                raise InvalidSettings(f"{name} is a number above 0 per minute, not {told!r}.")
        self.in_flight = 0
        self.allowance = allowance if allowance is not None else RetryAllowance()
        self._concurrency = Concurrency(start, ceiling)
        self._cooldown = Cooldown()
        self._pace = Pace(rpm, tpm)
        self._is_told = rpm is not None or tpm is not None  # and not yet started
        self._is_paced = False
        self._is_started_early = False  # the pace of settings, before the first reply shows how long a request takes
        self._newest = 0  # number of the newest request
        self._answered = 0
        self._sent_tokens = 0.0  # estimated of all requests so far

    # Before a request.

    def when(self, now: float, tokens: float = 0.0) -> float | None:
        """Return the earliest moment at which a request may leave [s].

        Args:
            now: Now [s].
            tokens: What it will take from the limit of tokens, estimated.

        Returns:
            `now` when it may leave; a later moment to ask again at; None when only the end of a request can make
            room. The end of any request may bring the moment forward.
        """
        concurrency = self._concurrency
        if self.in_flight >= concurrency.limit:
            return None
        earliest = now
        if self._cooldown.why is not None:
            rested = self._cooldown.when(now)
            if rested is None:
                return None
            earliest = rested
        if self._is_paced:
            return max(earliest, self._pace.when(now, tokens))
        if self._is_told:
            self._start(now)
            return self.when(now, tokens)
        return earliest

    def begin(self, now: float, tokens: float = 0.0) -> Ticket:
        """Count a request that leaves now; `when` has just said that it may."""
        self._newest = order = self._newest + 1
        self.in_flight += 1
        self._sent_tokens = sent_tokens = self._sent_tokens + tokens
        ticket = Ticket(order, now, tokens, sent_tokens)
        if self._is_paced:
            ticket.counted = self._pace.take(now, tokens)
        if self._cooldown.why is not None:
            self._cooldown.left(order)
        return ticket

    # After it.

    def end(
        self,
        ticket: Ticket,
        now: float,
        kind: ErrorClass | None = None,
        retry_after_s: float | None = None,
        limits: ToldLimits | None = None,
        tokens: float | None = None,
    ) -> None:
        """Count how a request ended; once for each ticket.

        Args:
            ticket: What `begin` returned.
            now: Now [s].
            kind: None for an answer, else what it failed with; "cancelled" says nothing about the platform.
            retry_after_s: Wait that was told [s].
            limits: What the headers said, of an answer or a refusal.
            tokens: What it really took from the limit of tokens; None when unknown.
        """
        in_flight = self.in_flight
        self.in_flight = in_flight - 1
        if limits is not None or (tokens is not None and self._is_paced):
            self._measure(ticket, now, limits, tokens)
        if kind is None:
            if self._is_started_early:
                self._is_started_early = False
                self._pace.arrived_after(now, now - ticket.sent_at)
            self._answered += 1
            self._concurrency.answered(ticket.order, self._newest, in_flight)
            if self._is_paced:
                self._pace.answered(now, ticket.order)
            if not self._cooldown.is_quiet:
                self._cooldown.answered(ticket.order, disproves=not self._concurrency.is_suffering)
            if self.allowance.left < self.allowance.most:
                self.allowance.refund()
        elif kind in _REFUSALS:
            self._refused(ticket, now, kind, retry_after_s)
        elif kind == "cancelled":
            self._cooldown.withdrawn(ticket.order)
        else:  # refused for what it asks, or answered with something unusable: the platform is at work
            self._cooldown.answered(ticket.order, disproves=not self._concurrency.is_suffering)

    def may_retry(self, kind: ErrorClass, retry_after_s: float | None = None) -> bool:
        """Take one retry from the platform's allowance; return False when it is used up.

        Asked after `end` of the failed request, once for each retry that is then made.

        Args:
            kind: What the attempt failed with.
            retry_after_s: Wait that the platform told [s].
        """
        is_told = kind == "rate" and told_wait_s(retry_after_s) is not None
        return self.allowance.take(waits=is_told or self._cooldown.why is not None)

    # What calls ask for.

    def widen(self, ceiling: int) -> None:
        """Raise the ceiling to what a call asks for, until it narrows it again."""
        self._concurrency.widen(ceiling)

    def narrow(self, ceiling: int) -> None:
        """Take back what a call asked for by `widen`."""
        self._concurrency.narrow(ceiling)

    def reconsider(self, now: float) -> None:
        """Let one request try a platform that is not worth waiting for.

        For the start of a call: its person may have paid, or changed the key, or started the server again.
        """
        self._cooldown.reconsider(now)

    # What can be read.

    @property
    def limit(self) -> int:
        """Requests at once, now."""
        return self._concurrency.limit

    @property
    def ceiling(self) -> int:
        """Most requests at once, whatever is learned."""
        return self._concurrency.ceiling

    @property
    def pace(self) -> float | None:
        """Requests that may leave every second [1/s]; None while no limit of requests is known."""
        return self._pace.requests_per_s

    @property
    def resting_until(self) -> float | None:
        """End of the rest [s]; in the past while a probe decides; None when the lane does not rest."""
        return None if self._cooldown.why is None else self._cooldown.until

    @property
    def held_until(self) -> float | None:
        """Until when "too fast" holds all requests back [s], perhaps in the past; None when it never did."""
        held = self._pace.held_until
        return None if held < 0 else held

    @property
    def why(self) -> ErrorClass | None:
        """Why the lane rests; None when it does not."""
        return self._cooldown.why

    def away(self, now: float, patience_s: float = PATIENCE_S) -> ErrorClass | None:
        """Return why the platform is not worth waiting for, so that tasks go elsewhere; None while it is.

        Args:
            now: Now [s].
            patience_s: How long an outage is waited out [s]; shorter where there is somewhere else to go.
        """
        return self._cooldown.away(now, patience_s)

    # How.

    def _start(self, now: float) -> None:
        self._is_told = False
        self._is_paced = self._is_started_early = True
        self._pace.start(now)
        self._concurrency.open_wide()

    def _measure(self, ticket: Ticket, now: float, limits: ToldLimits | None, tokens: float | None) -> None:
        """Correct the pace by what a reply says."""
        if tokens is not None:
            self._pace.used(now, ticket.tokens, ticket.counted, tokens)
        if limits is not None:
            self._pace.observe(
                limits,
                now,
                ticket.sent_at,
                later_requests=self._newest - ticket.order,
                later_tokens=self._sent_tokens - ticket.sent_tokens,
                tokens=ticket.counted if tokens is None else tokens,
            )
            if not self._is_paced and self._pace.is_known:
                self._is_paced = True
                self._concurrency.open_wide()

    def _refused(self, ticket: Ticket, now: float, kind: ErrorClass, retry_after_s: float | None) -> None:
        order = ticket.order
        told_s = told_wait_s(retry_after_s)
        if kind == "rate" and self._is_paced and (told_s is None or told_s <= LONGEST_TOLD_S):
            # The pace holds everything back as long as told: a rest, and the probe after it, would cost a latency.
            is_new = self._pace.refused(now, order, self._newest, told_s)
            if is_new and self._pace.requests.is_felt:
                self._pace.feel(now, self._answered)
            if self._cooldown.decides(order):
                self._cooldown.refused(kind, order, now, told_s)
            elif is_new:
                self._cooldown.refused(kind, order, now, None)
            return
        if (kind == "rate" or kind in _STRAIN) and not self._cooldown.decides(order):  # a probe was alone
            was_cut = self._concurrency.failed(order, self._newest)
            if kind == "rate" and (was_cut or self._concurrency.is_suffering):
                self._pace.feel(now, self._answered)
                self._is_paced = self._pace.is_known
        self._cooldown.refused(kind, order, now, told_s)
