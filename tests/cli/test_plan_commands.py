"""plan, quota, status and the question before cash is used, as a person runs them."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

import pytest
from command_shell import Shell  # the folder of a test file is on the path

from orchestrai.testing.server import ProviderServer

SETTINGS = """
[platforms.free]
kind = "openai"
base_url = "{url}"
api_key = "env:TEST_KEY"
model = "small"
tier = "free"
limits = {{ rpd = 3 }}

[platforms.paid]
kind = "openai"
base_url = "{url}"
api_key = "env:TEST_KEY"
model = "large"
price = {{ input_mtok = "1", output_mtok = "2" }}
"""


@pytest.fixture
def shell(tmp_path):
    with ProviderServer(script={"poison": 400}) as server:
        # Warnings are text for people here: a window that fills up is one.
        shell = Shell(tmp_path, more={"TEST_KEY": "not-a-key", "PYTHONWARNINGS": "default"})
        shell.file("orchestrai.toml", SETTINGS.format(url=server.base_url))
        shell.requests = lambda: len(server.requests)
        yield shell


def test_a_plan_is_shown_and_nothing_is_sent(shell):
    tasks = shell.file("tasks.json", [f"task {i}" for i in range(5)])
    done = shell("plan", "-i", tasks)
    assert done.returncode == 0, done.stderr
    for word in ("3 on free", "2 on paid", "cost", "0 % → 100 %", "window", "although free would cost none"):
        assert word in done.stdout, done.stdout
    record = shell.json("plan", "-i", tasks)
    assert (record["total_tasks"], record["unplaced"], record["models"]) == (5, 0, 2)
    assert [line["platform"] for line in record["tasks"]].count("free") == 3
    assert record["cost"]["low"] <= record["cost"]["expected"] <= record["cost"]["high"]
    assert shell.json("plan", "-i", tasks, "--max-cost", "0", code=1)["unplaced"] == 2
    assert shell.requests() == 0


def test_cash_that_nobody_can_agree_to_is_not_spent_and_yes_agrees(shell):
    tasks = shell.file("tasks.json", [f"task {i}" for i in range(5)])
    done = shell("batch", "-i", tasks)
    assert done.returncode == 4
    assert re.fullmatch("Error: .* Nobody could answer, so nothing was sent; --yes agrees beforehand.\n", done.stderr)
    assert shell.requests() == 0
    done = shell("batch", "-i", tasks, "--yes", "-o", "out.json")
    assert done.returncode == 0, done.stderr
    assert shell.requests() == 5
    again = shell("batch", "-i", shell.file("more.json", ["x", "y"]), "--max-cost", "0")
    assert again.returncode in (1, 4)
    assert shell.requests() == 5


@pytest.mark.parametrize(("answer", "code", "requests"), [("y\n", 0, 5), ("n\n", 4, 0), ("\n", 4, 0)])
def test_a_person_in_a_terminal_is_asked_and_their_word_counts(shell, answer, code, requests):
    tasks = shell.file("tasks.json", [f"task {i}" for i in range(5)])
    main, sub = pty.openpty()
    environment = {**shell.environment, "TERM": "xterm"}
    child = subprocess.Popen(
        shell.command("batch", "-i", tasks),
        stdin=sub,
        stdout=subprocess.PIPE,
        stderr=sub,
        cwd=shell.folder,
        env=environment,
    )
    os.close(sub)
    shown, end = b"", time.monotonic() + 60
    while b"Go on? [y/N]" not in shown:
        assert time.monotonic() < end, shown.decode()
        if select.select([main], [], [], 0.5)[0]:
            shown += os.read(main, 65536)
    os.write(main, answer.encode())
    while child.poll() is None and time.monotonic() < end:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:  # the terminal is closed with the child
                break
    out, _ = child.communicate(timeout=30)
    os.close(main)
    assert child.returncode == code, shown.decode() + out.decode()
    assert shell.requests() == requests
    assert b"goes to paid" in shown


def test_quota_tells_used_limit_share_and_source(shell):
    done = shell("batch", "-i", shell.file("tasks.json", ["a", "b"]), "--yes")
    assert re.match("Warning: free: 67 % of 3 requests per day will be used", done.stderr)
    done = shell("quota")
    assert done.returncode == 0, done.stderr
    assert "3 requests per day" in done.stdout
    (window,) = shell.json("quota")["windows"]
    assert (window["used"], window["reserved"], window["limit"]) == (2, 0, 3)
    assert window["source"] == "settings"


def test_status_lists_calls_and_explains_a_task(shell):
    assert "No call is under way" in shell("status").stdout
    shell("batch", "-i", shell.file("tasks.json", ["a", "poison"]), "--yes", "--name", "survey")
    record = shell.json("submit", "-p", "a", "--yes")
    calls = shell.json("status")["calls"]
    assert [(call["kind"], call["status"]) for call in calls] == [("run", "finished"), ("batch", "finished")]
    assert calls[1]["settled"] == {"succeeded": 1, "failed": 1}
    assert "survey" in shell("status").stdout
    told = shell("status", "--task", record["task_id"])
    assert "It took the answer of task" in told.stdout
    explained = shell.json("status", "--task", calls and record["task_id"])
    assert explained["outcome"]["status"] == "succeeded"
    assert [row["platform"] for row in explained["source"]] == ["free"]
    unknown = shell("status", "--task", "nonsense")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "Error: There is no task 'nonsense' in this ledger.\n"


def test_a_call_whose_process_is_gone_is_interrupted_and_one_that_lives_is_running(shell):
    with ProviderServer(script={"": "slow:30"}) as slow:
        shell.file("orchestrai.toml", SETTINGS.format(url=slow.base_url))
        child = subprocess.Popen(
            shell.command("submit", "-p", "x", "--platform", "free"),
            cwd=shell.folder, env=shell.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + 30
        while not slow.requests and time.monotonic() < end:
            time.sleep(0.05)
        assert [call["status"] for call in shell.json("status")["calls"]] == ["running"]
        child.kill()
        child.wait()
        assert [call["status"] for call in shell.json("status")["calls"]] == ["interrupted"]
