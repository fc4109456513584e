"""Meters: quota windows and budgets as a widget that is read anew while somebody can see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anywidget
import traitlets

from orchestrai.progress_view import window_view
from orchestrai.text import excerpt

if TYPE_CHECKING:
    from orchestrai.plan import WindowUse

_HERE: Final = Path(__file__).parent


class Meters(anywidget.AnyWidget):
    """The meters of quota windows and budgets; an ipywidgets DOM widget for a `VBox`, a `Tab` or a dashboard.

    Args:
        read: Returns the windows as they stand.
    """

    _esm: ClassVar[Any] = _HERE / "panel.js"
    _css: ClassVar[Any] = _HERE / "panel.css"
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, read: Callable[[], Iterable[WindowUse]]) -> None:
        self._read = read
        super().__init__(state=_state(read()))
        self.on_msg(self._told)

    def refresh(self) -> None:
        """Read the windows anew."""
        self.state = _state(self._read())

    def _told(self, _widget: object, content: object, _buffers: Sequence[memoryview]) -> None:
        """Do what the browser says, as far as it is a word that is known."""
        if isinstance(content, Mapping) and content.get("do") == "refresh":
            with contextlib.suppress(Exception):  # what cannot be read now, a closed ledger say, stays as it was
                self.refresh()


def _state(uses: Iterable[WindowUse]) -> dict[str, Any]:
    owners: dict[str, list[dict[str, Any]]] = {}
    for use in uses:
        owners.setdefault(excerpt(use.platform or "Budgets", 40), []).append(asdict(window_view(use)))
    return {
        "quota": [list(owner) for owner in owners.items()],
        "nothing": "No quota window and no budget is known here yet.",
    }
