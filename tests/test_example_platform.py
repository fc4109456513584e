"""The platform of docs/how-to/add_a_platform.md works as the page says, and passes the suite it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrai import Orchestrator

PAGE = (Path(__file__).parent.parent / "docs" / "how-to" / "add_a_platform.md").read_text()
FUNCTION, CLASS, SUITE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PACKAGE, SETTINGS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

exec(compile(CLASS + SUITE, "add_a_platform.md", "exec"))  # the suite's class is collected from here


def test_the_function_of_the_page_answers(capsys):
    exec(compile(FUNCTION, "add_a_platform.md", "exec"), names := {})
    names["orch"].close()
    assert capsys.readouterr().out == "WHO IS THERE?\n"


def test_the_class_of_the_page_answers_and_costs_nothing(tmp_path):
    with Orchestrator(tmp_path, platforms=[FirstSentence()]) as orch:  # noqa: F821  # of the page
        result = orch.run_sync("Return the sine. The argument is in radians.")
    assert result.output == "Return the sine."
    assert (result.platform, result.cost, result.usage.input_tokens) == ("first_sentence", 0, 8)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The page's package, as pip would have installed it."""
    site = tmp_path / "site"
    about = site / "orchestrai_first_sentence-1.dist-info"
    about.mkdir(parents=True)
    (site / "first_sentence.py").write_text(CLASS)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: orchestrai-first-sentence\nVersion: 1\n")
    group, line = re.search(r'\[project\.entry-points\."(.+)"\]\n(.+)\n', PACKAGE).groups()
    (about / "entry_points.txt").write_text(f"[{group}]\n{line}\n".replace('"', ""))
    monkeypatch.syspath_prepend(site)


def test_the_entry_point_of_the_page_makes_it_a_kind_of_the_settings(installed, tmp_path):
    (tmp_path / "orchestrai.toml").write_text(SETTINGS)
    with Orchestrator(tmp_path) as orch:
        assert orch.platforms["baseline"].found
        assert orch.run_sync("One. Two.", platform="baseline", strict=True).output == "One."
