from __future__ import annotations

import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai import html, text
from orchestrai.result import Result, Usage
from orchestrai.results import BatchResult
from orchestrai.task import Task

TAGS = frozenset(["div", "span", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"])
ATTRIBUTES = frozenset({"style", "scope", "colspan", "dir"})

# What the sanitiser of JupyterLab lets pass of the properties used here (packages/apputils/src/sanitizer.ts).
_LENGTH = r"(?:0|[0-9.]+(?:px|%))"
_COLOUR = r"(?:#[0-9a-f]{6}|rgba\(\d{1,3},\d{1,3},\d{1,3},0\.\d+\)|transparent)"
KEPT = {
    "background": _COLOUR,
    "background-color": _COLOUR,
    "border": "none",
    "border-bottom": rf"1px solid {_COLOUR}",
    "border-collapse": "collapse",
    "border-radius": _LENGTH,
    "border-top": rf"1px solid {_COLOUR}",
    "color": _COLOUR,
    "cursor": "pointer",
    "display": "block|inline-block|flex",
    "font-family": "inherit",
    "font-size": _LENGTH,
    "font-weight": "600",
    "height": _LENGTH,
    "line-height": r"[0-9.]+",
    "margin": rf"{_LENGTH}( {_LENGTH})*",
    "margin-right": _LENGTH,
    "margin-top": _LENGTH,
    "max-height": _LENGTH,
    "max-width": rf"{_LENGTH}|none",
    "opacity": r"0\.\d+",
    "overflow": "hidden",
    "overflow-wrap": "break-word",
    "overflow-y": "auto",
    "padding": rf"{_LENGTH}( {_LENGTH})*",
    "padding-top": _LENGTH,
    "table-layout": "auto",
    "text-align": "left|right",
    "vertical-align": "top",
    "white-space": "normal|nowrap|pre-wrap",
    "width": _LENGTH,
}

PAYLOADS = [
    "<script>window.pwned=1</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</td></tr></table><h1>out</h1>",
    "</pre><a href='javascript:alert(1)'>x</a>",
    "</div></details><style>*{display:none}</style>",
    "<button data-commandlinker-command='x' data-commandlinker-args='{}'>go</button>",
    "<form action=//evil><input name=x></form>",
    "<iframe srcdoc='<script>1</script>'></iframe>",
    "&lt;script&gt;",
    "&#60;script&#62;",
    "<!-- <![CDATA[ ]]> -->",
    "<\x00script>alert(1)</script>",
    "<scr\x1bipt>",
    "\ud800<b>",
    '{style}; color:red" class=x id=y',
    "$\\href{javascript:alert(1)}{x}$",
    "<plaintext>",
    "<?php ?><%= %>",
    "`<a href=//x>`",
    "\u202e<b>txet",
]

any_text = st.one_of(st.text(st.characters(), max_size=120), st.sampled_from(PAYLOADS))


class Reader(HTMLParser):
    """Collects what a browser would make of a text: elements, attributes and visible text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.open: list[str] = []
        self.other: list[str] = []
        self.shown = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data):
        self.shown += data

    def handle_comment(self, data):
        self.other.append(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check_only_ours(markup: str) -> Reader:
    reader = Reader(markup)
    assert not reader.open, f"left open: {reader.open}"
    assert not reader.other, reader.other
    assert set(reader.elements) <= TAGS, set(reader.elements) - TAGS
    for tag, name, value in reader.attributes:
        assert name in ATTRIBUTES, (tag, name)
        if name == "style":
            for declaration in value.split(";"):
                prop, _, given_value = declaration.partition(":")
                assert re.fullmatch(KEPT.get(prop, "never"), given_value), declaration
        else:
            assert value in {"col", "row", "auto", "6"}, (tag, name, value)
    return reader


def result(s: str, **more) -> Result:
    known = {"output": s, "status": "succeeded", "platform": s, "model": s, "tier": s, "row": s, "finish_reason": s}
    return Result(Task(s), **known | more)


def batch_of(s: str, size: int = 30) -> BatchResult:
    bad = result(s, output=None, status="failed", error=s, error_class=s)
    skipped = Result(Task(s), status="skipped", error=s, error_class="input")
    return BatchResult([[result(s), bad, skipped, result(s, reused=True)][i % 4] for i in range(size)], name=s)


def every_html(s: str) -> list[str]:
    bad = result(s, output=None, status="failed", error=s, error_class=s)
    values = [result(s), result(s, reused=True, answered_at=0), bad]
    return [*map(html.result_block, values), html.batch_block(batch_of(s)), html.batch_block(batch_of(s)[:3])]


@given(any_text)
def test_no_text_becomes_markup(s):
    for markup, harmless in zip(every_html(s), every_html("word"), strict=True):
        reader = check_only_ours(markup)
        if s.strip():  # an empty text leaves out a part of ours
            assert set(reader.attributes) <= set(Reader(harmless).attributes)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_answer_is_read_as_it_was_written(payload):
    reader = check_only_ours(html.result_block(result(payload)))
    assert text.printable(payload) in reader.shown
    batch = check_only_ours(html.batch_block(batch_of(payload)))
    assert batch.shown.count(text.excerpt(payload, 120)) >= 10


def test_the_check_sees_markup_that_was_not_escaped():
    caught = 0
    for payload in PAYLOADS:
        raw = html.result_block(result("MARK")).replace("MARK", payload)
        try:
            check_only_ours(raw)
        except AssertionError:
            caught += 1
    assert caught >= 14  # the others are no markup to a browser either


def test_an_answer_keeps_its_line_breaks_without_any_style():
    markup = html.result_block(result("\n\n  indented\nlast"))
    assert "<pre" in markup
    assert "\n\n\n  indented\nlast</pre>" in markup  # the first line feed is the parser's to drop


def test_tables_say_which_cells_are_titles():
    reader = check_only_ours(html.batch_block(batch_of("x")))
    scopes = [value for tag, name, value in reader.attributes if (tag, name) == ("th", "scope")]
    assert scopes.count("col") == reader.elements.count("table") * 6 - 1
    assert scopes.count("row") > 10


def test_a_batch_shows_its_sums_its_ends_and_its_failures_by_class():
    results = [
        Result(
            Task(f"prompt {i}"),
            output=f"answer {i}",
            status="succeeded",
            platform="openai",
            tier="paid",
            cost=Decimal("0.001"),
            list_cost=Decimal("0.003"),
            usage=Usage(100, None, None, 10, None, "provider"),
            attempts=1,
            index=i,
        )
        for i in range(1000)
    ]
    results[500] = Result(Task("p"), status="failed", error="slow down", error_class="rate", index=500)
    shown = check_only_ours(html.batch_block(BatchResult(results, duration_s=41.2))).shown
    for fact in (
        "999 of 1,000 succeeded",
        "1 failed",
        "cost $0.999",
        "list price $3.00",
        "saved $2.00",
        "109,890",
        "41.2 s",
        "openai 999",
        "990 more rows",
        "answer 4",
        "answer 995",
        "Without an answer: 1 rate",
        "slow down",
    ):
        assert fact in shown, fact
    assert "answer 5p" not in shown
    assert "answer 994" not in shown


def test_an_unknown_cost_is_never_shown_as_nothing():
    unpriced = Result(Task("p"), output="x", status="succeeded", cost=None)
    assert "cost unknown" in check_only_ours(html.batch_block(BatchResult([unpriced]))).shown
    assert "cost unknown" in check_only_ours(html.result_block(unpriced)).shown


def test_a_long_answer_keeps_the_notebook_small():
    markup = html.result_block(result("y" * 1_000_000, tier="paid"))
    assert len(markup) < 25_000
    assert "980,000 more characters" in markup
    many = [result("<&>" * 10_000, tier="paid", platform="openai")] * 10_000
    assert len(html.batch_block(BatchResult(many))) < 60_000


def test_empty_and_running_batches_have_a_display():
    assert "0 of 0 succeeded" in check_only_ours(html.batch_block(BatchResult([]))).shown
    running = BatchResult([result("x")], status="running")
    assert "running, 1 of 1 succeeded" in check_only_ours(html.batch_block(running)).shown
