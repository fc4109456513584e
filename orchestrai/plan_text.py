"""Plans and quota meters as plain text: what a terminal shows, and the cells of their tables anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from orchestrai.text import (
    ENDS_SHOWN,
    count,
    counted,
    duration,
    excerpt,
    local_time,
    money,
    printable,
    prompt_text,
    table,
)

if TYPE_CHECKING:
    from orchestrai.plan import Plan, Quota, Range, WindowUse

PLAN_TITLES: Final = ("row", "prompt", "platform", "why", "tokens", "cost")
QUOTA_TITLES: Final = ("platform", "window", "used", "of", "", "until", "says")


def plan_line(plan: Plan) -> str:
    """Return a plan on one line: `Plan(1,000 tasks: 900 on groq, 100 on openai, cost $0.02 to $0.05, 3 warnings)`."""
    parts = [*places(plan), f"cost {spread(plan.cost)}"]
    parts += [counted(len(plan.warnings), "warning")] if plan.warnings else []
    return f"Plan({counted(len(plan), 'task')}: {', '.join(parts)})"


def places(plan: Plan) -> list[str]:
    """Return where the tasks of a plan go: `["900 on groq", "60 on openai", "40 reused"]`."""
    tasks: Counter[str] = Counter()
    for (name, _, _), number in plan.by_platform.items():
        tasks[name] += number
    found = [f"{count(number)} on {excerpt(name, 40)}" for name, number in tasks.most_common()]
    found += [f"{count(plan.reused)} reused"] if plan.reused else []
    return found + ([f"{count(plan.unplaced)} without a place"] if plan.unplaced else [])


def spread(cost: Range) -> str:
    """Return an amount that is not known exactly: `about $0.03 ($0.02 to $0.05)`; `$0.00` where it is nothing."""
    if cost.expected is None:
        return "unknown"
    if cost.low == cost.high:
        return money(cost.expected)
    return f"about {money(cost.expected)} ({money(cost.low)} to {money(cost.high)})"


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """Return what is known of a plan as a whole, as title and value."""
    into, out = plan.tokens
    facts = [("cost", spread(plan.cost))]
    facts += [] if plan.list_cost is None else [("list price", money(plan.list_cost))]
    facts += [("tokens", f"about {count(into)} in, {count(out)} out")]
    facts += [] if plan.eta_s is None else [("time", f"about {duration(plan.eta_s)}")]
    facts += [("models", count(plan.models))] if plan.models > 1 else []
    facts += [("gap", f"at most {money(plan.gap)} above the least possible")] if plan.gap else []
    return facts


def plan_rows(plan: Plan) -> list[list[str]]:
    """Return the lines of a plan that a display has room for: row, prompt, where, why, tokens, cost."""
    places = range(len(plan))
    shown = list(places) if len(plan) <= 2 * ENDS_SHOWN + 1 else [*places[:ENDS_SHOWN], -1, *places[-ENDS_SHOWN:]]
    rows = []
    for at in shown:
        if at < 0:
            rows.append(["…", f"{count(len(plan) - 2 * ENDS_SHOWN)} more", "", "", "", ""])
            continue
        line = plan[at]
        label = str(line.index) if line.row is None else excerpt(str(line.row), 24)
        where = "/".join(name for name in (line.platform, line.model) if name)
        tokens_ = (
            f"{count(line.input_tokens)} + {count(line.output_tokens)}" if line.platform and not line.reused else ""
        )
        rows.append(
            [label, excerpt(prompt_text(line.task.prompt), 40), excerpt(where, 48), excerpt(line.why, 80), tokens_,
             money(line.cost.expected)]
        )  # fmt: skip
    return rows


def window_rows(uses: Iterable[WindowUse], *, planned: bool) -> list[list[str]]:
    """Return quota windows as rows of text: whose, what, used, of how much, share, until when, who says so.

    Args:
        uses: The windows.
        planned: Show what a plan adds to them.
    """
    rows = []
    for use in uses:
        share = use.percent_after if planned else use.percent_before
        before = use.percent_before
        percent = "unknown" if share is None else f"{share:.0f} %"
        if planned and before is not None and share is not None and round(before) != round(share):
            percent = f"{before:.0f} % → {share:.0f} %"
        amount = None if use.used is None else use.used + (use.planned if planned else 0)
        says = use.source if use.age_s is None else f"{use.source}, {duration(float(round(use.age_s)))} ago"
        rows.append(
            [excerpt(use.platform or "budget", 40), excerpt(use.window, 60), _unit(use.unit, amount),
             _unit(use.unit, use.limit), percent, local_time(use.resets_at), excerpt(says, 60)]
        )  # fmt: skip
    return rows


def plan_block(plan: Plan) -> str:
    """Return a plan as text: its line, what a person should know, its first and last tasks, its quotas."""
    parts = [plan_line(plan), "  ".join(f"{title}: {value}" for title, value in plan_facts(plan))]
    parts += [f"! {printable(warning)}" for warning in plan.warnings]
    parts += [f"? {printable(question.text)}" for question in plan.questions]
    if len(plan):
        parts += ["", table(plan_rows(plan), PLAN_TITLES, right={0, 4, 5})]
    if plan.quota_after:
        parts += ["", table(window_rows(plan.quota_after, planned=True), QUOTA_TITLES, right={2, 3, 4})]
    if plan.excluded:
        parts += ["", *(printable(f"not {name}: {excerpt(why, 200)}") for name, why in plan.excluded.items())]
    return "\n".join(parts)


def quota_line(quota: Quota) -> str:
    """Return the meters on one line."""
    shares = [use.percent_before for use in quota]
    most = max((share for share in shares if share is not None), default=None)
    fullest = "" if most is None else f", the fullest at {most:.0f} %"
    return f"Quota({counted(len(quota), 'window')}{fullest})"


def quota_block(quota: Quota) -> str:
    """Return the meters as a table."""
    if not len(quota):
        return "No quota window and no budget is known here yet."
    return table(window_rows(quota, planned=False), QUOTA_TITLES, right={2, 3, 4})


def _unit(unit: str, amount: float | None) -> str:
    if amount is None:
        return "unknown"
    if unit == "usd":
        return money(Decimal(str(round(amount, 12))))
    return f"{amount:,.0f} %" if unit == "percent" else f"{amount:,.0f}"
