"""Quota windows on a manual clock: what counts, when there is room again; days that are 23 and 25 hours long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai.errors import InvalidSettings
from orchestrai.limits.budget import Budget, budgets_from, call_meter
from orchestrai.limits.quota import SPAN_S, Meter, Window, amount_text, counted

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))  # noqa: DTZ001 - zone follows
ZONES = st.sampled_from(["UTC", "America/Los_Angeles", "Asia/Kolkata", "Australia/Lord_Howe"])
HOURS_AT_MOST = {"minute": 1 / 60, "hour": 1, "day": 25, "week": 7 * 24 + 1, "month": 31 * 24 + 1}
SECOND = 1_000_000


def us(at: datetime) -> int:
    return int(at.timestamp()) * SECOND + at.microsecond


def at(moment_us: int, zone: str = "UTC") -> datetime:
    return datetime.fromtimestamp(moment_us / SECOND, ZoneInfo(zone))


# --- windows of the calendar


@given(MOMENTS, ZONES, st.sampled_from(sorted(HOURS_AT_MOST)))
def test_a_fixed_window_lasts_from_one_turn_of_its_calendar_to_the_next(moment, zone, per):
    window = Window("requests", 1, per, "fixed", zone)
    now = us(moment)
    begin, end = window.period(now)
    assert begin <= now < end
    assert end - begin <= HOURS_AT_MOST[per] * 3_600 * SECOND
    local = at(end, zone)
    assert (local.second, local.microsecond) == (0, 0)
    if per in ("day", "week", "month"):
        assert (local.hour, local.minute) == (0, 0)
    if per == "week":
        assert local.weekday() == 0
    if per == "month":
        assert local.day == 1
    assert window.period(end)[0] == end  # the next begins where this one ends
    assert window.period(begin) == (begin, end)
    assert window.bucket(now) == begin


def test_midnight_in_california_follows_its_summer_time():
    window = Window("requests", 250, "day", "fixed", "America/Los_Angeles")
    assert window.period(us(datetime(2026, 7, 1, 12, tzinfo=UTC)))[1] == us(datetime(2026, 7, 2, 7, tzinfo=UTC))
    assert window.period(us(datetime(2026, 12, 1, 12, tzinfo=UTC)))[1] == us(datetime(2026, 12, 2, 8, tzinfo=UTC))


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 8), 23), ((2026, 11, 1), 25), ((2026, 6, 1), 24)])
def test_the_day_of_a_change_of_time_is_one_window_of_its_own_length(day, hours):
    window = Window("requests", 250, "day", "fixed", "America/Los_Angeles")
    noon = us(datetime(*day, 12, tzinfo=ZoneInfo("America/Los_Angeles")))
    begin, end = window.period(noon)
    assert end - begin == hours * 3_600 * SECOND
    uses = {window.bucket(begin + i * 900 * SECOND) for i in range(4 * hours)}
    assert uses == {begin}  # every quarter of an hour of it counts in it


def test_a_use_before_midnight_does_not_count_after_it():
    window = Window("requests", 3, "day", "fixed", "Europe/Berlin")
    before = us(datetime(2026, 5, 4, 21, 59, 59, tzinfo=UTC))
    after = before + 2 * SECOND
    assert window.bucket(before) < window.period(after)[0]
    assert window.room_at([(window.bucket(before), 3)], 1, before) == window.period(after)[0]


# --- rolling windows


@given(st.sampled_from([per for per in SPAN_S if per != "call"]), st.integers(0, 10**10), st.floats(0, 1.2))
def test_a_use_counts_for_its_whole_span_and_hardly_longer(per, second, share):
    window = Window("tokens", 100, per, "rolling")
    used_at = (10**9 + second) * SECOND
    span = SPAN_S[per] * SECOND
    now = used_at + int(share * span)
    begin, end = window.period(now)
    counts = begin <= window.bucket(used_at) <= window.counts_until(now)
    assert end is None
    if share < 1:
        assert counts
    if share > 1 + 1 / 59:
        assert not counts


@given(st.lists(st.tuples(st.integers(0, 3_599), st.integers(1, 9)), max_size=12), st.integers(1, 60))
def test_there_is_room_when_room_at_says_and_not_a_bucket_earlier(uses, amount):
    window = Window("tokens", 60, "hour", "rolling")
    base = 1_750_000_000 * SECOND
    now = base + 3_600 * SECOND
    held: dict[int, int] = {}
    for second, use in uses:
        bucket = window.bucket(base + second * SECOND)
        if bucket >= window.period(now)[0]:
            held[bucket] = held.get(bucket, 0) + use
    rows = sorted(held.items())
    at = window.room_at(rows, amount, now)
    assert at is not None

    def left(moment):
        return 60 - sum(use for bucket, use in rows if bucket >= window.period(moment)[0])

    assert left(at) >= amount
    if at > now:
        assert left(at - 60 * SECOND) < amount


def test_what_is_larger_than_a_window_never_fits():
    assert Window("tokens", 60, "hour", "rolling").room_at([], 61, 0) is None


@pytest.mark.parametrize("years", [-1, 1])
@pytest.mark.parametrize("reset", ["rolling", "fixed"])
def test_a_clock_that_jumps_a_year_frees_what_is_long_past_and_blocks_nothing_for_a_year(years, reset):
    window = Window("requests", 10, "day", reset, "UTC" if reset == "fixed" else None)
    now = us(datetime(2026, 11, 27, 12, tzinfo=UTC))
    jumped = now + years * 365 * 86_400 * SECOND
    bucket = window.bucket(now)
    assert not window.period(jumped)[0] <= bucket <= window.counts_until(jumped)


def test_a_clock_that_is_set_back_an_hour_forgets_no_use():
    window = Window("requests", 10, "5 hours", "rolling")
    now = us(datetime(2026, 11, 27, 12, tzinfo=UTC))
    back = now - 3_600 * SECOND
    assert window.period(back)[0] <= window.bucket(now) <= window.counts_until(back)


def test_a_call_counts_from_its_beginning_to_its_end():
    meter = call_meter(Decimal("2.50"), "x")
    assert meter.window.period(123) == (0, None)
    assert meter.window.bucket(10**15) == 0
    assert meter.window.room_at([(0, counted("usd", Decimal("2.5")))], 1, 10**15) is None
    assert str(meter.window) == "$2.50"


# --- amounts


def test_money_is_counted_exactly():
    assert counted("usd", Decimal("0.1")) == 10**11
    assert counted("usd", 0.1) == 10**11  # the digits that were written
    assert Window("usd", Decimal("1.05"), "month", "fixed", "UTC").whole == 1_050_000_000_000
    assert counted("percent", 37.5) == 37_500_000
    assert amount_text("percent", 37_500_000) == "38 %"
    assert amount_text("requests", 1500) == "1,500 requests"
    assert amount_text("usd", 1_230_000) == "$0.000001"


def test_windows_with_equal_meaning_are_equal_meters_in_every_process():
    one, other = (Meter("a requests/day rolling", Window("requests", 5, "day", "rolling")) for _ in range(2))
    assert (one == other, hash(one) == hash(other)) == (True, True)


# --- budgets


def test_a_budget_counts_what_it_names():
    everything, tagged = Budget(Decimal(5), "day"), Budget(Decimal(5), "day", tag="team=red", platform="openai")
    assert everything.counts("openai", None, None)
    assert tagged.counts("openai", {"team": "red"}, None)
    assert not tagged.counts("openai", {"team": "blue"}, None)
    assert not tagged.counts("gemini", {"team": "red"}, None)
    assert Budget(Decimal(5), "day", tag="team").counts("x", {"team": "any"}, None)
    assert not Budget(Decimal(5), "day", chain="a").counts("x", None, "b")
    assert everything.meter.id != tagged.meter.id


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("5", "is a list of tables"),
        ({"usd": 5}, "is a list of tables"),
        ([5], r"budgets\[0\] is a table, not int"),
        ([{"usd": 5}], r"budgets\[0\]: per is missing"),
        ([{"usd": -1, "per": "day"}], r"budgets\[0\]: usd is an amount of USD from 0 up, not -1"),
        ([{"usd": "five", "per": "day"}], "usd is an amount of USD"),
        ([{"usd": 5, "per": "fortnight"}], "per is one of day, week, month, not 'fortnight'"),
        ([{"usd": 5, "per": "dya"}], "Did you mean 'day'"),
        ([{"usd": 5, "per": "day", "hrad": True}], "unknown field 'hrad'. Did you mean 'hard'"),
        ([{"usd": 5, "per": "day", "hard": "yes"}], "hard is true or false"),
        ([{"usd": 5, "per": "day", "tag": 3}], "tag is a text"),
        ([{"usd": 5, "per": "day", "time_zone": "Mars"}], "no time zone 'Mars'"),
    ],
)
def test_a_budget_that_cannot_be_says_where_and_what_to_write(value, words):
    with pytest.raises(InvalidSettings, match=words):
        budgets_from(value, "budgets")


def test_a_month_ends_at_its_end_in_the_zone_of_the_budget():
    (budget,) = budgets_from([{"usd": "12.50", "per": "month", "hard": True, "time_zone": "Asia/Kolkata"}], "budgets")
    noon = datetime(2028, 2, 10, 12, tzinfo=UTC)
    begin, end = budget.meter.window.period(us(noon))
    assert at(begin, "Asia/Kolkata").day == at(end, "Asia/Kolkata").day == 1
    assert at(end, "Asia/Kolkata") - at(begin, "Asia/Kolkata") == timedelta(days=29)
