"""The real Claude Code client, answered by the provider on loopback."""

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrai import attachments
from orchestrai.errors import InvalidSettings, PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.claude_code import ClaudeCode
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.pricing import PriceList, from_pico
from orchestrai.result import Usage
from orchestrai.testing import Answer, Fault, Place, PlatformConformance, ProviderServer
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.real_clis

TOKEN = "sk-ant-oat01-conformance-0123456789abcdef"
RESETS_AT = int(time.time()) + 7_200
TICKET = {
    "type": "object",
    "properties": {"kind": {"enum": ["bug", "billing"]}},
    "required": ["kind"],
    "additionalProperties": False,
}


def windows(status="allowed", used="0.37", **more):
    """The headers by which a subscription tells its windows."""
    told = {
        "status": status,
        "reset": str(RESETS_AT),
        "representative-claim": "five_hour",
        "5h-status": status,
        "5h-reset": str(RESETS_AT),
        "5h-utilization": used,
        "7d-status": "allowed",
        "7d-reset": str(RESETS_AT + 400_000),
        "7d-utilization": "0.11",
        **more,
    }
    return {f"anthropic-ratelimit-unified-{name}": value for name, value in told.items()}


NO_CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
FAULTS = {
    "rate_limited": Fault("status", 429, headers={"retry-after": "2"}),
    "window_used_up": Fault("status", 429, headers=windows("rejected", "1.0")),
    "balance_empty": Fault("status", 400, message=NO_CREDIT),
    "overloaded": Fault("status", 529),
    "refuses_key": Fault("status", 401, message=f"Invalid bearer token: {TOKEN}"),
    "refuses_request": Fault("status", 400, message="prompt is too long: 210000 tokens > 200000 maximum"),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


def claude(server, base_url=None, env=None, **fields):
    env = {"ANTHROPIC_BASE_URL": base_url or server.url, "CLAUDE_CODE_OAUTH_TOKEN": TOKEN, **(env or {})}
    return ClaudeCode(env={name: value for name, value in env.items() if value is not None}, **fields)


def request(platform, prompt="Say something.", **fields):
    return Request((Message("user", prompt),), platform.model, **fields)


def run(platform, work):
    """Run something with a platform and close it on the same loop."""

    async def closed_after():
        try:
            return await work(platform)
        finally:
            await platform.close()

    return asyncio.run(closed_after())


def sent(platform, *prompts, **fields):
    """Send prompts one after another and return the replies; a single one alone."""

    async def all_of_them(p):
        return [await p.send(request(p, prompt, **fields)) for prompt in prompts or ("Say something.",)]

    replies = run(platform, all_of_them)
    return replies[0] if len(replies) == 1 else replies


def failed(platform, *prompts, **fields):
    with pytest.raises(PlatformError) as caught:
        sent(platform, *prompts, **fields)
    return caught.value


def prompt_of(received):
    """The last text block of the last message: before it the client tells the date."""
    return received.json["messages"][-1]["content"][-1]["text"]


def counted(received):
    if received.json.get("tools"):
        return None
    return Answer(
        answer_to(prompt_of(received)),
        input_tokens=1_200,
        cached_tokens=1_024,
        cache_write_tokens=76,
        output_tokens=60,
        reasoning_tokens=32,
    )


def running(path):
    """Return the processes that run this client in this test's home."""
    mark = f"HOME={os.environ['HOME']}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes() and b"--input-format" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # the far side is another process or thread
            await asyncio.sleep(0.005)


class TestClaudeCode(PlatformConformance):
    @contextmanager
    def platform(self, situation):
        fault = FAULTS.get(situation)
        script = [Fault("status", 503)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            base_url = f"http://127.0.0.1:{closed_port()}" if situation == "unreachable" else server.url
            yield Place(
                claude(server, base_url),
                requests=lambda: len(server.requests),
                prompts=lambda: [prompt_of(received) for received in server.requests],
                idle=lambda: server.in_flight == 0,
                secret=TOKEN,
                usage=Usage(1_200, 1_024, 76, 60, 32, "cli"),
                answer=answer_to,
            )


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Answers.


def test_the_list_cost_of_a_reply_is_what_the_client_reckons():
    """Two price lists, one usage: tokens of every class are read as they are billed."""
    with ProviderServer(replies=counted) as server:
        first, second = sent(claude(server, model="claude-sonnet-4-5"), "one", "two")
    price = PriceList().find("anthropic", "claude-sonnet-4-5")
    for reply in (first, second):
        reckoned = json.loads(reply.usage_raw)["total_cost_usd"]
        assert float(from_pico(price.pico(reply.usage))) == pytest.approx(reckoned, rel=1e-9)
        assert reply.model == "claude-sonnet-4-5"


def test_a_process_answers_many_prompts_and_each_request_is_the_one_of_a_new_process(client):
    """No word of an earlier prompt, and nothing about forgetting it, is in a later request."""
    prompts = [f"Say the number {i}." for i in range(10, 20)]
    pids = set()

    async def one_after_another(platform):
        for prompt in prompts:
            reply = await platform.send(request(platform, prompt, system="Be brief."))
            assert reply.text == answer_to(server.requests[-1].prompt)
            pids.update(running(client))

    with ProviderServer() as server:
        run(claude(server), one_after_another)
        assert len(pids) == 1
        sent(claude(server, persistent=False), prompts[0], system="Be brief.")
        *kept, fresh = [received.json for received in server.requests]
    for body, prompt in zip(kept, prompts, strict=True):
        assert body["messages"][-1]["content"][-1]["text"] == prompt
        body["messages"][-1]["content"][-1]["text"] = prompts[0]
        assert (body["messages"], body["tools"]) == (fresh["messages"], fresh["tools"])
        assert body["system"][1:] == fresh["system"][1:]  # the first block numbers the session
        assert set(body) == set(fresh)


def test_processes_are_kept_by_kind_and_all_end_with_the_platform(client):
    async def of_three_kinds(platform):
        await platform.send(request(platform))
        await platform.send(request(platform, system="Be brief."))
        await platform.send(request(platform, json_schema=TICKET))
        three = running(client)
        assert len(three) == 3
        await platform.send(request(platform))
        assert running(client) == three
        await platform.close()
        await until(lambda: running(client) == [])
        await platform.send(request(platform))  # closing is no end: the next request starts anew
        assert len(running(client)) == 1

    with ProviderServer() as server:
        run(claude(server), of_three_kinds)


def test_a_waiting_process_makes_room_for_one_of_another_kind(client):
    async def of_two_kinds(platform):
        for system in ("one", "two", "two", "one"):
            await platform.send(request(platform, system=system))
            assert len(running(client)) == 1

    with ProviderServer() as server:
        run(claude(server, concurrency=1), of_two_kinds)
        assert [received.json["system"][-1]["text"] for received in server.requests] == ["one", "two", "two", "one"]


def test_a_process_without_work_ends_after_a_while(client):
    async def waited(platform):
        await platform.send(request(platform))
        assert len(running(client)) == 1
        await until(lambda: running(client) == [])
        assert (await platform.send(request(platform))).text

    with ProviderServer() as server:
        run(claude(server, idle_s=0.3), waited)


def test_processes_end_when_the_python_that_started_them_is_killed(client):
    script = """
        import asyncio, sys
        from orchestrai.messages import Message
        from orchestrai.platforms import ClaudeCode
        from orchestrai.platforms.protocol import Request
        async def main():
            platform = ClaudeCode(env={"ANTHROPIC_BASE_URL": sys.argv[1], "CLAUDE_CODE_OAUTH_TOKEN": "x"})
            await platform.send(Request((Message("user", "one"),), platform.model))
            print("answered", flush=True)
            await platform.send(Request((Message("user", "hang"),), platform.model))
        asyncio.run(main())
    """
    with ProviderServer(script={"hang": "hang"}) as server:
        parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), server.url], stdout=subprocess.PIPE)
        assert parent.stdout.readline() == b"answered\n"
        server.wait_for(lambda: len(server.requests) == 2)
        assert len(running(client)) == 1
        parent.kill()
        parent.wait()
        parent.stdout.close()
        server.wait_for(lambda: running(client) == [])


def test_a_process_that_was_killed_while_it_waited_is_replaced(client):
    async def killed(platform):
        await platform.send(request(platform))
        (pid,) = running(client)
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert (await platform.send(request(platform, "again"))).text
        assert running(client) != [pid]

    with ProviderServer() as server:
        run(claude(server), killed)


def test_a_process_that_is_killed_while_it_answers_is_a_typed_error(client):
    async def killed(platform):
        task = asyncio.create_task(platform.send(request(platform)))
        await until(lambda: len(server.requests) == 1)
        os.kill(running(client)[0], signal.SIGKILL)
        with pytest.raises(PlatformError) as caught:
            await task
        assert (caught.value.kind, caught.value.may_be_billed) == ("reply", True)

    with ProviderServer(script=[Fault("hang")]) as server:
        run(claude(server), killed)


def test_what_a_person_wrote_stands_in_no_argument(client):
    """Prompt, system prompt and schema travel on stdin: no other person of this machine can read them."""

    async def looked_at(platform):
        fields = {"system": "canary-system", "json_schema": {**TICKET, "title": "canary-schema"}}
        await platform.send(request(platform, "canary-prompt", **fields))
        arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running(client)]  # noqa: ASYNC240  # no disk
        assert len(arguments) == 1
        assert b"canary" not in arguments[0]

    with ProviderServer() as server:
        run(claude(server), looked_at)
        assert all(word in server.requests[0].body for word in (b"canary-system", b"canary-schema", b"canary-prompt"))


def test_the_request_holds_little_beside_the_prompt():
    with ProviderServer() as server:
        sent(claude(server), "Say hi")
        assert len(server.requests[0].body) < 1_500  # 85,316 bytes where nothing is switched off
        assert server.requests[0].json["tools"] == []
        assert "thinking" not in server.requests[0].json


@pytest.mark.parametrize(("effort", "told"), [("low", "low"), ("high", "high"), ("minimal", "low")])
def test_an_effort_is_passed_on(effort, told):
    with ProviderServer() as server:
        sent(claude(server), effort=effort)
        sent(claude(server, effort=effort))
        for received in server.requests:
            assert received.json["output_config"]["effort"] == told
            assert ("thinking" in received.json) is (effort != "minimal")


def test_a_conversation_travels_as_a_transcript_and_a_file_as_a_block(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("the content")
    turns = (
        Message("user", ("What is this?", attachments.from_path(file))),
        Message("assistant", "A note."),
        Message("user", "And now?"),
    )
    with ProviderServer() as server:
        platform = claude(server)
        run(platform, lambda p: p.send(Request(turns, p.model)))
        text = prompt_of(server.requests[0])
    for words in ("What is this?", "File: notes.txt", "the content", "A note.", "And now?"):
        assert words in text


def test_an_image_is_refused_unsent():
    image = attachments.from_bytes(base64.b64decode("iVBORw0KGgo="))
    with ProviderServer() as server:
        platform = claude(server)
        with pytest.raises(PlatformError, match="no images") as caught:
            run(platform, lambda p: p.send(Request((Message("user", ("Look", image)),), p.model)))
        assert caught.value.kind == "request"
        assert server.requests == []


# What must not be taken for an answer.


@pytest.mark.parametrize("persistent", [True, False])
def test_hostile_prompts_are_text_and_nothing_else(persistent, tmp_path):
    """A prompt that the client would take for its own command gets one space in front; all others travel unchanged."""
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    hostile = [
        "/clear",
        "/clear now",
        "/compact",
        "//",
        f"@{secret}",
        f"read @{secret} now",
        "@/etc/passwd",
        "$imagegen x",
    ]
    hostile += [
        "--version",
        "-p",
        "!ls",
        "#x",
        "a\0b",
        "\0",
        "exit",
        "\r\n /clear \r\n",
        "\ufeff/clear",
        "ultrathink: x",
    ]
    hostile = [*hostile, "long " * 200_000] if persistent else hostile[::4]
    with ProviderServer() as server:
        replies = sent(claude(server, persistent=persistent), *hostile)
        prompts = [prompt_of(received) for received in server.requests]
        assert b"canary" not in b"".join(received.body for received in server.requests)
    assert prompts == [f" {prompt}" if prompt.startswith("/") else prompt for prompt in hostile]
    assert all(reply.text for reply in replies)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_an_empty_prompt_is_refused_unsent(prompt):
    with ProviderServer() as server:
        assert failed(claude(server), prompt).kind == "request"
        assert server.requests == []


def test_an_answer_cut_at_its_limit_is_a_reply_that_says_so_and_is_not_continued():
    """Left alone the client asks three more times and then fails."""
    with ProviderServer(replies=lambda _: Answer("half an ans", finish_reason="length", output_tokens=50)) as server:
        reply = sent(claude(server), max_tokens=50)
        time.sleep(0.2)
        assert len(server.requests) == 1
        assert server.requests[0].json["max_tokens"] == 50
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("half an ans", "length", 50)


def test_an_answer_without_visible_text_is_an_error_and_is_not_asked_for_again():
    with ProviderServer(replies=lambda _: Answer("")) as server:
        error = failed(claude(server))
        time.sleep(0.2)
        assert len(server.requests) == 1
    assert (error.kind, error.may_be_billed) == ("reply", True)
    assert error.reply.usage.input_tokens


def test_a_refusal_of_the_model_is_no_answer():
    with ProviderServer(replies=lambda _: Answer("", refusal="no")) as server:
        error = failed(claude(server))
    assert (error.kind, error.may_be_billed, error.reply.finish_reason) == ("reply", True, "filter")


@pytest.mark.parametrize("answer", ['{"kind": "wrong"}', "no JSON at all"])
def test_an_answer_that_misses_its_schema_is_an_error_after_one_request(answer):
    """Left alone the client asks five more times."""
    with ProviderServer(replies=answer) as server:
        error = failed(claude(server), json_schema=TICKET)
        assert len(server.requests) == 1
    assert (error.kind, error.may_be_billed) == ("reply", True)
    assert error.reply.usage.input_tokens


def test_a_schema_that_the_client_cannot_use_is_told_and_not_dropped():
    """Left alone it answers without one; the engine then asks in words."""
    with ProviderServer() as server:
        assert failed(claude(server), json_schema={"type": "nonsense"}).kind == "request"


# Failures.


def test_a_used_up_window_says_when_it_resets():
    with ProviderServer(script=lambda _: FAULTS["window_used_up"]) as server:
        error = failed(claude(server))
    assert error.kind == "window"
    assert error.retry_after_s == pytest.approx(RESETS_AT - time.time(), abs=60)
    (reading,) = error.quota
    assert (reading.window, reading.used_percent, reading.resets_at) == ("five_hour", 100.0, RESETS_AT * 1_000_000)
    assert reading.source == "rate_limit_event"


def test_the_windows_can_be_read_without_asking_a_model(client):
    """A token may not read them; asking twice is asking once."""

    async def read_twice(platform):
        assert await platform.quota() == await platform.quota() == ()
        (pid,) = running(client)
        assert (await platform.send(request(platform))).text
        assert running(client) == [pid]

    with ProviderServer() as server:
        run(claude(server), read_twice)
        assert len(server.requests) == 1


def test_a_throttled_request_is_no_used_up_window():
    with ProviderServer(script=lambda _: Fault("status", 429)) as server:
        error = failed(claude(server))
        assert len(server.requests) == 1
    assert (error.kind, error.retry_after_s, error.quota) == ("rate", None, ())


@pytest.mark.parametrize(
    ("headers", "used"),
    [
        (windows(), None),
        (windows("allowed_warning", "0.92", **{"5h-surpassed-threshold": "0.9"}), 92.0),
    ],
)
def test_a_reply_tells_the_windows_as_far_as_the_client_does(headers, used):
    with ProviderServer(replies=lambda _: Answer("ok", headers=headers)) as server:
        reply = sent(claude(server))
    (reading,) = reply.quota
    assert (reading.window, reading.resets_at) == ("five_hour", RESETS_AT * 1_000_000)
    assert reading.used_percent == (used if used is None else pytest.approx(used))
    assert abs(reading.observed_at / 1e6 - time.time()) < 60


@pytest.mark.parametrize(("status", "kind"), [(500, "overloaded"), (529, "overloaded"), (403, "key"), (404, "request")])
def test_statuses_have_their_kinds(status, kind):
    with ProviderServer(script=lambda _: Fault("status", status)) as server:
        error = failed(claude(server))
    assert (error.kind, error.http_status, error.may_be_billed) == (kind, status, False)


def test_a_refused_login_says_how_to_log_in():
    with ProviderServer(script=lambda _: FAULTS["refuses_key"]) as server:
        assert "/login" in str(failed(claude(server)))
        assert len(server.requests) == 1


def test_a_request_that_hangs_ends_with_its_own_wall_clock(client):
    with ProviderServer(script=lambda _: Fault("hang")) as server:
        error = failed(claude(server), timeout_s=4.0)
        server.wait_for(lambda: server.in_flight == 0)
    assert (error.kind, error.may_be_billed) == ("timeout", True)
    assert running(client) == []


def test_cancelling_in_flight_ends_the_process_and_the_next_request_works(client):
    async def cancelled(platform):
        await platform.send(request(platform))
        (pid,) = running(client)
        task = asyncio.create_task(platform.send(request(platform, "hang")))
        await until(lambda: len(server.requests) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pid not in running(client)
        assert (await platform.send(request(platform))).text

    with ProviderServer(script={"hang": "hang"}) as server:
        run(claude(server), cancelled)


def test_a_failure_and_an_early_end_of_a_stream_leave_the_next_request_its_own_answer():
    async def several(platform):
        with pytest.raises(PlatformError):
            await platform.send(request(platform, "poison"))
        stream = platform.stream(request(platform, "left early"))
        assert isinstance(await anext(stream), str)
        await stream.aclose()
        for number in range(3):
            items = [item async for item in platform.stream(request(platform, f"Say {number}."))]
            assert "".join(items[:-1]) == items[-1].text == answer_to(server.requests[-1].prompt)

    with ProviderServer(script={"poison": 500}) as server:
        run(claude(server), several)


# Who pays.


def test_no_key_of_the_environment_reaches_the_client(monkeypatch):
    """The subscription answers, whatever else the person has set."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR"):
        monkeypatch.setenv(name, "sk-ant-api03-canary-0123456789abcdef")
    for name in ("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_SIMPLE", "CLAUDECODE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-canary: 1")
    monkeypatch.setenv("ANTHROPIC_MODEL", "canary-model")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", TOKEN)
    with ProviderServer() as server:
        assert isinstance(sent(ClaudeCode(env={"ANTHROPIC_BASE_URL": server.url})), Reply)
        (received,) = server.requests
    assert b"canary" not in received.head + received.body
    assert b"x-api-key" not in received.head.lower()
    assert f"Bearer {TOKEN}".encode() in received.head


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_client_that_would_bill_something_else_is_refused_unsent_by_the_name_of_it(name):
    with ProviderServer() as server:
        error = failed(claude(server, env={name: "sk-ant-api03-canary-0123456789abcdef"}))
        assert server.requests == []
    assert error.kind == "key"
    assert name in str(error)
    assert "canary" not in f"{error} {error!r} {vars(error)}"


def test_without_a_login_nothing_is_sent_and_the_way_to_one_is_told():
    with ProviderServer() as server:
        error = failed(claude(server, env={"CLAUDE_CODE_OAUTH_TOKEN": None}))
        assert server.requests == []
    assert error.kind == "key"
    assert "/login" in str(error)


def test_accounts_are_told_apart_by_their_login(monkeypatch, tmp_path):
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    accounts = [ClaudeCode().account]
    (tmp_path / ".claude.json").write_text(json.dumps({"oauthAccount": {"accountUuid": "1"}}))
    accounts.append(ClaudeCode().account)
    accounts += [ClaudeCode(env={"CLAUDE_CODE_OAUTH_TOKEN": token}).account for token in ("a", "b")]
    assert len(set(accounts)) == 4
    assert TOKEN not in repr(vars(ClaudeCode(env={"CLAUDE_CODE_OAUTH_TOKEN": TOKEN})))


# Found or not.


def test_a_client_with_a_login_is_found(client):
    token = ClaudeCode.probe(env={"CLAUDE_CODE_OAUTH_TOKEN": TOKEN})
    assert (token.found, token.login, token.binary, token.why) == (True, "oauth_token", client, client)
    folder = Path(os.environ["HOME"], ".claude")
    folder.mkdir(exist_ok=True)
    login = {
        "accessToken": TOKEN,
        "refreshToken": "sk-ant-ort01-x",
        "expiresAt": int(time.time() + 86_400) * 1000,
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
    (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": login}))
    state = ClaudeCode.probe()
    assert (state.found, state.login) == (True, "claude.ai, max")
    assert state.version == token.version
    assert state.version.count(".") == 2


def test_a_client_that_cannot_answer_says_why_and_what_helps(monkeypatch, tmp_path, client):
    assert "/login" in ClaudeCode.probe().why
    assert not ClaudeCode.probe().found
    assert "billed by the token" in ClaudeCode.probe(env={"ANTHROPIC_API_KEY": "sk-ant-api03-canary-0123456789"}).why
    old = tmp_path / "claude"
    old.write_text("#!/bin/sh\necho '1.0.9 (Claude Code)'\n")
    old.chmod(0o755)
    state = ClaudeCode.probe(old)
    assert (state.found, state.version) == (False, "1.0.9")
    assert "claude update" in state.why
    with ProviderServer() as server:
        assert "claude update" in str(failed(claude(server, binary=old)))
        monkeypatch.setenv("PATH", "/nowhere")
        assert "npm install" in ClaudeCode.probe().why
        error = failed(claude(server))
    assert error.kind == "request"
    assert "npm install" in str(error)


def test_settings_that_mean_nothing_are_refused():
    for fields in (
        {"concurrency": 0},
        {"env": {"A": 1}},
        {"effort": "hihg"},
        {"data_use": "maybe"},
        {"limits": {"rmp": 1}},
    ):
        with pytest.raises(InvalidSettings):
            ClaudeCode(**fields)
    assert ClaudeCode(concurrency=3).concurrency == 3
    assert 1 <= ClaudeCode().concurrency <= 8
    platform = ClaudeCode()
    assert all(platform.serves(model) for model in ("claude-opus-4-5", "haiku", "sonnet[1m]", platform.model))
    assert not any(platform.serves(model) for model in ("gpt-5-mini", "gemini-2.5-flash", "haikus"))


def test_a_further_field_is_refused_by_its_name():
    with ProviderServer() as server:
        assert "top_k" in str(failed(claude(server), extra={"top_k": 1}))
