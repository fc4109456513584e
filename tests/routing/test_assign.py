"""The plan costs the least that the windows allow, and breaks none of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import Call, cash_of, cash_of_plan, greedy_cash, least_cash, random_call, use_of, used_by

from orchestrai.limits.budget import call_meter
from orchestrai.routing.assign import assign
from orchestrai.routing.planner import Limits
from orchestrai.routing.relaxation import Instance, Use, relax

REQUESTS = ("requests",)
ALL = ("requests", "tokens", "usd")


def bound_of(call, plan):
    """One task's dearest price for each window that binds."""
    dearest = max(cash_of(item, offer) for item in call.items for offer in item.route.offers)
    return len(plan.binding) * dearest


def same(one, other):
    """Equal to a billionth."""
    return one == pytest.approx(other, rel=1e-9, abs=1e3)  # a thousand pico-dollars


@pytest.mark.parametrize("seed", range(40))
def test_with_windows_that_count_requests_no_plan_is_cheaper(seed):
    call = random_call(seed, REQUESTS)
    plan = call.plan()
    assert same(cash_of_plan(call, plan), least_cash(call))
    assert plan.cash == cash_of_plan(call, plan)
    assert plan.cash == plan.bound


@pytest.mark.parametrize("seed", range(40))
def test_with_windows_of_tokens_and_cash_the_gap_is_told_and_within_a_dearest_task_per_window(seed):
    call = random_call(seed, ALL)
    plan = call.plan()
    least = least_cash(call)
    assert cash_of_plan(call, plan) <= least + bound_of(call, plan) + 1
    assert same(plan.bound, least)
    assert plan.cash >= plan.bound


def test_cheapest_first_in_the_order_of_the_input_pays_more():
    """The control: the instances bind, so that a plan which only looks at one task at a time is dearer."""
    calls = [random_call(seed, REQUESTS) for seed in range(20)]
    assert sum(greedy_cash(call) for call in calls) > 1.05 * sum(cash_of_plan(call, call.plan()) for call in calls)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([REQUESTS, ("tokens",), ALL]), st.booleans(), st.data())
def test_a_plan_breaks_no_window_no_hint_no_capability_and_no_cap(seed, units, everywhere, data):
    call = random_call(seed, units, tasks=60, everywhere=everywhere)
    cap = data.draw(st.none() | st.integers(0, 10**9)) if everywhere else None
    if cap is not None:
        call = capped(call, cap)
    plan = call.plan()
    for name, used in used_by(call, plan).items():
        assert used <= call.outlook.states[name].left
    for item, route in zip(call.items, plan.routes, strict=True):
        if not route.offers:
            continue
        taken = route.offers[0]
        assert taken.platform.name in {offer.platform.name for offer in item.route.offers}
        assert not item.task.strict or taken.platform.name in item.task.platforms
    if cap is not None:
        assert cash_of_plan(call, plan) <= cap
    # Nobody stays without a place where there is one.
    left = {name: state.left - used_by(call, plan).get(name, 0) for name, state in call.outlook.states.items()}
    for item, route in zip(call.items, plan.routes, strict=True):
        if not route.offers and cap is None:
            for offer in item.route.offers:
                assert any(use_of(item, offer, meter) > left[meter.id] for meter in offer.meters)


def capped(call, cap):
    """The same call under a hard cap on its cash."""
    meter = call_meter(cap_usd(cap), "x")
    limits = Limits(
        no_cash=cap == 0, counts_cash=True, capped=True, allowance=10**15, budgets=lambda _t, _o: (meter,), call=meter
    )
    states = {**call.outlook.states, meter.id: empty(meter)}
    return Call(call.items, type(call.outlook)(call.outlook.now, states), limits)


def cap_usd(pico):
    from decimal import Decimal

    return Decimal(pico) / 10**12


def empty(meter):
    from orchestrai.ledger.reservations import MeterState

    return MeterState(meter, 0, 0, None, "counted", None)


@pytest.mark.parametrize("units", [REQUESTS, ALL])
def test_the_same_input_gives_the_same_plan_and_the_same_reasons(units):
    for seed in range(10):
        plans = [random_call(seed, units).plan() for _ in range(2)]
        said = [
            [
                (*((o.platform.name, o.reason, o.rank) for o in route.offers), *route.excluded.items())
                for route in plan.routes
            ]
            for plan in plans
        ]
        assert said[0] == said[1]
        assert plans[0].cash == plans[1].cash


def test_a_hint_gets_the_place_that_is_left_whatever_it_costs_the_others():
    """Cash is saved among those without a hint only."""
    cost = np.array([[0.0, 1.0, 99.0], [0.0, 0.5, 99.0]])
    uses = (Use(0, 0, np.ones(2, dtype=np.int64)),)
    free = assign(Instance(cost, np.ones(2, dtype=np.int64), uses, (1,)))
    assert free.placed.tolist() == [[1, 0, 0], [0, 1, 0]]
    hinted = cost + np.array([[0.0, 0.0, 0.0], [0.0, 10.0, 0.0]])
    found = assign(Instance(hinted, np.ones(2, dtype=np.int64), uses, (1,)))
    assert found.placed.tolist() == [[0, 1, 0], [1, 0, 0]]


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_no_assignment_is_cheaper_than_the_bound_of_its_relaxation(seed):
    chance = np.random.default_rng(seed)
    classes, places = int(chance.integers(1, 30)), int(chance.integers(1, 6))
    cost = np.c_[chance.integers(0, 4, (classes, places)).astype(float), np.full(classes, 50.0)]
    counts = chance.integers(1, 9, classes)
    uses = tuple(Use(p, p, chance.integers(1, 5, classes)) for p in range(places))
    instance = Instance(cost, counts, uses, tuple(int(room) for room in chance.integers(0, 40, places)))
    relaxed, found = relax(instance), assign(instance)
    assert found.cost >= relaxed.bound - 1e-6
    assert found.placed.sum(axis=1).tolist() == counts.tolist()
    for use in uses:
        assert found.placed[:, use.place] @ use.amount <= instance.room[use.window]
    assert all(price >= 0 for price in relaxed.prices)
