"""Handing over: the texts of parents are read, checked and put into the prompt, just before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrai.engine.fit import shortened
from orchestrai.engine.item import Item
from orchestrai.engine.lineage import Link
from orchestrai.errors import HandoffContextMissing
from orchestrai.handoff import Block, HandoffContext, handed_over
from orchestrai.ledger.ledger import Ledger
from orchestrai.ledger.memories import read_memories
from orchestrai.messages import Prompt


async def with_handed(ledger: Ledger, item: Item) -> Prompt:
    """Return the prompt of a task with what it is handed.

    Args:
        ledger: Where the texts are.
        item: The task.

    Raises:
        HandoffContextMissing: A text is gone, or is not what was handed over; nothing may be sent.
        LedgerError: The ledger cannot be read.
    """
    lineage = item.lineage
    assert lineage is not None
    parents = lineage.parents
    if not parents and not lineage.shared:
        return item.task.prompt
    blocks = await ledger.read_soon(lambda c: _blocks(c, parents)) if parents else []
    return handed_over(item.task.prompt, blocks, lineage.shared)


def _blocks(connection: Any, parents: list[Link]) -> list[Block]:
    """Return the texts of parents, each as it was handed over; in the ledger's reading thread."""
    texts = texts_of(connection, [link.context for link in parents if link.context is not None])
    return [shortened(Block(text, link.source), link.spans) for link, text in zip(parents, texts, strict=True)]


def texts_of(connection: Any, contexts: Sequence[HandoffContext]) -> list[str]:
    """Return the texts that contexts point to, each as it was handed over.

    Raises:
        HandoffContextMissing: A text is gone, or is not what was handed over.
    """
    records = read_memories(connection, [context.memory_id for context in contexts])
    texts = []
    for context in contexts:
        record = records.get(context.memory_id)
        if record is None or record.deleted_at is not None or record.text is None:
            raise HandoffContextMissing(
                f"The answer of task {context.parent_task_id} is gone from memory ({context.memory_id}). Ask it again with reuse=False."
            )
        if not record.is_whole or record.digest.hex() != context.digest:
            raise HandoffContextMissing(
                f"The answer of task {context.parent_task_id} in memory ({context.memory_id}) is not the text that was handed over: "
                "its digest differs. Ask it again with reuse=False."
            )
        texts.append(record.text)
    return texts
