"""P13: several runs of the same batch at once cost one; nobody is robbed while it lives, and the dead are inherited."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Scene, read_ledger, scaled, seeded

from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.ledger.connection import CHECKPOINT_AT, LedgerFile
from orchestrai.orchestrator import Orchestrator
from orchestrai.testing import ScriptedPlatform

pytestmark = pytest.mark.promise

PROVIDER = ("--latency", "lognormal:0.02")
ASKED_AGAIN = {"reuse": False, "name": "survey"}  # nothing is taken from earlier batches, only from this one


@pytest.mark.parametrize("options", [{}, ASKED_AGAIN], ids=["reuse", "named"])
def test_every_task_of_a_shared_batch_is_asked_by_exactly_one_process(tmp_path, nursery, options):
    """Two to four processes run one batch at once: each task is on the bill once, and all get all answers."""
    chance = seeded()
    for turn in range(scaled(20, 3)):
        prompts = [f"turn {turn} task {i}" for i in range(60)]
        with Scene(tmp_path / str(turn), nursery, *PROVIDER) as scene:
            start_at = time.time() + 0.3
            runs = [
                scene.start(
                    prompts,
                    "batch",
                    start_at=start_at + chance.uniform(0, 0.05) * (turn % 2),
                    options={**options, "concurrency": 8},
                )
                for _ in range(chance.randint(2, 4))
            ]
            for run in runs:
                run.has_all(prompts)
            verdict = scene.verdict()
            assert verdict.broken() == {}
            assert Counter(ask.prompt for ask in scene.asked()) == Counter(prompts), f"turn {turn}: {verdict}"


@pytest.mark.parametrize("options", [{}, ASKED_AGAIN], ids=["reuse", "named"])
def test_what_a_killed_process_was_working_on_is_taken_over_by_the_others(tmp_path, nursery, options):
    """One of several processes is killed half way: the others finish, and only what was in doubt is billed twice."""
    chance = seeded()
    for turn in range(scaled(10, 2)):
        prompts = [f"turn {turn} task {i}" for i in range(120)]
        with Scene(tmp_path / str(turn), nursery, *PROVIDER) as scene:
            start_at = time.time() + 0.3
            runs = [
                scene.start(prompts, "batch", start_at=start_at, options={**options, "concurrency": 8})
                for _ in range(chance.randint(2, 3))
            ]
            time.sleep(start_at - time.time() + chance.uniform(0.05, 0.2))
            runs[0].child.kill()
            assert runs[0].child.wait() == -9
            for run in runs[1:]:
                run.has_all(prompts)
            kept = read_ledger(scene.ledger, tmp_path / "copy")
            assert scene.verdict().broken() == {}
            times = Counter(ask.prompt for ask in scene.asked())
            assert set(times) == set(prompts)
            assert {prompt for prompt, count in times.items() if count > 1} <= set(+kept.in_doubt)
            assert all(count <= 1 + kept.in_doubt[prompt] for prompt, count in times.items())
            assert kept.in_doubt.total() <= 8
            assert kept.left_over() == {}


def test_a_process_that_is_only_slow_is_never_robbed(tmp_path, nursery):
    """A stopped process keeps its tasks: the others wait for it, and each task is on the bill once."""
    chance = seeded()
    for turn in range(scaled(5, 1)):
        prompts = [f"turn {turn} task {i}" for i in range(200)]
        with Scene(tmp_path / str(turn), nursery, *PROVIDER) as scene:
            slow = scene.start(prompts, "batch", options={"concurrency": 8})
            scene.wait_for_requests(8)  # it is at work, and has most of it before it
            other = scene.start(prompts, "batch", options={"concurrency": 8})
            time.sleep(chance.uniform(0, 0.15))
            slow.child.pause()
            time.sleep(2.0)
            assert not other.report.exists()  # some task is still in the hands of the slow one
            slow.child.go_on()
            slow.has_all(prompts)
            other.has_all(prompts)
            assert scene.verdict().broken() == {}
            assert Counter(ask.prompt for ask in scene.asked()) == Counter(prompts)


@pytest.mark.timeout(25)
def test_somebody_who_reads_for_long_holds_nobody_up(tmp_path):
    """An open cursor on a ledger with a long log: every write goes on, without waiting for its 30 s."""
    file = LedgerFile(tmp_path / "ledger")
    file.write(lambda c: c.execute("INSERT INTO systems VALUES ('seen', 'x')").rowcount)
    reader = sqlite3.connect(file.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT digest FROM systems").fetchall() == [("seen",)]
    for name in ("first", "second"):
        row = (name, "x" * (CHECKPOINT_AT + 2**20))
        file.write(lambda c, row=row: c.execute("INSERT INTO systems VALUES (?, ?)", row).rowcount)
    assert reader.execute("SELECT count(*) FROM systems").fetchone() == (1,)  # it still reads what it began with

    reader.close()
    file.write(lambda c: c.execute("INSERT INTO systems VALUES ('last', 'x')").rowcount)
    assert Path(f"{file.path}-wal").stat().st_size == 0  # now the log could be folded
    file.close()


class SlowDisk(sqlite3.Connection):
    """A connection on which the look for other people's answers takes its time."""

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if sql == "SELECT upto FROM answer_fold":
            time.sleep(0.03)
        return super().execute(sql, *rest)


def test_what_happens_during_a_look_at_the_ledger_is_seen_by_the_next_one(tmp_path):
    """Two calls for the same tasks ask each once, also when answers arrive while the ledger is being read."""
    chance = seeded()

    async def answer(_request: Any) -> None:
        await asyncio.sleep(chance.uniform(0, 0.02))

    for turn in range(scaled(10, 2)):
        prompts = [f"turn {turn} task {i}" for i in range(100)]
        project = tmp_path / str(turn)
        engine = open_engine(
            project / ".orchestrai",
            "test",
            lambda path: sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=SlowDisk),
        )
        platform = ScriptedPlatform(replies=answer, concurrency=8)

        async def both(orch: Orchestrator, prompts: list[str] = prompts) -> None:
            await asyncio.gather(*(orch.batch(prompts, progress="off") for _ in range(2)))

        with Orchestrator(project, platforms=[platform]) as orch:
            asyncio.run(both(orch))
        close_engine(engine)
        assert Counter(platform.prompts) == Counter(prompts)
