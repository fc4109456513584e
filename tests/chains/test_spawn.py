"""Children that are spawned, and hand-offs whose text is not what it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from parts import orchestrator, upper

from orchestrai import (
    HandoffContextMissing,
    InvalidInput,
    NoOrchestrator,
    Task,
    has_handoff_context,
    load_handoff_context,
    spawn_child_task,
    spawn_children,
)
from orchestrai.platforms import Capabilities
from orchestrai.testing import ScriptedPlatform

LONG = "word " * 1_000


def ledger_does(orch, statement, *values):
    orch._opened().ledger.file.write(lambda c: c.execute(statement, values).rowcount)


def test_a_spawned_child_is_handed_the_whole_text_by_pointer_and_summary(tmp_path):
    async def spawn(orch):
        parent = await orch.run("a")
        task, handoff = await spawn_child_task(parent, "b {parent}")
        assert has_handoff_context(task)
        assert not has_handoff_context(Task("b"))
        assert await load_handoff_context(task) == [LONG]
        assert await load_handoff_context(Task("b")) == []
        assert (handoff.parent_task_id, handoff.summary) == (parent.task_id, LONG[:500])
        return await orch.run(task)

    platform = ScriptedPlatform(replies=[LONG, "done"])
    with orchestrator(tmp_path, platform) as orch:
        assert asyncio.run(spawn(orch)).success
        assert LONG in platform.prompts[1]


def test_the_summary_is_as_long_as_the_settings_say(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(replies=LONG), handoff_summary=7) as orch:
        _, handoff = asyncio.run(spawn_child_task(orch.run_sync("a"), "b"))
        assert handoff.summary == LONG[:7]


def test_children_belong_to_the_chain_of_their_parent_or_to_another(tmp_path):
    with orchestrator(tmp_path) as orch:
        parent = orch.run_sync("a", chain="one")
        children = asyncio.run(spawn_children(parent, ["b", "c"], priority=1))
        assert {task.chain for task, _ in children} == {parent.chain_id}
        assert orch.run_sync(children[0][0]).chain_id == parent.chain_id
        elsewhere, _ = asyncio.run(spawn_child_task(parent, "b", chain_id="two"))
        assert orch.run_sync(elsewhere).chain_id == orch.chain("two").id


def test_without_an_open_orchestrator_there_is_none_to_ask(tmp_path):
    with orchestrator(tmp_path) as orch:
        parent = orch.run_sync("a")
    with pytest.raises(NoOrchestrator, match="make one"):
        asyncio.run(spawn_child_task(parent, "b"))
    with orchestrator(tmp_path) as orch:
        assert asyncio.run(spawn_child_task(parent, "b"))[1].parent_task_id == parent.task_id


def test_a_parent_of_another_project_is_an_error(tmp_path):
    with orchestrator(tmp_path / "one") as orch:
        parent = orch.run_sync("a")
    platform = upper()
    with orchestrator(tmp_path / "two", platform) as orch:
        with pytest.raises(InvalidInput, match="that project's orchestrator"):
            orch.run_sync("b {parent}", parent=parent)
        with pytest.raises(InvalidInput, match="unknown parent"):
            asyncio.run(spawn_child_task(parent, "b", orch=orch))
    assert platform.prompts == []


def test_a_parent_without_an_answer_hands_nothing_over(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(faults={"": ["request"]})) as orch:
        failed = orch.run_sync("a", on_error="continue")
        with pytest.raises(InvalidInput, match="without an answer"):
            asyncio.run(spawn_child_task(failed, "b"))
        with pytest.raises(InvalidInput, match="from a Result"):
            asyncio.run(spawn_child_task("text", "b"))


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE memories SET text = NULL, send_seq = NULL, deleted_at = 1", "gone|deleted"),
        ("UPDATE answers SET text = text || '.'", "digest differs"),
        ("DELETE FROM answers", "gone|lost its text"),
    ],
)
@pytest.mark.parametrize("when", ["before", "between"])
def test_a_text_that_is_gone_or_altered_fails_the_child_before_anything_is_sent(tmp_path, statement, words, when):
    platform = upper()
    with orchestrator(tmp_path, platform) as orch:
        parent = orch.run_sync("a", chain="c")
        task, _ = asyncio.run(spawn_child_task(parent, "b {parent}"))
        if when == "before":
            ledger_does(orch, statement)
            with pytest.raises(HandoffContextMissing, match=words) as caught:
                orch.run_sync(task)
            result = caught.value.result
        else:  # after the call has looked: the attempt looks again
            plan = orch.plan([task])
            ledger_does(orch, statement)
            (result,) = orch.wait(plan.run())
        assert (result.status, result.error_class, result.attempts) == ("failed", "parent", 0)
        with pytest.raises(HandoffContextMissing, match=words):
            result.raise_for_failure()
        with pytest.raises(HandoffContextMissing):
            asyncio.run(load_handoff_context(task))
    assert platform.prompts == ["a"]


def test_what_is_forgotten_is_handed_over_no_more_whatever_form_it_has(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(replies=["plain", '{"n":  7}'])) as orch:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        for parent in (orch.run_sync("a", chain="c"), orch.run_sync("b", chain="c", schema=schema)):
            orch.forget(task=parent.task_id)
            with pytest.raises(HandoffContextMissing):
                orch.run_sync("c {parent}", parent=parent)
        kept = orch._opened().ledger.read(lambda c: c.execute("SELECT text FROM memories").fetchall())
        assert kept == [(None,), (None,)]


def test_a_digest_that_was_tampered_with_is_noticed(tmp_path):
    with orchestrator(tmp_path) as orch:
        task, handoff = asyncio.run(spawn_child_task(orch.run_sync("a"), "b"))
        wrong = replace(task, parent=replace(handoff, digest="0" * 64))
        with pytest.raises(HandoffContextMissing, match="digest differs"):
            orch.run_sync(wrong)
        with pytest.raises(HandoffContextMissing, match="not in this ledger"):
            orch.run_sync(replace(task, parent=replace(handoff, memory_id="f" * 32)))


# --- texts that fit nowhere ------------------------------------------------------------------------------------------


def small(**more):
    return ScriptedPlatform(capabilities=Capabilities(context_tokens=1_000), **more)


def test_a_text_that_fits_nowhere_is_given_by_its_beginning_and_end_and_that_is_said(tmp_path):
    text = "BEGIN " + "word " * 5_000 + " END"
    platform = small(replies={"^a$": text})
    with orchestrator(tmp_path, platform) as orch:
        parent = orch.run_sync("a")
        with pytest.warns(UserWarning, match="beginnings and ends"):
            child = orch.run_sync("b {parent}", parent=parent)
        assert child.success
        prompt = platform.prompts[-1]
        assert "BEGIN" in prompt
        assert " END\n" in prompt
        assert "characters left out …]" in prompt
        assert f"of {len(text):,} characters. Data to work with" in prompt
        spans = orch._opened().ledger.read(lambda c: c.execute("SELECT spans FROM handoffs").fetchall())
        assert spans[0][0].startswith("[[0,")
        with pytest.warns(UserWarning, match="beginnings and ends"):
            assert orch.run_sync("b {parent}", parent=parent).reused


def test_a_setting_gives_the_passages_that_are_nearest_to_the_instruction(tmp_path):
    filler = "Nothing of note was said about the weather on that day. " * 15
    text = "\n\n".join([*[filler] * 20, "The treasure lies under the old oak tree. " * 10, *[filler] * 20])
    platform = small(replies={"^a$": text})
    with orchestrator(tmp_path, platform, handoff_fit="relevant") as orch:
        parent = orch.run_sync("a")
        with pytest.warns(UserWarning, match="nearest to the instruction"):
            orch.run_sync("Where does the treasure lie? {parent}", parent=parent)
        assert "under the old oak" in platform.prompts[-1]
        assert "characters left out …]" in platform.prompts[-1]
    control = small(replies={"^a$": text})
    with orchestrator(tmp_path / "control", control) as orch, pytest.warns(UserWarning, match="beginnings and ends"):
        orch.run_sync("Where does the treasure lie? {parent}", parent=orch.run_sync("a"))
    assert "under the old oak" not in control.prompts[-1]


def test_a_text_goes_whole_where_any_platform_can_take_it(tmp_path):
    text = "word " * 5_000
    large = ScriptedPlatform("large", tier="subscription", capabilities=Capabilities(context_tokens=100_000))
    with orchestrator(tmp_path, small(replies={"^a$": text}), large) as orch:
        child = orch.run_sync("b {parent}", parent=orch.run_sync("a"))
        assert child.platform == "large"
        assert text in large.prompts[-1]


def test_a_setting_refuses_texts_that_fit_nowhere(tmp_path):
    platform = small(replies={"^a$": "word " * 5_000})
    with orchestrator(tmp_path, platform, handoff_fit="refuse") as orch:
        parent = orch.run_sync("a")
        child = orch.run_sync("b {parent}", parent=parent, on_error="continue")
        assert (child.status, child.error_class) == ("failed", "request")
        assert "too long" in child.error
    assert len(platform.prompts) == 1


def test_what_is_handed_over_counts_in_estimates(tmp_path):
    platform = ScriptedPlatform(replies={"^a$": "x" * 40_000})
    with orchestrator(tmp_path, platform) as orch:
        parent = orch.run_sync("a")
        plan = orch.plan([Task("b {parent}", parent=parent)])
        assert plan.to_pandas()["input_tokens"].tolist()[0] > 10_000


def test_a_document_of_16_megabytes_is_handed_over_whole(tmp_path):
    text = "ä" * 8_000_000
    platform = ScriptedPlatform(replies={"^a$": text, "^b": "read"})
    with orchestrator(tmp_path, platform) as orch:
        assert orch.run_sync("b {parent}", parent=orch.run_sync("a")).output == "read"
        assert text in platform.prompts[-1]
