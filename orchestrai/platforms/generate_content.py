"""The wire form of Gemini's generateContent: bodies out, replies in.

Source: ai.google.dev/api/generate-content and /gemini-api/docs/troubleshooting, and the types of google-genai 3.4.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote

from orchestrai.attachments import Attachment
from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.platforms import wire, wire_form
from orchestrai.platforms.http import Event, Response
from orchestrai.platforms.protocol import RateLimits, Request
from orchestrai.result import NO_USAGE, Usage

if TYPE_CHECKING:
    from yarl import URL

_MOST_URLS: Final = 100  # addresses that are kept
_BUDGETED: Final = re.compile(r"gemini-2\.5")  # thinks up to a number of tokens; the later ones to a level
_KNOWS_MINIMAL: Final = re.compile(r"flash-lite|gemini-3-flash")
_BUDGETS: Final = {"low": 1_024, "medium": 8_192, "high": 24_576}  # tokens, as Google's own OpenAI endpoint maps them
_MAPS_OF_SCHEMAS: Final = ("properties", "$defs", "definitions")
_LISTS_OF_SCHEMAS: Final = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS: Final = ("items", "additionalProperties")
_FILTERED: Final = (
    *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "MODEL_ARMOR"),
    *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_CALLED: Final = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE")
_BALANCE: Final = re.compile(r"credits are depleted|enable billing|billing (account|is).{0,40}disabled", re.IGNORECASE)
_WINDOW: Final = re.compile(r"per[ _-]?day|daily|monthly", re.IGNORECASE)
_DAILY: Final = re.compile(r"per[ _-]?day|daily", re.IGNORECASE)
_KEY: Final = re.compile(r"API[ _]KEY|location is not supported|SERVICE_DISABLED|CONSUMER_", re.IGNORECASE)
_KINDS: Final[dict[str, PlatformErrorKind]] = {  # by the word for the status, where no number says it
    "RESOURCE_EXHAUSTED": "rate",
    "UNAVAILABLE": "overloaded",
    "INTERNAL": "overloaded",
    "DEADLINE_EXCEEDED": "overloaded",
    "UNAUTHENTICATED": "key",
    "PERMISSION_DENIED": "key",
    "INVALID_ARGUMENT": "request",
    "NOT_FOUND": "request",
}


class GenerateContent:
    """The wire form.

    Args:
        base: The address, with or without its version (`/v1`, `/v1beta`) at its end.
    """

    def __init__(self, base: URL) -> None:
        versioned = base if re.fullmatch(r"v\d\w*", base.name) else base.joinpath("v1")
        self._models = versioned.joinpath("models")
        self._urls: dict[str, tuple[URL, URL]] = {}

    def url(self, model: str, *, stream: bool) -> URL:
        """Return the address of a model; whatever its name holds, it is one step of the path.

        Raises:
            PlatformError: request: the name cannot be written.
        """
        known = self._urls.get(model)
        if known is None:
            try:
                step = quote(model.removeprefix("models/"), safe="")
            except UnicodeEncodeError:
                raise PlatformError("request", f"{model!r} is no name of a model: it holds half a character.") from None
            if len(self._urls) >= _MOST_URLS:
                self._urls.clear()
            whole = self._models.joinpath(f"{step}:generateContent", encoded=True)
            streamed = self._models.joinpath(f"{step}:streamGenerateContent", encoded=True).with_query(alt="sse")
            known = self._urls[model] = (whole, streamed)
        return known[stream]

    def constraint(self, schema: Mapping[str, Any]) -> Any:
        """Return the JSON Schema, its constants as enumerations of one: `const` is not among the keywords it knows."""
        return _without_const(schema)

    def body(self, request: Request, *, stream: bool, constraint: Any) -> dict[str, Any]:  # noqa: ARG002  # the address tells it
        """Return the body of a request; system messages within the conversation join the system prompt."""
        turns = [message for message in request.messages if message.role != "system"]
        system = wire_form.system_text(request)
        config: dict[str, Any] = {}
        if request.max_tokens is not None:
            config["maxOutputTokens"] = request.max_tokens
        if request.temperature is not None:
            config["temperature"] = request.temperature
        if request.effort is not None:
            config["thinkingConfig"] = _thinking(request.model, request.effort)
        if constraint is not None:
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = constraint
        fields: dict[str, Any] = {
            "contents": [
                {"role": "model" if m.role == "assistant" else "user", "parts": _parts(m.content)} for m in turns
            ]
        }
        if system:
            fields["systemInstruction"] = {"parts": [{"text": system}]}
        if config:
            fields["generationConfig"] = config
        wire_form.add_extra(fields, request.extra)
        return fields

    def answer(self, response: Response, secrets: wire.Secrets) -> Answer:
        """Return what takes a reply."""
        return Answer(response, secrets)

    def refusal(self, response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
        """Return the typed error of a reply with another status than 200."""
        return refusal(response, document, model, secrets)


def _without_const(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    shaped: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "const":
            shaped["enum"] = [value]
        elif key in _MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            shaped[key] = {name: _without_const(item) for name, item in value.items()}
        elif key in _LISTS_OF_SCHEMAS and isinstance(value, list):
            shaped[key] = [_without_const(item) for item in value]
        else:
            shaped[key] = _without_const(value) if key in _SCHEMAS else value
    return shaped


def _thinking(model: str, effort: str) -> dict[str, Any]:
    """Return how much to think: a budget for Gemini 2.5, a level for the later ones; `minimal` as little as can be.

    Source: ai.google.dev/gemini-api/docs/thinking: 2.5 Pro thinks at least 128 tokens, Flash can do without; the level
    MINIMAL is known to Flash-Lite and the first Flash of the third generation, LOW to all.
    """
    if _BUDGETED.match(model):
        least = 128 if "pro" in model else 0
        return {"thinkingBudget": least if effort == "minimal" else _BUDGETS.get(effort, -1)}  # -1: as it sees fit
    level = "low" if effort == "minimal" and not _KNOWS_MINIMAL.search(model) else effort
    return {"thinkingLevel": level.upper()}


def _parts(content: str | tuple[str | Attachment, ...]) -> list[dict[str, Any]]:
    return [{"text": content}] if isinstance(content, str) else [_part(part) for part in content]


def _part(part: str | Attachment) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    if not part.is_image:
        return {"text": wire_form.fenced(part.name, part.text())}
    return {"inlineData": {"mimeType": part.media_type, "data": base64.b64encode(part.read()).decode("ascii")}}


class Answer(wire_form.Answer):
    """What has arrived of one answer."""

    FINISH: ClassVar = {
        "STOP": "stop",
        "MAX_TOKENS": "length",
        **dict.fromkeys(_FILTERED, "filter"),
        **dict.fromkeys(_CALLED, "tool"),
    }

    __slots__ = ("is_counted",)

    def __init__(self, response: Response, secrets: wire.Secrets) -> None:
        super().__init__(response, secrets)
        self.tier = response.headers.get("x-gemini-service-tier")
        self.is_counted = False  # the output's final number is here: those of a stream grow with it

    def read(self, document: Any) -> None:
        """Take a whole reply, or the list of replies that a server without events sends instead of a stream.

        Raises:
            PlatformError: It holds an error.
        """
        for one in document if isinstance(document, list) else [document]:
            self._take(wire.mapping(one))
        self.is_counted = True

    def event(self, event: Event) -> str:
        """Take one event of a stream and return the text in it (often empty); each repeats the usage so far.

        Raises:
            PlatformError: It is an error, or no JSON object.
        """
        return self._take(self.json(event.data))

    def tokens(self) -> Usage:
        """Return the tokens as inclusive totals: thoughts are counted beside the answer on the wire.

        A number that is missing there is 0, as long as the sum agrees. Of a stream that was cut, the output is unknown.
        """
        given = wire.mapping(self.usage)
        prompt, total = wire.tokens(given.get("promptTokenCount")), wire.tokens(given.get("totalTokenCount"))
        tools = _number(given, "toolUsePromptTokenCount")  # what the provider's own tools found, read as further input
        read = None if prompt is None or tools is None else wire.tokens(prompt + tools)
        thoughts, answer = _number(given, "thoughtsTokenCount"), _number(given, "candidatesTokenCount")
        written = None if thoughts is None or answer is None else wire.tokens(thoughts + answer)
        if given.get("candidatesTokenCount") is None and (read is None or written is None or total != read + written):
            written = None
        if not self.is_counted:
            written = None
        if read is None and written is None:
            return NO_USAGE
        reasoning = None if written is None else wire.part_of(written, given.get("thoughtsTokenCount"))
        return Usage(
            read, wire.part_of(read, given.get("cachedContentTokenCount")), None, written, reasoning, "provider"
        )

    def rate_limits(self) -> RateLimits | None:
        """Return the limits per minute that a refusal names; Gemini tells none before they are reached."""
        if self.response.status != 429:
            return None
        try:
            document = wire.document(self.response.body, self.response.headers)
        except ValueError:
            return None
        told = {name: count for name, count in _quotas(_details(document)) if "PerMinute" in name and count is not None}
        requests = next((count for name, count in told.items() if "Requests" in name), None)
        tokens = next((count for name, count in told.items() if "InputTokens" in name), None)
        if requests is None and tokens is None:
            return None
        return RateLimits(
            requests_limit=requests,
            requests_left=None if requests is None else 0,
            tokens_limit=tokens,
            tokens_left=None if tokens is None else 0,
        )

    def _take(self, given: Mapping[str, Any]) -> str:
        if given.get("error"):
            raise refusal(self.response, given, "", self.secrets)
        self.usage = given.get("usageMetadata") or self.usage
        self.model = given.get("modelVersion") or self.model
        self.id = given.get("responseId") or self.id
        blocked = wire.mapping(given.get("promptFeedback")).get("blockReason")
        if isinstance(blocked, str) and blocked:
            self.refusal, self.finish = f"the prompt was blocked ({wire.one_line(blocked)}).", "SAFETY"
        candidate = wire.mapping(next(iter(_list(given.get("candidates"))), None))
        self.finish = candidate.get("finishReason") or self.finish
        self.is_counted = self.finish is not None
        parts = _list(wire.mapping(candidate.get("content")).get("parts"))
        said = [text for part in parts if (text := _said(part)) is not None]
        self.pieces += said
        return "".join(said)


def _said(part: Any) -> str | None:
    """Return the text of a part; thoughts and calls say nothing."""
    given = wire.mapping(part)
    text = given.get("text")
    return text if isinstance(text, str) and given.get("thought") is not True else None


def _number(given: Mapping[str, Any], name: str) -> int | None:
    return 0 if given.get(name) is None else wire.tokens(given[name])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _error(document: Any) -> Mapping[str, Any]:
    """Return the google.rpc.Status in a body; that of a stream comes in a list of one."""
    given = wire.mapping(document[0] if isinstance(document, list) and document else document)
    return wire.mapping(given.get("error", given))


def _details(document: Any) -> list[Mapping[str, Any]]:
    return [wire.mapping(detail) for detail in _list(_error(document).get("details"))]


def refusal(response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
    """Return the typed error of a google.rpc.Status, in a reply of its own or within a stream.

    A daily quota is not back after the `RetryInfo` that comes with it, but at midnight in California.

    Source: ai.google.dev/gemini-api/docs/rate-limits ("Requests per day quotas reset at midnight Pacific time").
    """
    error = _error(document)
    message = error.get("message")
    message = wire.one_line(message if isinstance(message, str) and message else wire.plain_text(response))
    code = error.get("code")
    status = code if response.status < 300 and type(code) is int and 400 <= code < 600 else response.status
    details = _details(document)
    quotas = " ".join(name for name, _ in _quotas(details)) or message
    reasons = " ".join(reason for detail in details if (reason := wire.word(detail.get("reason"))))
    kind = _kind(status, str(error.get("status")), f"{reasons} {message}", quotas)
    if status == 404 and model and model not in message:
        message = f"{message} (model {model!r})"
    failure = wire.refused(response, kind, message, secrets)
    if kind == "rate":
        told = next((detail["retryDelay"] for detail in details if isinstance(detail.get("retryDelay"), str)), None)
        failure.retry_after_s = failure.retry_after_s or wire.duration_s(told)
    elif kind == "window" and _DAILY.search(quotas):
        failure.retry_after_s = _until_midnight_s(response.headers)
    return failure


def _kind(status: int, word: str, words: str, quotas: str) -> PlatformErrorKind:
    """Return what an error means.

    Args:
        status: The HTTP status.
        word: The same as a word.
        words: Everything it says.
        quotas: The quotas that it names; without any, its message.
    """
    if status in (400, 402, 403, 429) and _BALANCE.search(words):
        return "balance"
    if status == 429:
        return "window" if _WINDOW.search(quotas) else "rate"
    if status == 400 and _KEY.search(words):
        return "key"
    if status < 300:
        return _KINDS.get(word, "reply")
    return wire.kind_of_status(status)


def _quotas(details: list[Mapping[str, Any]]) -> Iterator[tuple[str, int | None]]:
    """Yield name and limit of the quotas that are used up."""
    for detail in details:
        for violation in map(wire.mapping, _list(detail.get("violations"))):
            name, limit = wire.word(violation.get("quotaId")), violation.get("quotaValue")
            if name is not None:
                yield name, wire.count(limit) if isinstance(limit, str) else None


def _until_midnight_s(headers: Mapping[str, str]) -> float | None:
    """Return how long it is until the day ends in California [s], by the reply's own clock."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    now = wire.now(headers)
    try:
        zone = ZoneInfo("America/Los_Angeles")
        tomorrow = now.astimezone(zone).date() + timedelta(days=1)
        midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone)
        return (midnight.astimezone(UTC) - now).total_seconds()  # in UTC: some days have 23 or 25 hours
    except (ZoneInfoNotFoundError, OverflowError):  # a system without time zones; a clock at the end of all years
        return None
