"""Held tasks: each is looked after once, until it has an answer or nobody else works on it."""

from __future__ import annotations

import asyncio

from orchestrai import Task
from orchestrai.engine.held import HeldTasks
from orchestrai.engine.item import Item
from orchestrai.ledger.ledger import Ledger
from orchestrai.routing.offers import Route


def item(number: int) -> Item:
    return Item(Task(f"task {number}"), number, number, 0, number.to_bytes(16), Route(()))


def test_a_task_that_is_held_again_while_others_are_freed_is_looked_after_by_the_same_watch(tmp_path):
    async def run() -> tuple[list[int], list[bool]]:
        ledger = Ledger(tmp_path, "test")
        freed, unattended = [], []

        def free(one: Item) -> None:
            freed.append(one.index)
            if one.index == 4:  # somebody else was quicker with the next
                unattended.append(held.add(one.key + b"again", item(one.index + 10)))

        held = HeldTasks(ledger, lambda item, answers: False, free)
        unattended += [held.add(one.key, one) for one in map(item, range(5))]
        try:
            await held.look_after(None)
            unattended.append(held.add(b"later", item(20)))
            await held.look_after(None)
        finally:
            ledger.close()
        return freed, unattended

    freed, unattended = asyncio.run(run())
    assert freed == [0, 1, 2, 3, 4, 14, 20]
    assert unattended == [True, *[False] * 5, True]
