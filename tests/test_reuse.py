"""Reuse: a finished identical task is never paid twice, and nothing else is ever taken for its answer."""

from __future__ import annotations

import asyncio
from typing import Literal

import pydantic
import pytest
from loopback import finished, openai, orchestrator, upper

from orchestrai import InvalidInput, Task
from orchestrai.platforms import Reply
from orchestrai.testing import Answer, ProviderServer, ScriptedPlatform, SpawnedServer
from orchestrai.testing.answers import answer_to

PROMPTS = [f"task {i}" for i in range(300)]


def ask(folder, *platforms, do=lambda orch: orch.run_sync("q"), **settings):
    """Ask by an orchestrator of its own, closed again: what it knows of earlier calls is in the ledger."""
    with orchestrator(folder, *platforms, **settings) as orch:
        return do(orch)


def requests(platform, before=0):
    return len(platform.requests) - before


# --- the promise -----------------------------------------------------------------------------------------------------


def test_a_batch_that_is_run_again_in_another_process_sends_nothing(tmp_path):
    script = """
        import sys
        from orchestrai import Orchestrator
        from orchestrai.platforms import OpenAI

        with Orchestrator(sys.argv[1], platforms=[OpenAI(base_url=sys.argv[2], api_key="k", model="m")]) as orch:
            res = orch.batch_sync([f"task {i}" for i in range(300)])
            print(res.success_count, res.reused_count, res.total_cost, "|".join(res.outputs))
    """
    with SpawnedServer() as server:
        first = finished(script, tmp_path, server.base_url).split(maxsplit=3)
        assert server.stats()["requests"] == 300
        again = finished(script, tmp_path, server.base_url).split(maxsplit=3)
        assert server.stats()["requests"] == 300
    assert first[:2] == ["300", "0"]
    assert again[:3] == ["300", "300", "0"]
    assert first[3] == again[3]
    assert again[3].strip().split("|") == [answer_to(prompt) for prompt in PROMPTS]


def test_a_reused_answer_is_the_whole_answer_and_costs_nothing(tmp_path):
    with ProviderServer(replies="four words are said") as server:
        platform = openai(server, price={"input_mtok": "1", "output_mtok": "2"})
        first = ask(tmp_path, platform)
        again = ask(tmp_path, platform)
    assert first.cost > 0
    assert (again.output, again.finish_reason, again.model, again.platform, again.tier, again.usage) == (
        first.output,
        first.finish_reason,
        first.model,
        first.platform,
        first.tier,
        first.usage,
    )
    assert (again.reused, again.cost, again.list_cost, again.attempts) == (True, 0, first.list_cost, 0)
    assert again.answered_at == first.answered_at
    assert again.task_id != first.task_id


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "other"},
        {"prompt": [{"role": "user", "content": ["q", "r"]}]},
        {"system": "Be brief."},
        {"model": "scripted-2"},
        {"max_tokens": 50},
        {"temperature": 0.0},
        {"effort": "low"},
        {"extra": {"scripted": {"seed": 1}}},
        {"schema": dict[str, int]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_can_change_the_answer_is_asked_anew(tmp_path, changed):
    platform = ScriptedPlatform()
    ask(tmp_path, platform)
    task = Task(**{"prompt": "q", **changed})
    assert not ask(tmp_path, platform, do=lambda orch: orch.run_sync(task)).reused
    assert ask(tmp_path, platform, do=lambda orch: orch.run_sync(task)).reused
    assert requests(platform) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"platform": "scripted"},
        {"priority": 0},
        {"tags": {"a": "b"}},
        {"timeout_s": 9},
        {"chain": "c"},
        {"type": "testing"},
        {"context": {"mine": 1}},
        {"model": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_cannot_change_the_answer_is_reused(tmp_path, changed):
    platform = ScriptedPlatform()
    ask(tmp_path, platform)
    assert ask(tmp_path, platform, do=lambda orch: orch.run_sync(Task("q", **changed))).reused
    assert requests(platform) == 1


def test_a_temperature_of_0_is_one_of_0_0(tmp_path):
    platform = ScriptedPlatform()
    ask(tmp_path, platform, do=lambda orch: orch.run_sync("q", temperature=0))
    assert ask(tmp_path, platform, do=lambda orch: orch.run_sync("q", temperature=0.0)).reused


# --- what is never reused --------------------------------------------------------------------------------------------


def test_a_cut_answer_is_asked_again(tmp_path):
    with ProviderServer(replies=Answer("half an ans", finish_reason="length")) as server:
        first = ask(tmp_path, openai(server))
        assert (first.success, first.finish_reason) == (True, "length")
        assert not ask(tmp_path, openai(server)).reused
        assert len(server.requests) == 2


def test_failed_and_cancelled_tasks_are_asked_again(tmp_path):
    platform = ScriptedPlatform(faults={"a": ["request"], "b": ["key"]}, delay_s=0.01)
    first = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(["a", "b", "c"]))
    assert [r.success for r in first] == [False, False, True]
    second = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(["a", "b", "c"]))
    assert [(r.success, r.reused) for r in second] == [(True, False), (True, False), (True, True)]


def test_reuse_false_asks_again_and_what_it_learns_is_the_newest(tmp_path):
    platform = ScriptedPlatform(replies=["first", "second"])
    ask(tmp_path, platform)
    assert ask(tmp_path, platform, do=lambda orch: orch.run_sync("q", reuse=False)).output == "second"
    assert ask(tmp_path, platform).output == "second"
    assert requests(platform) == 2


def test_the_setting_reuse_is_the_default_of_every_call(tmp_path):
    platform = ScriptedPlatform()
    for _ in range(2):
        assert not ask(tmp_path, platform, reuse=False).reused
    assert ask(tmp_path, platform, reuse=False, do=lambda orch: orch.run_sync("q", reuse=True)).reused
    assert requests(platform) == 2


def test_an_answer_that_fits_todays_schema_no_more_is_asked_again(tmp_path):
    """The schema looks the same on the wire, and its validator has become stricter."""

    def model(most):
        class Stars(pydantic.BaseModel):
            stars: int

            @pydantic.field_validator("stars")
            @classmethod
            def not_too_many(cls, stars):
                if stars > most:
                    raise ValueError("too many")
                return stars

        return Stars

    platform = ScriptedPlatform(replies=['{"stars": 9}', '{"stars": 2}'])
    do = lambda most: lambda orch: orch.run_sync("q", schema=model(most))  # noqa: E731 - read beside its use
    assert ask(tmp_path, platform, do=do(10)).parsed.stars == 9
    assert ask(tmp_path, platform, do=do(10)).reused
    strict = ask(tmp_path, platform, do=do(5))
    assert (strict.parsed.stars, strict.reused) == (2, False)


def test_without_kept_texts_nothing_is_reused_and_no_text_is_in_the_ledger(tmp_path):
    platform = ScriptedPlatform(replies={"secret": "confidential answer"})
    for _ in range(2):
        res = ask(
            tmp_path,
            platform,
            keep_texts=False,
            do=lambda orch: orch.batch_sync(["secret question", "secret question"], system="hush hush"),
        )
        assert [(r.output, r.reused) for r in res] == [("confidential answer", False), ("confidential answer", True)]
    assert requests(platform) == 2
    kept = b"".join(path.read_bytes() for path in (tmp_path / ".orchestrai").rglob("*") if path.is_file())
    for text in (b"secret question", b"confidential answer", b"hush hush"):
        assert text not in kept
    ask(tmp_path, platform, do=lambda orch: orch.run_sync("secret question"))  # the control
    kept = b"".join(path.read_bytes() for path in (tmp_path / ".orchestrai").rglob("*") if path.is_file())
    assert b"secret question" in kept


# --- who may have answered -------------------------------------------------------------------------------------------


def test_another_platforms_answer_is_reused_unless_the_call_is_strict_about_the_model(tmp_path):
    small, large = ScriptedPlatform("small", model="s-1"), ScriptedPlatform("large", model="l-1")
    ask(tmp_path, small, large, do=lambda orch: orch.run_sync("q", platform="small"))
    hinted = ask(tmp_path, small, large, do=lambda orch: orch.run_sync("q", platform="large"))
    assert (hinted.reused, hinted.platform) == (True, "small")
    strict = ask(tmp_path, small, large, do=lambda orch: orch.run_sync("q", platform="large", strict=True))
    assert (strict.reused, strict.platform) == (False, "large")
    again = ask(tmp_path, small, large, do=lambda orch: orch.run_sync("q", platform="large", strict=True))
    assert (again.reused, again.platform) == (True, "large")


def test_the_same_model_elsewhere_is_the_same_answer_also_when_strict(tmp_path):
    here, there = ScriptedPlatform("here", model="m"), ScriptedPlatform("there", model="m")
    ask(tmp_path, here, there, do=lambda orch: orch.run_sync("q", platform="here"))
    assert ask(tmp_path, here, there, do=lambda orch: orch.run_sync("q", platform="there", strict=True)).reused


def test_with_mix_false_only_the_one_models_answers_count(tmp_path):
    small, large = ScriptedPlatform("small", model="s-1"), ScriptedPlatform("large", model="l-1", tier="paid")
    ask(tmp_path, large, do=lambda orch: orch.run_sync("a"))
    mixed = ask(tmp_path, small, large, do=lambda orch: orch.batch_sync(["a", "b"]))
    assert [r.model for r in mixed] == ["l-1", "s-1"]
    one = ask(tmp_path, small, large, do=lambda orch: orch.batch_sync(["a", "b"], mix=False))
    assert [(r.model, r.reused) for r in one] == [("s-1", False), ("s-1", True)]


def test_mix_false_chooses_the_best_model_that_can_take_every_task(tmp_path):
    small = ScriptedPlatform("small", model="s-1", models=())
    large = ScriptedPlatform("large", model="l-1", models=(), tier="paid")
    tasks = ["a", Task("b", platform="large", strict=True), "c"]
    one = ask(tmp_path, small, large, do=lambda orch: orch.batch_sync(tasks, mix=False, confirm="never"))
    assert {r.model for r in one} == {"l-1"}
    impossible = [Task("a", platform="small", strict=True), Task("b", platform="large", strict=True)]
    with pytest.raises(InvalidInput, match="mix=False: no single model"):
        ask(tmp_path, small, large, do=lambda orch: orch.batch_sync(impossible, mix=False))


def test_retrying_a_call_that_must_not_mix_does_not_mix_either(tmp_path):
    small = ScriptedPlatform("small", model="s-1", models=(), faults={"b": ["request"]})
    large = ScriptedPlatform("large", model="l-1", models=(), tier="paid")
    with orchestrator(tmp_path, small, large) as orch:
        # The hint is a wish, `mix=False` a requirement: the one model that all tasks can be asked of comes first.
        tasks = [Task("a", platform="small"), Task("b", platform=("small", "large"))]
        res = orch.batch_sync(tasks, mix=False)
        assert [r.success for r in res] == [True, False]
        assert [r.model for r in asyncio.run(res.retry_failures())] == ["s-1", "s-1"]


def test_a_demo_models_answer_counts_only_where_it_would_be_asked_now(tmp_path):
    demo = ScriptedPlatform("demo", model="demo-1", tier="local", demo=True)
    real = ScriptedPlatform("real", model="real-1", tier="paid")
    ask(tmp_path, demo)
    assert ask(tmp_path, demo).reused
    now = ask(tmp_path, demo, real)
    assert (now.reused, now.platform) == (False, "real")
    other = ask(tmp_path, demo, do=lambda orch: orch.run_sync("p"))
    assert not other.reused
    hinted = ask(tmp_path, demo, real, do=lambda orch: orch.run_sync("p", platform="demo"))
    assert (hinted.reused, hinted.platform) == (True, "demo")


def test_an_answer_of_a_required_model_may_come_from_anywhere(tmp_path):
    with ProviderServer() as server:
        a, b = openai(server, name="a"), openai(server, name="b")
        ask(tmp_path, a, b, do=lambda orch: orch.run_sync("q", model="x-large", platform="a"))
        assert ask(tmp_path, a, b, do=lambda orch: orch.run_sync("q", model="x-large", platform="b")).reused
        assert not ask(tmp_path, a, b, do=lambda orch: orch.run_sync("q", model="x-small")).reused


# --- equal tasks -----------------------------------------------------------------------------------------------------


def test_equal_tasks_of_a_batch_are_asked_once_and_the_copies_cost_nothing(tmp_path):
    with ProviderServer(latency=0.01) as server:
        platform = openai(server, price={"input_mtok": "1", "output_mtok": "2"})
        prompts = ["a", "b", "a", "a", "c", "b"]
        res = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(prompts))
        assert sorted(server.prompts) == ["a", "b", "c"]
        assert res.outputs == [answer_to(prompt) for prompt in prompts]
        assert [r.reused for r in res] == [False, False, True, True, False, True]
        assert all((r.cost == 0) is r.reused for r in res)
        assert [r.index for r in res] == list(range(6))
        assert len({r.task_id for r in res}) == 6


def test_copies_of_a_failed_task_fail_with_it_and_are_not_called_reused(tmp_path):
    platform = ScriptedPlatform(faults={"a": ["request"]}, delay_s=0.01)
    res = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(["a", "a", "b"]))
    assert [(r.status, r.error_class, r.reused) for r in res[:2]] == [("failed", "request", False)] * 2
    assert requests(platform) == 2


def test_copies_keep_their_own_tags_and_samples_stay_independent(tmp_path):
    platform = ScriptedPlatform(replies=lambda r: r.attempt_id)
    tasks = [Task("a", tags={"n": "1"}), Task("a", tags={"n": "2"}), Task("a", samples=2)]
    res = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(tasks))
    assert [r.task.tags for r in res[:2]] == [{"n": "1"}, {"n": "2"}]
    assert res[0].output == res[1].output == res[2].output
    assert res[3].output != res[2].output
    assert requests(platform) == 2


def test_two_calls_of_one_process_at_once_ask_once(tmp_path):
    async def both(a, b):
        return await asyncio.gather(a.batch(PROMPTS[:50]), b.batch(PROMPTS[:50]), a.run(PROMPTS[7]))

    with (
        ProviderServer(latency=0.01) as server,
        orchestrator(tmp_path, openai(server)) as a,
        orchestrator(tmp_path, openai(server)) as b,
    ):
        first, second, single = asyncio.run(both(a, b))
        assert first.outputs == second.outputs == [answer_to(prompt) for prompt in PROMPTS[:50]]
        assert single.output == first[7].output
        assert sorted(server.prompts) == sorted(PROMPTS[:50])


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [True, False])
def test_the_same_name_and_tasks_continue_an_unfinished_batch(tmp_path, reuse):
    with ProviderServer(latency=0.01) as server:
        platform = openai(server, concurrency=4)

        def interrupted(orch):
            handle = orch.start(PROMPTS[:60], name="survey", reuse=reuse)
            server.wait_for(lambda: server.counts["answered"] >= 20)
            handle.cancel()
            return handle.wait()

        first = ask(tmp_path, platform, do=interrupted)
        assert 10 <= first.success_count < 60
        sent = len(server.requests)
        rest = ask(tmp_path, platform, do=lambda orch: orch.batch_sync(PROMPTS[:60], name="survey", reuse=reuse))
        assert rest.success_count == 60
        assert rest.reused_count == first.success_count
        assert len(server.requests) - sent == 60 - first.success_count
        assert rest.batch_id == first.batch_id
        (told,) = ask(tmp_path, platform, do=lambda orch: orch.calls(0))
        assert (told["status"], told["settled"]) == ("finished", {"succeeded": 60})  # each task once


def test_a_finished_name_a_changed_task_or_no_name_begins_anew_without_reuse(tmp_path):
    platform = ScriptedPlatform()

    def batch(prompts, name=None):
        return ask(tmp_path, platform, do=lambda orch: orch.batch_sync(prompts, name=name, reuse=False))

    ids = [batch(["a", "b"], "n"), batch(["a", "b"], "n"), batch(["a", "c"], "n"), batch(["a", "b"]), batch(["a", "b"])]
    assert requests(platform) == 10
    assert len({res.batch_id for res in ids}) == 5


def test_an_unfinished_batch_of_another_name_is_not_continued(tmp_path):
    platform = ScriptedPlatform(faults={"b": ["request"]})

    def batch(name):
        do = lambda orch: orch.batch_sync(["a", "b"], name=name, reuse=False, on_error="stop")  # noqa: E731 - as above
        try:
            return ask(tmp_path, platform, do=do)
        except Exception as error:  # noqa: BLE001 - BatchStopped has the result
            return error.result

    first = batch("one")
    assert first.status == "stopped"
    other = batch("two")
    assert other.reused_count == 0
    continued = batch("one")
    assert continued.batch_id == first.batch_id
    assert continued.reused_count == first.success_count


# --- after an accident -----------------------------------------------------------------------------------------------


def test_a_second_run_finishes_only_what_is_left(tmp_path):
    """Every third task fails in the first run; the second sends exactly those."""
    with ProviderServer(
        script=lambda r: 400 if r.attempt == 0 and r.prompt.endswith(("0", "3", "7")) else None
    ) as server:
        first = ask(tmp_path, openai(server), do=lambda orch: orch.batch_sync(PROMPTS))
        failed = [r.task.prompt for r in first.failures]
        assert len(failed) == 90
        sent = len(server.requests)
        second = ask(tmp_path, openai(server), do=lambda orch: orch.batch_sync(PROMPTS))
        assert second.outputs == [answer_to(prompt) for prompt in PROMPTS]
        assert sorted(server.prompts[sent:]) == sorted(failed)


def test_replies_without_a_finish_reason_are_whole(tmp_path):
    platform = ScriptedPlatform(replies=[Reply("yes")])
    ask(tmp_path, platform)
    assert ask(tmp_path, platform).reused


def test_a_function_is_reused_like_any_platform(tmp_path):
    assert not ask(tmp_path, upper).reused
    assert ask(tmp_path, upper).reused


def test_labels_are_reused_as_labels(tmp_path):
    platform = ScriptedPlatform(replies=["**Bug**."])
    for reused in (False, True):
        result = ask(tmp_path, platform, do=lambda orch: orch.run_sync("q", schema=Literal["bug", "billing"]))
        assert (result.parsed, result.output, result.reused) == ("bug", "bug", reused)
    other = ask(tmp_path, platform, do=lambda orch: orch.run_sync("q", schema=Literal["bug", "other"]))
    assert not other.reused
