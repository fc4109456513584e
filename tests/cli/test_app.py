"""The program as a person meets it: help, completion, mistakes, and whether its documentation says it all."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command_shell import DOCS


def test_help_needs_none_of_the_heavy_packages():
    heavy = ["pandas", "duckdb", "plotly", "chromadb", "IPython", "ipywidgets", "rich", "aiohttp", "tiktoken"]
    code = (
        "import sys; from orchestrai.cli.app import run; run(['--help']); run(['batch', '--help']); "
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Answer one prompt." in done.stdout


def test_version_and_a_bare_call_say_what_this_is(bare):
    assert re.fullmatch(r"orchestrai \d+\.\d+\S*\n", bare("--version").stdout)
    done = bare()
    assert done.returncode == 0
    assert "Usage: orchestrai" in done.stdout


def test_a_shell_can_complete_commands(bare):
    bare.more |= {"_ORCHESTRAI_COMPLETE": "complete_bash", "COMP_WORDS": "orchestrai ba", "COMP_CWORD": "1"}
    assert bare().stdout.split() == ["batch"]


@pytest.mark.parametrize(
    "words",
    [
        ("bath",),
        ("submit",),
        ("submit", "--promt", "x"),
        ("submit", "-p", "x", "--max-tokens", "0"),
        ("submit", "-p", "x", "--max-tokens", "many"),
        ("submit", "-p", "x", "--temperature", "3"),
        ("submit", "-p", "x", "--type", "reserch"),
        ("submit", "-p", "x", "--tag", "novalue"),
        ("submit", "-p", "x", "--schema", "absent.json"),
        ("submit", "-p", "x", "--file", "absent.txt"),
        ("submit", "-p", "x", "--platform", "opnai"),
        ("submit", "-p", "x", "--format", "yaml"),
        ("submit", "-p", "x", "--project", "absent"),
        ("submit", "-p", "x", "-o", "absent/answer.txt"),
        ("submit", "-p", " "),
        ("submit", "-p", "-"),
        ("batch", "-i", "absent.json"),
        ("batch", "-i", "tasks.txt"),
        ("batch", "-i", "tasks.json", "-o", "tasks.json"),
        ("batch", "-i", "tasks.json", "-o", "absent/out.json"),
        ("batch", "-i", "tasks.json", "--prompt", "{x}"),
        ("batch", "-i", "rows.csv"),
        ("batch", "-i", "rows.csv", "--prompt", "{txt}"),
        ("batch", "-i", "rows.csv", "--prompt", "{text}", "--into", "text"),
        ("batch", "-i", "rows.csv", "--prompt", "{text}", "--schema", "tasks.json"),
        ("batch", "-i", "bad.json"),
        ("demo", "--rows", "0"),
    ],
)
def test_bad_input_is_one_clear_line_and_sends_nothing(shell, words):
    shell.file("tasks.json", ["x"])
    shell.file("bad.json", ["x", {"prompt": "y", "priority": "high"}])
    shell.file("rows.csv", "id,text\n1,x\n")
    done = shell(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(r"Error: [^\n]+\n", done.stderr)
    assert shell.server.requests == []


def test_a_setting_that_does_not_exist_is_bad_input(shell):
    shell.more["ORCHESTRAI_ATEMPTS"] = "3"
    done = shell("submit", "-p", "x")
    assert done.returncode == 2
    assert "ORCHESTRAI_ATTEMPTS" in done.stderr


def test_without_any_platform_nothing_runs_and_the_way_out_is_named(bare):
    tasks = bare.file("tasks.json", ["x"])
    for words in (("submit", "-p", "x"), ("batch", "-i", tasks, "-o", "out.json")):
        done = bare(*words)
        assert done.returncode == 3
        assert done.stdout == ""
        assert "orchestrai model fetch" in done.stderr
    assert not (bare.folder / "out.json").exists()


def test_a_ledger_that_cannot_be_used_is_said_and_nothing_runs(shell):
    (shell.folder / "person").mkdir()
    (shell.folder / "person" / "ledger.db").write_bytes(b"no database" * 1000)
    done = shell("submit", "-p", "x")
    assert done.returncode == 3
    assert "ledger.db" in done.stderr
    assert shell.server.requests == []


def test_every_option_and_every_json_field_is_documented(shell):
    page = DOCS.read_text(encoding="utf-8")
    options = set()
    commands = (
        ("submit",),
        ("batch",),
        ("plan",),
        ("resume",),
        ("quota",),
        ("status",),
        ("chains",),
        ("costs",),
        ("prune",),
        ("platforms",),
        ("demo",),
        ("model", "fetch"),
    )
    for words in commands:
        assert f"orchestrai {' '.join(words)}" in page
        options |= set(re.findall(r"(--[a-z-]+)", shell(*words, "--help").stdout))
    tasks = shell.file("tasks.json", ["x"])
    documents = [
        shell.json("submit", "-p", "x", "--chain-id", "c"),
        shell.json("chains"),
        *shell.json("chains")["chains"],
        shell.json("chains", "c"),
        *shell.json("chains", "c")["steps"],
        shell.json("batch", "-i", tasks, "-o", "o.json"),
        shell.json("plan", "-i", tasks),
        *shell.json("plan", "-i", tasks)["tasks"],
        shell.json("quota"),
        *shell.json("quota")["windows"],
        shell.json("status"),
        *shell.json("status")["calls"],
        dict.fromkeys(("task_id", "attempts", "outcome", "source"), 0),  # of a task that is explained
        shell.json("platforms"),
        *shell.json("platforms")["platforms"],
        {"window": 0, "used_percent": 0, "resets_at_us": 0, "age_s": 0, "source": 0},  # of a reading of a quota
    ]
    fields = {name for document in documents for name in document}
    assert [name for name in sorted(options | fields) if f"`{name}" not in page] == []
