"""The engine's loop and the ways in and out of it: calls, errands, and values handed to another loop."""

from __future__ import annotations

import asyncio
import threading
import types

import pytest
from loopback import openai, orchestrator, upper

from orchestrai import Orchestrator
from orchestrai.engine.call import Call
from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.engine.loop import Errand, engine_loop
from orchestrai.engine.stream import Outlet
from orchestrai.testing import ProviderServer


def test_there_is_one_loop_in_its_own_daemon_thread():
    engine = engine_loop()
    assert engine is engine_loop()
    assert not engine.inside()

    async def look():
        return engine.inside(), threading.current_thread().name, threading.current_thread().daemon

    assert engine.submit(look()).result(5) == (True, "orchestrai-loop", True)


def test_an_errand_without_a_way_to_stop_is_cancelled():
    errand = Errand(engine_loop(), asyncio.sleep(60))

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(errand.wait(), 0.05)

    asyncio.run(impatient())
    assert errand.future.cancelled()


def test_an_errand_that_is_stopped_ends_before_its_caller_goes_on():
    ended = []

    async def work(stop):
        await stop.wait()
        await asyncio.sleep(0.1)
        ended.append(True)

    async def make():
        return asyncio.Event()

    engine = engine_loop()
    stop = engine.submit(make()).result(5)
    errand = Errand(engine, work(stop), stop.set)

    async def impatient():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(errand.wait(), 0.05)
        return list(ended)

    assert asyncio.run(impatient()) == [True]


def test_what_an_errand_raises_reaches_its_caller_both_ways():
    async def fail():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        Errand(engine_loop(), fail()).wait_sync()
    with pytest.raises(ZeroDivisionError, match="mine"):
        asyncio.run(Errand(engine_loop(), fail()).wait())


def test_values_reach_another_loop_whole_and_in_order_from_any_thread():
    async def consume(count):
        outlet = Outlet(asyncio.get_running_loop())

        def produce():
            for i in range(count):
                outlet.push(i)
            outlet.end()

        thread = threading.Thread(target=produce)
        thread.start()
        found = []
        while (value := await outlet.get()) is not None:
            found.append(value)
            if value % 1000 == 0:
                await asyncio.sleep(0.001)
        thread.join()
        return found

    assert asyncio.run(consume(50_000)) == list(range(50_000))


def test_pushing_to_a_loop_that_is_gone_does_no_harm():
    async def make():
        return Outlet(asyncio.get_running_loop())

    outlet = asyncio.run(make())
    outlet.push(1)
    outlet.push(2)
    outlet.end()


def test_a_call_that_is_cancelled_before_it_began_sends_nothing(tmp_path):
    async def cell(orch):
        task = asyncio.create_task(orch.batch(["a"]))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        asyncio.run(cell(orch))
        assert server.requests == []
        assert orch.last_batch is None


@types.coroutine
def _pause():
    yield


def test_a_call_passes_what_is_thrown_into_it():
    async def work():
        try:
            await _pause()
        except ZeroDivisionError:
            return "caught"

    call = Call("work", work)
    call.send(None)
    with pytest.raises(StopIteration) as stopped:
        call.throw(ZeroDivisionError("mine"))
    assert stopped.value.value == "caught"

    other = Call("work", work)
    other.send(None)
    with pytest.raises(KeyError):
        other.throw(KeyError, KeyError("x"), None)


def test_orchestrators_on_one_folder_share_an_engine_that_the_last_one_closes(tmp_path):
    folder = tmp_path / ".orchestrai"
    a, b = (Orchestrator(tmp_path, platforms=[upper]) for _ in range(2))
    assert a.run_sync("a").success
    assert b.run_sync("a").reused
    engine = open_engine(folder, "test")
    a.close()
    assert b.run_sync("b").success
    b.close()
    again = open_engine(folder, "test")
    assert again is engine
    close_engine(engine)
    close_engine(again)
    fresh = open_engine(folder, "test")
    assert fresh is not engine
    close_engine(fresh)
    close_engine(fresh)  # once too often is harmless
    assert list((folder / "owners").iterdir()) == []
