"""A sealed part of the index: one Chroma collection in a folder of its own, made whole and never changed.

Chroma's own way to grow a collection does not serve several processes: one that has it open does not see what another adds
(measured; docs/explanation/memory.md). What never changes is the same for all of them. Only vectors are kept here, no texts.

Two more of its habits are dealt with here. It takes what its files hold on trust: cut ones give wrong neighbours without an
error, altered ones can end the process. So the files are compared with the digest in the ledger before Chroma opens them. And
its graph does not lead to every vector where many texts are alike (of 2,000 notes of one form it found 700). So a part is
searched by its graph where it is large and the graph was seen to reach everything, and else one by one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrai.ids import new_id, now_us
from orchestrai.ledger.segments import SegmentRow
from orchestrai.memory.vectors import Piece, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLLECTION: Final = "memories"
_AT_ONCE: Final = 1000  # vectors that are added or read in one go
_EXACT: Final = 32_768  # vectors up to which a part is searched one by one: 10 ms, and at most 128 MiB of memory
_HNSW: Final = {"space": "cosine", "ef_construction": 100, "ef_search": 500, "max_neighbors": 16}


class SegmentDamaged(Exception):
    """A sealed part is missing, or is not what was sealed."""


class Segment:
    """An open part of the index.

    Args:
        folder: The folder of all parts.
        row: What the ledger says of it.
        exact: Vectors up to which it is searched one by one.

    Raises:
        SegmentDamaged: It is not there, or not what the ledger says.
        ImportError: Chroma is not there.
    """

    def __init__(self, folder: Path, row: SegmentRow, exact: int = _EXACT) -> None:
        self.row = row
        path = folder / row.name
        if _digest_of_files(path) != row.digest[:32]:
            raise SegmentDamaged(f"{path}: its files are not those that were sealed.")
        self._client: Any = None
        try:
            self._client, self._collection = _opened(path)
            ids = self._collection.get(include=[])["ids"]
            if _digest_of_ids(ids) != row.digest[32:]:
                raise SegmentDamaged(f"{path}: its ids are not those that were sealed.")
            self.pieces = [_piece(name) for name in ids]
            self._numbers = frozenset(piece.seq for piece in self.pieces)
            by_graph = row.chunks > exact and row.reached == row.chunks
            self._exact = None if by_graph else self._loaded()
        except (SegmentDamaged, ImportError):  # without Chroma nothing is wrong with the part
            self.close()
            raise
        except Exception as error:  # whatever Chroma raises, this part cannot be used
            self.close()
            raise SegmentDamaged(f"{path}: {error}") from error
        _open.append(self)

    def nearest(
        self, vector: NDArray[np.float32], most: int, among: AbstractSet[int] | None
    ) -> list[tuple[Piece, float]]:
        """Return the pieces that are nearest to a vector; as `Vectors.nearest`.

        Raises:
            SegmentDamaged: Chroma cannot say.
        """
        if self._exact is not None:
            return self._exact.nearest(vector, most, among)
        limits: dict[str, Any] = {}
        within = len(self.pieces)
        if among is not None and not among >= self._numbers:
            limits["ids"] = [_name(piece) for piece in self.pieces if piece.seq in among]
            within = len(limits["ids"])
        if not within:
            return []
        try:
            found = self._collection.query(
                query_embeddings=vector[None, :], n_results=min(most, within), include=["distances"], **limits
            )
        except Exception as error:  # as above
            raise SegmentDamaged(f"{self.row.name}: {error}") from error
        named = zip(found["ids"][0], found["distances"][0], strict=True)
        return [(_piece(name), 1.0 - float(distance)) for name, distance in named]

    def vectors(self) -> Iterator[tuple[list[Piece], NDArray[np.float32]]]:
        """Yield everything in it, some at a time.

        Raises:
            SegmentDamaged: Chroma cannot say.
        """
        import numpy as np

        for at in range(0, len(self.pieces), _AT_ONCE):
            try:
                got = self._collection.get(limit=_AT_ONCE, offset=at, include=["embeddings"])
            except Exception as error:  # as above
                raise SegmentDamaged(f"{self.row.name}: {error}") from error
            yield [_piece(name) for name in got["ids"]], np.asarray(got["embeddings"], np.float32)

    def _loaded(self) -> Vectors:
        import numpy as np

        pieces: list[Piece] = []
        parts = []
        for some, vectors in self.vectors():
            pieces += some
            parts.append(vectors)
        return Vectors(pieces, np.concatenate(parts))

    def close(self) -> None:
        """Let go of its files."""
        if self in _open:
            _open.remove(self)
        if self._client is not None:
            self._client.close()


class SegmentMaker:
    """Makes a part of the index; what is added to it is not found before `sealed`.

    Args:
        folder: The folder of all parts.
        size: How many vectors will be added.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._name = new_id()
        self._path = folder / f"{self._name}.new"
        self._ids: list[str] = []
        # Kept until they are many: each time it is told, Chroma waits for the disk.
        self._waiting: list[tuple[Sequence[Piece], NDArray[np.float32]]] = []
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path.mkdir(mode=0o700)
        # All of it is written as one, at the end: what Chroma only logs would have to be indexed at each opening.
        hnsw = {**_HNSW, "sync_threshold": max(2, size), "batch_size": max(2, min(100, size))}
        self._client, self._collection = _opened(self._path, {"hnsw": hnsw})

    def add(self, pieces: Sequence[Piece], vectors: NDArray[np.float32]) -> None:
        """Add vectors of length 1, (pieces, dimension)."""
        self._waiting.append((pieces, vectors))
        if sum(len(some) for some, _ in self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import numpy as np

        names = [_name(piece) for pieces, _ in self._waiting for piece in pieces]
        if names:
            vectors = np.concatenate([vectors for _, vectors in self._waiting])
            for at in range(0, len(names), _AT_ONCE):
                self._collection.add(ids=names[at : at + _AT_ONCE], embeddings=vectors[at : at + _AT_ONCE])
        self._ids += names
        self._waiting.clear()

    def sealed(self, embedding: str, first_seq: int, last_seq: int) -> SegmentRow:
        """Give it its name and return the row that is to say so."""
        self._flush()
        vector = self._collection.get(limit=1, include=["embeddings"])["embeddings"]
        reached = len(self._collection.query(query_embeddings=vector, n_results=len(self._ids), include=[])["ids"][0])
        self._client.close()
        digest = _digest_of_files(self._path) + _digest_of_ids(self._ids)
        self._path.replace(self._folder / self._name)
        return SegmentRow(self._name, embedding, first_seq, last_seq, len(self._ids), reached, digest, now_us())

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._client.close()
        shutil.rmtree(self._path, ignore_errors=True)


def remove_others(folder: Path, names: AbstractSet[str]) -> None:
    """Remove the folders of parts that are not named: half-made ones, damaged ones, those that others absorbed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path, ignore_errors=True)


def _opened(path: Path, configuration: dict[str, Any] | None = None) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own dependencies, at import
        import chromadb
        from chromadb.config import Settings

    # Said in full: what it is not told it takes from variables of the environment and from `.env` of the working folder.
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        chroma_api_impl="chromadb.api.rust.RustBindingsAPI",
        anonymized_telemetry=False,
        allow_reset=False,
        migrations="apply",
        chroma_otel_collection_endpoint="",
        chroma_otel_granularity=None,
    )
    client: Any = chromadb.PersistentClient(path, settings)
    try:
        if configuration is None:
            return client, client.get_collection(_COLLECTION, embedding_function=None)
        made: Any = configuration
        return client, client.create_collection(_COLLECTION, embedding_function=None, configuration=made)
    except BaseException:  # whatever it was, it goes on
        client.close()
        raise


def _digest_of_files(path: Path) -> bytes:
    """Return the SHA-256 of the files that Chroma only reads; its database it touches, and checks itself."""
    digest = hashlib.sha256()
    if not (path / "chroma.sqlite3").is_file():
        raise SegmentDamaged(f"{path}: there is no database.")
    try:
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith("chroma.sqlite3"):
                content = file.read_bytes()
                digest.update(f"{file.name} {len(content)}\n".encode())
                digest.update(content)
    except OSError as error:
        raise SegmentDamaged(f"{path}: {error}") from error
    return digest.digest()


def _digest_of_ids(ids: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).digest()


def _name(piece: Piece) -> str:
    return f"{piece.seq}.{piece.place}"


def _piece(name: str) -> Piece:
    seq, _, place = name.partition(".")
    return Piece(int(seq), int(place))


_open: list[Segment] = []
_inherited: list[object] = []  # by a forked child; kept, because ending them would wait for threads of the parent


def _forget() -> None:
    """Let a forked child open for itself what its parent has open."""
    if "chromadb" in sys.modules:
        from chromadb.api.shared_system_client import SharedSystemClient

        _inherited.append((list(_open), SharedSystemClient._identifier_to_system))  # noqa: SLF001 - it has no other door
        _open.clear()
        SharedSystemClient.clear_system_cache()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
