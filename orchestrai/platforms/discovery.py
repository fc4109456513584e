"""Discovery: which platforms this person has, without any configuration, and why the others were not found.

Nothing is sent to find out: environment variables are read, and command-line clients are asked for their version and
login, all at once and for three seconds at most.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from orchestrai.errors import ModelMissing, NoPlatform, nearest
from orchestrai.platforms.catalogue import Catalogue, Plan, shipped, with_settings
from orchestrai.platforms.cli_state import CliState
from orchestrai.platforms.configured import Configured, from_table, is_kind, kinds, near
from orchestrai.platforms.function import FunctionPlatform
from orchestrai.platforms.protocol import DataUse, Platform
from orchestrai.result import Tier
from orchestrai.settings import Settings

PROBE_S: Final = 3.0  # how long command-line clients are waited for, all together

_CLIENTS: Final = ("gemini_cli", "claude_code", "chatgpt")
_APIS: Final = {  # kind -> variables that make it found, and what to do without
    "gemini": (("GEMINI_API_KEY", "GOOGLE_API_KEY"), "GEMINI_API_KEY is not set (a free key: aistudio.google.com)"),
    "openai": (
        ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
        "OPENAI_API_KEY is not set (for a compatible server: OPENAI_BASE_URL and OPENAI_MODEL)",
    ),
    "anthropic": (("ANTHROPIC_API_KEY",), "ANTHROPIC_API_KEY is not set (console.anthropic.com)"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one platform.

    Args:
        name: The platform's name.
        platform: The platform, ready to be asked; None when it was not found.
        why: Where it was found, or why it was not and what to do.
        automatic: False for what answers only when it is named or alone.
        state: What its command-line client told; None for others.
        plan: The plan that its data use and limits come from; None when none is known.
        barred: Why it may not be asked, though it was found; None when it may.
        chosen: The person named it, in code or in the settings; else it was found without their doing.
    """

    name: str
    platform: Platform | None
    why: str
    automatic: bool = True
    state: CliState | None = None
    plan: Plan | None = None
    barred: str | None = None
    chosen: bool = False

    @property
    def model(self) -> str | None:
        """Its default model."""
        return self.platform.model if self.platform is not None else None

    @property
    def tier(self) -> Tier | None:
        """Who pays."""
        return self.platform.tier if self.platform is not None else None

    @property
    def data_use(self) -> DataUse | None:
        """What its plan lets the provider do with the data."""
        return self.platform.data_use if self.platform is not None else None

    @property
    def limits(self) -> Mapping[str, float]:
        """Its limits: rpm, tpm, rpd; empty where none are known."""
        return getattr(self.platform, "limits", None) or {}

    @property
    def version(self) -> str | None:
        """Version of its command-line client; None for others."""
        return self.state.version if self.state is not None else None

    @property
    def login(self) -> str | None:
        """How it is logged in, without any secret: what its client says, or the short hash of its key."""
        if self.state is not None:
            return self.state.login
        account = self.platform.account if self.platform is not None else None
        return None if account is None else f"key {account}"


def find(settings: Settings, platforms: Sequence[Any] | None = None) -> list[Finding]:
    """Return the platforms that were given, or else what settings and environment offer.

    Args:
        settings: Whose tables `platforms` and `catalogue`, and `never_train`, count.
        platforms: What was given in code; None for nothing.

    Raises:
        InvalidSettings: A table names an unknown kind or field.
        NoPlatform: Something that was given is no platform.
    """
    catalogue = with_settings(settings.catalogue)
    if platforms is None:
        found = discover(settings.platforms, catalogue)
    else:
        found = given(platforms, catalogue, settings.platforms)
    return [_barred(finding) for finding in found] if settings.never_train else found


def discover(settings: Mapping[str, Mapping[str, Any]], catalogue: Catalogue | None = None) -> list[Finding]:
    """Return what the settings and the environment offer, in the order in which equals are tried.

    Args:
        settings: The `platforms` table of the settings: name → fields of the constructor, with `kind`.
        catalogue: What is known of plans and models; the shipped one by default.

    Raises:
        InvalidSettings: A table names an unknown kind or field.
    """
    catalogue = catalogue or shipped()
    known = [kind for kind in kinds(catalogue) if kind not in settings]
    made = [_made(name, table, catalogue) for name, table in settings.items()]
    clients = [from_table(kind, {}, catalogue) for kind in _CLIENTS if kind in known]
    states = _states([*made, *clients])
    findings = [_finding(one, "settings", states) for one in made]
    findings += [_client(one, states.get(one.name), catalogue) for one in clients]
    findings += [_keyed(kind, catalogue) for kind in (*_APIS, *catalogue.endpoints) if kind in known]
    return findings if "local" in settings else [*findings, _local()]


def given(
    platforms: Sequence[Any],
    catalogue: Catalogue | None = None,
    settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[Finding]:
    """Return platforms that were handed over: as they are, as async functions, or by name.

    Args:
        platforms: Platforms, async functions, names of tables in the settings or of known kinds.
        catalogue: What is known of plans and models; the shipped one by default.
        settings: The `platforms` table of the settings.

    Raises:
        NoPlatform: A value is none of these.
    """
    catalogue = catalogue or shipped()
    made = [_given(value, catalogue, settings) for value in platforms]
    states = _states(made)
    return [_finding(one, "given", states) for one in made]


def chosen(findings: Sequence[Finding]) -> tuple[list[Platform], dict[str, str], dict[str, str]]:
    """Return the platforms that were found, those that answer only when they are named, and those never asked.

    Returns:
        All found platforms; name → reason for those that are not to be chosen by themselves; name → reason for those
        that may not be asked at all.

    Raises:
        NoPlatform: None was found that may be asked; the message lists what would help.
    """
    found = [finding for finding in findings if finding.platform is not None]
    allowed = [finding for finding in found if finding.barred is None]
    if not allowed:
        tried = "\n".join(f"  {finding.name}: {finding.barred or finding.why}" for finding in findings)
        raise NoPlatform(
            f"No platform can answer yet.\n{tried}\nOne of these helps:\n"
            "  npm install -g @anthropic-ai/claude-code && claude          (your Claude plan)\n"
            "  npm install -g @openai/codex && codex login                 (your ChatGPT plan)\n"
            "  export GROQ_API_KEY=… or GEMINI_API_KEY=…                   (free keys)\n"
            "  export OPENAI_API_KEY=… or ANTHROPIC_API_KEY=…              (paid API)\n"
            '  pip install "orchestrai[local]" && orchestrai model fetch   (embedded demo model, 93 MB)\n'
            '  Orchestrator(platforms=[OpenAI(base_url="http://127.0.0.1:11434/v1", model="…", tier="local")])'
        )
    automatic = any(finding.automatic for finding in allowed)
    waiting = {f.name: _waits(f) for f in allowed if not f.automatic} if automatic else {}
    barred = {finding.name: finding.barred for finding in found if finding.barred is not None}
    return [finding.platform for finding in found if finding.platform is not None], waiting, barred


def _waits(finding: Finding) -> str:
    ended = finding.plan.valid_until if finding.plan is not None else None
    return "answers only when named" + (f": its plan ended on {ended}" if ended is not None else "")


# --- each kind


def _made(name: str, table: Mapping[str, Any], catalogue: Catalogue) -> Configured | Finding:
    """Return the platform of a table; where it lacks a key that it does not bring itself, it is not found.

    Raises:
        InvalidSettings: The table names an unknown kind or field.
    """
    kind = str(table.get("kind", name))
    if "api_key" in table or "base_url" in table or _variable(kind, catalogue) != "":
        return from_table(name, table, catalogue)
    from_table(name, {**table, "api_key": ""}, catalogue)  # a mistake in it is told all the same
    return Finding(name, None, _without_key(kind, catalogue))


def _finding(made: Configured | Platform | Finding, why: str, states: Mapping[str, CliState]) -> Finding:
    """Return what was found of a platform that the person named."""
    if isinstance(made, Configured):
        made = _configured(made, why, states.get(made.name))
    return replace(made if isinstance(made, Finding) else Finding(made.name, made, why), chosen=True)


def _configured(made: Configured, why: str, state: CliState | None) -> Finding:
    if state is not None and not state.found:
        return Finding(made.name, None, state.why, state=state, plan=made.plan)
    return Finding(made.name, made.platform, why, state=state, plan=made.plan)


def _client(made: Configured, state: CliState | None, catalogue: Catalogue) -> Finding:
    """Return what was found of a command-line client that nobody configured."""
    if state is None:
        why = f"it did not tell its version and login within {PROBE_S:g} s. Try again, or configure it in the settings."
        return Finding(made.name, None, why, plan=made.plan)
    finding = _configured(made, state.why, state)
    gone = catalogue.ended(made.kind, made.platform.tier)
    if gone is None:
        return finding
    if finding.platform is None:
        return replace(finding, why=f"{finding.why} (its {gone.tier} plan ended on {gone.valid_until})")
    return replace(finding, why=gone.ended, automatic=False, plan=gone)


def _keyed(kind: str, catalogue: Catalogue) -> Finding:
    """Return what was found of a platform that needs a key, and that nobody configured."""
    variable = _variable(kind, catalogue)
    if not variable:
        return Finding(kind, None, _without_key(kind, catalogue))
    made = from_table(kind, {}, catalogue)
    why = f"{variable} is set"
    if made.plan is not None and _doubtful(made.plan, made.platform):
        why += f", which does not show its plan; {_doubt(kind, made.plan)}"
    return _configured(made, why, None)


def _variable(kind: str, catalogue: Catalogue) -> str | None:
    """Return the variable that makes a platform found; empty where none does, None where it needs none."""
    endpoint = catalogue.endpoints.get(kind)
    variables = (endpoint.key,) if endpoint is not None else _APIS[kind][0] if kind in _APIS else None
    return None if variables is None else next((name for name in variables if os.environ.get(name)), "")


def _without_key(kind: str, catalogue: Catalogue) -> str:
    """Return what to do where the key is missing."""
    if kind in _APIS:
        return _APIS[kind][1]
    endpoint = catalogue.endpoints[kind]
    return f"{endpoint.key} is not set" + (f" ({endpoint.help})" if endpoint.help else "")


def _local() -> Finding:
    from orchestrai.platforms.local import LocalModel

    model = LocalModel()
    try:
        model.check()
    except ModelMissing as error:
        return Finding("local", None, str(error), automatic=False)
    return Finding("local", model, "the embedded demo model; answers only when named or alone", automatic=False)


def _given(
    value: Any, catalogue: Catalogue, settings: Mapping[str, Mapping[str, Any]]
) -> Platform | Configured | Finding:
    if isinstance(value, str):
        if value not in settings and not is_kind(value, catalogue):
            raise NoPlatform(f"unknown platform {value!r}.{nearest(value, settings) or near(value, catalogue)}")
        return _made(value, settings.get(value, {}), catalogue)
    if isinstance(value, Platform):
        return value
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004 - the bound method is what is asked about
        return FunctionPlatform(value)
    raise NoPlatform(f"{value!r} is no platform: give an orchestrai.platforms object or an async function.")


def _doubtful(plan: Plan, platform: Platform) -> bool:
    """Return True where its key does not show the plan, so that the worst of several counts."""
    return plan.data_use != "may_train" and platform.data_use == "may_train"


def _doubt(name: str, plan: Plan) -> str:
    return f'if it is on the plan "{plan.title}", write tier = "{plan.tier}" under [platforms.{name}] in the settings'


def _barred(finding: Finding) -> Finding:
    if finding.platform is None or finding.data_use != "may_train":
        return finding
    cure = f'where that is turned off, write data_use = "none" under [platforms.{finding.name}] in the settings'
    if finding.plan is not None and _doubtful(finding.plan, finding.platform):
        cure = _doubt(finding.name, finding.plan)
    return replace(finding, barred=f"never_train is set, and its plan may train on your data; {cure}.")


# --- command-line clients

_known_states: dict[tuple[object, ...], CliState] = {}  # of clients that can answer; what is missing is looked for anew


def _states(made: Sequence[Configured | Platform | Finding]) -> dict[str, CliState]:
    """Return what the command-line clients among these told, asked all at once; name → state.

    A client that does not tell in time is not among them; what it tells later serves the next who asks.
    """
    states: dict[str, CliState] = {}
    asked: list[threading.Thread] = []
    for one in made:
        if not isinstance(one, Configured) or one.probe is None:
            continue
        key = (one.probe, _hashed(one.asks), _surroundings())
        if key in _known_states:
            states[one.name] = _known_states[key]
            continue
        thread = threading.Thread(target=_ask, args=(one, key, states), name=f"orchestrai-{one.name}", daemon=True)
        thread.start()
        asked.append(thread)
    end = time.monotonic() + PROBE_S
    for thread in asked:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(states)


def _ask(made: Configured, key: tuple[object, ...], states: dict[str, CliState]) -> None:
    assert made.probe is not None
    try:
        state = made.probe(**made.asks)
    except Exception as error:  # noqa: BLE001 - whatever one client or its adapter does, the others are still found
        state = CliState(False, None, None, f"it could not be looked for ({type(error).__name__}: {error}).")
    if state.found:
        _known_states[key] = state
    states[made.name] = state


def _hashed(value: Any) -> int:
    """Return a hash of what a client is asked with: its environment may hold a token, which nothing here keeps."""
    if isinstance(value, Mapping):
        return hash(frozenset((name, _hashed(one)) for name, one in value.items()))
    return hash(str(value))


def _surroundings() -> int:
    """Return a hash of what decides which client and which login is found."""
    names = ("PATH", "HOME", "USERPROFILE", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN", "CODEX_HOME")
    return hash(tuple(os.environ.get(name) for name in (*names, "GEMINI_CLI_HOME")))
