"""The provider on loopback speaks Anthropic's Messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from orchestrai.testing.exchange import Answer, Bucket, Received, words

PATH: Final = re.compile(r"/v1/messages(\?.*)?$")
_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}
_REMINDER: Final = "<system-reminder>"
_STRUCTURED: Final = "StructuredOutput"  # the tool by which Claude Code asks for an answer under a schema


class MessagesApi:
    """The wire form; source: platform.claude.com/docs/en/api/messages, and the types of anthropic 2.12.

    An `Answer` with `refusal` is one that the model's classifiers stopped; one with reasoning tokens begins with a
    thinking block whose text is left out, as the newer models send it.
    """

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text of the last user message, without the reminder that Claude Code puts before it."""
        for message in reversed(body.get("messages") or ()):
            if message.get("role") == "user":
                content = message.get("content")
                if isinstance(content, str):
                    return content
                texts = [part.get("text", "") for part in content or () if part.get("type") == "text"]
                return "\n".join([text for text in texts[:-1] if not text.startswith(_REMINDER)] + texts[-1:])
        return ""

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the schema in `output_config`, or that of the tool by which Claude Code asks for one.

        Bounds that the decoder does not know stand in descriptions, as JSON in the last paragraph: a model reads them.
        """
        constraint = (body.get("output_config") or {}).get("format")
        if constraint:
            schema: Mapping[str, Any] = _as_read(constraint["schema"])
            return schema
        return next((tool["input_schema"] for tool in body.get("tools") or () if tool.get("name") == _STRUCTURED), None)

    def streams(self, _path: str, body: Mapping[str, Any], /) -> bool:
        """Return the field `stream`."""
        return body.get("stream") is True

    def whole(self, body: Mapping[str, Any], received: Received, answer: Answer) -> bytes:
        """Return a message."""
        message = _message(body, received, answer)
        message["content"] = _blocks(body, received, answer)
        message.update(_stopped(message["content"], answer))
        message["usage"] = _usage(received, answer, received.output_tokens)
        return orjson.dumps({**message, **answer.more})

    def events(self, body: Mapping[str, Any], received: Received, answer: Answer) -> list[bytes]:
        """Return message_start, the content blocks word by word, message_delta with the usage, message_stop."""
        blocks = _blocks(body, received, answer)
        start = {**_message(body, received, answer), "usage": _usage(received, answer, 1), **answer.more}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        for index, block in enumerate(blocks):
            events.append({"type": "content_block_start", "index": index, "content_block": _begun(block)})
            if index == 0:
                events.append({"type": "ping"})
            deltas = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block)]
            events += [*deltas, {"type": "content_block_stop", "index": index}]
        usage = _usage(received, answer, received.output_tokens)
        usage.pop("service_tier")
        events.append({"type": "message_delta", "delta": _stopped(blocks, answer), "usage": usage})
        events.append({"type": "message_stop"})
        return [f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n" for event in events]

    def error(self, status: int, code: str | None, message: str, wait_s: float | None = None) -> bytes:  # noqa: ARG002  # told in the headers
        """Return an error object; `code` is its type, or the `error_code` of its details."""
        error: dict[str, Any] = {"type": _TYPES.get(status, "api_error"), "message": message}
        if code is not None and (code.endswith("_error") or code in _TYPES.values()):
            error["type"] = code
        elif code is not None:
            error["details"] = {"error_code": code}
        return orjson.dumps({"type": "error", "error": error, "request_id": "req_0"})

    def headers(self, number: int, wait_s: float | None = None) -> bytes:
        """Return `request-id`, and the wait as `retry-after` in whole seconds."""
        lines = b"request-id: req_%d\r\n" % number
        return lines if wait_s is None else lines + b"retry-after: %d\r\n" % (wait_s + 1)

    def limit_headers(self, requests: Bucket | None, tokens: Bucket | None) -> bytes:
        """Return `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`.

        Resets are times in RFC 3339. The server limits input alone, so the output is always all there.
        """
        output = None if tokens is None else Bucket(tokens.limit, tokens.limit, 0.0)
        named = {"requests": requests, "tokens": tokens, "input-tokens": tokens, "output-tokens": output}
        lines = ""
        for name, bucket in named.items():
            if bucket is not None:
                prefix = f"anthropic-ratelimit-{name}-"
                lines += f"{prefix}limit: {bucket.limit}\r\n{prefix}remaining: {bucket.left}\r\n"
                lines += f"{prefix}reset: {_time(bucket.full_in_s)}\r\n"
        return lines.encode()


def _as_read(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_read(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: _as_read(value) for key, value in schema.items()}
    words = schema.get("description")
    try:
        told = orjson.loads(words.rpartition("\n\n")[2]) if isinstance(words, str) else {}
    except orjson.JSONDecodeError:
        told = {}
    return {**read, **told} if isinstance(told, dict) else read


def _message(body: Mapping[str, Any], received: Received, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{received.number}",
        "type": "message",
        "role": "assistant",
        "model": answer.model or body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(body: Mapping[str, Any], received: Received, answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        blocks.append({"type": "thinking", "thinking": "", "signature": "c2lnbmF0dXJl"})
    if any(tool.get("name") == _STRUCTURED for tool in body.get("tools") or ()):
        try:
            value = orjson.loads(answer.text)
        except orjson.JSONDecodeError:
            value = None
        if isinstance(value, dict):
            return [
                *blocks,
                {"type": "tool_use", "id": f"toolu_{received.number}", "name": _STRUCTURED, "input": value},
            ]
    return [*blocks, {"type": "text", "text": answer.text}] if answer.text else blocks


def _begun(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block as `content_block_start` shows it: empty."""
    return {**block, **{key: type(block[key])() for key in ("text", "signature", "input") if key in block}}


def _deltas(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "thinking":
        return [{"type": "signature_delta", "signature": block["signature"]}]
    if block["type"] == "tool_use":
        return [{"type": "input_json_delta", "partial_json": p} for p in words(orjson.dumps(block["input"]).decode())]
    return [{"type": "text_delta", "text": piece} for piece in words(block["text"])]


def _stopped(blocks: list[dict[str, Any]], answer: Answer) -> dict[str, Any]:
    reason = _STOP_REASONS.get(answer.finish_reason, answer.finish_reason)
    if blocks and blocks[-1]["type"] == "tool_use":
        reason = "tool_use"
    if answer.refusal is None:
        return {"stop_reason": reason, "stop_sequence": None}
    details = {"type": "refusal", "category": None, "explanation": answer.refusal}
    return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}


def _usage(received: Received, answer: Answer, output_tokens: int) -> dict[str, Any]:
    written = answer.cache_write_tokens or 0
    usage: dict[str, Any] = {
        "input_tokens": received.input_tokens - answer.cached_tokens - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    if answer.reasoning_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": min(answer.reasoning_tokens, output_tokens)}
    return usage


def _time(in_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat(timespec="seconds").replace("+00:00", "Z")
