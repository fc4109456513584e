"""A plan can be read before anything is sent, and what runs is what it said: places, cash, quota, questions."""

from __future__ import annotations

import asyncio
import pickle  # noqa: TID251 - what a person may do with a plan
import sqlite3
import time
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from loopback import orchestrator

from orchestrai import ConfirmationNeeded, Detached, InvalidInput, NotConfirmed, PlanStale, PlanWarning, Task
from orchestrai.errors import InvalidSettings, PlatformError
from orchestrai.ids import now_us
from orchestrai.ledger.queries import give_consent
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.protocol import Capabilities, QuotaReading
from orchestrai.testing import ScriptedPlatform

PRICE = {"input_mtok": "1", "output_mtok": "2"}

pytestmark = pytest.mark.filterwarnings("ignore::orchestrai.errors.PlanWarning")  # windows here are small


def free(places=None, name="free", **more):
    return ScriptedPlatform(name, limits=None if places is None else {"rpd": places}, **more)


def paid(name="paid", price=PRICE, **more):
    return ScriptedPlatform(name, tier="paid", price=price, **more)


def lengths(*sizes):
    return [f"{i} " + "word " * size for i, size in enumerate(sizes)]


def where(plan):
    return [line.platform for line in plan]


# --- what a plan says


def test_a_plan_sends_nothing_and_its_run_does_what_it_said(tmp_path):
    small, large = free(3), paid()
    with orchestrator(tmp_path, small, large) as orch:
        plan = orch.plan(lengths(5, 50, 10, 80, 20, 5), max_tokens=100)
        assert (small.prompts, large.prompts) == ([], [])
        assert orch.last_plan is plan
        result = asyncio.run(plan.run())
        assert [r.platform for r in result] == where(plan)
        assert result.total_cost <= plan.cost.high
    assert len(small.prompts) == 3


def test_the_tasks_that_would_be_dearest_elsewhere_get_the_free_places(tmp_path):
    sizes = (5, 50, 10, 80, 20, 5)
    with orchestrator(tmp_path, free(3), paid()) as orch:
        plan = orch.plan(lengths(*sizes), max_tokens=100)
    assert {size for size, name in zip(sizes, where(plan), strict=True) if name == "free"} == {80, 50, 20}
    assert plan.gap == 0
    assert [line.why for line in plan].count("window") == 3


def test_a_frame_of_a_plan_has_a_row_for_each_task_in_input_order(tmp_path):
    with orchestrator(tmp_path, free(2), paid(model="large")) as orch:
        orch.batch_sync(["known"])
        plan = orch.plan(["known", "new", None, "new", "other", "third"])
    frame = plan.to_pandas()
    assert list(frame.index) == [0, 1, 2, 3, 4, 5]
    assert sorted(frame["why"]) == ["cheapest", "copy", "reused", "the prompt is missing", "window", "window"]
    assert list(frame["why"])[::2][:2] == ["reused", "the prompt is missing"]
    assert list(frame["reused"]) == [True, False, False, True, False, False]
    assert frame.dtypes["input_tokens"] == "int64"
    assert frame.dtypes["cost_expected"] == "float64"
    assert (frame["cost_low"] <= frame["cost_high"]).all()
    assert plan.reused == 2
    (window,) = plan.quota_after
    assert (window.used, window.planned, window.limit) == (1, 1, 2)
    assert plan.models == 2


def test_the_same_input_gives_the_same_plan_byte_for_byte(tmp_path):
    prompts = lengths(*[(7 * i) % 31 for i in range(60)])
    said = set()
    for _ in range(3):
        with orchestrator(
            tmp_path, free(20), paid("one"), paid("two", {"input_mtok": "3", "output_mtok": "1"})
        ) as orch:
            plan = orch.plan(prompts)
            said.add((repr(plan), str(plan._repr_mimebundle_()), plan.to_pandas().to_csv()))
    assert len(said) == 1


def test_a_plan_tells_why_a_platform_is_not_asked(tmp_path):
    blind = free(name="blind", capabilities=Capabilities(images=False))
    with orchestrator(tmp_path, blind, free(0.5, name="tiny"), paid()) as orch:
        plan = orch.plan(["a"], model="no-such-model")
        assert set(plan.excluded) == set()  # a platform without a list of models serves any
        plan = orch.plan(["a"], platform="paid", strict=True)
    assert plan.excluded["blind"] == "strict: another platform is named"


def test_a_plan_that_was_copied_can_be_read_but_not_run(tmp_path):
    with orchestrator(tmp_path, free()) as orch:
        plan = pickle.loads(pickle.dumps(orch.plan(["a", "b"])))
    assert where(plan) == ["free", "free"]
    assert plan[-1].index == 1
    assert [line.index for line in plan[0:2]] == [0, 1]
    with pytest.raises(Detached):
        plan.run()
    with pytest.raises(IndexError):
        plan[2]


def test_an_empty_input_is_a_plan_of_nothing(tmp_path):
    with orchestrator(tmp_path, free()) as orch:
        plan = orch.plan([])
        assert (len(plan), plan.cost.expected, plan.questions) == (0, 0, ())
        assert plan.to_pandas().empty
        assert len(asyncio.run(plan.run())) == 0


def test_prompts_above_the_setting_are_always_listed_with_their_estimate(tmp_path):
    with Orchestrator(tmp_path, platforms=[free()], settings={"estimate_above_tokens": 100}) as orch:
        plan = orch.plan(["short", "word " * 400])
    assert plan.large == (1,)
    assert any("above 100 tokens (row 1: about 500 tokens)" in warning for warning in plan.warnings)


def test_what_a_plan_shows_is_text_and_never_markup(tmp_path):
    evil = "<img src=x onerror=alert(1)>\x1b]0;x\x07"
    with orchestrator(tmp_path, free(2)) as orch:
        shown = orch.plan([evil, "b", "c"])._repr_mimebundle_()
    assert "<img" not in shown["text/html"]
    assert "\x1b" not in shown["text/plain"] + shown["text/html"]


# --- windows


def test_when_no_place_is_left_the_task_fails_and_names_each_reset(tmp_path):
    with orchestrator(tmp_path, free(2, "one"), free(1, "two")) as orch:
        res = orch.batch_sync(["a", "b", "c", "d"], confirm="never")
        assert [r.status for r in res].count("succeeded") == 3
        (lost,) = res.failures
        assert lost.error_class == "window"
        for name in ("one: 2 requests per day are used up until 20", "two: 1 requests per day are used up until 20"):
            assert name in lost.error


def test_a_task_that_no_platform_can_take_has_no_place_in_the_plan(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform("small", models=["scripted-1"])) as orch:
        plan = orch.plan([Task("a", model="unheard-of"), Task("b"), None])
    assert (plan.unplaced, len(plan)) == (1, 3)  # what is not asked at all needs none
    assert plan.warnings[0].startswith("no place for 1 task: no platform can take this task: ")


def test_better_priorities_get_the_last_places(tmp_path):
    tasks = [Task(f"{i}", priority=priority) for i, priority in enumerate([9, 5, 0, 5, 1])]
    with orchestrator(tmp_path, free(3)) as orch:
        plan = orch.plan(tasks)
    assert [line.platform is not None for line in plan] == [False, True, True, False, True]


def test_a_used_up_subscription_gets_nothing_until_it_begins_anew(tmp_path):
    class Plan(ScriptedPlatform):
        async def quota(self):
            return (QuotaReading("five_hour", 100.0, now_us() + 3_600_000_000, "client", now_us()),)

    windows = {"plan": [{"unit": "percent", "limit": 100, "per": "5 hours", "reset": "told", "told_as": ["five_hour"]}]}
    used_up = Plan("plan", tier="subscription")
    with Orchestrator(tmp_path, platforms=[used_up, paid()], settings={"windows": windows}) as orch:
        assert where(orch.plan(["a"])) == ["plan"]  # unknown is not used up
        orch.read_quota()
        plan = orch.plan(["a", "b"])
        assert where(plan) == ["paid", "paid"]
        assert orch.batch_sync(["a", "b"], confirm="never").by_platform.keys() == {"paid"}
    assert used_up.prompts == []


def test_a_share_of_a_plan_that_a_request_takes_is_learned_from_its_readings(tmp_path):
    """Two readings with requests between them say how many more fit into what is left."""

    class Plan(ScriptedPlatform):
        used = 0.0

        async def send(self, request):
            reply = await super().send(request)
            Plan.used += 4.0
            reading = QuotaReading("five_hour", Plan.used, now_us() + 3_600_000_000, "headers", now_us())
            reply.quota = (reading,)
            return reply

    windows = {"plan": [{"unit": "percent", "limit": 100, "per": "5 hours", "reset": "told", "told_as": ["five_hour"]}]}
    plan = Plan("plan", tier="subscription", concurrency=1)
    with Orchestrator(tmp_path, platforms=[plan, paid()], settings={"windows": windows}) as orch:
        orch.batch_sync([f"first {i}" for i in range(15)])  # 60 %
        drawn = orch.plan([f"then {i}" for i in range(30)])
    assert 8 <= where(drawn).count("plan") <= 11  # about 40 % / 4 %


def test_a_window_that_ends_in_the_middle_sends_the_rest_elsewhere(tmp_path):
    class Limited(ScriptedPlatform):
        async def send(self, request):
            if len(self.prompts) >= 5:
                raise PlatformError("window", "daily limit", retry_after_s=7200.0)
            return await super().send(request)

    limited, other = Limited("limited", limits={"rpd": 1000}, concurrency=2), paid()
    with orchestrator(tmp_path, limited, other) as orch:
        res = orch.batch_sync([f"t{i}" for i in range(40)], confirm="never")
        assert res.success_count == 40
        assert len(limited.prompts) == 5
        later = orch.plan(["x", "y"])  # what was refused is known to the next plan, in any process
    assert where(later) == ["paid", "paid"]
    assert later.quota_after == ()


def test_a_task_waits_for_a_reset_within_its_deadline_and_is_skipped_past_it(tmp_path):
    def closed_for(seconds):
        class Closed(ScriptedPlatform):
            async def quota(self):
                return (QuotaReading("day", 100.0, now_us() + int(seconds * 1e6), "client", now_us()),)

        return Closed("closed")

    windows = {"closed": [{"unit": "requests", "limit": 50, "per": "day", "reset": "rolling", "told_as": ["day"]}]}
    with Orchestrator(tmp_path / "a", platforms=[closed_for(1.5)], settings={"windows": windows}) as orch:
        orch.read_quota()
        began = time.monotonic()
        res = orch.batch_sync(["a", "b"], deadline=20)
        assert res.success_count == 2
        assert time.monotonic() - began >= 1.0
    slow = closed_for(3600)
    with Orchestrator(tmp_path / "b", platforms=[slow], settings={"windows": windows}) as orch:
        orch.read_quota()
        moment = datetime.now(UTC) + timedelta(seconds=2)
        res = orch.batch_sync(["a", "b"], deadline=moment, name="nightly")
        assert [(r.status, r.error_class) for r in res] == [("skipped", "window")] * 2
        assert slow.prompts == []
        # A later run continues: nothing of it is lost, and nothing was paid.
        connection = sqlite3.connect(orch.ledger_path)
        assert connection.execute("SELECT count(*) FROM sends").fetchone() == (0,)
        connection.close()


def test_hints_are_tried_first_and_fall_back_and_strict_does_not(tmp_path):
    tasks = [Task(f"{i}", platform="paid") for i in range(3)]
    with orchestrator(tmp_path, free(), paid(limits={"rpd": 2})) as orch:
        assert where(orch.plan(tasks)) == ["paid", "paid", "free"]
        strict = orch.plan([Task(f"{i}", platform="paid", strict=True) for i in range(3)])
        assert where(strict) == ["paid", "paid", None]
        assert strict.unplaced == 1
        with pytest.raises(InvalidInput, match="Did you mean 'paid'"):
            orch.plan([Task("a", platform="piad")])


def test_the_type_of_a_task_orders_platforms_of_equal_cost(tmp_path):
    settings = {"catalogue": {"preferences": {"research": {"order": ["second", "first"]}}}}
    platforms = [free(name="first"), free(name="second")]
    with Orchestrator(tmp_path, platforms=platforms, settings=settings) as orch:
        assert where(orch.plan([Task("a", type="research"), Task("b", type="debugging"), "c"])) == [
            "second",
            "first",
            "first",
        ]


def test_the_cheapest_of_two_prices_depends_on_the_task(tmp_path):
    reads = paid("reads", {"input_mtok": "0.1", "output_mtok": "9"})
    writes = paid("writes", {"input_mtok": "9", "output_mtok": "0.1"})
    with orchestrator(tmp_path, reads, writes) as orch:
        plan = orch.plan([Task("word " * 4000, max_tokens=5), Task("short", max_tokens=4000)])
    assert where(plan) == ["reads", "writes"]


def test_what_a_plan_expects_of_each_request_is_recorded_beside_what_it_cost(tmp_path):
    price = {"input_mtok": "3", "output_mtok": "6"}
    refuses = paid("refuses", faults=lambda _prompt, _attempt: PlatformError("request", "not here"))
    unpriced = ScriptedPlatform("unpriced", tier="paid")
    with orchestrator(tmp_path, free(1), refuses, paid("dear", price), unpriced) as orch:
        plan = orch.plan(lengths(50, 5), max_tokens=100)
        assert where(plan) == ["free", "refuses"]
        asyncio.run(plan.run())
        orch.run_sync("anything", platform="unpriced")
        found = orch.costs.sql("SELECT platform, est_cost, cost FROM attempts", money="decimal").set_index("platform")
        compared = orch.costs.estimates(money="decimal").set_index("platform")
    expected, cost = found["est_cost"], found["cost"]
    assert expected["free"] == 0
    assert expected["refuses"] == plan.cost.expected > 0  # what it was planned with
    assert expected["dear"] == 3 * expected["refuses"]  # where it fell back to
    assert expected["unpriced"] is None or expected["unpriced"] != expected["unpriced"]
    assert (compared["est_cost"]["dear"], compared["cost"]["dear"]) == (expected["dear"], cost["dear"])
    assert compared["cost_ratio"]["dear"] == pytest.approx(float(cost["dear"] / expected["dear"]))


def test_one_model_that_answers_a_whole_call_is_one_with_places_for_it(tmp_path):
    with orchestrator(tmp_path, free(2, model="small", models=()), paid(model="large", models=())) as orch:
        mixed, one = orch.plan(["a", "b", "c"]), orch.plan(["a", "b", "c"], mix=False)
    assert (mixed.models, one.models) == (2, 1)
    assert where(one) == ["paid"] * 3


# --- questions


def test_cash_although_something_free_is_configured_is_asked_about_first(tmp_path):
    some, costly = free(1), paid()
    with orchestrator(tmp_path, some, costly) as orch:
        with pytest.raises(ConfirmationNeeded, match="goes to paid, although free would cost none") as needed:
            orch.batch_sync(["a", "b"])
        assert needed.value.plan is orch.last_plan
        assert some.prompts == costly.prompts == []
        with pytest.raises(ConfirmationNeeded):
            asyncio.run(_await(orch.batch(["a", "b"])))
        assert orch.batch_sync(["a", "b"], confirm="never").success_count == 2
        assert orch.run_sync(Task("c", platform="paid")).platform == "paid"  # its own wish is no surprise
        with pytest.raises(ConfirmationNeeded):
            orch.run_sync("d")


async def _await(call):
    return await call


def test_much_cash_is_asked_about_by_its_setting(tmp_path):
    with Orchestrator(tmp_path, platforms=[paid()], settings={"ask_above": "0.0001"}) as orch:
        with pytest.raises(ConfirmationNeeded, match=r"more than \$0.00"):
            orch.batch_sync(["a"])
        plan = orch.plan(["a"])
        assert [question.kind for question in plan.questions] == ["amount"]
        assert asyncio.run(plan.run()).success_count == 1  # a plan that is run was read


def test_a_plan_that_may_train_on_the_data_is_asked_about_where_nobody_chose_it(tmp_path, monkeypatch):
    for name in ("GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-not-a-key")
    monkeypatch.setenv("PATH", str(tmp_path))  # no command-line client
    with Orchestrator(tmp_path) as orch:
        plan = orch.plan(["a"])
        assert where(plan) == ["openrouter"]
        assert [question.kind for question in plan.questions] == ["training"]
        assert 'data_use = "none" under [platforms.openrouter]' in plan.questions[0].text
        with pytest.raises(ConfirmationNeeded, match="may train on what it is sent"):
            orch.batch_sync(["a"])
        assert orch.plan(["a"], platform="openrouter").questions == ()  # named: no surprise
        orch._opened().ledger.file.write(
            lambda c: give_consent(c, [("openrouter", orch.platforms["openrouter"].login[4:])], 1)
        )
        assert orch.plan(["a"]).questions == ()  # somebody agreed
    with orchestrator(tmp_path, free(name="trains", data_use="may_train")) as orch:
        assert orch.batch_sync(["a"]).success_count == 1  # the person chose it


def test_a_nearly_used_up_window_only_warns_where_nobody_can_answer_and_once(tmp_path):
    with orchestrator(tmp_path, free(10)) as orch:
        with pytest.warns(PlanWarning, match="90 % of 10 requests per day"):
            assert orch.batch_sync([f"{i}" for i in range(9)]).success_count == 9
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            orch.batch_sync(["10"])  # 100 %: the same threshold of the same window


def test_always_asks_and_never_does_not(tmp_path):
    with orchestrator(tmp_path, free()) as orch:
        with pytest.raises(ConfirmationNeeded, match="It was to be confirmed"):
            orch.batch_sync(["a"], confirm="always")
        assert orch.batch_sync(["a"], confirm="never").success_count == 1
        with pytest.raises(InvalidInput, match="confirm is one of auto, always, never"):
            orch.batch_sync(["a"], confirm="alway")


def test_a_plan_that_would_now_cost_more_is_not_run(tmp_path):
    with orchestrator(tmp_path, free(5), paid()) as orch:
        plan = orch.plan(["a", "b"])
        orch.batch_sync([f"other {i}" for i in range(5)], confirm="never")
        with pytest.raises(PlanStale, match="would now cost about") as stale:
            asyncio.run(plan.run())
        assert where(stale.value.plan) == ["paid", "paid"]


# --- budgets


def test_nothing_that_costs_cash_runs_under_a_cap_of_zero(tmp_path):
    costly = paid()
    with orchestrator(tmp_path, free(1), costly) as orch:
        res = orch.batch_sync(["a", "b"], max_cost=0)
        assert sorted(r.status for r in res) == ["failed", "succeeded"]
        assert "max_cost=0" in res.failures[0].error
        assert orch.run_sync("c", max_cost=0, on_error="continue").error_class in ("window", "budget")
    assert costly.prompts == []


def test_the_cap_of_a_call_holds_whatever_its_tasks_cost(tmp_path):
    costly = paid(replies="word " * 40, concurrency=4)  # 50 tokens: 100 millionths of a dollar
    tasks = [Task(f"task {i}", max_tokens=50) for i in range(60)]
    with orchestrator(tmp_path, costly) as orch:
        res = orch.batch_sync(tasks, max_cost="0.002")
        assert 0 < res.success_count < 60
        assert res.total_cost <= Decimal("0.002")
        assert {r.error_class for r in res.failures} == {"budget"}
        assert "max_cost=$0.0020" in res.failures[0].error
        connection = sqlite3.connect(orch.ledger_path)
        assert connection.execute("SELECT count(*) FROM reservations").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (0,)
        connection.close()
        again = orch.batch_sync(tasks, max_cost="0.002")
        assert again.reused_count == res.success_count


def test_a_hard_budget_of_the_day_holds_over_calls_and_a_soft_one_only_warns(tmp_path):
    def budget(hard):
        return {"budgets": [{"usd": "0.0005", "per": "day", "hard": hard, "tag": "team=red"}]}

    tasks = [Task(f"task {i}", max_tokens=50, tags={"team": "red"}) for i in range(20)]
    with Orchestrator(tmp_path / "hard", platforms=[paid(replies="word " * 40)], settings=budget(True)) as orch:
        first = orch.batch_sync(tasks[:10], confirm="never")
        second = orch.batch_sync(tasks[10:], confirm="never")
        assert first.total_cost + second.total_cost <= Decimal("0.0005")
        assert {r.error_class for r in second.failures} == {"budget"}
        assert orch.batch_sync([Task("other", max_tokens=50)], confirm="never").success_count == 1
    with Orchestrator(tmp_path / "soft", platforms=[paid(replies="word " * 40)], settings=budget(False)) as orch:
        with pytest.warns(PlanWarning, match=r"budget: \d+ % of budget of \$0.0005"):
            assert orch.batch_sync(tasks, confirm="never").success_count == 20
        (use,) = orch.quota
        assert use.percent_before > 100


def test_what_has_no_price_or_no_bound_does_not_run_under_a_hard_cap(tmp_path):
    unpriced, unbounded = paid("unpriced", None), paid("unbounded", capabilities=Capabilities(output_limit=False))
    with orchestrator(tmp_path, unpriced, unbounded) as orch:
        plan = orch.plan(["a"], max_cost=1)
        assert where(plan) == [None]
        assert "no price is known" in plan.excluded["unpriced"]
        assert "nothing bounds its answers" in plan.excluded["unbounded"]
    with Orchestrator(tmp_path, platforms=[unbounded], settings={"task_allowance": "0.3"}) as orch:
        res = orch.batch_sync([f"{i}" for i in range(5)], max_cost=1)
        assert res.success_count == 5


@pytest.mark.parametrize("value", [-1, "much", float("nan"), True, [1]])
def test_a_cap_that_is_no_amount_is_refused_before_anything_is_sent(tmp_path, value):
    with orchestrator(tmp_path, free()) as orch, pytest.raises(InvalidInput, match="max_cost is an amount of USD"):
        orch.batch_sync(["a"], max_cost=value)


@pytest.mark.parametrize("value", [-1, "soon", float("nan"), True])
def test_a_deadline_that_is_none_is_refused_before_anything_is_sent(tmp_path, value):
    with orchestrator(tmp_path, free()) as orch, pytest.raises(InvalidInput, match="deadline is a number of seconds"):
        orch.batch_sync(["a"], deadline=value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budgets": [{"usd": 5}]}, r"budgets\[0\]: per is missing"),
        ({"windows": {"free": [{"unit": "words", "limit": 1, "per": "day", "reset": "rolling"}]}}, "unit is one of"),
        (
            {"windows": {"free": [{"unit": "requests", "limit": -3, "per": "day", "reset": "rolling"}]}},
            "above 0, not -3",
        ),
        ({"estimate_above_token": 5}, "unknown setting 'estimate_above_token'.*'estimate_above_tokens'"),
    ],
)
def test_a_mistake_in_the_settings_of_quotas_names_its_place(tmp_path, settings, words):
    with pytest.raises(InvalidSettings, match=words):
        Orchestrator(tmp_path, platforms=[free()], settings=settings)


# --- meters and explanations


def test_meters_tell_used_reserved_limit_share_reset_and_source(tmp_path):
    with orchestrator(tmp_path, free(4)) as orch:
        assert "4" in repr(orch.quota._repr_mimebundle_())
        orch.batch_sync(["a", "b", "c"])
        frame = orch.quota.to_pandas()
        row = frame.iloc[0]
        assert (row["platform"], row["used"], row["reserved"], row["limit"], row["percent"]) == ("free", 3, 0, 4, 75)
        assert row["source"] == "settings"
        assert str(frame["resets_at"].dtype) == "datetime64[us, UTC]"
        shown = orch.quota._repr_mimebundle_()
    assert "75 %" in shown["text/plain"]
    assert "width:75.00%" in shown["text/html"]


def test_every_attempt_wait_route_and_price_of_a_task_is_told(tmp_path):
    costly = paid(faults={"^b": ["overloaded"]})
    with orchestrator(tmp_path, costly) as orch:
        result = orch.batch_sync(["a", "b"], max_tokens=50)[1]
        told = orch.explain(result)
        assert [row["attempt_kind"] for row in told.attempts] == ["first", "retry"]
        words = repr(told)
        for word in ("overloaded", "a retry", "paid/scripted-1 (paid)", "nothing else could answer", "output $2"):
            assert word in words, words
        assert "in doubt" not in words
        again = orch.run_sync("a", max_tokens=50)
        assert "It took the answer of task" in repr(orch.explain(again))
        assert list(orch.explain(again).to_pandas()["status"]) == ["succeeded"]
        assert "knows no task" in repr(orch.explain("0" * 32))
        skipped = orch.batch_sync([None])[0]
        with pytest.raises(InvalidInput, match="never sent"):
            orch.explain(skipped)


def test_a_cancelled_task_is_told_in_words_that_are_said_once(tmp_path):
    slow = paid(delay_s=30)
    with orchestrator(tmp_path, slow) as orch:
        handle = orch.start(["a"], progress="off")
        while not slow.in_flight:
            time.sleep(0.01)
        handle.cancel()
        told = repr(orch.explain(handle.wait()[0]))
    assert "cancelled: cancelled while it was under way" in told
    assert "(cancelled)" not in told
    assert "without a further request: cancelled\n" in told


def test_not_confirmed_is_an_error_of_its_own():
    assert issubclass(NotConfirmed, Exception)
