"""Whatever happens in whatever order: places are kept, waits are kept, and a lane never stands still for ever."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrai.errors import InvalidSettings
from orchestrai.limits.admission import Admission
from orchestrai.limits.allowance import RetryAllowance
from orchestrai.platforms.protocol import RateLimits

KINDS = st.sampled_from(
    [
        None,
        None,
        None,
        None,
        "rate",
        "window",
        "balance",
        "overloaded",
        "key",
        "request",
        "reply",
        "timeout",
        "connection",
        "cancelled",
    ]
)
TOLD = st.none() | st.sampled_from([0.0, 0.3, 2.0, 60.0, math.nan, -1.0])
COUNTS = st.none() | st.integers(0, 5000)
HEADERS = st.none() | st.builds(RateLimits, COUNTS, COUNTS, st.none() | st.floats(0, 600), COUNTS, COUNTS)
BEGIN = st.tuples(st.just("begin"), st.integers(1, 30))
END = st.tuples(st.just("end"), st.integers(0, 50), KINDS, TOLD, HEADERS, st.none() | st.integers(0, 3000))
PASS = st.tuples(st.just("pass"), st.floats(0, 20))
STEPS = st.lists(BEGIN | END | END | PASS, max_size=120)
TOLD_LIMITS = st.none() | st.floats(1, 6000)


@settings(max_examples=300)
@given(STEPS, st.integers(1, 12), st.integers(1, 40), TOLD_LIMITS, TOLD_LIMITS)
def test_the_laws_of_a_lane_hold_in_every_order_of_events(steps, start, ceiling, rpm, tpm):
    lane = Admission(start, ceiling, rpm=rpm, tpm=tpm)
    now, under_way, probes = 1000.0, [], {}
    for step in steps:
        if step[0] == "pass":
            now += step[1]
        elif step[0] == "begin":
            for _ in range(step[1]):
                moment = lane.when(now, 50.0)
                assert moment is None or moment >= now
                if moment is None or moment > now:
                    break
                if lane.why is not None:
                    assert now >= lane.resting_until  # never earlier than told
                    probes[lane.resting_until] = probes.get(lane.resting_until, 0) + 1
                under_way.append(lane.begin(now, 50.0))
                assert lane.in_flight == len(under_way) <= lane.limit <= ceiling
        elif under_way:
            ticket = under_way.pop(step[1] % len(under_way))
            if step[2] == "cancelled" and lane.why is not None:
                probes.clear()  # a probe that was cancelled has decided nothing
            lane.end(ticket, now, step[2], step[3], step[4], step[5])
            assert lane.in_flight == len(under_way)
        assert all(count == 1 for count in probes.values())
    while under_way:
        lane.end(under_way.pop(), now, "cancelled")
    moment = now
    for _ in range(3):  # the moment that is named is the moment, not one more wait
        later = lane.when(moment, 50.0)
        assert later is not None, "nothing is under way, and still nothing may leave"
        assert math.isfinite(later)
        if later <= moment:
            break
        moment = later
    else:
        pytest.fail(f"still waiting after {moment - now} s")


def test_a_lane_of_which_nothing_is_known_begins_with_ten_and_is_as_wide_as_its_ceiling_soon():
    lane = Admission(ceiling=100)
    rounds = 0
    while lane.limit < 100:
        tickets = [lane.begin(rounds, 1.0) for _ in range(lane.limit)]
        assert lane.when(rounds, 1.0) is None
        for ticket in tickets:
            lane.end(ticket, rounds + 1)
        rounds += 1
    assert rounds == 3


def test_a_warm_lane_delays_nothing():
    lane = Admission(100, 100)
    for call in range(5):
        assert [lane.when(call, 10.0) for _ in range(100)] == [call] * 100
        for ticket in [lane.begin(call, 10.0) for _ in range(100)]:
            lane.end(ticket, call + 0.5, tokens=12.0)


def test_the_first_reply_tells_the_pace():
    lane = Admission(10, 64)
    tickets = [lane.begin(0.0) for _ in range(10)]
    assert lane.pace is None
    lane.end(tickets[0], 0.1, limits=RateLimits(3000, 15, 0.2))
    assert lane.pace == pytest.approx(49.75)
    assert lane.limit == 64  # from here on the pace says how fast, not the search for a limit
    for ticket in tickets[1:]:
        lane.end(ticket, 0.1, limits=RateLimits(3000, 15, 0.2))
    sent = 0
    while lane.when(0.1) == 0.1:
        lane.begin(0.1)
        sent += 1
    assert 10 <= sent <= 15


def test_a_refusal_on_a_paced_lane_holds_as_long_as_told_and_needs_no_probe():
    lane = Admission(10, 64)
    lane.end(lane.begin(0.0), 0.0, limits=RateLimits(3000, 20, 0.1))
    tickets = [lane.begin(1.0) for _ in range(10)]
    lane.end(tickets[0], 1.0, "rate", 2.0)
    assert lane.why is None
    assert lane.when(1.0) >= 3.0
    moment = lane.when(3.0)
    lane.begin(moment)
    assert lane.when(moment + 1.0) == moment + 1.0  # no waiting for what becomes of it


def test_a_refusal_that_tells_hours_is_a_rest_whether_paced_or_not():
    lane = Admission(10, 64)
    lane.end(lane.begin(0.0), 0.0, limits=RateLimits(3000, 20, 0.1))
    lane.end(lane.begin(0.0), 0.0, "rate", 7200.0)
    assert (lane.why, lane.resting_until, lane.away(0.0)) == ("rate", 7200.0, "rate")


def test_a_refused_request_is_no_fault_of_the_platform():
    lane = Admission(10, 10)
    for _ in range(1000):
        lane.end(lane.begin(0.0), 0.0, "request")
        lane.end(lane.begin(0.0), 0.0, "reply")
    assert (lane.limit, lane.why, lane.away(0.0)) == (10, None, None)


def test_a_probe_that_fails_was_alone_and_narrows_nothing():
    lane, now = Admission(50, 50), 0.0
    for ticket in [lane.begin(now) for _ in range(50)]:
        lane.end(ticket, now, "overloaded")
    narrowed = lane.limit
    assert 40 <= narrowed < 50
    for _ in range(20):
        now = lane.resting_until
        lane.end(lane.begin(now), now, "overloaded")
    assert lane.limit == narrowed


def test_what_refuses_the_key_is_tried_again_when_a_call_asks():
    lane = Admission(10, 10)
    for ticket in [lane.begin(0.0) for _ in range(5)]:
        lane.end(ticket, 0.0, "key")
    assert lane.away(0.0) == "key"
    lane.reconsider(1.0)
    assert lane.when(1.0) == 1.0
    probe = lane.begin(1.0)
    assert lane.when(1.0) is None
    lane.end(probe, 2.0)
    assert (lane.why, lane.when(2.0)) == (None, 2.0)


def test_lanes_of_one_platform_share_its_allowance_and_nothing_else():
    allowance = RetryAllowance(10)
    lanes = [Admission(10, 10, allowance=allowance) for _ in range(2)]
    for _ in range(10):
        assert lanes[0].may_retry("overloaded")
    assert not lanes[1].may_retry("overloaded")
    for ticket in [lanes[0].begin(0.0) for _ in range(9)]:
        lanes[0].end(ticket, 0.0, "overloaded")
    assert lanes[0].why == "overloaded"
    assert (lanes[1].why, lanes[1].when(0.0)) == (None, 0.0)


def test_retries_that_wait_cost_little_and_answers_give_back():
    lane = Admission(10, 10)
    assert sum(lane.may_retry("rate", 1.0) for _ in range(2000)) in (999, 1000, 1001)
    assert not lane.may_retry("overloaded")
    for _ in range(10):
        lane.end(lane.begin(0.0), 0.0)
    assert lane.may_retry("overloaded")


@pytest.mark.parametrize(
    "wrong", [{"start": 0}, {"ceiling": 0}, {"rpm": 0}, {"rpm": -1}, {"tpm": math.nan}, {"tpm": math.inf}]
)
def test_a_lane_out_of_range_is_refused(wrong):
    with pytest.raises(InvalidSettings, match=next(iter(wrong))):
        Admission(**wrong)
