"""P7: one attempt is one request, whatever goes wrong; and no cost of an attempt is made up."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import aiohttp  # noqa: F401 - imported before the clocks run, so that no first request pays for it
import pytest
from harness import read_ledger

from orchestrai.errors import TaskFailed
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms import Anthropic, Gemini, OpenAI
from orchestrai.task import Task
from orchestrai.testing import ProviderServer

pytestmark = pytest.mark.promise

FAULTS = (
    "429:0",
    "429",
    "500",
    "503:0",
    "503",
    "529",
    "400",
    "401",
    "402",
    "404",
    "hang",
    "slow:1",
    "cut_body",
    "cut_stream",
    "malformed",
    "empty",
    "reset",
    "redirect",
    "wrong_charset",
)
ATTEMPTS = 3
TIMEOUT_S = 0.8  # below what "slow:1" takes


def provider(*, always: bool) -> ProviderServer:
    """Return a provider on which each fault has a prompt of its own, and meets it at every attempt or at the first.

    A refusal that says when to come back does so for longer than any other fault is borne, and no longer: it is not
    given up for minutes.
    """
    script = {fault: fault if always else [fault] for fault in FAULTS}
    if always:
        script["429:0"] = ["429:0"] * ATTEMPTS
    return ProviderServer(script={f"^{re.escape(fault)} ": steps for fault, steps in script.items()})


PLATFORMS: dict[str, Callable[..., Any]] = {
    "chat": lambda server, **more: OpenAI(base_url=server.base_url, **more),
    "responses": lambda server, **more: OpenAI(base_url=server.base_url, api="responses", **more),
    "anthropic": lambda server, **more: Anthropic(base_url=server.url, **more),
    "gemini": lambda server, **more: Gemini(base_url=server.url, **more),
}


EVERYWHERE = pytest.mark.parametrize(
    ("speaks", "always"),
    [("chat", True), *((speaks, False) for speaks in PLATFORMS)],
    ids=["chat-always", *(f"{speaks}-once" for speaks in PLATFORMS)],
)


def orchestrator(project: Any, server: ProviderServer, speaks: str = "chat") -> Orchestrator:
    """Return one with a platform whose every token has a price."""
    price = {"input_mtok": "1", "output_mtok": "2"}
    platform = PLATFORMS[speaks](server, name="provider", api_key="test", model="test-model", price=price)
    return Orchestrator(project, platforms=[platform], settings={"attempts": ATTEMPTS, "timeout_s": TIMEOUT_S})


@EVERYWHERE
def test_every_request_at_the_provider_is_one_row_in_the_ledger(tmp_path, always, speaks):
    """For every kind of fault the provider counts as many requests as the ledger, and as the result says.

    Every fault has a model of its own, so that no refusal makes the tasks of another fault go unasked.
    """
    prompts = [f"{fault} {i}" for fault in FAULTS for i in range(3)]
    tasks = [Task(prompt, model=f"model-{prompt.split()[0].replace(':', '-')}") for prompt in prompts]
    with provider(always=always) as server, orchestrator(tmp_path, server, speaks) as orch:
        results = orch.batch_sync(tasks, progress="off")
        server.wait_for(lambda: not server.in_flight)
        received = Counter(server.prompts)
        charged = Counter({r.prompt: 0 for r in server.requests})
        for request in server.requests:
            charged[request.prompt] += request.input_tokens + 2 * request.output_tokens if request.billed_tokens else 0
    kept = read_ledger(tmp_path / ".orchestrai", tmp_path / "copy")
    assert kept.sends == received
    assert {result.task.prompt: result.attempts for result in results} == received
    longest = {prompt: ATTEMPTS + prompt.startswith("429:0") for prompt in prompts}
    assert all(count <= longest[prompt] for prompt, count in received.items())
    assert set(received.values()) >= ({1, ATTEMPTS, ATTEMPTS + 1} if always else {1, 2})
    assert kept.left_over() == {}
    for result in results:
        if result.cost is not None:  # unknown is None, and never less than what the provider charges
            assert result.cost * 1_000_000 == Decimal(charged[result.task.prompt]), result


@EVERYWHERE
def test_every_streamed_request_at_the_provider_is_one_row_in_the_ledger(tmp_path, always, speaks):
    """A stream that fails before its first piece may be asked again, each time as an attempt of its own."""

    async def consume(orch: Orchestrator) -> None:
        async def one(fault: str) -> None:
            stream = orch.stream(f"{fault} streamed")
            try:
                async for _ in stream:
                    pass
            except TaskFailed:
                pass
            assert stream.result is not None

        await asyncio.gather(*(one(fault) for fault in FAULTS))

    with provider(always=always) as server, orchestrator(tmp_path, server, speaks) as orch:
        asyncio.run(consume(orch))
        server.wait_for(lambda: not server.in_flight)
        received = Counter(server.prompts)
    kept = read_ledger(tmp_path / ".orchestrai", tmp_path / "copy")
    assert kept.sends == received
    assert len(received) == len(FAULTS)
    assert kept.left_over() == {}


def test_a_task_that_has_begun_keeps_what_it_cost_though_another_call_answers_it_meanwhile(tmp_path):
    """Between two attempts of a task the same is answered elsewhere: its first attempt stays on its own account."""

    async def both(orch: Orchestrator, server: ProviderServer) -> tuple[Any, Any]:
        slow = asyncio.ensure_future(orch.batch(["again"], progress="off"))
        await asyncio.to_thread(server.wait_for, lambda: bool(server.requests))
        other = await orch.batch(["again"], progress="off", reuse=False)
        return (await slow)[0], other[0]

    # A reply that cannot be used, charged for, and then refusals that say when to come back.
    server = ProviderServer(script=["malformed", None, None])
    with server, orchestrator(tmp_path, server) as orch:
        slow, other = asyncio.run(both(orch, server))
        charged = sum(r.input_tokens + 2 * r.output_tokens for r in server.requests)
        with sqlite3.connect(orch.ledger_path) as ledger:
            assert ledger.execute("SELECT count(*) FROM claims").fetchone() == (0,)
        ledger.close()
    assert other.attempts == 1
    assert slow.attempts == 2
    assert slow.cost is None or (slow.cost + other.cost) * 1_000_000 == charged
