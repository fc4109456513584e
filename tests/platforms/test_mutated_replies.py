"""No reply can crash us: damaged replies through the real adapter and real HTTP, each a Reply or a PlatformError."""

import json

from mutations import MutatedReplies, Protocol

from orchestrai.platforms.openai import OpenAI

KEY = "sk-test-0123456789abcdef"

COMPLETION = {
    "id": "chatcmpl-B1",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "gpt-5-mini-2026-01-01",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": 'An "answer" with \\ and é and \U0001f600.', "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1_200,
        "completion_tokens": 60,
        "total_tokens": 1_260,
        "prompt_tokens_details": {"cached_tokens": 1_024, "cache_write_tokens": 76},
        "completion_tokens_details": {"reasoning_tokens": 32},
    },
    "service_tier": "default",
}
CHUNKS = [
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "An "}, "finish_reason": None}]},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "answer"}, "finish_reason": None}]},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c", "model": "m", "choices": [], "usage": COMPLETION["usage"]},
]
REFUSALS = [
    {"error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
    {"error": {"message": "Upstream failed", "code": 502, "metadata": {"raw": "x"}}},
]
RESPONSE = {
    "id": "resp_B1",
    "object": "response",
    "created_at": 1_760_000_000,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-5-mini-2026-01-01",
    "output": [
        {"id": "rs_1", "type": "reasoning", "summary": []},
        {
            "id": "msg_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "An answer \U0001f600."}],
        },
    ],
    "service_tier": "default",
    "usage": {
        "input_tokens": 1_200,
        "input_tokens_details": {"cached_tokens": 1_024, "cache_write_tokens": 76},
        "output_tokens": 60,
        "output_tokens_details": {"reasoning_tokens": 32},
        "total_tokens": 1_260,
    },
}
AT = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
EVENTS = [
    {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": RESPONSE["output"][0]},
    {"type": "response.output_item.added", "output_index": 1, "item": {**RESPONSE["output"][1], "content": []}},
    {"type": "response.output_text.delta", **AT, "delta": "An answer", "logprobs": []},
    {"type": "response.output_text.delta", **AT, "delta": " \U0001f600.", "logprobs": []},
    {"type": "response.output_text.done", **AT, "text": "An answer \U0001f600.", "logprobs": []},
    {"type": "response.output_item.done", "output_index": 1, "item": RESPONSE["output"][1]},
    {"type": "response.completed", "response": RESPONSE},
]
FAILED = [
    {**RESPONSE, "status": "failed", "error": {"code": "server_error", "message": "Try again."}, "output": []},
    {"type": "error", "code": "rate_limit_exceeded", "message": "Rate limit reached", "param": None},
    REFUSALS[0],
]


def naive_chat(streamed, body):
    """The control: what one writes first."""
    if not streamed:
        found = json.loads(body)
        usage = found["usage"]
        return found["choices"][0]["message"]["content"].strip(), usage["prompt_tokens"] + usage["completion_tokens"]
    text = ""
    for line in body.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            found = json.loads(line[6:])
            if found["choices"]:
                text += found["choices"][0]["delta"].get("content", "")
    return text.encode().decode(), found["usage"]["prompt_tokens"]


def naive_responses(streamed, body):
    """As `naive_chat`."""
    if not streamed:
        found = json.loads(body)
        return found["output"][1]["content"][0]["text"].strip(), found["usage"]["input_tokens"] + 1
    text = ""
    for line in body.decode().splitlines():
        if line.startswith("data: "):
            found = json.loads(line[6:])
            if found["type"] == "response.output_text.delta":
                text += found["delta"]
    return text.encode().decode(), found["response"]["usage"]["input_tokens"] + 1


class TestChatCompletions(MutatedReplies):
    protocol = Protocol(
        COMPLETION,
        CHUNKS,
        REFUSALS,
        lambda server: OpenAI(base_url=server.base_url, api_key=KEY, model="m"),
        naive_chat,
        [b"data: [DONE]\n\n", b"data: [DONE]", b"", b"data: [DON"],
    )


class TestResponses(MutatedReplies):
    protocol = Protocol(
        RESPONSE,
        EVENTS,
        FAILED,
        lambda server: OpenAI(base_url=server.base_url, api_key=KEY, model="m", api="responses"),
        naive_responses,
    )
