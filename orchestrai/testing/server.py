"""A provider on loopback: real HTTP, real limits, real faults, its own bill; in a thread or in its own process.

In a thread, for tests that look inside:

    with ProviderServer(script={"poison": [500, None]}) as server:
        platform = OpenAI(base_url=server.base_url, api_key="test", model="test-model")

In its own process, for measurements and kills (`python -m orchestrai.testing.server --help`):

    with SpawnedServer("--latency", "lognormal:0.1", "--bill", str(path)) as server:
        ...

It is written on asyncio.Protocol, so that it is never what a benchmark measures. A further protocol is one more module
like `chat_completions` and one line in `WIRE_FORMS`.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from orchestrai.platforms.wire import duration_s
from orchestrai.testing.answers import answer_to, instance_of
from orchestrai.testing.bill import Bill
from orchestrai.testing.chat_completions import PATH as CHAT_PATH
from orchestrai.testing.chat_completions import ChatCompletions
from orchestrai.testing.connection import Connection
from orchestrai.testing.exchange import Answer, Bucket, Received, Replies, WireForm
from orchestrai.testing.faults import Decider, Fault, Latency, Script
from orchestrai.testing.generate_content import PATH as GENERATE_PATH
from orchestrai.testing.generate_content import GenerateContent
from orchestrai.testing.messages_api import PATH as MESSAGES_PATH
from orchestrai.testing.messages_api import MessagesApi
from orchestrai.testing.responses import PATH as RESPONSES_PATH
from orchestrai.testing.responses import Responses

WIRE_FORMS: Final[list[tuple[re.Pattern[str], WireForm]]] = [
    (CHAT_PATH, ChatCompletions()),
    (MESSAGES_PATH, MessagesApi()),
    (GENERATE_PATH, GenerateContent()),
    (RESPONSES_PATH, Responses()),
]
"""Which protocol answers at which path; the first match wins."""

_COUNTING: Final = re.compile(r"(/v1/messages/count_tokens|:countTokens)(\?|$)")

_START_S: Final = 20.0  # a child on a loaded machine needs seconds to import


@dataclass(frozen=True, slots=True)
class Limits:
    """Rate limits of the provider, as token buckets that start full.

    Args:
        rpm: Requests per minute.
        tpm: Input tokens per minute.
        burst_s: Size of the buckets, in seconds of their rate; 60 is a provider's minute [s].
    """

    rpm: float | None = None
    tpm: float | None = None
    burst_s: float = 1.0


class _TokenBucket:
    def __init__(self, per_minute: float, burst_s: float) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._size = max(1.0, self._rate * burst_s)
        self._level = self._size
        self._at = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Return how long until `amount` is there [s]; 0 when it is."""
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self._size) - self._level) / self._rate)

    def take(self, amount: float) -> None:
        self._level -= min(amount, self._size)

    def state(self) -> Bucket:
        return Bucket(int(self.per_minute), max(0, int(self._level)), (self._size - self._level) / self._rate)


class ProviderServer:
    """A provider on loopback, run in a thread by `with`.

    Args:
        script: Which request meets which fault; see `faults.Script`.
        replies: What is answered; see `exchange.Replies`.
        latency: Time to an answer [s]: `0.05`, `"lognormal:0.1"`, or a `Latency`.
        limits: Rate limits; None for none.
        seed: Seed of a latency given as text.
        piece_s: Time between the pieces of a stream [s].
        api_key: The key it demands; None for none.
        bill: File to which every request is appended before its reply is written; see `bill.read_bill`.
        keep: Keep every request in `requests`.
        port: Port to listen at; 0 for a free one.
    """

    def __init__(
        self,
        *,
        script: Script = None,
        replies: Replies = None,
        latency: float | str | Latency = 0.0,
        limits: Limits | None = None,
        seed: int = 0,
        piece_s: float = 0.0,
        api_key: str | None = None,
        bill: str | Path | None = None,
        keep: bool = True,
        port: int = 0,
    ) -> None:
        self.requests: list[Received] = []
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = port
        self._decider = Decider(script)
        self._replies = replies
        self._rules = (
            [(re.compile(p, re.DOTALL), text) for p, text in replies.items()] if isinstance(replies, Mapping) else []
        )
        self._latency = Latency.of(latency, seed)
        limits = limits or Limits()
        self._request_bucket = _TokenBucket(limits.rpm, limits.burst_s) if limits.rpm else None
        self._token_bucket = _TokenBucket(limits.tpm, limits.burst_s) if limits.tpm else None
        self._piece_s = piece_s
        self._api_key = api_key.encode() if api_key else None
        self._bill = Bill(bill) if bill is not None else None
        self._keep = keep
        self._attempts: Counter[int] = Counter()
        self._connections: set[Connection] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._refused: OSError | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """Its address in the form of `OpenAI(base_url=…)`."""
        return f"{self.url}/v1"

    @property
    def prompts(self) -> list[str]:
        """The prompts of all requests, in the order in which they came."""
        return [received.prompt for received in self.requests]

    def stats(self) -> dict[str, Any]:
        """Return the counters: what `GET /_stats` answers.

        Returns:
            `requests` and one count per outcome (`answered`, `fault`, `limited`, `refused`, `abandoned`), per kind of
            fault (`fault_429`, `fault_cut_body`, …), `counted` (requests for a number of tokens), `billed_tokens`,
            `connections` opened, `in_flight`, `most_in_flight`.
        """
        return {**self.counts, "in_flight": self.in_flight, "most_in_flight": self.most_in_flight}

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait in this thread until the condition holds.

        Raises:
            TimeoutError: It did not come true in time.
        """
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not reached within {timeout_s} s; the server counts {self.stats()}")
            time.sleep(0.005)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="provider-server", daemon=True)
        self._thread.start()
        if not started.wait(_START_S) or self._refused is not None:
            raise OSError(f"the provider server cannot listen at port {self.port}") from self._refused
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self.serve(started.set))
        except OSError as error:  # the port is taken: told to whoever waits in `__enter__`
            self._refused = error
        finally:
            started.set()

    async def serve(self, on_start: Callable[[], object]) -> None:
        """Listen until `stop` is called; `on_start` is called once it does."""
        self._loop = asyncio.get_running_loop()
        listener = await self._loop.create_server(lambda: Connection(self), "127.0.0.1", self.port, backlog=1024)
        self.port = listener.sockets[0].getsockname()[1]
        self._stop = asyncio.Event()
        on_start()
        try:
            await self._stop.wait()
        finally:
            listener.close()
            for connection in list(self._connections):
                connection.abort()
            await asyncio.sleep(0)  # the transports close in the next turn of the loop
            if self._bill is not None:
                self._bill.close()

    def stop(self) -> None:
        """Stop listening; from any thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)
        self.counts["connections"] += 1

    def closed(self, connection: Connection) -> None:
        """Note that a connection ended."""
        self._connections.discard(connection)

    def receive(self, connection: Connection, method: bytes, path: str, head: bytes, body: bytes) -> None:
        """Answer one request, now or later."""
        if method in (b"GET", b"HEAD"):
            self._get(connection, path, head_only=method == b"HEAD")
            return
        if _COUNTING.search(path):  # asking for a count is no request for an answer: it is neither limited nor billed
            self.counts["counted"] += 1
            tokens = max(1, len(body) // 4)
            connection.reply(200, orjson.dumps({"input_tokens": tokens, "totalTokens": tokens}))
            return
        self.counts["requests"] += 1
        number = self.counts["requests"] - 1
        received = Received(number, 0, time.time(), path, head, body, input_tokens=max(1, len(body) // 4))
        if self._keep:
            self.requests.append(received)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        wire = next((wire for pattern, wire in WIRE_FORMS if pattern.search(path)), None)
        if wire is None:
            self._settle(received, "refused", 404)
            connection.reply(404, b'{"error":{"message":"no such address"}}')
            return
        try:
            fields = orjson.loads(body)
            received.prompt = wire.prompt(fields)
        except (ValueError, TypeError, AttributeError) as error:  # no JSON, or not in the form of this protocol
            self._settle(received, "refused", 400)
            connection.reply(400, wire.error(400, None, f"the body cannot be read: {error}"))
            return
        asked = hash(received.prompt)
        received.attempt = self._attempts[asked]
        self._attempts[asked] += 1
        if self._api_key is not None and self._api_key not in head:
            self._settle(received, "refused", 401)
            connection.reply(401, wire.error(401, None, "Incorrect API key provided."))
            return
        fault = self._decider.fault(received)
        limited_s, limit = self._limited(received)
        if limited_s and fault is None:
            self._settle(received, "limited", 429)
            limits = wire.headers(number, limited_s) + self._limit_headers(wire)
            connection.reply(429, wire.error(429, None, f"Rate limit reached, limit: {limit}.", limited_s), limits)
            return
        delay = self._latency.seconds(received.prompt, received.attempt)
        if fault is not None and fault.kind in ("slow", "hang"):
            delay += fault.seconds
        if fault is not None and fault.kind == "hang" and not fault.seconds:
            received.fault = "hang"
            connection.hold(received)
        elif delay > 0:
            connection.hold(received)
            assert self._loop is not None
            self._loop.call_later(delay, self._finish, connection, wire, fields, received, fault)
        else:
            self._finish(connection, wire, fields, received, fault)

    def abandon(self, received: Received) -> None:
        """Note that the client left a request that hangs for ever; one that is only late is settled in its time."""
        if received.fault == "hang":
            self._settle(received, "abandoned", 0)

    # The way of one request to its reply.

    def _get(self, connection: Connection, path: str, *, head_only: bool) -> None:
        if head_only:  # Claude Code opens its connection so
            connection.reply(200, b"")
        elif path == "/_stats":
            connection.reply(200, orjson.dumps(self.stats()))
        elif path.endswith("/models"):
            connection.reply(200, orjson.dumps({"object": "list", "data": [{"id": "test-model", "object": "model"}]}))
        else:
            connection.reply(404, b"{}")

    def _limited(self, received: Received) -> tuple[float, str]:
        """Take what a request needs from the buckets, or return how long that would have to wait [s], and for what."""
        assert self._loop is not None
        now = self._loop.time()
        needs = [
            (bucket, amount, f"{bucket.per_minute:.0f} {unit} per minute")
            for bucket, amount, unit in (
                (self._request_bucket, 1.0, "requests"),
                (self._token_bucket, float(received.input_tokens), "tokens"),
            )
            if bucket is not None
        ]
        longest = max(((bucket.wait(amount, now), limit) for bucket, amount, limit in needs), default=(0.0, ""))
        if not longest[0]:
            for bucket, amount, _ in needs:
                bucket.take(amount)
        return longest

    def _limit_headers(self, wire: WireForm) -> bytes:
        if self._request_bucket is None and self._token_bucket is None:
            return b""
        buckets = (self._request_bucket, self._token_bucket)
        return wire.limit_headers(*(bucket.state() if bucket is not None else None for bucket in buckets))

    def _finish(
        self, connection: Connection, wire: WireForm, fields: Mapping[str, Any], received: Received, fault: Fault | None
    ) -> None:
        connection.release()
        if fault is not None and not fault.is_billed:
            self._unbilled(connection, wire, received, fault)
            return
        answer = self._answer(wire, fields, received)
        received.output_tokens = max(1, len(answer.text.encode("utf-8", "surrogatepass")) // 4)
        if answer.output_tokens is not None:
            received.output_tokens = answer.output_tokens
        if answer.input_tokens is not None:
            received.input_tokens = answer.input_tokens
        received.billed_tokens = received.input_tokens + received.output_tokens
        here = not connection.is_lost
        received.fault = fault.kind if fault is not None else None
        wrong = fault is not None and fault.kind != "slow"
        self._settle(received, "fault" if wrong else "answered" if here else "abandoned", 200)
        if not here:
            return
        headers = wire.headers(received.number) + self._limit_headers(wire)
        if answer.headers:
            headers += "".join(f"{k}: {v}\r\n" for k, v in answer.headers.items()).encode("latin-1")
        streamed = wire.streams(received.path, fields)
        if streamed and (fault is None or fault.kind in ("slow", "cut_stream", "cut_body", "malformed")):
            connection.stream(wire.events(fields, received, answer), headers, fault, self._piece_s)
        elif fault is None or fault.kind == "slow":
            connection.reply(200, wire.whole(fields, received, answer), headers)
        else:
            body = fault.body if fault.kind == "raw" else wire.whole(fields, received, answer)
            connection.faulty(fault, body, headers)

    def _unbilled(self, connection: Connection, wire: WireForm, received: Received, fault: Fault) -> None:
        received.fault = fault.kind if fault.kind != "status" else str(fault.status)
        status = {"redirect": 307, "status": fault.status, "raw": fault.status}.get(fault.kind, 0)
        self._settle(received, "fault", status)
        if connection.is_lost:
            return
        headers = wire.headers(received.number) + self._limit_headers(wire)
        message = fault.message or f"scripted {fault.status}"
        body = fault.body
        if fault.kind != "raw":
            body = wire.error(fault.status, fault.code, message, duration_s(fault.headers.get("retry-after")))
        connection.faulty(fault, body, headers)

    def _answer(self, wire: WireForm, fields: Mapping[str, Any], received: Received) -> Answer:
        replies = self._replies
        found: str | Answer | None = None
        if callable(replies):
            found = replies(received)
        elif isinstance(replies, Mapping):
            found = next((text for pattern, text in self._rules if pattern.search(received.prompt)), None)
        else:
            found = replies
        if found is None:
            schema = wire.schema(fields)
            found = answer_to(received.prompt) if schema is None else json.dumps(instance_of(schema, received.prompt))
        return found if isinstance(found, Answer) else Answer(found)

    def _settle(self, received: Received, outcome: Any, status: int) -> None:
        """Note what became of a request; on the bill before a byte of the reply is written."""
        received.outcome, received.status = outcome, status
        self.in_flight -= 1
        self.counts[outcome] += 1
        self.counts["billed_tokens"] += received.billed_tokens
        if received.fault is not None:
            self.counts[f"fault_{received.fault}"] += 1
        if self._bill is not None:
            self._bill.write(
                time=received.time,
                number=received.number,
                attempt=received.attempt,
                prompt=received.prompt,
                outcome=outcome,
                status=status,
                input_tokens=received.input_tokens,
                output_tokens=received.output_tokens,
                billed_tokens=received.billed_tokens,
            )


if __name__ == "__main__":
    from orchestrai.testing.process import main

    main()
