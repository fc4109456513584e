"""Panel: the live view of a call in a notebook, one widget with one state.

The browser draws what the state says and sends one word back, "cancel"; no text of a model or a provider becomes
markup there. Updates are whole states, so a message that is lost or late does no harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anywidget
import traitlets

from orchestrai import html
from orchestrai.progress_view import ProgressView, progress_block

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDGET_VIEW: Final = "application/vnd.jupyter.widget-view+json"
_HERE: Final = Path(__file__).parent
_NOT_LIVE: Final = (
    "This is the state when it was first shown. Where widgets are not shown live, the last state comes in its place "
    "when the call ends; should its kernel end before, run the cell again: what is finished is in the ledger."
)


class Panel(anywidget.AnyWidget):
    """A call under way: how far it is, what it costs, who is at work, what went wrong, and a button to cancel it.

    It is an ipywidgets DOM widget and may stand in a `VBox`, a `Tab` or a dashboard, several times at once.

    Args:
        view: What it shows first.
        cancel: Called when its button is pressed, in any thread.
    """

    _esm: ClassVar[Any] = _HERE / "panel.js"
    _css: ClassVar[Any] = _HERE / "panel.css"
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, view: ProgressView, cancel: Callable[[], object]) -> None:
        super().__init__(state=state_of(view))
        self._view = view
        self._cancel = cancel
        self.on_msg(self._told)

    def show(self, view: ProgressView) -> None:
        """Show a newer view; from any thread."""
        self._view = view
        self.state = state_of(view)

    def hear_while_blocked(self) -> None:
        """Let the button be heard while a cell blocks: JupyterLab then delivers it on a thread of its own."""
        # ipykernel 7.4 sends clicks where the widget's last message came from: the main thread, which is blocked.
        # There is no public way to say otherwise; without this attribute nothing changes.
        with contextlib.suppress(AttributeError):
            self.comm._reply_subshell_for = lambda _data, default: default  # noqa: SLF001 - likewise

    def _told(self, _widget: object, content: object, _buffers: Sequence[memoryview]) -> None:
        """Do what the browser says, as far as it is a word that is known; it is not trusted further."""
        if isinstance(content, Mapping) and content.get("do") == "cancel":
            self._cancel()

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, Any], dict[str, Any]]:
        widget = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {_WIDGET_VIEW: widget, **static(self._view, _NOT_LIVE)}, {}

    def __repr__(self) -> str:
        return progress_block(self._view)


def state_of(view: ProgressView) -> dict[str, Any]:
    """Return a view as the browser takes it."""
    return asdict(view)


def static(view: ProgressView, note: str = "") -> dict[str, str]:
    """Return a view as HTML and text that need no kernel: what a saved notebook shows."""
    return {"text/plain": progress_block(view), "text/html": html.progress_block(view, note)}
