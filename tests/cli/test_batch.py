"""batch, as a person runs it: files in and out."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pandas as pd
import pytest
from command_shell import Shell

from orchestrai.testing.server import ProviderServer


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
