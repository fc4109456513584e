"""Configured: how a kind and the fields of a settings table become a platform, filled with what the catalogue knows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from orchestrai.errors import InvalidSettings, nearest
from orchestrai.platforms.catalogue import Catalogue, Plan, shipped
from orchestrai.platforms.cli_state import CliState
from orchestrai.platforms.protocol import DataUse, Platform
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
_LOGIN_FIELDS: Final = ("binary", "home", "env", "config")  # decide which login a client uses
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
    from orchestrai import platforms

    return [*(kind for kind, name in _CLASSES.items() if name in platforms.__all__), *catalogue.endpoints]


def near(name: str, catalogue: Catalogue) -> str:
    """Return ` Did you mean '…'?` with the nearest kind, or the empty string."""
    meant = _ALSO_CALLED.get(name.lower())
    return f" Did you mean {meant!r}?" if meant is not None else nearest(name, [*_CLASSES, *catalogue.endpoints])


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
    probe, asks = _probe(make, fields)
    plan = _fill(fields, kind, make, catalogue)
    key = fields.get("api_key")
    if isinstance(key, str) and key.startswith("env:"):
        fields["api_key"] = Key(os.environ.get(key[4:], ""))
        if not fields["api_key"]:
            raise InvalidSettings(f"{where}: api_key says {key!r}, but {key[4:]} is not set.")
    only = _patterns(fields.pop("models", None), where)
    platform = (_limited_to(only, make, where) if only else make)(**{"name": name, **fields})
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


def _probe(
    make: Callable[..., Platform], fields: Mapping[str, Any]
) -> tuple[Callable[..., CliState] | None, dict[str, Any]]:
    probe: Callable[..., CliState] | None = getattr(make, "probe", None)
    takes = inspect.signature(probe).parameters if probe is not None else {}
    if any(field in fields and field not in takes for field in _LOGIN_FIELDS):
        return None, {}
    return probe, {field: fields[field] for field in takes if field in fields}


def _fill(fields: dict[str, Any], kind: str, make: Callable[..., Platform], catalogue: Catalogue) -> Plan | None:
    """Fill what a table leaves open with what the catalogue knows of its kind, and return the plan it is on."""
    known = inspect.signature(make).parameters
    endpoint = catalogue.endpoints.get(kind)
    if endpoint is not None:
        elsewhere = fields.get("base_url", endpoint.base_url) != endpoint.base_url
    else:
        elsewhere = "base_url" in fields or bool(os.environ.get(_ADDRESSES.get(kind, "")))
    if elsewhere:  # another server: it gets no key that was meant for this one, and nothing is known of its plan
        return None
    if endpoint is not None:
        fields["base_url"] = endpoint.base_url
        fields.setdefault("api_key", f"env:{endpoint.key}")
        fields.setdefault("tier", endpoint.tier)
        if fields["tier"] == endpoint.tier:  # an account that pays may ask for every model
            fields.setdefault("models", list(endpoint.models))
        tier = fields["tier"]
    else:
        tier = fields.get("tier")
    plan = catalogue.plan(kind, tier or (known["tier"].default if "tier" in known else getattr(make, "tier", "paid")))
    filled: dict[str, Any] = {"data_use": _data_use(kind, tier, catalogue)}
    if plan is not None and plan.limits:
        filled["limits"] = dict(plan.limits)
    if not os.environ.get(_MODELS.get(kind, "")):
        filled["model"] = catalogue.default_model(kind)
    for field, value in filled.items():
        if value is not None and field in known:
            fields.setdefault(field, value)
    return plan


def _data_use(kind: str, tier: str | None, catalogue: Catalogue) -> DataUse | None:
    """Return what the plans of a kind allow: the worst of them where settings do not say which tier it is.

    A key of Gemini does not show whether its project pays, and only a paid one is not trained on.
    """
    today = datetime.now(UTC).date()
    plans = [p for p in catalogue.plans.values() if p.platform == kind and p.holds(today) and tier in (None, p.tier)]
    return max((plan.data_use for plan in plans), key=_WORST.index, default=None)


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
