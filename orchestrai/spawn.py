"""Spawn: a child task for a result, with what is handed to it, for callers that build their tasks themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from orchestrai.errors import InvalidInput, NoOrchestrator
from orchestrai.handoff import HandoffContext
from orchestrai.orchestrator import Orchestrator, open_orchestrators
from orchestrai.result import Result
from orchestrai.task import Task


async def spawn_child_task(
    parent: Result, prompt: Any, *, chain_id: str | None = None, orch: Orchestrator | None = None, **options: Any
) -> tuple[Task, HandoffContext]:
    """Return a task that works with a parent's answer, and what is handed to it; nothing is sent.

    The answer becomes a memory if it is none yet; the task carries a pointer to it and its summary, and the text is read
    when the task is sent.

    Args:
        parent: A result with an answer.
        prompt: A string or messages; `{parent}` is where the answer is put.
        chain_id: Chain of the child, by name or by the id of a run; the parent's by default.
        orch: Whose ledger has the parent; by default an open one that has it.
        **options: Options of the Task.

    Raises:
        InvalidInput: The parent has no answer, or is not known to the ledger.
        HandoffContextMissing: Its answer was deleted from memory or altered.
        NoOrchestrator: None is open whose ledger has the parent.
    """
    handoff = await _handed_by(parent, orch)
    return Task(prompt, parent=handoff, chain=chain_id or handoff.chain_id, **options), handoff


async def spawn_children(
    parent: Result,
    prompts: Iterable[Any],
    *,
    chain_id: str | None = None,
    orch: Orchestrator | None = None,
    **options: Any,
) -> list[tuple[Task, HandoffContext]]:
    """Return a task for each prompt, all of which work with the same parent's answer; as `spawn_child_task`."""
    handoff = await _handed_by(parent, orch)
    return [
        (Task(prompt, parent=handoff, chain=chain_id or handoff.chain_id, **options), handoff) for prompt in prompts
    ]


async def load_handoff_context(task: Task, *, orch: Orchestrator | None = None) -> list[str]:
    """Return the whole texts that are handed to a task, in the order of its parents, checked against their digests.

    Args:
        task: A task with parents outside of its call.
        orch: Whose ledger has them; by default an open one that has them.

    Raises:
        HandoffContextMissing: A text is gone, or is not what was handed over.
        NoOrchestrator: None is open whose ledger has them.
    """
    contexts = [parent for parent in task.parent or () if isinstance(parent, HandoffContext)]
    if not contexts:
        return []
    return await asyncio.to_thread(_texts, contexts, orch)


def has_handoff_context(task: Task) -> bool:
    """Return True for a task that is handed something by a pointer."""
    return any(isinstance(parent, HandoffContext) for parent in task.parent or ())


async def _handed_by(parent: Result, orch: Orchestrator | None) -> HandoffContext:
    if not isinstance(parent, Result):
        raise InvalidInput(f"A child is spawned from a Result, not from {type(parent).__name__}.")
    if parent.task_id is None or not parent.success:
        raise InvalidInput(f"A parent without an answer hands nothing over: {parent!r}")
    task_id = parent.task_id
    return await asyncio.to_thread(lambda: (orch or _open_with(task_id)).origins.handed_by(parent))


def _texts(contexts: list[HandoffContext], orch: Orchestrator | None) -> list[str]:
    return (orch or _open_with(contexts[0].memory_id)).origins.texts(contexts)


def _open_with(task_id: str) -> Orchestrator:
    for one in open_orchestrators():
        if one.origins.knows(task_id):
            return one
    raise NoOrchestrator(
        f"No open Orchestrator has task {task_id} in its ledger: make one for the project it was answered in, or give orch=."
    )
