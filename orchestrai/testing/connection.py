"""One HTTP/1.1 connection of the provider on loopback: requests parsed, replies written, some of them badly."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from orchestrai.testing.exchange import Received
from orchestrai.testing.faults import Fault, gzip_bomb

if TYPE_CHECKING:
    from orchestrai.testing.server import ProviderServer

_JSON: Final = b"content-type: application/json\r\n"
_EVENTS: Final = b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends RST
_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Connection(asyncio.Protocol):
    """One connection; its requests are answered one after the other."""

    __slots__ = ("_buffer", "_closing", "_held", "_later", "_server", "_transport", "is_lost")

    def __init__(self, server: ProviderServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._held: Received | None = None
        self._later: asyncio.TimerHandle | None = None
        self._closing = False
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the server's connections."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.opened(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Leave them; what hangs is abandoned."""
        self.is_lost = True
        if self._later is not None:
            self._later.cancel()
        if self._held is not None:
            self._server.abandon(self._held)
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; they may end anywhere."""
        self._buffer = self._buffer + data if self._buffer else data
        if self._held is None and self._later is None:
            self._next()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self, received: Received) -> None:
        """Take no further request until this one is released."""
        self._held = received

    def release(self) -> None:
        """End the hold; the reply follows."""
        self._held = None

    def reply(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Write a whole reply."""
        self._write(b"%b%b%bcontent-length: %d\r\n\r\n%b" % (_status_line(status), _JSON, headers, len(body), body))
        self._done()

    def stream(self, events: Sequence[bytes], headers: bytes, fault: Fault | None, piece_s: float) -> None:
        """Write a streamed reply, all at once or a piece at a time."""
        chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events] + [b"0\r\n\r\n"]
        cut = fault is not None and fault.kind in ("cut_stream", "cut_body", "malformed")
        if cut:
            chunks = chunks[: max(2, len(chunks) // 2)]
        if fault is not None and fault.kind == "malformed":
            half = events[1][: len(events[1]) // 2] + b"\n\n"
            chunks = [chunks[0], b"%x\r\n%b\r\n0\r\n\r\n" % (len(half), half)]
            cut = False
        self._write(_status_line(200) + _EVENTS + headers + b"\r\n" + (b"" if piece_s else b"".join(chunks)))
        if piece_s:
            self._pieces(chunks, piece_s, 0, cut=cut)
        elif cut:
            self._close()
        else:
            self._done()

    def _pieces(self, chunks: Sequence[bytes], piece_s: float, at: int, *, cut: bool) -> None:
        self._write(chunks[at])
        if at + 1 < len(chunks):
            later = asyncio.get_running_loop().call_later
            self._later = later(piece_s, lambda: self._pieces(chunks, piece_s, at + 1, cut=cut))
            return
        self._later = None
        if cut:
            self._close()
        else:
            self._done()

    def faulty(self, fault: Fault, body: bytes, headers: bytes) -> None:
        """Write a reply, or part of one, with something wrong."""
        head = _JSON + headers + "".join(f"{k}: {v}\r\n" for k, v in fault.headers.items()).encode("latin-1")
        status = 307 if fault.kind == "redirect" else fault.status
        length = len(body)
        if fault.kind in ("hang", "reset"):
            self._reset(hard=fault.kind == "reset")
            return
        if fault.kind == "raw":
            given = {name.lower(): value for name, value in fault.headers.items()}
            head = head.removeprefix(_JSON) if "content-type" in given else head
            if "transfer-encoding" in given or "content-length" in given:  # the body brings its own frame
                self._write(b"%b%b\r\n%b" % (_status_line(status), head, body))
                if int(given.get("content-length", 0)) > length:
                    self._close()
                else:
                    self._done()
                return
        elif fault.kind == "malformed":
            body = body[: len(body) // 2]
            length = len(body)
        elif fault.kind in ("cut_body", "cut_stream"):
            body = body[: len(body) // 2]
        elif fault.kind in ("empty", "redirect"):
            body, length = b"", 0
            head += f"location: {fault.location}\r\n".encode() if fault.kind == "redirect" else b""
        elif fault.kind == "gzip_bomb":
            body = gzip_bomb()
            head, length = head + b"content-encoding: gzip\r\n", len(body)
        elif fault.kind == "wrong_charset":
            body = body.replace(b'"content":"', b'"content":"caf\xe9 ')
            length = len(body)
            head = head.replace(_JSON, b"content-type: application/json; charset=utf-8\r\n")
        self._write(b"%b%bcontent-length: %d\r\n\r\n%b" % (_status_line(status), head, length, body))
        if len(body) < length:
            self._close()
        else:
            self._done()

    def _reset(self, *, hard: bool) -> None:
        assert self._transport is not None
        if hard:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _close(self) -> None:
        self._closing = True
        assert self._transport is not None
        self._transport.close()

    def _done(self) -> None:
        """Go on with the next request that has arrived, or end as the client asked."""
        if self._closing:
            self._close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Hand the next whole request to the server."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self.is_lost:
            return
        head = self._buffer[:end]
        lower = head.lower()
        start = end + 4
        if b"\r\ntransfer-encoding: chunked" in lower:
            body, rest = _chunked(self._buffer, start)
        else:
            at = lower.find(b"\r\ncontent-length:")
            length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = len(self._buffer) >= start + length
            body, rest = (
                (self._buffer[start : start + length], self._buffer[start + length :]) if whole else (None, b"")
            )
        if body is None:
            if b"\r\nexpect: 100-continue" in lower and len(self._buffer) == start:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self._buffer = rest
        self._closing = b"\r\nconnection: close" in lower
        method, path, _ = head[: head.find(b"\r\n")].split(b" ", 2)
        self._server.receive(self, method, path.decode("latin-1"), head, body)


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def _chunked(buffer: bytes, at: int) -> tuple[bytes | None, bytes]:
    """Return a body sent in chunks, and what follows it; None while it is not whole."""
    body = b""
    while (line := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line].split(b";", 1)[0], 16)
        if len(buffer) < line + 2 + size + 2:
            break
        if size == 0:
            return body, buffer[line + 4 :]
        body += buffer[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return None, b""
