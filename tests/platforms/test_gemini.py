"""Gemini's generateContent: what goes out, what comes back, and which kind each refusal is."""

import asyncio
import json
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from urllib.parse import unquote

import jsonschema
import pytest
from asking import Asking

from orchestrai import attachments
from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.gemini import DEFAULT_MODEL, Gemini
from orchestrai.platforms.protocol import Platform, RateLimits, Reply, Request
from orchestrai.pricing import PriceList
from orchestrai.result import NO_USAGE, Usage
from orchestrai.testing import Answer, Fault, Limits, Place, PlatformConformance, ProviderServer
from orchestrai.testing.answers import answer_to
from orchestrai.testing.situations import HOSTILE_PROMPTS, TICKET_SCHEMA

KEY = "AIzaSy0123456789abcdefghijklmnopqrstuv"
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\x00IEND\xaeB`\x82"
)
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_TOKEN = "GenerateContentInputTokensPerModelPerMinute-FreeTier"
EXCEEDED = "You exceeded your current quota, please check your plan and billing details."
DEPLETED = "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing."

FAULTS = {
    "rate_limited": Fault("status", 429, code=PER_MINUTE, message=EXCEEDED),
    "window_used_up": Fault("status", 429, code=PER_DAY, message=EXCEEDED),
    "balance_empty": Fault("status", 402, message=DEPLETED),
    "overloaded": Fault("status", 503, message="The model is overloaded. Please try again later."),
    "refuses_key": Fault("status", 400, code="API_KEY_INVALID", message=f"API key not valid: {KEY}."),
    "refuses_request": Fault("status", 400, message="The input token count exceeds the maximum"),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


def counted(received):
    if "generationConfig" in received.json:
        return None
    return Answer(
        answer_to(received.prompt), input_tokens=1_200, cached_tokens=1_024, output_tokens=60, reasoning_tokens=32
    )


class TestGemini(PlatformConformance):
    @contextmanager
    def platform(self, situation):
        fault = FAULTS.get(situation)
        script = [Fault("status", 503)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            yield Place(
                Gemini(base_url="http://127.0.0.1:9" if situation == "unreachable" else server.url, api_key=KEY),
                requests=lambda: len(server.requests),
                prompts=lambda: server.prompts,
                idle=lambda: server.in_flight == 0,
                secret=KEY,
                usage=Usage(1_200, 1_024, None, 60, 32, "provider"),
                answer=answer_to,
            )


ASKING = Asking(
    lambda server, **settings: Gemini(base_url=server.url, **{"api_key": KEY, **settings}), "gemini-3.5-flash-lite"
)
request, run, send, stream, failure = ASKING.request, ASKING.run, ASKING.send, ASKING.stream, ASKING.failure


def asked_for(received):
    return unquote(received.path.removeprefix("/v1/models/").partition(":")[0])


def sent(asked, **settings):
    with ProviderServer() as server:
        send(server, asked, **settings)
        return server.requests[0].json


def replied(body, status=200, headers=None):
    return ProviderServer(script=lambda _: Fault("raw", status, headers=headers or {}, body=body))


def streamed_as(*documents):
    body = b"".join(b"data: %b\r\n\r\n" % json.dumps(document).encode() for document in documents)
    return replied(body, headers={"content-type": "text/event-stream"})


def response(text="Hi.", finish="STOP", **fields):
    candidate = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish}
    return {"candidates": [candidate], "modelVersion": "gemini-x", **fields}


def status(code, word, message, *details):
    kinds = {"reason": "ErrorInfo", "violations": "QuotaFailure", "retryDelay": "RetryInfo"}
    typed = [{"@type": f"type.googleapis.com/google.rpc.{kinds[next(iter(one))]}", **one} for one in details]
    return {"error": {"code": code, "message": message, "status": word, "details": typed}}


def quotas(*names):
    return {"violations": [{"quotaMetric": "x/requests", "quotaId": name, "quotaValue": "20"} for name in names]}


class TestRequests:
    def test_the_body_holds_what_was_asked_and_nothing_else(self):
        assert sent(request()) == {"contents": [{"role": "user", "parts": [{"text": "Hello."}]}]}

    def test_every_option_has_its_field(self):
        asked = request(system="Be brief.", max_tokens=7, temperature=0.5, effort="low")
        assert sent(asked) == {
            "contents": [{"role": "user", "parts": [{"text": "Hello."}]}],
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "generationConfig": {
                "maxOutputTokens": 7,
                "temperature": 0.5,
                "thinkingConfig": {"thinkingLevel": "LOW"},
            },
        }

    @pytest.mark.parametrize(
        ("model", "effort", "thinking"),
        [
            ("gemini-3.5-flash-lite", "minimal", {"thinkingLevel": "MINIMAL"}),
            ("gemini-3.5-flash-lite", "high", {"thinkingLevel": "HIGH"}),
            ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "MINIMAL"}),
            ("gemini-3.8-flash", "minimal", {"thinkingLevel": "LOW"}),
            ("gemini-3.1-pro-preview", "minimal", {"thinkingLevel": "LOW"}),
            ("gemini-4-argon", "medium", {"thinkingLevel": "MEDIUM"}),
            ("gemini-2.5-flash", "minimal", {"thinkingBudget": 0}),
            ("gemini-2.5-pro", "minimal", {"thinkingBudget": 128}),
            ("gemini-2.5-flash", "low", {"thinkingBudget": 1_024}),
            ("gemini-2.5-flash", "medium", {"thinkingBudget": 8_192}),
            ("gemini-2.5-pro", "high", {"thinkingBudget": 24_576}),
        ],
    )
    def test_an_effort_is_a_level_and_was_a_budget(self, model, effort, thinking):
        assert sent(request(effort=effort, model=model))["generationConfig"] == {"thinkingConfig": thinking}

    def test_a_conversation_keeps_its_roles_and_its_system_messages_join_the_prompt(self):
        turns = (Message("user", "1"), Message("assistant", "2"), Message("system", "3"), Message("user", "4"))
        body = sent(Request(turns, "gemini-x", system="0"))
        assert [(c["role"], c["parts"][0]["text"]) for c in body["contents"]] == [
            ("user", "1"),
            ("model", "2"),
            ("user", "4"),
        ]
        assert body["systemInstruction"] == {"parts": [{"text": "0\n\n3"}]}

    def test_extra_wins_and_joins_what_is_there(self):
        extra = {"generationConfig": {"topK": 5, "maxOutputTokens": 9}, "safetySettings": []}
        body = sent(request(max_tokens=7, temperature=1.0, extra=extra))
        assert body["generationConfig"] == {"maxOutputTokens": 9, "temperature": 1.0, "topK": 5}
        assert body["safetySettings"] == []

    def test_an_image_and_a_text_file_are_parts(self, tmp_path):
        path = tmp_path / "notes.md"
        path.write_text("a\n```\nb")
        parts = sent(request("Look.", attachments.image(PIXEL), attachments.from_path(path)))["contents"][0]["parts"]
        assert parts[0] == {"text": "Look."}
        assert parts[1]["inlineData"]["mimeType"] == "image/png"
        assert parts[1]["inlineData"]["data"].startswith("iVBOR")
        assert parts[2] == {"text": "File: notes.md\n````\na\n```\nb\n````"}

    def test_an_image_of_a_type_that_gemini_does_not_take_is_refused_unsent(self):
        with ProviderServer() as server:
            error = failure(server, request("Look.", attachments.image(b"GIF89a" + bytes(20))))
            assert server.requests == []
        assert error.kind == "request"
        assert "image/gif" in str(error)
        assert "image/webp" in str(error)

    def test_what_is_no_json_is_refused_unsent(self):
        with ProviderServer() as server:
            for asked in (request("half \ud83d"), request(extra={"x": object()}), request(system="\udc00")):
                assert failure(server, asked).kind == "request"
            assert server.requests == []

    def test_the_key_travels_in_one_header_and_in_no_address(self):
        with ProviderServer(api_key=KEY) as server:
            send(server)
            stream(server)
            whole, streamed = server.requests
        assert whole.headers["x-goog-api-key"] == streamed.headers["x-goog-api-key"] == KEY
        assert "authorization" not in whole.headers
        assert whole.path == "/v1/models/gemini-3.5-flash-lite:generateContent"
        assert streamed.path == "/v1/models/gemini-3.5-flash-lite:streamGenerateContent?alt=sse"
        assert KEY.encode() not in whole.body + streamed.body

    @pytest.mark.parametrize(
        ("model", "step"),
        [
            ("models/gemini-x", "gemini-x"),
            ("tuned/a?key=b#c", "tuned%2Fa%3Fkey%3Db%23c"),
            ("..", ".."),
            ("../../x", "..%2F..%2Fx"),
            ("é 1", "%C3%A9%201"),
        ],
    )
    def test_a_model_is_one_step_of_the_path_whatever_its_name(self, model, step):
        with ProviderServer() as server:
            send(server, request(model=model))
            assert server.requests[0].path == f"/v1/models/{step}:generateContent"

    @pytest.mark.parametrize(("end", "path"), [("", "/v1"), ("/v1/", "/v1"), ("/v1beta", "/v1beta"), ("/p", "/p/v1")])
    def test_an_address_may_name_its_version(self, end, path):
        with ProviderServer() as server:

            async def once():
                platform = Gemini(base_url=server.url + end, api_key=KEY, model="m")
                await platform.send(request(model="m"))
                await platform.close()

            asyncio.run(once())
            assert server.requests[0].path == f"{path}/models/m:generateContent"


class TestSchemas:
    def test_a_schema_is_a_constraint_and_its_answer_validates(self):
        asked = request("A ticket, please.", json_schema=TICKET_SCHEMA, effort="low")
        with ProviderServer() as server:
            reply = send(server, asked)
            config = server.requests[0].json["generationConfig"]
        jsonschema.validate(json.loads(reply.text), dict(TICKET_SCHEMA))
        assert config["responseMimeType"] == "application/json"
        assert config["responseJsonSchema"] == TICKET_SCHEMA
        assert config["thinkingConfig"] == {"thinkingLevel": "LOW"}

    def test_a_constant_is_an_enumeration_of_one_and_a_property_of_that_name_stays(self):
        schema = {
            "type": "object",
            "properties": {
                "const": {"type": "string", "default": {"const": 1}},
                "a": {"anyOf": [{"const": "x"}, {"type": "array", "items": {"const": 2}}]},
            },
            "$defs": {"D": {"const": None}},
        }
        config = sent(request(json_schema=schema))["generationConfig"]["responseJsonSchema"]
        assert config == {
            "type": "object",
            "properties": {
                "const": {"type": "string", "default": {"const": 1}},
                "a": {"anyOf": [{"enum": ["x"]}, {"type": "array", "items": {"enum": [2]}}]},
            },
            "$defs": {"D": {"enum": [None]}},
        }

    def test_a_platform_without_schemas_is_not_sent_one(self):
        assert "generationConfig" not in sent(request(json_schema=TICKET_SCHEMA), schema=False)


class TestReplies:
    def test_a_reply_says_everything_the_provider_said(self):
        answer = Answer(
            "Hi.",
            input_tokens=1_200,
            cached_tokens=1_024,
            output_tokens=60,
            reasoning_tokens=32,
            model="gemini-3.5-flash-lite-001",
            headers={"x-gemini-service-tier": "flex"},
        )
        with ProviderServer(replies=lambda _: answer) as server:
            reply = send(server)
        assert reply.text == "Hi."
        assert reply.usage == Usage(1_200, 1_024, None, 60, 32, "provider")
        assert (reply.model, reply.service_tier, reply.finish_reason) == ("gemini-3.5-flash-lite-001", "flex", "stop")
        assert (reply.response_id, reply.http_status, reply.rate_limits) == ("response-0", 200, None)
        assert json.loads(reply.usage_raw)["thoughtsTokenCount"] == 32

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, NO_USAGE),
            (None, NO_USAGE),
            ([1], NO_USAGE),
            ({"promptTokenCount": -1, "candidatesTokenCount": 10**18}, NO_USAGE),
            ({"promptTokenCount": True, "candidatesTokenCount": "5"}, NO_USAGE),
            ({"promptTokenCount": 3, "candidatesTokenCount": 4}, Usage(3, None, None, 4, None, "provider")),
            (
                {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": 5, "totalTokenCount": 12},
                Usage(3, None, None, 9, 5, "provider"),
            ),
            (  # a number of 0 is left out on the wire
                {"promptTokenCount": 3, "thoughtsTokenCount": 5, "totalTokenCount": 8},
                Usage(3, None, None, 5, 5, "provider"),
            ),
            ({"promptTokenCount": 3, "totalTokenCount": 3}, Usage(3, None, None, 0, None, "provider")),
            ({"promptTokenCount": 3, "totalTokenCount": 9}, Usage(3, None, None, None, None, "provider")),
            ({"promptTokenCount": 3}, Usage(3, None, None, None, None, "provider")),
            (
                {"promptTokenCount": 3, "toolUsePromptTokenCount": 7, "candidatesTokenCount": 4},
                Usage(10, None, None, 4, None, "provider"),
            ),
            (
                {"promptTokenCount": 3, "cachedContentTokenCount": 9, "candidatesTokenCount": 4},
                Usage(3, None, None, 4, None, "provider"),
            ),
            (
                {"promptTokenCount": 3, "candidatesTokenCount": 4, "thoughtsTokenCount": "many"},
                Usage(3, None, None, None, None, "provider"),
            ),
        ],
    )
    def test_the_output_includes_the_thoughts_and_what_is_absurd_is_unknown(self, given, expected):
        with replied(json.dumps(response(usageMetadata=given)).encode()) as server:
            assert send(server).usage == expected

    @pytest.mark.parametrize(
        ("told", "meant"),
        [
            ("STOP", "stop"),
            ("MAX_TOKENS", "length"),
            ("SAFETY", "filter"),
            ("RECITATION", "filter"),
            ("PROHIBITED_CONTENT", "filter"),
            ("SPII", "filter"),
            ("MALFORMED_FUNCTION_CALL", "tool"),
            ("OTHER", None),
            ("SOMETHING_NEW", None),
            (None, None),
            (7, None),
        ],
    )
    def test_finish_reasons_have_one_vocabulary(self, told, meant):
        with replied(json.dumps(response(finish=told)).encode()) as server:
            assert send(server).finish_reason == meant

    def test_thinking_that_used_up_the_limit_is_an_empty_answer(self):
        body = response(usageMetadata={"promptTokenCount": 3, "thoughtsTokenCount": 50, "totalTokenCount": 53})
        body["candidates"][0] = {"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}
        for server in (replied(json.dumps(body).encode()), streamed_as(body)):
            with server:
                reply = stream(server)[-1]
            assert (reply.text, reply.finish_reason) == ("", "length")
            assert reply.usage == Usage(3, None, None, 50, 50, "provider")

    def test_a_blocked_prompt_is_an_unusable_reply_with_its_usage(self):
        with ProviderServer(replies=lambda _: Answer("", refusal="PROHIBITED_CONTENT", output_tokens=0)) as server:
            for streamed in (False, True):
                error = failure(server, streamed=streamed)
                assert (error.kind, error.may_be_billed, error.http_status) == ("reply", True, 200)
                assert "PROHIBITED_CONTENT" in str(error)
                assert error.reply.finish_reason == "filter"
                assert error.reply.usage.source == "provider"

    def test_a_filtered_answer_without_text_is_unusable_and_with_text_is_marked(self):
        replies = {"all": Answer("", "SAFETY"), "part": Answer("Hal", "SAFETY")}
        with ProviderServer(replies=replies) as server:
            for streamed in (False, True):
                error = failure(server, request("all"), streamed=streamed)
                assert error.kind == "reply"
                assert "content filter" in str(error)
                assert error.reply.usage.source == "provider"
            reply = send(server, request("part"))
        assert (reply.text, reply.finish_reason) == ("Hal", "filter")

    @pytest.mark.parametrize(
        "candidates",
        [
            [],
            None,
            {"0": 1},
            [None],
            [{"finishReason": "STOP"}],
            [{"content": None, "finishReason": "STOP"}],
            [{"content": {"parts": []}, "finishReason": "STOP"}],
            [{"content": {"parts": {"text": "no"}}, "finishReason": "STOP"}],
            [{"content": {"parts": [None, 5, {"text": 5}]}, "finishReason": "STOP"}],
            [{"content": {"parts": [{"text": "Hm.", "thought": True}]}, "finishReason": "STOP"}],
            [{"content": {"parts": [{"functionCall": {}}]}, "finishReason": "UNEXPECTED_TOOL_CALL"}],
        ],
    )
    def test_a_reply_without_text_is_unusable_and_still_booked(self, candidates):
        usage = {"promptTokenCount": 12, "candidatesTokenCount": 3}
        with replied(json.dumps(response(usageMetadata=usage) | {"candidates": candidates}).encode()) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)
        assert error.reply.usage == Usage(12, None, None, 3, None, "provider")

    @pytest.mark.parametrize(
        "body", [b"", b"null", b"[]", b"7", b'"text"', b"<html>", b"\xff\xfe", b"[" * 100_000, b"{"]
    )
    def test_what_is_no_response_is_unusable(self, body):
        with replied(body) as server:
            error = failure(server)
        assert (error.kind, error.may_be_billed) == ("reply", True)

    def test_text_parts_are_joined_and_thoughts_are_no_text(self):
        parts = [{"text": "no", "thought": True}, {"text": "a"}, {"text": "b", "thoughtSignature": "x"}]
        body = response()
        body["candidates"][0]["content"]["parts"] = parts
        with replied(json.dumps(body).encode()) as server:
            assert send(server).text == "ab"


class TestStreams:
    def test_the_pieces_then_the_reply_with_usage(self):
        answer = Answer("one two three", input_tokens=120, cached_tokens=100, output_tokens=9, reasoning_tokens=2)
        with ProviderServer(replies=lambda _: answer, piece_s=0.005) as server:
            *pieces, reply = stream(server)
        assert pieces == ["one", " two", " three"]
        assert reply.text == "one two three"
        assert reply.usage == Usage(120, 100, None, 9, 2, "provider")
        assert (reply.finish_reason, reply.response_id, reply.model) == ("stop", "response-0", "gemini-3.5-flash-lite")
        assert reply.ttft_ms > 0

    def test_of_a_cut_stream_the_input_is_known_and_the_output_is_not(self):
        answer = Answer("one two three four five six", input_tokens=120, output_tokens=9)
        with ProviderServer(script=["cut_stream"], replies=lambda _: answer) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed) == ("connection", True)
        assert "one two three four five six".startswith(error.reply.text)
        assert error.reply.usage == Usage(120, None, None, None, None, "provider")

    def test_a_malformed_event_is_unusable(self):
        with ProviderServer(script=["malformed"], replies="one two three") as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.text) == ("reply", True, "one")

    def test_a_stream_that_ends_early_without_a_cut_is_unusable(self):
        with streamed_as(response("Hal", None)) as server:
            error = failure(server, streamed=True)
        assert error.kind == "reply"
        assert "ended before the answer did" in str(error)
        assert error.reply.text == "Hal"

    def test_the_last_usage_counts_also_after_the_reason(self):
        last = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}, "modelVersion": "gemini-x"}
        early = response("Hi.", usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 1})
        with streamed_as(early, last) as server:
            *pieces, reply = stream(server)
        assert (pieces, reply.usage) == (["Hi."], Usage(3, None, None, 4, None, "provider"))

    @pytest.mark.parametrize(
        ("code", "word", "kind"),
        [
            (503, "UNAVAILABLE", "overloaded"),
            (429, "RESOURCE_EXHAUSTED", "rate"),
            (500, "INTERNAL", "overloaded"),
            (400, "INVALID_ARGUMENT", "request"),
            (None, "RESOURCE_EXHAUSTED", "rate"),
            (None, "UNAVAILABLE", "overloaded"),
            (None, "NEWS", "reply"),
        ],
    )
    def test_an_error_in_the_midst_has_its_own_kind(self, code, word, kind):
        with streamed_as(response("Hi", None), status(code, word, "no more")) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.may_be_billed, error.reply.text) == (kind, True, "Hi")

    def test_a_server_that_answers_a_stream_as_a_list_is_read_to_its_end(self):
        body = [response("one", None, usageMetadata={"promptTokenCount": 3}), response(" two")]
        body[1]["usageMetadata"] = {"promptTokenCount": 3, "candidatesTokenCount": 4}
        with replied(json.dumps(body).encode()) as server:
            text, reply = stream(server)
        assert (text, reply.text, reply.finish_reason) == ("one two", "one two", "stop")
        assert reply.usage == Usage(3, None, None, 4, None, "provider")

    def test_an_error_instead_of_a_stream_is_typed(self):
        body = json.dumps([status(429, "RESOURCE_EXHAUSTED", EXCEEDED, {"retryDelay": "3s"})]).encode()
        with replied(body, 429) as server:
            error = failure(server, streamed=True)
        assert (error.kind, error.retry_after_s, error.may_be_billed) == ("rate", 3.0, False)


def info(reason):
    return {"reason": reason, "domain": "googleapis.com"}


ERRORS = [
    (400, "INVALID_ARGUMENT", "bad field", (), "request"),
    (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", (info("API_KEY_INVALID"),), "key"),
    (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", (info("API_KEY_INVALID"),), "key"),
    (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", (), "key"),
    (
        400,
        "FAILED_PRECONDITION",
        "The free tier is not available in your country. Please enable billing.",
        (),
        "balance",
    ),
    (401, "UNAUTHENTICATED", "no credentials", (), "key"),
    (402, "RESOURCE_EXHAUSTED", DEPLETED, (), "balance"),
    (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers", (), "key"),
    (403, "PERMISSION_DENIED", "the service is disabled", (info("SERVICE_DISABLED"),), "key"),
    (404, "NOT_FOUND", "models/gemini-3.5-flash-lite is not found", (), "request"),
    (408, "DEADLINE_EXCEEDED", "too slow", (), "timeout"),
    (409, "ABORTED", "conflict", (), "overloaded"),
    (413, "INVALID_ARGUMENT", "too large", (), "request"),
    (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota).", (), "rate"),
    (429, "RESOURCE_EXHAUSTED", EXCEEDED, (quotas(PER_MINUTE),), "rate"),
    (429, "RESOURCE_EXHAUSTED", EXCEEDED, (quotas(PER_TOKEN),), "rate"),
    (429, "RESOURCE_EXHAUSTED", EXCEEDED, (quotas(PER_DAY),), "window"),
    (429, "RESOURCE_EXHAUSTED", EXCEEDED, (quotas(PER_MINUTE, PER_DAY), {"retryDelay": "11.6s"}), "window"),
    (429, "RESOURCE_EXHAUSTED", "Your project has exceeded its monthly spending cap.", (), "window"),
    (429, "RESOURCE_EXHAUSTED", DEPLETED, (), "balance"),
    (500, "INTERNAL", "internal", (), "overloaded"),
    (503, "UNAVAILABLE", "The model is overloaded.", (), "overloaded"),
    (504, "DEADLINE_EXCEEDED", "deadline", (), "overloaded"),
]


class TestErrors:
    @pytest.mark.parametrize(("code", "word", "words", "details", "kind"), ERRORS)
    def test_each_refusal_has_its_kind_and_is_one_request(self, code, word, words, details, kind):
        with replied(json.dumps(status(code, word, words, *details)).encode(), code) as server:
            error = failure(server)
            assert len(server.requests) == 1
        assert error.kind == kind
        assert error.http_status == code
        assert words in str(error)
        assert error.may_be_billed is (code == 504), "a gateway may have waited for an answer that was given"

    @pytest.mark.parametrize(
        ("details", "wait"),
        [
            (({"retryDelay": "45.8s"},), 45.8),
            (({"retryDelay": "0s"},), 0.0),
            ((quotas(PER_MINUTE), {"retryDelay": "7s"}), 7.0),
            (({"retryDelay": "soon"},), None),
            (({"retryDelay": 7},), None),
            (({"retryDelay": "-3s"},), None),
            ((), None),
        ],
    )
    def test_a_wait_in_the_body_is_honoured_and_garbage_ignored(self, details, wait):
        with replied(json.dumps(status(429, "RESOURCE_EXHAUSTED", EXCEEDED, *details)).encode(), 429) as server:
            assert failure(server).retry_after_s == wait

    @pytest.mark.parametrize(
        ("now", "wait"),
        [
            (datetime(2026, 11, 22, 10, 0, tzinfo=UTC), 22 * 3_600),  # midnight is 08:00 UTC in winter
            (datetime(2026, 7, 1, 6, 59, tzinfo=UTC), 60),  # and 07:00 in summer
            (datetime(2026, 11, 1, 7, 30, tzinfo=UTC), 24.5 * 3_600),  # a day of 25 hours
        ],
    )
    def test_a_day_ends_at_midnight_in_california_whatever_delay_is_told(self, now, wait):
        body = json.dumps(status(429, "RESOURCE_EXHAUSTED", EXCEEDED, quotas(PER_DAY), {"retryDelay": "11s"})).encode()
        with replied(body, 429, {"date": format_datetime(now, usegmt=True)}) as server:
            error = failure(server)
        assert (error.kind, error.retry_after_s) == ("window", wait)

    @pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "soon", ""])
    def test_an_absurd_clock_of_a_reply_is_survived(self, date):
        body = json.dumps(status(429, "RESOURCE_EXHAUSTED", EXCEEDED, quotas(PER_DAY))).encode()
        with replied(body, 429, {"date": date}) as server:
            error = failure(server)
        assert error.kind == "window"
        assert error.retry_after_s is None or 0 < error.retry_after_s <= 25 * 3_600

    def test_a_month_has_no_wait_that_is_known(self):
        with replied(json.dumps(status(429, "X", "exceeded its monthly spending cap")).encode(), 429) as server:
            assert failure(server).retry_after_s is None

    def test_a_missing_model_is_named(self):
        with ProviderServer(script=lambda _: Fault("status", 404, message="not found")) as server:
            assert "(model 'gemini-nope')" in str(failure(server, request(model="gemini-nope")))

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"message":"plain"}', "plain"),
            (b'{"error":{"message":{"no":"text"}}}', '{"error"'),
            (b'{"error":"text"}', '{"error":"text"}'),
            (b'{"error":{"message":"m","details":{"a":1}}}', "m"),
            (b'{"error":{"message":"m","details":[null,[],{"violations":[null,{"quotaId":5}],"reason":5}]}}', "m"),
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
        with replied(json.dumps(status(503, "UNAVAILABLE", "overloaded")).encode()) as server:
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
        assert 0 < error.retry_after_s <= 1
        assert error.rate_limits == RateLimits(requests_limit=60, requests_left=0)

    @pytest.mark.parametrize(
        ("violations", "limits"),
        [
            ([{"quotaId": PER_MINUTE, "quotaValue": "15"}], RateLimits(requests_limit=15, requests_left=0)),
            ([{"quotaId": PER_TOKEN, "quotaValue": "250000"}], RateLimits(tokens_limit=250_000, tokens_left=0)),
            (
                [{"quotaId": PER_TOKEN, "quotaValue": "9"}, {"quotaId": PER_MINUTE, "quotaValue": "8"}],
                RateLimits(requests_limit=8, requests_left=0, tokens_limit=9, tokens_left=0),
            ),
            ([{"quotaId": PER_DAY, "quotaValue": "20"}], None),
            ([{"quotaId": PER_MINUTE}], None),
            ([{"quotaId": PER_MINUTE, "quotaValue": 15}], None),
            ([{"quotaId": PER_MINUTE, "quotaValue": "-1"}], None),
            ([{"quotaId": 7, "quotaValue": "15"}, None], None),
            ({"quotaId": PER_MINUTE}, None),
        ],
    )
    def test_a_refusal_names_the_limits_of_the_minute(self, violations, limits):
        body = status(429, "RESOURCE_EXHAUSTED", EXCEEDED, {"violations": violations})
        with replied(json.dumps(body).encode(), 429) as server:
            assert failure(server).rate_limits == limits


class TestSettings:
    def test_it_is_a_platform_with_its_defaults(self):
        platform = Gemini(api_key=KEY)
        assert isinstance(platform, Platform)
        assert (platform.name, platform.model, platform.tier, platform.provider) == (
            "gemini",
            DEFAULT_MODEL,
            "paid",
            "google",
        )
        assert platform.address == "generativelanguage.googleapis.com:443"

    def test_the_environment_fills_what_is_not_given(self, monkeypatch):
        monkeypatch.setenv("GOOGLE_API_KEY", "AIza-second")
        second = Gemini().account
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setenv("GEMINI_MODEL", "gemini-2.5-flash")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "http://127.0.0.1:9")
        platform = Gemini()
        assert (platform.model, platform.address) == ("gemini-2.5-flash", "127.0.0.1:9")
        assert platform.account not in (None, second)

    def test_a_key_of_the_environment_never_goes_to_an_address_given_here(self, monkeypatch):
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        with ProviderServer() as server:
            send(server, api_key=None)
            assert "x-goog-api-key" not in server.requests[0].headers

    def test_without_a_key_google_is_not_asked(self):
        with pytest.raises(PlatformError, match="GEMINI_API_KEY") as caught:
            asyncio.run(Gemini().send(request()))
        assert caught.value.kind == "key"

    def test_it_serves_googles_models_and_elsewhere_all_but_others_closed_ones(self):
        own = Gemini(api_key=KEY)
        assert all(own.serves(model) for model in ("gemini-4-argon", "gemma-4-31b-it", "models/gemini-2.5-flash"))
        assert not any(own.serves(model) for model in ("gpt-5-mini", "claude-haiku-5-5", "llama-3"))
        other = Gemini(base_url="http://127.0.0.1:9", model="x")
        assert all(other.serves(model) for model in ("gemini-4-argon", "llama-3", "gpt-oss-20b"))
        assert not any(other.serves(model) for model in ("gpt-5-mini", "claude-haiku-5-5", "o3"))

    @pytest.mark.parametrize(
        ("model", "temperature", "effort"),
        [
            ("gemini-3.5-flash-lite", False, True),
            ("gemini-3.8-flash", False, True),
            ("gemini-4-argon", False, True),
            ("gemini-flash-latest", False, True),
            ("gemini-3.5-flash", True, True),
            ("gemini-3.1-flash-lite", True, True),
            ("gemini-3-flash-preview", True, True),
            ("gemini-2.5-pro", True, True),
            ("gemini-2.0-flash", True, False),
            ("models/gemini-1.5-pro", True, False),
            ("gemma-3-27b-it", True, False),
            ("llama-3", True, True),
        ],
    )
    def test_capabilities_follow_the_model(self, model, temperature, effort):
        can = Gemini(api_key=KEY, context_tokens=1_000_000).capabilities(model)
        assert (can.temperature, can.effort) == (temperature, effort)
        assert (can.schema, can.images, can.context_tokens) == (True, True, 1_000_000)


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


def test_the_cost_of_a_reply_with_thoughts_is_what_genai_prices_says_by_hand():
    from genai_prices import Usage as Counts
    from genai_prices import calc_price

    answer = Answer("Hi.", input_tokens=1_200, cached_tokens=1_024, output_tokens=60, reasoning_tokens=32)
    with ProviderServer(replies=lambda _: answer) as server:
        reply = send(server)
    assert isinstance(reply, Reply)
    price = PriceList().find("google", reply.model, service_tier=reply.service_tier)
    counts = Counts(input_tokens=1_200, cache_read_tokens=1_024, output_tokens=60)
    by_hand = calc_price(counts, "gemini-3.5-flash-lite", provider_id="google").total_price
    assert price.cost(reply.usage) == by_hand
    # 176 plain and 1,024 cached tokens of input, 28 of the answer and 32 of thoughts, at 0.30 / 0.03 / 2.50 USD a million
    assert by_hand == (Decimal(176) * 3 / 10 + Decimal(1_024) * 3 / 100 + Decimal(28 + 32) * 5 / 2) / 10**6
