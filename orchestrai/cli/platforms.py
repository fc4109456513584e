"""`orchestrai platforms`: who can answer."""

from __future__ import annotations

import time
from typing import Any

from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.quota import read_quota
from orchestrai.cli.running import NOTHING_RAN, SUCCEEDED
from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.listing import Listed


def platforms(format: FormatOption = Format.text, project: ProjectOption = None) -> int:
    """List what can answer, and how to get the rest.

    With how much of each plan is left. No model is asked for it.
    """
    with Orchestrator(project) as orchestrator:
        read_quota(orchestrator)
        listing, ledger = orchestrator.platforms, orchestrator.ledger_path
    if format is Format.json:
        render.show_json({"platforms": [_record(row) for row in listing], "ledger": str(ledger)})
    else:
        titles, rows = listing.table()
        render.show_table(rows, titles, prose=range(2, len(titles)))
        print()
        render.show_facts([(row.name, row.why) for row in listing])
        render.message(f"\nLedger: {ledger}")
    return SUCCEEDED if listing.found else NOTHING_RAN


def _record(row: Listed) -> dict[str, Any]:
    """Return a platform as an object."""
    now_us = time.time_ns() // 1000
    return {
        "name": row.name,
        "found": row.found,
        "automatic": row.automatic,
        "model": row.model,
        "tier": row.tier,
        "version": row.version,
        "login": row.login,
        "data_use": row.data_use,
        "plan": None if row.plan is None else row.plan.title,
        "limits": dict(row.limits),
        "quota": [
            {
                "window": reading.window,
                "used_percent": reading.used_percent,
                "resets_at_us": reading.resets_at,
                "age_s": round((now_us - reading.observed_at) / 1e6, 3),
                "source": reading.source,
            }
            for reading in row.quota
        ],
        "why": row.why,
    }
