"""Preflight: what has to be asked before a plan runs, and what has to be said."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Final

from orchestrai.plan import Plan, Question
from orchestrai.text import money

ASKED_AT: Final = 90.0
"""Share of a quota window from which on a call asks first [percent]."""


def questions(
    plan: Plan,
    *,
    ask_above: Decimal,
    forced: Collection[tuple[str, str]],
    without_cash: Collection[str],
    strangers: Mapping[str, str],
) -> tuple[Question, ...]:
    """Return what a call with `confirm="auto"` asks about, most pressing first.

    Args:
        plan: What would run.
        ask_above: Expected cash above which it asks [USD].
        forced: Platform and model that every task there asked for itself, so that its cost is no surprise.
        without_cash: Platforms that are configured and cost no cash.
        strangers: Platforms whose plan may train on the data and that nobody agreed to yet → what to do about it.
    """
    asked = []
    paid = [(name, model) for name, model, tier in plan.by_platform if tier == "paid"]
    surprising = [where for where in paid if where not in forced]
    if surprising and without_cash and plan.cost.expected != 0:
        cost = "an unknown amount" if plan.cost.expected is None else f"about {money(plan.cost.expected)}"
        there = ", ".join(sorted({name for name, _ in surprising}))
        free = ", ".join(sorted(without_cash))
        asked.append(Question("cash", f"{cost} of cash goes to {there}, although {free} would cost none."))
    if plan.cost.expected is not None and plan.cost.expected > ask_above:
        asked.append(Question("amount", f"It costs about {money(plan.cost.expected)}, more than {money(ask_above)}."))
    automatic = {name for name, model, _ in plan.by_platform if (name, model) not in forced}
    for name, cure in strangers.items():
        if name in automatic:
            asked.append(
                Question("training", f"The plan of {name} may train on what it is sent, the first time here. {cure}")
            )
    for use in plan.quota_after:
        after = use.percent_after
        if after is not None and after >= ASKED_AT and use.planned and use.window != "max_cost":
            whose = f"{use.platform}: " if use.platform else ""
            asked.append(Question("quota", f"{whose}{after:.0f} % of {use.window} will be used."))
    return tuple(asked)


def to_say(plan: Plan, said: set[tuple[str, float]], at: Iterable[float]) -> list[str]:
    """Return the warnings that are due now: of each window and threshold once, however many calls reach it.

    Args:
        plan: What runs.
        said: Windows and thresholds that were said before; what is said now is added.
        at: Thresholds [percent].
    """
    due = []
    for use, text in zip(plan.quota_after, _texts(plan), strict=True):
        after = use.percent_after
        if after is None or not use.planned:
            continue
        reached = max((share for share in at if after >= share), default=None)
        key = (f"{use.platform}/{use.window}/{use.resets_at}", reached or 0.0)
        if reached is not None and key not in said:
            said.add(key)
            due.append(text)
    return due


def _texts(plan: Plan) -> list[str]:
    return [
        f"{use.platform or 'budget'}: {use.percent_after or 0:.0f} % of {use.window} will be used by this call"
        for use in plan.quota_after
    ]
