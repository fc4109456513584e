"""The catalogue: what is known of plans, quotas and models from outside, as dated records that settings can change.

The records are in `catalogue.toml` beside this module, each with its source and the day it was read. Code asks for
what holds on a day and finds no plan, no number and no model name of its own.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, get_args

from orchestrai.errors import InvalidSettings, nearest
from orchestrai.limits.quota import Reset, Span, Unit, Window, check_window
from orchestrai.platforms.protocol import DataUse
from orchestrai.result import Tier

T = TypeVar("T")

_LIMITS: Final = {("requests", "minute"): "rpm", ("tokens", "minute"): "tpm", ("requests", "day"): "rpd"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What an account at a platform may use, who pays, and what becomes of the data.

    Args:
        id: Its name in the catalogue: `groq.free`.
        platform: Kind of platform it is a plan of.
        tier: Who pays.
        title: What people call it.
        data_use: What the provider may do with the data: none, may_train, unknown.
        data_use_source: Where that is said.
        source: Where the windows are said.
        checked: Day on which the sources were read.
        note: What a person should know of it.
        valid_from: First day it holds; None since ever.
        valid_until: Last day it holds; None without an end.
        ended: What became of it, where it has an end.
        windows: Its quota windows; empty where nothing is published.
    """

    id: str
    platform: str
    tier: Tier
    title: str
    data_use: DataUse
    source: str
    data_use_source: str = ""
    checked: date | None = None
    note: str = ""
    valid_from: date | None = None
    valid_until: date | None = None
    ended: str = ""
    windows: tuple[Window, ...] = ()

    def holds(self, day: date) -> bool:
        """Return True on the days from the first to the last it is valid, both included."""
        return (self.valid_from or date.min) <= day <= (self.valid_until or date.max)

    @property
    def limits(self) -> Mapping[str, float]:
        """Its windows in the words of a platform's `limits`: rpm, tpm, rpd."""
        named = ((_LIMITS.get((window.unit, window.per)), float(window.limit)) for window in self.windows)
        return MappingProxyType({name: limit for name, limit in named if name is not None})


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """The model that a platform is asked for where a task names none.

    Args:
        id: Kind of platform.
        model: The model, as the provider names it.
        source: Why this one.
        checked: Day on which that was read.
        valid_from: Day the model appeared.
    """

    id: str
    model: str
    source: str
    checked: date | None = None
    valid_from: date | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server with the interface of OpenAI that needs nothing but a key.

    Args:
        id: Its name, and its kind in the settings.
        base_url: Address up to and with `/v1`.
        key: Environment variable of the key.
        tier: Who pays.
        source: Where that is said.
        help: How to get a key.
        models: Patterns of the models it is asked for; empty for all.
        checked: Day on which the source was read.
    """

    id: str
    base_url: str
    key: str
    tier: Tier
    source: str
    help: str = ""
    models: tuple[str, ...] = ()
    checked: date | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a family of models; None is unknown.

    Args:
        id: Pattern of the models' names.
        source: Where it is said.
        context_tokens: Context window, prompt and answer together [tokens].
        images: It takes images.
        effort: It takes a reasoning effort.
        checked: Day on which the source was read.
    """

    id: str
    source: str
    context_tokens: int | None = None
    images: bool | None = None
    effort: bool | None = None
    checked: date | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """Which platforms suit a kind of work best, where they cost the same.

    Args:
        id: Task type.
        order: Platforms, the best first; those that are not named come after them.
        source: Why.
        checked: Day on which that was decided.
    """

    id: str
    order: tuple[str, ...]
    source: str
    checked: date | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All records, by their names.

    Args:
        defaults: Kind of platform → its default model.
        plans: Name → plan.
        endpoints: Name → server.
        models: Pattern → facts.
        preferences: Task type → platforms that suit it.
    """

    defaults: Mapping[str, DefaultModel]
    plans: Mapping[str, Plan]
    endpoints: Mapping[str, Endpoint]
    models: Mapping[str, ModelFacts]
    preferences: Mapping[str, Preference]

    def default_model(self, kind: str) -> str | None:
        """Return the model that a kind of platform is asked for; None where none is recorded."""
        found = self.defaults.get(kind)
        return found.model if found is not None else None

    def model_facts(self, model: str) -> ModelFacts | None:
        """Return what is known of a model: the longest pattern that its name fits, a vendor's prefix aside."""
        names = {model.lower(), model.lower().rpartition("/")[2]}
        fitting = [facts for facts in self.models.values() if any(fnmatchcase(name, facts.id) for name in names)]
        return max(fitting, key=lambda facts: len(facts.id), default=None)

    def plan(self, kind: str, tier: Tier, day: date | None = None) -> Plan | None:
        """Return the plan of that tier which a kind of platform has on a day, today by default."""
        day = day or datetime.now(UTC).date()
        found = (plan for plan in self.plans.values() if plan.platform == kind and plan.tier == tier)
        return next((plan for plan in found if plan.holds(day)), None)

    def ended(self, kind: str, tier: Tier, day: date | None = None) -> Plan | None:
        """Return the plan of that tier which a kind of platform had and has no more; None while one holds."""
        day = day or datetime.now(UTC).date()
        if self.plan(kind, tier, day) is not None:
            return None
        gone = [p for p in self.plans.values() if (p.platform, p.tier) == (kind, tier) and (p.valid_until or day) < day]
        return max(gone, key=lambda plan: plan.valid_until or day, default=None)


@cache
def shipped() -> Catalogue:
    """Return the catalogue of this version of the library; read once."""
    return _catalogue(_shipped_tables(), "catalogue.toml: ")


def with_settings(overrides: Mapping[str, Any]) -> Catalogue:
    """Return the catalogue with a person's own records over it.

    Args:
        overrides: The setting `catalogue`: tables as in `catalogue.toml`. A field given here replaces that of the
            record of the same name; a new name is a new record, whose source is the settings.

    Raises:
        InvalidSettings: A table or field is unknown, or a value of the wrong kind; the message names the nearest.
    """
    if not overrides:
        return shipped()
    merged = {part: dict(records) for part, records in _shipped_tables().items()}
    for part, records in overrides.items():
        _known(part, _PARTS, "catalogue", "table")
        for name, record in _mapping(records, f"catalogue.{part}").items():
            own = _mapping(record, f"catalogue.{part}.{name}")
            merged[part][name] = {"source": "settings"} | merged[part].get(name, {}) | dict(own)
    return _catalogue(merged, "catalogue.")


def default_model(kind: str) -> str:
    """Return the model that a kind of platform is asked for where neither task nor settings name one.

    Raises:
        KeyError: No default is recorded for this kind.
    """
    return shipped().defaults[kind].model


@lru_cache(maxsize=256)
def model_facts(model: str) -> ModelFacts | None:
    """Return what the shipped catalogue knows of a model; None when nothing."""
    return shipped().model_facts(model)


# --- reading


@cache
def _shipped_tables() -> Mapping[str, Mapping[str, Any]]:
    text = resources.files("orchestrai.platforms").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _catalogue(tables: Mapping[str, Any], where: str) -> Catalogue:
    for part in tables:
        _known(part, _PARTS, where.rstrip(": ."), "table")
    read = {
        part: MappingProxyType({name: _record(make, name, table, f"{where}{part}.{name}") for name, table in part_of})
        for part, make in _PARTS.items()
        for part_of in (_mapping(tables.get(part, {}), f"{where}{part}").items(),)
    }
    return Catalogue(**read)


def _record(make: Callable[..., T], name: str, table: Any, where: str) -> T:
    """Return a table as the record it describes.

    Raises:
        InvalidSettings: A field is unknown, missing, of the wrong kind, or contradicts another.
    """
    given = _mapping(table, where)
    known = {field.name: field for field in fields(make) if field.name != "id"}  # type: ignore[arg-type]  # a dataclass
    values: dict[str, Any] = {}
    for field, value in given.items():
        _known(field, known, where, "field")
        values[field] = _CHECKS[field](value, f"{where}: {field}")
    for field, about in known.items():
        if field not in values and about.default is MISSING:
            raise InvalidSettings(f"{where}: {field} is missing.")
    record = make(**({"id": name} if make is not Window else {}), **values)
    _consistent(record, where)
    return record


def _consistent(record: object, where: str) -> None:
    if isinstance(record, Plan):
        if record.valid_from and record.valid_until and record.valid_from > record.valid_until:
            raise InvalidSettings(f"{where}: it ends ({record.valid_until}) before it begins ({record.valid_from}).")
        if record.ended and record.valid_until is None:
            raise InvalidSettings(f"{where}: `ended` needs `valid_until`, the last day it held.")
    if isinstance(record, Window):
        if record.per == "call":
            raise InvalidSettings(f"{where}: per is a span of time; max_cost= limits a call.")
        check_window(record, where)


def _known(name: str, known: Mapping[str, Any], where: str, what: str) -> None:
    if name not in known:
        raise InvalidSettings(f"{where}: unknown {what} {name!r}.{nearest(name, known)}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"{where} is a table, not {type(value).__name__}.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidSettings(f"{where} is a text, not {value!r}.")
    return value


def _day(value: Any, where: str) -> date:
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        day = None
    if not isinstance(day, date) or isinstance(day, datetime):
        raise InvalidSettings(f"{where} is a day such as 2026-06-17, not {value!r}.")
    return day


def _one_of(kind: Any) -> Callable[[Any, str], Any]:
    known = get_args(kind)

    def check(value: Any, where: str) -> Any:
        if value not in known:
            raise InvalidSettings(f"{where} is one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
        return value

    return check


def _amount(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidSettings(f"{where} is a number above 0, not {value!r}.")
    return value


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f"{where} is a whole number of at least 1, not {value!r}.")
    return value


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettings(f"{where} is true or false, not {value!r}.")
    return value


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidSettings(f'{where} is a list of patterns such as ["*:free"], not {value!r}.')
    return tuple(_text(pattern, where) for pattern in value)


def windows(value: Any, where: str) -> tuple[Window, ...]:
    """Return quota windows as they are written in a file: a list of tables.

    Raises:
        InvalidSettings: One has an unknown field, or parts that contradict each other.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
        raise InvalidSettings(f"{where} is a list of tables, not {value!r}.")
    return tuple(_record(Window, "", window, f"{where}[{number}]") for number, window in enumerate(value))


_PARTS: Final[Mapping[str, Callable[..., Any]]] = {
    "defaults": DefaultModel,
    "plans": Plan,
    "endpoints": Endpoint,
    "models": ModelFacts,
    "preferences": Preference,
}
_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    **dict.fromkeys(("source", "data_use_source", "title", "note", "ended", "help"), _text),
    **dict.fromkeys(("platform", "model", "base_url", "key", "time_zone"), _text),
    **dict.fromkeys(("checked", "valid_from", "valid_until"), _day),
    "tier": _one_of(Tier),
    "data_use": _one_of(DataUse),
    "unit": _one_of(Unit),
    "per": _one_of(Span),
    "reset": _one_of(Reset),
    "limit": _amount,
    "context_tokens": _count,
    "images": _switch,
    "effort": _switch,
    "models": _patterns,
    "told_as": _patterns,
    "each": _one_of(Literal["account", "model"]),
    "windows": windows,
    "order": _patterns,
}
