"""Explanation: every attempt, wait, route and price of one task, as the ledger has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from orchestrai import text
from orchestrai.pricing import from_pico

if TYPE_CHECKING:
    import pandas as pd

_TITLES = ("attempt", "platform", "why", "waited", "took", "tokens", "cost", "end")
_WHY = {
    "hint": "the task named it",
    "only": "nothing else could answer",
    "cheapest": "the cheapest",
    "window": "its first choice had no place left",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of one task, and why.

    Args:
        task_id: Its id in the ledger.
        attempts: Every request sent for it, in order: the columns of the ledger, with the offer and the price.
        outcome: How it was settled where no request of its own did: reused, cancelled, without a place; None otherwise.
        source: The requests of the task whose answer it took; empty where it took none.
    """

    task_id: str
    attempts: Sequence[Mapping[str, Any]]
    outcome: Mapping[str, Any] | None = None
    source: Sequence[Mapping[str, Any]] = ()

    def lines(self) -> list[str]:
        """Return what is to be said beside the table of attempts, one fact each."""
        said = []
        outcome = self.outcome
        if outcome is not None and outcome["reused_from"]:
            said.append(f"It took the answer of task {outcome['reused_from']}, which is shown below; it cost nothing.")
        elif outcome is not None:
            end = text.ended(outcome["status"], outcome["error_class"], outcome["error"] or "")
            said.append(f"It was settled without a further request: {end}")
        if not self.attempts and outcome is None:
            said.append("The ledger knows no task of this id.")
        prices: dict[str, None] = {}
        for row in (*self.attempts, *self.source):
            if row["price_model"] is not None:
                prices[_price(row)] = None
        return [*said, *prices]

    def rows(self) -> list[list[str]]:
        """Return the attempts as rows of text."""
        return [_row(row) for row in (self.attempts or self.source)]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per attempt.

        Returns:
            A new frame with a RangeIndex and the columns of the ledger: `attempt_no`, `attempt_kind`, `platform`,
            `model_requested`, `tier`, `route_reason`, `status`, `error_class`, times [µs since 1970 or ms], tokens, `cost` and
            `list_cost` [10^-12 USD], and the price.
        """
        import pandas as pd

        return pd.DataFrame([dict(row) for row in (self.attempts or self.source)])

    def __repr__(self) -> str:
        parts = [f"Task {text.printable(self.task_id)}", *map(text.printable, self.lines())]
        if rows := self.rows():
            parts += ["", text.table(rows, _TITLES, right={3, 4, 5, 6})]
        return "\n".join(parts)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        from orchestrai import html

        shown = html.table_block(f"Task {self.task_id}", _TITLES, self.rows())
        if said := self.lines():
            shown += html.table_block("", ("", ""), [("", line) for line in said])
        return {"text/plain": repr(self), "text/html": shown}


def _row(row: Mapping[str, Any]) -> list[str]:
    where = f"{row['platform']}/{row['model_used'] or row['model_requested']} ({row['tier']})"
    why = _WHY.get(row["route_reason"], row["route_reason"])
    kind = "" if row["attempt_kind"] == "first" else f"; a {row['attempt_kind']}"
    waits = [(row["queue_ms"] or 0) / 1000, (row["backoff_ms"] or 0) / 1000]
    waited = text.duration(waits[0]) + (f" + {text.duration(waits[1])}" if waits[1] else "")
    took = "" if row["duration_ms"] is None else text.duration(row["duration_ms"] / 1000)
    end = "in doubt: no end is recorded" if row["status"] is None else row["status"]
    if row["error_class"]:
        told = f", told to wait {text.duration(row['retry_after_ms'] / 1000)}" if row["retry_after_ms"] else ""
        status = f" {row['http_status']}" if row["http_status"] else ""
        end = text.ended(end, row["error_class"], text.excerpt(row["error_message"] or "", 120), f"{status}{told}")
    tokens = f"{text.count(row['input_tokens'])} in, {text.count(row['output_tokens'])} out"
    cost = f"{text.money(from_pico(row['cost']))} (list {text.money(from_pico(row['list_cost']))})"
    return [str(row["attempt_no"]), text.excerpt(where, 60), f"{why}{kind}", waited, took, tokens, cost, end]


def _price(row: Mapping[str, Any]) -> str:
    units = orjson.loads(row["unit_prices"])
    shown = ", ".join(
        f"{name.removesuffix('_mtok')} ${value}" for name, value in units.items() if isinstance(value, str)
    )
    version = f" {row['price_version']}" if row["price_version"] else ""
    since = f", since {row['price_since']}" if row["price_since"] else ""
    match = "" if row["price_match"] == row["price_source"] else f"; {row['price_match']}"
    return (
        f"Price of {row['price_provider']}/{row['price_model']} per million tokens: {shown} "
        f"({row['price_source']}{version}{since}{match})"
    )
