"""P2: P1 at every point, not only at likely ones: before and after each statement and each request."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Nursery, Scene, read_ledger, scaled, seeded

from orchestrai.testing import ProviderServer
from orchestrai.testing.answers import answer_to
from orchestrai.testing.exchange import Received

pytestmark = pytest.mark.promise

PROMPTS = ["plain 1", "retry 2", "repair 3", "plain 4"]
LIMITS = {"rpd": 1000}  # far from used up; what each request reserves of it must be settled at every point
OUTPUTS = [answer_to("plain 1"), answer_to("retry 2"), '{"n": 7}', answer_to("plain 4")]


def provider() -> ProviderServer:
    """Return a provider that refuses one request once, and answers another first without a schema."""

    def reply(received: Received) -> str:
        if "Your answer cannot be used" in received.prompt:
            return '{"n": 7}'
        return "no JSON" if received.prompt.startswith("repair") else answer_to(received.prompt)

    return ProviderServer(replies=reply, script={"^retry": ["503:0"]})


def lives(folder: Path, nursery: Nursery, *die_at: int | None) -> tuple[list[str], list[str]]:
    """Live one life after another, each but the last up to a point; return what is wrong then, and the last's points."""
    with Scene(folder, nursery, provider=provider()) as scene:
        for point in die_at[:-1]:
            scene.start(PROMPTS, do="sweep", die_at=point, limits=LIMITS).child.wait()
            read_ledger(scene.ledger, folder / "copy")  # asserts that it is whole
        last = scene.start(PROMPTS, do="sweep", die_at=die_at[-1], limits=LIMITS).outcome()
        verdict = scene.verdict()
        kept = read_ledger(scene.ledger, folder / "copy")
    wrong = [f"{name}: {count}" for name, count in verdict.broken().items()]
    found = [(output, status) for _, output, status, _ in last["results"]]
    if found != [(output, "succeeded") for output in OUTPUTS]:
        wrong.append(f"results: {found}")
    if verdict.repeats > verdict.in_doubt:
        wrong.append(f"{verdict.repeats} repeats, {verdict.in_doubt} in doubt")
    if kept.left_over():
        wrong.append(f"left over: {kept.left_over()}")
    return wrong, last["points"]


def test_no_point_of_a_life_is_a_bad_one_to_die_at(tmp_path, nursery):
    """SIGKILL before or after any statement or request of a first life keeps P1's zeros."""
    _sweep(tmp_path, nursery, scaled(40, 8))


def test_no_point_of_a_recovery_is_a_bad_one_to_die_at(tmp_path, nursery):
    """SIGKILL before or after any statement or request of a life that recovers another keeps P1's zeros."""
    _, points = lives(tmp_path / "whole", nursery, None)
    after_second_send = [i for i, name in enumerate(points) if name == "after send"][1]
    _sweep(tmp_path, nursery, scaled(20, 4), after_second_send)


def _sweep(folder: Path, nursery: Nursery, count: int, *before: int) -> None:
    """Visit `count` of all points, evenly spread from a random start."""
    chance = seeded()
    wrong, points = lives(folder / "counted", nursery, *before, None)
    assert wrong == []
    assert Counter(points)["before send"] >= 1
    count, first = min(count, len(points)), chance.random()
    visited = sorted({int((i + first) * len(points) / count) for i in range(count)})
    failures: dict[str, Any] = {}
    for point in visited:
        if point < len(points):
            found, _ = lives(folder / str(point), nursery, *before, point, None)
            if found:
                failures[f"point {point}, {points[point]}"] = found
    print(f"{len(visited)} of {len(points)} points")
    assert failures == {}
