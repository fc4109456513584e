"""OpenAI and every server that speaks its chat completions: vLLM, Ollama, Groq, Together, OpenRouter, DeepSeek, …"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

import orjson

from orchestrai.errors import InvalidInput, InvalidSettings, PlatformError, nearest
from orchestrai.platforms import chat_completions as chat
from orchestrai.platforms import wire
from orchestrai.platforms.http import Headers, HttpClient, Response
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.pricing import check_own_price
from orchestrai.result import Tier

DEFAULT_MODEL: Final = (
    "gpt-5-mini"  # the smallest general model with structured output; platform.openai.com/docs/models
)
DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
LIMITS: Final = ("rpm", "tpm", "rpd")  # requests a minute, tokens a minute, requests a day
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


class OpenAI:
    """One account at OpenAI, or at any server with the same interface.

    `OPENAI_API_KEY` and `OPENAI_MODEL` are read only where the address is OpenAI's or comes from `OPENAI_BASE_URL`:
    an address given here never receives a key that was meant for another one.

    Args:
        name: What it is asked for by.
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

    transport: Final[Transport] = "api"
    demo: Final = False

    def __init__(
        self,
        name: str = "openai",
        *,
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
        from yarl import URL

        # From here on the key stands in no local: a traceback can show those of a constructor that raises.
        given_key = None if api_key is None else _sealed(api_key)
        del api_key
        address = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        try:
            url = URL(address.rstrip("/") + "/chat/completions")
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidSettings(f"{name}: base_url is an address such as {DEFAULT_BASE_URL}, not {address!r}.")
        if url.user or url.password or url.query:
            raise InvalidSettings(f"{name}: base_url holds a password or a query. The key goes into api_key=.")
        self._is_openai = url.host == "api.openai.com"
        from_environment = base_url is None or self._is_openai
        self._key = given_key or _sealed(os.environ.get("OPENAI_API_KEY") if from_environment else None)
        self.name = name
        self.model = model or (os.environ.get("OPENAI_MODEL") if from_environment else None) or DEFAULT_MODEL
        # A server that nobody knows is unpriced: its models only look like OpenAI's.
        self.provider = provider or _provider(url.host) or (url.host if name == "openai" else name)
        self.address = f"{url.host}:{url.port}"
        self.tier: Tier = _one_of(name, "tier", tier, get_args(Tier))
        self.limits = _limits(name, limits or {})
        self.price = _price(name, price or {})
        self.concurrency = _at_least_1(name, "concurrency", concurrency)
        self.data_use: DataUse = _one_of(name, "data_use", data_use, get_args(DataUse))
        self._context_tokens = context_tokens and _at_least_1(name, "context_tokens", context_tokens)
        self._images = images
        self._schema = schema
        self._url = url
        self._more_headers = Headers(_headers(name, headers or {}))
        self._headers: tuple[int | None, Headers] = (None, self._more_headers)
        self._format: tuple[Mapping[str, Any], orjson.Fragment] | None = None
        self._account: tuple[int | None, str] = (None, "")
        self._capabilities: dict[str, Capabilities] = {}
        self._http = HttpClient()

    def __repr__(self) -> str:
        known = vars(self)  # a traceback may show it half made
        return f"OpenAI(name={known.get('name')!r}, model={known.get('model')!r}, host={known.get('address')!r})"

    @property
    def account(self) -> str | None:
        """The first 8 hex digits of the key's SHA-256; None without a key."""
        key = self._key()
        if not key:
            return None
        known, account = self._account
        now = hash(key)
        if known != now:
            account = hashlib.sha256(key.encode()).hexdigest()[:8]
            self._account = (now, account)
        return account

    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model.

        OpenAI serves its own families. What another server holds cannot be known without asking it: it is taken to
        serve everything but the closed models of other vendors.
        """
        if model == self.model or self.provider in _MANY_VENDORS:
            return True
        if self._is_openai:
            return _OPENAI_MODELS.match(model) is not None
        closed = _OTHER_VENDORS_MODELS.match(model) or (self.provider != "openai" and _OPENAI_MODELS.match(model))
        return not closed or (self.provider == "google" and model.startswith("gemini-"))

    def capabilities(self, model: str) -> Capabilities:
        """Return what it can do with this model; OpenAI's reasoning models take an effort and no temperature."""
        known = self._capabilities.get(model)
        if known is None:
            reasons = _REASONING_MODELS.match(model) is not None
            known = self._capabilities[model] = Capabilities(
                schema=self._schema,
                images=self._images,
                temperature=not (self._is_openai and reasons),
                effort=reasons or not self._is_openai,
                context_tokens=self._context_tokens,
            )
        return known

    async def send(self, request: Request) -> Reply:
        """Make one request and return its reply.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves this method.
        """
        body = await self._body(request, stream=False)
        response = await self._http.post(self._url, self._sealed_headers(), body)
        return chat.reply(response, self._document(response, request.model), self._secrets)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Make one request and yield the pieces of the answer, then the complete Reply.

        Raises:
            PlatformError: As `send`; `reply` carries what had arrived.
        """
        body = await self._body(request, stream=True)
        started = time.perf_counter()
        async with self._http.stream(self._url, self._sealed_headers(), body) as opened:
            content_type = opened.headers.get("content-type", "").lower()
            if opened.status != 200 or not content_type.startswith("text/event-stream"):
                # An error, or a server that cannot stream and answers whole.
                response = Response(opened.status, opened.headers, await opened.read())
                reply = chat.reply(response, self._document(response, request.model), self._secrets)
                if reply.text:
                    yield reply.text
                yield reply
                return
            answer = chat.Answer(Response(opened.status, opened.headers, b""))
            try:
                done = False
                while not done and (events := await opened.next_events()) is not None:
                    for event in events:
                        done = event.data == b"[DONE]"
                        piece = "" if done else chat.piece(event.data, answer, self._secrets)
                        if piece:
                            if answer.ttft_ms is None:
                                answer.ttft_ms = (time.perf_counter() - started) * 1000
                            yield piece
                        if done:
                            break
                if not done and answer.finish is None:
                    raise answer.unusable("the stream ended before the answer did.", self._secrets)
                reply = answer.whole(self._secrets)
            except PlatformError as error:
                error.reply = answer.reply()
                raise
            yield reply

    async def close(self) -> None:
        """Close the connections; a second call does nothing."""
        await self._http.close()

    async def _body(self, request: Request, *, stream: bool) -> bytes:
        try:
            if any(type(message.content) is not str for message in request.messages):
                # Files are read and images encoded: not on the loop.
                return await asyncio.to_thread(self._encoded, request, stream=stream)
            return self._encoded(request, stream=stream)
        except (InvalidInput, TypeError, ValueError, AttributeError) as error:
            # A file that changed, half an emoji, a value in `extra` or a schema that is no JSON.
            raise PlatformError("request", f"The request cannot be written: {error}") from None

    def _encoded(self, request: Request, *, stream: bool) -> bytes:
        constraint = None
        if request.json_schema is not None and self._schema:
            constraint = self._response_format(request.json_schema)
        fields = chat.body(
            request,
            stream=stream,
            limit_field="max_completion_tokens" if self._is_openai else "max_tokens",
            response_format=constraint,
        )
        return orjson.dumps(fields, option=orjson.OPT_NON_STR_KEYS)

    def _response_format(self, schema: Mapping[str, Any]) -> orjson.Fragment:
        """Return the constraint in JSON; a batch has one schema, so the last one is kept."""
        if self._format is None or self._format[0] is not schema:
            self._format = (schema, orjson.Fragment(orjson.dumps(chat.response_format(schema))))
        return self._format[1]

    def _sealed_headers(self) -> Headers:
        """Return the headers with the key, made anew when a key function returns another one.

        Raises:
            PlatformError: There is no key where one is needed, or it cannot stand in a header.
        """
        known, headers = self._headers
        now = hash(self._key())  # the key itself stands in no local of a frame that raises
        if known == now:
            return headers
        problem = _key_problem(self._key(), needed=self._is_openai)
        if problem is not None:
            raise PlatformError("key", problem)
        self._headers = (now, self._more_headers.with_values(_authorization(self._key())))
        return self._headers[1]

    def _secrets(self) -> list[str]:
        return [self._key(), *self._more_headers.values()]

    def _document(self, response: Response, model: str) -> Any:
        """Return the JSON of a reply with status 200.

        Raises:
            PlatformError: Another status, or a body that is no JSON.
        """
        if response.status != 200:
            raise chat.refusal_of(response, model, self._secrets)
        try:
            return wire.document(response.body, response.headers.get("content-type", ""))
        except ValueError:
            failure = wire.refused(response, "reply", "the reply is no JSON, or was cut.", self._secrets)
        raise failure


def _sealed(key: str | Callable[[], str] | None) -> Callable[[], str]:
    """Return the key as a function: a closure shows nothing in repr, vars, copies and tracebacks."""
    if not callable(key):
        value = (key or "").strip()
        return lambda: value

    def asked() -> str:
        try:
            return key().strip()
        except Exception as error:  # noqa: BLE001  # a person's function may raise anything; its text may hold the key
            failure = PlatformError("key", f"The function given as api_key failed ({type(error).__name__}).")
        raise failure

    return asked


def _key_problem(key: str, *, needed: bool) -> str | None:
    if needed and not key:
        return "No API key: set OPENAI_API_KEY or api_key=."
    if not key.isascii() or not key.isprintable():
        return "The API key holds a character that no key has (a line break?)."
    return None


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _provider(host: str) -> str | None:
    return next((p for end, p in _PROVIDERS.items() if host == end or host.endswith("." + end)), None)


def _limits(name: str, given: Mapping[str, float | None]) -> Mapping[str, float]:
    limits = {}
    for key, value in given.items():
        if key not in LIMITS:
            raise InvalidSettings(f"{name}: limits has no {key!r} (known: {', '.join(LIMITS)}).{nearest(key, LIMITS)}")
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InvalidSettings(f"{name}: limits[{key!r}] is a number above 0 or None, not {value!r}.")
        limits[key] = value
    return MappingProxyType(limits)


def _price(name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if given:
        check_own_price(given, f"{name}: price")
    return MappingProxyType(dict(given))


def _headers(name: str, given: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in given.items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in (key, value)):
            raise InvalidSettings(f"{name}: headers[{key!r}] must be one line of ASCII text.")
    return given


def _one_of(name: str, field: str, value: Any, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise InvalidSettings(f"{name}: {field} is one of {', '.join(known)}, not {value!r}.{nearest(value, known)}")
    return value


def _at_least_1(name: str, field: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSettings(f"{name}: {field} is a whole number of at least 1, not {value!r}.")
    return value
