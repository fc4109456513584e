"""Memory and MemoryMatch: what `orch.memory` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrai.text import excerpt


@dataclass(frozen=True, slots=True)
class Memory:
    """A text that was kept, whole.

    Args:
        id: Its id; that of the task where it is a task's answer.
        text: The text, as it was added.
        metadata: What was kept beside it: text, numbers, True and False by name.
        digest: SHA-256 of the text in UTF-8 [64 hex digits].
        created_at: When it was added [µs since 1970, UTC].
        chain_id: The chain that it belongs to; None outside of chains.
    """

    id: str
    text: str
    metadata: Mapping[str, Any]
    digest: str
    created_at: int
    chain_id: str | None = None

    def __repr__(self) -> str:
        return f"<Memory {self.id}: {excerpt(self.text, 60)!r}, {len(self.text):,} characters>"


@dataclass(frozen=True, slots=True)
class MemoryMatch:
    """A memory that a search found.

    Args:
        memory: The memory, whole.
        score: Cosine similarity of the query to the passage that fits best; 1 is the same direction, 0 none in common.
        passage: That passage of the text.
    """

    memory: Memory
    score: float
    passage: str

    def __repr__(self) -> str:
        return f"<MemoryMatch {self.score:.3f} {self.memory.id}: {excerpt(self.passage, 60)!r}>"
