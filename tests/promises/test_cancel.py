"""P5, its ledger side: a call that is cancelled leaves no claim behind, and no request without an end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import scaled, seeded

from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.group import Settling
from orchestrai.ledger.rows import SendRow
from orchestrai.ledger.writer import Journal
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.protocol import Request
from orchestrai.result import Result
from orchestrai.testing import ScriptedPlatform

pytestmark = pytest.mark.promise

NOTHING = {"claims": 0, "sends without an end": 0, "reservations": 0, "held": 0}

Cancelled = Callable[[Orchestrator, list[str], random.Random], list[Result]]


def left_open(path: Path) -> dict[str, int]:
    """Return claims, requests that neither ended nor are in doubt, and quota that is held; for anybody to look at."""
    connection = sqlite3.connect(path)
    (claims,) = connection.execute("SELECT count(*) FROM claims").fetchone()
    (sends,) = connection.execute(
        "SELECT count(*) FROM sends s LEFT JOIN attempts a ON a.send_seq = s.seq WHERE a.send_seq IS NULL"
    ).fetchone()
    (reserved,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
    (held,) = connection.execute("SELECT coalesce(sum(reserved), 0) FROM usage").fetchone()
    connection.close()
    return {"claims": claims, "sends without an end": sends, "reservations": reserved, "held": held}


def by_its_handle(orch: Orchestrator, prompts: list[str], chance: random.Random) -> list[Result]:
    """Cancel a batch in the background."""
    handle = orch.start(prompts, progress="off")
    time.sleep(chance.uniform(0, 0.06))
    handle.cancel()
    return list(handle.wait())


def by_its_task(orch: Orchestrator, prompts: list[str], chance: random.Random) -> list[Result]:
    """Cancel the task that awaits a batch."""

    async def call() -> None:
        task = asyncio.ensure_future(orch.batch(prompts, progress="off"))
        await asyncio.sleep(chance.uniform(0, 0.06))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(call())
    assert orch.last_batch is not None
    return list(orch.last_batch)


def by_leaving_the_loop(orch: Orchestrator, prompts: list[str], chance: random.Random) -> list[Result]:
    """Break out of `async for`."""
    results: list[Result] = []
    enough = chance.randrange(1, len(prompts))

    async def call() -> None:
        stream = orch.as_completed(prompts)
        async for result in stream:
            results.append(result)
            if len(results) == enough:
                break
        await stream.aclose()  # type: ignore[attr-defined]  # it is an async generator

    asyncio.run(call())
    return results


@pytest.mark.parametrize("cancelled", [by_its_handle, by_its_task, by_leaving_the_loop])
def test_a_cancelled_call_leaves_nothing_open_and_keeps_what_it_showed(tmp_path, cancelled: Cancelled):
    """Cancelled at random moments: no claim, no request without an end; what was shown is not asked again."""
    chance = seeded()

    async def late(_request: Request) -> None:
        await asyncio.sleep(chance.expovariate(200))

    platform = ScriptedPlatform(
        replies=late,
        concurrency=8,
        limits={"rpd": 1_000_000},
        faults=lambda prompt, attempt: "connection" if attempt == 0 and prompt.endswith("7") else None,
    )
    with Orchestrator(tmp_path, platforms=[platform]) as orch:
        for turn in range(scaled(334, 8)):
            prompts = [f"turn {turn} task {i}" for i in range(60)]
            shown = {result.task.prompt for result in cancelled(orch, prompts, chance) if result.success}
            assert left_open(orch.ledger_path) == NOTHING
            before = Counter(platform.prompts)
            assert orch.batch_sync([*shown], progress="off").success_count == len(shown)
            assert Counter(platform.prompts) == before


def test_a_request_that_is_cancelled_in_the_instant_of_its_grant_has_an_end(tmp_path):
    """Between the commit that grants a request and the line that sends it, a cancel is recorded as one."""
    values = dict.fromkeys(SendRow._fields)
    values |= {"seq": 0, "attempt_id": "a", "task_id": "t", "attempt_no": 1, "attempt_kind": "first", "batch_id": "b"}
    values |= {"task_index": 0, "sample": 0, "key": b"k", "offer_id": 1}
    values |= {"queued_at": 1, "started_at": 1}
    row = SendRow(**values)  # type: ignore[arg-type]  # names from the row itself

    async def cancel_in_time(file: LedgerFile) -> None:
        loop = asyncio.get_running_loop()
        journal = Journal(file, loop, "me")
        first = journal.do(lambda _connection: None)  # what comes while it is under way is one group
        opening = asyncio.ensure_future(journal.open(row, b"claim", None, None, ()))
        await asyncio.sleep(0)
        # Called before the group's grants are given out: the cancel runs just before the task that waits for its own.
        journal.settle(Settling(committed=lambda _error: loop.call_soon(opening.cancel)))
        await first
        with pytest.raises(asyncio.CancelledError):
            assert not await opening
        await journal.close()

    file = LedgerFile(tmp_path / "ledger")
    asyncio.run(cancel_in_time(file))
    found = file.read(
        lambda c: c.execute("SELECT s.attempt_id, a.status FROM sends s JOIN attempts a ON a.send_seq = s.seq")
    )
    assert found.fetchall() == [("a", "cancelled")]
    file.close()
