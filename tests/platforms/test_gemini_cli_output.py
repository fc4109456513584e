"""What gemini-cli 0.61.0 printed, word for word, and what it is read as."""

import json
import random

import orjson
import pytest
from mutations import COUNT, SEED, STRANGE, changed, damaged_json, text_of

from orchestrai.errors import ERROR_CLASSES, PlatformError
from orchestrai.platforms import wire
from orchestrai.platforms.gemini_cli import GeminiCLI
from orchestrai.platforms.gemini_cli_output import StreamTurn, acp_reply, failure, last_line, recorded_usage
from orchestrai.platforms.protocol import Reply
from orchestrai.result import Usage

INIT = '{"type":"init","timestamp":"2026-11-22T20:11:22.656Z","session_id":"029cc1c2","model":"gemini-2.5-flash"}'
ECHO = '{"type":"message","timestamp":"2026-11-22T20:11:22.657Z","role":"user","content":"Say hi\\n"}'
HELLO = '{"type":"message","timestamp":"2026-11-22T20:11:22.689Z","role":"assistant","content":"hello ","delta":true}'
THERE = '{"type":"message","timestamp":"2026-11-22T20:11:22.690Z","role":"assistant","content":"there","delta":true}'
CUT = (
    '{"type":"error","timestamp":"2026-11-22T20:11:40.266Z","severity":"error",'
    '"message":"Model stream ended without a finish reason."}'
)
STATS = (
    '"stats":{"total_tokens":20,"input_tokens":11,"output_tokens":7,"cached":3,"input":8,"duration_ms":67,'
    '"tool_calls":0,"models":{}}'
)
NOTHING = (
    '"stats":{"total_tokens":0,"input_tokens":0,"output_tokens":0,"cached":0,"input":0,"tool_calls":0,"models":{}}'
)
SUCCESS = '{"type":"result","status":"success",' + STATS + "}"
ERROR = '{"type":"result","status":"error",' + STATS + "}"
NOISE = (
    b"Warning: 256-color support not detected. Using a terminal with at least 256-color support is recommended for a "
    b"better visual experience.\n[STARTUP] Phase 'cleanup_ops' was started but never ended. Skipping metrics.\n"
)
ANSWERED = {
    "stopReason": "end_turn",
    "_meta": {
        "quota": {
            "token_count": {"input_tokens": 11, "output_tokens": 7},
            "model_usage": [{"model": "gemini-2.5-flash", "token_count": {"input_tokens": 11, "output_tokens": 7}}],
        }
    },
}
UNANSWERED = {
    "stopReason": "end_turn",
    "_meta": {"quota": {"token_count": {"input_tokens": 0, "output_tokens": 0}, "model_usage": []}},
}
RECORD = (
    b'{"sessionId":"029cc1c2","projectHash":"2564","startTime":"2026-11-22T20:11:22.644Z","kind":"main"}\n'
    b'{"id":"5b5f","timestamp":"2026-11-22T20:11:22.662Z","type":"user","content":[{"text":"Say hi\\n"}]}\n'
    b'{"$set":{"lastUpdated":"2026-11-22T20:11:22.662Z"}}\n'
    b'{"id":"10bb","type":"gemini","content":"hello there","thoughts":[],"tokens":{"input":11,"output":7,"cached":3,'
    b'"thoughts":2,"tool":0,"total":20},"model":"gemini-2.5-flash"}\n'
)


def turn(*lines):
    read = StreamTurn()
    pieces = [read.take(line.encode()) for line in lines]
    return read, [piece for piece in pieces if piece]


def test_the_deltas_of_a_run_are_its_answer_and_the_echo_is_none_of_it():
    read, pieces = turn(INIT, ECHO, HELLO, THERE, SUCCESS)
    reply = read.reply(0, NOISE)
    assert pieces == ["hello ", "there"]
    assert reply.text == "hello there"
    assert reply.model == "gemini-2.5-flash"
    assert reply.usage == Usage(11, 3, None, 9, 2, "cli"), "the thoughts are in the total alone"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((INIT, ECHO, HELLO, CUT, ERROR), 0),
        ((INIT, ECHO, HELLO, CUT, SUCCESS), 0),
        ((INIT, ECHO, CUT, ERROR), 0),
        ((INIT, ECHO, HELLO, THERE), 0),
        ((INIT, ECHO, SUCCESS), 0),
        ((INIT, ECHO, HELLO, SUCCESS.replace(STATS, NOTHING)), 0),
        ((), 0),
    ],
    ids=["cut", "cut but a success", "empty", "no result", "no text", "no model asked", "nothing at all"],
)
def test_exit_code_0_is_no_answer(lines, code):
    with pytest.raises(PlatformError) as caught:
        turn(*lines)[0].reply(code, NOISE)
    assert caught.value.kind == "reply"
    assert caught.value.may_be_billed


@pytest.mark.parametrize(
    ("code", "message", "kind", "http_status"),
    [
        (173, "[API Error: quota]\nPlease wait and try again later.", "rate", 429),
        (173, "[API Error: You have exhausted your daily quota on this model.]", "window", 429),
        (247, '[API Error: {"error":{"message":"scripted 503"}}]', "overloaded", 503),
        (145, '[API Error: {"error":{"message":"scripted 401"}}]', "key", 401),
        (144, '[API Error: {"error":{"message":"The input token count exceeds"}}]', "request", 400),
        (147, '[API Error: {"error":{"message":"no"}}]', "key", 403),
        (1, "[API Error: models/x is not found]", "request", None),
        (1, "[API Error: Incomplete JSON segment at the end]", "reply", None),
        (1, "[API Error: fetch failed]", "connection", None),
        (41, "Invalid auth method selected.", "key", 401),
    ],
)
def test_an_exit_code_is_an_http_status(code, message, kind, http_status):
    result = json.dumps({"type": "result", "status": "error", "error": {"type": "unknown", "message": message}})
    with pytest.raises(PlatformError) as caught:
        turn(INIT, ECHO, result)[0].reply(code, NOISE)
    assert (caught.value.kind, caught.value.http_status) == (kind, http_status)
    assert "API Error" not in str(caught.value)


def test_over_acp_the_record_of_the_session_tells_all_tokens():
    reply = acp_reply(["hello ", "there"], ANSWERED, recorded_usage(RECORD))
    assert reply.text == "hello there"
    assert reply.model == "gemini-2.5-flash"
    assert reply.usage == Usage(11, 3, None, 9, 2, "cli")


def test_without_a_record_the_tokens_of_the_result_are_all_there_is():
    assert recorded_usage(b"") is None
    assert recorded_usage(RECORD.partition(b'{"id":"10bb"')[0]) is None
    assert acp_reply(["x"], ANSWERED, None).usage == Usage(11, None, None, 7, None, "cli")


@pytest.mark.parametrize("pieces", [[], ["hello "]], ids=["empty", "cut"])
def test_an_end_without_usage_is_a_cut_answer(pieces):
    with pytest.raises(PlatformError) as caught:
        acp_reply(pieces, UNANSWERED, None)
    assert caught.value.kind == "reply"
    assert caught.value.may_be_billed
    assert caught.value.reply.text == "".join(pieces)


@pytest.mark.parametrize(
    ("stopped", "kind"),
    [("cancelled", "reply"), ("max_turn_requests", "reply"), ("max_tokens", "request"), (None, "reply")],
)
def test_only_the_end_of_a_turn_is_an_answer(stopped, kind):
    with pytest.raises(PlatformError) as caught:
        acp_reply(["x"], {**ANSWERED, "stopReason": stopped}, None)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("status", "message", "kind", "wait_s"),
    [
        (429, "You have exhausted your daily quota on this model.", "window", None),
        (429, "You exceeded your current quota\nSuggested retry after 17s.", "rate", 17.0),
        (429, "You have exhausted your capacity on this model. Your quota will reset after 1h2m3s.", "window", 3_723.0),
        (429, "You exceeded your current quota, limit: 0, model: gemini-2.5-pro", "window", None),
        (429, "No capacity available for model gemini-2.5-pro on the server", "overloaded", None),
        (429, "plain quota", "rate", None),
        (429, "Rate limit exceeded. Try again later.", "rate", None),
        (429, "Your prepayment credits are depleted.", "balance", None),
        (503, "The model is overloaded.", "overloaded", None),
        (500, "Internal error encountered.", "overloaded", None),
        (500, "models/x is not found", "request", None),
        (500, "Incomplete JSON segment at the end", "reply", None),
        (500, "fetch failed", "connection", None),
        (
            400,
            '{"error":{"code":400,"message":"API key not valid.","details":[{"reason":"API_KEY_INVALID"}]}}',
            "key",
            None,
        ),
        (400, '{"error":{"code":400,"message":"The input token count (1200000) exceeds"}}', "request", None),
        (402, '{"error":{"code":402,"message":"pay"}}', "balance", None),
        (403, '{"error":{"code":403,"message":"no"}}', "key", None),
        (-32000, "Authentication required", "key", None),
        (-32603, "Internal error", "reply", None),
    ],
)
def test_each_failure_has_its_kind(status, message, kind, wait_s):
    error = failure(message, status)
    assert (error.kind, error.retry_after_s) == (kind, wait_s)
    assert error.may_be_billed is (kind == "reply")
    assert [reading.used_percent for reading in error.quota] == ([100] if kind == "window" else [])
    assert "{" not in str(error)


@pytest.mark.parametrize(
    "words",
    [
        ("IneligibleTierError: Your current account is not eligible", b""),
        ("Internal error", b"IneligibleTierError: x {\n  ineligibleTiers: [ { reasonCode: 'UNSUPPORTED_CLIENT'"),
        ("This client is no longer supported. Please migrate to the Antigravity suite.", b""),
    ],
)
def test_a_login_that_is_served_no_longer_is_told_with_what_to_use_instead(words):
    error = failure(words[0], -32603, stderr=words[1])
    assert error.kind == "key"
    assert "GEMINI_API_KEY" in str(error)


def test_the_end_of_stderr_tells_why():
    trace = b'Error: quota\n    at x\n{\n  "session_id": "e5",\n  "error": {\n    "type": "Error",\n    "message": "quota"\n  }\n}\n'
    assert last_line(NOISE + trace) == "quota"
    assert last_line(NOISE).startswith("[STARTUP]")
    assert last_line(b"") == ""


def test_who_pays_and_who_trains_follows_the_login():
    by_key, by_google = GeminiCLI(login="gemini-api-key"), GeminiCLI(login="oauth-personal")
    licensed = GeminiCLI(login="oauth-personal", tier="subscription", data_use="none")
    assert (by_key.tier, by_key.data_use) == ("paid", "unknown")
    assert (by_google.tier, by_google.data_use) == ("free", "may_train")
    assert (licensed.tier, licensed.data_use) == ("subscription", "none")


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
    read = StreamTurn()
    for line in lines:
        read.take(line)
    try:
        return read.reply(0, NOISE)
    except PlatformError as error:
        return error


def outcome_over_acp(lines):
    try:
        result = wire.document(lines[0]) if lines else None
    except ValueError:
        result = None
    try:
        return acp_reply(["x"], result, recorded_usage(b"\n".join(lines[1:])))
    except PlatformError as error:
        return error


def test_no_output_can_crash_us():
    replies = 0
    for number in range(COUNT):
        rng = random.Random(f"{SEED}-gemini-cli-{number}")
        if rng.random() < 0.5:
            found = outcome(damaged([INIT, ECHO, HELLO, THERE, SUCCESS], rng))
        else:
            found = outcome_over_acp(damaged([json.dumps(ANSWERED), *RECORD.decode().splitlines()], rng))
        replies += isinstance(found, Reply)
        if isinstance(found, PlatformError):
            assert found.kind in ERROR_CLASSES
            assert found.retry_after_s is None or 0 <= found.retry_after_s < 10**9
            found = found.reply
        if found is not None:  # all of it can be stored
            told = (found.model, found.response_id, found.usage_raw, found.finish_reason)
            orjson.dumps([found.text, *told, *(reading.window for reading in found.quota)])
    assert replies > COUNT // 10
