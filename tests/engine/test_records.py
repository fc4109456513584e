"""What the ledger holds of a call: every request before it left, how it ended, and how each task was settled."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import Literal

import pytest
from loopback import openai, orchestrator, python

from orchestrai import BatchStopped, Task
from orchestrai.errors import PlatformError
from orchestrai.ids import now_us
from orchestrai.ledger.queries import newest_quota
from orchestrai.platforms.protocol import QuotaReading
from orchestrai.testing import ProviderServer, ScriptedPlatform


def rows(folder, columns, source):
    """Read the ledger of a project that nobody has open."""
    connection = sqlite3.connect(folder / ".orchestrai" / "ledger.db")
    try:
        return connection.execute(f"SELECT {columns} FROM {source}").fetchall()
    finally:
        connection.close()


ATTEMPTS = "sends s LEFT JOIN attempts a ON a.send_seq = s.seq ORDER BY s.seq"


def test_every_request_is_there_with_its_kind_and_its_end(tmp_path):
    platform = ScriptedPlatform(
        tier="paid",
        price={"input_mtok": 1, "output_mtok": 1},
        faults={"^a$": ["overloaded"]},
        replies=["unused", "not a label", "yes"],
    )
    with orchestrator(tmp_path, platform) as orch:
        result = orch.run_sync("a", schema=Literal["yes", "no"], tags={"k": "v"}, chain="c", priority=2, type="testing")
    assert result.attempts == 3
    assert rows(tmp_path, "attempt_no, attempt_kind, status, error_class, schema_valid", ATTEMPTS) == [
        (1, "first", "failed", "overloaded", None),
        (2, "retry", "failed", "reply", 0),
        (3, "repair", "succeeded", None, 1),
    ]
    costs = [cost for (cost,) in rows(tmp_path, "a.cost", ATTEMPTS)]
    assert costs[0] == 0
    assert sum(costs) == result.cost * 10**12
    assert rows(tmp_path, "status, attempts, cost, chain_id, priority, task_type, tags", "tasks") == [
        ("succeeded", 3, result.cost * 10**12, result.chain_id, 2, "testing", '{"k":"v"}')
    ]
    assert rows(tmp_path, "count(*)", "claims") == [(0,)]


def test_ends_lie_in_the_order_in_which_they_came(tmp_path):
    async def late(request):
        await asyncio.sleep(0.4 - 0.06 * int(request.messages[-1].text))
        return "done"

    with orchestrator(tmp_path, ScriptedPlatform(replies=late)) as orch:
        orch.batch_sync([str(i) for i in range(6)])
    ends = rows(tmp_path, "send_seq, finished_at", "attempts ORDER BY seq")
    assert [seq for seq, _ in ends] == sorted(
        (seq for seq, _ in ends), reverse=True
    )  # the last to leave was answered first
    assert [at for _, at in ends] == sorted(at for _, at in ends)


def test_a_reused_task_is_settled_without_a_request(tmp_path):
    platform = ScriptedPlatform()
    with orchestrator(tmp_path, platform) as orch:
        first = orch.batch_sync(["a", "a"])
        again = orch.run_sync("a")
    source = first[0].task_id
    assert rows(tmp_path, "task_id, reused_from, cost", "tasks ORDER BY settled_at, task_id") == [
        (source, None, 0),
        (first[1].task_id, source, 0),
        (again.task_id, source, 0),
    ]
    assert rows(tmp_path, "count(*)", "sends") == [(1,)]


def test_a_call_is_kept_with_its_kind_its_name_and_its_end(tmp_path):
    platform = ScriptedPlatform(faults={"bad": ["request"]})
    with orchestrator(tmp_path, platform) as orch:
        orch.batch_sync(["a", "b", None], name="survey")
        orch.run_sync("a")
        with pytest.raises(BatchStopped):
            orch.batch_sync(["bad"], on_error="stop")
    found = rows(tmp_path, "name, kind, status, task_count, project", "batches ORDER BY created_at")
    assert found == [
        ("survey", "batch", "finished", 3, orch.project),
        (None, "run", "finished", 1, orch.project),
        (None, "batch", "stopped", 1, orch.project),
    ]
    assert rows(tmp_path, "count(*)", "batches WHERE finished_at >= created_at") == [(3,)]


def test_the_requests_that_a_provider_saw_are_the_requests_in_the_ledger(tmp_path):
    with ProviderServer(script={"[37]$": [500], "5$": 400}) as server:
        with orchestrator(tmp_path, openai(server)) as orch:
            res = orch.batch_sync([Task(f"task {i}", samples=1 + i % 2) for i in range(40)])
        assert rows(tmp_path, "count(*)", "sends") == [(len(server.requests),)]
        assert rows(tmp_path, "count(*)", "attempts") == [(len(server.requests),)]
        assert sum(r.attempts for r in res) == len(server.requests)
        assert sorted(rows(tmp_path, "request_id", "attempts")) == sorted((f"req-{r.number}",) for r in server.requests)
        known = sum((r.usage.total_tokens or 0) for r in res)
        assert rows(tmp_path, "sum(input_tokens + output_tokens)", "attempts") == [(known,)]


def test_texts_are_kept_once_each(tmp_path):
    with ProviderServer() as server, orchestrator(tmp_path, openai(server)) as orch:
        orch.batch_sync(["a", "a", "b"], system="One system prompt.")
        orch.batch_sync(["a", "b"], system="One system prompt.")
    assert [rows(tmp_path, "count(*)", table) for table in ("answers", "prompts", "systems")] == [
        [(2,)],
        [(2,)],
        [(1,)],
    ]


def test_what_replies_and_refusals_tell_of_quota_windows_is_kept_when_it_changes(tmp_path):
    class Plan(ScriptedPlatform):
        async def send(self, request):
            reply = await super().send(request)
            used = 40.0 if request.messages[0].text == "a" else 92.5
            reading = QuotaReading("five_hour", used, 1_790_000_000_000_000, "headers", now_us())
            if request.messages[0].text == "d":
                reading = replace(reading, used_percent=100.0)
                raise PlatformError("window", "used up", quota=(reading,))
            return replace(reply, quota=(reading,))

    with orchestrator(tmp_path, Plan("plan", account="abc")) as orch:
        for prompt in "abcd":
            orch.batch_sync([prompt], progress="off")
        connection = sqlite3.connect(orch.ledger_path)
        newest = newest_quota(connection)
        connection.close()
    told = rows(tmp_path, "platform, account, window, used_percent", "quota ORDER BY seq")
    assert [used for *_, used in told] == [40.0, 92.5, 92.5, 100.0]  # each call tells its first reading
    assert [(row.platform, row.account, row.window, row.used_percent) for row in newest] == [
        ("plan", "abc", "five_hour", 100.0)
    ]


def test_platforms_that_can_be_asked_for_their_quota_are_and_others_tell_nothing(tmp_path):
    class Plan(ScriptedPlatform):
        async def quota(self):
            return (QuotaReading("seven_day", 12.0, None, "client", now_us()),)

    class LoggedOut(ScriptedPlatform):
        async def quota(self):
            raise PlatformError("key", "not logged in")

    with orchestrator(tmp_path, Plan("plan"), LoggedOut("out"), ScriptedPlatform("other")) as orch:
        orch.read_quota()
        assert [str(row.quota) for row in orch.platforms if row.name != "plan"] == ["()", "()"]
    assert rows(tmp_path, "platform, window, used_percent, source", "quota") == [("plan", "seven_day", 12.0, "client")]
    assert rows(tmp_path, "count(*)", "sends") == [(0,)]


def test_a_request_in_doubt_has_an_unknown_cost_only_where_requests_cost_cash(tmp_path):
    child = python(
        """
        import asyncio, sys
        from orchestrai import Orchestrator
        from orchestrai.testing import ScriptedPlatform

        tiers = ("free", "local", "subscription", "paid")
        platforms = [ScriptedPlatform(tier, tier=tier, delay_s=600) for tier in tiers]

        async def main():
            orch = Orchestrator(sys.argv[1], platforms=platforms)
            asked = [asyncio.ensure_future(orch.run(tier, platform=tier, confirm="never")) for tier in tiers]
            while not all(platform.prompts for platform in platforms):
                await asyncio.sleep(0.01)
            print("under way", flush=True)
            await asyncio.gather(*asked)

        asyncio.run(main())
        """,
        tmp_path,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "under way\n"
    child.kill()
    child.communicate()
    with orchestrator(tmp_path, ScriptedPlatform()) as orch:
        orch.run_sync("later")
    found = rows(tmp_path, "tier, cost, cost_source", "sends s JOIN offers USING (offer_id) JOIN attempts a "
                 "ON a.send_seq = s.seq WHERE a.status = 'in_doubt' ORDER BY tier")  # fmt: skip
    zero = [(tier, 0, "zero") for tier in ("free", "local")]
    assert found == [*zero, ("paid", None, "unknown"), ("subscription", 0, "zero")]
