"""The controls: without the ledger's order of writing, the same kills and the same verdict find what is broken."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from harness import Kept, Nursery, Scene, Verdict, judge, scaled, seeded

pytestmark = pytest.mark.promise


def killed_naively(folder: Path, wrong: str, nursery: Nursery) -> tuple[int, Verdict]:
    """Kill a naive program as P1 kills ours, then let it finish; return the most it had lost, and the last verdict."""
    chance = seeded()
    prompts = [f"task {i}" for i in range(400)]
    lost = []
    with Scene(folder, nursery, "--latency", "lognormal:0.008") as scene:

        def verdict() -> Verdict:
            return judge(scene.asked(), scene.acknowledged(), kept_naively(scene.project / "naive.db"))

        for _ in range(scaled(20, 5)):
            run = scene.start(prompts, do="naive", wrong=wrong)
            time.sleep(chance.uniform(0.05, 0.15))
            run.child.kill()
            run.child.wait()
            lost.append(verdict().lost)
        assert scene.start(prompts, do="naive", wrong=wrong).child.wait() == 0
        last = verdict()
    print(f"{wrong}: {max(lost)} lost after a kill, then {last}")
    return max(lost), last


def kept_naively(path: Path) -> Kept:
    """Return what the naive program has on record."""
    connection = sqlite3.connect(path)
    kept = Kept()
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sends'").fetchall():
        connection.close()
        return kept  # killed before it had made its table
    kept.sends.update(prompt for (prompt,) in connection.execute("SELECT prompt FROM sends"))
    kept.answers = dict(connection.execute("SELECT prompt, text FROM answers"))
    kept.succeeded.update(prompt for (prompt,) in connection.execute("SELECT prompt FROM answers"))
    connection.close()
    return kept


def test_an_answer_that_is_shown_before_it_is_recorded_is_asked_again(tmp_path, nursery):
    """Shown first, recorded later: the harness sees results lost, and requests for them after they were shown."""
    lost, last = killed_naively(tmp_path, "shown_first", nursery)
    assert lost > 0
    assert last.sent_again > 0
    assert last.unknown == 0


def test_a_request_that_is_not_recorded_before_it_leaves_is_unknown_afterwards(tmp_path, nursery):
    """Sent first, recorded later: the harness sees requests on the bill that no record explains."""
    _, last = killed_naively(tmp_path, "sent_first", nursery)
    assert last.unknown > 0
    assert last.repeats > last.in_doubt
    assert last.sent_again == 0
