"""Vectors of pieces of texts, compared with a query one by one: exactly, so that nothing is missed."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrai.memory.embedding import unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_CONTEXT: Final = 1.5  # weight of the whole text against that of a piece (measured)


class Piece(NamedTuple):
    """A piece of a memory's text: the memory's number and the piece's place in the text."""

    seq: int
    place: int


class Vectors:
    """Pieces and their vectors.

    Args:
        pieces: The pieces.
        vectors: One of length 1 each, (pieces, dimension).
    """

    def __init__(self, pieces: Sequence[Piece], vectors: NDArray[np.float32]) -> None:
        import numpy as np

        self._numbers = np.fromiter((piece.seq for piece in pieces), np.int64, len(pieces))
        self._pieces = pieces
        self._vectors = vectors

    def nearest(
        self, vector: NDArray[np.float32], most: int, among: AbstractSet[int] | None
    ) -> list[tuple[Piece, float]]:
        """Return the pieces that are nearest to a vector, and the cosine of each, the nearest first.

        Args:
            vector: Of length 1.
            most: How many.
            among: Numbers of the memories that count; None for all.
        """
        import numpy as np

        # Not by `@`: its threads wait for each other by spinning, and on a busy machine it took four times as long (measured).
        scores = np.einsum("ij,j->i", self._vectors, vector)
        if among is not None:
            scores[~np.isin(self._numbers, np.fromiter(among, np.int64, len(among)))] = -np.inf
        best = np.argpartition(-scores, most)[:most] if most < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(self._pieces[at], float(scores[at])) for at in best if np.isfinite(scores[at])]


def in_context(vectors: NDArray[np.float32], whole: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the vectors of a text's pieces, each moved towards the direction of the whole text.

    A passage alone often does not say what it is about: moved, more of the right texts are among the first five (measured;
    docs/explanation/memory.md).

    Args:
        vectors: Of the pieces.
        whole: Of the whole text; None where the mean of the pieces has to do.
    """
    direction = vectors.sum(axis=0) if whole is None else whole
    return unit(vectors + _CONTEXT * unit(direction[None, :]))
