"""The calls of an orchestrator: one set of answers however they are asked for, in the order of the input."""

from __future__ import annotations

import asyncio
import base64
import enum
import threading
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypedDict

import pandas as pd
import pydantic
import pytest
from loopback import finished, openai, orchestrator, upper

from orchestrai import (
    BatchResult,
    BatchStopped,
    ColumnExists,
    InvalidInput,
    Orchestrator,
    Result,
    Task,
    TaskFailed,
)
from orchestrai.errors import PlatformError
from orchestrai.platforms import Capabilities, Reply
from orchestrai.result import Usage
from orchestrai.testing import Answer, ProviderServer, ScriptedPlatform, SpawnedServer
from orchestrai.testing.answers import answer_to
from orchestrai.text import list_total

PROMPTS = [f"question {i}" for i in range(40)]
ANSWERS = [answer_to(prompt) for prompt in PROMPTS]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


async def _run(orch):
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(orch.run(prompt)) for prompt in PROMPTS]
    return [task.result() for task in tasks]


async def _as_completed(orch):
    return sorted([r async for r in orch.as_completed(PROMPTS)], key=lambda r: r.index)


async def _stream(orch):
    streams = [orch.stream(prompt) for prompt in PROMPTS]
    pieces = await asyncio.gather(*[_joined(stream) for stream in streams])
    assert pieces == [stream.result.output for stream in streams]
    return [stream.result for stream in streams]


async def _joined(stream):
    return "".join([piece async for piece in stream])


async def _awaited(handle):
    return await handle


WAYS = {
    "run": lambda orch: asyncio.run(_run(orch)),
    "run_sync": lambda orch: [orch.run_sync(prompt) for prompt in PROMPTS],
    "batch": lambda orch: asyncio.run(orch.batch(PROMPTS)),
    "batch_sync": lambda orch: orch.batch_sync(PROMPTS),
    "as_completed": lambda orch: asyncio.run(_as_completed(orch)),
    "start": lambda orch: asyncio.run(_awaited(orch.start(PROMPTS))),
    "start and wait": lambda orch: orch.start(PROMPTS).wait(),
    "stream": lambda orch: asyncio.run(_stream(orch)),
    "wait": lambda orch: orch.wait(orch.batch(PROMPTS)),
    "wait for a handle": lambda orch: orch.wait(orch.start(PROMPTS)),
}


# --- one set of answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask_gives_the_same_answers_in_the_order_of_the_input(tmp_path, way):
    # Latency is spread, so that answers come back in another order than they were asked in.
    with ProviderServer(latency="lognormal:0.004") as server, orchestrator(tmp_path, openai(server)) as orch:
        results = WAYS[way](orch)
        assert [r.output for r in results] == ANSWERS
        assert [r.task.prompt for r in results] == PROMPTS
        assert all(r.success and r.platform == "openai" and r.model == "test-model" for r in results)
        assert all((r.attempts, r.reused, r.finish_reason, r.tier) == (1, False, "stop", "paid") for r in results)
        assert all(r.usage.source == "provider" and r.usage.total_tokens for r in results)
        assert sorted(server.prompts) == sorted(PROMPTS)


@pytest.mark.parametrize("way", WAYS)
def test_what_one_way_was_answered_every_other_way_reuses(tmp_path, way):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.batch_sync(PROMPTS)
        results = WAYS[way](orch)
        assert [r.output for r in results] == ANSWERS
        assert all(r.reused and r.cost == 0 and r.attempts == 0 and r.answered_at for r in results)
        assert len(server.requests) == len(PROMPTS)


def test_sync_calls_work_where_a_loop_is_running_as_in_a_notebook(tmp_path):
    async def cell(orch):
        return [
            orch.run_sync("one").output,
            orch.batch_sync(["two"]).outputs,
            orch.wait(orch.batch(["three"])).outputs,
            orch.wait(orch.start(["four"])).outputs,
        ]

    with orchestrator(tmp_path, upper) as orch:
        assert asyncio.run(cell(orch)) == ["ONE", ["TWO"], ["THREE"], ["FOUR"]]


def test_the_callers_loop_stays_alive_while_a_batch_is_under_way(tmp_path):
    async def cell(orch):
        ticks = 0
        batch = asyncio.create_task(orch.batch(PROMPTS, concurrency=4))
        while not batch.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return ticks, await batch

    with ProviderServer(latency=0.02) as server, orchestrator(tmp_path, openai(server)) as orch:
        ticks, result = asyncio.run(cell(orch))
        assert result.outputs == ANSWERS
        assert ticks > 20


def test_a_loop_of_a_finished_run_is_no_obstacle_for_the_next(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        for i in range(3):
            assert asyncio.run(orch.run(f"again {i}")).output == answer_to(f"again {i}")
        assert server.stats()["connections"] == 1


def test_calls_from_many_threads_at_once_get_their_own_answers(tmp_path):
    found = {}

    def ask(orch, i):
        found[i] = orch.batch_sync([f"thread {i} task {j}" for j in range(5)]).outputs

    with orchestrator(tmp_path, upper) as orch:
        threads = [threading.Thread(target=ask, args=(orch, i)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {i: [f"THREAD {i} TASK {j}" for j in range(5)] for i in range(8)}


def test_two_batches_at_once_return_each_its_own_result(tmp_path):
    async def both(orch):
        return await asyncio.gather(orch.batch(["a", "b"]), orch.batch(["c"]), orch.start(["d"]))

    with orchestrator(tmp_path, upper) as orch:
        for _ in range(20):
            results = asyncio.run(both(orch))
            assert [r.outputs for r in results] == [["A", "B"], ["C"], ["D"]]


def test_a_platform_may_ask_the_orchestrator_itself_by_await(tmp_path):
    async def chief(request):
        if request.messages[-1].text.startswith("part"):
            return "done"
        other = await helper.run("part 2")
        return (await orch.run("part 1")).output + other.output

    with orchestrator(tmp_path / "a", chief) as orch, orchestrator(tmp_path / "b", chief) as helper:
        assert orch.run_sync("whole").output == "donedone"


@pytest.mark.parametrize(
    "call",
    [
        lambda orch: orch.run_sync("inner"),
        lambda orch: orch.batch_sync(["inner"]),
        lambda orch: orch.start(["inner"]).wait(),
        lambda orch: orch.wait(orch.run("inner")),
        lambda orch: orch.close(),
    ],
    ids=["run_sync", "batch_sync", "wait of a handle", "wait", "close"],
)
def test_a_sync_call_from_the_engines_own_loop_is_refused_and_not_deadlocked(tmp_path, call):
    said = []

    async def platform(request):
        if request.messages[-1].text == "inner":
            return "in"
        try:
            call(orch)
        except RuntimeError as error:
            said.append(str(error))
        return "out"

    with orchestrator(tmp_path, platform) as orch:
        assert orch.run_sync("outer").output == "out"
    assert len(said) == 1
    assert "`await`" in said[0]


# --- one prompt ------------------------------------------------------------------------------------------------------


def test_run_raises_with_the_result_and_continues_when_told(tmp_path):
    platform = ScriptedPlatform(faults={"bad": ["request"]})
    with orchestrator(tmp_path, platform) as orch:
        with pytest.raises(TaskFailed, match=r"failed on scripted \(request\): scripted request") as caught:
            orch.run_sync("bad")
        assert caught.value.result.error_class == "request"
        failed = asyncio.run(orch.run("bad too", on_error="continue"))
        assert (failed.success, bool(failed), str(failed), failed.output) == (False, False, "", None)
        good = orch.run_sync("bad")  # asked again: failures are never reused
        assert (good.success, bool(good), str(good), good.raise_for_failure()) == (True, True, good.output, good)


def test_every_kind_of_prompt_is_sent_as_it_is(tmp_path):
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Who?"},
    ]
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.batch_sync(["plain", talk, Task("task", system="Own."), {"prompt": "fields", "max_tokens": 7}])
        sent = {r.prompt: r.json for r in server.requests}
        assert sent["plain"]["messages"] == [{"role": "user", "content": "plain"}]
        assert sent["Who?"]["messages"] == talk
        assert sent["task"]["messages"] == [
            {"role": "system", "content": "Own."},
            {"role": "user", "content": "task"},
        ]
        assert sent["fields"]["max_tokens"] == 7


def test_options_reach_the_wire_and_a_tasks_own_win(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.batch_sync(
            ["a", Task("b", max_tokens=5, temperature=0.0, model="other"), {"prompt": "c", "system": "Mine."}],
            max_tokens=100,
            temperature=0.7,
            effort="low",
            system="Theirs.",
            extra={"openai": {"seed": 7}, "somebody": {"seed": 8}},
        )
        sent = {r.prompt: r.json for r in server.requests}
        assert sent["a"]["max_tokens"] == 100
        assert sent["a"]["temperature"] == 0.7
        assert sent["a"]["reasoning_effort"] == "low"
        assert sent["a"]["model"] == "test-model"
        assert {body["seed"] for body in sent.values()} == {7}
        assert (sent["b"]["max_tokens"], sent["b"]["temperature"], sent["b"]["model"]) == (5, 0.0, "other")
        assert [sent[p]["messages"][0]["content"] for p in "abc"] == ["Theirs.", "Theirs.", "Mine."]


def test_what_a_platform_cannot_do_is_dropped_with_one_warning(tmp_path):
    plain = ScriptedPlatform(capabilities=Capabilities(output_limit=False, temperature=False, effort=False))
    with orchestrator(tmp_path, plain) as orch:
        with pytest.warns(UserWarning, match="scripted") as warned:
            orch.batch_sync(["a", "b", "c"], max_tokens=5, temperature=0.1, effort="high")
        assert [str(w.message) for w in warned] == [
            "scripted-1 on scripted takes no max_tokens, temperature, effort: dropped for its tasks."
        ]
        assert {(r.max_tokens, r.temperature, r.effort) for r in plain.requests} == {(None, None, None)}


def test_several_samples_are_several_answers_side_by_side(tmp_path):
    with (
        ProviderServer(replies=lambda r: f"answer {r.attempt}") as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        res = orch.batch_sync(["a", "b"], samples=3)
        assert [(r.index, r.sample) for r in res] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert sorted(res.outputs[:3]) == ["answer 0", "answer 1", "answer 2"]
        assert len(res.df) == 6
        assert list(res.df["output_sample"]) == [0, 1, 2, 0, 1, 2]
        more = orch.batch_sync(["a"], samples=4)
        assert [r.reused for r in more] == [True, True, True, False]
        for call in (orch.run_sync, lambda task: asyncio.run(orch.run(task)), orch.stream):
            with pytest.raises(InvalidInput, match="batch"):
                call(Task("a", samples=2))


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_batch_never_raises_for_a_task(tmp_path):
    platform = ScriptedPlatform(
        faults={"2": ["request"] * 9, "5": ["key"] * 9, "7": ["balance"] * 9},
        replies=lambda r: 1 / 0 if "8" in r.messages[-1].text else None,
    )
    with orchestrator(tmp_path, platform, attempts=1) as orch:
        res = orch.batch_sync([f"task {i}" for i in range(10)])
        failed = {r.index: r.error_class for r in res.failures}
        assert failed == {2: "request", 5: "key", 7: "balance", 8: "reply"}
        assert "ZeroDivisionError" in res[8].error
        assert (res.success_count, res.failure_count, res.status) == (6, 4, "finished")
        with pytest.raises(ExceptionGroup, match="4 of 10 tasks have no answer") as caught:
            res.raise_for_failures()
        assert [error.result.index for error in caught.value.exceptions] == [2, 5, 7, 8]


@pytest.mark.parametrize(
    "call",
    [
        lambda orch, *a, **k: asyncio.run(orch.batch(*a, **k)),
        lambda orch, *a, **k: orch.batch_sync(*a, **k),
        lambda orch, *a, **k: asyncio.run(_awaited(orch.start(*a, **k))),
        lambda orch, *a, **k: orch.start(*a, **k).wait(),
    ],
    ids=["batch", "batch_sync", "await start", "start and wait"],
)
def test_stop_ends_at_the_first_failure_and_keeps_what_was_finished(tmp_path, call):
    prompts = [f"task {i}" for i in range(200)]
    with (
        ProviderServer(latency=0.01, script={"^task 20$": 400}) as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        with pytest.raises(BatchStopped, match=r"task 20 failed \(request\)") as caught:
            call(orch, prompts, on_error="stop", concurrency=4)
        res = caught.value.result
        assert isinstance(res, BatchResult)
        assert (res.status, len(res), res[20].status) == ("stopped", 200, "failed")
        assert res.success_count >= 15
        assert {r.status for r in res.results[40:]} == {"cancelled"}
        assert orch.last_batch.results == res.results
        assert len(server.requests) < 40


def test_a_skipped_row_is_no_failure_that_stops_a_batch(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        res = orch.batch_sync(["a", None, "", "b"], on_error="stop")
        assert [r.status for r in res] == ["succeeded", "skipped", "skipped", "succeeded"]


def test_failures_are_asked_again_in_their_places(tmp_path):
    down = {"is": True}

    def replies(request):
        text = request.messages[-1].text
        return PlatformError("request", "not now") if down["is"] and text in ("b", "d") else text.upper()

    platform = ScriptedPlatform(replies=replies)
    with orchestrator(tmp_path, platform) as orch:
        res = orch.batch_sync(list("abcd"))
        assert res.outputs == ["A", None, "C", None]
        down["is"] = False
        merged = asyncio.run(res.retry_failures())
        assert merged.outputs == ["A", "B", "C", "D"]
        assert res.outputs == ["A", None, "C", None]
        assert len(platform.requests) == 6
        assert orch.last_batch.outputs == res.outputs


# --- ceilings and places ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceiling", [1, 3, 17])
def test_the_ceiling_is_reached_and_never_exceeded(tmp_path, ceiling):
    with ProviderServer(latency=0.01) as server, orchestrator(tmp_path, openai(server)) as orch:
        prompts = [f"question {i}" for i in range(12 * ceiling)]  # a lane finds out how many places it may use
        assert orch.batch_sync(prompts, concurrency=ceiling).success_count == len(prompts)
        assert server.most_in_flight == ceiling


def test_a_ceiling_holds_over_all_platforms_together(tmp_path):
    flights = {"now": 0, "most": 0}

    async def answer(request):
        flights["now"] += 1
        flights["most"] = max(flights["most"], flights["now"])
        await asyncio.sleep(0.005)
        flights["now"] -= 1
        return request.messages[-1].text

    async def first(request):
        return await answer(request)

    async def second(request):
        return await answer(request)

    with orchestrator(tmp_path, first, second) as orch:
        tasks = [Task(f"{i}", platform=("first", "second")[i % 2]) for i in range(40)]
        res = orch.batch_sync(tasks, concurrency=5)
        assert {name: len(results) for name, results in res.by_platform.items()} == {"first": 20, "second": 20}
        assert flights["most"] == 5


def test_a_ceiling_above_the_usual_is_granted_for_that_call(tmp_path):
    with ProviderServer(latency=0.1) as server, orchestrator(tmp_path, openai(server, concurrency=2)) as orch:
        orch.batch_sync([f"many {i}" for i in range(150)], concurrency=30)
        assert server.most_in_flight == 30
        server.most_in_flight = 0
        orch.batch_sync(["a", "b", "c", "d"])
        assert server.most_in_flight == 2


def test_orchestrators_on_one_ledger_share_a_platforms_places(tmp_path):
    async def both(a, b):
        return await asyncio.gather(a.batch(PROMPTS[:20]), b.batch(PROMPTS[20:]))

    with (
        ProviderServer(latency=0.01) as server,
        orchestrator(tmp_path, openai(server, concurrency=3)) as a,
        orchestrator(tmp_path, openai(server, concurrency=3)) as b,
    ):
        results = asyncio.run(both(a, b))
        assert [o for r in results for o in r.outputs] == ANSWERS
        assert server.most_in_flight == 3


def test_closing_one_orchestrator_harms_no_other_on_the_same_ledger(tmp_path):
    with ProviderServer(latency=0.05) as server, orchestrator(tmp_path, openai(server)) as stays:
        goes = orchestrator(tmp_path, openai(server))
        goes.run_sync("first")
        handle = stays.start(PROMPTS)
        server.wait_for(lambda: server.in_flight > 3)
        goes.close()
        res = handle.wait()
        assert res.outputs == ANSWERS
        assert sum(r.attempts for r in res) == len(PROMPTS)
        goes.close()
        assert goes.run_sync("it can be used again").success
        goes.close()


def test_a_platform_that_two_orchestrators_hold_is_closed_with_the_last(tmp_path):
    with ProviderServer(latency=0.05) as server:
        platform = openai(server)
        goes, stays = orchestrator(tmp_path / "a", platform), orchestrator(tmp_path / "b", platform)
        goes.run_sync("first")
        handle = stays.start(PROMPTS)
        server.wait_for(lambda: server.in_flight > 3)
        goes.close()
        res = handle.wait()
        assert sum(r.attempts for r in res) == len(PROMPTS)
        assert len(server.requests) == 1 + len(PROMPTS)
        stays.close()


def test_an_orchestrator_that_is_dropped_unclosed_leaves_nothing_to_complain_of(tmp_path):
    script = """
        import gc, sys
        from orchestrai import Orchestrator
        from orchestrai.platforms import OpenAI

        def platform():
            return OpenAI(base_url=sys.argv[2], api_key="k", model="m")

        for i in range(3):  # a cell that is run again
            orch = Orchestrator(sys.argv[1], platforms=[platform()])
            print(orch.run_sync(f"task {i}").success)
        Orchestrator(sys.argv[1], platforms=[platform()]).batch_sync(["a"])
        handle = Orchestrator(sys.argv[1], platforms=[platform()]).start(["b", "c"])
        gc.collect()
        print(handle.wait().success_count)
    """
    with SpawnedServer("--latency", "0.05") as server:
        assert finished(script, tmp_path, server.base_url).split() == ["True", "True", "True", "2"]
    assert list((tmp_path / ".orchestrai" / "owners").iterdir()) == []


def test_a_lazy_call_that_is_closed_under_way_ends(tmp_path):
    async def look(orch):
        seen = []
        async for result in orch.as_completed(f"{i}" for i in range(100_000)):
            seen.append(result.status)
            if len(seen) == 50:
                threading.Thread(target=orch.close).start()
        return seen

    with ProviderServer(latency=0.01) as server:
        seen = asyncio.run(asyncio.wait_for(look(orchestrator(tmp_path, openai(server))), 30))
    assert seen[-1] == "cancelled"
    assert len(seen) < 2000


def test_closing_in_the_middle_of_a_batch_keeps_what_is_finished(tmp_path):
    with ProviderServer(latency=0.02) as server:
        orch = orchestrator(tmp_path, openai(server, concurrency=4))
        handle = orch.start(PROMPTS)
        server.wait_for(lambda: server.counts["answered"] >= 8)
        orch.close()
        res = handle.wait()
        assert res.status == "cancelled"
        assert 4 <= res.success_count < len(PROMPTS)
        with orchestrator(tmp_path, openai(server)) as again:
            assert sum(r.reused for r in again.batch_sync(PROMPTS)) == res.success_count


# --- retry and money -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [500, 503, "429:0", "cut_body", "malformed", "empty", "reset", "slow:9"])
def test_a_passing_fault_is_tried_again(tmp_path, fault):
    with ProviderServer(script=[fault]) as server, orchestrator(tmp_path, openai(server)) as orch:
        result = orch.run_sync("a", timeout_s=0.5 if fault == "slow:9" else 30)
        assert (result.output, result.attempts) == (answer_to("a"), 2)
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_a_refusal_is_not_tried_again(tmp_path, status):
    with ProviderServer(script=lambda _: status) as server, orchestrator(tmp_path, openai(server)) as orch:
        result = asyncio.run(orch.run("a", on_error="continue"))
        assert result.error_class == {401: "key", 402: "balance", 403: "key"}.get(status, "request")
        assert (result.attempts, len(server.requests), result.cost) == (1, 1, 0)


def test_attempts_are_as_many_as_the_setting_says(tmp_path):
    with ProviderServer(script=lambda _: 500) as server, orchestrator(tmp_path, openai(server), attempts=2) as orch:
        result = asyncio.run(orch.run("a", on_error="continue"))
        assert (result.error_class, result.attempts, len(server.requests)) == ("overloaded", 2, 2)


def test_a_told_wait_is_kept_to_the_full(tmp_path):
    with ProviderServer(script=["429:1"]) as server, orchestrator(tmp_path, openai(server)) as orch:
        assert orch.run_sync("a").attempts == 2
        first, second = server.requests
        assert second.time - first.time >= 1.0


def test_a_waiting_task_holds_no_place(tmp_path):
    with (
        ProviderServer(script={"wait": [500, 500, 500]}) as server,
        orchestrator(tmp_path, openai(server, concurrency=1)) as orch,
    ):
        res = orch.batch_sync(["wait", *PROMPTS])
        assert res.success_count == 41
        assert server.most_in_flight == 1
        assert server.prompts[:4] != ["wait"] * 4  # three random waits, and others are answered meanwhile


PRICED = {"tier": "paid", "price": {"input_mtok": 1, "output_mtok": 2}}


def _said(text, tokens_in, tokens_out, **more):
    return Reply(text, model="m", usage=Usage(tokens_in, 0, 0, tokens_out, 0, "provider"), finish_reason="stop", **more)


def test_cost_and_tokens_are_sums_over_every_attempt(tmp_path):
    unusable = PlatformError("reply", "no JSON", may_be_billed=True, reply=_said("half", 100, 10))
    platform = ScriptedPlatform(
        replies={"a": [unusable, PlatformError("overloaded", "busy"), _said("whole", 100, 50)]}, **PRICED
    )
    with orchestrator(tmp_path, platform) as orch:
        result = orch.run_sync("a")
        assert (result.output, result.attempts) == ("whole", 3)
        assert (result.usage.input_tokens, result.usage.output_tokens) == (200, 60)
        assert result.cost == result.list_cost == Decimal("0.000320")


def test_a_paid_answer_that_cannot_be_used_is_booked(tmp_path):
    platform = ScriptedPlatform(replies=[_said("no label", 1000, 0), _said("none either", 1000, 500)], **PRICED)
    with orchestrator(tmp_path, platform) as orch:
        res = orch.batch_sync(["a"], schema=Literal["x", "y"])
        assert (res[0].status, res[0].error_class, res[0].attempts) == ("failed", "reply", 2)
        assert res.total_cost == Decimal("0.003")
        assert res.cost_complete
        assert res.total_tokens == 2500


def test_an_unknown_price_is_none_and_never_zero(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        res = orch.batch_sync(["a"])
        assert (res[0].cost, res[0].list_cost, res.cost_complete, res.total_cost) == (None, None, False, 0)
        assert res.to_pandas()["output_cost"].isna().all()


def test_unknown_tokens_of_a_paid_attempt_leave_its_cost_unknown(tmp_path):
    platform = ScriptedPlatform(usage=False, **PRICED)
    with orchestrator(tmp_path, platform) as orch:
        res = orch.batch_sync(["a"])
        assert (res[0].cost, res.cost_complete) == (None, False)


def test_a_timeout_may_have_been_billed(tmp_path):
    price = {"input_mtok": "1", "output_mtok": "2"}
    with (
        ProviderServer(script=["hang"]) as server,
        orchestrator(tmp_path, openai(server, price=price), attempts=1) as orch,
    ):
        result = asyncio.run(orch.run("a", timeout_s=0.2, on_error="continue"))
        assert (result.error_class, result.cost) == ("timeout", None)


@pytest.mark.parametrize("tier", ["free", "local", "subscription"])
def test_what_is_not_paid_by_the_token_costs_nothing_and_has_a_list_price(tmp_path, tier):
    platform = ScriptedPlatform(
        tier=tier, price={"input_mtok": 1, "output_mtok": 2}, replies={"a": [_said("A", 1000, 500)]}
    )
    with orchestrator(tmp_path, platform) as orch:
        res = orch.batch_sync(["a"])
        assert (res[0].tier, res[0].cost, res[0].list_cost) == (tier, 0, Decimal("0.002"))
        assert (res.total_cost, res.saved, res.cost_complete) == (0, Decimal("0.002"), True)


def test_the_price_is_that_of_the_model_which_answered(tmp_path):
    with ProviderServer(replies=Answer("ok", input_tokens=1_000_000, output_tokens=0, model="gpt-4o-mini")) as server:
        platform = openai(server, provider="openai", model="gpt-4o")
        with orchestrator(tmp_path, platform) as orch:
            result = orch.run_sync("a")
            assert (result.model, result.cost) == ("gpt-4o-mini", Decimal("0.15"))


# --- schemas ---------------------------------------------------------------------------------------------------------


class Ticket(pydantic.BaseModel):
    kind: Literal["bug", "billing"]
    urgent: bool
    stars: int


@dataclass
class Place:
    city: str
    height_m: float


class Movie(TypedDict):
    title: str
    year: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


BOOK = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "pages": {"type": "integer"}},
    "required": ["title"],
}


@pytest.mark.parametrize(
    ("schema", "columns", "kind"),
    [
        (Ticket, ["kind", "urgent", "stars"], Ticket),
        (Place, ["city", "height_m"], Place),
        (Movie, ["title", "year"], dict),
        (BOOK, ["title", "pages"], dict),
        (Literal["bug", "billing"], ["output"], str),
        (Colour, ["output"], Colour),
        (list[int], ["output"], list),
    ],
    ids=["pydantic", "dataclass", "TypedDict", "JSON Schema", "Literal", "Enum", "list"],
)
def test_every_kind_of_schema_is_asked_for_validated_and_a_column(tmp_path, schema, columns, kind):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        res = orch.batch_sync(PROMPTS[:3], schema=schema)
        assert all(r.success and isinstance(r.parsed, kind) for r in res)
        assert list(res.df.columns) == ["prompt", *columns, "output_status", "output_error"]
        assert res.df[columns].notna().all(axis=None)
        for request in server.requests:
            asked = request.json["response_format"]
            assert asked["type"] == "json_schema"
            assert asked["json_schema"]["schema"]["type"] == "object"
        again = orch.batch_sync(PROMPTS[:3], schema=schema)
        assert again.parsed == res.parsed
        assert len(server.requests) == 3


def test_into_is_the_prefix_of_every_column(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        res = orch.batch_sync(["a"], schema=Ticket, into="t")
        assert list(res.df.columns) == ["prompt", "t_kind", "t_urgent", "t_stars", "t_status", "t_error"]
        assert [str(t) for t in res.df.dtypes[["t_urgent", "t_stars"]]] == ["boolean", "Int64"]
        label = orch.batch_sync(["a"], schema=Literal["x", "y"], into="kind")
        assert label.df["kind"][0] in ("x", "y")


@pytest.mark.parametrize(("repairs", "attempts", "status"), [(0, 1, "failed"), (1, 2, "succeeded")])
def test_an_unfit_answer_is_repaired_as_often_as_the_setting_says(tmp_path, repairs, attempts, status):
    def replies(received):
        return '{"kind": "spam", "urgent": true, "stars": 1}' if len(received.json["messages"]) == 1 else None

    with (
        ProviderServer(replies=replies) as server,
        orchestrator(tmp_path, openai(server), repair_attempts=repairs) as orch,
    ):
        result = orch.batch_sync(["a"], schema=Ticket)[0]
        assert (result.status, result.attempts, len(server.requests)) == (status, attempts, attempts)
        if status == "failed":
            assert result.error_class == "reply"
            assert "kind" in result.error
            assert result.parsed is None
        else:
            *_, last = server.requests[1].json["messages"]
            assert last["role"] == "user"
            assert '{"kind": "spam", "urgent": true, "stars": 1}' in last["content"]
            assert "'bug' or 'billing'" in last["content"]


def test_a_server_that_refuses_the_constraint_is_asked_in_words(tmp_path):
    def script(received):
        return (
            {"kind": "status", "status": 400, "message": "unknown field"}
            if b"response_format" in received.body
            else None
        )

    with (
        ProviderServer(script=script, replies='{"kind": "bug", "urgent": false, "stars": 3}') as server,
        orchestrator(tmp_path, openai(server)) as orch,
    ):
        result = orch.run_sync("Which?", schema=Ticket)
        assert result.parsed == Ticket(kind="bug", urgent=False, stars=3)
        assert (result.attempts, len(server.requests)) == (2, 2)
        assert "JSON Schema" in server.requests[1].prompt
        assert server.requests[1].prompt.startswith("Which?")


def test_a_refusal_that_has_nothing_to_do_with_the_schema_stays_one(tmp_path):
    with ProviderServer(script=lambda _: 400) as server, orchestrator(tmp_path, openai(server)) as orch:
        result = asyncio.run(orch.run("a", schema=Ticket, on_error="continue"))
        assert (result.error_class, len(server.requests)) == ("request", 2)


def test_a_cut_answer_never_validates_and_says_what_to_raise(tmp_path):
    with (
        ProviderServer(replies=Answer('{"kind": "bug", "urg', finish_reason="length")) as server,
        orchestrator(tmp_path, openai(server), repair_attempts=0) as orch,
    ):
        result = asyncio.run(orch.run("a", schema=Ticket, on_error="continue"))
        assert not result.success
        assert "max_tokens" in result.error


# --- frames, rows and files ------------------------------------------------------------------------------------------


def _frame():
    index = pd.MultiIndex.from_tuples([("x", 1), ("x", 1), ("y", 2), ("y", 3)], names=["shop", "day"])
    return pd.DataFrame({"Order ID": [7, 8, 9, 10], "text": ["broken", "late", None, "fine"]}, index=index)


def test_a_frame_comes_back_with_its_index_and_the_answers_beside_it(tmp_path):
    frame = _frame()
    with orchestrator(tmp_path, upper) as orch:
        res = asyncio.run(orch.batch(frame, prompt="ticket {Order ID}: {text}", into="kind"))
        df = res.df
        assert df.index.equals(frame.index)
        assert list(df.columns) == ["Order ID", "text", "kind", "kind_status", "kind_error"]
        assert list(df["kind"])[:2] == ["TICKET 7: BROKEN", "TICKET 8: LATE"]
        assert list(df["kind_status"]) == ["succeeded", "succeeded", "skipped", "succeeded"]
        assert (res[2].error_class, res[2].row) == ("input", ("y", 2))
        assert "text" in df["kind_error"].iloc[2]
        assert list(frame.columns) == ["Order ID", "text"]


def test_duplicate_labels_of_an_index_mix_nothing_up(tmp_path):
    frame = pd.DataFrame({"prompt": ["a", "b", "c"]}, index=[1, 1, 1])
    with orchestrator(tmp_path, upper) as orch:
        res = orch.batch_sync(frame)
        assert list(res.df["output"]) == ["A", "B", "C"]
        assert [(r.index, r.row) for r in res] == [(0, 1), (1, 1), (2, 1)]


def test_missing_error_refuses_the_call_before_anything_is_sent(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        with pytest.raises(InvalidInput, match=r"row 2 .*column 'text'"):
            orch.batch_sync(_frame(), prompt="{text}", missing="error")
        assert server.requests == []


def test_a_column_of_ones_own_is_never_replaced(tmp_path):
    frame = pd.DataFrame({"text": ["a"], "kind": ["mine"]})
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        with pytest.raises(ColumnExists, match="'kind'"):
            orch.batch_sync(frame, prompt="{text}", into="kind")
        assert server.requests == []
        first = orch.batch_sync(frame, prompt="{text}", into="answer").df
        again = orch.batch_sync(first, prompt="{text}", into="answer").df  # the cell is run again
        assert list(again.columns) == list(first.columns)
        with pytest.raises(ColumnExists, match="reads it"):
            orch.batch_sync(again, prompt="{answer}", into="answer")


def test_series_and_row_dicts_are_rows_too(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        assert orch.batch_sync(pd.Series(["a", "b"], index=["x", "y"], name="q")).df["output"].to_dict() == {
            "x": "A",
            "y": "B",
        }
        assert orch.batch_sync(pd.Series([1, 2], name="n"), prompt="no {n}").outputs == ["NO 1", "NO 2"]
        rows = orch.batch_sync([{"a": 1, "b": {"c": [1]}}, {"a": 2}], prompt="{a} {b} {{x}}")
        assert rows.outputs == ['1 {"C": [1]} {X}', None]


def test_options_are_templates_of_rows_too(tmp_path):
    (tmp_path / "one.txt").write_text("first text")
    (tmp_path / "two.txt").write_text("second text")
    frame = pd.DataFrame(
        {
            "q": ["a", "b"],
            "who": ["one", "two"],
            "m": ["model-x", "model-y"],
            "where": ["here", "there"],
        }
    )
    with ProviderServer() as server:
        platforms = [openai(server, name="here"), openai(server, name="there")]
        with orchestrator(tmp_path, *platforms) as orch:
            res = orch.batch_sync(
                frame,
                prompt="{q}",
                system="You are {who}.",
                model="{m}",
                platform="{where}",
                files=[str(tmp_path / "{who}.txt")],
                tags={"who": "{who}", "all": "yes"},
            )
            assert [r.platform for r in res] == ["here", "there"]
            assert [r.task.tags for r in res] == [{"who": "one", "all": "yes"}, {"who": "two", "all": "yes"}]
            bodies = sorted((r.json for r in server.requests), key=lambda body: body["model"])
            assert [body["model"] for body in bodies] == ["model-x", "model-y"]
            assert [body["messages"][0]["content"] for body in bodies] == ["You are one.", "You are two."]
            assert "first text" in str(bodies[0]["messages"][1])
            assert "second text" in str(bodies[1]["messages"][1])


def test_images_reach_the_server_as_data_urls_and_text_files_fenced(tmp_path):
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "code.py").write_text("print('```')")
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        result = orch.run_sync("What is this?", files=[tmp_path / "dot.png", tmp_path / "code.py"])
        content = server.requests[0].json["messages"][0]["content"]
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        assert urls == ["data:image/png;base64," + base64.b64encode(PNG).decode()]
        text = "\n".join(part["text"] for part in content if part["type"] == "text")
        assert "What is this?" in text
        assert "code.py" in text
        assert "````" in text  # a fence longer than any inside
        assert result.success
        message = [{"role": "user", "content": ["Look:", {"type": "image", "image": PNG}]}]
        orch.run_sync(message)
        assert server.requests[1].json["messages"][0]["content"][1]["image_url"]["url"] == urls[0]


def test_a_file_that_changed_is_a_changed_task(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("one")
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.run_sync("Sum up", files=[path])
        assert orch.run_sync("Sum up", files=[path]).reused
        path.write_text("two")
        assert not orch.run_sync("Sum up", files=[path]).reused
        assert len(server.requests) == 2


def test_a_file_that_is_gone_fails_its_task_alone(tmp_path):
    (tmp_path / "here.txt").write_text("text")
    (tmp_path / "raw.bin").write_bytes(b"\xff\xfe\x00\x01")
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        res = orch.batch_sync([Task("a", files=[tmp_path / name]) for name in ("here.txt", "gone.txt", "raw.bin")])
        assert [r.success for r in res] == [True, False, False]
        assert "gone.txt" in res[1].error
        assert "raw.bin" in res[2].error
        assert len(server.requests) == 1


# --- handles, displays, ends -----------------------------------------------------------------------------------------


def test_a_handle_tells_how_far_it_is_and_may_be_awaited_often(tmp_path):
    async def watch(orch, server):
        handle = orch.start(PROMPTS, concurrency=2)
        assert handle.status == "running"
        await asyncio.to_thread(server.wait_for, lambda: server.counts["answered"] >= 6)
        part = handle.result
        assert part.status == "running"
        assert 0 < part.success_count < len(PROMPTS)
        assert [r.output for r in part if r.success] == [answer_to(r.task.prompt) for r in part if r.success]
        assert {r.error for r in part.failures} == {"not finished"}
        assert "of 40 settled" in repr(handle)
        first, second = await asyncio.gather(handle, handle)
        assert first.outputs == second.outputs == (await handle).outputs == ANSWERS
        assert (handle.status, handle.progress.succeeded) == ("finished", 40)

    with ProviderServer(latency=0.01) as server, orchestrator(tmp_path, openai(server)) as orch:
        asyncio.run(watch(orch, server))


def test_who_waits_for_a_handle_and_gives_up_leaves_it_running(tmp_path):
    async def impatient(handle):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(handle), 0.05)

    with ProviderServer(latency=0.02) as server, orchestrator(tmp_path, openai(server)) as orch:
        handle = orch.start(PROMPTS, concurrency=4)
        asyncio.run(impatient(handle))
        assert handle.wait().outputs == ANSWERS


def test_the_newest_batch_is_kept(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        assert orch.last_batch is None
        orch.batch_sync(["a"])
        assert orch.last_batch.outputs == ["A"]
        asyncio.run(orch.batch(["b"]))
        assert orch.last_batch.outputs == ["B"]
        orch.run_sync("c")
        assert orch.last_batch.outputs == ["B"]


def test_a_batch_result_outlives_its_orchestrator(tmp_path):
    frame = pd.DataFrame({"prompt": ["a", "b"]})
    with orchestrator(tmp_path, upper) as orch:
        res = orch.batch_sync(frame, name="letters")
    frame["prompt"] = "changed"
    assert list(res.df["prompt"]) == ["a", "b"]
    assert (res.name, res.batch_id, res.project) == ("letters", res[0].batch_id, orch.project)


def test_a_project_keeps_its_own_private_ledger(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        orch.run_sync("a")
    folder = tmp_path / ".orchestrai"
    assert orch.ledger_path == folder / "ledger.db"
    assert (folder / ".gitignore").read_text() == "*\n"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_without_a_project_the_ledger_is_the_persons_and_rows_carry_the_projects_name(tmp_path, own_home, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "survey"\n')
    monkeypatch.chdir(tmp_path)
    with Orchestrator(platforms=[upper]) as orch:
        res = orch.batch_sync(["a"])
        assert (orch.project, res.project) == ("survey", "survey")
        assert orch.ledger_path == own_home / "ledger.db"
    assert not (tmp_path / ".orchestrai").exists()


def test_making_and_closing_one_touches_nothing(tmp_path):
    orch = Orchestrator(tmp_path / "new", platforms=[upper])
    orch.close()
    orch.close()
    assert not (tmp_path / "new").exists()


def test_an_orchestrator_is_a_context_of_both_kinds(tmp_path):
    async def cell():
        async with orchestrator(tmp_path, upper) as orch:
            return await orch.run("a")

    assert asyncio.run(cell()).output == "A"


def test_the_engines_rare_settings_are_put_back_after_a_call(tmp_path):
    import gc
    import sys

    before = gc.get_threshold(), sys.getswitchinterval()
    with orchestrator(tmp_path, upper) as orch:
        handle = orch.start(PROMPTS)
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:  # a busy caller
            pass
        handle.wait()
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


def test_priority_decides_who_goes_first(tmp_path):
    platform = ScriptedPlatform(concurrency=1)
    with orchestrator(tmp_path, platform) as orch:
        orch.batch_sync([Task("late", priority=9), Task("usual"), Task("soon", priority=0), Task("usual too")])
        assert platform.prompts == ["soon", "usual", "usual too", "late"]


def test_tags_chain_and_type_travel_with_the_result(tmp_path):
    with orchestrator(tmp_path, upper) as orch:
        result = orch.run_sync("a", tags={"k": "v"}, chain="report", type="testing")
        assert isinstance(result, Result)
        assert result.chain_id == orch.chain("report").id
        assert (result.task.chain, result.task.tags, result.task.type) == ("report", {"k": "v"}, "testing")


def test_a_list_price_that_is_not_known_is_no_least_sum_when_the_rest_was_never_sent(tmp_path):
    def refuse(prompt, _attempt):
        return PlatformError("request", "no") if prompt == "stop" else None

    with orchestrator(tmp_path, ScriptedPlatform(faults=refuse)) as orch:
        res = orch.batch_sync(["answered", "stop"])
    assert [r.list_cost for r in res] == [None, 0]
    assert list_total(res) == "unknown"
