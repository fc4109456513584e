"""The listing: what was found of every platform, as a value to look at, to ask and to take apart."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, overload

from orchestrai import html, text
from orchestrai.errors import InvalidInput, nearest
from orchestrai.platforms.catalogue import Plan
from orchestrai.platforms.discovery import Finding
from orchestrai.platforms.protocol import DataUse, QuotaReading
from orchestrai.result import Tier

if TYPE_CHECKING:
    import pandas as pd

_LIMITS: Final = {"rpm": "requests/min", "tpm": "tokens/min", "rpd": "requests/day"}
_TITLES: Final = ("platform", "found", "model", "tier", "version", "login", "limits", "quota left", "data use")
_WORDS: Final = {"none": "not trained on", "may_train": "may train", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Listed:
    """What is known of one platform.

    Args:
        name: Its name.
        found: It can answer.
        automatic: False for what answers only when named or alone, or may not be asked at all.
        model: Its default model; None when it was not found.
        tier: Who pays: free, subscription, paid, local.
        version: Version of its command-line client; None for others.
        login: How it is logged in, or the short hash of its key; never a secret.
        data_use: What its plan lets the provider do with the data: none, may_train, unknown.
        plan: The plan it is on, as the catalogue records it; None where none is recorded.
        limits: Its limits: rpm, tpm, rpd.
        quota: The newest reading of each of its quota windows; empty where none was told yet.
        why: Where it was found, or why it cannot be asked and what to do.
    """

    name: str
    found: bool
    automatic: bool
    model: str | None
    tier: Tier | None
    version: str | None
    login: str | None
    data_use: DataUse | None
    plan: Plan | None
    limits: Mapping[str, float]
    quota: tuple[QuotaReading, ...]
    why: str

    def tightest(self, now_us: int) -> QuotaReading | None:
        """Return the reading of the window with the least left that has not been reset since.

        Args:
            now_us: The present moment [µs since 1970, UTC].
        """
        held = [r for r in self.quota if r.used_percent is not None and (r.resets_at is None or r.resets_at > now_us)]
        return max(held, key=lambda reading: reading.used_percent or 0.0, default=None)


_REASONS: Final = "Where it was found, or what to do"


class PlatformListing(Sequence[Listed]):
    """Every known platform, found or not, in the order in which equals are tried.

    `listing["groq"]` is one of them by its name; in a notebook the listing shows itself as a table.

    Args:
        findings: What discovery found.
        readings: What the platforms told about their quota: platform, account (empty where it tells none), reading.
    """

    def __init__(self, findings: Iterable[Finding], readings: Iterable[tuple[str, str, QuotaReading]] = ()) -> None:
        told = tuple(readings)
        self._rows = tuple(_listed(finding, told) for finding in findings)

    @overload
    def __getitem__(self, which: int | str) -> Listed: ...

    @overload
    def __getitem__(self, which: slice) -> tuple[Listed, ...]: ...

    def __getitem__(self, which: int | str | slice) -> Listed | tuple[Listed, ...]:
        """Return a platform by its name or place.

        Raises:
            InvalidInput: There is none of this name; the message names the nearest.
        """
        if not isinstance(which, str):
            return self._rows[which]
        for row in self._rows:
            if row.name == which:
                return row
        raise InvalidInput(f"unknown platform {which!r}.{nearest(which, [row.name for row in self._rows])}")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Listed]:
        return iter(self._rows)

    @property
    def found(self) -> tuple[Listed, ...]:
        """Those that can answer."""
        return tuple(row for row in self._rows if row.found)

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return titles and rows of texts: what every display of the listing shows; reasons are not among them."""
        now_us = time.time_ns() // 1000
        return _TITLES, [_cells(row, now_us) for row in self._rows]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per platform.

        Returns:
            A new frame with a RangeIndex. Columns: `name` (text), `found`, `automatic` (bool), `model`, `tier`,
            `version`, `login`, `data_use`, `plan` (text, missing where unknown or not found), `rpm` [requests/min], `tpm`
            [tokens/min], `rpd` [requests/day] (float64, NaN without a known limit), `quota_left` [%] of the window
            with the least left, `quota_age_s` [s] of that reading (float64, NaN where none was told), `quota_window`
            (text), `quota_resets_at` (datetime64[us, UTC]), `why` (text).
        """
        import pandas as pd

        now_us = time.time_ns() // 1000
        tightest = [row.tightest(now_us) for row in self._rows]
        word: Any = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"

        def words(values: Iterable[str | None]) -> Any:
            return pd.array(list(values), dtype=word)

        def numbers(values: Iterable[float | None]) -> Any:
            return pd.array([float("nan") if value is None else value for value in values], dtype="float64")

        resets = [None if reading is None else _at(reading.resets_at) for reading in tightest]
        return pd.DataFrame(
            {
                "name": words(row.name for row in self._rows),
                "found": pd.array([row.found for row in self._rows], dtype="bool"),
                "automatic": pd.array([row.automatic for row in self._rows], dtype="bool"),
                **{
                    field: words(getattr(row, field) for row in self._rows)
                    for field in ("model", "tier", "version", "login", "data_use")
                },
                "plan": words(None if row.plan is None else row.plan.title for row in self._rows),
                **{limit: numbers(row.limits.get(limit) for row in self._rows) for limit in _LIMITS},
                "quota_left": numbers(None if r is None else 100 - (r.used_percent or 0.0) for r in tightest),
                "quota_age_s": numbers(None if r is None else (now_us - r.observed_at) / 1e6 for r in tightest),
                "quota_window": words(None if r is None else r.window for r in tightest),
                "quota_resets_at": pd.Series(resets, dtype="datetime64[us, UTC]"),
                "why": words(row.why for row in self._rows),
            }
        )

    def __repr__(self) -> str:
        names = ", ".join(f"{row.name} ({row.model})" for row in self.found)
        return text.printable(f"PlatformListing({len(self.found)} of {len(self)} found{': ' if names else ''}{names})")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002  IPython's protocol; it filters itself
        titles, rows = self.table()
        reasons = [(row.name, text.excerpt(row.why, 400)) for row in self._rows]
        plain = [text.table(rows, titles), "", *(text.printable(f"{name}: {why}") for name, why in reasons)]
        headline = f"{len(self.found)} of {len(self)} platforms found"
        # The reasons stand below, as in text: beside the rest they would be beyond the right edge of a cell.
        shown = html.table_block(headline, titles, rows) + html.table_block(_REASONS, ("platform", ""), reasons)
        return {"text/plain": "\n".join(plain), "text/html": shown}


def _listed(finding: Finding, told: Iterable[tuple[str, str, QuotaReading]]) -> Listed:
    account = (finding.platform.account or "") if finding.platform is not None else ""
    return Listed(
        name=finding.name,
        found=finding.platform is not None and finding.barred is None,
        automatic=finding.automatic and finding.barred is None,
        model=finding.model,
        tier=finding.tier,
        version=finding.version,
        login=finding.login,
        data_use=finding.data_use,
        plan=finding.plan if finding.platform is not None else None,
        limits=MappingProxyType(dict(finding.limits)),
        quota=tuple(reading for name, at, reading in told if (name, at) == (finding.name, account)),
        why=" ".join((finding.barred or finding.why).split()),
    )


def _at(moment_us: int | None) -> datetime | None:
    """Return a moment [µs since 1970, UTC]; None for one outside the calendar."""
    try:
        return None if moment_us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)
    except OverflowError:
        return None


def _cells(row: Listed, now_us: int) -> list[str]:
    limits = [f"{value:,.0f} {_LIMITS.get(name, name)}" for name, value in row.limits.items() if value is not None]
    windows = row.plan.windows if row.plan is not None else ()
    limits += [f"a share per {window.per}" for window in windows if window.unit == "percent"]
    known = (row.model, row.tier, row.version, row.login)
    return [
        row.name,
        "no" if not row.found else "yes" if row.automatic else "if named",
        *(value or "" for value in known),
        ", ".join(limits),
        "; ".join(quota_left(reading, now_us) for reading in row.quota),
        _WORDS[row.data_use] if row.data_use is not None else "",
    ]


def quota_left(reading: QuotaReading, now_us: int) -> str:
    """Return a reading in words: `five_hour 62 % until 14:03 UTC, told 3 min ago`.

    Args:
        reading: What a window was told to be.
        now_us: The present moment [µs since 1970, UTC].
    """
    if reading.resets_at is not None and reading.resets_at <= now_us:
        return f"{reading.window} anew since {text.moment(reading.resets_at)}"
    left = "" if reading.used_percent is None else f" {max(0.0, 100 - reading.used_percent):.0f} %"
    until = "" if reading.resets_at is None else f" until {text.moment(reading.resets_at)}"
    age_s = max(0.0, (now_us - reading.observed_at) / 1e6)
    return f"{reading.window}{left}{until}, told {text.duration(float(round(age_s)))} ago"
