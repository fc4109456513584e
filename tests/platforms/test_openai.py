"""OpenAI and compatible servers: what goes out, what comes back, and which kind each refusal is."""

import asyncio
import copy
import hashlib
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from asking import Asking

from orchestrai import attachments
from orchestrai.errors import InvalidSettings, PlatformError
from orchestrai.messages import Message
from orchestrai.platforms import chat_completions as chat
from orchestrai.platforms import wire
from orchestrai.platforms.http import Response
from orchestrai.platforms.openai import DEFAULT_MODEL, OpenAI
from orchestrai.platforms.protocol import Platform, RateLimits, Reply, Request
from orchestrai.result import NO_USAGE, Usage
from orchestrai.testing import Answer, Fault, Limits, ProviderServer

KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)
CLOSED = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)


ASKING = Asking(
    lambda server, **settings: OpenAI(base_url=server.base_url, **{"api_key": KEY, "model": "m", **settings}), "m"
)
request, run, send, stream, failure = ASKING.request, ASKING.run, ASKING.send, ASKING.stream, ASKING.failure


async def closed_after(platform):
    try:
        return await platform.send(request())
    finally:
        await platform.close()


def unknown_model(server, model, *, streamed=False, **settings):
    """Return the error of a request for this model at a server whose provider is OpenAI."""

    async def asked(platform):
        if not streamed:
            return await platform.send(request(model=model))
        return [item async for item in platform.stream(request(model=model))]

    with pytest.raises(PlatformError) as caught:
        run(server, asked, **{"provider": "openai", **settings})
    return caught.value


def sent(asked, **settings):
    with ProviderServer() as server:
        send(server, asked, **settings)
        return server.requests[0].json


def replied(body, status=200, headers=None):
    return ProviderServer(script=lambda _: Fault("raw", status, headers=headers or {}, body=body))


def completion(**fields):
    message = {"role": "assistant", "content": "Hi."}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "m-1", **fields}


class TestRequests:
    def test_the_body_holds_what_was_asked_and_nothing_else(self):
        assert sent(request()) == {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello."}],
            "stream": False,
        }

    def test_every_option_has_its_field(self):
        asked = request(system="Be brief.", max_tokens=7, temperature=0.5, effort="low")
        assert sent(asked) == {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."}],
            "max_tokens": 7,
            "temperature": 0.5,
            "reasoning_effort": "low",
            "stream": False,
        }

    def test_a_conversation_keeps_its_roles(self):
        turns = (Message("user", "1"), Message("assistant", "2"), Message("system", "3"), Message("user", "4"))
        body = sent(Request(turns, "m"))
        assert [(m["role"], m["content"]) for m in body["messages"]] == [
            ("user", "1"),
            ("assistant", "2"),
            ("system", "3"),
            ("user", "4"),
        ]

    def test_extra_wins_over_all_but_the_form_of_the_reply(self):
        asked = request(max_tokens=7, extra={"max_tokens": 9, "seed": 1, "stream": True})
        body = sent(asked)
        assert (body["max_tokens"], body["seed"], body["stream"]) == (9, 1, False)

    def test_the_limit_has_its_new_name_at_openai_alone(self):
        asked = request(max_tokens=7)
        here = json.loads(OpenAI(api_key=KEY)._body(asked, stream=False))
        assert here["max_completion_tokens"] == 7
        assert "max_tokens" not in here

    def test_an_image_travels_as_a_data_url(self):
        parts = sent(request("What is this?", attachments.image(PIXEL)))["messages"][0]["content"]
        assert parts[0] == {"type": "text", "text": "What is this?"}
        assert parts[1]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")

    def test_a_text_file_travels_fenced_and_named(self, tmp_path):
        path = tmp_path / "notes\n.md"
        path.write_text("a\n```\n# not the end\n")
        parts = sent(request("Read.", attachments.from_path(path)))["messages"][0]["content"]
        assert parts[1]["text"] == "File: notes .md\n````\na\n```\n# not the end\n````"

    def test_a_file_that_changed_is_refused_unsent(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("one")
        asked = request("Read.", attachments.from_path(path))
        path.write_text("two")
        with ProviderServer() as server:
            error = failure(server, asked)
            assert error.kind == "request"
            assert "changed after the task was made" in str(error)
            assert server.requests == []

    def test_what_is_no_json_is_refused_unsent(self):
        with ProviderServer() as server:
            for asked in (request("half \ud83d"), request(extra={"x": object()}), request(system="\udc00")):
                assert failure(server, asked).kind == "request"
            assert server.requests == []

    def test_the_key_travels_in_one_header_alone(self):
        with ProviderServer(api_key=KEY) as server:
            send(server)
            one = server.requests[0]
            assert one.headers["authorization"] == f"Bearer {KEY}"
            assert KEY.encode() not in one.body
            assert KEY not in one.path

    def test_further_headers_travel_too(self):
        with ProviderServer() as server:
            send(server, headers={"X-Team": "blue"})
            assert server.requests[0].headers["x-team"] == "blue"
            assert server.requests[0].headers["user-agent"].startswith("orchestrai/")

    def test_a_header_that_is_given_replaces_the_usual_one(self):
        with ProviderServer() as server:
            send(server, headers={"user-agent": "mine/1"})
            head = server.requests[0].head.lower()
        assert b"user-agent: mine/1" in head
        assert head.count(b"user-agent:") == 1
        assert head.count(b"content-type: application/json") == 1

    def test_a_key_function_is_asked_at_each_request(self):
        keys = iter([KEY + "1", KEY + "1", KEY + "2"] * 10)
        current = []

        def key():
            return current[-1]

        with ProviderServer() as server:

            async def thrice(platform):
                for _ in range(3):
                    current.append(next(keys))
                    await platform.send(request())

            current.append(KEY)
            run(server, thrice, api_key=key)
            found = [r.headers["authorization"] for r in server.requests]
            assert found == [f"Bearer {KEY}1", f"Bearer {KEY}1", f"Bearer {KEY}2"]


class TestSchemas:
    def test_a_closed_schema_is_strict_and_named_by_its_title(self):
        asked = sent(request(json_schema={"title": "My answer!", **CLOSED}))["response_format"]
        assert asked["type"] == "json_schema"
        assert asked["json_schema"]["name"] == "My_answer_"
        assert asked["json_schema"]["strict"] is True
        assert asked["json_schema"]["schema"]["properties"] == CLOSED["properties"]

    @pytest.mark.parametrize(
        "change",
        [
            {"additionalProperties": True},
            {"additionalProperties": None},
            {"required": ["a"]},
            {"required": []},
            {"properties": {"a": {"type": "object"}, "b": {"type": "string"}}},
            {"properties": {"a": {}, "b": {"type": "string"}}},
            {"properties": {"a": True, "b": {"type": "string"}}},
            {"properties": {"a": {"anyOf": [{"type": "object", "properties": {}}]}, "b": {"type": "string"}}},
            {"$defs": {"X": {"type": "object", "properties": {"x": {"type": "string"}}}}},
            {"allOf": [{"required": ["a"]}]},
            {"patternProperties": {"^x": {"type": "string"}}},
        ],
    )
    def test_an_open_schema_is_not_strict(self, change):
        assert chat.is_strict(CLOSED)
        assert not chat.is_strict({**CLOSED, **change})

    def test_a_platform_without_schemas_is_not_sent_one(self):
        assert "response_format" not in sent(request(json_schema=CLOSED), schema=False)

    def test_a_server_that_refuses_a_schema_refuses_a_request_and_is_asked_once(self):
        fault = Fault("status", 400, message="response_format json_schema is not supported")
        with ProviderServer(script=lambda _: fault) as server:
            assert failure(server, request(json_schema=CLOSED)).kind == "request"
            assert len(server.requests) == 1


class TestReplies:
    def test_a_reply_says_everything_the_provider_said(self):
        answer = Answer(
            "Hi.",
            input_tokens=1_200,
            cached_tokens=1_024,
            cache_write_tokens=76,
            output_tokens=60,
            reasoning_tokens=32,
            model="m-2026-01-01",
            more={"service_tier": "flex"},
        )
        with ProviderServer(replies=lambda _: answer, limits=Limits(rpm=6_000, tpm=60_000, burst_s=60)) as server:
            reply = send(server)
        assert reply.text == "Hi."
        assert reply.usage == Usage(1_200, 1_024, 76, 60, 32, "provider")
        assert (reply.model, reply.service_tier, reply.finish_reason) == ("m-2026-01-01", "flex", "stop")
        assert (reply.response_id, reply.request_id, reply.http_status) == ("chatcmpl-0", "req-0", 200)
        assert json.loads(reply.usage_raw)["prompt_tokens_details"] == {
            "cached_tokens": 1_024,
            "cache_write_tokens": 76,
        }
        assert reply.rate_limits.requests_limit == 6_000
        assert reply.rate_limits.requests_left == 5_999
        assert 0 < reply.rate_limits.requests_reset_s < 1
        assert reply.rate_limits.tokens_limit == 60_000

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, NO_USAGE),
            (None, NO_USAGE),
            ([1], NO_USAGE),
            ({"prompt_tokens": -1, "completion_tokens": 10**18}, NO_USAGE),
            ({"prompt_tokens": True, "completion_tokens": "5"}, NO_USAGE),
            ({"prompt_tokens": 3.0, "completion_tokens": 1e308}, NO_USAGE),
            ({"prompt_tokens": 3}, Usage(3, None, None, None, None, "provider")),
            ({"prompt_tokens": 3, "completion_tokens": -4}, Usage(3, None, None, None, None, "provider")),
            (
                {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 9}},
                Usage(3, None, None, 4, None, "provider"),
            ),
            (
                {"prompt_tokens": 9, "completion_tokens": 4, "prompt_cache_hit_tokens": 8},
                Usage(9, 8, None, 4, None, "provider"),
            ),
            (
                {
                    "prompt_tokens": 10,
                    "completion_tokens": 5,
                    "total_tokens": 115,
                    "completion_tokens_details": {"reasoning_tokens": 100},
                },
                Usage(10, None, None, 105, 100, "provider"),
            ),
        ],
    )
    def test_a_count_that_is_none_is_unknown_and_never_zero(self, given, expected):
        assert chat.usage(given) == expected

    @pytest.mark.parametrize(
        ("told", "meant"),
        [
            ("stop", "stop"),
            ("length", "length"),
            ("content_filter", "filter"),
            ("tool_calls", "tool"),
            ("eos", "stop"),
            ("something new", None),
            (None, None),
            (7, None),
        ],
    )
    def test_finish_reasons_have_one_vocabulary(self, told, meant):
        body = completion()
        body["choices"][0]["finish_reason"] = told
        with replied(json.dumps(body).encode()) as server:
            assert send(server).finish_reason == meant

    def test_an_empty_answer_that_used_up_its_limit_is_an_answer(self):
        with ProviderServer(replies=lambda _: Answer("", "length", output_tokens=50)) as server:
            reply = send(server)
        assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("", "length", 50)

    def test_a_refusal_is_an_unusable_reply_with_its_usage(self):
        answer = Answer("", refusal="I cannot help with that.")
        with ProviderServer(replies=lambda _: answer) as server:
            for streamed in (False, True):
                error = failure(server, streamed=streamed)
                assert (error.kind, error.may_be_billed, error.http_status) == ("reply", True, 200)
                assert "I cannot help with that." in str(error)
                assert error.reply.usage.source == "provider" or streamed

    def test_a_filtered_answer_without_text_is_unusable_and_with_text_is_marked(self):
        with ProviderServer(
            replies={"all": Answer("", "content_filter"), "part": Answer("Hal", "content_filter")}
        ) as s:
            for streamed in (False, True):
                error = failure(s, request("all"), streamed=streamed)
                assert error.kind == "reply"
                assert "content filter" in str(error)
                assert error.reply.finish_reason == "filter"
            assert error.reply.usage.source == "provider"
            assert send(s, request("part")).finish_reason == "filter"

    @pytest.mark.parametrize(
        "body",
        [
            {"choices": []},
            {"choices": None},
            {"choices": {"0": 1}},
            {"choices": [None]},
            {"choices": [{"message": None, "finish_reason": "stop"}]},
            {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]},
            {"choices": [{"message": {"content": None}, "finish_reason": "tool_calls"}]},
            {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
            {"choices": [{"message": {"content": ""}, "finish_reason": "tool_calls"}]},
            {"choices": [{"message": {"content": []}, "finish_reason": "stop"}]},
            {},
        ],
    )
    def test_a_reply_without_text_is_unusable_and_still_booked(self, body):
        usage = {"prompt_tokens": 12, "completion_tokens": 3}
        with replied(json.dumps({**body, "usage": usage}).encode()) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)
        assert error.reply.usage == Usage(12, None, None, 3, None, "provider")

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"7", b'"text"', b"<html>", b"\xff\xfe", b"[" * 100_000, b"{"]
    )
    def test_what_is_no_completion_is_unusable(self, body):
        with replied(body) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)

    def test_content_in_parts_is_joined(self):
        body = completion()
        body["choices"][0]["message"]["content"] = [
            {"type": "thinking", "thinking": [{"text": "no"}]},
            {"type": "text", "text": "a"},
            {"type": "text", "text": "b"},
        ]
        with replied(json.dumps(body).encode()) as server:
            assert send(server).text == "ab"

    def test_half_an_emoji_in_an_answer_is_replaced_and_a_whole_one_kept(self):
        body = json.dumps(completion()).replace("Hi.", r"a \ud83d b \ude00 c \ud83d\ude00 d \\ud83d e \u00e9").encode()
        with replied(body) as server:
            assert send(server).text == "a \ufffd b \ufffd c \U0001f600 d \\ud83d e é"

    def test_not_a_number_somewhere_does_not_cost_the_answer(self):
        body = json.dumps(completion(usage={"prompt_tokens": 3, "completion_tokens": 4, "cost": float("nan")})).encode()
        with replied(body) as server:
            reply = send(server)
        assert (reply.text, reply.usage.input_tokens, json.loads(reply.usage_raw)["cost"]) == ("Hi.", 3, None)

    def test_another_charset_is_read_when_it_is_declared(self):
        body = json.dumps(completion(), ensure_ascii=False).replace("Hi.", "café").encode("latin-1")
        with replied(body, headers={"content-type": "application/json; charset=ISO-8859-1"}) as server:
            assert send(server).text == "café"
        with replied(body, headers={"content-type": "application/json; charset=zip"}) as server:
            assert failure(server).kind == "reply"

    def test_usage_that_cannot_be_stored_is_not_kept(self):
        deep = {"prompt_tokens": 3, "completion_tokens": 4}
        for _ in range(400):
            deep = {"prompt_tokens": 3, "completion_tokens": 4, "more": deep}
        assert wire.kept_usage(deep) is None
        assert wire.kept_usage({"x": "y" * 20_000}) is None
        assert wire.kept_usage({"prompt_tokens": 1}) == '{"prompt_tokens":1}'


class TestStreams:
    def test_the_pieces_then_the_reply_with_usage(self):
        with ProviderServer(replies="one two three", piece_s=0.005) as server:
            *pieces, reply = stream(server)
            assert server.requests[0].json["stream_options"] == {"include_usage": True}
        assert pieces == ["one", " two", " three"]
        assert reply.text == "one two three"
        assert reply.usage.source == "provider"
        assert (reply.finish_reason, reply.request_id, reply.response_id) == ("stop", "req-0", "chatcmpl-0")
        assert reply.ttft_ms > 0

    def test_a_server_that_cannot_stream_is_read_whole(self):
        with replied(json.dumps(completion()).encode()) as server:
            text, reply = stream(server)
        assert (text, reply.text) == ("Hi.", "Hi.")

    def test_a_stream_without_usage_has_none(self):
        events = b'data: {"choices":[{"delta":{"content":"Hi."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        with replied(events, headers={"content-type": "text/event-stream"}) as server:
            *_, reply = stream(server)
        assert reply.usage == NO_USAGE

    def test_a_stream_may_end_without_done_but_not_without_a_finish(self):
        events = b'data: {"choices":[{"delta":{"content":"Hi."},"finish_reason":%b}]}\n\n'
        headers = {"content-type": "text/event-stream"}
        with replied(events % b'"stop"', headers=headers) as server:
            assert stream(server)[-1].text == "Hi."
        with replied(events % b"null", headers=headers) as server:
            error = failure(server, streamed=True)
        assert error.kind == "reply"
        assert "ended before the answer did" in str(error)
        assert error.reply.text == "Hi."

    @pytest.mark.parametrize(("fault", "kind"), [("cut_stream", "connection"), ("malformed", "reply")])
    def test_a_cut_stream_carries_what_arrived(self, fault, kind):
        with ProviderServer(script=[fault], replies="one two three four five six") as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed) == (kind, True)
        assert "one two three four five six".startswith(error.reply.text)
        assert error.reply.model == "m"

    def test_an_error_in_the_midst_has_its_own_kind(self):
        events = (
            b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\ndata: {"error":{"message":"slow down","code":429}}\n\n'
        )
        with replied(events, headers={"content-type": "text/event-stream"}) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.text) == ("rate", True, "Hi")

    def test_an_error_instead_of_a_stream_is_typed(self):
        with ProviderServer(script=["429:3"]) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.retry_after_s, error.may_be_billed) == ("rate", 3.0, False)


ERRORS = [
    (400, None, None, "bad field", "request"),
    (400, "context_length_exceeded", None, "too long", "request"),
    (400, None, None, "API key not valid. Please pass a valid API key.", "key"),
    (401, "invalid_api_key", None, "Incorrect API key", "key"),
    (402, None, None, "Insufficient Balance", "balance"),
    (403, None, None, "Country, region, or territory not supported", "key"),
    (403, None, "billing_not_active", "Your account is not active", "balance"),
    (404, "model_not_found", None, "no such model", "request"),
    (408, None, None, "timeout", "timeout"),
    (409, None, None, "conflict", "overloaded"),
    (413, None, None, "too large", "request"),
    (418, None, None, "teapot", "request"),
    (422, None, None, "unprocessable", "request"),
    (425, None, None, "too early", "overloaded"),
    (429, "rate_limit_exceeded", "requests", "Rate limit reached for m on requests per min (RPM)", "rate"),
    (429, "rate_limit_exceeded", "tokens", "Rate limit reached for m on tokens per min (TPM): Limit 90000", "rate"),
    (429, "rate_limit_exceeded", "requests", "Rate limit reached for m on requests per day (RPD): Limit 200", "window"),
    (429, "daily_limit", None, "come back tomorrow", "window"),
    (429, "quota_exceeded", None, "limit", "window"),
    (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota", "balance"),
    (429, "billing_hard_limit_reached", None, "Billing hard limit", "balance"),
    (500, None, None, "internal", "overloaded"),
    (502, None, None, "bad gateway", "overloaded"),
    (503, None, None, "unavailable", "overloaded"),
    (504, None, None, "gateway timeout", "overloaded"),
    (529, None, None, "overloaded", "overloaded"),
]


class TestErrors:
    @pytest.mark.parametrize(("status", "code", "type_", "message", "kind"), ERRORS)
    def test_each_refusal_has_its_kind_and_is_one_request(self, status, code, type_, message, kind):
        body = json.dumps({"error": {"message": message, "type": type_, "code": code}}).encode()
        with replied(body, status) as server:
            error = failure(server)
            assert len(server.requests) == 1
        assert error.kind == kind
        assert error.http_status == status
        assert message in str(error)
        assert error.may_be_billed is (status == 504), "a gateway may have waited for an answer that was given"
        assert error.request_id == "req-0"

    def test_a_missing_model_is_named(self):
        with replied(b'{"error":{"message":"not found"}}', 404) as server:
            assert "(model 'm')" in str(failure(server))

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"message":"plain"}', "plain"),
            (b'{"detail":"from FastAPI"}', "from FastAPI"),
            (b'{"error":"a string"}', "a string"),
            (b'[{"error":{"message":"in a list"}}]', "in a list"),
            (b"some text", "some text"),
            (b"<html><title>502</title></html>", "(no message)"),
            (b"", "(no message)"),
            (b'{"error":{"message":{"no":"text"}}}', '{"error"'),
            (b"\xff\xfe\x00", ""),
        ],
    )
    def test_the_words_of_any_body_are_found(self, body, words):
        with replied(body, 400) as server:
            error = failure(server)
        assert error.kind == "request"
        assert words in str(error)

    def test_an_error_inside_a_reply_with_status_200_is_an_error(self):
        with replied(b'{"error":{"message":"upstream","code":502},"usage":{}}') as server:
            error = failure(server)
        assert (error.kind, error.http_status, error.may_be_billed) == ("overloaded", 200, True)

    def test_a_redirect_is_refused_and_says_what_to_do(self):
        with ProviderServer() as other:
            fault = Fault("redirect", location=f"{other.base_url}/chat/completions?token=x")
            with ProviderServer(script=[fault]) as server:
                error = failure(server)
            assert other.requests == []
        assert error.kind == "request"
        assert "base_url" in str(error)
        assert str(other.port) in str(error)
        assert "token" not in str(error)

    @pytest.mark.parametrize(
        ("headers", "wait"),
        [
            ({"retry-after": "3"}, 3.0),
            ({"retry-after": "0"}, 0.0),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
            ({"retry-after": "-5"}, None),
            ({"retry-after": "nan"}, None),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "1e300"}, None),
            ({"retry-after": "9" * 400}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": ""}, None),
            ({"retry-after": "Thu, 99 Foo 2026 99:99:99 GMT"}, None),
            ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 30.0),
            ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT", "date": "Sun, 22 Nov 2026 10:00:00 GMT"}, 0.0),
            ({}, None),
        ],
    )
    def test_a_wait_is_honoured_and_garbage_ignored(self, headers, wait):
        with ProviderServer(script=[Fault("status", 429, headers=headers)]) as server:
            assert failure(server).retry_after_s == wait

    def test_a_date_without_a_clock_beside_it_counts_from_now(self):
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=3_600), usegmt=True)
        assert 3_590 < wire.retry_after_s({"retry-after": until}) <= 3_600

    def test_a_wait_in_words_is_the_last_resort(self):
        body = b'{"error":{"message":"Rate limit reached. Please try again in 7m12s.","code":"rate_limit_exceeded"}}'
        with replied(body, 429) as server:
            assert failure(server).retry_after_s == 432.0
        with replied(body, 429, {"retry-after": "2"}) as server:
            assert failure(server).retry_after_s == 2.0

    def test_a_quoted_key_is_removed(self):
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}. Team blue-secret."}}).encode()
        with replied(body, 401) as server, pytest.raises(PlatformError) as caught:
            send(server, headers={"X-Team": "blue-secret"})
        assert KEY not in str(caught.value)
        assert "blue-secret" not in str(caught.value)


class TestMistakes:
    @pytest.mark.parametrize(
        ("status", "words"),
        [
            (404, "The model `gpt-5-minni` does not exist or you do not have access to it."),
            (404, 'model "gpt-5-minni" not found, try pulling it first'),
            (404, "models/gpt-5-minni is not found for API version v1beta, or is not supported"),
            (404, "model: gpt-5-minni"),
            (400, "gpt-5-minni is not a valid model ID"),
            (400, "Invalid model: gpt-5-minni"),
            (400, "Model Not Exist"),
        ],
    )
    def test_an_unknown_model_is_told_with_the_nearest_known_one(self, status, words):
        body = json.dumps({"error": {"message": words, "code": "model_not_found"}}).encode()
        for streamed in (False, True):
            with replied(body, status) as server:
                error = unknown_model(server, "gpt-5-minni", streamed=streamed)
            assert error.kind == "request"
            assert words in str(error)
            assert str(error).endswith("Did you mean 'gpt-5-mini'?")

    def test_the_nearest_model_is_one_of_that_provider(self):
        body = b'{"error":{"message":"The model does not exist"}}'
        with replied(body, 404) as server:
            assert "Did you mean" not in str(unknown_model(server, "gpt-5-minni", provider="nobody"))
            assert "Did you mean 'claude-" in str(unknown_model(server, "claude-haikuu-4-5", provider="anthropic"))
            assert "Did you mean" not in str(unknown_model(server, "gpt-5-mini")), "it exists, but not for this account"

    def test_a_model_of_the_other_protocol_is_told_with_what_speaks_it(self):
        words = "This model is only supported in v1/responses and not in v1/chat/completions."
        with replied(json.dumps({"error": {"message": words, "param": "model"}}).encode(), 404) as server:
            error = unknown_model(server, "gpt-5-pro")
        assert words in str(error)
        assert str(error).endswith('OpenAI(api="responses") speaks it.')

    def test_a_refusal_about_something_else_names_no_model(self):
        with replied(b'{"error":{"message":"temperature is above 2 for this model"}}', 400) as server:
            assert "Did you mean" not in str(unknown_model(server, "gpt-5-minni"))

    @pytest.mark.parametrize(
        "body", [b'{"detail":"Not Found"}', b"<html>nginx</html>", b'{"error":"Invalid URL"}', b""]
    )
    @pytest.mark.parametrize("status", [404, 405])
    def test_a_wrong_base_url_is_told_with_the_address_that_was_asked(self, body, status):
        for streamed in (False, True):
            with replied(body, status) as server:
                error = failure(server, streamed=streamed)
                assert f"Is base_url right? The request went to {server.base_url}/chat/completions." in str(error)
            assert error.kind == "request"

    def test_a_web_page_instead_of_an_answer_is_told_as_one(self):
        with replied(b"<html><title>Sign in</title></html>", headers={"content-type": "text/html"}) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)
        assert "a web page, and no answer. Is base_url right?" in str(error)

    def test_an_address_with_the_path_of_the_protocol_is_refused_when_the_platform_is_made(self):
        for path in ("chat/completions", "responses", "chat/completions/"):
            with pytest.raises(InvalidSettings, match="without /"):
                OpenAI(base_url=f"http://127.0.0.1:8000/v1/{path}")

    def test_nobody_at_the_address_is_told_with_host_and_port(self):
        with pytest.raises(PlatformError, match=r"127\.0\.0\.1:1: no connection") as caught:
            asyncio.run(closed_after(OpenAI(base_url="http://127.0.0.1:1/v1", api_key=KEY, model="m")))
        assert (caught.value.kind, caught.value.may_be_billed) == ("connection", False)

    def test_a_wrong_key_says_where_keys_come_from_and_shows_none(self):
        with ProviderServer(api_key="sk-another") as server:
            error = failure(server)
            assert "Incorrect API key" in str(error)
            assert str(error).endswith("Check api_key= or OPENAI_API_KEY.")
            assert KEY not in str(error)
            assert error.kind == "key"

    def test_a_missing_key_says_why_none_was_sent(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with ProviderServer(api_key=KEY) as server, pytest.raises(PlatformError, match="No key was sent") as caught:
            send(server, api_key=None)
        assert caught.value.kind == "key"

    def test_what_to_do_is_said_whole_however_long_the_provider_talks(self):
        body = json.dumps({"error": {"message": "The model is unknown. " + "words " * 200}}).encode()
        with replied(body, 404) as server:
            error = unknown_model(server, "gpt-5-minni")
        assert len(str(error)) == 500
        assert str(error).endswith("… Did you mean 'gpt-5-mini'?")

    def test_a_refusal_tells_what_its_headers_say_of_the_limits(self):
        headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
        with replied(b'{"error":{"message":"slow down"}}', 429, headers) as server:
            assert failure(server).rate_limits == RateLimits(requests_limit=60, requests_left=0)


class TestImages:
    def test_an_image_above_the_bound_is_refused_unsent_with_its_name_and_the_bound(self, tmp_path):
        path = tmp_path / "scan.png"
        path.write_bytes(PIXEL + b"\0" * (20 * 2**20))
        asked = request("What is this?", attachments.from_path(path), model=DEFAULT_MODEL)
        with pytest.raises(
            PlatformError, match=r"scan\.png: 20,9\d\d,\d{3} bytes; .* at most 20,971,520 bytes"
        ) as caught:
            asyncio.run(OpenAI(api_key=KEY, headers={"X": "y"})._body_with_files(asked))
        assert (caught.value.kind, caught.value.may_be_billed) == ("request", False)

    def test_another_server_has_bounds_of_its_own(self, tmp_path):
        path = tmp_path / "scan.png"
        path.write_bytes(PIXEL + b"\0" * (20 * 2**20))
        with ProviderServer() as server:
            send(server, request("What is this?", attachments.from_path(path)))
            assert len(server.requests) == 1

    @pytest.mark.parametrize("content", [b"II*\0\xff\xfe" * 9, b"\0\0\0\x18ftypheic\xff", b"BM\xff\xff" * 9])
    def test_an_image_of_an_unknown_type_is_refused_unsent_with_its_name_and_the_known_types(self, tmp_path, content):
        path = tmp_path / "photo.png"  # a name may lie
        path.write_bytes(content)
        with ProviderServer() as server:
            error = failure(server, request("What is this?", attachments.from_path(path)))
            assert server.requests == []
        assert error.kind == "request"
        for words in ("photo.png", "image/png", "image/jpeg", "image/gif", "image/webp"):
            assert words in str(error)


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("120ms", 0.12),
            ("6m0s", 360.0),
            ("1h2m", 3_720.0),
            ("7.66s", 7.66),
            ("1m26.4s", 86.4),
            ("2d", 172_800.0),
            ("0", 0.0),
            ("12", 12.0),
            ("1.5", 1.5),
            ("", None),
            (None, None),
            ("-1", None),
            ("5 apples", None),
            ("1h-2m", None),
            ("nan", None),
            ("9" * 400 + "s", None),
        ],
    )
    def test_durations_are_read_in_every_form_seen(self, text, seconds):
        assert wire.duration_s(text) == (pytest.approx(seconds) if seconds is not None else None)

    def test_headers_that_say_nothing_give_none(self):
        assert wire.rate_limits({}) is None
        assert wire.rate_limits({"x-ratelimit-limit-requests": "many", "x-ratelimit-reset-tokens": "?"}) is None
        assert wire.rate_limits({"x-ratelimit-remaining-tokens": "7"}) == RateLimits(tokens_left=7)
        assert wire.rate_limits({"x-ratelimit-remaining-tokens": "\u0667"}) is None
        assert wire.rate_limits({"x-ratelimit-remaining-tokens": "9" * 5_000}) is None


class TestSettings:
    def test_it_is_a_platform_with_its_defaults(self):
        platform = OpenAI(api_key=KEY)
        assert isinstance(platform, Platform)
        assert (platform.name, platform.model, platform.tier, platform.provider) == (
            "openai",
            DEFAULT_MODEL,
            "paid",
            "openai",
        )
        assert platform.address == "api.openai.com:443"
        assert platform.account == hashlib.sha256(KEY.encode()).hexdigest()[:8]
        assert (platform.limits, platform.price) == ({}, {})

    def test_the_environment_fills_what_is_not_given(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_MODEL", "gpt-6-luna")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
        platform = OpenAI()
        assert (platform.model, platform.address) == ("gpt-6-luna", "127.0.0.1:9")
        assert platform.account is not None

    def test_a_key_of_the_environment_never_goes_to_an_address_given_here(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with ProviderServer() as server:
            platform = OpenAI(base_url=server.base_url, model="m")

            async def one():
                await platform.send(request())
                await platform.close()

            asyncio.run(one())
            assert "authorization" not in server.requests[0].headers
        assert platform.account is None

    @pytest.mark.parametrize(
        ("base_url", "provider"),
        [
            ("https://api.openai.com/v1", "openai"),
            ("https://api.groq.com/openai/v1", "groq"),
            ("https://api.together.xyz/v1", "together"),
            ("https://openrouter.ai/api/v1", "openrouter"),
            ("https://api.deepseek.com/v1", "deepseek"),
            ("https://api.mistral.ai/v1", "mistral"),
            ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
            ("https://evil-api.openai.com.example.org/v1", "mine"),
            ("https://notgroq.com/v1", "mine"),
            ("http://127.0.0.1:8000/v1", "mine"),
        ],
    )
    def test_the_provider_follows_the_host(self, base_url, provider):
        assert OpenAI("mine", base_url=base_url).provider == provider
        assert OpenAI("mine", base_url=base_url, provider="azure").provider == "azure"

    def test_the_providers_are_those_that_have_prices(self):
        from genai_prices.data import providers

        from orchestrai.platforms.openai import _PROVIDERS

        assert set(_PROVIDERS.values()) <= {provider.id for provider in providers}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"limits": {"rmp": 60}}, "Did you mean 'rpm'"),
            ({"limits": {"rpm": 0}}, "above 0"),
            ({"limits": {"rpm": True}}, "above 0"),
            ({"limits": {"tpm": "many"}}, "above 0"),
            ({"limits": {"tpm": float("nan")}}, "above 0"),
            ({"price": {"input_mtoks": 1}}, "Did you mean 'input_mtok'"),
            ({"price": {"input_mtok": "cheap", "output_mtok": 1}}, "input_mtok"),
            ({"price": {"input_mtok": -1, "output_mtok": 1}}, "input_mtok"),
            ({"price": {"input_mtok": float("inf"), "output_mtok": 1}}, "input_mtok"),
            ({"tier": "freee"}, "Did you mean 'free'"),
            ({"data_use": "train"}, "data_use is one of"),
            ({"concurrency": 0}, "at least 1"),
            ({"context_tokens": -1}, "at least 1"),
            ({"base_url": "127.0.0.1:8000/v1"}, "base_url is an address"),
            ({"base_url": "ftp://x/v1"}, "base_url is an address"),
            ({"base_url": "http://[::1/v1"}, "base_url is an address"),
            ({"base_url": f"http://user:{KEY}@x/v1"}, "password or a query"),
            ({"base_url": f"ftp://user:{KEY}@x/v1"}, "one with a password"),
            ({"headers": {"X": "a\r\nY: b"}}, "one line"),
            ({"headers": {"X": 5}}, "one line"),
        ],
    )
    def test_a_mistake_is_named(self, settings, words):
        with pytest.raises(InvalidSettings, match=words) as caught:
            OpenAI(**settings)
        assert KEY not in str(caught.value)

    def test_limits_and_prices_are_kept_exactly(self):
        platform = OpenAI(
            limits={"rpm": 60, "tpm": 90_000, "rpd": None}, price={"input_mtok": 0.1, "output_mtok": "0.40"}
        )
        assert platform.limits == {"rpm": 60, "tpm": 90_000}
        assert platform.price == {"input_mtok": 0.1, "output_mtok": "0.40"}
        with pytest.raises(TypeError):
            platform.limits["rpm"] = 1

    def test_no_key_is_shown_or_copied_out(self):
        for key in (KEY, lambda: KEY):
            platform = OpenAI(api_key=key, headers={"X-Team": "blue-secret"})
            shown = repr(platform) + str(platform) + str(vars(platform)) + repr(vars(copy.copy(platform)))
            assert KEY not in shown
            assert "blue-secret" not in shown
            with pytest.raises((TypeError, AttributeError)):
                copy.deepcopy(platform._more_headers)

    @pytest.mark.parametrize("key", [KEY + "\nX: y", KEY + "é", "\x00" + KEY])
    def test_a_key_with_foreign_characters_is_refused_unsent(self, key):
        with ProviderServer() as server:
            with pytest.raises(PlatformError) as caught:
                send(server, api_key=key)
            assert caught.value.kind == "key"
            assert KEY not in str(caught.value)
            assert server.requests == []

    @pytest.mark.parametrize("key", [lambda: None, lambda: 5, lambda: 1 / 0, lambda: {}[KEY]])
    def test_a_key_function_that_fails_is_a_refused_key(self, key):
        with ProviderServer() as server:
            with pytest.raises(PlatformError) as caught:
                send(server, api_key=key)
            assert caught.value.kind == "key"
            assert KEY not in str(caught.value)

    def test_without_a_key_openai_is_not_asked(self):
        with pytest.raises(PlatformError, match="OPENAI_API_KEY") as caught:
            asyncio.run(OpenAI().send(request()))
        assert caught.value.kind == "key"

    def test_openai_serves_its_own_families_and_others_what_they_may_hold(self):
        openai = OpenAI(api_key=KEY)
        assert all(openai.serves(m) for m in ("gpt-5-mini", "gpt-4o", "o3", "ft:gpt-4o:x", "chatgpt-4o-latest"))
        assert not any(openai.serves(m) for m in ("claude-sonnet-5-5", "gemini-2.5-flash", "llama3", "gpt-oss-20b"))
        groq = OpenAI("groq", base_url="https://api.groq.com/openai/v1", model="llama-3.3-70b")
        assert all(groq.serves(m) for m in ("llama-3.3-70b", "openai/gpt-oss-20b", "gpt-oss-20b", "qwen3"))
        assert not any(groq.serves(m) for m in ("gpt-5-mini", "claude-opus-5-5", "gemini-2.5-pro"))
        router = OpenAI("router", base_url="https://openrouter.ai/api/v1", model="x")
        assert router.serves("claude-opus-5-5")
        google = OpenAI("g", base_url="https://generativelanguage.googleapis.com/v1beta/openai", model="gemini-2.5-pro")
        assert google.serves("gemini-2.5-flash")
        assert not google.serves("claude-opus-5-5")

    def test_reasoning_models_of_openai_take_an_effort_and_no_temperature(self):
        openai = OpenAI(api_key=KEY, context_tokens=400_000, images=False)
        assert (openai.capabilities("gpt-5-mini").temperature, openai.capabilities("gpt-5-mini").effort) == (
            False,
            True,
        )
        assert (openai.capabilities("gpt-4o").temperature, openai.capabilities("gpt-4o").effort) == (True, False)
        assert openai.capabilities("gpt-5-chat-latest").temperature
        assert (openai.capabilities("o3").context_tokens, openai.capabilities("o3").images) == (400_000, False)
        local = OpenAI("vllm", base_url="http://127.0.0.1:8000/v1", model="qwen3", schema=False)
        assert (local.capabilities("qwen3").temperature, local.capabilities("qwen3").schema) == (True, False)


def test_a_platform_works_on_one_loop_after_the_other():
    with ProviderServer() as server:
        platform = OpenAI(base_url=server.base_url, api_key=KEY, model="m")

        async def once():
            try:
                return await platform.send(request())
            finally:
                await platform.close()

        assert isinstance(asyncio.run(once()), Reply)
        assert isinstance(asyncio.run(once()), Reply)


def test_a_response_shows_no_body():
    assert KEY not in repr(Response(401, {}, KEY.encode()))
