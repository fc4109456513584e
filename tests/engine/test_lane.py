"""Lanes: tickets never exceed the limit, none is lost, and they are given in the order in which they were asked for."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.engine.lane import Lane, TurnedAway
from orchestrai.limits.admission import Admission


def places(limit, **told):
    """Return a lane with so many places."""
    return Lane(Admission(limit, limit, **told))


async def ticket(lane):
    return lane.take(0) or await lane.turn(0)


def test_places_are_given_first_come_first_served():
    async def order():
        lane, got = places(1), []

        async def one(i):
            mine = await ticket(lane)
            got.append(i)
            await asyncio.sleep(0)
            lane.end(mine)

        await asyncio.gather(*(one(i) for i in range(20)))
        return got, lane.admission.in_flight

    assert asyncio.run(order()) == (list(range(20)), 0)


def test_who_comes_later_does_not_overtake_who_waits():
    async def order():
        lane = places(1)
        first = await ticket(lane)
        waiting = asyncio.ensure_future(ticket(lane))
        await asyncio.sleep(0)
        lane.end(first)  # the place is promised to the one who waits
        late = asyncio.ensure_future(ticket(lane))
        await asyncio.sleep(0)
        return waiting.done(), late.done(), late.cancel()

    assert asyncio.run(order()) == (True, False, True)


def test_a_wider_lane_admits_those_who_wait_as_long_as_somebody_asks_for_it():
    async def most(lane):
        """Let a hundred requests run and return how many did so at once."""
        found = 0

        async def one():
            nonlocal found
            mine = await ticket(lane)
            found = max(found, lane.admission.in_flight)
            await asyncio.sleep(0)
            lane.end(mine)

        await asyncio.gather(*(one() for _ in range(100)))
        return found

    async def widths():
        lane = places(2)
        found = [await most(lane)]
        for change, ceiling in ((lane.widen, 4), (lane.widen, 3), (lane.widen, 6), (lane.narrow, 4), (lane.narrow, 6)):
            change(ceiling)
            found.append(await most(lane))
        lane.narrow(3)
        return [*found, await most(lane)]

    assert asyncio.run(widths()) == [2, 4, 4, 6, 6, 3, 2]


def test_a_ticket_given_to_somebody_who_is_just_cancelled_goes_to_the_next():
    async def race():
        lane = places(1)
        held = await ticket(lane)
        first, second = (asyncio.ensure_future(ticket(lane)) for _ in range(2))
        await asyncio.sleep(0)
        lane.end(held)  # given to the first …
        first.cancel()  # … who is cancelled before it learns of it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return first.cancelled(), second.done(), lane.admission.in_flight

    assert asyncio.run(race()) == (True, True, 1)


def test_who_waits_for_the_pace_is_woken_when_it_is_time():
    async def paced():
        lane, at, loop = places(50, rpm=3_000), [], asyncio.get_running_loop()

        async def one():
            mine = await ticket(lane)
            at.append(loop.time())
            lane.end(mine)

        await asyncio.gather(*(one() for _ in range(60)))
        return at[-1] - at[0], lane.admission.in_flight

    seconds, in_flight = asyncio.run(paced())
    assert seconds >= 0.5  # sixty at fifty a second, less what may leave at once
    assert in_flight == 0


def test_all_who_wait_are_turned_away_once_waiting_is_of_no_use():
    async def used_up():
        lane = places(1)
        held = await ticket(lane)
        waiting = [asyncio.ensure_future(ticket(lane)) for _ in range(5)]
        await asyncio.sleep(0)
        lane.end(held, "window", retry_after_s=7_200, words="200 requests per day")
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert lane.take(0) is None
        with pytest.raises(TurnedAway):
            await lane.turn(0)
        return ends, lane.admission.in_flight

    ends, in_flight = asyncio.run(used_up())
    assert [(type(end), end.kind) for end in ends] == [(TurnedAway, "window")] * 5
    assert "until 20" in str(ends[0])
    assert "200 requests per day" in str(ends[0])
    assert in_flight == 0


def test_who_can_go_elsewhere_is_turned_away_from_an_outage_sooner_than_who_cannot():
    async def outage():
        lane = places(10)
        lane.end(await ticket(lane))  # it has answered once: an outage, not a wrong address
        held = [await ticket(lane) for _ in range(6)]
        for one in held:
            lane.end(one, "overloaded", words="HTTP 503")
        assert lane.admission.why == "overloaded"
        soon = asyncio.ensure_future(lane.turn(0, 0.0))
        late = asyncio.ensure_future(lane.turn(0))
        await asyncio.sleep(0)
        found = soon.done(), type(soon.exception()), late.done()
        late.cancel()
        return found

    assert asyncio.run(outage()) == (True, TurnedAway, False)


STEPS = st.lists(st.sampled_from(["ask", "cancel first", "cancel last", "end", "fail", "widen", "turn"]), max_size=60)


@given(STEPS, st.integers(1, 4))
def test_no_order_of_events_exceeds_or_loses_a_place(steps, limit):
    async def play():
        lane, asked = places(limit), []
        admission = lane.admission

        def holders():
            return [task for task in asked if task.done() and not task.cancelled()]

        for step in steps:
            before = admission.in_flight
            if step == "ask":
                asked.append(asyncio.ensure_future(ticket(lane)))
            elif step.startswith("cancel"):
                waiting = [task for task in asked if not task.done()]
                if waiting:
                    waiting[0 if step.endswith("first") else -1].cancel()
            elif step in ("end", "fail") and holders():
                task = holders()[0]
                asked.remove(task)
                lane.end(task.result(), "reply" if step == "fail" else None)
            elif step == "widen":
                lane.widen(admission.ceiling + 1)
            else:
                await asyncio.sleep(0)
            assert admission.in_flight <= max(before, admission.limit)
        for _ in range(3):
            await asyncio.sleep(0)
        waiting = [task for task in asked if not task.done()]
        assert admission.in_flight == len(holders())
        assert not waiting or admission.in_flight >= admission.limit
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(play())
