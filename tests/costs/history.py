"""Ledgers with a known history: real calls on scripted platforms, and rows written as the engine writes them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from orchestrai import Orchestrator
from orchestrai.ids import new_id, now_us
from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.rows import AttemptRow, OfferRow, OutcomeRow, QuotaRow, SendRow, insert
from orchestrai.pricing import PriceList, to_pico
from orchestrai.result import Usage
from orchestrai.testing import ScriptedPlatform

PRICE = {"input_mtok": "2", "output_mtok": "8", "cache_read_mtok": "0.2"}
DAY_US = 86_400_000_000


def platforms(bill: Path | None = None) -> list[ScriptedPlatform]:
    """Return a free, a subscription and a paid platform, all with list prices."""
    return [
        ScriptedPlatform("gratis", tier="free", price=PRICE, bill=bill),
        ScriptedPlatform("plan", tier="subscription", price=PRICE),
        ScriptedPlatform("cash", tier="paid", price=PRICE, faults={"fails": ["reply"] * 9, "again": ["reply"]}),
    ]


def orchestrator(folder: Path, *given: Any, **settings: Any) -> Orchestrator:
    """Return an orchestrator with its ledger in `folder`."""
    return Orchestrator(folder, platforms=list(given) or platforms(), settings={"progress": "off", **settings})


def lived(orch: Orchestrator) -> Orchestrator:
    """Make calls of every kind: free, subscription, paid, failed, reused, tagged, in a chain."""
    asked = {"confirm": "never"}
    orch.batch_sync([f"free {i}" for i in range(6)], platform="gratis", name="first", **asked)
    orch.batch_sync([f"plan {i}" for i in range(5)], platform="plan", tags={"team": "red"}, type="research", **asked)
    orch.batch_sync([f"cash {i}" for i in range(4)], platform="cash", tags={"team": "blue"}, chain="report", **asked)
    orch.batch_sync(["this fails", "once again"], platform="cash", strict=True, name="hard", **asked)
    orch.batch_sync([f"free {i}" for i in range(6)], platform="gratis", name="second", **asked)  # reused
    return orch


class Writer:
    """Writes rows into a ledger's file as the engine does, as fast as SQLite takes them.

    Args:
        folder: The ledger's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = LedgerFile(folder)
        self.chance = random.Random(7)
        self.begun = now_us() - 30 * DAY_US
        self.seq = self._last("sends")
        self._outcome = self._last("outcomes")

    def offer(self, number: int, platform: str, tier: str, model: str = "gpt-5-mini", provider: str = "openai") -> None:
        """Write a way to be answered."""
        row = OfferRow(number, platform, "api", provider, tier, model, 0, None, None, "sync", "cheapest", 1)
        self.file.write(lambda c: insert(c, OfferRow, [row]))

    def batch(self, name: str | None = None, project: str = "here", at: int | None = None) -> str:
        """Write a finished call and return its id, which begins with its moment as every id does."""
        at = now_us() if at is None else at
        batch_id = f"{at // 1000:012x}{new_id()[12:]}"
        self.file.write(
            lambda c: (
                c.execute(
                    "INSERT INTO batches (batch_id, name, kind, project, owner_id, status, created_at, lib_version) "
                    "VALUES (?, ?, 'batch', ?, 'x', 'finished', ?, '0')",
                    (batch_id, name, project, at),
                ).rowcount
            )
        )
        return batch_id

    def send(self, batch_id: str, offer_id: int = 1, at: int | None = None, **more: Any) -> SendRow:
        """Return a request that left."""
        self.seq += 1
        at = self.begun + self.seq if at is None else at
        task_id = more.pop("task_id", None) or new_id()
        tags = more.pop("tags", None)
        row = SendRow(
            self.seq, new_id(), task_id, 1, "first", None, batch_id, self.seq, 0, b"k", offer_id, 100, None, None,
            None, None, None, None, None, None, 5, None if tags is None else orjson.dumps(tags).decode(), at, at, None,
        )  # fmt: skip
        return row._replace(**more)

    def end(self, send: SendRow, cost: int | None = 10**9, **more: Any) -> AttemptRow:
        """Return how it ended."""
        row = AttemptRow(
            send.seq, "succeeded", 1, cost, cost, "computed", finished_at=send.started_at + 1_000_000, duration_ms=1000.0,
            queue_ms=5.0, usage_source="provider", input_tokens=120, output_tokens=30, model_used="gpt-5-mini",
        )  # fmt: skip
        return row._replace(**more)

    def outcome(self, batch_id: str, **more: Any) -> OutcomeRow:
        """Return how a task was settled without a request of its own."""
        at = more.pop("at", None) or now_us()
        row = OutcomeRow(
            new_id(), batch_id, 0, 0, b"k", "succeeded", None, None, 0, new_id(), 0, 10**9, None, None, None, None, None,
            5, None, at, at, 0.0,
        )  # fmt: skip
        return row._replace(**more)

    def write(self, *rows: Any) -> None:
        """Write rows of any kinds in one transaction."""
        kinds = (SendRow, AttemptRow, OutcomeRow, QuotaRow)

        def work(connection: Any) -> None:
            for kind in kinds:
                insert(connection, kind, [row for row in rows if type(row) is kind])

        self.file.write(work)

    def price(self, model: str) -> str:
        """Write the price of a model and return its id."""
        price = PriceList().find("openai", model)
        assert price is not None
        row = {**price.row(), "first_used_at": now_us()}
        self.file.write(
            lambda c: (
                c.execute(
                    f"INSERT OR IGNORE INTO prices ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
                    tuple(row.values()),
                ).rowcount
            )
        )
        return price.price_id

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _last(self, table: str) -> int:
        return self.file.read(lambda c: c.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0])


def usage(read: int, written: int, plain: int, answer: int, thought: int) -> Usage:
    """Return a usage of every token class."""
    return Usage(read + written + plain, read, written, answer + thought, thought, "provider")


def pico(amount: Any) -> int:
    """Return an amount in whole pico-USD."""
    found = to_pico(amount)
    assert found is not None
    return found
