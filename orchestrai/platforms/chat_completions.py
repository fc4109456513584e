"""The wire form of OpenAI's chat completions, which most providers and local servers speak: bodies out, replies in.

Source: platform.openai.com/docs/api-reference/chat; where compatible servers differ, the comment says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrai.attachments import Attachment
from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.messages import Message
from orchestrai.platforms import wire
from orchestrai.platforms.http import Response
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.result import NO_USAGE, Usage

_FINISH: Final = {
    "stop": "stop",
    "eos": "stop",  # Together
    "length": "length",
    "model_length": "length",  # Mistral
    "content_filter": "filter",
    "tool_calls": "tool",
    "function_call": "tool",
}
_NOT_STRICT: Final = frozenset(
    {"allOf", "oneOf", "not", "if", "then", "else", "patternProperties", "dependentRequired", "dependentSchemas"}
)
_STRICT_TYPES: Final = frozenset({"type", "anyOf", "$ref", "enum", "const"})
_BALANCE: Final = re.compile(r"insufficient_(quota|balance|funds|credits?)|billing", re.IGNORECASE)
_WINDOW_CODE: Final = re.compile(r"quota|daily|per_?day|usage_limit", re.IGNORECASE)
_WINDOW_TEXT: Final = re.compile(r"per[ _-]?day|\b[RT]PD\b|daily|usage limit", re.IGNORECASE)
_KEY: Final = re.compile(r"invalid_api_key|API_KEY_INVALID|API key not valid|authentication_error", re.IGNORECASE)
_TRY_AGAIN: Final = re.compile(r"try again in ((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")


def body(request: Request, *, stream: bool, limit_field: str, response_format: Any) -> dict[str, Any]:
    """Return the body of a request.

    Args:
        request: What to ask.
        stream: Ask for the answer piece by piece, with the usage at its end.
        limit_field: How the server calls the output limit.
        response_format: The constraint made by `response_format`, or None.
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
    return {"type": "text", "text": fenced(part.name, part.text())}


def fenced(name: str, text: str) -> str:
    """Return a text file as a named block, behind a fence that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"File: {' '.join(name.split())}\n{fence}\n{text}{end}{fence}"


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constraint to a JSON Schema; `strict` only where the schema is within the strict subset."""
    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(schema.get("title") or "answer"))[:64]
    constraint = {"name": name, "strict": is_strict(schema), "schema": dict(schema)}
    return {"type": "json_schema", "json_schema": constraint}


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
        cached = _part_of(read, inputs.get("cached_tokens"))
        cache_write = _part_of(read, inputs.get("cache_write_tokens"))
    elif "prompt_cache_hit_tokens" in given:
        cached = _part_of(read, given["prompt_cache_hit_tokens"])
    if type(outputs) is dict:
        thought = wire.tokens(outputs.get("reasoning_tokens"))
        if thought and read is not None and written is not None and total == read + written + thought:
            written += thought
        reasoning = _part_of(written, thought)
    if read is None and written is None:
        return NO_USAGE
    return Usage(read, cached, cache_write, written, reasoning, "provider")


def _part_of(whole: int | None, value: Any) -> int | None:
    """Return a part of a total; one that is larger than its total is no part of it."""
    part = wire.tokens(value)
    return None if part is None or (whole is not None and part > whole) else part


def reply(response: Response, document: Any, secrets: wire.Secrets) -> Reply:
    """Return the answer in a whole reply with status 200.

    Raises:
        PlatformError: It holds an error, a refusal or no text; `reply` carries the usage that was readable.
    """
    given = wire.mapping(document)
    if given.get("error"):
        raise refusal(response, given, "", secrets)
    choices = given.get("choices")
    choice = wire.mapping(choices[0]) if isinstance(choices, list) and choices else {}
    answer = Answer(response)
    answer.note(given)
    answer.finish = choice.get("finish_reason")
    answer.say(wire.mapping(choice.get("message")))
    return answer.whole(secrets)


def _text(content: Any) -> str | None:
    """Return the text of a message; some servers (Mistral) send a list of parts. None when there is none."""
    if isinstance(content, list):
        parts = [wire.mapping(part).get("text") for part in content if wire.mapping(part).get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return content if isinstance(content, str) else None


class Answer:
    """What has arrived of one answer: filled at once by a whole reply, piece by piece by a stream."""

    __slots__ = ("finish", "id", "model", "pieces", "refusal", "response", "tier", "ttft_ms", "usage")

    def __init__(self, response: Response) -> None:
        self.response = response
        self.pieces: list[str] = []
        self.refusal = ""
        self.finish: Any = None
        self.usage: Any = None
        self.model: Any = None
        self.tier: Any = None
        self.id: Any = None
        self.ttft_ms: float | None = None

    def say(self, message: Mapping[str, Any]) -> str:
        """Add the text of a message, or of a piece of one, and return it."""
        text = _text(message.get("content"))
        if text is not None:
            self.pieces.append(text)
        refused = message.get("refusal")
        if isinstance(refused, str):
            self.refusal += refused
        return text or ""

    def note(self, given: Mapping[str, Any]) -> None:
        """Keep what an object of the provider says beside the text; later words win."""
        self.usage = given.get("usage") or self.usage
        self.model = given.get("model") or self.model
        self.tier = given.get("service_tier") or self.tier
        self.id = given.get("id") or self.id

    def reply(self) -> Reply:
        """Return it in the form of the protocol."""
        headers = self.response.headers
        return Reply(
            "".join(self.pieces),
            wire.word(self.model),
            usage(self.usage),
            self.finish_reason,
            wire.word(self.tier),
            wire.word(self.id),
            wire.word(headers.get("x-request-id")),
            wire.rate_limits(headers),
            self.ttft_ms,
            wire.kept_usage(self.usage),
            self.response.status,
        )

    @property
    def finish_reason(self) -> str | None:
        """stop, length, filter or tool; None when the provider says something else."""
        return _FINISH.get(self.finish) if isinstance(self.finish, str) else None

    def whole(self, secrets: wire.Secrets) -> Reply:
        """Return the finished answer; an empty text is an answer (reasoning may have used up the whole limit).

        Raises:
            PlatformError: There is no text, because the model refused, was filtered or called a tool; or an empty one
                and nothing says that the model stopped.
        """
        if not any(self.pieces):
            if self.refusal:
                raise self.unusable(f"the model refused: {self.refusal}", secrets)
            if self.finish_reason == "filter":
                raise self.unusable("the content filter removed the answer.", secrets)
            if self.finish_reason == "tool":
                raise self.unusable("the model called a tool instead of answering.", secrets)
            if not self.pieces or self.finish_reason is None:
                raise self.unusable("the reply holds no text.", secrets)
        return self.reply()

    def unusable(self, message: str, secrets: wire.Secrets) -> PlatformError:
        """Return the error of an answer that came, was paid for and cannot be used."""
        error = wire.refused(self.response, "reply", message, secrets)
        error.reply = self.reply()
        return error


def piece(data: bytes, answer: Answer, secrets: wire.Secrets) -> str:
    """Return the text of one event of a stream (often empty) and note the rest in `answer`.

    Raises:
        PlatformError: The event is an error, or no JSON object.
    """
    try:
        given = wire.document(data)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise answer.unusable("an event of the stream is no JSON object, or was cut.", secrets)
    if given.get("error"):
        raise refusal(answer.response, given, "", secrets)
    answer.note(given)
    choices = given.get("choices")
    choice = wire.mapping(choices[0]) if isinstance(choices, list) and choices else {}
    answer.finish = choice.get("finish_reason") or answer.finish
    return answer.say(wire.mapping(choice.get("delta")))


def refusal_of(response: Response, model: str, secrets: wire.Secrets) -> PlatformError:
    """Return the typed error of a reply whose status is not 200."""
    try:
        document = wire.document(response.body, response.headers.get("content-type", ""))
    except ValueError:
        document = None
    return refusal(response, document, model, secrets)


def refusal(response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
    """Return the typed error of a reply that is an error object, a redirect, or no JSON at all.

    An error object inside a reply with status 200 (OpenRouter, and streams) tells its status as its code.
    """
    if 300 <= response.status < 400:
        return wire.redirected(response)
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
