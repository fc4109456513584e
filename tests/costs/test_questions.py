"""Questions: what they say is what happened, whoever is asked."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from orchestrai import InvalidInput
from orchestrai.costs.period import Part

GROUPS = ("by_platform", "by_model", "by_day", "by_chain", "by_batch", "by_type")
QUESTIONS = (*GROUPS, "savings", "estimates", "latency", "outcomes", "top", "outliers", "quota")
FIGURES = ["tasks", "succeeded", "success_rate", "reused", "attempts", "cost", "list_cost", "saved", "unknown_cost",
           "unpriced", "input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens", "p50_s", "p95_s"]  # fmt: skip


def ask(orch, name, **options):
    return getattr(orch.costs, name)(**options)


def test_a_summary_counts_what_was_asked_answered_failed_and_reused(orch):
    value = orch.costs.summary(money="decimal")["value"]
    assert (value["tasks"], value["succeeded"], value["reused"]) == (23, 22, 6)
    attempts = orch.costs.sql("SELECT count(*) AS n, sum(cost) AS cost FROM attempts", money="decimal")
    assert value["attempts"] == attempts["n"][0]
    assert value["cost"] == attempts["cost"][0] > 0
    assert value["open"] == value["in_doubt"] == 0


def test_platforms_models_types_batches_and_days_add_up_to_the_whole(orch):
    whole = orch.costs.summary(money="decimal")["value"]
    for name in ("by_platform", "by_model", "by_day", "by_batch", "by_type"):
        found = ask(orch, name, money="decimal")
        assert found["cost"].sum() == whole["cost"], name
        assert found["list_cost"].sum() == whole["list_cost"], name
        assert found["attempts"].sum() == whole["attempts"], name
        if name not in ("by_platform", "by_model"):  # what was answered from the ledger belongs to no platform
            assert found["tasks"].sum() == whole["tasks"], name
            assert found["saved"].sum() == whole["saved"], name


def test_money_is_exact_where_it_is_asked_to_be(orch):
    exact, floats = orch.costs.by_platform(money="decimal"), orch.costs.by_platform()
    assert all(isinstance(cost, Decimal) for cost in exact["cost"])
    assert floats["cost"].dtype == "float64"
    assert floats["cost"].tolist() == [float(cost) for cost in exact["cost"]]


def test_savings_are_split_by_what_saved_and_add_up(orch):
    saved = orch.costs.savings(money="decimal").set_index("kind")
    assert set(saved.index) == {"free", "subscription", "reuse"}
    platforms = orch.costs.by_platform(money="decimal").set_index("tier")
    assert saved["saved"]["free"] == platforms["list_cost"]["free"] > 0
    assert saved["saved"]["subscription"] == platforms["list_cost"]["subscription"] > 0
    assert saved["saved"]["reuse"] == saved["saved"]["free"]  # the same six prompts, once more
    assert saved["saved"].sum() == orch.costs.summary(money="decimal")["value"]["saved"]
    assert sum(saved["share"]) == pytest.approx(1)


def test_a_failed_request_that_was_billed_stands_in_the_cost_of_its_platform(orch):
    found = orch.costs.outcomes(money="decimal")
    failed = found[(found["status"] == "failed") & (found["platform"] == "cash")]
    assert failed["error_class"].tolist() == ["reply"]
    assert failed["tasks"].sum() == 1
    assert failed["attempts"].sum() > failed["tasks"].sum()
    assert failed["attempts"].sum() == orch.costs.by_platform().set_index("platform")["unknown_cost"]["cash"]


def test_what_has_no_list_price_is_counted_in_every_group(orch):
    unpriced = orch.costs.sql("SELECT count(*) AS n FROM attempts WHERE list_cost IS NULL")["n"][0]
    assert unpriced > 0
    assert orch.costs.summary()["value"]["unpriced"] == unpriced
    for name in ("by_platform", "by_model", "by_day"):
        assert ask(orch, name)["unpriced"].sum() == unpriced, name


def test_tags_chains_types_and_names_are_keys(orch):
    assert orch.costs.by_tag("team").set_index("value")["tasks"].to_dict() == {"red": 5, "blue": 4}
    assert orch.costs.by_chain()["tasks"].tolist() == [4]
    assert orch.costs.by_type().set_index("task_type")["tasks"]["research"] == 5
    batches = orch.costs.by_batch().dropna(subset="batch").set_index("batch")
    assert batches["tasks"].to_dict() == {"first": 6, "hard": 2, "second": 6}
    assert batches["reused"]["second"] == 6


def test_a_project_and_a_span_of_time_bound_a_question(orch):
    assert orch.costs.summary(project="elsewhere")["value"]["tasks"] == 0
    assert orch.costs.summary(project=orch.project)["value"]["tasks"] == 23
    assert orch.costs.summary(since="1h")["value"]["tasks"] == 23
    assert orch.costs.summary(since="1h")["before"]["tasks"] == 0
    assert orch.costs.summary(until="1h")["value"]["tasks"] == 0
    assert orch.costs.by_day(since="today")["tasks"].sum() == 23
    with pytest.raises(InvalidInput, match="since='yesterdayish' is no moment"):
        orch.costs.summary(since="yesterdayish")
    with pytest.raises(InvalidInput, match="is not after since"):
        orch.costs.summary(since="1h", until="2h")


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-01T10:00:00Z",
        "2026-11-01 12:00+02:00",
        datetime(2026, 11, 1, 10, tzinfo=UTC),
        pd.Timestamp("2026-11-01T10:00", tz="UTC"),
        pd.Timestamp("2026-11-01T12:00:00.000000001", tz="Europe/Berlin").tz_convert("Asia/Tokyo") - pd.Timedelta("1h"),
    ],
)
def test_a_moment_is_the_same_however_it_is_written(moment):
    assert Part.of(moment).since == datetime(2026, 11, 1, 10, tzinfo=UTC)


def test_a_moment_without_a_zone_is_in_local_time():
    plain = datetime(2026, 11, 1)  # noqa: DTZ001 - what is under test
    midnight = plain.astimezone()
    for moment in ("2026-11-01", plain.date(), plain, pd.Timestamp(plain), np.datetime64("2026-11-01")):
        assert Part.of(moment).since == midnight
    for ago in ("36h", "1.5d", "1.5D", timedelta(days=1.5), pd.Timedelta("36h")):
        assert abs(datetime.now(UTC) - timedelta(days=1.5) - Part.of(ago).since) < timedelta(minutes=1)


@pytest.mark.parametrize("moment", [pd.NaT, timedelta.max, date.min, "0000-01-01", 5, b"7d", "", "7y"])
def test_what_is_no_moment_is_refused_by_the_name_it_was_given_for(moment, empty):
    with pytest.raises(InvalidInput, match=r"^until=.* is no moment"):
        empty.costs.summary(until=moment)
    with pytest.raises(InvalidInput, match=r"^before=.* is no moment"):
        empty.costs.prune(before=moment)


def test_a_part_that_began_long_ago_has_none_before_it(orch):
    found = orch.costs.summary(since="1000-01-01")
    assert found["value"]["tasks"] == 23
    assert found["before"].isna().all()


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (lambda costs: costs.by_day(money="decimals"), "money is 'float' or 'decimal', not 'decimals'"),
        (lambda costs: costs.summary(money=None), "money is 'float' or 'decimal', not None"),
        (lambda costs: costs.sql("SELECT 1", money="x"), "money is 'float' or 'decimal', not 'x'"),
        (lambda costs: costs.by_model(project=5), "project= is the name of one project, not 5"),
        (lambda costs: costs.top(limit=-1), "limit= is a whole number of at least 1, not -1"),
        (lambda costs: costs.top(limit="a"), "limit= is a whole number of at least 1, not 'a'"),
        (lambda costs: costs.outliers(float("nan")), "factor= is a number above 0, not nan"),
        (lambda costs: costs.outliers("a"), "factor= is a number above 0, not 'a'"),
        (lambda costs: costs.lineage(5), "int is no chain: give a chain, its name or id"),
        (lambda costs: costs.reprice(None), "A model is given by its name, not None"),
        (lambda costs: costs.reprice("gpt-5-mini", at="soon"), "at='soon' is no moment"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(orch, question, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        question(orch.costs)


def test_top_orders_by_what_is_asked_and_names_the_nearest_word(orch):
    top = orch.costs.top("input_tokens", 3)
    assert len(top) == 3
    assert top["input_tokens"].tolist() == sorted(top["input_tokens"], reverse=True)
    assert (
        orch.costs.top("attempts", 1)["attempts"][0] == orch.costs.sql("SELECT max(attempts) AS n FROM tasks")["n"][0]
    )
    with pytest.raises(InvalidInput, match=r"Did you mean 'cost'"):
        orch.costs.top("costs")


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_empty_ledger_gives_an_empty_frame_with_the_same_columns_and_dtypes(name, orch, empty):
    full, bare = ask(orch, name), ask(empty, name)
    assert len(bare) == 0
    assert bare.columns.tolist() == full.columns.tolist()
    assert bare.dtypes.tolist() == full.dtypes.tolist()
    if name in GROUPS:
        assert full.columns.tolist()[-len(FIGURES) :] == FIGURES
        assert len(full) > 0


def test_a_chain_without_tasks_has_an_empty_lineage_with_the_same_columns_and_dtypes(orch, empty):
    full, bare = orch.costs.lineage("report"), empty.costs.lineage(empty.chain("new"))
    assert (len(full), len(bare)) == (4, 0)
    assert bare.dtypes.to_dict() == full.dtypes.to_dict()


def test_an_empty_ledger_has_a_summary_of_nothing(empty):
    value = empty.costs.summary(money="decimal")["value"]
    assert value["tasks"] == value["cost"] == value["saved"] == 0
    assert value["p95_s"] is None
    assert empty.costs.by_tag("team").empty


def test_every_column_of_every_frame_is_documented(orch):
    for name in (*QUESTIONS, "summary", "by_tag", "lineage", "reprice"):
        arguments = {"by_tag": ["team"], "lineage": ["report"], "reprice": ["gpt-5-mini"]}.get(name, [])
        found = getattr(orch.costs, name)(*arguments)
        words = (getattr(type(orch.costs), name).__doc__ or "") + (type(orch.costs).__doc__ or "")
        missing = [c for c in found.columns if f"`{c}`" not in words and not c.startswith("input_ratio_")]
        assert missing == [], name


def test_dtypes_do_not_depend_on_the_rows(orch):
    some = orch.costs.sql("SELECT seq, error_class, cost, settles, started_at, day FROM attempts")
    none = orch.costs.sql("SELECT seq, error_class, cost, settles, started_at, day FROM attempts WHERE false")
    missing = orch.costs.sql(
        "SELECT seq, error_class, cost, settles, started_at, day FROM attempts WHERE error_class IS NULL"
    )
    assert some.dtypes.tolist() == none.dtypes.tolist() == missing.dtypes.tolist()
    words = pd.Series(["a"]).dtype if pd.Series(["a"]).dtype != object else pd.StringDtype()
    assert some.dtypes.tolist() == [pd.Int64Dtype(), words, "float64", pd.BooleanDtype(), "datetime64[us, UTC]",
                                    "datetime64[us]"]  # fmt: skip
