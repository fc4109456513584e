"""Other front-ends: Notebook 7, and one that knows no widgets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jupyter import Notebook, Server, outputs_text
from test_panel import AWAITED, counted, provider, sent_after, setup

pytestmark = pytest.mark.browser
__all__ = ["provider"]  # its fixture is used here too


@pytest.fixture
def server(tmp_path_factory) -> Iterator[Server]:
    opened = Server(tmp_path_factory.mktemp("notebook7"), app="notebook")
    yield opened
    opened.close()


def test_in_notebook_7_a_panel_moves_obeys_and_stays(server, page, provider, tmp_path, shots):
    cells = [setup(provider, tmp_path), AWAITED, "h = orch.start(prompts, concurrency=8)", "(await h).status"]
    opened = Notebook(server, page, cells, "seven.ipynb")
    opened.run(0)
    opened.start(1)
    opened.settled(10)
    opened.cell(1).screenshot(path=shots / "notebook7_running.png")
    page.get_by_role("button", name="Cancel", exact=True).click()
    status, done = counted(opened.wait(1))
    assert status == "cancelled"
    assert 0 < done < 200
    assert sent_after(provider, 0) == 0
    opened.run(2)
    assert "finished" in outputs_text(opened.run(3))
    saved = opened.save()
    assert "widget-view" not in str(saved.cells)
    assert "200 of 200" in outputs_text(saved.cells[2].outputs, "text/html")


def test_a_front_end_without_widgets_says_so_and_shows_how_it_ended(page, provider, tmp_path, tmp_path_factory):
    without = ("@jupyter-widgets/jupyterlab-manager", "anywidget")
    server = Server(tmp_path_factory.mktemp("bare"), without=without)
    try:
        opened = Notebook(server, page, [setup(provider, tmp_path), AWAITED], "bare.ipynb")
        opened.run(0)
        opened.start(1)
        opened.cell(1).get_by_text("Where widgets are not shown live").wait_for()
        assert page.locator(".oai-panel").count() == 0
        assert counted(opened.wait(1)) == ("finished", 200)
        opened.cell(1).get_by_text("200 of 200").wait_for()
        page.wrong[:] = [
            text for text in page.wrong if text != "Exception opening new comm"
        ]  # what JupyterLab says of it
    finally:
        server.close()
