"""Results and platforms as JSON: the fields that scripts may rely on, listed in docs/how-to/command_line.md."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from orchestrai.pricing import from_pico
from orchestrai.result import Result

if TYPE_CHECKING:
    from orchestrai.explanation import Explanation
    from orchestrai.plan import Plan, WindowUse
    from orchestrai.platforms.listing import Listed
    from orchestrai.results.batch_result import BatchResult

# What JSON may hold as it is but a terminal or a reader should not meet: DEL and C1, the bidirectional controls
# (UAX #9), the line separators, lone surrogates. Everything below U+0020 is escaped by JSON itself.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that no terminal can be driven by; reading it gives the very same value.

    Args:
        value: JSON's own types; anything else is written as its text.
        indent: Spaces of each level; None for one line.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def usd(amount: Decimal | None) -> float | None:
    """Return an amount as a JSON number [USD]; None when unknown.

    The shortest text of the number has every digit of the amount: below 1,000 USD an amount in whole pico-dollars
    has at most 15 digits, which a double keeps.
    """
    return None if amount is None else float(amount)


def plain(value: Any) -> Any:
    """Return a cell of a frame as JSON has it: money in USD, moments and days as ISO text, unknown as null."""
    import pandas as pd

    value = value.item() if hasattr(value, "item") else value  # NumPy's own
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, list | tuple | dict):
        return value
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.date().isoformat() if value.tz is None and value == value.normalize() else value.isoformat()
    return value if isinstance(value, str | int | float | bool) else str(value)


def result_record(result: Result) -> dict[str, Any]:
    """Return a result as the object that `submit` prints and that stands in the results of `batch`."""
    return {
        "index": result.index,
        "sample": result.sample,
        "task_id": result.task_id,
        "chain_id": result.chain_id,
        "parent_id": result.parent_id,
        "status": result.status,
        "success": result.success,
        "platform": result.platform,
        "model": result.model,
        "tier": result.tier,
        "output": result.output,
        "parsed": result.parsed,
        "error": result.error,
        "error_class": result.error_class,
        "cost": usd(result.cost),
        "list_cost": usd(result.list_cost),
        "input_tokens": result.usage.input_tokens,
        "output_tokens": result.usage.output_tokens,
        "duration_s": round(result.duration_s, 6),
        "attempts": result.attempts,
        "reused": result.reused,
        "finish_reason": result.finish_reason,
        "tags": dict(result.task.tags or {}),
    }


def platform_record(row: Listed) -> dict[str, Any]:
    """Return a platform as the object that `platforms` prints."""
    now_us = time.time_ns() // 1000
    return {
        "name": row.name,
        "found": row.found,
        "automatic": row.automatic,
        "model": row.model,
        "tier": row.tier,
        "version": row.version,
        "login": row.login,
        "data_use": row.data_use,
        "plan": None if row.plan is None else row.plan.title,
        "limits": dict(row.limits),
        "quota": [
            {
                "window": reading.window,
                "used_percent": reading.used_percent,
                "resets_at_us": reading.resets_at,
                "age_s": round((now_us - reading.observed_at) / 1e6, 3),
                "source": reading.source,
            }
            for reading in row.quota
        ],
        "why": row.why,
    }


def batch_totals(batch: BatchResult) -> dict[str, Any]:
    """Return the counts and sums of a batch."""
    return {
        "status": batch.status,
        "name": batch.name,
        "total_tasks": len(batch),
        "success_count": batch.success_count,
        "failure_count": batch.failure_count,
        "success_rate": batch.success_rate,
        "reused_count": batch.reused_count,
        "total_cost": usd(batch.total_cost),
        "cost_complete": batch.cost_complete,
        "total_list_cost": usd(batch.total_list_cost),
        "total_tokens": batch.total_tokens,
        "total_duration_s": round(batch.duration_s, 6),
        "ledger": None if batch.ledger_path is None else str(batch.ledger_path),
    }


def batch_record(batch: BatchResult) -> dict[str, Any]:
    """Return a batch as the object that an output file holds: its totals, and every result in input order."""
    return {**batch_totals(batch), "results": [result_record(result) for result in batch]}


def plan_record(plan: Plan) -> dict[str, Any]:
    """Return a plan as the object that `plan` prints: its sums, its quota, and a line for each task in input order."""
    return {
        "total_tasks": len(plan),
        "reused": plan.reused,
        "unplaced": plan.unplaced,
        "cost": {name: usd(amount) for name, amount in plan.cost._asdict().items()},
        "list_cost": usd(plan.list_cost),
        "gap": usd(plan.gap),
        "input_tokens": plan.tokens[0],
        "output_tokens": plan.tokens[1],
        "eta_s": plan.eta_s,
        "models": plan.models,
        "by_platform": [
            {"platform": platform, "model": model, "tier": tier, "tasks": tasks}
            for (platform, model, tier), tasks in plan.by_platform.items()
        ],
        "quota_after": [window_record(use) for use in plan.quota_after],
        "warnings": list(plan.warnings),
        "questions": [question.text for question in plan.questions],
        "excluded": dict(plan.excluded),
        "tasks": [
            {
                "index": line.index,
                "sample": line.sample,
                "platform": line.platform,
                "model": line.model,
                "tier": line.tier,
                "why": line.why,
                "input_tokens": line.input_tokens,
                "output_tokens": line.output_tokens,
                "cost": {name: usd(amount) for name, amount in line.cost._asdict().items()},
                "list_cost": usd(line.list_cost),
                "reused": line.reused,
            }
            for line in plan
        ],
    }


def window_record(use: WindowUse, reserved: float | None = None) -> dict[str, Any]:
    """Return a quota window or budget as the object that `quota` and `plan` print."""
    record = {
        "platform": use.platform,
        "window": use.window,
        "unit": use.unit,
        "limit": use.limit,
        "used": use.used if reserved is None or use.used is None else use.used - reserved,
        "percent": use.percent_before,
        "resets_at_us": use.resets_at,
        "source": use.source,
        "age_s": None if use.age_s is None else round(use.age_s, 3),
    }
    if reserved is not None:
        return record | {"reserved": reserved}
    return record | {"planned": use.planned, "percent_after": use.percent_after}


def call_record(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call as the object that `status` prints."""
    return {**call, "cost": usd(from_pico(call["cost"]))}


def explanation_record(explanation: Explanation) -> dict[str, Any]:
    """Return a task's history as the object that `status --task` prints; money in USD."""

    def row(given: Mapping[str, Any]) -> dict[str, Any]:
        money = {name: usd(from_pico(given[name])) for name in ("cost", "list_cost")}
        return {**given, **money}

    return {
        "task_id": explanation.task_id,
        "attempts": [row(one) for one in explanation.attempts],
        "outcome": None if explanation.outcome is None else row(explanation.outcome),
        "source": [row(one) for one in explanation.source],
    }
