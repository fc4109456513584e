"""The same in Notebook 7: a panel moves, obeys its button, and leaves what needs no kernel."""

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


def test_a_panel_moves_obeys_and_stays(server, page, provider, tmp_path, shots):
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
