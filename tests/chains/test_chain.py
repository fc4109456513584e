"""Chains: steps that work with each other's answers, from any kernel, with lineage and cost."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Literal

import pandas as pd
import pytest
from loopback import finished
from parts import orchestrator, upper

from orchestrai import InvalidInput, InvalidTemplate, Task, TaskFailed
from orchestrai.testing import ScriptedPlatform


def run(awaitable):
    return asyncio.run(_value(awaitable))


async def _value(awaitable):
    return await awaitable


def test_a_chain_runs_fans_out_and_joins(tmp_path):
    with orchestrator(tmp_path) as orch:
        chain = orch.chain("report")
        a = run(chain.run("a"))
        kids = run(chain.fan_out(a, ["b {parent}", Task("c {parent}", platform="scripted")], progress="off"))
        end = run(chain.join(kids, "d {parents}"))
        assert end.output.startswith("D {PARENTS}\n\n{PARENTS} | B {PARENTS} | A | C {PARENTS} | A")
        assert {r.chain_id for r in (a, *kids, end)} == {chain.id}
        assert (chain.tasks, chain.depth, chain.root_task_id) == (4, 2, a.task_id)
        steps = {step.task_id: step for step in chain.steps}
        assert steps[end.task_id].parents == tuple(r.task_id for r in kids)
        assert {step.root_task_id for step in steps.values()} == {a.task_id}
        assert [step.depth for step in chain.steps] == [0, 1, 1, 2]
        for one in (a, a.task_id):
            assert run(chain.join(one, "d {parents}")).output == "D {PARENTS} | A"
        with pytest.raises(InvalidInput, match="at least one parent"):
            chain.join([], "d {parents}")


def test_map_continues_a_batch_and_nothing_else(tmp_path):
    with orchestrator(tmp_path) as orch:
        a = orch.run_sync("a")
        for wrong in (a, [a], orch.start(["b"], progress="off")):
            with pytest.raises(InvalidInput, match=f"not {type(wrong).__name__}: `await` a batch first"):
                orch.chain("report").map(wrong, "b {parent}")


def test_half_a_character_names_nothing(tmp_path):
    with orchestrator(tmp_path) as orch:
        with pytest.raises(InvalidInput, match="half of a character"):
            orch.chain("a\ud800")
        with pytest.raises(InvalidInput, match="half of a character"):
            run(orch.chain("a").shared.set("\ud800", 1))


def test_a_step_stands_where_its_parents_stand_however_they_are_named(tmp_path):
    with orchestrator(tmp_path) as orch:
        chain = orch.chain("c")
        a = run(chain.run("a"))
        b = run(chain.run("b {parent}", parent=a))
        c = run(chain.run("c {parent}", parent=b.task_id))
        d = run(chain.run("d {parent}", parent=c.task.parent[0]))  # what was handed to c
        again = run(chain.run("b {parent}", parent=a))
        e = run(chain.run("e {parent}", parent=again))
        f = run(chain.run("f {parent}", parent=again.task_id))
        steps = {step.task_id: step for step in chain.steps}
        assert [steps[r.task_id].depth for r in (a, b, c, d, e, f)] == [0, 1, 2, 2, 2, 2]
        assert {step.root_task_id for step in steps.values()} == {a.task_id}
        assert [steps[r.task_id].parents for r in (c, d, e, f)] == [(b.task_id,)] * 4


def test_each_step_is_routed_on_its_own_and_may_be_pinned(tmp_path):
    one, two = upper(name="one"), upper(name="two", tier="subscription")
    with orchestrator(tmp_path, one, two) as orch:
        chain = orch.chain("c")
        a = run(chain.run("a", platform="two"))
        b = run(chain.run("b", parent=a))
        assert (a.platform, b.platform) == ("two", "one")
        assert "Answer of two (scripted-1)" in one.prompts[-1]


def test_a_name_means_its_newest_run_and_an_id_the_run_itself(tmp_path):
    with orchestrator(tmp_path) as orch:
        first = orch.chain("c")
        assert orch.chain("c").id == first.id
        second = orch.chain("c", new=True)
        assert second.id != first.id
        assert orch.chain("c").id == second.id
        assert orch.chain(first.id).id == first.id
        assert orch.run_sync("x", chain="c").chain_id == second.id
        assert orch.run_sync("y", chain=first.id).chain_id == first.id
        assert orch.run_sync("z", chain=first.id).task.chain == "c"
        assert [row["name"] for row in orch.chains()] == ["c", "c"]
        with pytest.raises(InvalidInput, match="name"):
            orch.chain(" ")


def test_what_is_asked_again_goes_on_in_its_own_run(tmp_path):
    platform = upper(faults={"^b$": ["request"]})
    with orchestrator(tmp_path, platform) as orch:
        first = orch.chain("c")
        res = orch.batch_sync(["a", "b"], chain=first.id, progress="off")
        second = orch.chain("c", new=True)
        again = run(res.retry_failures())
        assert [r.chain_id for r in again] == [first.id, first.id]
        assert (first.tasks, second.tasks) == (2, 0)


def test_two_projects_have_chains_of_their_own_by_the_same_name(tmp_path, monkeypatch):
    ids = []
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        (folder / ".git").mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        with orchestrator(None) as orch:  # one ledger, the person's
            ids.append(orch.chain("c").id)
    assert ids[0] == ids[2] != ids[1]


def test_a_chain_goes_on_in_another_process(tmp_path):
    with orchestrator(tmp_path) as orch:
        chain = orch.chain("report")
        a = run(chain.run("a"))
    script = """
        import sys
        from orchestrai import Orchestrator
        from orchestrai.testing import ScriptedPlatform
        with Orchestrator(sys.argv[1], platforms=[ScriptedPlatform(replies="more")]) as orch:
            chain = orch.chain("report")
            step = chain.steps[0]
            b = orch.wait(chain.run("b {parent}", parent=step.task_id))
            print(chain.id, b.parent_id, chain.tasks)
    """
    assert finished(script, tmp_path, str(tmp_path)).split() == [chain.id, a.task_id, "2"]
    with orchestrator(tmp_path) as orch:
        assert orch.chain("report").tasks == 2


def test_every_row_of_a_batch_is_continued_by_a_row_of_its_own(tmp_path):
    frame = pd.DataFrame({"name": ["ann", "{parent}", "bob"]}, index=[7, 8, 9])
    platform = upper(faults={"bob$": ["request"]})
    with orchestrator(tmp_path, platform) as orch:
        res = orch.batch_sync(frame, prompt="about {name}", progress="off", into="about")
        more = run(orch.chain("c").map(res, "more of {name}: {parent}", progress="off"))
        assert more.df.index.tolist() == [7, 8, 9]
        assert more.df["name"].tolist() == frame["name"].tolist()
        assert [r.status for r in more] == ["succeeded", "succeeded", "skipped"]
        assert more.outputs[0] == "MORE OF ANN: {PARENTS} | ABOUT ANN"
        # What stands in a cell is no place for anything.
        assert platform.prompts[-1].startswith("more of {parent}: <<<") or platform.prompts[-2].startswith(
            "more of {parent}: <<<"
        )


def test_a_batch_without_a_frame_is_continued_too(tmp_path):
    with orchestrator(tmp_path) as orch:
        res = orch.batch_sync(["a", "b"], progress="off")
        more = run(orch.chain("c").map(res, "go on: {parent}", progress="off"))
        assert more.outputs == ["GO ON: {PARENTS} | A", "GO ON: {PARENTS} | B"]
        assert [r.parent_id for r in more] == [r.task_id for r in res]


def test_a_parent_that_failed_skips_what_follows_with_its_cause(tmp_path):
    platform = upper(faults={"^bad$": ["request"]})
    with orchestrator(tmp_path, platform) as orch:
        chain = orch.chain("c")
        kids = run(chain.fan_out(run(chain.run("a")), ["good"], progress="off"))
        bad = run(chain.run("bad", on_error="continue"))
        with pytest.raises(TaskFailed, match="failed \\(request\\)") as caught:
            run(chain.join([*kids, bad], "all"))
        assert (caught.value.result.status, caught.value.result.error_class) == ("skipped", "parent")
        with pytest.raises(InvalidInput, match="at least one"):
            chain.join([], "all")


def test_money_counts_every_attempt_of_every_step_once(tmp_path):
    price = {"input_mtok": "1000", "output_mtok": "1000"}
    paid = ScriptedPlatform("paid", tier="paid", price=price, replies=["a", "not a label", "yes"])
    with orchestrator(tmp_path, paid) as orch:
        chain = orch.chain("c")
        for _ in range(2):  # the second time all of it is reused
            a = run(chain.run("a", confirm="never"))
            run(chain.run("b {parent}", parent=a, schema=Literal["yes", "no"], confirm="never"))
        rows = chain.to_pandas()
        assert rows["attempts"].tolist() == [1, 2]
        asked = [orch.explain(step.task_id).attempts for step in chain.steps]
        pico = sum(row["cost"] or 0 for attempts in asked for row in attempts)
        assert chain.cost == Decimal(pico).scaleb(-12) > 0
        assert chain.tasks == 2
        assert chain.tokens == rows["input_tokens"].sum() + rows["output_tokens"].sum()
        assert chain.duration_s > 0


def test_what_is_shown_of_a_chain_cannot_be_markup(tmp_path):
    evil = "<script>alert(1)</script> $x^2$ \x1b[31m"
    with orchestrator(tmp_path, ScriptedPlatform(replies=evil)) as orch:
        chain = orch.chain(evil)
        a = run(chain.run(evil))
        run(chain.run("b", parent=a))
        shown = chain._repr_mimebundle_()
        assert "<script>" not in shown["text/html"]
        assert "\x1b" not in shown["text/plain"]
        figure = chain.graph().to_json()
        assert "<script>" not in figure
        assert "$x" not in figure
        assert "&lt;script" in figure


def test_the_graph_has_a_line_for_every_handoff_and_a_colour_for_every_platform(tmp_path):
    one, two = upper(name="one"), upper(name="two")
    with orchestrator(tmp_path, one, two) as orch:
        chain = orch.chain("c")
        assert chain.graph().layout.annotations[0].text == "nothing yet"
        a = run(chain.run("a", platform="one"))
        kids = run(chain.fan_out(a, ["b", "c"], platform="two", progress="off"))
        run(chain.join(kids, "d"))
        figure = chain.graph()
        lines, *nodes = figure.data
        assert len(lines.x) == 3 * 4
        assert {trace.name: len(trace.x) for trace in nodes} == {"one": 2, "two": 2}
        kid = next(trace for trace in nodes if trace.name == "two")
        assert [name for _, name in sorted(zip(kid.y, kid.text, strict=True))] == ["b", "c"]  # as they were asked
        costs = orch.costs.plot.chain("c")
        assert [(t.name, t.x, t.y) for t in costs.data] == [(t.name, t.x, t.y) for t in figure.data]


def test_a_line_of_tasks_is_followed_without_a_chain_and_from_one_chain_into_another(tmp_path):
    with orchestrator(tmp_path, upper()) as orch:
        assert len(orch.costs.lineage(orch.chain("empty"))) == 0
        a = run(orch.chain("one").run("a"))
        b = run(orch.chain("two").run("b", parent=a))
        c = run(orch.run("c", parent=b))
        other = run(orch.run("d", parent=a))
        whole = [one.task_id for one in (a, b, c)]
        for task, line in (
            (a, {*whole, other.task_id}),
            (b, set(whole)),
            (c, set(whole)),
            (other, {a.task_id, other.task_id}),
        ):
            assert set(orch.costs.lineage(task.task_id)["task_id"]) == line
        found = orch.costs.lineage(b.task_id, money="decimal").set_index("task_id")
        assert found["parents"][c.task_id] == (b.task_id,)
        assert found["cost_below"][b.task_id] == b.cost + c.cost


# --- shared values -------------------------------------------------------------------------------------------------


def test_a_shared_value_is_in_the_prompt_and_in_what_decides_reuse(tmp_path):
    platform = upper()
    with orchestrator(tmp_path, platform) as orch:
        chain = orch.chain("c")
        with pytest.raises(InvalidTemplate, match=r"chain\.shared\.set\('glossary'"):
            run(chain.run("use {shared.glossary}"))
        run(chain.shared.set("glossary", {"wal": "write-ahead log"}))
        run(chain.run("use {shared.glossary}"))
        assert platform.prompts == ['use {"wal":"write-ahead log"}']
        assert run(chain.run("use {shared.glossary}")).reused
        run(chain.shared.set("glossary", "none {parent}"))
        run(chain.run("use {shared.glossary}"))
        assert platform.prompts[1:] == ["use none {parent}"]
        with pytest.raises(InvalidTemplate, match="Did you mean 'glossary'"):
            run(chain.run("use {shared.glosary}"))


def test_shared_values_belong_to_one_run(tmp_path):
    with orchestrator(tmp_path) as orch:
        first, second = orch.chain("c"), orch.chain("c", new=True)
        run(first.shared.set("n", 1))
        assert run(second.shared.get("n", "none")) == "none"
        assert run(first.shared.all()) == {"n": 1}


@pytest.mark.parametrize(("name", "value"), [("", 1), ("a}", 1), ("a\nb", 1), (3, 1), ("a", object()), ("a", {1, 2})])
def test_a_name_or_a_value_that_no_prompt_could_show_is_refused(tmp_path, name, value):
    with orchestrator(tmp_path) as orch, pytest.raises(InvalidInput):
        run(orch.chain("c").shared.set(name, value))


def test_no_update_is_lost_however_many_update_at_once(tmp_path):
    async def count(shared):
        async def more(present):
            await asyncio.sleep(0)
            return present + 1

        await asyncio.gather(*(shared.update("n", more, default=0) for _ in range(20)))
        return await shared.get("n")

    with orchestrator(tmp_path) as orch:
        assert run(count(orch.chain("c").shared)) == 20


def test_an_update_that_only_reads_and_writes_loses_some(tmp_path):
    """The control."""

    async def count(shared):
        async def add():
            await shared.set("n", (await shared.get("n", 0)) + 1)

        await asyncio.gather(*(add() for _ in range(20)))
        return await shared.get("n")

    with orchestrator(tmp_path) as orch:
        assert run(count(orch.chain("c").shared)) < 20
