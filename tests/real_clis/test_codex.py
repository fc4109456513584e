"""The real Codex CLI, answered by the provider on loopback."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from orchestrai.errors import PlatformError
from orchestrai.messages import Message
from orchestrai.platforms.codex import LONGEST_PROMPT, Codex
from orchestrai.platforms.protocol import Reply, Request
from orchestrai.result import Usage
from orchestrai.testing import Answer, Fault, Place, PlatformConformance, ProviderServer
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.real_clis

KEY = "sk-codex-0123456789abcdefghij"
CANARY = "sk-canary-9876543210zyxwvutsrq"
RESETS_IN_S = 7_200
USED_UP = json.dumps(
    {
        "error": {
            "type": "usage_limit_reached",
            "message": "The usage limit has been reached",
            "plan_type": "plus",
            "resets_at": int(time.time()) + RESETS_IN_S,
            "resets_in_seconds": RESETS_IN_S,
        }
    }
).encode()
MOST_OVERHEAD = 4_500  # bytes of a request beyond its prompts; 55,292 if nothing is switched off
FAULTS = {
    "rate_limited": Fault("status", 429, headers={"retry-after": "2"}),
    "window_used_up": Fault("raw", 429, {"content-type": "application/json"}, body=USED_UP),
    "balance_empty": Fault("status", 429, code="insufficient_quota"),
    "overloaded": Fault("status", 529),
    "refuses_key": Fault("status", 401, message="Incorrect API key provided."),
    "refuses_request": Fault("status", 400, code="context_length_exceeded"),
    "cut": Fault("cut_stream"),
    "malformed": Fault("malformed"),
    "hangs": Fault("hang"),
}


def own_provider(base_url):
    """The settings with which a person sends Codex to a provider of their own."""
    return {
        "model_providers.loopback": {
            "name": "loopback",
            "base_url": base_url,
            "wire_api": "responses",
            "env_key": "LOOPBACK_KEY",
            "request_max_retries": 0,
            "stream_max_retries": 0,
            "supports_websockets": False,
        },
        "model_provider": "loopback",
    }


@contextmanager
def codex(server, base_url=None, **fields):
    with tempfile.TemporaryDirectory() as home:
        fields = {"config": own_provider(base_url or server.base_url), "env": {"LOOPBACK_KEY": KEY}} | fields
        platform = Codex(home=home, **fields)
        try:
            yield platform
        finally:
            asyncio.run(platform.close())


@contextmanager
def on_a_plan(server, auth_mode="chatgpt", **fields):
    """Codex with the login of a ChatGPT plan, whose two addresses are this server's."""
    with tempfile.TemporaryDirectory() as home:
        claims = {"chatgpt_plan_type": "plus", "chatgpt_account_id": "acc-1", "chatgpt_user_id": "user-1"}
        token = (
            f"{part({'alg': 'none'})}.{part({'exp': time.time() + 86_400, 'https://api.openai.com/auth': claims})}.c2ln"
        )
        login = {
            "auth_mode": auth_mode,
            "OPENAI_API_KEY": CANARY if auth_mode == "apikey" else None,
            "tokens": {"id_token": token, "access_token": token, "refresh_token": "r", "account_id": "acc-1"},
            "last_refresh": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        Path(home, "auth.json").write_text(json.dumps(login))
        provider = {
            "name": "OpenAI",
            "base_url": server.base_url,
            "wire_api": "responses",
            "requires_openai_auth": True,
            "request_max_retries": 0,
            "stream_max_retries": 0,
            "supports_websockets": False,
        }
        config = {
            "model_providers.plan": provider,
            "model_provider": "plan",
            "chatgpt_base_url": f"{server.url}/backend-api",
            "features.enable_request_compression": False,  # the provider on loopback reads no zstd
        }
        platform = Codex(home=home, config=config, **fields)
        try:
            yield platform, token
        finally:
            asyncio.run(platform.close())


def part(claims):
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()


def request(platform, prompt="Say something.", **fields):
    return Request((Message("user", prompt),), platform.model, **fields)


def counted(received):
    if (received.json.get("text") or {}).get("format"):
        return None
    return Answer(
        answer_to(received.prompt),
        input_tokens=1_200,
        cached_tokens=1_024,
        cache_write_tokens=76,
        output_tokens=60,
        reasoning_tokens=32,
    )


def ours():
    """The codex processes that this process started and that still run."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 3) for line in listed.splitlines()]
    return [row for row in rows if row[1] == str(os.getpid()) and row[3].startswith("codex") and "Z" not in row[2]]


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
    assert not list(folder.glob("orchestrai-*")), "prompts would be left on the disk"


class TestCodex(PlatformConformance):
    not_applicable: ClassVar = {}

    @contextmanager
    def platform(self, situation):
        fault = FAULTS.get(situation)
        script = [Fault("status", 529)] if situation == "fails_once" else (lambda _: fault)
        with ProviderServer(script=script, replies=counted) as server:
            base_url = "http://127.0.0.1:9/v1" if situation == "unreachable" else None
            with codex(server, base_url) as platform:
                yield Place(
                    platform,
                    requests=lambda: len(server.requests),
                    prompts=lambda: server.prompts,
                    idle=lambda: server.in_flight == 0,
                    secret=KEY,
                    usage=Usage(1_200, 1_024, 76, 60, 32, "cli"),
                    answer=answer_to,
                )


def failure(fault, **fields):
    with ProviderServer(script=lambda _: fault) as server, codex(server) as platform:
        with pytest.raises(PlatformError) as caught:
            asyncio.run(platform.send(request(platform, **fields)))
        assert len(server.requests) == 1, "one send is one request"
        return caught.value


def test_a_request_carries_nothing_but_the_prompts_and_one_inert_tool():
    with ProviderServer() as server, codex(server) as platform:
        asyncio.run(platform.send(request(platform, "Say hi.", system="You are terse.", effort="high")))
    (sent,) = server.requests
    assert sent.json["model"] == platform.model
    assert sent.json["reasoning"]["effort"] == "high"
    assert "You are terse." in str(sent.json)
    assert len(sent.body) < MOST_OVERHEAD
    assert sent.body.count(b'"parameters"') == 1, "request_user_input, which only works in a plan mode that is off"
    assert str(Path.cwd()).encode() not in sent.body


def test_a_system_prompt_that_nobody_gave_is_one_short_line():
    with ProviderServer() as server, codex(server) as platform:
        asyncio.run(platform.send(request(platform)))
    assert len(server.requests[0].body) < MOST_OVERHEAD


def test_a_schema_beyond_strict_mode_is_asked_for_in_words():
    schema = {"type": "object", "properties": {"kind": {"type": "string"}}}
    with ProviderServer(replies='{"kind": "bug"}') as server, codex(server) as platform:
        asyncio.run(platform.send(request(platform, "A ticket.", json_schema=schema)))
    assert "format" not in (server.requests[0].json.get("text") or {})
    assert json.dumps(schema, separators=(",", ":")) in server.prompts[0]


def test_a_conversation_is_one_prompt_with_its_roles():
    messages = (Message("user", "One."), Message("assistant", "Two."), Message("user", "Three."))
    with ProviderServer() as server, codex(server) as platform:
        asyncio.run(platform.send(Request(messages, platform.model)))
    assert all(text in server.prompts[0] for text in ("One.", "Two.", "Three.", "assistant"))


@pytest.mark.parametrize(
    "prompt", ["/clear", "@/etc/passwd", "$imagegen a cat", "--version", "a\0b", "x" * LONGEST_PROMPT]
)
def test_no_prompt_is_a_command(prompt):
    with ProviderServer() as server, codex(server) as platform:
        reply = asyncio.run(platform.send(request(platform, prompt)))
    assert reply.text == answer_to(prompt)
    assert server.prompts == [prompt]
    assert len(server.requests[0].body) < MOST_OVERHEAD + 6 * len(prompt)


@pytest.mark.parametrize("prompt", ["", " \n", "x" * (LONGEST_PROMPT + 1)])
def test_what_codex_cannot_take_is_refused_unsent(prompt):
    with ProviderServer() as server, codex(server) as platform:
        with pytest.raises(PlatformError) as caught:
            asyncio.run(platform.send(request(platform, prompt)))
        assert caught.value.kind == "request"
        assert server.requests == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("status", 429), "rate"),
        (Fault("status", 429, headers={"retry-after": "1"}), "rate"),
        (Fault("status", 500), "overloaded"),
        (Fault("status", 503), "overloaded"),
        (Fault("status", 403), "key"),
        (Fault("status", 402), "balance"),
        (Fault("status", 404, code="model_not_found", message="The model does not exist"), "request"),
        (Fault("status", 400, code="invalid_json_schema", message="Invalid schema"), "request"),
        (Fault("reset"), "connection"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.kind} {value.status}",
)
def test_every_failure_is_one_request_and_has_its_kind(fault, kind):
    assert failure(fault).kind == kind


def test_a_used_up_plan_tells_when_it_resets():
    error = failure(FAULTS["window_used_up"])
    (reading,) = error.quota
    assert error.kind == "window"
    assert reading.used_percent == 100
    assert error.retry_after_s == pytest.approx(RESETS_IN_S, abs=600)
    assert reading.resets_at / 1e6 == pytest.approx(time.time() + RESETS_IN_S, abs=600)


def test_a_provider_that_never_answers_ends_at_the_wall_clock():
    error = failure(Fault("hang"), timeout_s=3.0)
    assert error.kind == "timeout"
    assert error.may_be_billed


def test_a_process_that_is_killed_from_outside_is_an_error():
    with ProviderServer(script=lambda _: Fault("hang")) as server, codex(server) as platform:

        async def killed():
            sending = asyncio.ensure_future(platform.send(request(platform)))
            while not server.requests:  # noqa: ASYNC110  # the far side is another thread
                await asyncio.sleep(0.01)
            for pid, *_ in ours():
                os.kill(int(pid), signal.SIGKILL)
            return await sending

        with pytest.raises(PlatformError) as caught:
            asyncio.run(killed())
    assert caught.value.kind == "reply"
    assert caught.value.may_be_billed


def test_a_key_in_the_environment_does_not_reach_the_child(monkeypatch):
    for name in ("OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_ACCESS_TOKEN", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION"):
        monkeypatch.setenv(name, CANARY)
    with ProviderServer() as server, on_a_plan(server) as (platform, token):
        asyncio.run(platform.send(request(platform)))
    (sent,) = server.requests
    assert CANARY.encode() not in sent.head + sent.body
    assert sent.headers["authorization"] == f"Bearer {token}"
    assert sent.headers["chatgpt-account-id"] == "acc-1"


def test_the_account_is_told_apart_without_its_id():
    with ProviderServer() as server, on_a_plan(server) as (platform, _):
        assert platform.account is not None
        assert "acc-1" not in platform.account


@pytest.mark.parametrize(("auth_mode", "tier"), [("apikey", "subscription"), ("chatgpt", "paid")])
def test_another_account_than_the_configured_one_is_never_billed(auth_mode, tier):
    with ProviderServer() as server, on_a_plan(server, auth_mode, tier=tier) as (logged_in, _):
        platform = Codex(home=logged_in._home, tier=tier)  # without a provider of its own: the login decides
        with pytest.raises(PlatformError) as caught:
            asyncio.run(platform.send(request(platform)))
    assert caught.value.kind == "key"
    assert "codex login" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_without_a_login_nothing_is_sent():
    with tempfile.TemporaryDirectory() as home:
        platform = Codex(home=home)
        with pytest.raises(PlatformError) as caught:
            asyncio.run(platform.send(request(platform)))
    assert caught.value.kind == "key"
    assert "codex login" in str(caught.value)


def test_a_probe_tells_version_and_login():
    with ProviderServer() as server, on_a_plan(server) as (platform, _):
        state = Codex.probe(home=platform._home)
    assert state.found
    assert state.login == "ChatGPT"
    assert state.version


@pytest.mark.parametrize("auth_mode", [None, "apikey"])
def test_a_probe_that_finds_no_plan_says_what_to_do(auth_mode):
    with tempfile.TemporaryDirectory() as home:
        if auth_mode is not None:
            Path(home, "auth.json").write_text(json.dumps({"auth_mode": auth_mode, "OPENAI_API_KEY": CANARY}))
        state = Codex.probe(home=home)
    assert not state.found
    assert "codex login" in state.why
    assert CANARY not in repr(state)


def test_the_quota_of_a_plan_is_read_without_asking_a_model_and_rarely():
    async def twice(platform):
        return await platform.quota(), await platform.quota(), await platform.send(request(platform))

    with UsagePage() as page, ProviderServer() as server, on_a_plan(server) as (platform, _):
        platform._config["chatgpt_base_url"] = f"{page.url}/backend-api"
        first, second, reply = asyncio.run(twice(platform))
    assert [(reading.window, reading.used_percent) for reading in first] == [("primary", 37), ("secondary", 41)]
    assert first is second
    assert page.paths.count("/backend-api/wham/usage") == 1
    assert reply.quota == first, "what was read goes into the record with the next answer"
    assert len(server.requests) == 1


class UsagePage(ThreadingHTTPServer):
    """The page on which an account's usage is told; everything else is not found."""

    def __init__(self):
        self.paths = []
        super().__init__(("127.0.0.1", 0), _UsageHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class _UsageHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        now = int(time.time())
        windows = {
            name: {"used_percent": used, "limit_window_seconds": s, "reset_after_seconds": 60, "reset_at": now + 60}
            for name, used, s in (("primary_window", 37, 18_000), ("secondary_window", 41, 604_800))
        }
        usage = {"plan_type": "plus", "rate_limit": {"allowed": True, "limit_reached": False, **windows}}
        found = self.path.endswith("/wham/usage")
        body = json.dumps(usage if found else {}).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_stream_is_one_piece_and_the_reply():
    async def both(platform):
        return [item async for item in platform.stream(request(platform))]

    with ProviderServer() as server, codex(server) as platform:
        piece, reply = asyncio.run(both(platform))
    assert isinstance(reply, Reply)
    assert piece == reply.text


def test_the_persons_own_settings_of_codex_play_no_part():
    with ProviderServer() as server, codex(server) as platform:
        Path(platform._home, "config.toml").write_text(
            'model_instructions_file = "/nowhere"\n[mcp_servers.x]\ncommand = "false"\n'
        )
        Path(platform._home, "AGENTS.md").write_text("PERSONAL INSTRUCTIONS")
        for folder in (Path(platform._home, "skills"), Path.home() / ".agents" / "skills", Path.home() / ".codex"):
            skill = folder / "mine" / "SKILL.md"
            skill.parent.mkdir(parents=True)
            skill.write_text("---\nname: mine\ndescription: PERSONAL SKILL\n---\nPERSONAL INSTRUCTIONS\n")
        asyncio.run(platform.send(request(platform, "$mine, please.")))
    assert server.prompts == ["$mine, please."]
    assert b"PERSONAL" not in server.requests[0].body


def test_extra_fields_are_settings_of_codex():
    with ProviderServer() as server, codex(server) as platform:
        asyncio.run(platform.send(request(platform, extra={"model_verbosity": "high"})))
    assert server.requests[0].json["text"]["verbosity"] == "high"


def test_without_settings_a_plan_is_asked_where_it_belongs_and_once():
    """Codex itself would ask 30 times, and look up three further hosts."""
    with Proxy() as proxy, ProviderServer() as server, on_a_plan(server) as (logged_in, _):
        platform = Codex(home=logged_in._home, env={"HTTPS_PROXY": proxy.url})
        with pytest.raises(PlatformError) as caught:
            asyncio.run(platform.send(request(platform)))
        asyncio.run(platform.close())
    assert caught.value.kind == "connection"
    assert set(proxy.hosts) == {"chatgpt.com:443"}
    assert len(proxy.hosts) < 20, "51 with its own retries"


def test_a_login_that_is_made_later_is_found():
    async def twice(platform, login):
        errors = [await failed(platform)]
        await asyncio.to_thread(shutil.copy, login, platform._home)
        errors.append(await failed(platform))
        await platform.close()
        return [error.kind for error in errors]

    async def failed(platform):
        with pytest.raises(PlatformError) as caught:
            await platform.send(request(platform))
        return caught.value

    with Proxy() as proxy, ProviderServer() as server, on_a_plan(server) as (logged_in, _):
        later = tempfile.mkdtemp(dir=logged_in._home)
        platform = Codex(home=later, env={"HTTPS_PROXY": proxy.url})
        kinds = asyncio.run(twice(platform, logged_in._home / "auth.json"))
    assert kinds == ["key", "connection"]
    assert proxy.hosts


class Proxy(ThreadingHTTPServer):
    """A proxy that lets nothing through and keeps the names of the hosts."""

    def __init__(self):
        self.hosts = []
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()


class _ProxyHandler(BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.server.hosts.append(self.path)
        self.send_error(503)

    def log_message(self, *_):
        pass
