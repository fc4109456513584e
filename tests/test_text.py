from __future__ import annotations

import random
import re
import unicodedata
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai import text
from orchestrai.messages import prompt_from
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.task import Task

ALLOWED_CONTROLS = frozenset("\t\n")
FRAGMENTS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    "\x1b[31m",
    "\x1b[2J\x1b[H",
    "\x9b5n",
    "\x1b]0;title\x07",
    "\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1bP1$r\x1b\\",
    "\x1b(0",
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "\ud800",
    "\udfff",
    "[bold red]",
    "plain ",
    "Größe ",
    "答え",
    "🙂",
]

any_text = st.text(st.characters(), max_size=200)  # lone surrogates included


def drives_a_terminal(shown: str) -> bool:
    return any(
        (unicodedata.category(c) in ("Cc", "Cs") and c not in ALLOWED_CONTROLS)
        or unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        for c in shown
    )


def hostile_result(s: str, **more) -> Result:
    given = {"output": s, "status": "succeeded", "platform": s, "model": s, "row": s, "finish_reason": "length"}
    return Result(Task(s), **given | more)


def every_text(s: str) -> list[str]:
    good = hostile_result(s)
    bad = hostile_result(s, output=None, status="failed", error=s, error_class="reply")
    batch = BatchResult([good, bad] * 8, name=s)
    return [
        text.printable(s),
        text.excerpt(s, 30),
        text.prompt_text(prompt_from([{"role": "user", "content": text.printable(s)}])),
        text.table([[s, s]], ["a", "b"], right={1}),
        *(
            show(r)
            for r in (good, bad)
            for show in (text.result_line, text.result_block, text.answered_by, text.failure)
        ),
        text.batch_line(batch),
        text.batch_block(batch),
    ]


def test_no_answer_drives_the_terminal():
    random.seed(16)
    seen_hostile = 0
    for _ in range(5_000):
        s = "".join(random.choices(FRAGMENTS, k=random.randint(1, 12)))
        seen_hostile += drives_a_terminal(s)
        shown = text.printable(s)
        assert not drives_a_terminal(shown), ascii(s)
        assert not drives_a_terminal(text.excerpt(s, 40)), ascii(s)
        assert len(shown) == sum(length_shown(c) for c in s), ascii(s)
    assert seen_hostile > 4_000  # the check does see raw text


def length_shown(c: str) -> int:
    if unicodedata.category(c) == "Cc":
        return int(c in ALLOWED_CONTROLS)
    return 6 if c in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" else 1


@given(any_text)
def test_whatever_a_model_says_every_display_can_be_printed(s):
    for shown in every_text(s):
        assert not drives_a_terminal(shown)
        shown.encode("utf-8")


@given(any_text)
def test_printable_is_idempotent_and_leaves_ordinary_text_alone(s):
    once = text.printable(s)
    assert text.printable(once) == once
    if not drives_a_terminal(s) and not re.search("[\u061c\u200e\u200f]", s):
        assert once == s


def test_a_bidi_control_is_named_not_obeyed():
    assert text.printable("admin\u202e nimda") == "adminU+202E nimda"
    assert text.printable("a\r\nb\tc") == "a\nb\tc"


@given(any_text, st.integers(1, 90))
def test_an_excerpt_is_one_line_of_at_most_its_width(s, width):
    shown = text.excerpt(s, width)
    assert len(shown) <= width
    assert not re.search(r"[\n\t\r]", shown)


def test_an_excerpt_says_that_something_is_missing():
    assert text.excerpt("one two", 7) == "one two"
    assert text.excerpt("one  two\nthree", 9) == "one two…"
    assert text.excerpt("  x " + " " * 10_000 + "y", 10) == "x…"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "unknown"),
        ("NaN", "unknown"),
        ("0", "$0.00"),
        ("1.2", "$1.20"),
        ("12345.678", "$12,345.68"),
        ("0.4123", "$0.4123"),
        ("0.0412", "$0.0412"),
        ("0.5", "$0.50"),
        ("0.99999", "$1.00"),
        ("0.001", "$0.001"),
        ("0.000012345", "$0.0000123"),
        ("0.000000000001", "$0.000000000001"),
        ("-0.05", "-$0.05"),
    ],
)
def test_money_reads_well_at_every_size(amount, shown):
    assert text.money(None if amount is None else Decimal(amount)) == shown


@given(st.decimals("-1e9", "1e9", allow_nan=False, places=12))
def test_money_is_right_to_half_a_percent_and_only_nothing_is_zero(amount):
    shown = Decimal(text.money(amount).replace("$", "").replace(",", ""))
    assert abs(shown - amount) <= abs(amount) * Decimal("0.005")
    assert (shown == 0) == (amount == 0)


def test_a_sum_with_unknown_parts_says_so():
    assert text.total([Decimal("0.25"), Decimal("0.25")]) == "$0.50"
    assert text.total([Decimal("0.25"), None]) == "at least $0.25"
    assert text.total([None]) == "unknown"
    assert text.total([]) == "$0.00"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
        (-1, "unknown"),
        (0, "0 s"),
        (0.0001, "< 1 ms"),
        (0.32, "320 ms"),
        (0.9996, "1.0 s"),
        (41.23, "41.2 s"),
        (59.96, "1 min 0 s"),
        (72, "1 min 12 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86399, "1 d 0 h"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_reads_as_a_person_says_it(seconds, shown):
    assert text.duration(seconds) == shown


def test_how_something_ended_is_said_in_words_that_are_not_repeated():
    assert text.ended("failed", "rate", "too many", " 429") == "failed (rate 429): too many"
    assert text.ended("failed", "rate", "") == "failed (rate)"
    assert text.ended("failed", None, "") == "failed"
    assert (
        text.failure(hostile_result("a", status="cancelled", error_class="cancelled", error="cancelled")) == "cancelled"
    )
    skipped = hostile_result("a", status="skipped", error_class="window", error="used up")
    assert text.failure(skipped) == "skipped (window): used up"


def test_counts_and_moments():
    assert text.count(12345) == "12,345"
    assert text.count(None) == "unknown"
    assert [text.counted(n, "task") for n in (0, 1, 12345)] == ["0 tasks", "1 task", "12,345 tasks"]
    assert text.moment(1_763_812_345_000_000) == "2025-11-22 11:52 UTC"
    assert text.moment(10**30) == text.moment(None) == "unknown"


def test_columns_align_also_beside_wide_characters():
    lines = text.table([["答え", "1"], ["é", "22"]], ["word", "n"], right={1}).splitlines()
    assert lines == ["word   n", "----  --", "答え   1", "é     22"]
    assert text.table([], ["a"]) == "a\n-"


def test_the_line_of_a_batch_says_what_happened_and_what_it_cost():
    done = [
        Result(Task(f"p{i}"), output="x", status="succeeded", cost=Decimal("0.00041"), list_cost=Decimal("0.0012"))
        for i in range(995)
    ]
    done += [Result(Task("p"), output="x", status="succeeded", list_cost=Decimal("0.003"), reused=True)] * 2
    batch = BatchResult([*done, *[Result(Task("p"), error_class="rate")] * 3], duration_s=41.2)
    assert repr(batch) == ("BatchResult(997/1,000 succeeded, 3 failed, 2 reused, cost $0.408, list $1.20, 41.2 s)")
    running = BatchResult(batch[:2], status="running", name="kinds")
    assert repr(running) == "BatchResult('kinds', running, 2/2 succeeded, cost $0.00082, list $0.0024, 0 s)"


def test_one_line_never_holds_a_whole_prompt_or_a_key():
    prompt = "the whole prompt " * 20
    key = "sk-abcdefghijklmnopqrstuvwx"
    failed = Result(Task(prompt), status="failed", error=f"bad key {key}", error_class="key", platform="openai")
    answered = Result(Task(prompt), status="succeeded", output="word " * 100)
    for value in (failed, answered, BatchResult([failed, answered])):
        assert prompt.strip() not in repr(value)
        assert key not in repr(value)
        assert len(repr(value)) < 250
        bundle = value._repr_mimebundle_()
        assert all(key not in shown for shown in bundle.values())
    assert "[key]" in repr(failed)


def test_the_block_of_a_result_is_its_answer_and_its_figures():
    r = Result(
        Task("p"),
        output="two\nlines",
        status="succeeded",
        platform="claude_code",
        model="opus",
        tier="subscription",
        usage=Usage(1234, None, None, 56, None, "cli"),
        cost=Decimal(0),
        list_cost=Decimal("0.0123"),
        duration_s=2.1,
        attempts=1,
    )
    assert text.result_block(r) == (
        "two\nlines\n\n[claude_code/opus (subscription) · 1,234 tokens in, 56 out · cost $0.00 · list $0.0123 · 2.1 s]"
    )


def test_a_reused_or_cut_answer_says_so():
    r = Result(Task("p"), output="x", status="succeeded", platform="a", model="m", reused=True, answered_at=0)
    assert "a/m · reused, answered 1970-01-01 00:00 UTC" in text.result_block(r)
    cut = Result(Task("p"), output="x", status="succeeded", platform="a", finish_reason="length")
    assert "cut off at the output limit" in text.result_block(cut)


def test_a_very_long_answer_is_shown_in_part_and_says_how_much_is_missing():
    r = Result(Task("p"), output="y" * 1_000_000, status="succeeded")
    assert "980,000 more characters in .output" in text.result_block(r)
    assert len(text.result_block(r)) < 21_000


def test_a_conversation_shows_its_roles_and_a_single_message_only_its_text():
    assert text.prompt_text(prompt_from([{"role": "user", "content": "Hi"}])) == "Hi"
    two = prompt_from([{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}])
    assert text.prompt_text(two) == "system: Be brief\n\nuser: Hi"


def test_the_block_of_a_batch_shows_both_ends_and_counts_failures():
    results = [Result(Task(f"prompt {i}"), output=f"a{i}", status="succeeded", index=i) for i in range(100)]
    results[50] = Result(Task("x"), status="failed", error="slow down", error_class="rate", index=50)
    shown = text.batch_block(BatchResult(results))
    assert "90 more" in shown
    assert "a4" in shown
    assert "a95" in shown
    assert "prompt 5 " not in shown
    assert shown.endswith("1 x failed (rate): slow down")
    assert "more" not in text.batch_block(BatchResult(results[:11]))
