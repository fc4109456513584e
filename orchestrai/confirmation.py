"""Confirmation: asking the person, in a terminal or in a notebook, before a call goes on."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

from orchestrai import plan_text
from orchestrai.engine.loop import awake
from orchestrai.notebook import kernel
from orchestrai.text import printable

if TYPE_CHECKING:
    from orchestrai.plan import Plan

PATIENCE_S: Final = 120.0
"""How long a question waits for its answer [s]."""

_YES: Final = frozenset({"y", "yes", "j", "ja", "o", "oui", "s", "si", "sí"})


def ask_in_terminal(plan: Plan) -> bool | None:
    """Ask y/N on stderr and read the answer from stdin; None where nobody is there, or nobody answers in time."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()):
        return None
    if os.environ.get("CI") or kernel.kernel() is not None:
        return None
    print(f"{plan_text.plan_block(plan)}\n", file=sys.stderr)  # noqa: T201 - asking is its purpose
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201 - likewise
    answers: list[str] = []
    # Read in a thread: a question that nobody answers must not wait for ever.
    reading = threading.Thread(target=lambda: answers.append(sys.stdin.readline()), daemon=True)
    reading.start()
    reading.join(PATIENCE_S)
    if not answers or not answers[0]:
        print(file=sys.stderr)  # noqa: T201 - the line of the question ends
        return None
    return answers[0].strip().lower() in _YES


async def ask(plan: Plan) -> bool | None:
    """Ask wherever a person can be reached: by buttons in a notebook, else in the terminal; None where nobody answers."""
    if kernel.kernel() is not None:
        return await _ask_by_buttons(plan) if kernel.is_attended() and kernel.hears_clicks() else None
    return await asyncio.to_thread(ask_in_terminal, plan)


async def _ask_by_buttons(plan: Plan) -> bool | None:
    """Show the plan with two buttons under it, and what was chosen in their place afterwards."""
    import ipywidgets  # type: ignore[import-untyped]  # it ships no types
    from IPython.display import display

    loop = asyncio.get_running_loop()
    chosen: asyncio.Future[bool] = loop.create_future()

    def choose(answer: bool) -> None:
        if not chosen.done():
            chosen.set_result(answer)

    go = ipywidgets.Button(description="Go on", button_style="primary", tooltip="Send these tasks")
    stop = ipywidgets.Button(description="Do not send", tooltip="Send nothing")
    # A click may be heard in another thread.
    go.on_click(lambda _: loop.call_soon_threadsafe(choose, True))
    stop.on_click(lambda _: loop.call_soon_threadsafe(choose, False))
    row = ipywidgets.HBox([go, stop])
    display(plan)  # type: ignore[no-untyped-call]  # likewise
    shown = display(row, display_id=True)  # type: ignore[no-untyped-call]
    answer: bool | None = None
    try:
        with awake():
            answer = await asyncio.wait_for(chosen, PATIENCE_S)
    except TimeoutError:
        answer = None
    finally:
        words = {True: "Confirmed.", False: "Not sent.", None: "Nobody answered: nothing was sent."}[answer]
        if shown is not None:
            shown.update({"text/plain": printable(words)}, raw=True)
        for widget in (row, go, stop):
            widget.close()
    return answer
