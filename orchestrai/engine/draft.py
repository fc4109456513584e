"""Draft: what a call would do, decided before anything is sent; a batch runs its draft, a plan shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from orchestrai.engine.books import Asked, RunOptions
from orchestrai.engine.engine import Engine
from orchestrai.engine.item import Item, Work
from orchestrai.engine.reuse import usable
from orchestrai.engine.steps import Steps
from orchestrai.errors import InvalidInput
from orchestrai.ids import now_us
from orchestrai.ledger.ledger import Found
from orchestrai.ledger.queries import StoredAnswer, readings_and_requests
from orchestrai.ledger.reservations import MeterState, state_of
from orchestrai.limits.quota import Meter
from orchestrai.result import Result
from orchestrai.routing.estimate import share_of_request
from orchestrai.routing.offers import Route
from orchestrai.routing.planner import Limits, Outline, Outlook, outline

_SMALL: Final = 2_000  # tasks that are planned at once on the loop; more go to a thread
_NO_BATCH: Final = "none"  # no batch's id
_NOBODY: Final = Found(0, {}, {})


@dataclass(slots=True)
class Draft:
    """What becomes of each task of a call.

    Args:
        fresh: Tasks that are asked, each with its route; those that still wait for others of the call among them.
        reused: Tasks that the ledger has an answer to: with the result, and the task that was asked then.
        copies: Tasks that are equal to an earlier one of the call, which is asked or answered for both.
        outlook: What was known of quotas and of earlier replies.
        outline: Where the fresh ones go.
        model: The one model that answers, with `mix=False`; None where several may.
        scope: Batch whose answers alone count; None for all.
    """

    fresh: list[Item]
    reused: list[tuple[Item, Result, Asked]]
    copies: list[tuple[Item, Item]]
    outlook: Outlook
    outline: Outline
    model: str | None = None
    scope: str | None = None


async def drafted_for(
    items: Sequence[Item],
    engine: Engine,
    options: RunOptions,
    limits: Limits,
    preferences: Mapping[str, Any],
    known: Mapping[bytes, Item],
    scope: str | None,
    model: str | None,
) -> Draft:
    """Decide what becomes of each task; on the engine's loop.

    Args:
        items: The tasks.
        engine: Whose ledger knows answers and quotas.
        options: What the call says about itself.
        limits: What it forbids.
        preferences: Task type → platforms that suit it.
        known: Key → earlier task of the same call that is not settled yet.
        scope: Batch whose answers alone count; None for all.
        model: The one model that answers, where an earlier part of the call has settled on it.

    Raises:
        InvalidInput: With `mix=False`, no model can take all of the tasks.
        LedgerError: The ledger cannot be read.
    """
    if not options.mix and items:
        if model is None:
            model = await _one_model(items, engine, options, limits, preferences)
        _narrow(items, model)
    first: dict[bytes, Item] = {}
    copies: list[tuple[Item, Item]] = []
    fresh: list[Item] = []
    reused: list[tuple[Item, Result, Asked]] = []
    answered: dict[int, tuple[Result, Asked]] = {}  # by the identity of the task
    settled: dict[int, Result] = {}  # by position: what tasks of the call can go on from without anything being asked
    steps = Steps(settled.get)
    ready = []
    for item in items:
        if item.lineage is not None and item.lineage.awaited:
            steps.hold(item)
        else:
            ready.append(item)
    while ready:
        alike = [(item, known.get(item.key) or first.setdefault(item.key, item)) for item in ready]
        new = [item for item, earlier in alike if earlier is item]
        copies += [(item, earlier) for item, earlier in alike if earlier is not item]
        found = _NOBODY
        if options.reuse or options.name is not None:
            found = await engine.ledger.find_answers(
                [item.key for item in new], scope if options.reuse else scope or _NO_BATCH
            )
        for item in new:
            item.since = found.newest if found is not _NOBODY else None
            answer = _answer(item, found.answers.get(item.key))
            if answer is None:
                fresh.append(item)
            else:
                reused.append((item, *answer))
                answered[id(item)] = answer
        for item, earlier in alike:
            answer = answered.get(id(earlier))
            if answer is not None and item.lineage is not None and item.lineage.remembers:
                settled[item.position] = _as_settled(item, *answer)
                steps.settled(item.position)
        ready = await _next_ready(steps, model if not options.mix else None)
    fresh += steps.waiting
    outlook = await _look(fresh, engine, options, limits)
    drawn = await _outlined(fresh, outlook, limits, preferences)
    return Draft(fresh, reused, copies, outlook, drawn, model, scope)


async def plan_again(
    items: Sequence[Item], engine: Engine, options: RunOptions, limits: Limits, preferences: Mapping[str, Any]
) -> None:
    """Give tasks new routes, by what is known now.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    await _outlined(items, await _look(items, engine, options, limits), limits, preferences)


async def _one_model(
    items: Sequence[Item], engine: Engine, options: RunOptions, limits: Limits, preferences: Mapping[str, Any]
) -> str:
    """Return the model that answers a whole call: the one with places for most of it, at the least cash, then the best.

    Raises:
        InvalidInput: No model can take all of the tasks.
    """
    first, *others = {id(item.route): item.route for item in items}.values()
    models = dict.fromkeys(offer.model for offer in first.offers)
    able = [model for model in models if all(any(o.model == model for o in route.offers) for route in others)]
    if not able:
        raise InvalidInput("mix=False: no single model can take all of these tasks. Name a model, or split the call.")
    if len(able) == 1:
        return able[0]
    outlook = await _look(items, engine, options, limits)
    routes = [item.route for item in items]
    ranked = []
    for place, model in enumerate(able):
        _narrow(items, model)
        drawn = await _drawn(items, outlook, limits, preferences)
        ranked.append((sum(not route.offers for route in drawn.routes), drawn.cash, place, model))
        for item, route in zip(items, routes, strict=True):
            item.route = route
    return min(ranked)[3]


def _narrow(items: Sequence[Item], model: str) -> None:
    """Leave one model in the routes of tasks."""
    narrowed: dict[int, Route] = {}
    kept = [item.route for item in items]  # so that their identities stay their own
    for item, route in zip(items, kept, strict=True):
        found = narrowed.get(id(route))
        if found is None:
            found = narrowed[id(route)] = route if route.only_model == model else route.only(model)
        item.route = found


async def _outlined(items: Sequence[Item], outlook: Outlook, limits: Limits, preferences: Mapping[str, Any]) -> Outline:
    """Decide where tasks go, and put it into their routes."""
    drawn = await _drawn(items, outlook, limits, preferences)
    for item, route in zip(items, drawn.routes, strict=True):
        item.route = route
    return drawn


async def _drawn(items: Sequence[Item], outlook: Outlook, limits: Limits, preferences: Mapping[str, Any]) -> Outline:
    if len(items) <= _SMALL:
        return outline(items, outlook, limits, preferences)
    return await asyncio.to_thread(outline, items, outlook, limits, preferences)


async def _look(items: Sequence[Item], engine: Engine, options: RunOptions, limits: Limits) -> Outlook:
    """Read what is known of the meters that these tasks may count in, and of earlier replies where they matter."""
    routes = {id(item.route): item for item in items}
    meters: dict[str, Meter] = {}
    by_length = False  # what a task takes depends on more than its number
    for item in routes.values():
        for offer in item.route.offers:
            by_length = by_length or (offer.tier == "paid" and (limits.counts_cash or len(item.route.offers) > 1))
            for meter in offer.meters:
                meters[meter.id] = meter
                by_length = by_length or meter.window.unit != "requests"
    if limits.counts_cash:
        for item in items:
            for offer in item.route.offers:
                meters.update({meter.id: meter for meter in limits.budgets(item.task, offer)})
    now = now_us()
    if not meters and not by_length:
        return Outlook(now, latest=options.latest)

    def look(connection: Any) -> tuple[dict[str, MeterState], dict[str, int]]:
        states = {meter.id: state_of(connection, meter, now) for meter in meters.values()}
        percents = [meter for meter in meters.values() if meter.window.unit == "percent"]
        told = {meter.id: readings_and_requests(connection, meter) for meter in percents}
        return states, {name: share_of_request(readings) for name, readings in told.items()}

    states, shares = await engine.ledger.read_soon(look)
    experience = await engine.experience() if by_length else {}
    return Outlook(now, states, experience, shares, options.latest)


async def _next_ready(steps: Steps, model: str | None) -> list[Item]:
    """Return the tasks that what the ledger has answered lets go on."""
    ready: list[Item] = []
    while some := steps.take_ready():
        lost = {id(item) for item, _ in await asyncio.to_thread(steps.joined, some)}
        for item in some:
            if id(item) in lost:  # an empty answer before it: it is told when the call runs
                steps.give_back(item)
            else:
                ready.append(item)
    if model is not None:
        _narrow(ready, model)
    return ready


def _as_settled(item: Item, found: Result, asked: Asked) -> Result:
    """Return an answer of the ledger as the result that the task will have, for those that come after it."""
    work = item.work = item.work or Work(now_us())
    assert item.lineage is not None
    return replace(
        found, task_id=work.task_id, index=item.index, chain_id=item.lineage.chain_id, reused_from=asked.task_id
    )


def _answer(item: Item, answers: list[StoredAnswer] | None) -> tuple[Result, Asked] | None:
    """Return the newest answer of the ledger that may be reused for a task, and the task that was asked then."""
    for answer in answers or ():
        found = usable(answer, item)
        if found is not None:
            return found, Asked(answer.task_id, answer.send_seq)
    return None
