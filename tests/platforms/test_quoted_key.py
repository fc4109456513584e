"""A provider that quotes the key in its answer does not bring it into results or the ledger."""

from __future__ import annotations

import asyncio

import pytest

from orchestrai import Orchestrator
from orchestrai.platforms import Anthropic, Gemini, OpenAI
from orchestrai.testing import ProviderServer

KEY = "zq-3f9a1c77e0b24d58"

APIS = {
    "chat completions": lambda server: OpenAI(base_url=server.base_url, api_key=KEY, model="some-model"),
    "responses": lambda server: OpenAI(base_url=server.base_url, api_key=KEY, model="some-model", api="responses"),
    "messages": lambda server: Anthropic(base_url=server.url, api_key=KEY, model="some-model"),
    "generateContent": lambda server: Gemini(base_url=server.url, api_key=KEY, model="some-model"),
}


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_quotes_the_key_is_kept_without_it(tmp_path, api):
    async def streamed(orch):
        stream = orch.stream("streamed")
        async for _ in stream:
            pass
        return stream.result

    words = f"Your key is {KEY}, keep it safe."
    with ProviderServer(replies={"whole": words, "streamed": words}) as server:
        with Orchestrator(tmp_path, platforms=[APIS[api](server)]) as orch:
            results = [orch.run_sync("whole"), asyncio.run(streamed(orch))]
        assert [r.output for r in results] == ["Your key is [key], keep it safe."] * 2
        assert all(KEY in str(request.headers) for request in server.requests)  # it was sent
    answered = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Your key is [key]" in answered
    assert KEY.encode() not in answered
