"""Parts for tests: a provider on loopback, a scripted platform and the suite every platform passes.

`ProviderServer` (in a thread) and `SpawnedServer` (its own process) are a real HTTP provider with limits, faults and
its own bill; `ScriptedPlatform` is a platform without a network; `PlatformConformance` is the suite.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from orchestrai.testing.bill import Bill, read_bill
    from orchestrai.testing.conformance import PlatformConformance
    from orchestrai.testing.exchange import Answer, Received
    from orchestrai.testing.faults import Chances, Fault, Latency
    from orchestrai.testing.process import SpawnedServer
    from orchestrai.testing.scripted import ScriptedPlatform
    from orchestrai.testing.server import Limits, ProviderServer
    from orchestrai.testing.situations import Place

__all__ = [
    "Answer",
    "Bill",
    "Chances",
    "Fault",
    "Latency",
    "Limits",
    "Place",
    "PlatformConformance",
    "ProviderServer",
    "Received",
    "ScriptedPlatform",
    "SpawnedServer",
    "read_bill",
]

_MODULES: Final = {
    "Answer": "exchange",
    "Bill": "bill",
    "Chances": "faults",
    "Fault": "faults",
    "Latency": "faults",
    "Limits": "server",
    "Place": "situations",
    "PlatformConformance": "conformance",
    "ProviderServer": "server",
    "Received": "exchange",
    "ScriptedPlatform": "scripted",
    "SpawnedServer": "process",
    "read_bill": "bill",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
