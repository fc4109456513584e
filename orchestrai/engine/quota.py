"""Quota: what platforms tell of their plans when they are asked, outside of any task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from orchestrai.engine.engine import Engine
from orchestrai.errors import PlatformError
from orchestrai.ledger.rows import QuotaRow, insert
from orchestrai.platforms.protocol import Platform, QuotaReading

TELL_S: Final = 5.0
"""How long a platform may take to tell [s]."""


def quota_row(platform: Platform, reading: QuotaReading) -> QuotaRow:
    """Return the row that keeps what a platform told of one window."""
    return QuotaRow(
        platform.name,
        platform.account or "",
        reading.window,
        reading.used_percent,
        reading.resets_at,
        reading.source,
        reading.observed_at,
    )


async def read_quota(engine: Engine, platforms: Sequence[Platform]) -> None:
    """Record what those platforms tell of their quota windows that can be asked for it; no model is asked.

    A platform that can has an async method `quota`, which returns `QuotaReading`s. One that cannot be reached, or is
    not logged in, or takes too long, tells nothing: what it told before stands, with its age.

    Raises:
        LedgerError: What was told cannot be recorded.
    """

    async def told(platform: Platform) -> list[QuotaRow]:
        ask = getattr(platform, "quota", None)
        if ask is None:
            return []
        try:
            async with asyncio.timeout(TELL_S):
                readings = await ask()
        except (PlatformError, TimeoutError):
            return []
        return [quota_row(platform, reading) for reading in readings]

    rows = [row for rows in await asyncio.gather(*map(told, platforms)) for row in rows]

    def record(connection: Any) -> None:
        insert(connection, QuotaRow, rows)

    if rows:
        await engine.journal.do(record)
