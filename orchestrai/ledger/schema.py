"""The tables of a ledger, as numbered steps that are only ever added to.

Rows are append-only, except in `batches` and `claims`, so that an analyst reads on from the last `seq` it saw.
Times are UTC [µs since 1970]; money is in pico-dollars [10^-12 USD]; NULL means unknown, 0 a known zero.

    batches    one row per call: what was asked, when, by which process
    offers     one row per distinct way to be answered: platform, account, model, tier, and why it was taken
    sends      one row per request, committed before it leaves           (commit 1 of an attempt)
    attempts   one row per request, committed before its result is shown (commit 2 of an attempt)
    tasks      one row per task of a call, once it is settled; an answer is the attempt it names, its own or the one
               it was reused from
    payloads   texts: of a prompt under its task's id, of an answer under its attempt's, of a system prompt, which
               many tasks share, under its digest (ids grow with time, so that rows are added at the end of an index)
    quota      one row per reading of a quota window, as a reply or a refusal told it; the newest one counts
    prices     one row per distinct price vector an attempt was priced with
    claims     tasks somebody is working on; a row that stays behind names an attempt in doubt
    owners     the processes that work, or worked, on this ledger
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final

APPLICATION_ID: Final = 0x6F726368  # "orch": tells a ledger from any other SQLite file


def _m001_initial(connection: sqlite3.Connection) -> None:
    for statement in _INITIAL.split(";"):
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

MIGRATIONS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (_m001_initial,)
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
