"""submit, as a person runs it."""

from __future__ import annotations

import json
import re
import signal
import subprocess

from command_shell import Shell

from orchestrai.testing.server import ProviderServer


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
