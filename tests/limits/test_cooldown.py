"""A rest has one beginning, is as long as told, and ends with one probe."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.limits.cooldown import LONGEST_REST_S, PATIENCE_S, Cooldown

FAULTS = ["overloaded", "timeout", "connection", "rate"]


def tired(kind="overloaded", now=0.0, orders=range(1, 6), told=None):
    """Return a cooldown after failures in a row."""
    cooldown = Cooldown()
    for order in orders:
        cooldown.refused(kind, order, now, told)
    return cooldown


@pytest.mark.parametrize("kind", FAULTS)
def test_a_few_failures_in_a_row_are_no_reason_to_rest_and_five_are(kind):
    assert tired(kind, orders=range(1, 5)).why is None
    resting = tired(kind)
    assert resting.why == kind
    assert resting.when(0.0) == 0.5


def test_an_answer_between_failures_begins_the_count_again():
    cooldown = Cooldown()
    for order in range(1, 100):
        if order % 5:
            cooldown.refused("overloaded", order, 0.0, None)
        else:
            cooldown.answered(order, disproves=True)
    assert cooldown.why is None


@given(told=st.floats(0.001, 600_000), now=st.floats(0, 1e6), kind=st.sampled_from([*FAULTS, "window"]))
def test_a_wait_that_is_told_rests_at_once_and_to_its_end(told, now, kind):
    cooldown = tired(kind, now, orders=[1], told=told)
    assert cooldown.when(now) == now + told
    assert cooldown.when(now + told) == now + told


@given(st.lists(st.tuples(st.floats(0, 1.9), st.floats(0, 2.0)), max_size=30))
def test_late_refusals_do_not_begin_the_rest_again(late):
    cooldown = tired("rate", orders=[50], told=2.0)
    for order, (now, told) in enumerate(sorted(late), 1):
        cooldown.refused("rate", order, now, told)
        assert cooldown.until == 2.0


def test_a_late_refusal_that_tells_longer_lengthens_the_rest_from_its_beginning():
    cooldown = tired("rate", orders=[50], told=2.0)
    cooldown.refused("rate", 49, 1.5, 10.0)
    assert cooldown.until == 10.0


def test_after_a_rest_one_request_leaves_and_no_other_until_it_is_decided():
    cooldown = tired()
    assert cooldown.when(0.4) == 0.5
    assert cooldown.when(0.6) == 0.6
    cooldown.left(9)
    assert cooldown.when(0.7) is None
    cooldown.refused("overloaded", 5, 0.8, None)  # a late one decides nothing
    assert cooldown.when(100.0) is None
    cooldown.answered(9, disproves=False)
    assert cooldown.why is None
    cooldown.refused("rate", 8, 0.9, 60.0)  # sent before the probe
    assert cooldown.why is None


def test_a_probe_that_is_withdrawn_makes_room_for_another():
    cooldown = tired()
    cooldown.left(9)
    cooldown.withdrawn(8)
    assert cooldown.when(0.7) is None
    cooldown.withdrawn(9)
    assert cooldown.when(0.7) == 0.7


def test_every_probe_that_fails_makes_a_longer_rest_up_to_a_bound():
    cooldown, now, order, rests = tired(), 0.0, 6, []
    for _ in range(12):
        rests.append(cooldown.until - now)
        now = cooldown.until
        cooldown.left(order)
        cooldown.refused("overloaded", order, now, None)
        order += 1
    assert rests[:4] == [0.5, 1.0, 2.0, 4.0]
    assert rests[-1] == LONGEST_REST_S


def test_an_answer_to_a_later_request_disproves_a_rest():
    cooldown = tired("rate", orders=[10], told=1.0)
    cooldown.answered(9, disproves=True)  # sent before the refused one: says nothing
    assert cooldown.why == "rate"
    cooldown.answered(11, disproves=False)  # so many are refused that one answer says nothing
    assert cooldown.why == "rate"
    cooldown.answered(11, disproves=True)
    assert cooldown.why is None
    cooldown.refused("rate", 10, 0.1, 1.0)  # of the same age as the disproved one
    assert cooldown.why is None
    cooldown.refused("rate", 12, 0.2, 1.0)
    assert cooldown.why == "rate"


@pytest.mark.parametrize(("kind", "times"), [("key", 3), ("balance", 3), ("window", 1)])
def test_what_only_the_owner_can_end_is_not_waited_for_and_one_request_tries_when_asked(kind, times):
    assert tired(kind, orders=range(1, times)).why is None
    cooldown = tired(kind, orders=range(1, times + 1))
    assert cooldown.away(1.0) == kind
    assert cooldown.when(1.0) >= 300
    cooldown.reconsider(1.0)
    assert cooldown.away(1.0) is None
    assert cooldown.when(1.0) == 1.0
    cooldown.left(10)
    assert cooldown.when(1.0) is None
    cooldown.refused(kind, 10, 2.0, None)
    assert cooldown.away(2.0) == kind


def test_an_outage_is_waited_for_and_an_address_where_nothing_answers_is_not():
    def waited(met, **patience):
        cooldown, now, order = tired("connection"), 0.0, 6
        if met:
            cooldown.answered(0, disproves=False)
        while cooldown.away(now, **patience) is None:
            now = cooldown.until
            cooldown.left(order)
            cooldown.refused("connection", order, now, None)
            order += 1
        return now

    assert PATIENCE_S <= waited(met=True) <= PATIENCE_S + LONGEST_REST_S
    assert 3 <= waited(met=False) <= 6
    assert 10 <= waited(met=True, patience_s=10) <= 20


def test_a_call_may_try_what_nobody_waits_for_any_more_but_never_earlier_than_told():
    for told in (None, 20.0):
        cooldown, now = tired("overloaded"), 0.0
        for order in range(6, 20):
            now = cooldown.until
            cooldown.left(order)
            cooldown.refused("overloaded", order, now, told)
        assert cooldown.away(now) == "overloaded"
        until = cooldown.until
        cooldown.reconsider(now + 1)
        assert cooldown.when(now + 1) == (now + 1 if told is None else until)


def test_what_tells_to_come_back_in_hours_is_not_waited_for():
    assert tired("rate", orders=[1], told=3601.0).away(0.0) == "rate"
    assert tired("rate", orders=[1], told=3600.0).away(0.0) is None


@given(told=st.sampled_from([0, -1, -math.inf, math.nan, "5", None, True]))
def test_garbage_is_no_wait(told):
    assert tired("rate", orders=[1], told=told).why is None


def test_even_a_wait_for_ever_ends_with_a_probe():
    assert tired("window", orders=[1], told=math.inf).when(0.0) == 8 * 86_400
