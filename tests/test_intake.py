from __future__ import annotations

import asyncio
import itertools
import time
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.errors import InvalidInput, InvalidPrompt, InvalidTemplate
from orchestrai.intake import take, take_each, take_each_async, take_one
from orchestrai.messages import Message
from orchestrai.task import Task

CONVERSATION = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def prompts_of(intake):
    return [task.prompt for task in intake.tasks]


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_as", [list, tuple, iter, lambda x: (p for p in x), np.array, pd.Series, pd.Index])
def test_strings_in_any_iterable_are_prompts_in_order(given_as):
    source = given_as(["a", "{b}", "c"])
    intake = take(source, options={"system": "{as it is}"})
    assert prompts_of(intake) == ["a", "{b}", "c"]
    assert all(type(prompt) is str for prompt in prompts_of(intake))
    assert {task.system for task in intake.tasks} == {"{as it is}"}
    assert intake.refused == {}


def test_strings_conversations_tasks_and_dicts_may_be_mixed():
    own = Task("own", model="big", tags={"a": "task", "b": "task"}, files=())
    mixed = ["text", CONVERSATION, own, {"prompt": "fields", "model": "mid", "max_tokens": float("nan")}, None]
    intake = take(
        mixed, options={"model": "small", "tags": {"a": "call", "c": "call"}, "files": ["x.txt"], "effort": None}
    )
    assert prompts_of(intake)[:1] == ["text"]
    assert prompts_of(intake)[1] == (Message("user", "hi"), Message("assistant", "ho"))
    assert [task.model for task in intake.tasks] == ["small", "small", "big", "mid", "small"]
    assert intake.tasks[2].tags == {"a": "task", "b": "task", "c": "call"}
    assert intake.tasks[2].files == ()
    assert intake.tasks[3].files == ("x.txt",)
    assert intake.refused == {4: "the prompt is missing"}
    assert (intake.labels, intake.frame, intake.columns) == (None, None, ())
    assert own == Task("own", model="big", tags={"a": "task", "b": "task"}, files=())


def test_an_iterator_among_the_options_serves_every_row():
    options = {"files": (name for name in ("{a}.txt", "b.txt")), "platform": iter(["one", "two"])}
    intake = take([{"a": 1}, {"a": 2}], prompt="{a}", options=options)
    assert [task.files for task in intake.tasks] == [("1.txt", "b.txt"), ("2.txt", "b.txt")]
    assert [task.platform for task in intake.tasks] == [("one", "two")] * 2


def test_a_task_that_needs_nothing_of_the_call_is_the_same_object():
    task = Task("x", model="m")
    assert take([task], options={"model": "other"}).tasks[0] is task


def test_a_frame_with_a_template_is_one_task_a_row_with_its_labels_and_a_copy():
    frame = pd.DataFrame({"Order ID": [3, 1], "text": ["x {y}", None]}, index=["b", "b"])
    intake = take(frame, prompt="Kind of {Order ID}: {text}", options={"tags": {"id": "{Order ID}"}, "max_tokens": 5})
    assert prompts_of(intake) == ["Kind of 3: x {y}", ""]
    assert intake.tasks[0].tags == {"id": "3"}
    assert intake.refused == {1: "column 'text' has no value"}
    assert list(intake.labels) == ["b", "b"]
    assert intake.columns == ("Order ID", "text")
    frame.loc[:, "text"] = "changed"
    assert intake.frame.text.iloc[0] == "x {y}"
    assert list(intake.frame) == ["Order ID", "text"]


def test_a_frame_without_a_template_is_read_from_its_prompt_column():
    frame = pd.DataFrame({"prompt": ["{x}", CONVERSATION, Task("t", model="own"), np.nan], "m": ["a", "b", "c", "d"]})
    intake = take(frame, options={"model": "{m}"})
    assert prompts_of(intake)[0] == "{x}"
    assert len(prompts_of(intake)[1]) == 2
    assert [task.model for task in intake.tasks] == ["a", "b", "own", "d"]
    assert intake.refused == {3: "the prompt is missing"}
    assert intake.columns == ("prompt", "m")
    with pytest.raises(
        InvalidTemplate, match=r"no column 'prompt'. Did you mean 'Prompts'\? .* Give prompt= a template"
    ):
        take(pd.DataFrame({"Prompts": ["x"]}), options={})


def test_a_series_is_prompts_or_with_a_template_one_column():
    named = pd.Series(["a", None], index=[10, 20], name="text")
    intake = take(named, options={"system": "{literal}"})
    assert prompts_of(intake) == ["a", ""]
    assert intake.tasks[0].system == "{literal}"
    assert (list(intake.labels), list(intake.frame), intake.columns) == ([10, 20], ["text"], ("text",))
    templated = take(named, prompt="Say {text}", options={"system": "{text}"})
    assert (prompts_of(templated), templated.tasks[0].system) == (["Say a", ""], "a")
    unnamed = take(pd.Series([1, 2]), prompt="{value}", options={})
    assert prompts_of(unnamed) == ["1", "2"]
    assert list(unnamed.frame) == ["value"]


def test_frames_of_other_libraries_come_in_by_their_to_pandas():
    table = pa.table({"text": ["a", "b"]})
    intake = take(table, prompt="{text}!", options={})
    assert prompts_of(intake) == ["a!", "b!"]
    assert isinstance(intake.frame, pd.DataFrame)
    assert prompts_of(take(pa.chunked_array([["a"], ["b"]]), options={})) == ["a", "b"]


def test_dicts_are_rows_with_a_template():
    rows = [{"id": 1, "t": "a"}, {"id": None, "t": "b"}, {"t": "c"}, None, {}]
    intake = take(iter(rows), prompt="{id}: {t}", options={"tags": {"t": "{t}"}})
    assert prompts_of(intake) == ["1: a", "", "", "", ""]
    assert intake.refused == {
        1: "column 'id' has no value",
        2: "column 'id' has no value",
        3: "the prompt is missing",
        4: "column 'id' has no value",
    }
    assert intake.labels is None
    assert (len(intake.frame), list(intake.frame)) == (5, ["id", "t"])
    constant = take([{}, None], prompt="the same", options={})
    assert (prompts_of(constant), constant.refused) == (["the same", ""], {1: "the prompt is missing"})


def test_a_dict_without_a_template_is_task_fields_and_a_wrong_field_names_row_and_nearest():
    intake = take([{"prompt": "x", "timeout_s": 5, "tags": {"a": "b"}}, {"model": "m"}], options={})
    assert intake.tasks[0] == Task("x", timeout_s=5, tags={"a": "b"})
    assert intake.refused == {1: "the prompt is missing"}
    with pytest.raises(
        InvalidInput, match=r"row 1: unknown field 'modell'. Did you mean 'model'\? .*prompt= a template"
    ):
        take([{"prompt": "x"}, {"prompt": "y", "modell": "m"}], options={})
    with pytest.raises(InvalidInput, match="row 0: samples is a whole number"):
        take([{"prompt": "x", "samples": 0}], options={})


@pytest.mark.parametrize("empty", [[], (), iter(()), np.array([])])
def test_nothing_is_a_fine_input(empty):
    assert take(empty, options={}).tasks == []


def test_an_empty_frame_is_kept():
    for frame in (pd.DataFrame(), pd.DataFrame({"prompt": []})):
        intake = take(frame, options={})
        assert (intake.tasks, len(intake.frame), list(intake.frame), list(intake.labels)) == ([], 0, list(frame), [])
    assert list(take(pd.DataFrame(), prompt="{x}", options={}).frame) == []
    assert len(take([], prompt="{x}", options={}).frame) == 0
    assert list(take(pd.Series([], dtype=object, name="s"), options={}).frame) == ["s"]
    with pytest.raises(InvalidTemplate):
        take(pd.DataFrame({"text": []}), prompt="{txt}", options={})


def test_odd_frames_work():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 1)])
    columns = pd.MultiIndex.from_tuples([("x", "y"), ("x", "z")])
    intake = take(pd.DataFrame([["1", "2"], ["3", "4"]], index, columns), prompt="{('x', 'z')}", options={})
    assert (prompts_of(intake), list(intake.labels)) == (["2", "4"], [("a", 1), ("a", 1)])
    twice = pd.DataFrame([["a", "b", "c"]], columns=["x", "x", "y"])
    assert prompts_of(take(twice, prompt="{y}", options={})) == ["c"]
    with pytest.raises(InvalidTemplate, match="2 columns are labelled 'x'"):
        take(twice, prompt="{x}", options={})
    assert prompts_of(take(pd.DataFrame([["a"]]), prompt="{0}", options={})) == ["a"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "cure"),
    [
        ("one prompt", r"run\("),
        (Task("x"), r"run\("),
        (Message("user", "x"), r"run\("),
        (b"bytes", "list of prompts"),
        (5, "list of prompts"),
        (None, "list of prompts"),
        ({"a": "x"}, r"list\(d.values\(\)\)"),
    ],
)
def test_a_single_thing_is_no_batch(given_as, cure):
    for taking in (take, take_each):
        with pytest.raises(InvalidInput, match=cure):
            taking(given_as, options={})


def test_one_conversation_given_as_a_batch_is_explained():
    with pytest.raises(InvalidPrompt, match="row 0 is a single message"):
        take(CONVERSATION, options={})


def test_a_row_of_another_kind_names_itself():
    with pytest.raises(InvalidPrompt, match="the prompt of row 1: a prompt is a string or a list of messages, not int"):
        take(["a", 5], options={})
    with pytest.raises(InvalidPrompt, match="the prompt of row 1, message 0: unknown role 'usr'"):
        take(["a", [{"role": "usr", "content": "x"}]], options={})
    with pytest.raises(InvalidInput, match="row 1 is a str: prompt= is a template for rows"):
        take([{"a": 1}, "b"], prompt="{a}", options={})


def test_an_empty_prompt_is_refused_unless_files_go_with_it():
    blank = [{"role": "user", "content": ["", " "]}]
    intake = take(["", " \n", blank, Task("", files=["a.txt"]), "x"], options={})
    assert intake.refused == dict.fromkeys((0, 1, 2), "the prompt is empty")
    assert take(pd.DataFrame({"a": ["", "b"]}), prompt="{a}", options={}).refused == {0: "the prompt is empty"}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("ab\ud83d", "the prompt holds a lone surrogate (U+D83D at position 2)"),
        (Task("x", system="\udc00"), "the system prompt holds a lone surrogate (U+DC00 at position 0)"),
        (Task("x", tags={"k": "é\udfff"}), "the tag 'k' holds a lone surrogate (U+DFFF at position 1)"),
        (
            [*CONVERSATION, {"role": "user", "content": ["a", "b\ud800"]}],
            "message 2 of the prompt holds a lone surrogate (U+D800",
        ),
    ],
)
def test_a_lone_surrogate_is_refused_with_its_place_and_code_point(value, where):
    intake = take(["fine 😀 é", value], options={})
    assert intake.refused.keys() == {1}
    assert intake.refused[1].startswith(where)
    with pytest.raises(InvalidPrompt, match="lone surrogate"):
        take_one(value, options={})


@given(st.lists(st.text(st.characters(codec=None), max_size=10)))
def test_every_text_that_utf8_can_carry_is_sent_and_no_other(texts):
    refused = take(texts, options={}).refused
    for row, text in enumerate(texts):
        try:
            sendable = bool(text.strip()) and text.encode() is not None
        except UnicodeEncodeError:
            sendable = False
        assert (row in refused) is not sendable


def test_missing_error_refuses_the_call_and_names_the_first_rows():
    frame = pd.DataFrame({"a": ["x", None, np.nan]}, index=["p", "q", "r"])
    with pytest.raises(InvalidInput, match=r"2 of the rows .*: row 1 \(index 'q'\) in column 'a', row 2 \(index 'r'\)"):
        take(frame, prompt="{a}", missing="error", options={})
    with pytest.raises(InvalidInput, match="1 of the rows have no value: row 1 in the prompt"):
        take(["a", None], missing="error", options={})
    with pytest.raises(InvalidInput, match="row 0 in the prompt"):
        take([{"model": "m"}], missing="error", options={})
    assert take(["a", ""], missing="error", options={}).refused == {1: "the prompt is empty"}
    with pytest.raises(InvalidInput, match='missing is "skip" or "error"'):
        take([], missing="drop", options={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples is a whole number"),
        ({"temperature": 9}, "temperature lies between"),
        ({"modle": "x"}, "unknown option 'modle'. Did you mean 'model'"),
        ({"tags": ["a"]}, "tags is a dict of labels, not list"),
        ({"system": "\ud800"}, "The system prompt holds a lone surrogate"),
    ],
)
def test_an_impossible_option_is_an_error_of_the_call(options, message):
    for call in (
        lambda: take([], options=options),
        lambda: take_one("x", options=options),
        lambda: take_each([], options=options),
    ):
        with pytest.raises(InvalidInput, match=message):
            call()


def test_a_template_that_is_no_string_is_refused():
    with pytest.raises(InvalidTemplate, match="prompt= is a template"):
        take(pd.DataFrame({"a": [1]}), prompt=["{a}"], options={})


# --- one, and each ---------------------------------------------------------------------------------------------------


def test_one_prompt_becomes_one_task():
    assert take_one("x", options={"model": "m"}) == Task("x", model="m")
    assert take_one(CONVERSATION, options={}) == Task(CONVERSATION)
    assert take_one(Task("x", model="own"), options={"model": "m", "samples": 2}) == Task("x", model="own", samples=2)
    assert take_one({"prompt": "x", "model": "own"}, options={}) == Task("x", model="own")
    for wrong in (None, "", float("nan"), 5, CONVERSATION[0], [], pd.DataFrame({"prompt": ["x"]})):
        with pytest.raises(InvalidPrompt):
            take_one(wrong, options={})


def test_each_reads_only_as_far_as_it_is_asked_to():
    read = []
    endless = (read.append(i) or (None if i == 1 else f"prompt {i}") for i in itertools.count())
    each = take_each(endless, options={"model": "m"})
    assert read == []
    assert list(itertools.islice(each, 3)) == [
        (0, Task("prompt 0", model="m"), None, None),
        (1, Task("", model="m"), "the prompt is missing", None),
        (2, Task("prompt 2", model="m"), None, None),
    ]
    assert read == [0, 1, 2]


def test_each_row_dict_is_filled_on_its_own_and_the_first_decides_the_columns():
    rows = [None, {"a": 1, "b": "x"}, {"a": 2}, {"a": 3, "b": "y", "c": 0}]
    each = list(take_each(iter(rows), prompt="{a}{b}", options={"tags": {"a": "{a}"}}))
    assert [(row, task.prompt, reason, label) for row, task, reason, label in each] == [
        (0, "", "the prompt is missing", None),
        (1, "1x", None, None),
        (2, "", "column 'b' has no value", None),
        (3, "3y", None, None),
    ]
    assert each[3][1].tags == {"a": "3"}
    with pytest.raises(InvalidTemplate, match="no column 'bb'"):
        next(take_each([{"b": 1}], prompt="{bb}", options={}))
    with pytest.raises(InvalidInput, match="column 'a', row 1: bytes"):
        list(take_each([{"a": "x"}, {"a": b"x"}], prompt="{a}", options={}))
    each = take_each([{"a": "x"}, {"a": None}], prompt="{a}", missing="error", options={})
    assert next(each)[1].prompt == "x"
    with pytest.raises(InvalidInput, match="row 1 in column 'a'"):
        next(each)


def test_each_of_a_frame_carries_its_labels():
    frame = pd.DataFrame({"a": ["x", None]}, index=["p", "q"])
    assert list(take_each(frame, prompt="{a}", options={})) == [
        (0, Task("x"), None, "p"),
        (1, Task(""), "column 'a' has no value", "q"),
    ]


def test_an_asynchronous_iterable_is_taken_as_its_values_come():
    async def source():
        for value in ("a", None, Task("b")):
            await asyncio.sleep(0)
            yield value

    async def taken():
        return [item async for item in take_each_async(source(), options={"model": "m"})]

    assert asyncio.run(taken()) == list(take_each(["a", None, Task("b")], options={"model": "m"}))
    for taking in (take, take_each):
        with pytest.raises(InvalidInput, match="as_completed"):
            taking(source(), options={})


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.text(max_size=5),
            st.builds(Task, st.text(max_size=5), model=st.none() | st.just("own")),
            st.fixed_dictionaries({"prompt": st.text(max_size=5)}),
            st.just(CONVERSATION),
        )
    )
)
def test_taking_whole_and_taking_each_agree(values):
    options = {"model": "m", "tags": {"a": "b"}}
    whole = take(values, options=options)
    assert len(whole.tasks) == len(values)
    assert list(take_each(values, options=options)) == [
        (row, task, whole.refused.get(row), None) for row, task in enumerate(whole.tasks)
    ]


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_prompt_of_ten_million_characters_is_taken():
    long = "é" * 10_000_000
    assert take([long], options={}).refused == {}
    frame = pd.DataFrame({"a": [long]})
    assert len(take(frame, prompt="{a}{a}", options={}).tasks[0].prompt) == 20_000_000


def test_a_waiting_task_weighs_less_than_a_kilobyte_beyond_its_text():
    texts = [f"text {i}" for i in range(20_000)]
    frame = pd.DataFrame({"id": range(20_000), "text": texts})
    for build in (
        lambda: take(texts, options={"model": "m", "tags": {"a": "b"}}),
        lambda: take(frame, prompt="{id}: {text}", options={"tags": {"id": "{id}"}}),
    ):
        tracemalloc.start()
        intake = build()
        weight = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert weight / len(intake.tasks) < 1_000


def test_taking_rows_costs_a_small_multiple_of_making_their_tasks():
    """Measured on two shared cores: 100,000 strings 0.34 s, a frame with a two-column template 0.56 s of CPU."""
    texts = [f"text {i}" for i in range(50_000)]
    frame = pd.DataFrame({"id": range(50_000), "text": texts})

    def spent(work):
        def once():
            start = time.process_time()
            work()
            return time.process_time() - start

        return min(once() for _ in range(3))

    made = spent(lambda: [Task(text) for text in texts])
    assert spent(lambda: take(texts, options={})) < 3 * made
    assert spent(lambda: take(frame, prompt="Kind of {id}: {text}", options={"model": "m"})) < 4 * made
