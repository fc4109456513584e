"""Grammars that llama.cpp constrains its answers with: one of some strings, or JSON that fits a schema.

Source: llama.cpp, grammars/README.md (GBNF) and docs/llguidance.md; llguidance, docs/syntax.md and docs/json_schema.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError

MARK: Final = "@"
"""What an answer under a `marked` grammar begins with."""

_HEAD: Final = "%llguidance {}\n"
_SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line with a space after `,` and `:`, as models have read most of it: 28 tokens in a measured answer that
took 40 in llama.cpp's own indented form, and had a wrong number without the spaces (SmolLM2-135M)."""


def one_of(choices: Sequence[str]) -> str:
    """Return the grammar of exactly these strings.

    Raises:
        PlatformError: request: a string holds NUL or half a surrogate pair, which no token spells.
    """
    for choice in choices:
        if "\0" in choice or any("\ud800" <= character <= "\udfff" for character in choice):
            raise PlatformError("request", f"the choice {choice!r} holds a character that no model can write.")
    return "root ::= " + " | ".join(f'"{"".join(map(_spelt, choice))}"' for choice in choices)


def _spelt(character: str) -> str:
    plain = character.isascii() and character.isprintable() and character not in '"\\'
    return character if plain else f"\\U{ord(character):08X}"


def json_rules(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the schema as llguidance takes it, then a wider one without patterns and unknown keywords.

    The wider one still gives JSON of the right shape where a pattern looks ahead or a keyword is `not`, which
    llguidance does not know; the answer is validated against the whole schema in any case.
    """
    yield orjson.dumps({"x-guidance": _SPACING, **schema}).decode()
    yield orjson.dumps({"x-guidance": _SPACING | {"lenient": True}, **_without_patterns(schema)}).decode()


def _without_patterns(value: Any) -> Any:
    if isinstance(value, Mapping):
        # A property may be called "pattern": then its value is a schema and no string.
        return {k: _without_patterns(v) for k, v in value.items() if not (k == "pattern" and isinstance(v, str))}
    return [_without_patterns(item) for item in value] if isinstance(value, list | tuple) else value


def json_text(rules: str) -> str:
    """Return the grammar of JSON under these rules."""
    return f"{_HEAD}start: %json {rules}"


def marked(rules: str) -> str:
    """Return the grammar of the same JSON behind `MARK`."""
    return f'{_HEAD}start: "{MARK}" answer\nanswer: %json {rules}'
