"""P8: retries cannot storm, and a platform that is gone holds nobody up.

The control, a storm without an allowance, is in tests/limits/test_simulations.py.
"""

from __future__ import annotations

import socket
import sqlite3
from pathlib import Path

import pytest

from orchestrai.orchestrator import Orchestrator
from orchestrai.platforms.openai import OpenAI
from orchestrai.testing import Fault, ProviderServer, ScriptedPlatform
from orchestrai.testing.answers import answer_to

pytestmark = pytest.mark.promise

PROMPTS = [f"task {i}" for i in range(1_000)]


def nowhere() -> str:
    """Return an address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def requests(ledger: Path) -> int:
    """Return how many requests a ledger knows of."""
    connection = sqlite3.connect(ledger)
    (count,) = connection.execute("SELECT count(*) FROM sends").fetchone()
    connection.close()
    return int(count)


def test_a_thousand_tasks_for_a_dead_platform_cost_little_more_than_a_thousand_requests_at_most(tmp_path):
    """Nothing listens: all of them fail, each with the reason, and most are not even sent."""
    platform = OpenAI("gone", base_url=nowhere(), api_key="test", model="m")
    with Orchestrator(tmp_path, platforms=[platform]) as orch:
        result = orch.batch_sync(PROMPTS, progress="off")
        assert requests(orch.ledger_path) <= 1_100
    assert {r.error_class for r in result} == {"connection"}
    assert all(r.error for r in result)


def test_a_provider_that_refuses_every_key_is_asked_by_few(tmp_path):
    """Every request is refused for its key: what is under way finds out, the rest is told without being sent."""
    with ProviderServer(script=lambda _: Fault("status", 401)) as server:
        platform = OpenAI("locked", base_url=server.base_url, api_key="test", model="m")
        with Orchestrator(tmp_path, platforms=[platform]) as orch:
            result = orch.batch_sync(PROMPTS, progress="off")
        assert len(server.requests) <= 100
    assert {r.error_class for r in result} == {"key"}
    unsent = [r for r in result if not r.attempts]
    assert len(unsent) >= 900
    assert all("not asked, because it refuses the credentials" in str(r.error) for r in unsent)


def test_the_tasks_of_a_dead_platform_are_answered_by_the_next(tmp_path):
    gone = OpenAI("gone", base_url=nowhere(), api_key="test", model="m", tier="free")
    other = ScriptedPlatform("other")
    with Orchestrator(tmp_path, platforms=[gone, other]) as orch:
        result = orch.batch_sync(PROMPTS, progress="off", platform="gone")
    assert result.outputs == [answer_to(prompt) for prompt in PROMPTS]
    assert {r.platform for r in result} == {"other"}


def test_one_model_that_is_out_of_quota_keeps_no_other_model_of_its_provider_waiting(tmp_path):
    used_up = Fault("status", 429, code="daily_limit_exceeded", message="200 requests per day (RPD)")

    def script(received):
        return used_up if received.json["model"] == "used-up" else None

    with ProviderServer(script=script) as server:
        platform = OpenAI("provider", base_url=server.base_url, api_key="test", model="fresh")
        with Orchestrator(tmp_path, platforms=[platform]) as orch:
            gone = orch.batch_sync(PROMPTS[:50], model="used-up", progress="off")
            result = orch.batch_sync(PROMPTS[:50], model="fresh", progress="off")
    assert {r.error_class for r in gone} == {"window"}
    assert result.success_count == 50
