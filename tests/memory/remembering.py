"""What the tests of the index share: a store whose index is sealed early, on the engine's loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from orchestrai.engine.engine import Engine, close_engine, open_engine
from orchestrai.memory.store import MemoryStore

SEAL_AT = 24


class Kept:
    """A store, and the few things that tests do with it."""

    def __init__(self, engine: Engine, embedding: str) -> None:
        self.engine = engine
        self._embedding = embedding

    async def open(self) -> None:
        self.store = await self.inside(self._made())

    async def _made(self) -> MemoryStore:
        return MemoryStore(self.engine.ledger, {"embedding": self._embedding}, SEAL_AT)

    async def inside(self, work: Any) -> Any:
        return await asyncio.wrap_future(self.engine.loop.submit(work))

    async def add(self, *texts: str, metadata: Any = None) -> list[str]:
        return [await self.inside(self.store.add(text, metadata)) for text in texts]

    async def delete(self, memory_id: str) -> None:
        await self.inside(self.store.delete(memory_id))

    async def found(self, query: str, limit: int = 5, where: Any = None) -> list[str]:
        matches, problems = await self.inside(self.store.search(query, limit, where))
        assert problems == []
        return [match.memory.id for match in matches]

    async def sealed(self) -> list[tuple[int, int]]:
        """Search, wait for what that seals, and return the spans of the sealed parts."""
        await self.found("anything")
        await self.inside(self.store.settled())
        return self.spans()

    def spans(self) -> list[tuple[int, int]]:
        rows = self.engine.ledger.read(
            lambda c: c.execute("SELECT first_seq, last_seq FROM segments ORDER BY 1").fetchall()
        )
        return [tuple(row) for row in rows]

    @property
    def folder(self) -> Path:
        return self.engine.ledger.folder / "memory"

    def parts(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir())


@contextlib.asynccontextmanager
async def kept(folder: Path, embedding: str = "hashed") -> AsyncIterator[Kept]:
    """Open a ledger with a store on it."""
    engine = open_engine(folder, "test")
    opened = Kept(engine, embedding)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.inside(opened.store.close())
        close_engine(engine)


def notes(count: int, of: str = "bread", start: int = 0) -> list[str]:
    """Return texts of one form, each a piece."""
    return [f"note {i} about {of}, kept by a test" for i in range(start, start + count)]
