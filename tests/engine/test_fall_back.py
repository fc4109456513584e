"""A task whose platform fails it for good goes to the next offer; every try is a recorded attempt."""

from __future__ import annotations

import sqlite3
from typing import Literal

import pytest
from loopback import orchestrator

from orchestrai import Task
from orchestrai.errors import PlatformError
from orchestrai.testing import ScriptedPlatform, read_bill
from orchestrai.testing.answers import answer_to


def attempts(folder):
    """Return the requests of a project that nobody has open, in order."""
    connection = sqlite3.connect(folder / ".orchestrai" / "ledger.db")
    try:
        return connection.execute(
            "SELECT o.platform, o.route_rank, s.attempt_no, s.attempt_kind, a.status, a.error_class "
            "FROM sends s JOIN offers o USING (offer_id) JOIN attempts a ON a.send_seq = s.seq ORDER BY s.seq"
        ).fetchall()
    finally:
        connection.close()


def failing(name, kind, **more):
    """Return a platform that fails every task with this kind."""
    return ScriptedPlatform(name, faults=lambda _prompt, _attempt: kind, **more)


@pytest.mark.parametrize("kind", ["window", "balance", "key", "request"])
def test_a_task_that_one_platform_fails_for_good_is_answered_by_the_next(tmp_path, kind):
    first, second = failing("first", kind), ScriptedPlatform("second")
    with orchestrator(tmp_path, first, second) as orch:
        result = orch.run_sync("a")
    assert (result.output, result.platform, result.attempts) == (answer_to("a"), "second", 2)
    assert attempts(tmp_path) == [
        ("first", 1, 1, "first", "failed", kind),
        ("second", 2, 2, "reroute", "succeeded", None),
    ]


def test_the_attempts_at_one_platform_are_not_counted_against_the_next(tmp_path):
    first = failing("first", "overloaded")
    second = ScriptedPlatform("second", faults={"a": ["overloaded", None]})
    with orchestrator(tmp_path, first, second, attempts=2) as orch:
        result = orch.run_sync("a")
    assert (result.output, result.attempts) == (answer_to("a"), 4)
    kinds = [(platform, kind) for platform, _, _, kind, _, _ in attempts(tmp_path)]
    assert kinds == [("first", "first"), ("first", "retry"), ("second", "reroute"), ("second", "retry")]


def test_a_hint_is_tried_first_and_the_rest_follows_by_cost(tmp_path):
    price = {"input_mtok": 1, "output_mtok": 1}
    paid = ScriptedPlatform("paid", tier="paid", price=price)
    platforms = [paid, failing("subscribed", "window", tier="subscription"), failing("free", "window", tier="free")]
    dear = failing("dear", "request", tier="paid", price={"input_mtok": 9, "output_mtok": 9})
    with orchestrator(tmp_path, *platforms, dear) as orch:
        result = orch.run_sync("a", platform="dear")
    assert result.platform == "paid"
    assert [platform for platform, *_ in attempts(tmp_path)] == ["dear", "free", "subscribed", "paid"]


def test_strict_never_falls_back(tmp_path):
    first, second = failing("first", "window"), ScriptedPlatform("second")
    with orchestrator(tmp_path, first, second) as orch:
        (result,) = orch.batch_sync(["a"], platform="first", strict=True, progress="off")
    assert (result.success, result.error_class, second.prompts) == (False, "window", [])


def test_what_every_platform_said_is_told_when_none_answers(tmp_path):
    first = failing("first", PlatformError("key", "no such key"))
    second = failing("second", PlatformError("balance", "no money left"))
    with orchestrator(tmp_path, first, second) as orch:
        (result,) = orch.batch_sync(["a"], progress="off")
    assert result.error_class == "balance"
    assert result.error == "first: no such key; second: no money left"
    assert result.attempts == 2


def test_an_answer_that_one_platform_cannot_make_valid_is_asked_of_the_next_from_the_beginning(tmp_path):
    first = ScriptedPlatform("first", replies=["maybe", "perhaps"])
    second = ScriptedPlatform("second", replies=["perhaps", "yes"])
    with orchestrator(tmp_path, first, second) as orch:
        result = orch.run_sync("a", schema=Literal["yes", "no"])
    assert (result.parsed, result.platform) == ("yes", "second")
    kinds = [(platform, kind) for platform, _, _, kind, _, _ in attempts(tmp_path)]
    assert kinds == [("first", "first"), ("first", "repair"), ("second", "reroute"), ("second", "repair")]
    assert "maybe" not in str(second.requests[0].messages)  # nothing said to one platform is said to another


def test_the_cost_of_every_try_is_in_the_cost_of_the_task(tmp_path):
    price = {"input_mtok": 1, "output_mtok": 1}
    first = ScriptedPlatform("first", tier="paid", price=price, replies="no label", bill=tmp_path / "bill")
    second = ScriptedPlatform("second", tier="paid", price=price, replies="yes", bill=tmp_path / "bill")
    with orchestrator(tmp_path, first, second, repair_attempts=0) as orch:
        result = orch.run_sync("a", schema=Literal["yes", "no"])
    billed = [line["billed_tokens"] for line in read_bill(tmp_path / "bill")]
    assert len(billed) == 2
    assert result.cost * 10**6 == sum(billed) > 0


def test_a_batch_moves_on_together_and_no_task_is_lost(tmp_path):
    first, second = failing("first", "window", concurrency=4), ScriptedPlatform("second", concurrency=4)
    with orchestrator(tmp_path, first, second) as orch:
        result = orch.batch_sync([Task(f"task {i}") for i in range(50)], concurrency=3, progress="off")
    assert result.outputs == [answer_to(f"task {i}") for i in range(50)]
    assert {r.platform for r in result} == {"second"}
