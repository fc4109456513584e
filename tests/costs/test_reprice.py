"""Repricing: to the last digit what genai-prices, a hand and the engine's own arithmetic say, for every class and tier."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

import genai_prices
import pytest
from genai_prices.types import Usage as ListUsage
from history import Writer, orchestrator, pico, usage

from orchestrai import InvalidInput
from orchestrai.pricing import PriceList

AT = datetime(2026, 11, 28, 12, tzinfo=UTC)
# Tokens: read from a cache, written to one, plain; answer, reasoning.
USAGES = [
    (0, 0, 0, 0, 0), (0, 0, 1, 1, 0), (0, 0, 1_000, 500, 0), (900, 0, 100, 50, 0), (0, 700, 300, 20, 0),
    (400, 300, 300, 10, 200), (0, 0, 100_000, 1, 0), (0, 0, 100_001, 1, 0), (1, 0, 200_000, 7, 3), (0, 0, 200_001, 9, 0),
    (272_000, 0, 0, 0, 0), (200_000, 72_001, 0, 100, 11), (0, 0, 999_999, 64_000, 63_999), (7, 11, 13, 17, 19),
]  # fmt: skip
MODELS = (
    "openai/gpt-5-mini", "openai/gpt-6.1-sol", "openai/gpt-4o", "anthropic/claude-haiku-5-5", "anthropic/claude-sonnet-5-5",
    "anthropic/claude-sonnet-4-5", "google/gemini-2.5-pro", "google/gemini-2.5-flash", "google/gemini-3.8-flash",
)  # fmt: skip
# USD per million tokens as the providers publish them: input, output, cached read, cache write.
PUBLISHED = {
    "openai/gpt-5-mini": ("0.25", "2", "0.025", None),
    "openai/gpt-6-luna": ("0.1", "0.5", "0.01", "0.125"),
    "anthropic/claude-haiku-4-5": ("1", "5", "0.1", "1.25"),
    "anthropic/claude-sonnet-5-5": ("2", "10", "0.1", "2.5"),
    "google/gemini-2.5-flash": ("0.3", "2.5", "0.03", None),
    "google/gemini-3.8-flash": ("0.75", "3.75", "0.075", None),
}


@pytest.fixture(scope="module")
def orch(tmp_path_factory):
    """Return an orchestrator whose ledger has one request of each usage, and some that cannot be priced."""
    folder = tmp_path_factory.mktemp("repriced")
    writer = Writer(folder / ".orchestrai")
    writer.offer(1, "openai", "paid")
    batch = writer.batch()
    for read, written, plain, answer, thought in USAGES:
        send = writer.send(batch)
        used = usage(read, written, plain, answer, thought)
        end = writer.end(
            send, cost=10**6, input_tokens=used.input_tokens, output_tokens=used.output_tokens, model_used=f"m{send.seq}",
            cache_read_tokens=read, cache_write_tokens=written, reasoning_tokens=thought,
        )  # fmt: skip
        writer.write(send, end)
    unknown = writer.send(batch)
    writer.write(unknown, writer.end(unknown, input_tokens=None, model_used="unknown"))
    absurd = writer.send(batch)
    writer.write(absurd, writer.end(absurd, input_tokens=5, cache_read_tokens=9, model_used="absurd"))
    unbilled = writer.send(batch)
    writer.write(unbilled, writer.end(unbilled, cost=0, status="failed", settles=0, model_used="unbilled"))
    writer.close()
    with orchestrator(folder) as made:
        yield made


def repriced(orch, model: str, **options) -> dict[str, Decimal]:
    found = orch.costs.reprice(model, at=AT, money="decimal", **options)
    return dict(zip(found["model"], found["repriced_cost"], strict=True))


@pytest.mark.parametrize("processing", ["sync", "batch"])
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_arithmetic_of_genai_prices_for_every_class_tier_and_batch(orch, model, processing):
    provider, name = model.split("/")
    found = repriced(orch, model, processing=processing)
    for i, (read, written, plain, answer, thought) in enumerate(USAGES, start=1):
        listed = genai_prices.calc_price(
            ListUsage(
                input_tokens=read + written + plain, cache_read_tokens=read, cache_write_tokens=written,
                output_tokens=answer + thought, output_reasoning_tokens=thought,
            ),
            model_ref=name,
            provider_id=provider,
            genai_request_timestamp=AT,
            price_context={"processing": "batch"} if processing == "batch" else None,
        ).total_price  # fmt: skip
        exact = listed.quantize(Decimal("1e-12"), rounding=ROUND_HALF_EVEN)
        assert found[f"m{i}"] == exact, (model, USAGES[i - 1])


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_arithmetic_by_which_the_engine_books(orch, model):
    provider, name = model.split("/")
    price = PriceList().find(provider, name, at=AT)
    found = repriced(orch, model)
    for i, given in enumerate(USAGES, start=1):
        assert found[f"m{i}"] == price.cost(usage(*given))


@pytest.mark.parametrize("model", PUBLISHED)
def test_it_is_what_a_hand_computes_from_the_published_prices(orch, model):
    plain, answer, read, written = (None if p is None else Decimal(p) for p in PUBLISHED[model])
    found = repriced(orch, model)
    for i, (cached, kept, fresh, said, thought) in enumerate(USAGES, start=1):
        if cached + kept + fresh > 100_000:
            continue  # tiers: above
        by_hand = fresh * plain + cached * read + kept * (written or plain) + (said + thought) * answer
        assert found[f"m{i}"] == by_hand / 1_000_000


def test_a_price_of_ones_own_counts_and_halves_are_rounded_to_even(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    for tokens in (1, 3):
        send = writer.send(writer.batch())
        writer.write(send, writer.end(send, input_tokens=tokens, output_tokens=0, model_used=f"{tokens}"))
    writer.close()
    own = {"mine/half": {"input_mtok": "0.0010005", "output_mtok": "1", "source": "contract"}}
    with orchestrator(tmp_path, prices=own) as orch:
        found = orch.costs.reprice("mine/half", money="decimal").set_index("model")
        # 1,000.5 and 3,001.5 pico-USD: a tie goes to the even neighbour.
        assert [pico(found["repriced_cost"][m]) for m in ("1", "3")] == [1_000, 3_002]
        assert found["price_source"].tolist() == ["override"] * 2
        assert found["price_version"].tolist() == ["contract"] * 2


def test_what_cannot_be_priced_is_counted_and_what_was_not_charged_is_left_out(orch):
    found = orch.costs.reprice("gpt-5-mini").set_index("model")
    assert found["unknown"][["unknown", "absurd"]].tolist() == [1, 1]
    assert found["unknown"].sum() == 2
    assert "unbilled" not in found.index


def test_more_than_money_can_be_is_unknown_and_bars_nothing(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    for tokens in (10**6, 2**62):
        send = writer.send(writer.batch())
        writer.write(send, writer.end(send, input_tokens=tokens, output_tokens=0, model_used="m"))
    writer.close()
    with orchestrator(tmp_path) as orch:
        found = orch.costs.reprice("gpt-5-mini", money="decimal")
        assert found["unknown"].tolist() == [1]
        assert found["repriced_cost"].tolist() == [Decimal("0.25")]


def test_the_price_is_named_with_its_source_and_date(orch):
    found = orch.costs.reprice("anthropic/claude-haiku-5-5")
    assert set(found["repriced_as"]) == {"anthropic/claude-haiku-5-5"}
    assert set(found["price_source"]) == {"genai-prices"}
    assert set(found["price_version"]) == {genai_prices.__version__}
    assert found["price_since"].dtype == "datetime64[us]"


def test_the_difference_is_against_the_cash_of_the_same_requests(orch):
    found = orch.costs.reprice("gpt-5-mini", money="decimal")
    priced = found[found["unknown"] == 0]
    assert (priced["difference"] == priced["repriced_cost"] - priced["cost"]).all()


def test_a_model_that_no_list_has_names_the_nearest(orch):
    with pytest.raises(InvalidInput, match=r"on no price list\. Did you mean 'gpt-5-mini'"):
        orch.costs.reprice("gpt-5-minni")


def test_cached_input_saves_the_difference_of_its_prices(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    price_id = writer.price("gpt-5-mini")
    price = PriceList().find("openai", "gpt-5-mini")
    send = writer.send(writer.batch())
    used = usage(900, 0, 100, 50, 0)
    cost = pico(price.cost(used))
    writer.write(
        send,
        writer.end(send, cost=cost, input_tokens=1_000, output_tokens=50, cache_read_tokens=900, price_id=price_id),
    )
    writer.close()
    with orchestrator(tmp_path) as orch:
        found = orch.costs.savings(money="decimal").set_index("kind")
        assert found["saved"].to_dict() == {"cache": price.cost(usage(0, 0, 1_000, 50, 0)) - price.cost(used)}
