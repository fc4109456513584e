"""Plan: what a call would do, at what cost and out of which quota, before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from orchestrai.errors import Detached
from orchestrai.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from orchestrai.results.batch_result import BatchResult


class Range(NamedTuple):
    """An amount that is not known exactly; None where it is not known at all."""

    low: Decimal | None
    expected: Decimal | None
    high: Decimal | None


@dataclass(frozen=True, slots=True)
class WindowUse:
    """What a plan does to one quota window or budget.

    Args:
        platform: Whose window it is; None for a budget.
        window: What it measures, in words: `1,500 requests per day`, `$5.00 per month`.
        unit: requests, tokens, percent or usd.
        limit: How much there is; 100 for percent.
        used: How much is used and reserved now; None where only the provider knows and has not told.
        planned: How much this plan is expected to use.
        resets_at: When the window begins anew [µs since 1970, UTC]; None where nobody tells.
        source: Who says how much is used.
        age_s: How old that word is [s]; None for what is counted here.
    """

    platform: str | None
    window: str
    unit: str
    limit: float
    used: float | None
    planned: float
    resets_at: int | None
    source: str
    age_s: float | None

    @property
    def percent_before(self) -> float | None:
        """How much of it is used now [percent]."""
        return None if self.used is None else 100.0 * self.used / self.limit if self.limit else 100.0

    @property
    def percent_after(self) -> float | None:
        """How much of it is used after this plan [percent]."""
        if self.used is None:
            return None
        return 100.0 * (self.used + self.planned) / self.limit if self.limit else 100.0


class Question(NamedTuple):
    """What a call with `confirm="auto"` asks about before it runs.

    Args:
        kind: quota, cash (though something free is configured), amount, training.
        text: The same for people.
    """

    kind: Literal["quota", "cash", "amount", "training"]
    text: str


@dataclass(frozen=True, slots=True)
class PlanLine:
    """What is planned for one task.

    Args:
        index: Its position in the input.
        row: Label of the row in the input frame's index; None for other inputs.
        sample: Number of the independent answer, from 0.
        task: The task.
        platform: Where it goes; None where there is no place for it.
        model: Which model.
        tier: Who pays.
        why: Why there: hint, only, cheapest, window (its first choice has no place left), reused, copy; or why nowhere.
        input_tokens: Its input [tokens], expected.
        output_tokens: Its answer [tokens], expected.
        cost: Cash [USD].
        list_cost: What it would cost on the paid API [USD], expected.
        reused: True where the answer is in the ledger, or comes from an equal task of the call.
    """

    index: int
    row: Any
    sample: int
    task: Task
    platform: str | None
    model: str | None
    tier: str | None
    why: str
    input_tokens: int
    output_tokens: int
    cost: Range
    list_cost: Decimal | None
    reused: bool


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Sequence[PlanLine]):
    """What a call would do: one line per task, its sums, its quota and its doubts. Nothing is sent by it.

    `plan[i]` is the line of task *i* in input order; `await plan.run()` runs it.

    Args:
        size: Number of its lines.
        line: Makes the line at a place.
        cost: Cash of the whole call [USD]; None where a price is unknown.
        list_cost: What it would cost on paid APIs [USD], expected; None where nothing is priced.
        quota_after: Every quota window and budget that it counts in.
        warnings: What a person should know before it runs, most pressing first.
        questions: What a call with `confirm="auto"` would ask about.
        excluded: Platform → why no task goes there.
        by_platform: Tasks by platform and model.
        reused: Tasks that are answered already, or by an equal one.
        unplaced: Tasks without a place.
        models: How many models answer it.
        large: Lines whose prompt is above the setting `estimate_above_tokens`.
        eta_s: How long it takes, about [s]; None where that cannot be told.
        gap: Cash by which a cheaper assignment could at most beat it [USD]; 0 when it is the cheapest.
    """

    size: int
    line: Callable[[int], PlanLine] = field(repr=False)
    cost: Range
    list_cost: Decimal | None
    quota_after: tuple[WindowUse, ...] = ()
    warnings: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    by_platform: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    reused: int = 0
    unplaced: int = 0
    models: int = 0
    large: tuple[int, ...] = ()
    eta_s: float | None = None
    gap: Decimal = Decimal(0)
    tokens: tuple[int, int] = (0, 0)
    """Input and output of the whole call [tokens], expected."""
    runner: Callable[[Plan], Awaitable[BatchResult]] | None = field(default=None, repr=False)

    def run(self) -> Awaitable[BatchResult]:
        """Run it: `res = await plan.run()`.

        It asks nothing. Where quotas have changed since it was made it is made anew first.

        Raises:
            PlanStale: It would now cost more than `cost.high`; the error has the new plan.
            Detached: It was copied from another process.
        """
        if self.runner is None:
            raise Detached("This plan was copied from another process. Make it again with orch.plan(…).")
        return self.runner(self)

    @overload
    def __getitem__(self, which: int) -> PlanLine: ...

    @overload
    def __getitem__(self, which: slice) -> list[PlanLine]: ...

    def __getitem__(self, which: int | slice) -> PlanLine | list[PlanLine]:
        if isinstance(which, slice):
            return [self.line(i) for i in range(*which.indices(self.size))]
        place = which + self.size if which < 0 else which
        if not 0 <= place < self.size:
            raise IndexError(f"this plan has {self.size:,} lines, and no line {which}")
        return self.line(place)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[PlanLine]:
        return map(self.line, range(self.size))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per task, in input order.

        Returns:
            A new frame; its index holds the labels of the input's rows, or positions. Columns: `platform`, `model`,
            `tier`, `why` (text, missing where there is no place), `input_tokens`, `output_tokens` (int64, expected),
            `cost_low`, `cost_expected`, `cost_high`, `list_cost` (float64 [USD], NaN unknown), `reused` (bool).
        """
        import pandas as pd

        lines = list(self)
        word: Any = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"

        def texts(name: str) -> Any:
            return pd.array([getattr(line, name) for line in lines], dtype=word)

        def money(values: Iterator[Decimal | None]) -> Any:
            return pd.array([float("nan") if value is None else float(value) for value in values], dtype="float64")

        labels = [line.index if line.row is None else line.row for line in lines]
        return pd.DataFrame(
            {
                **{name: texts(name) for name in ("platform", "model", "tier", "why")},
                "input_tokens": pd.array([line.input_tokens for line in lines], dtype="int64"),
                "output_tokens": pd.array([line.output_tokens for line in lines], dtype="int64"),
                "cost_low": money(line.cost.low for line in lines),
                "cost_expected": money(line.cost.expected for line in lines),
                "cost_high": money(line.cost.high for line in lines),
                "list_cost": money(line.list_cost for line in lines),
                "reused": pd.array([line.reused for line in lines], dtype="bool"),
            },
            index=pd.Index(labels),
        )

    def __reduce__(self) -> Any:
        return _copied, ([self.line(i) for i in range(self.size)], _values(self))

    def __repr__(self) -> str:
        from orchestrai import plan_text

        return plan_text.plan_line(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        from orchestrai import html, plan_text

        return {"text/plain": plan_text.plan_block(self), "text/html": html.plan_block(self)}


_KEPT = (
    "cost", "list_cost", "quota_after", "warnings", "questions", "excluded", "by_platform", "reused", "unplaced",
    "models", "large", "eta_s", "gap", "tokens",
)  # fmt: skip


def _values(plan: Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in _KEPT}


def _copied(lines: list[PlanLine], values: dict[str, Any]) -> Plan:
    return Plan(len(lines), lines.__getitem__, **values)


class Quota(Sequence[WindowUse]):
    """The meters of every quota window and budget: how much is used, of how much, until when, and who says so.

    Args:
        uses: The windows, with nothing planned.
        reserved: What requests under way hold of each, in its unit.
        widget: Makes the widget that shows them live.
    """

    def __init__(
        self, uses: Sequence[WindowUse], reserved: Sequence[float], widget: Callable[[], Any] | None = None
    ) -> None:
        self._uses = tuple(uses)
        self._reserved = tuple(reserved)
        self._widget = widget

    @property
    def widget(self) -> Any:
        """The meters as an ipywidgets DOM widget that is read anew while somebody can see it.

        Raises:
            Detached: These meters were made without an orchestrator.
        """
        if self._widget is None:
            raise Detached(
                "These meters were made without an orchestrator, so nothing could move them: use orch.quota.widget."
            )
        return self._widget()

    def __reduce__(self) -> tuple[type[Quota], tuple[Any, Any]]:
        return Quota, (self._uses, self._reserved)

    @overload
    def __getitem__(self, which: int) -> WindowUse: ...

    @overload
    def __getitem__(self, which: slice) -> tuple[WindowUse, ...]: ...

    def __getitem__(self, which: int | slice) -> WindowUse | tuple[WindowUse, ...]:
        return self._uses[which]

    def __len__(self) -> int:
        return len(self._uses)

    def rows(self) -> list[tuple[WindowUse, float]]:
        """Return each window with what requests under way hold of it."""
        return list(zip(self._uses, self._reserved, strict=True))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per window.

        Returns:
            A new frame with a RangeIndex. Columns: `platform`, `window`, `unit` (text; platform missing for budgets),
            `used`, `reserved`, `limit` (float64, in units; used without what is reserved, NaN where unknown),
            `percent` (float64, used and reserved), `resets_at` (datetime64[us, UTC]), `source` (text), `age_s` (float64,
            NaN for what is counted here).
        """
        import pandas as pd

        word: Any = "str" if int(pd.__version__.partition(".")[0]) >= 3 else "string"
        nan = float("nan")

        def numbers(values: list[float | None]) -> Any:
            return pd.array([nan if value is None else value for value in values], dtype="float64")

        uses, rows = self._uses, self.rows()
        return pd.DataFrame(
            {
                "platform": pd.array([use.platform for use in uses], dtype=word),
                "window": pd.array([use.window for use in uses], dtype=word),
                "unit": pd.array([use.unit for use in uses], dtype=word),
                "used": numbers([None if use.used is None else use.used - held for use, held in rows]),
                "reserved": numbers([held for _, held in rows]),
                "limit": numbers([use.limit for use in uses]),
                "percent": numbers([use.percent_before for use in uses]),
                "resets_at": pd.Series([_moment(use.resets_at) for use in uses], dtype="datetime64[us, UTC]"),
                "source": pd.array([use.source for use in uses], dtype=word),
                "age_s": numbers([use.age_s for use in uses]),
            }
        )

    def __repr__(self) -> str:
        from orchestrai import plan_text

        return plan_text.quota_line(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002 - IPython's protocol
        from orchestrai import html, plan_text

        return {"text/plain": plan_text.quota_block(self), "text/html": html.quota_block(self)}


def _moment(moment_us: int | None) -> datetime | None:
    try:
        return None if moment_us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)
    except OverflowError:
        return None
