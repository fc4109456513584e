"""`orch.costs.plot`: each question as a plotly figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from orchestrai.costs import questions
from orchestrai.costs.batches import find_batch, timeline
from orchestrai.costs.period import Moment, Part
from orchestrai.errors import InvalidInput, nearest

if TYPE_CHECKING:
    import pandas as pd

    from orchestrai.costs.costs import Costs
    from orchestrai.costs.figures import Figure

_BILLED, _LISTED, _SAVED = "#0072b2", "#8a8a8a", "#009e73"
_MONEY = (("cost", "billed", _BILLED), ("list_cost", "list cost", _LISTED))


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
        of: Literal["cost", "list_cost"] = "cost",
        *,
        since: Moment = None,
        until: Moment = None,
        project: str | None = None,
    ) -> Figure:
        """Return cost per day, stacked by platform.

        Args:
            of: cost (cash), or list_cost.
            since: From this moment on.
            until: Up to this moment.
            project: Of this project alone.
        """
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas

        found = questions.day_by_platform(self._costs.mirror, Part.of(since, until, project), "float")
        figure = canvas("Cost per day" if of == "cost" else "List cost per day", found, height=360)
        drawing.by_day(figure, found, of)
        return figure

    def savings(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return cumulative list cost and cash; the area between them is what was saved."""
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas

        found = questions.saved_by_day(self._costs.mirror, Part.of(since, until, project), "float")
        figure = canvas("Billed, and what it would have been", found, height=360)
        drawing.savings(figure, found)
        return figure

    def by_platform(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return platforms and models as a table with bars in its cells."""
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas

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
        from orchestrai.costs.figures import label

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
                            ((by, by.replace("_", " "), _BILLED),), unit)  # fmt: skip

    def latency(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return where the mean time of tasks went: our queue, waits after refusals, the provider."""
        found = self._costs.latency(since=since, until=until, project=project)
        columns = (
            ("queue_s", "queue", _LISTED),
            ("throttle_s", "throttle", "#e69f00"),
            ("provider_s", "provider", _BILLED),
        )
        return self._groups("Where the time of a task goes", found, ("platform", "model"), columns, "s", stacked=True)

    def outcomes(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return how requests ended, by error class."""
        found = self._costs.outcomes(since=since, until=until, project=project)
        sent = found[found["attempts"] > 0]
        named = sent.assign(end=sent["error_class"].where(sent["error_class"].notna(), sent["status"]))
        return self._groups("How requests ended", named, ("platform", "end"), (("attempts", "requests", _BILLED),), "")

    def estimates(self, *, since: Moment = None, until: Moment = None, project: str | None = None) -> Figure:
        """Return expected and actual input tokens of each model."""
        found = self._costs.estimates(since=since, until=until, project=project)
        columns = (("est_input_tokens", "expected", _LISTED), ("input_tokens", "came", _BILLED))
        return self._groups("Input tokens, expected and actual", found, ("platform", "model"), columns, "tokens")

    def quota(self) -> Figure:
        """Return how much of each quota window is used."""
        found = self._costs.quota()
        return self._groups("Quota used", found, ("platform", "window"), (("percent", "used", _BILLED),), "%")

    def reprice(self, model: str, **options: Any) -> Figure:
        """Return cash, list cost and what another model would have cost; takes the options of `orch.costs.reprice`."""
        from orchestrai.costs.figures import label

        found = self._costs.reprice(model, **options)
        columns = (*_MONEY, ("repriced_cost", f"on {label(model)}", _SAVED))
        return self._groups(f"What if everything had run on {label(model)}", found, ("platform", "model"), columns)

    def timeline(self, batch: str | None = None) -> Figure:
        """Return a batch in time: its requests in lanes by platform, parents and children linked.

        A batch of more than 1,000 requests is shown by how many were under way.

        Args:
            batch: Its name (the newest of that name), its id, or a BatchResult; the newest batch by default.

        Raises:
            InvalidInput: There is no such batch; the message names the nearest.
        """
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas, label

        mirror = self._costs.mirror
        batch_id, name = find_batch(mirror, batch)
        found, single = timeline(mirror, batch_id)
        title = f"Batch {label(name)}" if name else "Newest batch" if batch is None else "Batch"
        figure = canvas(title, found, height=380)
        (drawing.timeline if single else drawing.load)(figure, found)
        return figure

    def chain(self, chain: Any) -> Figure:
        """Return the tasks of a chain as a tree, with what each cost.

        Args:
            chain: The chain, its name, its id, or the id of a task.

        Raises:
            InvalidInput: There is no such chain; the message names the nearest.
        """
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas, label

        found = self._costs.lineage(chain)
        figure = canvas(f"Chain {label(getattr(chain, 'name', chain))}", found)
        drawing.tree(figure, found)
        return figure

    def frame(
        self, frame: pd.DataFrame, x: str, y: str, *, kind: Literal["bar", "line", "scatter"] = "bar", title: str = ""
    ) -> Figure:
        """Return any frame as a figure in the same dress, of `orch.costs.sql` for example.

        Args:
            frame: The frame; its first 2,000 rows are drawn.
            x: Column along the bottom.
            y: Column of numbers.
            kind: How.
            title: Headline.

        Raises:
            InvalidInput: A column is not there.
        """
        import plotly.graph_objects as go

        from orchestrai.costs.figures import canvas, label, nothing

        for name in (x, y):
            if name not in frame.columns:
                raise InvalidInput(f"The frame has no column {name!r}.{nearest(name, map(str, frame.columns))}")
        shown = frame.head(2_000)
        figure = canvas(label(title or f"{y} by {x}"), frame, height=360)
        if not len(shown):
            nothing(figure)
            return figure
        across = shown[x]
        names = (
            [label(value) for value in across]
            if across.dtype == object or str(across.dtype) in ("str", "string")
            else across
        )
        values = shown[y].astype("float64")
        figure.add_trace(
            go.Bar(x=names, y=values)
            if kind == "bar"
            else go.Scatter(x=names, y=values, mode="lines" if kind == "line" else "markers")
        )
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
        from orchestrai.costs import drawing
        from orchestrai.costs.figures import canvas, label

        figure = canvas(title, found)
        names = [" · ".join(label(value) for value in key) for key in zip(*(found[key] for key in keys), strict=True)]
        drawing.groups(figure, found, names, columns, unit, stacked=stacked)
        return figure


def dashboard(costs: Costs, since: Moment, until: Moment, project: str | None) -> Figure:
    """Return tiles, cost per day, savings, platforms and the newest batch in one figure; see `Costs.dashboard`."""
    from orchestrai.costs import drawing
    from orchestrai.costs.figures import canvas

    mirror, part = costs.mirror, Part.of(since, until, project)
    summary = questions.summary(mirror, part, "float")
    days = questions.day_by_platform(mirror, part, "float")
    of = "cost" if not len(days) or days["cost"].sum() > 0 else "list_cost"
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
        "Cost per day" if of == "cost" else "List cost per day (nothing was billed)",
        "Billed, and at list prices without reuse",
        "Platforms and models",
        f"Newest batch{': ' + _shown(name) if name else ''}",
    ]
    figure = canvas(
        "Costs",
        models,
        specs,
        row_heights=heights,
        vertical_spacing=0.06,
        horizontal_spacing=0.06,
        subplot_titles=titles,
        height=sum(heights) + 260,
    )
    drawing.tiles(figure, summary)
    drawing.by_day(figure, days, of, 2, 1)
    drawing.savings(figure, questions.saved_by_day(mirror, part, "float"), 2, left + 1, legend=False)
    drawing.table(figure, models, 3, 1)
    (drawing.timeline if single else drawing.load)(figure, batch, 4, 1, legend=False)
    figure.update_layout(barmode="stack", legend={"y": -0.02, "yanchor": "top"})
    return figure


def _shown(name: str) -> str:
    from orchestrai.costs.figures import label

    return label(name)
