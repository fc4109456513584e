from __future__ import annotations

import enum
import json
from decimal import Decimal
from typing import Literal

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestrai.errors import ColumnExists
from orchestrai.messages import prompt_from
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.results.frames import check_columns
from orchestrai.schemas import answer_schema
from orchestrai.task import Task

TEXT = "str" if int(pd.__version__.split(".")[0]) >= 3 else "string"
DETAILS = {
    "output": TEXT,
    "output_status": TEXT,
    "output_error": TEXT,
    "output_platform": TEXT,
    "output_model": TEXT,
    "output_tier": TEXT,
    "output_cost": "float64",
    "output_list_cost": "float64",
    "output_input_tokens": "Int64",
    "output_output_tokens": "Int64",
    "output_duration_s": "float64",
    "output_attempts": "Int64",
    "output_reused": "bool",
    "output_finish": TEXT,
    "output_task_id": TEXT,
}


class Kind(enum.Enum):
    BUG = "bug"
    BILLING = "billing"


class TicketFields(BaseModel):
    kind: Kind
    urgency: int | None = None
    parts: list[str] = []
    note: str = ""


TICKET = answer_schema(TicketFields)


def good(answer="yes", **more) -> Result:
    known = {
        "status": "succeeded",
        "platform": "openai",
        "model": "m",
        "tier": "paid",
        "usage": Usage(10, None, None, 2, None, "provider"),
        "cost": Decimal("0.001"),
        "list_cost": Decimal("0.002"),
        "duration_s": 1.5,
        "attempts": 1,
        "finish_reason": "stop",
        "task_id": "t",
    }
    return Result(Task("p"), output=answer, **known | more)


def bad(**more) -> Result:
    return Result(Task("p"), **{"error": "slow down", "error_class": "rate", "cost": None} | more)


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {label: str(dtype) for label, dtype in frame.dtypes.items()}


INDICES = [
    pd.Index([7, 7, 3]),
    pd.Index(["b", "a", None], name="who"),
    pd.MultiIndex.from_tuples([(1, "x"), (1, "x"), (0, "y")], names=["n", "m"]),
    pd.date_range("2026-01-01", periods=3, tz="Europe/Berlin")[::-1],
    pd.CategoricalIndex(["u", "v", "u"]),
]


@pytest.mark.parametrize("index", INDICES, ids=lambda i: type(i).__name__)
def test_the_index_and_the_order_of_the_input_are_kept(index):
    frame = pd.DataFrame({"text": ["a", "b", "c"]}, index=index)
    batch = BatchResult([good("1"), bad(), good("3")], frame=frame)
    for answered in (batch.df, batch.to_pandas()):
        pd.testing.assert_index_equal(answered.index, index)
        assert list(answered["text"]) == ["a", "b", "c"]
        assert answered["output"].tolist()[::2] == ["1", "3"]
        assert pd.isna(answered["output"].iloc[1])


def test_the_answer_stands_after_the_input_and_beside_it_what_went_wrong():
    frame = pd.DataFrame({"text": ["a", "b"]})
    batch = BatchResult([good("1"), bad()], frame=frame, into="kind")
    assert list(batch.df.columns) == ["text", "kind", "kind_status", "kind_error"]
    assert batch.df["kind_status"].tolist() == ["succeeded", "failed"]
    assert batch.df["kind_error"].iloc[1] == "slow down"


def test_dtypes_do_not_depend_on_the_answers():
    for results in ([good(), bad()], [bad(), bad()], [good()], []):
        assert dtypes(BatchResult(results).to_pandas()) == {"prompt": TEXT} | DETAILS
        about = {label: DETAILS[label] for label in ("output", "output_status", "output_error")}
        assert dtypes(BatchResult(results).df) == {"prompt": TEXT} | about
        frame = pd.DataFrame({"n": range(len(results))})
        assert dtypes(BatchResult(results, frame=frame).to_pandas()) == {"n": "int64"} | DETAILS
        parsed = TicketFields(kind="bug", urgency=len(results))
        shaped = BatchResult([good(parsed=parsed) if r else r for r in results], schema=TICKET).df
        assert list(dtypes(shaped).values())[1:5] == [TEXT, "Int64", "object", TEXT]


def test_unknown_numbers_are_missing_never_zero():
    frame = BatchResult([good(), bad(usage=Usage())]).to_pandas()
    assert frame["output_cost"].isna().tolist() == [False, True]
    assert frame["output_list_cost"].isna().tolist() == [False, True]
    assert frame["output_input_tokens"].isna().tolist() == [False, True]


def test_exact_money_is_kept_as_decimals():
    tiny = Decimal("0.000000000001")
    frame = BatchResult([good(cost=tiny), bad()]).to_pandas(money="decimal")
    assert frame["output_cost"].tolist() == [tiny, None]
    assert frame["output_cost"].dtype == object
    assert type(frame["output_cost"].iloc[0]) is Decimal
    assert BatchResult([]).to_pandas(money="decimal")["output_cost"].dtype == object


def test_without_a_frame_the_prompts_stand_in_front():
    talk = Task(prompt_from([{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]))
    frame = BatchResult([Result(talk), Result(Task("plain"))]).df
    assert isinstance(frame.index, pd.RangeIndex)
    assert frame["prompt"].tolist() == ["system: Be brief\n\nuser: Hi", "plain"]


def test_a_schema_gives_one_column_for_each_field():
    results = [good(parsed=TicketFields(kind="bug", urgency=3, parts=["a", "b"], note="\u00df")), bad()]
    short = BatchResult(results, schema=TICKET).df
    assert list(short.columns)[1:5] == ["kind", "urgency", "parts", "note"]
    assert short.iloc[0, 1:5].tolist() == ["bug", 3, ["a", "b"], "\u00df"]
    assert short.iloc[1, 1:5].isna().all()
    named = BatchResult(results, schema=TICKET, into="ticket").df
    assert list(named.columns)[1:5] == ["ticket_kind", "ticket_urgency", "ticket_parts", "ticket_note"]
    assert list(named.columns)[5:] == ["ticket_status", "ticket_error"]


@pytest.mark.parametrize("schema", [Literal["bug", "billing"], Kind, {"enum": ["bug", "billing"]}, list[int], int])
def test_a_schema_without_fields_fills_the_answer_column(schema):
    shape = answer_schema(schema)
    frame = BatchResult([good("bug", parsed="bug"), bad()], schema=shape, into="kind").df
    assert list(frame.columns) == ["prompt", "kind", "kind_status", "kind_error"]
    assert frame["kind"].iloc[0] == "bug"
    assert pd.isna(frame["kind"].iloc[1])
    assert dtypes(frame)["kind"] == dtypes(BatchResult([], schema=shape, into="kind").df)["kind"] == TEXT


def test_a_valid_answer_that_no_dtype_holds_is_kept_as_it_is():
    beyond = 2**70
    frame = BatchResult([good(parsed=TicketFields(kind="bug", urgency=beyond))], schema=TICKET).df
    assert frame["urgency"].iloc[0] == beyond


def test_samples_repeat_their_row_and_are_numbered():
    frame = pd.DataFrame({"text": ["a", "b"]}, index=["x", "y"])
    results = [good(f"{i}{s}", index=i, sample=s) for i in range(2) for s in range(3)]
    batch = BatchResult(results, frame=frame, sampled=True)
    for answered in (batch.df, batch.to_pandas()):
        assert answered.index.tolist() == ["x", "x", "x", "y", "y", "y"]
        assert answered["text"].tolist() == ["a"] * 3 + ["b"] * 3
        assert answered["output_sample"].tolist() == [0, 1, 2, 0, 1, 2]
        assert str(answered["output_sample"].dtype) == "Int64"
    assert batch[2:4].df["output"].tolist() == ["02", "10"]
    assert batch[2:4].df["text"].tolist() == ["a", "b"]
    partial = BatchResult([results[0], results[4]], frame=frame, sampled=True, status="running")
    assert partial.df["text"].tolist() == ["a", "b"]


def test_the_users_frame_is_never_touched_and_each_frame_is_new():
    frame = pd.DataFrame({"text": ["a", "b"]})
    frame.attrs["mine"] = {"kept": True}
    before = frame.copy()
    batch = BatchResult([good(), bad()], frame=frame)
    answered = batch.df
    answered.loc[0, "text"] = "changed"
    answered.attrs["mine"]["kept"] = False
    answered.attrs["orchestrai"].clear()
    pd.testing.assert_frame_equal(frame, before)
    assert frame.attrs == {"mine": {"kept": True}}
    assert batch.df.loc[0, "text"] == "a"
    frame.loc[0, "text"] = "later"
    assert batch.df.loc[0, "text"] == "a"


def test_duplicate_and_odd_labels_of_the_input_are_kept():
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["a", "a", 5, ("t", "u")])
    answered = BatchResult([good()], frame=frame).df
    assert list(answered.columns) == ["a", "a", 5, ("t", "u"), "output", "output_status", "output_error"]
    assert answered.iloc[0, :4].tolist() == [1, 2, 3, 4]
    nested = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]))
    answered = BatchResult([good()], frame=nested).df
    assert answered.columns.tolist()[:3] == [("a", "x"), ("a", "y"), ("output", "")]
    check_columns(answered, None, None)
    assert BatchResult([good()], frame=answered).df.columns.tolist() == answered.columns.tolist()


def test_a_lone_surrogate_does_not_lose_the_other_answers():
    frame = BatchResult([good("fine"), good("\ud800x")]).df
    assert frame["output"].iloc[0] == "fine"
    assert frame["output"].iloc[1].endswith("x")


def test_a_column_of_the_users_own_is_never_overwritten():
    frame = pd.DataFrame({"text": ["a"], "kind": ["mine"]})
    with pytest.raises(ColumnExists, match=r"'kind'.*no earlier call made it.*into=\"answer\".*drop\(columns='kind'\)"):
        check_columns(frame, "kind", None, ["text"])
    check_columns(frame, "sort", None, ["text"])
    check_columns(frame, None, None, ["text", "kind"])
    for label in ("output_cost", "output_sample", "output_task_id"):
        with pytest.raises(ColumnExists, match=label):
            check_columns(frame.assign(**{label: 1}), None, None)
    with pytest.raises(ColumnExists, match="'kind'"):
        check_columns(frame, None, TICKET)
    check_columns(frame, "ticket", TICKET)


def test_the_way_out_that_the_error_names_is_one():
    frame = pd.DataFrame(columns=["answer", "kind", "kind_2_cost", "text"])
    with pytest.raises(ColumnExists, match='into="kind_3"') as refused:
        check_columns(frame, "kind", None)
    check_columns(frame, str(refused.value).split('into="')[1].split('"')[0], None)
    check_columns(frame.drop(columns="kind"), "kind", None)


def test_a_cell_can_be_run_again_on_its_own_output():
    frame = pd.DataFrame({"text": ["a"]})
    once = BatchResult([good("old")], frame=frame, into="kind").to_pandas()
    once.copy().pipe(check_columns, "kind", None, ["text"])
    again = BatchResult([good("new")], frame=once.copy(), into="kind").df
    assert list(again.columns) == ["text", "kind", "kind_status", "kind_error"]  # no cost of the old answer
    assert again["kind"].tolist() == ["new"]
    check_columns(again[["kind", "text"]].head(), "kind", None, ["text"])
    assert json.loads(json.dumps(again.attrs)) == again.attrs


def test_answers_of_several_calls_stand_side_by_side():
    first = BatchResult([good("1")], frame=pd.DataFrame({"text": ["a"]}), into="kind").df
    both = BatchResult([good("2")], frame=first, into="tone").df
    assert both.attrs["orchestrai"] == [f"{name}{x}" for name in ("kind", "tone") for x in ("", "_status", "_error")]
    check_columns(both, "kind", None, ["text"])
    assert both[["kind", "tone"]].iloc[0].tolist() == ["1", "2"]


def test_an_answer_that_the_template_reads_is_not_replaced():
    made = BatchResult([good()], frame=pd.DataFrame({"text": ["a"]}), into="kind").df
    with pytest.raises(ColumnExists, match=r"'kind'.*this call reads it"):
        check_columns(made, "kind", None, ["text", "kind"])


def test_a_field_never_shares_its_column_with_another():
    status = answer_schema({"type": "object", "properties": {"status": {"type": "string"}}})
    with pytest.raises(ColumnExists, match=r"'ticket_status'.*leave `into` out"):
        check_columns(None, "ticket", status)
    check_columns(None, None, status)
    prompt = answer_schema({"type": "object", "properties": {"prompt": {"type": "string"}}})
    with pytest.raises(ColumnExists, match=r"'prompt'.*into=\"answer\""):
        check_columns(None, None, prompt)
    check_columns(None, "answer", prompt)
    with pytest.raises(ColumnExists, match="rename the field"):
        check_columns(pd.DataFrame({"status": [1]}), None, status)


def test_an_attribute_of_somebody_else_is_no_permission():
    for attribute in ("kind", {"kind": 1}, 3, [["kind"]]):
        frame = pd.DataFrame({"kind": ["mine"]})
        frame.attrs["orchestrai"] = attribute
        with pytest.raises(ColumnExists):
            check_columns(frame, "kind", None)
        assert "kind" in BatchResult([good()], frame=frame).df


@given(st.lists(st.one_of(st.none(), st.text(st.characters())), max_size=5))
def test_whatever_the_answers_are_there_is_a_frame(answers):
    results = [good(a) if a is not None else bad() for a in answers]
    assert len(BatchResult(results).to_pandas()) == len(answers)
    assert len(BatchResult(results, frame=pd.DataFrame({"n": range(len(answers))})).df) == len(answers)
