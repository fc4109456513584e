"""What the tests of API platforms share: requests to a provider on loopback, each on a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.protocol import Request
from orchestrai.testing import ProviderServer


@dataclass(frozen=True)
class Asking:
    """Asks one kind of platform.

    Args:
        make: Makes the platform from a server and further settings.
        model: The model that is asked for where none is named.
    """

    make: Callable[..., Any]
    model: str

    def request(self, *content: Any, **fields: Any) -> Request:
        """Return a request: a text, or parts."""
        content = content or ("Hello.",)
        whole = content[0] if len(content) == 1 and isinstance(content[0], str) else tuple(content)
        return Request((Message("user", whole),), fields.pop("model", self.model), **fields)

    def run(self, server: ProviderServer, work: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
        """Do something with a platform of its own, and close it."""

        async def closed_after() -> Any:
            platform = self.make(server, **settings)
            try:
                return await work(platform)
            finally:
                await platform.close()

        return asyncio.run(closed_after())

    def send(self, server: ProviderServer, asked: Request | None = None, **settings: Any) -> Any:
        """Return the reply."""
        return self.run(server, lambda platform: platform.send(asked or self.request()), **settings)

    def stream(self, server: ProviderServer, asked: Request | None = None) -> list[Any]:
        """Return the pieces and the reply."""

        async def listed(platform: Any) -> list[Any]:
            return [item async for item in platform.stream(asked or self.request())]

        found: list[Any] = self.run(server, listed)
        return found

    def failure(self, server: ProviderServer, asked: Request | None = None, *, streamed: bool = False) -> PlatformError:
        """Return what it fails with."""
        with pytest.raises(PlatformError) as caught:
            self.stream(server, asked) if streamed else self.send(server, asked)
        return caught.value
