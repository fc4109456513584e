"""Concurrency grows where it is used, is cut once per episode, and comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.limits.concurrency import Concurrency


class Played(Concurrency):
    """A limit under which requests leave and are answered."""

    newest = 0

    def round(self, in_flight=None, *, refilled=False):
        """Send as many as there are places (or fewer), and let all be answered: in one wave or one by one."""
        under_way = self.limit if in_flight is None else in_flight
        first = self.newest + 1
        self.newest += under_way
        for order in range(first, self.newest + 1):
            if refilled:
                self.answered(order, self.newest + order - first, under_way)
            else:
                self.answered(order, self.newest, under_way - (order - first))


@pytest.mark.parametrize("refilled", [True, False])
def test_answers_alone_reach_a_ceiling_of_a_hundred_in_three_rounds(refilled):
    concurrency = Played(10, 100)
    found = []
    for _ in range(3):
        concurrency.round(refilled=refilled)
        found.append(concurrency.limit)
    assert found == [30, 90, 100]


def test_what_is_not_used_does_not_grow():
    concurrency = Played(10, 100)
    for _ in range(1000):
        concurrency.round(7)
    assert concurrency.limit == 10
    concurrency.round(8)
    assert concurrency.limit == 26


def test_single_failures_among_answers_cut_nothing():
    concurrency = Concurrency(50, 50)
    for order in range(1, 2000):
        if order % 8:
            concurrency.answered(order, order + 49, 50)
        else:
            assert not concurrency.failed(order, order + 49)
    assert concurrency.limit == 50


@given(limit=st.integers(10, 300), late=st.integers(0, 300))
def test_one_episode_is_one_cut(limit, late):
    concurrency = Concurrency(limit, limit)
    newest = 1000
    cuts = sum(concurrency.failed(order, newest) for order in range(newest - limit - late, newest + 1))
    assert cuts == 1
    assert concurrency.limit >= int(limit * 0.8)


def test_failures_of_requests_sent_after_a_cut_cut_again():
    concurrency = Concurrency(100, 100)
    assert sum(concurrency.failed(order, 100) for order in range(1, 101)) == 1
    assert sum(concurrency.failed(order, 180) for order in range(101, 181)) == 1
    assert concurrency.limit == 64


def test_it_comes_back_within_a_few_rounds_and_not_at_once():
    concurrency = Played(100, 100)
    for order in range(1, 11):
        concurrency.failed(order, 100)
    assert concurrency.limit == 80
    concurrency.round()
    assert 80 <= concurrency.limit < 90
    for _ in range(8):
        concurrency.round()
    assert concurrency.limit == 100


def test_a_wider_call_finds_again_what_an_earlier_one_found():
    concurrency = Played(10, 64)
    concurrency.widen(200)
    for _ in range(4):
        concurrency.round()
    assert concurrency.limit == 200
    concurrency.narrow(200)
    assert concurrency.limit == 64
    concurrency.widen(200)
    assert concurrency.limit == 200


STEPS = st.lists(st.sampled_from(["answered", "failed", "late", "widen", "narrow"]), max_size=300)


@given(STEPS, st.integers(1, 20), st.integers(1, 100))
def test_the_limit_is_always_between_one_and_the_ceiling(steps, start, ceiling):
    concurrency = Concurrency(start, ceiling)
    asked = []
    for newest, step in enumerate(steps, 1):
        if step == "answered":
            concurrency.answered(newest, newest + 5, concurrency.limit)
        elif step == "widen":
            asked.append(newest)
            concurrency.widen(newest)
        elif step == "narrow" and asked:
            concurrency.narrow(asked.pop())
        else:
            concurrency.failed(newest if step == "failed" else newest // 2, newest)
        assert 1 <= concurrency.limit <= concurrency.ceiling == max([ceiling, *asked])
        assert 0 <= concurrency.trouble <= 1
