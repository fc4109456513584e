"""A batch against a provider on a virtual clock: the engine's loop as the seam of `Admission` asks for it."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random

from orchestrai.limits.admission import Admission
from orchestrai.limits.allowance import LONGEST_TOLD_S
from orchestrai.limits.retry import RetryPolicy
from orchestrai.platforms.protocol import RateLimits


@dataclass
class Outcome:
    """What one request meets: after `delay` an answer, or a failure of a kind."""

    delay: float
    kind: str | None = None
    retry_after_s: float | None = None
    limits: Callable[[float], RateLimits] | None = None
    tokens: float | None = None


class RefillingBucket:
    """A provider's limit, written without looking at ours: level and time of its last change."""

    def __init__(self, per_minute, burst_s):
        self.per_minute, self.rate = per_minute, per_minute / 60
        self.size = self.level = max(1.0, self.rate * burst_s)
        self.at = 0.0

    def refill(self, now):
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now

    def lacks_s(self, now, amount):
        self.refill(now)
        return max(0.0, (min(amount, self.size) - self.level) / self.rate)

    def take(self, amount):
        self.level -= min(amount, self.size)


@dataclass
class Provider:
    """Answers after `latency`, within its limits; what it counts as tokens is `token_factor` times the estimate."""

    latency: float = 0.5
    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = 0.5
    token_factor: float = 1.0
    headers: str = "at the end"  # or "at the start", or "none"
    claims: float = 1.0  # what the headers say, in parts of the truth
    retry_after: float | None = None  # None: exactly what is missing
    jitter: float = 0.0
    faults: dict[str, float] = field(default_factory=dict)  # probability of each kind
    outages: tuple[tuple[float, float], ...] = ()
    outage_kind: str = "overloaded"
    seed: int = 0
    served: list[tuple[float, float]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.chance = Random(self.seed)
        self.requests = RefillingBucket(self.rpm, self.burst_s) if self.rpm else None
        self.tokens = RefillingBucket(self.tpm, self.burst_s) if self.tpm else None

    def meet(self, now, tokens):
        now += self.jitter * self.chance.random()
        delay = self.latency + self.jitter * self.chance.random()
        if any(begin <= now < end for begin, end in self.outages):
            return Outcome(min(delay, 0.01), self.outage_kind)
        left = self.chance.random()
        for kind, probability in self.faults.items():
            left -= probability
            if left < 0:
                return Outcome(delay, kind.split(":")[0], float(kind.split(":")[1]) if ":" in kind else None)
        real = tokens * self.token_factor
        needs = [(b, a) for b, a in ((self.requests, 1.0), (self.tokens, real)) if b is not None]
        lacks = max((bucket.lacks_s(now, amount) for bucket, amount in needs), default=0.0)
        at_the_start = self.state(now)
        limits = None
        if self.headers != "none" and needs:
            limits = self.state if self.headers == "at the end" else lambda _: at_the_start
        if lacks > 1e-9:
            self.refused.append(now)
            told = lacks if self.retry_after is None else self.retry_after
            return Outcome(0.001, "rate", told, limits, None)
        for bucket, amount in needs:
            bucket.take(amount)
        self.served.append((now, real))
        return Outcome(delay, None, None, limits, real if self.tpm else None)

    def state(self, now):
        told = []
        for bucket in (self.requests, self.tokens):
            if bucket is None:
                told += [None, None, None]
                continue
            bucket.refill(max(now, bucket.at))
            left = max(0, int(bucket.level * self.claims))
            told += [int(bucket.per_minute * self.claims), left, (bucket.size - bucket.level) / bucket.rate]
        return RateLimits(*told)


@dataclass
class Job:
    """One task: what it weighs and what became of it."""

    tokens: float
    attempts: int = 0
    answered: bool = False


@dataclass
class Report:
    """What a batch came to."""

    wall: float
    lost: int
    requests: int
    most_in_flight: int
    sent: list[float]
    ended: float  # of the clock
    probes: list[tuple[float, float]]  # (rest, request) of each request sent while the lane rested


def run(
    admission,
    meet,
    tasks,
    *,
    tokens=0.0,
    start=0.0,
    policy=None,
    seed=1,
    until=math.inf,
    check: Callable[[float, Admission], None] | None = None,
):
    """Run a batch of `tasks` tasks until every one is answered or given up."""
    policy, chance = policy or RetryPolicy(), Random(seed)
    queue = deque(Job(tokens if not callable(tokens) else tokens(i)) for i in range(tasks))
    jobs = list(queue)
    events: list = []
    ties = count()
    now = start
    most = 0
    sent, probes = [], []
    timer = math.nan  # when the lane is to be asked again; a later question replaces an earlier one

    def at(moment, what):
        heapq.heappush(events, (moment, next(ties), what))

    def pump():
        nonlocal timer
        timer = math.nan
        while queue:
            moment = admission.when(now, queue[0].tokens)
            if moment is None:
                return
            if moment - now > LONGEST_TOLD_S:
                queue.clear()
                return
            if moment > now:
                timer = moment
                at(moment, partial(ask_again, moment))
                return
            send(queue.popleft())

    def ask_again(due):
        if due == timer:
            pump()

    def send(job):
        nonlocal most
        if admission.why is not None:
            probes.append((admission.resting_until, now))
        ticket = admission.begin(now, job.tokens)
        assert admission.in_flight <= admission.limit
        most = max(most, admission.in_flight)
        sent.append(now)
        job.attempts += 1
        outcome = meet(now, job.tokens)
        at(now + outcome.delay, lambda: finish(job, ticket, outcome))

    def finish(job, ticket, outcome):
        limits = outcome.limits(now) if outcome.limits is not None else None
        admission.end(ticket, now, outcome.kind, outcome.retry_after_s, limits, outcome.tokens)
        if check is not None:
            check(now, admission)
        if outcome.kind is None:
            job.answered = True
        else:
            wait = policy.wait_s(outcome.kind, job.attempts, outcome.retry_after_s, chance)
            if wait is not None and admission.may_retry(outcome.kind, outcome.retry_after_s):
                at(now + wait, lambda: back(job))
        if admission.away(now):
            queue.clear()
        pump()

    def back(job):
        if admission.away(now):
            return
        if admission.why is None:
            queue.appendleft(job)
        else:
            queue.append(job)
        pump()

    pump()
    last = start
    while events:
        moment, _, what = heapq.heappop(events)
        if moment > until:
            break
        now = moment
        what()
        if admission.in_flight or not events:
            last = now
    assert admission.in_flight == 0 or until < math.inf
    return Report(
        last - start, sum(not job.answered for job in jobs), len(sent), most, sent, now, probes
    )  # fmt: skip
