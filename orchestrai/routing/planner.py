"""Planner: which task goes where, at the least cash that the quota windows and budgets allow.

Alike tasks (one route, one length, one output limit) are one class: they cost the same everywhere. As long as the
first choices of all classes fit into every window, they are the plan; where a window binds, `assign` finds the
assignment that costs least over the whole call.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

from orchestrai.ledger.reservations import MeterState
from orchestrai.limits.quota import SPAN_S, Meter
from orchestrai.routing.alike import UNPRICED, Alike
from orchestrai.routing.estimate import UNKNOWN, Experience, most
from orchestrai.routing.offers import Offer, Route
from orchestrai.routing.windows import used_up
from orchestrai.task import Task

_LAST: Final = 1 << 30  # rank of what has no place in an order
_SECOND: Final = 1_000_000  # µs


class Planned(Protocol):
    """What is planned of a task: `engine.item.Item`."""

    @property
    def task(self) -> Task:
        """The task."""

    @property
    def route(self) -> Route:
        """Where it may go."""

    @property
    def size(self) -> int:
        """Its input, guessed [tokens]."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of quotas, budgets and earlier replies at the moment a plan is made.

    Args:
        now: The moment [µs].
        states: Meter's id → its state.
        experience: Model → what its replies reported.
        shares: Meter's id → what one request takes of a window in percent, in its whole numbers; 0 where unknown.
        latest: Until when tasks may wait for a window to begin anew [µs]; None for not at all.
    """

    now: int
    states: Mapping[str, MeterState] = field(default_factory=dict)
    experience: Mapping[str, Experience] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    latest: int | None = None

    def capacity(self, meter: Meter) -> int | None:
        """Return how much a call may use of a meter, whole periods until the deadline included; None without a bound."""
        state = self.states.get(meter.id)
        if state is None or state.used is None or not meter.hard or meter.window.is_rate:
            return None
        if meter.window.unit == "percent" and not self.shares.get(meter.id) and state.left:
            return None
        return (state.left or 0) + meter.window.whole * self._periods(meter, state)

    def _periods(self, meter: Meter, state: MeterState) -> int:
        """Return how often the window begins anew before the deadline."""
        if self.latest is None or meter.window.per == "call":
            return 0
        span = SPAN_S[meter.window.per] * _SECOND
        first = state.resets_at if state.resets_at is not None else self.now + span
        return 0 if first > self.latest else 1 + (self.latest - first) // span


class Limits(NamedTuple):
    """What a call's own limits forbid.

    Args:
        no_cash: Nothing that costs cash may run (`max_cost=0`).
        counts_cash: Cash is counted somewhere: under a cap, or in a budget.
        capped: A hard cap on cash holds, so that what cannot be bounded cannot run.
        allowance: Cash set aside for a task whose output cannot be bounded [pico-USD]; None without one.
        closed: Platform and model → why nothing more is sent there in this call.
        budgets: Returns the meters of cash that a task at an offer counts in.
        call: The meter of `max_cost`, which ends with the call.
    """

    no_cash: bool = False
    counts_cash: bool = False
    capped: bool = False
    allowance: int | None = None
    closed: Mapping[tuple[str, str], str] = MappingProxyType({})
    budgets: Callable[[Task, Offer], tuple[Meter, ...]] = lambda _task, _offer: ()
    call: Meter | None = None


@dataclass(slots=True)
class Outline:
    """Which task goes where.

    Args:
        routes: For each task, its route with the offer it takes in front; without any offer when there is no place.
        classes: For each task, the number of its class.
        tasks: Of each class, the first task, its length and how many are alike.
        binding: Meters that are used up by this plan.
        cash: Expected cash [pico-USD] of all tasks that are priced.
        bound: The least that any plan could cost, by the prices of the windows [pico-USD].
    """

    routes: list[Route]
    classes: array[int]
    tasks: list[tuple[Task, int, int]]
    binding: tuple[Meter, ...] = ()
    cash: int = 0
    bound: int = 0


def outline(items: Sequence[Planned], outlook: Outlook, limits: Limits, preferences: Mapping[str, Any]) -> Outline:
    """Decide which task goes where.

    Args:
        items: The tasks, with the routes that the router found.
        outlook: What is known of quotas and of earlier replies.
        limits: What the call's own limits forbid.
        preferences: Task type → platforms that suit it, best first.
    """
    planning = _Planning(outlook, limits, preferences)
    numbers = planning.classify(items)
    if planning.fits(numbers):
        return planning.first_choices(numbers)
    return planning.assigned(items, numbers)


class _Planning:
    """One plan in the making."""

    def __init__(self, outlook: Outlook, limits: Limits, preferences: Mapping[str, Any]) -> None:
        self._outlook = outlook
        self._limits = limits
        self._preferences = preferences
        self._offers: list[Offer] = []
        self._columns: dict[int, int] = {}  # by the offer's identity
        self._classes: list[Alike] = []
        self._counts: list[int] = []
        self._allowed: dict[tuple[int, bool], Route] = {}
        self._kept: list[Route] = []  # whose identities are keys
        self._routes: dict[tuple[int, int | None], Route] = {}

    def classify(self, items: Iterable[Planned]) -> array[int]:
        """Return the number of each task's class."""
        known: dict[tuple[Any, ...], int] = {}
        numbers = array("l")
        budgeted = self._limits.counts_cash
        for item in items:
            task = item.task
            key: tuple[Any, ...] = (id(item.route), item.size, task.max_tokens, task.type)
            if budgeted:  # budgets may count tags and chains
                key = (*key, task.chain, tuple(task.tags.items()) if task.tags else ())
            number = known.get(key)
            if number is None:
                number = known[key] = len(self._classes)
                self._classes.append(self._class(task, item.size, item.route))
                self._counts.append(0)
            self._counts[number] += 1
            numbers.append(number)
        return numbers

    def fits(self, numbers: array[int]) -> bool:
        """Return True when the first choices of all classes fit into every window."""
        if not numbers:
            return True
        demand: dict[str, int] = {}
        for one, count in zip(self._classes, self._counts, strict=True):
            if one.columns:
                offer = self._offers[one.columns[0]]
                for meter, amount in self._uses(one, offer, one.cash[0]):
                    demand[meter.id] = demand.get(meter.id, 0) + amount * count
        capacities = {meter.id: self._outlook.capacity(meter) for meter in self._meters()}
        return all(capacities[name] is None or used <= capacities[name] for name, used in demand.items())  # type: ignore[operator]  # None is asked first

    def first_choices(self, numbers: array[int]) -> Outline:
        """Return the plan in which every task has its first choice."""
        routes = [self._route(one, one.columns[0] if one.columns else None) for one in self._classes]
        cash = sum(
            one.cash[0] * count
            for one, count in zip(self._classes, self._counts, strict=True)
            if one.columns and one.cash[0] < UNPRICED
        )
        return Outline([routes[number] for number in numbers], numbers, self._told(), cash=cash, bound=cash)

    def assigned(self, items: Sequence[Planned], numbers: array[int]) -> Outline:
        """Return the plan that costs least under the windows that bind.

        Tasks of one class are alike but for their priority: the more urgent ones take its better places. Where there
        is no place for all, each priority is planned by itself, the most urgent first.
        """
        from orchestrai.routing.places import Placing  # loads numpy, which is needed where a window binds

        capacities = {meter.id: self._outlook.capacity(meter) for meter in self._meters()}
        room = {name: capacity for name, capacity in capacities.items() if capacity is not None}
        priorities = [5 if item.task.priority is None else item.task.priority for item in items]
        order = sorted(range(len(items)), key=priorities.__getitem__)
        placing = Placing(self._classes, len(self._offers), self._uses_at, room)
        placing.place(order, numbers)
        if placing.short and priorities[order[0]] != priorities[order[-1]]:
            placing = Placing(self._classes, len(self._offers), self._uses_at, room)
            for _, alike in groupby(order, priorities.__getitem__):
                placing.place(list(alike), numbers)
        routes = [self._route(self._classes[number], placing.columns[at]) for at, number in enumerate(numbers)]
        binding = tuple(meter for meter in self._meters() if meter.id in placing.binding)
        return Outline(routes, numbers, self._told(), binding, placing.cash, placing.cash - placing.gap)

    # Classes.

    def _class(self, task: Task, size: int, route: Route) -> Alike:
        route = self._within_limits(task, route)
        costs = [self._cash(task, size, offer) for offer in route.offers]
        order = sorted(range(len(costs)), key=lambda i: self._preference(task, route.offers[i], costs[i], i))
        columns = tuple(self._column(route.offers[i]) for i in order)
        late = tuple(self._late(task, route.offers[i]) for i in order)
        return Alike(task, size, route, columns, tuple(costs[i] for i in order), late)

    def _told(self) -> list[tuple[Task, int, int]]:
        return [(one.task, one.size, count) for one, count in zip(self._classes, self._counts, strict=True)]

    def _column(self, offer: Offer) -> int:
        column = self._columns.get(id(offer))
        if column is None:
            column = self._columns[id(offer)] = len(self._offers)
            self._offers.append(offer)
        return column

    def _within_limits(self, task: Task, route: Route) -> Route:
        """Return the route without the offers that the call's limits forbid."""
        limits = self._limits
        if not (limits.no_cash or limits.capped or limits.closed):
            return route
        key = (id(route), task.max_tokens is None)
        allowed = self._allowed.get(key)
        if allowed is None:
            reasons = {offer.platform.name: self._forbidden(task, offer) for offer in route.offers}
            forbidden = {name: reason for name, reason in reasons.items() if reason is not None}
            allowed = self._allowed[key] = route.without(forbidden) if forbidden else route
            if forbidden and not allowed.offers:
                lacks: Literal["window", "budget"] = "window" if self._limits.closed else "budget"
                allowed = self._allowed[key] = replace(allowed, lacks=lacks)
            self._kept.append(route)
        return allowed

    def _forbidden(self, task: Task, offer: Offer) -> str | None:
        """Return why an offer may not be taken under the call's limits; None when it may."""
        closed = self._limits.closed.get((offer.platform.name, offer.model))
        if closed is not None:
            return closed
        if offer.tier != "paid":
            return None
        if self._limits.no_cash:
            return "max_cost=0: it costs cash"
        if not (self._limits.capped and any(meter.hard for meter in self._limits.budgets(task, offer))):
            return None
        if offer.price is None:
            return "no price is known, and a hard cap on cash holds (give it one in the settings)"
        if self._limits.allowance is None and most(task, offer) is None:
            return "nothing bounds its answers, and a hard cap on cash holds (give max_tokens, or set task_allowance)"
        return None

    def _cash(self, task: Task, size: int, offer: Offer) -> int:
        """Return the expected cash of a task at an offer [pico-USD]."""
        if offer.tier != "paid":
            return 0
        if offer.price is None:
            return UNPRICED
        experience = self._outlook.experience.get(offer.model, UNKNOWN)
        cost = offer.price.pico(experience.usage(task, size, "expected"))
        return UNPRICED if cost is None else cost

    def _preference(self, task: Task, offer: Offer, cash: int, place: int) -> tuple[Any, ...]:
        """Return what orders the offers of a task: its hints, its cash, the tier, its type, expected time, then their order."""
        suited = self._preferences.get(task.type or "")
        order = suited.order if suited is not None else ()
        suits = order.index(offer.platform.name) if offer.platform.name in order else _LAST
        seconds = self._outlook.experience.get(offer.model, UNKNOWN).seconds
        tier = {"free": 0, "local": 0, "subscription": 1, "paid": 2}[offer.tier]
        return self._late(task, offer), cash, tier, suits, seconds is None, seconds or 0.0, place

    def _late(self, task: Task, offer: Offer) -> int:
        """Return how many platforms come before this one whatever it costs: those of hints, and all before the demo."""
        hints = task.platforms
        late = hints.index(offer.platform.name) if offer.platform.name in hints else len(hints)
        return 2 * late + offer.platform.demo

    def _meters(self) -> list[Meter]:
        found = {meter.id: meter for offer in self._offers for meter in offer.meters}
        for one in self._classes:
            for column in one.columns:
                found.update({meter.id: meter for meter in self._limits.budgets(one.task, self._offers[column])})
        return list(found.values())

    def _uses_at(self, one: Alike, place: int) -> list[tuple[Meter, int]]:
        """Return what a task of a class uses at one of its offers, by meter."""
        return self._uses(one, self._offers[one.columns[place]], one.cash[place])

    def _uses(self, one: Alike, offer: Offer, cash: int) -> list[tuple[Meter, int]]:
        """Return what a task of a class uses at an offer, by meter."""
        uses = []
        for meter in offer.meters:
            unit = meter.window.unit
            if unit == "requests":
                uses.append((meter, 1))
            elif unit == "percent":
                uses.append((meter, max(1, self._outlook.shares.get(meter.id, 0))))  # a used-up one has none left
            elif unit == "tokens":
                usage = self._outlook.experience.get(offer.model, UNKNOWN).usage(one.task, one.size, "expected")
                uses.append((meter, usage.total_tokens or 0))
            else:
                uses.append((meter, cash))
        return uses + [(meter, cash) for meter in self._limits.budgets(one.task, offer) if offer.tier == "paid"]

    def _route(self, one: Alike, column: int | None) -> Route:
        """Return the route of a task that takes an offer, with the others behind it; or one without any, and why."""
        key = (id(one), column)
        known = self._routes.get(key)
        if known is None:
            if column is not None:
                places = sorted(range(len(one.columns)), key=lambda place: one.columns[place] != column)
                first, *others = (self._offers[one.columns[place]] for place in places)
                if column != one.columns[0]:
                    first = replace(first, reason="window")  # its first choice has no place left
                cash = tuple(one.cash[place] if one.cash[place] < UNPRICED else None for place in places)
                known = replace(one.route, offers=(first, *others), cash=cash)
            else:
                known = self._nowhere(one)
            self._routes[key] = known
        return known

    def _begins_anew(self, meter: Meter, state: MeterState) -> int | None:
        """Return when a window that this plan uses up has room again [µs]: at its reset, or when it has rolled on."""
        if state.resets_at is not None or meter.window.per == "call":
            return state.resets_at
        return self._outlook.now + SPAN_S[meter.window.per] * _SECOND

    def _nowhere(self, one: Alike) -> Route:
        """Return a route without an offer, and what its platforms have no room in."""
        excluded = dict(one.route.excluded)
        lacks: Literal["window", "budget"] | None = None
        for column in one.columns:
            offer = self._offers[column]
            budgets = self._limits.budgets(one.task, offer) if offer.tier == "paid" else ()
            for meter in (*offer.meters, *budgets):
                capacity = self._outlook.capacity(meter)
                state = self._outlook.states.get(meter.id)
                if capacity is not None and state is not None and offer.platform.name not in excluded:
                    excluded[offer.platform.name] = used_up(meter, self._begins_anew(meter, state))
                    lacks = "window" if meter.window.unit != "usd" or lacks == "window" else "budget"
        if lacks is None:
            lacks = one.route.lacks
        return Route((), excluded, one.route.only_model, lacks)
