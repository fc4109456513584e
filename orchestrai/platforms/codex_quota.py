"""What is left of a ChatGPT plan: `codex app-server` is asked, no model is.

Source: measured with codex-cli 0.169.0; `account/rateLimits/read` makes one GET to the account's usage page.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError
from orchestrai.platforms import process, wire
from orchestrai.platforms.protocol import QuotaReading

EVERY_S: Final = 300.0  # seconds for which a reading is taken for the present one
_TIMEOUT_S: Final = 20.0
_MOST_PERCENT: Final = 1_000  # more is no share of a window
_SOURCE: Final = "codex app-server"
_MESSAGES: Final[tuple[Mapping[str, Any], ...]] = (
    {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "orchestrai", "version": "1"}}},
    {"method": "initialized"},
    {"id": 2, "method": "account/rateLimits/read"},
)


class Reader:
    """The last reading of one account, and when it was made."""

    def __init__(self) -> None:
        self._last: tuple[QuotaReading, ...] = ()
        self._at: float | None = None

    async def read(
        self, binary: str, switches: Sequence[str], env: Mapping[str, str]
    ) -> tuple[tuple[QuotaReading, ...], bool]:
        """Return the windows, and whether they were asked for just now.

        Raises:
            PlatformError: The server told none in time.
        """
        if self._at is not None and time.monotonic() - self._at < EVERY_S:
            return self._last, False
        self._last = await _asked(binary, switches, env)
        self._at = time.monotonic()
        return self._last, True


async def _asked(binary: str, switches: Sequence[str], env: Mapping[str, str]) -> tuple[QuotaReading, ...]:
    async with process.run(binary, ["app-server", *switches], env=env, timeout_s=_TIMEOUT_S) as child:
        for message in _MESSAGES:
            child.write(orjson.dumps(message) + b"\n")
        async for line in child.lines():
            try:
                told = wire.mapping(wire.document(line))
            except ValueError:
                continue
            if told.get("id") == 2 and "method" not in told:
                if "error" in told:
                    why = wire.mapping(told["error"]).get("message") or "it was refused."
                    raise PlatformError("reply", f"Codex told no quota: {why}")
                return readings(told.get("result"), int(time.time() * 1_000_000))
    raise PlatformError("reply", "codex app-server ended without telling the quota.")


def readings(result: Any, now: int) -> tuple[QuotaReading, ...]:
    """Return the windows in the result of `account/rateLimits/read`: primary (5 hours) and secondary (a week).

    Args:
        result: `{"rateLimits": {"primary": {"usedPercent", "windowDurationMins", "resetsAt"}, …}}`.
        now: When it was told [µs since 1970, UTC].
    """
    limits = wire.mapping(wire.mapping(result).get("rateLimits"))
    found = []
    for name in ("primary", "secondary"):
        window = wire.mapping(limits.get(name))
        used, resets = window.get("usedPercent"), wire.tokens(window.get("resetsAt"))
        is_percent = isinstance(used, int | float) and not isinstance(used, bool) and 0 <= used <= _MOST_PERCENT
        percent = float(used) if is_percent and used is not None else None
        if percent is not None or resets is not None:
            found.append(QuotaReading(name, percent, None if resets is None else resets * 1_000_000, _SOURCE, now))
    return tuple(found)
