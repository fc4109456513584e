"""What codex-cli 0.169.0 printed, word for word, and what it is read as."""

import json
import random
from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from mutations import COUNT, SEED, STRANGE, changed, damaged_json, text_of

from orchestrai.errors import ERROR_CLASSES, PlatformError
from orchestrai.platforms import codex_quota
from orchestrai.platforms.codex_output import Turn, failure, features, resets_at, usage, without_tools
from orchestrai.platforms.protocol import Reply
from orchestrai.result import NO_USAGE, Usage

NOW = datetime(2026, 11, 22, 11, 30, 20, tzinfo=timezone(timedelta(hours=1)))
THREAD = '{"type":"thread.started","thread_id":"01a204e7-2d32-72d2-966d-ca047d97113f"}'
WARNING = (
    '{"type":"item.completed","item":{"id":"item_0","type":"error","message":"Model metadata for `gpt-5.1` not found. '
    'Defaulting to fallback metadata; this can degrade performance and cause issues."}}'
)
STARTED = '{"type":"turn.started"}'
RETRY = '{"type":"error","message":"Reconnecting... 5/5 (stream closed before response.completed)"}'
DRAFT = '{"type":"item.completed","item":{"id":"item_1","type":"agent_message","text":"one moment"}}'
MESSAGE = '{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"hello there"}}'
COMPLETED = (
    '{"type":"turn.completed","usage":{"input_tokens":11,"cached_input_tokens":3,"cache_write_input_tokens":0,'
    '"output_tokens":7,"reasoning_output_tokens":2}}'
)
LIMIT = (
    "You\u2019ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit "
    "https://chatgpt.com/settings/usage to purchase more credits or try again at "
)


def turn(*lines):
    read = Turn(NOW)
    for line in lines:
        read.take(line.encode())
    return read


def failed(message):
    return json.dumps({"type": "turn.failed", "error": {"message": message}})


def test_the_last_message_of_a_completed_turn_is_the_answer():
    reply = turn(THREAD, WARNING, STARTED, RETRY, DRAFT, MESSAGE, COMPLETED).reply()
    assert reply.text == "hello there"
    assert reply.usage == Usage(11, 3, 0, 7, 2, "cli")
    assert reply.response_id == "01a204e7-2d32-72d2-966d-ca047d97113f"
    assert json.loads(reply.usage_raw)["input_tokens"] == 11


@pytest.mark.parametrize("lines", [(THREAD,), (THREAD, STARTED, MESSAGE), (THREAD, STARTED, RETRY), ()])
def test_without_the_end_of_a_turn_there_is_no_answer(lines):
    with pytest.raises(PlatformError) as caught:
        turn(*lines).reply()
    assert caught.value.kind == "reply"
    assert caught.value.may_be_billed


def test_what_arrived_of_a_cut_answer_is_kept():
    with pytest.raises(PlatformError) as caught:
        turn(THREAD, STARTED, MESSAGE, failed("stream disconnected before completion: x")).reply()
    assert caught.value.reply.text == "hello there"
    assert caught.value.may_be_billed


@pytest.mark.parametrize("count", ["0", "null"])
def test_an_empty_answer_is_none(count):
    empty = MESSAGE.replace("hello there", "")
    with pytest.raises(PlatformError):
        turn(THREAD, STARTED, empty, COMPLETED.replace("11", count)).reply()


def test_an_answer_that_cost_no_token_came_from_no_model():
    free = '{"type":"turn.completed","usage":{"input_tokens":0,"output_tokens":0}}'
    with pytest.raises(PlatformError, match="without asking a model"):
        turn(THREAD, STARTED, MESSAGE, free).reply()


@pytest.mark.parametrize(
    ("message", "kind", "billed"),
    [
        (LIMIT + "12:09 PM.", "window", False),
        ("You\u2019ve hit your usage limit. To get more access now, send a request to your admin", "window", False),
        ("Quota exceeded. Check your plan and billing details.", "balance", False),
        ("Your workspace is out of credits. Ask your workspace owner to refill", "balance", False),
        ("exceeded retry limit, last status: 429 Too Many Requests, request id: req-0", "rate", False),
        ("We\u2019re currently experiencing high demand, which may cause temporary errors.", "overloaded", False),
        ("unexpected status 529 <unknown status code>: scripted 529, url: http://127.0.0.1/v1", "overloaded", False),
        ("unexpected status 503 Service Unavailable: x, url: http://127.0.0.1/v1/responses", "overloaded", False),
        ("unexpected status 401 Unauthorized: Incorrect API key provided., url: http://x", "key", False),
        ("unexpected status 403 Forbidden: scripted 403, url: http://127.0.0.1/v1/responses", "key", False),
        ("unexpected status 402 Payment Required: scripted 402, url: http://127.0.0.1/v1", "balance", False),
        ("Codex ran out of room in the model's context window. Start a new thread", "request", False),
        ("model x not found", "request", False),
        ('{"error":{"message":"bad schema","type":"invalid_request_error"}}', "request", False),
        (
            '{"detail":"The \'gpt-x\' model is not supported when using Codex with a ChatGPT account."}',
            "request",
            False,
        ),
        ("Connection failed: error sending request", "connection", False),
        ("workspace routing discovery failed", "connection", False),
        ("stream disconnected before completion: error sending request", "connection", True),
        ("stream disconnected before completion: stream closed before response.completed", "reply", True),
        ("stream disconnected before completion: Transport error: network error: error decoding", "reply", True),
        ("stream disconnected before completion: idle timeout waiting for SSE", "timeout", True),
        ("Incomplete response returned, reason: max_output_tokens", "reply", True),
        ("something that was never seen", "reply", True),
    ],
)
def test_each_failure_has_its_kind(message, kind, billed):
    error = failure(message, NOW)
    assert (error.kind, error.may_be_billed) == (kind, billed)


def test_the_providers_words_are_taken_out_of_a_body():
    assert str(failure('{"error":{"message":"bad schema"}}', NOW)) == "bad schema"


def test_an_answer_at_the_output_limit_says_so():
    with pytest.raises(PlatformError) as caught:
        turn(STARTED, MESSAGE, failed("Incomplete response returned, reason: max_output_tokens")).reply()
    assert caught.value.reply.finish_reason == "length"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("12:09 PM.", NOW.replace(hour=12, minute=10, second=0)),
        ("12:09 AM.", NOW.replace(day=23, hour=0, minute=10, second=0)),
        ("11:29 AM.", NOW.replace(day=23, hour=11, minute=30, second=0)),
        ("11:30 AM.", NOW.replace(hour=11, minute=31, second=0)),
        ("Nov 23rd, 2026 2:13 AM.", NOW.replace(day=23, hour=2, minute=14, second=0)),
        ("Jan 1st, 2027 11:59 PM.", NOW.replace(year=2027, month=1, day=2, hour=0, minute=0, second=0)),
    ],
)
def test_a_reset_is_told_in_local_time_to_the_minute(words, expected):
    assert resets_at(LIMIT + words, NOW) == expected
    error = failure(LIMIT + words, NOW)
    assert error.retry_after_s == (expected - NOW).total_seconds() >= 0
    assert error.quota[0].resets_at == int(expected.timestamp() * 1e6)


@pytest.mark.parametrize(
    "words", ["later.", "13:99 PM.", "Foo 1st, 2026 1:00 AM.", "Dec 31st, 9999 11:59 PM.", "Feb 31st, 2026 1:00 AM."]
)
def test_a_reset_that_cannot_be_read_is_unknown(words):
    error = failure(LIMIT + words, NOW)
    assert error.kind == "window"
    assert error.retry_after_s is None or error.retry_after_s >= 0


def test_what_codex_says_on_stderr_is_why_it_did_not_start():
    unheard = turn()
    unheard.ended(1, b"Warning: x\nError: Unknown feature flag: skills\n")
    with pytest.raises(PlatformError, match="Unknown feature flag: skills") as caught:
        unheard.reply()
    assert caught.value.kind == "request"


def test_features_are_the_first_words_of_the_rows():
    listed = b"apps      stable   true\ncode_mode  under development  false\n\nWARNING: something else\n"
    assert features(listed) == {"apps", "code_mode"}


def test_models_bring_no_tools_along():
    given = {"models": [{"slug": "a", "tool_mode": "code_mode_only", "multi_agent_version": "v2", "context_window": 9}]}
    (model,) = json.loads(without_tools(json.dumps(given).encode()))["models"]
    assert (model["slug"], model["context_window"]) == ("a", 9)
    assert (model["tool_mode"], model["multi_agent_version"]) == ("direct", None)


@pytest.mark.parametrize("printed", [b"", b"{}", b"[]", b'{"models":[]}', b"error: unrecognized subcommand"])
def test_what_is_no_catalogue_is_none(printed):
    assert without_tools(printed) is None


def test_parts_never_exceed_the_whole():
    assert usage({"input_tokens": 5, "cached_input_tokens": 9, "output_tokens": 1}) == Usage(
        5, None, None, 1, None, "cli"
    )
    assert usage(None) == NO_USAGE


def test_the_windows_of_a_plan_are_read():
    told = {
        "rateLimits": {
            "primary": {"usedPercent": 37, "windowDurationMins": 300, "resetsAt": 1_795_382_609},
            "secondary": {"usedPercent": 41.5, "windowDurationMins": 10_080, "resetsAt": None},
            "planType": "plus",
        }
    }
    now = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1e6)
    primary, secondary = codex_quota.readings(told, now)
    assert (primary.window, primary.used_percent, primary.resets_at) == ("primary", 37.0, 1_795_382_609_000_000)
    assert (secondary.used_percent, secondary.resets_at, secondary.observed_at) == (41.5, None, now)


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"rateLimits": None},
        {"rateLimits": {"primary": {"usedPercent": True}}},
        {"rateLimits": {"primary": {"usedPercent": 10**400}}},
    ],
)
def test_windows_that_are_not_told_are_unknown(told):
    assert codex_quota.readings(told, 0) == ()


def damaged(lines, rng):
    """Return lines with up to four things wrong in them."""
    lines = [json.loads(line) for line in lines]
    for _ in range(rng.randrange(5)):
        at = rng.randrange(len(lines)) if lines else 0
        kind = rng.randrange(5)
        if kind == 0 and lines:
            del lines[at]
        elif kind == 1:
            lines.insert(at, rng.choice(STRANGE))
        elif lines and isinstance(lines[at], dict):
            lines[at] = damaged_json(lines[at], rng) if kind == 2 else changed(lines[at], rng)
    return [line if isinstance(line, bytes) else text_of(line, rng) for line in lines]


def outcome(lines):
    read = Turn(NOW)
    for line in lines:
        read.take(line)
    try:
        return read.reply()
    except PlatformError as error:
        return error


def test_no_output_can_crash_us():
    replies = 0
    for number in range(COUNT):
        rng = random.Random(f"{SEED}-codex-{number}")
        used_up = [THREAD, STARTED, failed(LIMIT + "12:09 PM.")]
        found = outcome(damaged(rng.choice([[THREAD, WARNING, STARTED, RETRY, MESSAGE, COMPLETED], used_up]), rng))
        replies += isinstance(found, Reply)
        if isinstance(found, PlatformError):
            assert found.kind in ERROR_CLASSES
            assert found.retry_after_s is None or 0 <= found.retry_after_s < 10**9
            found = found.reply
        if found is not None:  # all of it can be stored
            told = (found.model, found.response_id, found.usage_raw, found.finish_reason)
            orjson.dumps([found.text, *told, *(reading.window for reading in found.quota)])
    assert replies > COUNT // 10
