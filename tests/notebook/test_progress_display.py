"""Displays never hurt a call: whatever a widget, a listener or a front-end does, the batch goes on at its own speed."""

from __future__ import annotations

import gc
import threading
import time
import warnings

import ipywidgets
import pytest
from loopback import finished, orchestrator

from orchestrai import progress_display
from orchestrai.notebook.panel import Panel
from orchestrai.progress_display import Display, PanelScreen, open_screen
from orchestrai.testing import ScriptedPlatform

PROMPTS = [f"task {i}" for i in range(40)]


@pytest.fixture
def orch(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(delay_s=0.05, concurrency=8)) as opened:
        yield opened


class Recorded:
    """A screen that keeps what it is shown."""

    every_s = 0.01

    def __init__(self, at_show=lambda: None, at_end=lambda: None):
        self.views, self.last = [], None
        self._at_show, self._at_end = at_show, at_end

    def show(self, view):
        self.views.append(view)
        self._at_show()

    def end(self, view):
        self.last = view
        self._at_end()


def fail():
    raise RuntimeError("the front-end is gone")


def shown_on(orch, screen):
    """Run a batch that is shown on one screen more."""
    handle = orch.start(PROMPTS, progress="off")
    handle._displays.append(handle._shown_on(screen))
    return handle.wait()


# --- sick displays ---------------------------------------------------------------------------------------------------


def test_a_display_that_raises_is_told_of_once_and_hurts_nothing(orch):
    screen = Recorded(fail, fail)
    with pytest.warns(RuntimeWarning, match="the front-end is gone") as told:
        result = shown_on(orch, screen)
    assert len(told) == 1
    assert result.success_count == len(PROMPTS)
    assert len(screen.views) == 1  # what failed is not tried again …
    assert screen.last.status == "finished"  # … but at the end


def test_a_display_that_raises_where_warnings_are_errors_hurts_nothing_either(orch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shown_on(orch, Recorded(fail)).success_count == len(PROMPTS)


def test_a_display_that_blocks_for_ever_does_not_hold_a_batch_up(orch, monkeypatch):
    monkeypatch.setattr(progress_display, "_GOODBYE_S", 0.1)
    blocked = threading.Event()
    screen = Recorded(blocked.wait)
    result = shown_on(orch, screen)  # were it in the way of anything, this would never return
    assert result.success_count == len(PROMPTS)
    assert len(screen.views) == 1
    assert screen.last is None
    blocked.set()


def test_a_listener_of_the_panel_that_raises_hurts_nothing(orch):
    handle = orch.start(PROMPTS, progress="off")
    handle.panel.observe(lambda _: fail(), "state")
    with pytest.warns(RuntimeWarning, match="the front-end is gone"):
        result = handle.wait()
    assert result.success_count == len(PROMPTS)


def test_a_panel_that_is_closed_and_dropped_hurts_nothing(orch):
    handle = orch.start(PROMPTS, progress="off")
    handle.panel.close()
    gc.collect()
    assert handle.wait().success_count == len(PROMPTS)
    assert handle.panel.state["status"] == "finished"


def test_a_panel_is_updated_ten_times_a_second_at_most_and_ends_with_the_last_state(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(delay_s=0.002, concurrency=64)) as orch:
        handle = orch.start([f"task {i}" for i in range(5_000)], progress="off")
        states, began = [], time.monotonic()
        handle.panel.observe(lambda change: states.append(change["new"]), "state")
        handle.wait()
        assert len(states) <= (time.monotonic() - began) / progress_display.FRAME_S + 2
        assert len(states) >= 2
        assert states[-1]["done"] == "5,000 of 5,000"
        assert states[-1]["status"] == "finished"


def test_a_call_that_nothing_happens_in_sends_no_updates(tmp_path):
    with orchestrator(tmp_path, ScriptedPlatform(delay_s=0.6)) as orch:
        handle = orch.start(["a"], progress="off")
        screen = PanelScreen(handle._watch, handle.cancel, keep=True)
        sent = []
        screen.panel.observe(sent.append, "state")
        view = handle._watch.look()
        screen.show(view)
        sent.clear()
        screen.show(view)
        assert sent == []
        handle.wait()


# --- the panel as a widget -------------------------------------------------------------------------------------------


def test_a_panel_stands_in_layouts_and_is_the_same_each_time(orch):
    handle = orch.start(PROMPTS, progress="off")
    panel = handle.panel
    assert isinstance(panel, Panel)
    assert isinstance(panel, ipywidgets.DOMWidget)
    assert handle.panel is panel
    box = ipywidgets.Tab([ipywidgets.VBox([panel])])
    handle.wait()
    assert panel.state["status"] == "finished"
    assert box.children[0].children[0] is panel
    late = orch.start(PROMPTS, progress="off")
    late.wait()
    assert late.panel.state["done"] == "40 of 40"


def test_the_button_cancels_and_nothing_else_that_comes_from_the_browser_is_obeyed(orch):
    handle = orch.start([f"task {i}" for i in range(400)], progress="off")
    panel = handle.panel
    for word in (
        "Cancel",
        {"do": "stop"},
        {"do": ["cancel"]},
        {"do": {}},
        ["cancel"],
        None,
        3,
        {"do": "__import__('os')"},
    ):
        panel._handle_custom_msg(word, [])
    assert handle.status == "running"
    panel._handle_custom_msg({"do": "cancel"}, [])
    assert handle.wait().status == "cancelled"
    assert panel.state["status"] == "cancelled"


def test_what_a_panel_holds_beside_its_widget_is_readable_where_widgets_are_not_shown(orch):
    handle = orch.start(PROMPTS, progress="off")
    data, _ = handle.panel._repr_mimebundle_()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert "run the cell again" in data["text/html"]
    handle.wait()


# --- which display ---------------------------------------------------------------------------------------------------

CHOICE = """
    import sys
    from orchestrai import Orchestrator

    async def upper(request):
        return request.messages[-1].text.upper()

    with Orchestrator(sys.argv[1], platforms=[upper]) as orch:
        orch.batch_sync(["a"], progress=sys.argv[2])
    print([name for name in ("anywidget", "IPython", "rich") if name in sys.modules])
"""


@pytest.mark.parametrize("mode", ["auto", "widget", "off"])
def test_a_script_without_a_terminal_is_silent_and_loads_no_display(tmp_path, mode):
    assert finished(CHOICE, tmp_path, mode) == "[]\n"


def test_text_is_written_to_stderr_where_it_is_asked_for(orch, capsys):
    orch.batch_sync(PROMPTS, progress="text")
    assert "40/40" in capsys.readouterr().err


def test_the_environment_chooses_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ORCHESTRAI_PROGRESS", "text")
    with orchestrator(tmp_path, ScriptedPlatform()) as orch:
        orch.batch_sync(PROMPTS)
        assert "40/40" in capsys.readouterr().err
        orch.batch_sync(PROMPTS, progress="off")
        assert capsys.readouterr().err == ""


def test_a_display_ends_without_being_closed_when_its_batch_does(orch):
    handle = orch.start(PROMPTS, progress="off")
    screen = Recorded()
    display = handle._shown_on(screen)
    assert isinstance(display, Display)
    handle._errand.future.result()
    display.close()
    assert screen.last.status == "finished"
    assert open_screen(handle._watch, "off", handle.cancel) is None
