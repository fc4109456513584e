"""`orch.costs.plot`: each question as a plotly figure. Importing it imports plotly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import pandas as pd
import plotly.graph_objects as go

from orchestrai.costs import drawing, lanes, questions
from orchestrai.costs.batches import find_batch, timeline
from orchestrai.costs.figures import BILLED, LISTED, SAVED, Figure, canvas, dollars, label, nothing
from orchestrai.costs.graph import Node, draw
from orchestrai.costs.period import Moment, Part
from orchestrai.errors import InvalidInput, nearest

if TYPE_CHECKING:
    from orchestrai.costs.costs import Costs

Amount = Literal["cost", "list_cost"]
Kind = Literal["bar", "line", "scatter"]

_MONEY: Final = (("cost", "billed", BILLED), ("list_cost", "list cost", LISTED))
_ROWS_DRAWN: Final = 2_000


class Plots:
    """Figures of what `orch.costs` answers, each a plotly `Figure` whose `.frame` is what it shows.

    They are aggregated in DuckDB first, draw without a network, and read on light and dark. `since`, `until` and
    `project` mean what they mean to the questions; without anything to show, a figure says "nothing yet".

    Args:
        costs: The questions.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def by_day(
        self,
        of: Amount = "cost",
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
    ) -> Figure:
        """Return cost per day, stacked by platform; per week or month where there are many days.

        Args:
            of: cost (cash), or list_cost.
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.

        Raises:
            InvalidInput: `of` is neither.
        """
        questions.check_choice("of", of, get_args(Amount))
        found = questions.day_by_platform(self._costs.mirror, Part.of(since, until, project), "float")
        figure = canvas(_per_period(found, of), found, height=360)
        drawing.by_day(figure, found, of)
        return figure

    def savings(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cumulative list cost and cash; the area between them is what was saved."""
        found = questions.saved_by_day(self._costs.mirror, Part.of(since, until, project), "float")
        figure = canvas("Billed, and what it would have been", found, height=360)
        drawing.savings(figure, found)
        return figure

    def by_platform(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return platforms and models as a table with bars in its cells."""
        found = self._costs.by_model(since=since, until=until, project=project)
        height = 80 + drawing.table_height(found)
        figure = canvas("Platforms and models", found, [[{"type": "table"}]], height=height)
        drawing.table(figure, found)
        return figure

    def by_model(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cost and list cost of each model."""
        found = self._costs.by_model(since=since, until=until, project=project)
        return self._groups("Models", found, ("platform", "model"), _MONEY)

    def by_chain(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cost and list cost of the dearest chains."""
        return self._groups(
            "Chains", self._costs.by_chain(since=since, until=until, project=project), ("chain",), _MONEY
        )

    def by_batch(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cost and list cost of the dearest calls."""
        found = self._costs.by_batch(since=since, until=until, project=project)
        named = found.assign(batch=found["batch"].where(found["batch"].notna(), found["kind"]))
        return self._groups("Batches", named, ("batch",), _MONEY)

    def by_type(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cost and list cost of each task type."""
        found = self._costs.by_type(since=since, until=until, project=project)
        return self._groups("Task types", found, ("task_type",), _MONEY)

    def by_tag(self, key: str, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cost and list cost of each value of a tag."""
        found = self._costs.by_tag(key, since=since, until=until, project=project)
        return self._groups(f"Tag {label(key)}", found, ("value",), _MONEY)

    def top(
        self,
        by: Literal["cost", "list_cost", "duration_s", "input_tokens", "output_tokens", "attempts"] = "cost",
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
    ) -> Figure:
        """Return the tasks with the most of something."""
        found = self._costs.top(by, since=since, until=until, project=project)
        unit = {"cost": "$", "list_cost": "$", "duration_s": "s", "attempts": ""}.get(by, "tokens")
        named = found.assign(task=found["task_id"].str[-8:])
        return self._groups("Tasks with the most " + by.removesuffix("_s").replace("_", " "), named, ("platform", "task"),
                            ((by, by.replace("_", " "), BILLED),), unit)  # fmt: skip

    def latency(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return where the mean time of tasks went: our queue, waits after refusals, the provider."""
        found = self._costs.latency(since=since, until=until, project=project)
        columns = (
            ("queue_s", "queue", LISTED),
            ("throttle_s", "throttle", "#e69f00"),
            ("provider_s", "provider", BILLED),
        )
        return self._groups("Where the time of a task goes", found, ("platform", "model"), columns, "s", stacked=True)

    def outcomes(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return how requests ended, by error class."""
        found = self._costs.outcomes(since=since, until=until, project=project)
        sent = found[found["attempts"] > 0]
        named = sent.assign(end=sent["error_class"].where(sent["error_class"].notna(), sent["status"]))
        return self._groups("How requests ended", named, ("platform", "end"), (("attempts", "requests", BILLED),), "")

    def estimates(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return expected and actual input tokens of each model."""
        found = self._costs.estimates(since=since, until=until, project=project)
        columns = (("est_input_tokens", "expected", LISTED), ("input_tokens", "came", BILLED))
        return self._groups("Input tokens, expected and actual", found, ("platform", "model"), columns, "tokens")

    def quota(self) -> Figure:
        """Return how much of each quota window is used."""
        found = self._costs.quota()
        return self._groups("Quota used", found, ("platform", "window"), (("percent", "used", BILLED),), "%")

    def reprice(self, model: str, **options: Any) -> Figure:
        """Return cash, list cost and what another model would have cost; takes the options of `orch.costs.reprice`."""
        found = self._costs.reprice(model, **options)
        columns = (*_MONEY, ("repriced_cost", f"on {label(model)}", SAVED))
        return self._groups(f"What if everything had run on {label(model)}", found, ("platform", "model"), columns)

    def timeline(self, batch: str | None = None) -> Figure:
        """Return a batch in time: its requests in lanes by platform, parents and children linked.

        A batch of more than 1,000 requests is shown by how many were under way.

        Args:
            batch: Its name (the newest of that name), its id, or a BatchResult; the newest batch by default.

        Raises:
            InvalidInput: There is no such batch; the message names the nearest.
        """
        mirror = self._costs.mirror
        batch_id, name = find_batch(mirror, batch)
        found, single = timeline(mirror, batch_id)
        title = f"Batch {label(name)}" if name else "Newest batch" if batch is None else "Batch"
        figure = canvas(title, found, height=380)
        (lanes.timeline if single else lanes.load)(figure, found)
        return figure

    def chain(self, chain: Any) -> Figure:
        """Return the tasks of a chain with who fed whom and what each cost; `chain.graph()` has what was asked and said.

        Args:
            chain: The chain, its name, its id, or the id of a task.

        Raises:
            InvalidInput: There is no such chain; the message names the nearest.
        """
        found = self._costs.lineage(chain)
        of_one = chain in found["task_id"].tolist()
        title = f"Task …{label(chain[-8:])}" if of_one else f"Chain {label(getattr(chain, 'name', chain))}"
        figure = canvas(title, found)
        draw(figure, [_node(task) for task in found.to_dict("records")])
        return figure

    def frame(self, frame: pd.DataFrame, x: str, y: str, *, kind: Kind = "bar", title: str = "") -> Figure:
        """Return any frame as a figure in the same dress, of `orch.costs.sql` for example.

        Args:
            frame: The frame; its first 2,000 rows are drawn.
            x: Column along the bottom.
            y: Column of numbers.
            kind: How.
            title: Headline.

        Raises:
            InvalidInput: A column is not there, that of `y` holds no numbers, or there is no such kind.
        """
        questions.check_choice("kind", kind, get_args(Kind))
        for name in (x, y):
            if name not in frame.columns:
                raise InvalidInput(f"The frame has no column {name!r}.{nearest(name, map(str, frame.columns))}")
        shown = frame.head(_ROWS_DRAWN)
        figure = canvas(label(title or f"{y} by {x}"), frame, height=360)
        if not len(shown):
            nothing(figure)
            return figure
        across = shown[x]
        plain = pd.api.types.is_numeric_dtype(across) or pd.api.types.is_datetime64_any_dtype(across)
        names = across if plain else [label(value) for value in across]
        try:
            values = shown[y].astype("float64")
        except (TypeError, ValueError):
            raise InvalidInput(f"Column {y!r} holds no numbers.") from None
        mode = {"line": "lines", "scatter": "markers"}.get(kind)
        figure.add_trace(go.Scatter(x=names, y=values, mode=mode) if mode else go.Bar(x=names, y=values))
        figure.update_xaxes(title={"text": label(x)})
        figure.update_yaxes(title={"text": label(y)}, tickformat="~g")
        return figure

    def _groups(
        self,
        title: str,
        found: pd.DataFrame,
        keys: tuple[str, ...],
        columns: tuple[tuple[str, str, str], ...],
        unit: str = "$",
        *,
        stacked: bool = False,
    ) -> Figure:
        figure = canvas(title, found)
        names = [" · ".join(label(value) for value in key) for key in zip(*(found[key] for key in keys), strict=True)]
        drawing.groups(figure, found, names, columns, unit, stacked=stacked)
        return figure


def dashboard(costs: Costs, since: Moment, until: Moment, project: str | None) -> Figure:
    """Return tiles, cost per day, savings, platforms and the newest batch in one figure; see `Costs.dashboard`."""
    mirror, part = costs.mirror, Part.of(since, until, project)
    summary = questions.summary(mirror, part, "float")
    days = questions.day_by_platform(mirror, part, "float")
    of: Amount = "cost" if not len(days) or days["cost"].any() else "list_cost"
    models = questions.by_model(mirror, part, "float")
    batch_id, name = find_batch(mirror, None, project)
    batch, single = timeline(mirror, batch_id)
    count = len(drawing.TILES)
    left = count // 2
    specs: list[list[Any]] = [
        [{"type": "indicator"} for _ in range(count)],
        [{"type": "xy", "colspan": left}, *[None] * (left - 1), {"type": "xy", "colspan": count - left}, *[None] * (count - left - 1)],
        [{"type": "table", "colspan": count}, *[None] * (count - 1)],
        [{"type": "xy", "colspan": count}, *[None] * (count - 1)],
    ]  # fmt: skip
    heights = [90, 260, drawing.table_height(models) + 20, 240]
    titles = [""] * count + [
        _per_period(days, of) + (" (nothing was billed)" if of == "list_cost" else ""),
        "Billed, and at list prices without reuse",
        "Platforms and models",
        f"Newest batch{': ' + label(name) if name else ''}",
    ]
    figure = canvas(
        "Costs",
        models,
        specs,
        row_heights=heights,
        vertical_spacing=0.07,
        horizontal_spacing=0.06,
        subplot_titles=titles,
        height=sum(heights) + 300,
    )
    drawing.tiles(figure, summary)
    drawing.by_day(figure, days, of, 2, 1)
    drawing.savings(figure, questions.saved_by_day(mirror, part, "float"), 2, left + 1, legend=False)
    drawing.table(figure, models, 3, 1)
    (lanes.timeline if single else lanes.load)(figure, batch, 4, 1, legend=False)
    below = figure.layout.yaxis.domain[0] - 0.02  # the days, whose colours it tells
    figure.update_layout(barmode="stack", legend={"y": below, "yanchor": "top"})
    return figure


def _per_period(days: pd.DataFrame, of: Amount) -> str:
    return f"{'Cost' if of == 'cost' else 'List cost'} per {drawing.period_of(days)}"


def _node(task: Mapping[Any, Any]) -> Node:
    """Return a row of lineage as a node."""
    platform = task["platform"] if isinstance(task["platform"], str) else "from the ledger"
    cost, list_cost, depth = (0 if pd.isna(task[name]) else task[name] for name in ("cost", "list_cost", "depth"))
    told = [
        f"{platform} {task['model'] if isinstance(task['model'], str) else ''} · {task['status']}",
        f"{dollars(task['cost'])}, with all that came of it {dollars(task['cost_below']).lstrip('$')}",
        f"task {task['task_id']}",
    ]
    return Node(
        task["task_id"], int(depth), task["parents"], (), platform, task["status"], float(cost), float(list_cost),
        dollars(task["cost"]), "<br>".join(label(line, width=120) for line in told),
    )  # fmt: skip
