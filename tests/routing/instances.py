"""Random calls whose windows bind, and what the best plan of each costs, by somebody else's solver."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from orchestrai.ledger.reservations import MeterState
from orchestrai.limits.quota import Meter, Window
from orchestrai.pricing import PriceList
from orchestrai.routing.estimate import UNKNOWN
from orchestrai.routing.offers import Offer, Route, Router
from orchestrai.routing.planner import Limits, Outline, Outlook, outline
from orchestrai.task import Task
from orchestrai.testing import ScriptedPlatform

NOW = 1_790_000_000_000_000  # µs


@dataclass(slots=True)
class Asked:
    """A task with its route and its length."""

    task: Task
    route: Route
    size: int


class Call(NamedTuple):
    """A call that is to be planned."""

    items: list[Asked]
    outlook: Outlook
    limits: Limits

    def plan(self) -> Outline:
        return outline(self.items, self.outlook, self.limits, {})


def random_call(
    seed: int,
    units: tuple[str, ...],
    tasks: int = 200,
    offers: int = 8,
    *,
    everywhere: bool = True,
    exactly: bool = False,
) -> Call:
    """Return a call of up to so many tasks and offers, whose windows count these units.

    Args:
        seed: Of all that is random in it.
        units: Which units its windows count: requests, tokens, usd.
        tasks: How many tasks it has at most.
        offers: How many offers at most.
        everywhere: One paid platform takes whatever the others cannot.
        exactly: It has just so many tasks and offers.
    """
    chance = random.Random(seed)
    platforms, windows = [], {}
    for number in range(offers if exactly else chance.randint(2, offers)):
        last_resort = everywhere and number == 0
        tier = "paid" if last_resort else chance.choice(["free", "free", "subscription", "paid"])
        prices = {"input_mtok": str(chance.randint(1, 400) / 100), "output_mtok": str(chance.randint(1, 1500) / 100)}
        name = f"p{number}"
        platforms.append(ScriptedPlatform(name, tier=tier, price=prices))
        if not last_resort:
            windows[name] = tuple(
                Window(unit, 10**9, per, "fixed", "UTC")
                for unit, per in {(chance.choice(units), chance.choice(["day", "month"])) for _ in range(2)}
                if unit != "usd" or tier == "paid"
            )
    router = Router(platforms, PriceList(), windows=windows)
    items = []
    for number in range(tasks if exactly else chance.randint(max(1, tasks // 4), tasks)):
        size = 1 + int(chance.lognormvariate(6, 1))
        task = Task(f"{number}", max_tokens=chance.choice([None, 50, 500]))
        if not everywhere and chance.random() < 0.2:
            task = Task(f"{number}", platform=chance.choice(platforms).name, strict=chance.random() < 0.5)
        items.append(Asked(task, router.route(task), size))
    demand = {"requests": len(items), "tokens": sum(item.size + 200 for item in items), "usd": 0}
    demand["usd"] = sum(max(cash_of(item, offer) for offer in item.route.offers) for item in items)
    meters = {m.id: m for item in items for offer in item.route.offers for m in offer.meters}
    states = {}
    for name, meter in sorted(meters.items()):
        left = int(demand[meter.window.unit] * chance.random() * chance.choice([0.05, 0.5, 1]))
        states[name] = MeterState(meter, max(0, meter.window.whole - left), 0, NOW + 10**9, "counted", None)
    return Call(items, Outlook(NOW, states), Limits())


def cash_of(item: Asked, offer: Offer) -> int:
    """Return what a task is expected to cost at an offer [pico-USD]."""
    if offer.tier != "paid":
        return 0
    return offer.price.pico(UNKNOWN.usage(item.task, item.size, "expected"))


def use_of(item: Asked, offer: Offer, meter: Meter) -> int:
    """Return what a task takes of a meter at an offer, in its whole numbers."""
    if meter.window.unit == "requests":
        return 1
    if meter.window.unit == "tokens":
        return UNKNOWN.usage(item.task, item.size, "expected").total_tokens
    return cash_of(item, offer)


def cash_of_plan(call: Call, plan: Outline) -> int:
    """Return what a plan costs [pico-USD]."""
    return sum(
        cash_of(item, route.offers[0]) for item, route in zip(call.items, plan.routes, strict=True) if route.offers
    )


def used_by(call: Call, plan: Outline) -> dict[str, int]:
    """Return what a plan takes of each meter, in its whole numbers."""
    used: dict[str, int] = {}
    for item, route in zip(call.items, plan.routes, strict=True):
        for meter in route.offers[0].meters if route.offers else ():
            used[meter.id] = used.get(meter.id, 0) + use_of(item, route.offers[0], meter)
    return used


def least_cash(call: Call) -> float:
    """Return the least that any plan of a call in which all have a place costs, tasks split or not [pico-USD]; by HiGHS."""
    columns = [(at, offer) for at, item in enumerate(call.items) for offer in item.route.offers]
    cash = np.array([float(cash_of(call.items[at], offer)) for at, offer in columns])
    meters = list(call.outlook.states)
    rows, places, amounts = [], [], []
    for column, (at, offer) in enumerate(columns):
        for meter in offer.meters:
            rows.append(meters.index(meter.id))
            places.append(column)
            amounts.append(float(use_of(call.items[at], offer, meter)))
    within: dict[str, Any] = {}
    if meters:
        within["A_ub"] = coo_matrix((amounts, (rows, places)), shape=(len(meters), len(columns)))
        within["b_ub"] = [float(state.left) for state in call.outlook.states.values()]
    once = coo_matrix((np.ones(len(columns)), ([at for at, _ in columns], range(len(columns)))))
    unit = max(1.0, cash.max(initial=1.0))
    found = linprog(cash / unit, A_eq=once, b_eq=np.ones(len(call.items)), method="highs", **within)
    return float(found.fun) * unit


def greedy_cash(call: Call) -> int:
    """Return what it costs when each task, in its order, takes the cheapest place that is left [pico-USD]."""
    left = {name: state.left for name, state in call.outlook.states.items()}
    total = 0
    for item in call.items:
        for offer in sorted(item.route.offers, key=lambda offer: cash_of(item, offer)):
            uses = [(meter.id, use_of(item, offer, meter)) for meter in offer.meters]
            if all(amount <= left[name] for name, amount in uses):
                for name, amount in uses:
                    left[name] -= amount
                total += cash_of(item, offer)
                break
    return total
