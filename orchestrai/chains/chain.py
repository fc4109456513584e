"""Chain: one AI's answers become another's input; what came from what, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrai import html, text
from orchestrai.chains.shared import Shared
from orchestrai.chains.steps import Step, steps_of
from orchestrai.errors import InvalidInput
from orchestrai.ids import now_us
from orchestrai.ledger.chains import ChainRow
from orchestrai.result import Result
from orchestrai.results.batch_result import BatchResult
from orchestrai.task import named_tasks

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from orchestrai.engine.engine import Engine

_COLUMNS: Final = (
    "task_id", "status", "platform", "model", "tier", "parents", "depth", "root_task_id", "attempts", "cost", "list_cost",
    "input_tokens", "output_tokens", "duration_s", "reused", "started_at", "error_class", "error", "prompt", "answer",
)  # fmt: skip

_SHOWN: Final = 40  # steps that a notebook shows


class Runner(Protocol):
    """What a chain needs of an orchestrator."""

    @property
    def run(self) -> Callable[..., Coroutine[Any, Any, Result]]:
        """Answers one prompt."""

    @property
    def batch(self) -> Callable[..., Coroutine[Any, Any, BatchResult]]:
        """Answers many prompts."""

    @property
    def continue_each(self) -> Callable[..., Coroutine[Any, Any, BatchResult]]:
        """Answers one prompt for each result of a batch."""


class Chain:
    """One run of a chain: its steps work with each other's answers, wherever each of them is asked.

    `chain.id` is the run, `chain.name` what it is called; the same name continues the newest run, from any kernel.
    A step is asked once: run again, it is reused, and a step that was changed is asked anew with all that follow from it.

    Args:
        row: The run.
        runner: The orchestrator.
        engine: Opens its ledger.
    """

    def __init__(self, row: ChainRow, runner: Runner, engine: Callable[[], Engine]) -> None:
        self.id = row.chain_id
        self.name = row.name
        self.created_at = row.created_at
        self.shared = Shared(engine, row.chain_id)
        """Values that the tasks of the chain share: `await chain.shared.set("glossary", …)`."""
        self._runner = runner
        self._engine = engine

    # Steps.

    def run(self, prompt: Any, *, parent: Any = None, **options: Any) -> Coroutine[Any, Any, Result]:
        """Answer one prompt as a step: `b = await chain.run("Write a summary of: {parent}", parent=a)`.

        Args:
            prompt: A string, messages or a Task. `{parent}` (or `{parents}`) is where the parents' answers are put, as
                fenced data; without it they stand at the end. `{shared.NAME}` is a shared value.
            parent: Whose answers it works with: a Result, or several; task ids and HandoffContexts too.
            **options: As for `Orchestrator.run`.

        Raises:
            TaskFailed: There is no answer; where a parent has none, the step is skipped and the error says why.
            HandoffContextMissing: A parent's answer is gone from memory, or was altered.
            InvalidInput: As for `Orchestrator.run`, or a parent is not known to this ledger.
        """
        return self._runner.run(prompt, chain=self.id, parent=parent, **options)

    def fan_out(self, parent: Any, prompts: Any, **options: Any) -> Coroutine[Any, Any, BatchResult]:
        """Answer several prompts that all work with the same parent, in parallel.

        Args:
            parent: As for `run`.
            prompts: What `Orchestrator.batch` takes.
            **options: As for `Orchestrator.batch`.
        """
        return self._runner.batch(prompts, chain=self.id, parent=parent, **options)

    def join(self, parents: Iterable[Any], prompt: Any, **options: Any) -> Coroutine[Any, Any, Result]:
        """Answer one prompt that works with the answers of several steps: `{parents}` is where they are put, in order.

        Args:
            parents: Results, a BatchResult, task ids or HandoffContexts.
            prompt: As for `run`.
            **options: As for `Orchestrator.run`.

        Raises:
            TaskFailed: As `run`; a parent without an answer among them.
        """
        several = named_tasks("parents", parents)
        if not several:
            raise InvalidInput("join needs at least one parent.")
        return self._runner.run(prompt, chain=self.id, parent=several, **options)

    def map(self, batch: BatchResult, prompt: str, **options: Any) -> Coroutine[Any, Any, BatchResult]:
        """Continue every row of a batch by a row of its own: `res = await chain.map(res, "Refine: {parent}")`.

        A row without an answer is skipped with the cause, the others go on. Where the batch had a frame, the template
        may read its columns too, and the result has them.

        Args:
            batch: The parent batch.
            prompt: Template of every row.
            **options: As for `Orchestrator.batch`.

        Raises:
            InvalidInput: `batch` is no BatchResult, or as for `Orchestrator.batch`.
        """
        if not isinstance(batch, BatchResult):
            raise InvalidInput(
                f"map continues a BatchResult, not {type(batch).__name__}: `await` a batch first, or give orch.batch "
                "a list of Task(…, parent=result)."
            )
        return self._runner.continue_each(batch, prompt, {**options, "chain": self.id})

    # What there is of it.

    @property
    def steps(self) -> list[Step]:
        """Its steps as the ledger has them now, in the order in which they began."""
        return self._engine().ledger.read(lambda c: steps_of(c, self.id))

    @property
    def tasks(self) -> int:
        """Number of steps."""
        return len(self.steps)

    @property
    def cost(self) -> Decimal:
        """Cash spent over every request of every step [USD], as far as it is known: see `cost_complete`."""
        return sum((step.cost for step in self.steps), Decimal(0))

    @property
    def cost_complete(self) -> bool:
        """True when the cost of every request is known, so that `cost` is all of it."""
        return not any(step.unpriced for step in self.steps)

    @property
    def list_cost(self) -> Decimal:
        """What the same tokens cost on the paid APIs [USD], over the requests that have a price."""
        return sum((step.list_cost for step in self.steps), Decimal(0))

    @property
    def tokens(self) -> int:
        """Input and output over every request, as far as they are known [tokens]."""
        return sum(step.input_tokens + step.output_tokens for step in self.steps)

    @property
    def depth(self) -> int:
        """Steps from the farthest root to the deepest step; 0 for steps without parents."""
        return max((step.depth for step in self.steps), default=0)

    @property
    def duration_s(self) -> float:
        """From the first request to the last reply [s]; what passed between calls counts too."""
        steps = self.steps
        ends = [step.finished_at for step in steps if step.finished_at is not None]
        begins = [step.started_at for step in steps if step.started_at is not None]
        if any(step.status == "running" for step in steps):
            ends.append(now_us())
        return max(0.0, (max(ends) - min(begins)) / 1e6) if ends and begins else 0.0

    @property
    def root_task_id(self) -> str | None:
        """The step it began with; None while there is none."""
        steps = self.steps
        return steps[0].root_task_id or steps[0].task_id if steps else None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row for each step, in the order in which they began.

        Returns:
            `task_id, status, platform, model, tier` (text), `parents` (tuples of task ids), `depth` (int64),
            `root_task_id` (text), `attempts` (int64), `cost, list_cost` [USD] (float64, sums of what is known),
            `input_tokens, output_tokens` [tokens] (int64), `duration_s` [s] (float64), `reused` (bool), `started_at`
            (datetime64, UTC), `error_class, error` (text), `prompt, answer` (their first 300 characters).
        """
        return _frame(self.steps)

    def graph(self) -> go.Figure:
        """Return who fed whom: steps coloured by platform, sized by what they cost, excerpts on hover."""
        from orchestrai.chains.graph import figure

        steps = self.steps
        return figure(self.name, steps, _frame(steps))

    def __repr__(self) -> str:
        return f"<{self._headline(self.steps)}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        steps = self.steps
        titles = ("step", "depth", "platform", "status", "attempts", "cost", "prompt", "answer")
        rows = [
            (
                str(i),
                str(step.depth),
                step.platform or "",
                step.status + (", reused" if step.reused else ""),
                str(step.attempts),
                text.money(step.cost),
                text.excerpt(step.prompt or "", 60),
                text.excerpt(step.answer or step.error or "", 60),
            )
            for i, step in enumerate(steps[:_SHOWN])
        ]
        line = self._headline(steps)
        if len(steps) > _SHOWN:
            line += f" (the first {_SHOWN}; .to_pandas() has all)"
        return {
            "text/plain": f"<{line}>\n{text.table(rows, titles)}" if rows else f"<{line}>",
            "text/html": html.table_block(line, titles, rows),
        }

    def _headline(self, steps: list[Step]) -> str:
        done = sum(step.status == "succeeded" for step in steps)
        cost = text.money(sum((step.cost for step in steps), Decimal(0)))
        of = text.counted(len(steps), "step")
        return f"Chain {text.excerpt(self.name, 60)!r}: {text.count(done)} of {of}, {cost}, run {self.id}"


def _frame(steps: Iterable[Step]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([_row(step) for step in steps], columns=list(_COLUMNS))
    kinds = dict.fromkeys(("depth", "attempts", "input_tokens", "output_tokens"), "int64")
    kinds |= dict.fromkeys(("cost", "list_cost", "duration_s"), "float64") | {"reused": "bool"}
    frame["started_at"] = pd.to_datetime(frame["started_at"], unit="us", utc=True)
    return frame.astype(kinds)


def _row(step: Step) -> tuple[Any, ...]:
    return (
        step.task_id, step.status, step.platform, step.model, step.tier, step.parents, step.depth, step.root_task_id,
        step.attempts, float(step.cost), float(step.list_cost), step.input_tokens, step.output_tokens, step.duration_s, step.reused,
        step.started_at, step.error_class, step.error, step.prompt, step.answer,
    )  # fmt: skip
