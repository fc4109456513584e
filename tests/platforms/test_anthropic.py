"""Anthropic's Messages: what goes out, what comes back, and which kind each refusal is."""

import asyncio
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import jsonschema
import pytest
from asking import Asking

from orchestrai import attachments
from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms import messages_api
from orchestrai.platforms.anthropic import API_VERSION, DEFAULT_MODEL, Anthropic
from orchestrai.platforms.http import Response
from orchestrai.platforms.messages_schema import decodable
from orchestrai.platforms.protocol import Platform, RateLimits, Reply, Request
from orchestrai.pricing import PriceList
from orchestrai.result import NO_USAGE, Usage
from orchestrai.testing import Answer, Fault, Limits, Place, PlatformConformance, ProviderServer
from orchestrai.testing.answers import answer_to
from orchestrai.testing.situations import HOSTILE_PROMPTS, TICKET_SCHEMA

KEY = "sk-ant-api03-0123456789abcdefghijklmnopqrstuv"
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)
COUNTED = Answer(
    "Hi.", input_tokens=1_200, cached_tokens=1_024, cache_write_tokens=76, output_tokens=60, reasoning_tokens=32
)
REGAIN = "You will regain access on 2026-12-01 at 00:00 UTC."

FAULTS = {
    "rate_limited": Fault("status", 429, headers={"retry-after": "2"}),
    "window_used_up": Fault("status", 429, code="enforced_spend_limit_reached", message=REGAIN),
    "balance_empty": Fault("status", 402),
    "overloaded": Fault("status", 529),
    "refuses_key": Fault("status", 401, message=f"invalid bearer token: {KEY}."),
    "refuses_request": Fault("status", 400, message="prompt is too long: 1100000 tokens > 1000000 maximum"),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


def counted(received):
    if "output_config" in received.json:
        return None
    return Answer(
        answer_to(received.prompt),
        input_tokens=1_200,
        cached_tokens=1_024,
        cache_write_tokens=76,
        output_tokens=60,
        reasoning_tokens=32,
    )


class TestAnthropic(PlatformConformance):
    @contextmanager
    def platform(self, situation):
        fault = FAULTS.get(situation)
        script = [Fault("status", 529)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            yield Place(
                Anthropic(base_url="http://127.0.0.1:9" if situation == "unreachable" else server.url, api_key=KEY),
                requests=lambda: len(server.requests),
                prompts=lambda: server.prompts,
                idle=lambda: server.in_flight == 0,
                secret=KEY,
                usage=Usage(1_200, 1_024, 76, 60, 32, "provider"),
                answer=answer_to,
            )


ASKING = Asking(
    lambda server, **settings: Anthropic(base_url=server.url, **{"api_key": KEY, **settings}), "claude-haiku-5-5"
)
request, run, send, stream, failure = ASKING.request, ASKING.run, ASKING.send, ASKING.stream, ASKING.failure


def asked_for(received):
    return received.json["model"]


def sent(asked, **settings):
    with ProviderServer() as server:
        send(server, asked, **settings)
        return server.requests[0].json


def replied(body, status=200, headers=None):
    return ProviderServer(script=lambda _: Fault("raw", status, headers=headers or {}, body=body))


def streamed_as(*events):
    body = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
    return replied(body, headers={"content-type": "text/event-stream"})


def message(**fields):
    return {
        "type": "message",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "Hi."}],
        "stop_reason": "end_turn",
        **fields,
    }


class TestRequests:
    def test_the_body_holds_what_was_asked_and_the_limit_that_is_demanded(self):
        assert sent(request()) == {
            "model": "claude-haiku-5-5",
            "max_tokens": messages_api.DEFAULT_MAX_TOKENS,
            "messages": [{"role": "user", "content": "Hello."}],
            "stream": False,
        }

    def test_every_option_has_its_field(self):
        asked = request(system="Be brief.", max_tokens=7, temperature=0.5, effort="low")
        assert sent(asked) == {
            "model": "claude-haiku-5-5",
            "max_tokens": 7,
            "messages": [{"role": "user", "content": "Hello."}],
            "system": "Be brief.",
            "temperature": 0.5,
            "output_config": {"effort": "low"},
            "stream": False,
        }

    @pytest.mark.parametrize(
        ("model", "thinking"),
        [
            ("claude-haiku-5-5", {"type": "disabled"}),
            ("claude-sonnet-5-5", {"type": "between_tools"}),
            ("claude-sonnet-5", {"type": "disabled"}),
            ("claude-opus-5", {"type": "disabled"}),
            ("claude-opus-5-5", None),
            ("claude-fable-5-2", None),
            ("claude-sonnet-4-6", None),
        ],
    )
    def test_minimal_effort_leaves_thinking_out_where_that_can_be(self, model, thinking):
        body = sent(request(effort="minimal", model=model))
        assert body["output_config"] == {"effort": "low"}
        assert body.get("thinking") == thinking
        assert "thinking" not in sent(request(effort="low", model=model))

    def test_a_conversation_keeps_its_roles_and_its_system_messages_join_the_prompt(self):
        turns = (Message("user", "1"), Message("assistant", "2"), Message("system", "3"), Message("user", "4"))
        body = sent(Request(turns, "claude-haiku-5-5", system="0"))
        assert [(m["role"], m["content"]) for m in body["messages"]] == [
            ("user", "1"),
            ("assistant", "2"),
            ("user", "4"),
        ]
        assert body["system"] == "0\n\n3"

    def test_a_system_message_holds_text_files_and_no_image(self, tmp_path):
        path = tmp_path / "rules.md"
        path.write_text("Be brief.\n")
        turns = (Message("system", ("Rules:", attachments.from_path(path))), Message("user", "Hi."))
        assert sent(Request(turns, "claude-haiku-5-5"))["system"] == "Rules:\n\nFile: rules.md\n```\nBe brief.\n```"
        with ProviderServer() as server:
            pictured = Request((Message("system", (attachments.image(PIXEL),)), Message("user", "Hi.")), "claude-x")
            error = failure(server, pictured)
            assert server.requests == []
        assert error.kind == "request"
        assert "user's message" in str(error)

    def test_extra_wins_and_joins_what_is_there_but_the_form_of_the_reply_stays(self):
        extra = {"max_tokens": 9, "output_config": {"task_budget": 5}, "service_tier": "auto", "stream": True}
        body = sent(request(max_tokens=7, effort="high", extra=extra))
        assert (body["max_tokens"], body["service_tier"], body["stream"]) == (9, "auto", False)
        assert body["output_config"] == {"effort": "high", "task_budget": 5}

    def test_an_image_and_a_text_file_are_parts(self, tmp_path):
        path = tmp_path / "notes.md"
        path.write_text("a\n```\nb")
        parts = sent(request("Look.", attachments.image(PIXEL), attachments.from_path(path)))["messages"][0]["content"]
        assert parts[0] == {"type": "text", "text": "Look."}
        assert (parts[1]["type"], parts[1]["source"]["type"]) == ("image", "base64")
        assert parts[1]["source"]["media_type"] == "image/png"
        assert parts[1]["source"]["data"].startswith("iVBOR")
        assert parts[2] == {"type": "text", "text": "File: notes.md\n````\na\n```\nb\n````"}

    def test_an_image_that_anthropic_would_refuse_is_refused_unsent(self):
        large = attachments.image(PIXEL + bytes(8 * 2**20))
        with pytest.raises(PlatformError, match="Scale it down") as caught:
            asyncio.run(Anthropic(api_key=KEY).send(request("Look.", large)))
        assert caught.value.kind == "request"

    def test_what_is_no_json_is_refused_unsent(self):
        with ProviderServer() as server:
            for asked in (request("half \ud83d"), request(extra={"x": object()}), request(system="\udc00")):
                assert failure(server, asked).kind == "request"
            assert server.requests == []

    def test_the_key_travels_in_one_header_alone_beside_the_version(self):
        with ProviderServer(api_key=KEY) as server:
            send(server)
            one = server.requests[0]
        assert one.headers["authorization"] == f"Bearer {KEY}"
        assert one.headers["anthropic-version"] == API_VERSION == "2026-10-21"
        assert one.path == "/v1/messages"
        assert KEY.encode() not in one.body

    def test_an_address_with_v1_is_the_same_address(self):
        with ProviderServer() as server:

            async def once():
                platform = Anthropic(base_url=f"{server.url}/v1/", api_key=KEY)
                await platform.send(request())
                await platform.close()

            asyncio.run(once())
            assert server.requests[0].path == "/v1/messages"


OPEN = {"type": "object", "additionalProperties": {"type": "integer"}}
TREE = {
    "type": "object",
    "properties": {"left": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}},
    "additionalProperties": False,
}


def closed(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


class TestSchemas:
    def test_a_schema_is_a_constraint_and_its_answer_validates(self):
        asked = request("A ticket, please.", json_schema=TICKET_SCHEMA, effort="low")
        with ProviderServer() as server:
            reply = send(server, asked)
            config = server.requests[0].json["output_config"]
        jsonschema.validate(json.loads(reply.text), dict(TICKET_SCHEMA))
        assert config["effort"] == "low"
        assert config["format"]["type"] == "json_schema"
        assert config["format"]["schema"]["additionalProperties"] is False

    def test_what_only_narrows_is_told_in_words(self):
        shaped = decodable(closed(n={"type": "integer", "minimum": 1, "maximum": 5, "description": "How many."}))
        assert shaped["properties"]["n"] == {
            "type": "integer",
            "description": 'How many.\n\n{"minimum": 1, "maximum": 5}',
        }
        texts = {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 3}
        shaped = decodable(closed(t=texts))["properties"]["t"]
        assert (shaped["minItems"], shaped["description"]) == (1, '{"maxItems": 3}')
        assert shaped["items"] == {"type": "string", "format": "date"}

    def test_alternatives_references_and_lists_of_types_have_their_form(self):
        shaped = decodable(
            {
                **closed(
                    a={"oneOf": [{"type": "string"}, {"$ref": "#/$defs/N"}]},
                    b={"type": ["integer", "null"], "default": 3},
                    c={"const": "x"},
                ),
                "$defs": {"N": closed(n={"type": "number"}), "Any": {}},
            }
        )
        assert shaped["properties"]["a"] == {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/N"}]}
        assert shaped["properties"]["b"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
        assert shaped["properties"]["c"] == {"const": "x"}
        assert list(shaped["$defs"]) == ["N"]

    @pytest.mark.parametrize(
        "schema",
        [
            OPEN,
            closed(a=OPEN),
            {"type": "object", "properties": {"a": {"type": "string"}}},
            closed(a={}),
            closed(a=True),
            closed(a={"type": "array"}),
            closed(a={"type": "array", "prefixItems": [{"type": "string"}], "items": False}),
            closed(a={"enum": [1, {"x": 2}]}),
            closed(a={"type": "string", "not": {"const": "x"}}),
            {**closed(a={"$ref": "#/$defs/T"}), "$defs": {"T": TREE}},
            closed(a={"$ref": "#"}),
            {**closed(a={"$ref": "#/$defs/T"}), "$defs": {"T": OPEN}},
        ],
    )
    def test_a_schema_that_would_lose_answers_is_asked_for_in_words(self, schema):
        assert decodable(schema) is None
        for _ in range(2):
            body = sent(request("A ticket.", json_schema=schema, system="Be brief."))
            assert "output_config" not in body
            assert body["system"].startswith("Be brief.\n\nAnswer with one JSON object")
            assert json.dumps(schema) in body["system"]

    def test_two_schemas_by_turns_each_keep_their_way(self):
        with ProviderServer() as server:

            async def by_turns(platform):
                for _ in range(3):
                    await platform.send(request(json_schema=TICKET_SCHEMA))
                    await platform.send(request(json_schema=OPEN))

            run(server, by_turns)
            assert ["output_config" in one.json for one in server.requests] == [True, False] * 3
            assert ["system" in one.json for one in server.requests] == [False, True] * 3

    def test_a_platform_without_schemas_is_not_sent_one(self):
        body = sent(request(json_schema=TICKET_SCHEMA), schema=False)
        assert "output_config" not in body
        assert "system" not in body


class TestReplies:
    def test_a_reply_says_everything_the_provider_said(self):
        with ProviderServer(replies=lambda _: COUNTED, limits=Limits(rpm=6_000, tpm=60_000, burst_s=60)) as server:
            reply = send(server)
        assert reply.text == "Hi."
        assert reply.usage == Usage(1_200, 1_024, 76, 60, 32, "provider")
        assert (reply.model, reply.service_tier, reply.finish_reason) == ("claude-haiku-5-5", "standard", "stop")
        assert (reply.response_id, reply.request_id, reply.http_status) == ("msg_0", "req_0", 200)
        assert json.loads(reply.usage_raw)["input_tokens"] == 100
        assert (reply.rate_limits.requests_limit, reply.rate_limits.requests_left) == (6_000, 5_999)
        assert 0 <= reply.rate_limits.requests_reset_s <= 1
        assert reply.rate_limits.tokens_limit == 60_000

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, NO_USAGE),
            (None, NO_USAGE),
            ([1], NO_USAGE),
            ({"input_tokens": -1, "output_tokens": 10**18}, NO_USAGE),
            ({"input_tokens": True, "output_tokens": "5"}, NO_USAGE),
            ({"input_tokens": 3}, Usage(3, None, None, None, None, "provider")),
            ({"input_tokens": 3, "output_tokens": 4}, Usage(3, None, None, 4, None, "provider")),
            (
                {
                    "input_tokens": 3,
                    "cache_read_input_tokens": 10,
                    "cache_creation_input_tokens": None,
                    "output_tokens": 4,
                },
                Usage(13, 10, None, 4, None, "provider"),
            ),
            (
                {
                    "input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "cache_creation_input_tokens": 100,
                    "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
                    "output_tokens": 4,
                    "output_tokens_details": {"thinking_tokens": 3},
                },
                Usage(100, 0, 100, 4, 3, "provider"),
            ),
            (  # an input whose part is unreadable is unknown, not what is left of it
                {"input_tokens": 3, "cache_read_input_tokens": "many", "output_tokens": 4},
                Usage(None, None, None, 4, None, "provider"),
            ),
            (
                {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": {"thinking_tokens": 9}},
                Usage(3, None, None, 4, None, "provider"),
            ),
            (
                {"input_tokens": 10**12, "cache_read_input_tokens": 10**12, "output_tokens": 1},
                Usage(None, None, None, 1, None, "provider"),
            ),
        ],
    )
    def test_the_input_includes_its_cache_and_what_is_absurd_is_unknown(self, given, expected):
        with replied(json.dumps(message(usage=given)).encode()) as server:
            usage = send(server).usage
        if expected.input_tokens is None:
            assert (usage.input_tokens, usage.output_tokens, usage.source) == (
                None,
                expected.output_tokens,
                expected.source,
            )
        else:
            assert usage == expected

    @pytest.mark.parametrize(
        ("told", "meant"),
        [
            ("end_turn", "stop"),
            ("stop_sequence", "stop"),
            ("max_tokens", "length"),
            ("model_context_window_exceeded", "length"),
            ("tool_use", "tool"),
            ("pause_turn", "tool"),
            ("refusal", "filter"),
            ("something new", None),
            (None, None),
            (7, None),
        ],
    )
    def test_stop_reasons_have_one_vocabulary(self, told, meant):
        with replied(json.dumps(message(stop_reason=told)).encode()) as server:
            assert send(server).finish_reason == meant

    def test_thinking_that_used_up_the_limit_is_an_empty_answer(self):
        answer = Answer("", "max_tokens", output_tokens=50, reasoning_tokens=50)
        with ProviderServer(replies=lambda _: answer) as server:
            for reply in (send(server), stream(server)[-1]):
                assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("", "length", 50)

    def test_a_refusal_is_an_unusable_reply_with_its_usage(self):
        with ProviderServer(replies=lambda _: Answer("", refusal="It could enable harm.", output_tokens=3)) as server:
            for streamed in (False, True):
                error = failure(server, streamed=streamed)
                assert (error.kind, error.may_be_billed, error.http_status) == ("reply", True, 200)
                assert "It could enable harm." in str(error)
                assert error.reply.finish_reason == "filter"
                assert error.reply.usage.output_tokens == 3

    def test_a_refusal_in_the_midst_is_marked(self):
        body = message(stop_reason="refusal", stop_details={"type": "refusal", "explanation": None})
        with replied(json.dumps(body).encode()) as server:
            reply = send(server)
        assert (reply.text, reply.finish_reason) == ("Hi.", "filter")

    @pytest.mark.parametrize(
        "body",
        [
            {"content": []},
            {"content": None},
            {"content": {"0": 1}},
            {"content": [None, 5, "x"]},
            {"content": [{"type": "text", "text": None}]},
            {"content": [{"type": "text"}]},
            {"content": [{"type": "tool_use", "input": {}}], "stop_reason": "tool_use"},
            {"content": [{"type": "thinking", "thinking": "Hm."}]},
        ],
    )
    def test_a_reply_without_text_is_unusable_and_still_booked(self, body):
        usage = {"input_tokens": 12, "output_tokens": 3}
        with replied(json.dumps(message(**body, usage=usage) | body).encode()) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)
        assert error.reply.usage == Usage(12, None, None, 3, None, "provider")

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"7", b'"text"', b"<html>", b"\xff\xfe", b"[" * 100_000, b"{"]
    )
    def test_what_is_no_message_is_unusable(self, body):
        with replied(body) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)

    def test_a_fast_answer_is_told_as_such_because_it_has_a_price_of_its_own(self):
        usage = {"input_tokens": 1, "output_tokens": 1, "service_tier": "standard", "speed": "fast"}
        with replied(json.dumps(message(usage=usage)).encode()) as server:
            assert send(server).service_tier == "fast"

    def test_text_blocks_are_joined_and_thinking_is_no_text(self):
        blocks = [{"type": "thinking", "thinking": "no"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        with replied(json.dumps(message(content=blocks)).encode()) as server:
            assert send(server).text == "ab"


class TestStreams:
    def test_the_pieces_then_the_reply_with_usage(self):
        answer = Answer("one two three", input_tokens=120, cached_tokens=100, output_tokens=9, reasoning_tokens=2)
        with ProviderServer(replies=lambda _: answer, piece_s=0.005) as server:
            *pieces, reply = stream(server)
            assert server.requests[0].json["stream"] is True
        assert pieces == ["one", " two", " three"]
        assert reply.text == "one two three"
        assert reply.usage == Usage(120, 100, 0, 9, 2, "provider")
        assert (reply.finish_reason, reply.request_id, reply.response_id) == ("stop", "req_0", "msg_0")
        assert (reply.model, reply.service_tier) == ("claude-haiku-5-5", "standard")
        assert reply.ttft_ms > 0

    def test_of_a_cut_stream_the_input_is_known_and_the_output_is_not(self):
        answer = Answer("one two three four five six", input_tokens=120, output_tokens=9)
        with ProviderServer(script=["cut_stream"], replies=lambda _: answer) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed) == ("connection", True)
        assert "one two three four five six".startswith(error.reply.text)
        assert error.reply.usage == Usage(120, 0, 0, None, None, "provider")

    def test_a_malformed_event_is_unusable(self):
        with ProviderServer(script=["malformed"]) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.model) == ("reply", True, "claude-haiku-5-5")

    def test_a_stream_that_ends_early_without_a_cut_is_unusable(self):
        start = {"type": "message_start", "message": message(content=[], stop_reason=None)}
        piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hal"}}
        with streamed_as(start, piece) as server:
            error = failure(server, streamed=True)
        assert error.kind == "reply"
        assert "ended before the answer did" in str(error)
        assert error.reply.text == "Hal"

    def test_unknown_events_and_deltas_are_passed_over(self):
        start = {"type": "message_start", "message": message(content=[], stop_reason=None)}
        deltas = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **more}}
            for kind, more in (
                ("thinking_delta", {"thinking": "Hm."}),
                ("signature_delta", {"signature": "x"}),
                ("new_delta", {"text": "no"}),
                ("text_delta", {"text": "Hi."}),
            )
        ]
        rest = [
            {"type": "ping"},
            {"type": "news", "text": "no"},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        ]
        with streamed_as(start, *deltas, *rest, {"type": "message_stop"}) as server:
            *pieces, reply = stream(server)
        assert (pieces, reply.text, reply.finish_reason) == (["Hi."], "Hi.", "stop")

    @pytest.mark.parametrize(
        ("type_", "kind"),
        [
            ("overloaded_error", "overloaded"),
            ("api_error", "overloaded"),
            ("timeout_error", "overloaded"),
            ("rate_limit_error", "rate"),
            ("invalid_request_error", "request"),
            ("billing_error", "balance"),
            ("news", "reply"),
        ],
    )
    def test_an_error_in_the_midst_has_its_own_kind(self, type_, kind):
        start = {"type": "message_start", "message": message(content=[], usage={"input_tokens": 5, "output_tokens": 1})}
        piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
        error = {"type": "error", "error": {"type": type_, "message": "Overloaded"}}
        with streamed_as(start, piece, error) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.text) == (kind, True, "Hi")
        assert error.reply.usage == Usage(5, None, None, None, None, "provider")

    def test_an_error_instead_of_a_stream_is_typed(self):
        with ProviderServer(script=["429:3"]) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.retry_after_s, error.may_be_billed) == ("rate", 3.0, False)


ERRORS = [
    (400, "invalid_request_error", None, "max_tokens: field required", "request"),
    (400, "invalid_request_error", None, "messages.0.role: unexpected value 'daily'", "request"),
    (
        400,
        "invalid_request_error",
        None,
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing",
        "balance",
    ),
    (400, "invalid_request_error", None, f"You have reached your specified API usage limits. {REGAIN}", "window"),
    (
        400,
        "invalid_request_error",
        None,
        f"You have reached your specified workspace API usage limits. {REGAIN}",
        "window",
    ),
    (400, "invalid_request_error", "organization_on_hold", "This organization has been disabled.", "key"),
    (400, "invalid_request_error", None, "This organization has been disabled.", "key"),
    (401, "authentication_error", None, "invalid bearer token", "key"),
    (402, "billing_error", None, "payment required", "balance"),
    (403, "permission_error", None, "Your API key does not have permission", "key"),
    (404, "not_found_error", None, "model: claude-haiku-5-5", "request"),
    (409, "conflict_error", None, "conflict", "overloaded"),
    (413, "request_too_large", None, "Request exceeds the maximum size", "request"),
    (422, "invalid_request_error", None, "unprocessable", "request"),
    (
        429,
        "rate_limit_error",
        None,
        "This request would exceed your organization's rate limit of 50 requests per minute",
        "rate",
    ),
    (429, "rate_limit_error", "ramp_limit_exceeded", "usage grew too fast", "rate"),
    (429, "rate_limit_error", None, "This request would exceed your limit of 1,000 requests per day", "window"),
    (
        429,
        "rate_limit_error",
        "enforced_spend_limit_reached",
        f"crossed its monthly API usage threshold. {REGAIN}",
        "window",
    ),
    (429, "rate_limit_error", "contract_spend_limit_reached", "the spend limit of the contract", "balance"),
    (500, "api_error", None, "Internal server error", "overloaded"),
    (503, "api_error", None, "unavailable", "overloaded"),
    (504, "timeout_error", None, "Request timeout", "overloaded"),
    (529, "overloaded_error", None, "Overloaded", "overloaded"),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "type_", "code", "words", "kind"), ERRORS)
    def test_each_refusal_has_its_kind_and_is_one_request(self, status, type_, code, words, kind):
        error = {"type": type_, "message": words, **({"details": {"error_code": code}} if code else {})}
        body = json.dumps({"type": "error", "error": error, "request_id": "req_x"}).encode()
        with replied(body, status) as server:
            error = failure(server)
            assert len(server.requests) == 1
        assert error.kind == kind
        assert error.http_status == status
        assert words in str(error)
        assert error.may_be_billed is (status == 504), "a gateway may have waited for an answer that was given"
        assert error.request_id == "req_0"

    def test_a_window_tells_when_it_opens_by_the_clock_of_the_reply(self):
        at = format_datetime(datetime(2026, 11, 30, 23, 0, tzinfo=UTC), usegmt=True)
        fault = Fault("status", 429, code="enforced_spend_limit_reached", message=REGAIN, headers={"date": at})
        with ProviderServer(script=lambda _: fault) as server:
            assert failure(server).retry_after_s == 3_600.0

    @pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "soon", ""])
    @pytest.mark.parametrize("regain", ["9999-12-31 at 23:59", "0001-01-01 at 00:00", "2026-99-99 at 99:99"])
    def test_an_absurd_clock_is_survived(self, date, regain):
        words = f"You will regain access on {regain} UTC."
        fault = Fault("status", 429, code="enforced_spend_limit_reached", message=words, headers={"date": date})
        with ProviderServer(script=lambda _: fault) as server:
            error = failure(server)
        assert error.kind == "window"
        assert error.retry_after_s is None or 0 <= error.retry_after_s <= 366 * 86_400

    def test_a_missing_model_is_named(self):
        with ProviderServer(script=lambda _: Fault("status", 404, message="not found")) as server:
            assert "(model 'claude-nope')" in str(failure(server, request(model="claude-nope")))

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"message":"plain"}', "plain"),
            (b'{"error":{"message":{"no":"text"}}}', '{"error"'),
            (b'{"error":"text"}', '{"error":"text"}'),
            (b"some text", "some text"),
            (b"<html><title>502</title></html>", "(no message)"),
            (b"", "(no message)"),
            (b"[1]", "[1]"),
        ],
    )
    def test_the_words_of_any_body_are_found(self, body, words):
        with replied(body, 400) as server:
            error = failure(server)
        assert (error.kind, words in str(error)) == ("request", True)

    def test_an_error_inside_a_reply_with_status_200_is_an_error(self):
        with replied(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}') as server:
            error = failure(server)
        assert (error.kind, error.http_status, error.may_be_billed) == ("overloaded", 200, True)

    def test_a_redirect_is_refused_and_the_key_goes_nowhere(self):
        with ProviderServer() as other:
            with ProviderServer(script=[Fault("redirect", location=f"{other.url}/v1")]) as server:
                error = failure(server)
            assert other.stats() == {"in_flight": 0, "most_in_flight": 0}, "not even a connection"
        assert error.kind == "request"
        assert "base_url" in str(error)

    def test_a_quoted_key_is_removed(self):
        with ProviderServer(script=lambda _: FAULTS["refuses_key"]) as server:
            assert KEY not in str(failure(server))

    def test_a_limit_tells_its_wait(self):
        with ProviderServer(limits=Limits(rpm=60, burst_s=1)) as server:
            send(server)
            error = failure(server)
        assert error.kind == "rate"
        assert 1 <= error.retry_after_s <= 2


def limits_of(headers):
    return messages_api.Answer(Response(200, headers, b""), list).rate_limits()


class TestLimits:
    def test_headers_that_say_nothing_give_none(self):
        assert limits_of({}) is None
        assert limits_of({"anthropic-ratelimit-requests-limit": "many"}) is None
        assert limits_of({"anthropic-ratelimit-requests-reset": "soon"}) is None
        assert limits_of({"anthropic-ratelimit-requests-reset": "2026-11-22T10:00:00"}) is None, "without a zone"
        assert limits_of({"anthropic-ratelimit-requests-remaining": "\u0667"}) is None
        assert limits_of({"anthropic-ratelimit-requests-remaining": "9" * 5_000}) is None

    def test_resets_count_from_the_clock_of_the_reply(self):
        headers = {
            "date": "Sun, 22 Nov 2026 10:00:00 GMT",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-11-22T10:00:01.5Z",
            "anthropic-ratelimit-tokens-limit": "9000",
            "anthropic-ratelimit-tokens-remaining": "8000",
            "anthropic-ratelimit-tokens-reset": "2026-11-22T09:00:00Z",
        }
        assert limits_of(headers) == RateLimits(50, 49, 1.5, 9_000, 8_000, 0.0)
        del headers["date"]
        headers["anthropic-ratelimit-requests-reset"] = (datetime.now(UTC) + timedelta(seconds=3_600)).isoformat()
        assert 3_590 < limits_of(headers).requests_reset_s <= 3_600

    def test_the_limit_of_the_input_stands_in(self):
        assert limits_of({"anthropic-ratelimit-input-tokens-limit": "7"}) == RateLimits(tokens_limit=7)


class TestSettings:
    def test_it_is_a_platform_with_its_defaults(self):
        platform = Anthropic(api_key=KEY)
        assert isinstance(platform, Platform)
        assert (platform.name, platform.model, platform.tier, platform.provider) == (
            "anthropic",
            DEFAULT_MODEL,
            "paid",
            "anthropic",
        )
        assert platform.address == "api.anthropic.com:443"

    def test_the_environment_fills_what_is_not_given(self, monkeypatch):
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("ANTHROPIC_MODEL", "claude-opus-5-5")
        platform = Anthropic()
        assert (platform.model, platform.address) == ("claude-opus-5-5", "127.0.0.1:9")
        assert platform.account is not None

    def test_a_key_of_the_environment_never_goes_to_an_address_given_here(self, monkeypatch):
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        with ProviderServer() as server:
            send(server, api_key=None)
            assert "authorization" not in server.requests[0].headers
            assert server.requests[0].headers["anthropic-version"] == API_VERSION

    def test_without_a_key_anthropic_is_not_asked(self):
        with pytest.raises(PlatformError, match="ANTHROPIC_API_KEY") as caught:
            asyncio.run(Anthropic().send(request()))
        assert caught.value.kind == "key"

    def test_it_serves_claude_and_elsewhere_all_but_others_closed_models(self):
        own = Anthropic(api_key=KEY)
        assert own.serves("claude-opus-5-5")
        assert not any(own.serves(model) for model in ("gpt-5-mini", "gemini-3.8-flash", "llama-3"))
        other = Anthropic(base_url="http://127.0.0.1:9", model="x")
        assert all(other.serves(model) for model in ("claude-haiku-5-5", "deepseek-chat", "gpt-oss-20b", "x"))
        assert not any(other.serves(model) for model in ("gpt-5-mini", "gemini-3.8-flash", "o3"))

    @pytest.mark.parametrize(
        ("model", "temperature", "effort", "schema"),
        [
            ("claude-haiku-5-5", False, True, True),
            ("claude-sonnet-5", False, True, True),
            ("claude-opus-4-8", False, True, True),
            ("claude-opus-4-6", True, True, True),
            ("claude-sonnet-4-6", False, True, True),
            ("claude-opus-4-5-20251101", True, True, True),
            ("claude-sonnet-4-5-20250929", True, False, True),
            ("claude-haiku-4-5", True, False, True),
            ("claude-opus-4-20250514", True, False, False),
            ("claude-3-5-haiku-latest", True, False, False),
            ("claude-mythos-preview", False, True, True),
            ("deepseek-chat", True, True, True),
        ],
    )
    def test_capabilities_follow_the_model_and_anthropic_takes_no_temperature(self, model, temperature, effort, schema):
        can = Anthropic(base_url="http://127.0.0.1:9").capabilities(model)
        assert (can.temperature, can.effort, can.schema, can.images) == (temperature, effort, schema, True)
        own = Anthropic(api_key=KEY).capabilities(model)
        assert (own.temperature, own.effort, own.schema, own.images) == (False, effort, schema, True)

    def test_settings_narrow_capabilities(self):
        can = Anthropic(api_key=KEY, schema=False, images=False, context_tokens=200_000).capabilities(DEFAULT_MODEL)
        assert (can.schema, can.images, can.context_tokens) == (False, False, 200_000)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_hostile_model_name_travels_as_it_is_or_is_refused_unsent(streamed):
    names = [*HOSTILE_PROMPTS, "", "\x00", "a/../../b", "half \ud83d", "%2e%2e", "x:generateContent?key=1"]
    kinds = set()
    with ProviderServer() as server:
        for name in names:
            before = len(server.requests)
            try:
                stream(server, request(model=name)) if streamed else send(server, request(model=name))
            except PlatformError as error:
                kinds.add(error.kind)
            for one in server.requests[before:]:
                assert asked_for(one) == name.removeprefix("models/")
    assert kinds <= {"request", "connection"}


def test_the_cost_of_a_reply_with_cache_is_what_genai_prices_says_by_hand():
    from genai_prices import Usage as Counts
    from genai_prices import calc_price

    answer = Answer(
        "Hi.", input_tokens=1_200, cached_tokens=1_024, cache_write_tokens=76, output_tokens=60, reasoning_tokens=32
    )
    with ProviderServer(replies=lambda _: answer) as server:
        reply = send(server)
    assert isinstance(reply, Reply)
    price = PriceList().find("anthropic", reply.model, service_tier=reply.service_tier)
    counts = Counts(input_tokens=1_200, cache_read_tokens=1_024, cache_write_tokens=76, output_tokens=60)
    by_hand = calc_price(counts, "claude-haiku-5-5", provider_id="anthropic").total_price
    assert price.cost(reply.usage) == by_hand
    # 100 plain, 1,024 read and 76 written tokens of input, 60 of output, at 0.10 / 0.01 / 0.125 / 0.50 USD a million
    assert by_hand == (Decimal(100) / 10 + Decimal(1_024) / 100 + Decimal(76) / 8 + Decimal(60) / 2) / 10**6
