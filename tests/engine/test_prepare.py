"""Preparing: tasks become items with their places, keys, routes and schemas, and nothing is sent."""

from __future__ import annotations

from typing import Literal

import pytest

from orchestrai import InvalidInput, InvalidSchema, Task
from orchestrai.engine.lineage import Rules
from orchestrai.engine.origins import Origins
from orchestrai.engine.prepare import Preparer
from orchestrai.platforms import Capabilities
from orchestrai.pricing import PriceList
from orchestrai.routing.offers import Router
from orchestrai.testing import ScriptedPlatform


def preparer(*platforms, **more):
    def unused():
        raise AssertionError("a task without a chain and without parents needs no ledger")

    origins = Origins(unused, "project", Rules(), keep_texts=True)
    return Preparer(Router(platforms or (ScriptedPlatform(),), PriceList()), origins, **more)


def test_every_sample_has_its_own_place_and_key_beside_its_task():
    prepared = preparer().prepare([Task("a", samples=2), Task("b"), Task("c", samples=3)], labels=["x", "y", "z"])
    assert [(i.position, i.index, i.row, i.sample) for i in prepared.items] == [
        (0, 0, "x", 0),
        (1, 0, "x", 1),
        (2, 1, "y", 0),
        (3, 2, "z", 0),
        (4, 2, "z", 1),
        (5, 2, "z", 2),
    ]
    assert len({i.key for i in prepared.items}) == 6
    assert prepared.refused == {}


def test_refused_tasks_keep_their_places_and_say_why():
    tasks = [Task("a"), Task("b", samples=2), Task("c"), Task("d", model="none"), Task("e", files=["gone.txt"])]
    prepared = preparer(ScriptedPlatform(models=())).prepare(tasks, refused={1: "the prompt is missing"})
    assert [i.position for i in prepared.items] == [0, 3]
    assert {at: (r.status, r.error_class, r.index, r.sample) for at, r in prepared.refused.items()} == {
        1: ("skipped", "input", 1, 0),
        2: ("skipped", "input", 1, 1),
        4: ("failed", "request", 3, 0),
        5: ("skipped", "input", 4, 0),
    }
    assert prepared.refused[4].error == "no platform can take this task: scripted: does not serve none"
    assert "gone.txt" in prepared.refused[5].error


def test_parts_of_one_input_go_on_counting():
    one = preparer()
    first = one.prepare([Task("a"), Task("b")])
    second = one.prepare([Task("c")], start=2)
    assert [(i.position, i.index) for i in (*first.items, *second.items)] == [(0, 0), (1, 1), (2, 2)]


def test_what_many_tasks_share_is_made_once(tmp_path):
    path = tmp_path / "shared.txt"
    path.write_text("text")
    schema = Literal["a", "b"]
    prepared = preparer().prepare([Task(f"{i}", files=[path], schema=schema) for i in range(50)])
    assert len({id(i.task.files[0]) for i in prepared.items}) == 1
    assert len({id(i.schema) for i in prepared.items}) == 1
    assert len({id(i.route) for i in prepared.items}) == 1


def test_an_options_name_is_warned_of_once_for_each_platform_and_model(recwarn):
    one = preparer(ScriptedPlatform(models=("m",), capabilities=Capabilities(temperature=False)))
    one.prepare([Task("a", temperature=0.5), Task("b", temperature=0.1), Task("c", max_tokens=3)])
    one.prepare([Task("d", temperature=0.5)], start=3)
    one.prepare([Task("e", temperature=0.5, model="m")], start=4)
    assert [str(w.message) for w in recwarn] == [
        "scripted-1 on scripted takes no temperature: dropped for its tasks.",
        "m on scripted takes no temperature: dropped for its tasks.",
    ]


def test_a_schema_that_is_none_and_a_hint_at_nobody_are_errors_of_the_call():
    with pytest.raises(InvalidSchema):
        preparer().prepare([Task("a"), Task("b", schema="text")])
    with pytest.raises(InvalidInput, match="not configured"):
        preparer().prepare([Task("a"), Task("b", platform="nobody")])
