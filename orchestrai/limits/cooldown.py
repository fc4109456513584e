"""Cooldown: when a platform rests, for how long, and how it comes back.

    open      requests leave
    resting   none leaves until the rest is over
    probing   the rest is over: one request leaves, and what becomes of it decides

One rest has one beginning: refusals of requests that were sent before it belong to it and do not begin it again.
"""

from __future__ import annotations

from typing import Final

from orchestrai.errors import ErrorClass
from orchestrai.limits.allowance import LONGEST_TOLD_S, told_wait_s

FIRST_REST_S: Final = 0.5
"""Rest after failures that tell no wait [s]; every further one in a row doubles it …"""

LONGEST_REST_S: Final = 30.0
"""… up to this [s]."""

PATIENCE_S: Final = 90.0
"""How long an outage is waited out [s]."""

_LONGEST_S: Final = 8 * 86_400.0  # a rest that is told ends after a week's window at the latest
_UNTOLD_S: Final[dict[ErrorClass, float]] = {"window": 300.0, "balance": 900.0, "key": 900.0}
_IN_A_ROW: Final[dict[ErrorClass, int]] = {"window": 1, "balance": 3, "key": 3}
_FAULTS_IN_A_ROW: Final = 5  # without an answer between them; fewer are the business of retries
_NEVER_ANSWERED_S: Final = 3.0  # … and so long at an address where nothing ever answered
_GONE: Final = frozenset[ErrorClass]({"window", "balance", "key"})
_SILENT: Final = frozenset[ErrorClass]({"connection", "timeout"})


class Cooldown:
    """The rests of one lane."""

    __slots__ = (
        "_began", "_cause", "_down_since", "_in_a_row", "_is_told", "_met", "_new_from", "_probe", "_rests", "until", "why",
    )  # fmt: skip

    def __init__(self) -> None:
        self.why: ErrorClass | None = None  # None: open
        self.until = 0.0  # end of the rest [s]
        self._began = 0.0
        self._down_since = 0.0  # beginning of the first of several rests in a row [s]
        self._cause = 0  # number of the refused request that began the rest
        self._new_from = 0  # failures of earlier requests belong to a rest that is over
        self._probe = 0  # number of the request that decides; 0 for none
        self._rests = 0  # in a row
        self._is_told = False  # the length of the rest, by the platform
        self._in_a_row = 0  # failures without an answer between them
        self._met = False  # whether the platform ever gave any reply

    @property
    def is_quiet(self) -> bool:
        """True when an answer changes nothing."""
        return self.why is None and not self._in_a_row and self._met

    def when(self, now: float) -> float | None:
        """Return the earliest moment for a request [s]; None while a probe is under way."""
        if self.why is None:
            return now
        if now < self.until:
            return self.until
        return None if self._probe else now

    def decides(self, order: int) -> bool:
        """Return True for the number of the probe that is under way."""
        return self.why is not None and order == self._probe

    def left(self, order: int) -> None:
        """Note the number of a request that leaves; the first after a rest is its probe."""
        if self.why is not None:
            self._probe = order

    def answered(self, order: int, *, disproves: bool) -> None:
        """Count a reply that shows the platform at work: an answer, or a refusal of this one request.

        Args:
            order: Number of its request.
            disproves: A reply to a request that was sent after the refused one ends a rest: whatever refused one
                did not refuse all. False where refusals are so many that one answer says little.
        """
        self._met = True
        if self.why is None:
            self._in_a_row = 0
        elif order == self._probe:
            self._new_from = order
            self._open()
        elif disproves and not self._probe and order > self._cause:
            self._new_from = self._cause + 1
            self._open()

    def refused(self, kind: ErrorClass, order: int, now: float, retry_after_s: float | None) -> None:
        """Count a failure that may concern all requests, and rest where it does.

        Args:
            kind: What it failed with.
            order: Number of the request.
            now: Now [s].
            retry_after_s: Wait that was told [s].
        """
        self._met = self._met or kind not in _SILENT
        told_s = told_wait_s(retry_after_s)
        if self.why is None:
            if order < self._new_from:
                return
            self._in_a_row += 1
            if not told_s and self._in_a_row < _IN_A_ROW.get(kind, _FAULTS_IN_A_ROW):
                return
            self._rests = 0
            self._down_since = now
        elif order != self._probe:
            self._join(kind, order, now, told_s)
            return
        self._rest(kind, now, told_s)
        self._cause = order

    def withdrawn(self, order: int) -> None:
        """Note that a request ended without telling anything: it was cancelled."""
        if order == self._probe:
            self._probe = 0

    def reconsider(self, now: float) -> None:
        """End a rest that somebody may have ended meanwhile, by one probe: the account's owner, or who restarted it.

        A wait that a platform told, so that nobody comes too early, is kept.
        """
        if self.why in _GONE or (not self._is_told and self.away(now)):
            self.until = min(self.until, now)

    def away(self, now: float, patience_s: float = PATIENCE_S) -> ErrorClass | None:
        """Return why the platform is not worth waiting for; None while it is."""
        if self.why is None or now >= self.until:
            return None
        if self.why in _GONE or self.until - now > LONGEST_TOLD_S:
            return self.why
        if not self._met:
            patience_s = min(patience_s, _NEVER_ANSWERED_S)
        return self.why if now - self._down_since >= patience_s else None

    def _join(self, kind: ErrorClass, order: int, now: float, told_s: float | None) -> None:
        """Let a late refusal lengthen the rest that it belongs to, counted from that rest's beginning."""
        if order < self._new_from or now >= self.until:
            return
        if kind in _GONE and self.why not in _GONE and _IN_A_ROW[kind] == 1:
            self.why = kind
            told_s = told_s or _UNTOLD_S[kind]
        if told_s:
            self._is_told = True
            self.until = max(self.until, self._began + min(told_s, _LONGEST_S))

    def _rest(self, kind: ErrorClass, now: float, told_s: float | None) -> None:
        self._rests += 1
        untold_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(self._rests - 1, 30))
        rest_s = max(untold_s, _UNTOLD_S.get(kind, 0.0))
        if told_s:
            rest_s = min(told_s, _LONGEST_S) if self._rests == 1 or kind in _GONE else max(told_s, untold_s)
        self.why = kind
        self._is_told = bool(told_s)
        self.until = now + rest_s
        self._began = now
        self._probe = 0

    def _open(self) -> None:
        self.why = None
        self._probe = 0
        self._in_a_row = 0
