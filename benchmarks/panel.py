"""What the live panel costs: messages, bytes and CPU of a real kernel for 10,000 completions.

    python benchmarks/panel.py [--tasks 10000] [--runs 3]

A real ipykernel answers the same batch with the panel and without, in turns, from a scripted platform. The messages are
those that leave the kernel for the browser; the CPU is that of the display's own thread, and the difference of the whole
process beside it, which holds the machine's noise too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections import Counter
from queue import Empty

from jupyter_client.manager import start_new_kernel

SETUP = """
import json, time
from orchestrai import Orchestrator, progress_display
from orchestrai.testing import ScriptedPlatform

orch = Orchestrator({folder!r}, platforms=[ScriptedPlatform(delay_s=0.005, concurrency=64)])
spent = []
run = progress_display.Display._run

def measured(self):
    run(self)
    spent.append(time.thread_time())

progress_display.Display._run = measured
await orch.batch(["warm"], progress="widget")
"""
RUN = """
spent.clear()
prompts = [f"task {{i}} of {name}" for i in range({tasks})]
cpu, wall = time.process_time(), time.monotonic()
res = await orch.batch(prompts, progress={mode!r})
print(json.dumps([time.process_time() - cpu, time.monotonic() - wall, sum(spent), res.success_count]))
"""


def run(client, code):
    """Run a cell; return what it printed, and the number and bytes of its messages by type."""
    asked = client.execute(code)
    printed, messages, size = [], Counter(), 0
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except Empty as error:
            raise SystemExit("the kernel did not answer") from error
        kind, content = message["msg_type"], message["content"]
        if kind in ("comm_open", "comm_msg", "comm_close", "display_data", "update_display_data"):
            messages[kind] += 1
            size += len(json.dumps(content))
        elif kind == "stream":
            printed.append(content["text"])
        elif kind == "error":
            raise SystemExit("\n".join(content["traceback"]))
        if kind == "status" and content["execution_state"] == "idle" and message["parent_header"]["msg_id"] == asked:
            return "".join(printed), messages, size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    os.environ.pop("CI", None)
    figures = {"off": [], "widget": []}
    with tempfile.TemporaryDirectory() as folder:
        manager, client = start_new_kernel()
        try:
            run(client, SETUP.format(folder=folder))
            for number in range(given.runs):
                for mode, kept in figures.items():
                    code = RUN.format(name=f"{mode} {number}", tasks=given.tasks, mode=mode)
                    printed, messages, size = run(client, code)
                    kept.append([*json.loads(printed.splitlines()[-1]), messages, size])
        finally:
            client.stop_channels()
            manager.shutdown_kernel()
    print(f"{given.tasks:,} completions, {given.runs} runs each; medians")
    print(f"{'':8} {'wall s':>8} {'CPU s':>8} {'display CPU s':>14} {'messages':>9} {'kB':>7}")
    for mode, runs in figures.items():
        cpu, wall, own = (statistics.median(one[i] for one in runs) for i in range(3))
        sent = statistics.median(sum(one[4].values()) for one in runs)
        size = statistics.median(one[5] for one in runs) / 1000
        print(f"{mode:8} {wall:8.2f} {cpu:8.2f} {own:14.3f} {sent:9.0f} {size:7.1f}")
    print("widget, messages by type:", dict(figures["widget"][-1][4]))


if __name__ == "__main__":
    main()
