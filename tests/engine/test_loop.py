"""The engine's loop and the ways in and out of it: calls, errands, and values handed to another loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import types

import pytest
from loopback import openai, orchestrator, upper

from orchestrai import Orchestrator
from orchestrai.engine.call import Call
from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.engine.loop import Errand, awake, engine_loop
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


# --- waking up -------------------------------------------------------------------------------------------------------


def _wakes(loop):
    return [timer for timer in loop._scheduled if not timer.cancelled()]


def test_a_loop_that_waits_has_one_alarm_however_many_wait_and_none_afterwards():
    async def main():
        loop = asyncio.get_running_loop()
        for _ in range(50):  # one after another, faster than the alarm
            with awake():
                assert len(_wakes(loop)) == 1
                await asyncio.sleep(0)
        for_all = asyncio.Event()

        async def one():
            with awake():
                await for_all.wait()

        waiting = [asyncio.create_task(one()) for _ in range(50)]
        await asyncio.sleep(0)
        assert len(_wakes(loop)) == 1
        for_all.set()
        await asyncio.gather(*waiting)
        assert _wakes(loop) == []

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())


def _interrupted_as_by_a_kernel(waiting):
    """Return whether a cancel from a signal handler is heard, though the handler does not wake the loop."""

    async def main():
        task = asyncio.ensure_future(waiting())
        signal.signal(signal.SIGALRM, lambda *_: task.cancel())
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            await task
        except asyncio.CancelledError:
            return True
        return False

    before = signal.getsignal(signal.SIGALRM)
    try:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            return loop.run_until_complete(main())
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this system has no SIGALRM")
def test_a_waiting_caller_hears_of_an_interrupt_before_the_work_is_done():
    async def work(done):
        await asyncio.sleep(1)
        done.append(True)

    async def waits(done):
        await Errand(engine_loop(), work(done)).wait()

    async def sleeps(done):  # the control: what a bare wait for another thread does
        await asyncio.shield(asyncio.wrap_future(engine_loop().submit(work(done))))

    heard, too_late = [], []
    assert _interrupted_as_by_a_kernel(lambda: waits(heard))
    assert heard == []
    _interrupted_as_by_a_kernel(lambda: sleeps(too_late))
    assert too_late == [True]
