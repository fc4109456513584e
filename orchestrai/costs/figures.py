"""Figures: readable on light and dark, without a network, and with no name that becomes markup.

Plotly reads tags and links in every label, and typesets what stands between two dollar signs where MathJax is loaded.
So names from outside pass `label`, and a text of ours holds one dollar sign at the most.
"""

from __future__ import annotations

import html as html_standard
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from orchestrai import html, text

INK: Final = "#7b7b7b"  # 4.2 on white, 4.4 on #111 (WCAG 2 formula)
LINES: Final = "rgba(128,128,128,0.25)"  # seen on light and on dark, as those below
CLEAR: Final = "rgba(0,0,0,0)"
BILLED: Final = "#0072b2"
LISTED: Final = "#8a8a8a"
SAVED: Final = "#009e73"
_CONFIG: Final = {"displaylogo": False, "showSendToCloud": False, "responsive": True}
_ELSEWHERE: Final = ("colab", "kaggle", "azure", "databricks", "cocalc")  # front-ends that need plotly's own way
_ROWS_SHOWN: Final = 20  # of the frame, where a figure cannot be drawn
_LABEL: Final = 32  # characters of a name

_axis: Final = {
    "gridcolor": LINES,
    "linecolor": LINES,
    "zerolinecolor": LINES,
    "tickcolor": LINES,
    "automargin": True,
    "ticks": "outside",
    "title": {"font": {"size": 12}},
}
TEMPLATE: Final = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK, "size": 12, "family": "system-ui, sans-serif"},
        "title": {"x": 0, "xanchor": "left", "font": {"size": 15}},
        "colorway": [html.platform_colour(place) for place in range(7)],
        "xaxis": _axis,
        "yaxis": _axis,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "bgcolor": CLEAR, "traceorder": "normal"},
        "hoverlabel": {"align": "left"},
        "modebar": {"bgcolor": CLEAR, "color": INK, "activecolor": INK},
        "margin": {"l": 8, "r": 8, "t": 64, "b": 8},
        "bargap": 0.25,
    }
)


class Figure(go.Figure):  # type: ignore[misc]  # plotly ships no types
    """A plotly figure that shows itself offline, and keeps the frame it was made of.

    Attributes:
        frame: What it shows.
    """

    frame: Any = None
    _ipython_display_ = None  # the bundle below is asked for instead

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **kwargs: Any) -> Any:
        """Return the figure, a table for places that draw none (a shared notebook), and a line of text."""
        if any(name in plotly.io.renderers.default for name in _ELSEWHERE):
            return super()._repr_mimebundle_(include, exclude, **kwargs)
        return {
            "application/vnd.plotly.v1+json": {**json.loads(self.to_json()), "config": dict(_CONFIG)},
            "text/html": frame_table(self.headline, self.frame),
            "text/plain": repr(self),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"frame": self.frame})  # a copy shows the same

    def __repr__(self) -> str:
        rows = 0 if self.frame is None else len(self.frame)
        return f"<Figure {self.headline!r} of {text.count(rows)} rows; .frame has them>"

    @property
    def headline(self) -> str:
        """The title as plain text."""
        return html_standard.unescape(self.layout.title.text or "")

    def to_page(self) -> str:
        """Return one self-contained page that loads nothing, and follows the reader's light or dark."""
        page: str = self.to_html(include_plotlyjs=True, full_html=True, config=dict(_CONFIG))
        title = html_standard.escape(self.headline)
        head = f'<head><meta name="color-scheme" content="light dark"><title>{title}</title>'
        return page.replace("<head>", head, 1)


def canvas(title: str, frame: pd.DataFrame, specs: Sequence[Sequence[Any]] | None = None, **layout: Any) -> Figure:
    """Return an empty figure in our template.

    Args:
        title: Its headline, of our own words; names in it have passed `label`.
        frame: What it will show.
        specs: Kinds of its parts, as `make_subplots` takes them.
        layout: What else is set, `row_heights`, `vertical_spacing` and `subplot_titles` among it.
    """
    parts = {name: layout.pop(name) for name in _OF_PARTS if name in layout}
    specs = specs or [[{"type": "xy"}]]
    laid = make_subplots(rows=len(specs), cols=len(specs[0]), specs=[list(row) for row in specs], **parts)
    figure = Figure(laid)
    figure.update_layout(template=TEMPLATE, title={"text": title}, **layout)
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.frame = frame
    return figure


_OF_PARTS: Final = ("row_heights", "column_widths", "vertical_spacing", "horizontal_spacing", "subplot_titles")


def nothing(figure: Figure, row: int = 1, col: int = 1, words: str = "nothing yet") -> None:
    """Say in a part of a figure that there is nothing to show."""
    x, y = next(figure.select_xaxes(row=row, col=col)), next(figure.select_yaxes(row=row, col=col))
    for axis in (x, y):
        axis.update(visible=False)
    name = x.plotly_name.removeprefix("xaxis")
    figure.add_trace(go.Scatter(x=[], y=[], showlegend=False), row=row, col=col)
    if figure.layout.height is None:
        figure.update_layout(height=220)
    figure.add_annotation(
        text=words,
        x=0.5,
        y=0.5,
        xref=f"x{name} domain",
        yref=f"y{name} domain",
        showarrow=False,
        font={"size": 14},
    )


def label(name: Any, missing: str = "none", width: int = _LABEL) -> str:
    """Return a name from outside as text of a figure: short, printable, and no markup of any kind."""
    if unknown(name):
        return missing
    shown = html_standard.escape(text.excerpt(str(name), width), quote=True)
    return shown.replace("$", "&#36;").replace("%{", "%&#123;") or missing


def dollars(amount: Any) -> str:
    """Return an amount [USD] as text."""
    return "unknown" if unknown(amount) else text.money(Decimal(str(amount)))


def unknown(value: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN, NaT or NA, as the version of pandas has it."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def colours(names: Sequence[str]) -> Mapping[str, str]:
    """Return a colour for each name, the same in every figure that has the same names."""
    return {name: html.platform_colour(place) for place, name in enumerate(dict.fromkeys(names))}


def frame_table(headline: str, frame: pd.DataFrame | None) -> str:
    """Return the beginning of a frame as an HTML table."""
    if frame is None or not len(frame):
        return html.table_block(f"{headline}: nothing yet", ("",), ())
    shown = frame.head(_ROWS_SHOWN)
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    more = f" (first {_ROWS_SHOWN} of {text.count(len(frame))} rows)" if len(frame) > _ROWS_SHOWN else ""
    return html.table_block(headline + more, [str(name) for name in frame.columns], rows)


def _cell(value: Any) -> str:
    if unknown(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else text.excerpt(str(value), 60)
