"""The one door to HTTP: one lean session per platform, one request per call, every reply bounded.

An attempt is one request: nothing is retried here, no redirect is followed, no cookie is kept. The wall clock of an
attempt is the engine's; only the time to connect is bounded here. A key travels in headers alone, and the headers are
sealed: no repr, no traceback with locals and no chained exception shows them.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import os
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from orchestrai.errors import PlatformError, PlatformErrorKind
from orchestrai.version import __version__

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDict
    from yarl import URL

LARGEST_REPLY: Final = 32 * 2**20  # bytes after decompression; the longest real answers are below 1 MiB
LARGEST_LINE: Final = 4 * 2**20  # bytes of one event of a stream
CONNECT_TIMEOUT_S: Final = 10.0  # seconds to resolve, connect and shake hands
_KEEPALIVE_S: Final = 15.0  # below the idle time after which common servers close, so that few requests meet a dead one
_LARGE_BODY: Final = 2**20  # bytes from which aiohttp wants a file object, to send in pieces
_DEFAULT_HEADERS: Final = {  # of every request; what is given with one wins
    "User-Agent": f"orchestrai/{__version__}",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",  # answers are short: unpacking them costs more CPU than it saves on the wire
}
_PROXY_VARIABLES: Final = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class Headers:
    """The headers that are given with a request, sealed: they reach the wire and no text."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        from multidict import CIMultiDict

        self._values: CIMultiDict[str] = CIMultiDict(values)

    def with_values(self, values: Mapping[str, str]) -> Headers:
        """Return these headers with further values, which win."""
        both = Headers(self._values)
        both._values.update(values)
        return both

    def values(self) -> list[str]:
        """Return the values that were given: what a message must not quote."""
        return list(self._values.values())

    def __repr__(self) -> str:
        return f"Headers({', '.join(self._values)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Headers hold a key and are not copied out of this process.")


@dataclass(slots=True, repr=False)  # not frozen: one is made for every reply, and a frozen one costs four times as much
class Response:
    """A whole reply; the names of `headers` are matched in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:  # a provider may quote a key in its error
        return f"<Response {self.status}, {len(self.body)} bytes>"


class Event(NamedTuple):
    """One server-sent event: its name (empty without one) and its data."""

    name: str
    data: bytes

    def __repr__(self) -> str:  # as of a Response
        return f"<Event {self.name!r}, {len(self.data)} bytes>"


class EventStream:
    """A reply whose body is still on its way."""

    def __init__(self, response: aiohttp.ClientResponse, largest: int) -> None:
        self._response = response
        self._largest = largest
        self._size = 0
        self._reader: _EventReader | None = None
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            PlatformError: It was cut, cannot be decompressed, or is larger than the bound.
        """
        return await _body(self._response, self._largest)

    async def next_events(self) -> list[Event] | None:
        """Wait for more of the body and return the events that it completed (often none); None at the end.

        Raises:
            PlatformError: The body was cut or a bound was passed.
        """
        if self._reader is None:
            self._reader = _EventReader()
        if not self._response.content.at_eof():
            chunk = await _chunk(self._response, self._size, self._largest)
            self._size += len(chunk)
            return self._reader.feed(chunk)
        return self._reader.feed(b"\n\n") or None  # some servers leave out the empty line that closes an event


class HttpClient:
    """One account's connections to one provider, opened at the first request on the running loop.

    Args:
        largest_reply: Bound of a reply after decompression [bytes].
        connect_timeout_s: Bound of the time to connect [s].
    """

    def __init__(self, *, largest_reply: int = LARGEST_REPLY, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        self._largest = largest_reply
        self._connect_timeout_s = connect_timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._payload: type[aiohttp.BytesPayload]  # so that aiohttp need not look up what a body of bytes is
        self._proxies: dict[str, str | None] = {}
        _clients.add(self)

    async def post(self, url: URL, headers: Headers, body: bytes) -> Response:
        """Send one request and return its whole reply, whatever its status.

        Raises:
            PlatformError: connection, timeout or reply; `may_be_billed` is False only where nothing can have
                reached the provider, or where its status says that it did not answer.
        """
        response = await self._open(url, headers, body)
        try:
            data = await _body(response, self._largest)
        except BaseException:
            response.close()  # what is unread must not come out of this connection again
            raise
        return Response(response.status, response.headers, data)

    @asynccontextmanager
    async def stream(self, url: URL, headers: Headers, body: bytes) -> AsyncIterator[EventStream]:
        """Send one request and hand out its reply while it arrives; leaving early closes the connection.

        Raises:
            PlatformError: As `post`.
        """
        response = await self._open(url, headers, body)
        try:
            yield EventStream(response, self._largest)
        finally:
            response.close()

    async def close(self) -> None:
        """Close every connection. The next request would open new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self, url: URL, headers: Headers, body: bytes) -> aiohttp.ClientResponse:
        failure: PlatformError
        try:
            session = self._session_here()
            return await session.post(
                url,
                data=self._payload(body) if len(body) < _LARGE_BODY else io.BytesIO(body),
                headers=headers._values,  # noqa: SLF001  # the seal is opened here alone
                allow_redirects=False,
                proxy=self._proxy(url),
            )
        except asyncio.CancelledError as stop:
            raise stop.with_traceback(None)  # noqa: B904  # the frames below hold the headers
        except PlatformError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a client library raises, this attempt failed by it
            failure = _not_answered(error, url)
        # Raised outside the handler: the chained error's frames hold the headers.
        raise failure

    def forget(self) -> None:
        """Leave the connections to the parent of a forked child: closing them here would take them from its loop."""
        if self._session is not None:
            _inherited.append(self._session)
            self._session = None

    def _session_here(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop or self._session.closed:
            import aiohttp

            self._loop = loop
            self._payload = aiohttp.BytesPayload
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=300),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s),
                headers=_DEFAULT_HEADERS,
            )
        return self._session

    def _proxy(self, url: URL) -> str | None:
        """Return the proxy that the environment names for this address.

        Not by aiohttp's `trust_env`: that asks for it in a thread at every request, and a line of `.netrc` for the
        same host makes it refuse the request.
        """
        host = url.host or ""
        if host not in self._proxies:
            self._proxies[host] = _proxy_from_environment(url.scheme, host)
        return self._proxies[host]


_clients: weakref.WeakSet[HttpClient] = weakref.WeakSet()
_inherited: list[aiohttp.ClientSession] = []  # by a forked child; kept, never closed


def _forget() -> None:
    for client in list(_clients):
        client.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _proxy_from_environment(scheme: str, host: str) -> str | None:
    if not any(os.environ.get(name) for name in _PROXY_VARIABLES) or is_loopback(host):
        return None
    from urllib.request import getproxies, proxy_bypass

    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    if proxy is not None and not proxy.startswith(("http://", "https://")):
        raise PlatformError(
            "connection",
            f"{scheme}_proxy names a proxy of another kind ({proxy.partition(':')[0]}); only http proxies can be used.",
        )
    return proxy


def is_loopback(host: str) -> bool:
    """Return True when the host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _not_answered(error: Exception, url: URL) -> PlatformError:
    """Return the typed error of a request that got no status line."""
    import aiohttp

    where = f"{url.host}:{url.port}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return PlatformError("timeout", f"{where}: no connection in time.")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL | aiohttp.ClientHttpProxyError):
        return PlatformError("connection", f"{where}: no connection ({_reason(error)}).")
    if isinstance(error, aiohttp.ClientResponseError):
        return PlatformError("reply", f"{where}: the reply is no HTTP ({_reason(error)}).", may_be_billed=True)
    if isinstance(error, ValueError):  # aiohttp refuses a line break in a header before it connects
        return PlatformError("request", f"{where}: the request cannot be sent ({_reason(error)}).")
    return PlatformError(
        "connection", f"{where}: the connection ended before the reply ({_reason(error)}).", may_be_billed=True
    )


def _reason(error: Exception) -> str:
    """Return the cause in a few words; the text of an error of aiohttp may quote headers, so it is not used."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


async def _body(response: aiohttp.ClientResponse, largest: int) -> bytes:
    """Return the whole body, decompressed and bounded; written out because every call goes through it."""
    content = response.content
    if content.is_eof() and content.exception() is None:  # a short reply arrives with its head
        data = content.read_nowait()
        if len(data) > largest:
            raise _too_large(response, largest)
        return data
    chunks: list[bytes] = []
    size = 0
    while not content.at_eof():
        chunk = await _chunk(response, size, largest)
        size += len(chunk)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _chunk(response: aiohttp.ClientResponse, size: int, largest: int) -> bytes:
    """Return the next bytes of a body of which `size` bytes were read.

    Raises:
        PlatformError: connection when it was cut; reply when it is too large or cannot be decompressed.
    """
    failure: PlatformError
    try:
        chunk = await response.content.readany()
        if size + len(chunk) <= largest:
            return chunk
        failure = _too_large(response, largest)
    except asyncio.CancelledError as stop:
        raise stop.with_traceback(None)  # noqa: B904  # as in `_open`
    except Exception as error:  # noqa: BLE001  # as in `_open`
        if type(error.__cause__ or error).__name__ in ("ContentEncodingError", "DecompressSizeError"):
            failure = _unusable(response, "reply", "the reply cannot be decompressed")
        else:
            failure = _unusable(response, "connection", f"the reply was cut after {size:,} bytes")
    raise failure


def _too_large(response: aiohttp.ClientResponse, largest: int) -> PlatformError:
    return _unusable(response, "reply", f"the reply is larger than {largest:,} bytes")


def _unusable(response: aiohttp.ClientResponse, kind: PlatformErrorKind, message: str) -> PlatformError:
    request_id = response.headers.get("x-request-id") or response.headers.get("request-id") or ""
    return PlatformError(
        kind,
        f"{response.url.host}:{response.url.port}: {message}.",
        http_status=response.status,
        may_be_billed=response.status < 300,
        request_id=request_id if 0 < len(request_id) <= 200 and request_id.isprintable() else None,  # may be any bytes
    )


class _EventReader:
    """Reads server-sent events from chunks that end anywhere.

    Source: WHATWG HTML, section 9.2.6 (fields `event` and `data`; lines end with LF, CR LF or CR; `id`, `retry`
    and comments mean nothing to one request).
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._started = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that this chunk completes.

        Raises:
            PlatformError: A line or an event is larger than `LARGEST_LINE`.
        """
        self._rest += chunk
        if not self._started:
            self._started = True
            if self._rest.startswith(b"\xef\xbb\xbf"):
                del self._rest[:3]
        # A CR at the end may be the first half of a CR LF: it waits for the next chunk.
        end = max(self._rest.rfind(b"\n"), self._rest.rfind(b"\r", 0, len(self._rest) - 1)) + 1
        if end == 0:
            self._bound(len(self._rest))
            return []
        lines, self._rest = bytes(self._rest[:end]), self._rest[end:]
        events: list[Event] = []
        for line in lines.splitlines():
            if line:
                self._field(line)
            else:
                self._close_event(events)
        self._bound(len(self._rest))
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._size += len(value)
            self._bound(self._size)
            self._data.append(value)
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")

    def _close_event(self, events: list[Event]) -> None:
        if self._data:
            events.append(Event(self._name, b"\n".join(self._data)))
        self._name, self._data, self._size = "", [], 0

    def _bound(self, size: int) -> None:
        if size > LARGEST_LINE:
            raise PlatformError(
                "reply", f"An event of the stream is larger than {LARGEST_LINE:,} bytes.", may_be_billed=True
            )
