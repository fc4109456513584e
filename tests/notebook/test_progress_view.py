"""The view of a call: what every display of it says, and that displays of values agree with it."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal

import pytest
from loopback import orchestrator
from test_html import PAYLOADS, check_only_ours

from orchestrai import html
from orchestrai.errors import PlatformError
from orchestrai.notebook.panel import state_of, static
from orchestrai.progress_view import (
    ErrorView,
    PlatformView,
    ProgressView,
    Share,
    WindowView,
    progress_block,
    progress_line,
)
from orchestrai.testing import ScriptedPlatform

PRICE = {"input_mtok": "1", "output_mtok": "2"}


def view(**changes):
    window = WindowView("1,500 requests per day", 43.0, "2026-11-29 00:00")
    platform = PlatformView("groq", "llama", "597", 8, 10, "372", "120/min", "", (window,))
    values = {
        "title": "tickets",
        "step": "",
        "status": "running",
        "done": "612 of 1,000",
        "percent": 61.2,
        "shares": (Share("answered", "597", 0.597), Share("failed", "3", 0.003), Share("waiting", "400", 0.4)),
        "figures": (("cost", "$0.0123"), ("tokens", "123,456"), ("rate", "41/s"), ("time", "15.0 s")),
        "left": "10 s left",
        "platforms": (platform,),
        "budgets": (WindowView("budget of $5.00 per month", None, ""),),
        "errors": (ErrorView("rate", "3", "groq: too many requests"),),
    }
    return ProgressView(**{**values, **changes})


def test_a_view_on_one_line():
    assert progress_line(view()) == "tickets · 612/1,000 · 3 failed · 41/s · 10 s left · cost $0.0123 · errors: rate 3"
    assert progress_line(view(title="", status="cancelled", left="", errors=())).startswith("cancelled · 612/1,000")
    assert "groq resting until 14:03: asked too fast" in progress_line(
        view(platforms=(PlatformView("groq", "m", "1", 0, 1, "", "", "resting until 14:03: asked too fast", ()),))
    )


def test_a_view_as_text_and_as_html_says_the_same():
    shown = static(view(status="finished"))
    read = check_only_ours(shown["text/html"]).shown
    for said in (
        "tickets",
        "612 of 1,000",
        "597 answered",
        "$0.0123",
        "groq",
        "1,500 requests per day: 43 %",
        "too many",
    ):
        assert said in read
    assert "groq/llama · 597 answered · 1,500 requests per day 43 %" in shown["text/plain"]
    assert "3 x rate: groq: too many requests" in shown["text/plain"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_in_a_view_becomes_markup(payload):
    window = WindowView(payload, 12.0, payload)
    hostile = view(
        title=payload,
        step=payload,
        platforms=(PlatformView(payload, payload, "1", 1, 1, "", "", payload, (window,)),),
        errors=(ErrorView(payload, "1", payload),),
        figures=(("cost", payload),),
    )
    check_only_ours(html.progress_block(hostile, note=payload))
    assert not set(progress_block(hostile)) & set("\x00\x1b\u202e\ud800")


async def _looks(orch, prompts, **options):
    handle = orch.start(prompts, progress="off", **options)
    seen = []
    while handle.status == "running":
        seen.append(handle._watch.look())
        await asyncio.sleep(0.01)
    result = await handle
    return seen, handle._watch.look(), result


def test_a_live_view_grows_to_the_numbers_of_the_result(tmp_path):
    platform = ScriptedPlatform(
        "metered",
        tier="paid",
        price=PRICE,
        delay_s=0.05,
        concurrency=4,
        replies={"bad": PlatformError("request", "no <b>such</b> thing"), "": "four words of answer"},
    )
    prompts = [f"prompt {i}" for i in range(30)] + ["bad 1", "bad 2"]
    with orchestrator(tmp_path, platform) as orch:
        seen, last, result = asyncio.run(_looks(orch, prompts, name="mine"))
        live = [v for v in seen if v.platforms]
        assert {v.status for v in seen} <= {"running", "finished"}
        assert max(v.platforms[0].in_flight for v in live) == 4
        percents = [v.percent for v in seen if v.percent is not None]
        assert percents == sorted(percents)
        assert (last.title, last.status, last.done) == ("mine", "finished", "30 of 32")
        assert [(s.kind, s.tasks) for s in last.shares] == [("answered", "30"), ("failed", "2")]
        assert last.errors[0][:2] == ("request", "2")
        assert "no <b>such</b> thing" in last.errors[0].newest
        assert dict(last.figures)["tokens"] == f"{result.total_tokens:,}"
        assert last.platforms[0].in_flight == 0


def test_the_sums_of_a_view_are_those_of_the_result(tmp_path):
    platform = ScriptedPlatform("free", tier="free", provider="openai", model="gpt-4o-mini")
    with orchestrator(tmp_path, platform) as orch:
        for reused in (0, 5):
            handle = orch.start(["a", "b", "c", "d", "e"], progress="off")
            result = handle.wait()
            assert handle.progress.reused == reused == result.reused_count
            assert handle.progress.saved == result.saved > 0
            assert handle.progress.cost == result.total_cost == Decimal(0)
            assert handle.progress.tokens == result.total_tokens


def test_a_resting_platform_says_until_when_and_why(tmp_path):
    platform = ScriptedPlatform(
        "tired", faults=lambda _prompt, _n: PlatformError("rate", "slow down", retry_after_s=40)
    )
    with orchestrator(tmp_path, platform) as orch:
        handle = orch.start(["a"], progress="off")
        end = asyncio.run(_until(lambda: any(p.rest for p in handle._watch.look().platforms)))
        rest = handle._watch.look().platforms[0].rest
        handle.cancel()
        handle.wait()
    assert end
    assert re.fullmatch(r"resting for (40|3\d) s: asked too fast", rest), rest


async def _until(true, within_s=20.0):
    for _ in range(int(within_s / 0.02)):
        if true():
            return True
        await asyncio.sleep(0.02)
    return False


def test_a_step_of_a_chain_says_which(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform()) as orch:
        chain = orch.chain("report")
        first = asyncio.run(chain.run("Collect the facts"))
        handle = orch.start(["Check: {parent}", "Translate: {parent}"], chain=chain.id, parent=first, progress="off")
        handle.wait()
        assert handle._watch.look().step == "chain step: Check: {parent}"
        plain = orch.start(["Check"], progress="off")
        plain.wait()
        assert plain._watch.look().step == ""


def test_a_view_is_plain_data_for_the_browser():
    state = state_of(view())
    assert state["platforms"][0]["windows"][0] == {
        "label": "1,500 requests per day",
        "percent": 43.0,
        "until": "2026-11-29 00:00",
    }
    assert list(state["shares"][0]) == ["answered", "597", 0.597]
    assert progress_block(view(platforms=(), errors=())) == progress_line(view(platforms=(), errors=()))
