"""The provider on loopback speaks OpenAI's Responses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from orchestrai.testing.chat_completions import ChatCompletions
from orchestrai.testing.exchange import Answer, Received, words

PATH: Final = re.compile(r"/(v1/)?responses$")
_CREATED: Final = 1_760_000_000  # seconds since 1970; fixed, so that equal requests get equal replies
_REASONS: Final = {"length": "max_output_tokens", "content_filter": "content_filter", "filter": "content_filter"}


class Responses(ChatCompletions):
    """The wire form; errors and headers are those of chat completions.

    An `Answer` whose `more` says `{"status": "failed", "error": {"code": …, "message": …}}` is one that failed.
    Source: platform.openai.com/docs/api-reference/responses and its streaming events, and the types of openai 2.54.
    """

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text of the last user message."""
        asked = body.get("input")
        if isinstance(asked, str):
            return asked
        for item in reversed(asked or ()):
            if item.get("role") == "user":
                content = item.get("content")
                if isinstance(content, str):
                    return content
                return "\n".join(part.get("text", "") for part in content or () if part.get("type") == "input_text")
        return ""

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the schema in `text.format`."""
        constraint = (body.get("text") or {}).get("format") or {}
        return constraint.get("schema")

    def whole(self, body: Mapping[str, Any], received: Received, answer: Answer) -> bytes:
        """Return a response object."""
        return orjson.dumps(_ended(body, received, answer))

    def events(self, body: Mapping[str, Any], received: Received, answer: Answer) -> list[bytes]:
        """Return the events of one response: created, its items word by word, and the whole object at the end."""
        begun = {**_response(body, received, answer), "status": "in_progress"}
        ended = _ended(body, received, answer)
        events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
        events.append({"type": "response.in_progress", "response": begun})
        for index, item in enumerate(ended["output"]):
            events += [{**event, "output_index": index} for event in _item_events(item)]
        events.append({"type": f"response.{ended['status']}", "response": ended})
        numbered = ({**event, "sequence_number": number} for number, event in enumerate(events))
        return [f"event: {event['type']}\ndata: ".encode() + orjson.dumps(event) + b"\n\n" for event in numbered]


def _response(body: Mapping[str, Any], received: Received, answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_{received.number}",
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": {},
        "model": answer.model or body.get("model"),
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _ended(body: Mapping[str, Any], received: Received, answer: Answer) -> dict[str, Any]:
    reason = _REASONS.get(answer.finish_reason)
    status = "completed" if reason is None else "incomplete"
    return {
        **_response(body, received, answer),
        "status": status,
        "incomplete_details": None if reason is None else {"reason": reason},
        "output": [] if answer.more.get("status") == "failed" else _output(received, answer, status),
        "usage": _usage(received, answer),
        **answer.more,
    }


def _output(received: Received, answer: Answer, status: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        items.append({"id": f"rs_{received.number}", "type": "reasoning", "summary": []})
    content: list[dict[str, Any]] = []
    if answer.text or answer.refusal is None:
        content.append({"type": "output_text", "annotations": [], "logprobs": [], "text": answer.text})
    if answer.refusal is not None:
        content.append({"type": "refusal", "refusal": answer.refusal})
    message = {"id": f"msg_{received.number}", "type": "message", "status": status, "role": "assistant"}
    return [*items, {**message, "content": content}]


def _item_events(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    begun = dict(item)
    if item["type"] == "message":
        begun |= {"status": "in_progress", "content": []}
    events: list[dict[str, Any]] = [{"type": "response.output_item.added", "item": begun}]
    for index, part in enumerate(item.get("content", ())):
        field, name = ("refusal", "refusal") if part["type"] == "refusal" else ("text", "output_text")
        more: dict[str, Any] = {"logprobs": []} if field == "text" else {}
        at = {"item_id": item["id"], "content_index": index}
        events.append({"type": "response.content_part.added", **at, "part": {**part, field: ""}})
        events += [{"type": f"response.{name}.delta", **at, "delta": piece, **more} for piece in words(part[field])]
        events.append({"type": f"response.{name}.done", **at, field: part[field], **more})
        events.append({"type": "response.content_part.done", **at, "part": part})
    return [*events, {"type": "response.output_item.done", "item": item}]


def _usage(received: Received, answer: Answer) -> dict[str, Any]:
    return {
        "input_tokens": received.input_tokens,
        "input_tokens_details": {
            "cached_tokens": answer.cached_tokens,
            "cache_write_tokens": answer.cache_write_tokens or 0,
        },
        "output_tokens": received.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": received.input_tokens + received.output_tokens,
    }
