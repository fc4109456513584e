"""The tables of the mirror: what of the ledger an analyst may see. No text of a prompt, an answer or an error is in it."""

from __future__ import annotations

from typing import Final

from orchestrai.costs.transfer import Table

ATTEMPTS: Final = Table(
    "attempts",
    "sends s LEFT JOIN attempts a ON a.send_seq = s.seq",
    "s.seq",
    {
        "seq": ("s.seq", "BIGINT"),
        "task_id": ("s.task_id", "VARCHAR"),
        "attempt_no": ("s.attempt_no", "INTEGER"),
        "attempt_kind": ("s.attempt_kind", "VARCHAR"),
        "batch_id": ("s.batch_id", "VARCHAR"),
        "task_index": ("s.task_index", "BIGINT"),
        "sample": ("s.sample", "BIGINT"),
        "offer_id": ("s.offer_id", "BIGINT"),
        "est_input_tokens": ("s.est_input_tokens", "BIGINT"),
        "est_output_tokens": ("s.est_output_tokens", "BIGINT"),
        "est_cost": ("s.est_cost", "money"),
        "chain_id": ("s.chain_id", "VARCHAR"),
        "parent_task_id": ("s.parent_task_id", "VARCHAR"),
        "root_task_id": ("s.root_task_id", "VARCHAR"),
        "depth": ("s.depth", "INTEGER"),
        "task_type": ("s.task_type", "VARCHAR"),
        "priority": ("s.priority", "BIGINT"),
        "tags": ("s.tags", "VARCHAR"),
        "queued_at": ("s.queued_at", "moment"),
        "started_at": ("s.started_at", "moment"),
        "backoff_ms": ("s.backoff_ms", "DOUBLE"),
        "status": ("a.status", "VARCHAR"),
        "settles": ("a.settles", "flag"),
        "error_class": ("a.error_class", "VARCHAR"),
        "http_status": ("a.http_status", "BIGINT"),
        "model_used": ("a.model_used", "VARCHAR"),
        "service_tier": ("a.service_tier", "VARCHAR"),
        "input_tokens": ("a.input_tokens", "BIGINT"),
        "cache_read_tokens": ("a.cache_read_tokens", "BIGINT"),
        "cache_write_tokens": ("a.cache_write_tokens", "BIGINT"),
        "output_tokens": ("a.output_tokens", "BIGINT"),
        "reasoning_tokens": ("a.reasoning_tokens", "BIGINT"),
        "usage_source": ("a.usage_source", "VARCHAR"),
        "cost": ("a.cost", "money"),
        "list_cost": ("a.list_cost", "money"),
        "cost_source": ("a.cost_source", "VARCHAR"),
        "price_id": ("a.price_id", "VARCHAR"),
        "price_match": ("a.price_match", "VARCHAR"),
        "finished_at": ("a.finished_at", "moment"),
        "duration_ms": ("a.duration_ms", "DOUBLE"),
        "queue_ms": ("a.queue_ms", "DOUBLE"),
        "ttft_ms": ("a.ttft_ms", "DOUBLE"),
        "finish_reason": ("a.finish_reason", "VARCHAR"),
        "task_cost": ("iif(s.attempt_no = 1, a.cost, a.task_cost)", "money"),
        "task_list_cost": ("iif(s.attempt_no = 1, a.list_cost, a.task_list_cost)", "money"),
        "task_ms": ("iif(s.attempt_no = 1, a.duration_ms, a.task_ms)", "DOUBLE"),
    },
    day_of="started_at",
)
"""One row per request; its end is NULL while it is under way."""

OUTCOMES: Final = Table(
    "outcomes",
    "outcomes",
    "seq",
    {
        "seq": ("seq", "BIGINT"),
        "task_id": ("task_id", "VARCHAR"),
        "batch_id": ("batch_id", "VARCHAR"),
        "task_index": ("task_index", "BIGINT"),
        "sample": ("sample", "BIGINT"),
        "status": ("status", "VARCHAR"),
        "error_class": ("error_class", "VARCHAR"),
        "attempts": ("attempts", "BIGINT"),
        "reused_from": ("reused_from", "VARCHAR"),
        "cost": ("cost", "money"),
        "list_cost": ("list_cost", "money"),
        "chain_id": ("chain_id", "VARCHAR"),
        "parent_task_id": ("parent_task_id", "VARCHAR"),
        "root_task_id": ("root_task_id", "VARCHAR"),
        "depth": ("depth", "INTEGER"),
        "task_type": ("task_type", "VARCHAR"),
        "priority": ("priority", "BIGINT"),
        "tags": ("tags", "VARCHAR"),
        "queued_at": ("queued_at", "moment"),
        "settled_at": ("settled_at", "moment"),
        "duration_ms": ("duration_ms", "DOUBLE"),
    },
    day_of="settled_at",
)
"""One row per task that no request of its own settled."""

QUOTA: Final = Table(
    "quota",
    "quota",
    "seq",
    {
        "seq": ("seq", "BIGINT"),
        "platform": ("platform", "VARCHAR"),
        "account": ("account", "VARCHAR"),
        "window": ("window", "VARCHAR"),
        "used_percent": ("used_percent", "DOUBLE"),
        "resets_at": ("resets_at", "moment"),
        "source": ("source", "VARCHAR"),
        "observed_at": ("observed_at", "moment"),
    },
)

BATCHES: Final = Table(
    "batches",
    "batches",
    "",
    {
        "batch_id": ("batch_id", "VARCHAR"),
        "name": ("name", "VARCHAR"),
        "kind": ("kind", "VARCHAR"),
        "project": ("project", "VARCHAR"),
        "status": ("status", "VARCHAR"),
        "task_count": ("task_count", "BIGINT"),
        "created_at": ("created_at", "moment"),
        "finished_at": ("finished_at", "moment"),
        "revision": ("revision", "BIGINT"),
        "lib_version": ("lib_version", "VARCHAR"),
    },
)

OFFERS: Final = Table(
    "offers",
    "offers",
    "offer_id",
    {
        "offer_id": ("offer_id", "BIGINT"),
        "platform": ("platform", "VARCHAR"),
        "transport": ("transport", "VARCHAR"),
        "provider": ("provider", "VARCHAR"),
        "tier": ("tier", "VARCHAR"),
        "model_requested": ("model_requested", "VARCHAR"),
        "demo": ("demo", "flag"),
        "account": ("account", "VARCHAR"),
        "processing": ("processing", "VARCHAR"),
        "route_reason": ("route_reason", "VARCHAR"),
        "route_rank": ("route_rank", "INTEGER"),
    },
)

PRICES: Final = Table(
    "prices",
    "prices",
    "",
    {
        "price_id": ("price_id", "VARCHAR"),
        "provider": ("provider", "VARCHAR"),
        "model": ("model", "VARCHAR"),
        "context": ("context", "VARCHAR"),
        "unit_prices": ("unit_prices", "VARCHAR"),
        "source": ("source", "VARCHAR"),
        "source_version": ("source_version", "VARCHAR"),
        "source_url": ("source_url", "VARCHAR"),
        "effective_from": ("effective_from", "day"),
        "first_used_at": ("first_used_at", "moment"),
    },
)

CHAINS: Final = Table(
    "chains",
    "chains",
    "",
    {
        "chain_id": ("chain_id", "VARCHAR"),
        "name": ("name", "VARCHAR"),
        "project": ("project", "VARCHAR"),
        "created_at": ("created_at", "moment"),
    },
)

LOGS: Final = (ATTEMPTS, OUTCOMES, QUOTA)
"""Read on from the last number that was seen."""
SMALL: Final = (OFFERS, PRICES, CHAINS)
"""Read whole, when there are more rows than before."""
