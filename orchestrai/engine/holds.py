"""Holds: what a request may use of quotas and budgets before it leaves, and what it used once it has ended."""

from __future__ import annotations

from typing import Final

from orchestrai.errors import ErrorClass, PlatformError
from orchestrai.ledger.reservations import Charge, Hold
from orchestrai.limits.quota import Meter
from orchestrai.result import Usage
from orchestrai.routing.estimate import UNKNOWN, most
from orchestrai.routing.offers import Offer
from orchestrai.routing.planner import Limits, Outlook
from orchestrai.task import Task

_UNCOUNTED: Final = frozenset[ErrorClass]({"rate", "window", "balance", "key", "overloaded", "connection"})


def holds_of(
    task: Task, size: int, offer: Offer, outlook: Outlook, limits: Limits, handed: int = 0
) -> tuple[Hold, ...]:
    """Return what one request may use, by meter; empty where nothing is counted.

    Args:
        task: The task.
        size: Its input, guessed [tokens].
        offer: Where it goes.
        outlook: What is known of earlier replies.
        limits: The call's own limits, and the budgets.
        handed: Size of what others hand to it [bytes]; the guess has it already.
    """
    budgets = limits.budgets(task, offer) if offer.tier == "paid" else ()
    if not offer.meters and not budgets:
        return ()
    experience = outlook.experience.get(offer.model, UNKNOWN)
    likely = experience.usage(task, size, "expected")

    def cash() -> int:
        bound = most(task, offer, handed)
        at_most = offer.price.pico(bound) if offer.price is not None and bound is not None else limits.allowance
        if at_most is None and offer.price is not None:  # nothing bounds it, and no hard cap holds
            at_most = offer.price.pico(likely)
        return at_most or 0

    def amount(meter: Meter) -> int:
        if meter.window.unit == "requests":
            return 1
        if meter.window.unit == "percent":
            return outlook.shares.get(meter.id, 0)
        if meter.window.unit == "usd":
            return cash()
        return (likely.input_tokens or 0) + (task.max_tokens or likely.output_tokens or 0)

    return tuple(Hold(meter, amount(meter)) for meter in (*offer.meters, *budgets))


def charge_of(usage: Usage, cost: int | None, error: PlatformError | None) -> Charge:
    """Return what a request used that has left; what is unknown counts as what it had reserved.

    Args:
        usage: Its tokens.
        cost: Its cash [pico-USD].
        error: What it failed with. A request that was turned away is not counted by its provider.
    """
    if error is not None and not error.may_be_billed:
        return Charge(0 if error.kind in _UNCOUNTED else 1, 0, 0)
    return Charge(1, usage.total_tokens, cost)
