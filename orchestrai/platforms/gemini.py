"""Gemini: Google's models by their generateContent API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from orchestrai.platforms.api import ApiPlatform, Home
from orchestrai.platforms.generate_content import GenerateContent
from orchestrai.platforms.protocol import Capabilities

if TYPE_CHECKING:
    from yarl import URL

DEFAULT_MODEL: Final = "gemini-3.5-flash-lite"  # the newest of the cheap ones: 0.30 / 2.50 USD in genai-prices 0.2.3
DEFAULT_BASE_URL: Final = "https://generativelanguage.googleapis.com"
_OWN_MODELS: Final = re.compile(r"(models/)?(gemini|gemma|learnlm)")
_WITHOUT_THINKING: Final = re.compile(r"(models/)?(gemini-(1|2\.0)|gemma-[1-3]|learnlm)")
_SAMPLED: Final = re.compile(r"(models/)?(gemini-([12]\.|3-|3\.1-|3\.5-(?!flash-lite))|gemma|learnlm)")
_OTHER_VENDORS_MODELS: Final = re.compile(r"claude-|gpt-(?!oss)|o\d|chatgpt-")


class Gemini(ApiPlatform):
    """One account (a project) at the Gemini API, or at a server that speaks its generateContent.

    `GEMINI_API_KEY`, or else `GOOGLE_API_KEY`, and `GEMINI_MODEL` are read only where the address is Google's or comes
    from `GOOGLE_GEMINI_BASE_URL`: an address given here never receives a key that was meant for another one.

    Args:
        name: What it is asked for by; default `gemini`.
        base_url: Address without its version; default `GOOGLE_GEMINI_BASE_URL`, else Google's.
        api_key: The key, or a function that returns it (asked at each request); default `GEMINI_API_KEY`, else
            `GOOGLE_API_KEY`. It is in no repr and no `vars`, and travels in the `x-goog-api-key` header alone.
        model: Model used when a task names none; default `GEMINI_MODEL`, else `DEFAULT_MODEL`.
        tier: paid, free, subscription or local.
        limits: `{"rpm": 60, "tpm": 90_000, "rpd": None}`: requests and tokens a minute, requests a day.
        price: USD per million tokens by class: `{"input_mtok": "0.25", "output_mtok": "2"}`; the fields
            of the settings' `prices` table.
        concurrency: Requests it is given at once.
        context_tokens: Size of its context window [tokens].
        images: It accepts images (PNG, JPEG, WebP).
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
        provider="google",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        hosts={"generativelanguage.googleapis.com": "google"},
        address="GOOGLE_GEMINI_BASE_URL",
        default_model="GEMINI_MODEL",
        name="gemini",
        image_types=("image/png", "image/jpeg", "image/webp"),  # ai.google.dev/gemini-api/docs/image-understanding
    )

    def _speak(self, base: URL) -> None:
        self._form = GenerateContent(base)

    def _key_headers(self, key: str) -> dict[str, str]:
        return {"x-goog-api-key": key} if key else {}

    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model: Google's own there, elsewhere all but others' closed ones."""
        if model == self.model:
            return True
        return bool(_OWN_MODELS.match(model)) if self._is_own else not _OTHER_VENDORS_MODELS.match(model)

    def _abilities(self, model: str) -> Capabilities:
        """Return what it can do with this model.

        All since Gemini 2.5 take an effort. Gemini 3.5 Flash-Lite and all since 3.6 ignore a temperature, so it is not
        sent to them and the person is told.

        Source: ai.google.dev/gemini-api/docs/whats-new-gemini-3.6.
        """
        return Capabilities(
            schema=self._schema,
            images=self._images,
            temperature=bool(_SAMPLED.match(model)) or not _OWN_MODELS.match(model),
            effort=not _WITHOUT_THINKING.match(model),
            context_tokens=self._context_tokens,
        )
