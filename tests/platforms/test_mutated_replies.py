"""No reply can crash us: 2,000 damaged replies through the real adapter and real HTTP, each a Reply or a PlatformError."""

import asyncio
import gzip
import json
import random
from collections import Counter

import orjson
import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.openai import OpenAI
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.testing import Fault, ProviderServer
from orchestrai.testing.faults import gzip_bomb

COUNT = 2_000
SEED = 20_261_122

WHOLE = {
    "id": "chatcmpl-B1",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "gpt-5-mini-2026-01-01",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": 'An "answer" with \\ and é and \U0001f600.', "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 1_200,
        "completion_tokens": 60,
        "total_tokens": 1_260,
        "prompt_tokens_details": {"cached_tokens": 1_024, "cache_write_tokens": 76},
        "completion_tokens_details": {"reasoning_tokens": 32},
    },
    "service_tier": "default",
}
CHUNKS = [
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "An "}, "finish_reason": None}]},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "answer"}, "finish_reason": None}]},
    {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"id": "c", "model": "m", "choices": [], "usage": WHOLE["usage"]},
]
REFUSALS = [
    {"error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
    {"error": {"message": "Upstream failed", "code": 502, "metadata": {"raw": "x"}}},
]
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
        key = rng.choice([b'"content"', b'"usage"', b'"choices"', b'"error"', b'"finish_reason"'])
        raw = raw.replace(b"{", b"{%b:%b," % (key, text_of(rng.choice(STRANGE), rng)), 1)
    elif kind == 3:
        depth = rng.choice([50, 300, 1_000, 10_000])
        opened, closed = rng.choice([(b"[", b"]"), (b'{"usage":', b"}"), (b'{"a":', b"}")])
        bomb = opened * depth + b"null" + closed * rng.choice([depth, 0])
        raw = rng.choice([bomb, raw.replace(b"null", bomb, 1), raw.replace(b"1200", bomb, 1)])
    return raw


def damaged_stream(rng):
    chunks = list(CHUNKS)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.randrange(8)
        at = rng.randrange(len(chunks))
        if kind == 0:
            del chunks[at]
        elif kind == 1:
            chunks.insert(at, rng.choice([*STRANGE, *REFUSALS]))
        else:
            chunks[at] = changed(chunks[at], rng) if isinstance(chunks[at], dict) else chunks[at]
        chunks = chunks or list(CHUNKS)
    events = []
    for chunk in chunks:
        raw = damaged_json(chunk, rng) if rng.random() < 0.05 and isinstance(chunk, dict) else text_of(chunk, rng)
        name = rng.choice([b"data: ", b"data: ", b"data: ", b"data:", b"event: x\ndata: ", b": note\ndata: "])
        events.append(name + raw.replace(b"\n", b" ") + rng.choice([b"\n\n"] * 30 + [b"\r\n\r\n", b"\n"]))
    raw = b"".join(events) + rng.choice([b"data: [DONE]\n\n", b"data: [DONE]", b"", b"data: [DON"])
    return raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.2 else raw


def mutation(number):
    """Return (asked as a stream, the fault that replies), the same for the same number in every run."""
    rng = random.Random(f"{SEED}-{number}")
    streamed = number % 2 == 1
    kind = "text/event-stream" if streamed and rng.random() < 0.9 else "application/json"
    status = rng.choice([200] * 30 + [201, 400, 404, 429, 500])
    body = damaged_stream(rng) if streamed else damaged_json(rng.choice([WHOLE, WHOLE, WHOLE, *REFUSALS]), rng)
    headers = {
        "content-type": kind
        + rng.choice([""] * 9 + ["; charset=utf-8", "; charset=utf-16", "; charset=no-such", "; charset=hex"])
    }
    for name in ("retry-after", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-request-id"):
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


def naive(streamed, body):
    """The control: what one writes first."""
    if not streamed:
        found = json.loads(body)
        usage = found["usage"]
        return found["choices"][0]["message"]["content"].strip(), usage["prompt_tokens"] + usage["completion_tokens"]
    text = ""
    for line in body.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            found = json.loads(line[6:])
            if found["choices"]:
                text += found["choices"][0]["delta"].get("content", "")
    return text.encode().decode(), found["usage"]["prompt_tokens"]


async def outcome(platform, number, streamed):
    asked = Request((Message("user", f"{number}"),), "m")
    try:
        if not streamed:
            return await platform.send(asked)
        *pieces, reply = [item async for item in platform.stream(asked)]
    except PlatformError as error:
        return error
    assert "".join(pieces) == reply.text, f"mutation {number}"
    return reply


@pytest.fixture(scope="module")
def outcomes():
    faults = [mutation(number) for number in range(COUNT)]
    with ProviderServer(script=lambda received: faults[int(received.prompt)][1], keep=False) as server:

        async def all_of_them():
            platform = OpenAI(base_url=server.base_url, api_key="sk-test-0123456789abcdef", model="m")
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


def test_every_damaged_reply_is_a_reply_or_a_platform_error(outcomes):
    counts = Counter(type(one).__name__ for _, _, one in outcomes)
    kinds = Counter(one.kind for _, _, one in outcomes if isinstance(one, PlatformError))
    print(f"{COUNT} mutations, seed {SEED}: {dict(counts)}, kinds {dict(kinds)}")
    assert set(counts) == {"Reply", "PlatformError"}
    assert min(counts.values()) > COUNT // 10, "both outcomes are really met"


def test_what_came_of_them_can_be_stored(outcomes):
    for number, (_, _, one) in enumerate(outcomes):
        reply = one if isinstance(one, Reply) else one.reply
        if reply is not None:
            orjson.dumps([reply.text, reply.usage, reply.usage_raw, reply.model, reply.response_id, reply.request_id])
            assert reply.usage.input_tokens is None or 0 <= reply.usage.input_tokens <= 10**12, f"mutation {number}"
            assert reply.rate_limits is None or (reply.rate_limits.requests_reset_s or 0) >= 0
        if isinstance(one, PlatformError):
            assert not any(ord(character) < 32 for character in str(one)), f"mutation {number}"
            orjson.dumps([str(one), one.request_id, one.retry_after_s])
            assert len(str(one)) <= 500
            assert one.retry_after_s is None or 0 <= one.retry_after_s < 10**9


def test_an_unusable_answer_may_have_been_billed_and_a_refusal_was_not(outcomes):
    for number, (_, fault, one) in enumerate(outcomes):
        if isinstance(one, PlatformError):
            status = one.http_status or 200  # without one, the reply was not readable as HTTP, and nothing is certain
            assert one.may_be_billed is (status < 300), f"mutation {number}: {one}"
            assert one.http_status in (None, fault.status)


def test_the_control_a_naive_parser_breaks_on_many(outcomes):
    broken = 0
    for streamed, fault, _ in outcomes:
        try:
            naive(streamed, fault.body)
        except Exception:  # noqa: BLE001  # what it raises is the measurement
            broken += 1
    print(f"the naive parser raised on {broken} of {COUNT}")
    assert broken > COUNT // 2
