"""The wall clock of attempts: what overruns is ended, what ends in time is left alone, other cancellations pass."""

from __future__ import annotations

import asyncio

from orchestrai.engine.wall_clock import WallClock


async def timed(clock, seconds, work):
    """Return "late" when the work overran its deadline, else what it returned."""
    deadline = clock.start(seconds)
    overrun = False
    try:
        try:
            return await work
        finally:
            overrun = clock.end(deadline)
    except asyncio.CancelledError:
        if not overrun:
            raise
        return "late"


def test_what_overruns_is_ended_and_what_is_in_time_is_not():
    async def play():
        clock = WallClock(asyncio.get_running_loop())
        return await asyncio.gather(
            timed(clock, 0.02, asyncio.sleep(30)),
            timed(clock, 30, asyncio.sleep(0.05, "in time")),
            timed(clock, 0.04, asyncio.sleep(30)),
            timed(clock, 0.03, asyncio.sleep(0, "at once")),
        )

    assert asyncio.run(play()) == ["late", "in time", "late", "at once"]


def test_an_earlier_deadline_that_comes_later_is_kept():
    async def play():
        clock = WallClock(asyncio.get_running_loop())
        long = asyncio.create_task(timed(clock, 20, asyncio.sleep(0.2, "long")))
        await asyncio.sleep(0)
        short = await timed(clock, 0.02, asyncio.sleep(30))
        return short, long.done(), await long

    assert asyncio.run(play()) == ("late", False, "long")


def test_a_task_may_be_timed_again_after_it_overran():
    async def play():
        clock = WallClock(asyncio.get_running_loop())
        found = [await timed(clock, 0.01, asyncio.sleep(30)) for _ in range(3)]
        return [*found, await timed(clock, 30, asyncio.sleep(0.01, "fine")), asyncio.current_task().cancelling()]

    assert asyncio.run(play()) == ["late", "late", "late", "fine", 0]


def test_a_cancellation_of_somebody_else_passes():
    async def play():
        clock = WallClock(asyncio.get_running_loop())
        task = asyncio.create_task(timed(clock, 30, asyncio.sleep(30)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(play())


def test_an_idle_clock_has_no_timer():
    async def play():
        loop = asyncio.get_running_loop()
        clock = WallClock(loop)
        for _ in range(5):
            await timed(clock, 0.01, asyncio.sleep(0))
        await asyncio.sleep(0.03)
        return clock._timer

    assert asyncio.run(play()) is None
