"""The embedding that needs nothing but numpy: words and their four-letter pieces, hashed into a vector.

It knows no meanings: it finds texts that use the same words, or words with the same stem. It is the same on every machine and
in every version of Python, because nothing in it is learned or drawn by chance.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION: Final = "1"  # of what the vector of a text is: another one makes every index anew

_WORD: Final = re.compile(r"\w+|[^\w\s]")
_PIECE: Final = 4  # characters
_PIECES_WEIGHT: Final = 1.5  # of all pieces of a word together, against the word itself (measured)
_STOP_WORDS: Final = frozenset(
    """
    a about an and any are as at be been but by can could did do does for from had has have he her his how i if in into is it
    its may me more most my no nor not of on one only or other our out over she should so some such than that the their them
    then there these they this those through to under up was we were what when where which while who will with would you your
    . , ; : ! ? ( ) - ' "
    """.split()  # noqa: SIM905 - a word a cell would be a page
)


class HashedEmbedding:
    """Makes vectors of texts.

    Args:
        dimension: Length of a vector.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector a text, (texts, dimension), not normalised."""
        import numpy as np

        return np.array([self._vector(text) for text in texts], dtype=np.float32).reshape(len(texts), self.dimension)

    def _vector(self, text: str) -> NDArray[np.float64]:
        import numpy as np

        words = _WORD.findall(text.lower())
        counts = Counter(word for word in words if word not in _STOP_WORDS) or Counter(words)
        if not counts:
            return np.zeros(self.dimension)
        features = [(*_features(word), count**0.5) for word, count in counts.items()]
        places = np.concatenate([hashes for hashes, _, _ in features]) % self.dimension
        weights = np.concatenate([signed * often for _, signed, often in features])
        return np.bincount(places, weights, self.dimension).astype(np.float64)


@lru_cache(maxsize=1 << 16)
def _features(word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the hashes of a word and its pieces, and the signed weight of each."""
    import numpy as np

    marked = f"<{word}>"
    pieces = [marked[at : at + _PIECE] for at in range(max(1, len(marked) - _PIECE + 1))]
    hashes = np.array([zlib.crc32(feature.encode("utf-8", "surrogatepass")) for feature in (f"={word}", *pieces)])
    weights = np.full(len(hashes), _PIECES_WEIGHT / len(pieces) ** 0.5)
    weights[0] = 1.0
    return hashes >> 1, np.where(hashes & 1, weights, -weights)
