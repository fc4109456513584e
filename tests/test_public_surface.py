"""The public surface: cheap to import, named, documented and typed."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import typing
from pathlib import Path

import pytest
from loopback import finished

import orchestrai
import orchestrai.platforms
import orchestrai.testing
from orchestrai import OrchestraiError, Orchestrator, Task

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
        if inspect.isclass(value) and issubclass(value, BaseException) and not issubclass(value, Warning):
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
