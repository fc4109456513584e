"""The search index: sealed parts on the disk, shared by all processes, and a tail in the memory of each.

The ledger is the truth. Every search first asks it which memories there are, and gives vectors to those that neither a
sealed part nor the tail has. So a search sees every memory that is committed, whoever wrote it, and an index that is missing,
behind, damaged or of another embedding is not a case of its own: what is not there is made. Once the tail is long, one process
seals it. A new part absorbs older ones that are no larger, so that there are few of them, however many memories there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from orchestrai.ledger import memories, segments
from orchestrai.ledger.ledger import Ledger
from orchestrai.ledger.lock import turn
from orchestrai.ledger.segments import SegmentRow
from orchestrai.memory.chunks import spans
from orchestrai.memory.embedding import Embedding
from orchestrai.memory.segment import Segment, SegmentDamaged, SegmentMaker, remove_others
from orchestrai.memory.tail import Tail
from orchestrai.memory.vectors import Piece, in_context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

FORM: Final = "1"
"""How texts become vectors, beside the embedding: cut into pieces, each in the context of its text."""
SEAL_AT: Final = 512
"""Pieces in the tail that are sealed: a fresh process embeds no more than these, which takes less than a second."""

_READ_AT_ONCE: Final = 1_000_000  # characters of texts that are read and embedded together; a longer text goes alone
_WHOLE: Final = 8_000  # characters at the beginning of a text that say what the whole of it is about
_REPAIRS: Final = 5  # parts in a row that turn out damaged before a search gives up


class Hit(NamedTuple):
    """A memory that a search found: its number, the piece that fits best, and the cosine of that."""

    seq: int
    place: int
    score: float


class _Look(NamedTuple):
    rows: list[SegmentRow]
    sizes: dict[int, int] | None  # of the memories that no part has [characters]
    newest: int


class SearchIndex:
    """The index of one ledger with one embedding; its methods run on the engine's loop.

    Args:
        ledger: The ledger.
        embedding: What makes vectors.
        threads: Where vectors are searched and parts are made; never the loop.
        seal_at: Pieces in the tail that are sealed.
    """

    def __init__(
        self, ledger: Ledger, embedding: Embedding, threads: ThreadPoolExecutor, seal_at: int = SEAL_AT
    ) -> None:
        self._ledger = ledger
        self._embedding = embedding
        self._identity = f"{embedding.identity} {FORM}"
        self._folder = ledger.folder / "memory"
        self._seal_at = seal_at
        self._segments: dict[str, Segment] = {}
        self._useless: set[str] = set()  # names of parts that are in order, where Chroma is not
        self._tail = Tail()
        self._newest = 0  # number of the newest memory that was looked for
        self._one_at_a_time = asyncio.Lock()  # over segments and tail, which threads look at
        self._threads = threads
        self._sealing: asyncio.Task[None] | None = None
        self.trouble: str | None = None
        """Why the index cannot be kept on the disk; searches are right without it, and slower."""

    async def search(self, query: str, limit: int, among: AbstractSet[int] | None) -> list[Hit]:
        """Return the memories that are nearest to a query, the nearest first.

        Args:
            query: What is looked for.
            limit: How many.
            among: Numbers of the memories that count; None for all. Deleted ones may be among those that are found.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        (vector,) = await self._embedding([query])
        async with self._one_at_a_time:
            for _ in range(_REPAIRS):
                await self._catch_up()
                try:
                    hits = await self._in_thread(self._nearest, vector, limit, among)
                except _Damaged as damaged:
                    await self._drop([damaged.name])
                else:
                    break
            else:
                raise RuntimeError(
                    f"{self._folder}: the search index breaks as fast as it is made. Is the disk in order?"
                )
        if len(self._tail) >= self._seal_at and (self._sealing is None or self._sealing.done()):
            self._sealing = asyncio.create_task(self._seal())
        return hits

    async def sealed(self) -> None:
        """Wait until nothing is being sealed."""
        if self._sealing is not None:
            await asyncio.wait({self._sealing})

    async def close(self, patience_s: float) -> None:
        """Let go of everything, after what is being sealed if that does not take longer than `patience_s`."""
        if self._sealing is not None and not self._sealing.done():
            await asyncio.wait({self._sealing}, timeout=patience_s)
            self._sealing.cancel()
            await asyncio.wait({self._sealing})
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    # What there is.

    async def _catch_up(self) -> None:
        """Bring parts and tail to what the ledger holds now."""
        while True:
            look = await self._ledger.read_soon(self._look)
            if look.sizes is not None:
                break
            await self._open_and_close(look.rows)
        self._newest = look.newest
        self._tail.keep(look.sizes.keys())
        together, chars = list[int](), 0
        for seq in self._tail.missing(look.sizes):
            if chars + look.sizes[seq] > _READ_AT_ONCE:
                await self._embed(together)
                together, chars = [], 0
            together.append(seq)
            chars += look.sizes[seq]
        await self._embed(together)

    def _look(self, connection: Any) -> _Look:
        """Return what the ledger holds; without the sizes where the parts that are open are not those that it names."""
        rows = segments.segments_of(connection, self._identity)
        if {row.name for row in rows} - self._useless != self._segments.keys():
            return _Look(rows, None, 0)
        # In this order: what is committed between the two is in the tail, and not in the span that is sealed up to the newest.
        newest = memories.newest_number(connection)
        return _Look(rows, memories.sizes_between(connection, self._gaps()), newest)

    async def _open_and_close(self, rows: Sequence[SegmentRow]) -> None:
        """Open the parts that the ledger names, and no others; what is damaged is named no more."""
        for name in self._segments.keys() - {row.name for row in rows}:
            self._segments.pop(name).close()
        damaged = []
        for row in rows:
            if row.name not in self._segments:
                try:
                    self._segments[row.name] = await self._in_thread(Segment, self._folder, row)
                except SegmentDamaged:
                    damaged.append(row.name)
                except ImportError as error:
                    self._useless.add(row.name)
                    self.trouble = str(error)
        await self._drop(damaged)

    def _gaps(self) -> list[tuple[int, int | None]]:
        """Return the spans of numbers that no part has: those between parts, and what comes after the last."""
        have = sorted((s.row.first_seq, s.row.last_seq) for s in self._segments.values())
        ends = [(0, 0), *have]
        between = [(a[1] + 1, b[0] - 1) for a, b in pairwise(ends) if b[0] - a[1] > 1]
        return [*between, (ends[-1][1] + 1, None)]

    async def _embed(self, numbers: Sequence[int]) -> None:
        """Add memories to the tail; what has lost its text meanwhile has no pieces."""
        import numpy as np

        if not numbers:
            return
        records = await self._ledger.read_soon(lambda c: memories.memories_at(c, numbers))
        texts = {seq: records[seq].text or "" if seq in records else "" for seq in numbers}
        pieces = {seq: [text[first:last] for first, last in spans(text)] for seq, text in texts.items()}
        vectors = await self._embedding([piece for own in pieces.values() for piece in own])
        long = [seq for seq, own in pieces.items() if len(own) > 1 and self._embedding.long_texts]
        wholes = dict(zip(long, await self._embedding([texts[seq][:_WHOLE] for seq in long]), strict=True))
        ends = np.cumsum([len(own) for own in pieces.values()])
        for seq, own in zip(numbers, np.split(vectors, ends[:-1]), strict=True):
            self._tail.add(seq, in_context(own, wholes.get(seq)) if len(own) else own)

    async def _drop(self, names: Sequence[str]) -> None:
        """Forget parts that cannot be used; their memories are in the tail again."""
        for name in names:
            segment = self._segments.pop(name, None)
            if segment is not None:
                segment.close()
        if names:
            await self._write(lambda c: segments.drop(c, names))

    def _nearest(self, vector: NDArray[np.float32], limit: int, among: AbstractSet[int] | None) -> list[Hit]:
        """Return the best piece of each of the nearest memories; in a thread."""
        most = 4 * limit
        while True:
            found = self._tail.nearest(vector, most, among)
            whole = len(found) < most
            for name, segment in self._segments.items():
                try:
                    nearest = segment.nearest(vector, most, among)
                except SegmentDamaged as error:
                    raise _Damaged(name) from error
                whole = whole and len(nearest) < most
                found += nearest
            best: dict[int, Hit] = {}
            for piece, score in sorted(found, key=lambda one: one[1], reverse=True):
                best.setdefault(piece.seq, Hit(piece.seq, piece.place, score))
            if whole or len(best) >= limit:
                return list(best.values())[:limit]
            most *= 4

    # Sealing.

    async def _seal(self) -> None:
        """Make a part of the longest gap, if nobody else is at it."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with turn(self._folder / "seal.lock") as mine:
                if mine:
                    named = await self._ledger.read_soon(segments.names_of_all)
                    await self._in_thread(remove_others, self._folder, named)
                    await self._seal_longest()
        except Exception as error:  # noqa: BLE001 - a full disk, say; it is tried again when there is twice as much
            self.trouble = f"{type(error).__name__}: {error}"
            self._seal_at *= 2

    async def _seal_longest(self) -> None:
        async with self._one_at_a_time:  # what is sealed is read while nobody changes it
            await self._catch_up()
            spans_ = [(first, last or self._newest) for first, last in self._gaps()]
            inside = {span: self._tail.between(*span) for span in spans_}
        (first, last), items = max(inside.items(), key=lambda one: sum(len(v) for _, v in one[1]))
        chunks = sum(len(vectors) for _, vectors in items)
        if chunks < self._seal_at:
            return
        absorbed: list[Segment] = []
        for segment in sorted(self._segments.values(), key=lambda s: s.row.last_seq, reverse=True):
            if segment.row.last_seq == first - 1 and len(segment.pieces) <= chunks:
                absorbed.append(segment)
                first, chunks = segment.row.first_seq, chunks + len(segment.pieces)
        live = (await self._ledger.read_soon(lambda c: memories.sizes_between(c, [(first, last)]))).keys()
        items = [(seq, vectors) for seq, vectors in items if seq in live]
        if not items:
            return
        row = await self._made(items, absorbed, live, first, last, chunks)
        if not await self._write(lambda c: segments.seal(c, row, [segment.row.name for segment in absorbed])):
            await self._in_thread(remove_others, self._folder, await self._ledger.read_soon(segments.names_of_all))

    async def _made(
        self,
        items: Sequence[tuple[int, NDArray[np.float32]]],
        absorbed: Sequence[Segment],
        live: AbstractSet[int],
        first: int,
        last: int,
        chunks: int,
    ) -> SegmentRow:
        """Make a part of what is in the tail and in older parts, without what was deleted meanwhile."""
        maker = await self._in_thread(SegmentMaker, self._folder, chunks)
        try:
            for segment in reversed(absorbed):
                source = segment.vectors()
                while (some := await self._in_thread(next, source, None)) is not None:
                    pieces, vectors = some
                    kept = [at for at, piece in enumerate(pieces) if piece.seq in live]
                    await self._in_thread(maker.add, [pieces[at] for at in kept], vectors[kept])
            for seq, vectors in items:
                await self._in_thread(maker.add, [Piece(seq, place) for place in range(len(vectors))], vectors)
            return await self._in_thread(maker.sealed, self._identity, first, last)
        except BaseException:  # whatever it was, it goes on
            maker.give_up()
            raise

    def _write(self, work: Callable[[Any], T]) -> Awaitable[T]:
        assert self._ledger.journal is not None
        return self._ledger.journal.do(work)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class _Damaged(Exception):
    """A part that was open turned out to be damaged."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
