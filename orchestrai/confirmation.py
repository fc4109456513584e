"""Confirmation: what a person has to agree to before a call goes on, and asking them in a terminal or in a notebook."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Collection
from typing import Final

from orchestrai import plan_text
from orchestrai.engine.loop import awake
from orchestrai.errors import ConfirmationNeeded, NotConfirmed, PlanWarning
from orchestrai.ids import now_us
from orchestrai.ledger.queries import consenting, give_consent
from orchestrai.notebook import kernel
from orchestrai.plan import Plan, Question
from orchestrai.routing import preflight
from orchestrai.surroundings import Surroundings
from orchestrai.text import printable

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


def questions(around: Surroundings, plan: Plan, forced: Collection[tuple[str, str]]) -> tuple[Question, ...]:
    """Return what a plan has to be confirmed for, most pressing first.

    Args:
        around: What the calls of the orchestrator share.
        plan: What would run.
        forced: Platform and model that every task there asked for itself.
    """
    if not plan.by_platform:
        return ()
    trained = _training(around, plan)
    agreed = around.engine().ledger.read(consenting) if trained else set()
    strangers = {
        name: f'Where that is turned off, write data_use = "none" under [platforms.{name}] in the settings.'
        for name, account in trained
        if (name, account) not in agreed
    }
    return preflight.questions(
        plan,
        ask_above=around.settings.ask_above,
        forced=forced,
        without_cash=[
            f.name for f in around.findings() if f.automatic and f.barred is None and f.tier in ("free", "subscription")
        ],
        strangers=strangers,
    )


class Preflight:
    """Says and asks what has to be said and asked before calls run; each thing once.

    Args:
        around: What the calls of the orchestrator share.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._said: set[tuple[str, float]] = set()

    async def pass_(self, plan: Plan, confirm: str | None) -> None:
        """Let a plan pass, once it is said and asked what has to be.

        Raises:
            ConfirmationNeeded: A person would have to agree, and nobody could answer.
            NotConfirmed: The person did not agree.
        """
        if self._passes(plan, confirm):
            return
        self._judge(plan, confirm, await ask(plan))

    def pass_sync(self, plan: Plan, confirm: str | None) -> None:
        """Do the same in a caller that cannot await: a person can be asked in a terminal alone.

        Raises:
            ConfirmationNeeded: As `pass_`.
            NotConfirmed: As `pass_`.
        """
        if self._passes(plan, confirm):
            return
        self._judge(plan, confirm, ask_in_terminal(plan))

    def _passes(self, plan: Plan, confirm: str | None) -> bool:
        """Return True where nobody has to be asked; what has to be said is said."""
        if confirm != "always" and (confirm == "never" or not plan.questions):
            self._say(plan)
            return True
        return False

    def _say(self, plan: Plan) -> None:
        for text in preflight.to_say(plan, self._said, self._around.settings.warn_at):
            # The line of code that says so explains nothing, and the caller's is far up, behind a loop.
            warnings.warn_explicit(text, PlanWarning, "orchestrai", 1)

    def _judge(self, plan: Plan, confirm: str | None, answer: bool | None) -> None:
        if answer is None and confirm != "always" and all(question.kind == "quota" for question in plan.questions):
            self._say(plan)
            return
        asked = " ".join(question.text for question in plan.questions) or "It was to be confirmed."
        if answer is None:
            raise ConfirmationNeeded(
                f'{asked} Nobody could answer, so nothing was sent. Look at orch.last_plan, then run it with confirm="never".',
                plan,
            )
        if not answer:
            raise NotConfirmed(f"Nothing was sent. ({asked})", plan)
        if any(question.kind == "training" for question in plan.questions):
            agreed = _training(self._around, plan)
            self._around.engine().ledger.file.write(lambda c: give_consent(c, agreed, now_us()))


def _training(around: Surroundings, plan: Plan) -> list[tuple[str, str]]:
    """Return name and account of the platforms of a plan that may train on the data, and that the person did not choose."""
    names = {name for name, _, _ in plan.by_platform}
    return [
        (f.name, f.platform.account or "")
        for f in around.findings()
        if f.platform is not None and f.name in names and f.data_use == "may_train" and not f.chosen
    ]
