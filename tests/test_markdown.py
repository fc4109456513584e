"""Markdown on request: it looks like Markdown, and nothing in it acts."""

from __future__ import annotations

import pytest
from hypothesis import given
from test_html import PAYLOADS, Reader, any_text

from orchestrai.markdown import markdown_block
from orchestrai.result import Result
from orchestrai.task import Task

SCHEMES = ("http://", "https://", "mailto:")


def read(markdown):
    reader = Reader(markdown_block(markdown))
    for tag, name, value in reader.attributes:
        if name == "href":
            assert tag == "a"
            assert value.lower().startswith(SCHEMES)
        else:
            assert name in ("style", "rel", "target", "class", "start"), (tag, name)
            assert name != "class" or value.startswith("language-")
    assert not set(reader.elements) & {
        "script",
        "img",
        "iframe",
        "svg",
        "form",
        "input",
        "button",
        "object",
        "style",
        "link",
    }
    return reader


def test_markdown_is_shown_as_markdown():
    reader = read(
        "# Title\n\n- *one*\n- **two**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1\n```\n[web](https://example.org)"
    )
    assert {"h1", "ul", "li", "em", "strong", "table", "td", "pre", "code", "a"} <= set(reader.elements)


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:x",
        "data:text/html,x",
        "vbscript:x",
        "//evil",
        "file:///etc",
        "x",
    ],
)
def test_a_link_goes_to_the_web_or_to_mail_alone(link):
    assert "a" not in read(f"[x]({link}) <{link}>").elements


def test_a_picture_is_its_description_and_asks_for_nothing():
    reader = read("![a chart](https://evil.example/x.png)")
    assert "[picture: a chart]" in reader.shown
    assert "evil" not in str(reader.attributes)


def test_no_formula_is_opened():
    for element in markdown_block("costs $5 and $6, \\\\(x\\\\)").split("<span>"):
        assert element.count("$") + element.count("\\") <= 1


@pytest.mark.parametrize("payload", PAYLOADS)
def test_raw_html_stays_text(payload):
    read(payload)


@given(any_text)
def test_nothing_acts_whatever_the_text(text):
    read(text)


def test_an_answer_is_markdown_only_where_it_is_asked_for(capsys):
    answer = Result(Task("x"), output="# Title", status="succeeded")
    assert "<h1>" not in answer._repr_mimebundle_()["text/html"]
    answer.display_markdown()  # without a notebook: its text
    assert "# Title" in capsys.readouterr().out
