"""Budgets: how much cash may go where, over a day, a month or one call; each is a meter like a quota window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from orchestrai.errors import InvalidSettings, nearest
from orchestrai.limits.quota import Meter, Window, check_window
from orchestrai.settings import dollars

BudgetSpan = Literal["day", "week", "month"]

_FIELDS: Final = ("usd", "per", "hard", "platform", "tag", "chain", "time_zone")
_SPANS: Final = ("day", "week", "month")


@dataclass(frozen=True, slots=True)
class Budget:
    """Cash over a span of time, for everything or for a part of it.

    Args:
        usd: How much [USD].
        per: day, week or month of the calendar.
        hard: Refuse what would go beyond it; else only warn.
        platform: Count this platform alone.
        tag: Count tasks with this tag alone: `name` or `name=value`.
        chain: Count this chain alone.
        time_zone: IANA name of the zone whose calendar counts.
    """

    usd: Decimal
    per: BudgetSpan
    hard: bool = False
    platform: str | None = None
    tag: str | None = None
    chain: str | None = None
    time_zone: str = "UTC"

    @property
    def meter(self) -> Meter:
        """What it counts in, the same in every process."""
        part = [f"{name}={value}" for name in ("platform", "tag", "chain") if (value := getattr(self, name))]
        window = Window("usd", self.usd, self.per, "fixed", self.time_zone)
        words = " ".join((f"budget/{self.per}", self.time_zone, *part))
        return Meter(words, window, source="settings", hard=self.hard)

    def counts(self, platform: str, tags: Mapping[str, Any] | None, chain: str | None) -> bool:
        """Return True when a task on a platform counts in it."""
        if self.platform not in (None, platform) or self.chain not in (None, chain):
            return False
        if self.tag is None:
            return True
        name, equals, value = self.tag.partition("=")
        return name in (tags or {}) and (not equals or str((tags or {})[name]) == value)


def call_meter(max_cost: Decimal, call_id: str) -> Meter:
    """Return the meter of `max_cost`: one call's own, and hard."""
    window = Window("usd", max_cost, "call", "rolling")
    return Meter(f"call/{call_id}", window, source="max_cost", shared=False)


def budgets_from(value: Any, where: str) -> tuple[Budget, ...]:
    """Return budgets as they are written in a file: a list of tables.

    Raises:
        InvalidSettings: A field is unknown, missing, or of the wrong kind; the message names the nearest.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
        raise InvalidSettings(f"{where} is a list of tables ([[budgets]]), not {value!r}.")
    return tuple(_budget(table, f"{where}[{number}]") for number, table in enumerate(value))


def _budget(table: Any, where: str) -> Budget:
    if not isinstance(table, Mapping):
        raise InvalidSettings(f"{where} is a table, not {type(table).__name__}.")
    for name in table:
        if name not in _FIELDS:
            raise InvalidSettings(f"{where}: unknown field {name!r}.{nearest(name, _FIELDS)}")
    for name in ("usd", "per"):
        if name not in table:
            raise InvalidSettings(f"{where}: {name} is missing.")
    if table["per"] not in _SPANS:
        raise InvalidSettings(
            f"{where}: per is one of {', '.join(_SPANS)}, not {table['per']!r}.{nearest(str(table['per']), _SPANS)}"
        )
    if not isinstance(table.get("hard", False), bool):
        raise InvalidSettings(f"{where}: hard is true or false, not {table['hard']!r}.")
    for name in ("platform", "tag", "chain", "time_zone"):
        if not isinstance(table.get(name), str | None):
            raise InvalidSettings(f"{where}: {name} is a text, not {table[name]!r}.")
    budget = Budget(**{**table, "usd": dollars(table["usd"], f"{where}: usd")})
    check_window(budget.meter.window, where)
    return budget
