"""How fast a large ledger answers: the mirror in DuckDB, beside plain SQLite and pandas in the same run.

    python benchmarks/analytics.py                  1,000,000 attempts and 100,000 tasks answered from the ledger; medians of 5
    python benchmarks/analytics.py --rows 100000    another size
    python benchmarks/analytics.py --folder X       keep the ledger there, and use it again

Each opening runs in a fresh process. `first` is the first kernel that ever opens this ledger; `again` any later one, which
finds the closed ranges as Parquet files. Half the size is measured too, and 10,000,000 is extrapolated from the two on a
straight line: stated, not measured. Wall time is that of a machine
with other work on it; CPU is of all threads, and what a quiet core would need.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrai.ledger.connection import LedgerFile

DAYS, CHAINS, BATCH = 180, 200, 1_000
PLATFORMS = (
    ("openai", "paid", "gpt-5-mini"),
    ("anthropic", "paid", "claude-haiku-5-5"),
    ("gemini", "free", "gemini-3.8-flash"),
    ("claude_code", "subscription", "claude-sonnet-5-5"),
    ("chatgpt", "subscription", "gpt-6-luna"),
)
PRICE = '{"input_mtok": "0.25", "output_mtok": "2", "cache_read_mtok": "0.025"}'
GROUPED = (
    "SELECT s.chain_id, o.platform, s.started_at / 86400000000 AS day, sum(a.cost), sum(a.list_cost), count(*) "
    "FROM sends s JOIN attempts a ON a.send_seq = s.seq JOIN offers o USING (offer_id) GROUP BY 1, 2, 3"
)
SUMMED = (
    "SELECT count(*), sum(a.settles), sum(a.status = 'succeeded' AND a.settles), sum(a.cost), sum(a.list_cost), "
    "sum(a.list_cost - a.cost), sum(a.input_tokens), sum(a.output_tokens) FROM attempts a"
)


def build(folder: Path, rows: int) -> None:
    """Write a ledger as large as asked, as the engine would have left it."""
    LedgerFile(folder).close()
    chance = random.Random(20_261_128)
    connection = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    start = time.time_ns() // 1000 - DAYS * 86_400_000_000
    step = DAYS * 86_400_000_000 // rows

    def name(at: int) -> str:
        return f"{at // 1000 << 80 | 0x7 << 76 | chance.getrandbits(76):032x}"

    batches = [name(start + i * BATCH * step) for i in range(rows // BATCH + 1)]
    tags = [json.dumps({"team": f"team {i % 9}", "run": str(i)}) for i in range(60)]

    def sends() -> Iterator[tuple[Any, ...]]:
        for i in range(rows):
            at = start + i * step
            chain = f"chain {i // BATCH % CHAINS}" if i % 3 == 0 else None
            yield (
                i + 1, name(at), name(at), 1, "first", batches[i // BATCH], i % BATCH, 0, i.to_bytes(16), i % len(PLATFORMS),
                chance.randrange(50, 2_000), chain, "research" if i % 4 else None, 5, tags[i % 60] if i % 2 else None, at, at + 900,
            )  # fmt: skip

    def attempts() -> Iterator[tuple[Any, ...]]:
        for i in range(rows):
            listed = chance.randrange(10**7, 10**10)
            ok = i % 20 != 0
            paid = PLATFORMS[i % len(PLATFORMS)][1] == "paid"
            took = chance.lognormvariate(0.3, 0.7)
            yield (
                i + 1, "succeeded" if ok else "failed", 1, None if ok else ("overloaded", "timeout", "reply")[i % 3],
                PLATFORMS[i % len(PLATFORMS)][2], chance.randrange(50, 2_000), 40 if i % 5 == 0 else 0, 0,
                chance.randrange(5, 900), 0, "provider", listed if paid else 0, listed, "computed", "price",
                "exact", start + i * step + int(took * 1e6), took * 1000, chance.random() * 50, 0, "stop",
            )  # fmt: skip

    _fill(connection, "sends", "seq attempt_id task_id attempt_no attempt_kind batch_id task_index sample key offer_id "
          "est_input_tokens chain_id task_type priority tags queued_at started_at", sends())  # fmt: skip
    _fill(connection, "attempts", "send_seq status settles error_class model_used input_tokens cache_read_tokens "
          "cache_write_tokens output_tokens reasoning_tokens usage_source cost list_cost cost_source price_id price_match "
          "finished_at duration_ms queue_ms streamed finish_reason", attempts())  # fmt: skip
    _fill(connection, "outcomes", "task_id batch_id task_index sample key status attempts reused_from cost list_cost "
          "queued_at settled_at", ((name(start + i * step * 10), batches[i * 10 // BATCH], i, 0, b"k", "succeeded", 0,
          name(start), 0, 10**9, start + i * step * 10, start + i * step * 10) for i in range(rows // 10)))  # fmt: skip
    _fill(connection, "batches", "batch_id name kind project owner_id status created_at lib_version",
          ((b, f"batch {i % 50}", "batch", "bench", "x", "finished", start + i * BATCH * step, "0")
           for i, b in enumerate(batches)))  # fmt: skip
    _fill(connection, "offers", "offer_id platform transport provider tier model_requested demo processing route_reason "
          "route_rank", ((i, p, "api", "openai", tier, model, 0, "sync", "cheapest", 1)
                         for i, (p, tier, model) in enumerate(PLATFORMS)))  # fmt: skip
    _fill(connection, "prices", "price_id provider model context unit_prices source first_used_at",
          [("price", "openai", "gpt-5-mini", "{}", PRICE, "genai-prices", start)])  # fmt: skip
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def _fill(connection: sqlite3.Connection, table: str, columns: str, values: Any) -> None:
    names = columns.split()
    connection.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", values)


Times = dict[str, float]
"""Wall and CPU time (all threads) [s]."""


def timed(work: Callable[[], Any], repeats: int = 5, before: Callable[[], Any] = lambda: None) -> Times:
    walls, cpus = [], []
    for _ in range(repeats):
        before()
        cpu, began = time.process_time(), time.perf_counter()
        work()
        walls.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    return {"wall": statistics.median(walls), "cpu": statistics.median(cpus)}


def opening(folder: Path) -> dict[str, Times]:
    """Open the mirror in this process; only opening, and the first question."""
    import duckdb  # noqa: F401 - imported by the first question of a kernel, and counted apart

    from orchestrai.costs.mirror import Mirror
    from orchestrai.ledger.ledger import Ledger

    ledger = Ledger(folder, "bench")
    found = timed(Mirror(ledger).refresh, 1)
    ledger.close()
    return {"opening": found}


def questions(folder: Path) -> dict[str, Times]:
    """Ask everything in one kernel, then follow a ledger that grows."""
    from orchestrai.costs import batches
    from orchestrai.costs import questions as ask
    from orchestrai.costs.costs import Costs
    from orchestrai.costs.period import Part
    from orchestrai.ledger.ledger import Ledger
    from orchestrai.pricing import PriceList

    ledger = Ledger(folder, "bench")
    costs = Costs(lambda: ledger, PriceList())
    mirror, whole = costs.mirror, Part()
    mirror.refresh()
    batch = mirror_batch(costs)
    grouped = "SELECT chain_id, platform, day, sum(cost), sum(list_cost), count(*) FROM attempts GROUP BY ALL"
    asked: dict[str, Callable[[], Any]] = {
        "group by chain, platform, day": lambda: costs.sql(grouped),
        "summary": costs.summary,
        "savings": costs.savings,
        "by_platform": costs.by_platform,
        "by_tag": lambda: costs.by_tag("team"),
        "latency": costs.latency,
        "top": costs.top,
        "reprice": lambda: costs.reprice("gpt-5-mini"),
        "dashboard data": lambda: (
            ask.summary(mirror, whole, "float"),
            ask.day_by_platform(mirror, whole, "float"),
            ask.saved_by_day(mirror, whole, "float"),
            ask.by_model(mirror, whole, "float"),
            batches.timeline(mirror, batch),
        ),
        "nothing new": mirror.refresh,
    }
    found = {name: timed(work) for name, work in asked.items()}
    found["100 new rows"] = timed(mirror.refresh, before=lambda: grow(folder, 100))
    found["memory [MB]"] = {"wall": _resident(), "cpu": 0.0}
    ledger.close()
    return found


def mirror_batch(costs: Any) -> str:
    return str(costs.sql("SELECT max(batch_id) AS b FROM attempts")["b"][0])


def grow(folder: Path, count: int) -> None:
    """Add requests and their ends, as another process would."""
    file = LedgerFile(folder)

    def more(connection: sqlite3.Connection) -> None:
        (last,) = connection.execute("SELECT max(seq) FROM sends").fetchone()
        for kind, key in (("sends", "seq"), ("attempts", "send_seq")):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({kind})")]
            new = {"seq": "NULL", key: f"{key} + {count}"}
            kept = ", ".join(new.get(name, name) for name in columns)
            connection.execute(f"INSERT INTO {kind} SELECT {kept} FROM {kind} WHERE {key} > ?", (last - count,))

    file.write(more)
    file.close()


def sqlite(folder: Path) -> dict[str, Times]:
    connection = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)
    found = {
        "group by chain, platform, day": timed(lambda: connection.execute(GROUPED).fetchall(), 3),
        "summary": timed(lambda: connection.execute(SUMMED).fetchall(), 3),
    }
    connection.close()
    return found


def pandas(folder: Path) -> dict[str, Times]:
    import pandas as pd

    connection = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)
    query = (
        "SELECT s.chain_id, o.platform, s.started_at, a.* FROM sends s JOIN attempts a ON a.send_seq = s.seq "
        "JOIN offers o USING (offer_id)"
    )
    frames: list[Any] = []
    loaded = timed(lambda: frames.append(pd.read_sql_query(query, connection)), 1)
    frame = frames[0]
    frame["day"] = pd.to_datetime(frame["started_at"], unit="us").dt.date
    keys = ["chain_id", "platform", "day"]

    def group() -> Any:  # grouped anew each time
        return frame.groupby(keys, dropna=False)[["cost", "list_cost"]].sum()

    found = {
        "loading": loaded,
        "group by chain, platform, day": timed(group, 3),
        "summary": timed(lambda: (frame[["cost", "list_cost", "input_tokens", "output_tokens"]].sum(),
                                    frame["duration_ms"].quantile(0.95)), 3),
        "memory [MB]": {"wall": _resident(), "cpu": 0.0},
    }  # fmt: skip
    connection.close()
    return found


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else float("nan")


JOBS = {"opening": opening, "questions": questions, "sqlite": sqlite, "pandas": pandas}


def child(job: str, folder: Path) -> dict[str, Times]:
    done = subprocess.run(
        [sys.executable, __file__, "--job", job, "--folder", str(folder)], capture_output=True, text=True, check=True
    )
    found: dict[str, Times] = json.loads(done.stdout)
    return found


def measure(folder: Path, rows: int) -> dict[str, Times]:
    if not (folder / "ledger.db").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, rows)
    for path in (folder / "segments").glob("*"):
        path.unlink()
    found = {"opening, first": child("opening", folder)["opening"]}
    again = [child("opening", folder)["opening"] for _ in range(3)]
    found["opening, again"] = {kind: statistics.median(one[kind] for one in again) for kind in ("wall", "cpu")}
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    parquet = sum(path.stat().st_size for path in (folder / "segments").glob("*")) / 1e6
    print(
        f"\n{rows:,} attempts, {rows // 10:,} reused tasks; ledger {size - parquet:.0f} MB, segments {parquet:.0f} MB"
    )
    found |= child("questions", folder)
    peers = {job: child(job, folder) for job in ("sqlite", "pandas")}
    peers["pandas"]["opening, first"] = peers["pandas"].pop("loading")
    print(f"  {'wall / CPU [s]':<34} {'orchestrai':>15}   {'sqlite':>15}   {'pandas':>15}")
    for name, times in found.items():
        others = [_shown(peer[name]) if name in peer else "" for peer in peers.values()]
        print(f"  {name:<34} {_shown(times):>15}   {others[0]:>15}   {others[1]:>15}", flush=True)
    return found


def _shown(times: Times) -> str:
    return f"{times['wall']:.3f} / {times['cpu']:.3f}" if times["cpu"] else f"{times['wall']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--job", choices=JOBS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(JOBS[given.job](given.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        half = measure(folder / f"{given.rows // 2}", given.rows // 2)
        whole = measure(folder / f"{given.rows}", given.rows)
    print(
        "\nextrapolated to 10,000,000 attempts on a straight line through both sizes, not measured (CPU; memory in MB):"
    )
    for name, times in whole.items():
        kind = "cpu" if times["cpu"] else "wall"
        slope = (times[kind] - half[name][kind]) / (given.rows / 2)
        print(f"  {name:<34} {max(0.0, times[kind] + slope * (10_000_000 - given.rows)):8.2f}")


if __name__ == "__main__":
    main()
