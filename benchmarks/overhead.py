"""What orchestrai costs per task, beside raw aiohttp, the openai SDK and LiteLLM, in one run.

    python benchmarks/overhead.py                 everything that is installed; medians of 5
    python benchmarks/overhead.py --quick         two repeats, no peers, 20,000 tasks instead of 100,000
    pip install openai litellm                    adds the peers

The provider is `orchestrai.testing.server` in a process of its own. Every variant runs in a fresh process; a number
is taken in its second batch, when connections, prices and pages are warm. CPU is that of the client's process, all
threads included: ledger at FULL, reuse check on, progress off. Machines are shared and noisy, so read the ratios;
the variants of a repeat run one after another, and medians are taken over repeats. The engine's own loop is uvloop's
where that is installed (chromadb brings it along); raw aiohttp is what one writes, on asyncio's, and on uvloop beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from orchestrai.testing import SpawnedServer

PROMPT = "Task {i}: say in one line what a write-ahead log is good for, and name one database that has one."


def prompts(count: int, tag: str) -> list[str]:
    return [f"{tag} " + PROMPT.format(i=i) for i in range(count)]


# The variants. Each makes a function that runs one batch.


async def raw(url: str, concurrency: int) -> Callable[[list[str]], Awaitable[None]]:
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency))
    gate = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> str:
        body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": prompt}]}
        async with gate, session.post(f"{url}/chat/completions", json=body) as reply:
            answer = await reply.json()
            return answer["choices"][0]["message"]["content"]

    async def batch(texts: list[str]) -> None:
        answers = await asyncio.gather(*(one(text) for text in texts))
        assert len(answers) == len(texts)

    return batch


async def openai_sdk(url: str, concurrency: int) -> Callable[[list[str]], Awaitable[None]]:
    import openai

    client = openai.AsyncOpenAI(api_key="not-a-key", base_url=url, max_retries=0)
    gate = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> str | None:
        async with gate:
            reply = await client.chat.completions.create(
                model="gpt-5-mini", messages=[{"role": "user", "content": prompt}]
            )
            return reply.choices[0].message.content

    async def batch(texts: list[str]) -> None:
        await asyncio.gather(*(one(text) for text in texts))

    return batch


async def litellm_sdk(url: str, concurrency: int) -> Callable[[list[str]], Awaitable[None]]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    gate = asyncio.Semaphore(concurrency)

    async def one(prompt: str) -> Any:
        async with gate:
            return await litellm.acompletion(
                model="openai/gpt-5-mini",
                api_base=url,
                api_key="not-a-key",
                num_retries=0,
                messages=[{"role": "user", "content": prompt}],
            )

    async def batch(texts: list[str]) -> None:
        await asyncio.gather(*(one(text) for text in texts))

    return batch


def orchestrator(url: str, folder: str) -> Any:
    from orchestrai.orchestrator import Orchestrator
    from orchestrai.platforms.openai import OpenAI

    platform = OpenAI(base_url=url, api_key="not-a-key", model="gpt-5-mini", provider="openai")
    return Orchestrator(project=folder, platforms=[platform])


async def ours(url: str, concurrency: int) -> Callable[[list[str]], Awaitable[None]]:
    orch = orchestrator(url, tempfile.mkdtemp(prefix="orchestrai-bench-"))

    async def batch(texts: list[str]) -> None:
        result = await orch.batch(texts, concurrency=concurrency, progress="off", confirm="never")
        assert result.success_count == len(texts), result.failures[:1]

    return batch


ON_UVLOOP, WITHOUT_UVLOOP = "raw aiohttp on uvloop", "orchestrai without uvloop"
VARIANTS = {
    "raw aiohttp": raw,
    ON_UVLOOP: raw,
    "orchestrai": ours,
    WITHOUT_UVLOOP: ours,
    "openai SDK": openai_sdk,
    "LiteLLM": litellm_sdk,
}


# What a child process measures.


def measure(variant: str, url: str, count: int, concurrency: int) -> dict[str, float]:
    if variant == WITHOUT_UVLOOP:
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # as if it were not installed

    async def run() -> dict[str, float]:
        batch = await VARIANTS[variant](url, concurrency)
        await batch(prompts(max(concurrency * 2, count // 4), "warm"))
        texts = prompts(count, "measured")
        cpu, wall = time.process_time(), time.perf_counter()
        await batch(texts)
        return {"cpu_ms": (time.process_time() - cpu) / count * 1e3, "wall_s": time.perf_counter() - wall}

    if variant == ON_UVLOOP:
        import uvloop

        return uvloop.run(run())
    return asyncio.run(run())


def measure_busy(variant: str, url: str, count: int, concurrency: int) -> dict[str, float]:
    """The caller's thread computes in pure Python while the batch runs in another."""
    begun, done = threading.Event(), threading.Event()
    walls: list[float] = []

    async def run() -> None:
        batch = await VARIANTS[variant](url, concurrency)
        await batch(prompts(concurrency * 2, "warm"))
        texts = prompts(count, "measured")
        begun.set()
        wall = time.perf_counter()
        await batch(texts)
        walls.append(time.perf_counter() - wall)

    def work() -> None:
        try:
            asyncio.run(run())
        finally:
            begun.set()
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    x = 0
    while not done.is_set():
        for i in range(1000):
            x += i * i
    thread.join()
    return {"wall_s": walls[0]}


def measure_large(url: str, count: int) -> dict[str, float]:
    """Many tasks in one batch: memory beyond the texts, and the frame at the end."""
    import gc

    import pandas as pd

    orch = orchestrator(url, tempfile.mkdtemp(prefix="orchestrai-bench-"))
    warm = orch.batch_sync(prompts(2000, "warm"), concurrency=50, progress="off", confirm="never")
    warm.to_pandas()
    assert isinstance(pd.DataFrame(), pd.DataFrame)
    del warm
    gc.collect()
    texts = prompts(count, "measured")
    before = resident_kb()
    most = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], resident_kb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    result = orch.batch_sync(texts, concurrency=50, progress="off", confirm="never")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done.set()
    watcher.join()
    after = resident_kb()
    answers = sum(len(r.output or "") + 49 for r in result)  # a str object of n ASCII characters takes n + 49 bytes
    started = time.process_time()
    frame = result.to_pandas()
    to_pandas_s = time.process_time() - started
    assert len(frame) == count
    return {
        "failures": result.failure_count,
        "cpu_ms": cpu / count * 1e3,
        "tasks_s": count / wall,
        "kept_kb": (after - before - answers / 1024) / count,
        "peak_kb": (most[0] - before - answers / 1024) / count,
        "to_pandas_s": to_pandas_s,
    }


def resident_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS: this part needs Linux")


# The parent.


def import_cost() -> float:
    """CPU of `import orchestrai` in a fresh process whose bytecode is compiled [s]."""
    code = "import time; t = time.process_time(); import orchestrai; print(time.process_time() - t)"
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        costs = [
            float(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True).stdout)
            for _ in range(6)
        ]
    return statistics.median(costs[1:])


def child(*arguments: object) -> dict[str, float]:
    line = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(line.splitlines()[-1])


def median(rows: list[dict[str, float]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def compare(title: str, latency: str, variants: list[str], count: int, concurrency: int, repeats: int) -> None:
    rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    with SpawnedServer("--latency", latency) as server:
        url = server.base_url
        for _ in range(repeats):
            for variant in variants:
                rows[variant].append(child(variant, url, count, concurrency))
    base_cpu, base_wall = median(rows["raw aiohttp"], "cpu_ms"), median(rows["raw aiohttp"], "wall_s")
    print(f"\n## {title} ({count:,} tasks, C={concurrency}, median of {repeats})\n")
    print("| | CPU ms/task | x raw | wall s | x raw |\n|---|---|---|---|---|")
    for variant in variants:
        cpu, wall = median(rows[variant], "cpu_ms"), median(rows[variant], "wall_s")
        print(f"| {variant} | {cpu:.3f} | {cpu / base_cpu:.2f} | {wall:.2f} | {wall / base_wall:.3f} |", flush=True)


def installed(variants: list[str]) -> list[str]:
    import importlib.util

    needs = {"openai SDK": "openai", "LiteLLM": "litellm", ON_UVLOOP: "uvloop", WITHOUT_UVLOOP: "uvloop"}
    return [v for v in variants if v not in needs or importlib.util.find_spec(needs[v])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["import", "saturated", "lognormal", "latency", "busy", "large"])
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.child:
        what, url, *numbers = options.child
        if what == "busy":
            print(json.dumps(measure_busy(numbers[0], url, int(numbers[1]), int(numbers[2]))))
        elif what == "large":
            print(json.dumps(measure_large(url, int(numbers[0]))))
        else:
            print(json.dumps(measure(what, url, int(numbers[0]), int(numbers[1]))))
        return
    repeats = 2 if options.quick else 5
    two = ["raw aiohttp", "orchestrai"]
    loops = two if options.quick else installed(["raw aiohttp", ON_UVLOOP, "orchestrai", WITHOUT_UVLOOP])
    everyone = two if options.quick else installed(list(VARIANTS))

    def wanted(part: str) -> bool:
        return options.only in (None, part)

    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if wanted("import"):
        print(f"\n`import orchestrai`: {import_cost():.3f} s CPU", flush=True)
    if wanted("saturated"):
        compare("Saturated: no latency", "0", everyone, 4000, 50, repeats)
    if wanted("lognormal"):
        compare("Lognormal latency, median 100 ms", "lognormal:0.1", loops, 2000, 100, repeats)
    if wanted("latency"):
        compare("Constant latency of 100 ms", "0.1", two, 1000, 100, repeats)
    if wanted("busy"):
        with SpawnedServer("--latency", "0.1") as server:
            walls = {
                variant: statistics.median(
                    child("busy", server.base_url, variant, 1000, 100)["wall_s"] for _ in range(repeats)
                )
                for variant in two
            }
        print("\n## Caller's thread in a pure Python loop (1,000 tasks of 100 ms, C=100, ideal 1.0 s)\n")
        for variant, wall in walls.items():
            print(f"{variant}: wall {wall:.2f} s = {wall:.2f} x ideal", flush=True)
    if wanted("large"):
        count = 20_000 if options.quick else 100_000
        with SpawnedServer("--latency", "0") as server:
            row = child("large", server.base_url, count)
        print(f"\n## {count:,} tasks in one batch\n")
        print(
            f"{row['failures']:.0f} failures, {row['cpu_ms']:.3f} CPU ms/task, {row['tasks_s']:,.0f} tasks/s, "
            f"{row['kept_kb']:.2f} KB a task kept beyond the texts (peak {row['peak_kb']:.2f}), "
            f"to_pandas() {row['to_pandas_s']:.2f} s CPU"
        )


if __name__ == "__main__":
    main()
