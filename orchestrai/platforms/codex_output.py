"""What Codex CLI prints, read: the events of `codex exec --json`, and the words of its failures.

Nothing here runs anything. Source: measured with codex-cli 0.169.0 against a provider on loopback. The stream carries no
error codes, so kinds are told by its words; what it prints on the way (`Reconnecting… 5/5`, a warning about an unknown
model) is no failure, and an answer is one only behind `turn.completed`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.platforms import wire
from orchestrai.platforms.protocol import QuotaReading, Reply
from orchestrai.result import NO_USAGE, Usage

_LAST_STATUS: Final = re.compile(r"(?:unexpected|last) status:? (\d{3})\b")
_RESET: Final = re.compile(
    r"try again at (?:(?P<month>[A-Z][a-z]{2}) (?P<day>\d{1,2})(?:st|nd|rd|th), (?P<year>\d{4}) )?"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2}) (?P<half>AM|PM)"
)
_LONGEST_WINDOW: Final = timedelta(days=366)  # no window of any plan is longer
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TRY_AGAIN_IN: Final = re.compile(r"try again in (\d+(?:\.\d+)?) ?(ms|s|seconds?|m|minutes?)\b")
_WORDS: Final[tuple[tuple[PlatformErrorKind, str], ...]] = (  # the first that is found in the message tells the kind
    ("window", r"hit your usage limit|usage limit (has been )?reached|usage_limit"),
    ("balance", r"out of credits|quota exceeded|insufficient_quota|billing|credit limit"),
    ("key", r"not logged in|log ?in again|log out and sign in|refresh token|token (has )?expired"),
    ("rate", r"rate limit|too many requests|rate_limit"),
    ("overloaded", r"high demand|overloaded|at capacity|slow_down"),
    ("request", r"ran out of room|context window|context_length|maximum length|not valid utf-8|no prompt"),
    ("request", r"not found|not supported|does not exist|not have access|invalid_request|invalid_prompt"),
    ("request", r"unknown feature flag|error loading config|unexpected argument|invalid value"),
    ("connection", r"error sending request|connection failed|routing discovery failed|dns error|refused"),
    ("timeout", r"timed? ?out|timeout"),
)
_KINDS: Final = tuple((re.compile(words, re.IGNORECASE), kind) for kind, words in _WORDS)
_BILLED: Final = re.compile(r"stream disconnected|stream closed|idle timeout|Incomplete response", re.IGNORECASE)
_NO_TOOLS: Final[Mapping[str, Any]] = {
    "tool_mode": "direct",  # not code_mode_only
    "multi_agent_version": None,
    "apply_patch_tool_type": None,
    "experimental_supported_tools": [],
    "supports_search_tool": False,
}
_CUT_OFF: Final = {"max_output_tokens": "length", "content_filter": "filter"}


class Turn:
    """One turn of Codex: filled line by line, then asked for its reply."""

    def __init__(self, now: datetime) -> None:
        """Start an empty turn.

        Args:
            now: When it begins, with its time zone: Codex tells resets in local time.
        """
        self.over = False
        self._now = now
        self._text: str | None = None
        self._usage: Any = None
        self._thread: str | None = None
        self._failure: str | None = None
        self._code: int | None = None
        self._stderr = b""

    def take(self, line: bytes) -> None:
        """Read one line of stdout; what is no event is passed over."""
        try:
            event = wire.mapping(wire.document(line))
        except ValueError:
            return
        kind = event.get("type")
        if kind == "thread.started":
            self._thread = wire.word(event.get("thread_id"))
        elif kind == "item.completed":
            item = wire.mapping(event.get("item"))
            if item.get("type") == "agent_message" and isinstance(item.get("text"), str):
                self._text = item["text"]  # the last one is the answer
        elif kind == "turn.completed":
            self._usage = event.get("usage")
            self.over = True
        elif kind == "turn.failed":
            self._failure = str(wire.mapping(event.get("error")).get("message") or "the turn failed.")
            self.over = True

    def ended(self, code: int, stderr: bytes) -> None:
        """Note what the process ended with, and the end of its stderr."""
        self._code, self._stderr = code, stderr

    def reply(self) -> Reply:
        """Return the answer.

        Raises:
            PlatformError: The turn failed, did not end, or answered nothing.
        """
        if self._failure is not None:
            raise failure(self._failure, self._now, self._arrived())
        if not self.over:
            raise _without_end(self._code, self._stderr, self._now, self._arrived())
        reply = self._arrived()
        if reply is None or not reply.text:
            raise PlatformError("reply", "Codex answered nothing.", may_be_billed=True, reply=reply)
        counted = reply.usage
        if counted.input_tokens == 0 and counted.output_tokens == 0:
            raise PlatformError("reply", "Codex answered without asking a model.", reply=reply)
        return reply

    def _arrived(self) -> Reply | None:
        if self._text is None and self._usage is None:
            return None
        return Reply(
            self._text or "",
            usage=usage(self._usage),
            finish_reason="stop" if self._failure is None and self.over else None,
            response_id=self._thread,
            usage_raw=wire.kept_usage(self._usage),
        )


def usage(value: Any) -> Usage:
    """Return the tokens of a turn; Codex's input includes the cached ones and its output the reasoning."""
    given = wire.mapping(value)
    read, written = wire.tokens(given.get("input_tokens")), wire.tokens(given.get("output_tokens"))
    if read is None and written is None:
        return NO_USAGE
    return Usage(
        read,
        wire.part_of(read, given.get("cached_input_tokens")),
        wire.part_of(read, given.get("cache_write_input_tokens")),
        written,
        wire.part_of(written, given.get("reasoning_output_tokens")),
        "cli",
    )


def failure(message: str, now: datetime, reply: Reply | None = None) -> PlatformError:
    """Return the typed error for the words of a failed turn.

    Args:
        message: What `turn.failed` says.
        now: The time here, with its zone.
        reply: What had arrived of an answer.
    """
    status = _LAST_STATUS.search(message)
    http_status = int(status[1]) if status else None
    kind = _kind(message, http_status)
    cut_off = message.rpartition("reason: ")[2].strip() if message.startswith("Incomplete response") else ""
    if reply is not None:
        reply.finish_reason = _CUT_OFF.get(cut_off)
    if kind != "window":
        return PlatformError(
            kind,
            wire.one_line(_inner(message)),
            retry_after_s=_wait_s(message),
            http_status=http_status,
            may_be_billed=kind in ("reply", "timeout") or reply is not None or _BILLED.search(message) is not None,
            reply=reply,
        )
    resets = resets_at(message, now)
    return PlatformError(
        "window",
        wire.one_line(message),
        retry_after_s=None if resets is None else max(0.0, (resets - now).total_seconds()),
        http_status=429,
        quota=(
            QuotaReading(
                "usage_limit", 100.0, None if resets is None else _micros(resets), "codex error text", _micros(now)
            ),
        ),
    )


def resets_at(message: str, now: datetime) -> datetime | None:
    """Return when a usage limit resets: `try again at 12:09 PM`, or with a date; None when it does not say.

    Without a date it is today, told in local time and cut to the minute, so that it is given one minute more.
    """
    found = _RESET.search(message)
    if found is None:
        return None
    hour = int(found["hour"]) % 12 + (12 if found["half"] == "PM" else 0)
    try:
        day = now
        if found["month"] is not None:
            day = now.replace(year=int(found["year"]), month=_MONTHS.index(found["month"]) + 1, day=int(found["day"]))
        at = day.replace(hour=hour, minute=int(found["minute"]), second=0, microsecond=0) + timedelta(minutes=1)
        at += timedelta(days=1) if at < now and found["month"] is None else timedelta()
    except (ValueError, OverflowError):  # no such month, day, hour or minute
        return None
    return at if at < now + _LONGEST_WINDOW else None


def features(listed: bytes) -> frozenset[str]:
    """Return the names in what `codex features list` prints: one a line, then its stage and whether it is on."""
    rows = (line.split() for line in listed.decode("utf-8", "replace").splitlines())
    return frozenset(row[0] for row in rows if len(row) >= 3 and row[-1] in ("true", "false"))


def without_tools(catalogue: bytes) -> bytes | None:
    """Return what `codex debug models` prints without the tools that its models bring along; None when it is none.

    Of gpt-6.1-sol these are a JavaScript engine and sub-agents, 18 kB in every request, which no `--disable` removes.
    """
    try:
        given = wire.mapping(orjson.loads(catalogue))
    except ValueError:
        return None
    models = given.get("models")
    if not isinstance(models, list) or not models:
        return None
    return orjson.dumps({**given, "models": [{**wire.mapping(model), **_NO_TOOLS} for model in models]})


def _kind(message: str, http_status: int | None) -> PlatformErrorKind:
    for pattern, kind in _KINDS[:2]:  # a used-up plan and an empty balance come with 429, too
        if pattern.search(message):
            return kind
    if http_status is not None:
        return wire.kind_of_status(http_status)
    if _BILLED.search(message) and not any(pattern.search(message) for pattern, _ in _KINDS[2:6]):
        if "error sending request" in message:  # reset under way: "Connection failed: …" is what nobody answers
            return "connection"
        return "timeout" if "idle timeout" in message else "reply"
    for pattern, kind in _KINDS[2:]:
        if pattern.search(message):
            return kind
    return "request" if message.lstrip().startswith("{") else "reply"  # HTTP 400 is told by its body alone


def _inner(message: str) -> str:
    """Return the provider's words out of a body that is told as it came."""
    try:
        given = wire.mapping(orjson.loads(message))
    except ValueError:
        return message
    error = given.get("error")
    told = wire.mapping(error).get("message") or given.get("detail") or given.get("message")
    return told if isinstance(told, str) else message


def _wait_s(message: str) -> float | None:
    found = _TRY_AGAIN_IN.search(message)
    return wire.duration_s(found[1] + ("ms" if found[2] == "ms" else found[2][0])) if found else None


def _without_end(code: int | None, stderr: bytes, now: datetime, reply: Reply | None) -> PlatformError:
    """Return the error of a process that ended before its turn did; it says why on stderr, if at all."""
    told = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    words = next((line for line in told if line.lower().startswith("error")), told[-1] if told else "")
    if code == 1 and words:
        error = failure(words, now, reply)
        if error.kind != "reply":
            return error
    ended = "" if code is None else f" (exit code {code})"
    return PlatformError("reply", f"Codex ended without an answer{ended}. {words}", may_be_billed=True, reply=reply)


def _micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)
