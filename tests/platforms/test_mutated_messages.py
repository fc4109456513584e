"""No reply of Anthropic's and Gemini's protocols can crash us: as `test_mutated_replies`."""

import json

from mutations import MutatedReplies, Protocol

from orchestrai.platforms.anthropic import Anthropic
from orchestrai.platforms.gemini import Gemini

KEY = "sk-test-0123456789abcdef"

USAGE = {
    "input_tokens": 1_200,
    "cache_creation_input_tokens": 76,
    "cache_read_input_tokens": 1_024,
    "cache_creation": {"ephemeral_5m_input_tokens": 76, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 60,
    "output_tokens_details": {"thinking_tokens": 32},
    "service_tier": "standard",
}
MESSAGE = {
    "id": "msg_B1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-5-5",
    "content": [
        {"type": "thinking", "thinking": "", "signature": "c2ln"},
        {"type": "text", "text": 'An "answer" with \\ and é and \U0001f600.'},
    ],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "stop_details": None,
    "usage": USAGE,
}
EVENTS = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "An answer"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " \U0001f600."}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None},
        "usage": {name: USAGE[name] for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")},
    },
    {"type": "message_stop"},
]
REFUSALS = [
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
    {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "You will regain access on 2026-12-01 at 00:00 UTC.",
            "details": {"error_code": "enforced_spend_limit_reached"},
        },
    },
]

CONTENT = {"role": "model", "parts": [{"text": "no", "thought": True}, {"text": 'An "answer" with \\ and \U0001f600.'}]}
METADATA = {
    "promptTokenCount": 1_200,
    "cachedContentTokenCount": 1_024,
    "toolUsePromptTokenCount": 5,
    "candidatesTokenCount": 28,
    "thoughtsTokenCount": 32,
    "totalTokenCount": 1_265,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1_200}],
}
NAMES = {"modelVersion": "gemini-x", "responseId": "r1", "usageMetadata": METADATA}
RESPONSE = {"candidates": [{"content": CONTENT, "finishReason": "STOP", "index": 0}], **NAMES}
CHUNKS = [
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "An "}]}, "index": 0}], **NAMES},
    {"candidates": [{"content": {"role": "model", "parts": [{"text": "answer"}]}, "index": 0}], **NAMES},
    {"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP", "index": 0}], **NAMES},
]
STATUSES = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerDay"}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"},
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"},
            ],
        }
    },
    {"promptFeedback": {"blockReason": "SAFETY"}, **NAMES},
]


def naive_messages(streamed, body):
    """The control: what one writes first."""
    if not streamed:
        found = json.loads(body)
        text = next(block["text"] for block in found["content"] if block["type"] == "text")
        return text.strip(), found["usage"]["input_tokens"] + found["usage"]["cache_read_input_tokens"]
    text = ""
    for line in body.decode().splitlines():
        if line.startswith("data: "):
            found = json.loads(line[6:])
            if found["type"] == "content_block_delta":
                text += found["delta"]["text"]
            elif found["type"] == "message_delta":
                usage = found["usage"]
    return text.encode().decode(), usage["input_tokens"] + usage["output_tokens"]


def naive_gemini(streamed, body):
    """As `naive_messages`."""
    lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")] if streamed else [body]
    text = ""
    for line in lines:
        found = json.loads(line)
        text += "".join(part["text"] for part in found["candidates"][0]["content"]["parts"] if not part.get("thought"))
    usage = found["usageMetadata"]
    return text.encode().decode(), usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]


class TestMessages(MutatedReplies):
    protocol = Protocol(
        MESSAGE,
        EVENTS,
        REFUSALS,
        lambda server: Anthropic(base_url=server.url, api_key=KEY),
        naive_messages,
    )


class TestGenerateContent(MutatedReplies):
    protocol = Protocol(
        RESPONSE,
        CHUNKS,
        STATUSES,
        lambda server: Gemini(base_url=server.url, api_key=KEY),
        naive_gemini,
    )
