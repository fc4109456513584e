-- What an analyst sees. Times are TIMESTAMPTZ, `day` is the day in this machine's time zone; money is DECIMAL(18, 12) USD,
-- NULL where unknown; tokens are inclusive totals. Columns are documented in docs/how-to/costs.md.

CREATE VIEW prices AS
SELECT price_id, provider, model, context, unit_prices, source, source_version, source_url, effective_from, first_used_at
FROM ledger.prices;

CREATE VIEW batches AS
SELECT batch_id, name, kind, project, status, task_count, created_at, finished_at, lib_version FROM ledger.batches;

CREATE VIEW chains AS SELECT chain_id, name, project, created_at FROM ledger.chains;

CREATE VIEW quota AS
SELECT platform, account, "window", used_percent, resets_at, source, observed_at FROM ledger.quota;

-- One row per request.
CREATE VIEW attempts AS
SELECT a.seq, a.task_id, a.attempt_no, a.attempt_kind, a.batch_id, a.task_index, a.sample, o.platform, o.provider,
       coalesce(a.model_used, o.model_requested) AS model, o.model_requested, o.tier, o.transport, o.processing,
       a.service_tier, o.demo, o.account, o.route_reason, o.route_rank, a.chain_id, a.parent_task_id, a.root_task_id,
       a.depth, a.task_type, a.priority, a.tags, a.est_input_tokens, a.est_output_tokens, a.est_cost,
       coalesce(a.status, 'open') AS status, coalesce(a.settles, false) AS settles, a.error_class, a.http_status,
       a.input_tokens, a.cache_read_tokens, a.cache_write_tokens, a.output_tokens, a.reasoning_tokens, a.usage_source,
       a.cost, a.list_cost, a.cost_source, a.price_id, a.price_match, a.queued_at, a.started_at, a.finished_at, a.day,
       a.queue_ms / 1000 AS queue_s, a.backoff_ms / 1000 AS backoff_s, a.duration_ms / 1000 AS duration_s,
       a.ttft_ms / 1000 AS ttft_s, a.finish_reason
FROM ledger.attempts a JOIN ledger.offers o USING (offer_id);

-- One row per settled task, whatever settled it; cost and time are those of all its attempts.
CREATE VIEW tasks AS
SELECT a.task_id, a.batch_id, a.task_index, a.sample, a.status, a.error_class, a.attempt_no :: BIGINT AS attempts,
       false AS reused, NULL :: VARCHAR AS reused_from, o.platform, coalesce(a.model_used, o.model_requested) AS model,
       o.tier, a.task_cost AS cost, a.task_list_cost AS list_cost, a.chain_id, a.parent_task_id, a.root_task_id, a.depth,
       a.task_type, a.priority, a.tags, a.queued_at, a.finished_at AS settled_at, a.day,
       a.task_ms / 1000 AS duration_s
FROM ledger.attempts a JOIN ledger.offers o USING (offer_id)
WHERE a.settles
UNION ALL
SELECT task_id, batch_id, task_index, sample, status, error_class, attempts, reused_from IS NOT NULL AND status = 'succeeded',
       reused_from, NULL, NULL, NULL, cost, list_cost, chain_id, parent_task_id, root_task_id, depth, task_type,
       priority, tags, queued_at, settled_at, day, duration_ms / 1000
FROM ledger.outcomes;

-- Attempts and what they come to, by day.
CREATE VIEW v_daily AS
SELECT day, platform, model, tier, count(*) AS attempts, count(*) FILTER (settles) AS settled,
       count(*) FILTER (settles AND status = 'succeeded') AS succeeded, sum(cost) AS cost, sum(list_cost) AS list_cost,
       count(*) FILTER (cost IS NULL) AS unknown_cost, sum(input_tokens) :: BIGINT AS input_tokens,
       sum(output_tokens) :: BIGINT AS output_tokens
FROM attempts GROUP BY ALL;

-- Unit prices [USD per million tokens] of each price vector, one row for each tier of input tokens.
CREATE VIEW v_price_tiers AS
WITH vectors AS (
    SELECT price_id, unit_prices :: JSON AS base, from_json(unit_prices :: JSON -> 'tiers', '["JSON"]') AS tiers
    FROM ledger.prices
), steps AS (
    SELECT price_id, 0 :: BIGINT AS above, base AS units FROM vectors
    UNION ALL
    SELECT price_id, (tier ->> 'above') :: BIGINT, tier FROM (SELECT price_id, unnest(tiers) AS tier FROM vectors)
)
SELECT price_id, above, lead(above, 1, 9223372036854775807) OVER (PARTITION BY price_id ORDER BY above) AS upto,
       (units ->> 'input_mtok') :: DECIMAL(18, 9) AS input_mtok,
       coalesce(units ->> 'cache_read_mtok', units ->> 'input_mtok') :: DECIMAL(18, 9) AS cache_read_mtok,
       coalesce(units ->> 'cache_write_mtok', units ->> 'input_mtok') :: DECIMAL(18, 9) AS cache_write_mtok
FROM steps;

-- What was not paid, and why: a task's answer was there already (reuse), its input was cached at the provider (cache,
-- against the full price of the same tokens), its platform was free, a subscription or local (against the list price).
CREATE VIEW ledger.savings AS
SELECT started_at AS moment, day, batch_id, tier AS kind, platform, list_cost - cost AS saved, list_cost IS NULL AS unpriced
FROM main.attempts WHERE tier <> 'paid' AND status <> 'open'
UNION ALL
SELECT started_at, day, batch_id, 'cache', platform,
       round((coalesce(cache_read_tokens, 0) :: DECIMAL(18, 0) * (p.input_mtok - p.cache_read_mtok)
              + coalesce(cache_write_tokens, 0) :: DECIMAL(18, 0) * (p.input_mtok - p.cache_write_mtok))
             * 0.000001 :: DECIMAL(7, 6), 12) :: DECIMAL(18, 12),
       false
FROM main.attempts JOIN main.v_price_tiers p USING (price_id)
WHERE (cache_read_tokens > 0 OR cache_write_tokens > 0) AND list_cost > 0 AND input_tokens > above AND input_tokens <= upto
UNION ALL
SELECT settled_at, day, batch_id, 'reuse', NULL, list_cost, list_cost IS NULL
FROM ledger.outcomes WHERE reused_from IS NOT NULL AND status = 'succeeded';

CREATE VIEW v_savings AS
SELECT day, kind, platform, count(*) AS times, sum(saved) AS saved, count(*) FILTER (unpriced) AS unpriced
FROM ledger.savings GROUP BY ALL;

-- Attempts and tasks in one: what every question groups. A task that no request of its own settled has a row of its own,
-- which costs nothing: what its requests cost stands in theirs.
CREATE VIEW ledger.work AS
SELECT started_at AS moment, day, batch_id, chain_id, task_type, tags, platform, model, tier, true AS attempt, settles AS task,
       settles AND status = 'succeeded' AS succeeded, false AS reused, status, error_class, cost, list_cost,
       list_cost - cost AS saved, input_tokens, cache_read_tokens, output_tokens, reasoning_tokens, duration_s
FROM main.attempts
UNION ALL
SELECT settled_at, day, batch_id, chain_id, task_type, tags, NULL, NULL, NULL, false, true,
       status = 'succeeded', reused_from IS NOT NULL AND status = 'succeeded', status, error_class, 0, 0,
       CASE WHEN reused_from IS NOT NULL AND status = 'succeeded' THEN list_cost ELSE 0 END, NULL, NULL, NULL, NULL, NULL
FROM ledger.outcomes;
