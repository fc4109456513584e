"""How close to the ideal a batch comes under limits and faults that nobody told it, beside the usual clients.

    python benchmarks/limits.py                    everything that is installed; medians of 3
    python benchmarks/limits.py --quick            orchestrai alone, once
    pip install openai litellm langchain-openai    adds the peers

Three providers, each `orchestrai.testing.server` in a process of its own, fresh for every run:

    rate      50 requests/s, a bucket of half a second (25 requests), 1,000 tasks
    tokens    2,330 input tokens/s, a bucket of half a second, 600 tasks of about 100 tokens
    faults    no limit; 5 % 500, 3 % 429 (retry-after 1), 2 % cut bodies, 1 % malformed JSON; 400 tasks of 500 ms, C=20

Every client runs in a fresh process with its default retries and is told nothing but how many requests it may have under
way. `ideal` is what the limits allow to a client that never errs: what is not in the bucket at first has to come back.
A wall below it means that tasks were given up: read it with the column `lost`. Refusals are replies of status 429.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from orchestrai.testing import SpawnedServer

Batch = Callable[[list[str]], Awaitable[int]]
"""Runs one batch and returns how many of its tasks have an answer."""

REPLY = "It makes a crash harmless: what was promised is on disk first. PostgreSQL has one."
MODEL = "gpt-5-mini"


@dataclass(frozen=True)
class Scenario:
    """What a provider does, and what could be reached there."""

    title: str
    options: tuple[str, ...]
    tasks: int
    concurrency: int
    ideal_s: Callable[[int, float], float]  # of the tasks and their input tokens
    padding: int = 0  # characters added to each prompt


FAULTS = {"500": 0.05, "429:1": 0.03, "cut_body": 0.02, "malformed": 0.01}
SCENARIOS = {
    "rate": Scenario(
        "50 requests/s, half-second burst, told nothing",
        ("--rpm", "3000", "--burst-s", "0.5", "--latency", "0.05"),
        1000,
        100,
        lambda tasks, _: (tasks - 25) / 50,
    ),
    "tokens": Scenario(
        "2,330 tokens/s, half-second burst, told nothing",
        ("--tpm", "139800", "--burst-s", "0.5", "--latency", "0.05"),
        600,
        100,
        lambda _, tokens: (tokens - 1165) / 2330,
        padding=240,
    ),
    "faults": Scenario(
        "5 % 500, 3 % 429, 2 % cut, 1 % malformed; 500 ms",
        ("--faults", json.dumps(FAULTS), "--latency", "0.5"),
        400,
        20,
        lambda tasks, _: tasks / 20 * 0.5,
    ),
}


def prompts(scenario: Scenario) -> list[str]:
    asked = "Task {i}: say in one line what a write-ahead log is good for, and name one database that has one."
    return [asked.format(i=i) + " " + "x" * scenario.padding for i in range(scenario.tasks)]


# The clients. Each makes a function that runs one batch.


def ours(url: str, concurrency: int) -> Batch:
    from orchestrai.orchestrator import Orchestrator
    from orchestrai.platforms.openai import OpenAI

    platform = OpenAI(base_url=url, api_key="not-a-key", model=MODEL, provider="openai")
    orch = Orchestrator(project=tempfile.mkdtemp(prefix="orchestrai-bench-"), platforms=[platform])

    async def batch(texts: list[str]) -> int:
        result = await orch.batch(texts, concurrency=concurrency, progress="off")
        return result.success_count

    return batch


def answered(results: list[Any]) -> int:
    return sum(not isinstance(result, BaseException) for result in results)


def under_a_semaphore(ask: Callable[[str], Awaitable[Any]], concurrency: int) -> Batch:
    gate = asyncio.Semaphore(concurrency)

    async def one(text: str) -> Any:
        async with gate:
            return await ask(text)

    async def batch(texts: list[str]) -> int:
        return answered(await asyncio.gather(*(one(text) for text in texts), return_exceptions=True))

    return batch


def openai_sdk(url: str, concurrency: int, **more: Any) -> Batch:
    import openai

    client = openai.AsyncOpenAI(api_key="not-a-key", base_url=url, **more)

    async def ask(text: str) -> Any:
        reply = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
        return reply.choices[0].message.content

    return under_a_semaphore(ask, concurrency)


def openai_patient(url: str, concurrency: int) -> Batch:
    return openai_sdk(url, concurrency, max_retries=10)


def litellm_router(url: str, concurrency: int) -> Batch:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    parameters = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "not-a-key"}
    router = litellm.Router(model_list=[{"model_name": MODEL, "litellm_params": parameters}])

    async def ask(text: str) -> Any:
        return await router.acompletion(model=MODEL, messages=[{"role": "user", "content": text}])

    return under_a_semaphore(ask, concurrency)


def langchain(url: str, concurrency: int) -> Batch:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=url, api_key="not-a-key")

    async def batch(texts: list[str]) -> int:
        return answered(await model.abatch(texts, config={"max_concurrency": concurrency}, return_exceptions=True))

    return batch


CLIENTS: dict[str, Callable[[str, int], Batch]] = {
    "orchestrai": ours,
    "openai SDK": openai_sdk,
    "openai SDK, 10 retries": openai_patient,
    "LiteLLM Router": litellm_router,
    "LangChain": langchain,
}
NEEDS = {
    "openai SDK": "openai",
    "openai SDK, 10 retries": "openai",
    "LiteLLM Router": "litellm",
    "LangChain": "langchain_openai",
}


# What a child process measures.


def measure(client: str, scenario: Scenario, url: str) -> dict[str, float]:
    async def run() -> dict[str, float]:
        batch = CLIENTS[client](url, scenario.concurrency)
        texts = prompts(scenario)
        started = time.perf_counter()
        count = await batch(texts)
        return {"wall_s": time.perf_counter() - started, "answered": count}

    return asyncio.run(run())


# The parent.


def once(client: str, name: str) -> dict[str, float]:
    """Run one client once against a fresh provider."""
    scenario = SCENARIOS[name]
    with SpawnedServer(*scenario.options, "--reply", REPLY) as server:
        child = subprocess.run(
            [sys.executable, __file__, "--child", client, name, server.base_url],
            check=True,
            capture_output=True,
            text=True,
        )
        stats = server.stats()
    found = json.loads(child.stdout.splitlines()[-1])
    replies = sum(stats.get(count, 0) for count in ("answered", "fault_cut_body", "fault_malformed"))
    tokens = stats["billed_tokens"] - replies * (len(REPLY) // 4)
    return {
        "wall_s": found["wall_s"],
        "ideal_s": scenario.ideal_s(scenario.tasks, tokens * scenario.tasks / max(1, replies)),
        "lost": scenario.tasks - found["answered"],
        "refusals": stats.get("limited", 0) + stats.get("fault_429", 0),
        "requests": stats["requests"],
        "paid_again": replies - found["answered"],
    }


def compare(name: str, clients: list[str], repeats: int) -> None:
    scenario = SCENARIOS[name]
    print(f"\n## {scenario.title} ({scenario.tasks:,} tasks, C={scenario.concurrency}, median of {repeats})\n")
    print("| | wall s | wall / ideal | refusals | requests | lost | paid again |\n|---|---|---|---|---|---|---|")
    rows: dict[str, list[dict[str, float]]] = {client: [] for client in clients}
    for _ in range(repeats):
        for client in clients:
            rows[client].append(once(client, name))
    for client in clients:
        got = {key: statistics.median(row[key] for row in rows[client]) for key in rows[client][0]}
        got["ratio"] = statistics.median(row["wall_s"] / row["ideal_s"] for row in rows[client])
        print(
            f"| {client} | {got['wall_s']:.2f} | {got['ratio']:.3f} | {got['refusals']:.0f} | {got['requests']:.0f} "
            f"| {got['lost']:.0f} | {got['paid_again']:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=list(SCENARIOS))
    parser.add_argument("--repeats", type=int, help="runs of each client; 3 by default")
    parser.add_argument("--child", nargs=3, metavar=("CLIENT", "SCENARIO", "URL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        client, name, url = options.child
        print(json.dumps(measure(client, SCENARIOS[name], url)))
        return
    repeats = options.repeats or (1 if options.quick else 3)
    clients = [c for c in CLIENTS if c not in NEEDS or importlib.util.find_spec(NEEDS[c])]
    if options.quick:
        clients = ["orchestrai"]
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in [options.only] if options.only else SCENARIOS:
        compare(name, clients, repeats)


if __name__ == "__main__":
    main()
