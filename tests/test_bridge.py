"""Calls without `await` inside a running loop: nothing is patched unless it is asked for, and then only what can be."""

from __future__ import annotations

import pytest
from loopback import finished

from orchestrai import InvalidInput, Orchestrator

BEGIN = """
    import asyncio, sys, threading
    from orchestrai import InvalidInput, Orchestrator

    async def upper(request):
        await asyncio.sleep(0.3)
        return request.messages[-1].text.upper()

    def calls(orch):
        ticks = []

        async def cell():
            beat = asyncio.create_task(tick())
            r = orch.run_sync("a"); b = orch.batch_sync(["b", "c"], progress="off"); w = orch.wait(orch.run("d"))
            beat.cancel()
            return str(r), b.outputs, str(w), len(ticks)

        async def tick():
            while True:
                await asyncio.sleep(0.01)
                ticks.append(1)

        return cell()

    before = asyncio.Task, asyncio.run, asyncio.get_event_loop
"""


def test_by_default_nothing_of_asyncio_is_changed_and_the_loop_waits(tmp_path):
    script = (
        BEGIN
        + """
    with Orchestrator(sys.argv[1], platforms=[upper]) as orch:
        print(asyncio.run(calls(orch)))
    print((asyncio.Task, asyncio.run, asyncio.get_event_loop) == before, hasattr(asyncio, "_nest_patched"))
    """
    )
    assert finished(script, tmp_path).splitlines() == ["('A', ['B', 'C'], 'D', 0)", "True False"]


def test_nested_the_loop_goes_on_and_asyncio_is_changed(tmp_path):
    script = (
        BEGIN
        + """
    async def twice(orch):
        return await calls(orch), await calls(orch)

    with Orchestrator(sys.argv[1], platforms=[upper], bridge="nest") as orch:
        print(hasattr(asyncio, "_nest_patched"))
        first, second = asyncio.run(twice(orch))
        print(first[:3], first[3] > 10)
        print(second[:3])
    print(hasattr(asyncio, "_nest_patched"))
    """
    )
    assert finished(script, tmp_path).splitlines() == [
        "False",
        "('A', ['B', 'C'], 'D') True",
        "('A', ['B', 'C'], 'D')",
        "True",
    ]


def test_without_a_running_loop_nothing_is_nested(tmp_path):
    script = (
        BEGIN
        + """
    with Orchestrator(sys.argv[1], platforms=[upper], bridge="nest") as orch:
        print(orch.run_sync("a"), orch.wait(orch.run("b")))
    print(hasattr(asyncio, "_nest_patched"))
    """
    )
    assert finished(script, tmp_path).splitlines() == ["A B", "False"]


def test_another_kind_of_loop_is_refused(tmp_path):
    pytest.importorskip("uvloop")
    script = (
        BEGIN
        + """
    import uvloop
    with Orchestrator(sys.argv[1], platforms=[upper], bridge="nest") as orch:
        try:
            uvloop.run(calls(orch))
        except InvalidInput as error:
            print(error)
    print(hasattr(asyncio, "_nest_patched"))
    """
    )
    told, patched = finished(script, tmp_path).splitlines()
    assert told == 'bridge="nest" needs a plain asyncio loop, and this one is uvloop.Loop: use bridge="thread".'
    assert patched == "False"


def test_an_interrupt_of_a_nested_call_leaves_nothing_running(tmp_path):
    script = (
        BEGIN
        + """
    import os, signal, time
    from orchestrai.engine.loop import engine_loop
    sent = []

    async def slow(request):
        sent.append(1)
        if len(sent) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)
        return "ok"

    async def cell(orch):
        orch.batch_sync([f"task {i}" for i in range(400)], concurrency=4, progress="off")

    async def others():
        return len(asyncio.all_tasks()) - 1

    with Orchestrator(sys.argv[1], platforms=[slow], bridge="nest") as orch:
        loop = asyncio.new_event_loop()  # as a kernel's, it leaves the interrupt to Python
        try:
            loop.run_until_complete(cell(orch))
        except KeyboardInterrupt:
            at_once = len(sent)
            time.sleep(0.5)
            print(len(sent) == at_once, engine_loop().submit(others()).result(5), orch.last_batch.status)
            print(0 < orch.last_batch.success_count < 400)
        loop.close()
    """
    )
    assert finished(script, tmp_path).splitlines() == ["True 0 cancelled", "True"]


def test_an_unknown_bridge_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="thread, nest"):
        Orchestrator(tmp_path, bridge="nested")
