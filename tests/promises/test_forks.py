"""P13, among relatives: a forked child has a ledger connection of its own, and does not keep its parent alive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from harness import Nursery, Scene, read_ledger, scaled

pytestmark = [
    pytest.mark.promise,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]

CHILDREN = """
import json, os, sys, time
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.openai import OpenAI
project, base_url, forks = sys.argv[1:]
platform = OpenAI("provider", base_url=base_url, api_key="test", model="test-model")
codes = []
with Orchestrator(project, platforms=[platform]) as orch:
    orch.run_sync("before")
    handle = orch.start([f"task {i}" for i in range(300)], concurrency=8, progress="off")
    for i in range(int(forks)):
        time.sleep(0.02)
        pid = os.fork()
        if pid == 0:
            results = orch.batch_sync(["before", f"child {i}", "shared"], progress="off")
            sys.exit(0 if results.success_count == 3 else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps([codes, handle.wait().success_count]), flush=True)
"""

KEPT_ALIVE = """
import os, sys, time
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.openai import OpenAI
project, base_url = sys.argv[1:]
platform = OpenAI("provider", base_url=base_url, api_key="test", model="test-model")
orch = Orchestrator(project, platforms=[platform])
handle = orch.start([f"task {i}" for i in range(50)], concurrency=8, progress="off")
while handle.progress.succeeded < 5:
    time.sleep(0.001)
if os.fork() == 0:
    time.sleep(600)
print("forked", flush=True)
handle.wait()
"""


def test_forked_children_answer_and_record_while_their_parent_goes_on(tmp_path, nursery):
    """A process forks in the middle of a batch; each child goes on with the same orchestrator, on its own."""
    forks = scaled(30, 6)
    with Scene(tmp_path, nursery, "--latency", "lognormal:0.02") as scene:
        command = [sys.executable, "-W", "ignore", "-c", CHILDREN, str(scene.project), scene.base_url, str(forks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        assert json.loads(done.stdout) == [[0] * forks, 300], done.stderr
        asked = sorted(ask.prompt for ask in scene.asked())
        kept = read_ledger(scene.ledger, tmp_path / "copy")
    children = [f"child {i}" for i in range(forks)]
    assert asked == sorted(["before", "shared", *children, *(f"task {i}" for i in range(300))])
    assert kept.sends.total() == len(asked)
    assert kept.answers.keys() == set(asked)
    assert kept.left_over() == {}


def test_a_child_that_lives_on_does_not_hold_what_its_dead_parent_claimed(tmp_path, nursery: Nursery):
    """The parent is killed, its forked child sleeps on: another process takes over and finishes."""
    prompts = [f"task {i}" for i in range(50)]
    with Scene(tmp_path, nursery, "--latency", "0.05") as scene:
        command = [sys.executable, "-W", "ignore", "-c", KEPT_ALIVE, str(scene.project), scene.base_url]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "forked\n"
            os.kill(parent.pid, signal.SIGKILL)
            parent.wait()
            scene.start(prompts, "batch").has_all(prompts)
            kept = read_ledger(scene.ledger, tmp_path / "copy")
        finally:
            os.killpg(parent.pid, signal.SIGKILL)  # the child that slept on; the group is its own
            parent.stdout.close()
    assert kept.succeeded.keys() == set(prompts)
    assert kept.left_over() == {}
