"""The provider on loopback speaks OpenAI's chat completions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from orchestrai.testing.exchange import Answer, Bucket, Received, words

PATH: Final = re.compile(r"/(v1/)?chat/completions$")
_CREATED: Final = 1_760_000_000  # seconds since 1970; fixed, so that equal requests get equal replies
_CODES: Final = {
    401: "invalid_api_key",
    402: "insufficient_quota",
    404: "model_not_found",
    429: "rate_limit_exceeded",
    500: "server_error",
    503: "overloaded",
}


class ChatCompletions:
    """The wire form; source: platform.openai.com/docs/api-reference/chat."""

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text of the last user message."""
        for message in reversed(body.get("messages") or ()):
            if message.get("role") == "user":
                content = message.get("content")
                if isinstance(content, str):
                    return content
                return "\n".join(part.get("text", "") for part in content or () if part.get("type") == "text")
        return ""

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the schema in `response_format`."""
        constraint = body.get("response_format")
        return constraint["json_schema"]["schema"] if constraint and "json_schema" in constraint else None

    def streams(self, _path: str, body: Mapping[str, Any], /) -> bool:
        """Return the field `stream`."""
        return body.get("stream") is True

    def whole(self, body: Mapping[str, Any], received: Received, answer: Answer) -> bytes:
        """Return a chat.completion."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return orjson.dumps(
            {
                **_envelope(body, received, answer, "chat.completion"),
                "choices": [choice],
                "usage": _usage(received, answer),
                **answer.more,
            }
        )

    def events(self, body: Mapping[str, Any], received: Received, answer: Answer) -> list[bytes]:
        """Return the chat.completion.chunks, word by word, then the usage when it is asked for, then [DONE]."""
        envelope = _envelope(body, received, answer, "chat.completion.chunk")
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in words(answer.text)]
        if answer.refusal is not None:
            deltas.append({"refusal": answer.refusal})
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": answer.finish_reason})
        events = [{**envelope, "choices": [choice], "usage": None, **answer.more} for choice in choices]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({**envelope, "choices": [], "usage": _usage(received, answer), **answer.more})
        return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]

    def headers(self, number: int, wait_s: float | None = None) -> bytes:
        """Return `x-request-id`, and the wait as `retry-after` and `retry-after-ms`."""
        lines = b"x-request-id: req-%d\r\n" % number
        if wait_s is not None:
            lines += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (wait_s + 1, wait_s * 1000 + 1)
        return lines

    def error(self, status: int, code: str | None, message: str, wait_s: float | None = None) -> bytes:  # noqa: ARG002  # told in the headers
        """Return an error object."""
        kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        return orjson.dumps(
            {"error": {"message": message, "type": kind, "param": None, "code": code or _CODES.get(status)}}
        )

    def limit_headers(self, requests: Bucket | None, tokens: Bucket | None) -> bytes:
        """Return `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets as durations."""
        lines = b""
        for name, bucket in ((b"requests", requests), (b"tokens", tokens)):
            if bucket is not None:
                lines += b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
                    *(name, bucket.limit, name, bucket.left, name),
                    _duration(bucket.full_in_s),
                )
        return lines


def _envelope(body: Mapping[str, Any], received: Received, answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{received.number}",
        "object": kind,
        "created": _CREATED,
        "model": answer.model or body.get("model"),
        "service_tier": "default",
    }


def _usage(received: Received, answer: Answer) -> dict[str, Any]:
    cached: dict[str, int] = {"cached_tokens": answer.cached_tokens}
    if answer.cache_write_tokens is not None:
        cached["cache_write_tokens"] = answer.cache_write_tokens
    return {
        "prompt_tokens": received.input_tokens,
        "completion_tokens": received.output_tokens,
        "total_tokens": received.input_tokens + received.output_tokens,
        "prompt_tokens_details": cached,
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
    }


def _duration(seconds: float) -> bytes:
    """Return a wait as OpenAI writes it: `120ms`, `7.66s`, `6m0s`."""
    if seconds < 1:
        return b"%dms" % (seconds * 1000)
    minutes, rest = divmod(seconds, 60)
    return b"%dm%ds" % (minutes, rest) if minutes else f"{rest:.2f}s".encode()
