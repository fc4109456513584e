"""Reading what providers say: JSON that may be damaged, numbers that may be absurd, waits, limits and refusals.

Nothing here raises on bad input, with one exception that is named: `document` raises ValueError. A reply is
evidence, not a promise: what cannot be read is unknown.
"""

from __future__ import annotations

import codecs
import email.utils
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import orjson

from orchestrai.errors import PlatformError, PlatformErrorKind, redact
from orchestrai.platforms.http import Response
from orchestrai.platforms.protocol import RateLimits

Secrets = Callable[[], Iterable[str]]

_MOST_TOKENS: Final = 10**12  # a count above it is no count; the longest context windows are about 10**7
_LONGEST_WAIT_S: Final = 366 * 86_400.0  # no window of any provider is longer than a year; more is garbage
_LONGEST_MESSAGE: Final = 500  # characters of an error, as `errors.redact` keeps them
_LONGEST_WORD: Final = 200  # characters of an id, a model name or a tier
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_LONGEST_DURATION: Final = 40  # characters; also because looking for units in endless digits takes their square
_LARGEST_USAGE: Final = 16_384  # bytes of a usage object that are kept
_ESCAPES: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_CHARSETS: Final = frozenset({"utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso8859-1", "cp1252", "ascii"})
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|µs|us|ns|d|h|m|s)")
_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def document(body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> Any:
    """Return the JSON value in the body, with lone surrogates as U+FFFD and numbers that are none as None.

    What orjson refuses is read once more, slowly: half an emoji in an escape, NaN from servers written in Python,
    another character set. A later duplicate of a key wins, as in every JSON reader.

    Raises:
        ValueError: It is no JSON, or nested deeper than any reply is.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    charset = _charset(headers.get("content-type", ""))
    text = _ESCAPES.sub(_whole_escape, body.decode(charset).removeprefix("\ufeff"))
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _charset(content_type: str) -> str:
    declared = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    try:
        name = codecs.lookup(declared).name if declared else "utf-8"
    except (LookupError, ValueError):
        return "utf-8"
    return name if name in _CHARSETS else "utf-8"


def _whole_escape(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else "\\ufffd"


def _no_number(_: str) -> None:
    return None


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def tokens(value: Any) -> int | None:
    """Return a number of tokens; None for what is none: missing, negative, absurd, a bool, a float or a text."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def part_of(whole: int | None, value: Any) -> int | None:
    """Return the tokens of a part of a total; one that is larger than its total is no part of it."""
    part = tokens(value)
    return None if part is None or (whole is not None and part > whole) else part


def word(value: Any) -> str | None:
    """Return a short text (an id, a model, a tier); None for anything else, and for bytes of a header that are none."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_WORD and value.isprintable() else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return the object, or an empty one for anything that is none."""
    return value if isinstance(value, dict) else {}


def kept_usage(value: Any) -> str | None:
    """Return the provider's usage object as JSON when it can be stored: an object of bounded size."""
    if not isinstance(value, dict):
        return None
    try:
        text = orjson.dumps(value)
    except (TypeError, ValueError):  # nested deeper or numbers larger than what orjson writes
        return None
    return text.decode() if len(text) <= _LARGEST_USAGE else None


def duration_s(text: str | None) -> float | None:
    """Return a wait [s] from `120ms`, `6m0s`, `1h2m`, `7.66s` or plain seconds; None for anything else."""
    if not text or len(text) > _LONGEST_DURATION:
        return None
    text = text.strip()
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return _wait(sum(float(number) * _SECONDS[unit] for number, unit in parts))
    try:
        return _wait(float(text))
    except ValueError:
        return None


def _wait(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _LONGEST_WAIT_S else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait that the headers ask for [s]: `retry-after-ms`, then `retry-after`; None without a usable one.

    A date counts from the reply's own `Date`, so that a wrong clock here changes nothing; a past date is 0. Negative
    numbers and other garbage are ignored.

    Source: RFC 9110, section 10.2.3; `retry-after-ms` as the official OpenAI clients read it.
    """
    try:
        milliseconds = _wait(float(headers.get("retry-after-ms", "")) / 1000)
    except ValueError:
        milliseconds = None
    if milliseconds is not None:
        return milliseconds
    told = headers.get("retry-after")
    seconds = duration_s(told)
    if seconds is not None or told is None:
        return seconds
    until = _date(told)
    if until is None:
        return None
    return _wait(max(0.0, (until - now(headers)).total_seconds()))


def seconds_until(moment: str | None, headers: Mapping[str, str]) -> float | None:
    """Return how long it is until a time in RFC 3339 [s], from the reply's own `Date`; 0 for a past one."""
    try:
        until = datetime.fromisoformat(moment or "")
        return _wait(max(0.0, (until - now(headers)).total_seconds()))
    except (ValueError, TypeError, OverflowError):  # no time, or one without a zone
        return None


def now(headers: Mapping[str, str]) -> datetime:
    """Return when a reply was made by its own `Date`, so that a wrong clock here changes nothing; else the time."""
    return _date(headers.get("date")) or datetime.now(UTC)


def _date(text: str | None) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text or "")
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """Return what `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` say; None when they say nothing.

    Source: platform.openai.com/docs/guides/rate-limits; resets are durations such as `120ms` and `6m0s`.
    """
    told = headers.get
    requests, tokens_ = told("x-ratelimit-limit-requests"), told("x-ratelimit-limit-tokens")
    requests_left, tokens_left = told("x-ratelimit-remaining-requests"), told("x-ratelimit-remaining-tokens")
    if requests is tokens_ is requests_left is tokens_left is None:
        return None
    limits = RateLimits(
        count(requests),
        count(requests_left),
        duration_s(told("x-ratelimit-reset-requests")),
        count(tokens_),
        count(tokens_left),
        duration_s(told("x-ratelimit-reset-tokens")),
    )
    return None if limits == _NO_LIMITS else limits


_NO_LIMITS: Final = RateLimits()


def count(text: str | None) -> int | None:
    """Return the whole number in a header; None for anything else."""
    return int(text) if text and len(text) <= 15 and text.isascii() and text.isdigit() else None


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of a request: `x-request-id`, or `request-id` as Anthropic calls it."""
    return word(headers.get("x-request-id") or headers.get("request-id"))


def kind_of_status(status: int) -> PlatformErrorKind:
    """Return the kind of error that an HTTP status alone tells; providers refine it by their own codes."""
    if status in _KINDS:
        return _KINDS[status]
    return "overloaded" if status >= 500 else "request" if status >= 300 else "reply"


_KINDS: Final[dict[int, PlatformErrorKind]] = {
    401: "key",
    402: "balance",
    403: "key",
    408: "timeout",
    409: "overloaded",  # a conflict with another request in flight: the same request may pass later
    425: "overloaded",
    429: "rate",
}
_MAY_BE_BILLED: Final = frozenset({504, 524})  # a gateway gave up; what it waited for may have been answered


def redirected(response: Response, secrets: Secrets) -> PlatformError:
    """Return the error of a 30x: the key is not carried to another address, and not told where that names it."""
    told = response.headers.get("location", "")
    if not any(secret and secret in told for secret in secrets()):
        told = unquote(told)  # it may stand there as a part of an address does
    target = redact(told, secrets()).partition("?")[0]
    return PlatformError(
        "request",
        f"HTTP {response.status}: the address redirects to another address ({target[:100] or 'not named'}), which is "
        "not followed because the key would go there. If that is the right place, set base_url to it.",
        http_status=response.status,
        request_id=request_id(response.headers),
    )


def refused(response: Response, kind: PlatformErrorKind, message: str, secrets: Secrets) -> PlatformError:
    """Return the typed error of a reply that is no answer, with its wait and without the key.

    Args:
        response: The reply.
        kind: What it means.
        message: The provider's words, or ours.
        secrets: Returns what must not stand in the message; a function, so that no frame holds a key.
    """
    return PlatformError(
        kind,
        redact(f"HTTP {response.status}: {one_line(message)}", secrets()),
        retry_after_s=retry_after_s(response.headers),
        http_status=response.status,
        may_be_billed=response.status < 300 or response.status in _MAY_BE_BILLED,
        request_id=request_id(response.headers),
    )


def advise(error: PlatformError, advice: str) -> None:
    """Add to an error what a person can do about it; the provider's words make room for it."""
    if not advice:
        return
    words = str(error)
    room = _LONGEST_MESSAGE - len(advice)
    error.args = ((words if len(words) <= room else words[: room - 1] + "…") + advice,)


def one_line(text: str) -> str:
    """Return at most 4,000 characters of a provider's words, without line breaks and controls."""
    return " ".join(_CONTROLS.sub(" ", text[:4000]).split())


def plain_text(response: Response) -> str:
    """Return the first words of a body that is no JSON; a web page says nothing."""
    text = one_line(response.body[:2000].decode("utf-8", "replace"))
    return "(no message)" if not text or text.startswith("<") else text
