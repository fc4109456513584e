"""Reservations: what a request may use of quotas and budgets, taken before it leaves and settled by what it used.

Everything happens inside the transactions of the attempt itself: commit 1 checks and reserves, commit 2 settles. So
every process that shares the ledger sees one count, and there is no other. A request whose process died is settled at
what was reserved: it may have been answered. For each meter and bucket of its window:

    used       by requests that have ended, up to what they had reserved
    over       what they used beyond that
    reserved   by requests under way
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from decimal import Decimal
from typing import Final, NamedTuple

from orchestrai.ids import now_us
from orchestrai.ledger.answers import chunks
from orchestrai.ledger.queries import readings
from orchestrai.ledger.rows import execute_together
from orchestrai.limits.quota import SPAN_S, Meter, Window

_SECOND: Final = 1_000_000  # µs
_KEPT_US: Final = 62 * 86_400 * _SECOND  # of buckets: longer than the longest window


class Hold(NamedTuple):
    """What a request may use of one meter, in whole numbers."""

    meter: Meter
    amount: int


class Charge(NamedTuple):
    """What a request that has ended used; None is unknown and counts as what was reserved."""

    requests: int | None
    tokens: int | None
    usd: int | None  # [pico-USD]

    def of(self, unit: str) -> int | None:
        """Return what it used of a unit; percent are never told."""
        return {"requests": self.requests, "tokens": self.tokens, "usd": self.usd}.get(unit)


NOTHING: Final = Charge(0, 0, 0)
"""Of a request that never left, or was turned away."""


class Full(NamedTuple):
    """No room in a meter."""

    meter: Meter
    until: int | None
    """When there may be room [µs]; None for never, or for when a request under way ends."""
    busy: bool = False
    """Requests under way hold what is left: their end may make room."""


class MeterState(NamedTuple):
    """A meter at one moment, in whole numbers of its unit."""

    meter: Meter
    used: int | None
    """By requests that have ended, and as the provider told; None where it alone knows and has not told."""
    reserved: int
    resets_at: int | None  # [µs]
    source: str  # who says how much is used: counted, or who told it
    observed_at: int | None  # when it was told [µs]; None for what is counted here

    @property
    def left(self) -> int | None:
        """What is neither used nor reserved; None where it is unknown."""
        return None if self.used is None else max(0, self.meter.window.whole - self.used - self.reserved)


class Reserving:
    """The reservations of one transaction: check what would leave, then reserve for what does.

    Args:
        connection: In a transaction that writes.
        now: The moment [µs].
    """

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self._now = now
        self._rooms: dict[str, _Room] = {}

    def check(self, holds: tuple[Hold, ...], batch_id: str) -> Full | None:
        """Set aside what a request may use, all of it or nothing; return what is full, or None."""
        rooms = [self._room(hold.meter) for hold in holds]
        for hold, room in zip(holds, rooms, strict=True):
            full = room.refuses(hold.amount, batch_id)
            if full is not None:
                return full
        for hold, room in zip(holds, rooms, strict=True):
            room.take(hold.amount, batch_id)
        return None

    def withdraw(self, holds: tuple[Hold, ...], batch_id: str) -> None:
        """Give back what was set aside for a request that does not leave."""
        for hold in holds:
            self._room(hold.meter).take(-hold.amount, batch_id)

    def reserve(self, leaving: Iterable[tuple[int, tuple[Hold, ...]]]) -> None:
        """Write what was set aside for requests that leave: number and holds of each."""
        taken = [
            (send_seq, hold.meter.id, hold.meter.window.bucket(self._now), hold.amount)
            for send_seq, holds in leaving
            for hold in holds
        ]
        execute_together(self._connection, "INSERT INTO reservations VALUES ", "(?, ?, ?, ?)", "", taken)
        _add(self._connection, _summed((meter_id, bucket, 0, 0, amount) for _, meter_id, bucket, amount in taken))

    def _room(self, meter: Meter) -> _Room:
        room = self._rooms.get(meter.id)
        if room is None:
            room = self._rooms[meter.id] = _Room(self._connection, meter, self._now)
        return room


def settle(connection: sqlite3.Connection, charges: Mapping[int, Charge]) -> None:
    """Turn the reservations of requests that have ended into what they used; of others it knows nothing.

    Args:
        connection: In a transaction that writes.
        charges: Request → what it used.
    """
    rows: list[tuple[int, str, int, int, str]] = []
    for chunk in chunks(charges):
        rows += connection.execute(
            "SELECT r.send_seq, r.meter_id, r.bucket, r.amount, m.unit FROM reservations r JOIN meters m USING (meter_id) "  # noqa: S608 - marks only
            f"WHERE r.send_seq IN ({', '.join('?' * len(chunk))})",
            chunk,
        ).fetchall()
    if not rows:
        return

    def change(send_seq: int, meter_id: str, bucket: int, amount: int, unit: str) -> tuple[str, int, int, int, int]:
        actual = charges[send_seq].of(unit)
        actual = amount if actual is None else actual
        return meter_id, bucket, min(actual, amount), max(0, actual - amount), -amount

    _add(connection, _summed(change(*row) for row in rows))
    for chunk in chunks({row[0] for row in rows}):
        connection.execute(f"DELETE FROM reservations WHERE send_seq IN ({', '.join('?' * len(chunk))})", chunk)  # noqa: S608 - marks only


def note_meters(connection: sqlite3.Connection, meters: Iterable[Meter]) -> None:
    """Keep what meters measure, so that other processes can show them; a limit that changed is the new one."""
    now = now_us()
    connection.executemany(
        "INSERT INTO meters (meter_id, platform, account, unit, quantity, per, reset, time_zone, source, hard, noted_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (meter_id) DO UPDATE SET quantity = excluded.quantity, "
        "source = excluded.source, hard = excluded.hard, noted_at = excluded.noted_at",
        [
            (m.id, m.platform, m.account, w.unit, w.whole, w.per, w.reset, w.time_zone, m.source, int(m.hard), now)
            for m in meters
            for w in (m.window,)
        ],
    )


def other_meters(connection: sqlite3.Connection, known: Container[str]) -> list[Meter]:
    """Return the meters that others have used lately: models and budgets of other notebooks; without those that are known."""
    rows = connection.execute(
        "SELECT meter_id, platform, account, unit, quantity, per, reset, time_zone, source, hard FROM meters "
        "WHERE per <> 'call' AND noted_at > ? ORDER BY meter_id",
        (now_us() - _KEPT_US,),
    )
    found = []
    for meter_id, platform, account, unit, quantity, per, reset, zone, source, hard in rows:
        if meter_id not in known:
            limit = (
                quantity if unit in ("requests", "tokens") else Decimal(quantity) / (10**12 if unit == "usd" else 10**6)
            )
            window = Window(unit, limit, per, reset, zone)
            found.append(Meter(meter_id, window, platform, account, source, bool(hard)))
    return found


def forget_call(connection: sqlite3.Connection, meter_id: str) -> None:
    """Remove the meter of a call that has ended."""
    for table in ("usage", "meters"):
        connection.execute(f"DELETE FROM {table} WHERE meter_id = ?", (meter_id,))  # noqa: S608 - names from here


def forget_old(connection: sqlite3.Connection, now: int) -> None:
    """Remove the buckets that no window counts any more."""
    connection.execute("DELETE FROM usage WHERE bucket BETWEEN 1 AND ?", (now - _KEPT_US,))


def state_of(connection: sqlite3.Connection, meter: Meter, now: int) -> MeterState:
    """Return a meter at a moment [µs]: what is counted here, or what its provider told where that is more."""
    window = meter.window
    begin, ends = window.period(now)
    used, reserved = _sums(connection, meter, begin, now)
    reading = _reading(connection, meter, now)
    if reading is None:
        if window.unit == "percent":
            return MeterState(meter, None, reserved, None, "unknown", None)
        return MeterState(meter, used, reserved, ends, "counted", None)
    percent, resets_at, source, observed_at = reading
    told = int(window.whole * percent / 100)
    if window.unit == "percent":
        since, reserved = _sums(connection, meter, window.bucket(observed_at), now)
        return MeterState(meter, told + since, reserved, resets_at, source, observed_at)
    if told >= used:
        return MeterState(meter, told, reserved, resets_at or ends, source, observed_at)
    return MeterState(meter, used, reserved, ends, "counted", None)


def uses(connection: sqlite3.Connection, meter: Meter, now: int) -> list[tuple[int, int]]:
    """Return bucket and whole number of all that counts in a meter at a moment, oldest first."""
    begin, _ = meter.window.period(now)
    return connection.execute(
        "SELECT bucket, used + over + reserved FROM usage WHERE meter_id = ? AND bucket BETWEEN ? AND ? ORDER BY bucket",
        (meter.id, begin, meter.window.counts_until(now)),
    ).fetchall()


class _Room:
    """What is left of one meter while a group is written."""

    def __init__(self, connection: sqlite3.Connection, meter: Meter, now: int) -> None:
        self._connection = connection
        self._meter = meter
        self._now = now
        state = state_of(connection, meter, now)
        self._used, self._reserved, self._resets_at = state.used, state.reserved, state.resets_at
        self._by_batch: dict[str, int] = {}  # as it stood before this group
        self._taken: Counter[str] = Counter()  # by this group, which is not written yet

    def refuses(self, amount: int, batch_id: str) -> Full | None:
        """Return why an amount does not fit; None when it does."""
        meter, whole = self._meter, self._meter.window.whole
        if not meter.hard or self._used is None:
            return None
        if self._used >= whole or self._used + amount > whole:
            return Full(meter, self._when(amount))
        if self._used + self._reserved + amount > whole:
            return Full(meter, None, busy=True)
        if meter.shared and self._reserved + amount > (whole - self._used) // 2:
            own = self._own(batch_id) + self._taken[batch_id]
            rest = whole - self._used - (self._reserved - own)
            if own + amount > max(amount, rest // 2):
                return Full(meter, None, busy=True)
        return None

    def take(self, amount: int, batch_id: str) -> None:
        """Count an amount that was reserved."""
        self._reserved += amount
        self._taken[batch_id] += amount

    def _own(self, batch_id: str) -> int:
        own = self._by_batch.get(batch_id)
        if own is None:
            (own,) = self._connection.execute(
                "SELECT coalesce(sum(r.amount), 0) FROM reservations r JOIN sends s ON s.seq = r.send_seq "
                "WHERE r.meter_id = ? AND s.batch_id = ?",
                (self._meter.id, batch_id),
            ).fetchone()
            self._by_batch[batch_id] = own
        return int(own)

    def _when(self, amount: int) -> int | None:
        """Return when a meter that is used up has room again [µs]; None for never, and where nobody knows."""
        window = self._meter.window
        counted = window.room_at(uses(self._connection, self._meter, self._now), amount, self._now)
        if self._resets_at is not None and (counted is None or counted <= self._now):
            return self._resets_at
        if counted is not None and counted <= self._now:  # used up by the provider's word alone, without a reset
            return self._now + SPAN_S[window.per] * _SECOND
        return counted


def _sums(connection: sqlite3.Connection, meter: Meter, begin: int, now: int) -> tuple[int, int]:
    row = connection.execute(
        "SELECT coalesce(sum(used + over), 0), coalesce(sum(reserved), 0) FROM usage "
        "WHERE meter_id = ? AND bucket BETWEEN ? AND ?",
        (meter.id, begin, meter.window.counts_until(now)),
    ).fetchone()
    return int(row[0]), int(row[1])


def _reading(connection: sqlite3.Connection, meter: Meter, now: int) -> tuple[float, int | None, str, int] | None:
    """Return the newest word of the provider about a meter that still holds: percent, reset, source, when."""
    told = readings(connection, meter, 1) if meter.platform is not None else []
    if not told:
        return None
    _, resets_at, _, observed_at = told[0]
    ends = resets_at if resets_at is not None else observed_at + SPAN_S[meter.window.per] * _SECOND
    return told[0] if ends > now else None


def _summed(changes: Iterable[tuple[str, int, int, int, int]]) -> list[tuple[str, int, int, int, int]]:
    """Return one change for each meter and bucket."""
    sums: dict[tuple[str, int], list[int]] = {}
    for meter_id, bucket, *amounts in changes:
        known = sums.get((meter_id, bucket))
        if known is None:
            sums[meter_id, bucket] = amounts
        else:
            for i, amount in enumerate(amounts):
                known[i] += amount
    return [(meter_id, bucket, used, over, reserved) for (meter_id, bucket), (used, over, reserved) in sums.items()]


def _add(connection: sqlite3.Connection, changes: list[tuple[str, int, int, int, int]]) -> None:
    execute_together(
        connection,
        "INSERT INTO usage VALUES ",
        "(?, ?, ?, ?, ?)",
        " ON CONFLICT (meter_id, bucket) DO UPDATE SET used = used + excluded.used, over = over + excluded.over, "
        "reserved = reserved + excluded.reserved",
        changes,
    )
