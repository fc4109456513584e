"""resume, as a person runs it after an interrupt or failures."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections import Counter

import pytest
from command_shell import Shell

from orchestrai.testing.server import ProviderServer


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
