"""Rate: how fast requests and tokens may leave, as the provider counts them.

Each limit per minute is a bucket that refills at a steady pace (the generic cell rate algorithm, ITU-T I.371: kept is
the moment at which the bucket was empty, so that waiting times are exact). Its size is not the limit but the most that
the provider was ever seen to have left: many providers spread their minute over seconds or less. Every reply's
headers put bounds on the level; refusals that come although the level said otherwise slow the pace.
"""

from __future__ import annotations

from typing import Final, Protocol

SHARE: Final = 0.995
"""Part of a limit that is used: the rest absorbs rounding and two clocks."""

MINUTE_S: Final = 60.0
_TOLD_BURST_S: Final = 0.5  # what a limit from settings may burst at first, in seconds of its rate
_MARGIN_S: Final = 0.02  # held back of what is left, for requests that overtake each other; more after a refusal
_MOST_MARGIN_S: Final = 0.2
_LATE_S: Final = 0.25  # most that a first request is taken to be on its way
_SLOWER: Final = 0.8  # several refusals soon after another mean that the limit is not what was told
_TOO_MANY: Final = 5
_SOON_S: Final = 10.0
_LONE: Final = 0.1  # refusals below this share of the outcomes are accidents, whatever the limit
_MEMORY: Final = 1 / 30  # weight of the newest outcome in that share
_FASTER_PER_S: Final = 0.01  # and is believed again at this pace
_SLOWEST: Final = 0.02
_FELT_SHARE: Final = 0.95  # of a rate that was measured between two refusals is used at first
_FELT_GROWTH_PER_S: Final = 0.02  # and more with every second, until it is refused again
_FELT_BURST_S: Final = 0.1
_MEASURED_S: Final = (1.0, 120.0)  # shortest and longest time between two refusals that measures a rate
_MEASURED_LEAST: Final = 3  # answers in it
_NEW: Final = 0.1  # weight of the newest reply in the learned size of estimates


class ToldLimits(Protocol):
    """What a reply's headers say of the limits; None where they say nothing. `platforms.protocol.RateLimits` is one."""

    @property
    def requests_limit(self) -> int | None:
        """Requests allowed in the window."""

    @property
    def requests_left(self) -> int | None:
        """Requests left in it."""

    @property
    def requests_reset_s(self) -> float | None:
        """Until all of them are there again [s]."""

    @property
    def tokens_limit(self) -> int | None:
        """Tokens allowed in the window."""

    @property
    def tokens_left(self) -> int | None:
        """Tokens left in it."""

    @property
    def tokens_reset_s(self) -> float | None:
        """Until all of them are there again [s]."""


class Bucket:
    """What is left of one limit.

    Args:
        per_s: What comes back every second.
        most: Its size: never more than this is there at once.
        now: Now [s]; it starts full.
    """

    __slots__ = ("_empty_at", "most", "per_s")

    def __init__(self, per_s: float, most: float, now: float) -> None:
        self.per_s = per_s
        self.most = most
        self._empty_at = now - most / per_s

    def level(self, now: float) -> float:
        """Return what is there; below zero after more was taken than was there."""
        return min(self.most, (now - self._empty_at) * self.per_s)

    def when(self, now: float, cost: float) -> float:
        """Return the earliest moment at which `cost` is there; what costs more than all waits until it is full."""
        return max(now, self._empty_at + min(cost, self.most) / self.per_s)

    def take(self, now: float, cost: float) -> None:
        """Take `cost`, whether it is there or not."""
        self._empty_at = max(self._empty_at, now - self.most / self.per_s) + cost / self.per_s

    def put(self, now: float, level: float) -> None:
        """Say what is there."""
        self._empty_at = now - min(level, self.most) / self.per_s

    def refill(self, now: float, per_s: float) -> None:
        """Change what comes back every second; what is there stays."""
        level = self.level(now)
        self.per_s = per_s
        self.put(now, level)


class Limit:
    """One limit of a provider: told by settings, by headers or not at all.

    Args:
        per_minute: As told by settings; None when they say nothing.
    """

    __slots__ = ("_allowed_per_s", "_told_per_s", "bucket", "is_felt")

    def __init__(self, per_minute: float | None) -> None:
        self._told_per_s = None if per_minute is None else per_minute / MINUTE_S
        self._allowed_per_s = self._told_per_s or 0.0
        self.bucket: Bucket | None = None
        self.is_felt = False  # nobody told it: it was measured

    def start(self, now: float, share: float) -> None:
        """Make the bucket of a limit that settings tell, with a small burst."""
        if self._told_per_s is not None and self.bucket is None:
            per_s = self._told_per_s * SHARE * share
            self.bucket = Bucket(per_s, max(1.0, self._told_per_s * _TOLD_BURST_S), now)

    def observe(  # noqa: D417 - the arguments are those of one header
        self,
        limit: int | None,
        left: int | None,
        reset_s: float | None,
        *,
        now: float,
        sent_at: float,
        later: float,
        cost: float,
        share: float,
        margin_s: float,
    ) -> None:
        """Correct the level and the rate by one reply's headers.

        They were true at some moment between the request and the reply, so they bound the level: at least what was
        left without all that was sent since the request, at most that with all that came back since.

        Args:
            sent_at: When its request left [s].
            later: Cost of what was sent after it.
            cost: Cost of its own request.
            share: Part of the limit that is believed.
            margin_s: What is held back, in seconds of the rate.
        """
        if left is None:
            return
        if limit is not None and limit > 0:
            self.is_felt = False
            self._allowed_per_s = _per_s(limit, left, reset_s)
            if self._told_per_s is not None:
                self._allowed_per_s = min(self._allowed_per_s, self._told_per_s)
        if not self._allowed_per_s:
            return
        per_s = self._allowed_per_s * SHARE * share
        bucket = self.bucket
        # Some providers count a request before its headers are written, some after: its cost is not there for sure.
        lowest = left - later - cost - per_s * margin_s
        if bucket is None:
            bucket = self.bucket = Bucket(per_s, max(1.0, left, cost), now)
            bucket.put(now, lowest)
            return
        if per_s != bucket.per_s:
            bucket.refill(now, per_s)
        if self._told_per_s is None and max(left, cost) > bucket.most:
            level = bucket.level(now)
            bucket.most = max(left, cost)
            bucket.put(now, level)
        highest = left + 1 + self._allowed_per_s * (now - sent_at)  # what was left is rounded down
        level = bucket.level(now)
        if level < lowest and share >= 1:  # headers that refusals gave the lie to raise nothing
            bucket.put(now, lowest)
        elif level > highest:
            bucket.put(now, highest)

    def feel(self, now: float, per_s: float) -> None:
        """Take a rate that was measured for the limit."""
        self.is_felt = True
        self._allowed_per_s = per_s
        self.bucket = Bucket(per_s, max(1.0, per_s * _FELT_BURST_S), now)
        self.bucket.put(now, 0.0)

    def grow(self, now: float, factor: float) -> None:
        """Try a little more than what was measured."""
        assert self.bucket is not None
        self._allowed_per_s *= factor
        self.bucket.refill(now, self._allowed_per_s)

    def believe(self, now: float, share: float) -> None:
        """Use another part of the limit."""
        if self.bucket is not None and not self.is_felt:
            self.bucket.refill(now, self._allowed_per_s * SHARE * share)

    def empty(self, now: float, margin_s: float) -> None:
        """Take it that nothing is left."""
        if self.bucket is not None:
            lowest = -margin_s * self.bucket.per_s
            self.bucket.put(now, min(lowest, self.bucket.level(now)))


def _per_s(limit: int, left: int, reset_s: float | None) -> float:
    """Return the rate of a limit: per minute, unless it takes longer than a minute to come back.

    Some providers put a limit per day into the same headers (Groq; OpenAI where the day is the tighter one); how long
    the used part takes to come back tells.
    """
    if reset_s is not None and reset_s > MINUTE_S and left < limit:
        return min(limit / MINUTE_S, (limit - left) / reset_s)
    return limit / MINUTE_S


class Pace:
    """When the next request may leave under limits of requests and tokens.

    Args:
        rpm: Requests per minute, as told by settings.
        tpm: Tokens per minute, as told by settings.
    """

    __slots__ = (
        "_adjusted_at",
        "_margin_s",
        "_measured_from",
        "_ratio",
        "_refusals",
        "_refused_at",
        "_refused_order",
        "_refused_share",
        "_replies",
        "_share",
        "_slowed_from",
        "held_until",
        "requests",
        "tokens",
    )

    def __init__(self, rpm: float | None = None, tpm: float | None = None) -> None:
        self.requests = Limit(rpm)
        self.tokens = Limit(tpm)
        self._share = 1.0  # part of the limits that is believed
        self._ratio = 1.0  # tokens really used for one estimated
        self._replies = 0  # that told what they used
        self._margin_s = _MARGIN_S
        self._refusals = 0  # episodes in a row, each soon after the last
        self._slowed_from = 0  # refusals of earlier requests are part of the last one
        self._refused_at = float("-inf")
        self._refused_order = 0  # number of the last refused request that held the others back
        self._refused_share = 0.0  # of recent outcomes
        self.held_until = float("-inf")  # nothing leaves earlier [s]
        self._measured_from = float("-inf"), 0  # the last refusal that measured, and the answers before it
        self._adjusted_at = 0.0

    def when(self, now: float, tokens: float) -> float:
        """Return the earliest moment for a request of so many estimated tokens [s]."""
        earliest = max(now, self.held_until)
        bucket = self.requests.bucket
        if bucket is not None:
            earliest = max(earliest, bucket.when(now, 1.0))
        bucket = self.tokens.bucket
        if bucket is not None and tokens:
            earliest = max(earliest, bucket.when(now, tokens * self._ratio))
        return earliest

    def take(self, now: float, tokens: float) -> float:
        """Count a request that leaves now; return the tokens counted for it."""
        if self._share < 1.0:
            self._recover(now)
        if self.requests.is_felt:
            self.requests.grow(now, 1.0 + (now - self._adjusted_at) * _FELT_GROWTH_PER_S)
            self._adjusted_at = now
        cost = tokens * self._ratio
        if self.requests.bucket is not None:
            self.requests.bucket.take(now, 1.0)
        if self.tokens.bucket is not None and tokens:
            self.tokens.bucket.take(now, cost)
        return cost

    def used(self, now: float, estimated: float, counted: float, actual: float) -> None:
        """Correct what was counted for a request by what it used, and later estimates likewise."""
        bucket = self.tokens.bucket
        if bucket is not None and actual > bucket.per_s * MINUTE_S:
            return  # no request takes more than its minute: the count is wrong, or not of this limit
        if estimated > 0 and actual > 0:
            self._replies += 1
            self._ratio += (actual / estimated - self._ratio) * max(_NEW, 1 / self._replies)
        if bucket is not None and actual != counted:
            bucket.take(now, actual - counted)

    def observe(
        self,
        told: ToldLimits,
        now: float,
        sent_at: float,
        *,
        later_requests: float,
        later_tokens: float,
        tokens: float,
    ) -> None:
        """Correct levels and rates by a reply's headers.

        Args:
            told: The headers.
            now: Now [s].
            sent_at: When its request left [s].
            later_requests: Requests that left after it.
            later_tokens: Their estimated tokens.
            tokens: Its own tokens.
        """
        share = self._share
        self.requests.observe(
            told.requests_limit, told.requests_left, told.requests_reset_s,
            now=now, sent_at=sent_at, later=later_requests, cost=1.0, share=share, margin_s=self._margin_s,
        )  # fmt: skip
        self.tokens.observe(
            told.tokens_limit, told.tokens_left, told.tokens_reset_s,
            now=now, sent_at=sent_at, later=later_tokens * self._ratio, cost=tokens, share=share, margin_s=self._margin_s,
        )  # fmt: skip

    def answered(self, now: float, order: int) -> None:
        """Count an answer; one to a request that left after a lone refused one shows that the others may go on."""
        if self._refused_share:
            self._refused_share = self._refused_share * (1 - _MEMORY) if self._refused_share > 0.001 else 0.0
            if now < self.held_until and order > self._refused_order and self._refused_share < _LONE:
                self.held_until = now

    def refused(self, now: float, order: int, newest: int, told_s: float | None) -> bool:
        """Hold after "too fast": nothing is left, and if it comes again soon, less of the limits is believed.

        Args:
            now: Now [s].
            order: Number of the refused request.
            newest: Number of the newest request; what was sent up to it does not hold again.
            told_s: Wait that was told [s].

        Returns:
            False where it belongs to an earlier refusal and changes nothing.
        """
        self._refused_share += (1.0 - self._refused_share) * _MEMORY
        if order < self._slowed_from:
            return False
        self._refused_order = order
        if told_s:
            self.held_until = now + told_s
        self._slowed_from = newest + 1
        self._refusals = self._refusals + 1 if now - self._refused_at < _SOON_S else 1
        self._refused_at = now
        self._margin_s = min(_MOST_MARGIN_S, self._margin_s + _MARGIN_S)
        if self._refusals >= _TOO_MANY and self._refused_share >= _LONE:
            self._believe(now, max(_SLOWEST, self._share * _SLOWER))
        self.requests.empty(now, self._margin_s)
        self.tokens.empty(now, self._margin_s)
        return True

    def feel(self, now: float, answered: int) -> None:
        """Measure a limit of requests that nobody tells, at a refusal for being too fast.

        At each refusal the provider's bucket was empty: what it answered between two of them is what came back.

        Args:
            now: Now [s].
            answered: Answers so far.
        """
        since, before = self._measured_from
        elapsed, count = now - since, answered - before
        shortest, longest = _MEASURED_S
        if elapsed < shortest:
            return
        if elapsed <= longest and count >= _MEASURED_LEAST:
            self.requests.feel(now, count / elapsed * _FELT_SHARE)
            self._adjusted_at = now
        self._measured_from = now, answered

    def arrived_after(self, now: float, seconds: float) -> None:
        """Let the buckets of what settings tell begin to refill when the provider's did: with the first request's arrival.

        Args:
            now: Now [s].
            seconds: From the ticket of that request to its reply [s]; it arrived in between.
        """
        for limit in (self.requests, self.tokens):
            if limit.bucket is not None:
                limit.bucket.take(now, min(seconds, _LATE_S) * limit.bucket.per_s)

    def start(self, now: float) -> None:
        """Make the buckets of what settings tell."""
        self.requests.start(now, self._share)
        self.tokens.start(now, self._share)
        self._adjusted_at = now

    @property
    def is_known(self) -> bool:
        """True when there is a limit to keep."""
        return self.requests.bucket is not None or self.tokens.bucket is not None

    @property
    def requests_per_s(self) -> float | None:
        """Requests that may leave every second [1/s]; None without a limit of requests."""
        return None if self.requests.bucket is None else self.requests.bucket.per_s

    def _recover(self, now: float) -> None:
        self._believe(now, min(1.0, self._share + (now - self._adjusted_at) * _FASTER_PER_S))

    def _believe(self, now: float, share: float) -> None:
        self._share = share
        self._adjusted_at = now
        self.requests.believe(now, share)
        self.tokens.believe(now, share)
