"""A platform made of an async function: whatever Python can reach can answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from orchestrai.errors import PlatformError
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.result import Tier


class FunctionPlatform:
    """An async function `(request) -> str` as a platform; it costs nothing and counts no tokens.

    Args:
        answer: Called with each `Request`; returns the answer, or raises `PlatformError`.
        name: Its name; the function's own by default.
        concurrency: Requests it is given at once.
    """

    tier: Tier = "local"
    transport: Transport = "local"
    provider = "local"
    account: str | None = None
    address: str | None = None
    demo = False
    data_use: DataUse = "none"

    def __init__(
        self, answer: Callable[[Request], Awaitable[str]], *, name: str | None = None, concurrency: int = 64
    ) -> None:
        self._answer = answer
        self.name: str = name or getattr(answer, "__name__", None) or "function"
        self.model = self.name
        self.concurrency = concurrency

    def serves(self, model: str) -> bool:
        """Return True for its own name alone: a function has no other models."""
        return model == self.model

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 - the same for its one model
        """Return that it takes anything and constrains nothing."""
        return Capabilities(schema=False, images=True, streaming=True)

    async def send(self, request: Request) -> Reply:
        """Call the function once."""
        text = await self._answer(request)
        if not isinstance(text, str):
            raise PlatformError("reply", f"{self.name} returned {type(text).__name__}, not a string")
        return Reply(text, model=self.model, finish_reason="stop")

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Yield the whole answer as one piece, then the reply."""
        reply = await self.send(request)
        yield reply.text
        yield reply

    async def close(self) -> None:
        """Do nothing: there is nothing to end."""

    def __repr__(self) -> str:
        return f"FunctionPlatform({self.name!r})"
