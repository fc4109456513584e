"""Quota windows: so much of a unit over a span of time; which uses count at a moment, and when there is room again.

    unit     requests, tokens, percent (of a plan whose size nobody publishes) or usd
    per      minute, hour, 5 hours, day, week, month; "call" for one call, which never begins anew
    reset    fixed     at the turn of the calendar in `time_zone`
             rolling   counted over the last such span
             told      the provider says when; what it says counts, not what is counted here

Uses are counted in buckets, so that a window is a sum over few rows: a fixed window's bucket is its period, a rolling
one's a sixtieth of its span. A use counts until its whole bucket has left the span, so never too short. Pure arithmetic
over moments in µs since 1970 (UTC); nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final, Literal

from orchestrai.errors import InvalidSettings

Unit = Literal["requests", "tokens", "percent", "usd"]
Span = Literal["minute", "hour", "5 hours", "day", "week", "month", "call"]
Reset = Literal["fixed", "rolling", "told"]

SPAN_S: Final[dict[Span, int]] = {
    "minute": 60,
    "hour": 3_600,
    "5 hours": 18_000,
    "day": 86_400,
    "week": 604_800,
    "month": 31 * 86_400,
}
"""Length of a span [s]; of a month, the longest."""

_BUCKETS: Final = 60  # in the span of a rolling window
_SECOND: Final = 1_000_000  # µs
_PICO: Final = 10**12


@dataclass(frozen=True, slots=True)
class Window:
    """A quota window: so much of a unit over a span of time.

    Args:
        unit: What is counted.
        limit: How much of it; 100 for percent, dollars for usd.
        per: The span it is counted over.
        reset: fixed (at the turn of the calendar), rolling (counted over the last such span), told (the provider says
            when).
        time_zone: IANA name of the zone whose calendar a fixed window follows.
        each: What it counts for: the whole account, or each of its models by itself.
        told_as: What the provider calls it where it tells how much is used.
    """

    unit: Unit
    limit: float | Decimal
    per: Span
    reset: Reset
    time_zone: str | None = None
    each: Literal["account", "model"] = "account"
    told_as: tuple[str, ...] = ()

    @property
    def whole(self) -> int:
        """The limit in whole numbers of what is counted: requests, tokens, millionths of a percent, pico-dollars."""
        return counted(self.unit, self.limit)

    @property
    def is_rate(self) -> bool:
        """True for a minute's window: it says how fast, not how much; whoever waits a little gets through."""
        return self.per == "minute"

    def period(self, at_us: int) -> tuple[int, int | None]:
        """Return from when uses count at a moment, and when a fixed window begins anew [µs]; None for the others."""
        if self.per == "call":
            return 0, None
        if self.reset == "fixed" and self.time_zone is not None:
            return _calendar(self.per, self.time_zone, at_us)
        width = self._width_us
        return at_us - (at_us % width) - _BUCKETS * width, None

    def bucket(self, at_us: int) -> int:
        """Return the bucket of a use at a moment: when that bucket began [µs]."""
        if self.per == "call" or self.reset == "fixed":
            return self.period(at_us)[0]
        return at_us - at_us % self._width_us

    def counts_until(self, at_us: int) -> int:
        """Return the last bucket that counts at a moment [µs]: a clock that jumped back counts what it counted before."""
        return at_us + SPAN_S.get(self.per, 0) * _SECOND

    def room_at(self, uses: Iterable[tuple[int, int]], amount: int, at_us: int) -> int | None:
        """Return when there is room for an amount, if nothing more is used until then [µs]; None for never.

        Args:
            uses: Bucket and whole number used or reserved in it, oldest first; those that count at the moment.
            amount: What is to be used, in whole numbers.
            at_us: The moment.
        """
        if amount > self.whole:
            return None
        held = list(uses)
        total = sum(use for _, use in held)
        if total + amount <= self.whole:
            return at_us
        if self.per == "call" or self.reset == "told":
            return None
        if self.reset == "fixed":
            return self.period(at_us)[1]
        for bucket, use in held:
            total -= use
            if total + amount <= self.whole:
                return bucket + (_BUCKETS + 1) * self._width_us  # a use at its end has then left the span too
        return None

    @property
    def _width_us(self) -> int:
        return SPAN_S[self.per] * _SECOND // _BUCKETS

    def __str__(self) -> str:
        span = "" if self.per == "call" else f" per {self.per}"
        return f"{amount_text(self.unit, self.whole)}{span}"


@dataclass(frozen=True, slots=True)
class Meter:
    """A window of one account, or one budget: what every process that shares the ledger counts under one id.

    Args:
        id: The same in every process.
        window: What is counted, and over what.
        platform: Whose; None for a budget over several.
        account: Of the platform, as a short hash; empty where it tells none apart.
        source: Who says so: settings, catalogue, budget.
        hard: A use beyond it is refused; else it is only told.
        shared: Others may need a part of it: one call at a time reserves no more than half of what is left.
    """

    id: str
    window: Window
    platform: str | None = None
    account: str = ""
    source: str = "settings"
    hard: bool = True
    shared: bool = field(default=True, compare=False)


def counted(unit: Unit, amount: float | Decimal) -> int:
    """Return an amount of a unit as the whole number that is counted for it."""
    if unit == "usd":
        return int(Decimal(str(amount)) * _PICO)
    return int(float(amount) * 1_000_000) if unit == "percent" else int(amount)


def amount_text(unit: Unit, whole: int) -> str:
    """Return a whole number of a unit in words: `1,500 requests`, `37 %`, `$2.50`."""
    if unit == "usd":
        return f"${Decimal(whole) / _PICO:,.2f}" if whole >= _PICO // 100 else f"${Decimal(whole) / _PICO:.6f}"
    if unit == "percent":
        return f"{whole / 1_000_000:.0f} %"
    return f"{whole:,} {unit}"


def check_window(window: Window, where: str) -> None:
    """Refuse a window that cannot be.

    Raises:
        InvalidSettings: Its parts contradict each other.
    """
    if (window.reset == "fixed") != (window.time_zone is not None):
        raise InvalidSettings(f"{where}: a window has a time_zone exactly when its reset is fixed.")
    if window.reset == "fixed" and window.per == "5 hours":
        raise InvalidSettings(f"{where}: no calendar turns every 5 hours; reset is rolling or told.")
    if window.unit == "percent" and window.limit > 100:
        raise InvalidSettings(f"{where}: limit is at most 100 percent, not {window.limit!r}.")
    if window.time_zone is not None:
        _zone(window.time_zone, where)


def _zone(name: str, where: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise InvalidSettings(f"{where}: no time zone {name!r} is known here (America/Los_Angeles is one).") from None


@lru_cache(maxsize=1024)
def _calendar_at(per: Span, time_zone: str, minute: int) -> tuple[int, int]:
    """Return beginning and end of the period that holds a minute since 1970 [µs]."""
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(time_zone)
    local = datetime.fromtimestamp(minute * 60, zone)
    if per in ("minute", "hour"):
        length = 60 if per == "hour" else 1
        first = minute - local.minute if per == "hour" else minute  # offsets of zones are whole minutes today
        return first * 60 * _SECOND, (first + length) * 60 * _SECOND
    day = local.date()
    if per == "week":
        day -= timedelta(days=local.weekday())
    elif per == "month":
        day = day.replace(day=1)
    following = day + timedelta(days={"day": 1, "week": 7, "month": 32}[per])
    if per == "month":
        following = following.replace(day=1)
    begin, end = (datetime.combine(one, time(), zone).astimezone(UTC) for one in (day, following))
    return int(begin.timestamp()) * _SECOND, int(end.timestamp()) * _SECOND


def _calendar(per: Span, time_zone: str, at_us: int) -> tuple[int, int]:
    return _calendar_at(per, time_zone, at_us // (60 * _SECOND))
