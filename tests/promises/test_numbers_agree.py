"""P27: whoever is asked what it cost says the same, and the provider's own bill says so too."""

from __future__ import annotations

import contextlib
import io
import re
import sqlite3
import time
from decimal import Decimal

import pytest
from agreement import INPUT, OUTPUT, check_numbers
from harness import Scene, scaled, seeded

from orchestrai import Orchestrator, text
from orchestrai.platforms import OpenAI
from orchestrai.testing import ProviderServer

pytestmark = pytest.mark.promise

PROVIDER = ("--latency", "lognormal:0.01", "--faults", '{"503:0": 0.03, "cut_body": 0.03}')


def test_bill_ledger_duckdb_frames_and_plots_agree_after_kills_and_cut_replies(tmp_path, nursery):
    """What the provider charged is what the ledger knows, plus what is in doubt: exactly, prompt by prompt."""
    chance, kills = seeded(), scaled(20, 3)
    with Scene(tmp_path, nursery, *PROVIDER) as scene:
        prompts = [f"task {i} {'word ' * (i % 7)}" for i in range(300)]
        for _ in range(kills):
            run = scene.start(prompts, "start", options={"concurrency": 8})
            time.sleep(chance.uniform(0.2, 0.9))
            run.child.kill()
            run.child.wait()
        scene.start(prompts, "start", options={"concurrency": 8}).child.wait()
        assert scene.verdict().broken() == {}
        bill = [(ask.prompt, ask.charge) for ask in scene.asked()]
    found = check_numbers(scene.ledger, tmp_path / "numbers", bill)
    print(found)
    assert found["bill"] > found["known"] > 0  # cut replies and kills leave something in doubt
    # The control: a ledger that says one pico-dollar less, or a bill that is charged once more, does not agree.
    with pytest.raises(AssertionError):
        check_numbers(scene.ledger, tmp_path / "numbers", [*bill, *[(prompts[0], 10**9)] * 50])
    connection = sqlite3.connect(scene.ledger / "ledger.db")
    connection.execute(
        "UPDATE attempts SET cost = cost + 1 WHERE cost > 0 AND send_seq = "
        "(SELECT max(seq) FROM sends GROUP BY key HAVING count(*) = 1 LIMIT 1)"
    )
    connection.commit()
    connection.close()
    with pytest.raises(AssertionError):
        check_numbers(scene.ledger, tmp_path / "numbers", bill)


def test_what_a_display_says_it_cost_is_what_the_provider_charged(tmp_path):
    """The panel, its text, the batch, its frame, the ledger in DuckDB and the provider: one number."""
    price = {"input_mtok": str(INPUT // 10**6), "output_mtok": str(OUTPUT // 10**6)}
    chance = seeded()
    with ProviderServer(script=lambda _request: "503:0" if chance.random() < 0.05 else None) as server:
        platform = OpenAI(base_url=server.base_url, api_key="k", model="m", price=price)
        with Orchestrator(tmp_path, platforms=[platform]) as orch:
            handle = orch.start([f"task {i} {'word ' * (i % 7)}" for i in range(scaled(2000, 200))], progress="off")
            result = handle.wait()
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                handle._ipython_display_()
            ledger = orch.costs.sql("SELECT sum(cost) AS c FROM attempts", money="decimal")["c"][0]
            frame = result.to_pandas(money="decimal")["output_cost"]
        charged = sum(r.billed_tokens and r.input_tokens * INPUT + r.output_tokens * OUTPUT for r in server.requests)
    assert result.success_count == len(result)
    bill = Decimal(charged) / 10**12
    assert bill == result.total_cost == sum(frame) == ledger
    assert re.findall(r"cost (\S+)", shown.getvalue()) == [text.money(bill)]
    assert text.money(bill) != text.money(bill * 51 / 50)  # the control: three digits are shown, so a fiftieth is seen
