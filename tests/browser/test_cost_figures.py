"""Figures of costs inline in JupyterLab: drawn without a network, on light and dark, and no name of theirs runs."""

from __future__ import annotations

import pytest
from jupyter import Notebook, Server, outputs_text, page_of
from test_hostile_output import CANARY, fired

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=canary()> <a href='javascript:canary()'>x</a> $\\\\alpha$ %{y}"
SETUP = """
import os
os.environ["ORCHESTRAI_PROGRESS"] = "off"
from orchestrai import Orchestrator
from orchestrai.testing import ScriptedPlatform
EVIL = "%s"
price = {"input_mtok": "2", "output_mtok": "8"}
orch = Orchestrator(%r, platforms=[
    ScriptedPlatform("free", tier="free", price=price, model=EVIL),
    ScriptedPlatform("paid", tier="paid", price=price, delay_s=0.05),
])
await orch.batch([f"free {i}" for i in range(8)], platform="free", tags={"team": EVIL}, name="other", confirm="never")
await orch.batch([f"paid {i}" for i in range(12)], platform="paid", chain=EVIL, name=EVIL, confirm="never")
plot = orch.costs.plot
"""
FIGURES = (
    "orch.costs.dashboard()",
    "plot.by_day()",
    "plot.savings()",
    "plot.by_platform()",
    "plot.timeline(EVIL)",
    "plot.chain(EVIL)",
    "plot.by_tag('team')",
    "plot.by_model()",
)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_are_drawn_inline_offline_and_run_nothing(theme, browser, tmp_path, shots):
    server = Server(tmp_path / "server", theme=theme)
    try:
        with page_of(browser) as page:  # which asks nobody but this machine, or the test fails
            page.add_init_script(CANARY)
            opened = Notebook(server, page, [SETUP % (EVIL, str(tmp_path / "project")), *FIGURES], "costs.ipynb")
            outputs = opened.run(0)
            assert not any(output["output_type"] == "error" for output in outputs), outputs_text(outputs)
            for number, figure in enumerate(FIGURES, start=1):
                outputs = opened.run(number)
                assert "application/vnd.plotly.v1+json" in outputs[0]["data"], (figure, outputs_text(outputs))
                cell = opened.cell(number)
                cell.scroll_into_view_if_needed()
                cell.locator("svg.main-svg").first.wait_for()
                page.wait_for_timeout(300)
                cell.screenshot(path=shots / f"costs_{number}_{theme}.png")
                assert fired(page) == 0, figure
            assert page.locator(".js-plotly-plot img[src=x], .js-plotly-plot a[href^=javascript]").count() == 0
            opened.save()
        with page_of(browser) as another:
            another.add_init_script(CANARY)
            Notebook(server, another, None, opened.name)
            another.locator(".jp-OutputArea-output").first.wait_for()
            assert fired(another) == 0
    finally:
        server.close()
