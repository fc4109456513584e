"""Codex CLI as a platform: a ChatGPT plan answers, one sealed process per task.

Source of every argument, limit and trap: measured with codex-cli 0.169.0. Each process has an empty working folder and a
home of ours that holds nothing of the person's but the login, as a link (Codex refreshes it in place): no settings, no
AGENTS.md, no skills. Its tools and 50 kB of instructions are switched off; some come with the model, from Codex's
catalogue of models, so it gets that catalogue without them. What is left of a request is the prompt, the system prompt
and one inert tool: 3.5 kB.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

import orjson

from orchestrai.errors import PlatformError
from orchestrai.platforms import chat_completions, codex_home, codex_output, codex_quota, process, transcript
from orchestrai.platforms.arguments import at_least_1, one_of
from orchestrai.platforms.arguments import limits as checked_limits
from orchestrai.platforms.catalogue import default_model
from orchestrai.platforms.cli_state import CliState, older
from orchestrai.platforms.codex_home import INSTALL, LOGIN
from orchestrai.platforms.protocol import Capabilities, DataUse, QuotaReading, Reply, Request, Transport
from orchestrai.result import Tier

OLDEST_VERSION: Final = "0.169.0"  # the one that was measured; older ones lack switches that seal it
LONGEST_PROMPT: Final = 1_048_576  # characters; Codex refuses more

_CONTEXT_TOKENS: Final = 272_000  # the smallest in the catalogue of models of codex-cli 0.169.0
_MEMORY: Final = 130 * 2**20  # bytes that one process takes (124 MB measured)
_MOST: Final = 8  # at once; more gained nothing on two cores
_EXIT_S: Final = 1.0  # seconds that it gets to end by itself after its last word
_NO_SYSTEM: Final = "Answer the user."  # without a file of instructions it sends its own 17 kB
_MODELS: Final = re.compile(r"gpt-(?!oss)|codex-|o\d")
_PROVIDER: Final = "orchestrai"
_SEALED: Final = (
    *("exec", "--json", "--skip-git-repo-check", "--ephemeral", "--ignore-user-config", "--ignore-rules"),
    *("-s", "read-only"),
)
_CONFIG: Final[Mapping[str, Any]] = {
    "web_search": "disabled",
    "include_permissions_instructions": False,
    "include_environment_context": False,
    "include_apps_instructions": False,
    "include_collaboration_mode_instructions": False,
    "skills.include_instructions": False,
    "skills.bundled.enabled": False,  # else `$imagegen` in a prompt adds 19 kB
    "project_doc_max_bytes": 0,
    "analytics.enabled": False,
    "feedback.enabled": False,
    "check_for_update_on_startup": False,
    "history.persistence": "none",
}


class Codex:
    """A ChatGPT plan, asked through the Codex CLI that its owner is logged in to.

    Codex reports no wait with a rate limit and no model with an answer. A task without `effort` is asked with `low`,
    which is its own default.

    Args:
        name: What it is asked for by.
        model: Model used when a task names none; default from the catalogue.
        binary: Path of the binary; default `codex` on PATH.
        home: Its folder, with the login; default `CODEX_HOME`, else `~/.codex`.
        concurrency: Processes at once; default by free memory, at most 8.
        tier: subscription for a plan; with a login by API key it has to be paid.
        limits: `{"rpm": 60, "tpm": 90_000, "rpd": None}`: requests and tokens a minute, requests a day.
        data_use: What the plan lets OpenAI do with the data.
        env: Further variables of the process. No others are passed on, so that an `OPENAI_API_KEY` that stands in
            the environment for something else is never billed.
        config: Further `-c key=value` settings; a `model_provider` among them is asked instead of the ChatGPT plan. They
            stand on the command line, where others can see them: a key goes into `env`, named by the `env_key` here.

    Raises:
        InvalidSettings: An argument has an impossible value.
    """

    transport: Final[Transport] = "cli"
    provider: Final = "openai"
    address: Final[str | None] = None
    demo: Final = False

    def __init__(
        self,
        name: str = "chatgpt",
        *,
        model: str | None = None,
        binary: str | Path | None = None,
        home: str | Path | None = None,
        concurrency: int | None = None,
        tier: Tier = "subscription",
        limits: Mapping[str, float | None] | None = None,
        data_use: DataUse = "may_train",
        env: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.model = model or default_model("chatgpt")
        self.tier: Tier = one_of(name, "tier", tier, get_args(Tier))
        self.data_use: DataUse = one_of(name, "data_use", data_use, get_args(DataUse))
        self.limits = checked_limits(name, limits or {})
        if concurrency is None:
            concurrency = process.places(process.free_memory(), _MEMORY, _MOST)
        self.concurrency = at_least_1(name, "concurrency", concurrency)
        self._given_binary = binary
        self._home = codex_home.home_of(home)
        self._environment = process.Environment(env or {})
        self._config = _Hidden(config or {})
        self._untold: tuple[QuotaReading, ...] = ()
        self._quota = codex_quota.Reader()
        self._own_home: Path | None = None
        self._looking = threading.Lock()

    def __repr__(self) -> str:
        known = vars(self)  # a traceback may show it half made
        return f"Codex(name={known.get('name')!r}, model={known.get('model')!r}, tier={known.get('tier')!r})"

    @classmethod
    def probe(
        cls, binary: str | Path | None = None, home: str | Path | None = None, tier: Tier = "subscription"
    ) -> CliState:
        """Return whether Codex can answer, within 3 s and without sending anything.

        Args:
            binary: Path of the binary; default `codex` on PATH.
            home: Its folder; default `CODEX_HOME`, else `~/.codex`.
            tier: paid for a login by API key; every other one asks for a login with ChatGPT.
        """
        path = codex_home.binary_of(binary)
        if path is None:
            return CliState(False, None, None, f"codex is not on PATH. Run: {INSTALL}; then {LOGIN}")
        version = process.version(path, timeout_s=10.0)
        if version is None:
            return CliState(False, None, None, f"{path} told no version. Run: {INSTALL}", path)
        if older(version, OLDEST_VERSION):
            why = f"codex {version} is older than {OLDEST_VERSION}. Run: {INSTALL}"
            return CliState(False, version, None, why, path)
        login = codex_home.login_of(path, codex_home.home_of(home))
        if login is None:
            return CliState(False, version, None, f"codex is not logged in. Run: {LOGIN}", path)
        told = "API key" if login == "apikey" else "ChatGPT"
        wrong = _wrong_login(login, tier)
        return CliState(wrong is None, version, told, wrong or path, path)

    @property
    def account(self) -> str | None:
        """The first 8 hex digits of the SHA-256 of the ChatGPT account's id; None when the login does not tell it."""
        tokens = codex_home.login_file(self._home).get("tokens")
        account = tokens.get("account_id") if isinstance(tokens, dict) else None
        return hashlib.sha256(account.encode()).hexdigest()[:8] if isinstance(account, str) else None

    def serves(self, model: str) -> bool:
        """Return True for OpenAI's own models; which of them the plan holds, Codex tells when it is asked."""
        return model == self.model or _MODELS.match(model) is not None

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 - the same for all of them
        """Return that it takes text and an effort, constrains to a schema, and answers in one piece."""
        context = None if "model_provider" in self._config else _CONTEXT_TOKENS
        return Capabilities(images=False, output_limit=False, temperature=False, context_tokens=context)

    async def send(self, request: Request) -> Reply:
        """Run one sealed process and return its answer.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves this method.
        """
        prompt = await transcript.prompt(request)
        strict = request.json_schema is None or chat_completions.is_strict(request.json_schema)
        if not strict:  # Codex asks for strict mode alone, which the API refuses for this schema
            prompt += f"\n\nAnswer with JSON alone, valid for this JSON Schema:\n{_json(request.json_schema)}"
        if len(prompt) > LONGEST_PROMPT:
            raise PlatformError(
                "request", f"the prompt has {len(prompt):,} characters, but Codex takes {LONGEST_PROMPT:,} at most."
            )
        try:
            turn = await self._turn(prompt, request, strict=strict)
        except OSError as error:
            raise PlatformError("connection", f"codex cannot be run: {error}") from None
        reply = turn.reply()
        reply.quota, self._untold = self._untold, ()
        return reply

    async def _turn(self, prompt: str, request: Request, *, strict: bool) -> codex_output.Turn:
        installed = await asyncio.to_thread(self._installed)
        with codex_home.folder() as folder:
            arguments = self._arguments(request, folder, installed, strict=strict)
            turn = codex_output.Turn(datetime.now(UTC).astimezone())
            async with process.run(
                installed.binary, arguments, env=installed.env, cwd=folder / "empty", timeout_s=request.timeout_s
            ) as child:
                child.write(prompt.encode("utf-8"))
                child.end_input()
                async for line in child.lines():
                    turn.take(line)
                    if turn.over:
                        break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_EXIT_S):
                        turn.ended(await child.exit(), child.stderr)
        return turn

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Yield the answer as one piece, then the Reply: Codex prints it when it is whole.

        Raises:
            PlatformError: As `send`.
        """
        reply = await self.send(request)
        yield reply.text
        yield reply

    async def quota(self) -> tuple[QuotaReading, ...]:
        """Return the plan's windows as `codex app-server` tells them; asked at most every 5 minutes, by no task.

        The next reply carries them too, so that they are recorded. No model is asked.

        Raises:
            PlatformError: Codex is not installed or not logged in, or did not tell them in time.
        """
        installed = await asyncio.to_thread(self._installed)
        switches = (*installed.switches, *_settings({**_CONFIG, **self._config}))
        readings, fresh = await self._quota.read(installed.binary, switches, installed.env)
        if fresh:
            self._untold = readings
        return readings

    async def close(self) -> None:
        """Remove its folder; every process has ended with its task, and a later task makes a new one."""
        if self._own_home is not None:
            folder, self._own_home = self._own_home, None
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # How it is called.

    def _installed(self) -> _Installed:
        """Return what is on this machine, after making sure who is billed.

        Raises:
            PlatformError: key: it is not installed, not logged in, or logged in to another account than `tier` says.
        """
        with self._looking:
            binary = self._checked()
            switches, models = codex_home.known_of(binary)
            if self._own_home is None:
                self._own_home = codex_home.made_home(models)
                weakref.finalize(self, shutil.rmtree, self._own_home, ignore_errors=True)
            home = self._own_home
            linked = codex_home.link_login(home, self._home)
        inside = {"CODEX_HOME": str(home), "HOME": str(home)}  # `$name` in a prompt reads skills in HOME, too
        if not linked and "model_provider" not in self._config:
            # The login is in the system's keyring, under the name of the person's home.
            inside = {"CODEX_HOME": str(self._home)}
        env = process.environment(values={**inside, **self._environment})
        return _Installed(binary, switches, home / codex_home.CATALOGUE, env)

    def _checked(self) -> str:
        binary = codex_home.binary_of(self._given_binary)
        if binary is None:
            raise PlatformError("key", f"codex is not installed. Run: {INSTALL}, then {LOGIN}")
        if "model_provider" in self._config:
            return binary  # the person's own provider, told in so many words
        login = "apikey" if self._environment.get("CODEX_API_KEY") else codex_home.login_of(binary, self._home)
        if login is None:
            raise PlatformError("key", f"codex is not logged in. Run: {LOGIN}")
        wrong = _wrong_login(login, self.tier)
        if wrong is not None:
            raise PlatformError("key", wrong)
        return binary

    def _arguments(self, request: Request, folder: Path, installed: _Installed, *, strict: bool) -> list[str]:
        """Write what the arguments name into the folder, and return them; `-` at the end reads the prompt from stdin."""
        (folder / "empty").mkdir()
        instructions = folder / "instructions.md"
        _write(instructions, request.system or _NO_SYSTEM)
        arguments = [*_SEALED, "-m", request.model, *installed.switches]
        if request.json_schema is not None and strict:
            schema = folder / "schema.json"
            _write(schema, _json(request.json_schema))
            arguments += ["--output-schema", str(schema)]
        own_provider = {} if "model_provider" in self._config else _plan(request.timeout_s)
        return [
            *arguments,
            *_settings(
                {
                    **_CONFIG,
                    "model_catalog_json": str(installed.models),
                    "model_instructions_file": str(instructions),
                    "model_reasoning_effort": request.effort or "low",
                    **own_provider,
                    **self._config,
                    **request.extra,
                }
            ),
            "-",
        ]


@dataclass(frozen=True, slots=True)
class _Installed:
    """A binary, the arguments and the catalogue of models that seal it, and the environment of its processes."""

    binary: str
    switches: tuple[str, ...]
    models: Path
    env: Mapping[str, str]


class _Hidden(dict[str, Any]):
    """Values that may hold a key: shown by name alone."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


def _wrong_login(login: str, tier: Tier) -> str | None:
    """Return what to do where this login would bill another account than the tier says; None where it is right."""
    if (login == "apikey") == (tier == "paid"):
        return None
    if login == "apikey":
        return f"codex is logged in with an API key, which is billed by the token. For the plan run: {LOGIN}"
    return f'codex is logged in with ChatGPT, whose plan is not paid by the token: set tier to "subscription", or run: {LOGIN}'


def _plan(timeout_s: float) -> dict[str, Any]:
    """Return the provider that the built-in one is, but without its 30 tries; the built-in one cannot be changed.

    Without an address of its own it goes where the login belongs. Source: requests of both compared on loopback; the
    built-in one differs by a WebSocket that it tries first.
    """
    return {
        f"model_providers.{_PROVIDER}": {
            "name": "OpenAI",
            "wire_api": "responses",
            "requires_openai_auth": True,
            "request_max_retries": 0,
            "stream_max_retries": 0,
            "stream_idle_timeout_ms": int(timeout_s * 1000),
            "supports_websockets": False,
        },
        "model_provider": _PROVIDER,
    }


def _settings(config: Mapping[str, Any]) -> list[str]:
    return [word for key, value in config.items() for word in ("-c", f"{key}={_toml(value)}")]


def _toml(value: Any) -> str:
    """Return a value as TOML; a table is an inline one.

    Raises:
        PlatformError: request: TOML has no such value.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is a TOML one
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}={_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_toml(item) for item in value) + "]"
    raise PlatformError("request", f"a setting of Codex cannot be a {type(value).__name__}.")


def _json(schema: Any) -> str:
    try:
        return orjson.dumps(schema, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError as error:
        raise PlatformError("request", f"the schema is no JSON: {error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except UnicodeEncodeError as error:
        raise PlatformError("request", f"the system prompt holds half an emoji (character {error.start}).") from None
    except OSError as error:
        raise PlatformError("connection", f"{path} cannot be written: {error.strerror}.") from None
