"""A key never leaves: forty canary keys go through every platform, every failure and every place where something is told."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from canaries import CANARIES, Leaks, found_in

from orchestrai import InvalidSettings, Orchestrator, Task, TaskFailed
from orchestrai.messages import Message
from orchestrai.platforms import Anthropic, Gemini, OpenAI
from orchestrai.platforms.claude_code import ClaudeCode
from orchestrai.platforms.codex import Codex
from orchestrai.platforms.gemini_cli import GeminiCLI
from orchestrai.platforms.protocol import Platform, Request
from orchestrai.testing import Fault, ProviderServer, ScriptedPlatform

pytestmark = pytest.mark.promise


# --- the platforms with an API, and the ways of giving them a key


@dataclass(frozen=True)
class Api:
    """A platform with an API: how it is made, and which variables of the environment are its own."""

    make: Callable[..., Platform]
    kind: str
    variable: str
    address: str
    more: tuple[tuple[str, str], ...] = ()

    def base_url(self, server: ProviderServer) -> str:
        return server.base_url if self.kind == "openai" else server.url


APIS = {
    "chat completions": Api(OpenAI, "openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "responses": Api(OpenAI, "openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", (("api", "responses"),)),
    "messages": Api(Anthropic, "anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "generateContent": Api(Gemini, "gemini", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"),
}
WAYS = ("text", "function", "header", "settings", "env:NAME", "file", "environment")
CASES = {f"{api}, {way}": (api, way) for way in WAYS for api in APIS}
KEYS = dict(zip(CASES, CANARIES, strict=False))
STRANGERS = dict(  # keys of the person's that nobody here is to get
    zip(
        (
            *("GOOGLE_API_KEY", "GROQ_API_KEY", "OPENROUTER_API_KEY", "CODEX_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
            *("AWS_BEARER_TOKEN_BEDROCK", "AZURE_OPENAI_API_KEY", "GITHUB_TOKEN", "HF_TOKEN"),
        ),
        CANARIES[len(CASES) :],
        strict=False,
    )
)
LOGINS = CANARIES[len(CASES) + len(STRANGERS) :]


@pytest.fixture(autouse=True)
def persons_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a canary into every variable that is known to hold a key."""
    for variable, canary in STRANGERS.items():
        monkeypatch.setenv(variable, canary.value)
    for name, api in APIS.items():
        monkeypatch.setenv(api.variable, KEYS[f"{name}, environment"].value)


@pytest.fixture
def leaks(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Leaks]:
    """Collect what a test is told, and fail at its end where a canary was in it."""
    with watched(caplog, capfd) as found:
        yield found
    assert found.found == {}


@contextmanager
def watched(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[Leaks]:
    """Look into every log at DEBUG, every warning and all that is printed, when the block is left."""
    caplog.set_level(logging.DEBUG)
    found = Leaks()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield found
        gc.collect()
    for record in caplog.records:
        found.add(f"log of {record.name}", f"{record.getMessage()} {record.args!r} {record.exc_text}")
    found.add("log", caplog.text)
    found.add("warnings", [str(one.message) for one in warned])
    found.add("printed", capfd.readouterr())


def own_orchestrator(case: str, server: ProviderServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Orchestrator:
    """Return an orchestrator whose platform `mine` has its key in this way."""
    name, way = CASES[case]
    api, canary = APIS[name], KEYS[case]
    fields = {**dict(api.more), "base_url": api.base_url(server), "model": "m", "tier": "free"}
    once = {"attempts": 1}
    if way in ("text", "function", "header"):
        given = {
            "text": {"api_key": canary.value},
            "function": {"api_key": lambda: KEYS[case].value},
            "header": {"api_key": "none", "headers": {"X-Gateway": canary.value}},
        }[way]
        return Orchestrator(folder, platforms=[api.make("mine", **fields, **given)], settings=once)
    if way == "environment":
        monkeypatch.setenv(api.variable, canary.value)
        monkeypatch.setenv(api.address, fields.pop("base_url"))
        return Orchestrator(folder, platforms=[api.make("mine", **fields)], settings=once)
    table = {"kind": api.kind, **fields, "api_key": canary.value}
    if way == "env:NAME":
        monkeypatch.setenv("CANARY_KEY", canary.value)
        table["api_key"] = "env:CANARY_KEY"
    if way == "file":
        words = [f"{key} = {json.dumps(value)}" for key, value in once.items()]
        words += ["[platforms.mine]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        (folder / "orchestrai.toml").write_text("\n".join(words))
        return Orchestrator(folder)
    return Orchestrator(folder, settings={**once, "platforms": {"mine": table}})


def platform_of(orch: Orchestrator) -> Platform:
    return next(f.platform for f in orch.findings if f.name == "mine" and f.platform is not None)


def test_there_are_forty_keys_and_each_is_used_in_a_place_of_its_own():
    used = [*KEYS.values(), *STRANGERS.values(), *LOGINS[: len(CLIENTS)]]
    assert len({canary.value for canary in used}) == len(used) == len(CANARIES) == 40
    assert len(LOGINS) == len(CLIENTS)
    for canary in used:
        assert found_in(canary.value) == {canary.number}
        assert found_in(canary.value[: len(canary.value) // 2 + 1]) | found_in(repr(canary.value)) == {canary.number}
        assert found_in(repr(canary)) == set()


# --- what a provider and the wire can do


def _events(message: str) -> bytes:
    """Return a stream that fails under way, in the words of all four protocols."""
    told = {"code": 500, "type": "server_error", "status": "INTERNAL", "message": message}
    return f"event: error\ndata: {json.dumps({'type': 'error', **told, 'error': told})}\n\n".encode()


def _sse(body: bytes) -> Fault:
    return Fault("raw", 200, headers={"content-type": "text/event-stream"}, body=body)


FAULTS: dict[str, Callable[[str, str], Any]] = {  # by prompt; each is told the key and everything that came with it
    "answered": lambda key, head: None,
    "key refused": lambda key, head: Fault("status", 401, message=f"Incorrect API key provided: {key}."),
    "key repeated": lambda key, head: Fault("status", 401, message=f"{key} " * 200),
    "key far back": lambda key, head: Fault("status", 401, message=f"{'x' * 470} {key} {'y' * 3_510} {key}"),
    "no money": lambda key, head: Fault("status", 402, message=f"No credit left for {key}"),
    "forbidden": lambda key, head: Fault("status", 403, code=key, message=f"'{key}' may not do that"),
    "not found": lambda key, head: Fault("status", 404, message=f"model of {key} not found"),
    "too large": lambda key, head: Fault("status", 413, message=f"too large: {head}"),
    "limited": lambda key, head: Fault("status", 429, message=f"Rate limit reached for {key}"),
    "limited, told": lambda key, head: Fault("status", 429, headers={"retry-after": "9999"}, message=f"limit of {key}"),
    "echo": lambda key, head: Fault("status", 500, headers={"x-echo": key}, message=f"cannot serve: {head}"),
    "overloaded": lambda key, head: Fault("status", 529, message=f"Authorization: Bearer {key}"),
    "cut": lambda key, head: "cut_body",
    "stream cut": lambda key, head: "cut_stream",
    "malformed": lambda key, head: "malformed",
    "empty": lambda key, head: "empty",
    "reset": lambda key, head: "reset",
    "late": lambda key, head: "hang",
    "bomb": lambda key, head: "gzip_bomb",
    "moved": lambda key, head: Fault("redirect", location=f"http://127.0.0.1:1/{quote(key)}/x?key={quote(key)}"),
    "moved, plainly": lambda key, head: Fault("redirect", location=f"/{key}?key={key}#{key}"),
    "web page": lambda key, head: Fault("raw", 400, body=f"<html>{key}</html>".encode()),
    "good web page": lambda key, head: Fault("raw", headers={"content-type": "text/html"}, body=f"<p>{key}".encode()),
    "plain words": lambda key, head: Fault("raw", 400, body=f"your key is {key}".encode()),
    "no JSON": lambda key, head: Fault("raw", 200, body=f"your key is {key}".encode()),
    "other JSON": lambda key, head: Fault("raw", 400, body=json.dumps([{"detail": key}, {"error": key}]).encode()),
    "error in a 200": lambda key, head: Fault("raw", 200, body=_events(f"failed: {head}").split(b"data: ")[1]),
    "cut behind the key": lambda key, head: Fault("raw", 500, headers={"content-length": "99999"}, body=key.encode()),
    "bad stream": lambda key, head: _sse(_events(f"failed: {head}")),
    "odd stream": lambda key, head: _sse(f"data: {key}\n\n: {key}\n\n".encode()),
}
assert len(FAULTS) >= 28


class Provider(ProviderServer):
    """A provider that tells everybody the key that it was sent, and remembers which ones those were."""

    def __init__(self) -> None:
        super().__init__(script=self._told)
        self.keys: set[int] = set()

    def _told(self, received: Any) -> Any:
        assert not found_in(received.path.encode())
        assert not found_in(received.body)
        self.keys |= found_in(received.head)
        for canary in CANARIES:
            if canary.value.encode() in received.head:
                return FAULTS.get(received.prompt, FAULTS["answered"])(canary.value, received.head.decode("latin-1"))
        return Fault("status", 401, message="no key came")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server
        for received in server.requests:  # also of those that no script saw
            assert not found_in(received.path)


# --- the laws of the platforms with an API


@pytest.mark.parametrize("case", CASES)
def test_no_call_tells_the_key_of_an_api(case, provider, tmp_path, monkeypatch, leaks):
    with own_orchestrator(case, provider, tmp_path, monkeypatch) as orch:
        batch = orch.batch_sync([_task(name) for name in FAULTS if name not in RESTS], progress="text")
        assert batch[0].success, batch[0].error
        assert batch.failure_count > 20
        leaks.add_value("batch", batch)
        leaks.add("frame", batch.to_pandas().to_csv())
        stream = orch.stream(_task("bad stream", "streamed"))
        with pytest.raises(TaskFailed) as caught:
            orch.wait(_all_of(stream))
        leaks.add_error("the stream", caught.value)
        handle = orch.start([_task("late", "started")])
        for name in ("echo", "late", "moved", "key refused", "no money"):
            with pytest.raises(TaskFailed) as caught:
                orch.run_sync(_task(name, "run"))
            leaks.add_error(name, caught.value)
            leaks.add_value(f"result of {name}", caught.value.result)
        with pytest.raises(ExceptionGroup) as group:
            batch.raise_for_failures()
        leaks.add_error("the failures", group.value)
        waiting = orch.run("a")
        leaks.add_value("handle", handle, copies=False)  # a copy would be one of the loop and its threads
        for where, value in {"stream": stream, "orchestrator": orch, "call": waiting}.items():
            leaks.add_value(where, value)
        waiting.close()
        for where, value in {"platforms": orch.platforms, "findings": orch.findings, "settings": orch.settings}.items():
            leaks.add_value(where, value)
        leaks.add_value("part", handle.wait())
        leaks.add_files(orch.ledger_path.parent)  # with the write-ahead log, which is merged at the close
    leaks.add_files(orch.ledger_path.parent)
    assert provider.keys == {KEYS[case].number}, "its own key, and no other"


RESTS = ("key refused", "key repeated", "key far back", "forbidden", "no money")  # after three nothing more is sent


def _task(name: str, call: str = "batch") -> Task:
    """Return a task whose lane no other task has slowed down."""
    model = f"{call}-{list(FAULTS).index(name)}"
    return Task(name, platform="mine", strict=True, model=model, timeout_s=0.3 if name == "late" else 20)


async def _all_of(stream):
    return [piece async for piece in stream]


@pytest.mark.parametrize(
    "case", [case for case, (_, way) in CASES.items() if way in ("text", "header", "env:NAME", "environment")]
)
def test_no_platform_tells_its_key_in_an_error_or_to_the_loops_debugger(case, provider, tmp_path, monkeypatch, leaks):
    with own_orchestrator(case, provider, tmp_path, monkeypatch) as orch:
        platform = platform_of(orch)
        displays = CASES[case][1] == "text"
        asyncio.run(_every_fault(platform, leaks, displays=displays), debug=True)
    assert provider.keys == {KEYS[case].number}


DISPLAYED = ("key refused", "cut behind the key", "late", "moved", "error in a 200", "no JSON")  # each ends elsewhere


async def _every_fault(platform: Platform, leaks: Leaks, *, displays: bool) -> None:
    asyncio.get_running_loop().slow_callback_duration = 0.0  # every callback is told in the log
    for name in FAULTS:
        for way in (platform.send, _streamed(platform)):
            try:
                async with asyncio.timeout(0.1 if name == "late" else 20):
                    leaks.add(name, await way(Request((Message("user", name),), "m")))
            except Exception as error:  # noqa: BLE001 - whatever it is must not tell the key
                leaks.add_error(name, error, displays=displays and name in DISPLAYED and way == platform.send)
    leaks.add_value("platform", platform)
    await platform.close()


def _streamed(platform: Platform) -> Callable[[Request], Any]:
    async def told(request: Request) -> list[Any]:
        return [item async for item in platform.stream(request)]

    return told


@pytest.mark.parametrize("name", APIS)
def test_a_platform_that_is_not_there_or_was_not_closed_tells_no_key(name, leaks):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # nothing listens there
        key = KEYS[f"{name}, text"].value
        platform = APIS[name].make(base_url=f"http://127.0.0.1:{port}", api_key=key, model="m")
        del key
        asyncio.run(_refused(platform, leaks), debug=True)


async def _refused(platform: Platform, leaks: Leaks) -> None:
    try:
        await platform.send(Request((Message("user", "a"),), "m"))
    except Exception as error:  # noqa: BLE001 - whatever it is must not tell the key
        leaks.add_error("refused", error, displays=True)
    else:
        raise AssertionError("somebody answered")


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_key_to_another_address(name, status, leaks):
    with ProviderServer() as elsewhere:
        moved = Fault("raw", status, headers={"location": f"{elsewhere.base_url}/chat/completions"})
        with ProviderServer(script=lambda received: moved) as server:
            key = KEYS[f"{name}, text"].value
            platform = APIS[name].make(base_url=APIS[name].base_url(server), api_key=key, model="m")
            del key
            asyncio.run(_moved(platform, leaks))
            assert [received.status for received in server.requests] == [status] * 2
        assert elsewhere.stats().get("connections", 0) == 0


async def _moved(platform: Platform, leaks: Leaks) -> None:
    for way in (platform.send, _streamed(platform)):
        try:
            await way(Request((Message("user", "a"),), "m"))
        except Exception as error:  # noqa: BLE001 - whatever it is must not tell the key
            leaks.add_error("moved", error)
        else:
            raise AssertionError("it went there")
    await platform.close()


# --- command-line clients: what they are given, and what they tell

CLIENT = """\
#!{python}
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/children", "a") as kept:
    kept.write(json.dumps({{"argv": sys.argv, "env": dict(os.environ)}}) + "\\n")
mode = open(here + "/mode").read()
words = sys.argv[1:]
said = " ".join(value for name, value in os.environ.items() if "KEY" in name or "TOKEN" in name)
if "--version" in words:
    print("99.0.0")
elif words[:2] == ["features", "list"]:
    print("shell_tool stable true")
elif words[:2] == ["debug", "models"]:
    print(json.dumps({{"models": [{{"slug": "m"}}]}}))
elif words[:2] == ["auth", "status"]:
    print(json.dumps({{"loggedIn": True, "authMethod": said, "apiProvider": "firstParty"}}))
elif mode == "hangs":
    time.sleep(60)
elif mode == "dies":
    print(said)
    print("Error:", said, file=sys.stderr)
    sys.exit(1)
else:
    print(json.dumps({{"type": "turn.failed", "error": {{"message": said}}}}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line) if line.startswith("{{") else {{}}
        if asked.get("type") == "control_request":
            told = {{"subtype": mode, "request_id": asked["request_id"], "error": said, "response": {{}}}}
            if mode == "success":
                told["response"] = {{"account": {{"subscriptionType": "max", "tokenSource": "claude.ai"}}}}
            print(json.dumps({{"type": "control_response", "response": told}}), flush=True)
        elif asked.get("type") == "user" and asked.get("uuid") and "isReplay" not in asked:
            print(json.dumps({{"type": "result", "subtype": "success", "is_error": True, "result": said}}), flush=True)
        elif "jsonrpc" in asked:
            refusal = {{"code": 401, "message": said, "data": {{"details": said}}}}
            print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "error": refusal}}), flush=True)
"""

CLIENTS: dict[str, tuple[Callable[..., Platform], str, dict[str, Any]]] = {  # class, the variable of its login, options
    "Claude Code": (ClaudeCode, "CLAUDE_CODE_OAUTH_TOKEN", {}),
    "Codex": (Codex, "CODEX_API_KEY", {"tier": "paid"}),
    "Gemini CLI": (GeminiCLI, "GEMINI_API_KEY", {"login": "gemini-api-key"}),
}


@pytest.mark.parametrize("mode", ["dies", "error", "success", "hangs", "is missing"])
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_its_own_key_alone_and_tells_it_to_nobody(name, mode, tmp_path, leaks):
    login = LOGINS[list(CLIENTS).index(name)]
    make, variable, options = CLIENTS[name]
    binary = tmp_path / "bin" / "client"
    binary.parent.mkdir()
    if mode != "is missing":
        binary.write_text(CLIENT.format(python=sys.executable))
        binary.chmod(0o700)
    (binary.parent / "mode").write_text(mode)
    platform = make("mine", binary=str(binary), model="m", env={variable: login.value}, **options)
    asyncio.run(_of_a_client(platform, leaks, displays=mode == "dies"), debug=True)
    with Orchestrator(tmp_path / "project", platforms=[platform], settings={"attempts": 1}) as orch:
        with pytest.raises(TaskFailed) as caught:
            orch.run_sync("a", timeout_s=1)
        leaks.add_error("run", caught.value)
        leaks.add_value("result", caught.value.result)
        leaks.add_value("orchestrator", orch)
        leaks.add_value("platforms", orch.platforms)
    leaks.add_value("probe", make.probe(str(binary)))
    leaks.add_files(tmp_path / "project")
    if mode == "is missing":
        return
    children = [json.loads(line) for line in (binary.parent / "children").read_text().splitlines()]
    assert any(login.value in child["env"].values() for child in children), "it is really given"
    for child in children:
        leaks.add_process(name, child, meant=login.number)


async def _of_a_client(platform: Any, leaks: Leaks, *, displays: bool = False) -> None:
    asyncio.get_running_loop().slow_callback_duration = 0.0
    for way in (platform.send, _streamed(platform)):
        try:
            leaks.add("answer", await way(Request((Message("user", "a"),), "m", timeout_s=1)))
        except Exception as error:  # noqa: BLE001 - whatever it is must not tell the key
            leaks.add_error("client", error, displays=displays and way == platform.send)
        else:
            raise AssertionError("it answered")
    leaks.add_value("client", platform, copies=False)
    await platform.close()


# --- what is found in the environment, and the shell


def test_what_was_found_of_the_platforms_shows_no_key(tmp_path, leaks):
    with Orchestrator(tmp_path) as orch:
        assert {"openai", "anthropic", "gemini", "groq", "openrouter"} <= {f.name for f in orch.findings if f.platform}
        for where, value in {"platforms": orch.platforms, "orchestrator": orch, "findings": orch.findings}.items():
            leaks.add_value(where, value)
        leaks.add("frame", orch.platforms.to_pandas().to_csv())


SHELL = {
    "platforms": ("platforms",),
    "platforms as JSON": ("platforms", "--format", "json"),
    "a refused key": ("submit", "--prompt", "key refused", "--platform", "openai"),
    "a refused key as JSON": ("submit", "--prompt", "key repeated", "--platform", "openai", "--format", "json"),
    "a redirect": ("submit", "--prompt", "moved, plainly", "--platform", "openai"),
    "a wrong option": ("submit", "--prompt", "a", "--platform", "opnai"),
}


@pytest.mark.parametrize("words", SHELL.values(), ids=SHELL)
def test_no_command_prints_a_key(words, provider, tmp_path, leaks):
    variables = {name: os.environ[name] for name in (*STRANGERS, *(api.variable for api in APIS.values()), "PATH")}
    if words[0] == "submit":  # nothing may leave this machine, and the addresses of these two are fixed
        del variables["GROQ_API_KEY"], variables["OPENROUTER_API_KEY"]
    home = {"HOME": str(tmp_path), "ORCHESTRAI_DATA_DIR": str(tmp_path / "person"), "PYTHONASYNCIODEBUG": "1"}
    where = {api.address: api.base_url(provider) for api in APIS.values()}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrai", *words],
        cwd=tmp_path,
        env={**variables, **home, **where},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode == 0) == (words[0] == "platforms"), done.stderr
    assert done.stdout + done.stderr
    leaks.add("stdout", done.stdout)
    leaks.add("stderr", done.stderr)
    leaks.add_files(tmp_path)
    if words[0] == "submit" and "opnai" not in words:
        assert provider.keys >= found_in(os.environ["OPENAI_API_KEY"])


# --- mistakes beside a key

BROKEN = {
    "a wrong tier": {"kind": "openai", "tier": "payd"},
    "a wrong field": {"kind": "openai", "base_ur": "x"},
    "a wrong kind": {"kind": "opnai"},
    "a wrong address": {"kind": "openai", "base_url": "nowhere"},
    "a wrong limit": {"kind": "openai", "limits": {"rmp": 1}},
}


@pytest.mark.parametrize("table", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("source", ["environment", "file", "pyproject"])
def test_a_mistake_in_the_settings_shows_no_key(tmp_path, monkeypatch, table, source, leaks):
    monkeypatch.setenv("CANARY_KEY", CANARIES[0].value)
    name = "pyproject.toml" if source == "pyproject" else "orchestrai.toml"
    _write_settings(tmp_path, name, table, "env:CANARY_KEY" if source == "environment" else CANARIES[0].value)
    with Orchestrator(tmp_path) as orch:
        leaks.add_value("orchestrator", orch)
        leaks.add_value("settings", orch.settings)
        with pytest.raises(InvalidSettings) as caught:
            orch.run_sync("a")
        leaks.add_error("the mistake", caught.value)


def _write_settings(folder: Path, name: str, fields: dict[str, Any], key: str, more: str = "") -> None:
    prefix = "tool.orchestrai." if name == "pyproject.toml" else ""
    inner = {k: v for k, v in fields.items() if isinstance(v, dict)}
    lines = [f"[{prefix}platforms.mine]", f'api_key = "{key}"']
    lines += [f'{k} = "{v}"' for k, v in fields.items() if k not in inner]
    for table, values in inner.items():
        lines += [f"[{prefix}platforms.mine.{table}]", *(f"{k} = {v}" for k, v in values.items())]
    (folder / name).write_text("\n".join([more, *lines]) + "\n")


@pytest.mark.parametrize("mistake", ["atempts = 3", "attempts = 0", "= =", 'attempts = "many"'])
def test_another_mistake_in_a_file_with_a_key_shows_no_key(tmp_path, mistake, leaks):
    _write_settings(tmp_path, "orchestrai.toml", {"kind": "openai"}, CANARIES[1].value, mistake)
    with pytest.raises(InvalidSettings) as caught:
        Orchestrator(tmp_path)
    leaks.add_error("the mistake", caught.value)


def test_a_mistake_among_the_variables_shows_none_of_the_others(tmp_path, monkeypatch, leaks):
    monkeypatch.setenv("ORCHESTRAI_ATEMPTS", "3")
    with pytest.raises(InvalidSettings) as caught:
        Orchestrator(tmp_path)
    leaks.add_error("the mistake", caught.value)


@pytest.mark.parametrize("name", APIS)
def test_a_constructor_that_refuses_shows_no_key(name, leaks):
    wrong = {"tier": "payd", "base_url": "nowhere", "limits": {"rmp": 1}, "price": {"a": 1}, "concurrency": 0}
    for field, value in wrong.items():
        with pytest.raises(InvalidSettings) as caught:
            APIS[name].make(api_key=KEYS[f"{name}, text"].value, **{field: value})
        leaks.add_error(field, caught.value)


# --- the controls: each way in which a key could be told is one that the search looks into


class Careless:
    """A value that shows what it holds in one way, which is not its repr."""

    def __init__(self, way: str, text: str) -> None:
        def told(*_: object) -> str:
            return text

        self.__class__ = type("Careless", (Careless,), {way: told, "__module__": __name__})

    def __repr__(self) -> str:
        return "Careless()"


class Holder:
    """A value that hides what it holds."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __repr__(self) -> str:
        return "Holder()"


@pytest.mark.parametrize("way", ["__repr__", "__str__", "__format__", "_repr_html_", "_repr_mimebundle_"])
def test_the_search_finds_what_a_value_shows(way):
    leaks = Leaks()
    leaks.add_value("value", [Holder({"a": Careless(way, CANARIES[2].value)})])
    assert any(numbers == [2] for numbers in leaks.found.values())
    leaks = Leaks()
    leaks.add_value("value", Holder(("a", CANARIES[3].value)))
    assert {"repr of value.held[]", "pickle of value"} <= set(leaks.found)


def test_the_search_finds_a_part_of_a_key_in_text_bytes_and_addresses():
    for text in ("see {}", "http://127.0.0.1/v1?key={}", "{{'a': '{}'}}"):
        for canary in CANARIES:
            assert found_in(text.format(canary.value)) == {canary.number}
            assert found_in(text.format(quote(canary.value)).encode()) == {canary.number}
    assert found_in("no word of it here") == set()


def test_the_search_finds_what_an_error_shows():
    def fails(key: str) -> None:
        raise ValueError("no word of it here")

    def hides(key: str) -> None:
        try:
            fails(key)
        except ValueError:
            raise KeyError("nor here") from None

    leaks = Leaks()
    for call in (fails, hides):
        try:
            call(CANARIES[4].value)
        except (ValueError, KeyError) as error:
            leaks.add_error(call.__name__, error, displays=True)
    wanted = {"locals of fails (ValueError)", "IPython's traceback of fails", "rich's traceback of fails"}
    assert wanted | {"locals of hides (ValueError)"} <= set(leaks.found)
    leaks = Leaks()
    leaks.add_error("words", ValueError(CANARIES[5].value))
    assert {"traceback of words (ValueError)", "repr of words (ValueError)"} <= set(leaks.found)


def test_the_search_finds_what_is_logged_warned_and_printed(caplog, capfd):
    with watched(caplog, capfd) as leaks:
        logging.getLogger("aiohttp.client").debug("sent %s", CANARIES[6].value)
        warnings.warn(CANARIES[7].value, ResourceWarning, stacklevel=1)
        print(CANARIES[8].value, file=sys.stderr)
        os.write(1, CANARIES[9].value.encode())
    assert leaks.found == {"log of aiohttp.client": [6], "log": [6], "warnings": [7], "printed": [8, 9]}


def test_the_search_finds_what_the_ledger_keeps(tmp_path):
    leaks = Leaks()
    with Orchestrator(tmp_path, platforms=[ScriptedPlatform()]) as orch:
        leaks.add_value("batch", orch.batch_sync([f"my key is {CANARIES[10].value}"]))
        assert any(" batch" in where for where in leaks.found)
        leaks.add_files(tmp_path)
        assert leaks.found.pop("file ledger.db-wal") == [10]
    leaks.add_files(tmp_path)
    assert leaks.found["file ledger.db"] == [10]


def test_the_search_finds_what_a_child_is_given_beside_its_own_key(tmp_path):
    binary = tmp_path / "client"
    binary.write_text(CLIENT.format(python=sys.executable))
    binary.chmod(0o700)
    (tmp_path / "mode").write_text("dies")
    given = {"CODEX_API_KEY": CANARIES[11].value, "OTHER_KEY": CANARIES[12].value}
    platform = Codex(binary=str(binary), model="m", tier="paid", env=given, config={"x": CANARIES[13].value})
    asyncio.run(_of_a_client(platform, Leaks()))
    leaks = Leaks()
    for line in (tmp_path / "children").read_text().splitlines():
        leaks.add_process("Codex", json.loads(line), meant=CANARIES[11].number)
    assert leaks.found == {"variable OTHER_KEY of Codex": [12], "arguments of Codex": [13]}


def test_the_provider_refuses_a_key_in_an_address(provider):
    url = f"{provider.base_url}/chat/completions?key={CANARIES[14].value}"
    with pytest.raises(OSError, match=r"."):
        urllib.request.urlopen(urllib.request.Request(url, data=b'{"messages":[]}'), timeout=5)
    assert [found_in(received.path) for received in provider.requests] == [{14}]
    provider.requests.clear()
