"""P3, P4: a quota and a budget are never exceeded, whoever shares them, and whoever dies in the middle."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from harness import Child, Nursery, scaled, seeded

from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.ledger.connection import LedgerFile
from orchestrai.testing import read_bill

pytestmark = pytest.mark.promise

LIMIT = 1500
PROCESSES = 4


def started(nursery: Nursery, folder: Path, do: str, **job: Any) -> list[tuple[Child, Path]]:
    """Start the processes, all on one ledger, to begin at the same moment."""
    start_at = time.time() + 0.6
    children = []
    for number in range(PROCESSES):
        report = folder / f"report-{number}-{time.monotonic_ns()}.json"
        prompts = [f"process {number} task {i} of {start_at}" for i in range(job["tasks"])]
        child = nursery.start(
            do, project=str(folder), prompts=prompts, report=str(report), start_at=start_at,
            bill=str(folder / "bill.jsonl"), **{**job, "seed": job.get("seed", 0) * PROCESSES + number},
        )  # fmt: skip
        children.append((child, report))
    return children


def ended(children: list[tuple[Child, Path]]) -> list[tuple[str, str | None]]:
    """Wait for the processes; return status and error class of every task of those that lived."""
    found = []
    for child, report in children:
        if child.wait(120) == 0:
            told = json.loads(report.read_text())
            found += [(status, kind) for (_, _, status, _), kind in zip(told["results"], told["classes"], strict=True)]
    return found


def usage(folder: Path) -> dict[str, int]:
    """Return what is used, used beyond reservations, and reserved, over all buckets; nobody has the ledger open."""
    connection = sqlite3.connect(folder / ".orchestrai" / "ledger.db")
    row = connection.execute("SELECT sum(used), sum(over), sum(reserved) FROM usage").fetchone()
    (left,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
    connection.close()
    return {"used": row[0] or 0, "over": row[1] or 0, "reserved": row[2] or 0, "reservations": left}


def test_four_processes_share_a_window_to_the_last_place_and_not_beyond(tmp_path, nursery):
    """1,500 places, 2,000 tasks in four processes that start at once: 1,500 are answered, never 1,501."""
    for trial in range(scaled(20, 2)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        results = ended(started(nursery, folder, "share", tasks=500, limits={"rpd": LIMIT}))
        assert len(read_bill(folder / "bill.jsonl")) == LIMIT
        assert sorted(results).count(("succeeded", None)) == LIMIT
        assert {kind for status, kind in results if status != "succeeded"} == {"window"}
        assert usage(folder) == {"used": LIMIT, "over": 0, "reserved": 0, "reservations": 0}


def test_a_process_that_dies_in_the_middle_takes_no_place_with_it_that_it_did_not_use(tmp_path, nursery):
    chance = seeded()
    for trial in range(scaled(20, 3)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        children = started(nursery, folder, "share", tasks=500, limits={"rpd": LIMIT}, delay_s=0.002)
        time.sleep(0.6 + chance.uniform(0.05, 0.5))
        children[0][0].kill()
        results = ended(children)
        close_engine(open_engine(folder / ".orchestrai", "test"))  # whoever comes next takes over what was left
        billed = len(read_bill(folder / "bill.jsonl"))
        after = usage(folder)
        # What was under way when it died counts as used: it may have been answered.
        assert billed <= after["used"] <= LIMIT
        assert after["used"] - billed <= 8
        assert (after["reserved"], after["reservations"]) == (0, 0)
        assert results.count(("succeeded", None)) >= LIMIT - 500
        more = ended(started(nursery, folder, "share", tasks=40, limits={"rpd": LIMIT}))
        assert more.count(("succeeded", None)) == min(4 * 40, LIMIT - after["used"])


def test_who_waits_for_places_that_a_dead_process_holds_is_told_once_it_is_dead(tmp_path, nursery):
    """Requests that never end hold places of a window; when their process is killed, nobody waits for them any more."""

    def start(name, **job):
        prompts = [f"{name} {i}" for i in range(10)]
        paths = {"report": str(tmp_path / f"{name}.json"), "bill": str(tmp_path / "bill.jsonl")}
        return nursery.start("share", project=str(tmp_path), prompts=prompts, limits={"rpd": 10}, **paths, **job)

    def wait_until(seen):
        until = time.monotonic() + 60
        while not ((tmp_path / ".orchestrai" / "ledger.db").exists() and seen(usage(tmp_path))):
            assert time.monotonic() < until
            time.sleep(0.05)

    waiting = start("waiting", delay_s=0.3, concurrency=1)
    wait_until(lambda now: now["used"] >= 1)
    stuck = start("stuck", delay_s=600)
    wait_until(lambda now: now["used"] + now["reserved"] == 10 and now["reserved"] == now["reservations"] > 1)
    time.sleep(1)  # the first has nothing under way, and waits
    held = usage(tmp_path)["reserved"]
    stuck.kill()
    results = ended([(waiting, tmp_path / "waiting.json")])
    assert results.count(("succeeded", None)) == 10 - held
    assert results.count(("failed", "window")) == held > 0
    assert usage(tmp_path) == {"used": 10, "over": 0, "reserved": 0, "reservations": 0}


def test_the_control_that_looks_first_and_records_later_exceeds_the_window(tmp_path, nursery):
    over = []
    for trial in range(scaled(10, 3)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for child, _ in started(nursery, folder, "unshared", tasks=500, limits={"rpd": LIMIT}):
            child.wait(120)
        connection = sqlite3.connect(folder / "naive.db")
        over.append(connection.execute("SELECT count(*) FROM uses").fetchone()[0] - LIMIT)
        connection.close()
    print(f"beyond the limit: {over}")
    assert max(over) > 0


def test_a_hard_budget_holds_at_every_commit_whatever_replies_cost(tmp_path, nursery):
    """Four processes, a cap for 40 % of the work, charges of 0 to 150 % of what was reserved: watched by a trigger."""
    chance = seeded()
    per_task = 100 + 200 + 20  # tokens: max_tokens, the words around a prompt, the prompt itself at a token a byte
    for trial in range(scaled(50, 5)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        cap = int(0.4 * PROCESSES * 60 * 80)  # of what the work costs on average [tokens at a millionth of a dollar]
        watch(folder, cap * 10**6)
        budget = {"usd": f"{cap / 1e6:.6f}", "per": "month", "hard": True}
        children = started(
            nursery, folder, "share", tasks=60, tier="paid", max_tokens=100, seed=chance.randrange(2**20),
            charged=(0, int(1.5 * per_task)), settings={"budgets": [budget]},
        )  # fmt: skip
        results = ended(children)
        after = usage(folder)
        spent = sum(line["output_tokens"] for line in charges(folder)) * 10**6
        assert after["used"] <= cap * 10**6
        assert after["used"] + after["over"] == spent
        assert (after["reserved"], after["reservations"]) == (0, 0)
        assert {kind for status, kind in results if status == "failed"} <= {"budget"}
        assert results.count(("succeeded", None)) > 0


def watch(folder: Path, cap: int) -> None:
    """Let the database itself refuse a commit that breaks the invariant."""
    LedgerFile(folder / ".orchestrai").close()
    connection = sqlite3.connect(folder / ".orchestrai" / "ledger.db")
    for when in ("INSERT", "UPDATE"):
        connection.execute(
            f"CREATE TRIGGER watch_{when} AFTER {when} ON usage WHEN new.used + new.reserved > {cap} OR new.reserved < 0 "
            "BEGIN SELECT RAISE(ABORT, 'the cap is broken'); END"
        )
    connection.close()


def charges(folder: Path) -> list[dict[str, int]]:
    """Return what every attempt in the ledger was charged for."""
    connection = sqlite3.connect(folder / ".orchestrai" / "ledger.db")
    rows = connection.execute("SELECT output_tokens FROM attempts WHERE status = 'succeeded'").fetchall()
    connection.close()
    return [{"output_tokens": tokens} for (tokens,) in rows]


def test_the_trigger_that_watches_the_cap_does_see_it_broken(tmp_path):
    """The control: a row that breaks the invariant is refused by the same trigger."""
    watch(tmp_path, 100)
    connection = sqlite3.connect(tmp_path / ".orchestrai" / "ledger.db")
    connection.execute("INSERT INTO usage VALUES ('m', 0, 60, 0, 40)")
    with pytest.raises(sqlite3.IntegrityError, match="the cap is broken"):
        connection.execute("UPDATE usage SET reserved = reserved + 1")
    connection.close()
