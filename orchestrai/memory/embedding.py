"""Embedding: what makes vectors of texts, under a name that changes whenever its vectors would."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orchestrai.errors import InvalidSettings
from orchestrai.memory import hashed, remote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Make = Callable[[Sequence[str]], Awaitable[Any]]

KNOWN: Final = '"auto", "hashed", "wordllama", "openai:MODEL@ADDRESS" or "package.module:function"'
_HASHED: Final = 1024  # dimension (measured: docs/measured.md)
_HASHED_BESIDE: Final = 512  # of the half that stands beside a learned one
_AT_ONCE: Final = 256  # texts that are embedded in one go
_CHARACTERS_AT_ONCE: Final = 200_000  # the same: the longest of them times their number, as some pad all to one length


@dataclass(frozen=True, slots=True)
class Embedding:
    """Makes vectors of texts.

    Args:
        name: What it is.
        version: Changes when its vectors would.
        dimension: Length of a vector.
        make: Returns one vector a text.
        long_texts: It makes sense of a text of thousands of characters.
        close: Ends its connections.
    """

    name: str
    version: str
    dimension: int
    make: Make
    long_texts: bool = False
    close: Callable[[], Awaitable[None]] | None = None

    @property
    def identity(self) -> str:
        """What an index is made with: vectors of different identities are never compared."""
        return f"{self.name} {self.version} {self.dimension}"

    async def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors of length 1, (texts, dimension).

        Raises:
            InvalidSettings: What the embedding returns is not that.
            PlatformError: The server of a remote one does not answer.
        """
        import numpy as np

        longest = max(map(len, texts), default=1)
        step = max(1, min(_AT_ONCE, _CHARACTERS_AT_ONCE // max(1, longest)))
        parts = [await self.make(texts[at : at + step]) for at in range(0, len(texts), step)]
        if not parts:
            return np.zeros((0, self.dimension), np.float32)
        return unit(np.concatenate([checked(part, self.name, self.dimension) for part in parts]))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors with a length of 1; one without any direction gets the same one as all of its kind."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    nowhere = lengths[:, 0] < 1e-12
    done = (vectors / np.where(lengths < 1e-12, 1.0, lengths)).astype(np.float32)
    done[nowhere, 0] = 1.0
    return done


async def load(settings: Mapping[str, Any], worker: Executor) -> Embedding:
    """Return the embedding that the settings of memory mean.

    Args:
        settings: The table `[memory]`.
        worker: Where vectors are computed; never the loop.

    Raises:
        InvalidSettings: There is no such embedding, or a part of it is missing; the message says what to do.
        PlatformError: The server of a remote one does not answer.
    """
    setting = settings.get("embedding", "auto")
    if setting == "auto":
        setting = "hashed" if importlib.util.find_spec("wordllama") is None else "wordllama"
    if setting == "hashed":
        return Embedding(
            "hashed", hashed.VERSION, _HASHED, _in(worker, hashed.HashedEmbedding(_HASHED)), long_texts=True
        )
    if setting == "wordllama":
        from importlib import metadata

        learned = await asyncio.get_running_loop().run_in_executor(worker, _wordllama)
        version = f"{metadata.version('wordllama')}+hashed{hashed.VERSION}"
        return Embedding("wordllama", version, learned.dimension, _in(worker, learned), long_texts=True)
    if setting.startswith("openai:"):
        server = remote.RemoteEmbedding(setting.removeprefix("openai:"), settings.get("api_key"))
        try:
            return Embedding(server.name, "1", await _dimension(server.name, server), server, close=server.close)
        except BaseException:  # whatever it was, it goes on
            await server.close()
            raise
    return await _of_function(setting, worker)


def _wordllama() -> _Beside:
    """Load the vectors that the package `wordllama` brings along; it is not given a way to the network."""
    try:
        import wordllama
    except ImportError as error:
        raise InvalidSettings(
            'memory.embedding = "wordllama" needs a package: pip install "orchestrai[memory]". It is there for Linux on '
            'x86-64 and for Windows; elsewhere use "auto" or "hashed".'
        ) from error
    # Its own default looks for the tokenizer where the package does not have it, and then on the network.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return _Beside(lambda texts: model.embed(list(texts), norm=True), 256, hashed.HashedEmbedding(_HASHED_BESIDE))


class _Beside:
    """Meanings and words beside each other, half of a score each: names and numbers have no meaning that is learned."""

    def __init__(self, learned: Callable[[Sequence[str]], Any], dimension: int, words: hashed.HashedEmbedding) -> None:
        self._learned = learned
        self._words = words
        self.dimension = dimension + words.dimension

    def __call__(self, texts: Sequence[str]) -> Any:
        import numpy as np

        return np.hstack([unit(np.asarray(self._learned(texts), np.float32)), unit(self._words(texts))])


async def _of_function(setting: str, worker: Executor) -> Embedding:
    module, _, name = setting.partition(":")
    if not module or not name:
        raise InvalidSettings(f"memory.embedding is {KNOWN}, not {setting!r}.")
    try:
        function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise InvalidSettings(f"memory.embedding = {setting!r}: {error}.") from error
    if not callable(function):
        raise InvalidSettings(f"memory.embedding = {setting!r} is no function.")
    make: Make = function if inspect.iscoroutinefunction(function) else _in(worker, function)
    version = str(getattr(function, "version", "1"))
    return Embedding(setting, version, await _dimension(setting, make), make)


def _in(worker: Executor, function: Callable[[Sequence[str]], Any]) -> Make:
    async def make(texts: Sequence[str]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(worker, function, list(texts))

    return make


async def _dimension(name: str, make: Make) -> int:
    """Ask for one vector, and see how long it is."""
    return int(checked(await make(["dimension"]), name, None).shape[1])


def checked(vectors: Any, name: str, dimension: int | None) -> NDArray[np.float32]:
    """Return what an embedding gave as a matrix.

    Raises:
        InvalidSettings: It is none, has another dimension than before, or holds what is no number.
    """
    import numpy as np

    try:
        matrix = np.asarray(vectors, np.float32)
    except (TypeError, ValueError):
        matrix = np.zeros(0, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or not np.isfinite(matrix).all():
        raise InvalidSettings(f"The embedding {name} is to return one vector of finite numbers a text, of one length.")
    if dimension is not None and matrix.shape[1] != dimension:
        raise InvalidSettings(f"The embedding {name} returned {matrix.shape[1]} numbers a vector, {dimension} before.")
    return matrix
