from __future__ import annotations

import copy
import datetime as dt
import enum
import json
import pickle  # noqa: TID251 - the law is that a template survives it; nothing of ours reads one
import string
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrai.errors import InvalidInput, InvalidTemplate
from orchestrai.prompts import Rows, RowTemplates, Template, cell_text, is_missing, tasks_from_rows
from orchestrai.task import Task


class Secret:
    key = "sk-canary-000000000000"

    def __str__(self) -> str:
        return "a secret"


TRICKS = ["a.b", "a.__class__", "a[0]", "a!r", "a:>9", "a!s:>9", "0", " a ", "a b", "Größe", "a\nb", "a,b", "'a'", "%s"]
labels = st.one_of(st.sampled_from(TRICKS), st.text(st.characters(blacklist_characters="{}"), min_size=1, max_size=12))
literals = st.text(max_size=15)
cells = st.one_of(st.text(max_size=15), st.sampled_from(["{a}", "{{", "}}", "{a.b}", "{}", "{0}"]))


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# --- the text of a template ------------------------------------------------------------------------------------------


@settings(max_examples=1000)
@given(st.lists(st.tuples(literals, labels), max_size=6), literals, st.data())
def test_a_template_is_its_literals_and_the_cells_of_whole_labels(parts, last, data):
    text = "".join(f"{escaped(literal)}{{{label}}}" for literal, label in parts) + escaped(last)
    values = {label: data.draw(cells) for _, label in parts}
    template = Template(text)
    assert template.columns == tuple(dict.fromkeys(label for _, label in parts))
    expected = "".join(literal + values[label] for literal, label in parts) + last
    assert template.render(values) == expected
    assert template.render(values.__getitem__) == expected


@settings(max_examples=4000)
@given(st.text(st.sampled_from("{}ab.[]0!r:>9 "), max_size=30))
def test_any_text_is_a_template_of_plain_labels_or_refused_with_a_position(text):
    try:
        template = Template(text)
    except InvalidTemplate as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert "position" in refusal
        return
    asked = []
    rendered = template.render(lambda label: asked.append(label) or "{x}")
    assert asked == list(template.columns)
    assert all(label and f"{{{label}}}" in text and not set(label) & set("{}") for label in asked)
    assert rendered.count("{x}") >= len(asked)


def test_a_template_never_reaches_into_a_cell_while_str_format_does():
    for trick in ("{t.key}", "{t.__class__}", "{t!r}", "{t:>9}"):
        with pytest.raises(InvalidTemplate, match="Did you mean 't'" if trick == "{t!r}" else "no column"):
            Template(trick).render({"t": Secret()})
        assert Template(trick).render({trick[1:-1]: "the cell"}) == "the cell"
    assert Template("{t}").render({"t": Secret()}) == "a secret"
    assert str.format("{t.key}", t=Secret()) == Secret.key  # the control: what a naive renderer leaks


def test_a_template_is_checked_again_wherever_it_was_copied_to():
    template = Template("{a.b} {{x}}")
    for twin in (pickle.loads(pickle.dumps(template)), copy.deepcopy(template), replace(template, where="system")):
        assert twin.columns == ("a.b",)
        assert twin.render({"a.b": "{c}"}) == "{c} {x}"
        with pytest.raises(InvalidTemplate):
            twin.render({"a": Secret()})
    with pytest.raises(InvalidTemplate, match="position 0"):
        replace(template, text="{")


@pytest.mark.parametrize(
    ("text", "position", "cure"),
    [
        ("ab {x", 3, "{{"),
        ("{a{b}}", 0, "{{"),
        ("x } y", 2, "}}"),
        ("{a}}", 3, "}}"),
        ("abc {} d", 4, "{column}"),
        ('Answer {"a": {x}}', 7, "{{"),
    ],
)
def test_a_brace_that_names_nothing_is_refused_with_its_position_and_cure(text, position, cure):
    with pytest.raises(InvalidTemplate, match=f"position {position}") as caught:
        Template(text, "system")
    assert cure in str(caught.value)
    assert str(caught.value).startswith("system: ")


def test_doubled_braces_are_braces_also_beside_a_column():
    assert Template('{{"a": {{{x}}}}}').render({"x": 1}) == '{"a": {1}}'
    assert Template("{{}}").render({}) == "{}"


def test_a_missing_column_names_the_nearest_one():
    with pytest.raises(InvalidTemplate, match="Did you mean 'Order ID'") as caught:
        Template("{Order Id}").check(["Order ID", "text"])
    assert "The columns are: Order ID, text." in str(caught.value)
    with pytest.raises(InvalidTemplate, match=r"Write \{\{ and \}\} for braces"):
        Template('{"kind": "a JSON example"}').check(["text"])


def test_labels_that_are_no_strings_match_by_their_text():
    columns = [0, ("a", "b"), 1.5, "x"]
    template = Template("{0} {('a', 'b')} {1.5} {x}")
    assert template.positions(columns) == {"0": 0, "('a', 'b')": 1, "1.5": 2, "x": 3}
    assert template.render({0: "A", ("a", "b"): "B", 1.5: "C", "x": "D"}) == "A B C D"


def test_a_label_that_two_columns_have_is_refused_only_where_it_is_read():
    Template("{x}").check(["x", "y", "y"])
    with pytest.raises(InvalidTemplate, match="2 columns are labelled 'y'"):
        Template("{y}").check(["x", "y", "y"])
    with pytest.raises(InvalidTemplate, match="2 columns are labelled '1'"):
        Template("{1}").check([1, "1"])


def test_a_missing_value_is_never_rendered_as_a_word():
    for value in (None, float("nan"), pd.NaT, pd.NA):
        with pytest.raises(InvalidInput, match="column 'x' has no value"):
            Template("{x}").render({"x": value})


def test_a_template_that_is_no_string_is_refused():
    with pytest.raises(InvalidTemplate, match="a template is a string, not list"):
        Template(["{x}"])


# --- the text of a cell ----------------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


class Named(str, enum.Enum):  # noqa: UP042 - its `str` differs from StrEnum's, which is what is tested
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Größe {x}", "Größe {x}"),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (Named.RED, "red"),
        (7, "7"),
        (10**40, "1" + "0" * 40),
        (np.int64(7), "7"),
        (True, "True"),
        (np.bool_(False), "False"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (Decimal("1.50"), "1.50"),
        (["a", "é", 1, None, float("nan")], '["a", "é", 1, null, null]'),
        (("a", 1), '["a", 1]'),
        ({"k": {"n": [1.5, True]}, 3: "x"}, '{"k": {"n": [1.5, true]}, "3": "x"}'),
        ({"b", "a"}, '["a", "b"]'),
        (
            [dt.date(2026, 1, 2), Decimal("1.5"), np.float64(2), np.int32(3), float("inf")],
            '["2026-01-02", "1.5", 2.0, 3, null]',
        ),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.array(["2026-01-02"], dtype="datetime64[ns]"), '["2026-01-02T00:00:00.000000000"]'),
        (pd.Timestamp("2026-01-02 03:04:05"), "2026-01-02T03:04:05"),
        (pd.Timestamp("2026-01-02 03:04:05", tz="UTC"), "2026-01-02T03:04:05+00:00"),
        (dt.datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),  # noqa: DTZ001 - frames hold naive times
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.time(3, 4), "03:04:00"),
        (Path("a/b.txt"), str(Path("a/b.txt"))),
        ([], "[]"),
        ("", ""),
    ],
)
def test_the_text_of_a_cell(value, text):
    assert cell_text(value) == text


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), memoryview(b"abc"), [b"abc"]])
def test_bytes_are_refused_with_the_way_to_decode_them(value):
    with pytest.raises(InvalidInput, match=r"decode\('utf-8'\)"):
        cell_text(value)


def test_a_cell_inside_itself_is_refused():
    inside = []
    inside.append(inside)
    with pytest.raises(InvalidInput, match="nested too deep"):
        cell_text(inside)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_nested_cells_are_their_json(value):
    if isinstance(value, list | dict):
        assert json.loads(cell_text(value)) == value


def test_missing_values_of_every_library_are_known_and_nothing_else_is():
    missing = [
        None,
        float("nan"),
        np.nan,
        np.float32("nan"),
        pd.NA,
        pd.NaT,
        np.datetime64("NaT"),
        Decimal("NaN"),
        Decimal("sNaN"),
    ]
    assert all(is_missing(value) for value in missing)
    present = [
        "",
        "nan",
        0,
        0.0,
        False,
        [],
        [None],
        {},
        np.array([np.nan]),
        np.array(np.nan),
        np.array([]),
        pd.Series([None]),
    ]
    present += [
        pd.DataFrame(),
        Secret(),
        np.datetime64("2026-01-01"),
        np.int64(0),
        Decimal(0),
        np.str_(""),
        float("inf"),
    ]
    assert not any(is_missing(value) for value in present)


# --- columns ---------------------------------------------------------------------------------------------------------


def rendered(frame, template):
    return RowTemplates(template, {}).fill(Rows(frame)).prompts


def test_whole_numbers_stay_whole_in_nullable_columns_and_floats_stay_floats_whatever_the_other_rows_hold():
    frame = pd.DataFrame(
        {
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "objects": pd.Series([1, None, "x"], dtype=object),
            "floats": [1.0, None, 3.0],
            "narrow": np.array([0.1, 0.2, 0.3], dtype="float32"),
            "extension": pd.array([0.1, 0.2, 0.3], dtype="Float32"),
            "flags": pd.array([True, None, False], dtype="boolean"),
            "kinds": pd.Categorical(["a", None, "b"]),
        }
    )
    template = "{nullable} {objects} {floats} {narrow} {extension} {flags} {kinds}"
    assert rendered(frame, template) == ["1 1 1.0 0.1 0.1 True a", "", "3 x 3.0 0.3 0.3 False b"]
    assert rendered(frame[:1], template) == rendered(frame, template)[:1]  # a pilot asks what the whole will ask


def test_a_column_renders_as_its_cells_do():
    frame = pd.DataFrame(
        {
            "when": pd.to_datetime(["2026-01-02", None]),
            "span": pd.to_timedelta(["1 days", "2 days"]),
            "text": ["a", "b"],
            "many": [["é", 1], {"k": None}],
            "money": [Decimal("1.10"), Decimal("2.20")],
        }
    )
    for label in frame:
        found = Rows(frame).texts(label, list(frame).index(label))
        assert found == [None if is_missing(cell) else cell_text(cell) for cell in frame[label]]


def test_arrow_backed_columns_render_like_others():
    frame = pd.DataFrame(
        {"i": pd.array([1, None], dtype="int64[pyarrow]"), "s": pd.array(["a", "b"], dtype="string[pyarrow]")}
    )
    assert rendered(frame, "{i}{s}") == ["1a", ""]


def test_a_cell_of_bytes_names_its_column_and_row():
    with pytest.raises(InvalidInput, match="column 'x', row 1: bytes"):
        rendered(pd.DataFrame({"x": ["a", b"b"]}), "{x}")


def test_row_dicts_keep_their_own_values():
    rows = [{"id": 1, "t": "a"}, {"id": None, "t": "b"}, {"t": "c"}, None]
    filled = RowTemplates("{id}{t}", {}).fill(Rows(rows))
    assert filled.prompts == ["1a", "", "", ""]
    assert filled.missing == {1: "id", 2: "id", 3: None}


def test_options_are_templates_of_the_same_row():
    frame = pd.DataFrame({"id": [1, 2], "m": ["small", None], "p": ["a", "b"]})
    options = {
        "system": "You are {p}, {{not}} {m}",
        "files": ("docs/{id}.txt", Path("fixed.txt")),
        "platform": ("{p}", "openai"),
        "model": "{m}",
        "tags": {"id": "{id}", "n": 3, "fixed": "{{x}}"},
        "max_tokens": 5,
    }
    filled = RowTemplates("{id}", options).fill(Rows(frame))
    first, second = filled.options_by_row(2)
    assert first == {
        "system": "You are a, {not} small",
        "files": ("docs/1.txt", "fixed.txt"),
        "platform": ("a", "openai"),
        "model": "small",
        "tags": {"id": "1", "n": 3, "fixed": "{x}"},
        "max_tokens": 5,
    }
    assert filled.missing == {1: "m"}
    assert second["model"] is None
    assert filled.columns == ("id", "p", "m")
    constant = RowTemplates("{id}", {"tags": {"a": "b"}}).fill(Rows(frame))
    assert constant.varying == {}
    with pytest.raises(InvalidTemplate, match=r"tags\['k'\]: no column 'idd'. Did you mean 'id'"):
        RowTemplates("{id}", {"tags": {"k": "{idd}"}}).fill(Rows(frame))


def test_a_cell_cannot_lead_a_file_out_of_the_folder_that_the_template_names():
    def files(template, cell):
        return RowTemplates("x", {"files": template}).fill(Rows([{"n": cell}])).varying["files"]

    assert files("docs/{n}.txt", "a/b..c") == ["docs/a/b..c.txt"]
    assert files("docs/{n}.txt", "a/../b") == ["docs/a/../b.txt"]
    assert files("docs/{n}", "/etc/passwd") == ["docs//etc/passwd"]  # stays below docs
    assert files(["{n}"], "../x.txt") == [("../x.txt",)]  # here the row was given the choice
    for template, cell in [("docs/{n}.txt", "../../key"), ("docs/a{n}", "/../../key"), (["img_{n}"], "x/../../key")]:
        with pytest.raises(InvalidInput, match="leads out of the folder"):
            files(template, cell)


def test_a_frame_without_rows_still_checks_its_columns_and_an_empty_list_has_none():
    with pytest.raises(InvalidTemplate):
        rendered(pd.DataFrame({"a": []}), "{b}")
    assert rendered([], "{b}") == []
    assert rendered(pd.DataFrame({"a": []}), "{a}") == []


def test_tasks_come_from_a_frame_in_its_order():
    frame = pd.DataFrame({"Order ID": [3, 1], "text": ["x {y}", "z"]}, index=["b", "a"])
    tasks = Task.from_frame(frame, "Kind of {Order ID}: {text}", model="m", tags={"id": "{Order ID}"})
    assert [task.prompt for task in tasks] == ["Kind of 3: x {y}", "Kind of 1: z"]
    assert [task.tags for task in tasks] == [{"id": "3"}, {"id": "1"}]
    frame.loc["b", "text"] = None
    with pytest.raises(InvalidInput, match="1 of the rows have no value: row 0 in column 'text'"):
        Task.from_frame(frame, "{text}")
    assert [task.prompt for task in tasks_from_rows(frame, "{text}", {}, missing="skip", make=Task)] == ["z"]


def test_many_missing_values_name_the_first_rows():
    frame = pd.DataFrame({"x": pd.Series([None] * 25, dtype=object)})
    with pytest.raises(InvalidInput, match=r"25 of the rows .* row 9 in column 'x' and 15 more"):
        Task.from_frame(frame, "{x}")


def test_rendering_a_frame_costs_about_what_formatting_strings_does():
    numbers, texts = range(100_000), [f"text {i}" for i in range(100_000)]
    frame = pd.DataFrame({"Order ID": numbers, "text": texts})
    templates = RowTemplates("Kind of ticket {Order ID}: {text}", {})

    def spent(work):
        def once():
            start = time.process_time()
            assert work()[-1] == "Kind of ticket 99999: text 99999"
            return time.process_time() - start

        return min(once() for _ in range(5))

    formatted = spent(lambda: [f"Kind of ticket {a}: {b}" for a, b in zip(numbers, texts, strict=True)])
    assert spent(lambda: templates.fill(Rows(frame)).prompts) < 12 * formatted  # measured: 2 to 4 times


def test_nothing_here_needs_pandas():
    import subprocess
    import sys

    code = (
        "import sys, orchestrai.prompts as p, orchestrai.intake as i, orchestrai.schemas\n"
        "p.RowTemplates('{a}', {}).fill(p.Rows([{'a': 1}])); i.take(['x'], options={})\n"
        "print([m for m in ('pandas', 'numpy', 'pydantic', 'jsonschema') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_punctuation_mark_but_a_brace_may_stand_in_a_label():
    for mark in set(string.punctuation) - set("{}"):
        assert Template(f"{{a{mark}b}}").render({f"a{mark}b": "cell"}) == "cell"
