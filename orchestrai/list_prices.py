"""List prices: what genai-prices knows of a model, read without its traps.

Its data is bundled Python of 2,330 models (0.2 s and 69 MB to load, on first use). It is read in place: never the
process-wide snapshot, which other libraries of the same kernel may have replaced or update over the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

CLASSES: Final = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok")
"""Token classes with a unit price [USD per million tokens], named as in genai-prices."""

REQUEST_FEE: Final = "requests_kcount"
"""A fee beside the tokens [USD per thousand requests]."""

UnitPrices = dict[str, Decimal]
Tiers = tuple[tuple[int, UnitPrices], ...]


class Listed(NamedTuple):
    """A model that is on the list of a provider, if need be by way of the provider that made it."""

    provider: Provider
    model: ModelInfo

    @property
    def url(self) -> str | None:
        """The provider's page of prices."""
        return next(iter(self.provider.pricing_urls or ()), None)

    def unit_prices(self, at: datetime, context: Mapping[str, str]) -> tuple[UnitPrices, Tiers]:
        """Return the unit prices at a moment, and those above each threshold of input tokens.

        A context that the list does not know gives the standard prices; `knows` tells.
        """
        resolved = vars(self.model.get_prices(at, _asked(context) if self._is_its_own else None))
        units = {name: resolved[name] for name in (*CLASSES, REQUEST_FEE) if resolved.get(name) is not None}
        thresholds = sorted({tier.start for price in units.values() for tier in getattr(price, "tiers", ())})
        tiers = ((above, {name: _price_above(price, above) for name, price in units.items()}) for above in thresholds)
        return {name: getattr(price, "base", price) for name, price in units.items()}, tuple(tiers)

    def knows(self, at: datetime, context: Mapping[str, str]) -> bool:
        """Return True when the list has a price for every part of the context."""
        asked = _asked(context)
        known = {
            value
            for variant in (self.model.price_variants or () if self._is_its_own else ())
            if variant.when.items() <= asked.items() and (not variant.constraint or variant.constraint.active(at))
            for value in variant.when.values()
        }
        return known.issuperset(context.values())

    def since(self, at: datetime) -> date | None:
        """Return the first day of the standard price that holds at a moment; None when it always did."""
        from genai_prices.types import ModelPrice

        if isinstance(self.model.prices, ModelPrice):
            return None
        for price in reversed(self.model.prices):  # the last one that is active holds
            if price.constraint is None or price.constraint.active(at):
                return getattr(price.constraint, "start_date", None)
        return None

    def changes(self) -> tuple[int, ...]:
        """Return the seconds of a day (UTC) from which its prices may be others; 0 is always one."""
        return tuple(sorted({0, *map(_second_of_day, self._times())}))

    @property
    def _is_its_own(self) -> bool:
        # Variants of a model that is borrowed from another provider's list do not hold at this provider.
        return any(self.model is model for model in self.provider.models)

    def _times(self) -> Iterator[time]:
        from genai_prices.types import ModelPrice, TimeOfDateConstraint

        dated = () if isinstance(self.model.prices, ModelPrice) else self.model.prices
        for one in (*dated, *(self.model.price_variants or ())):
            if isinstance(one.constraint, TimeOfDateConstraint):
                yield from (one.constraint.start_time, one.constraint.end_time)


def find(provider_id: str, name: str) -> Listed | None:
    """Return a model by its provider's exact id and any spelling of its name; None when it is not on the list.

    The id is matched exactly because genai-prices would also take "my-openai-server" for openai.
    """
    provider = _providers().get(provider_id.lower())
    if provider is None:
        return None
    model = provider.find_model(name, all_providers=list(_providers().values()))
    return None if model is None else Listed(provider, model)


def version() -> str:
    """Return the version of genai-prices."""
    import genai_prices

    return genai_prices.__version__


def provider_ids() -> list[str]:
    """Return the ids of the providers that have a list."""
    return list(_providers())


def model_ids(provider: str) -> list[str]:
    """Return the ids of the models on the list of a provider; none for a provider that is not listed."""
    found = _providers().get(provider)
    return [] if found is None else [model.id for model in found.models]


@cache
def _providers() -> dict[str, Provider]:
    from genai_prices.data import providers

    return {provider.id: provider for provider in providers}


def _asked(context: Mapping[str, str]) -> dict[str, str]:
    """Return the context in the list's words: the fast tier of some providers is listed as a speed."""
    return {**context, "speed": "fast"} if context.get("service_tier") == "fast" else dict(context)


def _price_above(price: Any, threshold: int) -> Decimal:
    passed = [tier.price for tier in getattr(price, "tiers", ()) if tier.start <= threshold]
    found: Decimal = passed[-1] if passed else getattr(price, "base", price)
    return found


def _second_of_day(moment: time) -> int:
    offset = moment.utcoffset()
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    return int(seconds - (offset.total_seconds() if offset else 0)) % 86_400
