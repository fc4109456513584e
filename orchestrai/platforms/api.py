"""What every API platform does in the same way: its account, its sealed key, one request per call, its reply read.

A provider is a subclass with a `Home` (its own address and what belongs to it), the headers that carry its key, and a
`WireForm` (`wire_form.py`): the one object that knows its protocol. The subclass sets `_form` in `_speak`, which the
constructor calls last; everything else here is shared, so that no platform has a way of its own to keep a key, to
bound a reply or to cut a stream.
"""

from __future__ import annotations

import abc
import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

import orjson

from orchestrai.attachments import IMAGE_TYPES, Attachment
from orchestrai.errors import InvalidInput, PlatformError, nearest
from orchestrai.list_prices import model_ids
from orchestrai.platforms import arguments, wire
from orchestrai.platforms.http import Headers, HttpClient, Response
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.platforms.wire_form import WireForm
from orchestrai.result import Tier

if TYPE_CHECKING:
    from yarl import URL

_NO_MODEL: Final = re.compile(
    r"HTTP 404: .*\bmodels?\b|\bmodels?\b.*\b(not found|not exist|unavailable|unknown|invalid)|(unknown|invalid) model"
    r"|not a valid model|access model",
    re.IGNORECASE,
)


_TELLING: Final = 8  # characters of a key below which it is not looked for in replies


@dataclass(frozen=True, slots=True)
class Home:
    """A provider's own address, and what is read from the environment for it.

    Args:
        base_url: The address.
        model: Model used when neither the constructor nor the environment names one.
        provider: The provider in the words of genai-prices.
        keys: Environment variables that hold a key, the first that is set wins.
        hosts: Ends of host names, and the provider behind each in the words of genai-prices.
        address: Environment variable that holds another address; None without one.
        default_model: Environment variable that names a model; None without one.
        name: What its platform is called; None for the name of the provider.
        largest_image: Bound of one image [bytes]; it holds at the provider's own address.
        image_types: Media types of the images that the provider accepts.
    """

    base_url: str
    model: str
    provider: str
    keys: tuple[str, ...]
    hosts: Mapping[str, str]
    address: str | None = None
    default_model: str | None = None
    name: str | None = None
    largest_image: int | None = None
    image_types: tuple[str, ...] = IMAGE_TYPES


class ApiPlatform(abc.ABC):
    """One account at a provider with an HTTP API.

    Keys and models of the environment are used only where the address is the provider's own or comes from the
    environment too: an address given to the constructor never receives a key that was meant for another one.

    Args:
        name: What it is asked for by; default the provider's name.
        base_url: The address; default from the environment, else the provider's own.
        api_key: The key, or a function that returns it (asked at each request); default from the environment.
        model: Model used when a task names none.
        tier: paid, free, subscription or local.
        limits: `{"rpm": 60, "tpm": 90_000, "rpd": None}`: requests and tokens a minute, requests a day.
        price: USD per million tokens by class; the fields of the settings' `prices` table.
        concurrency: Requests it is given at once.
        context_tokens: Size of its context window [tokens].
        images: It accepts images.
        schema: It can constrain the answer to a JSON Schema.
        data_use: What its plan lets the provider do with the data: none, may_train, unknown.
        provider: Whose prices and tokenizers apply; default by the host, else the host itself (unpriced).
        headers: Further headers of every request.

    Raises:
        InvalidSettings: An argument is unknown or has an impossible value.
    """

    transport: Final[Transport] = "api"
    demo: Final = False

    _home: ClassVar[Home]
    _form: WireForm

    def __init__(
        self,
        name: str | None = None,
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
        # From here on the key stands in no local: a traceback can show those of a constructor that raises.
        given_key = None if api_key is None else arguments.sealed(api_key)
        del api_key
        home = self._home
        usual_name = home.name or home.provider
        name = name or usual_name
        base = arguments.base_url(name, base_url or _variable(home.address) or home.base_url, home.base_url)
        host = base.host or ""
        self._is_own = home.base_url.partition("://")[2].partition("/")[0] == host
        from_environment = base_url is None or self._is_own
        variable = next((key for key in home.keys if os.environ.get(key)), None)
        self._key = given_key or arguments.sealed(os.environ[variable] if variable and from_environment else None)
        self.name = name
        self.model = model or (from_environment and _variable(home.default_model)) or home.model
        # A server that nobody knows is unpriced: its models only look like the provider's.
        self.provider = provider or _provider(host, home.hosts) or (host if name == usual_name else name)
        self.address = f"{host}:{base.port}"
        self.tier: Tier = arguments.one_of(name, "tier", tier, get_args(Tier))
        self.limits = arguments.limits(name, limits or {})
        self.price = arguments.price(name, price or {})
        self.concurrency = arguments.at_least_1(name, "concurrency", concurrency)
        self.data_use: DataUse = arguments.one_of(name, "data_use", data_use, get_args(DataUse))
        self._context_tokens = context_tokens and arguments.at_least_1(name, "context_tokens", context_tokens)
        self._images = images
        self._schema = schema
        self._more_headers = Headers(arguments.headers(name, headers or {}))
        self._headers: tuple[int | None, Headers] = (None, self._more_headers)
        self._constraint: tuple[Mapping[str, Any], orjson.Fragment] | None = None
        self._account: tuple[int | None, str] = (None, "")
        self._nearest: dict[str, str] = {}
        self._capabilities: dict[str, Capabilities] = {}
        self._http = HttpClient()
        self._speak(base)

    def __repr__(self) -> str:
        known = vars(self)  # a traceback may show it half made
        words = (
            f"{field}={known.get(at)!r}" for field, at in (("name", "name"), ("model", "model"), ("host", "address"))
        )
        return f"{type(self).__name__}({', '.join(words)})"

    # What a provider adds.

    @abc.abstractmethod
    def _speak(self, base: URL) -> None:
        """Set `_form`, the protocol at this address."""

    @abc.abstractmethod
    def serves(self, model: str) -> bool:
        """Return True when it can be asked for this model."""

    @abc.abstractmethod
    def _abilities(self, model: str) -> Capabilities:
        """Return what it can do with this model; asked once for each."""

    def _key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the key, and those of the protocol; only the latter without a key."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    # What all of them do.

    def capabilities(self, model: str) -> Capabilities:
        """Return what it can do with this model."""
        known = self._capabilities.get(model)
        if known is None:
            known = self._capabilities[model] = self._abilities(model)
        return known

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

    async def send(self, request: Request) -> Reply:
        """Make one request and return its reply.

        Raises:
            PlatformError: With its kind; nothing else but CancelledError leaves this method.
        """
        body = self._body(request, stream=False) if _is_text(request) else await self._body_with_files(request)
        url = self._form.url(request.model, stream=False)
        try:
            response = await self._http.post(url, self._sealed_headers(), body)
            if response.status != 200:
                raise await self._refused(response, request.model, url)
            return self._reply(response, url)
        except (PlatformError, asyncio.CancelledError) as stop:
            raise stop.with_traceback(None)  # noqa: B904  # the frames below hold the reply, which may quote the key

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Make one request and yield the pieces of the answer, then the complete Reply.

        Raises:
            PlatformError: As `send`; `reply` carries what had arrived.
        """
        in_words = _is_text(request)
        body = self._body(request, stream=True) if in_words else await self._body_with_files(request, stream=True)
        started = time.perf_counter()
        url = self._form.url(request.model, stream=True)
        async with self._http.stream(url, self._sealed_headers(), body) as opened:
            content_type = opened.headers.get("content-type", "").lower()
            if opened.status != 200 or not content_type.startswith("text/event-stream"):
                # An error, or a server that cannot stream and answers whole.
                try:
                    response = Response(opened.status, opened.headers, await opened.read())
                    if response.status != 200:
                        raise await self._refused(response, request.model, url)
                    reply = self._reply(response, url)
                except (PlatformError, asyncio.CancelledError) as stop:
                    raise stop.with_traceback(None)  # noqa: B904  # as in `send`
                if reply.text:
                    yield reply.text
                yield reply
                return
            answer = self._form.answer(Response(opened.status, opened.headers, b""), self._secrets)
            try:
                ended = False
                while not ended and (events := await opened.next_events()) is not None:
                    for event in events:
                        piece = answer.event(event)
                        if piece:
                            if answer.ttft_ms is None:
                                answer.ttft_ms = (time.perf_counter() - started) * 1000
                            yield piece
                        ended = answer.ended
                        if ended:
                            break
                if not ended and answer.finish is None:
                    raise answer.unusable("the stream ended before the answer did.")
                reply = self._without_key(answer.whole())
            except PlatformError as error:
                error.reply = self._without_key(answer.reply())
                raise error.with_traceback(None)  # noqa: B904  # as in `send`
            except asyncio.CancelledError as stop:
                raise stop.with_traceback(None)  # noqa: B904  # as in `send`
            yield reply

    async def close(self) -> None:
        """Close the connections; a second call does nothing."""
        await self._http.close()

    async def _body_with_files(self, request: Request, *, stream: bool = False) -> bytes:
        """Return the body; files are read and images encoded, which is not done on the loop.

        Raises:
            PlatformError: request: a file changed or cannot be sent here; or what `_body` raises.
        """
        problem = next(filter(None, map(self._image_problem, _images(request))), None)
        if problem is not None:
            raise PlatformError("request", problem)
        return await asyncio.to_thread(self._body, request, stream=stream)

    def _body(self, request: Request, *, stream: bool) -> bytes:
        constraint = None
        try:
            if request.json_schema is not None and self._schema:
                constraint = self._constrained(request.json_schema)
            fields = self._form.body(request, stream=stream, constraint=constraint)
            return orjson.dumps(fields, option=orjson.OPT_NON_STR_KEYS)
        except (InvalidInput, TypeError, ValueError, AttributeError) as error:
            # A file that changed, half an emoji, a value in `extra` or a schema that is no JSON.
            raise PlatformError("request", f"The request cannot be written: {error}") from None

    def _image_problem(self, image: Attachment) -> str | None:
        home = self._home
        if image.media_type not in home.image_types:
            return f"{image.name}: {self.name} takes no {image.media_type} (known: {', '.join(home.image_types)})."
        if self._is_own and home.largest_image is not None and image.size > home.largest_image:
            bound = f"{home.largest_image:,} bytes ({home.largest_image // 2**20} MB)"
            return f"{image.name}: {image.size:,} bytes; {self.name} takes images of at most {bound}. Scale it down."
        return None

    def _constrained(self, schema: Mapping[str, Any]) -> orjson.Fragment:
        """Return the constraint in JSON; a batch has one schema, so the last one is kept."""
        known = self._constraint  # read once: bodies with files are written in threads
        if known is None or known[0] is not schema:
            known = self._constraint = (schema, orjson.Fragment(orjson.dumps(self._form.constraint(schema))))
        return known[1]

    def _sealed_headers(self) -> Headers:
        """Return the headers with the key, made anew when a key function returns another one.

        Raises:
            PlatformError: There is no key where one is needed, or it cannot stand in a header.
        """
        known, headers = self._headers
        now = hash(self._key())  # the key itself stands in no local of a frame that raises
        if known == now:
            return headers
        problem = self._key_problem(self._key())
        if problem is not None:
            raise PlatformError("key", problem)
        self._headers = (now, self._more_headers.with_values(self._key_headers(self._key())))
        return self._headers[1]

    def _key_problem(self, key: str) -> str | None:
        if self._is_own and not key:
            return f"No API key: set {self._home.keys[0]} or api_key=."
        if not key.isascii() or not key.isprintable():
            return "The API key holds a character that no key has (a line break?)."
        return None

    def _secrets(self) -> list[str]:
        return [self._key(), *self._more_headers.values()]

    def _without_key(self, reply: Reply) -> Reply:
        """Return a reply as it may be recorded: a provider that quotes the key does not bring it into the ledger."""
        key = self._key()
        if len(key) < _TELLING:  # as good as none, and may be an ordinary word
            return reply
        for name in ("text", "model", "response_id", "request_id", "service_tier", "usage_raw"):
            value = getattr(reply, name)
            if value is not None and key in value:
                setattr(reply, name, value.replace(key, "[key]"))
        return reply

    def _reply(self, response: Response, url: URL) -> Reply:
        """Return the answer in a whole reply with status 200.

        Raises:
            PlatformError: A body that is no JSON, or no answer in it.
        """
        try:
            document = wire.document(response.body, response.headers)
        except ValueError:
            failure = wire.refused(response, "reply", "the reply is no JSON, or was cut.", self._secrets)
            if "html" in response.headers.get("content-type", ""):
                failure = wire.refused(response, "reply", f"a web page, and no answer.{_address(url)}", self._secrets)
        else:
            answer = self._form.answer(response, self._secrets)
            answer.read(document)
            return self._without_key(answer.whole())
        raise failure

    async def _refused(self, response: Response, model: str, url: URL) -> PlatformError:
        """Return the typed error of a reply whose status is not 200, with what a person can do about it."""
        if 300 <= response.status < 400:
            return wire.redirected(response, self._secrets)
        try:
            document = wire.document(response.body, response.headers)
        except ValueError:
            document = None
        error = self._form.refusal(response, document, model, self._secrets)
        error.rate_limits = self._form.answer(response, self._secrets).rate_limits()
        wire.advise(error, await self._advice(error, model, url))
        return error

    async def _advice(self, error: PlatformError, model: str, url: URL) -> str:
        """Return what a person can do about a refusal; empty where its own words say it all."""
        words = str(error).replace(f"(model {model!r})", "")  # added where the provider named none
        if error.http_status == 401:
            return self._key_advice()
        if error.kind == "request" and _NO_MODEL.search(words):
            return await self._model_advice(model)
        return _address(url) if error.http_status in (404, 405) else ""

    def _key_advice(self) -> str:
        variable = self._home.keys[0]
        if self._key():
            return f" Check api_key= or {variable}."
        return f" No key was sent: give api_key= ({variable} goes to the provider's own address alone)."

    async def _model_advice(self, model: str) -> str:
        """Return the nearest model on the provider's list; a thousand tasks may ask for the same wrong one."""
        if model not in self._nearest:
            self._nearest[model] = await asyncio.to_thread(_nearest_model, self.provider, model)
        return self._nearest[model]


def _is_text(request: Request) -> bool:
    """Return True when nothing goes with the request that has to be read from a file."""
    for message in request.messages:  # noqa: SIM110  # every call goes through it, and `all` costs twice as much
        if type(message.content) is not str:
            return False
    return True


def _images(request: Request) -> Iterator[Attachment]:
    for message in request.messages:
        for part in message.content if isinstance(message.content, tuple) else ():
            if isinstance(part, Attachment) and part.media_type.startswith("image/"):
                yield part


def _nearest_model(provider: str, model: str) -> str:
    known = model_ids(provider)
    return "" if model in known else nearest(model, known)


def _address(url: URL) -> str:
    return f" Is base_url right? The request went to {url}."


def _variable(name: str | None) -> str | None:
    return os.environ.get(name) if name is not None else None


def _provider(host: str, hosts: Mapping[str, str]) -> str | None:
    return next((provider for end, provider in hosts.items() if host == end or host.endswith("." + end)), None)
