"""P1: a finished task is never lost and never sent again, whenever the process dies."""

from __future__ import annotations

import time

import pytest
from harness import Scene, read_ledger, scaled, seeded

pytestmark = pytest.mark.promise

CONCURRENCY = 8
BATCH = 500
LIFE_S = 0.9  # about what one batch takes here: kills fall everywhere in it, its opening included
PROVIDER = ("--latency", "lognormal:0.008", "--faults", '{"503:0": 0.02}')


def test_what_was_shown_survives_every_kill_and_is_not_asked_again(tmp_path, nursery):
    """SIGKILL at random moments loses no result that was shown, and sends no request that was not in doubt."""
    kills, chance, batch, killed = scaled(40, 10), seeded(), 0, 0
    with Scene(tmp_path, nursery, *PROVIDER) as scene:
        while killed < kills:
            prompts = [f"batch {batch} task {i}" for i in range(BATCH)]
            how = ("as_completed", "start")[batch % 2]
            while True:
                run = scene.start(prompts, how, options={"concurrency": CONCURRENCY})
                if killed < kills:
                    time.sleep(chance.uniform(0, LIFE_S))
                    run.child.kill()
                    if run.child.wait() == -9:
                        killed += 1
                        read_ledger(scene.ledger, tmp_path / "copy")  # asserts that it is whole
                        continue
                run.has_all(prompts)
                break
            batch += 1
        verdict = scene.verdict()
        kept = read_ledger(scene.ledger, tmp_path / "copy")
    print(f"{killed} kills, {batch} batches: {verdict}")
    assert verdict.broken() == {}
    assert verdict.repeats <= killed * CONCURRENCY
    assert verdict.repeats <= verdict.in_doubt
    assert verdict.acknowledged == batch * BATCH
    assert kept.left_over() == {}
