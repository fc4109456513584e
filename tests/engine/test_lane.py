"""Lanes: places are never exceeded, never lost, and given in the order in which they were asked for."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrai.engine.lane import Lane


def test_places_are_given_first_come_first_served():
    async def order():
        lane, got = Lane(1), []

        async def one(i):
            await lane.acquire()
            got.append(i)
            await asyncio.sleep(0)
            lane.release()

        await asyncio.gather(*(one(i) for i in range(20)))
        return got, lane.in_flight

    assert asyncio.run(order()) == (list(range(20)), 0)


def test_who_comes_later_does_not_overtake_who_waits():
    async def order():
        lane = Lane(1)
        await lane.acquire()
        waiting = asyncio.ensure_future(lane.acquire())
        await asyncio.sleep(0)
        lane.release()  # the place is promised to the one who waits
        late = asyncio.ensure_future(lane.acquire())
        await asyncio.sleep(0)
        return waiting.done(), late.done(), late.cancel()

    assert asyncio.run(order()) == (True, False, True)


def test_a_wider_lane_admits_those_who_wait_as_long_as_somebody_asks_for_it():
    async def widths():
        lane = Lane(2)
        tasks = [asyncio.ensure_future(lane.acquire()) for _ in range(9)]
        found = []
        for change, limit in (
            (lane.widen, 4),
            (lane.widen, 3),
            (lane.widen, 1),
            (lane.widen, 6),
            (lane.narrow, 4),
            (lane.narrow, 6),
            (lane.narrow, 3),
            (lane.narrow, 1),
        ):
            await asyncio.sleep(0)
            change(limit)
            await asyncio.sleep(0)
            found.append((lane.limit, sum(task.done() for task in tasks)))
        for task in tasks:
            task.cancel()
        return found

    assert asyncio.run(widths()) == [(4, 4), (4, 4), (4, 4), (6, 6), (6, 6), (3, 6), (2, 6), (2, 6)]


def test_a_place_given_to_somebody_who_is_just_cancelled_goes_to_the_next():
    async def race():
        lane = Lane(1)
        await lane.acquire()
        first, second = (asyncio.ensure_future(lane.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        lane.release()  # given to the first …
        first.cancel()  # … who is cancelled before it learns of it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return first.cancelled(), second.done(), lane.in_flight

    assert asyncio.run(race()) == (True, True, 1)


STEPS = st.lists(st.sampled_from(["ask", "cancel first", "cancel last", "release", "widen", "turn"]), max_size=60)


@settings(deadline=None)
@given(STEPS, st.integers(1, 4))
def test_no_order_of_events_exceeds_or_loses_a_place(steps, limit):
    async def play():
        lane, asked = Lane(limit), []

        def holders():
            return [task for task in asked if task.done() and not task.cancelled()]

        for step in steps:
            if step == "ask":
                asked.append(asyncio.ensure_future(lane.acquire()))
            elif step.startswith("cancel"):
                waiting = [task for task in asked if not task.done()]
                if waiting:
                    waiting[0 if step.endswith("first") else -1].cancel()
            elif step == "release" and holders():
                asked.remove(holders()[0])
                lane.release()
            elif step == "widen":
                lane.widen(lane.limit + 1)
            else:
                await asyncio.sleep(0)
            assert lane.in_flight <= lane.limit  # nothing narrows it here
        for _ in range(3):
            await asyncio.sleep(0)
        waiting = [task for task in asked if not task.done()]
        assert lane.in_flight == len(holders())
        assert not waiting or lane.in_flight == lane.limit
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(play())
