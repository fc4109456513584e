"""Gemini CLI as a platform: a Google login, or an API key, answers through sealed processes that are kept for a while.

Source of every argument, setting and trap: measured with gemini-cli 0.61.0. A prompt goes over ACP to a process that
waits (0.05 s); one that begins like a command (`/memory …`, `$help`), which ACP would carry out, goes to a process of its
own as plain text. What is left of a request is the prompt, the system prompt and 300 characters of context.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final, get_args

from orchestrai.errors import PlatformError
from orchestrai.platforms import gemini_cli_home as homes
from orchestrai.platforms import process, transcript
from orchestrai.platforms.arguments import at_least_1, one_of
from orchestrai.platforms.arguments import limits as checked_limits
from orchestrai.platforms.catalogue import default_model
from orchestrai.platforms.cli_state import CliState, older
from orchestrai.platforms.gemini_cli_agent import MOST_PROMPTS, Agent, NoPersistentMode
from orchestrai.platforms.gemini_cli_home import API_KEY, GOOGLE, INSTALL, LOGIN, LOGINS
from orchestrai.platforms.gemini_cli_output import StreamTurn
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.result import Tier

OLDEST_VERSION: Final = "0.61.0"  # the one that was measured
LONGEST_PROMPT: Final = 8 * 2**20  # bytes; of more it silently sends nothing

_MEMORY: Final = 250 * 2**20  # bytes that one process takes (242 MB measured)
_MOST: Final = 4  # at once; each start keeps a core busy for a second or more
_IDLE_S: Final = 60.0  # seconds after which a process without work ends
_EXIT_S: Final = 2.0  # seconds that a process gets to end by itself
_NO_SYSTEM: Final = "Answer the user."  # without a file of instructions it sends its own 23 kB
_COMMAND: Final = re.compile(r"\s*[/$]\s*[A-Za-z][\w:-]*(\s|$)")  # its first word could name one


class GeminiCLI:
    """Gemini CLI with the login of its owner.

    It constrains no answer to a schema and takes no output limit, temperature or effort. It tells no reason for an end:
    an answer that the output limit cut looks whole.

    Args:
        name: What it is asked for by.
        model: Model used when a task names none; default from the catalogue.
        binary: Path of the program; default `gemini` on PATH.
        home: The folder that holds the person's `.gemini`; default `GEMINI_CLI_HOME`, else the home folder.
        login: `oauth-personal` (Google) or `gemini-api-key`; default what the person's settings select.
        concurrency: Processes at once; default by free memory, at most 4.
        tier: Who pays; default free for a Google login, paid for an API key.
        limits: `{"rpm": 60, "tpm": None, "rpd": 1_500}`: requests and tokens a minute, requests a day.
        data_use: What the plan lets Google do with the data; default may_train for a Google login that is free.
        env: Further variables of the process: `GOOGLE_CLOUD_PROJECT` of a licence, `GEMINI_API_KEY` of a login by key
            (default the environment's). No others are passed on, so that a key that stands in the environment for
            something else is never billed.

    Raises:
        InvalidSettings: An argument has an impossible value.
    """

    transport: Final[Transport] = "cli"
    provider: Final = "google"
    address: Final[str | None] = None
    demo: Final = False

    def __init__(
        self,
        name: str = "gemini_cli",
        *,
        model: str | None = None,
        binary: str | Path | None = None,
        home: str | Path | None = None,
        login: str | None = None,
        concurrency: int | None = None,
        tier: Tier | None = None,
        limits: Mapping[str, float | None] | None = None,
        data_use: DataUse | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.model = model or default_model("gemini_cli")
        self.login = one_of(name, "login", login, LOGINS) if login else homes.login_of(homes.person_home(home))
        usual = "paid" if self.login == API_KEY else "free"
        self.tier: Tier = one_of(name, "tier", tier or usual, get_args(Tier))
        trained = self.login != API_KEY and self.tier == "free"
        usual = "may_train" if trained else "unknown"
        self.data_use: DataUse = one_of(name, "data_use", data_use or usual, get_args(DataUse))
        self.limits = checked_limits(name, limits or {})
        if concurrency is None:
            concurrency = process.places(process.free_memory(), _MEMORY, _MOST)
        self.concurrency = at_least_1(name, "concurrency", concurrency)
        self._binary = None if binary is None else str(binary)
        self._person = homes.person_home(home)
        self._env = process.Environment(env or {})
        self._persistent = True
        self._places = asyncio.Semaphore(self.concurrency)
        self._idle: deque[Agent] = deque()
        self._models: dict[Agent, str] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        known = vars(self)  # a traceback may show it half made
        return f"GeminiCLI(name={known.get('name')!r}, model={known.get('model')!r}, login={known.get('login')!r})"

    @classmethod
    def probe(
        cls, binary: str | Path | None = None, home: str | Path | None = None, login: str | None = None
    ) -> CliState:
        """Return whether Gemini CLI can answer; only files are read.

        Args:
            binary: Path of the program; default `gemini` on PATH.
            home: The folder that holds the person's `.gemini`; default `GEMINI_CLI_HOME`, else the home folder.
            login: `oauth-personal` or `gemini-api-key`; by default a Google login alone counts.
        """
        path = homes.binary_of(None if binary is None else str(binary))
        if path is None:
            return CliState(False, None, None, f"gemini is not on PATH. Run: {INSTALL}; then {LOGIN}")
        version = homes.version_of(path)
        if version is not None and older(version, OLDEST_VERSION):
            words = f"Gemini CLI {version} is older than {OLDEST_VERSION}. Run: {INSTALL}"
            return CliState(False, version, None, words, path)
        if process.find_binary("node") is None:
            return CliState(False, version, None, "gemini needs Node.js 20 or newer, and node is not on PATH.", path)
        person = homes.person_home(home)
        selected = login or homes.login_of(person)
        if selected == GOOGLE and homes.has_google_login(person):
            return CliState(True, version, "Google", path, path)
        if selected != API_KEY:
            return CliState(False, version, None, f"gemini is not logged in with Google. Run: {LOGIN}", path)
        if login is None:
            words = (
                f"gemini uses an API key, which the platform `gemini` asks directly; to use it here: login='{API_KEY}'"
            )
            return CliState(False, version, "API key", words, path)
        if not os.environ.get("GEMINI_API_KEY"):
            return CliState(False, version, None, "GEMINI_API_KEY is not set.", path)
        return CliState(True, version, "API key", path, path)

    @property
    def account(self) -> str | None:
        """The first 8 hex digits of the SHA-256 of the key, or of the Google account's address; None when untold."""
        if self.login == API_KEY:
            key = self._key()
            return hashlib.sha256(key.encode()).hexdigest()[:8] if key else None
        return homes.account_of(self._person)

    def serves(self, model: str) -> bool:
        """Return True for Gemini's models; which of them the login may use, Google tells when it is asked."""
        return model == self.model or model.startswith("gemini-")

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 - the same for all of them
        """Return that it takes text alone and streams."""
        return Capabilities(schema=False, images=False, output_limit=False, temperature=False, effort=False)

    async def send(self, request: Request) -> Reply:
        """Make one request and return its reply.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves this method.
        """
        reply: Reply | None = None
        async with aclosing(self._answer(request)) as items:
            async for item in items:
                reply = item if isinstance(item, Reply) else reply
        assert reply is not None, "an answer ends with its Reply or with an error"
        return reply

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Make one request and yield the pieces of the answer, then the Reply.

        Raises:
            PlatformError: As `send`; `reply` carries what had arrived.
        """
        async with aclosing(self._answer(request)) as items:
            async for item in items:
                yield item

    async def close(self) -> None:
        """End every process; a second call does nothing. The next request would start a new one."""
        idle, self._idle = tuple(self._idle), deque()
        for agent in self._models:  # those that are at work, too: their requests fail
            agent.child.kill()
        await asyncio.gather(*(self._ended(agent) for agent in idle), *self._ending, return_exceptions=True)

    # One answer.

    async def _answer(self, request: Request) -> AsyncGenerator[str | Reply, None]:
        try:
            async with aclosing(self._told(request)) as items:
                async for item in items:
                    yield item
        except OSError as error:  # no space for a home, no more files
            raise PlatformError("connection", f"gemini cannot be run: {error}") from None

    async def _told(self, request: Request) -> AsyncGenerator[str | Reply, None]:
        prompt = await transcript.prompt(request)
        if request.extra:
            raise PlatformError("request", f"Gemini CLI takes no further fields (extra: {', '.join(request.extra)}).")
        size = len(prompt.encode("utf-8"))
        if size > LONGEST_PROMPT:
            raise PlatformError(
                "request", f"the prompt has {size:,} bytes, but Gemini CLI takes {LONGEST_PROMPT:,} at most."
            )
        binary = self._checked()
        async with self._places:
            if self._persistent and not _COMMAND.match(prompt):
                agent = await self._agent(binary, request)
                if agent is not None:
                    async with aclosing(self._asked(agent, prompt, request)) as items:
                        async for item in items:
                            yield item
                    return
            async with aclosing(self._alone(binary, prompt, request)) as items:
                async for item in items:
                    yield item

    async def _asked(self, agent: Agent, prompt: str, request: Request) -> AsyncGenerator[str | Reply, None]:
        """Ask a process that waits; it waits again afterwards, unless its answer was not read to the end."""
        over = False
        agent.child.expires_in(request.timeout_s)
        try:
            async with aclosing(agent.ask(prompt, request.system or _NO_SYSTEM)) as items:
                async for item in items:
                    over = isinstance(item, Reply)
                    if isinstance(item, Reply):
                        _same_model(request.model, item)
                    yield item
        except PlatformError:
            over = True
            raise
        finally:
            if over and agent.child.usable and agent.prompts < MOST_PROMPTS:
                agent.child.expires_in(None)
                self._idle.append(agent)
                agent.idle_timer = asyncio.get_running_loop().call_later(_IDLE_S, self._retire, agent)
            else:
                self._models.pop(agent, None)
                agent.child.kill()
                await agent.close()

    async def _alone(self, binary: str, prompt: str, request: Request) -> AsyncGenerator[str | Reply, None]:
        """Ask a process of its own, in which a prompt that begins with `/` is text behind a blank."""
        home = await asyncio.to_thread(homes.Home, self._login_type(), self._person)
        try:
            homes.write_system(home, request.system or _NO_SYSTEM)
            arguments = ["--output-format", "stream-json", "--skip-trust", "-m", request.model]
            turn = StreamTurn()
            async with process.run(
                binary, arguments, env=self._variables(home), cwd=home.work, timeout_s=request.timeout_s
            ) as child:
                child.write((" " + prompt if prompt.startswith("/") else prompt).encode("utf-8"))
                child.end_input()
                while not turn.over and (line := await child.line()) is not None:
                    piece = turn.take(line)
                    if piece:
                        yield piece
                code = None
                if not turn.succeeded:  # its exit code tells the HTTP status; after an answer it takes its time
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_EXIT_S):
                            code = await child.exit()
                reply = turn.reply(code, child.stderr)
            _same_model(request.model, reply)
            yield reply
        finally:
            await asyncio.to_thread(home.remove)

    # Its processes.

    async def _agent(self, binary: str, request: Request) -> Agent | None:
        """Return a process that is ready for a prompt; None where this version has none that stays."""
        for agent in tuple(reversed(self._idle)):
            if not agent.child.usable or self._models[agent] == request.model:
                self._idle.remove(agent)
                if agent.idle_timer is not None:
                    agent.idle_timer.cancel()
                if agent.child.usable:
                    return agent
                await self._ended(agent)
        while self._idle and len(self._models) >= self.concurrency:  # one of another model makes room
            await self._ended(self._idle.popleft())
        home = await asyncio.to_thread(homes.Home, self._login_type(), self._person)
        started: Agent | None = None
        try:
            homes.write_system(home, request.system or _NO_SYSTEM)
            async with asyncio.timeout(request.timeout_s):
                started = await Agent.start(binary, request.model, self._variables(home), home)
        except NoPersistentMode:
            self._persistent = False
            return None
        except TimeoutError:
            raise PlatformError("timeout", f"Gemini CLI did not start within {request.timeout_s:g} s.") from None
        finally:
            if started is None:
                home.remove()
        self._models[started] = request.model
        return started

    async def _ended(self, agent: Agent) -> None:
        self._models.pop(agent, None)
        agent.child.kill()
        await agent.close()

    def _retire(self, agent: Agent) -> None:
        self._idle.remove(agent)
        ending = asyncio.get_running_loop().create_task(self._ended(agent))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    # What is on this machine.

    def _checked(self) -> str:
        """Return the program, after making sure that there is a login.

        Raises:
            PlatformError: key: it is not installed, or not logged in.
        """
        binary = homes.binary_of(self._binary)
        if binary is None:
            raise PlatformError("key", f"gemini is not installed. Run: {INSTALL}; then {LOGIN}")
        if self.login == GOOGLE and not homes.has_google_login(self._person):
            raise PlatformError("key", f"gemini is not logged in with Google. Run: {LOGIN}")
        if self.login == API_KEY and not self._key():
            raise PlatformError("key", "gemini is used with an API key, but GEMINI_API_KEY is not set.")
        if self.login not in LOGINS:
            raise PlatformError(
                "key",
                f"gemini has no login ({self.login or 'none selected'}). Run: {LOGIN}; or give login='{API_KEY}' and "
                "set GEMINI_API_KEY.",
            )
        return binary

    def _login_type(self) -> str:
        assert self.login is not None, "`_checked` came before"
        return self.login

    def _key(self) -> str | None:
        return self._env.get("GEMINI_API_KEY") or os.environ.get("GEMINI_API_KEY")

    def _variables(self, home: homes.Home) -> process.Environment:
        key = {"GEMINI_API_KEY": self._key() or ""} if self.login == API_KEY else {}
        return process.environment(values={**home.environment(), **key, **self._env})


def _same_model(asked: str, reply: Reply) -> None:
    """Refuse an answer by another model than the one asked for, which Gemini CLI falls back to by itself.

    Raises:
        PlatformError: It is another's.
    """
    told = reply.model
    if told is not None and told != asked and asked.startswith("gemini-"):
        raise PlatformError("reply", f"{told} answered in place of {asked}.", may_be_billed=True, reply=reply)
