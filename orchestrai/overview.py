"""Overview: an orchestrator at a glance, as text and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orchestrai import html, plan_text, text
from orchestrai.ledger.queries import spent_since
from orchestrai.plan import Quota
from orchestrai.platforms.discovery import Finding
from orchestrai.pricing import from_pico

_TITLES = ("platform", "model", "tier", "login")


@dataclass(frozen=True, slots=True)
class Overview:
    """What an orchestrator says of itself.

    Args:
        findings: What was found of each platform.
        quota: Its meters.
        today: What today's requests came to, in words.
        ledger_path: Where its ledger is.
    """

    findings: Sequence[Finding]
    quota: Quota
    today: str
    ledger_path: str

    def as_text(self) -> str:
        """Return it in five lines."""
        found = [f for f in self.findings if f.platform is not None and f.barred is None]
        named = [f"{f.name} ({f.model}, {f.tier})" for f in found]
        missing = [f.name for f in self.findings if f not in found]
        lines = [
            self._headline(found),
            f"  platforms  {', '.join(named) or 'none: orch.platforms says what to do'}",
            f"  not found  {', '.join(missing) or 'none'}",
            f"  quota      {plan_text.quota_line(self.quota)}",
            f"  today      {self.today}; ledger {self.ledger_path}",
        ]
        return "\n".join(text.printable(line) for line in lines)

    def as_html(self) -> str:
        """Return it as HTML that needs no kernel."""
        found = [f for f in self.findings if f.platform is not None and f.barred is None]
        missing = ", ".join(f.name for f in self.findings if f not in found)
        facts = [("cost today", self.today), *([("not found", text.excerpt(missing, 120))] if missing else [])]
        rows = [[text.excerpt(cell or "", 60) for cell in (f.name, f.model, f.tier, f.login)] for f in found]
        return html.orchestrator_block(self._headline(found), facts, _TITLES, rows, self.quota)

    def _headline(self, found: Sequence[Finding]) -> str:
        return f"Orchestrator: {len(found)} of {len(self.findings)} platforms can answer"


def cost_today(connection: object) -> str:
    """Return what was spent since midnight, in words: `$0.41 in 1,204 requests`."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    cost, requests, unpriced = spent_since(connection, round(midnight.timestamp() * 1e6))  # type: ignore[arg-type]  # the ledger's own
    if not requests:
        return "$0.00, no request yet"
    known = "" if not unpriced else "at least "
    return f"{known}{text.money(from_pico(cost))} in {text.count(requests)} requests"
