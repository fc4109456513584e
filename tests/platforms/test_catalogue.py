"""The catalogue: every record is dated, has its source and means what it says; settings win over all of them."""

from __future__ import annotations

import re
import tomllib
from datetime import UTC, date, datetime
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrai import InvalidSettings
from orchestrai.ids import now_us
from orchestrai.platforms.catalogue import default_model, model_facts, shipped, with_settings

TODAY = datetime.now(UTC).date()
RECORDS = [
    (part, record)
    for part in ("defaults", "plans", "endpoints", "models")
    for record in getattr(shipped(), part).values()
]


@pytest.mark.parametrize(("part", "record"), RECORDS, ids=lambda value: getattr(value, "id", value))
def test_every_shipped_record_names_its_source_and_the_day_it_was_read(part, record):
    assert len(record.source) > 10
    assert date(2026, 1, 1) <= record.checked <= TODAY


def test_every_field_of_the_file_is_read():
    """Reading is strict, so a field that is there has become a value of its record."""
    text = resources.files("orchestrai.platforms").joinpath("catalogue.toml").read_text(encoding="utf-8")
    for part, records in tomllib.loads(text).items():
        for name, table in records.items():
            record = getattr(shipped(), part)[name]
            for field, value in table.items():
                assert (
                    getattr(record, field) == (tuple(value) if field in ("models", "order") else value)
                    or field == "windows"
                )
            assert len(getattr(record, "windows", ())) == len(table.get("windows", ()))


@pytest.mark.parametrize("plan", shipped().plans.values(), ids=lambda plan: plan.id)
def test_every_plan_says_where_its_data_use_is_said_and_what_became_of_it(plan):
    assert plan.data_use_source
    assert bool(plan.ended) == (plan.valid_until is not None)
    now = now_us()
    for window in plan.windows:
        begin, end = window.period(now)
        assert begin <= now
        assert (end is not None) == (window.reset == "fixed")
        assert end is None or end > now


def test_gemini_cli_gave_1500_requests_a_day_until_the_17th_of_june_2026():
    catalogue = shipped()
    last = catalogue.plan("gemini_cli", "free", date(2026, 6, 17))
    assert last is not None
    assert last.limits["rpd"] == 1500
    assert catalogue.plan("gemini_cli", "free", date(2026, 6, 18)) is None
    gone = catalogue.ended("gemini_cli", "free", date(2026, 6, 18))
    assert gone is last
    for word in ("IneligibleTierError", "Groq", "OpenRouter", "Gemini API"):
        assert word in gone.ended
    assert catalogue.ended("gemini_cli", "free", date(2026, 6, 17)) is None


def test_the_windows_of_the_subscriptions_are_five_hours_and_a_week_in_percent():
    for kind in ("claude_code", "chatgpt"):
        plan = shipped().plan(kind, "subscription", TODAY)
        assert {(w.unit, w.limit, w.per, w.reset) for w in plan.windows} == {
            ("percent", 100, "5 hours", "told"),
            ("percent", 100, "week", "told"),
        }
        assert plan.limits == {}


def test_every_kind_of_platform_has_a_default_model_and_a_plan_that_holds():
    kinds = ("openai", "anthropic", "gemini", "claude_code", "chatgpt", "gemini_cli", *shipped().endpoints)
    for kind in kinds:
        assert default_model(kind) == shipped().default_model(kind)
        assert any(plan.platform == kind and plan.holds(TODAY) for plan in shipped().plans.values())
    assert shipped().default_model("nobody") is None


def test_the_default_models_of_paid_platforms_have_a_list_price():
    from orchestrai.pricing import PriceList

    for kind, provider in (("openai", "openai"), ("anthropic", "anthropic"), ("gemini", "google")):
        assert PriceList().find(provider, default_model(kind)) is not None


def test_a_free_endpoint_has_a_free_plan_and_only_free_models():
    for endpoint in shipped().endpoints.values():
        assert shipped().plan(endpoint.id, endpoint.tier, TODAY) is not None
        assert endpoint.base_url.startswith("https://")
        assert re.fullmatch("[A-Z_]+_API_KEY", endpoint.key)
    assert shipped().endpoints["openrouter"].models == ("*:free",)


# --- models


@pytest.mark.parametrize(
    ("model", "context"),
    [
        ("gpt-6-luna", 1_050_000),
        ("gpt-6-luna-2026-09-22", 1_050_000),
        ("openai/gpt-oss-120b", 131_072),
        ("openai/gpt-oss-20b:free", 131_072),
        ("CLAUDE-Haiku-5-5", 1_000_000),
        ("claude-haiku-4-5-20251001", 200_000),
        ("gemini-2.5-flash-lite", 1_048_576),
        ("google/gemma-4-31b-it:free", 262_144),
        ("gpt-7", None),
        ("gemini-2.5-flash-preview-tts", None),
        ("llama3", None),
        ("", None),
    ],
)
def test_a_model_is_known_by_its_family_and_an_unknown_one_is_unknown(model, context):
    facts = model_facts(model)
    assert (facts.context_tokens if facts else None) == context


def test_the_longest_pattern_counts():
    catalogue = with_settings({"models": {"gpt-*": {"context_tokens": 7}, "gpt-6-luna-x": {"context_tokens": 8}}})
    assert catalogue.model_facts("gpt-7").context_tokens == 7
    assert catalogue.model_facts("gpt-6-luna").context_tokens == 1_050_000
    assert catalogue.model_facts("gpt-6-luna-x").context_tokens == 8


# --- settings


def test_settings_bring_a_plan_back_and_leave_its_other_fields():
    catalogue = with_settings({"plans": {"gemini_cli.personal": {"valid_until": "2099-12-31"}}})
    plan = catalogue.plan("gemini_cli", "free", TODAY)
    assert (plan.limits["rpd"], plan.data_use, plan.valid_until) == (1500, "may_train", date(2099, 12, 31))
    assert catalogue.ended("gemini_cli", "free", TODAY) is None
    assert shipped().plan("gemini_cli", "free", TODAY) is None


def test_settings_add_records_of_their_own():
    catalogue = with_settings(
        {
            "endpoints": {"acme": {"base_url": "https://acme.example/v1", "key": "ACME_KEY", "tier": "free"}},
            "defaults": {"acme": {"model": "acme-1"}},
        }
    )
    assert catalogue.endpoints["acme"].source == "settings"
    assert catalogue.default_model("acme") == "acme-1"
    assert set(shipped().endpoints) < set(catalogue.endpoints)


def test_without_settings_the_catalogue_is_the_shipped_one():
    assert with_settings({}) is shipped()


PLAN = {"platform": "x", "tier": "free", "title": "X", "data_use": "none"}
FIXED = {"unit": "requests", "limit": 1, "per": "day", "reset": "fixed", "time_zone": "UTC"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"plan": {}}, "unknown table 'plan'.*'plans'"),
        ({"plans": []}, "catalogue.plans is a table"),
        ({"plans": {"x": 3}}, r"catalogue\.plans\.x is a table"),
        ({"plans": {"x": {**PLAN, "teir": "free"}}}, r"catalogue\.plans\.x: unknown field 'teir'.*'tier'"),
        ({"plans": {"x": {"tier": "free"}}}, "platform is missing"),
        ({"plans": {"x": {**PLAN, "tier": "fre"}}}, "tier is one of free, .*'free'"),
        ({"plans": {"x": {**PLAN, "data_use": "train"}}}, "data_use is one of none, may_train, unknown"),
        ({"plans": {"x": {**PLAN, "valid_until": "2026-02-30"}}}, "valid_until is a day such as"),
        ({"plans": {"x": {**PLAN, "valid_until": 20260630}}}, "valid_until is a day such as"),
        ({"plans": {"x": {**PLAN, "valid_until": datetime(2026, 6, 3, tzinfo=UTC)}}}, "valid_until is a day such as"),
        (
            {"plans": {"x": {**PLAN, "valid_from": "2026-06-18", "valid_until": "2026-06-17"}}},
            "ends .2026-06-17. before it begins",
        ),
        ({"plans": {"x": {**PLAN, "ended": "gone"}}}, "`ended` needs `valid_until`"),
        ({"plans": {"x": {**PLAN, "windows": "many"}}}, "windows is a list of tables"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "per": "fortnight"}]}}}, r"windows\[0\]: per is one of"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "limit": 0}]}}}, "limit is a number above 0"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "time_zone": 3}]}}}, "time_zone is a text"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "reset": "told"}]}}}, "time_zone exactly when"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "per": "5 hours"}]}}}, "no calendar turns every 5 hours"),
        (
            {"plans": {"x": {**PLAN, "windows": [{"unit": "percent", "limit": 101, "per": "day", "reset": "told"}]}}},
            "at most 100 percent",
        ),
        (
            {"plans": {"x": {**PLAN, "windows": [{"unit": "usd", "limit": 1, "per": "call", "reset": "rolling"}]}}},
            "max_cost= limits a call",
        ),
        (
            {"plans": {"x": {**PLAN, "windows": [{**FIXED, "time_zone": "Mars/Olympus"}]}}},
            "no time zone 'Mars/Olympus'",
        ),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "unit": "words"}]}}}, "unit is one of requests, tokens"),
        ({"plans": {"x": {**PLAN, "windows": [{**FIXED, "limit": -5}]}}}, "limit is a number above 0, not -5"),
        ({"models": {"m": {"context_tokens": 1.5}}}, "context_tokens is a whole number"),
        ({"models": {"m": {"images": "yes"}}}, "images is true or false"),
        ({"endpoints": {"groq": {"models": "*:free"}}}, "models is a list of patterns"),
        ({"defaults": {"openai": {"modle": "m"}}}, "unknown field 'modle'.*'model'"),
    ],
)
def test_a_mistake_names_its_place_and_the_nearest(overrides, words):
    with pytest.raises(InvalidSettings, match=words):
        with_settings(overrides)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["platform", "tier", "title", "data_use", "valid_until", "ended", "windows", "model", "models", "context_tokens"]
)
NAMES = st.sampled_from(["gemini_cli.personal", "groq", "openai", "gpt-6-luna*", "new"])


@given(
    st.dictionaries(
        st.sampled_from(["defaults", "plans", "endpoints", "models"]),
        st.dictionaries(NAMES, st.dictionaries(FIELDS, VALUES, max_size=3) | VALUES, max_size=2) | VALUES,
        max_size=2,
    )
)
def test_settings_give_a_catalogue_or_an_error_that_says_where(overrides):
    try:
        catalogue = with_settings(overrides)
    except InvalidSettings as refused:
        said = str(refused)
    else:
        said = "catalogue: read" if set(shipped().plans) <= set(catalogue.plans) else "records were lost"
    assert said.startswith("catalogue")
