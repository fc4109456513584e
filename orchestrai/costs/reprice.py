"""Repricing: what the requests of the ledger would have cost at another model's price, to the last digit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from orchestrai import list_prices
from orchestrai.costs.mirror import Mirror
from orchestrai.costs.period import Part
from orchestrai.costs.sql import frame, rows
from orchestrai.errors import InvalidInput, nearest
from orchestrai.pricing import Price, PriceList
from orchestrai.results.frames import Money

if TYPE_CHECKING:
    import pandas as pd

_FIRST_ASKED: Final = ("openai", "anthropic", "google")  # where several providers list a model of one name
_LARGEST: Final = 2**63 - 1

# The same arithmetic as Price.pico: whole parts of a pico-USD, divided once, half-even.
_REPRICED: Final = """
WITH charges(above, upto, plain, cache_read, cache_write, answer, reasoning, request) AS (VALUES {charges}),
used AS (
    SELECT platform, model, tier, cost, list_cost, input_tokens, output_tokens, coalesce(cache_read_tokens, 0) AS read,
           coalesce(cache_write_tokens, 0) AS written, coalesce(reasoning_tokens, 0) AS thought
    FROM attempts
    WHERE {where} AND status IN ('succeeded', 'failed') AND (status = 'succeeded' OR list_cost IS NULL OR list_cost > 0)
), parted AS (
    SELECT platform, model, tier, cost, list_cost, input_tokens, output_tokens,
           CASE WHEN read >= 0 AND written >= 0 AND read + written <= input_tokens
                     AND thought BETWEEN 0 AND output_tokens AND (output_tokens = 0 OR answer IS NOT NULL)
                THEN (input_tokens - read - written) :: HUGEINT * plain + read :: HUGEINT * cache_read
                     + written :: HUGEINT * cache_write + request
                     + CASE WHEN output_tokens = 0 THEN 0 ELSE (output_tokens - thought) :: HUGEINT * answer
                            + thought :: HUGEINT * reasoning END
           END AS parts
    FROM used LEFT JOIN charges ON input_tokens > above AND input_tokens <= upto
), divided AS (
    SELECT * EXCLUDE (parts), parts // {by} AS whole, parts % {by} AS rest FROM parted
), priced AS (
    SELECT * EXCLUDE (whole, rest),
           TRY_CAST(
               TRY_CAST(whole + CASE WHEN 2 * rest > {by} OR (2 * rest = {by} AND whole % 2 = 1) THEN 1 ELSE 0 END
                        AS DECIMAL(20, 0)) * '0.000000000001' :: DECIMAL(13, 12) AS DECIMAL(18, 12)) AS repriced
    FROM divided
)
SELECT platform, model, tier, count(*) AS attempts, count(*) FILTER (repriced IS NULL) AS unknown,
       coalesce(sum(input_tokens), 0) :: BIGINT AS input_tokens, coalesce(sum(output_tokens), 0) :: BIGINT AS output_tokens,
       coalesce(sum(cost), 0) AS cost, coalesce(sum(list_cost), 0) AS list_cost,
       coalesce(sum(repriced), 0) AS repriced_cost,
       coalesce(sum(repriced), 0) - coalesce(sum(cost) FILTER (repriced IS NOT NULL), 0) AS difference
FROM priced GROUP BY ALL ORDER BY repriced_cost DESC, platform, model
"""


def reprice(mirror: Mirror, part: Part, price: Price, money: Money) -> pd.DataFrame:
    """Return what the same tokens would have cost, at one price; see `Costs.reprice`."""
    by, tiers = price.charges()
    uptos = [*(above for above, _ in tiers[1:]), _LARGEST]
    charges = ", ".join(
        f"({', '.join(_number(value) for value in (above, upto, *rates))})"
        for (above, rates), upto in zip(tiers, uptos, strict=True)
    )
    where, parameters = part.where("started_at")
    found = frame(
        mirror, _REPRICED.format(charges=charges, where=where, by=f"{by} :: HUGEINT"), parameters, money=money
    )
    import pandas as pd

    return found.assign(
        repriced_as=f"{price.provider}/{price.model}",
        price_match=price.match,
        price_source=price.source,
        price_version=price.source_version or "",
        price_since=pd.Series(
            [pd.Timestamp(price.effective_from) if price.effective_from else pd.NaT] * len(found),
            dtype="datetime64[us]",
        ),
    )


def find_price(
    mirror: Mirror,
    prices: PriceList,
    model: str,
    *,
    at: datetime | None = None,
    processing: str = "sync",
    service_tier: str | None = None,
) -> Price:
    """Return the price of a model by its name, or by `provider/model`.

    Raises:
        InvalidInput: No list has it.
    """
    if not isinstance(model, str):
        raise InvalidInput(f"A model is given by its name, not {model!r}.")
    for provider, name in _candidates(mirror, model):
        if price := prices.find(provider, name, at=at, processing=processing, service_tier=service_tier):
            return price
    known = [name for provider in _FIRST_ASKED for name in list_prices.model_ids(provider)]
    raise InvalidInput(
        f'{model!r} is on no price list.{nearest(model.rpartition("/")[2], known)} Write "provider/model" for one of a '
        'certain provider, or give it a price of your own in the settings: [prices."provider/model"].'
    )


def _candidates(mirror: Mirror, model: str) -> Iterable[tuple[str, str]]:
    provider, slash, name = model.partition("/")
    if slash:
        yield provider, name
    asked = [row[0] for row in rows(mirror, "SELECT DISTINCT provider FROM attempts ORDER BY provider")]
    for provider in dict.fromkeys((*_FIRST_ASKED, *asked, *list_prices.provider_ids())):
        yield provider, model


def _number(value: int | None) -> str:
    return "NULL :: HUGEINT" if value is None else f"{int(value)} :: HUGEINT"
