"""The panel in a real JupyterLab: it moves, it obeys, and what it leaves needs no kernel."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from jupyter import Notebook, Server, outputs_text, page_of

from orchestrai.testing import SpawnedServer, read_bill

pytestmark = pytest.mark.browser

TASKS = 200
SETUP = """
from orchestrai import Orchestrator
from orchestrai.platforms import OpenAI
orch = Orchestrator({folder!r}, platforms=[OpenAI(base_url={url!r}, api_key="k", model="m")])
prompts = [f"task {{i}}" for i in range({tasks})]
"""
AWAITED = "res = await orch.batch(prompts, concurrency=8)\nprint(res.status, res.success_count)"
SYNC = "res = orch.batch_sync(prompts, concurrency=8)\nprint(res.status, res.success_count)"
LEFT = "print(orch.last_batch.status, orch.last_batch.success_count)"
TIDY = """
import asyncio
from orchestrai.engine.loop import engine_loop
async def _others():
    return len(asyncio.all_tasks()) - 1
print(engine_loop().submit(_others()).result(10))
"""


@pytest.fixture
def provider(tmp_path):
    with SpawnedServer("--latency", "0.1", "--bill", str(tmp_path / "bill")) as server:
        yield server


def setup(provider: SpawnedServer, folder: Path, tasks: int = TASKS) -> str:
    return SETUP.format(folder=str(folder / "project"), url=provider.base_url, tasks=tasks)


def sent_after(provider: SpawnedServer, within_s: float = 0.5, watch_s: float = 0.5) -> int:
    """Return how many requests come later than half a second from now."""
    time.sleep(within_s)
    before = provider.stats()["requests"]
    time.sleep(watch_s)
    return int(provider.stats()["requests"] - before)


def counted(outputs) -> tuple[str, int]:
    status, done = re.search(r"(\w+) (\d+)\s*$", outputs_text(outputs)).groups()
    return status, int(done)


# --- live, then static -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_panel_moves_and_leaves_a_table_that_a_saved_notebook_shows(
    theme, lab, browser, provider, tmp_path, shots, tmp_path_factory
):
    server = lab if theme == "light" else Server(tmp_path_factory.mktemp("dark"), theme="dark")
    try:
        with page_of(browser) as page:
            cells = [setup(provider, tmp_path), "res = await orch.batch(prompts, concurrency=8, name='tickets')", "res"]
            notebook = Notebook(server, page, cells, f"saved_{theme}.ipynb")
            notebook.run(0)
            notebook.start(1)
            notebook.settled(20)
            first = page.locator(".oai-percent").inner_text()
            bar = page.get_by_role("progressbar", name="Tasks settled")
            assert bar.get_attribute("aria-valuemax") == "100"
            assert page.get_by_role("button", name="Cancel").is_visible()
            notebook.cell(1).screenshot(path=shots / f"panel_running_{theme}.png")
            notebook.settled(60)
            assert page.locator(".oai-percent").inner_text() != first
            shown = notebook.wait(1)
            assert len(shown) == 1
            assert set(shown[0]["data"]) == {"text/plain", "text/html"}
            assert page.locator(".oai-panel").count() == 0
            notebook.run(2)
            notebook.cell(1).screenshot(path=shots / f"panel_finished_{theme}.png")
            notebook.cell(2).screenshot(path=shots / f"batch_result_{theme}.png")
            saved = notebook.save()
            assert "widget-view" not in str(saved.cells)
            assert "200 of 200" in outputs_text(saved.cells[1].outputs, "text/html")
            server.end_kernels()
            notebook.open()  # with a kernel that knows nothing of it
            notebook.cell(1).get_by_text("200 of 200").wait_for()
            notebook.cell(1).screenshot(path=shots / f"panel_reopened_{theme}.png")
    finally:
        server.end_kernels()
        if theme == "dark":
            server.close()


def test_several_panels_and_meters_live_in_one_layout_and_a_narrow_cell(notebook, provider, tmp_path, shots, page):
    page.set_viewport_size({"width": 760, "height": 900})
    opened = notebook(
        setup(provider, tmp_path, 400),
        "from ipywidgets import HBox, VBox\n"
        "one = orch.start(prompts[:200], concurrency=4, progress='off', name='one')\n"
        "two = orch.start(prompts[200:], concurrency=4, progress='off', name='two')\n"
        "VBox([HBox([one.panel, two.panel]), orch.quota.widget])",
        "a = await one; b = await two; print(a.success_count + b.success_count)",
    )
    opened.run(0)
    opened.run(1)
    page.wait_for_function("() => document.querySelectorAll('.oai-bar').length === 2")
    opened.settled(10)
    opened.cell(1).screenshot(path=shots / "panels_in_a_layout.png")
    assert "400" in outputs_text(opened.run(2))
    page.wait_for_function("() => document.querySelectorAll('[data-status=finished]').length === 2")


# --- cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [AWAITED, SYNC], ids=["awaited", "sync"])
def test_the_button_ends_a_running_cell_which_returns_what_is_finished(how, notebook, provider, tmp_path, page):
    opened = notebook(setup(provider, tmp_path), how, "print('next')", how.replace("res.status", "res.reused_count"))
    opened.run(0)
    opened.start(1)
    opened.settled(10)
    page.get_by_role("button", name="Cancel").click()
    status, done = counted(opened.wait(1))
    assert status == "cancelled"
    assert 0 < done < TASKS
    assert sent_after(provider, 0) == 0
    assert "next" in outputs_text(opened.run(2))
    reused, done_now = re.search(r"(\d+) (\d+)\s*$", outputs_text(opened.run(3))).groups()
    assert (int(reused), int(done_now)) == (done, TASKS)


def test_a_background_batch_is_cancelled_by_its_button_and_shown_again_later_also_after_a_reload(
    notebook, provider, tmp_path, page
):
    opened = notebook(
        setup(provider, tmp_path, 2000), "h = orch.start(prompts, concurrency=4)", "h", "h", "(await h).status"
    )
    opened.run(0)
    opened.run(1)
    opened.settled(2)
    opened.run(2)
    page.wait_for_function("() => document.querySelectorAll('.oai-bar').length === 2")
    opened.save()
    page.reload()
    page.wait_for_function(
        "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )
    opened.run(3)
    opened.settled(5)
    opened.cell(3).get_by_role("button", name="Cancel").click()
    assert "cancelled" in outputs_text(opened.run(4))
    assert sent_after(provider, 0) == 0
    assert "of 2,000" in outputs_text(opened.outputs(3), "text/html")


# --- interrupt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [AWAITED, SYNC], ids=["awaited", "sync"])
def test_an_interrupt_stops_sending_keeps_what_is_finished_and_says_so_in_a_line(
    how, notebook, provider, tmp_path, shots
):
    opened = notebook(setup(provider, tmp_path), how, LEFT, TIDY, how.replace("res.status", "res.reused_count"))
    opened.run(0)
    opened.start(1)
    opened.settled(10)
    opened.interrupt()
    assert sent_after(provider) == 0
    outputs = opened.wait(1)
    opened.cell(1).screenshot(path=shots / f"interrupted_{'awaited' if how is AWAITED else 'sync'}.png")
    errors = [output for output in outputs if output["output_type"] == "error"]
    assert len(errors) == 1
    assert len(errors[0]["traceback"]) == 1
    assert re.fullmatch(rf"Interrupted: \d+ of {TASKS} tasks .*orch\.last_batch.*", errors[0]["traceback"][0])
    assert "widget-view" not in str(outputs)
    status, done = counted(opened.run(2))
    assert status == "cancelled"
    assert 0 < done < TASKS
    assert outputs_text(opened.run(3)).strip() == "0"
    reused, done_now = re.search(r"(\d+) (\d+)\s*$", outputs_text(opened.run(4))).groups()
    assert (int(reused), int(done_now)) == (done, TASKS)


def test_meters_whose_kernel_is_gone_say_so_and_ask_it_nothing(notebook, provider, tmp_path, page):
    opened = notebook(setup(provider, tmp_path), "orch.quota.widget")
    opened.run(0)
    opened.run(1)
    page.get_by_role("group", name="Quota").wait_for()
    assert not page.get_by_text("The kernel is gone").is_visible()
    opened.restart()
    page.get_by_text("The kernel is gone").wait_for()
    page.wait_for_timeout(6_000)  # longer than meters wait; what they ask of no kernel is an error of the page


def test_a_kernel_that_is_restarted_in_a_batch_goes_on_where_it_was_and_the_bills_agree(
    notebook, provider, tmp_path, page
):
    opened = notebook(setup(provider, tmp_path), AWAITED, AWAITED.replace("res.status", "res.reused_count"))
    opened.run(0)
    opened.start(1)
    opened.settled(20)
    opened.restart()
    page.get_by_text("The kernel is gone").wait_for()
    assert page.locator(".oai-left").inner_text() == ""
    assert "in flight" not in page.locator(".oai-facts").inner_text()
    opened.run(0)
    reused, done = re.search(r"(\d+) (\d+)\s*$", outputs_text(opened.run(2))).groups()
    assert int(done) == TASKS
    assert int(reused) >= TASKS * 0.15
    billed = read_bill(tmp_path / "bill")
    assert len({line["prompt"] for line in billed}) == TASKS
    assert len(billed) - TASKS <= 8  # what was under way when it was killed
    assert_agree(tmp_path / "project" / ".orchestrai" / "ledger.db", billed)


def assert_agree(ledger: Path, billed) -> None:
    """Every request on the bill is in the ledger, and so are its tokens, but for those whose end nobody saw."""
    connection = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    rows = connection.execute(
        "SELECT p.text, a.input_tokens + a.output_tokens FROM sends s JOIN prompts p "
        "ON p.send_seq = coalesce(s.prompt_seq, s.seq) LEFT JOIN attempts a ON a.send_seq = s.seq"
    ).fetchall()
    connection.close()
    assert Counter(line["prompt"] for line in billed) <= Counter(prompt for prompt, _ in rows)
    known, charged = Counter(), Counter()
    for prompt, tokens in rows:
        known[prompt] += tokens or 0
    for line in billed:
        charged[line["prompt"]] += line["billed_tokens"]
    in_doubt = {prompt for prompt, tokens in rows if tokens is None}
    assert [prompt for prompt in charged if charged[prompt] != known[prompt] and prompt not in in_doubt] == []
    assert known <= charged


# --- preflight -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("button", "sent"), [("Go on", True), ("Do not send", False)])
def test_a_person_agrees_or_not_by_a_button(button, sent, notebook, provider, tmp_path, page, shots):
    ask = "res = await orch.batch(prompts[:6], confirm='always')\nprint(res.status, res.success_count)"
    opened = notebook(setup(provider, tmp_path), ask)
    opened.run(0)
    opened.start(1)
    page.get_by_role("button", name=button).wait_for()
    opened.cell(1).screenshot(path=shots / "confirmation.png")
    assert provider.stats().get("requests", 0) == 0
    page.get_by_role("button", name=button).click()
    outputs = opened.wait(1)
    assert page.get_by_role("button", name=button).count() == 0
    text = outputs_text(outputs)
    assert ("finished 6" in text) == sent
    assert ("NotConfirmed" in text) == (not sent)
    assert provider.stats().get("requests", 0) == (6 if sent else 0)
