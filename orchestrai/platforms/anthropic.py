"""Anthropic: the Claude models by their Messages API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from orchestrai.platforms.api import ApiPlatform, Home
from orchestrai.platforms.messages_api import Messages
from orchestrai.platforms.protocol import Capabilities

if TYPE_CHECKING:
    from yarl import URL

DEFAULT_MODEL: Final = (
    "claude-haiku-5-5"  # the cheapest of the newest generation: 0.10 / 0.50 USD in genai-prices 0.2.3
)
DEFAULT_BASE_URL: Final = "https://api.anthropic.com"
API_VERSION: Final = "2026-10-21"  # as anthropic 2.12 sends it; without temperature, top_p and top_k
_VERSION: Final = re.compile(r"claude-([a-z]+)-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_OLD: Final = re.compile(r"claude-(\d|instant|v\d)")  # up to 3.7 the number came first
_NEWEST: Final = (99, 0)
_OTHER_VENDORS_MODELS: Final = re.compile(r"gemini-|gpt-(?!oss)|o\d|chatgpt-")


class Anthropic(ApiPlatform):
    """One account at Anthropic, or at a server that speaks its Messages API.

    `ANTHROPIC_API_KEY` and `ANTHROPIC_MODEL` are read only where the address is Anthropic's or comes from
    `ANTHROPIC_BASE_URL`: an address given here never receives a key that was meant for another one.

    The protocol demands an output limit: a task without `max_tokens` gets `messages_api.DEFAULT_MAX_TOKENS`.

    Args:
        name: What it is asked for by.
        base_url: Address without `/v1`; default `ANTHROPIC_BASE_URL`, else Anthropic's.
        api_key: The key, or a function that returns it (asked at each request); default `ANTHROPIC_API_KEY`. It is in
            no repr and no `vars`, and travels in the Authorization header alone.
        model: Model used when a task names none; default `ANTHROPIC_MODEL`, else `DEFAULT_MODEL`.
        tier: paid, free, subscription or local.
        limits: `{"rpm": 60, "tpm": 90_000, "rpd": None}`: requests and tokens a minute, requests a day.
        price: USD per million tokens by class: `{"input_mtok": "0.25", "output_mtok": "2"}`; the fields
            of the settings' `prices` table.
        concurrency: Requests it is given at once.
        context_tokens: Size of its context window [tokens].
        images: It accepts images.
        schema: It can constrain the answer to a JSON Schema.
        data_use: What its plan lets the provider do with the data: none, may_train, unknown.
        provider: Whose prices and tokenizers apply; default by the host, else the name (unpriced).
        headers: Further headers of every request.

    Raises:
        InvalidSettings: An argument is unknown or has an impossible value.
    """

    _home: ClassVar = Home(
        base_url=DEFAULT_BASE_URL,
        model=DEFAULT_MODEL,
        provider="anthropic",
        keys=("ANTHROPIC_API_KEY",),
        hosts={"api.anthropic.com": "anthropic"},
        address="ANTHROPIC_BASE_URL",
        default_model="ANTHROPIC_MODEL",
        largest_image=10 * 2**20 * 3 // 4,  # 10 MB of base64
    )

    def _speak(self, base: URL) -> None:
        self._form = Messages(base)

    def _key_headers(self, key: str) -> dict[str, str]:
        return {**super()._key_headers(key), "anthropic-version": API_VERSION}

    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model: Claude at Anthropic; elsewhere all but others' closed ones."""
        if model == self.model:
            return True
        return model.startswith("claude-") if self._is_own else not _OTHER_VENDORS_MODELS.match(model)

    def _abilities(self, model: str) -> Capabilities:
        """Return what it can do with this model.

        Anthropic takes no temperature: the version of the protocol that is spoken refuses it for every model. Elsewhere
        it can be set up to Opus 4.6 and Sonnet 4.5. An effort can be set since Opus 4.5 and Sonnet 4.6, and a schema
        constrains since 4.1; a Claude whose name tells no version is taken for a new one.

        Source: platform.claude.com/docs/en/api/versioning, /about-claude/models/migration-guide and
        /build-with-claude/effort.
        """
        family, version = _version(model)
        is_opus = family == "opus"
        takes_temperature = not model.startswith("claude-") or version <= ((4, 6) if is_opus else (4, 5))
        return Capabilities(
            schema=self._schema and version >= (4, 1),
            images=self._images,
            temperature=takes_temperature and not self._is_own,
            effort=version >= ((4, 5) if is_opus else (4, 6)),
            context_tokens=self._context_tokens,
        )


def _version(model: str) -> tuple[str, tuple[int, int]]:
    """Return family and version: ("haiku", (5, 5)); an unknown form is the newest."""
    found = _VERSION.match(model)
    if found is not None:
        return found[1], (int(found[2]), int(found[3] or 0))
    return "", (3, 0) if _OLD.match(model) else _NEWEST
