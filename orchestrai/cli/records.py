"""Results as JSON: the fields that scripts may rely on, listed in docs/how-to/command_line.md."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final

from orchestrai.result import Result
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
