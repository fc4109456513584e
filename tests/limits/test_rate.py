"""A pace keeps every limit it knows, whether settings told it, headers or refusals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.limits.rate import SHARE, Bucket, Pace
from orchestrai.platforms.protocol import RateLimits

RATES = st.floats(0.01, 1e5)
COSTS = st.lists(st.floats(0.01, 500), min_size=1, max_size=60)
MOMENTS = st.floats(0, 1e7)


def greedy(bucket, now, costs):
    """Send each as early as it may."""
    sent = []
    for cost in costs:
        now = bucket.when(now, cost)
        bucket.take(now, cost)
        sent.append((now, cost))
    return sent


@given(per_s=RATES, most=st.floats(1, 1e4), now=MOMENTS, costs=COSTS)
def test_no_window_holds_more_than_the_bucket_and_what_came_back(per_s, most, now, costs):
    sent = greedy(Bucket(per_s, most, now), now, costs)
    for first in range(len(sent)):
        total = 0.0
        for last in range(first, len(sent)):
            at, cost = sent[last]
            allowed = most + (at - sent[first][0]) * per_s
            # what costs more than the whole bucket leaves when it is full, and is owed afterwards
            assert total + min(cost, most) <= allowed * (1 + 1e-6) + 1e-6 * (1 + per_s * now * 1e-9)
            total += cost


def test_what_was_overdrawn_is_waited_for():
    bucket = Bucket(1.0, 5.0, 0.0)
    for _ in range(20):
        bucket.take(0.0, 1.0)
    assert bucket.level(0.0) == -15.0
    assert bucket.when(0.0, 1.0) == 16.0


@given(per_s=RATES, most=st.floats(1, 1e4), now=MOMENTS, costs=COSTS)
def test_what_is_told_to_wait_until_a_moment_may_leave_at_that_moment(per_s, most, now, costs):
    bucket = Bucket(per_s, most, now)
    for cost in costs:
        moment = bucket.when(now, cost)
        assert bucket.when(moment, cost) == moment
        bucket.take(moment, cost)
        now = moment


@given(per_s=RATES, faster=RATES, level=st.floats(0, 100), now=MOMENTS)
def test_another_rate_leaves_what_is_there(per_s, faster, level, now):
    bucket = Bucket(per_s, 100.0, now)
    bucket.put(now, level)
    bucket.refill(now, faster)
    assert math.isclose(bucket.level(now), level, abs_tol=1e-6 * max(per_s, faster))


def headers(limit=3000, left=24, reset=0.02, tokens=(None, None, None)):
    return RateLimits(limit, left, reset, *tokens)


def observe(pace, told, now, sent_at, later=0.0, tokens=0.0, later_tokens=0.0):
    pace.observe(told, now, sent_at, later_requests=later, later_tokens=later_tokens, tokens=tokens)


def burst(pace, now, tokens=0.0):
    """Count what may leave in one instant."""
    count = 0
    while pace.when(now, tokens) <= now:
        pace.take(now, tokens)
        count += 1
        assert count < 10_000
    return count


@given(limit=st.integers(1, 10**6), left=st.integers(0, 300), later=st.integers(0, 200))
def test_no_burst_is_larger_than_what_was_seen_as_left(limit, left, later):
    pace = Pace()
    observe(pace, headers(limit, left), 1.0, 0.5, later)
    assert burst(pace, 1.0) <= max(0, left - later)
    for now in (2.0, 70.0, 10_000.0):
        assert burst(pace, now) <= max(1, left)


def test_after_the_burst_requests_leave_at_nearly_the_told_rate():
    pace = Pace()
    observe(pace, headers(3000, 24), 0.0, 0.0)
    burst(pace, 0.0)
    now = sent = 0
    while now < 60:
        now = pace.when(now, 0.0)
        pace.take(now, 0.0)
        sent += 1
    assert 3000 * SHARE - 2 <= sent <= 3000
    assert pace.requests_per_s == pytest.approx(50 * SHARE)


def test_a_header_that_shows_less_is_believed_and_one_that_is_old_is_not():
    pace = Pace()
    observe(pace, headers(3000, 100), 10.0, 10.0)
    observe(pace, headers(3000, 10), 10.0, 10.0)
    assert burst(pace, 10.0) <= 11
    observe(pace, headers(3000, 100), 10.0, 0.0, later=150)  # it was true before all those
    assert burst(pace, 10.0) == 0


def test_a_header_that_shows_more_than_was_thought_is_believed():
    pace = Pace()
    observe(pace, headers(3000, 2900), 0.0, 0.0)
    for _ in range(1000):
        pace.take(0.0, 0.0)  # the provider never counted these
    observe(pace, headers(3000, 2900), 0.0, 0.0)
    assert burst(pace, 0.0) > 2800


@given(left=st.integers(0, 10_000), rpm=st.integers(1, 5000))
def test_what_settings_tell_is_kept_though_headers_allow_more(left, rpm):
    pace = Pace(rpm=rpm)
    pace.start(0.0)
    observe(pace, headers(10**6, left), 0.0, 0.0)
    assert burst(pace, 0.0) <= max(1, rpm / 120)
    assert pace.requests_per_s <= rpm / 60


def test_a_limit_per_day_in_the_headers_is_no_limit_per_minute():
    pace = Pace()
    observe(pace, headers(14_400, 14_370, 180.0), 0.0, 0.0)  # 30 used, which come back in three minutes
    assert pace.requests_per_s == pytest.approx(SHARE / 6)


def test_a_day_that_is_full_is_taken_for_the_minute_that_it_may_be():
    pace = Pace()
    observe(pace, headers(200, 200, 432.0), 0.0, 0.0)
    assert pace.requests_per_s == pytest.approx(200 / 60 * SHARE)


@given(st.integers(-5, 5) | st.none(), st.integers(-5, 5) | st.none(), st.floats(-10, 1e9) | st.none())
def test_no_header_however_odd_stops_the_lane_for_ever(limit, left, reset):
    pace = Pace()
    observe(pace, headers(limit, left, reset), 0.0, 0.0, 3)
    moment = pace.when(0.0, 0.0)
    assert math.isfinite(moment)
    assert pace.when(moment, 0.0) == moment


@given(factor=st.floats(0.2, 5.0))
def test_estimates_learn_what_a_request_really_takes(factor):
    pace = Pace(tpm=60_000)
    pace.start(0.0)
    now = used = 0.0
    while now < 120:
        now = pace.when(now, 100.0)
        counted = pace.take(now, 100.0)
        used += 100.0 * factor
        pace.used(now, 100.0, counted, 100.0 * factor)
    assert 0.97 * 120_000 <= used <= 120_000 + 500 + 100 * factor  # two minutes and the small burst


def test_a_refusal_holds_everything_back_as_long_as_told_and_late_ones_do_not_hold_again():
    pace = Pace()
    observe(pace, headers(3000, 24), 0.0, 0.0)
    assert pace.refused(1.0, order=10, newest=20, told_s=2.0)
    assert pace.when(1.0, 0.0) >= 3.0
    assert not pace.refused(2.5, order=15, newest=20, told_s=2.0)
    assert pace.when(2.5, 0.0) == pytest.approx(3.0, abs=0.1)


def test_refusals_that_repeat_slow_the_pace_and_peace_restores_it():
    pace = Pace()
    observe(pace, headers(3000, 24), 0.0, 0.0)
    for episode in range(9):
        pace.refused(float(episode), order=episode, newest=episode, told_s=None)
    slowed = pace.requests_per_s
    assert slowed < 50 * 0.5
    for second in range(9, 200):
        pace.take(float(second), 0.0)
    assert pace.requests_per_s == pytest.approx(50 * SHARE)


def test_one_refusal_is_an_accident_and_slows_nothing_for_long():
    pace = Pace()
    observe(pace, headers(3000, 24), 0.0, 0.0)
    pace.refused(0.0, order=1, newest=1, told_s=None)
    assert pace.requests_per_s == pytest.approx(50 * SHARE)
    assert 0 < pace.when(0.0, 0.0) < 0.1


def test_what_was_answered_between_two_refusals_is_the_rate_that_nobody_told():
    pace = Pace()
    pace.feel(100.0, answered=25)
    assert not pace.is_known
    pace.feel(100.5, answered=60)  # too soon to measure by
    assert not pace.is_known
    pace.feel(104.0, answered=65)
    assert pace.requests_per_s == pytest.approx(10 * 0.95)
    assert pace.when(104.0, 0.0) > 104.0  # the provider has just said that nothing is left


def test_two_refusals_far_apart_measure_nothing():
    pace = Pace()
    pace.feel(100.0, answered=25)
    pace.feel(4000.0, answered=30)
    assert not pace.is_known


def test_a_measured_rate_tries_for_more_and_headers_replace_it():
    pace = Pace()
    pace.feel(0.0, answered=0)
    pace.feel(10.0, answered=100)
    for second in range(11, 41):
        pace.take(float(second), 0.0)
    assert 9.5 * 1.5 < pace.requests_per_s < 9.5 * 2.5
    observe(pace, headers(3000, 24), 41.0, 40.9)
    for second in range(41, 100):
        pace.take(float(second), 0.0)
    assert pace.requests_per_s == pytest.approx(50 * SHARE)


@given(st.integers(10**6, 10**12))
def test_an_absurd_count_of_tokens_stops_nothing(actual):
    pace = Pace(tpm=60_000)
    pace.start(0.0)
    counted = pace.take(0.0, 100.0)
    pace.used(0.0, 100.0, counted, float(actual))
    assert pace.when(0.0, 100.0) <= 60.0


def test_an_answer_to_a_later_request_lifts_what_a_lone_refusal_held_and_among_many_it_does_not():
    for many in (False, True):
        pace = Pace()
        observe(pace, headers(3000, 2000), 0.0, 0.0)
        for order in range(1, 101):
            pace.answered(0.0, order)
            if many and order % 4 == 0:
                pace.refused(0.0, order, newest=110, told_s=None)
        pace.refused(1.0, order=200, newest=220, told_s=2.0)
        pace.answered(1.1, order=199)  # sent before the refused one
        assert pace.when(1.1, 0.0) >= 3.0
        pace.answered(1.2, order=201)
        assert (pace.when(1.2, 0.0) >= 3.0) == many


def test_scattered_refusals_do_not_make_a_known_limit_unbelievable():
    pace = Pace()
    observe(pace, headers(3000, 2000), 0.0, 0.0)
    for order in range(1, 2000):
        if order % 33:
            pace.answered(order / 50, order)
        else:
            pace.refused(order / 50, order, newest=order + 25, told_s=1.0)
    assert pace.requests_per_s == pytest.approx(50 * SHARE)
