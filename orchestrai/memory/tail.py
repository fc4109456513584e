"""The part of an index that is not sealed yet: vectors in the memory of this process alone."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from orchestrai.memory.vectors import Piece, Vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Tail:
    """Vectors of memories by their number; for one thread at a time."""

    def __init__(self) -> None:
        self._vectors: dict[int, NDArray[np.float32]] = {}
        self._joined: Vectors | None = None

    def __len__(self) -> int:
        return sum(map(len, self._vectors.values()))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return the numbers whose vectors are not there."""
        return [seq for seq in numbers if seq not in self._vectors]

    def add(self, seq: int, vectors: NDArray[np.float32]) -> None:
        """Add the vectors of a memory, one a piece."""
        self._vectors[seq] = vectors
        self._joined = None

    def keep(self, numbers: AbstractSet[int]) -> None:
        """Keep these numbers and no others: what was sealed or deleted goes."""
        for seq in self._vectors.keys() - numbers:
            del self._vectors[seq]
            self._joined = None

    def between(self, first: int, last: int) -> list[tuple[int, NDArray[np.float32]]]:
        """Return the vectors of the memories between two numbers, in order."""
        return [(seq, self._vectors[seq]) for seq in sorted(self._vectors) if first <= seq <= last]

    def nearest(
        self, vector: NDArray[np.float32], most: int, among: AbstractSet[int] | None
    ) -> list[tuple[Piece, float]]:
        """Return the pieces that are nearest to a vector; as `Vectors.nearest`."""
        if self._joined is None:
            import numpy as np

            pieces = [Piece(seq, place) for seq, own in self._vectors.items() for place in range(len(own))]
            empty = np.zeros((0, len(vector)), np.float32)
            self._joined = Vectors(pieces, np.concatenate([empty, *self._vectors.values()]))
        return self._joined.nearest(vector, most, among)
