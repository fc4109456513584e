"""The real Gemini CLI, answered by the provider on loopback. A start takes seconds, so that tests share processes."""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.gemini_cli import LONGEST_PROMPT, GeminiCLI
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.result import Usage
from orchestrai.testing import Answer, Fault, Place, PlatformConformance, ProviderServer
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.real_clis

KEY = "AIzaConformance0123456789abcdefghijkl"
CANARY = "AIzaCanary9876543210zyxwvutsrqponmlk"
TOKEN = "ya29.conformance-token"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
FAULTS = {
    "rate_limited": Fault("status", 429, headers={"retry-after": "2"}),
    "window_used_up": Fault("status", 429, code=PER_DAY, message="You exceeded your current quota"),
    "balance_empty": Fault("status", 402, message="Your prepayment credits are depleted."),
    "overloaded": Fault("status", 503, message="The model is overloaded."),
    "refuses_key": Fault("status", 400, code="API_KEY_INVALID", message="API key not valid."),
    "refuses_request": Fault("status", 400, message="The input token count exceeds the maximum."),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


@contextmanager
def gemini(server, url=None, **fields):
    """Gemini CLI with an API key and the address of a provider of one's own, as the person gives them."""
    env = {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url or server.url}
    with tempfile.TemporaryDirectory() as home:
        yield GeminiCLI(**({"home": home, "login": "gemini-api-key", "env": env, "concurrency": 2} | fields))


def request(platform, prompt="Say something.", **fields):
    return Request((Message("user", prompt),), platform.model, **fields)


def counted(received):
    return Answer(
        answer_to(received.prompt), input_tokens=1_200, cached_tokens=1_024, output_tokens=60, reasoning_tokens=32
    )


def in_turn(platform, *works):
    """Run one piece of work after the other on one loop, close the platform, and return their outcomes."""

    async def each():
        outcomes = []
        try:
            for work in works:
                try:
                    outcomes.append(await work(platform))
                except PlatformError as error:
                    outcomes.append(error)
        finally:
            await platform.close()
        return outcomes

    return asyncio.run(each())


def sending(prompt="Say something.", **fields):
    return lambda platform: platform.send(request(platform, prompt, **fields))


def children():
    """The processes that this one started and that still run, without the guard that ends them with it."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    return [row for row in rows if row[1] == str(os.getpid()) and "gemini" in row[3] and "Z" not in row[2]]


def started_in(folder):
    """The processes that hold this folder in their environment, whoever their parent is by now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_bytes())
        except OSError:  # it ended
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew
    yield
    end = time.monotonic() + 10.0
    while left := started_in(folder):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.02)
    assert not list(folder.iterdir()), "prompts would be left on the disk"


class TestGeminiCLI(PlatformConformance):
    not_applicable: ClassVar = {}

    @contextmanager
    def platform(self, situation):
        fault = FAULTS.get(situation)
        script = [Fault("status", 503)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            url = "http://127.0.0.1:9" if situation == "unreachable" else None
            with gemini(server, url) as platform:
                yield Place(
                    platform,
                    requests=lambda: len(server.requests),
                    prompts=lambda: server.prompts,
                    idle=lambda: server.in_flight == 0,
                    secret=KEY,
                    usage=Usage(1_200, 1_024, None, 60, 32, "cli"),
                    answer=answer_to,
                )


def test_one_process_answers_task_after_task_each_in_a_session_of_its_own():
    prompts = [f"Say the number {i}." for i in range(5)]
    pids = []

    async def noting(platform):
        pids.extend(row[0] for row in children())

    with ProviderServer(replies=counted) as server, gemini(server) as platform:
        replies = in_turn(platform, *(work for prompt in prompts for work in (sending(prompt), noting)))[::2]
    assert [reply.text for reply in replies] == [answer_to(prompt) for prompt in prompts]
    assert {reply.model for reply in replies} == {platform.model}
    assert len(set(pids)) == 1
    assert len({len(sent.json["contents"]) for sent in server.requests}) == 1, "no session sees another's messages"


def test_a_process_of_another_model_makes_room_and_one_without_work_ends():
    counts = []

    async def counting(platform):
        counts.append(len(children()))

    async def other(platform):
        return await platform.send(replace(request(platform), model="gemini-2.5-pro"))

    async def idle_for_long(platform):
        platform._retire(platform._idle[0])
        await asyncio.gather(*platform._ending)

    with ProviderServer() as server, gemini(server, concurrency=1) as platform:
        first, _, second, *_ = in_turn(platform, sending(), counting, other, counting, idle_for_long, counting)
    assert (first.model, second.model) == (platform.model, "gemini-2.5-pro")
    assert "gemini-2.5-pro:" in server.requests[1].path
    assert counts == [1, 1, 0]


def test_a_request_carries_nothing_but_its_prompts_and_a_line_of_context():
    with ProviderServer() as server, gemini(server) as platform:
        in_turn(platform, sending(system="You are terse."), sending(system="You are verbose."), sending())
    first, second, third = server.requests
    for sent in server.requests:
        assert len(sent.body) < 1_000, "31,191 bytes if nothing is switched off"
        assert not sent.json["tools"][0]["functionDeclarations"]
    assert first.json["systemInstruction"]["parts"] == [{"text": "You are terse."}]
    assert second.json["systemInstruction"]["parts"] == [{"text": "You are verbose."}]
    assert "terse" not in str(third.json)


def test_no_prompt_is_a_command():
    """Over ACP `/memory show` would be carried out, and `$help` too; the test below sends the first of them."""
    prompts = ["/clear", "$imagegen a cat", "@/etc/passwd", "--version", "a\0b", "/etc/passwd is", "x" * 2**20]
    with ProviderServer() as server, gemini(server) as platform:
        replies = in_turn(platform, *map(sending, prompts))
    assert [prompt.removeprefix(" ") for prompt in server.prompts] == prompts
    assert [type(reply) for reply in replies] == [Reply] * len(prompts)
    assert b"root:x:0" not in b"".join(sent.body for sent in server.requests)


def test_a_prompt_that_looks_like_a_command_is_counted_and_streamed_too():
    async def streamed(platform):
        return [item async for item in platform.stream(request(platform, "/memory show"))]

    with ProviderServer(replies=counted) as server, gemini(server) as platform:
        (items,) = in_turn(platform, streamed)
    *pieces, reply = items
    assert "".join(pieces) == reply.text == answer_to(server.prompts[0])
    assert len(pieces) > 1
    assert reply.usage == Usage(1_200, 1_024, None, 60, 32, "cli")


@pytest.mark.parametrize("prompt", ["", " \n", "x" * (LONGEST_PROMPT + 1)], ids=["empty", "blank", "too long"])
def test_what_gemini_cannot_take_is_refused_unsent(prompt):
    with ProviderServer() as server, gemini(server) as platform:
        (error,) = in_turn(platform, sending(prompt))
    assert error.kind == "request"
    assert server.requests == []


def test_what_gemini_would_replace_or_drop_is_refused_unsent():
    with ProviderServer() as server, gemini(server) as platform:
        errors = in_turn(platform, sending(system="Use ${AvailableTools}."), sending(extra={"top_k": 1}))
    assert [error.kind for error in errors] == ["request", "request"]
    assert server.requests == []


def test_every_failure_is_one_request_has_its_kind_and_leaves_the_process_at_work():
    faults = {
        "plain 429": (Fault("status", 429), "rate"),
        "429 with a wait": (Fault("status", 429, headers={"retry-after": "17"}), "rate"),
        "daily quota": (FAULTS["window_used_up"], "window"),
        "500": (Fault("status", 500), "overloaded"),
        "503": (Fault("status", 503), "overloaded"),
        "401": (Fault("status", 401), "key"),
        "403": (Fault("status", 403), "key"),
        "402": (Fault("status", 402), "balance"),
        "404": (Fault("status", 404, message="models/x is not found"), "request"),
        "empty": (Fault("empty"), "reply"),
        "malformed": (Fault("malformed"), "reply"),
        "reset": (Fault("reset"), "connection"),
    }
    script = {f"^{name}$": fault for name, (fault, _) in faults.items()}
    with ProviderServer(script=script) as server, gemini(server) as platform:
        *errors, reply = in_turn(platform, *map(sending, faults), sending())
    assert {name: error.kind for name, error in zip(faults, errors, strict=True)} == {
        name: kind for name, (_, kind) in faults.items()
    }
    assert isinstance(reply, Reply)
    assert len(server.requests) == len(faults) + 1
    assert errors[1].retry_after_s == pytest.approx(17, abs=2)
    assert KEY not in repr(errors)


def test_an_answer_without_a_word_is_a_failure():
    with ProviderServer(replies=lambda _: Answer("")) as server, gemini(server) as platform:
        (error,) = in_turn(platform, sending())
    assert error.kind == "reply"
    assert error.may_be_billed


def test_a_provider_that_never_answers_ends_at_the_wall_clock_and_a_dead_process_is_replaced():
    async def killed(platform):
        waiting = asyncio.ensure_future(platform.send(request(platform, "hang")))
        while server.in_flight == 0:  # noqa: ASYNC110  # the far side is another thread
            await asyncio.sleep(0.01)
        for pid, *_ in children():
            os.kill(int(pid), signal.SIGKILL)
        return await waiting

    with ProviderServer(script={"hang": Fault("hang")}) as server, gemini(server, concurrency=1) as platform:
        started, late, dead, reply = in_turn(platform, sending(), sending("hang", timeout_s=2.0), killed, sending())
    assert isinstance(started, Reply)
    assert (late.kind, late.may_be_billed) == ("timeout", True)
    assert (dead.kind, dead.may_be_billed) == ("reply", True)
    assert isinstance(reply, Reply)


def test_another_key_in_the_environment_does_not_reach_the_child(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.setenv(name, CANARY)
    with ProviderServer() as server, gemini(server) as platform:
        in_turn(platform, sending())
    (sent,) = server.requests
    assert CANARY.encode() not in sent.head + sent.body
    assert sent.headers["x-goog-api-key"] == KEY


def google_login(person, service):
    """A Google login whose token and service are the person's to name, so that none of it leaves this machine."""
    env = {
        "GOOGLE_GENAI_USE_GCA": "true",
        "GOOGLE_CLOUD_ACCESS_TOKEN": TOKEN,
        "CODE_ASSIST_ENDPOINT": service.url,
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    return GeminiCLI(home=person, env=env)


def test_with_a_google_login_the_login_is_used_and_no_key(tmp_path_factory, monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    person = logged_in(tmp_path_factory.mktemp("person"))
    with CodeAssist({"currentTier": {"id": "standard-tier"}, "cloudaicompanionProject": "p"}) as service:
        platform = google_login(person, service)
        (reply,) = in_turn(platform, sending(timeout_s=30.0))
    assert (platform.login, platform.tier, platform.data_use) == ("oauth-personal", "free", "may_train")
    assert isinstance(reply, Reply), reply
    assert reply.text == "Answered."
    assert CANARY not in str(service.requests)
    asked = [headers for path, headers in service.requests if "streamGenerateContent" in path]
    assert [headers["authorization"] for headers in asked] == [f"Bearer {TOKEN}"]
    assert (person / ".gemini" / "oauth_creds.json").is_file(), "the person's login stays"


def test_a_login_that_google_serves_no_longer_is_told_with_what_to_use_instead(tmp_path_factory):
    ended = {
        "reasonCode": "UNSUPPORTED_CLIENT",
        "reasonMessage": "This client is no longer supported. Please migrate to the Antigravity suite.",
        "tierId": "free-tier",
    }
    with CodeAssist({"ineligibleTiers": [ended], "allowedTiers": []}) as service:
        platform = google_login(logged_in(tmp_path_factory.mktemp("person")), service)
        (error,) = in_turn(platform, sending(timeout_s=30.0))
    assert error.kind == "key"
    assert all(word in str(error) for word in ("GEMINI_API_KEY", "Groq", ":free", "Antigravity"))


def test_a_login_that_does_not_hold_is_told_and_takes_no_prompt_for_a_code(tmp_path_factory):
    person = logged_in(tmp_path_factory.mktemp("person"))
    (person / ".gemini" / "oauth_creds.json").write_text("{}")
    platform = GeminiCLI(home=person, env={"HTTPS_PROXY": "http://127.0.0.1:9"})
    errors = in_turn(platform, sending(timeout_s=30.0), sending("/memory show", timeout_s=30.0))
    assert [error.kind for error in errors] == ["key", "key"], errors


class CodeAssist(ThreadingHTTPServer):
    """Google's service for logins, which first tells what the account may use; answers one thing."""

    def __init__(self, account):
        self.account = account
        self.requests = []
        super().__init__(("127.0.0.1", 0), _CodeAssistHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class _CodeAssistHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers))
        body, kind = json.dumps(self.server.account if "loadCodeAssist" in self.path else {}), "application/json"
        if "streamGenerateContent" in self.path:
            candidate = {"content": {"role": "model", "parts": [{"text": "Answered."}]}, "finishReason": "STOP"}
            usage = {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7}
            document = {"response": {"candidates": [candidate], "usageMetadata": usage}}
            body, kind = f"data: {json.dumps(document)}\n\n", "text/event-stream"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def logged_in(person, selected="oauth-personal"):
    (person / ".gemini").mkdir()
    credentials = {"access_token": "ya29.x", "refresh_token": "1//x", "expiry_date": 4_102_444_800_000}
    (person / ".gemini" / "oauth_creds.json").write_text(json.dumps(credentials))
    (person / ".gemini" / "google_accounts.json").write_text('{"active": "a@example.org", "old": []}')
    settings = json.dumps({"security": {"auth": {"selectedType": selected}}}, indent=2)
    (person / ".gemini" / "settings.json").write_text(f"// mine\n{settings}")
    return person


def test_a_probe_tells_version_and_login_from_files(tmp_path_factory):
    person = logged_in(tmp_path_factory.mktemp("person"))
    state = GeminiCLI.probe(home=person)
    assert state.found
    assert state.login == "Google"
    assert state.version
    account = GeminiCLI(home=person).account
    assert account is not None
    assert "example" not in account


@pytest.mark.parametrize("selected", [None, "gemini-api-key", "vertex-ai"])
def test_a_probe_that_finds_no_google_login_says_what_to_do(tmp_path_factory, monkeypatch, selected):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    person = tmp_path_factory.mktemp("person")
    if selected is not None:
        logged_in(person, selected)
    state = GeminiCLI.probe(home=person)
    assert not state.found
    assert "log in" in state.why or "login=" in state.why


def test_without_a_login_nothing_is_started(tmp_path_factory, monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    (error,) = in_turn(GeminiCLI(home=tmp_path_factory.mktemp("person")), sending())
    assert error.kind == "key"
    assert "log in" in str(error)


def test_the_persons_own_settings_and_files_play_no_part(tmp_path_factory):
    person = logged_in(tmp_path_factory.mktemp("person"))
    (person / ".gemini" / "GEMINI.md").write_text("PERSONAL INSTRUCTIONS")
    (person / ".env").write_text(f"GEMINI_API_KEY={CANARY}\n")
    with ProviderServer() as server, gemini(server, home=person) as platform:
        in_turn(platform, sending())
    assert b"PERSONAL" not in server.requests[0].body
    assert CANARY.encode() not in server.requests[0].head


def test_a_version_without_a_process_that_stays_answers_with_one_for_each_task(tmp_path_factory):
    """An older one, which knows no `--acp`, stands before the real one."""
    old = tmp_path_factory.mktemp("old") / "gemini"
    real = subprocess.run(["which", "gemini"], capture_output=True, text=True, check=True).stdout.strip()
    refusal = 'case "$1" in --acp) echo "Unknown argument: acp" >&2; exit 1;; esac'
    old.write_text(f'#!/bin/sh\n{refusal}\nexec "{real}" "$@"\n')
    old.chmod(0o700)
    with ProviderServer(replies=counted) as server, gemini(server, binary=str(old)) as platform:
        (reply,) = in_turn(platform, sending())
    assert isinstance(reply, Reply), reply
    assert reply.text == answer_to("Say something.")
    assert replace(reply.usage, reasoning_tokens=None) == Usage(1_200, 1_024, None, 60, None, "cli")
