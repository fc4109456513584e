"""OpenAI and every server that speaks its chat completions: vLLM, Ollama, Groq, Together, OpenRouter, DeepSeek, …"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from orchestrai.platforms.api import ApiPlatform, Home
from orchestrai.platforms.arguments import one_of, sealed
from orchestrai.platforms.chat_completions import ChatCompletions
from orchestrai.platforms.protocol import Capabilities, DataUse
from orchestrai.platforms.responses import Responses
from orchestrai.result import Tier

if TYPE_CHECKING:
    from yarl import URL

DEFAULT_MODEL: Final = "gpt-6-luna"  # the cheapest of the newest generation: 0.10 / 0.50 USD in genai-prices 0.2.3
DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
_PROVIDERS: Final = {  # ends of host names, and the provider in the words of genai-prices
    "api.openai.com": "openai",
    "groq.com": "groq",
    "together.xyz": "together",
    "together.ai": "together",
    "openrouter.ai": "openrouter",
    "deepseek.com": "deepseek",
    "mistral.ai": "mistral",
    "fireworks.ai": "fireworks",
    "x.ai": "x-ai",
    "cerebras.ai": "cerebras",
    "perplexity.ai": "perplexity",
    "moonshot.ai": "moonshotai",
    "moonshot.cn": "moonshotai",
    "novita.ai": "novita",
    "openai.azure.com": "azure",
    "generativelanguage.googleapis.com": "google",
}
_MANY_VENDORS: Final = frozenset({"openrouter", "azure"})  # resell the closed models of several vendors
_OPENAI_MODELS: Final = re.compile(r"(ft:)?(gpt-(?!oss)|o\d|chatgpt-|codex-)")
_REASONING_MODELS: Final = re.compile(r"(ft:)?(o\d|gpt-[5-9](?!.*chat))")
_OTHER_VENDORS_MODELS: Final = re.compile(r"claude-|gemini-")


class OpenAI(ApiPlatform):
    """One account at OpenAI, or at any server with the same interface.

    `OPENAI_API_KEY` and `OPENAI_MODEL` are read only where the address is OpenAI's or comes from `OPENAI_BASE_URL`:
    an address given here never receives a key that was meant for another one.

    Args:
        name: What it is asked for by; default openai.
        api: The protocol. chat (chat completions) is what every compatible server speaks. responses is OpenAI's newer
            one: choose it for models that are served there alone (the pro, codex and deep-research models). Answers and
            their prices are the same, and nothing is stored at OpenAI either way.
        base_url: Address up to and with `/v1`; default `OPENAI_BASE_URL`, else OpenAI's.
        api_key: The key, or a function that returns it (asked at each request); default `OPENAI_API_KEY`. It is in no
            repr and no `vars`, and travels in the Authorization header alone.
        model: Model used when a task names none; default `OPENAI_MODEL`, else `DEFAULT_MODEL`.
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
        provider="openai",
        keys=("OPENAI_API_KEY",),
        hosts=_PROVIDERS,
        address="OPENAI_BASE_URL",
        default_model="OPENAI_MODEL",
        largest_image=20 * 2**20,  # developers.openai.com/api/docs/guides/images-vision, "Image input requirements"
    )

    def __init__(
        self,
        name: str | None = None,
        *,
        api: Literal["chat", "responses"] = "chat",
        base_url: str | None = None,
        api_key: str | Callable[[], str] | None = None,
        model: str | None = None,
        tier: Tier = "paid",
        limits: Mapping[str, float | None] | None = None,
        price: Mapping[str, Any] | None = None,
        concurrency: int = 64,
        context_tokens: int | None = None,
        images: bool = True,
        schema: bool = True,
        data_use: DataUse = "unknown",
        provider: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        given_key = None if api_key is None else sealed(api_key)
        del api_key
        self._api = one_of(name or "openai", "api", api, ("chat", "responses"))
        super().__init__(
            name,
            base_url=base_url,
            api_key=given_key,
            model=model,
            tier=tier,
            limits=limits,
            price=price,
            concurrency=concurrency,
            context_tokens=context_tokens,
            images=images,
            schema=schema,
            data_use=data_use,
            provider=provider,
            headers=headers,
        )

    def _speak(self, base: URL) -> None:
        if self._api == "responses":
            self._form = Responses(base)
        else:
            self._form = ChatCompletions(base, "max_completion_tokens" if self._is_own else "max_tokens")

    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model.

        OpenAI serves its own families. What another server holds cannot be known without asking it: it is taken to
        serve everything but the closed models of other vendors.
        """
        if model == self.model or self.provider in _MANY_VENDORS:
            return True
        if self._is_own:
            return _OPENAI_MODELS.match(model) is not None
        closed = _OTHER_VENDORS_MODELS.match(model) or (self.provider != "openai" and _OPENAI_MODELS.match(model))
        return not closed or (self.provider == "google" and model.startswith("gemini-"))

    def _abilities(self, model: str) -> Capabilities:
        """Return what it can do with this model; OpenAI's reasoning models take an effort and no temperature."""
        reasons = _REASONING_MODELS.match(model) is not None
        return Capabilities(
            schema=self._schema,
            images=self._images,
            temperature=not (self._is_own and reasons),
            effort=reasons or not self._is_own,
            context_tokens=self._context_tokens,
        )
