"""Held: tasks of a call that another call or process is working on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from orchestrai.engine.item import Item
from orchestrai.ledger.ledger import Ledger
from orchestrai.ledger.lock import is_alive
from orchestrai.ledger.queries import StoredAnswer

_FIRST_S: Final = 0.05  # first look at a task that somebody else is working on
_MOST_S: Final = 1.0  # and the longest pause between looks


class HeldTasks:
    """Takes the answer of each held task, or the task itself once nobody works on it; on the engine's loop.

    Args:
        ledger: Where answers and claims are looked for.
        answered: Settles a task with an answer, if one may be reused; returns False when none may.
        free: Takes a task that nobody works on any more.
    """

    def __init__(
        self,
        ledger: Ledger,
        answered: Callable[[Item, list[StoredAnswer] | None], bool],
        free: Callable[[Item], None],
    ) -> None:
        self._ledger = ledger
        self._answered = answered
        self._free = free
        self._held: dict[bytes, Item] = {}  # by claim
        self._looked_after = False

    def add(self, claim: bytes, item: Item) -> bool:
        """Hold a task; True when nobody looks after the held tasks, so that the caller has to see to it."""
        self._held[claim] = item
        unattended, self._looked_after = not self._looked_after, True
        return unattended

    async def look_after(self, scope: str | None) -> None:
        """Look after the held tasks until there are none.

        Args:
            scope: Batch whose answers alone count; None for all.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        try:
            await self._look(scope)
        finally:
            self._looked_after = False

    async def _look(self, scope: str | None) -> None:
        pause = _FIRST_S
        while self._held:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _MOST_S)
            held = dict(self._held)  # as it is looked for: what is held meanwhile waits for the next look
            found = await self._ledger.find_answers([item.key for item in held.values()], scope, list(held))
            owners = {claim.owner_id for claim in found.working.values()}
            if any(not is_alive(self._ledger.folder / "owners", owner) for owner in owners):
                await self._ledger.recover()
                continue
            for claim, item in held.items():
                if self._answered(item, found.answers.get(item.key)):
                    del self._held[claim]
                elif claim not in found.working:
                    del self._held[claim]
                    item.since = found.newest
                    self._free(item)
