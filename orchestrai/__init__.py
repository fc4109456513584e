"""orchestrai: send a batch of prompts to the cheapest AI that can answer them, and know to the cent what it cost.

Example:
    orch = Orchestrator()
    res = await orch.batch(["…", "…"])
"""

from typing import Any

from orchestrai.errors import (
    BatchStopped,
    ColumnExists,
    ConfirmationNeeded,
    Detached,
    HandoffContextMissing,
    InvalidFile,
    InvalidInput,
    InvalidPrompt,
    InvalidQuery,
    InvalidSchema,
    InvalidSettings,
    InvalidTemplate,
    LedgerDamaged,
    LedgerError,
    LedgerTooNew,
    LedgerUnusable,
    MemoryMissing,
    MemoryWarning,
    ModelMissing,
    NoOrchestrator,
    NoPlatform,
    NotConfirmed,
    OrchestraiError,
    PlanStale,
    PlanWarning,
    PlatformError,
    TaskFailed,
)
from orchestrai.handoff import HandoffContext
from orchestrai.memory.values import Memory, MemoryMatch
from orchestrai.orchestrator import Orchestrator
from orchestrai.plan import Plan
from orchestrai.result import Result, Usage
from orchestrai.results.batch_result import BatchResult
from orchestrai.spawn import has_handoff_context, load_handoff_context, spawn_child_task, spawn_children
from orchestrai.task import Task
from orchestrai.version import __version__

__all__ = [
    "BatchResult",
    "BatchStopped",
    "ColumnExists",
    "ConfirmationNeeded",
    "Detached",
    "HandoffContext",
    "HandoffContextMissing",
    "InvalidFile",
    "InvalidInput",
    "InvalidPrompt",
    "InvalidQuery",
    "InvalidSchema",
    "InvalidSettings",
    "InvalidTemplate",
    "LedgerDamaged",
    "LedgerError",
    "LedgerTooNew",
    "LedgerUnusable",
    "Memory",
    "MemoryMatch",
    "MemoryMissing",
    "MemoryWarning",
    "ModelMissing",
    "NoOrchestrator",
    "NoPlatform",
    "NotConfirmed",
    "OrchestraiError",
    "Orchestrator",
    "Plan",
    "PlanStale",
    "PlanWarning",
    "PlatformError",
    "Result",
    "Task",
    "TaskFailed",
    "Usage",
    "__version__",
    "has_handoff_context",
    "load_handoff_context",
    "spawn_child_task",
    "spawn_children",
]


def load_ipython_extension(shell: Any) -> None:
    """Give a notebook the magics `%%orch` and `%orch`; what `%load_ext orchestrai` calls."""
    from orchestrai.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again; what `%unload_ext orchestrai` calls."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("orch", None)
