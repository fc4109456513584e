"""The provider on loopback speaks Gemini's generateContent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import orjson

from orchestrai.testing.exchange import Answer, Bucket, Received, words

PATH: Final = re.compile(
    r"/v1(?:beta)?/models/(?P<model>[^/:]+):(?P<verb>generateContent|streamGenerateContent)(\?.*)?$"
)
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_CONTEXT: Final = "<session_context>"
_FINISH_REASONS: Final = {"stop": "STOP", "length": "MAX_TOKENS"}
_PER_MINUTE: Final = {
    "requests": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
    "tokens": "GenerateContentInputTokensPerModelPerMinute-FreeTier",
}
_LIMIT: Final = re.compile(r"limit: (\d+) (requests|tokens) per minute")
_RPC: Final = "type.googleapis.com/google.rpc."


class GenerateContent:
    """The wire form; source: ai.google.dev/api/generate-content, and the types of google-genai 3.4.

    The `refusal` of an `Answer` is the `blockReason` of the prompt (`SAFETY`, `PROHIBITED_CONTENT`): there is no
    candidate then. A provider that tells no limits in headers tells none here.
    """

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text of the last content of the user, without the context that Gemini CLI puts before it."""
        for content in reversed(body.get("contents") or ()):
            if content.get("role", "user") == "user":
                texts = [part["text"] for part in content.get("parts") or () if "text" in part]
                return "\n".join([text for text in texts[:-1] if not text.startswith(_CONTEXT)] + texts[-1:])
        return ""

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return `responseJsonSchema`."""
        schema: Mapping[str, Any] | None = (body.get("generationConfig") or {}).get("responseJsonSchema")
        return schema

    def streams(self, path: str, _body: Mapping[str, Any], /) -> bool:
        """Return True for `streamGenerateContent?alt=sse`."""
        return ":streamGenerateContent" in path and "alt=sse" in path

    def whole(self, body: Mapping[str, Any], received: Received, answer: Answer) -> bytes:  # noqa: ARG002  # the path names the model
        """Return a response; in a list where a stream is asked for without `alt=sse`."""
        document = _response(received, answer, answer.text, _finish(answer), received.output_tokens)
        return orjson.dumps([document] if ":streamGenerateContent" in received.path else document)

    def events(self, body: Mapping[str, Any], received: Received, answer: Answer) -> list[bytes]:  # noqa: ARG002  # as `whole`
        """Return responses word by word, each with the usage so far; the last one, without text, says why it ended."""
        pieces = words(answer.text)
        documents = [
            _response(received, answer, piece, None, answer.reasoning_tokens + i) for i, piece in enumerate(pieces)
        ]
        documents.append(_response(received, answer, "", _finish(answer), received.output_tokens))
        return [b"data: " + orjson.dumps(document) + b"\r\n\r\n" for document in documents]

    def error(self, status: int, code: str | None, message: str, wait_s: float | None = None) -> bytes:
        """Return a google.rpc.Status.

        A `code` that names a quota (`GenerateRequestsPerDay…`) becomes a QuotaFailure, another one the reason of an
        ErrorInfo (`API_KEY_INVALID`); a wait becomes a RetryInfo. The limit in a message is the value of the quota.
        """
        details: list[dict[str, Any]] = []
        told = _LIMIT.search(message)
        quota = code if code is not None and "Per" in code else None
        if quota is None and wait_s is not None:
            quota = _PER_MINUTE[told[2] if told is not None else "requests"]
        if quota is not None:
            metric = "generativelanguage.googleapis.com/generate_content_free_tier_requests"
            violation = {"quotaMetric": metric, "quotaId": quota, **({"quotaValue": told[1]} if told else {})}
            details.append({"@type": f"{_RPC}QuotaFailure", "violations": [violation]})
        elif code is not None:
            domain = "googleapis.com"
            details.append({"@type": f"{_RPC}ErrorInfo", "reason": code, "domain": domain})
        if wait_s is not None:
            details.append({"@type": f"{_RPC}RetryInfo", "retryDelay": f"{wait_s:.6f}s"})
        error = {"code": status, "message": message, "status": _STATUSES.get(status, "UNKNOWN")}
        return orjson.dumps({"error": {**error, "details": details} if details else error})

    def headers(self, number: int, wait_s: float | None = None) -> bytes:  # noqa: ARG002  # told in the body
        """Return none: neither requests nor waits are named in headers."""
        return b""

    def limit_headers(self, requests: Bucket | None, tokens: Bucket | None) -> bytes:  # noqa: ARG002  # as `headers`
        """Return none."""
        return b""


def _finish(answer: Answer) -> str:
    return _FINISH_REASONS.get(answer.finish_reason, answer.finish_reason)


def _response(received: Received, answer: Answer, text: str, finish: str | None, output_tokens: int) -> dict[str, Any]:
    asked = PATH.search(received.path)
    document: dict[str, Any] = {
        "usageMetadata": _usage(received, answer, output_tokens),
        "modelVersion": answer.model or (unquote(asked["model"]) if asked else None),
        "responseId": f"response-{received.number}",
    }
    if answer.refusal is not None:
        return {"promptFeedback": {"blockReason": answer.refusal}, **document, **answer.more}
    candidate: dict[str, Any] = {"index": 0}
    if text or finish in (None, "STOP", "MAX_TOKENS"):
        candidate["content"] = {"parts": [{"text": text}], "role": "model"}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], **document, **answer.more}


def _usage(received: Received, answer: Answer, output_tokens: int) -> dict[str, Any]:
    """Return the counts; those of the thoughts stand beside the candidates', not in them."""
    usage: dict[str, Any] = {
        "promptTokenCount": received.input_tokens,
        "candidatesTokenCount": max(0, output_tokens - answer.reasoning_tokens),
        "totalTokenCount": received.input_tokens + max(output_tokens, answer.reasoning_tokens),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": received.input_tokens}],
    }
    if answer.cached_tokens:
        usage["cachedContentTokenCount"] = answer.cached_tokens
    if answer.reasoning_tokens:
        usage["thoughtsTokenCount"] = answer.reasoning_tokens
    return usage
