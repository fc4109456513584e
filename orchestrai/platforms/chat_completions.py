"""The wire form of OpenAI's chat completions, which most providers and local servers speak: bodies out, replies in.

Source: platform.openai.com/docs/api-reference/chat; where compatible servers differ, the comment says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrai.attachments import Attachment
from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.messages import Message
from orchestrai.platforms import wire, wire_form
from orchestrai.platforms.http import Event, Response
from orchestrai.platforms.protocol import RateLimits, Request
from orchestrai.result import NO_USAGE, Usage

if TYPE_CHECKING:
    from yarl import URL

_NOT_STRICT: Final = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "dependentRequired", "dependentSchemas"}
)
_STRICT_TYPES: Final = frozenset({"type", "anyOf", "$ref", "enum", "const"})
_BALANCE: Final = re.compile(r"insufficient_(quota|balance|funds|credits?)|billing", re.IGNORECASE)
_WINDOW_CODE: Final = re.compile(r"quota|daily|per_?day|usage_limit", re.IGNORECASE)
_WINDOW_TEXT: Final = re.compile(r"per[ _-]?day|\b[RT]PD\b|daily|usage limit", re.IGNORECASE)
_KEY: Final = re.compile(r"invalid_api_key|API_KEY_INVALID|API key not valid|authentication_error", re.IGNORECASE)
_TRY_AGAIN: Final = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")


class ChatCompletions:
    """The wire form.

    Args:
        base: Address up to and with `/v1`.
        limit_field: How the server calls the output limit: max_completion_tokens at OpenAI, max_tokens elsewhere.
    """

    def __init__(self, base: URL, limit_field: str) -> None:
        self._url = base.joinpath("chat", "completions")
        self._limit_field = limit_field

    def url(self, model: str, *, stream: bool) -> URL:  # noqa: ARG002  # one address for every model and form
        """Return the one address."""
        return self._url

    def constraint(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constraint to a JSON Schema; `strict` only where the schema is within the strict subset."""
        return {"type": "json_schema", "json_schema": named_schema(schema)}

    def body(self, request: Request, *, stream: bool, constraint: Any) -> dict[str, Any]:
        """Return the body of a request."""
        return body(request, stream=stream, limit_field=self._limit_field, response_format=constraint)

    def answer(self, response: Response, secrets: wire.Secrets) -> Answer:
        """Return what takes a reply."""
        return Answer(response, secrets)

    def refusal(self, response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
        """Return the typed error of a reply with another status than 200."""
        error = refusal(response, document, model, secrets)
        if "v1/responses" in str(error):  # "This model is only supported in v1/responses and not in …"
            wire.advise(error, ' OpenAI(api="responses") speaks it.')
        return error


def body(request: Request, *, stream: bool, limit_field: str, response_format: Any) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        request: What to ask.
        stream: Ask for the answer piece by piece, with the usage at its end.
        limit_field: How the server calls the output limit.
        response_format: The constraint to a schema, or None.
    """
    messages = [{"role": m.role, "content": _content(m)} for m in request.messages]
    if request.system is not None:
        messages.insert(0, {"role": "system", "content": request.system})
    fields: dict[str, Any] = {"model": request.model, "messages": messages}
    if request.max_tokens is not None:
        fields[limit_field] = request.max_tokens
    if request.temperature is not None:
        fields["temperature"] = request.temperature
    if request.effort is not None:
        fields["reasoning_effort"] = request.effort
    if response_format is not None:
        fields["response_format"] = response_format
    if stream:
        fields["stream_options"] = {"include_usage": True}
    if request.extra:
        fields.update(request.extra)
    fields["stream"] = stream  # after `extra`: the reply's form is the caller's choice of `send` or `stream`
    return fields


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: str | Attachment) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.is_image:
        return {"type": "image_url", "image_url": {"url": part.data_url()}}
    return {"type": "text", "text": wire_form.fenced(part.name, part.text())}


def named_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with the name and the flag that OpenAI's protocols want beside it."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(schema.get("title") or "answer"))[:64]
    return {"name": name, "strict": is_strict(schema), "schema": dict(schema)}


def is_strict(schema: Any) -> bool:
    """Return True when every object is closed and requires all of its properties, as strict mode demands.

    Source: platform.openai.com/docs/guides/structured-outputs, "Supported schemas".
    """
    if not isinstance(schema, Mapping) or _NOT_STRICT & schema.keys() or not _STRICT_TYPES & schema.keys():
        return False
    kinds = schema.get("type")
    if "properties" in schema or kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
    return all(is_strict(inner) for inner in _inner(schema))


def _inner(schema: Mapping[str, Any]) -> Iterator[Any]:
    for key in ("properties", "$defs", "definitions"):
        yield from schema.get(key, {}).values()
    yield from schema.get("anyOf", ())
    yield from schema.get("prefixItems", ())
    if "items" in schema:
        yield schema["items"]


def usage(value: Any) -> Usage:
    """Return the tokens of a usage object as inclusive totals; what is missing or absurd is unknown.

    `prompt_tokens` includes the cached ones and `completion_tokens` the reasoning, except at servers whose
    `total_tokens` says that reasoning comes on top (xAI, Gemini's compatible endpoint). DeepSeek names its cached
    tokens `prompt_cache_hit_tokens`.
    """
    given = wire.mapping(value)
    read, total = wire.tokens(given.get("prompt_tokens")), wire.tokens(given.get("total_tokens"))
    written = wire.tokens(given.get("completion_tokens"))
    inputs, outputs = given.get("prompt_tokens_details"), given.get("completion_tokens_details")
    cached = cache_write = reasoning = None
    if type(inputs) is dict:
        cached = wire.part_of(read, inputs.get("cached_tokens"))
        cache_write = wire.part_of(read, inputs.get("cache_write_tokens"))
    elif "prompt_cache_hit_tokens" in given:
        cached = wire.part_of(read, given["prompt_cache_hit_tokens"])
    if type(outputs) is dict:
        thought = wire.tokens(outputs.get("reasoning_tokens"))
        if thought and read is not None and written is not None and total == read + written + thought:
            written += thought
        reasoning = wire.part_of(written, thought)
    if read is None and written is None:
        return NO_USAGE
    return Usage(read, cached, cache_write, written, reasoning, "provider")


def _text(content: Any) -> str | None:
    """Return the text of a message; some servers (Mistral) send a list of parts. None when there is none."""
    if isinstance(content, list):
        parts = [wire.mapping(part).get("text") for part in content if wire.mapping(part).get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


class Answer(wire_form.Answer):
    """One answer on its way."""

    __slots__ = ()
    FINISH: ClassVar[Mapping[str, str]] = {
        "stop": "stop",
        "eos": "stop",  # Together
        "length": "length",
        "model_length": "length",  # Mistral
        "content_filter": "filter",
        "tool_calls": "tool",
        "function_call": "tool",
    }

    def read(self, document: Any) -> None:
        """Take a chat.completion.

        Raises:
            PlatformError: It holds an error.
        """
        choice = self._note(wire.mapping(document))
        self.finish = choice.get("finish_reason")
        self._say(wire.mapping(choice.get("message")))

    def event(self, event: Event) -> str:
        """Take a chat.completion.chunk, or the end.

        Raises:
            PlatformError: It is an error, or no JSON object.
        """
        if event.data == b"[DONE]":
            self.ended = True
            return ""
        choice = self._note(self.json(event.data))
        self.finish = choice.get("finish_reason") or self.finish
        return self._say(wire.mapping(choice.get("delta")))

    def tokens(self) -> Usage:
        """Return the tokens as inclusive totals."""
        return usage(self.usage)

    def rate_limits(self) -> RateLimits | None:
        """Return what the `x-ratelimit-` headers say."""
        return wire.rate_limits(self.response.headers)

    def _note(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keep what an object of the provider says beside the text, later words win; return its first choice."""
        if given.get("error"):
            raise refusal(self.response, given, "", self.secrets)
        self.usage = given.get("usage") or self.usage
        self.model = given.get("model") or self.model
        self.tier = given.get("service_tier") or self.tier
        self.id = given.get("id") or self.id
        choices = given.get("choices")
        return wire.mapping(choices[0]) if isinstance(choices, list) and choices else {}

    def _say(self, message: Mapping[str, Any]) -> str:
        """Add the text of a message, or of a piece of one, and return it."""
        text = _text(message.get("content"))
        if text is not None:
            self.pieces.append(text)
        refused = message.get("refusal")
        if isinstance(refused, str):
            self.refusal += refused
        return text or ""


def refusal(response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
    """Return the typed error of a reply that is an error object, or no JSON at all.

    An error object inside a reply with status 200 (OpenRouter, and streams) tells its status as its code.
    """
    if isinstance(document, list) and document:  # Gemini's compatible endpoint wraps its error in a list
        document = document[0]
    given = wire.mapping(document)
    error = given.get("error", given)
    details = wire.mapping(error)
    code, type_ = details.get("code"), details.get("type")
    message = next(
        (m for m in (details.get("message"), details.get("detail"), error) if isinstance(m, str) and m),
        None,
    ) or wire.plain_text(response)
    message = wire.one_line(message)
    status = code if response.status < 300 and type(code) is int and 400 <= code < 600 else response.status
    kind = _kind(status, f"{code} {type_}", message)
    if status == 404 and model and model not in message:
        message = f"{message} (model {model!r})"
    failure = wire.refused(response, kind, message, secrets)
    again = _TRY_AGAIN.search(message)
    if failure.retry_after_s is None and again is not None and kind in ("rate", "window"):
        failure.retry_after_s = wire.duration_s(again[1])
    return failure


def _kind(status: int, codes: str, message: str) -> PlatformErrorKind:
    if status in (400, 402, 403, 429) and _BALANCE.search(codes):
        return "balance"
    if status == 429:
        return "window" if _WINDOW_CODE.search(codes) or _WINDOW_TEXT.search(message) else "rate"
    if status == 400 and (_KEY.search(codes) or _KEY.search(message)):
        return "key"
    if status < 300:  # an error inside a reply with status 200, without a status of its own
        return "rate" if "rate_limit" in codes else "overloaded" if "overloaded" in codes else "reply"
    return wire.kind_of_status(status)
