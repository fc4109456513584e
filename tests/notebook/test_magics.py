"""The magics, in a real IPython shell."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from loopback import orchestrator

import orchestrai
from orchestrai.magics import TOPICS, complete, filled
from orchestrai.testing import ScriptedPlatform


@dataclass(frozen=True)
class Kind:
    """The kind of a ticket."""

    kind: Literal["bug", "billing"]


@pytest.fixture
def shell(tmp_path):
    made = InteractiveShell()
    made.run_line_magic("load_ext", "orchestrai")
    with orchestrator(tmp_path, ScriptedPlatform(), ScriptedPlatform("other")) as orch:
        made.user_ns.update(orch=orch, Kind=Kind, city="Oslo")
        yield made
    made.history_manager.end_session()


def test_a_cell_of_text_is_answered_by_the_notebooks_own_orchestrator(shell):
    result = shell.run_cell_magic("orch", "--platform other -o answer", "Where is {city}? {{not a name}} {1}\n")
    assert result.platform == "other"
    assert result.task.prompt == "Where is Oslo? {not a name} {1}"
    assert shell.user_ns["answer"] is result
    assert shell.user_ns["orch"].last_batch is None


def test_a_schema_of_the_notebook_validates_the_answer(shell):
    result = shell.run_cell_magic("orch", "-s Kind", "What is this?")
    assert isinstance(result.parsed, Kind)


def test_a_failure_is_shown_and_not_raised(shell, tmp_path):
    with orchestrator(tmp_path / "b", ScriptedPlatform(faults=lambda *_: "request")) as orch:
        shell.user_ns["orch"] = orch
        result = shell.run_cell_magic("orch", "", "x")
        assert (result.status, result.error_class) == ("failed", "request")


@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_shows_something(shell, topic):
    shell.run_cell_magic("orch", "", "one")
    shown = shell.run_line_magic("orch", topic)
    assert len(shown) >= (0 if topic == "quota" else 1)
    assert hasattr(shown, "_repr_mimebundle_") or hasattr(shown, "_repr_html_")


def test_alone_it_shows_the_orchestrator(shell):
    assert shell.run_line_magic("orch", "") is shell.user_ns["orch"]


@pytest.mark.parametrize(
    ("line", "cell", "told"),
    [
        ("cost", None, "Did you mean 'costs'"),
        ("costs quota", None, "one of costs, quota"),
        ("--schema Kinds", "x", "Did you mean 'Kind'"),
        ("-o 3x", "x", "no name of a variable"),
        ("-o class", "x", "no name of a variable"),
        ("costs", "x", "'costs' is none"),
        ("", "{town}", "no variable 'town'"),
    ],
)
def test_a_mistake_is_told_in_a_line_with_what_to_do(shell, line, cell, told):
    with pytest.raises(UsageError, match=told):
        shell.run_line_magic("orch", line) if cell is None else shell.run_cell_magic("orch", line, cell)


def test_variables_are_names_and_never_attributes_or_formats():
    hidden = SimpleNamespace(key="secret")
    for form in ("{a.key}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "{ a }"):
        assert filled(form, {"a": hidden}) == form
    assert filled("{a} {{a}} {{{a}}}", {"a": "{b}", "b": 1}) == "{b} {a} {{b}}"


def test_completion_knows_topics_options_platforms_and_variables(shell):
    def completed(line):
        return complete(shell, SimpleNamespace(line=line))

    assert completed("%orch ") == [*TOPICS]
    assert "--schema" in completed("%%orch --")
    assert completed("%%orch -p ") == ["scripted", "other"]
    assert completed("%%orch --platform ot") == ["scripted", "other"]
    assert "Kind" in completed("%%orch --schema ")
    with provisionalcompleter():
        assert "costs" in [found.text for found in shell.Completer.completions("%orch co", 8)]


def test_the_magics_leave_with_the_extension(shell):
    orchestrai.unload_ipython_extension(shell)
    assert "orch" not in shell.magics_manager.magics["line"]
    assert "orch" not in shell.magics_manager.magics["cell"]


def test_an_error_of_ours_is_shown_in_the_lines_of_the_person_and_its_message(shell, capsys):
    shell.run_cell(
        "def ask():\n    return orch.run_sync('{', platform='nowhere', api_key='sk-1234567890abcdefghijkl')\nask()"
    )
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line.strip()]
    assert "api_key" in lines[-1]
    shell.run_cell("def ask():\n    return orch.batch_sync([{'a': 1}], prompt='{b}')\nask()")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 3
    assert lines[0].endswith("ask()")
    assert "batch_sync" in lines[1]
    assert lines[2].startswith("InvalidTemplate: ")
