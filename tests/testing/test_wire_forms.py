"""The provider on loopback in the words of Anthropic and Gemini, as their own clients read them."""

import http.client
import json
from datetime import datetime

import jsonschema
import pytest

from orchestrai.testing import Answer, Fault, Limits, ProviderServer
from orchestrai.testing.answers import answer_to

MESSAGES = "/v1/messages"
GENERATE = "/v1/models/gemini-x:generateContent"
STREAM = "/v1/models/gemini-x:streamGenerateContent?alt=sse"
EVERYTHING = Answer(
    "one two", input_tokens=1_200, cached_tokens=1_024, cache_write_tokens=76, output_tokens=60, reasoning_tokens=32
)
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["bug", "billing"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


def ask(server, path, body, method="POST", headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
    reply = connection.getresponse()
    status, found, raw = reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()
    connection.close()
    return status, found, raw


def message(prompt="hello", **fields):
    return {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": prompt}], **fields}


def content(*texts, **fields):
    return {"contents": [{"role": "user", "parts": [{"text": text} for text in texts or ("hello",)]}], **fields}


def events(raw):
    return [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: ")]


class TestMessages:
    def test_a_message_counts_its_input_without_the_cache(self):
        with ProviderServer(replies=lambda _: EVERYTHING) as server:
            status, headers, raw = ask(server, MESSAGES, message())
        found = json.loads(raw)
        assert (status, headers["request-id"], found["model"]) == (200, "req_0", "claude-x")
        assert [block["type"] for block in found["content"]] == ["thinking", "text"]
        assert found["usage"] == {
            "input_tokens": 100,
            "cache_creation_input_tokens": 76,
            "cache_read_input_tokens": 1_024,
            "output_tokens": 60,
            "output_tokens_details": {"thinking_tokens": 32},
            "service_tier": "standard",
        }

    def test_a_stream_is_the_known_order_of_events(self):
        with ProviderServer(replies=lambda _: EVERYTHING) as server:
            raw = ask(server, MESSAGES + "?beta=true", message(stream=True))[2]
        names = [line[7:] for line in raw.decode().splitlines() if line.startswith("event: ")]
        found = events(raw)
        assert names == [event["type"] for event in found]
        assert names[:3] == ["message_start", "content_block_start", "ping"]
        assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        texts = [event["delta"]["text"] for event in found if event.get("delta", {}).get("type") == "text_delta"]
        assert texts == ["one", " two"]
        assert found[0]["message"]["usage"]["output_tokens"] == 1
        assert found[-2]["usage"]["output_tokens"] == 60
        assert found[-2]["delta"]["stop_reason"] == "end_turn"

    def test_a_refusal_stops_the_answer(self):
        with ProviderServer(replies=lambda _: Answer("", refusal="No.")) as server:
            whole = json.loads(ask(server, MESSAGES, message())[2])
            streamed = events(ask(server, MESSAGES, message(stream=True))[2])
        assert (whole["content"], whole["stop_reason"], whole["stop_details"]["explanation"]) == ([], "refusal", "No.")
        assert streamed[-2]["delta"]["stop_reason"] == "refusal"

    def test_a_schema_is_answered_as_text_or_by_the_tool_of_claude_code(self):
        tool = {"name": "StructuredOutput", "input_schema": SCHEMA}
        with ProviderServer() as server:
            formatted = message(output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
            jsonschema.validate(
                json.loads(json.loads(ask(server, MESSAGES, formatted)[2])["content"][0]["text"]), SCHEMA
            )
            found = json.loads(ask(server, MESSAGES, message(tools=[tool]))[2])
            assert found["stop_reason"] == "tool_use"
            jsonschema.validate(found["content"][0]["input"], SCHEMA)
            streamed = events(ask(server, MESSAGES, message(tools=[tool], stream=True))[2])
        parts = [e["delta"]["partial_json"] for e in streamed if e.get("delta", {}).get("type") == "input_json_delta"]
        jsonschema.validate(json.loads("".join(parts)), SCHEMA)

    def test_bounds_that_are_told_in_a_description_are_read(self):
        number = {"type": "integer", "description": 'How many.\n\n{"minimum": 3, "maximum": 4}'}
        schema = {"type": "object", "properties": {"n": number}, "required": ["n"], "additionalProperties": False}
        with ProviderServer() as server:
            asked = message(output_config={"format": {"type": "json_schema", "schema": schema}})
            found = json.loads(json.loads(ask(server, MESSAGES, asked)[2])["content"][0]["text"])
        assert found["n"] in (3, 4)

    def test_a_reminder_put_before_the_prompt_is_no_part_of_it(self):
        parts = [{"type": "text", "text": "<system-reminder>today</system-reminder>"}, {"type": "text", "text": "hi"}]
        with ProviderServer() as server:
            found = json.loads(ask(server, MESSAGES, message(parts))[2])
            ask(server, MESSAGES, message(parts[:1]))
            assert server.prompts == ["hi", "<system-reminder>today</system-reminder>"]
        assert found["content"][0]["text"] == answer_to("hi")

    @pytest.mark.parametrize(
        ("fault", "type_", "details"),
        [
            (Fault("status", 401), "authentication_error", None),
            (Fault("status", 402), "billing_error", None),
            (Fault("status", 413), "request_too_large", None),
            (Fault("status", 529), "overloaded_error", None),
            (Fault("status", 500), "api_error", None),
            (Fault("status", 400, code="billing_error"), "billing_error", None),
            (
                Fault("status", 429, code="ramp_limit_exceeded"),
                "rate_limit_error",
                {"error_code": "ramp_limit_exceeded"},
            ),
        ],
    )
    def test_errors_have_their_types(self, fault, type_, details):
        with ProviderServer(script=lambda _: fault) as server:
            status, headers, raw = ask(server, MESSAGES, message())
        found = json.loads(raw)
        assert (status, found["type"], headers["request-id"]) == (fault.status, "error", "req_0")
        assert (found["error"]["type"], found["error"].get("details")) == (type_, details)

    def test_limits_are_told_in_headers_with_times(self):
        with ProviderServer(limits=Limits(rpm=60, tpm=60_000, burst_s=1)) as server:
            first, second = (ask(server, MESSAGES, message()) for _ in range(2))
        assert (first[0], second[0]) == (200, 429)
        for name in ("requests", "tokens", "input-tokens", "output-tokens"):
            for field in ("limit", "remaining", "reset"):
                assert f"anthropic-ratelimit-{name}-{field}" in first[1]
        assert datetime.fromisoformat(first[1]["anthropic-ratelimit-requests-reset"]).tzinfo is not None
        assert int(second[1]["retry-after"]) >= 1


class TestGenerateContent:
    def test_a_response_counts_its_thoughts_beside_the_answer(self):
        with ProviderServer(replies=lambda _: EVERYTHING) as server:
            for path in (GENERATE, GENERATE.replace("/v1/", "/v1beta/")):
                status, headers, raw = ask(server, path, content())
                found = json.loads(raw)
                assert (status, found["modelVersion"]) == (200, "gemini-x")
                assert "x-request-id" not in headers
                usage = {k: v for k, v in found["usageMetadata"].items() if k != "promptTokensDetails"}
                assert usage == {
                    "promptTokenCount": 1_200,
                    "cachedContentTokenCount": 1_024,
                    "candidatesTokenCount": 28,
                    "thoughtsTokenCount": 32,
                    "totalTokenCount": 1_260,
                }

    def test_a_stream_repeats_its_usage_and_ends_with_the_reason(self):
        with ProviderServer(replies=lambda _: EVERYTHING) as server:
            found = events(ask(server, STREAM, content())[2])
        texts = [one["candidates"][0]["content"]["parts"][0]["text"] for one in found]
        assert texts == ["one", " two", ""]
        assert [one["candidates"][0].get("finishReason") for one in found] == [None, None, "STOP"]
        assert [one["usageMetadata"]["candidatesTokenCount"] for one in found] == [0, 1, 28]

    def test_a_stream_without_sse_is_a_list(self):
        with ProviderServer() as server:
            found = json.loads(ask(server, STREAM.partition("?")[0], content())[2])
        assert found[0]["candidates"][0]["content"]["parts"] == [{"text": answer_to("hello")}]

    def test_what_is_blocked_has_no_candidate_and_what_is_filtered_no_content(self):
        replies = {"blocked": Answer("", refusal="PROHIBITED_CONTENT"), "filtered": Answer("", "SAFETY")}
        with ProviderServer(replies=replies) as server:
            blocked = json.loads(ask(server, GENERATE, content("blocked"))[2])
            filtered = json.loads(ask(server, GENERATE, content("filtered"))[2])
        assert blocked["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
        assert "candidates" not in blocked
        assert filtered["candidates"] == [{"index": 0, "finishReason": "SAFETY"}]

    def test_a_schema_is_answered_by_what_validates(self):
        constraint = {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}
        with ProviderServer() as server:
            found = json.loads(ask(server, GENERATE, content(generationConfig=constraint))[2])
        jsonschema.validate(json.loads(found["candidates"][0]["content"]["parts"][0]["text"]), SCHEMA)

    def test_the_context_of_the_command_line_is_no_part_of_the_prompt(self):
        with ProviderServer() as server:
            ask(server, GENERATE, content("<session_context>today</session_context>", "hi"))
            assert server.prompts == ["hi"]

    def test_errors_have_their_status_and_details(self):
        script = [
            Fault("status", 429, code="GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            Fault("status", 400, code="API_KEY_INVALID", message="API key not valid."),
            "429:7",
            503,
        ]
        with ProviderServer(script=script) as server:
            found = [json.loads(ask(server, GENERATE, content())[2])["error"] for _ in script]
        assert [error["status"] for error in found] == [
            "RESOURCE_EXHAUSTED",
            "INVALID_ARGUMENT",
            "RESOURCE_EXHAUSTED",
            "UNAVAILABLE",
        ]
        assert found[0]["details"][0]["violations"][0]["quotaId"] == "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
        assert found[1]["details"][0]["reason"] == "API_KEY_INVALID"
        assert [detail["@type"].rpartition(".")[2] for detail in found[2]["details"]] == ["QuotaFailure", "RetryInfo"]
        assert found[2]["details"][1]["retryDelay"] == "7.000000s"
        assert "details" not in found[3]

    def test_a_limit_is_told_in_the_body_alone(self):
        with ProviderServer(limits=Limits(rpm=60, burst_s=1)) as server:
            ask(server, GENERATE, content())
            status, headers, raw = ask(server, GENERATE, content())
        assert status == 429
        assert not [name for name in headers if "limit" in name or "retry" in name]
        quota, retry = json.loads(raw)["error"]["details"]
        assert (quota["violations"][0]["quotaValue"], retry["retryDelay"][-1]) == ("60", "s")
        with ProviderServer(limits=Limits(tpm=60, burst_s=1)) as server:
            ask(server, GENERATE, content())
            _, _, raw = ask(server, GENERATE, content())
        assert "InputTokens" in json.loads(raw)["error"]["details"][0]["violations"][0]["quotaId"]


def test_a_head_is_answered_and_a_count_is_no_request():
    with ProviderServer() as server:
        assert ask(server, "/", None, "HEAD")[0] == 200
        assert json.loads(ask(server, MESSAGES + "/count_tokens?beta=true", message())[2])["input_tokens"] > 0
        assert json.loads(ask(server, "/v1beta/models/x:countTokens", content())[2])["totalTokens"] > 0
        assert server.requests == []
        assert (server.stats()["counted"], server.in_flight) == (2, 0)


@pytest.mark.parametrize("path", [MESSAGES, GENERATE])
@pytest.mark.parametrize("body", [[], {"messages": 5, "contents": 5}, {"messages": ["x"], "contents": ["x"]}])
def test_what_is_not_in_the_form_is_refused(path, body):
    with ProviderServer() as server:
        assert ask(server, path, body)[0] == 400
        assert server.stats()["refused"] == 1
