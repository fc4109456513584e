"""Damaged replies of any protocol, the same for the same number in every run, and the laws that hold for all of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.testing import Fault, ProviderServer
from orchestrai.testing.faults import gzip_bomb

COUNT = 10_000
SEED = 20_261_122


@dataclass(frozen=True)
class Protocol:
    """What a protocol's replies look like when nothing is wrong.

    Args:
        whole: A whole reply.
        events: The events of a stream, in order.
        refusals: Errors: as a reply, and as an event.
        ends: What a stream may close with; one of them at random.
        platform: Makes the platform that speaks it to a server.
        naive: The control: what one writes first to read a reply (streamed, body).
    """

    whole: dict[str, Any]
    events: Sequence[dict[str, Any]]
    refusals: Sequence[dict[str, Any]]
    platform: Callable[[ProviderServer], Any]
    naive: Callable[[bool, bytes], object]
    ends: Sequence[bytes] = (b"",)


STRANGE = [
    None,
    True,
    False,
    0,
    -1,
    10**18,
    10**400,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "text",
    "\x00\x1b[2J",
    "half \ud83d",
    "\udc00" * 50,
    "9" * 5_000,
    [],
    {},
    [[]],
    [None] * 3,
    {"": {"": {}}},
    {"content": 7},
    [{"type": "text", "text": 5}],
    [{"type": "text", "text": "\ud800"}],
]
HEADERS = (
    "retry-after",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-request-id",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-remaining",
)


def paths(value, at=()):
    """Return the way to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [path for key, one in inner for path in paths(one, (*at, key))]


def changed(document, rng):
    """Return a copy with one value removed, replaced or doubled."""
    document = json.loads(json.dumps(document))
    ways = [path for path in paths(document) if path]
    if not ways:
        return rng.choice(STRANGE)
    *way, last = rng.choice(ways)
    place = document
    for step in way:
        place = place[step]
    kind = rng.randrange(3)
    if kind == 0:
        del place[last]
    elif kind == 1 and isinstance(place, list):
        place.append(rng.choice(STRANGE))
    else:
        place[last] = rng.choice(STRANGE)
    return document


def text_of(document, rng):
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def damaged_json(document, rng):
    """Return the bytes of a reply with one to three things wrong in it."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        document = changed(document, rng) if isinstance(document, dict | list) and document else document
    raw = text_of(document, rng)
    kind = rng.randrange(12)
    if kind == 0:
        raw = raw[: rng.randrange(len(raw) + 1)]
    elif kind == 1:
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(raw))
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    elif kind == 2:
        key = rng.choice(
            [b'"content"', b'"usage"', b'"choices"', b'"error"', b'"finish_reason"', b'"output"', b'"status"']
        )
        raw = raw.replace(b"{", b"{%b:%b," % (key, text_of(rng.choice(STRANGE), rng)), 1)
    elif kind == 3:
        depth = rng.choice([50, 300, 1_000, 10_000])
        opened, closed = rng.choice([(b"[", b"]"), (b'{"usage":', b"}"), (b'{"a":', b"}")])
        bomb = opened * depth + b"null" + closed * rng.choice([depth, 0])
        raw = rng.choice([bomb, raw.replace(b"null", bomb, 1), raw.replace(b"1200", bomb, 1)])
    return raw


def damaged_stream(protocol, rng):
    """Return the bytes of a stream with one to three things wrong in it."""
    events = list(protocol.events)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.randrange(8)
        at = rng.randrange(len(events))
        if kind == 0:
            del events[at]
        elif kind == 1:
            events.insert(at, rng.choice([*STRANGE, *protocol.refusals]))
        else:
            events[at] = changed(events[at], rng) if isinstance(events[at], dict) else events[at]
        events = events or list(protocol.events)
    written = []
    for event in events:
        raw = damaged_json(event, rng) if rng.random() < 0.05 and isinstance(event, dict) else text_of(event, rng)
        name = rng.choice([b"data: ", b"data: ", b"data: ", b"data:", b"event: x\ndata: ", b": note\ndata: "])
        written.append(name + raw.replace(b"\n", b" ") + rng.choice([b"\n\n"] * 30 + [b"\r\n\r\n", b"\n"]))
    raw = b"".join(written) + rng.choice(protocol.ends)
    return raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.2 else raw


def mutation(protocol, number):
    """Return (asked as a stream, the fault that replies), the same for the same number in every run."""
    rng = random.Random(f"{SEED}-{number}")
    streamed = number % 2 == 1
    kind = "text/event-stream" if streamed and rng.random() < 0.9 else "application/json"
    status = rng.choice([200] * 30 + [201, 400, 404, 429, 500])
    if streamed:
        body = damaged_stream(protocol, rng)
    else:
        body = damaged_json(rng.choice([protocol.whole] * 3 + list(protocol.refusals)), rng)
    headers = {
        "content-type": kind
        + rng.choice([""] * 9 + ["; charset=utf-8", "; charset=utf-16", "; charset=no-such", "; charset=hex"])
    }
    for name in HEADERS:
        if rng.random() < 0.3:
            headers[name] = rng.choice(["", "7", "-1", "1e400", "nan", "6m0s", "9" * 4_400, "\xff\xfe", "x" * 300])
    dice = rng.randrange(60)
    if dice < 3:
        body = body.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "latin-1"]), "replace")
    elif dice < 6:
        packed = gzip.compress(body, 1)
        body = packed[: len(packed) // 2] if dice == 3 else packed if dice == 4 else b"not packed at all"
        headers["content-encoding"] = "gzip"
    elif dice == 6:
        headers["content-encoding"] = rng.choice(["br", "zstd", "deflate", "none", "x" * 99])
    elif dice == 7:
        headers["content-length"] = str(len(body) + rng.choice([1, 1_000]))
    elif number in (500, 501):
        body, headers["content-encoding"] = gzip_bomb(), "gzip"
    return streamed, Fault("raw", status, headers=headers, body=body)


async def outcome(platform, number, streamed):
    """Return the reply or the error of one request; a stream's pieces are the text of its reply."""
    asked = Request((Message("user", f"{number}"),), "m")
    try:
        if not streamed:
            return await platform.send(asked)
        *pieces, reply = [item async for item in platform.stream(asked)]
    except PlatformError as error:
        return error
    assert "".join(pieces) == reply.text, f"mutation {number}"
    return reply


def outcomes_of(protocol):
    """Return (asked as a stream, fault, what came of it) of `COUNT` requests through real HTTP."""
    faults = [mutation(protocol, number) for number in range(COUNT)]
    with ProviderServer(script=lambda received: faults[int(received.prompt)][1], keep=False) as server:

        async def all_of_them():
            platform = protocol.platform(server)
            found = []
            for number, (streamed, _) in enumerate(faults):
                async with asyncio.timeout(60):
                    found.append(await outcome(platform, number, streamed))
            await platform.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return found

        found = asyncio.run(all_of_them())
        assert server.stats()["requests"] == COUNT, "each is one request"
    return [(*fault, one) for fault, one in zip(faults, found, strict=True)]


class MutatedReplies:
    """The laws; a subclass names its protocol."""

    protocol: Protocol

    @pytest.fixture(scope="class")
    @classmethod
    def outcomes(cls):
        """Return what came of all of them."""
        return outcomes_of(cls.protocol)

    def test_every_damaged_reply_is_a_reply_or_a_platform_error(self, outcomes):
        counts = Counter(type(one).__name__ for _, _, one in outcomes)
        kinds = Counter(one.kind for _, _, one in outcomes if isinstance(one, PlatformError))
        print(f"{COUNT} mutations, seed {SEED}: {dict(counts)}, kinds {dict(kinds)}")
        assert set(counts) == {"Reply", "PlatformError"}
        assert min(counts.values()) > COUNT // 20, "both outcomes are really met"

    def test_what_came_of_them_can_be_stored(self, outcomes):
        for number, (_, _, one) in enumerate(outcomes):
            reply = one if isinstance(one, Reply) else one.reply
            if reply is not None:
                ids = [reply.model, reply.response_id, reply.request_id, reply.service_tier]
                orjson.dumps([reply.text, reply.usage, reply.usage_raw, *ids])
                assert reply.usage.input_tokens is None or 0 <= reply.usage.input_tokens <= 10**13, f"mutation {number}"
                assert reply.rate_limits is None or (reply.rate_limits.requests_reset_s or 0) >= 0
            if isinstance(one, PlatformError):
                assert not any(ord(character) < 32 for character in str(one)), f"mutation {number}"
                orjson.dumps([str(one), one.request_id, one.retry_after_s])
                assert len(str(one)) <= 500
                assert one.retry_after_s is None or 0 <= one.retry_after_s < 10**9

    def test_an_unusable_answer_may_have_been_billed_and_a_refusal_was_not(self, outcomes):
        for number, (_, fault, one) in enumerate(outcomes):
            if isinstance(one, PlatformError):
                status = one.http_status or 200  # without one, the reply was not readable as HTTP: nothing is certain
                assert one.may_be_billed is (status < 300), f"mutation {number}: {one}"
                assert one.http_status in (None, fault.status)

    def test_the_control_a_naive_parser_breaks_on_many(self, outcomes):
        broken = 0
        for streamed, fault, _ in outcomes:
            try:
                self.protocol.naive(streamed, fault.body)
            except Exception:  # noqa: BLE001  # what it raises is the measurement
                broken += 1
        print(f"the naive parser raised on {broken} of {COUNT}")
        assert broken > COUNT // 2
