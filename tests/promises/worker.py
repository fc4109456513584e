"""A process that has imported the library and forks a child for each job: children start in milliseconds, and die.

It reads one JSON line per order from stdin and answers each with one line on stdout:
`{"start": job}` → the child's pid; `{"wait": pid, "timeout_s": s}` → its exit code (-9 when it was killed) or "late".
It never starts a thread, so that forking is safe, and takes its children with it when stdin closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import aiohttp  # noqa: F401 - imported before the fork, so that no child pays for it
import genai_prices  # noqa: F401 - likewise

from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.errors import LedgerError, PlatformError
from orchestrai.handoff import Block, handed_over, unfenced
from orchestrai.memory.store import MemoryStore
from orchestrai.messages import Message
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.openai import OpenAI
from orchestrai.platforms.protocol import Capabilities, Reply, Request
from orchestrai.result import Result, Usage
from orchestrai.task import Task
from orchestrai.testing import ScriptedPlatform


class Acks:
    """What this process was shown, in a file that no kill can take a line from: one unbuffered write each."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, result: Result) -> None:
        line = {"time": time.time(), "prompt": result.task.prompt, "output": result.output, "status": result.status}
        os.write(self._file, json.dumps(line).encode() + b"\n")


class Points:
    """Counts the points at which a process may die, and dies at one of them: before or after a step."""

    def __init__(self, die_at: int | None) -> None:
        self.names: list[str] = []
        self._die_at = die_at

    def pass_by(self, name: str) -> None:
        if len(self.names) == self._die_at:
            print(f"killed at point {self._die_at}: {name}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def connect(self, path: str) -> sqlite3.Connection:
        """Open a connection of which every statement is two points."""
        points = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
                return points.around(sql, lambda: super(Connection, self).execute(sql, *rest))

            def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
                return points.around(sql, lambda: super(Connection, self).executemany(sql, rows))

            def close(self) -> None:
                points.around("close", super().close)

        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=512, factory=Connection
        )

    def around(self, name: str, step: Any) -> Any:
        self.pass_by(f"before {' '.join(name.split())[:60]}")
        value = step()
        self.pass_by(f"after {' '.join(name.split())[:60]}")
        return value


class WatchedServer(OpenAI):
    """The platform, with a point before and after every request."""

    points: Points

    async def send(self, request: Request) -> Reply:
        self.points.pass_by("before send")
        reply = await super().send(request)
        self.points.pass_by("after send")
        return reply


def platform(job: dict[str, Any], kind: type[OpenAI] = OpenAI) -> OpenAI:
    return kind(
        "provider",
        base_url=job["base_url"],
        api_key="test",
        model="test-model",
        price={"input_mtok": "1", "output_mtok": "2"},
        limits=job.get("limits"),
    )


def calls(job: dict[str, Any]) -> None:
    """Run a batch in one of the ways there are, acknowledge what is shown, and report the whole."""
    project = None if "data_dir" in job else job["project"]
    settings = {"data_dir": job["data_dir"]} if "data_dir" in job else None
    with Orchestrator(project, platforms=[platform(job)], settings=settings) as orch:
        if "start_at" in job:
            time.sleep(max(0.0, job["start_at"] - time.time()))
        acks = Acks(job["acks"])
        try:
            results = _HOW[job["how"]](orch, job["prompts"], job.get("options", {}), acks)
        except LedgerError as error:
            found = [error.result] if isinstance(error.result, Result) else list(error.result or ())
            _report(job, found, error=f"{type(error).__name__}: {error}")
        else:
            _report(job, results)


def _as_completed(orch: Orchestrator, prompts: list[str], options: dict[str, Any], acks: Acks) -> list[Result]:
    async def consume() -> list[Result]:
        results = []
        async for result in orch.as_completed(prompts, **options):
            acks.write(result)
            results.append(result)
        return results

    return sorted(asyncio.run(consume()), key=lambda result: result.index)


def _started(orch: Orchestrator, prompts: list[str], options: dict[str, Any], acks: Acks) -> list[Result]:
    """Look at a batch in the background as a person would, and acknowledge what is to be seen."""
    handle = orch.start(prompts, progress="off", **options)
    shown: set[int] = set()

    def look() -> None:
        for result in handle.result:
            if result.index not in shown and result.status != "cancelled":
                shown.add(result.index)
                acks.write(result)

    while handle.status == "running":
        look()
        time.sleep(0.01)
    results = handle.wait()
    look()
    return list(results)


def _awaited(orch: Orchestrator, prompts: list[str], options: dict[str, Any], acks: Acks) -> list[Result]:
    async def call() -> list[Result]:
        return list(await orch.batch(prompts, progress="off", **options))

    results = asyncio.run(call())
    for result in results:
        acks.write(result)
    return results


def _one_by_one(orch: Orchestrator, prompts: list[str], options: dict[str, Any], acks: Acks) -> list[Result]:
    results = []
    for prompt in prompts:
        results.append(orch.run_sync(prompt))
        acks.write(results[-1])
    return results


_HOW = {"as_completed": _as_completed, "start": _started, "batch": _awaited, "run": _one_by_one}


def _report(job: dict[str, Any], results: list[Result], **more: Any) -> None:
    outputs = [[result.task.prompt, result.output, result.status, result.attempts] for result in results]
    Path(job["report"]).write_text(json.dumps({"results": outputs, **more}), encoding="utf-8")


def sweep(job: dict[str, Any]) -> None:
    """Run a small batch that meets a retry, a repair and a checkpoint, and die at one given point of it."""
    points = Points(job["die_at"])
    engine = open_engine(Path(job["project"]) / ".orchestrai", "test", points.connect)
    # A row of 9 MB, longer than the log may be: the next thing that happens is a checkpoint.
    engine.ledger.file.write(
        lambda c: c.execute("INSERT OR IGNORE INTO systems VALUES ('large', hex(zeroblob(4500000)))")
    )
    watched = platform(job, WatchedServer)
    watched.points = points  # type: ignore[attr-defined]  # it is one
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tasks = [Task(p, schema=schema if p.startswith("repair") else None) for p in job["prompts"]]
    acks = Acks(job["acks"])

    async def consume() -> list[Result]:
        results = []
        async for result in orch.as_completed(tasks, concurrency=1):
            acks.write(result)
            results.append(result)
        return results

    with Orchestrator(job["project"], platforms=[watched]) as orch:
        results = sorted(asyncio.run(consume()), key=lambda result: result.index)
    close_engine(engine)
    _report(job, results, points=points.names)


class Account(ScriptedPlatform):
    """One account that several processes share, on its own bill; what a reply costs is chance."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(
            "shared",
            account="account",
            tier=job.get("tier", "free"),
            bill=job["bill"],
            concurrency=job.get("concurrency", 8),
            limits=job.get("limits"),
            price={"input_mtok": "1", "output_mtok": "1"},
            capabilities=Capabilities(streaming=False),
            delay_s=job.get("delay_s", 0.0),
        )
        self._chance = random.Random(job.get("seed"))
        self._charged = job.get("charged")

    async def send(self, request: Request) -> Reply:
        reply = await super().send(request)
        if self._charged is not None:  # from nothing to one and a half times what was reserved
            low, high = self._charged
            reply.usage = Usage(0, None, None, self._chance.randint(low, high), None, "provider")
        return reply


def share(job: dict[str, Any]) -> None:
    """Run a batch at an account that other processes use too; report how each task ended."""
    warnings.simplefilter("ignore")
    settings = job.get("settings", {})
    tasks = [Task(prompt, max_tokens=job.get("max_tokens")) for prompt in job["prompts"]]
    with Orchestrator(job["project"], platforms=[Account(job)], settings=settings) as orch:
        if "start_at" in job:
            time.sleep(max(0.0, job["start_at"] - time.time()))
        results = orch.batch_sync(tasks, progress="off", confirm="never")
        _report(job, list(results), classes=[result.error_class for result in results])


def unshared(job: dict[str, Any]) -> None:
    """The control: look how much is used, send, then record it."""
    store = sqlite3.connect(Path(job["project"]) / "naive.db", isolation_level=None, timeout=30)
    store.execute("CREATE TABLE IF NOT EXISTS uses (prompt)")

    async def work(prompts: list[str]) -> None:
        while prompts:
            (used,) = store.execute("SELECT count(*) FROM uses").fetchone()
            if used >= job["limits"]["rpd"]:
                return
            prompt = prompts.pop()
            await asyncio.sleep(0.001)  # the request
            store.execute("INSERT INTO uses VALUES (?)", (prompt,))

    async def run() -> None:
        prompts = list(job["prompts"])
        await asyncio.gather(*(work(prompts) for _ in range(8)))

    time.sleep(max(0.0, job["start_at"] - time.time()))
    asyncio.run(run())
    store.close()


def naive(job: dict[str, Any]) -> None:
    """The control: what one writes without thinking about a crash, wrong in one of two ways.

    `shown_first`: a request is recorded before it leaves, but its answer is shown before it is recorded.
    `sent_first`: an answer is recorded before it is shown, but nothing is recorded before a request leaves.
    """
    store = sqlite3.connect(Path(job["project"]) / "naive.db", isolation_level=None)
    store.execute("PRAGMA journal_mode = WAL")
    store.execute("CREATE TABLE IF NOT EXISTS sends (prompt)")
    store.execute("CREATE TABLE IF NOT EXISTS answers (prompt, text)")
    known = {prompt for (prompt,) in store.execute("SELECT prompt FROM answers")}
    waiting = [prompt for prompt in job["prompts"] if prompt not in known]
    acks = Acks(job["acks"])
    shown: list[tuple[str, str]] = []

    def record(every: int) -> None:
        if len(shown) >= every:  # one transaction for several rows: everybody does so, for speed
            store.execute("BEGIN")
            store.executemany("INSERT INTO answers VALUES (?, ?)", shown)
            store.execute("COMMIT")
            shown.clear()

    async def work(server: OpenAI) -> None:
        while waiting:
            prompt = waiting.pop()
            if job["wrong"] == "shown_first":
                store.execute("INSERT INTO sends VALUES (?)", (prompt,))
            reply = await server.send(
                Request(messages=(Message("user", prompt),), model="test-model", timeout_s=60.0, attempt_id="naive")
            )
            shown.append((prompt, reply.text))
            if job["wrong"] == "sent_first":
                store.execute("INSERT INTO sends VALUES (?)", (prompt,))
                record(1)
            acks.write(Result(Task(prompt), reply.text, status="succeeded"))
            record(16)

    async def run() -> None:
        server = platform(job)
        await asyncio.gather(*(work(server) for _ in range(8)))
        await server.close()
        record(1)

    asyncio.run(run())
    store.close()


class Steps(ScriptedPlatform):
    """Answers the steps of graphs, and writes down of each request whether what comes before it was committed and there."""

    def __init__(self, name: str, job: dict[str, Any], committed: Any) -> None:
        super().__init__(name, replies=self._said)
        self._steps = {step["name"]: step for graph in job["graphs"] for step in graph}
        self._committed = committed
        self._log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def _said(self, request: Request) -> str:
        instruction, blocks = unfenced(request.messages[-1].text)
        step = self._steps[instruction.split()[0]]
        there = await self._committed()
        line = {
            "name": step["name"],
            "early": any(said_by(other) not in there for other in (*step["parents"], *step["after"])),
            "wrong": [block.text for block in blocks] != [said_by(parent) for parent in step["parents"]],
        }
        os.write(self._log, json.dumps(line).encode() + b"\n")
        await asyncio.sleep(step["delay_s"])
        if step["fails"]:
            raise PlatformError("request", "this step fails")
        return said_by(step["name"])


def said_by(name: str) -> str:
    """Return what a step answers."""
    return f"{{parent}} answer of {name} <<<end>>>"


def graphs(job: dict[str, Any]) -> None:
    """Run graphs of tasks, a batch each, and report how every step ended."""
    opened: list[Orchestrator] = []

    async def committed() -> set[str]:
        def look(connection: sqlite3.Connection) -> set[str]:
            return {text for (text,) in connection.execute("SELECT text FROM answers")}

        return await opened[0]._opened().ledger.read_soon(look)

    points = Points(job.get("die_at"))
    engine = open_engine(Path(job["project"]) / ".orchestrai", "test", points.connect) if "die_at" in job else None
    platforms = [Steps(name, job, committed) for name in ("one", "two")]
    ends: dict[str, Any] = {}
    with Orchestrator(job["project"], platforms=platforms) as orch:
        opened.append(orch)
        for number, graph in enumerate(job["graphs"]):
            tasks: dict[str, Task] = {}
            for step in graph:  # in an order in which parents come first
                tasks[step["name"]] = Task(
                    f"{step['name']} works {{parents}}" if step["parents"] else f"{step['name']} begins",
                    platform=step["platform"],
                    parent=[tasks[parent] for parent in step["parents"]] or None,
                    depends_on=[tasks[other] for other in step["after"]] or None,
                )
            order = [*tasks]
            random.Random(number).shuffle(order)
            results = orch.batch_sync([tasks[name] for name in order], chain=f"graph {number}", progress="off")
            ends |= {name: [result.status, result.error_class] for name, result in zip(order, results, strict=True)}
    if engine is not None:
        close_engine(engine)
        ends["points"] = points.names
    Path(job["report"]).write_text(json.dumps(ends), encoding="utf-8")


def naive_graphs(job: dict[str, Any]) -> None:
    """The control: a step starts as soon as its parents' answers are in memory; they are committed in groups."""
    store: set[str] = set()

    async def committed() -> set[str]:
        return store

    async def run() -> None:
        platform = Steps("one", job, committed)
        for graph in job["graphs"]:
            answers: dict[str, str] = {}
            for step in graph:
                handed = [Block(answers.get(parent, ""), "a step") for parent in step["parents"]]
                prompt = handed_over(f"{step['name']} works", handed, {})
                request = Request((Message("user", str(prompt)),), "m", timeout_s=60.0, attempt_id="naive")
                with contextlib.suppress(PlatformError):
                    answers[step["name"]] = (await platform.send(request)).text
                if len(answers) % 16 == 0:
                    store.update(answers.values())

    asyncio.run(run())


def count(job: dict[str, Any]) -> None:
    """Add one to a shared value many times; `careful` by update, else by a look and a set."""

    async def add(shared: Any) -> None:
        for _ in range(job["times"]):
            if job["careful"]:
                await shared.update("n", lambda present: present + 1, default=0)
            else:
                await shared.set("n", (await shared.get("n", 0)) + 1)

    with Orchestrator(job["project"], platforms=[ScriptedPlatform()]) as orch:
        time.sleep(max(0.0, job["start_at"] - time.time()))
        asyncio.run(add(orch.chain("c").shared))


def remember(job: dict[str, Any]) -> None:
    """Add memories one after the other and note each once it is kept, searching now and then, which seals the index."""
    engine = open_engine(Path(job["ledger"]), "test")
    acks = os.open(job["acks"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def work() -> None:
        store = MemoryStore(engine.ledger, {"embedding": "hashed"}, job["seal_at"])
        for i in range(job["count"]):
            text = f"What writer {job['writer']} found out, number {i}: {random.randbytes(6).hex()}."
            if job["early"]:
                os.write(acks, json.dumps([None, text]).encode() + b"\n")
            memory_id = await store.add(text, {"writer": job["writer"], "number": i})
            if not job["early"]:
                os.write(acks, json.dumps([memory_id, text]).encode() + b"\n")
            if i % job["search_every"] == job["search_every"] - 1:
                await store.search("what was found out", 1, None)
        await store.close()

    engine.loop.submit(work()).result()
    close_engine(engine)


JOBS = {
    "remember": remember,
    "calls": calls,
    "count": count,
    "graphs": graphs,
    "naive": naive,
    "naive_graphs": naive_graphs,
    "share": share,
    "sweep": sweep,
    "unshared": unshared,
}


def _child(job: dict[str, Any]) -> None:
    """Do one job and leave; nothing of the parent's way out happens here."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # stdout belongs to the parent's answers
        os.umask(job.get("umask", 0o077))
        JOBS[job["do"]](job)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it was, it is told, and the child ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout_s: float) -> int | str:
    end = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return "late"
        time.sleep(0.002)


def main() -> None:
    alive: set[int] = set()
    try:
        for line in iter(sys.stdin.readline, ""):
            order = json.loads(line)
            if "start" in order:
                pid = os.fork()
                if pid == 0:
                    _child(order["start"])
                alive.add(pid)
                answer: int | str = pid
            else:
                answer = _wait(order["wait"], order["timeout_s"])
                if answer != "late":
                    alive.discard(order["wait"])
            print(answer, flush=True)
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
