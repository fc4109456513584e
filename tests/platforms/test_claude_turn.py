"""What Claude Code 2.1.197 printed, whole and damaged: each a Reply or a PlatformError."""

import json
import random
import time

import orjson
import pytest
from mutations import COUNT, SEED, STRANGE, changed, damaged_json, text_of

from orchestrai.errors import ERROR_CLASSES, PlatformError
from orchestrai.platforms.claude_session import readings
from orchestrai.platforms.claude_turn import Turn
from orchestrai.platforms.protocol import Reply
from orchestrai.result import Usage

USAGE = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 76,
    "cache_read_input_tokens": 1_024,
    "output_tokens": 1,
    "service_tier": "standard",
}
AT_THE_END = {**USAGE, "output_tokens": 60, "output_tokens_details": {"thinking_tokens": 32}}


def event(**fields):
    return {"type": "stream_event", "event": fields}


def init(*tools):
    return {"type": "system", "subtype": "init", "tools": list(tools), "apiKeySource": "none", "model": "m"}


def started(usage=USAGE):
    message = {"id": "msg_0", "role": "assistant", "model": "claude-haiku-5-5", "content": [], "usage": usage}
    return event(type="message_start", message=message)


def delta(**fields):
    return event(type="content_block_delta", index=0, delta=fields)


def stopped(reason, usage=AT_THE_END):
    return event(type="message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


def assistant(text, **more):
    return {"type": "assistant", "message": {"id": "msg_0", "content": [{"type": "text", "text": text}]}, **more}


def result(text, **more):
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "api_error_status": None,
        "num_turns": 1,
        "result": text,
        "stop_reason": "end_turn",
        "total_cost_usd": 0.0017922,
        "usage": USAGE,
        **more,
    }


def limit(**info):
    return {"type": "rate_limit_event", "rate_limit_info": {"isUsingOverage": False, **info}}


ANSWER = [
    init(),
    {"type": "system", "subtype": "status", "status": "requesting"},
    started(),
    delta(type="signature_delta", signature="c2ln"),
    delta(type="text_delta", text='An "answer" with \\ '),
    delta(type="text_delta", text="and é and \U0001f600."),
    assistant('An "answer" with \\ and é and \U0001f600.', request_id="req_0"),
    stopped("end_turn"),
    event(type="message_stop"),
    limit(status="allowed_warning", resetsAt=1_795_382_949, rateLimitType="five_hour", utilization=0.92),
    result('An "answer" with \\ and é and \U0001f600.'),
]
UNDER_A_SCHEMA = [
    init("StructuredOutput"),
    started(),
    delta(type="input_json_delta", partial_json='{"kind":"bug"}'),
    {"type": "user", "message": {"role": "user", "content": [{"type": "tool_result", "content": "provided"}]}},
    stopped("tool_use"),
    result('{"kind":"bug"}', structured_output={"kind": "bug"}, stop_reason="tool_use", num_turns=2),
]
RESETS_AT = int(time.time()) + 3_600
USED_UP = [
    init(),
    limit(status="rejected", resetsAt=RESETS_AT, rateLimitType="five_hour"),
    assistant("You've hit your session limit · resets 9:29pm (UTC)", error="rate_limit", request_id="req_0"),
    result(
        "You've hit your session limit · resets 9:29pm (UTC)",
        is_error=True,
        api_error_status=429,
        stop_reason="stop_sequence",
        total_cost_usd=0,
    ),
]


def refused(text, error, status=None, **more):
    return [init(), assistant(text, error=error), result(text, is_error=True, api_error_status=status, **more)]


def heard(lines, *, constrained=False):
    """Feed lines to a turn as the platform does, and return what comes of it."""
    turn = Turn(constrained=constrained)
    pieces = []
    for line in lines:
        pieces.append(turn.hear(line if isinstance(line, bytes) else json.dumps(line).encode()))
        if turn.ended:
            break
    try:
        reply = turn.reply() if turn.ended else None
        if reply is None:
            raise turn.cut(0, b"")
    except PlatformError as error:
        return error
    assert all(isinstance(piece, str) for piece in pieces)
    return reply


def test_an_answer_is_read_with_every_class_of_tokens():
    reply = heard(ANSWER)
    assert reply.text == 'An "answer" with \\ and é and \U0001f600.'
    assert reply.usage == Usage(1_200, 1_024, 76, 60, 32, "cli")
    assert (reply.model, reply.finish_reason, reply.request_id) == ("claude-haiku-5-5", "stop", "req_0")
    assert json.loads(reply.usage_raw)["total_cost_usd"] == pytest.approx(0.0017922)
    (reading,) = reply.quota
    assert (reading.window, reading.used_percent, reading.source) == ("five_hour", 92.0, "rate_limit_event")
    assert reading.resets_at == 1_795_382_949 * 1_000_000


def test_the_cost_of_a_process_that_answered_before_is_counted_from_there():
    turn = Turn(constrained=False, spent_usd=0.001)
    for line in ANSWER:
        turn.hear(json.dumps(line).encode())
    assert json.loads(turn.reply().usage_raw)["total_cost_usd"] == pytest.approx(0.0007922)


def test_under_a_schema_the_validated_object_is_the_answer():
    reply = heard(UNDER_A_SCHEMA, constrained=True)
    assert (reply.text, reply.finish_reason) == ('{"kind":"bug"}', "stop")


@pytest.mark.parametrize(
    ("lines", "kind", "billed"),
    [
        (USED_UP, "window", False),
        (refused("You've hit your weekly limit", "rate_limit", 429), "window", False),
        (refused("API Error: Server is temporarily limiting requests", "rate_limit", 429), "rate", False),
        (refused("API Error: 529 overloaded", "server_error", 529), "overloaded", False),
        (refused("Overloaded", "overloaded"), "overloaded", False),
        (refused("Credit balance is too low", "billing_error", 400), "balance", False),
        (refused("Failed to authenticate", "authentication_failed", 401), "key", False),
        (refused("Not logged in · Please run /login", "authentication_failed"), "key", False),
        (refused("Your organization may not", "oauth_org_not_allowed", 403), "key", False),
        (refused("There's an issue with the selected model (x)", "model_not_found", 404), "request", False),
        (refused("Prompt is too long", "invalid_request", 400), "request", False),
        (refused("API Error: 400 wrong", "unknown", 400), "request", False),
        (refused("API Error: Unable to connect to API (ConnectionRefused)", "server_error"), "connection", False),
        (refused("API Error: Unable to connect to API (ECONNRESET)", "server_error"), "connection", True),
        (refused("API Error: Connection closed mid-response.", "server_error"), "connection", True),
        (refused("Request timed out", "server_error"), "timeout", True),
        (refused("API Error: JSON Parse error: Unterminated string", "unknown"), "reply", True),
        (refused("Claude Code is unable to respond", "invalid_request", stop_reason="refusal"), "reply", True),
        ([init(), result(None, subtype="error_during_execution", is_error=True, errors=["x"])], "reply", True),
        ([init(), result("/clear isn't available in this environment.", num_turns=0)], "reply", False),
        ([init(), started(), result("")], "reply", True),
        ([{**init(), "apiKeySource": "ANTHROPIC_API_KEY"}, *ANSWER[1:]], "key", False),
        (ANSWER[:5], "reply", True),
        ([], "reply", True),
    ],
)
def test_what_is_no_answer_has_its_kind(lines, kind, billed):
    error = heard(lines)
    assert isinstance(error, PlatformError)
    assert (error.kind, error.may_be_billed) == (kind, billed)
    assert str(error)


def test_a_used_up_window_carries_its_reset():
    error = heard(USED_UP)
    assert error.retry_after_s == pytest.approx(RESETS_AT - time.time(), abs=60)
    assert error.quota[0].used_percent == 100.0


def test_overage_without_credit_is_an_empty_balance():
    told = limit(status="rejected", rateLimitType="overage", errorCode="credits_required")
    assert heard([init(), told, *refused("You're out of credits", "rate_limit", 429)[1:]]).kind == "balance"


def test_a_turn_ends_at_the_limit_of_its_output_and_before_a_second_request():
    lines = [init(), started(), delta(type="text_delta", text="half"), stopped("max_tokens"), b"never heard"]
    reply = heard(lines)
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("half", "length", 60)
    silent = heard([init(), started(), stopped("end_turn"), b"never heard"])
    assert (silent.kind, silent.may_be_billed, silent.reply.usage.input_tokens) == ("reply", True, 1_200)


def test_a_schema_that_is_not_taken_is_no_answer():
    assert heard(ANSWER, constrained=True).kind == "request"
    lines = [init("StructuredOutput"), *ANSWER[1:]]
    assert heard(lines, constrained=True).kind == "request"


def test_what_a_client_says_that_is_too_old_names_the_way_out():
    error = Turn(constrained=False).cut(1, b"error: unknown option '--include-partial-messages'\n")
    assert (error.kind, error.may_be_billed) == ("request", False)
    assert "claude update" in str(error)


def test_the_windows_of_a_plan_are_read_in_percent_with_their_reset():
    told = {
        "five_hour": {"utilization": 37, "resets_at": "2026-11-22T21:29:09.000Z"},
        "seven_day": {"utilization": 11.5, "resets_at": None},
        "seven_day_opus": None,
        "seven_day_sonnet": {"utilization": "much", "resets_at": "soon"},
        "extra_usage": {"utilization": 3},
    }
    five, seven = readings(told)
    assert (five.window, five.used_percent, five.source) == ("five_hour", 37.0, "get_usage")
    assert five.resets_at == 1_795_382_949 * 1_000_000
    assert (seven.window, seven.used_percent, seven.resets_at) == ("seven_day", 11.5, None)
    for nothing in (None, {}, [], {"five_hour": {"utilization": 10**400}}):
        assert readings(nothing) == ()


def damaged(number):
    """Return (under a schema, lines) with one to four things wrong in them, the same for the same number."""
    rng = random.Random(f"{SEED}-claude-{number}")
    constrained = rng.random() < 0.3
    lines = list(UNDER_A_SCHEMA if constrained else rng.choice([ANSWER, ANSWER, ANSWER, USED_UP]))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines)) if lines else 0
        kind = rng.randrange(6)
        if kind == 0 and lines:
            del lines[at]
        elif kind == 1:
            lines.insert(at, rng.choice([*STRANGE, *ANSWER, *USED_UP]))
        elif kind == 2:
            lines.insert(at, text_of(rng.choice(STRANGE), rng))
        elif lines and isinstance(lines[at], dict):
            lines[at] = damaged_json(lines[at], rng) if kind == 3 else changed(lines[at], rng)
    return constrained, [line if isinstance(line, bytes) else text_of(line, rng) for line in lines]


def naive(lines):
    """The control: what one writes first."""
    for line in lines:
        said = json.loads(line)
        if said["type"] == "result":
            return said["result"].strip(), said["usage"]["input_tokens"] + said["usage"]["output_tokens"]
    raise KeyError("result")


def test_no_output_can_crash_us():
    crashed = replies = 0
    for number in range(COUNT):
        constrained, lines = damaged(number)
        try:
            naive(lines)
        except Exception:  # noqa: BLE001  # whatever it is, it crashed
            crashed += 1
        found = heard(lines, constrained=constrained)
        if isinstance(found, PlatformError):
            assert found.kind in ERROR_CLASSES
            assert found.retry_after_s is None or 0 <= found.retry_after_s < 10**12
            found = found.reply
        else:
            replies += 1
            assert found.text.strip() or found.finish_reason == "length"
        if found is not None:
            assert_keepable(found)
    assert replies > COUNT // 10
    assert crashed > COUNT // 4


def assert_keepable(reply):
    """Everything of a reply can be stored, and its parts are no larger than their wholes."""
    assert isinstance(reply, Reply)
    words = (reply.model, reply.service_tier, reply.response_id, reply.request_id, reply.usage_raw)
    orjson.dumps([reply.text, *words, [reading.window for reading in reply.quota]])
    usage = reply.usage
    counts = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
    assert all(count is None or 0 <= count <= 4 * 10**12 for count in counts)
    assert usage.input_tokens is None or usage.input_tokens >= (usage.cache_read_tokens or 0)
    assert usage.output_tokens is None or usage.output_tokens >= (usage.reasoning_tokens or 0)
    for reading in reply.quota:
        assert reading.used_percent is None or reading.used_percent >= 0
        assert reading.resets_at is None or 0 < reading.resets_at < 10**17
