"""Reservations: what is set aside never exceeds a window, and what was used counts in it until it begins anew."""

from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrai.ledger.connection import LedgerFile
from orchestrai.ledger.reservations import (
    NOTHING,
    Charge,
    Full,
    Hold,
    Reserving,
    forget_call,
    note_meters,
    other_meters,
    settle,
    state_of,
    uses,
)
from orchestrai.ledger.rows import QuotaRow, SendRow, insert
from orchestrai.limits.budget import Budget, call_meter
from orchestrai.limits.quota import Meter, Window

SECOND = 1_000_000
NOW = 1_795_000_000 * SECOND
DAY = 86_400 * SECOND


def meter(limit=10, per="day", reset="rolling", unit="requests", zone=None, shared=False, told_as=(), name="a"):
    return Meter(name, Window(unit, limit, per, reset, zone, told_as=told_as), "platform", "acc", shared=shared)


@pytest.fixture
def file(tmp_path):
    file = LedgerFile(tmp_path / "ledger")
    yield file
    file.close()


class Desk:
    """Reserves and settles as the ledger's thread does."""

    def __init__(self, file):
        self.file = file
        self.sent = 0

    def ask(self, *holds, batch="b", now=NOW):
        """Ask for one request; return its number, or why it may not leave."""

        def work(connection):
            note_meters(connection, [hold.meter for hold in holds])
            reserving = Reserving(connection, now)
            full = reserving.check(holds, batch)
            if full is not None:
                return full
            self.sent += 1
            row = SendRow(self.sent, "x", "t", 1, "first", None, batch, 0, 0, b"k", 1, *(None,) * 11, now, now, None)
            insert(connection, SendRow, [row])
            reserving.reserve([(self.sent, holds)])
            return self.sent

        return self.file.write(work)

    def end(self, number, *charge):
        self.file.write(lambda c: settle(c, {number: Charge(*charge) if charge else Charge(1, 0, 0)}))

    def state(self, of, now=NOW):
        return self.file.read(lambda c: state_of(c, of, now))

    def told(self, window, percent, resets_at=None, at=NOW):
        row = QuotaRow("platform", "acc", window, percent, resets_at, "headers", at)
        self.file.write(lambda c: insert(c, QuotaRow, [row]))


@pytest.fixture
def desk(file):
    return Desk(file)


def test_a_window_gives_as_many_places_as_it_has_and_then_says_when_the_next_comes(desk):
    window = meter(3)
    for i in range(3):
        desk.end(desk.ask(Hold(window, 1), now=NOW + i * 3_600 * SECOND))
    full = desk.ask(Hold(window, 1), now=NOW + 3 * 3_600 * SECOND)
    assert isinstance(full, Full)
    assert NOW + DAY <= full.until <= NOW + DAY + 2 * DAY // 60
    assert desk.ask(Hold(window, 1), now=full.until) == 4
    assert desk.state(window).used == 3


def test_a_fixed_window_begins_anew_at_midnight(desk):
    window = meter(2, reset="fixed", zone="America/Los_Angeles")
    for _ in range(2):
        desk.end(desk.ask(Hold(window, 1)))
    full = desk.ask(Hold(window, 1))
    assert full.until == window.window.period(NOW)[1]
    assert desk.ask(Hold(window, 1), now=full.until) == 3
    assert desk.state(window, full.until).used == 0


def test_requests_under_way_hold_their_places_and_their_end_frees_what_they_did_not_use(desk):
    window = meter(2)
    first, second = desk.ask(Hold(window, 1)), desk.ask(Hold(window, 1))
    full = desk.ask(Hold(window, 1))
    assert (full.busy, full.until) == (True, None)
    desk.file.write(lambda c: settle(c, {first: NOTHING}))
    third = desk.ask(Hold(window, 1))
    assert isinstance(third, int)
    desk.end(second)
    desk.end(third)
    assert (desk.state(window).used, desk.state(window).reserved) == (2, 0)


def test_all_windows_of_a_request_have_room_or_none_is_touched(desk):
    wide, narrow = meter(10, name="wide"), meter(1, name="narrow")
    desk.end(desk.ask(Hold(wide, 1), Hold(narrow, 1)))
    assert desk.ask(Hold(wide, 1), Hold(narrow, 1)).meter == narrow
    assert (desk.state(wide).used, desk.state(wide).reserved) == (1, 0)


def test_one_call_reserves_no_more_than_half_of_what_is_left_at_a_time(desk):
    window = meter(10, shared=True)
    mine = [desk.ask(Hold(window, 1)) for _ in range(5)]
    assert desk.ask(Hold(window, 1)).busy
    theirs = desk.ask(Hold(window, 1), batch="other")  # another kernel can work
    assert isinstance(theirs, int)
    for number in mine:
        desk.end(number)
    assert isinstance(desk.ask(Hold(window, 1)), int)
    last = meter(1, shared=True, name="last")
    assert isinstance(desk.ask(Hold(last, 1)), int)  # the last place is not cut in half


def test_one_call_reserves_no_more_than_half_also_in_one_commit(desk):
    window = meter(10, shared=True)

    def work(connection):
        note_meters(connection, [window])
        reserving = Reserving(connection, NOW)
        return [reserving.check((Hold(window, 1),), "b") for _ in range(8)]

    assert [full is None for full in desk.file.write(work)] == [True] * 5 + [False] * 3


def test_what_a_request_used_beyond_its_reservation_is_told_apart_and_counts(desk):
    tokens = meter(1_000, unit="tokens")
    number = desk.ask(Hold(tokens, 400))
    desk.end(number, 1, 650, 0)
    assert desk.state(tokens).used == 650
    over = desk.file.read(lambda c: c.execute("SELECT used, over, reserved FROM usage").fetchall())
    assert over == [(400, 250, 0)]
    assert desk.ask(Hold(tokens, 400)).until is not None
    assert isinstance(desk.ask(Hold(tokens, 350)), int)


def test_what_is_unknown_counts_as_what_was_reserved(desk):
    tokens, cash = meter(1_000, unit="tokens"), call_meter(Decimal(1), "x")
    number = desk.ask(Hold(tokens, 400), Hold(cash, 7))
    desk.end(number, 1, None, None)
    assert (desk.state(tokens).used, desk.state(cash).used) == (400, 7)


def test_settling_twice_changes_nothing(desk):
    window = meter(5)
    number = desk.ask(Hold(window, 1))
    desk.end(number)
    desk.end(number)
    assert (desk.state(window).used, desk.state(window).reserved) == (1, 0)


def test_a_share_of_a_plan_is_unknown_until_its_provider_tells_and_used_up_when_it_says_so(desk):
    plan = meter(100, unit="percent", per="5 hours", reset="told", told_as=("five_hour",))
    assert desk.state(plan).used is None
    assert isinstance(desk.ask(Hold(plan, 0)), int)  # unknown is neither nothing nor everything
    desk.told("five_hour", 37.5, NOW + 3_600 * SECOND)
    state = desk.state(plan)
    assert (state.used, state.source, state.resets_at) == (37_500_000, "headers", NOW + 3_600 * SECOND)
    desk.told("five_hour", 100.0, NOW + 3_600 * SECOND, at=NOW + 1)
    full = desk.ask(Hold(plan, 0), now=NOW + 2)
    assert full.until == NOW + 3_600 * SECOND
    assert isinstance(desk.ask(Hold(plan, 0), now=full.until), int)  # an old word holds until its reset and no longer


def test_a_refusal_corrects_a_counted_window_downward_until_its_reset_and_never_upward(desk):
    window = meter(10)
    desk.end(desk.ask(Hold(window, 1)))
    desk.told("a", 100.0, NOW + 600 * SECOND, at=NOW + 1)
    assert desk.ask(Hold(window, 1), now=NOW + 2).until == NOW + 600 * SECOND
    assert isinstance(desk.ask(Hold(window, 1), now=NOW + 600 * SECOND), int)
    desk.told("a", 5.0, NOW + DAY, at=NOW + 601 * SECOND)  # says less than was counted
    assert desk.state(window, NOW + 602 * SECOND).used == 1


def test_a_soft_budget_counts_and_refuses_nothing(desk):
    soft, hard = (Budget(Decimal("0.000000000010"), "day", hard=hard).meter for hard in (False, True))
    for _ in range(3):
        desk.end(desk.ask(Hold(soft, 6)), 1, 0, 6)
    assert desk.state(soft).used == 18
    assert soft.id == hard.id  # the same money, whatever is done about it
    assert isinstance(desk.ask(Hold(hard, 6)), Full)


def test_a_call_that_ended_leaves_no_meter(desk):
    cash = call_meter(Decimal(1), "x")
    desk.end(desk.ask(Hold(cash, 7)))
    desk.file.write(lambda c: forget_call(c, cash.id))
    counts = [
        desk.file.read(lambda c, t=t: c.execute(f"SELECT count(*) FROM {t}").fetchone()[0]) for t in ("usage", "meters")
    ]
    assert counts == [0, 0]


def test_other_processes_find_the_meters_they_do_not_know(desk):
    window = meter(10)
    budget = Budget(Decimal("2.50"), "month", tag="team=red").meter
    desk.end(desk.ask(Hold(window, 1), Hold(budget, 5)))
    found = desk.file.read(lambda c: other_meters(c, {}))
    assert {(m.id, str(m.window)) for m in found} == {(m.id, str(m.window)) for m in (window, budget)}
    assert desk.state(next(m for m in found if m.id == budget.id)).used == desk.state(budget).used
    assert desk.file.read(lambda c: other_meters(c, {window.id, budget.id})) == []


def test_old_buckets_count_no_more_and_are_listed_oldest_first(desk):
    window = meter(10, per="hour")
    for minute in (0, 10, 59):
        desk.end(desk.ask(Hold(window, 1), now=NOW + minute * 60 * SECOND))
    listed = desk.file.read(lambda c: uses(c, window, NOW + 65 * 60 * SECOND))
    assert [count for _, count in listed] == [1, 1]
    assert listed == sorted(listed)
