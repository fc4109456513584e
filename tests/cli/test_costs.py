"""costs and prune, as a person runs them and as a program reads them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from command_shell import DOCS, HOSTILE, PRICES, Shell

from orchestrai.testing.server import ProviderServer


@pytest.fixture
def shell(tmp_path):
    with ProviderServer(script={"poison": 400}) as server:
        shell = Shell(tmp_path, server)
        shell.file("orchestrai.toml", PRICES)
        tasks = shell.file("tasks.json", [{"prompt": f"task {i}", "tags": {"team": "red"}} for i in range(5)])
        done = shell("batch", "-i", tasks, "--yes", "--name", "tickets")
        assert done.returncode == 0, done.stderr
        assert shell("submit", "-p", "chained", "--chain-id", "report", "--yes").returncode == 0
        yield shell


@pytest.fixture
def bare(tmp_path):
    return Shell(tmp_path)


def test_without_options_it_shows_today_by_platform_with_the_totals(shell):
    done = shell("costs")
    assert done.returncode == 0, done.stderr
    for word in ("openai", "paid", "billed", "list cost", "6 of 6 tasks succeeded"):
        assert word in done.stdout, done.stdout
    record = shell.json("costs")
    assert (record["query"], record["since"]) == ("by_platform", "today")
    assert [row["platform"] for row in record["rows"]] == ["openai"]
    assert record["rows"][0]["tasks"] == record["total"]["tasks"] == 6


@pytest.mark.parametrize("by", ["platform", "model", "day", "chain", "batch", "type"])
def test_rows_of_a_group_add_up_to_the_total_and_to_the_answers(shell, by):
    record = shell.json("costs", "--by", by)
    tasks = 1 if by == "chain" else 6
    assert sum(row["tasks"] for row in record["rows"]) == tasks
    assert shell("costs", "--by", by).returncode == 0
    if by == "day":
        assert len(record["rows"][0]["day"]) == len("2026-11-28")


def test_the_cost_of_a_batch_is_the_same_in_its_file_and_in_costs(shell):
    tasks = shell.file("more.json", [f"other {i}" for i in range(4)])
    whole = shell.json("batch", "-i", tasks, "--yes", "--name", "four")
    rows = {row["batch"]: row for row in shell.json("costs", "--by", "batch")["rows"]}
    assert rows["four"]["cost"] == whole["total_cost"] > 0


def test_a_cost_that_is_not_known_is_never_shown_as_nothing(shell):
    shell("submit", "-p", "x", "--model", "unpriced", "--chain-id", "report", "--yes")
    by_model, by_platform, chain = (
        shell("costs", *w).stdout for w in (("--by", "model"), (), ("--chain-id", "report"))
    )
    assert re.search(r"^openai +unpriced +paid +1 +1 +unknown +unpriced ", by_model, re.MULTILINE)
    assert re.search(r"^openai +paid +7 +7 +at least \$0\.0\d+ +at least \$0\.0", by_platform, re.MULTILINE)
    for shown in (by_model, by_platform, chain):
        assert re.search(
            r"\nbilled at least \$0\.0.* list cost at least \$0\.0.* 1 of unknown cost$", shown, re.MULTILINE
        )


def test_a_chain_is_shown_by_name_and_a_wrong_name_is_put_right(shell):
    assert "succeeded" in shell("costs", "--chain-id", "report").stdout
    record = shell.json("costs", "--chain-id", "report")
    assert (record["query"], record["chain"], len(record["rows"])) == ("chain", "report", 1)
    wrong = shell("costs", "--chain-id", "reprot")
    assert wrong.returncode == 2
    assert "Did you mean 'report'" in wrong.stderr


def test_since_bounds_a_group(shell):
    assert shell.json("costs", "--by", "platform", "--since", "1h")["total"]["tasks"] == 6
    assert "Nothing was asked in that time" in shell("costs", "--since", "2100-01-01").stdout
    assert shell("costs", "--since", "whenever").returncode == 2
    assert shell("costs", "--since", "1h", "--chain-id", "report").returncode == 2


def test_a_select_is_answered_and_anything_else_refused(shell, tmp_path):
    query = "SELECT count(*) AS n, sum(cost) AS cost, max(started_at) AS last, true AS yes, NULL AS none FROM attempts"
    record = shell.json("costs", "--sql", query)
    row = record["rows"][0]
    assert (row["n"], row["yes"], row["none"]) == (6, True, None)
    assert row["cost"] > 0
    piped = shell("costs", "--sql", "-", stdin=query)
    assert piped.returncode == 0
    assert "\n6 " in piped.stdout
    refused = shell("costs", "--sql", f"COPY attempts TO '{tmp_path}/stolen.csv'")
    assert refused.returncode == 2
    assert "takes one SELECT" in refused.stderr
    assert not (tmp_path / "stolen.csv").exists()
    assert "LINE 1" in shell("costs", "--sql", "SELECT nope FROM attempts").stderr
    assert shell("costs", "--sql", query, "--by", "day").returncode == 2


def test_an_interrupted_select_ends_with_130_and_without_a_traceback(shell):
    code = (
        "import os, signal, sys, threading; from orchestrai.cli.app import run; "
        "threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start(); "
        "heavy = 'SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3'; "
        "sys.exit(run(['costs', '--sql', heavy]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,  # left alone, it takes hours
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("Interrupted.")


def test_no_name_drives_the_terminal(tmp_path):
    with ProviderServer() as server:
        shell = Shell(tmp_path, server)
        shell.file("orchestrai.toml", PRICES)
        tasks = shell.file("tasks.json", [{"prompt": "x"}])
        shell("batch", "-i", tasks, "--yes", "--name", HOSTILE)
        done = shell("costs", "--by", "batch")
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert "\x1b" not in shell("costs", "--by", "batch", "--format", "json").stdout


def test_an_empty_ledger_says_so(bare):
    assert "Nothing was asked today." in bare("costs").stdout
    assert bare.json("costs", "--by", "day")["rows"] == []
    assert bare.json("costs", "--sql", "SELECT * FROM attempts")["rows"] == []


def test_pruning_asks_unless_it_is_told_not_to_and_says_what_went(shell):
    refused = shell("prune", "--before", "0m")
    assert refused.returncode == 4
    assert "--yes" in refused.stderr
    assert shell.json("costs", "--by", "platform")["total"]["tasks"] == 6
    assert shell.json("prune", "--before", "0m", "--yes") == {"requests": 5, "tasks": 0, "calls": 1}
    assert shell.json("costs", "--by", "platform")["total"]["tasks"] == 1
    assert "Removed 0 requests" in shell("prune", "--before", "90d", "--yes").stdout
    wrong = shell("prune", "--before", "long ago", "--yes")
    assert (wrong.returncode, "--before='long ago'" in wrong.stderr) == (2, True)


def test_every_field_of_the_json_is_documented(shell):
    page = DOCS.read_text(encoding="utf-8")
    record = shell.json("costs")
    fields = {*record, *record["total"], *record["rows"][0], *shell.json("prune", "--before", "90d", "--yes")}
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []
