"""The numbers agree: the provider's own bill, the ledger, DuckDB, every DataFrame and the printed text, to the last digit."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from orchestrai import text
from orchestrai.costs.costs import Costs
from orchestrai.ledger.ledger import Ledger
from orchestrai.pricing import PriceList, from_pico

INPUT, OUTPUT = 1_000_000, 2_000_000  # of the children's platform [pico-USD a token]


def check_numbers(ledger: Path, copy: Path, bill: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Compare what a provider charged with what a ledger says in every way it can be asked.

    Args:
        ledger: Folder of a ledger that nobody has open; it is copied, so that looking repairs nothing.
        copy: Where to.
        bill: Prompt and charge [pico-USD] of each request that was charged.

    Returns:
        The bill, what the ledger knows of it, and what is in doubt [pico-USD].

    Raises:
        AssertionError: Two of them differ.
    """
    with _opened(ledger, copy) as (opened, costs):
        charged: Counter[str] = Counter()
        dearest: dict[str, int] = {}
        for prompt, charge in bill:
            charged[prompt] += charge
            dearest[prompt] = max(charge, dearest.get(prompt, 0))
        known, unknown = opened.read(_by_prompt)
        in_doubt = 0
        for prompt in {*charged, *known}:
            missing = charged[prompt] - known[prompt]
            assert 0 <= missing <= unknown[prompt] * dearest.get(prompt, 0), (prompt, missing)
            in_doubt += missing
        assert charged.total() == known.total() + in_doubt
        _check_every_way(costs, known.total())
    return {"bill": charged.total(), "known": known.total(), "in_doubt": in_doubt}


def check_ledger(ledger: Path, copy: Path) -> int:
    """Compare what a ledger says it cost in every way it can be asked; return that [pico-USD].

    Args:
        ledger: Folder of a ledger that nobody has open.
        copy: Where to.
    """
    with _opened(ledger, copy) as (opened, costs):
        known = opened.read(lambda c: c.execute("SELECT coalesce(sum(cost), 0) FROM attempts").fetchone()[0])
        _check_every_way(costs, known)
    return int(known)


@contextlib.contextmanager
def _opened(ledger: Path, copy: Path) -> Iterator[tuple[Ledger, Costs]]:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ledger, copy)
    opened = Ledger(copy, "0")
    costs = Costs(lambda: opened, PriceList())
    try:
        yield opened, costs
    finally:
        costs.close()
        opened.close()


def _check_every_way(costs: Costs, pico: int) -> None:
    known = from_pico(pico)
    assert known is not None
    for query in ("attempts", "v_daily"):
        assert (costs.sql(f"SELECT sum(cost) AS c FROM {query}", money="decimal")["c"][0] or 0) == known
    for name in ("by_platform", "by_model", "by_day", "by_batch", "by_type"):
        frame = getattr(costs, name)(money="decimal")
        assert sum(frame["cost"], Decimal(0)) == known, name
        floats = getattr(costs, name)()
        assert [float(cost) for cost in frame["cost"]] == floats["cost"].tolist(), name
    value = costs.summary(money="decimal")["value"]["cost"]
    assert value == known
    assert sum(sum(trace.y) for trace in costs.plot.by_day().data if trace.y) - float(known) < 1e-9
    tile = next((trace for trace in costs.dashboard(since=None).data if trace.type == "indicator"), None)
    assert tile is not None
    assert tile.value == float(known)
    assert text.money(value) == text.money(known)


def _by_prompt(connection: sqlite3.Connection) -> tuple[Counter[str], Counter[str]]:
    """Return by prompt the sum of the known costs, and the number of requests whose cost nobody knows."""
    known: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    rows = connection.execute(
        "SELECT p.text, a.cost FROM sends s JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) "
        "LEFT JOIN attempts a ON a.send_seq = s.seq"
    )
    for prompt, cost in rows:
        if cost is None:
            unknown[prompt] += 1
        else:
            known[prompt] += cost
    return known, unknown
