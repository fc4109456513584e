"""Graph: who fed whom from left to right, drawn from the steps of a chain or from what its tasks cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import plotly.graph_objects as go

from orchestrai.costs.figures import Figure, colours, label, nothing

_LINE: Final = "rgba(128,128,128,0.6)"  # seen on light and on dark
_SMALLEST, _LARGEST = 16.0, 46.0  # diameters of nodes [px]
_ROW, _COLUMN = 64.0, 1_000.0  # height of a row, and of all of them at the most [px]
_NAME: Final = 18.0  # height of a name below its node [px]
_SYMBOLS: Final = {"succeeded": "circle", "failed": "x"}  # any other status has no answer

_Places = dict[str, tuple[float, float]]


class Node(NamedTuple):
    """A task in a graph. Its name and what is said of it have passed `label`."""

    id: str
    depth: int
    parents: Sequence[str]
    after: Sequence[str]
    """Those it only came after."""
    platform: str
    status: str
    cost: float
    list_cost: float
    name: str
    told: str


def draw(figure: Figure, nodes: Sequence[Node]) -> None:
    """Draw nodes: a column for each depth, lines from parents to children (dotted where a node only came after another),
    a colour for each platform, the area of a node by its cost (by its list cost where nothing cost cash).
    """
    if not nodes:
        nothing(figure)
        return
    places = _places(nodes)
    fed = [(parent, node.id) for node in nodes for parent in node.parents]
    came_after = [(other, node.id) for node in nodes for other in node.after if other not in node.parents]
    for dash, pairs in (("solid", fed), ("dot", came_after)):
        x, y = _lines(places, pairs)
        if x:
            line = {"color": _LINE, "width": 1.5, "dash": dash}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False))
    deepest, rows = max(x for x, _ in places.values()), 1 + 2 * max(y for _, y in places.values())
    row = min(_ROW, _COLUMN / rows)
    named = row >= _SMALLEST + _NAME
    sizes = _sizes(nodes, min(_LARGEST, row - _NAME if named else row))
    for platform, colour in colours(sorted(node.platform for node in nodes)).items():
        own = [node for node in nodes if node.platform == platform]
        figure.add_trace(
            go.Scatter(
                x=[places[node.id][0] for node in own],
                y=[places[node.id][1] for node in own],
                mode="markers+text" if named else "markers",
                name=label(platform),
                text=[node.name for node in own],
                textposition="bottom center",
                hovertext=[node.told for node in own],
                hoverinfo="text",
                marker={
                    "color": colour,
                    "opacity": 1,
                    "size": [sizes[node.id] for node in own],
                    "symbol": [_SYMBOLS.get(node.status, "circle-open") for node in own],
                    "line": {"color": _LINE, "width": 1},
                },
                showlegend=True,
            )
        )
    figure.update_xaxes(visible=False, range=[-0.5, deepest + 0.5])
    figure.update_yaxes(visible=False, range=[rows / 2 + 0.2, -rows / 2 - 0.2])
    figure.update_layout(height=round(140 + row * rows), legend={"itemsizing": "constant"})


def _places(nodes: Sequence[Node]) -> _Places:
    """Return where each node stands: its depth, and near the middle of those before it."""
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(node.depth, []).append(node)
    places: _Places = {}
    for depth, column in sorted(columns.items()):

        def height(node: Node) -> float:
            before = [places[one][1] for one in (*node.parents, *node.after) if one in places]
            return sum(before) / len(before) if before else 0.0

        for row, node in enumerate(sorted(column, key=height)):
            places[node.id] = (float(depth), row - (len(column) - 1) / 2)
    return places


def _sizes(nodes: Sequence[Node], largest: float) -> dict[str, float]:
    """Return the diameter of each node [px]: its area grows with what it cost."""
    paid = any(node.cost for node in nodes)
    money = {node.id: node.cost if paid else node.list_cost for node in nodes}
    most = max(money.values()) or 1.0
    smallest = min(_SMALLEST, largest)
    return {name: smallest + (largest - smallest) * (amount / most) ** 0.5 for name, amount in money.items()}


def _lines(places: _Places, pairs: Iterable[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
    x: list[Any] = []
    y: list[Any] = []
    for parent, child in pairs:
        if parent in places:  # one outside of this chain has no place in it
            (x0, y0), (x1, y1) = places[parent], places[child]
            x += [x0, x1, None]
            y += [y0, y1, None]
    return x, y
