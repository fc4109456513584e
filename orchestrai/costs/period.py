"""Which part of the ledger a question is about: a span of time, a project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from orchestrai.errors import InvalidInput

Moment = str | date | datetime | timedelta | None
"""A moment: a datetime (in local time where it has no zone), a day, how long ago (timedelta, `"90m"`, `"24h"`, `"7d"`,
`"4w"`), an ISO text (`"2026-11-01"`), or `"today"`."""

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the ledger.

    Args:
        since: From this moment on; None is from the beginning.
        until: Up to this moment, without it; None has no end.
        project: Of this project alone.
    """

    since: datetime | None = None
    until: datetime | None = None
    project: str | None = None

    @classmethod
    def of(cls, since: Moment = None, until: Moment = None, project: str | None = None) -> Part:
        """Return the part that a person's words mean.

        Raises:
            InvalidInput: A moment cannot be understood, or the part ends before it begins.
        """
        part = cls(_moment(since, "since"), _moment(until, "until"), project)
        if part.since is not None and part.until is not None and part.until <= part.since:
            raise InvalidInput(f"until ({part.until:%Y-%m-%d %H:%M}) is not after since ({part.since:%Y-%m-%d %H:%M}).")
        return part

    def where(self, moment: str = "moment") -> tuple[str, list[Any]]:
        """Return a condition of SQL and its parameters.

        Args:
            moment: The column that is compared.
        """
        conditions = ["true"]
        parameters: list[Any] = []
        for column, operator, value in ((moment, ">=", self.since), (moment, "<", self.until)):
            if value is not None:
                conditions.append(f"{column} {operator} ?")
                parameters.append(value)
        if self.project is not None:
            conditions.append("batch_id IN (SELECT batch_id FROM batches WHERE project = ?)")
            parameters.append(self.project)
        return " AND ".join(conditions), parameters

    def before(self) -> Part | None:
        """Return the part of the same length before this one; None where this one has no beginning."""
        if self.since is None:
            return None
        end = self.until or datetime.now(UTC)
        return Part(self.since - (end - self.since), self.since, self.project)


def _moment(given: Moment, name: str) -> datetime | None:
    if given is None:
        return None
    if isinstance(given, timedelta):
        return datetime.now(UTC) - given
    if isinstance(given, datetime):
        return given.astimezone()
    if isinstance(given, date):
        return datetime.combine(given, time()).astimezone()
    text = str(given).strip().lower()
    if text == "today":
        return datetime.combine(datetime.now().astimezone().date(), time()).astimezone()
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise InvalidInput(
            f'{name}={given!r} is no moment. Write a day ("2026-11-01"), how long ago ("24h", "7d") or "today".'
        ) from None
