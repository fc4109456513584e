"""Named: what the rows of many attempts refer to by a number or a digest, and what they only tell anew now and then."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import orjson

from orchestrai.engine.quota import quota_row
from orchestrai.ids import now_us
from orchestrai.ledger.rows import OfferRow, QuotaRow, SystemRow
from orchestrai.ledger.writer import Journal
from orchestrai.platforms.protocol import Platform, QuotaReading
from orchestrai.pricing import Price
from orchestrai.routing.offers import Offer

_UNTOLD_S: Final = 300.0  # until a used-up window is tried again of which nobody tells when it begins anew


class Named:
    """The offers, system prompts, prices and quota readings of one call, each written once; on the engine's loop.

    Args:
        journal: The ledger.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._offers: dict[int, OfferRow] = {}  # by the offer's identity; the routes keep them
        self._systems: dict[str, str] = {}  # digests of system prompts
        self._kept: set[int | str] = set()  # ids of offers and digests of systems that are in the ledger
        self._prices: set[str] = set()  # ids of those already written
        self._readings: dict[tuple[str, str, str], tuple[float | None, int | None]] = {}  # newest of each window

    def offer_row(self, offer: Offer) -> OfferRow:
        """Return the row that says how a request was routed; made once for each offer."""
        row = self._offers.get(id(offer))
        if row is None:
            platform = offer.platform
            values = (
                platform.name,
                platform.transport,
                platform.provider,
                platform.tier,
                offer.model,
                int(platform.demo),
                platform.account,
                platform.address,
                "sync",
                offer.reason,
                offer.rank,
            )
            digest = hashlib.sha256(orjson.dumps(values)).digest()
            row = self._offers[id(offer)] = OfferRow(int.from_bytes(digest[:8], signed=True), *values)
        return row

    def system_digest(self, system: str | None) -> str | None:
        """Return the digest under which a system prompt is kept; None without one."""
        return self._digest(system) if system else None

    def unknown(self, offer: OfferRow, system: str | None) -> tuple[OfferRow | SystemRow, ...]:
        """Return what of an offer and a system prompt the ledger may not have yet."""
        rows: tuple[OfferRow | SystemRow, ...] = () if offer.offer_id in self._kept else (offer,)
        if not system or (digest := self._digest(system)) in self._kept:
            return rows
        return (*rows, SystemRow(digest, system))

    def written(self, kept: Sequence[OfferRow | SystemRow]) -> None:
        """Note that these rows are in the ledger."""
        self._kept.update(row[0] for row in kept)

    def note_price(self, price: Price) -> None:
        """Keep the price vector that attempts were priced with, once."""
        if price.price_id in self._prices:
            return
        self._prices.add(price.price_id)
        row = {**price.row(), "first_used_at": now_us()}
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        insert = f"INSERT OR IGNORE INTO prices ({columns}) VALUES ({marks})"  # noqa: S608 - names of Price.row
        self._journal.note(lambda c: c.execute(insert, tuple(row.values())).rowcount)

    def quota_rows(self, platform: Platform, told: Sequence[QuotaReading]) -> tuple[QuotaRow, ...]:
        """Return what is new of what a platform told about its quota windows."""
        rows = []
        for reading in told:
            row = quota_row(platform, reading)
            window, state = row[:3], (row.used_percent, row.resets_at)
            if self._readings.get(window) != state:
                self._readings[window] = state
                rows.append(row)
        return tuple(rows)

    def used_up(self, offer: Offer, retry_after_s: float | None) -> tuple[QuotaRow, ...]:
        """Return what a refusal says that names no window: the account's window is used up until its reset."""
        meter = next((meter for meter in offer.meters if not meter.window.is_rate), None)
        if meter is None:
            return ()
        now = now_us()
        ends = meter.window.period(now)[1]
        until = now + int((retry_after_s or _UNTOLD_S) * 1e6) if retry_after_s or ends is None else ends
        return (QuotaRow(offer.platform.name, offer.platform.account or "", meter.id, 100.0, until, "refusal", now),)

    def _digest(self, system: str) -> str:
        known = self._systems.get(system)
        if known is None:
            known = self._systems[system] = hashlib.sha256(system.encode("utf-8")).hexdigest()
        return known
