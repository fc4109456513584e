"""Interrupts: whatever ends a call, what was finished is kept, nothing goes on in the background, nothing is sent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time

import pytest
from loopback import finished, openai, orchestrator, python

from orchestrai import BatchResult
from orchestrai.engine.loop import engine_loop
from orchestrai.testing import ProviderServer, SpawnedServer
from orchestrai.testing.answers import answer_to

PROMPTS = [f"task {i}" for i in range(300)]
SLOW = {"latency": 0.02}


def at_work():
    """Return how many tasks are on the engine's loop."""

    async def count():
        return len(asyncio.all_tasks()) - 1

    return engine_loop().submit(count()).result(10)


def sent_later(server, within_s=0.5, watch_s=0.3):
    """Return how many requests come later than `within_s` from now [s]."""
    time.sleep(within_s)
    before = len(server.requests)
    time.sleep(watch_s)
    return len(server.requests) - before


def kept_and_finished_later(folder, server, part):
    """Judge what an interrupt left: the part is right, and the same call again sends only the rest."""
    assert isinstance(part, BatchResult)
    assert part.status == "cancelled"
    assert len(part) == len(PROMPTS)
    assert 0 < part.success_count < len(PROMPTS)
    assert [r.output for r in part if r] == [answer_to(r.task.prompt) for r in part if r]
    assert {r.status for r in part.failures} == {"cancelled"}
    assert {r.error_class for r in part.failures} == {"cancelled"}
    sent = len(server.requests)
    with orchestrator(folder, openai(server)) as orch:
        res = orch.batch_sync(PROMPTS)
    assert res.outputs == [answer_to(prompt) for prompt in PROMPTS]
    assert res.reused_count == part.success_count
    assert len(server.requests) - sent == len(PROMPTS) - part.success_count


# --- cancelling ------------------------------------------------------------------------------------------------------


def test_what_an_interrupted_retry_has_finished_is_the_last_batch(tmp_path):
    down = {"is": True}

    def script(_received):
        return 400 if down["is"] else None

    async def retried(res, server):
        task = asyncio.create_task(res.retry_failures())
        await asyncio.to_thread(server.wait_for, lambda: server.counts["answered"] >= 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ProviderServer(**SLOW, script=script) as server, orchestrator(tmp_path, openai(server)) as orch:
        res = orch.batch_sync(PROMPTS, progress="off")
        assert res.success_count == 0
        down["is"] = False
        asyncio.run(retried(res, server))
        part = orch.last_batch
        assert part.status == "cancelled"
        assert 0 < part.success_count < len(PROMPTS)


@pytest.mark.parametrize("where", ["here", "another thread", "a coroutine"])
def test_a_handle_may_be_cancelled_from_anywhere(tmp_path, where):
    async def cancel(handle):
        handle.cancel()
        return await handle

    with ProviderServer(**SLOW) as server, orchestrator(tmp_path, openai(server)) as orch:
        handle = orch.start(PROMPTS, concurrency=8)
        server.wait_for(lambda: server.counts["answered"] >= 30)
        if where == "another thread":
            thread = threading.Thread(target=handle.cancel)
            thread.start()
            thread.join()
        elif where == "here":
            handle.cancel()
        part = asyncio.run(cancel(handle)) if where == "a coroutine" else handle.wait()
        assert handle.status == "cancelled"
        handle.cancel()  # once more is harmless
        assert at_work() == 0
        assert sent_later(server) == 0
        assert orch.last_batch.results == part.results
        kept_and_finished_later(tmp_path, server, part)


def test_a_handle_cancelled_at_once_has_sent_nothing_or_little(tmp_path):
    with ProviderServer(**SLOW) as server, orchestrator(tmp_path, openai(server)) as orch:
        handle = orch.start(PROMPTS, concurrency=2)
        handle.cancel()
        part = handle.wait()
        assert part.success_count <= 2
        assert sent_later(server) == 0


def _by_timeout(orch, server):
    async def cell():
        async with asyncio.timeout(0.25):
            await orch.batch(PROMPTS, concurrency=8)

    with pytest.raises(TimeoutError):
        asyncio.run(cell())


def _by_wait_for(orch, server):
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(orch.batch(PROMPTS, concurrency=8), 0.25))


def _by_task(orch, server):
    async def cell():
        task = asyncio.create_task(orch.batch(PROMPTS, concurrency=8))
        await asyncio.to_thread(server.wait_for, lambda: server.counts["answered"] >= 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(cell())


def _by_group(orch, server):
    async def fail():
        await asyncio.to_thread(server.wait_for, lambda: server.counts["answered"] >= 30)
        raise ZeroDivisionError

    async def cell():
        async with asyncio.TaskGroup() as group:
            group.create_task(orch.batch(PROMPTS, concurrency=8))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(cell())
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


@pytest.mark.parametrize("how", [_by_timeout, _by_wait_for, _by_task, _by_group])
def test_a_cancelled_await_raises_and_leaves_what_was_finished(tmp_path, how):
    with ProviderServer(**SLOW) as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.run_sync("warm")
        server.requests.clear()
        server.counts["answered"] = 0
        how(orch, server)
        part = orch.last_batch
        assert at_work() == 0
        assert sent_later(server) == 0
        assert part.results == orch.last_batch.results
        kept_and_finished_later(tmp_path, server, part)


def test_a_cancelled_run_ends_its_request(tmp_path):
    with ProviderServer(latency=30) as server, orchestrator(tmp_path, openai(server)) as orch:

        async def cancelled():
            run = asyncio.ensure_future(orch.run("a"))
            await asyncio.to_thread(server.wait_for, lambda: server.in_flight == 1)
            run.cancel()
            await asyncio.wait([run])
            assert run.cancelled()

        asyncio.run(cancelled())
        assert at_work() == 0
        assert len(server.requests) == 1


def test_a_task_that_waits_for_its_next_attempt_is_cancelled_too(tmp_path):
    with ProviderServer(script=lambda _: "429:30") as server, orchestrator(tmp_path, openai(server)) as orch:
        handle = orch.start(["a", "b"])
        server.wait_for(lambda: server.counts["limited"] + server.counts["fault"] >= 2)
        time.sleep(0.1)
        handle.cancel()
        part = handle.wait()
        assert [(r.status, r.attempts, r.cost) for r in part] == [("cancelled", 1, 0)] * 2
        assert at_work() == 0


def test_what_was_cancelled_while_under_way_may_have_been_billed(tmp_path):
    with ProviderServer(latency=30) as server:
        platform = openai(server, price={"input_mtok": "1", "output_mtok": "2"}, concurrency=1)
        with orchestrator(tmp_path, platform) as orch:
            handle = orch.start(["a", "b"])
            server.wait_for(lambda: server.in_flight == 1)
            handle.cancel()
            part = handle.wait()
            assert [(r.status, r.attempts, r.cost) for r in part] == [("cancelled", 1, None), ("cancelled", 0, 0)]
            assert not part.cost_complete


def test_cancelling_one_batch_leaves_another_alone(tmp_path):
    with ProviderServer(**SLOW) as server, orchestrator(tmp_path, openai(server)) as orch:
        one = orch.start([f"one {i}" for i in range(100)], concurrency=4)
        two = orch.start([f"two {i}" for i in range(100)], concurrency=4)
        server.wait_for(lambda: server.counts["answered"] >= 20)
        one.cancel()
        assert one.wait().status == "cancelled"
        assert two.wait().success_count == 100


def test_the_answer_that_a_cancelled_batch_was_waiting_for_is_found_by_the_other(tmp_path):
    """Two batches of the same tasks: the one that asks is cancelled, and the other asks the rest itself."""
    with (
        ProviderServer(**SLOW) as server,
        orchestrator(tmp_path, openai(server)) as a,
        orchestrator(tmp_path, openai(server)) as b,
    ):
        first = a.start(PROMPTS[:60], concurrency=4)
        server.wait_for(lambda: server.counts["answered"] >= 4)
        second = b.start(PROMPTS[:60])
        server.wait_for(lambda: server.counts["answered"] >= 20)
        first.cancel()
        first.wait()
        res = second.wait()
        assert res.outputs == [answer_to(prompt) for prompt in PROMPTS[:60]]


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------

CHILD = """
    import asyncio, contextlib, json, sys
    from orchestrai import Orchestrator
    from orchestrai.platforms import OpenAI

    folder, url, how = sys.argv[1:]
    orch = Orchestrator(folder, platforms=[OpenAI(base_url=url, api_key="k", model="m")])
    prompts = [f"task {i}" for i in range(300)]
    options = {"concurrency": 8}

    async def cell(sync):
        return orch.batch_sync(prompts, **options) if sync else orch.wait(orch.batch(prompts, **options))

    def notebook(cell):  # a running loop that leaves the interrupt to Python, as a kernel's does
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(cell)

    async def loop():
        async for result in orch.as_completed(prompts, **options):
            pass

    try:
        match how:
            case "batch_sync":
                orch.batch_sync(prompts, **options)
            case "start":
                orch.start(prompts, **options).wait()
            case "asyncio.run":
                asyncio.run(orch.batch(prompts, **options))
            case "wait":
                orch.wait(orch.batch(prompts, **options))
            case "batch_sync in a notebook":
                notebook(cell(True))
            case "wait in a notebook":
                notebook(cell(False))
            case "as_completed":
                asyncio.run(loop())
    except KeyboardInterrupt:
        part = orch.last_batch
        print(json.dumps(None if part is None else [part.status, [r.output for r in part]]), flush=True)
"""


@pytest.mark.parametrize(
    "how",
    ["batch_sync", "start", "asyncio.run", "wait", "batch_sync in a notebook", "wait in a notebook", "as_completed"],
)
def test_ctrl_c_keeps_what_is_finished_and_the_next_run_sends_only_the_rest(tmp_path, how):
    with SpawnedServer("--latency", "0.02") as server:
        child = python(CHILD, tmp_path, server.base_url, how)
        end = time.monotonic() + 30
        while server.stats().get("answered", 0) < 40:
            assert time.monotonic() < end, child.communicate()
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        told = server.stats()["requests"]
        out, err = child.communicate(timeout=20)
        assert (child.returncode, err) == (0, "")
        assert server.stats()["requests"] <= told + 30  # what left within the moment of the interrupt
        done = server.stats()["answered"]
        if how != "as_completed":
            status, outputs = json.loads(out)
            assert status == "cancelled"
            done = len(outputs) - outputs.count(None)
            assert 20 <= done < 300
            assert all(output in (None, answer_to(f"task {i}")) for i, output in enumerate(outputs))
        before = server.stats()["requests"]
        with orchestrator(tmp_path, openai(server, model="m")) as orch:
            res = orch.batch_sync(PROMPTS)
        assert res.outputs == [answer_to(prompt) for prompt in PROMPTS]
        if how != "as_completed":
            assert res.reused_count == done
        assert server.stats()["requests"] - before == 300 - res.reused_count
        assert res.reused_count >= 20


# --- the end of the process ------------------------------------------------------------------------------------------

LEAVES = """
    import asyncio, sys, time
    from orchestrai import Orchestrator
    from orchestrai.platforms import OpenAI

    folder, url, how = sys.argv[1:]
    orch = Orchestrator(folder, platforms=[OpenAI(base_url=url, api_key="k", model="m")])
    prompts = [f"task {i}" for i in range(300)]

    async def some():
        seen = 0
        async for result in orch.as_completed(iter(prompts), concurrency=8):
            seen += 1
            if seen == 40:
                return

    match how:
        case "in the middle":
            handle = orch.start(prompts, concurrency=8)
            while handle.progress.succeeded < 40:
                time.sleep(0.01)
        case "at once":
            handle = orch.start(prompts, concurrency=8)
        case "without a handle":
            orch.start(prompts, concurrency=8)
            time.sleep(0.3)
        case "exit":
            orch.start(prompts, concurrency=8)
            time.sleep(0.3)
            sys.exit(0)
        case "stream":
            async def one():
                async for piece in orch.stream("a"):
                    return
            asyncio.run(one())
        case "as_completed":
            asyncio.run(some())
        case "call":
            kept = orch.batch(prompts)
        case "unused":
            pass
        case "finished":
            orch.batch_sync(prompts[:3])
"""


@pytest.mark.parametrize(
    "how",
    [
        "in the middle",
        "at once",
        "without a handle",
        "exit",
        "stream",
        "as_completed",
        "call",
        "unused",
        "finished",
    ],
)
def test_a_process_that_ends_in_the_middle_ends_cleanly_and_keeps_what_it_has(tmp_path, how):
    with SpawnedServer("--latency", "0.02", "--piece-s", "0.05") as server:
        assert finished(LEAVES, tmp_path, server.base_url, how) == ""
        asked = server.stats().get("requests", 0)
        with orchestrator(tmp_path, openai(server, model="m")) as orch:
            res = orch.batch_sync(PROMPTS)
        assert res.outputs == [answer_to(prompt) for prompt in PROMPTS]
        if how in ("in the middle", "as_completed"):
            assert res.reused_count >= 40
        assert server.stats()["requests"] - asked == 300 - res.reused_count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_works_with_an_engine_and_connections_of_its_own(tmp_path):
    script = """
        import os, sys
        from orchestrai import Orchestrator
        from orchestrai.platforms import OpenAI

        orch = Orchestrator(sys.argv[1], platforms=[OpenAI(base_url=sys.argv[2], api_key="k", model="m")])
        print(orch.run_sync("a").success, flush=True)
        pid = os.fork()
        if pid == 0:
            print(orch.run_sync("b").success, orch.run_sync("a").reused, flush=True)
            orch.close()
            os._exit(0)
        os.waitpid(pid, 0)
        print(orch.run_sync("b").reused, orch.run_sync("c").success)
    """
    with SpawnedServer() as server:
        assert finished(script, tmp_path, server.base_url).split() == ["True"] * 5
        assert server.stats()["requests"] == 3


def test_an_interrupt_while_the_input_is_read_sends_nothing(tmp_path):
    script = """
        import signal, os, sys
        from orchestrai import Orchestrator
        from orchestrai.platforms import OpenAI

        def prompts():
            yield from ("a", "b")
            os.kill(os.getpid(), signal.SIGINT)
            yield "c"

        with Orchestrator(sys.argv[1], platforms=[OpenAI(base_url=sys.argv[2], api_key="k", model="m")]) as orch:
            try:
                orch.batch_sync(prompts())
            except KeyboardInterrupt:
                print(orch.last_batch)
    """
    with SpawnedServer() as server:
        assert finished(script, tmp_path, server.base_url) == "None\n"
        assert server.stats().get("requests", 0) == 0
