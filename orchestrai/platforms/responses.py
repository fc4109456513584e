"""The wire form of OpenAI's Responses: bodies out, replies in.

Source: platform.openai.com/docs/api-reference/responses and its streaming events. The answer is the text of the
messages in `output`; reasoning, tool calls and commentary between them are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from orchestrai.attachments import Attachment
from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.messages import Message
from orchestrai.platforms import chat_completions as chat
from orchestrai.platforms import wire, wire_form
from orchestrai.platforms.http import Event, Response
from orchestrai.platforms.protocol import RateLimits, Request
from orchestrai.result import NO_USAGE, Usage

if TYPE_CHECKING:
    from yarl import URL

_MERGED: Final = ("text", "reasoning")  # objects that hold a constraint or an effort beside what `extra` may add
_KINDS: Final[dict[str, PlatformErrorKind]] = {  # what the code of a response that failed means
    "rate_limit_exceeded": "rate",
    "usage_limit_reached": "window",
    "insufficient_quota": "balance",
    "server_error": "overloaded",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "context_length_exceeded": "request",
    "invalid_prompt": "request",
    "bio_policy": "request",
    "data_residency_mismatch": "request",
}


class Responses:
    """The wire form; nothing is stored at the provider unless `extra` says so.

    Args:
        base: Address up to and with `/v1`.
    """

    def __init__(self, base: URL) -> None:
        self._url = base.joinpath("responses")

    def url(self, model: str, *, stream: bool) -> URL:  # noqa: ARG002  # one address for every model and form
        """Return the one address."""
        return self._url

    def constraint(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constraint to a JSON Schema; `strict` only where the schema is within the strict subset."""
        return {"type": "json_schema", **chat.named_schema(schema)}

    def body(self, request: Request, *, stream: bool, constraint: Any) -> dict[str, Any]:
        """Return the body of a request."""
        fields: dict[str, Any] = {"model": request.model, "input": [_item(m) for m in request.messages], "store": False}
        if request.system is not None:
            fields["instructions"] = request.system
        if request.max_tokens is not None:
            fields["max_output_tokens"] = request.max_tokens
        if request.temperature is not None:
            fields["temperature"] = request.temperature
        if request.effort is not None:
            fields["reasoning"] = {"effort": request.effort}
        if constraint is not None:
            fields["text"] = {"format": constraint}
        for name, value in request.extra.items():
            merges = name in _MERGED and isinstance(value, Mapping)
            fields[name] = {**fields.get(name, {}), **value} if merges else value
        fields["stream"] = stream  # after `extra`: the reply's form is the caller's choice of `send` or `stream`
        return fields

    def answer(self, response: Response, secrets: wire.Secrets) -> Answer:
        """Return what takes a reply."""
        return Answer(response, secrets)

    def refusal(self, response: Response, document: Any, model: str, secrets: wire.Secrets) -> PlatformError:
        """Return the typed error of a reply with another status than 200."""
        return chat.refusal(response, document, model, secrets)


def _item(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    said = "output_text" if message.role == "assistant" else "input_text"
    return {"role": message.role, "content": [_part(part, said) for part in message.content]}


def _part(part: str | Attachment, said: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": said, "text": part}
    if part.is_image:
        return {"type": "input_image", "image_url": part.data_url()}
    return {"type": said, "text": wire_form.fenced(part.name, part.text())}


def usage(value: Any) -> Usage:
    """Return the tokens of a usage object, which are inclusive totals; what is missing or absurd is unknown."""
    given = wire.mapping(value)
    read, written = wire.tokens(given.get("input_tokens")), wire.tokens(given.get("output_tokens"))
    if read is None and written is None:
        return NO_USAGE
    inputs = wire.mapping(given.get("input_tokens_details"))
    outputs = wire.mapping(given.get("output_tokens_details"))
    return Usage(
        read,
        wire.part_of(read, inputs.get("cached_tokens")),
        wire.part_of(read, inputs.get("cache_write_tokens")),
        written,
        wire.part_of(written, outputs.get("reasoning_tokens")),
        "provider",
    )


class Answer(wire_form.Answer):
    """One answer on its way."""

    __slots__ = ("asides",)
    FINISH: ClassVar[Mapping[str, str]] = {
        "completed": "stop",
        "max_output_tokens": "length",
        "content_filter": "filter",
        "function_call": "tool",
        "custom_tool_call": "tool",
        "mcp_approval_request": "tool",
    }

    def __init__(self, response: Response, secrets: wire.Secrets) -> None:
        super().__init__(response, secrets)
        self.asides: set[Any] = set()  # positions of messages that are no part of the answer

    def read(self, document: Any) -> None:
        """Take a response object.

        Raises:
            PlatformError: It failed, or is not finished.
        """
        given = wire.mapping(document)
        self._finished(given)
        for part in _parts(given):
            self._say(part)

    def event(self, event: Event) -> str:
        """Take one event; the last one holds the whole response object once more.

        Raises:
            PlatformError: It is an error, or no JSON object.
        """
        if event.data == b"[DONE]":  # some compatible servers close with it; it does not say that the answer is whole
            return ""
        given = self.json(event.data)
        kind, delta = given.get("type"), given.get("delta")
        if kind == "response.output_text.delta":
            if not isinstance(delta, str) or _position(given) in self.asides:
                return ""
            self.pieces.append(delta)
            return delta
        if kind == "response.refusal.delta" and isinstance(delta, str):
            self.refusal += delta
        elif kind == "response.output_item.added" and _is_aside(wire.mapping(given.get("item"))):
            self.asides.add(_position(given))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            return self._last(wire.mapping(given.get("response")))
        elif kind in ("response.created", "response.in_progress"):
            self._note(wire.mapping(given.get("response")))
        elif kind == "error" or (kind is None and given.get("error")):
            raise self._failed(given)
        return ""

    def tokens(self) -> Usage:
        """Return the tokens as inclusive totals."""
        return usage(self.usage)

    def rate_limits(self) -> RateLimits | None:
        """Return what the `x-ratelimit-` headers say."""
        return wire.rate_limits(self.response.headers)

    def _last(self, given: Mapping[str, Any]) -> str:
        """Take the object that closes a stream; a server that sent no pieces has the whole text in it."""
        streamed = any(self.pieces) or bool(self.refusal)
        self._finished(given)
        self.ended = True
        return "" if streamed else "".join([self._say(part) for part in _parts(given)])

    def _finished(self, given: Mapping[str, Any]) -> None:
        """Keep what a response object says beside the text, and why it ended."""
        self._note(given)
        status = given.get("status")
        if given.get("error") or status == "failed":
            raise self._failed(given)
        if status in ("queued", "in_progress", "cancelled"):
            raise self.unusable(f"the response is {status}, not completed.")
        items = [wire.mapping(item).get("type") for item in _list(given.get("output"))]
        called = next((kind for kind in items if isinstance(kind, str) and self.FINISH.get(kind) == "tool"), None)
        self.finish = wire.mapping(given.get("incomplete_details")).get("reason") or called or status
        if self.finish_reason == "length" and not self.pieces:
            self.pieces.append("")  # reasoning used up the whole limit: an empty answer, as at chat completions

    def _note(self, given: Mapping[str, Any]) -> None:
        self.usage = given.get("usage") or self.usage
        self.model = given.get("model") or self.model
        self.tier = given.get("service_tier") or self.tier
        self.id = given.get("id") or self.id

    def _say(self, part: Mapping[str, Any]) -> str:
        """Add a part of a message and return its text."""
        text, refused = part.get("text"), part.get("refusal")
        if part.get("type") == "refusal" and isinstance(refused, str):
            self.refusal += refused
        if part.get("type") != "output_text" or not isinstance(text, str):
            return ""
        self.pieces.append(text)
        return text

    def _failed(self, given: Mapping[str, Any]) -> PlatformError:
        """Return the typed error of a response that failed, or of an error event."""
        error = chat.refusal(self.response, given, "", self.secrets)
        code = wire.mapping(given.get("error") or given).get("code")
        if isinstance(code, str):
            error.kind = _KINDS.get(code, "request" if "image" in code else error.kind)
        error.reply = self.reply()
        return error


def _parts(response: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return the parts of the messages in a response object that are its answer."""
    for item in map(wire.mapping, _list(response.get("output"))):
        if item.get("type") == "message" and not _is_aside(item):
            yield from map(wire.mapping, _list(item.get("content")))


def _is_aside(item: Mapping[str, Any]) -> bool:
    """Return True for a message between tool calls, which newer models mark as commentary."""
    return item.get("phase") == "commentary"


def _position(given: Mapping[str, Any]) -> int | None:
    position = given.get("output_index")
    return position if type(position) is int else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
