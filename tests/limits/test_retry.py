"""Retries wait as long as they are told, never storm, and stop where another try cannot help."""

from __future__ import annotations

import math
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.errors import ErrorClass, InvalidSettings
from orchestrai.limits.allowance import LONGEST_TOLD_S, RetryAllowance
from orchestrai.limits.retry import RETRYABLE, RetryPolicy

KINDS = sorted(get_args(ErrorClass))
CURABLE = sorted(RETRYABLE)
HOPELESS = sorted(set(KINDS) - RETRYABLE)
GARBAGE = st.sampled_from([float("nan"), -1.0, -1e-9, -math.inf, "soon", "12", b"3", True, False, [], object()])
TOLD = st.floats(0, LONGEST_TOLD_S) | st.integers(0, int(LONGEST_TOLD_S))
SEEDS = st.integers(0, 2**32)


class Fixed:
    """Chance that always says the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def earlier_than_told(policy, cases=200) -> int:
    """Count the waits that are shorter than the platform told."""
    chance = Random(8)
    broken = 0
    for case in range(cases):
        told = chance.choice([0, chance.random(), chance.uniform(0, 60), chance.uniform(0, LONGEST_TOLD_S)])
        wait = policy.wait_s(CURABLE[case % len(CURABLE)], 1, told, chance)
        broken += wait is not None and wait < told
    return broken


def test_no_attempt_comes_earlier_than_told():
    assert earlier_than_told(RetryPolicy(), 2_000) == 0


def test_control_a_policy_with_a_cap_on_told_waits_is_seen():
    class Capped(RetryPolicy):
        def wait_s(self, kind, attempt_no, retry_after_s, random):
            return super().wait_s(kind, attempt_no, min(retry_after_s, 30), random)

    assert earlier_than_told(Capped(), 2_000) > 0


@given(kind=st.sampled_from(CURABLE), told=TOLD, attempt=st.integers(1, 3), seed=SEEDS)
def test_a_told_wait_is_kept_and_a_little_longer_and_grows_when_told_again(kind, told, attempt, seed):
    wait = RetryPolicy().wait_s(kind, attempt, told, Random(seed))
    little = 0.1 * max(told, 0.5)
    spread = 0.0 if attempt == 1 else 0.5 * 2 ** (attempt - 1)
    assert told < wait <= told + little + spread


def test_tasks_that_are_told_the_same_wait_do_not_return_at_once():
    chance = Random(1)
    waits = {RetryPolicy().wait_s("rate", 1, 20.0, chance) for _ in range(1_000)}
    assert len(waits) == 1_000
    assert max(waits) - min(waits) > 1.5


@given(kind=st.sampled_from(CURABLE), told=GARBAGE, attempt=st.integers(1, 12), seed=SEEDS)
def test_garbage_is_taken_for_not_told(kind, told, attempt, seed):
    policy = RetryPolicy()
    assert policy.wait_s(kind, attempt, told, Random(seed)) == policy.wait_s(kind, attempt, None, Random(seed))


@pytest.mark.parametrize("told", [LONGEST_TOLD_S + 0.001, 86_400, 1e300, math.inf])
@pytest.mark.parametrize("kind", CURABLE)
def test_a_platform_that_is_away_for_longer_is_not_waited_for(kind, told):
    assert RetryPolicy().wait_s(kind, 1, told, Random(1)) is None


@pytest.mark.parametrize("kind", HOPELESS)
@given(attempt=st.integers(1, 20), told=st.none() | TOLD | GARBAGE)
def test_what_another_try_cannot_cure_is_not_tried_again(kind, attempt, told):
    assert RetryPolicy().wait_s(kind, attempt, told, Random(1)) is None


@given(kind=st.sampled_from(KINDS), told=st.none() | TOLD | GARBAGE)
def test_the_first_attempt_never_waits(kind, told):
    assert RetryPolicy().wait_s(kind, 0, told, Random(1)) == 0.0


@given(
    kind=st.sampled_from(CURABLE),
    attempts=st.integers(1, 30),
    base=st.floats(0.001, 10),
    most=st.floats(10, 1_000),
    seed=SEEDS,
)
def test_waits_grow_within_their_bounds_and_end(kind, attempts, base, most, seed):
    policy = RetryPolicy(attempts=attempts, base_s=base, most_s=most)
    nearly_one = Fixed(1 - 2**-53)
    bounds = [policy.wait_s(kind, n, None, nearly_one) for n in range(1, attempts)]
    assert bounds == sorted(bounds)
    assert all(bound <= most for bound in bounds)
    assert all(math.isclose(bound, min(most, base * 2**n)) for n, bound in enumerate(bounds))
    assert all(policy.wait_s(kind, n, None, Fixed(0.0)) == 0 for n in range(1, attempts))
    chance = Random(seed)
    assert all(0 <= policy.wait_s(kind, n, None, chance) <= bound for n, bound in enumerate(bounds, 1))
    assert policy.wait_s(kind, attempts, None, nearly_one) is None
    assert policy.wait_s(kind, attempts + 1, None, nearly_one) is None


def tries(policy, kind, told) -> int:
    """Count the attempts that a task makes when every one fails in the same way."""
    made = 0
    while policy.wait_s(kind, made, told, Random(made)) is not None:
        made += 1
    return made


@pytest.mark.parametrize("kind", CURABLE)
def test_a_task_is_tried_as_often_as_the_policy_says(kind):
    assert tries(RetryPolicy(), kind, None) == 6
    assert tries(RetryPolicy(attempts=1), kind, None) == 1
    assert tries(RetryPolicy(), kind, 5.0) == (10 if kind == "rate" else 6)


def test_a_told_rate_limit_may_be_met_more_often_than_a_fault():
    assert tries(RetryPolicy(attempts=2, rate_attempts=6), "rate", 1.0) == 6
    assert tries(RetryPolicy(attempts=12, rate_attempts=6), "rate", 1.0) == 12


def test_the_same_chance_gives_the_same_wait():
    policy = RetryPolicy()
    for kind in CURABLE:
        for told in (None, 3.0):
            assert policy.wait_s(kind, 2, told, Random(7)) == policy.wait_s(kind, 2, told, Random(7))


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"base_s": 0},
        {"base_s": -1},
        {"base_s": float("nan")},
        {"base_s": 2, "most_s": 1},
        {"most_s": math.inf},
        {"jitter": 0},
        {"jitter": 1.5},
    ],
)
def test_a_policy_out_of_range_is_refused(wrong):
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        RetryPolicy(**wrong)


class Watched(RetryAllowance):
    """An allowance that looks at itself whenever it is used."""

    def take(self, *, waits=False):
        before = self.left
        granted = super().take(waits=waits)
        assert 0 <= self.left <= before <= self.most
        assert (self.left < before) == granted
        return granted

    def refund(self):
        before = self.left
        super().refund()
        assert before <= self.left <= self.most


@given(most=st.floats(0, 200), steps=st.lists(st.sampled_from(["fault", "told", "answer"]), max_size=300))
def test_an_allowance_stays_between_nothing_and_all_and_is_never_overdrawn(most, steps):
    allowance = Watched(most)
    taken = 0
    for step in steps:
        if step == "answer":
            allowance.refund()
        else:
            taken += allowance.take(waits=step == "told") and step == "fault"
    assert taken <= most + 0.2 * steps.count("answer") + 1e-6


def test_an_empty_allowance_is_full_again_after_enough_answers():
    allowance = RetryAllowance(10)
    while allowance.take():
        pass
    for _ in range(50):
        allowance.refund()
    assert allowance.left == pytest.approx(10)


@pytest.mark.parametrize("most", [-1, math.nan, math.inf])
def test_an_allowance_out_of_range_is_refused(most):
    with pytest.raises(InvalidSettings, match="allowance"):
        RetryAllowance(most)
