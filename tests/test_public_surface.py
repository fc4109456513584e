"""The public surface: cheap to import, named, documented, typed, and without a key in any text it shows or keeps."""

from __future__ import annotations

import asyncio
import copy
import importlib
import importlib.metadata
import inspect
import logging
import os
import pickle  # noqa: TID251 - what a pickle tells is looked at; none is loaded
import traceback
import typing
from pathlib import Path

import pytest
from loopback import finished, orchestrator

import orchestrai
import orchestrai.platforms
import orchestrai.testing
from orchestrai import InvalidSettings, OrchestraiError, Orchestrator, Task, TaskFailed
from orchestrai.platforms import OpenAI
from orchestrai.testing import Fault, ProviderServer, ScriptedPlatform

HEAVY = (
    "pandas",
    "numpy",
    "duckdb",
    "plotly",
    "chromadb",
    "ipywidgets",
    "anywidget",
    "IPython",
    "rich",
    "typer",
    "aiohttp",
    "pydantic",
    "jsonschema",
    "tiktoken",
    "genai_prices",
    "tenacity",
    "xllamacpp",
    "sqlalchemy",
)


# --- importing -------------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy(tmp_path):
    script = """
        import sys
        import orchestrai, orchestrai.platforms, orchestrai.testing
        from orchestrai import Orchestrator, Task
        orch = Orchestrator(sys.argv[1])
        print(*(name for name in sys.argv[2:] if name in sys.modules))
    """
    assert finished(script, tmp_path, *HEAVY).split() == []
    control = "import sys; import pandas; print(*(name for name in sys.argv[2:] if name in sys.modules))"
    assert "pandas" in finished(control, tmp_path, *HEAVY).split()


def test_a_call_loads_no_frames_no_notebook_and_no_analysis(tmp_path):
    script = """
        import asyncio, sys
        from orchestrai import Orchestrator

        async def upper(request):
            return request.messages[-1].text.upper()

        with Orchestrator(sys.argv[1], platforms=[upper]) as orch:
            asyncio.run(orch.batch(["a"]))
        print(*(name for name in sys.argv[2:] if name in sys.modules))
    """
    lazy = (
        "pandas",
        "duckdb",
        "plotly",
        "chromadb",
        "ipywidgets",
        "IPython",
        "rich",
        "tiktoken",
        "aiohttp",
    )
    assert finished(script, tmp_path, *lazy).split() == []


@pytest.mark.parametrize("module", [orchestrai, orchestrai.platforms, orchestrai.testing], ids=lambda m: m.__name__)
def test_every_public_name_exists_once_and_in_order_and_is_documented(module):
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018 - asking is the test


def _public(cls):
    return {
        name: member
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property | classmethod))
        and getattr(member, "__name__", name) != "<lambda>"  # a field's default
    }


def _classes():
    for module in (orchestrai, orchestrai.platforms, orchestrai.testing):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("cls", list(_classes()))
def test_every_public_method_is_documented_and_typed(cls):
    for name, member in _public(cls).items():
        function = member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "__func__", member))
        assert (function.__doc__ or "").strip(), name
        hints = function.__annotations__
        assert "return" in hints, name
        code = function.__code__
        count = code.co_argcount + code.co_kwonlyargcount
        more = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        for argument in code.co_varnames[: count + more]:
            assert argument in hints or argument in ("self", "cls"), f"{name}({argument})"


def test_the_type_marker_ships():
    assert (Path(orchestrai.__file__).parent / "py.typed").is_file()
    assert orchestrai.__version__ == importlib.metadata.version("orchestrai")


def test_the_errors_are_one_tree():
    for name in orchestrai.__all__:
        value = getattr(orchestrai, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            assert issubclass(value, OrchestraiError), name
    for name in ("InvalidPrompt", "InvalidTemplate", "InvalidSchema", "InvalidSettings", "ColumnExists"):
        assert issubclass(getattr(orchestrai, name), ValueError)


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sync", "twin"), [("run_sync", "run"), ("batch_sync", "batch"), ("start", "batch"), ("as_completed", "batch")]
)
def test_a_sync_call_has_the_parameters_of_its_twin(sync, twin):
    shown = inspect.signature(getattr(Orchestrator, sync))
    assert shown.parameters == inspect.signature(getattr(Orchestrator, twin)).parameters
    orch = Orchestrator(platforms=[])
    assert inspect.signature(getattr(orch, sync)).parameters == inspect.signature(getattr(orch, twin)).parameters


def test_every_call_says_what_it_returns():
    returns = {name: str(inspect.signature(getattr(Orchestrator, name)).return_annotation) for name in CALLS}
    assert returns == CALLS


CALLS = {
    "run": "Call[Result]",
    "batch": "Call[BatchResult]",
    "run_sync": "Result",
    "batch_sync": "BatchResult",
    "start": "Handle",
    "as_completed": "AsyncIterator[Result]",
    "stream": "AnswerStream",
    "wait": "T",
}


def test_options_are_keyword_only_and_of_one_set_of_names():
    batch = inspect.signature(Orchestrator.batch).parameters
    run = inspect.signature(Orchestrator.run).parameters
    for parameters in (batch, run):
        _, first, *options = parameters.values()
        assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert {option.kind for option in options} == {inspect.Parameter.KEYWORD_ONLY}
    own = {name for name in inspect.signature(Task).parameters if name not in ("prompt", "context")}
    assert own <= set(batch)
    assert own - {"samples"} <= set(run)
    hints = typing.get_type_hints(importlib.import_module("orchestrai.options").CallOptions)
    assert set(hints) == set(batch) - {"self", "prompts"}


# --- no key in any text ----------------------------------------------------------------------------------------------

CANARY = "canary-7f3a9c51d2e84b60-of-this-test"  # looks like no known key, so that no pattern hides it by luck


class Leaks:
    """Collects texts and finds the canary in them."""

    def __init__(self):
        self.texts = {}

    def add(self, where, value):
        self.texts[where] = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")

    def add_value(self, where, value):
        self.add(f"repr of {where}", repr(value))
        self.add(f"str of {where}", value)
        bundle = getattr(value, "_repr_mimebundle_", None)
        if bundle is not None:
            self.add(f"display of {where}", bundle())
        try:
            self.add(f"pickle of {where}", pickle.dumps(value))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self.add_error(f"pickling {where}", error)
        self.add(f"vars of {where}", {k: repr(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else "")

    def add_error(self, where, error):
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        self.add(f"traceback of {where}", "".join(told.format()))
        self.add(f"repr of {where}", repr(error))

    def add_files(self, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                self.add(f"file {path.name}", path.read_bytes())

    def found(self):
        return [where for where, text in self.texts.items() if CANARY.encode() in text]


@pytest.fixture
def key(monkeypatch):
    """Put the canary where a person's key is, without a local of any frame that holds it."""
    monkeypatch.setenv("CANARY_KEY", CANARY)


SCRIPT = {
    "success": None,
    "refused": Fault("status", 401, message=f"Incorrect API key provided: {CANARY}."),
    "limited": Fault("status", 429, headers={"retry-after": "9999"}, message=f"Rate limit for {CANARY}"),
    "late": "hang",
    "cut": "cut_body",
    "odd": "malformed",
    "redirect": Fault("redirect", location=f"/x?key={CANARY}"),
    "words": Fault("status", 500, message=f"Authorization: Bearer {CANARY}"),
    "html": Fault("raw", 400, body=f"<html>{CANARY}</html>".encode()),
    "text": Fault("raw", 400, body=f"your key is {CANARY}".encode()),
}


def _tried(leaks, where, call):
    try:
        leaks.add_value(f"value of {where}", call())
    except Exception as error:  # noqa: BLE001 - whatever it is must not tell the key
        leaks.add_error(where, error)
        if isinstance(error, TaskFailed):
            leaks.add_value(f"result of {where}", error.result)


def test_no_key_is_in_any_text_error_log_or_ledger(tmp_path, key, caplog):
    caplog.set_level(logging.DEBUG)
    leaks = Leaks()

    def script(received):
        assert CANARY.encode() in received.head  # it is really sent
        return SCRIPT.get(received.prompt)

    with ProviderServer(script=script) as server:
        platform = OpenAI(base_url=server.base_url, api_key=lambda: os.environ["CANARY_KEY"], model="m")
        with orchestrator(tmp_path, platform, attempts=1) as orch:
            for prompt in SCRIPT:
                task = Task(
                    prompt, model=f"model of {prompt}", timeout_s=0.5
                )  # no refusal keeps another from being sent
                _tried(leaks, prompt, lambda task=task: orch.run_sync(task))
                _tried(leaks, f"await {prompt}", lambda task=task: asyncio.run(orch.run(task)))
            tasks = [Task(prompt, model=f"model of {prompt}", timeout_s=0.5) for prompt in SCRIPT]
            batch = orch.batch_sync(tasks, reuse=False)
            assert batch.success_count == 1
            leaks.add_value("batch", batch)
            leaks.add("frame", batch.to_pandas().to_csv())
            _tried(leaks, "failures", batch.raise_for_failures)
            stream = orch.stream("refused")
            _tried(leaks, "stream", lambda: asyncio.run(_streamed(stream)))
            leaks.add_value("stream", stream)
            handle = orch.start(["late"])
            leaks.add_value("handle", handle)
            handle.cancel()
            leaks.add_value("part", handle.wait())
            for where, value in {"orchestrator": orch, "platform": platform, "call": orch.run("a")}.items():
                leaks.add_value(where, value)
                _tried(leaks, f"copy of {where}", lambda value=value: copy.deepcopy(value))
            leaks.add("findings", orch.findings)
            leaks.add("settings", orch.settings)
    leaks.add_files(tmp_path)
    leaks.add("log", caplog.text)
    assert len(leaks.texts) > 100
    assert leaks.found() == []


async def _streamed(stream):
    return [piece async for piece in stream]


BROKEN = {
    "a wrong tier": {"kind": "openai", "tier": "payd"},
    "a wrong field": {"kind": "openai", "base_ur": "x"},
    "a wrong kind": {"kind": "opnai"},
    "a wrong address": {"kind": "openai", "base_url": "nowhere"},
    "a wrong limit": {"kind": "openai", "limits": {"rmp": 1}},
}


@pytest.mark.parametrize("table", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("source", ["environment", "file", "pyproject"])
def test_a_mistake_in_the_settings_shows_no_key(tmp_path, key, table, source):
    leaks = Leaks()
    name = "pyproject.toml" if source == "pyproject" else "orchestrai.toml"
    _write_settings(tmp_path, name, {**table, "api_key": "env:CANARY_KEY" if source == "environment" else CANARY})
    with Orchestrator(tmp_path) as orch:
        leaks.add_value("orchestrator", orch)
        leaks.add_value("settings", orch.settings)
        with pytest.raises(InvalidSettings) as caught:
            orch.run_sync("a")
        leaks.add_error("the mistake", caught.value)
    assert leaks.found() == []


def _write_settings(folder, name, fields, more=""):
    prefix = "tool.orchestrai." if name == "pyproject.toml" else ""
    inner = {k: v for k, v in fields.items() if isinstance(v, dict)}
    lines = [f"[{prefix}platforms.mine]", *(f'{k} = "{v}"' for k, v in fields.items() if k not in inner)]
    for table, values in inner.items():
        lines += [f"[{prefix}platforms.mine.{table}]", *(f"{k} = {v}" for k, v in values.items())]
    (folder / name).write_text("\n".join([more, *lines]) + "\n")


@pytest.mark.parametrize("mistake", ["atempts = 3", "attempts = 0", "= =", 'attempts = "many"'])
def test_another_mistake_in_a_file_with_a_key_shows_no_key(tmp_path, key, mistake):
    _write_settings(tmp_path, "orchestrai.toml", {"kind": "openai", "api_key": CANARY}, mistake)
    leaks = Leaks()
    with pytest.raises(InvalidSettings) as caught:
        Orchestrator(tmp_path)
    leaks.add_error("the mistake", caught.value)
    assert leaks.found() == []


def test_a_mistake_among_the_variables_shows_none_of_the_others(tmp_path, key, monkeypatch):
    monkeypatch.setenv("ORCHESTRAI_ATEMPTS", "3")
    leaks = Leaks()
    with pytest.raises(InvalidSettings) as caught:
        Orchestrator(tmp_path)
    leaks.add_error("the mistake", caught.value)
    assert leaks.found() == []


def test_a_constructor_that_refuses_shows_no_key():
    leaks = Leaks()
    wrong = {"tier": "payd", "base_url": "nowhere", "limits": {"rmp": 1}, "price": {"a": 1}, "concurrency": 0}
    for field, value in wrong.items():
        with pytest.raises(InvalidSettings) as caught:
            OpenAI(**{"api_key": CANARY, field: value})
        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        ours = [frame for frame in told.stack if "orchestrai" in Path(frame.filename).parts]
        assert ours
        leaks.add(field, [frame.locals for frame in ours])
    assert leaks.found() == []


def test_the_search_finds_a_key_that_is_there(tmp_path):
    """The control: each way in which a key could be told is one that the search looks into."""
    leaks = Leaks()

    class Careless:
        def __init__(self):
            self.kept = CANARY

        def __repr__(self):
            return "Careless()"

    def fails():
        local = CANARY  # noqa: F841 - a traceback with locals shows it
        raise ValueError("no word of it here")

    leaks.add_value("object", Careless())
    try:
        fails()
    except ValueError as error:
        leaks.add_error("error", error)
    with orchestrator(tmp_path, ScriptedPlatform()) as orch:
        orch.run_sync(f"my key is {CANARY}")
        leaks.add_value("batch", orch.batch_sync([f"my key is {CANARY}"]))
    leaks.add_files(tmp_path)
    found = leaks.found()
    assert {"vars of object", "traceback of error", "repr of batch", "file ledger.db"} & set(found) >= {
        "vars of object",
        "traceback of error",
        "file ledger.db",
    }
    assert any("batch" in where for where in found)
