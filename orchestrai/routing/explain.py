"""Explain: a draft as a Plan that can be read: who answers what, why, at what cost, out of which quota."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from orchestrai.ledger.reservations import MeterState
from orchestrai.limits.quota import Meter
from orchestrai.plan import Plan, PlanLine, Question, Range, WindowUse
from orchestrai.pricing import Price, from_pico
from orchestrai.result import Result
from orchestrai.routing.estimate import UNKNOWN, Experience
from orchestrai.routing.offers import Offer
from orchestrai.routing.planner import Outlook
from orchestrai.task import Task
from orchestrai.text import counted, local_time, money

_NOWHERE, _REUSED, _COPY, _REFUSED = -1, -2, -3, -4  # instead of the number of an offer
_ZERO: Final = Decimal(0)
_NOTHING: Final = Range(_ZERO, _ZERO, _ZERO)
_MICRO: Final = 1_000_000
_PICO: Final = 10**12


class Warned(NamedTuple):
    """When a plan says something by itself: settings.

    Args:
        at: Shares of a window at which it says so, rising [percent].
        large: Prompts above it are listed [tokens].
    """

    at: tuple[float, ...] = (50.0, 80.0, 90.0)
    large: int = 10_000


@dataclass(slots=True)
class Sheet:
    """What is kept of a draft, compactly: columns, one entry per task in input order.

    Args:
        tasks: The tasks.
        rows: Labels of the input's rows.
        places: index, sample and size of each task.
        offers: Number of each task's offer, or why it has none.
        known: Its offers.
        reasons: Position → why it has no place, or is not sent.
        answers: Position → the answer that is reused.
    """

    tasks: list[Task]
    rows: list[Any]
    places: tuple[array[int], array[int], array[int]]
    offers: array[int]
    known: list[Offer]
    reasons: dict[int, str]
    answers: dict[int, Result]


def sheet(
    fresh: Iterable[Any],
    reused: Iterable[tuple[Any, Result, Any]],
    copies: Iterable[tuple[Any, Any]],
    refused: Mapping[int, Result],
    count: int,
) -> Sheet:
    """Return the columns of a draft.

    Args:
        fresh: Items that are asked, with their routes.
        reused: Items that the ledger answers, with the answer.
        copies: Items that are equal to an earlier one.
        refused: Position → result of a task that is never sent.
        count: Number of all of them.
    """
    tasks: list[Any] = [None] * count
    rows: list[Any] = [None] * count
    index, sample, size = (array("q", bytes(8 * count)) for _ in range(3))
    offers = array("h", [_NOWHERE]) * count
    known: list[Offer] = []
    numbers: dict[int, int] = {}
    reasons: dict[int, str] = {}
    answers: dict[int, Result] = {}

    def put(item: Any, offer: int) -> None:
        at = item.position
        tasks[at], rows[at], offers[at] = item.task, item.row, offer
        index[at], sample[at], size[at] = item.index, item.sample, item.size

    for item in fresh:
        if not item.route.offers:
            put(item, _NOWHERE)
            reasons[item.position] = item.route.why_none()
            continue
        offer = item.route.offers[0]
        number = numbers.get(id(offer))
        if number is None:
            number = numbers[id(offer)] = len(known)
            known.append(offer)
        put(item, number)
    for item, found, _ in reused:
        put(item, _REUSED)
        answers[item.position] = found
    for item, _ in copies:
        put(item, _COPY)
    for at, result in refused.items():
        tasks[at], rows[at], offers[at], index[at], sample[at] = (
            result.task, result.row, _REFUSED if result.status == "skipped" else _NOWHERE, result.index, result.sample,
        )  # fmt: skip
        reasons[at] = result.error or ""
    return Sheet(tasks, rows, (index, sample, size), offers, known, reasons, answers)


def plan_of(
    made: Sheet,
    outlook: Outlook,
    meters: Callable[[Task, Offer], Iterable[Meter]],
    excluded: Mapping[str, str],
    bound: int | None,
    warned: Warned,
    runner: Callable[[Plan], Awaitable[Any]] | None = None,
    questions: Callable[[Plan], tuple[Question, ...]] = lambda _: (),
) -> Plan:
    """Return the plan that a draft comes to.

    Args:
        made: The draft in columns.
        outlook: What is known of quotas and of earlier replies.
        meters: Returns the quota windows and budgets that a task at an offer counts in.
        excluded: Platform → why no task goes there.
        bound: The least that any assignment could cost [pico-USD]; None when this one is the cheapest.
        warned: When the plan says something by itself.
        runner: Runs it.
        questions: Returns what has to be asked before it runs.
    """
    costs = _Costs(outlook)
    groups: Counter[tuple[int, int, int | None]] = Counter()
    firsts: dict[tuple[int, int, int | None], int] = {}
    _, _, sizes = made.places
    for at, number in enumerate(made.offers):
        if number >= 0:
            key = (number, sizes[at], made.tasks[at].max_tokens)
            groups[key] += 1
            firsts.setdefault(key, at)
    cash: list[int | None] = [0, 0, 0]
    listed: int | None = None
    tokens = [0, 0]
    used: dict[str, tuple[Meter, int]] = {}
    by_platform: Counter[tuple[str, str, str]] = Counter()
    busy_s: dict[str, float] = {}
    timed = True
    for key, count in groups.items():
        offer, task = made.known[key[0]], made.tasks[firsts[key]]
        by_platform[offer.platform.name, offer.model, offer.tier] += count
        estimate = costs.of(offer, task, key[1])
        for i, amount in enumerate(estimate.cash):
            total = cash[i]
            cash[i] = None if total is None or amount is None else total + amount * count
        if estimate.listed is not None:
            listed = (listed or 0) + estimate.listed * count
        tokens[0] += estimate.input_tokens * count
        tokens[1] += estimate.output_tokens * count
        for meter, amount in _uses(offer, task, estimate, outlook, meters):
            used[meter.id] = (meter, used.get(meter.id, (meter, 0))[1] + amount * count)
        timed = timed and estimate.seconds is not None
        spent = (estimate.seconds or 0.0) * count / max(1, offer.platform.concurrency)
        busy_s[offer.platform.name] = busy_s.get(offer.platform.name, 0.0) + spent
    windows = tuple(
        window_use(meter, outlook.states.get(meter.id), outlook.now, amount) for meter, amount in used.values()
    )
    counts = Counter(made.offers)
    large = tuple(at for at, size in enumerate(sizes) if size > warned.large)
    gap = 0 if bound is None or cash[1] is None else max(0, cash[1] - bound)
    plan = Plan(
        len(made.tasks),
        lambda at: _line(made, costs, at),
        Range(*map(from_pico, cash)),
        from_pico(listed),
        windows,
        (),
        (),
        dict(excluded),
        dict(by_platform),
        counts[_REUSED] + counts[_COPY],
        counts[_NOWHERE],
        len({model for _, model, _ in by_platform}),
        large,
        max(busy_s.values()) if busy_s and timed else None,
        from_pico(gap) or _ZERO,
        (tokens[0], tokens[1]),
        runner,
    )
    plan = replace(plan, warnings=_warnings(plan, made, warned))
    return replace(plan, questions=questions(plan))


def window_use(meter: Meter, state: MeterState | None, now: int, planned: int = 0) -> WindowUse:
    """Return a meter as it is shown, with what a plan adds to it."""
    window = meter.window
    scale = {"usd": _PICO, "percent": _MICRO}.get(window.unit, 1)
    used = None if state is None or state.used is None else (state.used + state.reserved) / scale
    age_s = None if state is None or state.observed_at is None else max(0.0, (now - state.observed_at) / 1e6)
    source = "unknown" if state is None else meter.source if state.source == "counted" else state.source
    return WindowUse(
        meter.platform,
        "max_cost" if window.per == "call" else str(window) if meter.platform else f"budget of {window}",
        window.unit,
        window.whole / scale,
        used,
        planned / scale,
        state.resets_at if state is not None else None,
        source,
        age_s,
    )


class _Estimate(NamedTuple):
    cash: tuple[int | None, int | None, int | None]
    listed: int | None
    input_tokens: int
    output_tokens: int
    seconds: float | None


class _Costs:
    """Estimates of classes of tasks, each made once."""

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._known: dict[tuple[int, int, int | None], _Estimate] = {}

    def of(self, offer: Offer, task: Task, size: int) -> _Estimate:
        """Return what a task of this size takes at an offer."""
        key = (id(offer), size, task.max_tokens)
        known = self._known.get(key)
        if known is None:
            experience = self._outlook.experience.get(offer.model, UNKNOWN)
            known = self._known[key] = self._made(offer, task, size, experience)
        return known

    def _made(self, offer: Offer, task: Task, size: int, experience: Experience) -> _Estimate:
        usages = [experience.usage(task, size, which) for which in ("low", "expected", "high")]
        price: Price | None = offer.price
        listed = [None if price is None else price.pico(usage) for usage in usages]
        cash = (listed[0], listed[1], listed[2]) if offer.tier == "paid" else (0, 0, 0)
        expected = usages[1]
        return _Estimate(cash, listed[1], expected.input_tokens or 0, expected.output_tokens or 0, experience.seconds)


def _uses(
    offer: Offer,
    task: Task,
    estimate: _Estimate,
    outlook: Outlook,
    meters: Callable[[Task, Offer], Iterable[Meter]],
) -> list[tuple[Meter, int]]:
    amounts = {
        "requests": 1,
        "tokens": estimate.input_tokens + estimate.output_tokens,
        "usd": estimate.cash[1] or 0,
    }
    return [
        (meter, outlook.shares.get(meter.id, 0) if meter.window.unit == "percent" else amounts[meter.window.unit])
        for meter in meters(task, offer)
    ]


def _line(made: Sheet, costs: _Costs, at: int) -> PlanLine:
    task, number = made.tasks[at], made.offers[at]
    index, sample, size = (column[at] for column in made.places)
    if number >= 0:
        offer = made.known[number]
        estimate = costs.of(offer, task, size)
        return PlanLine(
            index, made.rows[at], sample, task, offer.platform.name, offer.model, offer.tier, offer.reason,
            estimate.input_tokens, estimate.output_tokens, Range(*map(from_pico, estimate.cash)),
            from_pico(estimate.listed), reused=False,
        )  # fmt: skip
    answer = made.answers.get(at)
    if answer is not None:
        return PlanLine(
            index, made.rows[at], sample, task, answer.platform, answer.model, answer.tier, "reused", size, 0, _NOTHING,
            answer.list_cost, reused=True,
        )  # fmt: skip
    why = "copy" if number == _COPY else made.reasons.get(at, "no place is left")
    return PlanLine(
        index, made.rows[at], sample, task, None, None, None, why, size, 0, _NOTHING, None, reused=number == _COPY
    )


def _warnings(plan: Plan, made: Sheet, warned: Warned) -> tuple[str, ...]:
    """Return what a person should know, once each, most pressing first."""
    told: list[tuple[float, str]] = []
    if plan.unplaced:
        why = next(made.reasons[at] for at, number in enumerate(made.offers) if number == _NOWHERE)
        told.append((-1000.0, f"no place for {counted(plan.unplaced, 'task')}: {why}"))
    for use in plan.quota_after:
        after = use.percent_after
        reached = [share for share in warned.at if after is not None and after >= share and use.planned]
        if after is not None and reached:
            whose = f"{use.platform}: " if use.platform else ""
            until = f", which begins anew at {local_time(use.resets_at)}" if use.resets_at is not None else ""
            told.append((-after, f"{whose}{after:.0f} % of {use.window} will be used{until}"))
    if plan.cost.expected is None:
        told.append(
            (-95.0, "a price is unknown, so the cost of this call is too (give it under [prices] in the settings)")
        )
    elif plan.cost.expected:
        told.append((-10.0, f"it costs cash: about {money(plan.cost.expected)}, at most about {money(plan.cost.high)}"))
    if plan.large:
        index, _, sizes = made.places
        some = ", ".join(f"row {index[at]}: about {sizes[at]:,} tokens" for at in plan.large[:5])
        more = f" and {len(plan.large) - 5:,} more" if len(plan.large) > 5 else ""
        told.append((-5.0, f"{counted(len(plan.large), 'prompt')} above {warned.large:,} tokens ({some}{more})"))
    return tuple(text for _, text in sorted(told, key=lambda warning: warning[0]))
