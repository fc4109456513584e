"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import Final

_ID: Final = re.compile("[0-9a-f]{32}")
_TAIL_BITS: Final = (1 << 62) - 1


def _seed() -> None:
    """Choose this process's 74 random bits; a forked child chooses its own."""
    global _head, _tail  # noqa: PLW0603 - one sequence per process
    chance = int.from_bytes(os.urandom(10))
    _head = 0x7 << 76 | (chance >> 68 & 0xFFF) << 64 | 0x2 << 62
    _tail = itertools.count(chance & _TAIL_BITS)


_head: int
_tail: itertools.count[int]
_seed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_seed)


def new_id() -> str:
    """Return a UUID of version 7 as 32 hex digits: unique, and later ones sort after earlier ones.

    Source: RFC 9562, section 5.7 and 6.2, method 2: 48 bits of milliseconds, then random bits that are counted on
    within a process, so that ids of one millisecond keep their order.
    """
    return f"{time.time_ns() // 1_000_000 << 80 | _head | next(_tail) & _TAIL_BITS:032x}"


def is_id(text: str) -> bool:
    """Return True for what `new_id` could have returned."""
    return _ID.fullmatch(text) is not None


def now_us() -> int:
    """Return the present moment [µs since 1970, UTC], the unit of every `*_at` column of the ledger."""
    return time.time_ns() // 1000
