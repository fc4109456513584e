"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """Return a UUID of version 7 as 32 hex digits: unique, and later ones sort after earlier ones.

    Source: RFC 9562, section 5.7 (48 bits of milliseconds, 74 random bits).
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return f"{value:032x}"


def now_us() -> int:
    """Return the present moment [µs since 1970, UTC], the unit of every `*_at` column of the ledger."""
    return time.time_ns() // 1000
