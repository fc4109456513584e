"""What Gemini CLI prints, read: answers over ACP and as a stream of events, and the words of its failures.

Nothing here runs anything. Source: measured with gemini-cli 0.61.0 against a provider on loopback. It tells no reason for
an end, and hides a cut answer: over ACP that is an `end_turn` without usage, in the stream of events an `error` before a
`result`, in both with exit code 0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.platforms import wire
from orchestrai.platforms.protocol import QuotaReading, Reply
from orchestrai.result import NO_USAGE, Usage

INSTEAD: Final = (
    "Google has not served personal logins through Gemini CLI since 2026-06-18. Instead: a Gemini API key of the free "
    "tier (set GEMINI_API_KEY; platform gemini), Groq, or OpenRouter's models that end in :free. A Code Assist Standard "
    "or Enterprise licence still works: env={'GOOGLE_CLOUD_PROJECT': …}."
)
_INELIGIBLE: Final = re.compile(r"IneligibleTier|UNSUPPORTED_CLIENT|Antigravity", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(r"(?:retry|reset) (?:after|in) ((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)", re.IGNORECASE)
_WINDOW: Final = re.compile(r"daily quota|quota will reset|limit: 0\b", re.IGNORECASE)
_OVERLOADED: Final = re.compile(r"capacity|overloaded", re.IGNORECASE)
_KEY: Final = re.compile(
    r"API_KEY_INVALID|API key (not valid|expired|not found)|authenticat|invalid_grant|not logged in|login required"
    r"|UNAUTHENTICATED|authorization is required|Invalid auth method|must specify the GEMINI_API_KEY",
    re.IGNORECASE,
)
_BALANCE: Final = re.compile(r"billing|prepay|credits are depleted", re.IGNORECASE)
_REQUEST: Final = re.compile(r"is not found|not supported|token count|too large|INVALID_ARGUMENT", re.IGNORECASE)
_UNUSABLE: Final = re.compile(
    r"Incomplete JSON|JSON at position|Unexpected (token|end of JSON)|finish reason|invalid stream", re.IGNORECASE
)
_UNREACHABLE: Final = re.compile(
    r"ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|fetch failed|network error", re.IGNORECASE
)
_CUT: Final = re.compile(r"ECONNRESET|socket hang up|terminated|other side closed|premature", re.IGNORECASE)
_STATUSES: Final = {41: 401, 42: 400, 144: 400, 145: 401, 146: 402, 147: 403, 148: 404, 173: 429}
_INTERNAL: Final = frozenset({500, -32603})  # also what it says when it does not know


class StreamTurn:
    """One run with `--output-format stream-json`: filled line by line, then asked for its reply."""

    def __init__(self) -> None:
        self.over = False
        self._pieces: list[str] = []
        self._errors: list[str] = []
        self._result: Any = None
        self._model: str | None = None

    @property
    def succeeded(self) -> bool:
        """True when its result says so."""
        return wire.mapping(self._result).get("status") == "success"

    def take(self, line: bytes) -> str:
        """Read one line of stdout and return the text in it; what is no event is passed over."""
        try:
            event = wire.mapping(wire.document(line))
        except ValueError:
            return ""
        kind = event.get("type")
        if kind == "init":
            self._model = wire.word(event.get("model"))
        elif kind == "message" and event.get("role") == "assistant":
            text = event.get("content")
            if isinstance(text, str):
                self._pieces.append(text)
                return text
        elif kind == "error":
            self._errors.append(str(event.get("message")))
        elif kind == "result":
            self._result = event
            self.over = True
        return ""

    def reply(self, code: int | None, stderr: bytes) -> Reply:
        """Return the answer.

        Args:
            code: What the process ended with: the HTTP status modulo 256, or one of its own; None when unknown.
            stderr: The end of its stderr, which always holds noise.

        Raises:
            PlatformError: The run failed, did not end, or answered nothing.
        """
        told = wire.mapping(self._result)
        stats = wire.mapping(told.get("stats"))
        arrived = Reply(
            "".join(self._pieces), model=self._model, usage=stream_usage(stats), usage_raw=wire.kept_usage(stats)
        )
        if not self.over:
            words = last_line(stderr) or "it ended without a result."
            raise failure(words, _status(code), arrived if self._pieces else None, stderr)
        if not self.succeeded or self._errors:
            words = wire.mapping(told.get("error")).get("message") or "; ".join(self._errors) or "it failed."
            raise failure(str(words), _status(code), arrived if self._pieces else None, stderr)
        return answered(arrived)


def acp_reply(pieces: Iterable[str], result: Any, recorded: Usage | None) -> Reply:
    """Return the answer of a `session/prompt`.

    Args:
        pieces: The texts of its `agent_message_chunk`s.
        result: Its result: `{"stopReason", "_meta": {"quota": {"token_count", "model_usage"}}}`.
        recorded: The tokens as the session's own record tells them, with the cached ones and the thoughts, which the
            result leaves out; None without one.

    Raises:
        PlatformError: It was cut, cancelled, or answered nothing.
    """
    given = wire.mapping(result)
    quota = wire.mapping(wire.mapping(given.get("_meta")).get("quota"))
    models = quota.get("model_usage")
    used = wire.mapping(models[0]) if isinstance(models, list) and models else {}
    count = wire.mapping(quota.get("token_count"))
    read, written = wire.tokens(count.get("input_tokens")), wire.tokens(count.get("output_tokens"))
    usage = recorded or (Usage(read, output_tokens=written, source="cli") if read else NO_USAGE)
    arrived = Reply("".join(pieces), wire.word(used.get("model")), usage, usage_raw=wire.kept_usage(quota))
    stopped = given.get("stopReason")
    if stopped == "max_tokens":
        raise PlatformError("request", "the prompt does not fit the model's context window.", reply=arrived)
    if stopped != "end_turn":
        raise PlatformError("reply", f"Gemini CLI stopped: {stopped}.", may_be_billed=True, reply=arrived)
    if not used:
        cut = (
            "the answer was cut, or the model stopped without one." if arrived.text else "Gemini CLI answered nothing."
        )
        raise PlatformError("reply", cut, may_be_billed=True, reply=arrived)
    return answered(arrived)


def answered(reply: Reply) -> Reply:
    """Return a reply that a model has given.

    Raises:
        PlatformError: It is empty, or no token was counted.
    """
    if not reply.text:
        raise PlatformError("reply", "Gemini CLI answered nothing.", may_be_billed=True, reply=reply)
    if not reply.usage.input_tokens:
        raise PlatformError("reply", "Gemini CLI answered without asking a model.", may_be_billed=True, reply=reply)
    return reply


def stream_usage(stats: Any) -> Usage:
    """Return the tokens of a run; its output leaves out the thoughts, which only the total tells."""
    given = wire.mapping(stats)
    read, written = wire.tokens(given.get("input_tokens")), wire.tokens(given.get("output_tokens"))
    if read is None or written is None:
        return NO_USAGE
    total = wire.tokens(given.get("total_tokens"))
    whole = max(written, total - read) if total is not None else written
    return Usage(read, wire.part_of(read, given.get("cached")), None, whole, whole - written, "cli")


def recorded_usage(record: bytes) -> Usage | None:
    """Return the tokens that a session's record (`chats/session-….jsonl`) tells, over its answers; None without any."""
    found: Usage | None = None
    for line in record.splitlines():
        try:
            message = wire.mapping(orjson.loads(line))
        except ValueError:
            continue
        counts = wire.mapping(message.get("tokens"))
        read, written = wire.tokens(counts.get("input")), wire.tokens(counts.get("output"))
        if message.get("type") != "gemini" or read is None or written is None:
            continue
        read += wire.tokens(counts.get("tool")) or 0
        thoughts = wire.tokens(counts.get("thoughts")) or 0
        usage = Usage(read, wire.part_of(read, counts.get("cached")), None, written + thoughts, thoughts, "cli")
        found = usage if found is None else found + usage
    return found


def failure(message: str, status: int | None, reply: Reply | None = None, stderr: bytes = b"") -> PlatformError:
    """Return the typed error for Gemini CLI's words.

    Args:
        message: What it says.
        status: The HTTP status, where it told one; what it has no status for it calls 500.
        reply: What had arrived of an answer.
        stderr: The end of its stderr, in which a refused login is told.
    """
    if _INELIGIBLE.search(message) or _INELIGIBLE.search(stderr.decode("utf-8", "replace")):
        return PlatformError("key", f"{INSTEAD} Gemini CLI says: {wire.one_line(message)}")
    kind = _kind(message, status)
    wait = _RETRY_AFTER.search(message)
    return PlatformError(
        kind,
        wire.one_line(_inner(message)),
        retry_after_s=wire.duration_s(wait[1].lower()) if wait else None,
        http_status=status if status is not None and 100 <= status < 600 else None,
        may_be_billed=kind in ("reply", "timeout") or reply is not None or _CUT.search(message) is not None,
        reply=reply,
        quota=_used_up(wait[1] if wait else None) if kind == "window" else (),
    )


def _used_up(wait: str | None) -> tuple[QuotaReading, ...]:
    """Return the reading of a quota that is used up; Gemini CLI names it without its size."""
    now = int(time.time() * 1_000_000)
    seconds = wire.duration_s(wait.lower()) if wait else None
    resets = None if seconds is None else now + int(seconds * 1_000_000)
    return (QuotaReading("quota", 100.0, resets, "gemini error text", now),)


def last_line(stderr: bytes) -> str:
    """Return the message of the JSON at the end of stderr, else its last line."""
    text = stderr.decode("utf-8", "replace").rstrip()
    start = text.rfind("\n{\n") + 1
    try:
        error = wire.mapping(wire.mapping(orjson.loads(text[start:])).get("error"))
    except ValueError:
        error = {}
    told = error.get("message")
    return str(told) if told else text.rpartition("\n")[2].strip()


def _kind(message: str, status: int | None) -> PlatformErrorKind:
    if _WINDOW.search(message):
        return "window"
    if _KEY.search(message):
        return "key"
    if status in (429, 503) and _OVERLOADED.search(message):
        return "overloaded"
    if status == 402 or (status in (400, 403, 429) and _BALANCE.search(message)):
        return "balance"
    if status is not None and 300 <= status < 600 and status not in _INTERNAL:
        return wire.kind_of_status(status)
    for pattern, kind in _BY_WORDS:
        if pattern.search(message):
            return kind
    return "overloaded" if status == 500 else "reply"


_BY_WORDS: Final[tuple[tuple[re.Pattern[str], PlatformErrorKind], ...]] = (
    (_UNUSABLE, "reply"),
    (_CUT, "connection"),
    (_UNREACHABLE, "connection"),
    (_REQUEST, "request"),
)


def _inner(message: str) -> str:
    """Return the provider's words out of `[API Error: {…}]` or a body that is told as it came."""
    text = message.removeprefix("[API Error: ").partition("]\n")[0].removesuffix("]")
    try:
        told = wire.mapping(wire.mapping(orjson.loads(text)).get("error")).get("message")
    except ValueError:
        return text
    return told if isinstance(told, str) else text


def _status(code: int | None) -> int | None:
    """Return the HTTP status behind an exit code, which is the status modulo 256; 5xx are 244 to 255."""
    if code is None:
        return None
    return code + 256 if 244 <= code <= 255 else _STATUSES.get(code)
