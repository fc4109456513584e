"""Progress: the running totals of a call, read by displays as often as they like."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from orchestrai.result import Result


@dataclass(slots=True)
class Progress:
    """Counts and sums of one call. The engine writes, displays read; nothing is sent per task.

    Args:
        total: Tasks of the call; None while an input of unknown length is still being read.
        succeeded: Tasks with an answer, reused ones included.
        failed: Tasks without one.
        reused: Answers that came from the ledger or from an equal task.
        skipped: Tasks that were never to be sent.
        cancelled: Tasks ended by the caller.
        running: Requests under way.
        retries: Attempts beyond the first of each task.
        cost: Cash so far [USD]; the sum of what is known.
        unpriced: Answers of unknown cost; with them `cost` is a lower bound.
        list_cost: What it would have cost on paid APIs so far [USD]; the sum of what is known.
        tokens: Input and output so far, of reused answers too [tokens].
        saved: List price less cash so far [USD], where both are known; reused answers included.
        errors: Failed tasks by error class.
        newest_errors: The newest error of each class, in its own words.
        by_platform: Answers by platform; reused ones are nobody's.
        step: What a display calls the step of a chain that this is; None for none.
    """

    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    reused: int = 0
    skipped: int = 0
    cancelled: int = 0
    running: int = 0
    retries: int = 0
    cost: Decimal = Decimal(0)
    unpriced: int = 0
    list_cost: Decimal = Decimal(0)
    tokens: int = 0
    saved: Decimal = Decimal(0)
    errors: Counter[str] = field(default_factory=Counter)
    newest_errors: dict[str, str] = field(default_factory=dict)
    by_platform: Counter[str] = field(default_factory=Counter)
    step: str | None = None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def settled(self) -> int:
        """Tasks that need no more work."""
        return self.succeeded + self.failed + self.skipped + self.cancelled

    @property
    def elapsed_s(self) -> float:
        """Time since the call began [s]."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def rate(self) -> float | None:
        """Answers a second, reused ones left out; None before the first."""
        asked = self.succeeded + self.failed - self.reused
        return asked / self.elapsed_s if asked > 0 and self.elapsed_s > 0 else None

    @property
    def eta_s(self) -> float | None:
        """Time left at the present rate [s]; None when it cannot be told."""
        if self.total is None or not self.rate:
            return None
        return (self.total - self.settled) / self.rate

    def add(self, result: Result) -> None:
        """Count one settled task."""
        status = result.status
        if status == "succeeded":
            self.succeeded += 1
            if result.platform is not None and not result.reused:
                self.by_platform[result.platform] += 1
        elif status == "failed":
            self.failed += 1
        elif status == "skipped":
            self.skipped += 1
        else:
            self.cancelled += 1
        if result.error_class is not None and status != "cancelled":
            self.errors[result.error_class] += 1
            where = f"{result.platform}: " if result.platform else ""
            self.newest_errors[result.error_class] = f"{where}{result.error}"
        self.reused += result.reused
        if result.attempts > 1:
            self.retries += result.attempts - 1
        if result.cost is None:
            self.unpriced += 1
        elif result.cost:
            self.cost += result.cost
        if result.list_cost is not None:
            if result.cost is not None and result.list_cost is not result.cost:
                self.saved += result.list_cost - result.cost
            if not result.reused:
                self.list_cost += result.list_cost
        self.tokens += (result.usage.input_tokens or 0) + (result.usage.output_tokens or 0)
