"""P10: order in, order out, whatever the delays, and whichever answers are there already."""

from __future__ import annotations

import asyncio

import pytest
from harness import scaled, seeded

from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.protocol import Request
from orchestrai.testing import ScriptedPlatform
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.promise


def test_results_stand_in_the_order_of_the_input(tmp_path):
    """Random batches, empty ones and repeated prompts among them: result i answers prompt i."""
    chance = seeded()

    async def late(_request: Request) -> None:
        await asyncio.sleep(chance.expovariate(300))

    platform = ScriptedPlatform(replies=late, concurrency=32)
    batches = [
        [f"prompt {chance.randrange(5_000)}" for _ in range(chance.choice([0, 1, 2, chance.randrange(200)]))]
        for _ in range(scaled(200, 40))
    ]
    with Orchestrator(tmp_path, platforms=[platform]) as orch:
        for prompts in batches:
            results = orch.batch_sync(prompts, progress="off", concurrency=chance.choice([None, 1, 7]))
            assert [result.index for result in results] == list(range(len(prompts)))
            assert results.outputs == [answer_to(prompt) for prompt in prompts]
            assert [result.task.prompt for result in results] == prompts
    assert sorted(platform.prompts) == sorted({prompt for prompts in batches for prompt in prompts})


def test_results_that_come_as_they_finish_carry_their_place(tmp_path):
    """Each place in the input comes exactly once, with its own answer."""
    chance = seeded()

    async def late(_request: Request) -> None:
        await asyncio.sleep(chance.expovariate(300))

    async def collect(orch: Orchestrator, prompts: list[str]) -> dict[int, str | None]:
        found: dict[int, str | None] = {}
        async for result in orch.as_completed(iter(prompts)):
            assert result.index not in found
            found[result.index] = result.output
        return found

    with Orchestrator(tmp_path, platforms=[ScriptedPlatform(replies=late, concurrency=32)]) as orch:
        for _ in range(scaled(50, 10)):
            prompts = [f"prompt {chance.randrange(5_000)}" for _ in range(chance.randrange(300))]
            found = asyncio.run(collect(orch, prompts))
            assert found == {i: answer_to(prompt) for i, prompt in enumerate(prompts)}
