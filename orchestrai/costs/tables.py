"""The tables of the mirror: what of the ledger an analyst may see. No text of a prompt, an answer or an error is in it."""

from __future__ import annotations

from typing import Final

from orchestrai.costs.transfer import Table

_OF_A_TASK: Final = {
    "chain_id": "VARCHAR",
    "parent_task_id": "VARCHAR",
    "root_task_id": "VARCHAR",
    "depth": "INTEGER",
    "task_type": "VARCHAR",
    "priority": "BIGINT",
    "tags": "VARCHAR",
    "queued_at": "moment",
}

ATTEMPTS: Final = Table(
    "attempts",
    "sends s LEFT JOIN attempts a ON a.send_seq = s.seq",
    {
        "seq": "BIGINT",
        "task_id": "VARCHAR",
        "attempt_no": "INTEGER",
        "attempt_kind": "VARCHAR",
        "batch_id": "VARCHAR",
        "task_index": "BIGINT",
        "sample": "BIGINT",
        "offer_id": "BIGINT",
        "est_input_tokens": "BIGINT",
        "est_output_tokens": "BIGINT",
        "est_cost": "money",
        **_OF_A_TASK,
        "started_at": "moment",
        "backoff_ms": "DOUBLE",
        "status": "VARCHAR",
        "settles": "flag",
        "error_class": "VARCHAR",
        "http_status": "BIGINT",
        "model_used": "VARCHAR",
        "service_tier": "VARCHAR",
        "input_tokens": "BIGINT",
        "cache_read_tokens": "BIGINT",
        "cache_write_tokens": "BIGINT",
        "output_tokens": "BIGINT",
        "reasoning_tokens": "BIGINT",
        "usage_source": "VARCHAR",
        "cost": "money",
        "list_cost": "money",
        "cost_source": "VARCHAR",
        "price_id": "VARCHAR",
        "price_match": "VARCHAR",
        "finished_at": "moment",
        "duration_ms": "DOUBLE",
        "queue_ms": "DOUBLE",
        "ttft_ms": "DOUBLE",
        "finish_reason": "VARCHAR",
        "task_cost": "money",
        "task_list_cost": "money",
        "task_ms": "DOUBLE",
    },
    day_of="started_at",
    read_as={
        "seq": "s.seq",
        "task_cost": "iif(s.attempt_no = 1, a.cost, a.task_cost)",
        "task_list_cost": "iif(s.attempt_no = 1, a.list_cost, a.task_list_cost)",
        "task_ms": "iif(s.attempt_no = 1, a.duration_ms, a.task_ms)",
    },
)
"""One row per request; its end is NULL while it is under way."""

OUTCOMES: Final = Table(
    "outcomes",
    "outcomes",
    {
        "seq": "BIGINT",
        "task_id": "VARCHAR",
        "batch_id": "VARCHAR",
        "task_index": "BIGINT",
        "sample": "BIGINT",
        "status": "VARCHAR",
        "error_class": "VARCHAR",
        "attempts": "BIGINT",
        "reused_from": "VARCHAR",
        "cost": "money",
        "list_cost": "money",
        **_OF_A_TASK,
        "settled_at": "moment",
        "duration_ms": "DOUBLE",
    },
    day_of="settled_at",
)
"""One row per task that no request of its own settled."""

QUOTA: Final = Table(
    "quota",
    "quota",
    {
        "seq": "BIGINT",
        "platform": "VARCHAR",
        "account": "VARCHAR",
        "window": "VARCHAR",
        "used_percent": "DOUBLE",
        "resets_at": "moment",
        "source": "VARCHAR",
        "observed_at": "moment",
    },
)

BATCHES: Final = Table(
    "batches",
    "batches",
    {
        "batch_id": "VARCHAR",
        "name": "VARCHAR",
        "kind": "VARCHAR",
        "project": "VARCHAR",
        "status": "VARCHAR",
        "task_count": "BIGINT",
        "created_at": "moment",
        "finished_at": "moment",
        "lib_version": "VARCHAR",
    },
)

OFFERS: Final = Table(
    "offers",
    "offers",
    {
        "offer_id": "BIGINT",
        "platform": "VARCHAR",
        "transport": "VARCHAR",
        "provider": "VARCHAR",
        "tier": "VARCHAR",
        "model_requested": "VARCHAR",
        "demo": "flag",
        "account": "VARCHAR",
        "processing": "VARCHAR",
        "route_reason": "VARCHAR",
        "route_rank": "INTEGER",
    },
)

PRICES: Final = Table(
    "prices",
    "prices",
    {
        "price_id": "VARCHAR",
        "provider": "VARCHAR",
        "model": "VARCHAR",
        "context": "VARCHAR",
        "unit_prices": "VARCHAR",
        "source": "VARCHAR",
        "source_version": "VARCHAR",
        "source_url": "VARCHAR",
        "effective_from": "day",
        "first_used_at": "moment",
    },
)

CHAINS: Final = Table(
    "chains",
    "chains",
    {
        "chain_id": "VARCHAR",
        "name": "VARCHAR",
        "project": "VARCHAR",
        "created_at": "moment",
    },
)

LOGS: Final = (ATTEMPTS, OUTCOMES, QUOTA)
"""Read on from the last number that was seen."""
SMALL: Final = (OFFERS, PRICES, CHAINS)
"""Read whole, when there are more rows than before."""
