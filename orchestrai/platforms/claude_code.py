"""Claude Code as a platform: a Claude subscription answers, through the client that its owner is logged in to.

The client runs sealed: no tools, no settings, no memory, no telemetry, an empty folder, an environment built from
nothing. Every way to bill something else than the subscription is left out of that environment, and refused where it
comes from elsewhere. A process answers many prompts of one kind (`claude_session`), which saves its start of 0.5-2 s.

Source of every argument and variable: measured with Claude Code 2.1.197.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, get_args

import orjson

from orchestrai.errors import InvalidSettings, PlatformError
from orchestrai.platforms import process, transcript, wire
from orchestrai.platforms.arguments import at_least_1, one_of
from orchestrai.platforms.arguments import limits as checked_limits
from orchestrai.platforms.catalogue import default_model
from orchestrai.platforms.claude_session import Session
from orchestrai.platforms.claude_turn import LOGIN
from orchestrai.platforms.cli_state import CliState, older
from orchestrai.platforms.protocol import Capabilities, DataUse, QuotaReading, Reply, Request, Transport
from orchestrai.result import Tier
from orchestrai.task import Effort

OLDEST_VERSION: Final = "2.1.197"  # what was measured; older ones may drop the system prompt in silence
INSTALL: Final = "npm install -g @anthropic-ai/claude-code"
UPDATE: Final = "claude update"
LOGIN_VARIABLES: Final = ("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR")
"""What of the person's environment tells the login; every other variable of the client stays out."""

_ARGUMENTS: Final = (
    *("-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--include-partial-messages"),
    *("--tools=", "--setting-sources=", "--strict-mcp-config", "--no-session-persistence", "--disable-slash-commands"),
)
_VARIABLES: Final = {
    "CLAUDE_CODE_DISABLE_ATTACHMENTS": "1",  # else `@/path` in a prompt sends that file
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_MAX_RETRIES": "0",  # the engine retries
    "MAX_STRUCTURED_OUTPUT_RETRIES": "0",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",  # else a cut stream is asked for, and paid, a second time
}
_NOWHERE: Final = "http://127.0.0.1:1"  # where a question about the login may knock: nobody listens
_EACH: Final = 300 * 2**20  # bytes that one process takes (278 MB measured, part of it shared)
_MOST: Final = 8  # at once; more gained nothing on two cores
_TIMEOUT_STEP_S: Final = 60  # seconds
_TELL_S: Final = 10.0  # for each question of the probe; discovery waits less and asks the next time [s]
_QUOTA_EVERY_S: Final = 300.0  # seconds between two readings of the plan's windows
_MOST_PROMPTS: Final = 200  # that one process answers
_EFFORTS: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_MODELS: Final = re.compile(r"claude-|(default|haiku|sonnet|opus|opusplan|fable)(\[1m\])?$")


class ClaudeCode:
    """A Claude subscription, asked through the Claude Code client.

    Without `effort` the model does not think before it answers, as the API does by default. The client tells no wait
    with a rate limit; a used-up window comes with the time of its reset.

    Args:
        name: What it is asked for by.
        model: Model used when a task names none: a full name, or `haiku`, `sonnet`, `opus`; default from the
            catalogue.
        binary: Path of the client; default `claude` on PATH.
        concurrency: Processes at once; default by the free memory, at most 8.
        effort: Reasoning effort used when a task names none: minimal, low, medium, high.
        limits: `{"rpm": 60, "tpm": 90_000, "rpd": None}`: requests and tokens a minute, requests a day.
        data_use: What the plan lets the provider do with the data: none, may_train, unknown.
        env: Further variables of the client, for instance `ANTHROPIC_BASE_URL` of a gateway; they win over ours and show
            in no repr. `CLAUDE_CODE_OAUTH_TOKEN` and `CLAUDE_CONFIG_DIR` are taken from the person's environment.
        persistent: False starts a process for every task.
        idle_s: How long a process without work waits for more [s].

    Raises:
        InvalidSettings: An argument has an impossible value.
    """

    transport: Final[Transport] = "cli"
    provider: Final = "anthropic"
    tier: Final[Tier] = "subscription"
    demo: Final = False
    address: Final = None

    def __init__(
        self,
        name: str = "claude_code",
        *,
        model: str | None = None,
        binary: str | Path | None = None,
        concurrency: int | None = None,
        effort: Effort | None = None,
        limits: Mapping[str, float | None] | None = None,
        data_use: DataUse = "unknown",
        env: Mapping[str, str] | None = None,
        persistent: bool = True,
        idle_s: float = 60.0,
    ) -> None:
        if not all(isinstance(text, str) for pair in (env or {}).items() for text in pair):
            raise InvalidSettings(f"{name}: env holds names and values that are both text.")
        self.name = name
        self.model = model or default_model("claude_code")
        self.data_use: DataUse = one_of(name, "data_use", data_use, get_args(DataUse))
        self.limits = checked_limits(name, limits or {})
        self._concurrency = None if concurrency is None else at_least_1(name, "concurrency", concurrency)
        self._binary = str(binary) if binary is not None else None
        self._effort = None if effort is None else one_of(name, "effort", effort, get_args(Effort))
        self._env = process.Environment(env or {})
        self._persistent = persistent
        self._idle_s = idle_s
        self._quota: tuple[float, tuple[QuotaReading, ...]] | None = None
        self._checked: str | None = None
        self._idle: list[tuple[bytes, Session]] = []  # the longest waiting first
        self._busy: set[Session] = set()
        self._asked = 0  # requests under way, those whose process is still starting included
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        known = vars(self)  # a traceback may show it half made
        return f"ClaudeCode(name={known.get('name')!r}, model={known.get('model')!r})"

    @classmethod
    def probe(cls, binary: str | Path | None = None, env: Mapping[str, str] | None = None) -> CliState:
        """Return whether Claude Code can answer, within 3 s and without sending anything.

        Args:
            binary: Path of the client; default `claude` on PATH.
            env: Further variables of the client.
        """
        if not process.IS_POSIX:
            return CliState(False, None, None, process.NOT_POSIX)
        path = _find(binary)
        if path is None:
            return CliState(False, None, None, f"claude is not on PATH. Run: {INSTALL}; then {LOGIN}")
        version = process.version(path, timeout_s=_TELL_S)
        if version is None:
            return CliState(False, None, None, f"{path} told no version. Run: {INSTALL}", path)
        if older(version, OLDEST_VERSION):
            words = f"Claude Code {version} is older than {OLDEST_VERSION}. Run: {UPDATE}"
            return CliState(False, version, None, words, path)
        variables = _environment({**_VARIABLES, **(env or {}), "ANTHROPIC_BASE_URL": _NOWHERE})
        asked = process.ask(path, ["auth", "status"], env=variables, timeout_s=_TELL_S)
        if asked.code is None:
            words = f"{path} did not tell within {_TELL_S:g} s whether it is logged in. Try again."
            return CliState(False, version, None, words, path)
        try:
            told = wire.mapping(wire.document(asked.stdout))
        except ValueError:
            told = {}
        method, plan = told.get("authMethod"), told.get("subscriptionType")
        if told.get("loggedIn") is not True:
            return CliState(False, version, None, f"Claude Code is not logged in: {LOGIN}", path)
        if method not in ("claude.ai", "oauth_token") or told.get("apiProvider") != "firstParty":
            words = f"Claude Code is logged in by {method}, which is billed by the token. For the subscription {LOGIN}"
            return CliState(False, version, str(method), words, path)
        return CliState(True, version, f"{method}, {plan}" if plan else str(method), path, path)

    @property
    def concurrency(self) -> int:
        """Processes at once: what was told, else what the free memory holds."""
        if self._concurrency is not None:
            return self._concurrency
        free = process.free_memory()
        taken = (len(self._busy) + len(self._idle)) * _EACH
        return process.places(None if free is None else free + taken, _EACH, _MOST)

    @property
    def account(self) -> str | None:
        """The first 8 hex digits of the SHA-256 of what tells the account: the token, else its id, else its folder."""
        env = _environment(self._env)
        home = Path(env.get("CLAUDE_CONFIG_DIR") or env.get("HOME") or "~").expanduser()
        told = env.get("CLAUDE_CODE_OAUTH_TOKEN") or _account_id(home / ".claude.json") or str(home)
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def serves(self, model: str) -> bool:
        """Return True for Anthropic's models and the client's short names; which of them the plan holds, it tells."""
        return model == self.model or _MODELS.match(model) is not None

    def capabilities(self, model: str) -> Capabilities:
        """Return that it takes text alone, constrains, streams and limits its answers, and has no temperature."""
        window = 1_000_000 if model.endswith("[1m]") else 200_000
        return Capabilities(images=False, temperature=False, context_tokens=window)

    async def send(self, request: Request) -> Reply:
        """Ask once and return the reply.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves this method.
        """
        async with aclosing(self._answer(request)) as items:
            async for item in items:
                if isinstance(item, Reply):
                    return item
        raise PlatformError("reply", "Claude Code did not answer.", may_be_billed=True)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Ask once and yield the pieces of the answer, then the complete Reply; JSON under a schema is one piece.

        Raises:
            PlatformError: As `send`; `reply` carries what had arrived.
        """
        said = ""
        async with aclosing(self._answer(request)) as items:
            async for item in items:
                if isinstance(item, str):
                    said += item
                    yield item
                    continue
                if not item.text.startswith(said):
                    words = "the client began its answer anew."
                    raise PlatformError("reply", words, may_be_billed=True, reply=item)
                if item.text != said:
                    yield item.text[len(said) :]
                yield item

    async def quota(self) -> tuple[QuotaReading, ...]:
        """Return the plan's windows as the client reads them from its account; asked at most every 5 minutes.

        No model is asked. A login by `CLAUDE_CODE_OAUTH_TOKEN` may not read them: then there are none.

        Raises:
            PlatformError: The client is not installed or not logged in, or did not tell them in time.
        """
        now = asyncio.get_running_loop().time()
        if self._quota is None or now - self._quota[0] > _QUOTA_EVERY_S:
            request = Request((), self.model)
            async with self._session(request) as lent:
                self._quota = (now, await lent.session.quota())
                lent.again = True
        return self._quota[1]

    async def close(self) -> None:
        """End every process; a second call does nothing. The next request would start a new one."""
        idle, self._idle = self._idle, []
        for session in self._busy:
            session.child.kill()
        await asyncio.gather(*(session.close() for _, session in idle), *self._ending, return_exceptions=True)

    async def _answer(self, request: Request) -> AsyncGenerator[str | Reply, None]:
        """Yield the pieces of an answer as the client tells them, then the Reply."""
        prompt = await transcript.prompt(request)
        if request.extra:
            raise PlatformError("request", f"Claude Code takes no further fields (extra: {', '.join(request.extra)}).")
        async with self._session(request) as lent:
            session = lent.session
            turn = session.begin(prompt, request.timeout_s)
            try:
                while not turn.ended:
                    piece = await session.piece(turn)
                    if piece and request.json_schema is None:
                        yield piece
                reply = turn.reply()
            except PlatformError as error:
                raise turn.failed(error) from None
            finally:
                if turn.ended and not turn.whole:
                    session.child.kill()  # at once: it is about to ask again
            lent.again = session.prompts < _MOST_PROMPTS and await session.rewind(turn)
        yield reply

    # Its processes.

    @asynccontextmanager
    async def _session(self, request: Request) -> AsyncIterator[_Lent]:
        """Lend a process that is ready for this request: one that waits, or a new one.

        It is ended when the block is left, unless the block has set `again`.
        """
        kind = self._kind(request)
        self._asked += 1
        try:
            lent = _Lent(self._waiting(kind.key) or await self._started(kind, request))
            self._busy.add(lent.session)
            try:
                yield lent
            finally:
                self._busy.discard(lent.session)
                if lent.again and self._persistent:
                    self._keep(kind.key, lent.session)
                else:
                    await lent.session.close()
        finally:
            self._asked -= 1

    def _waiting(self, key: bytes) -> Session | None:
        """Return a process that waits for prompts of this kind, the last one that was used; None without one."""
        for place in range(len(self._idle) - 1, -1, -1):
            if self._idle[place][0] == key:
                _, session = self._idle.pop(place)
                if session.child.usable:
                    session.wait_no_more()
                    return session
                session.child.kill()  # of a loop that is gone, or it ended while it waited
        return None

    async def _started(self, kind: _Kind, request: Request) -> Session:
        """Return a new process; one of another kind that waits makes room for it."""
        while self._idle and self._asked + len(self._idle) > self.concurrency:
            await self._idle.pop(0)[1].close()
        binary = self._checked
        if binary is None:
            binary = await asyncio.to_thread(self._check)
        return await Session.start(
            binary,
            kind.arguments,
            kind.env,
            system=request.system,
            schema=request.json_schema,
            timeout_s=request.timeout_s,
        )

    def _keep(self, key: bytes, session: Session) -> None:
        """Let a process wait for another prompt, for a while."""
        self._idle.append((key, session))
        session.wait(self._idle_s, self._retire)

    def _retire(self, session: Session) -> None:
        self._idle = [(key, other) for key, other in self._idle if other is not session]
        ending = asyncio.get_running_loop().create_task(session.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _kind(self, request: Request) -> _Kind:
        """Return what kind of process answers this request: those of one kind answer one after another.

        Raises:
            PlatformError: request: the system prompt or the schema cannot be put into JSON.
        """
        effort = request.effort or self._effort
        arguments = [*_ARGUMENTS, f"--model={request.model}"]
        variables = dict(_VARIABLES)
        if effort is not None:
            arguments.append(f"--effort={_EFFORTS.get(effort, effort)}")
        if effort in (None, "minimal"):
            variables["MAX_THINKING_TOKENS"] = "0"
        if request.max_tokens is not None:
            variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(request.max_tokens)
        # Its own limit comes after ours, which counts for all of them; in steps, so that few kinds come of it.
        variables["API_TIMEOUT_MS"] = str((math.ceil(request.timeout_s / _TIMEOUT_STEP_S) + 1) * _TIMEOUT_STEP_S * 1000)
        env = _environment(variables | self._env)
        told = [arguments, env, request.system, request.json_schema]
        try:
            key = orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
        except TypeError as error:
            raise PlatformError("request", f"the system prompt or the schema cannot be written: {error}") from None
        return _Kind(hashlib.sha256(key).digest(), tuple(arguments), env)

    def _check(self) -> str:
        """Return the path of a client that is new enough.

        Raises:
            PlatformError: request: there is none.
        """
        path = _find(self._binary)
        if path is None:
            raise PlatformError("request", f"{self._binary or 'claude'} is not on PATH. Run: {INSTALL}; then {LOGIN}.")
        version = process.version(path)
        if version is not None and older(version, OLDEST_VERSION):
            raise PlatformError("request", f"Claude Code {version} is older than {OLDEST_VERSION}. Run: {UPDATE}")
        self._checked = path
        return path


@dataclass(slots=True)
class _Lent:
    """A process for one request; `again` says that it can take another."""

    session: Session
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a process is started with; processes of one key answer the same requests."""

    key: bytes
    arguments: tuple[str, ...]
    env: process.Environment


def _environment(variables: Mapping[str, str]) -> process.Environment:
    return process.environment(LOGIN_VARIABLES, variables)


def _find(binary: str | Path | None) -> str | None:
    """Return the absolute path of the client; None where it is not."""
    if binary is None or os.sep not in str(binary):
        return process.find_binary(str(binary or "claude"))
    path = Path(binary).expanduser().absolute()
    return str(path) if os.access(path, os.X_OK) and path.is_file() else None


def _account_id(file: Path) -> str | None:
    """Return the id of the account that the client is logged in to; None where it does not tell."""
    try:
        return _told_account(file, file.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=8)
def _told_account(file: Path, _changed_at: int) -> str | None:
    try:
        told = wire.mapping(wire.document(file.read_bytes()))
    except ValueError:
        return None
    return wire.word(wire.mapping(told.get("oauthAccount")).get("accountUuid"))
