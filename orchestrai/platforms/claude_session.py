"""One `claude` process that answers one prompt after another, each in a conversation of its own.

Everything that a person wrote reaches it on stdin, as one JSON object a line: the system prompt and the schema in the
`initialize` request, the prompts as user messages. Its reply to `initialize` tells how it is logged in, so what would
be billed elsewhere is refused before anything is sent.

After an answer the conversation is rewound to where it began. The client rewinds only to after an answer of the model,
so an empty one is put at the beginning, which it leaves out of its requests: the request of the hundredth prompt is, byte
for byte, the one that a new process would send. (`/clear` would put three blocks about itself before the next prompt.)
A process that does not confirm it is not used again.

Source: measured with Claude Code 2.1.197: 0.5-2 s to start a process, 0.02 s for a further prompt.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.ids import now_us
from orchestrai.platforms import process, wire
from orchestrai.platforms.child import Child
from orchestrai.platforms.claude_turn import LOGIN, Turn, billed_elsewhere, number
from orchestrai.platforms.protocol import QuotaReading

LARGEST_OUTPUT: Final = 256 * 2**20  # bytes for one prompt: it tells every few letters in 300 bytes, read as they come
_CONTROL_S: Final = 5.0  # seconds that a rewind may take; it takes a millisecond
_QUOTA_S: Final = 15.0  # seconds that reading the windows may take: it is a request to the account
_WINDOWS: Final = ("five_hour", "seven_day", "seven_day_opus", "seven_day_sonnet", "seven_day_oauth_apps")
_MOST_PERCENT: Final = 1_000  # used of a window; overage goes beyond 100
_NO_KEYS: Final = (None, "", "none")
_OUR_LOGINS: Final = (None, "", "none", "claude.ai", "CLAUDE_CODE_OAUTH_TOKEN")
_BEGINNING: Final = {
    "type": "assistant",
    "session_id": "",
    "parent_tool_use_id": None,
    "message": {
        "id": "beginning",
        "type": "message",
        "role": "assistant",
        "model": "<synthetic>",
        "content": [{"type": "text", "text": ""}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    },
}


class Session:
    """A process that is ready for a prompt; made by `start`."""

    def __init__(self, child: Child, *, constrained: bool) -> None:
        self.child = child
        self.prompts = 0
        self._timer: asyncio.TimerHandle | None = None
        self._constrained = constrained
        self._spent_usd = 0.0
        self._asked = ""

    def __repr__(self) -> str:
        return f"<Session {self.child}, {self.prompts} prompts>"

    @classmethod
    async def start(
        cls,
        binary: str,
        arguments: Sequence[str],
        env: process.Environment,
        *,
        system: str | None,
        schema: Mapping[str, Any] | None,
        timeout_s: float,
    ) -> Session:
        """Start a process, have it tell its login, and return it ready.

        Raises:
            PlatformError: key: it is not logged in, or would bill something else; request: it is too old or cannot use
                the schema; connection: it does not start.
        """
        child = await process.start(binary, arguments, env=env, largest=LARGEST_OUTPUT, timeout_s=timeout_s)
        try:
            session = cls(child, constrained=schema is not None)
            asked: dict[str, Any] = {"subtype": "initialize", "systemPrompt": system or ""}
            if schema is not None:
                asked["jsonSchema"] = schema
            told = await session._control(asked)
            refusal = _refusal(told)
            if refusal is not None:
                raise refusal
            session._say({**_BEGINNING, "uuid": str(uuid.uuid4())})
        except BaseException:
            child.kill()  # it has nothing in hand: no grace is needed
            await child.close()
            raise
        return session

    def begin(self, prompt: str, timeout_s: float) -> Turn:
        """Send a prompt and return what its output is to be fed to.

        Raises:
            PlatformError: request: the prompt cannot be put into JSON.
        """
        self.prompts += 1
        self._asked = str(uuid.uuid4())
        if prompt.startswith("/"):  # else it is taken for a command of the client and answered without a request
            prompt = f" {prompt}"
        self.child.expires_in(timeout_s)
        self._say(
            {
                "type": "user",
                "uuid": self._asked,
                "session_id": "",
                "parent_tool_use_id": None,
                "message": {"role": "user", "content": prompt},
            }
        )
        return Turn(constrained=self._constrained, spent_usd=self._spent_usd)

    async def piece(self, turn: Turn) -> str:
        """Feed the next line of the output to a turn and return the text that it brings, often none.

        Raises:
            PlatformError: reply: the process ended, or printed too much; timeout.
        """
        line = await self.child.line()
        if line is None:
            raise turn.cut(await self.child.exit(), self.child.stderr)
        return turn.hear(line)

    async def rewind(self, turn: Turn) -> bool:
        """Take back the last prompt and its answer; True when the process says that it did, in time."""
        if not turn.whole or not self.child.usable:
            return False
        self._spent_usd = turn.spent_usd
        self.child.expires_in(_CONTROL_S)
        try:
            told = await self._control({"subtype": "rewind_conversation", "target_message_uuid": self._asked})
        except PlatformError:
            return False
        self.child.expires_in(None)
        return wire.mapping(told.get("response")).get("rewound") is True

    async def quota(self) -> tuple[QuotaReading, ...]:
        """Return the windows of the plan as the client reads them from its account; no model is asked.

        Raises:
            PlatformError: It did not tell them in time.
        """
        self.child.expires_in(_QUOTA_S)
        told = await self._control({"subtype": "get_usage"})
        self.child.expires_in(None)
        return readings(wire.mapping(told.get("response")).get("rate_limits"))

    async def close(self) -> None:
        """End the process: TERM, 2 s, KILL."""
        self.wait_no_more()
        await self.child.close()

    def wait(self, seconds: float, then: Callable[[Session], None]) -> None:
        """Have `then` called with this process in so many seconds, unless `wait_no_more` is called first."""
        self._timer = asyncio.get_running_loop().call_later(seconds, then, self)

    def wait_no_more(self) -> None:
        """Take `wait` back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _say(self, message: Mapping[str, Any]) -> None:
        self.child.write(orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE))

    async def _control(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the client's reply to a control request.

        Raises:
            PlatformError: It ended instead, or said nothing in time.
        """
        number = str(uuid.uuid4())
        try:
            self._say({"type": "control_request", "request_id": number, "request": request})
        except TypeError as error:
            raise PlatformError("request", f"the schema is no JSON: {error}") from None
        while (line := await self.child.line()) is not None:
            try:
                said = wire.mapping(wire.document(line))
            except ValueError:
                continue
            told = wire.mapping(said.get("response"))
            if said.get("type") == "control_response" and told.get("request_id") == number:
                return told
        ended = Turn(constrained=False).cut(await self.child.exit(), self.child.stderr)
        kind: PlatformErrorKind = "request" if ended.kind == "request" else "connection"
        raise PlatformError(kind, str(ended))


def readings(told: Any) -> tuple[QuotaReading, ...]:
    """Return the windows in the client's own form: `{"five_hour": {"utilization": 37, "resets_at": "…Z"}, …}`."""
    now = now_us()
    found = []
    for window in _WINDOWS:
        given = wire.mapping(wire.mapping(told).get(window))
        used = number(given.get("utilization"), most=_MOST_PERCENT)
        if used is not None:
            found.append(QuotaReading(window, used, _moment(given.get("resets_at")), "get_usage", now))
    return tuple(found)


def _moment(text: Any) -> int | None:
    """Return an ISO time as µs since 1970; None for what is none."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return round(moment.timestamp() * 1_000_000) if moment is not None and moment.tzinfo is not None else None


def _refusal(told: Mapping[str, Any]) -> PlatformError | None:
    """Return why a process may not be used, by its reply to `initialize`; None when it may."""
    if told.get("subtype") != "success":
        return PlatformError("request", f"Claude Code refuses its settings: {wire.one_line(str(told.get('error')))}")
    account = wire.mapping(wire.mapping(told.get("response")).get("account"))
    key, login, provider = (account.get(name) for name in ("apiKeySource", "tokenSource", "apiProvider"))
    if key not in _NO_KEYS:
        return billed_elsewhere(key)
    if login not in _OUR_LOGINS:
        return billed_elsewhere(login)
    if provider not in (None, "firstParty"):
        return billed_elsewhere(provider)
    if login in _NO_KEYS and not account.get("subscriptionType"):
        return PlatformError("key", f"Claude Code is not logged in: {LOGIN}.")
    return None
