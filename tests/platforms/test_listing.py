"""The listing: every platform in a text, a table and a frame, with nothing in it that could drive a display."""

from __future__ import annotations

import time

import pandas as pd
import pytest
from loopback import orchestrator, upper

from orchestrai import InvalidInput, Orchestrator
from orchestrai.platforms.catalogue import shipped
from orchestrai.platforms.cli_state import CliState
from orchestrai.platforms.discovery import Finding
from orchestrai.platforms.listing import PlatformListing, quota_left
from orchestrai.platforms.protocol import QuotaReading
from orchestrai.testing import ScriptedPlatform

NOW = time.time_ns() // 1000
MINUTE = 60_000_000
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


def reading(window="five_hour", used=38.0, resets_in=60 * MINUTE, ago=3 * MINUTE):
    resets_at = None if resets_in is None else NOW + resets_in
    return QuotaReading(window, used, resets_at, "rate_limit_event", NOW - ago)


STATE = CliState(True, "1.2.3", "a plan", "", "/usr/bin/plan")


def listing():
    plan = ScriptedPlatform("plan", model="m-1", tier="subscription", data_use="may_train")
    findings = [
        Finding("plan", plan, "/usr/bin/plan", state=STATE, plan=shipped().plans["claude_code.plan"]),
        Finding("quick", ScriptedPlatform("quick", model="m-2"), "given"),
        Finding("gone", None, "GONE_KEY is not\n  set"),
        Finding("barred", ScriptedPlatform("barred", data_use="may_train"), "given", barred="never_train is set"),
        Finding("demo", ScriptedPlatform("demo", demo=True), "found", automatic=False),
    ]
    weekly = reading("seven_day", 90.0, 600 * MINUTE)
    return PlatformListing(findings, [("plan", "", reading()), ("plan", "", weekly), ("plan", "another", reading())])


def test_every_platform_is_listed_found_or_not():
    found = listing()
    assert [(row.name, row.found, row.automatic) for row in found] == [
        ("plan", True, True),
        ("quick", True, True),
        ("gone", False, True),
        ("barred", False, False),
        ("demo", True, False),
    ]
    assert [row.name for row in found.found] == ["plan", "quick", "demo"]
    assert (found["plan"].version, found["plan"].login, found["plan"].tier) == ("1.2.3", "a plan", "subscription")
    assert found["plan"].plan.title == "Claude Pro or Max plan"
    assert (found["gone"].model, found["gone"].why) == (None, "GONE_KEY is not set")
    assert found["barred"].why == "never_train is set"
    assert (len(found), found[0], found[:1]) == (5, found["plan"], (found["plan"],))
    assert [cells[1] for cells in found.table()[1]] == ["yes", "yes", "no", "no", "if named"]


def test_a_misspelt_name_names_the_nearest():
    with pytest.raises(InvalidInput, match=r"unknown platform 'quik'\. Did you mean 'quick'"):
        listing()["quik"]


def test_readings_belong_to_their_account_and_the_tightest_counts():
    row = listing()["plan"]
    assert [r.window for r in row.quota] == ["five_hour", "seven_day"]
    assert row.tightest(NOW).window == "seven_day"
    assert listing()["quick"].quota == ()


def test_a_window_that_was_reset_since_says_nothing_of_what_is_left():
    old = reading(used=99.0, resets_in=-MINUTE)
    assert quota_left(old, NOW).startswith("five_hour anew since ")
    plan = Finding("p", ScriptedPlatform("p"), "given")
    (row,) = PlatformListing([plan], [("p", "", old)])
    assert row.tightest(NOW) is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (reading(), ["five_hour 62 % until ", " UTC, told 3 min 0 s ago"]),
        (reading(used=None), ["five_hour until "]),
        (reading(resets_in=None), ["five_hour 62 %, told 3 min 0 s ago"]),
        (reading(used=120.0), ["five_hour 0 % until"]),
    ],
)
def test_a_reading_says_what_is_left_until_when_and_how_old_it_is(told, words):
    for word in words:
        assert word in quota_left(told, NOW)


def test_the_text_is_short_and_the_notebook_gets_a_table():
    found = listing()
    assert repr(found) == "PlatformListing(3 of 5 found: plan (m-1), quick (m-2), demo (scripted-1))"
    shown = found._repr_mimebundle_()
    for words in (
        "plan",
        "a share per 5 hours, a share per week",
        "62 %",
        "seven_day 10 %",
        "may train",
        "gone: GONE_KEY is not set",
    ):
        assert words in shown["text/plain"]
    assert "<table" in shown["text/html"]
    assert "3 of 5 platforms found" in shown["text/html"]
    assert repr(PlatformListing([])) == "PlatformListing(0 of 0 found)"


def test_hostile_words_reach_no_display_alive():
    state = CliState(True, HOSTILE, HOSTILE, HOSTILE)
    platform = ScriptedPlatform(HOSTILE, model=HOSTILE)
    found = PlatformListing(
        [Finding(HOSTILE, platform, HOSTILE, state=state), Finding("b", None, HOSTILE)],
        [(HOSTILE, "", reading(HOSTILE))],
    )
    shown = found._repr_mimebundle_()
    assert "<script" not in shown["text/html"]
    for display in (*shown.values(), repr(found)):
        assert "\x1b" not in display
        assert "\u202e" not in display


def test_the_frame_has_one_row_per_platform_and_documented_dtypes():
    frame = listing().to_pandas()
    text = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "name": text,
        "found": "bool",
        "automatic": "bool",
        **dict.fromkeys(("model", "tier", "version", "login", "data_use", "plan"), text),
        **dict.fromkeys(("rpm", "tpm", "rpd", "quota_left", "quota_age_s"), "float64"),
        "quota_window": text,
        "quota_resets_at": "datetime64[us, UTC]",
        "why": text,
    }
    assert list(frame["name"]) == ["plan", "quick", "gone", "barred", "demo"]
    assert (frame["quota_left"][0], frame["quota_window"][0]) == (10.0, "seven_day")
    assert frame["quota_age_s"][0] >= 180
    assert frame["quota_left"].isna().sum() == 4
    assert frame["model"].isna().tolist() == [False, False, True, False, False]
    assert [name for name in frame.columns if f"`{name}`" not in PlatformListing.to_pandas.__doc__] == []
    assert len(PlatformListing([]).to_pandas()) == 0


def test_an_absurd_reset_is_no_moment():
    plan = Finding("p", ScriptedPlatform("p"), "given")
    frame = PlatformListing([plan], [("p", "", reading(resets_in=10**20))]).to_pandas()
    assert frame["quota_resets_at"].isna().tolist() == [True]


def test_limits_are_shown_in_words(monkeypatch):
    monkeypatch.setenv("GROQ_API_KEY", "gsk_test")
    from orchestrai.platforms.discovery import discover

    found = PlatformListing(discover({"groq": {}}))
    assert dict(found["groq"].limits) == {"rpm": 30, "rpd": 1000}
    assert "30 requests/min, 1,000 requests/day" in found._repr_mimebundle_()["text/plain"]
    assert "gsk_test" not in found._repr_mimebundle_()["text/plain"] + repr(found["groq"])


def test_an_orchestrator_lists_its_platforms_and_what_they_told(tmp_path):
    class Metered(ScriptedPlatform):
        async def send(self, request):
            reply = await super().send(request)
            reply.quota = (reading(),)
            return reply

    with orchestrator(tmp_path, Metered("metered"), upper) as orch:
        assert [row.name for row in orch.platforms] == ["metered", "upper"]
        assert not orch.ledger_path.exists()  # nothing is made only to look
        assert orch.platforms["metered"].quota == ()
        orch.run_sync("a", platform="metered")
        (told,) = orch.platforms["metered"].quota
        assert (told.window, told.used_percent) == ("five_hour", 38.0)
    with orchestrator(tmp_path, Metered("metered")) as again:
        assert again.platforms["metered"].quota == (told,)


def test_a_ledger_that_cannot_be_read_hides_no_platform(tmp_path):
    folder = tmp_path / ".orchestrai"
    folder.mkdir()
    (folder / "ledger.db").write_bytes(b"no ledger" * 1000)
    orch = Orchestrator(tmp_path, platforms=[upper])
    assert [row.name for row in orch.platforms] == ["upper"]
