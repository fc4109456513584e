"""chains, and submit as a step of one, as a person runs them."""

from __future__ import annotations

import pytest
from test_plan_commands import SETTINGS, Shell  # the folder of a test file is on the path

from orchestrai.testing.server import ProviderServer


@pytest.fixture
def shell(tmp_path):
    with ProviderServer(script={"poison": 400}) as server:
        shell = Shell(tmp_path, more={"TEST_KEY": "not-a-key", "PYTHONWARNINGS": "default"})
        shell.file("orchestrai.toml", SETTINGS.format(url=server.base_url))
        shell.prompts = lambda: [r.json["messages"][-1]["content"] for r in server.requests]
        yield shell


def test_a_chain_goes_on_from_the_command_line(shell):
    first = shell.json("submit", "--chain-id", "report", "-p", "collect")
    more = shell.json("submit", "--chain-id", "report", "--parent", first["task_id"], "-p", "sum up {parent}")
    assert more["chain_id"] == first["chain_id"]
    assert more["parent_id"] == first["task_id"]
    assert f"\n{first['output']}\n<<<end of" in shell.prompts()[-1]
    (run,) = shell.json("chains")["chains"]
    assert (run["chain_id"], run["name"], run["tasks"], run["depth"]) == (first["chain_id"], "report", 2, 1)
    told = shell.json("chains", "report")
    assert [step["parents"] for step in told["steps"]] == [[], [first["task_id"]]]
    assert told == shell.json("chains", first["chain_id"])
    for shown in (shell("chains").stdout, shell("chains", "report").stdout):
        assert first["chain_id"] in shown or first["task_id"] in shown


def test_a_chain_and_a_parent_that_there_are_not_are_bad_input(shell):
    assert shell.json("chains")["chains"] == []
    assert "no chain" in shell("chains").stdout
    shell.json("submit", "--chain-id", "report", "-p", "collect")
    wrong = shell("chains", "reprot")
    assert wrong.returncode == 2
    assert "Did you mean 'report'" in wrong.stderr
    lost = shell("submit", "--parent", "0" * 32, "-p", "x")
    assert lost.returncode == 2
    assert "unknown parent" in lost.stderr
    assert len(shell.prompts()) == 1


def test_the_items_of_a_file_may_name_each_other(shell):
    tasks = shell.file("tasks.json", [{"prompt": "b {parent}", "parent": 1}, "a", {"prompt": "c", "depends_on": [0]}])
    record = shell.json("batch", "-i", tasks)
    assert record["results"][0]["parent_id"] == record["results"][1]["task_id"]
    assert [prompt.split()[0] for prompt in shell.prompts()] == ["a", "b", "c"]
    circle = shell.file("circle.json", [{"prompt": "a", "parent": [1]}, {"prompt": "b", "parent": [0]}])
    assert "wait for each other" in shell("batch", "-i", circle).stderr
