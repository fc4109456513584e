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

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])", re.IGNORECASE)
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
            InvalidInput: A moment cannot be understood, the part ends before it begins, or the project is no name.
        """
        if project is not None and not isinstance(project, str):
            raise InvalidInput(f"project= is the name of one project, not {project!r}.")
        part = cls(moment_of(since, "since"), moment_of(until, "until"), project)
        if part.since is not None and part.until is not None and part.until <= part.since:
            raise InvalidInput(f"until ({part.until:%Y-%m-%d %H:%M}) is not after since ({part.since:%Y-%m-%d %H:%M}).")
        return part

    def where(self, moment: str = "moment") -> tuple[str, dict[str, Any]]:
        """Return a condition of SQL, and the values of its parameters `$since`, `$until` and `$project`.

        Args:
            moment: The column that is compared.
        """
        conditions = {
            "since": f"{moment} >= $since",
            "until": f"{moment} < $until",
            "project": "batch_id IN (SELECT batch_id FROM batches WHERE project = $project)",
        }
        given = {name: getattr(self, name) for name in conditions if getattr(self, name) is not None}
        return " AND ".join(["true", *(conditions[name] for name in given)]), given

    def before(self) -> Part | None:
        """Return the part of the same length before this one; None where this one has no beginning."""
        if self.since is None:
            return None
        try:
            return Part(self.since - ((self.until or datetime.now(UTC)) - self.since), self.since, self.project)
        except OverflowError:  # it would begin before the first year
            return None


def moment_of(given: Moment, name: str) -> datetime | None:
    """Return the moment that a person's words mean, with its time zone.

    Args:
        given: The words.
        name: What they were given for, as the error says.

    Raises:
        InvalidInput: They cannot be understood.
    """
    if given is None:
        return None
    try:
        if isinstance(given, timedelta):
            return datetime.now(UTC) - timedelta(seconds=given.total_seconds())
        # A moment of pandas or NumPy is read by what it says too: it only looks like a datetime.
        words = given.isoformat() if isinstance(given, date) else str(given).strip()
        if words.lower() == "today":
            return datetime.combine(datetime.now().astimezone().date(), time()).astimezone()
        if ago := _AGO.fullmatch(words):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2].lower()]: float(ago[1])})
        return datetime.fromisoformat(words.upper()).astimezone()
    except (ValueError, OverflowError):
        raise InvalidInput(
            f'{name}={given!r} is no moment. Write a day ("2026-11-01"), how long ago ("24h", "7d") or "today".'
        ) from None
