"""Embeddings of an OpenAI-compatible server: OpenAI itself, Ollama, vLLM, llama.cpp and others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from orchestrai.errors import InvalidSettings, PlatformError, PlatformErrorKind
from orchestrai.platforms import arguments
from orchestrai.platforms.http import Headers, HttpClient

_OPENAI: Final = "https://api.openai.com/v1"
_OPENAI_KEY: Final = "OPENAI_API_KEY"


class RemoteEmbedding:
    """One model at one address.

    Args:
        model_at: "MODEL@ADDRESS", or "MODEL" at OpenAI.
        api_key: The key, or "env:NAME"; by default `OPENAI_API_KEY` at OpenAI's own address, none elsewhere.

    Raises:
        InvalidSettings: There is no model, or the address is none.
    """

    def __init__(self, model_at: str, api_key: str | None) -> None:
        self.model, _, address = model_at.partition("@")
        if not self.model:
            raise InvalidSettings(
                'memory.embedding: write "openai:MODEL@ADDRESS", for instance openai:bge-m3@http://…/v1.'
            )
        base = arguments.base_url("memory.embedding", address or _OPENAI, _OPENAI)
        self.name = f"openai:{self.model}@{base}"
        self._url = base / "embeddings"
        self._key = _key(api_key, own=str(base) == _OPENAI)
        self._http = HttpClient()

    async def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector a text: one request, which is not repeated.

        Raises:
            PlatformError: The server did not answer, refused, or its reply is none.
        """
        key = self._key()
        headers = Headers({"Authorization": f"Bearer {key}"} if key else {})
        body = orjson.dumps({"model": self.model, "input": list(texts), "encoding_format": "float"})
        response = await self._http.post(self._url, headers, body)
        if response.status != 200:
            said = response.body[:300].decode("utf-8", "replace").replace(key or "\0", "[key]")
            kind: PlatformErrorKind = "key" if response.status in (401, 403) else "request"
            raise PlatformError(kind, f"{self._url}: HTTP {response.status}: {said}", http_status=response.status)
        try:
            found: dict[int, list[float]] = {
                one["index"]: one["embedding"] for one in orjson.loads(response.body)["data"]
            }
            return [found[at] for at in range(len(texts))]
        except (ValueError, KeyError, TypeError):
            raise PlatformError("reply", f"{self._url}: the reply holds no vector for each text.") from None

    async def close(self) -> None:
        """Close its connections."""
        await self._http.close()


def _key(api_key: str | None, *, own: bool) -> Callable[[], str]:
    if api_key is None:
        return arguments.sealed(os.environ.get(_OPENAI_KEY) if own else None)
    if not api_key.startswith("env:"):
        return arguments.sealed(api_key)
    variable = api_key.removeprefix("env:")
    if not os.environ.get(variable):
        raise InvalidSettings(f"memory.api_key: the environment variable {variable} is not set.")
    return arguments.sealed(os.environ[variable])
