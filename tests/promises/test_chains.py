"""Promise: a step is sent once what comes before it is committed, and never again once it is answered itself.

Random graphs of tasks, with steps that fail, in processes that are killed while they work on them. The platform looks
into the ledger at each request: what is not committed then, it says so; and it compares what the step was handed with
what its parents said.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Kept, Nursery, read_ledger, scaled, seeded

from orchestrai import Orchestrator
from orchestrai.testing import ScriptedPlatform

pytestmark = pytest.mark.promise

MOST_STEPS = 40
GRAPHS_AT_ONCE = 17  # between kills: 500 graphs and 30 kills at full scale


def random_graph(chance: random.Random, name: str) -> list[dict[str, Any]]:
    """Return the steps of a graph, each after those it works with."""
    steps: list[dict[str, Any]] = []
    for i in range(chance.randint(2, MOST_STEPS)):
        before = chance.sample(steps, min(len(steps), chance.choice((0, 1, 1, 1, 2, 3))))
        cut = chance.randint(0, len(before)) if chance.random() < 0.3 else len(before)
        steps.append(
            {
                "name": f"{name}s{i}",
                "parents": [step["name"] for step in before[:cut]],
                "after": [step["name"] for step in before[cut:]],
                "fails": chance.random() < 0.05,
                "platform": chance.choice((None, None, "one", "two")),
                "delay_s": chance.choice((0.0, 0.0, 0.001, 0.01)),
            }
        )
    return steps


def expected(graph: list[dict[str, Any]]) -> dict[str, list[str | None]]:
    """Return how each step has to end, by its name."""
    ends: dict[str, list[str | None]] = {}
    for step in graph:
        lost = any(ends[other][0] != "succeeded" for other in (*step["parents"], *step["after"]))
        ends[step["name"]] = (
            ["skipped", "parent"] if lost else ["failed", "request"] if step["fails"] else ["succeeded", None]
        )
    return ends


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def wait_for_requests(path: Path, count: int) -> None:
    end = time.monotonic() + 30
    while len(lines(path)) < count:
        assert time.monotonic() < end, "the requests do not come"
        time.sleep(0.002)


def sent_too_often(graphs: list[list[dict[str, Any]]], asked: list[dict[str, Any]], kept: Kept) -> dict[str, int]:
    """Return the steps that were sent more often than their answer and what is in doubt explain."""
    requests = Counter(line["name"] for line in asked)
    in_doubt = Counter({prompt.split()[0]: count for prompt, count in kept.in_doubt.items()})
    steps = [step for graph in graphs for step in graph if not step["fails"]]
    return {
        step["name"]: requests[step["name"]] for step in steps if requests[step["name"]] > 1 + in_doubt[step["name"]]
    }


def test_steps_wait_for_commits_and_kills_send_nothing_twice(tmp_path: Path, nursery: Nursery) -> None:
    chance = seeded()
    kills, sums = scaled(30, 3), Counter[str]()
    for round_ in range(kills):
        folder = tmp_path / str(round_)
        folder.mkdir()
        graphs = [random_graph(chance, f"g{i}") for i in range(scaled(GRAPHS_AT_ONCE, 4))]
        must = {name: end for graph in graphs for name, end in expected(graph).items()}
        ask = sum(end[0] != "skipped" for end in must.values())
        log, report = folder / "log.jsonl", folder / "report.json"
        job = {"project": str(folder / "project"), "graphs": graphs, "log": str(log), "report": str(report)}
        (folder / "project").mkdir()
        child = nursery.start("graphs", **job)
        wait_for_requests(log, chance.randint(1, max(1, ask - 1)))
        child.kill()
        child.wait()
        assert nursery.start("graphs", **job).wait(120) == 0
        ends = json.loads(report.read_text(encoding="utf-8"))
        asked = lines(log)
        kept = read_ledger(folder / "project" / ".orchestrai", folder / "copy")
        assert ends == must
        assert [line for line in asked if line["early"]] == []
        assert [line for line in asked if line["wrong"]] == []
        assert {line["name"] for line in asked} == {name for name, end in must.items() if end[0] != "skipped"}
        assert {prompt: count for prompt, count in kept.succeeded.items() if count > 1} == {}
        assert sent_too_often(graphs, asked, kept) == {}
        assert kept.left_over() == {}
        sums.update(graphs=len(graphs), steps=len(must), requests=len(asked), in_doubt=kept.in_doubt.total())
        sums.update(end[0] for end in must.values())
    print(f"kills={kills} {dict(sums)}")


DIAMOND = [
    {"name": name, "parents": parents, "after": after, "fails": name == "bad", "platform": None, "delay_s": 0.0}
    for name, parents, after in (
        ("a", [], []),
        ("b", ["a"], []),
        ("c", ["a"], ["b"]),
        ("bad", ["a"], []),
        ("lost", ["bad"], []),
        ("end", ["b", "c"], []),
    )
]


def lives(folder: Path, nursery: Nursery, *die_at: int | None) -> tuple[dict[str, Any], list[str]]:
    """Live one life after another, each but the last up to a point; return what is wrong then, and the last's points."""
    log, report, project = folder / "log.jsonl", folder / "report.json", folder / "project"
    project.mkdir(parents=True)
    job = {"project": str(project), "graphs": [DIAMOND], "log": str(log), "report": str(report)}
    for point in die_at:
        nursery.start("graphs", die_at=point, **job).wait()
    ends = json.loads(report.read_text(encoding="utf-8"))
    points = ends.pop("points")
    asked, kept = lines(log), read_ledger(project / ".orchestrai", folder / "copy")
    found = {
        "ends": ends if ends != expected(DIAMOND) else {},
        "early": [line for line in asked if line["early"] or line["wrong"]],
        "twice": {prompt: count for prompt, count in kept.succeeded.items() if count > 1},
        "too often": sent_too_often([DIAMOND], asked, kept),
        "left over": kept.left_over(),
    }
    return {name: wrong for name, wrong in found.items() if wrong}, points


def test_no_point_of_a_chain_is_a_bad_one_to_die_at(tmp_path: Path, nursery: Nursery) -> None:
    """SIGKILL before or after any statement of a first life."""
    chance = seeded()
    wrong, points = lives(tmp_path / "counted", nursery, None)
    assert wrong == {}
    visited = sorted(chance.sample(range(len(points)), min(scaled(100, 8), len(points))))
    failures: dict[str, Any] = {}
    for point in visited:
        found, _ = lives(tmp_path / str(point), nursery, point, None)
        if found:
            failures[f"point {point}, {points[point]}"] = found
    print(f"{len(visited)} of {len(points)} points")
    assert failures == {}


def test_two_processes_at_the_same_graphs_pay_each_step_once(tmp_path: Path, nursery: Nursery) -> None:
    chance = seeded()
    graphs = [random_graph(chance, f"g{i}") for i in range(scaled(20, 4))]
    must = {name: end for graph in graphs for name, end in expected(graph).items()}
    log, project = tmp_path / "log.jsonl", tmp_path / "project"
    project.mkdir()
    reports = [tmp_path / f"report-{i}.json" for i in range(2)]
    jobs = [{"project": str(project), "graphs": graphs, "log": str(log), "report": str(report)} for report in reports]
    children = [nursery.start("graphs", **job) for job in jobs]
    assert [child.wait(120) for child in children] == [0, 0]
    assert [json.loads(report.read_text(encoding="utf-8")) for report in reports] == [must, must]
    asked = lines(log)
    kept = read_ledger(project / ".orchestrai", tmp_path / "copy")
    assert [line for line in asked if line["early"] or line["wrong"]] == []
    assert {prompt: count for prompt, count in kept.succeeded.items() if count > 1} == {}
    assert sent_too_often(graphs, asked, kept) == {}


def test_control_a_runner_that_goes_on_from_memory_sends_children_too_early(tmp_path: Path, nursery: Nursery) -> None:
    graphs = [random_graph(random.Random(i), f"g{i}") for i in range(4)]
    log = tmp_path / "log.jsonl"
    assert nursery.start("naive_graphs", graphs=graphs, log=str(log)).wait() == 0
    assert [line for line in lines(log) if line["early"]]


def counted(tmp_path: Path, nursery: Nursery, *, careful: bool) -> tuple[int, int]:
    """Let processes that start together count in one shared value; return how often they did and what it came to."""
    project, times, processes = tmp_path / "project", scaled(250, 25), 6
    project.mkdir()
    job = {"project": str(project), "times": times, "careful": careful, "start_at": time.time() + 1.5}
    children = [nursery.start("count", **job) for _ in range(processes)]
    assert [child.wait(120) for child in children] == [0] * processes
    with Orchestrator(project, platforms=[ScriptedPlatform()]) as orch:
        (run,) = orch.chains()  # that all of them began, and began once
        return times * processes, orch.wait(orch.chain(run["chain_id"]).shared.get("n"))


def test_no_update_of_a_shared_value_is_lost_between_processes(tmp_path: Path, nursery: Nursery) -> None:
    did, came_to = counted(tmp_path, nursery, careful=True)
    assert came_to == did


def test_control_a_look_and_a_set_lose_updates(tmp_path: Path, nursery: Nursery) -> None:
    did, came_to = counted(tmp_path, nursery, careful=False)
    assert came_to < did
