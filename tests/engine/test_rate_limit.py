from __future__ import annotations

from loopback import openai, orchestrator

from orchestrai.testing import ProviderServer
from orchestrai.testing.server import Limits


def test_no_task_is_lost_to_a_platform_that_admits_fewer_than_are_waiting(tmp_path):
    """Forty tasks at once, ten admitted a second, and each refusal tells a wait of a fraction of a second."""
    with ProviderServer(limits=Limits(rpm=600)) as server, orchestrator(tmp_path, openai(server)) as orch:
        result = orch.batch_sync([f"prompt {i}" for i in range(40)])
        refused = len(server.requests) - 40
    assert result.success_count == 40, result.failures[:1]
    assert refused > 0  # the control: the limit was met
    assert sum(r.attempts for r in result) == 40 + refused
