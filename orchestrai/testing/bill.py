"""The bill that a provider keeps for itself: what a test compares the ledger with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson


class Bill:
    """A file of one JSON line per request, each written before its reply, so that no kill can lose one.

    Args:
        path: The file; lines are appended (`O_APPEND`, one write each), also by several processes at once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: int | None = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **fields: Any) -> None:
        """Append one line."""
        if self._file is not None:
            os.write(self._file, orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_bill(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a bill in the order in which they were written.

    Returns:
        One dict per request: `time` [s since 1970], `number`, `attempt` (of that prompt, from 0), `prompt`,
        `outcome`, `status`, `input_tokens`, `output_tokens`, `billed_tokens`.
    """
    return [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]
