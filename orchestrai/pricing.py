"""Prices: what a usage costs at a list price, exactly, with where that price comes from.

Money is `Decimal` USD on objects and whole pico-USD (10^-12 USD) in the ledger. List prices come from genai-prices,
loaded when the first price is asked for and never updated over the network; a table of one's own stands in front.
What is not known is None, never zero and never a guess from a similar name.
"""

from __future__ import annotations

import hashlib
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson

from orchestrai import list_prices
from orchestrai.errors import InvalidSettings, nearest
from orchestrai.list_prices import CLASSES, REQUEST_FEE, Listed

PriceSource = Literal["override", "genai-prices", "platform"]
PriceMatch = Literal["exact", "alias", "standard_fallback", "override"]

_UNITS: Final = (*CLASSES, REQUEST_FEE)
_ROW_FIELDS: Final = (*_UNITS, "valid_from", "source")
_LEAST, _MOST = Decimal("0.001"), Decimal(1000)  # USD per million tokens; beyond them a unit was mistaken
_MOST_TOKENS: Final = 1_000_000_000
_MOST_PICO: Final = 10**18  # a million USD: the bound of DECIMAL(18, 12)
_STANDARD: Final = frozenset({"", "standard", "default", "auto", "on_demand"})  # tiers that mean the plain price
_MOST_CACHED: Final = 10_000
_DAY: Final = 86_400
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)  # a notebook may have changed the default context
_ONE: Final = Decimal(1)


class TokenUsage(Protocol):
    """What is read of a usage: `orchestrai.result.Usage`."""

    @property
    def input_tokens(self) -> int | None:
        """All input, cached and written ones included [tokens]."""

    @property
    def cache_read_tokens(self) -> int | None:
        """Part of the input that came from a cache [tokens]."""

    @property
    def cache_write_tokens(self) -> int | None:
        """Part of the input written to a cache [tokens]."""

    @property
    def output_tokens(self) -> int | None:
        """All output, reasoning included [tokens]."""

    @property
    def reasoning_tokens(self) -> int | None:
        """Part of the output that was reasoning [tokens]."""


def to_pico(amount: Decimal | None) -> int | None:
    """Return an amount of USD as whole pico-USD, rounded half-even; None stays None."""
    if amount is None:
        return None
    return int(_EXACT.quantize(_EXACT.scaleb(amount, 12), _ONE))


def from_pico(pico: int | None) -> Decimal | None:
    """Return whole pico-USD as an exact amount of USD; None stays None."""
    if pico is None:
        return None
    return _EXACT.scaleb(pico, -12) if pico else Decimal(0)


class Rates(NamedTuple):
    """Charges of one tier, in whole parts of a pico-USD; None where the price has no such class."""

    input: int
    cache_read: int
    cache_write: int
    output: int | None
    reasoning: int | None
    request: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The list price of one model in one context on one day.

    Args:
        provider: Whose price list it is on.
        model: The model's name on that list.
        unit_prices: USD per million tokens of each class in `CLASSES` that has a price of its own (and
            `requests_kcount`, USD per thousand requests, where there is such a fee).
        tiers: `(threshold, unit_prices)` with rising thresholds [input tokens]: a request with more input than a
            threshold is priced whole at that tier.
        context: What the price depends on beyond the model: `processing`, `service_tier`.
        source: override (settings), platform (the platform's own price), genai-prices.
        source_version: Version of genai-prices, or the `source` label of one's own row.
        source_url: The provider's page of prices.
        effective_from: First day of this price; None when it has none.
        match: exact; alias (the list knows the name as another spelling); standard_fallback (the list has no price
            for the context, the standard price stands in); override (one's own row).
        price_id: Start of the SHA-256 of provider, model, context, unit prices and source: the key of the ledger's price table.
    """

    provider: str
    model: str
    unit_prices: Mapping[str, Decimal] = field(compare=False)
    tiers: tuple[tuple[int, Mapping[str, Decimal]], ...] = field(default=(), compare=False)
    context: Mapping[str, str] = field(default_factory=dict, compare=False)
    source: PriceSource
    source_version: str | None = field(default=None, compare=False)
    source_url: str | None = field(default=None, compare=False)
    effective_from: date | None = field(default=None, compare=False)
    match: PriceMatch
    price_id: str = field(init=False)
    _thresholds: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _rates: tuple[Rates, ...] = field(init=False, repr=False, compare=False)
    _parts: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        vectors = (self.unit_prices, *(units for _, units in self.tiers))
        digits = max(_digits_below_pico(price) for units in vectors for price in units.values())
        computed = {
            "price_id": hashlib.sha256(self._canonical()).hexdigest()[:16],
            "_thresholds": tuple(threshold for threshold, _ in self.tiers),
            "_rates": tuple(_rates(units, digits) for units in vectors),
            "_parts": 10**digits,
        }
        for name, value in computed.items():
            object.__setattr__(self, name, value)

    @property
    def unit_cost(self) -> Decimal | None:
        """USD per million tokens of which three quarters are input: orders offers; None without an output price."""
        output = self.unit_prices.get("output_mtok")
        return None if output is None else (3 * self.unit_prices["input_mtok"] + output) / 4

    def cost(self, usage: TokenUsage) -> Decimal | None:
        """Return what the usage costs at this price [USD], rounded half-even once, to 12 decimals.

        Args:
            usage: Token counts with inclusive totals. Unknown cache counts are taken for 0, that is, the input
                then costs its full price, and unknown reasoning is ordinary output. Tokens written to a cache for
                an hour cost as those for five minutes, as the counts do not tell them apart.

        Returns:
            None when input or output is unknown, when a class with tokens has no price, and when the usage makes
            no sense: negative, a part larger than its total, more than 10^9 tokens, or a million USD and more.
        """
        return from_pico(self.pico(usage))

    def pico(self, usage: TokenUsage) -> int | None:
        """Return what the usage costs as whole pico-USD; see `cost`."""
        total_in, total_out = usage.input_tokens, usage.output_tokens
        if total_in is None or total_out is None:
            return None
        read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
        reasoning = usage.reasoning_tokens or 0
        plain = total_in - read - written
        if not (
            read >= 0 <= written
            and plain >= 0
            and 0 <= reasoning <= total_out <= _MOST_TOKENS
            and total_in <= _MOST_TOKENS
        ):
            return None
        rates = self._rates[bisect_left(self._thresholds, total_in)]
        parts = plain * rates.input + read * rates.cache_read + written * rates.cache_write + rates.request
        if total_out:
            if rates.output is None or rates.reasoning is None:
                return None
            parts += (total_out - reasoning) * rates.output + reasoning * rates.reasoning
        if self._parts != 1:
            parts = _divided_half_even(parts, self._parts)
        return parts if parts < _MOST_PICO else None

    def charges(self) -> tuple[int, tuple[tuple[int, Rates], ...]]:
        """Return what a token costs, for arithmetic elsewhere that must come to the same as `pico`.

        Returns:
            The number of parts of a pico-USD that charges are counted in; and for each tier, the rising one after the
            other, the input above which it holds [tokens] and its charges [parts]. The sum of a request is divided by
            the parts, half-even.
        """
        return self._parts, tuple(zip((-1, *self._thresholds), self._rates, strict=True))

    def row(self) -> dict[str, str | None]:
        """Return this price as a row of the ledger's table `prices`.

        Returns:
            price_id, provider, model, context (JSON object), unit_prices (JSON object of decimal strings; with
            tiers, `tiers` is a list of such objects, each with its threshold as `above`), source, source_version,
            source_url, effective_from (ISO date).
        """
        return {
            "price_id": self.price_id,
            "provider": self.provider,
            "model": self.model,
            "context": _json(dict(self.context)).decode(),
            "unit_prices": _json(self._vector()).decode(),
            "source": self.source,
            "source_version": self.source_version,
            "source_url": self.source_url,
            "effective_from": self.effective_from.isoformat() if self.effective_from else None,
        }

    def _vector(self) -> dict[str, Any]:
        vector: dict[str, Any] = _as_text(self.unit_prices)
        if self.tiers:
            vector["tiers"] = [{"above": threshold, **_as_text(units)} for threshold, units in self.tiers]
        return vector

    def _canonical(self) -> bytes:
        return _json([self.provider, self.model, dict(self.context), self._vector(), self.source])


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _as_text(units: Mapping[str, Decimal]) -> dict[str, Any]:
    return {name: format(_EXACT.normalize(price), "f") for name, price in units.items()}


def _digits_below_pico(price: Decimal) -> int:
    """Return the decimal digits that a price per million has beyond whole pico-USD per token."""
    exponent = _EXACT.normalize(price).as_tuple().exponent
    assert isinstance(exponent, int)  # finite: checked where prices enter
    return max(0, -6 - exponent)


def _rates(units: Mapping[str, Decimal], digits: int) -> Rates:
    def parts(price: Decimal | None, per: int) -> int | None:
        return None if price is None else int(_EXACT.scaleb(price, 12 - per + digits))

    plain, output = parts(units["input_mtok"], 6), parts(units.get("output_mtok"), 6)
    assert plain is not None
    read, written = parts(units.get("cache_read_mtok"), 6), parts(units.get("cache_write_mtok"), 6)
    reasoning = parts(units.get("output_reasoning_mtok"), 6)
    return Rates(
        plain,
        plain if read is None else read,
        plain if written is None else written,
        output,
        output if reasoning is None else reasoning,
        parts(units.get(REQUEST_FEE), 3) or 0,
    )


def _divided_half_even(number: int, by: int) -> int:
    quotient, rest = divmod(number, by)
    return quotient + (2 * rest > by or (2 * rest == by and quotient % 2 == 1))


class _Row(NamedTuple):
    """One dated row of one's own prices."""

    valid_from: date
    units: Mapping[str, Decimal]
    label: str | None


_Daily = tuple[tuple[int, ...], tuple[Price | None, ...]]
"""Prices of one day: seconds of the day from which each holds, and the prices."""


class PriceList:
    """Every price that can be known without asking anybody.

    Looked up in this order: the platform's own price, the rows of the settings, genai-prices.

    Args:
        overrides: The table `prices` of the settings: `"provider/model"` → a row or a list of dated rows with
            `input_mtok`, `output_mtok` and, where they differ, `cache_read_mtok`, `cache_write_mtok`,
            `output_reasoning_mtok` [USD per million tokens; text, or a number taken at its shortest decimal form],
            `requests_kcount` (a fee beside the tokens) [USD per thousand requests], `valid_from` (first day, UTC)
            and `source` (a label).

    Raises:
        InvalidSettings: A key is unknown, a price is missing or not between $0.001 and $1,000 (0 is allowed).
    """

    def __init__(self, overrides: Mapping[str, Any] | None = None) -> None:
        self._overrides = dict(_override(key, rows) for key, rows in (overrides or {}).items())
        self._own: dict[int, tuple[Mapping[str, Any], tuple[_Row, ...]]] = {}
        self._found: dict[tuple[Any, ...], _Daily] = {}

    def find(
        self,
        provider: str | None,
        model: str | None,
        *,
        requested: str | None = None,
        at: datetime | None = None,
        service_tier: str | None = None,
        processing: str = "sync",
        own: Mapping[str, Any] | None = None,
    ) -> Price | None:
        """Return the price of a model; None when no list has it, and never that of a similar one.

        Args:
            provider: Whose price list, by its exact id in genai-prices; a server of an unknown provider is unpriced.
            model: The model that answered, as the provider names it.
            requested: The model asked for; tried when `model` is not on the list.
            at: When the request was made; now by default, UTC when it has no zone.
            service_tier: The tier that the reply names; "batch" there means `processing="batch"`.
            processing: "sync" or "batch".
            own: The platform's own price: one row with the fields of the settings' table; empty is none. Read once.

        Raises:
            InvalidSettings: `own` is no valid row.
        """
        moment = time.time() if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        day = int(moment // _DAY)
        key = (provider, model, requested, day, service_tier, processing, None if own is None else id(own))
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= _MOST_CACHED:
                self._found.clear()
            found = self._found[key] = self._resolve(provider, (model, requested), day, service_tier, processing, own)
        starts, prices = found
        return prices[0] if len(prices) == 1 else prices[bisect_right(starts, moment % _DAY) - 1]

    def _resolve(
        self,
        provider: str | None,
        models: Sequence[str | None],
        day: int,
        service_tier: str | None,
        processing: str,
        own: Mapping[str, Any] | None,
    ) -> _Daily:
        names = [name for name in dict.fromkeys(models) if name]
        if own and names:
            # The mapping is kept beside its rows, so that its id cannot come to mean another one.
            _, rows = self._own.setdefault(id(own), (own, _dated_rows(own, "price of the platform")))
            if price := _own_price(rows, provider or "", names[0], day, "platform"):
                return (0,), (price,)
        context = _context(service_tier, processing)
        for name in names if provider else ():
            assert provider is not None
            listed = list_prices.find(provider, name)
            for known in dict.fromkeys((name, listed.model.id) if listed else (name,)):
                rows = self._overrides.get((provider.lower(), known.lower()), ())
                if price := _own_price(rows, provider, known, day, "override"):
                    return (0,), (price,)
            if listed and (daily := _list_prices(listed, name, day, context)):
                return daily
        return (0,), (None,)


def check_own_price(table: Mapping[str, Any], where: str) -> None:
    """Refuse a platform's own price that `PriceList.find` could not use.

    Raises:
        InvalidSettings: A key is unknown, a price is missing or out of bounds; the message begins with `where`.
    """
    _dated_rows(table, where)


# --- one's own rows


def _override(key: str, value: Any) -> tuple[tuple[str, str], tuple[_Row, ...]]:
    provider, _, model = str(key).partition("/")
    if not provider or not model:
        raise InvalidSettings(f'prices: {key!r} is no "provider/model", as in [prices."deepseek/deepseek-chat"].')
    return (provider.lower(), model.lower()), _dated_rows(value, f'prices."{key}"')


def _dated_rows(value: Any, where: str) -> tuple[_Row, ...]:
    """Return checked rows, the earliest first."""
    tables = [value] if isinstance(value, Mapping) else value
    if not isinstance(tables, Sequence) or isinstance(tables, str | bytes) or not tables:
        raise InvalidSettings(f"{where}: a price is a table or a list of dated tables, not {type(value).__name__}.")
    rows = sorted((_row(table, where) for table in tables), key=lambda row: row.valid_from)
    for earlier, later in pairwise(rows):
        if earlier.valid_from == later.valid_from:
            raise InvalidSettings(f"{where}: two prices begin on the same day. Give each its own valid_from.")
    return tuple(rows)


def _row(table: Any, where: str) -> _Row:
    if not isinstance(table, Mapping):
        raise InvalidSettings(f"{where}: a price is a table, not {type(table).__name__}.")
    for name in table:
        if name not in _ROW_FIELDS:
            raise InvalidSettings(f"{where}: unknown key {name!r}.{nearest(name, _ROW_FIELDS)}")
    for name in ("input_mtok", "output_mtok"):
        if name not in table:
            raise InvalidSettings(f"{where}: {name} is missing [USD per million tokens].")
    units = {name: _unit_price(table[name], f"{where}.{name}") for name in _UNITS if name in table}
    label = table.get("source")
    if label is not None and not isinstance(label, str):
        raise InvalidSettings(f"{where}.source: a label is text, not {type(label).__name__}.")
    return _Row(_first_day(table.get("valid_from"), f"{where}.valid_from"), units, label)


def _unit_price(value: Any, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise InvalidSettings(f"{where}: a price is a number or text, not {type(value).__name__}.")
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        raise InvalidSettings(f"{where}: {value!r} is no price.") from None
    if price != 0 and not (price.is_finite() and _LEAST <= price <= _MOST):
        raise InvalidSettings(
            f"{where}: {value} is not between {_LEAST} and {_MOST} USD per million tokens (or thousand requests). "
            "Was it meant per token or per thousand?"
        )
    return price.copy_abs()  # no negative zero; exact in any decimal context


def _first_day(value: Any, where: str) -> date:
    if value is None:
        return date.min
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidSettings(f"{where}: {value!r} is no day like 2026-01-31.") from None


def _own_price(
    rows: Sequence[_Row], provider: str, model: str, day: int, source: Literal["override", "platform"]
) -> Price | None:
    """Return the newest row that has begun, as a price; None when none has."""
    today = date(1970, 1, 1) + timedelta(days=day)
    row = next((row for row in reversed(rows) if row.valid_from <= today), None)
    if row is None:
        return None
    return Price(
        provider=provider,
        model=model,
        unit_prices=row.units,
        source=source,
        source_version=row.label,
        effective_from=None if row.valid_from == date.min else row.valid_from,
        match="override",
    )


# --- genai-prices


def _context(service_tier: str | None, processing: str) -> dict[str, str]:
    """Return what a price depends on, in the words of genai-prices; empty for the standard price."""
    tier = (service_tier or "").lower()
    if tier == "batch":  # how Anthropic reports it
        tier, processing = "", "batch"
    context = {} if processing == "sync" else {"processing": processing}
    return context if tier in _STANDARD else {**context, "service_tier": tier}


def _list_prices(listed: Listed, name: str, day: int, context: Mapping[str, str]) -> _Daily | None:
    """Return the prices of one day: one, or several where a model is cheaper at some hours; None without any."""
    starts = listed.changes()
    midnight = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    prices = tuple(_list_price(listed, name, midnight + timedelta(seconds=start), context) for start in starts)
    return (starts, prices) if any(prices) else None


def _list_price(listed: Listed, name: str, at: datetime, context: Mapping[str, str]) -> Price | None:
    units, tiers = listed.unit_prices(at, context)
    if "input_mtok" not in units:
        return None
    exact = listed.model.id.lower() == name.lower()
    return Price(
        provider=listed.provider.id,
        model=listed.model.id,
        unit_prices=units,
        tiers=tiers,
        context=context,
        source="genai-prices",
        source_version=list_prices.version(),
        source_url=listed.url,
        effective_from=listed.since(at),
        match=("exact" if exact else "alias") if listed.knows(at, context) else "standard_fallback",
    )
