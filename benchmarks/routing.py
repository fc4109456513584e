"""What a plan costs beside the cheapest there is, and how long a large one takes.

    python benchmarks/routing.py              200 random calls per kind of window; plans of 100,000 tasks
    python benchmarks/routing.py --quick      20 calls per kind, 20,000 tasks
    pip install scipy                         the oracle (in the extra `dev`)

Each random call has up to 200 tasks, 8 offers and 12 windows that bind. `least` is what HiGHS finds for the same call with
tasks that may be split, which no plan can beat; `greedy` is what it costs when each task, in its order, takes the
cheapest place that is left.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "routing"))

from instances import cash_of, cash_of_plan, greedy_cash, least_cash, random_call

from orchestrai import Orchestrator
from orchestrai.testing import ScriptedPlatform

PICO = 10**12
KINDS = {
    "requests": ("requests",),
    "requests, tokens": ("requests", "tokens"),
    "all units": ("requests", "tokens", "usd"),
}


def against_the_oracle(calls: int) -> None:
    print(f"{calls} random calls per kind of window; cash in USD, gaps in tasks at their dearest price\n")
    print(f"{'windows':18} {'binding':>8} {'least':>10} {'plan':>10} {'greedy':>10} {'greedy/plan':>12} "
          f"{'gap, mean':>10} {'gap, worst':>10} {'of bound':>9} {'ms':>6}")  # fmt: skip
    for kind, units in KINDS.items():
        least = planned = greedy = 0.0
        binding, gaps, shares, spent = [], [], [], []
        for seed in range(calls):
            call = random_call(seed, units)
            began = time.perf_counter()
            plan = call.plan()
            spent.append(time.perf_counter() - began)
            dearest = max(1, *(cash_of(item, offer) for item in call.items for offer in item.route.offers))
            cash, bound = cash_of_plan(call, plan), least_cash(call)
            gap = max(0.0, cash - bound)
            if gap < 1e-6 * dearest:  # pico-dollars that two solvers round in two ways
                gap = 0.0
            least, planned, greedy = least + bound, planned + cash, greedy + greedy_cash(call)
            binding.append(len(plan.binding))
            gaps.append(gap / dearest)
            if plan.binding:
                shares.append(gap / dearest / len(plan.binding))
        print(
            f"{kind:18} {sum(binding) / calls:8.1f} {least / PICO:10.4f} {planned / PICO:10.4f} {greedy / PICO:10.4f} "
            f"{greedy / planned:12.2f} {sum(gaps) / calls:10.4f} {max(gaps):10.4f} {max(shares):9.4f} "
            f"{1e3 * sum(spent) / calls:6.1f}"
        )


def large(tasks: int) -> None:
    print(f"\n{tasks:,} tasks of random length x 8 offers, windows of requests and tokens that bind\n")
    call = random_call(7, ("requests", "tokens"), tasks=tasks, offers=8, exactly=True)
    call.plan()
    began, cpu = time.perf_counter(), time.process_time()
    plan = call.plan()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    tracemalloc.start()
    call.plan()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"routing alone: {wall:.2f} s, {cpu:.2f} s of CPU, at most {peak / tasks:,.0f} bytes a task; "
          f"{len(plan.tasks):,} classes, {len(plan.binding)} windows bind, gap {(plan.cash - plan.bound) / PICO:.6f} of {plan.cash / PICO:.2f} USD")  # fmt: skip


def through_the_orchestrator(tasks: int) -> None:
    prices = [{"input_mtok": f"{n}", "output_mtok": f"{3 * n}"} for n in range(1, 5)]
    platforms = [ScriptedPlatform(f"free{n}", limits={"rpd": tasks // 10 * (n + 1)}) for n in range(3)]
    platforms += [ScriptedPlatform("plan", tier="subscription", limits={"rpd": tasks // 20})]
    platforms += [ScriptedPlatform(f"paid{n}", tier="paid", price=price) for n, price in enumerate(prices)]
    prompts = [f"{n} " + "word " * (n * 7919 % 1500) for n in range(tasks)]
    with tempfile.TemporaryDirectory() as folder, Orchestrator(folder, platforms=platforms) as orch:
        orch.plan(prompts[:100])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, cpu = time.perf_counter(), time.process_time()
        plan = orch.plan(prompts)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"orch.plan:     {wall:.2f} s, {cpu:.2f} s of CPU with keys and the look into the ledger, "
              f"{1024 * grown / tasks:,.0f} bytes a task more in the process; {plan!r}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    quick = parser.parse_args().quick
    against_the_oracle(20 if quick else 200)
    tasks = 20_000 if quick else 100_000
    large(tasks)
    through_the_orchestrator(tasks)


if __name__ == "__main__":
    main()
