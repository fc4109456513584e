"""MemoryStore: add, get, search, delete and list, on the engine's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from orchestrai.errors import InvalidInput, MemoryMissing
from orchestrai.ids import new_id, now_us
from orchestrai.ledger import memories
from orchestrai.ledger.ledger import Ledger
from orchestrai.ledger.memories import MemoryRecord
from orchestrai.ledger.metadata import read, written
from orchestrai.ledger.rows import MemoryRow, insert
from orchestrai.memory import embedding
from orchestrai.memory.chunks import spans
from orchestrai.memory.embedding import Embedding
from orchestrai.memory.index import SEAL_AT, SearchIndex
from orchestrai.memory.values import Memory, MemoryMatch
from orchestrai.messages import check_characters

LARGEST: Final = 64 * 2**20  # of one text, in UTF-8 [bytes]
_PATIENCE_S: Final = 10.0  # with what is being sealed when the ledger is closed


class MemoryStore:
    """The memories of one ledger.

    Args:
        ledger: The ledger, attached to the engine's loop.
        settings: The table `[memory]`.
        seal_at: Pieces of texts that are sealed into the index together.
    """

    def __init__(self, ledger: Ledger, settings: Mapping[str, Any], seal_at: int = SEAL_AT) -> None:
        self.ledger = ledger
        self._settings = settings
        self._seal_at = seal_at
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="orchestrai-memory")
        self._opening = asyncio.Lock()
        self._embedding: Embedding | None = None
        self._index: SearchIndex | None = None

    async def add(self, text: str, metadata: Mapping[str, Any] | None) -> str:
        """Keep a text and return its id once it is durable.

        Raises:
            InvalidInput: Text or metadata cannot be kept.
            LedgerError: The ledger cannot be written.
        """
        row: MemoryRow = await self._in_thread(new_row, text, metadata)
        assert self.ledger.journal is not None
        await self.ledger.journal.do(lambda c: insert(c, MemoryRow, [row]))
        return row.memory_id

    async def get(self, memory_id: str) -> Memory:
        """Return a memory.

        Raises:
            MemoryMissing: It never was, is gone, or is not what it was.
        """
        _check_id(memory_id)

        def look(connection: Any) -> tuple[MemoryRecord | None, str | None]:
            record = memories.read_memories(connection, [memory_id]).get(memory_id)
            return record, problem_of(record)

        record, problem = await self.ledger.read_soon(look)
        if problem is not None:
            raise MemoryMissing(f"Memory {memory_id}: {problem}")
        assert record is not None
        return memory_of(record)

    async def delete(self, memory_id: str) -> None:
        """Take a memory away; one that is deleted already stays so.

        Raises:
            MemoryMissing: It never was.
            LedgerError: The ledger cannot be written.
        """
        _check_id(memory_id)
        now = now_us()
        assert self.ledger.journal is not None
        if not await self.ledger.journal.do(lambda c: memories.delete(c, memory_id, now)):
            raise MemoryMissing(f"Memory {memory_id}: {problem_of(None)}")

    async def listed(self, where: Mapping[str, Any] | None) -> tuple[list[Memory], list[str]]:
        """Return the memories whose metadata meets a condition, in the order in which they were added, and problems.

        Raises:
            InvalidInput: The condition is none.
        """
        whole, problems = await self.ledger.read_soon(lambda c: sifted(memories.matching(c, where)))
        return [memory_of(record) for record in whole], problems

    async def search(
        self, query: str, limit: int, where: Mapping[str, Any] | None
    ) -> tuple[list[MemoryMatch], list[str]]:
        """Return the memories that are nearest to a query, the nearest first, and what a person should know of it.

        Raises:
            InvalidInput: Query, limit or condition are none.
            InvalidSettings: The embedding cannot be used.
            PlatformError: The server of the embedding does not answer.
        """
        if not isinstance(query, str) or not query.strip():
            raise InvalidInput(f"query is a text, not {query!r}.")
        check_characters("query", query)
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidInput(f"limit= is a whole number of at least 1, not {limit!r}.")
        among = None if not where else await self.ledger.read_soon(lambda c: memories.numbers_matching(c, where))
        index = await self._opened()
        wanted = limit
        while True:  # what was deleted is in sealed parts still: where it takes places, there is more to be found
            hits = await index.search(query, wanted, among)
            whole, problems = await self._whole([hit.seq for hit in hits])
            if len(whole) >= limit or len(hits) < wanted:
                break
            wanted *= 2
        kept = {record.seq: record for record in whole}
        matches = [_match(kept[hit.seq], hit.score, hit.place) for hit in hits if hit.seq in kept]
        if index.trouble is not None:
            problems.append(f"The search index cannot be kept on the disk, so searches are slower: {index.trouble}")
            index.trouble = None
        return matches[:limit], problems

    async def settled(self) -> None:
        """Wait until nothing is being sealed."""
        if self._index is not None:
            await self._index.sealed()

    async def close(self) -> None:
        """Let go of index, connections and threads."""
        if self._index is not None:
            await self._index.close(_PATIENCE_S)
        if self._embedding is not None and self._embedding.close is not None:
            await self._embedding.close()
        self._threads.shutdown(wait=False)

    async def _opened(self) -> SearchIndex:
        async with self._opening:
            if self._index is None:
                self._embedding = await embedding.load(self._settings, self._threads)
                self._index = SearchIndex(self.ledger, self._embedding, self._threads, self._seal_at)
            return self._index

    async def _whole(self, numbers: Sequence[int]) -> tuple[list[MemoryRecord], list[str]]:
        def look(connection: Any) -> tuple[list[MemoryRecord], list[str]]:
            found = memories.memories_at(connection, numbers)
            return sifted([found[seq] for seq in numbers if seq in found])

        return await self.ledger.read_soon(look)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def new_row(text: str, metadata: Mapping[str, Any] | None) -> MemoryRow:
    """Return the row of a text that a person keeps.

    Raises:
        InvalidInput: Text or metadata cannot be kept; the message says why.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"A memory is a text, not {type(text).__name__}.")
    if not text:
        raise InvalidInput("A memory is a text; this one is empty.")
    check_characters("The text", text)
    if (size := len(text.encode("utf-8"))) > LARGEST:
        raise InvalidInput(f"The text has {size:,} bytes; a memory has at most {LARGEST:,}. Split it.")
    return MemoryRow(new_id(), memories.digest_of(text), len(text), text, None, written(metadata), None, now_us())


def problem_of(record: MemoryRecord | None) -> str | None:
    """Return why a memory cannot be had; None where it can."""
    if record is None:
        return "there is none of this id in this ledger."
    if record.deleted_at is not None:
        return "it was deleted."
    if record.text is None:
        return "its text was removed from the ledger."
    if not record.is_whole:
        return "its text is not the one that was added (its SHA-256 is another)."
    return None


def sifted(records: Sequence[MemoryRecord]) -> tuple[list[MemoryRecord], list[str]]:
    """Return the records that are whole, and what is wrong with those that should be; deleted ones are not missed."""
    whole, problems = [], []
    for record in records:
        problem = problem_of(record)
        if problem is None:
            whole.append(record)
        elif record.deleted_at is None and record.text is not None:
            problems.append(f"Memory {record.memory_id} is left out: {problem}")
    return whole, problems


def memory_of(record: MemoryRecord) -> Memory:
    """Return what a person sees of a record that is whole."""
    assert record.text is not None
    return Memory(
        record.memory_id,
        record.text,
        read(record.metadata),
        record.digest.hex(),
        record.created_at,
        record.chain_id,
    )


def _match(record: MemoryRecord, score: float, place: int) -> MemoryMatch:
    memory = memory_of(record)
    first, last = spans(memory.text)[place]
    return MemoryMatch(memory, score, memory.text[first:last])


def _check_id(memory_id: str) -> None:
    if not isinstance(memory_id, str):
        raise InvalidInput(f"A memory is named by its id, a text, not by {type(memory_id).__name__}.")
