"""A provider that limits how fast it may be asked: its limits are learned, kept, and no task is lost to them."""

from __future__ import annotations

import asyncio

from loopback import openai, orchestrator

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.protocol import Request
from orchestrai.testing import Fault, ProviderServer
from orchestrai.testing.server import Limits

PROMPTS = [f"prompt {i}" for i in range(60)]


def test_a_limit_is_learned_from_the_replies_and_kept(tmp_path):
    """Sixty tasks, twenty requests a second admitted, told nothing: hardly any is refused, none is lost."""
    with ProviderServer(limits=Limits(rpm=1_200)) as server, orchestrator(tmp_path, openai(server)) as orch:
        result = orch.batch_sync(PROMPTS, progress="off")
        refused = len(server.requests) - len(PROMPTS)
    assert result.success_count == len(PROMPTS), result.failures[:1]
    assert refused <= 10


def test_the_control_without_pacing_most_are_refused():
    async def all_at_once(server):
        platform = openai(server)
        requests = [Request((Message("user", prompt),), "test-model") for prompt in PROMPTS]
        ends = await asyncio.gather(*(platform.send(r) for r in requests), return_exceptions=True)
        await platform.close()
        return [end.kind for end in ends if isinstance(end, PlatformError)]

    with ProviderServer(limits=Limits(rpm=1_200)) as server:
        refused = asyncio.run(all_at_once(server))
    assert set(refused) == {"rate"}
    assert len(refused) > 20


def test_a_limit_that_settings_tell_is_kept_from_the_first_request(tmp_path):
    with ProviderServer(limits=Limits(rpm=1_200)) as server:
        with orchestrator(tmp_path, openai(server, limits={"rpm": 1_200})) as orch:
            result = orch.batch_sync(PROMPTS, progress="off")
        assert len(server.requests) == len(PROMPTS)
    assert result.success_count == len(PROMPTS)


def test_tasks_that_need_not_wait_for_a_platform_out_of_quota_are_not_sent_there(tmp_path):
    """One refusal that says until when is enough: the rest go elsewhere unasked, and with a new call one tries."""
    used_up = Fault("status", 429, code="daily_limit_exceeded", message="200 requests per day (RPD)")
    with ProviderServer(script=lambda _: used_up) as server, ProviderServer() as other:
        platforms = openai(server, name="first", tier="free"), openai(other, name="second")
        with orchestrator(tmp_path, *platforms) as orch:
            result = orch.batch_sync(PROMPTS, progress="off")
            asked = len(server.requests)
            assert orch.run_sync("a later call").platform == "second"
            assert len(server.requests) == asked + 1
    assert {r.platform for r in result} == {"second"}
    assert asked <= 10  # those that were under way
