"""Configured: how a kind and the fields of a settings table become a platform, filled with what the catalogue knows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, get_args

from orchestrai.errors import InvalidSettings, nearest
from orchestrai.platforms.catalogue import Catalogue, Endpoint, Plan, shipped
from orchestrai.platforms.cli_state import CliState
from orchestrai.platforms.protocol import DataUse, Platform
from orchestrai.result import Tier
from orchestrai.settings import Key

ENTRY_POINTS: Final = "orchestrai.platforms"
"""Entry point group under which a third party's platform class is found by its `kind` in the settings."""

_CLASSES: Final = {  # kind -> class in orchestrai.platforms, in the order in which they are shown
    "gemini_cli": "GeminiCLI",
    "claude_code": "ClaudeCode",
    "chatgpt": "Codex",
    "gemini": "Gemini",
    "openai": "OpenAI",
    "anthropic": "Anthropic",
    "local": "LocalModel",
}
_ALSO_CALLED: Final = {"codex": "chatgpt", "claude": "claude_code", "google": "gemini", "gpt": "openai"}
# Variables that the platforms read themselves, where nothing else is given.
_ADDRESSES: Final = {
    "openai": "OPENAI_BASE_URL",
    "anthropic": "ANTHROPIC_BASE_URL",
    "gemini": "GOOGLE_GEMINI_BASE_URL",
}
_MODELS: Final = {"openai": "OPENAI_MODEL", "anthropic": "ANTHROPIC_MODEL", "gemini": "GEMINI_MODEL"}
_LOGIN_FIELDS: Final = ("binary", "home", "login", "env", "config")  # decide which login a client uses
_WORST: Final[tuple[DataUse, ...]] = ("none", "unknown", "may_train")


@dataclass(frozen=True, slots=True)
class Configured:
    """A platform made of a table, with what is needed to look at it.

    Args:
        name: The platform's name.
        kind: What it was made of: a kind of `kinds`, or a third party's.
        platform: The platform.
        plan: The plan that fills what the table leaves open; None when none is known.
        probe: Asks its command-line client for version and login; None where there is none, or where the table
            changes the login in a way that it cannot look at.
        asks: What `probe` is called with.
    """

    name: str
    kind: str
    platform: Platform
    plan: Plan | None
    probe: Callable[..., CliState] | None
    asks: Mapping[str, Any]


def kinds(catalogue: Catalogue) -> list[str]:
    """Return the kinds of platform that are known by name, in the order in which they are shown."""
    return [*_CLASSES, *catalogue.endpoints]


def is_kind(name: str, catalogue: Catalogue) -> bool:
    """Return True for a kind that a platform can be made of: a known one, or a third party's that is installed."""
    return _class_of(name, catalogue) is not None


def near(name: str, catalogue: Catalogue) -> str:
    """Return ` Did you mean '…'?` with the nearest kind, or the empty string."""
    meant = _ALSO_CALLED.get(name.lower())
    return f" Did you mean {meant!r}?" if meant is not None else nearest(name, kinds(catalogue))


def from_table(name: str, table: Mapping[str, Any], catalogue: Catalogue | None = None) -> Configured:
    """Return the platform that a table of the settings describes; what it leaves open, the catalogue fills.

    Args:
        name: Its name.
        table: Fields of the constructor; `kind` (the name by default); `models`, patterns of the models that it may be
            asked for.
        catalogue: What is known of plans and models; the shipped one by default.

    Raises:
        InvalidSettings: It names an unknown kind or field.
    """
    catalogue = catalogue or shipped()
    fields = dict(table)
    kind = str(fields.pop("kind", name))
    where = f"platforms.{name}"
    make = _class_of(kind, catalogue)
    if make is None:
        raise InvalidSettings(f"{where}: unknown kind {kind!r}.{near(kind, catalogue)}")
    known = inspect.signature(make).parameters
    for field in fields:
        if field not in known and field != "models":
            raise InvalidSettings(f"{where}: unknown field {field!r}.{nearest(field, [*known, 'models'])}")
    fields = _with_endpoint(fields, catalogue.endpoints.get(kind))
    only = _patterns(fields.pop("models", None), where)
    if "api_key" in fields:
        fields["api_key"] = _read(fields["api_key"], f"{where}: api_key")
    if isinstance(fields.get("env"), Mapping):
        fields["env"] = {name: _read(value, f"{where}: env.{name}") for name, value in fields["env"].items()}
    probe, asks = _probe(make, fields)
    make = _limited_to(only, make, where) if only else make
    platform = make(**{"name": name, **fields})
    plan = None
    if _is_own(kind, fields, catalogue):
        plan = catalogue.plan(kind, platform.tier)
        filled = _known_of_it(kind, fields.get("tier"), plan, catalogue)
        filled = {field: value for field, value in filled.items() if field in known and field not in fields}
        platform = make(**{"name": name, **fields, **filled}) if filled else platform
    if only and not platform.serves(platform.model):
        raise InvalidSettings(
            f"{where}: its model {platform.model!r} is none of models = {list(only)!r}. Name another, or widen them."
        )
    return Configured(name, kind, platform, plan, probe, asks)


def _class_of(kind: str, catalogue: Catalogue) -> Callable[..., Platform] | None:
    from orchestrai import platforms

    if kind in kinds(catalogue):
        make: Callable[..., Platform] = getattr(platforms, _CLASSES.get(kind, "OpenAI"))
        return make
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=kind):
        found: Callable[..., Platform] = entry.load()
        return found
    return None


def _read(value: Any, where: str) -> Any:
    """Return a value, or what the variable holds that it names as `env:NAME`.

    Raises:
        InvalidSettings: That variable is not set.
    """
    if not isinstance(value, str) or not value.startswith("env:"):
        return value
    if not os.environ.get(value[4:]):
        raise InvalidSettings(f"{where} says {value!r}, but {value[4:]} is not set.")
    return Key(os.environ[value[4:]])


def _probe(
    make: Callable[..., Platform], fields: Mapping[str, Any]
) -> tuple[Callable[..., CliState] | None, dict[str, Any]]:
    probe: Callable[..., CliState] | None = getattr(make, "probe", None)
    takes = inspect.signature(probe).parameters if probe is not None else {}
    if any(field in fields and field not in takes for field in _LOGIN_FIELDS):
        return None, {}
    return probe, {field: fields[field] for field in takes if field in fields}


def _with_endpoint(fields: Mapping[str, Any], endpoint: Endpoint | None) -> dict[str, Any]:
    """Return the fields with those of a known server; an address elsewhere gets no key that was meant for it."""
    if endpoint is None or fields.get("base_url", endpoint.base_url) != endpoint.base_url:
        return dict(fields)
    known = {"base_url": endpoint.base_url, "api_key": f"env:{endpoint.key}", "tier": endpoint.tier, **fields}
    if known["tier"] == endpoint.tier:  # an account that pays may ask for every model
        known.setdefault("models", list(endpoint.models))
    return known


def _is_own(kind: str, fields: Mapping[str, Any], catalogue: Catalogue) -> bool:
    """Return True where requests go to the provider of that kind: of another server nothing is known."""
    endpoint = catalogue.endpoints.get(kind)
    if endpoint is not None:
        return bool(fields.get("base_url") == endpoint.base_url)
    return "base_url" not in fields and not os.environ.get(_ADDRESSES.get(kind, ""))


def _known_of_it(kind: str, tier: Tier | None, plan: Plan | None, catalogue: Catalogue) -> dict[str, Any]:
    """Return fields that the catalogue knows, for those that a table leaves open.

    Args:
        kind: Kind of platform.
        tier: The tier that settings name. Without it the worst data use of all tiers counts: a key of Gemini does not
            show whether its project pays, and only one that does is not trained on.
        plan: The plan it is taken to be on.
        catalogue: What is known.
    """
    tiers = get_args(Tier) if tier is None else (tier,)
    plans = [catalogue.plan(kind, one) or catalogue.ended(kind, one) for one in tiers]
    known: dict[str, Any] = {
        "data_use": max((p.data_use for p in plans if p is not None), key=_WORST.index, default=None),
        "limits": dict(plan.limits) if plan is not None and plan.limits else None,
        "model": None if os.environ.get(_MODELS.get(kind, "")) else catalogue.default_model(kind),
    }
    return {field: value for field, value in known.items() if value is not None}


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, list | tuple) or not all(isinstance(p, str) for p in value):
        raise InvalidSettings(f'{where}: models is a list of patterns such as ["*:free"], not {value!r}.')
    return tuple(value)


def _limited_to(patterns: tuple[str, ...], make: Callable[..., Platform], where: str) -> Callable[..., Platform]:
    """Return the class with `serves` narrowed to these models, which the router heeds where a task names one."""
    if not isinstance(make, type):
        raise InvalidSettings(f"{where}: models is for platforms that are a class.")
    of_all: Callable[[Any, str], bool] = make.serves  # type: ignore[attr-defined]  # every platform has it

    def serves(self: Any, model: str) -> bool:
        return any(fnmatchcase(model, pattern) for pattern in patterns) and of_all(self, model)

    limited: Callable[..., Platform] = type(make.__name__, (make,), {"serves": serves, "only_models": patterns})
    return limited
