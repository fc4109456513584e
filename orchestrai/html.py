"""Values as HTML, for the notebook: text and tables that stay readable after saving, sharing and sanitising.

Live notebook output is trusted and runs, so no byte of data becomes markup here: every string goes through
`escaped`, and no attribute holds data. Styles are inline because sanitisers drop `<style>`, `class` and `id`.
Only properties and values stand here that the sanitiser of JupyterLab keeps (packages/apputils/src/sanitizer.ts
allows hex and rgba, not `var()`), so a shared notebook looks like a live one. Light and dark need no theme
variables: text takes the colour of its surroundings, muted text is the same at less opacity, lines are
translucent grey, and the one red has a contrast of 4.3 or more on white and on #111 alike (WCAG 2 formula).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrai import plan_text, text

if TYPE_CHECKING:
    from orchestrai.plan import Plan, Quota, WindowUse
    from orchestrai.progress_view import PlatformView, ProgressView
    from orchestrai.result import Result
    from orchestrai.results.batch_result import BatchResult

_FORMULA: Final = re.compile(r"[$\\]")
_CELL_SHOWN: Final = 120  # characters of a prompt or an answer in a table

_LINE: Final = "1px solid rgba(128,128,128,0.28)"
_MUTED: Final = "opacity:0.68"
_FAILED: Final = "#dc3d43"
_NOTED: Final = "#c77700"  # 3.4 on white, 5.5 on #111: for bars and borders, not for text
_RED: Final = f"color:{_FAILED}"
_ANSWER: Final = (  # <pre>, so that line breaks survive where styles do not
    "white-space:pre-wrap;overflow-wrap:break-word;max-height:480px;overflow-y:auto;margin:0;padding:0;border:none;"
    "background:transparent;font-family:inherit;font-size:13px;line-height:1.5"
)
_TABLE: Final = "border-collapse:collapse;width:100%;margin:0;table-layout:auto;font-size:12px;border:none"
_TD: Final = (
    f"padding:5px 14px 5px 0;text-align:left;vertical-align:top;border:none;border-bottom:{_LINE};"
    "background:transparent;white-space:normal;max-width:none"
)
_TH: Final = f"{_TD};font-weight:600;{_MUTED}"
_UNBROKEN: Final = "white-space:nowrap"
_NUMBER: Final = f"text-align:right;{_UNBROKEN}"
# After Okabe and Ito's palette for colour-blind readers, neighbours far apart; further platforms are grey.
_PLATFORM_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#b8a912", "#8a8a8a")


class _Share(NamedTuple):
    """A part of a bar: of what, and what else to say of it."""

    name: str
    tasks: int
    colour: str
    note: str = ""


def platform_colour(place: int) -> str:
    """Return the colour of the n-th platform of a display, from 0."""
    return _PLATFORM_COLOURS[min(place, len(_PLATFORM_COLOURS) - 1)]


def result_block(result: Result) -> str:
    """Return the answer as text, never as markup, or the failure; below it who, tokens, money and time."""
    more = ""
    if result.success:
        answer, hidden = text.shortened(result.output or "")
        # An HTML parser drops a line feed right after <pre>, so one is given for it to drop.
        body = f'<pre dir="auto" style="{_ANSWER}">\n{escaped(answer)}</pre>'
        if hidden:
            more = f'<div style="{_MUTED}">… {text.count(hidden)} more characters in <code>.output</code></div>'
    else:
        body = f'<pre style="{_ANSWER};{_RED}">\n{escaped(text.failure(result))}</pre>'
    facts = escaped(" · ".join(text.figures(result)))
    return block(
        f'{body}{more}<div style="margin-top:8px;padding-top:5px;border-top:{_LINE};font-size:12px;{_MUTED}">{facts}</div>'
    )


def batch_block(batch: BatchResult) -> str:
    """Return a batch at a glance: its sums, who answered how much, its first and last rows, its failures."""
    return block(_headline(batch) + _sums(batch) + _platforms(batch) + _rows(batch) + _failures(batch))


def table_block(headline: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts under a headline; the first cell of each row names it."""
    head = f'<div style="margin:0 0 6px 0;font-size:15px;font-weight:600">{escaped(headline)}</div>'
    return block(head + _text_table(titles, rows))


def escaped(data: str) -> str:
    r"""Return data as text inside an element: printable, and without any character that could open markup or a formula.

    JupyterLab hands outputs to MathJax, which reads `$…$` and `\\(…\\)` within one element: alone in elements of their
    own, a dollar and a backslash open nothing.
    """
    return _FORMULA.sub(r"<span>\g<0></span>", escape(text.printable(data)))


def block(content: str) -> str:
    """Return HTML of our own in the frame that all displays share."""
    return f'<div style="max-width:1080px;margin:4px 0;font-size:13px;line-height:1.5;text-align:left">{content}</div>'


def _headline(batch: BatchResult) -> str:
    name = f"{escaped(text.excerpt(batch.name, 60))}: " if batch.name else ""
    status = f"{batch.status}, " if batch.status != "finished" else ""
    done = f"{text.count(batch.success_count)} of {text.count(len(batch))} succeeded"
    rest = "".join(
        f'<span style="{_MUTED if outcome.endswith(("skipped", "reused")) else _RED}"> · {outcome}</span>'
        for outcome in text.outcomes(batch)
    )
    return f'<div style="margin:0 0 6px 0;font-size:15px"><span style="font-weight:600">{name}{status}{done}</span>{rest}</div>'


def _sums(batch: BatchResult) -> str:
    sums = [
        ("cost", text.total(r.cost for r in batch)),
        ("list price", text.list_total(batch)),
        *([("saved", text.money(batch.saved))] if batch.saved > 0 else []),
        ("tokens", text.count(batch.total_tokens)),
        ("time", text.duration(batch.duration_s)),
    ]
    return '<div style="margin:0 0 10px 0">' + " ".join(_sum(title, value) for title, value in sums) + "</div>"


def _sum(title: str, value: str) -> str:
    return (
        '<span style="display:inline-block;margin-right:28px">'
        f'<span style="display:block;font-size:11px;{_MUTED}">{title} </span>'
        f'<span style="font-size:15px">{value}</span></span>'
    )


def _platforms(batch: BatchResult) -> str:
    """Return a bar of answers by platform, and under it the same in words."""
    by_platform = batch.by_platform
    if not by_platform:
        return ""
    shares = []
    for i, (name, results) in enumerate(sorted(by_platform.items(), key=lambda item: -len(item[1]))):
        tiers = ", ".join(sorted({r.tier for r in results if r.tier}))
        facts = [*([tiers] if tiers else []), text.total(r.cost for r in results)]
        answers = sum(r.success for r in results)
        shares.append(_Share(text.excerpt(name, 40), answers, platform_colour(i), " · ".join(facts)))
    if batch.failure_count:
        shares.append(_Share("no answer", batch.failure_count, _FAILED))
    return _shares(shares, len(batch))


def _rows(batch: BatchResult) -> str:
    if not len(batch):
        return ""
    head, between, tail = text.ends(batch)
    lines = [_row(result, batch) for result in head]
    if between:
        lines.append(_line(f'<td colspan="6" style="{_TD};{_MUTED}">… {text.count(between)} more rows</td>'))
    lines += [_row(result, batch) for result in tail]
    return _table(("row", "prompt", "answer", "platform", "cost", "time"), lines, numbers=("cost", "time"))


def _row(result: Result, batch: BatchResult) -> str:
    answer = text.excerpt(result.output or "" if result.success else text.failure(result), _CELL_SHOWN)
    time = "reused" if result.reused else text.duration(result.duration_s) if result.attempts else ""
    return _line(
        f'<th scope="row" style="{_TH}">{escaped(text.place(result, sampled=batch.sampled))}</th>'
        f'<td style="{_TD};{_MUTED}">{escaped(text.excerpt(text.prompt_text(result.task.prompt), _CELL_SHOWN))}</td>'
        f'<td style="{_TD}{"" if result.success else ";" + _RED}">{escaped(answer)}</td>'
        f'<td style="{_TD};{_UNBROKEN}">{escaped(text.excerpt(result.platform or "", 40))}</td>'
        f'<td style="{_TD};{_NUMBER}">{text.money(result.cost)}</td>'
        f'<td style="{_TD};{_NUMBER}">{time}</td>'
    )


def _failures(batch: BatchResult) -> str:
    groups = text.failure_groups(batch)
    if not groups:
        return ""
    lines = [
        _line(
            f'<th scope="row" style="{_TH}">{escaped(kind)}</th>'
            f'<td style="{_TD};{_NUMBER}">{text.count(size)}</td>'
            f'<td style="{_TD}">{escaped(text.place(first, sampled=batch.sampled))}</td>'
            f'<td style="{_TD};{_UNBROKEN}">{escaped(text.answered_by(first))}</td>'
            f'<td style="{_TD}">{escaped(text.excerpt(text.failure(first), 2 * _CELL_SHOWN))}</td>'
        )
        for kind, first, size in groups
    ]
    kinds = ", ".join(f"{text.count(size)} {kind}" for kind, _, size in groups)
    return (
        f'<details style="margin-top:8px"><summary style="cursor:pointer">Without an answer: {escaped(kinds)}</summary>'
        f"{_table(('class', 'tasks', 'first row', 'where', 'what'), lines, numbers=('tasks',))}</details>"
    )


def _table(titles: Iterable[str], lines: Iterable[str], *, numbers: Iterable[str] = ()) -> str:
    aligned = frozenset(numbers)
    head = "".join(
        f'<th scope="col" style="{_TH};{_NUMBER if title in aligned else _UNBROKEN}">{title}</th>' for title in titles
    )
    return f'<table style="{_TABLE}"><thead>{_line(head)}</thead><tbody>{"".join(lines)}</tbody></table>'


def _text_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """Return a table of texts; the first cell of each row names it."""
    lines = (_line("".join(_cell(cell, i, number=titles[i] in numbers) for i, cell in enumerate(row))) for row in rows)
    return _table([escaped(title) for title in titles], lines, numbers=numbers)


def _line(cells: str) -> str:
    return f'<tr style="background:transparent">{cells}</tr>'


_STATUS: Final = {"running": "Running", "finished": "Finished", "cancelled": "Cancelled", "stopped": "Stopped"}
_PART_COLOURS: Final = {
    "answered": "#009e73",
    "reused": "#56b4e9",
    "failed": _FAILED,
    "skipped": "#8a8a8a",
    "cancelled": "#8a8a8a",
    "running": "#8ccfba",
}


def progress_block(view: ProgressView, note: str = "") -> str:
    """Return a call at one moment as it stays in a saved notebook: how far, at what cost, who was at work, what failed.

    Args:
        view: The call.
        note: What else to say of it.
    """
    status = _STATUS.get(view.status, view.status)
    percent = "" if view.percent is None else f"{int(view.percent)} %"
    told = " · ".join(escaped(part) for part in (view.title, view.step, percent, view.done) if part)
    head = (
        f'<div style="margin:0 0 2px 0;font-size:15px"><span style="font-weight:600">{escaped(status)}</span> '
        f'<span style="{_MUTED}">{told}</span></div>'
    )
    bar = _bar([_part(share.share, _PART_COLOURS[share.kind]) for share in view.shares if share.kind in _PART_COLOURS])
    words = "".join(
        f'<span style="display:inline-block;margin-right:16px">'
        f'<span style="color:{_PART_COLOURS.get(share.kind, "#8a8a8a")}">■</span> {escaped(share.tasks)} {share.kind}</span>'
        for share in view.shares
    )
    parts = [
        head,
        bar,
        f'<div style="margin:0 0 10px 0;font-size:12px">{words}</div>',
        '<div style="margin:0 0 8px 0">'
        + " ".join(_sum(title, escaped(value)) for title, value in view.figures)
        + "</div>",
        _at_work(view.platforms),
    ]
    if view.errors:
        kinds = ", ".join(f"{error.tasks} {error.kind}" for error in view.errors)
        lines = [
            _line(
                f'<th scope="row" style="{_TH}">{escaped(error.kind)}</th>'
                f'<td style="{_TD};{_NUMBER}">{escaped(error.tasks)}</td><td style="{_TD}">{escaped(error.newest)}</td>'
            )
            for error in view.errors
        ]
        parts.append(
            f'<details style="margin-top:8px"><summary style="cursor:pointer">Without an answer: {escaped(kinds)}</summary>'
            f"{_table(('class', 'tasks', 'newest'), lines, numbers=('tasks',))}</details>"
        )
    parts += [f'<div style="margin-top:8px;font-size:12px;{_MUTED}">{escaped(note)}</div>'] if note else []
    return block("".join(parts))


def _part(share: float, colour: str, more: str = "") -> str:
    return f'<span style="display:block;width:{100 * share:.2f}%;background-color:{colour}{more}"></span>'


def _at_work(platforms: Sequence[PlatformView]) -> str:
    """Return a table of platforms, with a line for each of their quota windows."""
    if not platforms:
        return ""
    lines = []
    has_quota = any(platform.windows or platform.rest for platform in platforms)
    for platform in platforms:
        windows = "".join(
            f"<div>{escaped(w.label)}: {'unknown' if w.percent is None else f'{w.percent:.0f} %'}"
            f"{f' until {escaped(w.until)}' if w.until else ''}</div>"
            for w in platform.windows
        )
        lines.append(
            _line(
                f'<th scope="row" style="{_TH};{_UNBROKEN}">{escaped(platform.name)}</th>'
                f'<td style="{_TD}">{escaped(platform.model)}</td>'
                f'<td style="{_TD};{_NUMBER}">{escaped(platform.answers)}</td>'
                + (f'<td style="{_TD}">{escaped(platform.rest)}{windows}</td>' if has_quota else "")
            )
        )
    titles = ("platform", "model", "answered", *(("quota",) if has_quota else ()))
    return _table(titles, lines, numbers=("answered",))


def plan_block(plan: Plan) -> str:
    """Return a plan at a glance: where its tasks go, what it costs, its doubts, its quotas, its first and last lines."""
    facts = " ".join(_sum(title, escaped(value)) for title, value in plan_text.plan_facts(plan))
    notes = "".join(
        f'<div style="margin:2px 0;padding-left:10px;border-left:3px solid {_NOTED}">{escaped(note)}</div>'
        for note in (*plan.warnings, *(question.text for question in plan.questions))
    )
    parts = [
        f'<div style="margin:0 0 6px 0;font-size:15px;font-weight:600">{escaped(_places(plan))}</div>',
        f'<div style="margin:0 0 10px 0">{facts}</div>',
        f'<div style="margin:0 0 10px 0">{notes}</div>' if notes else "",
        _planned(plan),
        _window_table(plan.quota_after, planned=True) if plan.quota_after else "",
    ]
    if len(plan):
        parts.append(_text_table(plan_text.PLAN_TITLES, plan_text.plan_rows(plan), numbers=("tokens", "cost")))
    if plan.excluded:
        reasons = "".join(
            f'<div style="margin:2px 0">{escaped(name)}: <span style="{_MUTED}">{escaped(text.excerpt(why, 300))}</span></div>'
            for name, why in plan.excluded.items()
        )
        parts.append(
            f'<details style="margin-top:8px"><summary style="cursor:pointer">Not asked: '
            f"{text.count(len(plan.excluded))}</summary>{reasons}</details>"
        )
    return block("".join(parts))


def orchestrator_block(
    headline: str,
    facts: Sequence[tuple[str, str]],
    titles: Sequence[str],
    platforms: Sequence[Sequence[str]],
    quota: Quota,
) -> str:
    """Return an orchestrator at a glance: what it says of itself, the platforms that can answer, their meters."""
    head = f'<div style="margin:0 0 6px 0;font-size:15px;font-weight:600">{escaped(headline)}</div>'
    known = f'<div style="margin:0 0 10px 0">{" ".join(_sum(title, escaped(value)) for title, value in facts)}</div>'
    table = _text_table(titles, platforms) + '<div style="margin-bottom:10px"></div>' if platforms else ""
    return block(head + known + table + (_window_table(tuple(quota), planned=False) if len(quota) else ""))


def quota_block(quota: Quota) -> str:
    """Return the meters of quota windows and budgets, each with its bar."""
    if not len(quota):
        return block(escaped(plan_text.quota_block(quota)))
    return block(_window_table(tuple(quota), planned=False))


def _places(plan: Plan) -> str:
    tasks = f"{text.counted(len(plan), 'task')} planned, nothing sent"
    extra = [f"{text.count(plan.reused)} reused"] if plan.reused else []
    extra += [f"{text.count(plan.unplaced)} without a place"] if plan.unplaced else []
    return " · ".join((tasks, *extra))


def _planned(plan: Plan) -> str:
    """Return a bar of tasks by platform, and under it the same in words."""
    places = sorted(plan.by_platform.items(), key=lambda item: -item[1])
    return _shares(
        [
            _Share(text.excerpt(f"{name}/{model}", 60), tasks, platform_colour(i), tier)
            for i, ((name, model, tier), tasks) in enumerate(places)
        ],
        len(plan),
    )


def _shares(shares: Sequence[_Share], whole: int) -> str:
    """Return a bar of shares of a whole, and under it the same in words."""
    if not shares:
        return ""
    words = " ".join(
        f'<span style="display:inline-block;margin-right:20px"><span style="color:{share.colour}">■</span> '
        f'{escaped(share.name)} <span style="font-weight:600">{text.count(share.tasks)}</span> '
        f'<span style="{_MUTED}">{escaped(share.note)}</span></span>'
        for share in shares
    )
    bar = _bar([_part(share.tasks / whole, share.colour) for share in shares])
    return f'{bar}<div style="margin:0 0 10px 0;font-size:12px">{words}</div>'


def _window_table(uses: Sequence[WindowUse], *, planned: bool) -> str:
    rows = []
    for use, cells in zip(uses, plan_text.window_rows(uses, planned=planned), strict=True):
        before = use.percent_before
        after = use.percent_after if planned else before
        meter = "" if before is None or after is None else _meter(before, after)
        shown = "".join(_cell(cell, i, number=i in (2, 3)) for i, cell in enumerate(cells[:5]))
        rest = "".join(_cell(cell, 5) for cell in cells[5:])
        rows.append(_line(f'{shown}<td style="{_TD};min-width:90px;width:120px">{meter}</td>{rest}'))
    titles = (*plan_text.QUOTA_TITLES[:5], "", *plan_text.QUOTA_TITLES[5:])
    return _table(titles, rows, numbers=("used", "of")) + '<div style="margin-bottom:10px"></div>'


def _meter(before: float, after: float) -> str:
    """Return a bar of what is used, and lighter what a plan adds."""
    used, added = min(100.0, before), max(0.0, min(100.0, after) - min(100.0, before))
    colour = _FAILED if after >= 90 else _NOTED if after >= 80 else _PLATFORM_COLOURS[0]
    return _bar([_part(used / 100, colour), _part(added / 100, colour, ";opacity:0.5")])


def _bar(segments: Sequence[str]) -> str:
    return (
        '<div style="display:flex;height:8px;border-radius:4px;overflow:hidden;margin:4px 0;'
        f'background-color:rgba(128,128,128,0.2)">{"".join(segments)}</div>'
    )


def _cell(cell: str, place: int, *, number: bool = False) -> str:
    if place == 0:
        return f'<th scope="row" style="{_TH}">{escaped(cell)}</th>'
    return f'<td style="{_TD}{";" + _NUMBER if number else ""}">{escaped(cell)}</td>'
