"""Results: what a call returns, as values and as frames."""

from __future__ import annotations

from orchestrai.results.batch_result import BatchResult

__all__ = ["BatchResult"]
