"""P27: whoever is asked what it cost says the same, and the provider's own bill says so too."""

from __future__ import annotations

import sqlite3
import time

import pytest
from agreement import check_numbers
from harness import Scene, scaled, seeded

pytestmark = pytest.mark.promise

PROVIDER = ("--latency", "lognormal:0.01", "--faults", '{"503:0": 0.03, "cut_body": 0.03}')


def test_bill_ledger_duckdb_frames_and_plots_agree_after_kills_and_cut_replies(tmp_path, nursery):
    """What the provider charged is what the ledger knows, plus what is in doubt: exactly, prompt by prompt."""
    chance, kills = seeded(), scaled(20, 3)
    with Scene(tmp_path, nursery, *PROVIDER) as scene:
        prompts = [f"task {i} {'word ' * (i % 7)}" for i in range(300)]
        for _ in range(kills):
            run = scene.start(prompts, "start", options={"concurrency": 8})
            time.sleep(chance.uniform(0.2, 0.9))
            run.child.kill()
            run.child.wait()
        scene.start(prompts, "start", options={"concurrency": 8}).child.wait()
        assert scene.verdict().broken() == {}
        bill = [(ask.prompt, ask.charge) for ask in scene.asked()]
    found = check_numbers(scene.ledger, tmp_path / "numbers", bill)
    print(found)
    assert found["bill"] > found["known"] > 0  # cut replies and kills leave something in doubt
    # The control: a ledger that says one pico-dollar less, or a bill that is charged once more, does not agree.
    with pytest.raises(AssertionError):
        check_numbers(scene.ledger, tmp_path / "numbers", [*bill, *[(prompts[0], 10**9)] * 50])
    connection = sqlite3.connect(scene.ledger / "ledger.db")
    connection.execute(
        "UPDATE attempts SET cost = cost + 1 WHERE cost > 0 AND send_seq = "
        "(SELECT max(seq) FROM sends GROUP BY key HAVING count(*) = 1 LIMIT 1)"
    )
    connection.commit()
    connection.close()
    with pytest.raises(AssertionError):
        check_numbers(scene.ledger, tmp_path / "numbers", bill)
