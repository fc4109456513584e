"""BatchResult: what a batch returns, a sequence of Results in the order of the input."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self, final, get_args, overload

from orchestrai import html, text
from orchestrai.errors import Detached, InvalidInput, TaskFailed, nearest
from orchestrai.parents import asked_again
from orchestrai.result import Result
from orchestrai.results import frames
from orchestrai.results.frames import Money, check_money
from orchestrai.schemas import AnswerSchema, answer_schema
from orchestrai.task import Task

if TYPE_CHECKING:
    import pandas as pd

BatchStatus = Literal["running", "finished", "cancelled", "stopped"]
Retry = Callable[[list[Task]], Awaitable["BatchResult"]]
"""Asks tasks again: `task.samples` results for each task, adjacent and in order, as a call itself returns them."""

_STATUSES: Final = get_args(BatchStatus)


@final
class BatchResult(Sequence[Result]):
    """What a batch returns: Results in input order, their sums, and the input with the answers beside it.

    It never changes. `res[i]` is a Result, `res[a:b]` a BatchResult with its part of the input, and
    `res["column"]` a Series of `to_pandas()`. `len(res)` counts every task, failed ones included.

    Args:
        results: One Result for each task, in input order; with `sampled` one for each sample, adjacent.
        status: running (some tasks have no result yet), finished, cancelled, or stopped at a failure.
        duration_s: Wall clock of the call [s].
        frame: The input DataFrame, which is copied; None for other inputs. With as many rows as there are
            results they belong together in order, else each result goes to row number `result.index`.
        into: Name of the answer column; None when it was not given.
        schema: The compiled schema of the call, if any.
        batch_id: Id of the call in the ledger.
        name: The batch's name.
        project: The project it is booked under.
        ledger_path: The ledger that holds it.
        sampled: True when each row was answered several times.
        retry: Asks tasks again; lost when the value is pickled.

    Raises:
        InvalidInput: The status is unknown, or a result belongs to no row of the frame.
    """

    __slots__ = (
        "_frame",
        "_retry",
        "_rows",
        "batch_id",
        "duration_s",
        "into",
        "ledger_path",
        "name",
        "project",
        "results",
        "sampled",
        "schema",
        "status",
    )

    results: tuple[Result, ...]
    status: BatchStatus
    duration_s: float
    into: str | None
    schema: AnswerSchema | None
    batch_id: str | None
    name: str | None
    project: str | None
    ledger_path: str | Path | None
    sampled: bool
    _frame: pd.DataFrame | None
    _rows: Sequence[int]  # for each result the position of its row in the frame
    _retry: Retry | None

    def __init__(
        self,
        results: Iterable[Result],
        *,
        status: BatchStatus = "finished",
        duration_s: float = 0.0,
        frame: pd.DataFrame | None = None,
        into: str | None = None,
        schema: AnswerSchema | None = None,
        batch_id: str | None = None,
        name: str | None = None,
        project: str | None = None,
        ledger_path: str | Path | None = None,
        sampled: bool = False,
        retry: Retry | None = None,
    ) -> None:
        if status not in _STATUSES:
            raise InvalidInput(f"A batch is one of {', '.join(_STATUSES)}, not {status!r}.")
        kept = tuple(results)
        self._set(
            results=kept,
            status=status,
            duration_s=duration_s,
            into=into,
            schema=schema,
            batch_id=batch_id,
            name=name,
            project=project,
            ledger_path=ledger_path,
            sampled=sampled,
            _frame=None if frame is None else frame.copy(),
            _rows=range(0) if frame is None else _rows_of(kept, len(frame), sampled=sampled),
            _retry=retry,
        )

    # -- a sequence ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    @overload
    def __getitem__(self, key: int) -> Result: ...
    @overload
    def __getitem__(self, key: slice) -> Self: ...
    @overload
    def __getitem__(self, key: str) -> pd.Series[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Result | Self | pd.Series[Any]:
        if isinstance(key, str):
            return self._column(key)
        if isinstance(key, slice):
            return self._with(results=self.results[key], _rows=self._rows[key])
        return self.results[key]

    def _column(self, label: str) -> pd.Series[Any]:
        whole = self.to_pandas()
        if label not in whole.columns:
            raise KeyError(f"no column {label!r}.{nearest(label, whole.columns)}")
        column: pd.Series[Any] = whole[label]
        return column

    def _ipython_key_completions_(self) -> list[str]:
        return [label for label in self[:0].to_pandas().columns if isinstance(label, str)]

    # -- answers ---------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> list[str | None]:
        """The answers in input order; None where there is none."""
        return [r.output for r in self.results]

    @property
    def parsed(self) -> list[Any]:
        """The validated values in input order; None where there is none."""
        return [r.parsed for r in self.results]

    @property
    def failures(self) -> list[Result]:
        """Every result without an answer, in input order: failed, cancelled and skipped ones."""
        return [r for r in self.results if not r.success]

    @property
    def by_platform(self) -> dict[str, list[Result]]:
        """The results by who answered, or failed last; those that reached no platform are in none."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            if result.platform is not None:
                groups.setdefault(result.platform, []).append(result)
        return groups

    # -- counts and sums -------------------------------------------------------------------------------------

    @property
    def success_count(self) -> int:
        """Number of results with an answer."""
        return sum(r.success for r in self.results)

    @property
    def failure_count(self) -> int:
        """Number of results without an answer; with `success_count` it makes up `len(res)`."""
        return len(self.results) - self.success_count

    @property
    def success_rate(self) -> float:
        """Share of results with an answer, 0 to 1; 1 for an empty batch, in which nothing failed."""
        return self.success_count / len(self.results) if self.results else 1.0

    @property
    def reused_count(self) -> int:
        """Number of answers that came from the ledger or from an equal task of the same call."""
        return sum(r.reused for r in self.results)

    @property
    def total_cost(self) -> Decimal:
        """Cash spent [USD], as far as it is known: see `cost_complete`."""
        return sum((r.cost for r in self.results if r.cost is not None), Decimal(0))

    @property
    def cost_complete(self) -> bool:
        """True when the cost of every task is known, so that `total_cost` is all of it."""
        return all(r.cost is not None for r in self.results)

    @property
    def total_list_cost(self) -> Decimal:
        """What the same tokens cost on the paid APIs [USD], over the results that have a price."""
        return sum((r.list_cost for r in self.results if r.list_cost is not None), Decimal(0))

    @property
    def saved(self) -> Decimal:
        """List price less cash [USD], over the results where both are known."""
        return sum(
            (r.list_cost - r.cost for r in self.results if r.list_cost is not None and r.cost is not None),
            Decimal(0),
        )

    @property
    def total_tokens(self) -> int:
        """Input and output tokens as far as they are known [tokens]."""
        return sum((r.usage.input_tokens or 0) + (r.usage.output_tokens or 0) for r in self.results)

    # -- frames ----------------------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame | None:
        """The input's frame with a row for each result, a new copy; None where there was none or rows have samples."""
        if self._frame is None or self.sampled:
            return None
        return frames.part(self._frame, self._rows)

    @property
    def df(self) -> pd.DataFrame:
        """A new frame on every access: the input's columns and index, the answers, and what went wrong.

        Columns beside the input's (without an input frame: `prompt`, text), with `output` standing for
        `into`: `output` (text), or one column for each field of the schema in the field's dtype;
        `output_status` and `output_error` (text); with samples `output_sample` (Int64).
        """
        return self._answer_frame(details=False)

    def to_pandas(self, money: Money = "float") -> pd.DataFrame:
        """Return the frame of `.df` with all that is known of each answer.

        Args:
            money: "float" or "decimal", for exact amounts.

        Returns:
            The columns of `.df`, then `output_platform`, `_model`, `_tier` (text), `_cost`, `_list_cost` [USD]
            (float64, NaN where unknown; or objects, Decimal and None), `_input_tokens`, `_output_tokens`
            [tokens] (Int64), `_duration_s` [s] (float64), `_attempts` (Int64), `_reused` (bool), `_finish`,
            `_task_id` (text). The dtypes are the same for empty batches and failed ones.

        Raises:
            InvalidInput: `money` is neither.
        """
        check_money(money)
        return self._answer_frame(details=True, money=money)

    def _answer_frame(self, *, details: bool, money: Money = "float") -> pd.DataFrame:
        return frames.answer_frame(
            self.results,
            None if self._frame is None else frames.part(self._frame, self._rows),
            into=self.into,
            schema=self.schema,
            sampled=self.sampled,
            details=details,
            money=money,
        )

    # -- failures --------------------------------------------------------------------------------------------

    async def retry_failures(self) -> BatchResult:
        """Return a new batch in the same order, with every failed, cancelled or skipped task asked again.

        Rows that were skipped because a value of their prompt is missing stay as they are. What the failed
        attempts cost stays in the sums: a result that was asked again carries both. Nothing to ask again
        gives this batch itself.

        Raises:
            Detached: The batch was pickled or comes from another process, so there is nothing to ask with.
        """
        again = [i for i, r in enumerate(self.results) if not (r.success or _is_blank(r))]
        if not again:
            return self
        if self._retry is None:
            raise Detached(
                "This batch was unpickled or built without an orchestrator, so it cannot ask again: "
                "run orch.batch([r.task for r in res.failures]) instead."
            )
        places: dict[int, int] = {}
        for i in again:
            places.setdefault(self.results[i].index, len(places))
        by_index: dict[int, list[Result]] = {}
        for result in self.results:
            by_index.setdefault(result.index, []).append(result)
        tasks = {self._question(i): asked_again(self.results[i], by_index, places) for i in again}
        started = time.perf_counter()
        answers = await self._retry(list(tasks.values()))
        took = time.perf_counter() - started
        new = self._answers_by_question(tasks, answers)
        merged = list(self.results)
        for i in again:
            merged[i] = _after(merged[i], new[self._question(i)][merged[i].sample if self.sampled else 0])
        return self._with(results=tuple(merged), status=answers.status, duration_s=self.duration_s + took)

    def _question(self, i: int) -> int:
        """Return what tells the tasks to be asked apart; the samples of one row are one task."""
        return self.results[i].index if self.sampled else i

    def _answers_by_question(self, tasks: dict[int, Task], answers: Sequence[Result]) -> dict[int, Sequence[Result]]:
        sizes = [(task.samples or 1) if self.sampled else 1 for task in tasks.values()]
        if len(answers) != sum(sizes):
            raise InvalidInput(f"{len(answers)} results came back for {sum(sizes)} tasks that were asked again.")
        rest = iter(answers)
        return {question: [next(rest) for _ in range(size)] for question, size in zip(tasks, sizes, strict=True)}

    def raise_for_failures(self) -> Self:
        """Return this batch when every task has its answer.

        Raises:
            ExceptionGroup: Some have none; it holds a `TaskFailed` with its `.result` for each of them.
        """
        errors: list[TaskFailed] = []
        for result in self.results:
            try:
                result.raise_for_failure()
            except TaskFailed as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"{text.count(len(errors))} of {text.count(len(self))} tasks have no answer", errors)
        return self

    # -- display ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return text.batch_line(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002  IPython's protocol; it filters itself
        return {"text/plain": text.batch_block(self), "text/html": html.batch_block(self)}

    # -- a value: it never changes, and travels without what it could run with -------------------------------

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _with(self, **changes: Any) -> Self:
        """Return a batch that differs in the given slots and shares the others."""
        new = object.__new__(type(self))
        new._set(**{name: getattr(self, name) for name in self.__slots__} | changes)
        return new

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a BatchResult never changes; {name!r} cannot be set.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a BatchResult never changes; {name!r} cannot be deleted.")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[[dict[str, Any], Any], BatchResult], tuple[dict[str, Any], Any]]:
        state = {name: getattr(self, name) for name in self.__slots__} | {"_retry": None, "schema": None}
        if self._frame is not None:  # a slice takes only its own rows along
            state |= {"_frame": frames.part(self._frame, self._rows), "_rows": range(len(self))}
        # What a compiled schema validates with cannot travel; the tasks carry the schema as it was given.
        given = (r.task.schema for r in self.results if r.task.schema is not None)
        return _rebuilt, (state, None if self.schema is None else next(given, None))


def _rebuilt(state: dict[str, Any], schema: Any) -> BatchResult:
    batch = object.__new__(BatchResult)
    batch._set(**state | {"schema": None if schema is None else answer_schema(schema)})
    return batch


def _rows_of(results: tuple[Result, ...], rows: int, *, sampled: bool) -> Sequence[int]:
    """Return for each result the position of its row among the given number of rows."""
    if len(results) == rows and not sampled:
        return range(rows)
    for number, result in enumerate(results):
        if not 0 <= result.index < rows:
            raise InvalidInput(f"Result {number} answers row {result.index}, but the frame has {rows} rows.")
    return [result.index for result in results]


def _is_blank(result: Result) -> bool:
    """Tell whether a row was skipped because its prompt has a missing value: asking again changes nothing."""
    return result.status == "skipped" and result.error_class == "input"


def _after(old: Result, new: Result) -> Result:
    """Return a new answer in the place of a failure, with the money, tokens and attempts of both."""
    cost = None if old.cost is None or new.cost is None else old.cost + new.cost
    listed = [amount for amount in (old.list_cost, new.list_cost) if amount is not None]
    return replace(
        new,
        index=old.index,
        row=old.row,
        sample=old.sample,
        cost=cost,
        list_cost=sum(listed, Decimal(0)) if listed else None,
        usage=old.usage + new.usage,
        attempts=old.attempts + new.attempts,
    )
