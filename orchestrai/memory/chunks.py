"""Long texts in pieces, so that a search finds a passage and not an average."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 800  # characters of a piece (measured: docs/measured.md)

_BREAKS: Final = [re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?…\u3002\uff01\uff1f]+\s*", r"\s+")]


def spans(text: str) -> list[tuple[int, int]]:
    """Return where the pieces of a text begin and end: they follow each other and leave nothing out.

    A piece ends after a paragraph where one ends in its second half, else after a line, a sentence or a word.
    """
    found: list[tuple[int, int]] = []
    start = 0
    while len(text) - start > LONGEST:
        end = _end(text, start)
        found.append((start, end))
        start = end
    return [*found, (start, len(text))] if start < len(text) else found


def _end(text: str, start: int) -> int:
    last = start + LONGEST
    for pattern in _BREAKS:
        ends = [found.end() for found in pattern.finditer(text, start + LONGEST // 2, last)]
        if ends:
            return ends[-1]
    return last
