"""The tables of a ledger, as numbered steps that are only ever added to.

Rows are append-only, except in `batches`, `claims`, `memories`, `shared`, the index over answers and what is counted for
quotas, so that an analyst reads on from the last row it saw. Times are UTC [µs since 1970]; money is in pico-dollars [10^-12 USD]; NULL means unknown, 0 a known
zero. A request is known by the number of its row in `sends`, which grows with every commit; whatever belongs to it names
that number.

    batches      one row per call: what was asked, when, by which process
    offers       one row per distinct way to be answered: platform, account, model, tier, and why it was taken
    sends        one row per request, committed before it leaves             (commit 1 of an attempt)
    attempts     one row per request, committed before its result is shown   (commit 2 of an attempt); in the order of
                 their ends
    outcomes     one row per task of a call that no attempt of its own settled: reused, cancelled, given up
    tasks        a view: one row per settled task, whatever settled it
    prompts      the text of a task, under its first request
    answers      the text that came back
    systems      system prompts, which many tasks share, under their digest
    answer_log   what can be reused, in the order in which it came
    answer_keys  the same by key, folded from the log now and then: a random key costs a page, many share one
    answer_fold  how far the log is folded
    memories     what `orch.memory` holds: texts of its own, and answers of tasks; a deleted one keeps its row
    segments     which memories the search index has, by its collections
    chains       one row per run of a chain
    handoffs     what a task was handed by others, or waited for
    shared       the values that the tasks of a chain share
    quota        one row per reading of a quota window, as a reply or a refusal told it; the newest one counts
    meters       one row per quota window of an account and per budget: what it measures
    usage        what was used of a meter, by buckets of time
    reservations what requests under way may use of it; gone when they end
    consents     platforms whose plan may train on the data, once a person has agreed
    prices       one row per distinct price vector an attempt was priced with
    claims       tasks somebody is working on; a row that stays behind names a request in doubt
    owners       the processes that work, or worked, on this ledger
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

APPLICATION_ID: Final = 0x6F726368  # "orch": tells a ledger from any other SQLite file


def _m001_initial(connection: sqlite3.Connection) -> None:
    _run(connection, _INITIAL)


def _m002_numbers_quotas_chains(connection: sqlite3.Connection) -> None:
    _run(connection, _NUMBERED)
    _run(connection, _QUOTAS)
    _run(connection, _CHAINS)


def _m003_ends_as_they_come(connection: sqlite3.Connection) -> None:
    _run(connection, _APPENDED)


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run statements one by one: `executescript` would end the transaction."""
    for statement in script.split(";"):
        if statement.strip():
            connection.execute(statement)


_INITIAL: Final = """
CREATE TABLE owners (
    owner_id TEXT PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, started_at INTEGER NOT NULL,
    ended_at INTEGER, lib_version TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE batches (
    batch_id TEXT PRIMARY KEY, name TEXT, kind TEXT NOT NULL, project TEXT, session_id TEXT, owner_id TEXT NOT NULL,
    digest BLOB, task_count INTEGER, options TEXT, status TEXT NOT NULL, created_at INTEGER NOT NULL,
    finished_at INTEGER, revision INTEGER NOT NULL DEFAULT 0, lib_version TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX batches_by_name ON batches (name) WHERE name IS NOT NULL;

CREATE TABLE offers (
    offer_id INTEGER PRIMARY KEY, platform TEXT NOT NULL, transport TEXT NOT NULL, provider TEXT NOT NULL,
    tier TEXT NOT NULL, model_requested TEXT NOT NULL, demo INTEGER NOT NULL, account TEXT, server_address TEXT,
    processing TEXT NOT NULL, route_reason TEXT NOT NULL, route_rank INTEGER NOT NULL
);

CREATE TABLE sends (
    seq INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL UNIQUE, task_id TEXT NOT NULL, attempt_no INTEGER NOT NULL,
    attempt_kind TEXT NOT NULL, batch_id TEXT NOT NULL, task_index INTEGER NOT NULL, sample INTEGER NOT NULL,
    key BLOB NOT NULL, offer_id INTEGER NOT NULL, est_input_tokens INTEGER, est_output_tokens INTEGER,
    est_cost INTEGER, system_digest TEXT, chain_id TEXT, chain_step INTEGER, parent_task_id TEXT,
    root_task_id TEXT, depth INTEGER, task_type TEXT, priority INTEGER, tags TEXT, queued_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL, throttle_ms REAL, backoff_ms REAL
);

CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL UNIQUE, task_id TEXT NOT NULL, status TEXT NOT NULL,
    error_class TEXT, error_type TEXT, error_message TEXT, http_status INTEGER, retryable INTEGER,
    retry_after_ms INTEGER, model_used TEXT, service_tier TEXT, input_tokens INTEGER, cache_read_tokens INTEGER,
    cache_write_tokens INTEGER, output_tokens INTEGER, reasoning_tokens INTEGER, usage_source TEXT NOT NULL,
    usage_raw TEXT, cost INTEGER, list_cost INTEGER, cost_source TEXT NOT NULL, price_id TEXT, price_match TEXT,
    finished_at INTEGER NOT NULL, duration_ms REAL, queue_ms REAL, ttft_ms REAL, streamed INTEGER NOT NULL,
    finish_reason TEXT, schema_valid INTEGER, response_id TEXT, request_id TEXT, rl_requests_left INTEGER,
    rl_tokens_left INTEGER
);

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE, batch_id TEXT NOT NULL, task_index INTEGER NOT NULL,
    sample INTEGER NOT NULL, key BLOB NOT NULL, status TEXT NOT NULL, error_class TEXT, error TEXT,
    attempts INTEGER NOT NULL, answer_attempt_id TEXT, reused_from TEXT, cost INTEGER, list_cost INTEGER,
    chain_id TEXT, chain_step INTEGER, parent_task_id TEXT, root_task_id TEXT, depth INTEGER, task_type TEXT,
    priority INTEGER, tags TEXT, queued_at INTEGER NOT NULL, settled_at INTEGER NOT NULL, duration_ms REAL
);
CREATE INDEX tasks_answers ON tasks (key) WHERE status = 'succeeded' AND reused_from IS NULL;

CREATE TABLE payloads (ref TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (ref, kind));

CREATE TABLE quota (
    seq INTEGER PRIMARY KEY, platform TEXT NOT NULL, account TEXT NOT NULL, window TEXT NOT NULL, used_percent REAL,
    resets_at INTEGER, source TEXT NOT NULL, observed_at INTEGER NOT NULL,
    UNIQUE (platform, account, window, observed_at)
);

CREATE TABLE prices (
    price_id TEXT PRIMARY KEY, provider TEXT NOT NULL, model TEXT NOT NULL, context TEXT, unit_prices TEXT NOT NULL,
    source TEXT NOT NULL, source_version TEXT, source_url TEXT, effective_from TEXT, first_used_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE claims (
    claim BLOB PRIMARY KEY, task_id TEXT NOT NULL, attempt_id TEXT NOT NULL, owner_id TEXT NOT NULL
) WITHOUT ROWID
"""

# An index over random keys, and four over ids, took more time than all rows: requests became numbered, and an answer is
# found by a log that is folded into its index now and then.
_NUMBERED: Final = """
ALTER TABLE sends RENAME TO old_sends;
CREATE TABLE sends (
    seq INTEGER PRIMARY KEY, attempt_id TEXT NOT NULL, task_id TEXT NOT NULL, attempt_no INTEGER NOT NULL,
    attempt_kind TEXT NOT NULL, prompt_seq INTEGER, batch_id TEXT NOT NULL, task_index INTEGER NOT NULL,
    sample INTEGER NOT NULL, key BLOB NOT NULL, offer_id INTEGER NOT NULL, est_input_tokens INTEGER,
    est_output_tokens INTEGER, est_cost INTEGER, system_digest TEXT, chain_id TEXT,
    parent_task_id TEXT, root_task_id TEXT, depth INTEGER, task_type TEXT, priority INTEGER, tags TEXT,
    queued_at INTEGER NOT NULL, started_at INTEGER NOT NULL, throttle_ms REAL, backoff_ms REAL
);
INSERT INTO sends
SELECT seq, attempt_id, task_id, attempt_no, attempt_kind,
       nullif(min(seq) OVER (PARTITION BY task_id), seq), batch_id, task_index, sample, key, offer_id,
       est_input_tokens, est_output_tokens, est_cost, system_digest, chain_id, parent_task_id, root_task_id,
       depth, task_type, priority, tags, queued_at, started_at, throttle_ms, backoff_ms
FROM old_sends ORDER BY seq;

ALTER TABLE attempts RENAME TO old_attempts;
CREATE TABLE attempts (
    send_seq INTEGER PRIMARY KEY, status TEXT NOT NULL, settles INTEGER NOT NULL, error_class TEXT, error_type TEXT,
    error_message TEXT, http_status INTEGER, retryable INTEGER, retry_after_ms INTEGER, model_used TEXT,
    service_tier TEXT, input_tokens INTEGER, cache_read_tokens INTEGER, cache_write_tokens INTEGER,
    output_tokens INTEGER, reasoning_tokens INTEGER, usage_source TEXT NOT NULL, usage_raw TEXT, cost INTEGER,
    list_cost INTEGER, cost_source TEXT NOT NULL, price_id TEXT, price_match TEXT, finished_at INTEGER NOT NULL,
    duration_ms REAL, queue_ms REAL, ttft_ms REAL, streamed INTEGER NOT NULL, finish_reason TEXT,
    schema_valid INTEGER, response_id TEXT, request_id TEXT, rl_requests_left INTEGER, rl_tokens_left INTEGER,
    task_cost INTEGER, task_list_cost INTEGER, task_ms REAL
);
INSERT INTO attempts
SELECT s.seq, a.status,
       coalesce(a.status IN ('succeeded', 'failed') AND a.seq = max(a.seq) OVER (PARTITION BY a.task_id)
           AND t.status = a.status AND t.reused_from IS NULL, 0),
       a.error_class, a.error_type, a.error_message, a.http_status, a.retryable, a.retry_after_ms, a.model_used,
       a.service_tier, a.input_tokens, a.cache_read_tokens, a.cache_write_tokens, a.output_tokens,
       a.reasoning_tokens, a.usage_source, a.usage_raw, a.cost, a.list_cost, a.cost_source, a.price_id,
       a.price_match, a.finished_at, a.duration_ms, a.queue_ms, a.ttft_ms, a.streamed, a.finish_reason,
       a.schema_valid, a.response_id, a.request_id, a.rl_requests_left, a.rl_tokens_left,
       t.cost, t.list_cost, t.duration_ms
FROM old_attempts a JOIN old_sends s USING (attempt_id) LEFT JOIN tasks t ON t.task_id = a.task_id
ORDER BY s.seq;

ALTER TABLE tasks RENAME TO old_tasks;
DROP INDEX tasks_answers;
CREATE TABLE outcomes (
    seq INTEGER PRIMARY KEY, task_id TEXT NOT NULL, batch_id TEXT NOT NULL, task_index INTEGER NOT NULL,
    sample INTEGER NOT NULL, key BLOB NOT NULL, status TEXT NOT NULL, error_class TEXT, error TEXT,
    attempts INTEGER NOT NULL, reused_from TEXT, cost INTEGER, list_cost INTEGER, chain_id TEXT,
    parent_task_id TEXT, root_task_id TEXT, depth INTEGER, task_type TEXT, priority INTEGER,
    tags TEXT, queued_at INTEGER NOT NULL, settled_at INTEGER NOT NULL, duration_ms REAL
);
INSERT INTO outcomes
SELECT seq, task_id, batch_id, task_index, sample, key, status, error_class, error, attempts, reused_from, cost,
       list_cost, chain_id, parent_task_id, root_task_id, depth, task_type, priority, tags, queued_at,
       settled_at, duration_ms
FROM old_tasks
WHERE task_id NOT IN (SELECT s.task_id FROM attempts a JOIN sends s ON s.seq = a.send_seq WHERE a.settles)
ORDER BY seq;

CREATE TABLE prompts (send_seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL);
INSERT INTO prompts
SELECT s.seq, p.kind, p.text FROM sends s JOIN payloads p ON p.ref = s.task_id AND p.kind IN ('prompt', 'messages')
WHERE s.prompt_seq IS NULL ORDER BY s.seq;
CREATE TABLE answers (send_seq INTEGER PRIMARY KEY, text TEXT NOT NULL);
INSERT INTO answers
SELECT s.seq, p.text FROM sends s JOIN payloads p ON p.ref = s.attempt_id AND p.kind = 'answer' ORDER BY s.seq;
CREATE TABLE systems (digest TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO systems SELECT ref, text FROM payloads WHERE kind = 'system';

CREATE TABLE answer_log (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, send_seq INTEGER NOT NULL);
CREATE TABLE answer_keys (key BLOB NOT NULL, send_seq INTEGER NOT NULL, PRIMARY KEY (key, send_seq)) WITHOUT ROWID;
CREATE TABLE answer_fold (upto INTEGER NOT NULL);
INSERT INTO answer_fold VALUES (0);
INSERT INTO answer_keys
SELECT s.key, s.seq FROM sends s JOIN attempts a ON a.send_seq = s.seq
WHERE a.settles AND a.status = 'succeeded' AND a.finish_reason IS NOT 'length' ORDER BY s.key, s.seq;

ALTER TABLE claims RENAME TO old_claims;
CREATE TABLE claims (
    claim BLOB PRIMARY KEY, task_id TEXT NOT NULL, send_seq INTEGER NOT NULL, owner_id TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO claims SELECT c.claim, c.task_id, s.seq, c.owner_id FROM old_claims c JOIN old_sends s USING (attempt_id);
DROP TABLE old_claims;
DROP TABLE old_sends;
DROP TABLE old_attempts;
DROP TABLE old_tasks;
DROP TABLE payloads
"""

_QUOTAS: Final = """
CREATE TABLE meters (
    meter_id TEXT PRIMARY KEY, platform TEXT, account TEXT NOT NULL, unit TEXT NOT NULL, quantity INTEGER NOT NULL,
    per TEXT NOT NULL, reset TEXT NOT NULL, time_zone TEXT, source TEXT NOT NULL, hard INTEGER NOT NULL,
    noted_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE usage (
    meter_id TEXT NOT NULL, bucket INTEGER NOT NULL, used INTEGER NOT NULL, over INTEGER NOT NULL,
    reserved INTEGER NOT NULL, PRIMARY KEY (meter_id, bucket)
) WITHOUT ROWID;
CREATE TABLE reservations (
    send_seq INTEGER NOT NULL, meter_id TEXT NOT NULL, bucket INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (send_seq, meter_id)
) WITHOUT ROWID;
CREATE TABLE consents (
    platform TEXT NOT NULL, account TEXT NOT NULL, given_at INTEGER NOT NULL, PRIMARY KEY (platform, account)
) WITHOUT ROWID
"""

_CHAINS: Final = """
CREATE TABLE memories (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, memory_id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    chars INTEGER NOT NULL, text TEXT, send_seq INTEGER, metadata TEXT, chain_id TEXT, created_at INTEGER NOT NULL,
    deleted_at INTEGER
);
CREATE TABLE segments (
    name TEXT PRIMARY KEY, embedding TEXT NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    chunks INTEGER NOT NULL, reached INTEGER NOT NULL, digest BLOB NOT NULL, made_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE chains (
    chain_id TEXT PRIMARY KEY, name TEXT NOT NULL, project TEXT, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX chains_by_name ON chains (name, created_at);
INSERT INTO chains
SELECT chain_id, chain_id, max(project), min(queued_at)
FROM (SELECT chain_id, batch_id, queued_at FROM sends UNION ALL SELECT chain_id, batch_id, queued_at FROM outcomes)
JOIN batches USING (batch_id) WHERE chain_id IS NOT NULL GROUP BY chain_id;
CREATE INDEX sends_by_chain ON sends (chain_id) WHERE chain_id IS NOT NULL;
CREATE INDEX outcomes_by_chain ON outcomes (chain_id) WHERE chain_id IS NOT NULL;

CREATE TABLE handoffs (
    task_id TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, parent_task_id TEXT NOT NULL,
    memory_id TEXT, digest BLOB, spans TEXT, PRIMARY KEY (task_id, position)
) WITHOUT ROWID;
CREATE TABLE shared (
    chain_id TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, revision INTEGER NOT NULL,
    changed_at INTEGER NOT NULL, PRIMARY KEY (chain_id, name)
) WITHOUT ROWID
"""

# Requests end in another order than they left. Numbered as they left, each end fell on a page of its own, and a commit
# wrote three times as many pages as its rows fill.
_APPENDED: Final = """
DROP VIEW IF EXISTS tasks;
ALTER TABLE attempts RENAME TO old_attempts;
CREATE TABLE attempts (
    seq INTEGER PRIMARY KEY, send_seq INTEGER NOT NULL UNIQUE, status TEXT NOT NULL, settles INTEGER NOT NULL,
    error_class TEXT, error_type TEXT, error_message TEXT, http_status INTEGER, retryable INTEGER,
    retry_after_ms INTEGER, model_used TEXT, service_tier TEXT, input_tokens INTEGER, cache_read_tokens INTEGER,
    cache_write_tokens INTEGER, output_tokens INTEGER, reasoning_tokens INTEGER, usage_source TEXT NOT NULL,
    usage_raw TEXT, cost INTEGER, list_cost INTEGER, cost_source TEXT NOT NULL, price_id TEXT, price_match TEXT,
    finished_at INTEGER NOT NULL, duration_ms REAL, queue_ms REAL, ttft_ms REAL, streamed INTEGER NOT NULL,
    finish_reason TEXT, schema_valid INTEGER, response_id TEXT, request_id TEXT, rl_requests_left INTEGER,
    rl_tokens_left INTEGER, task_cost INTEGER, task_list_cost INTEGER, task_ms REAL
);
INSERT INTO attempts SELECT NULL, * FROM old_attempts ORDER BY finished_at, send_seq;
DROP TABLE old_attempts;

CREATE VIEW tasks AS
SELECT s.task_id, s.batch_id, s.task_index, s.sample, s.key, a.status, a.error_class, a.error_message AS error,
       s.attempt_no AS attempts, NULL AS reused_from, iif(s.attempt_no = 1, a.cost, a.task_cost) AS cost,
       iif(s.attempt_no = 1, a.list_cost, a.task_list_cost) AS list_cost, s.chain_id,
       s.parent_task_id, s.root_task_id, s.depth, s.task_type, s.priority, s.tags, s.queued_at,
       a.finished_at AS settled_at, iif(s.attempt_no = 1, a.duration_ms, a.task_ms) AS duration_ms
FROM attempts a JOIN sends s ON s.seq = a.send_seq WHERE a.settles
UNION ALL
SELECT task_id, batch_id, task_index, sample, key, status, error_class, error, attempts, reused_from, cost,
       list_cost, chain_id, parent_task_id, root_task_id, depth, task_type, priority, tags, queued_at,
       settled_at, duration_ms
FROM outcomes
"""

MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    _m001_initial,
    _m002_numbers_quotas_chains,
    _m003_ends_as_they_come,
)
SCHEMA_VERSION: Final = len(MIGRATIONS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a ledger of an older version to this one, one transaction a step.

    Args:
        connection: In autocommit mode, with the write lock held.
        version: The ledger's present version; 0 for an empty file.
    """
    for number, step in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            step(connection)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:  # whatever it was, it goes on, and no half of a step is kept
            if connection.in_transaction:  # the error may itself have ended it (disk full does)
                connection.execute("ROLLBACK")
            raise
