"""Batch files in and out: what is refused before anything is sent, and what is written."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from orchestrai.cli import files, outputs
from orchestrai.cli.records import json_text
from orchestrai.errors import InvalidFile
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.results.files import replacing
from orchestrai.task import Task

PLATFORMS = ("openai", "local")
ANSWERS = ["=HYPERLINK(1)", "plain", "-5", "-5 apples", "@cmd", "\tx", "1\r2", 'say "hi",\nthere', "+1e3"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, template: str | None = None):
    return files.read_tasks(path, template, PLATFORMS)


def refusal(path: Path, template: str | None = None) -> str:
    with pytest.raises(InvalidFile) as caught:
        read(path, template)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def batch(*answers: str, **options) -> BatchResult:
    results = [
        Result(
            Task(f"question {i}", tags={"n": str(i)}),
            output=answer,
            status="succeeded",
            platform="openai",
            model="gpt-5-mini",
            tier="paid",
            usage=Usage(10, None, None, 5, None, "provider"),
            cost=Decimal("0.000015"),
            list_cost=Decimal("0.000015"),
            index=i,
            task_id=f"task-{i}",
        )
        for i, answer in enumerate(answers)
    ]
    return BatchResult(results, **options)


# --- JSON


def test_a_json_list_may_mix_strings_and_task_objects(tmp_path):
    path = write(
        tmp_path,
        "tasks.json",
        json.dumps(
            [
                "first",
                {
                    "prompt": "second",
                    "type": "research",
                    "platform": ["local", "openai"],
                    "timeout_s": 9,
                    "system": None,
                },
                {"prompt": [{"role": "user", "content": "third"}], "max_tokens": 5},
            ]
        ),
    )
    first, second, third = read(path)
    assert (first.prompt, first.type) == ("first", None)
    assert (second.platform, second.type, second.timeout_s, second.system) == (("local", "openai"), "research", 9, None)
    assert third.prompt[0].text == "third"


def test_metadata_joins_the_tags_and_every_label_becomes_text(tmp_path):
    fields = {"prompt": "x", "tags": {"a": "1"}, "metadata": {"a": "other", "n": 2, "deep": {"b": [True, None]}}}
    (task,) = read(write(tmp_path, "t.json", json.dumps([fields])))
    assert task.tags == {"a": "1", "n": "2", "deep": '{"b":[true,null]}'}


def test_equal_schemas_of_many_rows_are_one_object(tmp_path):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    first, second = read(write(tmp_path, "t.json", json.dumps([{"prompt": p, "schema": schema} for p in "ab"])))
    assert first.schema is second.schema


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "x", "tpye": "research"}, "unknown field 'tpye'. Did you mean 'type'?"),
        ({"type": "research"}, "the field 'prompt' is missing"),
        ({"prompt": "  "}, "field 'prompt': is empty"),
        ({"prompt": 5}, "field 'prompt': must be a string or a list of messages, not the number 5"),
        ({"prompt": [{"role": "wizard", "content": "x"}]}, "field 'prompt'"),
        ({"prompt": "x", "type": "reserch"}, "field 'type': unknown task type 'reserch'. Did you mean 'research'?"),
        ({"prompt": "x", "platform": "opnai"}, "field 'platform': unknown platform 'opnai'. Did you mean 'openai'?"),
        ({"prompt": "x", "timeout_s": "soon"}, "field 'timeout_s': must be a number, not a string"),
        ({"prompt": "x", "timeout_s": -1}, "field 'timeout_s'"),
        ({"prompt": "x", "max_tokens": True}, "field 'max_tokens': must be a whole number, not true"),
        ({"prompt": "x", "max_tokens": 0}, "field 'max_tokens'"),
        ({"prompt": "x", "temperature": 3}, "field 'temperature'"),
        ({"prompt": "x", "samples": 0}, "field 'samples'"),
        ({"prompt": "x", "effort": "hig"}, "field 'effort'"),
        ({"prompt": "x", "priority": 11}, "field 'priority'"),
        ({"prompt": "x", "tags": ["a"]}, "field 'tags': must be an object, not a list"),
        ({"prompt": "x", "metadata": 1}, "field 'metadata'"),
        ({"prompt": "x", "files": ["absent.txt"]}, "field 'files': there is no file 'absent.txt'"),
        ({"prompt": "x", "schema": {"type": "unheard-of"}}, "field 'schema'"),
        ({"prompt": "x", "parent": [1.5]}, "field 'parent': must be the number of an item"),
        ({"prompt": "x", "extra": {"openai": 1}}, "field 'extra': must be an object of objects"),
        (7, "a task is a string or an object, not the number 7"),
        (None, "a task is a string or an object, not null"),
        ("", "field 'prompt': is empty"),
    ],
)
def test_a_bad_row_is_named_with_its_place_and_its_field(tmp_path, row, told):
    in_json = refusal(write(tmp_path, "tasks.json", json.dumps(["fine", row])))
    assert in_json.startswith(", item 1 (from 0)")
    assert told in in_json
    in_lines = refusal(write(tmp_path, "tasks.jsonl", f'"fine"\n\n{json.dumps(row)}\n'))
    assert in_lines.startswith(", line 3")
    assert told in in_lines


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "", ": the file is empty."),
        ("a.json", " \n ", ": the file is empty."),
        ("a.json", "[]", ": holds no tasks."),
        ("a.json", '{"prompt": "x"}', ": a JSON batch file is a list of prompts or of task objects, not an object."),
        ("a.json", '["x",\n "y"', ", line 2"),
        ("a.json", "[NaN]", "no valid JSON"),
        ("a.jsonl", '"x"\n{"prompt": \n', ", line 2, column "),
        ("a.json", b'["\xe9"]', ": no text in UTF-8 (byte 2)"),
        ("a.json", '["x"]'.encode("utf-16"), ": no text in UTF-8 (byte 0)"),
        ("a.csv", "", ": the file is empty."),
        ("a.csv", "prompt\n", ": holds no rows."),
        ("a.csv", "text\nx\n", ": no column 'prompt'. Rename one, or give --prompt a template"),
        ("a.csv", "promt\nx\n", ": no column 'prompt'. Did you mean 'promt'?"),
        ("a.csv", 'prompt,b\n1,2\n"two\nlines",4\n5\n', ", line 5: 1 fields, but the header has 2."),
        ("a.csv", 'prompt,b\n1,2\n"open,4\n', ", line 3: no valid CSV"),
        ("a.csv", "prompt,prompt\n1,2\n", ", line 1: two columns are named 'prompt'."),
        ("a.csv", "prompt\nx\n".encode("utf-16"), ": no text in UTF-8 (byte 0)"),
        ("a.parquet", "no parquet", ": no readable Parquet file"),
        ("a.txt", "x", ": unknown kind of file '.txt', use one of .json, .jsonl, .csv, .parquet."),
        ("a", "x", ": unknown kind of file ''"),
    ],
)
def test_a_file_that_holds_no_tasks_says_what_is_wrong_and_where(tmp_path, name, content, told):
    assert told in refusal(write(tmp_path, name, content))


def test_an_absent_file_and_a_folder_are_told_apart(tmp_path):
    assert refusal(tmp_path / "absent.json") == ": there is no such file."
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv") == ": this is a folder, not a file."


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    bom = b"\xef\xbb\xbf"
    assert [task.prompt for task in read(write(tmp_path, "a.jsonl", bom + b'"x"\r\n"y"\r\n'))] == ["x", "y"]
    frame = read(write(tmp_path, "a.csv", bom + b"prompt,b\r\nx,1\r\n"))
    assert list(frame.columns) == ["prompt", "b"]
    assert frame["prompt"].tolist() == ["x"]


def test_a_line_separator_inside_a_string_ends_no_line(tmp_path):
    (task,) = read(write(tmp_path, "a.jsonl", '{"prompt": "one\u2028two\u0085three"}\n'))
    assert task.prompt == "one\u2028two\u0085three"


def test_with_a_template_json_objects_are_rows_of_any_fields(tmp_path):
    path = write(tmp_path, "rows.jsonl", '{"id": 7, "text": "x"}\n{"id": 8}\n')
    assert read(path, "{text}") == [{"id": 7, "text": "x"}, {"id": 8}]
    assert "with --prompt every row is an object" in refusal(write(tmp_path, "b.json", '["x"]'), "{text}")


# --- tables


def test_cells_of_a_csv_file_are_text_exactly_as_they_stand(tmp_path):
    content = 'id,prompt\n007,"two\r\nlines, ""quoted"""\n1e5,NA\n+1,\n\n3,"  "\n'
    frame = read(write(tmp_path, "a.csv", content))
    assert frame["id"].tolist() == ["007", "1e5", "+1", "3"]
    assert frame["prompt"].tolist()[:2] == ['two\r\nlines, "quoted"', "NA"]
    assert frame["prompt"].isna().tolist() == [False, False, True, False]
    assert list(frame.dtypes) == [frame["id"].dtype] * 2


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_columns_may_be_separated_by_comma_semicolon_or_tab(tmp_path, mark):
    frame = read(write(tmp_path, "a.csv", f"id{mark}prompt\n1{mark}x\n"))
    assert frame.to_dict("records") == [{"id": "1", "prompt": "x"}]


def test_a_cell_may_be_longer_than_the_limit_of_the_csv_module(tmp_path):
    assert len(read(write(tmp_path, "a.csv", f"prompt\n{'x' * 200_000}\n"))["prompt"][0]) == 200_000


def test_parquet_keeps_its_types_and_its_index(tmp_path):
    frame = pd.DataFrame(
        {"prompt": ["x", None], "n": pd.array([1, None], dtype="Int64")}, index=pd.Index(["a", "b"], name="key")
    )
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "a.parquet"), frame)


# --- output files


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_kind_of_output_holds_every_answer(tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    outputs.write_batch(path, batch("one", "two é \u2028"))
    if kind == "json":
        found = [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))["results"]]
    elif kind == "jsonl":
        found = [json.loads(line)["output"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    else:
        frame = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
        found = frame["output"].tolist()
    assert found == ["one", "two é \u2028"]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_no_csv_cell_begins_a_formula_and_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame({"=bad": ["-1", "@x"], "value": [-1.5, 2.0]})
    results = batch("=1+1", "-5").results
    outputs.write_batch(tmp_path / "out.csv", BatchResult(results, frame=frame))
    back = pd.read_csv(tmp_path / "out.csv", dtype={"'=bad": str, "output": str})
    assert back["'=bad"].tolist() == ["-1", "'@x"]
    assert back["output"].tolist() == ["'=1+1", "-5"]
    assert back["value"].tolist() == [-1.5, 2.0]


def test_hostile_cells_come_back_from_csv_as_they_were_but_for_the_quote(tmp_path):
    outputs.write_batch(tmp_path / "out.csv", batch(*ANSWERS))
    frame = files.read_tasks(tmp_path / "out.csv", None, ())
    expected = ["'=HYPERLINK(1)", "plain", "-5", "'-5 apples", "'@cmd", "'\tx", "1\r2", 'say "hi",\nthere', "+1e3"]
    assert frame["output"].tolist() == expected


def test_nested_and_mixed_cells_are_written_all_the_same(tmp_path):
    cells = pd.DataFrame({"mixed": [1, "x"], "nested": [{"a": [1]}, {"a": []}]}, dtype=object)
    whole = BatchResult(batch("a", "b").results, frame=cells)
    outputs.write_batch(tmp_path / "o.parquet", whole)
    back = pd.read_parquet(tmp_path / "o.parquet")
    assert back["mixed"].tolist() == ["1", "x"]
    assert list(back["nested"][0]["a"]) == [1]
    outputs.write_batch(tmp_path / "o.csv", whole)
    assert pd.read_csv(tmp_path / "o.csv")["nested"].tolist() == ['{"a": [1]}', '{"a": []}']


def test_an_index_of_its_own_stays_and_row_numbers_do_not(tmp_path):
    frame = pd.DataFrame({"x": [1]}, index=pd.Index(["=k"], name="key"))
    outputs.write_batch(tmp_path / "o.csv", BatchResult(batch("a").results, frame=frame))
    assert pd.read_csv(tmp_path / "o.csv")["key"].tolist() == ["'=k"]
    outputs.write_batch(tmp_path / "p.csv", batch("a"))
    assert (tmp_path / "p.csv").read_text().startswith("prompt,output,")


@pytest.mark.parametrize("trouble", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path, trouble):
    path = write(tmp_path, "out.json", "old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise trouble

    with pytest.raises((InvalidFile, KeyboardInterrupt)):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_keeps_its_mode_and_a_link_its_target(tmp_path):
    path = write(tmp_path, "real.json", "old")
    path.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    outputs.write_batch(link, batch("x"))
    assert link.is_symlink()
    assert json.loads(path.read_text())["total_tasks"] == 1
    assert path.stat().st_mode & 0o777 == 0o640


def test_an_output_that_could_not_be_written_is_refused_first(tmp_path):
    source = write(tmp_path, "in.json", '["x"]')
    (tmp_path / "folder.csv").mkdir()
    link = tmp_path / "again.json"
    link.hardlink_to(source)
    for name, told in {
        "missing/out.json": "there is no folder",
        "folder.csv": "is a folder",
        "in.json": "is the input file",
        "again.json": "is the input file",
        "out.text": "unknown kind of file",
        f"{'x' * 300}.json": "cannot be written",
    }.items():
        with pytest.raises(InvalidFile, match=told):
            outputs.check_output(tmp_path / name, source)
    outputs.check_output(tmp_path / "new.json", source)
    assert not (tmp_path / "new.json").exists()


# --- JSON text


def test_json_text_reads_back_as_it_was_and_drives_no_terminal():
    value = {"a": '\x1b[31m\x9b0m\x7f\u202e\u2028\ud800 é 日本 "\\\n', "b": [1, 10**30, 0.1, None, True]}
    written = json_text(value)
    assert json.loads(written) == value
    assert written.isprintable()
    assert "日本" in written
    assert not math.isnan(json.loads(json_text({"cost": 1.5e-12}))["cost"])
