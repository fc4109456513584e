"""Settings come from the nearest file, the environment and arguments, and a mistake in any of them is named."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrai
from orchestrai import settings as settings_module
from orchestrai.errors import InvalidSettings
from orchestrai.platforms.catalogue import with_settings
from orchestrai.settings import OTHER_VARIABLES, Settings, load, project_of

DOCS = Path(__file__).parents[1] / "docs" / "how-to"
SECRET = "sk-canary-0123456789abcdef"


@pytest.fixture
def folder(tmp_path):
    """A folder that no file above it sets anything for."""
    deep = tmp_path / "project" / "notebooks" / "deep"
    deep.mkdir(parents=True)
    return deep


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- where they come from


def test_without_anything_the_defaults_hold(folder):
    assert load(folder, env={}) == Settings()
    warned = ((50.0, 80.0, 90.0), 10_000, None)
    tables = ({}, {}, {}, {}, ())
    assert Settings() == Settings(
        None, 6, 1, 300.0, None, True, True, "auto", Decimal(1), *warned, 500, "head_tail", False, *tables
    )


def test_the_nearest_file_upwards_counts(folder, tmp_path):
    write(tmp_path / "orchestrai.toml", "attempts = 2\nrepair_attempts = 0")
    write(tmp_path / "project" / "orchestrai.toml", "attempts = 7")
    found = load(folder, env={})
    assert (found.attempts, found.repair_attempts) == (7, 1)


def test_a_pyproject_counts_only_with_our_table(folder, tmp_path):
    write(tmp_path / "orchestrai.toml", "attempts = 2")
    write(folder / "pyproject.toml", '[project]\nname = "x"\ndependencies = ["orchestrai"]')
    assert load(folder, env={}).attempts == 2
    write(folder.parent / "pyproject.toml", "[tool.orchestrai]\nattempts = 9")
    assert load(folder, env={}).attempts == 9


def test_our_own_file_counts_before_the_pyproject_beside_it(folder):
    write(folder / "pyproject.toml", "[tool.orchestrai]\nattempts = 9")
    write(folder / "orchestrai.toml", "attempts = 3")
    assert load(folder, env={}).attempts == 3


def test_the_environment_wins_over_the_file_and_arguments_over_both(folder):
    write(folder / "orchestrai.toml", 'attempts = 2\nprogress = "text"\ntimeout_s = 10')
    found = load(folder, {"attempts": 6}, {"ORCHESTRAI_ATTEMPTS": "5", "ORCHESTRAI_PROGRESS": "off"})
    assert (found.attempts, found.progress, found.timeout_s) == (6, "off", 10.0)


def test_tables_are_joined_by_name(folder):
    write(folder / "orchestrai.toml", "[prices]\n'a/b' = {input_mtok = 1}\n'c/d' = {input_mtok = 2}")
    found = load(folder, {"prices": {"c/d": {"input_mtok": 3}, "e/f": {"input_mtok": 4}}}, {})
    assert {name: row["input_mtok"] for name, row in found.prices.items()} == {"a/b": 1, "c/d": 3, "e/f": 4}


def test_the_folder_of_a_file_is_where_its_search_begins(folder):
    write(folder / "orchestrai.toml", "attempts = 3")
    notebook = write(folder / "a.ipynb", "{}")
    assert load(notebook, env={}).attempts == 3
    assert load(folder / "nowhere" / ".." / "x" / "..", env={}).attempts == 3


def test_the_working_directory_and_the_process_environment_are_the_default(folder):
    write(folder / "orchestrai.toml", "attempts = 3")
    code = "from orchestrai.settings import load; s = load(); print(s.attempts, s.ask_above)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(orchestrai.__file__).parent.parent), "ORCHESTRAI_ASK_ABOVE": "2.5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["3", "2.5"]


def test_a_relative_folder_is_relative_to_the_file_that_names_it(folder):
    write(folder.parent / "orchestrai.toml", 'data_dir = "ledger"')
    assert load(folder, env={}).data_dir == folder.parent / "ledger"
    write(folder.parent / "orchestrai.toml", 'data_dir = "~/ledger"')
    assert load(folder, env={}).data_dir == Path.home() / "ledger"
    assert load(folder, env={"ORCHESTRAI_DATA_DIR": "here"}).data_dir == Path.cwd() / "here"
    assert load(folder, {"data_dir": None}, {}).data_dir is None


def test_a_file_with_a_byte_order_mark_is_read(folder):
    (folder / "orchestrai.toml").write_bytes(b"\xef\xbb\xbfattempts = 3")
    assert load(folder, env={}).attempts == 3


# --- the environment


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("ORCHESTRAI_ATTEMPTS", "6", 6),
        ("ORCHESTRAI_REPAIR_ATTEMPTS", "0", 0),
        ("ORCHESTRAI_CONCURRENCY", "12", 12),
        ("ORCHESTRAI_CONCURRENCY", "auto", None),
        ("ORCHESTRAI_TIMEOUT_S", "12.5", 12.5),
        ("ORCHESTRAI_KEEP_TEXTS", "no", False),
        ("ORCHESTRAI_KEEP_TEXTS", "True", True),
        ("ORCHESTRAI_REUSE", "0", False),
        ("ORCHESTRAI_REUSE", "on", True),
        ("ORCHESTRAI_PROGRESS", "widget", "widget"),
        ("ORCHESTRAI_ASK_ABOVE", "2.5", Decimal("2.5")),
        ("ORCHESTRAI_NEVER_TRAIN", "yes", True),
    ],
)
def test_a_variable_sets_what_the_file_could(folder, variable, text, value):
    name = variable.removeprefix("ORCHESTRAI_").lower()
    assert getattr(load(folder, env={variable: f" {text} "}), name) == value


def test_an_empty_variable_is_not_set(folder):
    write(folder / "orchestrai.toml", "attempts = 3")
    assert load(folder, env={"ORCHESTRAI_ATTEMPTS": "", "ORCHESTRAI_PROGRESS": " "}).attempts == 3


def test_other_variables_are_left_alone(folder):
    env = dict.fromkeys(OTHER_VARIABLES, "x") | {"PATH": "/bin", "orchestrai_x": "1", "ORCHESTRA": "1"}
    assert load(folder, env=env) == Settings()
    assert {"ORCHESTRAI_GGUF", "ORCHESTRAI_TEST_SCALE"} <= set(OTHER_VARIABLES)


# --- mistakes


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("never_trian", "never_train"),
        ("attempt", "attempts"),
        ("platform", "platforms"),
        ("data-dir", "data_dir"),
        ("timeout", "timeout_s"),
    ],
)
def test_an_unknown_setting_names_the_file_the_key_and_the_nearest(folder, wrong, right):
    path = write(folder / "orchestrai.toml", f"{wrong} = 1")
    with pytest.raises(InvalidSettings) as refused:
        load(folder, env={})
    assert all(part in str(refused.value) for part in (str(path), repr(wrong), repr(right)))
    with pytest.raises(InvalidSettings, match=f"settings: unknown setting '{wrong}'.*'{right}'"):
        load(folder.parent, {wrong: 1}, {})


def test_an_unknown_variable_names_the_nearest(folder):
    with pytest.raises(InvalidSettings, match=r"ORCHESTRAI_ATEMPTS.*'ORCHESTRAI_ATTEMPTS'"):
        load(folder, env={"ORCHESTRAI_ATEMPTS": "3"})
    with pytest.raises(InvalidSettings, match=r"ORCHESTRAI_GUFF.*'ORCHESTRAI_GGUF'"):
        load(folder, env={"ORCHESTRAI_GUFF": ""})


@pytest.mark.parametrize("name", ["prices", "platforms", "catalogue"])
def test_a_table_cannot_stand_in_a_variable(folder, name):
    with pytest.raises(InvalidSettings, match=r"orchestrai\.toml"):
        load(folder, env={f"ORCHESTRAI_{name.upper()}": "{}"})


WRONG = [
    ("data_dir", 7),
    ("data_dir", ""),
    ("attempts", 0),
    ("attempts", True),
    ("attempts", "4"),
    ("attempts", 2.0),
    ("attempts", None),
    ("repair_attempts", -1),
    ("timeout_s", 0),
    ("timeout_s", float("inf")),
    ("timeout_s", float("nan")),
    ("timeout_s", "300"),
    ("timeout_s", True),
    ("concurrency", 0),
    ("concurrency", "many"),
    ("concurrency", True),
    ("keep_texts", 1),
    ("reuse", "yes"),
    ("progress", "txt"),
    ("progress", 3),
    ("progress", []),
    ("ask_above", -1),
    ("ask_above", "much"),
    ("ask_above", float("nan")),
    ("ask_above", True),
    ("warn_at", "half"),
    ("warn_at", [0]),
    ("warn_at", [50, 101]),
    ("warn_at", ["x"]),
    ("estimate_above_tokens", 0),
    ("task_allowance", -1),
    ("handoff_summary", 0),
    ("handoff_fit", "shorten"),
    ("never_train", "yes"),
    ("never_train", 1),
    ("prices", []),
    ("platforms", "openai"),
    ("platforms", {"vllm": "http://127.0.0.1"}),
    ("catalogue", "plans"),
    ("windows", []),
    ("budgets", {"usd": 5}),
    ("memory", {"embedding": "hash"}),
    ("memory", {"embedding": 1}),
    ("memory", {"model": "x"}),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_of_the_wrong_type_is_refused_with_its_place(folder, name, value):
    with pytest.raises(InvalidSettings, match=f"settings: {name}"):
        load(folder, {name: value}, {})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ORCHESTRAI_ATTEMPTS", "four"),
        ("ORCHESTRAI_ATTEMPTS", "4.5"),
        ("ORCHESTRAI_TIMEOUT_S", "soon"),
        ("ORCHESTRAI_TIMEOUT_S", "nan"),
        ("ORCHESTRAI_KEEP_TEXTS", "maybe"),
        ("ORCHESTRAI_PROGRESS", "loud"),
        ("ORCHESTRAI_ASK_ABOVE", "a lot"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_by_its_name(folder, variable, text):
    with pytest.raises(InvalidSettings, match=variable):
        load(folder, env={variable: text})


def test_every_setting_has_a_check_and_every_check_a_setting():
    assert list(settings_module._CHECKS) == [field.name for field in dataclasses.fields(Settings)]
    assert {name for name, _ in WRONG} == set(settings_module._CHECKS)


@pytest.mark.parametrize("page", ["settings.md", "platforms.md"])
def test_the_files_that_the_documentation_shows_are_read(folder, page):
    text = (DOCS / page).read_text(encoding="utf-8")
    shown = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert shown
    for block in shown:
        write(folder / "orchestrai.toml", block)
        with_settings(load(folder, env={}).catalogue)
    if page == "settings.md":
        assert set(tomllib.loads(shown[0])) == set(settings_module._CHECKS)


def test_broken_toml_names_the_file_and_the_line(folder):
    path = write(folder / "orchestrai.toml", f'api_key = "{SECRET}"\nattempts = = 3')
    with pytest.raises(InvalidSettings, match=r"line 2") as refused:
        load(folder, env={})
    assert str(path) in str(refused.value)
    assert refused.value.__context__ is None  # the original holds the text of the file
    (folder / "orchestrai.toml").write_bytes(b"attempts = '\xff'")
    with pytest.raises(InvalidSettings, match="no valid TOML"):
        load(folder, env={})


def test_a_broken_pyproject_of_somebody_else_is_not_our_business(folder):
    write(folder / "pyproject.toml", "[project]\nname = {{ cookiecutter.name }}")
    assert load(folder, env={}) == Settings()
    assert project_of(folder) == ("deep", folder)


NAMES = st.sampled_from(sorted(settings_module._CHECKS)) | st.text(max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_arguments_give_settings_or_an_error_that_says_where(table):
    try:
        found = load(Path("/"), table, {})
    except InvalidSettings as refused:
        outcome = str(refused)
    else:
        outcome = "settings: " if isinstance(found, Settings) else "nothing"
    assert outcome.startswith("settings: ")


# --- keys

PLATFORMS = f"""
[platforms.vllm]
kind = "openai"
base_url = "http://127.0.0.1:8000/v1"
api_key = "{SECRET}"
max_tokens = 100

[platforms.vllm.headers]
X-Anything = "{SECRET}"

[platforms.team]
kind = "openai"
api_key = "env:TEAM_KEY"
"""


def test_a_key_in_a_file_is_accepted_and_never_shown(folder):
    write(folder / "orchestrai.toml", PLATFORMS)
    found = load(folder, env={})
    table = found.platforms["vllm"]
    for shown in (repr(found), str(found), f"{found}", repr(found.platforms), repr(table), repr(copy.deepcopy(found))):
        assert SECRET not in shown
        assert "[key]" in shown
    assert table["api_key"] == SECRET
    assert table["headers"]["X-Anything"] == SECRET
    assert (table["base_url"], table["max_tokens"]) == ("http://127.0.0.1:8000/v1", 100)


def test_control_a_plain_string_would_be_shown(folder):
    write(folder / "orchestrai.toml", PLATFORMS)
    found = load(folder, env={})
    plain = {name: str.__str__(value) for name, value in found.platforms["vllm"].items() if isinstance(value, str)}
    assert SECRET in repr({name: value[:] for name, value in plain.items()})


def test_a_key_given_in_code_is_not_shown_either(folder):
    found = load(folder, {"platforms": {"vllm": {"kind": "openai", "api_key": SECRET}}}, {})
    assert SECRET not in repr(found)
    assert found.platforms["vllm"]["api_key"] == SECRET


def test_the_name_of_a_variable_is_kept_for_the_platform_to_read(folder):
    write(folder / "orchestrai.toml", PLATFORMS)
    assert load(folder, env={}).platforms["team"]["api_key"] == "env:TEAM_KEY"
    assert "env:TEAM_KEY" in repr(load(folder, env={}))


# --- the project


@pytest.mark.parametrize("mark", ["orchestrai.toml", ".git", "pyproject.toml"])
def test_a_project_is_the_nearest_folder_with_a_mark(folder, mark):
    root = folder.parent.parent
    (root / mark).mkdir() if mark == ".git" else (root / mark).touch()
    assert project_of(folder) == ("project", root)
    (folder / ".git").touch()  # a work tree has a file of that name
    assert project_of(folder) == ("deep", folder)


def test_a_declared_name_counts_before_the_folders(folder):
    root = folder.parent.parent
    write(root / "pyproject.toml", '[project]\nname = "weather"')
    assert project_of(folder) == ("weather", root)
    write(folder / "pyproject.toml", "[project]\nname = 3")
    assert project_of(folder) == ("deep", folder)


def test_a_folder_without_any_mark_is_its_own_project(folder):
    if not any((above / mark).exists() for above in folder.parents for mark in ("pyproject.toml", ".git")):
        assert project_of(folder) == ("deep", folder)
    assert project_of(Path("/"))[0]


def test_loading_settings_loads_no_library():
    code = (
        "import sys, orchestrai.settings as s; s.load(env={})\n"
        "print([m for m in ('tiktoken', 'genai_prices', 'pydantic') if m in sys.modules])"
    )
    root = Path(orchestrai.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
