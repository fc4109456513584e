"""The wire form of Anthropic's Messages: bodies out, replies in.

Source: platform.claude.com/docs/en/api/messages and /api/errors, and the types of anthropic 2.12.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrai.attachments import Attachment
from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.messages import Message
from orchestrai.platforms import wire, wire_form
from orchestrai.platforms.http import Event, Response
from orchestrai.platforms.messages_schema import decodable
from orchestrai.platforms.protocol import RateLimits, Request
from orchestrai.result import NO_USAGE, Usage

if TYPE_CHECKING:
    from yarl import URL

DEFAULT_MAX_TOKENS: Final = 16_384
"""Output limit where a task names none [tokens]: the protocol demands one. Below the 21,333 from which Anthropic's own
clients refuse to wait for an answer in one piece; thinking counts towards it."""

_WITHOUT_THINKING: Final = (  # models whose thinking can be left out, and how each of them calls that
    (re.compile(r"claude-(haiku-5|sonnet-5(?!-5)|opus-5(?!-5))"), "disabled"),
    (re.compile(r"claude-sonnet-5-5"), "between_tools"),
)
_KINDS: Final[dict[str, PlatformErrorKind]] = {  # by the type of the error, which says more than the status
    "authentication_error": "key",
    "permission_error": "key",
    "billing_error": "balance",
    "rate_limit_error": "rate",
    "overloaded_error": "overloaded",
    "not_found_error": "request",
    "request_too_large": "request",
}
_KINDS_IN_A_STREAM: Final[dict[str, PlatformErrorKind]] = {  # where no status says it
    "invalid_request_error": "request",
    "api_error": "overloaded",
    "timeout_error": "overloaded",
}
_KINDS_OF_CODES: Final[dict[str, PlatformErrorKind]] = {
    "enforced_spend_limit_reached": "window",  # the tier's spend of this month
    "contract_spend_limit_reached": "balance",
    "organization_on_hold": "key",
}
_BALANCE: Final = re.compile(r"credit balance is too low|plans & billing", re.IGNORECASE)
_SPENT: Final = re.compile(r"reached your (specified )?(workspace )?API usage limits", re.IGNORECASE)
_DAILY: Final = re.compile(r"per day|daily", re.IGNORECASE)
_DISABLED: Final = re.compile(r"organization has been disabled", re.IGNORECASE)
_REGAIN: Final = re.compile(r"regain access on (\d{4}-\d\d-\d\d) at (\d\d:\d\d) UTC")
_READ: Final = "cache_read_input_tokens"
_WRITTEN: Final = "cache_creation_input_tokens"
_NOTHING: Final = (None, None, None)


class Messages:
    """The wire form.

    Args:
        base: The address, with or without `/v1` at its end.
    """

    def __init__(self, base: URL) -> None:
        self._url = base.joinpath("messages") if base.name == "v1" else base.joinpath("v1", "messages")
        self._decodable: tuple[Mapping[str, Any] | None, bool] = (None, False)  # the last schema, and what it was

    def url(self, model: str, *, stream: bool) -> URL:  # noqa: ARG002  # one address for every model and form
        """Return the one address."""
        return self._url

    def constraint(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the constraint to a JSON Schema; None for a schema that can only be asked for in words."""
        shaped = decodable(schema)
        self._decodable = (schema, shaped is not None)
        return None if shaped is None else {"type": "json_schema", "schema": shaped}

    def body(self, request: Request, *, stream: bool, constraint: Any) -> dict[str, Any]:
        """Return the body of a request; system messages within the conversation join the system prompt."""
        fields: dict[str, Any] = {
            "model": request.model,
            "max_tokens": DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            "messages": [{"role": m.role, "content": _content(m)} for m in request.messages if m.role != "system"],
        }
        system = wire_form.system_text(request)
        config: dict[str, Any] = {}
        if request.effort is not None:
            config["effort"] = "low" if request.effort == "minimal" else request.effort
            if request.effort == "minimal" and (thinking := _without_thinking(request.model)) is not None:
                fields["thinking"] = {"type": thinking}
        if request.json_schema is not None and constraint is not None:
            if self._is_decodable(request.json_schema):
                config["format"] = constraint
            else:
                system = "\n\n".join(filter(None, (system, _in_words(request.json_schema))))
        if system:
            fields["system"] = system
        if config:
            fields["output_config"] = config
        if request.temperature is not None:
            fields["temperature"] = request.temperature
        wire_form.add_extra(fields, request.extra)
        fields["stream"] = stream  # after `extra`: the reply's form is the caller's choice of `send` or `stream`
        return fields

    def answer(self, response: Response, secrets: wire.Secrets) -> Answer:
        """Return what takes a reply."""
        return Answer(response, secrets)

    def refusal(self, response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
        """Return the typed error of a reply with another status than 200."""
        return refusal(response, document, model, secrets)

    def _is_decodable(self, schema: Mapping[str, Any]) -> bool:
        known, is_decodable = self._decodable
        return is_decodable if known is schema else decodable(schema) is not None


def _without_thinking(model: str) -> str | None:
    return next((word for pattern, word in _WITHOUT_THINKING if pattern.match(model)), None)


def _in_words(schema: Mapping[str, Any]) -> str:
    return (
        "Answer with one JSON object and nothing else: no explanation, no code fence. "
        f"It must be valid under this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: str | Attachment) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.is_image:
        data = base64.b64encode(part.read()).decode("ascii")
        return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}}
    return {"type": "text", "text": wire_form.fenced(part.name, part.text())}


class Answer(wire_form.Answer):
    """What has arrived of one answer."""

    FINISH: ClassVar = {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "refusal": "filter",
        "tool_use": "tool",
        "pause_turn": "tool",  # a tool of the provider's own, asked for by `extra`, wants another request
    }

    __slots__ = ("is_counted",)

    def __init__(self, response: Response, secrets: wire.Secrets) -> None:
        super().__init__(response, secrets)
        self.is_counted = False  # the output's final number is here: a stream begins with a smaller one

    def read(self, document: Any) -> None:
        """Take a whole reply.

        Raises:
            PlatformError: It holds an error.
        """
        given = wire.mapping(document)
        if given.get("type") == "error" or given.get("error"):
            raise refusal(self.response, given, "", self.secrets)
        self._begin(given)
        self._stop(given)
        self.usage = given.get("usage")
        self.is_counted = True
        content = given.get("content")
        for block in content if isinstance(content, list) else ():
            self._say(block)

    def event(self, event: Event) -> str:
        """Take one event of a stream and return the text in it (often empty).

        Raises:
            PlatformError: It is an error, or no JSON object.
        """
        given = self.json(event.data)
        kind = given.get("type")
        if kind == "content_block_delta":
            return self._say(given.get("delta"))
        if kind == "content_block_start":
            return self._say(given.get("content_block"))
        if kind == "message_start":
            message = wire.mapping(given.get("message"))
            self._begin(message)
            self.usage = message.get("usage")
        elif kind == "message_delta":
            self._stop(wire.mapping(given.get("delta")))
            told = {name: value for name, value in wire.mapping(given.get("usage")).items() if value is not None}
            self.usage = {**wire.mapping(self.usage), **told}
            self.is_counted = "output_tokens" in told
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error" or given.get("error"):
            raise refusal(self.response, given, "", self.secrets)
        return ""

    def tokens(self) -> Usage:
        """Return the tokens as inclusive totals: input and cache are counted apart on the wire.

        Of a stream that was cut, the output is unknown: its first event tells a number that grows.
        """
        given = wire.mapping(self.usage)
        plain = wire.tokens(given.get("input_tokens"))
        read, written = wire.tokens(given.get(_READ)), wire.tokens(given.get(_WRITTEN))
        unreadable = any(given.get(name) is not None and wire.tokens(given[name]) is None for name in (_READ, _WRITTEN))
        total = None if plain is None or unreadable else wire.tokens(plain + (read or 0) + (written or 0))
        output = wire.tokens(given.get("output_tokens")) if self.is_counted else None
        if total is None and output is None:
            return NO_USAGE
        details = wire.mapping(given.get("output_tokens_details"))
        thinking = None if output is None else wire.part_of(output, details.get("thinking_tokens"))
        return Usage(total, wire.part_of(total, read), wire.part_of(total, written), output, thinking, "provider")

    def rate_limits(self) -> RateLimits | None:
        """Return what `anthropic-ratelimit-{requests,tokens}-{limit,remaining,reset}` say.

        `tokens` is the strictest limit of all; where it is missing, that of the input stands in.
        """
        headers = self.response.headers
        requests = _told(headers, "requests")
        tokens = _told(headers, "tokens") or _told(headers, "input-tokens")
        return RateLimits(*(requests or _NOTHING), *(tokens or _NOTHING)) if requests or tokens else None

    def _begin(self, message: Mapping[str, Any]) -> None:
        self.model, self.id = message.get("model"), message.get("id")
        usage = wire.mapping(message.get("usage"))
        self.tier = (
            "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
        )  # both have prices of their own

    def _stop(self, given: Mapping[str, Any]) -> None:
        self.finish = given.get("stop_reason") or self.finish
        explanation = wire.mapping(given.get("stop_details")).get("explanation")
        if isinstance(explanation, str) and self.finish == "refusal":
            self.refusal = wire.one_line(explanation)

    def _say(self, block: Any) -> str:
        """Add the text of a block, or of a piece of one; thinking and tools say nothing."""
        given = wire.mapping(block)
        text = given.get("text") if given.get("type") in ("text", "text_delta") else None
        if not isinstance(text, str):
            return ""
        self.pieces.append(text)
        return text


def _told(headers: Mapping[str, str], name: str) -> tuple[int | None, int | None, float | None] | None:
    """Return limit, rest and time until the reset [s] of one rate limit; None when nothing is told of it."""
    prefix = f"anthropic-ratelimit-{name}-"
    limit, left = wire.count(headers.get(prefix + "limit")), wire.count(headers.get(prefix + "remaining"))
    if limit is None and left is None:
        return None
    return limit, left, wire.seconds_until(headers.get(prefix + "reset"), headers)


def refusal(response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
    """Return the typed error of an error object, in a reply of its own or within a stream."""
    given = wire.mapping(document)
    error = wire.mapping(given.get("error", given))
    message = error.get("message")
    message = wire.one_line(message if isinstance(message, str) and message else wire.plain_text(response))
    type_, code = error.get("type"), wire.mapping(error.get("details")).get("error_code")
    kind = _kind(response.status, str(type_), str(code), message)
    if response.status == 404 and model and model not in message:
        message = f"{message} (model {model!r})"
    failure = wire.refused(response, kind, message, secrets)
    again = _REGAIN.search(message)
    if kind == "window" and again is not None:
        failure.retry_after_s = wire.seconds_until(f"{again[1]}T{again[2]}+00:00", response.headers)
    return failure


def _kind(status: int, type_: str, code: str, message: str) -> PlatformErrorKind:
    if code in _KINDS_OF_CODES:
        return _KINDS_OF_CODES[code]
    if (status in (400, 403, 429) and _SPENT.search(message)) or (status == 429 and _DAILY.search(message)):
        return "window"
    if status in (400, 403) and _BALANCE.search(message):
        return "balance"
    if status in (400, 403) and _DISABLED.search(message):
        return "key"
    if type_ in _KINDS:
        return _KINDS[type_]
    if status < 300:
        return _KINDS_IN_A_STREAM.get(type_, "reply")
    return wire.kind_of_status(status)
