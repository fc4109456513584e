"""`orchestrai quota`: how much of every window and budget is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrai import plan_text
from orchestrai.cli import render
from orchestrai.cli.options import Format, FormatOption, ProjectOption
from orchestrai.cli.running import SUCCEEDED
from orchestrai.orchestrator import Orchestrator
from orchestrai.plan import WindowUse


def quota(format: FormatOption = Format.text, project: ProjectOption = None) -> int:
    """Show how much of every quota and budget is used.

    Until when, and who says so. No model is asked for it.
    """
    with Orchestrator(project) as orchestrator:
        read_quota(orchestrator)
        meters = orchestrator.quota
    if format is Format.json:
        render.show_json({"windows": [window_record(use, held) for use, held in meters.rows()]})
    elif len(meters):
        show_windows(meters, planned=False)
    else:
        render.show_text(plan_text.quota_block(meters))
    return SUCCEEDED


def read_quota(orchestrator: Orchestrator) -> None:
    """Ask the clients of plans how much of them is left, where there are any."""
    if any(hasattr(finding.platform, "quota") for finding in orchestrator.findings):
        with render.waiting("asking how much of the plans is left …"):
            orchestrator.read_quota()


def window_record(use: WindowUse, reserved: float | None = None) -> dict[str, Any]:
    """Return a quota window or budget as the object that `quota` and `plan` print."""
    record = {
        "platform": use.platform,
        "window": use.window,
        "unit": use.unit,
        "limit": use.limit,
        "used": use.used if reserved is None or use.used is None else use.used - reserved,
        "percent": use.percent_before,
        "resets_at_us": use.resets_at,
        "source": use.source,
        "age_s": None if use.age_s is None else round(use.age_s, 3),
    }
    if reserved is not None:
        return record | {"reserved": reserved}
    return record | {"planned": use.planned, "percent_after": use.percent_after}


def show_windows(uses: Iterable[WindowUse], *, planned: bool) -> None:
    """Print quota windows and budgets; `planned` adds what a plan will use of them."""
    rows = plan_text.window_rows(uses, planned=planned)
    render.show_table(rows, plan_text.QUOTA_TITLES, right={2, 3, 4}, prose={0, 1, 6})
