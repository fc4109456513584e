"""Money is exact, its origin is known, and what is unknown is None: never zero, never a guess."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrai
from orchestrai.errors import InvalidSettings
from orchestrai.pricing import Price, PriceList, check_own_price, from_pico, to_pico
from orchestrai.result import Usage

LIST = PriceList()
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROW = {"input_mtok": "0.28", "output_mtok": "1.10"}
PICO = Decimal("0.000000000001")
WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)


def usage(tokens_in=1_000, tokens_out=100, read=None, written=None, reasoning=None):
    return Usage(tokens_in, read, written, tokens_out, reasoning, "provider")


def run_python(code: str) -> str:
    """Run a program in a fresh interpreter that may not use the network."""
    root = Path(orchestrai.__file__).parent.parent
    forbid = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event.startswith(('socket.', 'urllib.')): raise RuntimeError('network: ' + event)\n"
        "sys.addaudithook(refuse)\n"
        f"sys.path.insert(0, {str(root)!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", forbid + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- the arithmetic

USAGES = (
    usage(0, 0),
    usage(1, 1),
    usage(1_234, 567),
    usage(1_200, 60, read=1_024, written=76, reasoning=32),
    usage(99_999, 4_321, read=50_000, reasoning=4_321),
    usage(128_001, 1_000, written=128_001),
    usage(200_000, 777, read=3),
    usage(200_001, 777, read=3),
    usage(272_001, 65_536, read=100_001, written=1_001, reasoning=60_000),
    usage(1_000_001, 1, reasoning=1),
)
CONTEXTS = (
    ({}, {}),
    ({"processing": "batch"}, {"processing": "batch"}),
    ({"service_tier": "batch"}, {"processing": "batch"}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"service_tier": "priority"}, {"service_tier": "priority"}),
    ({"service_tier": "fast"}, {"service_tier": "fast", "speed": "fast"}),
    ({"service_tier": "flex", "processing": "batch"}, {"service_tier": "flex", "processing": "batch"}),
)


def theirs(model, provider, used, at, context):
    from genai_prices import Usage as TheirUsage

    counts = {
        "input_tokens": used.input_tokens,
        "cache_read_tokens": used.cache_read_tokens,
        "cache_write_tokens": used.cache_write_tokens,
        "output_tokens": used.output_tokens,
        "output_reasoning_tokens": used.reasoning_tokens,
    }
    with localcontext(WIDE):
        price = model.calc_price(
            TheirUsage(**counts), provider, genai_request_timestamp=at, price_context=context or None
        )
        return price.total_price.quantize(PICO)


def test_every_cost_is_what_genai_prices_computes():
    from genai_prices.data import providers

    models, compared = set(), 0
    for provider in providers:
        for model in provider.models:
            for ours, context in CONTEXTS if model.price_variants else CONTEXTS[:1]:
                for at in (NOON, NOON - timedelta(days=400), NOON + timedelta(hours=14)):
                    price = LIST.find(provider.id, model.id, at=at, **ours)
                    if price is None or price.model != model.id:
                        continue  # unpriced by tokens, or an earlier entry of the list claims this name
                    models.add((provider.id, model.id))
                    for used in USAGES:
                        if "output_mtok" not in price.unit_prices and used.output_tokens:
                            assert price.cost(used) is None
                        else:
                            assert price.cost(used) == theirs(model, provider, used, at, context), (model.id, used)
                            compared += 1
    print(f"{len(models)} models, {compared} costs equal")
    assert len(models) >= 1_500
    assert compared >= 40_000


def test_control_a_price_by_float_would_not_be_exact():
    assert 3 * 0.1 != 0.3
    price = PriceList({"p/m": {"input_mtok": 0.1, "output_mtok": 0.1}}).find("p", "m")
    assert price.cost(usage(3_000_000, 0)) == Decimal("0.3")


PRICES = st.decimals("0.001", "1000", allow_nan=False, places=9) | st.just(Decimal(0))


@given(
    prices=st.tuples(PRICES, PRICES, PRICES, PRICES, PRICES),
    counts=st.tuples(*[st.integers(0, 10**8)] * 5),
)
def test_a_cost_is_the_exact_sum_rounded_once(prices, counts):
    plain, read, written, said, reasoning = counts
    names = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok")
    price = PriceList({"p/m": dict(zip(names, prices, strict=True))}).find("p", "m")
    exact = sum((Fraction(c) * Fraction(p) / 10**6 for c, p in zip(counts, prices, strict=True)), Fraction(0))
    pico = exact * 10**12
    rounded = round(pico)  # Python rounds a Fraction half-even
    used = usage(plain + read + written, said + reasoning, read, written, reasoning)
    assert price.pico(used) == rounded
    assert price.cost(used) == WIDE.divide(Decimal(rounded), Decimal(10**12))


def test_half_a_pico_dollar_goes_to_the_even_neighbour():
    price = PriceList({"p/m": {"input_mtok": "0.0010005", "output_mtok": 0}}).find("p", "m")
    assert [price.pico(usage(n, 0)) for n in (1, 3, 5)] == [1_000, 3_002, 5_002]


def test_the_decimal_context_of_the_notebook_changes_no_cent():
    def priced():
        fresh = PriceList({"p/m": {"input_mtok": "0.123456789", "output_mtok": "1.1"}})
        return [
            price.cost(usage(123_457, 8_765))
            for price in (fresh.find("p", "m"), fresh.find("openai", "gpt-4o", at=NOON))
        ]

    expected = priced()
    with localcontext(Context(prec=3)):
        assert priced() == expected
        assert to_pico(Decimal("1.234567890123")) == 1_234_567_890_123


def test_a_whole_request_is_priced_at_its_tier():
    price = LIST.find("google", "gemini-2.5-pro", at=NOON)
    assert price.cost(usage(200_000, 1_000)) == Decimal("0.26")
    assert price.cost(usage(200_001, 1_000)) == Decimal("0.5150025")
    ((above, units),) = price.tiers
    assert (above, units["input_mtok"], units["output_mtok"]) == (200_000, Decimal("2.5"), 15)


def test_a_fee_for_the_request_is_part_of_its_cost():
    price = LIST.find("perplexity", "sonar", at=NOON)
    assert price.cost(usage(0, 0)) == price.unit_prices["requests_kcount"] / 1000


@given(st.decimals("-999999", "999999", allow_nan=False, places=12))
def test_pico_dollars_and_dollars_are_the_same_money(amount):
    assert from_pico(to_pico(amount)) == amount


def test_unknown_money_stays_unknown():
    assert to_pico(None) is None
    assert from_pico(None) is None
    assert str(from_pico(0)) == "0"


# --- unknown is never free


@pytest.mark.parametrize(
    "used",
    [
        Usage(),
        usage(None, 5),
        usage(5, None),
        usage(-1, 5),
        usage(5, -1),
        usage(10, 5, read=-1),
        usage(10, 5, written=-3),
        usage(10, 5, reasoning=-1),
        usage(10, 5, read=6, written=5),
        usage(10, 5, reasoning=6),
        usage(10**18, 5),
        usage(5, 10**18),
        usage(10**9 + 1, 0),
        usage(float("nan"), 5),
        usage(5, float("inf")),
    ],
)
def test_a_usage_that_makes_no_sense_has_no_cost(used):
    for price in (LIST.find("openai", "gpt-4o", at=NOON), PriceList({"p/m": ROW | {"input_mtok": 0}}).find("p", "m")):
        assert price.cost(used) is None
        assert price.pico(used) is None


def test_a_million_dollars_is_no_cost_of_one_request():
    price = PriceList({"p/m": {"input_mtok": 1000, "output_mtok": 1000}}).find("p", "m")
    assert price.cost(usage(10**9, 0)) is None
    assert price.cost(usage(10**9 - 1, 0)) == Decimal("999999.999")


def test_unknown_cache_counts_cost_the_full_price():
    price = LIST.find("openai", "gpt-4o", at=NOON)
    assert price.cost(usage(1_000, 10)) == price.cost(usage(1_000, 10, 0, 0, 0))
    assert price.cost(usage(1_000, 10)) > price.cost(usage(1_000, 10, read=900))


def test_a_class_with_its_own_price_missing_costs_as_its_whole():
    price = PriceList({"p/m": ROW}).find("p", "m")
    assert price.cost(usage(1_000, 100, 500, 200, 50)) == price.cost(usage(1_000, 100))


def test_output_of_a_model_that_has_no_output_price_has_no_cost():
    price = LIST.find("openai", "text-embedding-3-small", at=NOON)
    assert price.cost(usage(1_000, 0)) > 0
    assert price.cost(usage(1_000, 1)) is None
    assert price.unit_cost is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-6.2-sol"),
        ("anthropic", "claude-sonnet-6"),
        ("openai", "llama-3.3-70b"),
        ("vllm", "gpt-4o"),
        ("my-openai-server", "gpt-4o"),  # genai-prices itself would take it for openai
        ("openai-compatible", "gpt-4o"),
        ("local", "SmolLM2-135M-Instruct"),
        ("openrouter", "agentica-org/deepcoder-14b-preview:free"),  # listed without any price
        ("groq", "whisper-large-v3"),  # priced by the hour
        ("", "gpt-4o"),
        (None, "gpt-4o"),
        ("openai", None),
        ("openai", ""),
    ],
)
def test_a_model_that_is_not_on_the_list_has_no_price(provider, model):
    assert LIST.find(provider, model, at=NOON) is None


def test_control_genai_prices_alone_takes_a_server_with_a_known_word_in_its_name():
    from genai_prices import Usage as TheirUsage
    from genai_prices import calc_price

    assert calc_price(TheirUsage(input_tokens=1_000), "gpt-4o", provider_id="my-openai-server").total_price > 0


def test_every_listed_price_is_one_that_we_would_accept_ourselves():
    from genai_prices.data import providers

    seen = 0
    for provider in providers:
        for model in provider.models:
            if price := LIST.find(provider.id, model.id, at=NOON):
                for units in (price.unit_prices, *(units for _, units in price.tiers)):
                    assert all(p == 0 or Decimal("0.001") <= p <= 1000 for p in units.values())
                    seen += 1
    assert seen > 1_500


# --- which price


def test_a_dated_name_is_an_alias_of_its_model():
    named, dated = (LIST.find("openai", name, at=NOON) for name in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"))
    assert (named.match, dated.match) == ("exact", "alias")
    assert named.price_id == dated.price_id


def test_an_anthropic_batch_is_priced_as_one():
    standard = LIST.find("anthropic", "claude-sonnet-4-5", at=NOON)
    reported = LIST.find("anthropic", "claude-sonnet-4-5", at=NOON, service_tier="batch")
    asked = LIST.find("anthropic", "claude-sonnet-4-5", at=NOON, processing="batch")
    assert reported == asked
    assert reported.match == "exact"
    assert reported.cost(usage()) * 2 == standard.cost(usage())
    assert reported.context == {"processing": "batch"}


@pytest.mark.parametrize("tier", ["", "standard", "default", "auto", "on_demand", "Standard", None])
def test_the_standard_tier_has_the_standard_price(tier):
    assert LIST.find("openai", "gpt-4o", at=NOON, service_tier=tier) == LIST.find("openai", "gpt-4o", at=NOON)


@pytest.mark.parametrize(
    ("provider", "model", "asked"),
    [
        ("anthropic", "claude-sonnet-4-5", {"service_tier": "priority"}),
        ("openai", "gpt-4o", {"service_tier": "scale"}),
        ("azure", "gpt-4o", {"processing": "batch"}),  # borrowed from openai's list, without its variants
        ("openai", "gpt-4o", {"service_tier": "unheard-of", "processing": "batch"}),
    ],
)
def test_a_context_without_a_price_of_its_own_is_flagged(provider, model, asked):
    price = LIST.find(provider, model, at=NOON, **asked)
    assert price.match == "standard_fallback"


def test_the_fast_tier_of_anthropic_is_listed_as_a_speed():
    fast = LIST.find("anthropic", "claude-opus-5-5", at=NOON, service_tier="fast")
    assert fast.match == "exact"
    assert fast.cost(usage()) > LIST.find("anthropic", "claude-opus-5-5", at=NOON).cost(usage())


def test_the_answering_model_is_priced_and_the_requested_one_stands_in():
    answered = LIST.find("openai", "gpt-4o-mini-2024-07-18", requested="gpt-4o", at=NOON)
    assert answered.model == "gpt-4o-mini"
    assert LIST.find("openai", "gpt-9-secret", requested="gpt-4o", at=NOON).model == "gpt-4o"
    assert LIST.find("openai", None, requested="gpt-4o", at=NOON).model == "gpt-4o"
    assert LIST.find("openai", "gpt-9-secret", requested="gpt-9", at=NOON) is None


def test_a_price_is_that_of_the_day_of_the_request():
    from genai_prices.data import providers
    from genai_prices.types import StartDateConstraint

    changed = 0
    for provider in providers:
        for model in provider.models:
            dated = model.prices if isinstance(model.prices, list) else []
            starts = [p.constraint.start_date for p in dated if isinstance(p.constraint, StartDateConstraint)]
            if len(dated) != 2 or len(starts) != 1:
                continue
            start = datetime.combine(starts[0], datetime.min.time(), UTC)
            after = LIST.find(provider.id, model.id, at=start)
            before = LIST.find(provider.id, model.id, at=start - timedelta(seconds=1))
            if after and before and after.model == model.id and after != before:
                changed += 1
                assert after.effective_from == starts[0]
                assert before.effective_from is None
    assert changed >= 50


def test_an_hour_of_the_day_can_have_its_own_price():
    prices = {
        hour: LIST.find("deepseek", "deepseek-v4-pro", at=datetime(2026, 11, 20, hour, tzinfo=UTC)).unit_prices
        for hour in (0, 1, 3, 4, 6, 9, 10, 23)
    }
    peak = {
        hour for hour, units in prices.items() if units["input_mtok"] == max(u["input_mtok"] for u in prices.values())
    }
    assert peak == {1, 3, 6, 9}


def test_a_moment_means_the_same_in_every_zone():
    zone = timezone(timedelta(hours=9))
    at = datetime(2026, 11, 20, 2, 30, tzinfo=UTC)
    expected = LIST.find("deepseek", "deepseek-v4-pro", at=at)
    assert LIST.find("deepseek", "deepseek-v4-pro", at=at.astimezone(zone)) == expected
    assert LIST.find("deepseek", "deepseek-v4-pro", at=at.replace(tzinfo=None)) == expected


def test_now_is_the_moment_when_none_is_told():
    assert LIST.find("openai", "gpt-4o") == LIST.find("openai", "gpt-4o", at=datetime.now(UTC))


def test_a_price_before_computers_is_found_without_an_error():
    assert LIST.find("openai", "gpt-4o", at=datetime(1950, 1, 1, tzinfo=UTC)) is not None


# --- one's own prices


def test_a_row_of_the_settings_stands_before_the_list():
    prices = PriceList({"deepseek/deepseek-chat": ROW | {"source": "contract", "valid_from": "2026-01-01"}})
    own = prices.find("deepseek", "deepseek-chat", at=NOON)
    assert (own.source, own.match, own.source_version) == ("override", "override", "contract")
    assert own.effective_from == date(2026, 1, 1)
    assert own.cost(usage(1_000_000, 1_000_000)) == Decimal("1.38")
    assert prices.find("deepseek", "deepseek-chat", at=datetime(2025, 12, 31, tzinfo=UTC)).source == "genai-prices"


def test_the_newest_row_that_has_begun_is_the_price():
    rows = [
        {"input_mtok": 3, "output_mtok": 3, "valid_from": date(2026, 6, 1)},
        {"input_mtok": 1, "output_mtok": 1},
        {"input_mtok": 2, "output_mtok": 2, "valid_from": "2026-03-01"},
    ]
    prices = PriceList({"vllm/qwen": rows})
    found = [
        prices.find("vllm", "qwen", at=datetime(2026, month, 1, tzinfo=UTC)).unit_prices["input_mtok"]
        for month in (1, 3, 5, 6, 12)
    ]
    assert found == [1, 2, 2, 3, 3]


def test_a_row_of_a_model_holds_for_its_dated_names():
    prices = PriceList({"openai/gpt-4o": ROW})
    assert prices.find("openai", "gpt-4o-2024-08-06", at=NOON).source == "override"
    assert prices.find("OpenAI", "GPT-4o", at=NOON).source == "override"
    assert prices.find("openai", "gpt-4o-mini", at=NOON).source == "genai-prices"


def test_a_row_of_a_dated_name_holds_for_that_name_alone():
    prices = PriceList({"openai/gpt-4o-2024-08-06": ROW})
    assert prices.find("openai", "gpt-4o-2024-08-06", at=NOON).source == "override"
    assert prices.find("openai", "gpt-4o", at=NOON).source == "genai-prices"


def test_the_platforms_own_price_stands_before_all():
    prices = PriceList({"vllm/m": ROW})
    own = {"input_mtok": 0, "output_mtok": 0.5}
    found = prices.find("vllm", "m", own=own)
    assert (found.source, found.match) == ("platform", "override")
    assert found.cost(usage(1_000_000, 1_000_000)) == Decimal("0.5")
    assert prices.find(None, "m", own=own).cost(usage(5, 0)) == 0
    assert prices.find("vllm", "m").source == "override"
    assert prices.find("vllm", "m", own=dict(own)).unit_prices == found.unit_prices


def test_an_empty_own_price_is_none():
    assert LIST.find("openai", "gpt-4o", at=NOON, own={}).source == "genai-prices"
    assert LIST.find("vllm", "m", at=NOON, own=MappingProxyType({})) is None


def test_ones_own_fee_for_a_request_is_charged_once():
    price = PriceList().find("p", "m", own=MappingProxyType(ROW | {"requests_kcount": 5}))
    assert price.cost(usage(0, 0)) == Decimal("0.005")


def test_prices_of_many_platforms_are_never_mixed_up():
    prices = PriceList()
    for cents in range(1, 300):
        own = {"input_mtok": cents, "output_mtok": cents}
        assert prices.find("vllm", "m", own=own).unit_prices["input_mtok"] == cents


def test_a_float_is_taken_at_its_shortest_decimal():
    price = PriceList({"p/m": {"input_mtok": 0.28, "output_mtok": 1.1}}).find("p", "m")
    assert price.unit_prices == {"input_mtok": Decimal("0.28"), "output_mtok": Decimal("1.1")}


@pytest.mark.parametrize(
    ("key", "row", "words"),
    [
        ("p/m", ROW | {"input_mtoks": 1}, "'input_mtok'"),
        ("p/m", ROW | {"cache_read": 1}, "'cache_read_mtok'"),
        ("p/m", {"input_mtok": 1}, "output_mtok is missing"),
        ("p/m", ROW | {"input_mtok": "0.00000028"}, "per token"),
        ("p/m", ROW | {"input_mtok": 1000.5}, "per token"),
        ("p/m", ROW | {"input_mtok": -1}, "between"),
        ("p/m", ROW | {"input_mtok": "NaN"}, "between"),
        ("p/m", ROW | {"input_mtok": float("inf")}, "between"),
        ("p/m", ROW | {"input_mtok": "cheap"}, "no price"),
        ("p/m", ROW | {"input_mtok": True}, "not bool"),
        ("p/m", ROW | {"input_mtok": None}, "not NoneType"),
        ("p/m", ROW | {"valid_from": "January"}, "2026-01-31"),
        ("p/m", ROW | {"valid_from": 20260101}, "2026-01-31"),
        ("p/m", ROW | {"source": 7}, "label"),
        ("p/m", [ROW, ROW], "same day"),
        ("p/m", [], "list of dated tables"),
        ("p/m", "0.28", "list of dated tables"),
        ("p/m", [3], "not int"),
        ("gpt-4o", ROW, "provider/model"),
        ("openai/", ROW, "provider/model"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(key, row, words):
    with pytest.raises(InvalidSettings, match="prices") as refused:
        PriceList({key: row})
    assert words in str(refused.value)
    assert key in str(refused.value)


def test_zero_is_a_price():
    price = PriceList({"p/m": {"input_mtok": 0, "output_mtok": "-0"}}).find("p", "m")
    assert price.cost(usage()) == 0
    assert str(price.unit_prices["output_mtok"]) == "0"


def test_a_platform_can_check_its_price_when_it_is_made():
    check_own_price(ROW, "OpenAI(name='vllm', price=…)")
    with pytest.raises(InvalidSettings, match=r"vllm.*output_mtok"):
        check_own_price({"input_mtok": 1}, "OpenAI(name='vllm', price=…)")


# --- identity


def test_a_price_id_is_the_same_for_the_same_price_everywhere():
    a = PriceList({"p/m": {"input_mtok": "0.10", "output_mtok": 1}}).find("p", "m")
    b = PriceList({"p/m": {"output_mtok": "1.000", "input_mtok": 0.1}}).find("p", "m")
    assert a == b
    assert hash(a) == hash(b)
    assert len(a.price_id) == 16


def test_any_difference_makes_another_price_id():
    base = {"provider": "p", "model": "m", "source": "override", "match": "override"}
    units = {"input_mtok": Decimal(1), "output_mtok": Decimal(2)}
    others = [
        Price(**base, unit_prices=units),
        Price(**base | {"provider": "q"}, unit_prices=units),
        Price(**base | {"model": "n"}, unit_prices=units),
        Price(**base | {"source": "platform"}, unit_prices=units),
        Price(**base, unit_prices=units | {"output_mtok": Decimal(3)}),
        Price(**base, unit_prices=units, context={"processing": "batch"}),
        Price(**base, unit_prices=units, tiers=((200_000, units),)),
    ]
    assert len({price.price_id for price in others}) == len(others)


def test_a_row_for_the_ledger_holds_the_whole_price():
    price = LIST.find("google", "gemini-2.5-pro", at=NOON, processing="batch")
    row = price.row()
    assert list(row) == [
        "price_id", "provider", "model", "context", "unit_prices", "source", "source_version", "source_url",
        "effective_from",
    ]  # fmt: skip
    assert all(value is None or isinstance(value, str) for value in row.values())
    assert orjson.loads(row["context"]) == {"processing": "batch"}
    units = orjson.loads(row["unit_prices"])
    (tier,) = units.pop("tiers")
    assert units == {name: str(value) for name, value in price.unit_prices.items()}
    assert tier["above"] == 200_000
    assert Decimal(tier["input_mtok"]) == price.tiers[0][1]["input_mtok"]
    assert row["source_version"].count(".") == 2


def test_a_price_survives_being_copied():
    price = LIST.find("google", "gemini-2.5-pro", at=NOON)
    twin = copy.deepcopy(price)
    assert twin == price
    assert twin.cost(usage(200_001, 5)) == price.cost(usage(200_001, 5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        price.model = "other"


def test_unit_cost_orders_by_a_typical_mix():
    assert LIST.find("openai", "gpt-4o", at=NOON).unit_cost == (3 * Decimal("2.5") + 10) / 4


# --- lazy, offline, alone


def test_nothing_is_loaded_before_the_first_price_and_nothing_is_fetched():
    code = (
        "import orchestrai.pricing as p\n"
        "print(any(m.startswith('genai_prices') for m in sys.modules))\n"
        "prices = p.PriceList({'vllm/m': {'input_mtok': 1, 'output_mtok': 1}})\n"
        "prices.find(None, 'm')\n"
        "print(any(m.startswith('genai_prices') for m in sys.modules))\n"
        "print(prices.find('openai', 'gpt-4o').model)\n"
    )
    assert run_python(code).split() == ["False", "False", "gpt-4o"]


def test_a_snapshot_that_another_library_set_changes_no_price():
    code = (
        "from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot\n"
        "theirs = DataSnapshot(providers=[], from_auto_update=True)\n"
        "set_custom_snapshot(theirs)\n"
        "from orchestrai.pricing import PriceList\n"
        "print(PriceList().find('openai', 'gpt-4o').source, get_snapshot() is theirs)\n"
    )
    assert run_python(code) == "genai-prices True"


def test_threads_find_the_same_prices():
    prices = PriceList()
    names = [("openai", "gpt-4o"), ("google", "gemini-2.5-pro"), ("deepseek", "deepseek-v4-pro"), ("x", "y")] * 50
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: prices.find(*name, at=NOON), names))
    assert found == [LIST.find(*name, at=NOON) for name in names]


def test_what_was_found_is_kept_within_bounds():
    prices = PriceList({"p/m": ROW})
    for day in range(12_000):
        prices.find("p", "m", at=datetime(1990, 1, 1, tzinfo=UTC) + timedelta(days=day))
    assert len(prices._found) <= 10_000
