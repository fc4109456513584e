"""The bundled platforms pass the suite that third parties' platforms pass."""

import asyncio
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.openai import OpenAI
from orchestrai.platforms.protocol import Reply
from orchestrai.result import Usage
from orchestrai.testing import Answer, Fault, Place, PlatformConformance, ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to

KEY = "sk-conformance-0123456789abcdefghij"

OPENAI_FAULTS = {
    "rate_limited": Fault("status", 429, headers={"retry-after": "2"}),
    "window_used_up": Fault("status", 429, code="daily_limit_exceeded", message="Limit 200 requests per day (RPD)"),
    "balance_empty": Fault("status", 429, code="insufficient_quota"),
    "overloaded": Fault("status", 503),
    "refuses_key": Fault("status", 401, message=f"Incorrect API key provided: {KEY}."),
    "refuses_request": Fault("status", 400, code="context_length_exceeded"),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


def counted(received):
    if "json_schema" in str(received.json.get("response_format") or received.json.get("text")):
        return None
    return Answer(
        answer_to(received.prompt),
        input_tokens=1_200,
        cached_tokens=1_024,
        cache_write_tokens=76,
        output_tokens=60,
        reasoning_tokens=32,
    )


class TestOpenAI(PlatformConformance):
    api = "chat"

    @contextmanager
    def platform(self, situation):
        fault = OPENAI_FAULTS.get(situation)
        script = [Fault("status", 503)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            base_url = f"http://127.0.0.1:{closed_port()}/v1" if situation == "unreachable" else server.base_url
            yield Place(
                OpenAI(base_url=base_url, api_key=KEY, model="test-model", api=self.api),
                requests=lambda: len(server.requests),
                prompts=lambda: server.prompts,
                idle=lambda: server.in_flight == 0,
                secret=KEY,
                usage=Usage(1_200, 1_024, 76, 60, 32, "provider"),
                answer=answer_to,
            )


class TestOpenAIResponses(TestOpenAI):
    api = "responses"


class TestScriptedPlatform(PlatformConformance):
    not_applicable: ClassVar = {"unreachable": "it has no network that could be missing"}
    of = ScriptedPlatform

    @contextmanager
    def platform(self, situation):
        kinds = {
            "rate_limited": PlatformError("rate", "slower, please", retry_after_s=2.0),
            "window_used_up": "window",
            "balance_empty": "balance",
            "overloaded": "overloaded",
            "refuses_key": "key",
            "refuses_request": "request",
            "cut": "connection",
            "malformed": "reply",
        }

        def faults(_, attempt):
            return "overloaded" if situation == "fails_once" and attempt == 0 else kinds.get(situation)

        platform = self.of(faults=faults, delay_s=3_600 if situation == "hangs" else 0)
        yield Place(
            platform,
            requests=lambda: len(platform.requests),
            prompts=lambda: platform.prompts,
            idle=lambda: platform.in_flight == 0,
            secret=KEY,
            usage=Usage(3, 0, None, 5, 0, "provider"),
            answer=answer_to,
        )


class SendsTwice(ScriptedPlatform):
    async def send(self, request):
        await super().send(request)
        return await super().send(request)


class SwallowsCancelling(ScriptedPlatform):
    async def send(self, request):
        try:
            return await super().send(request)
        except asyncio.CancelledError:
            raise PlatformError("timeout", "gave up") from None


class LeavesATaskBehind(ScriptedPlatform):
    async def send(self, request):
        self.task = asyncio.create_task(super().send(request))
        return await asyncio.shield(self.task)


class ShowsItsKey(ScriptedPlatform):
    def __repr__(self):
        return f"ShowsItsKey({KEY})"


class TakesACutForWhole(ScriptedPlatform):
    async def send(self, request):
        try:
            return await super().send(request)
        except PlatformError:
            return Reply("half an", usage=Usage(1, 0, None, 1, 0, "provider"))


class StreamsOtherWords(ScriptedPlatform):
    async def stream(self, request):
        yield "other "
        yield await self.send(request)


class StripsItsPrompts(ScriptedPlatform):
    async def send(self, request):
        message = Message("user", request.messages[0].text.strip())
        return await super().send(replace(request, messages=(message,)))


class ReportsPartsAboveTheWhole(ScriptedPlatform):
    async def send(self, request):
        return replace(await super().send(request), usage=Usage(10, 20, None, 5, 9, "provider"))


class GuessesKinds(ScriptedPlatform):
    async def send(self, request):
        try:
            return await super().send(request)
        except PlatformError as error:
            raise PlatformError("overloaded", str(error)) from None


@pytest.mark.parametrize(
    ("broken", "contract"),
    [
        (SendsTwice, "test_one_send_is_one_request_and_returns_answer_and_usage"),
        (SwallowsCancelling, "test_cancelling_a_request_leaves_nothing"),
        (LeavesATaskBehind, "test_cancelling_a_request_leaves_nothing"),
        (ShowsItsKey, "test_no_key_shows_in_what_it_prints"),
        (TakesACutForWhole, "test_a_cut_answer_is_never_taken_for_whole"),
        (StreamsOtherWords, "test_the_pieces_of_a_stream_are_the_text_of_its_reply"),
        (StripsItsPrompts, "test_hostile_prompts_travel_byte_equal"),
        (ReportsPartsAboveTheWhole, "test_one_send_is_one_request_and_returns_answer_and_usage"),
        (GuessesKinds, "test_a_used_up_window_is_told_as_such"),
    ],
)
def test_the_suite_sees_a_broken_platform(broken, contract):
    class Suite(TestScriptedPlatform):
        bound_s = 0.5
        of = broken

    getattr(TestScriptedPlatform(), contract)()
    with pytest.raises((AssertionError, TimeoutError)):
        getattr(Suite(), contract)()


def test_a_situation_that_is_no_situation_cannot_be_declared_away():
    class Suite(TestScriptedPlatform):
        not_applicable: ClassVar = {"rate-limited": "a slip of the pen"}

    with pytest.raises(AssertionError):
        Suite().test_what_is_declared_not_applicable_is_a_known_situation_with_a_reason()


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
