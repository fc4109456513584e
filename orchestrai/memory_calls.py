"""`orch.memory`: what a person calls, from any loop, about the memories of a ledger."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from orchestrai.engine.call import Call
from orchestrai.engine.engine import Engine
from orchestrai.engine.loop import Errand
from orchestrai.errors import MemoryWarning
from orchestrai.memory.store import MemoryStore
from orchestrai.memory.values import Memory, MemoryMatch

S = TypeVar("S")
T = TypeVar("T")


class Memories:
    """Texts that one AI leaves for another: `orch.memory`.

    They are kept in the ledger. Each is there for every process that shares the ledger from the moment `add` returns.

    Args:
        opened: Opens the ledger.
        settings: The table `[memory]` of the settings.
    """

    def __init__(self, opened: Callable[[], Engine], settings: Mapping[str, Any]) -> None:
        self._opened = opened
        self._settings = settings
        self.stores: builtins.list[MemoryStore] = []
        """The store, once it was asked for."""

    def add(self, text: str, *, metadata: Mapping[str, Any] | None = None) -> Call[str]:
        """Keep a text: `m = await orch.memory.add("…", metadata={"topic": "wal"})`.

        Args:
            text: The text, at most 64 MiB.
            metadata: What it is found again by: text, numbers, True and False by name.

        Returns:
            A coroutine; awaited, the memory's id, once it is durable.

        Raises:
            InvalidInput: Text or metadata cannot be kept.
            LedgerError: The ledger cannot be written.
        """
        return self._call("add", lambda store: store.add(text, metadata), _as_it_is)

    def get(self, memory_id: str) -> Call[Memory]:
        """Return a memory, whole: `memory = await orch.memory.get(m)`.

        Args:
            memory_id: What `add` returned.

        Returns:
            A coroutine; awaited, the Memory.

        Raises:
            MemoryMissing: It never was in this ledger, was deleted, or its text is not the one that was added.
            LedgerError: The ledger cannot be read.
        """
        return self._call("get", lambda store: store.get(memory_id), _as_it_is)

    def search(
        self, query: str, *, limit: int = 5, where: Mapping[str, Any] | None = None
    ) -> Call[builtins.list[MemoryMatch]]:
        """Find memories by what they are about: `for match in await orch.memory.search("…"): …`.

        Every memory that is committed is searched, whichever process wrote it. One whose text was altered is left out
        with a MemoryWarning.

        Args:
            query: What is looked for.
            limit: Most matches.
            where: Condition on the metadata: `{"topic": "wal"}`, `{"year": {"$gte": 2020}}`, `{"$or": [{…}, {…}]}`;
                operators $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $and, $or.

        Returns:
            A coroutine; awaited, MemoryMatches, the nearest first.

        Raises:
            InvalidInput: Query, limit or condition cannot be used.
            InvalidSettings: The embedding cannot be used.
            PlatformError: The embedding is one of a server, and that does not answer.
            LedgerError: The ledger cannot be read.
        """
        return self._call("search", lambda store: store.search(query, limit, where), _spoken)

    def list(self, *, where: Mapping[str, Any] | None = None) -> Call[builtins.list[Memory]]:
        """Return the memories whose metadata meets a condition, all without one, in the order in which they were added.

        Args:
            where: As of `search`.

        Returns:
            A coroutine; awaited, Memories.

        Raises:
            InvalidInput: The condition cannot be used.
            LedgerError: The ledger cannot be read.
        """
        return self._call("list", lambda store: store.listed(where), _spoken)

    def delete(self, memory_id: str) -> Call[None]:
        """Take text and metadata of a memory away: `await orch.memory.delete(m)`.

        Its id is kept, so that nothing brings it back. Where it was the answer of a task, the task keeps its answer.

        Args:
            memory_id: What `add` returned.

        Returns:
            A coroutine.

        Raises:
            MemoryMissing: It never was in this ledger.
            LedgerError: The ledger cannot be written.
        """
        return self._call("delete", lambda store: store.delete(memory_id), _as_it_is)

    def __repr__(self) -> str:
        return "<orch.memory: add, get, search, list, delete>"

    def _call(self, name: str, ask: Callable[[MemoryStore], Coroutine[Any, Any, S]], told: Callable[[S], T]) -> Call[T]:
        async def call() -> T:
            engine = self._opened()

            async def inside() -> S:
                return await ask(self._store_of(engine))

            return told(await Errand(engine.loop, inside()).wait())

        return Call(f"orch.memory.{name}", call)

    def _store_of(self, engine: Engine) -> MemoryStore:
        """Return the store, made on the loop; anew for a ledger that was opened anew, in a forked child for example."""
        if not self.stores or self.stores[0].ledger is not engine.ledger:
            self.stores[:] = [MemoryStore(engine.ledger, self._settings)]
        return self.stores[0]


async def close_stores(stores: builtins.list[MemoryStore]) -> None:
    """Let go of search indexes; on the engine's loop, before the ledger is closed."""
    while stores:
        await stores.pop().close()


def _as_it_is(answer: T) -> T:
    return answer


def _spoken(answer: tuple[T, builtins.list[str]]) -> T:
    """Return what was found, and say what is wrong with the rest to whoever called."""
    found, problems = answer
    for problem in problems:
        warnings.warn(problem, MemoryWarning, stacklevel=3)
    return found
