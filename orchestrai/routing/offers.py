"""Offers: which platforms and models could answer a task, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final, Literal

from orchestrai.errors import InvalidInput, NoPlatform, nearest
from orchestrai.limits.quota import Meter, Window
from orchestrai.platforms.catalogue import Catalogue, ModelFacts, Plan, shipped
from orchestrai.platforms.protocol import Platform
from orchestrai.pricing import Price, PriceList
from orchestrai.result import Tier
from orchestrai.routing.windows import meters_of
from orchestrai.task import Task

_UNKNOWN: Final = Decimal("Infinity")  # what has no price may cost anything
_ORDER: Final[dict[Tier, int]] = {"free": 0, "local": 0, "subscription": 1, "paid": 2}  # cash comes last


@dataclass(frozen=True, slots=True)
class Offer:
    """A platform that can answer with a model, at a tier and a dated price.

    Args:
        platform: Where the request goes.
        model: What it is asked for.
        price: List price of the model; None when unpriced.
        reason: Why it stands where it stands: "hint", "only", "cheapest".
        rank: 1 for the first choice.
        context_tokens: Context window of the model there [tokens]; None when unknown.
        meters: The quota windows that its requests count in.
    """

    platform: Platform
    model: str
    price: Price | None
    reason: str
    rank: int = 1
    context_tokens: int | None = None
    meters: tuple[Meter, ...] = ()

    @property
    def tier(self) -> Tier:
        """Who pays."""
        return self.platform.tier


@dataclass(frozen=True, slots=True)
class Route:
    """The offers of a class of alike tasks, best first, and why the other platforms are not among them."""

    offers: tuple[Offer, ...]
    excluded: dict[str, str] = field(default_factory=dict)  # platform -> reason
    only_model: str | None = None  # with `mix=False`: the one model whose answers count
    lacks: Literal["window", "budget"] | None = None  # what the platforms that could take it have no room in
    cash: tuple[
        int | None, ...
    ] = ()  # once it is planned: what each offer is expected to cost [pico-USD]; None: unpriced

    @property
    def smallest_context(self) -> int | None:
        """The smallest context window that is known among the offers [tokens]."""
        return min((o.context_tokens for o in self.offers if o.context_tokens is not None), default=None)

    def why_none(self) -> str:
        """Say why no platform can take the task."""
        return "; ".join(f"{name}: {reason}" for name, reason in self.excluded.items()) or "no platform is configured"

    def without(self, excluded: Mapping[str, str]) -> Route:
        """Return the route without some platforms; name → reason."""
        kept = tuple(offer for offer in self.offers if offer.platform.name not in excluded)
        return replace(self, offers=kept, excluded={**self.excluded, **excluded})

    def only(self, model: str) -> Route:
        """Return the route with the offers of one model alone, which answers a whole call."""
        kept = tuple(offer for offer in self.offers if offer.model == model)
        dropped = {o.platform.name: f"mix=False: {model} answers" for o in self.offers if o.model != model}
        return Route(kept, {**self.excluded, **dropped}, model)

    def starting_with(self, offer: Offer) -> Route:
        """Return the route with one of its offers in front of the others."""
        if self.offers and self.offers[0] is offer:
            return self
        return replace(self, offers=(offer, *(other for other in self.offers if other is not offer)))


class Router:
    """Finds the route of every task; tasks that ask for the same things share one.

    Args:
        platforms: The configured platforms, in the order in which they were given.
        prices: List prices.
        waiting: Name → reason of the platforms that answer only when they are named.
        missing: Name → reason of known platforms that were not found; only to explain a hint that names one.
        barred: Name → reason of the platforms that may not be asked, named or not.
        catalogue: What is known of models; the shipped one by default.
        plans: Name → plan of the platforms of which it is known.
        windows: Name → quota windows of the settings.

    Raises:
        InvalidInput: Two platforms have one name.
    """

    def __init__(
        self,
        platforms: Sequence[Platform],
        prices: PriceList,
        waiting: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
        barred: Mapping[str, str] | None = None,
        catalogue: Catalogue | None = None,
        plans: Mapping[str, Plan] | None = None,
        windows: Mapping[str, tuple[Window, ...]] | None = None,
    ) -> None:
        self._plans = plans or {}
        self._windows = windows or {}
        self._waiting = waiting or {}
        self._missing = missing or {}
        self._barred = barred or {}
        self._catalogue = catalogue
        self._platforms = {platform.name: platform for platform in platforms}
        if len(self._platforms) < len(platforms):
            names = [platform.name for platform in platforms]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInput(f"Two platforms are named {twice!r}. Give one of them another name=.")
        self._prices = prices
        self._routes: dict[tuple[object, ...], Route] = {}

    def route(self, task: Task, *, streaming: bool = False) -> Route:
        """Return the offers for a task, best first.

        Free and local platforms come before subscriptions, subscriptions before paid ones; among equals the
        cheaper list price (an unknown one last), then the order of configuration. A hint comes first whatever it costs.
        The embedded demo model comes last, unless it is hinted.

        Raises:
            InvalidInput: A hint names a platform that is not configured.
            NoPlatform: Every platform that the hint names was not found or may not be asked; the message says what
                to do. Where one of several is there, the others are excluded with their reasons.
        """
        images = _has_images(task) if task.files or type(task.prompt) is not str else False
        asks = (task.platform, bool(task.strict), task.model, images, streaming)
        known = self._routes.get(asks)
        if known is None:
            known = self._routes[asks] = self._find(task, images=images, streaming=streaming)
        return known

    def meters(self, platform: Platform, model: str) -> tuple[Meter, ...]:
        """Return the quota windows that requests to a model at a platform count in."""
        return meters_of(platform, model, self._plans.get(platform.name), self._windows.get(platform.name, ()))

    def _find(self, task: Task, *, images: bool, streaming: bool) -> Route:
        hints = task.platforms
        gone = {name: reason for name in hints if (reason := self._gone(name)) is not None}
        if hints and len(gone) == len(set(hints)):
            raise NoPlatform("; ".join(f"platform {name!r} {reason}" for name, reason in gone.items()))
        offers: list[Offer] = []
        excluded = {name: reason for name, reason in gone.items() if name not in self._platforms}
        for platform in self._platforms.values():
            model = self._model(platform, task.model)
            reason = self._obstacle(platform, model, task, images=images, streaming=streaming)
            if reason is not None:
                excluded[platform.name] = reason
                continue
            assert model is not None
            price = price_of(self._prices, platform, model)
            context, meters = self._context(platform, model), self.meters(platform, model)
            offers.append(Offer(platform, model, price, "", 1, context, meters))
        position = {name: i for i, name in enumerate(hints)}
        offers.sort(key=lambda offer: _preference(offer, position))
        ranked = [
            replace(offer, reason=_reason(offer, position, len(offers)), rank=rank)
            for rank, offer in enumerate(offers, start=1)
        ]
        return Route(tuple(ranked), excluded)

    def _gone(self, name: str) -> str | None:
        """Return why a platform that a hint names cannot be asked; None when it can.

        Raises:
            InvalidInput: Nothing of this name is known.
        """
        if name in self._missing:
            return f"is not there: {self._missing[name]}"
        if name in self._barred:
            return f"may not be asked: {self._barred[name]}"
        if name not in self._platforms:
            near = nearest(name, [*self._platforms, *self._missing])
            known = ", ".join(self._platforms) or "none"
            raise InvalidInput(f"platform {name!r} is not configured.{near} Configured: {known}.")
        return None

    def _model(self, platform: Platform, asked: str | None) -> str | None:
        """Return the model to ask this platform for, or None when it does not serve the one required."""
        if asked is None or asked == platform.model:  # also where its name looks like "platform/model"
            return platform.model
        prefix = self._prefix(asked)
        if prefix is not None:
            rest = asked.removeprefix(f"{prefix}/")
            # Naming the platform vouches for the model, unless it is configured for some models alone.
            allowed = prefix == platform.name and (not hasattr(platform, "only_models") or platform.serves(rest))
            return rest if allowed else None
        return asked if platform.serves(asked) else None

    def _prefix(self, model: str | None) -> str | None:
        """Return the platform that a model requirement names ("platform/model"), if one of that name is configured."""
        prefix, _, rest = (model or "").partition("/")
        return prefix if rest and prefix in self._platforms else None

    def _context(self, platform: Platform, model: str) -> int | None:
        """Return the context window [tokens]: the platform's own word, else the catalogue's."""
        told = platform.capabilities(model).context_tokens
        facts = None if told is not None else self._facts(model)
        return facts.context_tokens if facts is not None else told

    def _sees(self, model: str) -> bool:
        """Return False for a model of which it is known that it takes no images, whatever its platform takes."""
        facts = self._facts(model)
        return facts is None or facts.images is not False

    def _facts(self, model: str) -> ModelFacts | None:
        return (self._catalogue or shipped()).model_facts(model)

    def _obstacle(
        self, platform: Platform, model: str | None, task: Task, *, images: bool, streaming: bool
    ) -> str | None:
        """Return why this platform cannot take the task, or None when it can."""
        if task.strict and task.platforms and platform.name not in task.platforms:
            return "strict: another platform is named"
        if platform.name in self._barred:
            return self._barred[platform.name]
        if platform.name in self._waiting and platform.name not in (*task.platforms, self._prefix(task.model)):
            return self._waiting[platform.name]
        if model is None:
            return f"does not serve {task.model}"
        can = platform.capabilities(model)
        if images and not (can.images and self._sees(model)):
            return "takes no images"
        if streaming and not can.streaming:
            return "cannot stream"
        return None


def _has_images(task: Task) -> bool:
    if not isinstance(task.prompt, str) and any(message.images for message in task.prompt):
        return True
    return any(getattr(file, "is_image", False) for file in task.files or ())


def price_of(
    prices: PriceList, platform: Platform, model: str, requested: str | None = None, service_tier: str | None = None
) -> Price | None:
    """Return the price of a model at a platform now; a platform's own price wins over the list."""
    own = getattr(platform, "price", None) or None
    return prices.find(platform.provider, model, requested=requested, service_tier=service_tier, own=own)


def _preference(offer: Offer, position: dict[str, int]) -> tuple[int, bool, int, Decimal]:
    typical = offer.price.unit_cost if offer.price is not None else None
    return (
        position.get(offer.platform.name, len(position)),
        offer.platform.demo,
        _ORDER[offer.tier],
        Decimal(0) if offer.tier != "paid" else _UNKNOWN if typical is None else typical,
    )


def _reason(offer: Offer, position: dict[str, int], count: int) -> str:
    if offer.platform.name in position:
        return "hint"
    return "only" if count == 1 else "cheapest"
