"""Magics: `%load_ext orchestrai` gives a notebook `%%orch`, which answers a cell of text, and `%orch`, which shows things."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from keyword import iskeyword
from typing import Any, Final

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from orchestrai import text
from orchestrai.errors import nearest
from orchestrai.ids import now_us
from orchestrai.orchestrator import Orchestrator
from orchestrai.pricing import from_pico

TOPICS: Final = ("costs", "quota", "status", "platforms")
"""What `%orch` shows."""

_OPTIONS: Final = ("--platform", "--model", "--schema", "--chain", "--output")
_NAME: Final = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")  # names alone: no attribute, index, conversion or format
_DAY_US: Final = 86_400_000_000


@magics_class
class OrchMagics(Magics):
    """The magics of this library.

    Args:
        shell: The IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._own: Orchestrator | None = None

    @magic_arguments()
    @argument("topic", nargs="*", help="costs, quota, status or platforms; without one: the orchestrator")
    @argument("-p", "--platform", help="platform tried first")
    @argument("-m", "--model", help="the model that has to answer")
    @argument("-s", "--schema", help="name of a schema in this notebook: the answer is validated by it")
    @argument("-c", "--chain", help="chain that the answer belongs to")
    @argument("-o", "--output", metavar="VAR", help="variable that gets the Result")
    @line_cell_magic
    def orch(self, line: str, cell: str | None = None) -> Any:
        """Answer the text of a cell (`%%orch`), or show costs, quotas, calls or platforms (`%orch costs`).

        In the cell `{name}` stands for a variable of this notebook, as text; other braces stay as they are.
        The orchestrator is the variable `orch`, where there is one, else one of its own.
        """
        told = parse_argstring(self.orch, line)
        return self._shown(told.topic) if cell is None else self._answered(told, cell)

    def _shown(self, topics: list[str]) -> Any:
        if not topics:
            return self._orchestrator()
        topic = topics[0]
        if topic not in TOPICS or len(topics) > 1:
            raise UsageError(f"%orch shows one of {', '.join(TOPICS)}.{nearest(topic, TOPICS)}")
        orchestrator = self._orchestrator()
        if topic == "costs":
            midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
            return orchestrator.costs.by_platform(since=midnight)
        if topic == "status":
            return self._calls(orchestrator)
        return orchestrator.quota if topic == "quota" else orchestrator.platforms

    def _calls(self, orchestrator: Orchestrator) -> Any:
        import pandas as pd

        calls = orchestrator.calls(now_us() - _DAY_US)
        return pd.DataFrame(
            {
                "call": [call["name"] or call["kind"] for call in calls],
                "project": [call["project"] for call in calls],
                "status": [call["status"] for call in calls],
                "tasks": [call["task_count"] for call in calls],
                "settled": [sum(call["settled"].values()) for call in calls],
                "cost": [text.money(from_pico(call["cost"])) for call in calls],
                "began": [text.local_time(call["created_at"]) for call in calls],
                "pid": [call["pid"] for call in calls],
            }
        )

    def _answered(self, told: Any, cell: str) -> Any:
        if told.topic:
            raise UsageError(
                f"%%orch takes options alone; {told.topic[0]!r} is none.{nearest(told.topic[0], _OPTIONS)}"
            )
        variables = self.shell.user_ns  # type: ignore[union-attr]  # magics are made by a shell
        options = {name: getattr(told, name) for name in ("platform", "model", "chain") if getattr(told, name)}
        if told.schema:
            if told.schema not in variables:
                raise UsageError(
                    f"There is no variable {told.schema!r} to take as a schema.{nearest(told.schema, variables)}"
                )
            options["schema"] = variables[told.schema]
        if told.output and (not told.output.isidentifier() or iskeyword(told.output)):
            raise UsageError(f"{told.output!r} is no name of a variable.")
        result = self._orchestrator().run_sync(filled(cell.strip(), variables), on_error="continue", **options)
        if told.output:
            variables[told.output] = result
        return result

    def _orchestrator(self) -> Orchestrator:
        theirs = self.shell.user_ns.get("orch")  # type: ignore[union-attr]  # likewise
        if isinstance(theirs, Orchestrator):
            return theirs
        if self._own is None:
            self._own = Orchestrator()
        return self._own


def filled(cell: str, variables: Mapping[str, Any]) -> str:
    """Return a text with `{name}` replaced by variables, once, as text; `{{` and `}}` are braces, other braces stay.

    Raises:
        UsageError: There is no such variable.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0][0]
        if name not in variables:
            raise UsageError(
                f"There is no variable {name!r} for {{{name}}}.{nearest(name, variables)} Two braces, {{{{, are one."
            )
        return str(variables[name])

    return _NAME.sub(value, cell)


def complete(shell: Any, event: Any) -> list[str]:
    """Return what can stand after `%orch` and `%%orch`: topics, options, platforms, variables."""
    words = event.line.split()
    before = words[-1] if words and event.line.endswith(" ") else words[-2] if len(words) > 1 else ""
    if before in ("-p", "--platform"):
        theirs = shell.user_ns.get("orch")
        return [finding.name for finding in theirs.findings] if isinstance(theirs, Orchestrator) else []
    if before in ("-s", "--schema"):
        return [name for name in shell.user_ns if not name.startswith("_")]
    return [*_OPTIONS] if event.line.lstrip().startswith("%%") else [*TOPICS]


def register(shell: Any) -> None:
    """Give a shell the magics and their completion."""
    shell.register_magics(OrchMagics(shell))
    for key in ("%orch", "%%orch"):
        shell.set_hook("complete_command", complete, str_key=key)
