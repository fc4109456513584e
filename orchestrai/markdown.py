"""Markdown of a model as HTML, for a person who asks for it: headings, lists, tables, code and links, and nothing that acts.

Raw HTML stays text, a link goes to http, https or mailto, and a picture is its description: showing it would ask the
network for what a model chose. A dollar and a backslash open no formula (see `html`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from orchestrai import html
from orchestrai.text import printable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_SCHEMES: Final = frozenset({"http", "https", "mailto"})


def markdown_block(markdown: str) -> str:
    """Return a text of Markdown as HTML that runs nothing and asks the network for nothing."""
    return html.block(_renderer().render(printable(markdown)))


def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    rules: dict[str, Any] = {"text": _text, "image": _image, "link_open": _link}
    found = MarkdownIt("commonmark", {"html": False}).enable("table")
    found.validateLink = _is_harmless  # type: ignore[method-assign]  # its documented way to say so
    for name, rule in rules.items():
        found.add_render_rule(name, rule)
    return found


def _is_harmless(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in _SCHEMES
    except ValueError:
        return False


def _text(_self: Any, tokens: Sequence[Any], at: int, _options: Any, _env: Mapping[str, Any]) -> str:
    return html.escaped(tokens[at].content)


def _image(_self: Any, tokens: Sequence[Any], at: int, _options: Any, _env: Mapping[str, Any]) -> str:
    return html.escaped(f"[picture: {tokens[at].content}]")


def _link(_self: Any, tokens: Sequence[Any], at: int, _options: Any, _env: Mapping[str, Any]) -> str:
    return f'<a href="{escape(str(tokens[at].attrs["href"]))}" rel="noopener noreferrer" target="_blank">'
