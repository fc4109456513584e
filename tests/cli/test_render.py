"""What is printed: plain where nobody styles, and inert whatever a model says."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrai.cli import render
from orchestrai.cli.batch import ROWS_SHOWN, show_batch
from orchestrai.cli.submit import show_result
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.task import Task


def answer(**fields) -> Result:
    given = {
        "output": "fine",
        "status": "succeeded",
        "platform": "openai",
        "model": "m",
        "usage": Usage(1200, None, None, 5, None, "provider"),
        "cost": Decimal("0.0001"),
        "list_cost": Decimal("0.0002"),
        "task_id": "t1",
        "duration_s": 1.25,
    }
    return Result(Task("question"), **{**given, **fields})


def printed(capsys: pytest.CaptureFixture[str], show, *arguments, **options) -> str:
    show(*arguments, **options)
    return capsys.readouterr().out


def test_a_result_is_facts_a_blank_line_and_the_answer(capsys):
    assert printed(capsys, show_result, answer()) == (
        "task       t1\nplatform   openai\nmodel      m\nsuccess    yes\ncost       $0.0001\nlist cost  $0.0002\n"
        "tokens     1,200 in, 5 out\ntime       1.2 s\n\nfine\n"
    )


def test_unknown_amounts_are_never_shown_as_nothing(capsys):
    shown = printed(capsys, show_result, answer(cost=None, list_cost=None, usage=Usage()))
    assert "cost       unknown\nlist cost  unpriced\ntokens     unknown\n" in shown


def test_a_cut_answer_and_a_reused_one_say_so(capsys):
    shown = printed(capsys, show_result, answer(finish_reason="length", reused=True, answered_at=0))
    assert "cut off at the output limit" in shown
    assert "answered 1970-01-01 00:00 UTC" in shown


def test_a_failure_shows_its_class_and_no_answer(capsys):
    failed = answer(status="failed", output=None, error="too many\x1b[2J requests", error_class="rate")
    shown = printed(capsys, show_result, failed)
    assert shown.endswith("error      failed (rate): too many[2J requests\n")
    assert "success    no\n" in shown


def test_a_batch_shows_its_head_what_is_left_out_and_failures_by_kind(capsys):
    results = [answer(index=i) for i in range(11)]
    results += [answer(index=i, status="failed", output=None, error="nope", error_class="key") for i in (11, 12)]
    results += [answer(index=13, status="cancelled", output=None, error="cancelled", error_class="cancelled")]
    shown = printed(capsys, show_batch, BatchResult(results, duration_s=2), rows=True)
    assert shown.startswith("11 of 14 answered · 2 failed · 1 cancelled\ncost $0.0014 · list cost $0.0028 · ")
    assert shown.count("fine") == ROWS_SHOWN
    assert "… 4 more" in shown
    assert shown.endswith("\n2 x failed (key): nope\n")
    assert "question" not in printed(capsys, show_batch, BatchResult(results), rows=False)


def test_an_empty_table_of_facts_and_wide_letters_keep_their_columns(capsys):
    render.show_table([["日本", "x"], ["ab", "y"]], ("a", "b"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["日本  x", "ab    y"]


def test_json_is_utf_8_whatever_the_stream_says(capfdbinary):
    render.show_json({"a": "é\x9b", "n": None})
    assert capfdbinary.readouterr().out == '{\n  "a": "é\\u009b",\n  "n": null\n}\n'.encode()


def test_a_download_without_a_terminal_is_a_line_for_each_fifth(capsys):
    with render.downloading("Downloading") as progress:
        for done in range(0, 101, 5):
            progress(done * 1_000_000, 100_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["20.0", "40.0", "60.0", "80.0", "100.0"]


def test_messages_and_errors_go_to_stderr_and_are_inert(capsys):
    render.message("a\x1b[31m")
    render.error("b\x07")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a[31m\nError: b\n")
