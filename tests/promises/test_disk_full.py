"""P12: a full disk is told in plain words; nothing that was recorded is lost by it, and it ends when there is room."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Scene, read_ledger, scaled, seeded

from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.errors import LedgerError, LedgerUnusable
from orchestrai.ledger.connection import CHECKPOINT_AT, LedgerFile
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.protocol import Request
from orchestrai.testing import ScriptedPlatform
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.promise

PROMPTS = [f"task {i} {'of many words ' * 60}" for i in range(200)]
ENOUGH = 64 * 2**20  # bytes


class SmallDisk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={ENOUGH},mode=0700,uid={os.getuid()}", "tmpfs", str(path))

    def resize(self, size: int) -> None:
        """Give it so many bytes."""
        self._mount("-o", f"remount,size={size}", str(self.path))

    def close(self) -> None:
        """Let it go with all that is on it."""
        subprocess.run([*_AS_ROOT, "umount", "--lazy", str(self.path)], check=True)

    def _mount(self, *options: str) -> None:
        subprocess.run([*_AS_ROOT, "mount", *options], check=True, capture_output=True)


_AS_ROOT = [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["sudo", "-n"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Return a small disk; where nobody may mount one, there is nothing to test it on."""
    try:
        disk = SmallDisk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield disk
    disk.close()


@pytest.mark.parametrize("how", ["batch", "as_completed", "start", "run"])
def test_a_disk_that_fills_up_ends_the_call_with_what_it_has_and_loses_nothing(tmp_path, nursery, disk, how):
    """At any size of the disk: a LedgerError with the answers so far, then, with room, the rest and P1's zeros."""
    chance = seeded()
    errors = 0
    turns, most = scaled(24, 2), math.log2(ENOUGH / 4096 / 10)
    for turn in range(turns):
        size = 4096 * int(2 ** (1 + (most - 1) * (turn + chance.random()) / turns))  # from 8 KB to 6 MB
        with Scene(disk.path / str(turn), nursery, papers=tmp_path / f"papers {turn}") as scene:
            disk.resize(size)
            report = scene.start(PROMPTS, how, options={"concurrency": 8}).outcome()
            answered = {prompt: output for prompt, output, status, _ in report["results"] if status == "succeeded"}
            assert all(output == answer_to(prompt) for prompt, output in answered.items())
            if "error" in report:
                errors += 1
                assert report["error"].startswith("LedgerUnusable: "), report["error"]
                assert "Make room" in report["error"]
                assert len(answered) < len(PROMPTS)
            else:
                assert len(answered) == len(PROMPTS)
            verdict = scene.verdict()
            assert verdict.broken() == {}, f"{size} bytes: {verdict}"
            billed = {ask.prompt for ask in scene.asked() if ask.billed}
            assert set(answered) <= billed
            shown = {ack["prompt"] for ack in scene.acknowledged() if ack["status"] == "succeeded"}
            assert len(billed - shown - set(answered)) <= 8  # nothing is missing but what was under way
            disk.resize(ENOUGH)
            scene.start(PROMPTS, "batch").has_all(PROMPTS)
            after = scene.verdict()
            assert after.broken() == {}, f"{size} bytes: {after}"
            kept = read_ledger(scene.ledger, tmp_path / "copy")
            assert kept.left_over() == {}
        shutil.rmtree(disk.path / str(turn))
    print(f"{errors} disks were full")
    assert errors >= 1


def test_a_checkpoint_that_finds_no_room_takes_nothing_back(disk):
    """The log is durable already: whoever wrote is told so, though it cannot be folded into the file yet."""
    size = CHECKPOINT_AT + 2**20
    file = LedgerFile(disk.path / "ledger")
    disk.resize(size * 3 // 2)  # room for the log, not for the same in the file
    large = f"INSERT INTO systems VALUES ('large', hex(zeroblob({size // 2})))"
    file.write(lambda c: c.execute(large).rowcount)
    assert file.read(lambda c: c.execute("SELECT length(text) FROM systems").fetchall()) == [(size,)]
    disk.resize(3 * size)
    file.write(lambda c: c.execute("INSERT INTO systems VALUES ('small', 'x')").rowcount)
    file.close()
    again = LedgerFile(disk.path / "ledger")
    assert again.read(lambda c: c.execute("SELECT count(*) FROM systems").fetchone()) == (2,)
    again.close()


LOOK = "SELECT upto FROM answer_fold"  # the first statement of every look for answers


class FailingLooks(sqlite3.Connection):
    """A connection on which only the first looks for other people's answers succeed."""

    looks = 0

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if sql == LOOK:
            FailingLooks.looks += 1
            if FailingLooks.looks > 2:
                raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *rest)


def test_a_ledger_that_fails_while_a_call_waits_for_another_ends_it_with_a_ledger_error(tmp_path):
    """Two calls share a batch; a look at the ledger fails: a LedgerError with what was answered, and nothing else."""
    engine = open_engine(
        tmp_path / ".orchestrai",
        "test",
        lambda path: sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FailingLooks),
    )
    prompts = [f"task {i}" for i in range(40)]

    async def both(orch: Orchestrator) -> list[Any]:
        calls = [orch.batch(prompts, progress="off", concurrency=4) for _ in range(2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    with Orchestrator(tmp_path, platforms=[ScriptedPlatform(delay_s=0.05)]) as orch:
        found = asyncio.run(both(orch))
    close_engine(engine)
    errors = [error for error in found if isinstance(error, BaseException)]
    assert [type(error) for error in errors] == [LedgerError] * len(errors)
    assert 1 <= len(errors) <= 2
    assert all(len(error.result) == len(prompts) for error in errors)


class FullDisk(sqlite3.Connection):
    """A connection whose commits fail while the disk is said to be full."""

    full = False

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        if FullDisk.full and sql == "COMMIT":
            super().execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *rest)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["batch", "as_completed"])
def test_once_there_is_room_the_same_process_goes_on_and_pays_for_no_answer_twice(tmp_path, how):
    """What was answered while the disk was full is recorded as soon as it can be, and its tasks are free again."""
    engine = open_engine(
        tmp_path / ".orchestrai",
        "test",
        lambda path: sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FullDisk),
    )
    prompts = [f"task {i}" for i in range(60)]

    def fills_up(request: Request) -> None:
        FullDisk.full = FullDisk.full or request.messages[0].text == "task 30"

    platform = ScriptedPlatform(replies=fills_up, delay_s=0.01, concurrency=4)

    async def consume(orch: Orchestrator) -> None:
        async for _ in orch.as_completed(prompts):
            pass

    with Orchestrator(tmp_path, platforms=[platform]) as orch:
        with pytest.raises(LedgerUnusable) as caught:
            asyncio.run(consume(orch)) if how == "as_completed" else orch.batch_sync(prompts, progress="off")
        assert caught.value.result
        with pytest.raises(LedgerUnusable):
            orch.batch_sync(prompts, progress="off")  # it is still full: told again
        FullDisk.full = False
        platform._replies = None  # the disk stays empty enough
        answered = {result.task.prompt for result in caught.value.result if result.success}
        before = Counter(platform.prompts)
        assert orch.batch_sync(prompts, progress="off").outputs == [answer_to(prompt) for prompt in prompts]
        assert answered.isdisjoint((Counter(platform.prompts) - before).keys())
    close_engine(engine)
    assert read_ledger(tmp_path / ".orchestrai", tmp_path / "copy").left_over() == {}
