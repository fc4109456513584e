"""OpenAI's Responses: what goes out, what comes back, and which kind each failure is."""

import json
from decimal import Decimal

import pytest
from asking import Asking

from orchestrai import Orchestrator, attachments
from orchestrai.errors import InvalidSettings
from orchestrai.messages import Message
from orchestrai.platforms import responses
from orchestrai.platforms.openai import OpenAI
from orchestrai.platforms.protocol import Request
from orchestrai.result import NO_USAGE, Usage
from orchestrai.testing import Answer, Fault, Limits, ProviderServer

KEY = "sk-test-0123456789abcdefghijklmnopqrstuv"
PIXEL = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
CLOSED = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
EVENTS = {"content-type": "text/event-stream"}


ASKING = Asking(
    lambda server, **settings: OpenAI(
        base_url=server.base_url, **{"api_key": KEY, "model": "m", "api": "responses", **settings}
    ),
    "m",
)
request, run, send, stream, failure = ASKING.request, ASKING.run, ASKING.send, ASKING.stream, ASKING.failure


def sent(asked, **settings):
    with ProviderServer() as server:
        send(server, asked, **settings)
        assert server.requests[0].path == "/v1/responses"
        return server.requests[0].json


def replied(body, status=200, headers=None):
    return ProviderServer(script=lambda _: Fault("raw", status, headers=headers or {}, body=body))


def response(*output, **fields):
    """Return the bytes of a response object with these items."""
    return json.dumps({"id": "resp_1", "status": "completed", "model": "m-1", "output": output, **fields}).encode()


def message(text, **fields):
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "content": content, **fields}


def streamed(*events):
    """Return a server that sends these events."""
    body = b"".join(b"event: x\ndata: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return replied(body, headers=EVENTS)


def delta(text, at=0):
    return {"type": "response.output_text.delta", "output_index": at, "content_index": 0, "delta": text}


class TestRequests:
    def test_the_body_holds_what_was_asked_and_stores_nothing(self):
        assert sent(request()) == {
            "model": "m",
            "input": [{"role": "user", "content": "Hello."}],
            "store": False,
            "stream": False,
        }

    def test_every_option_has_its_field(self):
        asked = request(system="Be brief.", max_tokens=7, temperature=0.5, effort="low", json_schema=CLOSED)
        body = sent(asked)
        assert body["instructions"] == "Be brief."
        assert (body["max_output_tokens"], body["temperature"]) == (7, 0.5)
        assert body["reasoning"] == {"effort": "low"}
        constraint = {"type": "json_schema", "name": "answer", "strict": True, "schema": CLOSED}
        assert body["text"] == {"format": constraint}

    def test_an_open_schema_is_not_strict_and_a_platform_without_schemas_is_not_sent_one(self):
        asked = request(json_schema={**CLOSED, "additionalProperties": True})
        assert sent(asked)["text"]["format"]["strict"] is False
        assert "text" not in sent(asked, schema=False)

    def test_a_conversation_keeps_its_roles(self):
        turns = (Message("user", "1"), Message("assistant", ("2", "3")), Message("system", "4"), Message("user", "5"))
        assert sent(Request(turns, "m"))["input"] == [
            {"role": "user", "content": "1"},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "2"}, {"type": "output_text", "text": "3"}],
            },
            {"role": "system", "content": "4"},
            {"role": "user", "content": "5"},
        ]

    def test_an_image_and_a_text_file_travel_as_parts(self, tmp_path):
        path = tmp_path / "notes.md"
        path.write_text("a\n")
        parts = sent(request("What?", attachments.image(PIXEL), attachments.from_path(path)))["input"][0]["content"]
        assert parts[0] == {"type": "input_text", "text": "What?"}
        assert parts[1]["type"] == "input_image"
        assert parts[1]["image_url"].startswith("data:image/png;base64,iVBOR")
        assert parts[2] == {"type": "input_text", "text": "File: notes.md\n```\na\n```"}

    def test_extra_wins_and_leaves_constraint_and_effort_in_place(self):
        extra = {"store": True, "text": {"verbosity": "low"}, "reasoning": {"summary": "auto"}, "stream": True}
        body = sent(request(effort="low", json_schema=CLOSED, extra=extra))
        assert (body["store"], body["stream"]) == (True, False)
        assert body["reasoning"] == {"effort": "low", "summary": "auto"}
        assert body["text"]["verbosity"] == "low"
        assert body["text"]["format"]["schema"] == CLOSED
        assert sent(request(effort="low", extra={"reasoning": {"effort": "high"}}))["reasoning"] == {"effort": "high"}
        assert sent(request(effort="low", extra={"reasoning": None}))["reasoning"] is None

    def test_a_protocol_that_is_none_is_refused(self):
        with pytest.raises(InvalidSettings, match="Did you mean 'responses'"):
            OpenAI(api="response", api_key=KEY)

    def test_the_key_travels_in_one_header_alone(self):
        with ProviderServer(api_key=KEY) as server:
            send(server)
            one = server.requests[0]
            assert one.headers["authorization"] == f"Bearer {KEY}"
            assert KEY.encode() not in one.body


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
        with ProviderServer(replies=lambda _: answer, limits=Limits(rpm=6_000, burst_s=60)) as server:
            whole = send(server)
            *pieces, last = stream(server)
        for reply in (whole, last):
            assert reply.text == "Hi."
            assert reply.usage == Usage(1_200, 1_024, 76, 60, 32, "provider")
            assert (reply.model, reply.service_tier, reply.finish_reason) == ("m-2026-01-01", "flex", "stop")
            assert reply.http_status == 200
            assert json.loads(reply.usage_raw)["input_tokens_details"]["cached_tokens"] == 1_024
            assert reply.rate_limits.requests_limit == 6_000
        assert (whole.response_id, whole.request_id) == ("resp_0", "req-0")
        assert pieces == ["Hi."]
        assert last.ttft_ms > 0
        assert whole.ttft_ms is None

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (None, NO_USAGE),
            ([1], NO_USAGE),
            ({}, NO_USAGE),
            ({"input_tokens": -1, "output_tokens": 10**18}, NO_USAGE),
            ({"input_tokens": True, "output_tokens": "5"}, NO_USAGE),
            ({"input_tokens": 3}, Usage(3, None, None, None, None, "provider")),
            (
                {"input_tokens": 3, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 9}},
                Usage(3, None, None, 4, None, "provider"),
            ),
            (
                {"input_tokens": 3, "output_tokens": 4, "output_tokens_details": [1], "input_tokens_details": None},
                Usage(3, None, None, 4, None, "provider"),
            ),
        ],
    )
    def test_a_count_that_is_none_is_unknown_and_never_zero(self, given, expected):
        assert responses.usage(given) == expected

    @pytest.mark.parametrize(
        ("fields", "meant"),
        [
            ({"status": "completed"}, "stop"),
            ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
            ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "filter"),
            ({"status": "incomplete", "incomplete_details": {"reason": "something new"}}, None),
            ({"status": "incomplete", "incomplete_details": None}, None),
            ({"status": None}, None),
            ({"status": 7, "incomplete_details": [7]}, None),
        ],
    )
    def test_an_end_has_its_reason_whole_and_streamed(self, fields, meant):
        body = response(message("Hi."), **fields)
        with replied(body) as server:
            assert send(server).finish_reason == meant
        end = "response.incomplete" if fields["status"] == "incomplete" else "response.completed"
        with streamed(delta("Hi."), {"type": end, "response": json.loads(body)}) as server:
            assert stream(server)[-1].finish_reason == meant

    def test_reasoning_that_used_up_the_limit_is_an_empty_answer(self):
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        body = response({"type": "reasoning", "summary": []}, usage={"input_tokens": 3, "output_tokens": 50}, **cut)
        with replied(body) as server:
            reply = send(server)
        assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("", "length", 50)
        with streamed({"type": "response.incomplete", "response": json.loads(body)}) as server:
            (reply,) = stream(server)
        assert (reply.text, reply.finish_reason) == ("", "length")

    def test_the_text_is_that_of_the_messages_alone(self):
        items = (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "no"}], "content": [{"text": "no"}]},
            message("no", phase="commentary"),
            message("a", phase="final_answer"),
            {"type": "web_search_call", "status": "completed"},
            message("b"),
        )
        with replied(response(*items)) as server:
            assert send(server).text == "ab"

    def test_commentary_is_no_part_of_a_stream(self):
        whole = json.loads(response(message("no", phase="commentary"), message("yes")))
        with streamed(
            {"type": "response.output_item.added", "output_index": 0, "item": message("", phase="commentary")},
            delta("no", at=0),
            {"type": "response.output_item.added", "output_index": 1, "item": message("", phase="final_answer")},
            delta("yes", at=1),
            {"type": "response.completed", "response": whole},
        ) as server:
            *pieces, reply = stream(server)
        assert (pieces, reply.text) == (["yes"], "yes")

    def test_a_refusal_is_an_unusable_reply_with_its_usage(self):
        with ProviderServer(replies=lambda _: Answer("", refusal="I cannot help with that.")) as server:
            for in_pieces in (False, True):
                error = failure(server, streamed=in_pieces)
                assert (error.kind, error.may_be_billed, error.http_status) == ("reply", True, 200)
                assert "I cannot help with that." in str(error)
                assert error.reply.usage.source == "provider"

    def test_a_tool_call_instead_of_an_answer_is_unusable(self):
        call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
        with replied(response(call)) as server:
            error = failure(server)
        assert error.kind == "reply"
        assert "called a tool" in str(error)

    @pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
    def test_a_response_that_is_not_finished_is_unusable(self, status):
        with replied(response(status=status)) as server:
            error = failure(server)
        assert error.kind == "reply"
        assert status in str(error)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"{",
            b"[" * 100_000,
            response(output=None),
            response(output={"0": 1}),
            response(
                None, 7, {"type": "message", "content": None}, {"type": "message", "content": [None, {"text": 5}]}
            ),
            response({"type": "message", "content": [{"type": "output_text", "text": None}]}),
        ],
    )
    def test_what_holds_no_text_is_unusable(self, body):
        with replied(body) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)


class TestStreams:
    def test_the_pieces_then_the_reply_with_usage(self):
        answer = Answer("one two three", reasoning_tokens=1)
        with ProviderServer(replies=lambda _: answer, piece_s=0.002) as server:
            *pieces, reply = stream(server)
            assert server.requests[0].json["stream"] is True
        assert pieces == ["one", " two", " three"]
        assert (reply.text, reply.finish_reason) == ("one two three", "stop")
        assert reply.usage.reasoning_tokens == 1
        assert (reply.response_id, reply.request_id) == ("resp_0", "req-0")

    def test_a_server_that_sends_no_pieces_has_the_text_in_its_last_event(self):
        with streamed({"type": "response.completed", "response": json.loads(response(message("Hi.")))}) as server:
            text, reply = stream(server)
        assert (text, reply.text) == ("Hi.", "Hi.")

    def test_a_server_that_cannot_stream_is_read_whole(self):
        with replied(response(message("Hi."))) as server:
            text, reply = stream(server)
        assert (text, reply.text) == ("Hi.", "Hi.")

    def test_only_the_last_event_says_that_the_answer_is_whole(self):
        body = b"data: " + json.dumps(delta("Hi.")).encode() + b"\n\ndata: [DONE]\n\n"
        with replied(body, headers=EVENTS) as server:
            error = failure(server, streamed=True)
        assert error.kind == "reply"
        assert "ended before the answer did" in str(error)
        assert error.reply.text == "Hi."

    @pytest.mark.parametrize(("fault", "kind"), [("cut_stream", "connection"), ("malformed", "reply")])
    def test_a_cut_stream_carries_what_arrived(self, fault, kind):
        with ProviderServer(script=[fault], replies="one two three four five six seven eight") as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed) == (kind, True)
        assert "one two three four five six seven eight".startswith(error.reply.text)
        assert error.reply.model == "m"
        assert error.reply.response_id == "resp_0"

    def test_events_that_nobody_knows_mean_nothing(self):
        whole = json.loads(response(message("Hi.")))
        with streamed(
            {"type": "response.queued", "response": whole},
            {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "no"},
            {"type": "response.function_call_arguments.delta", "delta": "no"},
            {"type": "keepalive"},
            {},
            {"type": ["response.output_text.delta"], "delta": "no"},
            {"type": "response.output_text.delta", "output_index": {}, "delta": None},
            delta("Hi."),
            {"type": "response.completed", "response": whole},
            delta("after the end"),
        ) as server:
            *pieces, reply = stream(server)
        assert (pieces, reply.text) == (["Hi."], "Hi.")


FAILURES = [
    ("server_error", "overloaded"),
    ("server_is_overloaded", "overloaded"),
    ("rate_limit_exceeded", "rate"),
    ("usage_limit_reached", "window"),
    ("insufficient_quota", "balance"),
    ("context_length_exceeded", "request"),
    ("invalid_prompt", "request"),
    ("image_content_policy_violation", "request"),
    ("invalid_base64_image", "request"),
    ("something_new", "reply"),
    (None, "reply"),
]


class TestFailures:
    @pytest.mark.parametrize(("code", "kind"), FAILURES)
    def test_a_response_that_failed_has_the_kind_of_its_code_and_is_one_request(self, code, kind):
        failed = {"status": "failed", "error": {"code": code, "message": "It failed."}}
        with ProviderServer(replies=lambda _: Answer("", more=failed)) as server:
            for in_pieces in (False, True):
                error = failure(server, streamed=in_pieces)
                assert (error.kind, error.http_status, error.may_be_billed) == (kind, 200, True)
                assert "It failed." in str(error)
                assert error.reply.usage.source == "provider"
            assert len(server.requests) == 2

    @pytest.mark.parametrize(
        "event",
        [
            {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None},
            {"type": "error", "error": {"type": "x", "code": "rate_limit_exceeded", "message": "Slow down."}},
            {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}},
        ],
    )
    def test_an_error_in_the_midst_has_its_own_kind_and_carries_what_arrived(self, event):
        with streamed(delta("Hi"), event) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.text) == ("rate", True, "Hi")
        assert "Slow down." in str(error)

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (400, "context_length_exceeded", "request"),
            (401, "invalid_api_key", "key"),
            (404, "model_not_found", "request"),
            (429, "rate_limit_exceeded", "rate"),
            (429, "insufficient_quota", "balance"),
            (429, "usage_limit_reached", "window"),
            (500, "server_error", "overloaded"),
            (503, None, "overloaded"),
        ],
    )
    def test_each_refusal_has_its_kind(self, status, code, kind):
        body = json.dumps({"error": {"message": "no", "type": "x", "code": code}}).encode()
        for in_pieces in (False, True):
            with replied(body, status, {"retry-after": "3"}) as server:
                error = failure(server, streamed=in_pieces)
                assert len(server.requests) == 1
            assert (error.kind, error.http_status, error.may_be_billed) == (kind, status, False)
            assert error.retry_after_s == 3.0

    def test_a_server_without_this_protocol_is_told_by_its_address(self):
        with replied(b'{"detail":"Not Found"}', 404) as server:
            assert f"The request went to {server.base_url}/responses." in str(failure(server))

    def test_a_quoted_key_is_removed(self):
        failed = {"status": "failed", "error": {"code": "server_error", "message": f"cannot use {KEY}"}}
        with ProviderServer(replies=lambda _: Answer("", more=failed)) as server:
            for in_pieces in (False, True):
                assert KEY not in str(failure(server, streamed=in_pieces))


def test_a_table_of_the_settings_names_the_protocol_and_every_token_is_paid(tmp_path):
    answer = Answer("bug", input_tokens=1_000, cached_tokens=400, output_tokens=50, reasoning_tokens=40)
    with ProviderServer(replies=lambda _: answer) as server:
        price = {"input_mtok": "2", "cache_read_mtok": "1", "output_mtok": "10"}
        table = {"kind": "openai", "api": "responses", "base_url": server.base_url, "model": "m", "price": price}
        with Orchestrator(tmp_path, settings={"platforms": {"pro": table}}) as orch:
            result = orch.run_sync("What kind is it?", platform="pro")
        assert [one.path for one in server.requests] == ["/v1/responses"]
    assert (result.output, result.platform, result.usage) == ("bug", "pro", Usage(1_000, 400, 0, 50, 40, "provider"))
    assert result.cost == Decimal("0.0021")  # 600 at 2, 400 at 1, 50 at 10 USD a million
