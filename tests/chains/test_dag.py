"""Tasks of one call that work with, or wait for, each other."""

from __future__ import annotations

import asyncio
import time

import pytest
from parts import orchestrator, upper

from orchestrai import InvalidInput, InvalidTemplate, PlatformError, Task
from orchestrai.testing import ScriptedPlatform


def batch(orch, tasks, **options):
    return orch.batch_sync(tasks, progress="off", **options)


def test_a_child_is_handed_what_its_parents_answered_in_their_order(tmp_path):
    a, b = Task("a"), Task("b")
    with orchestrator(tmp_path) as orch:
        result = batch(orch, [Task("c {parents}", parent=[b, a]), a, b])
        assert result.outputs == ["C {PARENTS}\n\n{PARENTS} | B | A", "A", "B"]
        assert [r.parent_id for r in result] == [result[2].task_id, None, None]


def test_parents_may_be_named_by_their_row_and_need_no_place_in_the_prompt(tmp_path):
    with orchestrator(tmp_path) as orch:
        result = batch(orch, [{"prompt": "a"}, {"prompt": "b", "parent": 0}, {"prompt": "c", "parent": [0, 1]}])
        assert result.outputs[1:] == ["B\n\n{PARENTS} | A", "C\n\n{PARENTS}\n\n{PARENTS} | A | B\n\n{PARENTS} | A"]


def test_what_a_task_only_comes_after_is_not_in_its_prompt(tmp_path):
    platform = upper(delay_s=0.02)
    with orchestrator(tmp_path, platform) as orch:
        first = Task("first")
        result = batch(orch, [Task("second", depends_on=first), first])
        assert result.outputs == ["SECOND", "FIRST"]
        assert platform.prompts == ["first", "second"]


def test_independent_steps_run_in_parallel(tmp_path):
    together = asyncio.Event()
    waiting = []

    async def meet(request):
        waiting.append(request)
        if len(waiting) == 1 + 8:  # the root, and all of its children
            together.set()
        if len(waiting) > 1:
            await asyncio.wait_for(together.wait(), 60)
        return "met"

    with orchestrator(tmp_path, ScriptedPlatform(replies=meet)) as orch:
        root = Task("root")
        assert all(batch(orch, [root, *(Task(f"{i} {{parent}}", parent=root) for i in range(8))]))


def test_what_follows_a_failure_is_skipped_with_its_cause_and_siblings_finish(tmp_path):
    platform = upper(faults={"^bad$": ["request"]})
    bad, good = Task("bad"), Task("good")
    child = Task("child {parent}", parent=bad)
    with orchestrator(tmp_path, platform) as orch:
        tasks = [bad, good, child, Task("grandchild", depends_on=child), Task("sibling {parent}", parent=good)]
        result = batch(orch, tasks)
        assert [r.status for r in result] == ["failed", "succeeded", "skipped", "skipped", "succeeded"]
        assert [r.error_class for r in result[2:4]] == ["parent", "parent"]
        assert all(r.error.startswith("row 0 failed (request)") for r in result[2:4])
        assert sorted(platform.prompts)[:2] == ["bad", "good"]
        assert len(platform.prompts) == 3


def test_what_follows_a_row_that_is_not_sent_is_skipped_too(tmp_path):
    with orchestrator(tmp_path) as orch:
        result = batch(orch, [{"prompt": None}, {"prompt": "child", "parent": 0}])
        assert [(r.status, r.error_class) for r in result] == [("skipped", "input"), ("skipped", "parent")]


def test_an_empty_answer_hands_nothing_over(tmp_path):
    platform = ScriptedPlatform(replies={"^empty$": ""})
    with orchestrator(tmp_path, platform) as orch:
        empty = Task("empty")
        result = batch(orch, [empty, Task("child", parent=empty), Task("after", depends_on=empty)])
        assert [r.status for r in result] == ["succeeded", "skipped", "succeeded"]
        assert "empty" in result[1].error


def test_failures_are_retried_with_what_they_wait_for(tmp_path):
    platform = upper(faults={"^bad$": ["request"]})
    good, bad = Task("good"), Task("bad")
    with orchestrator(tmp_path, platform) as orch:
        first = batch(orch, [good, bad, Task("child", parent=[bad, good])])
        again = orch.wait(first.retry_failures())
        assert again.outputs == ["GOOD", "BAD", "CHILD\n\n{PARENTS}\n\n{PARENTS} | BAD | GOOD"]
        assert platform.prompts.count("good") == 1


def test_every_sample_of_a_parent_is_handed_over(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(replies=["one", "two", "both"])) as orch:
        parent = Task("a", samples=2)
        batch(orch, [parent, Task("b", parent=parent)])
        platform = orch.findings[0].platform
        assert "\none\n" in platform.prompts[-1]
        assert "\ntwo\n" in platform.prompts[-1]


def test_a_retried_child_is_handed_every_sample_again(tmp_path):
    platform = ScriptedPlatform(replies=["one", "two", PlatformError("request", "no"), "both"])
    with orchestrator(tmp_path, platform) as orch:
        parent = Task("a", samples=2)
        first = batch(orch, [parent, Task("b", parent=parent)])
        assert [r.status for r in first] == ["succeeded", "succeeded", "failed"]
        again = orch.wait(first.retry_failures())
        assert all(again)
        assert again[2].task.key == first[2].task.key
        assert len(again[2].task.parent) == 2


# --- again -------------------------------------------------------------------------------------------------------


def report(middle="b {parent}"):
    a = Task("a")
    b, c = Task(middle, parent=a), Task("c {parent}", parent=a)
    return [a, b, c, Task("d {parents}", parent=[b, c]), Task("e {parent}", parent=c)]


def test_the_same_call_again_asks_nothing_and_its_plan_says_so(tmp_path):
    platform = upper()
    with orchestrator(tmp_path, platform) as orch:
        first = batch(orch, report())
        assert orch.plan(report()).reused == 5
        again = batch(orch, report())
        assert again.outputs == first.outputs
        assert all(r.reused for r in again)
        assert [r.reused_from for r in again] == [r.task_id for r in first]
        assert again[1].parent_id == again[0].task_id
        assert len(platform.prompts) == 5


def test_a_changed_step_is_asked_again_with_all_that_follow_from_it_and_nothing_else(tmp_path):
    platform = upper()
    with orchestrator(tmp_path, platform) as orch:
        batch(orch, report())
        assert orch.plan(report("B {parent}!")).reused == 3
        changed = batch(orch, report("B {parent}!"))
        assert [r.reused for r in changed] == [True, False, True, False, True]
        assert len(platform.prompts) == 7


def test_a_task_without_parents_has_the_key_it_always_had():
    assert Task("a", chain="c").key == Task("a").key
    assert Task("a", depends_on=[Task("b")]).key == Task("a").key
    assert Task("a", parent=[Task("b")]).key != Task("a").key
    assert Task("a", parent=[Task("b")]).key != Task("a", parent=[Task("c")]).key


def test_the_key_of_a_result_is_that_of_its_task(tmp_path):
    with orchestrator(tmp_path) as orch:
        a = orch.run_sync("a")
        b = orch.run_sync("b", parent=a)
        assert b.task.key == Task("b", parent=a).key
        assert b.task.parent[0].summary == "A"  # the text itself does not travel with the task
        assert orch.run_sync("b", parent=a.task_id).reused


def test_a_named_batch_goes_on_where_it_was_left_without_other_reuse(tmp_path):
    platform = upper(delay_s=0.05)
    with orchestrator(tmp_path, platform) as orch:
        line = [Task("0")]
        for i in range(1, 8):
            line.append(Task(f"{i} {{parent}}", parent=line[-1]))
        handle = orch.start(line, name="line", reuse=False, progress="off")
        while handle.progress.succeeded < 3:
            time.sleep(0.005)
        handle.cancel()
        handle.wait()
        asked = len(platform.prompts)
        assert 3 <= asked < 8
        again = batch(orch, line, name="line", reuse=False)
        assert all(again)
        assert again.reused_count >= 3
        assert len(platform.prompts) <= 8 + 1  # the one under way when it was cancelled
        fresh = batch(orch, line, name="line", reuse=False)  # that one is finished, so this is another
        assert fresh.reused_count == 0


def test_one_model_answers_a_whole_graph_where_that_is_asked_for(tmp_path):
    one, two = upper(name="one", model="m1", models=[]), upper(name="two", model="m2", models=[])
    with orchestrator(tmp_path, one, two) as orch:
        result = batch(orch, report(), mix=False)
        assert {r.model for r in result} == {"m1"}


def test_a_call_as_it_completes_and_a_stream_work_with_results(tmp_path):
    async def look(orch, parent):
        found = [r async for r in orch.as_completed(["b {parent}", "c"], parent=parent, chain="c")]
        stream = orch.stream("d {parent}", parent=parent)
        return found, "".join([piece async for piece in stream])

    with orchestrator(tmp_path) as orch:
        found, streamed = asyncio.run(look(orch, orch.run_sync("a")))
        assert {r.output for r in found} == {"B {PARENTS} | A", "C\n\n{PARENTS} | A"}
        assert streamed == "D {PARENTS} | A"


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([{"prompt": "a", "parent": 1}, {"prompt": "b", "parent": 0}], "0 → 1 → 0"),
        ([{"prompt": "a", "parent": 0}], "0 → 0"),
        ([{"prompt": "a", "depends_on": 7}], "no row 7"),
        ([Task("a", parent=Task("b"))], "no task of this call"),
        ([Task("a", parent="0" * 32)], "unknown parent"),
        ([Task("a {shared.x}", parent="0" * 32)], "no chain"),
    ],
)
def test_circles_and_unknown_parents_are_errors_before_anything_is_sent(tmp_path, tasks, words):
    platform = upper()
    with orchestrator(tmp_path, platform) as orch, pytest.raises(InvalidInput, match=words):
        batch(orch, tasks)
    assert platform.prompts == []


def test_a_place_without_a_parent_is_an_error_in_a_chain_and_braces_elsewhere(tmp_path):
    with orchestrator(tmp_path) as orch:
        with pytest.raises(InvalidTemplate, match="no parent"):
            orch.run_sync("a {parent}", chain="c")
        assert orch.run_sync("a {parent} {shared.b}").output == "A {PARENT} {SHARED.B}"


def test_a_parent_of_the_wrong_kind_is_named():
    for wrong in (1.5, True, object(), [None]):
        with pytest.raises(InvalidInput, match="parent is"):
            Task("a", parent=wrong)


def test_a_text_in_the_place_of_a_parent_is_told_how_it_is_handed_over(tmp_path):
    with pytest.raises(InvalidInput, match=r"'an answer' is none.*orch\.memory\.add"):
        Task("a {parent}", parent="an answer")
    with orchestrator(tmp_path) as orch:
        memory_id = orch.wait(orch.memory.add("an answer"))
        assert orch.run_sync("a {parent}", parent=memory_id).output == "A {PARENTS} | an answer"


def test_a_call_without_an_end_knows_no_rows(tmp_path):
    async def look(orch):
        return [r async for r in orch.as_completed([Task("a"), Task("b", parent=0)])]

    with orchestrator(tmp_path) as orch:
        with pytest.raises(InvalidInput, match="whole batch"):
            asyncio.run(look(orch))
        with pytest.raises(InvalidInput, match="whole batch"):
            orch.run_sync("a", parent=0)


def test_a_ledger_without_texts_refuses_chains(tmp_path):
    with orchestrator(tmp_path, keep_texts=False) as orch:
        for refused in (lambda: orch.run_sync("a", chain="c"), lambda: orch.chain("c")):
            with pytest.raises(InvalidInput, match="keep_texts"):
                refused()
