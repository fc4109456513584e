"""P6 and P24, behind the adapters: what no provider would say, said by a third party's adapter, fails its task alone."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

import pytest

from orchestrai.errors import PlatformError
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.protocol import RateLimits, Reply, Request
from orchestrai.result import Usage
from orchestrai.testing import ScriptedPlatform

pytestmark = pytest.mark.promise

HUGE = 10**30  # more than a column of SQLite holds


def usage(*counts: Any) -> Usage:
    """Return what a provider is said to have counted."""
    return Usage(*counts, "provider")


ABSURD: dict[str, Any] = {
    "a trillion tokens": Reply("x", usage=usage(10**12, 0, 0, 10**12, 0)),
    "more tokens than atoms": Reply("x", usage=usage(HUGE, 0, 0, HUGE, 0)),
    "a huge cache": Reply("x", usage=usage(10, HUGE, 0, 1, 0)),
    "a negative cache": Reply("x", usage=usage(10, -5, 0, 1, 0)),
    "a huge cache written": Reply("x", usage=usage(10, 0, HUGE, 1, 0)),
    "half a token": Reply("x", usage=usage(10.5, 0, 0, 1, 0)),
    "tokens that are no number": Reply("x", usage=usage(math.nan, 0, 0, 1, 0)),
    "tokens in words": Reply("x", usage=usage("7", 0, 0, 1, 0)),
    "half a character for a model": Reply("x", model="m\ud800"),
    "a number for a model": Reply("x", model=5),  # type: ignore[arg-type]  # what is under test
    "half a character for an end": Reply("x", finish_reason="\ud800"),
    "a list for an end": Reply("x", finish_reason=["a"]),  # type: ignore[arg-type]  # what is under test
    "huge limits": Reply("x", rate_limits=RateLimits(HUGE, HUGE, 1.0, HUGE, HUGE, 1.0)),
    "a huge status": Reply("x", http_status=HUGE),
    "a mapping for an id": Reply("x", response_id={"a": 1}),  # type: ignore[arg-type]  # what is under test
    "bytes for an id": Reply("x", request_id=b"abc"),  # type: ignore[arg-type]  # what is under test
    "an endless wait for the first token": Reply("x", ttft_ms=math.inf),
    "an object in the usage": Reply("x", usage_raw={"a": object()}),  # type: ignore[arg-type]  # what is under test
    "nothing": None,
    "a number": 5,
    "wait for ever": PlatformError("rate", "no", retry_after_s=math.inf),
    "wait for no number": PlatformError("rate", "no", retry_after_s=math.nan),
    "wait longer than the universe": PlatformError("rate", "no", retry_after_s=1e300),
    "wait for less than nothing": PlatformError("rate", "no", retry_after_s=-1e300),
    "an error with a huge status": PlatformError("key", "no", http_status=HUGE),
    "an error with half a character": PlatformError("key", "no \ud800", request_id="\ud800"),
    "an error with an absurd reply": PlatformError("reply", "no", reply=Reply("x", usage=usage(HUGE, 0.5, "7", -1, 0))),
    "an error of its own": OSError("boom"),
}


class Absurd(ScriptedPlatform):
    """A platform that says these things."""

    async def send(self, request: Request) -> Reply:
        said = ABSURD.get(request.messages[0].text, Reply("fine"))
        if isinstance(said, Exception):
            raise said
        return said


@pytest.mark.parametrize("what", ABSURD)
def test_an_absurd_reply_fails_its_own_task_at_the_most(tmp_path, what):
    """The task beside it is answered and recorded, and no cost is negative or made up."""
    price = {"input_mtok": "1000", "output_mtok": "1000", "cache_read_mtok": "1000", "cache_write_mtok": "1000"}
    platform = Absurd(tier="paid", price=price)
    with Orchestrator(tmp_path, platforms=[platform], settings={"attempts": 1}) as orch:
        absurd, fine = orch.batch_sync([what, "fine"], progress="off")
        with sqlite3.connect(orch.ledger_path) as ledger:
            rows = ledger.execute("SELECT status FROM tasks ORDER BY task_index").fetchall()
            costs = ledger.execute("SELECT cost, list_cost FROM attempts").fetchall()
            claims = ledger.execute("SELECT count(*) FROM claims").fetchone()
        ledger.close()
    assert fine.output == "fine"
    assert rows == [(absurd.status,), ("succeeded",)]
    assert claims == (0,)
    assert absurd.cost is None or absurd.cost >= 0
    assert all(cost is None or cost >= 0 for row in costs for cost in row)
