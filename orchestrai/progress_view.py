"""Progress view: what a display says of a call under way, in words and shares, taken in one look.

Every display (the panel, the static HTML that takes its place, a line of text) shows the same view, so they agree.
A view is plain data: texts are made printable here, and the numbers are shares of a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from orchestrai import text
from orchestrai.errors import redact
from orchestrai.ids import now_us

if TYPE_CHECKING:
    from orchestrai.engine.batch import Run
    from orchestrai.engine.progress import Progress
    from orchestrai.engine.queues import LaneUse
    from orchestrai.plan import WindowUse

_ERRORS_SHOWN: Final = 5
_PLATFORMS_SHOWN: Final = 8
_WINDOWS_S: Final = 2.0  # between looks at quota windows, which are read from the ledger

REST: Final = {
    "rate": "asked too fast",
    "window": "quota window used up",
    "balance": "no money left there",
    "overloaded": "overloaded",
    "key": "credentials refused",
    "timeout": "no answer in time",
    "connection": "no connection",
}
"""Why a platform rests, for people."""


class Share(NamedTuple):
    """A part of the tasks: `answered`, 597, 0.597 of all."""

    kind: str
    tasks: str
    share: float


@dataclass(frozen=True, slots=True)
class WindowView:
    """A quota window or budget: what it measures, how full it is [percent, None unknown], until when."""

    label: str
    percent: float | None
    until: str


@dataclass(frozen=True, slots=True)
class PlatformView:
    """A platform at work: who, how many requests at once and out of how many, pace, answers, its windows, its rest."""

    name: str
    model: str
    answers: str
    in_flight: int
    places: int
    waiting: str
    pace: str
    rest: str
    windows: tuple[WindowView, ...]


class ErrorView(NamedTuple):
    """Failures of one kind: how many, and the newest in its own words."""

    kind: str
    tasks: str
    newest: str


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A call at one moment.

    Args:
        title: Name of the batch; empty for none.
        step: Which step of a chain it is; empty for none.
        status: running, finished, cancelled, stopped.
        done: `612 of 1,000`: tasks that are settled, and once the call is over, answered.
        percent: The same [percent]; None while the input is being read.
        shares: Parts of the tasks, in the order of the bar.
        figures: Title and value of what is worth knowing: cost, saved, tokens, rate, time.
        left: `10 s left`; empty when it cannot be told.
        platforms: Platforms at work.
        budgets: Budgets of the person.
        errors: Failures by kind, most frequent first.
    """

    title: str
    step: str
    status: str
    done: str
    percent: float | None
    shares: tuple[Share, ...]
    figures: tuple[tuple[str, str], ...]
    left: str
    platforms: tuple[PlatformView, ...] = ()
    budgets: tuple[WindowView, ...] = ()
    errors: tuple[ErrorView, ...] = ()


class Watch:
    """Looks at a call.

    Args:
        run: The call.
        windows: Returns the quota windows and budgets as they stand; None where nobody wants to see them.
    """

    def __init__(self, run: Run, windows: Callable[[], Iterable[WindowUse]] | None = None) -> None:
        self._run = run
        self._windows = windows
        self._known: tuple[WindowUse, ...] = ()
        self._read_at = float("-inf")

    def look(self) -> ProgressView:
        """Return the call at this moment; from any thread."""
        run, progress = self._run, self._run.progress
        lanes = run.queues.lanes()
        self._read(now=run.engine.loop.loop.time(), last=progress.ended is not None)
        named = run.options.name
        done = progress.settled if progress.ended is None else progress.succeeded
        return ProgressView(
            title=text.excerpt(named, 60) if named else "",
            step=text.excerpt(progress.step or "", 80),
            status=run.status,
            done=f"{text.count(done)} of {'…' if progress.total is None else text.count(progress.total)}",
            percent=None if progress.total is None else 100 * done / progress.total if progress.total else 100.0,
            shares=shares(progress),
            figures=figures(progress),
            left=left(progress),
            platforms=tuple(self._platform(lane) for lane in lanes[:_PLATFORMS_SHOWN]),
            budgets=tuple(window_view(use) for use in self._known if use.platform is None),
            errors=errors(progress),
        )

    def _read(self, now: float, *, last: bool) -> None:
        if self._windows is None or (not last and now - self._read_at < _WINDOWS_S):
            return
        self._read_at = now
        try:
            self._known = tuple(self._windows())
        except Exception:  # noqa: BLE001 - a ledger that is closed or broken; the call itself says what is wrong
            self._windows = None

    def _platform(self, lane: LaneUse) -> PlatformView:
        progress, is_over = self._run.progress, self._run.progress.ended is not None
        return PlatformView(
            name=text.excerpt(lane.platform, 40),
            model=text.excerpt(lane.model, 60),
            answers=text.count(progress.by_platform.get(lane.platform, 0)),
            in_flight=0 if is_over else lane.in_flight,
            places=lane.places,
            waiting="" if is_over or not lane.waiting else text.count(lane.waiting),
            pace=pace(lane.pace),
            rest=rest(lane),
            windows=tuple(window_view(use) for use in self._known if use.platform == lane.platform),
        )


def shares(progress: Progress) -> tuple[Share, ...]:
    """Return the parts of the tasks that are not empty: answered, reused, failed, skipped, cancelled, running, waiting."""
    total = progress.total
    counted = [
        ("answered", progress.succeeded - progress.reused),
        ("reused", progress.reused),
        ("failed", progress.failed),
        ("skipped", progress.skipped),
        ("cancelled", progress.cancelled),
    ]
    if progress.ended is None:
        running = progress.running
        counted.append(("running", running))
        counted += [] if total is None else [("waiting", max(0, total - progress.settled - running))]
    whole = max(1, sum(count for _, count in counted) if total is None else total)
    return tuple(Share(kind, text.count(count), max(0.0, count / whole)) for kind, count in counted if count > 0)


def figures(progress: Progress) -> tuple[tuple[str, str], ...]:
    """Return what is worth knowing of a call so far, as title and value."""
    rate = progress.rate
    known = "" if not progress.unpriced else "at least "
    shown = [
        ("cost", "unknown" if 0 < progress.unpriced == progress.settled else f"{known}{text.money(progress.cost)}")
    ]
    shown += [("saved", text.money(progress.saved))] if progress.saved > 0 else []
    shown += [("tokens", text.count(progress.tokens))]
    shown += [("rate", f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")] if rate else []  # fmt: skip
    shown += [("retries", text.count(progress.retries))] if progress.retries else []
    return (*shown, ("time", text.duration(progress.elapsed_s)))


def left(progress: Progress) -> str:
    """Return how long it will take yet, `10 s left`; empty when it cannot be told."""
    if progress.ended is not None or progress.eta_s is None:
        return ""
    seconds = progress.eta_s
    return f"{text.duration(float(round(seconds)) if seconds >= 1 else 1.0).replace('.0 s', ' s')} left"


def errors(progress: Progress) -> tuple[ErrorView, ...]:
    """Return the failures by kind, most frequent first."""
    counted = progress.errors.most_common(_ERRORS_SHOWN)
    return tuple(
        ErrorView(kind, text.count(n), text.excerpt(redact(progress.newest_errors.get(kind, "")), 200))
        for kind, n in counted
    )


def pace(requests_per_s: float | None) -> str:
    """Return a limit of requests as people say it: `120/min`; empty where none is known."""
    if requests_per_s is None:
        return ""
    per_minute = requests_per_s * 60
    return f"{per_minute:,.0f}/min" if per_minute >= 10 else f"{per_minute:.1f}/min"


def rest(lane: LaneUse) -> str:
    """Return that a platform rests, until when and why; empty where it does not."""
    if lane.why is None:
        return ""
    why = REST.get(lane.why, lane.why)
    if lane.rests_s is None or lane.rests_s <= 0:
        return f"trying again: {why}"
    until = now_us() + round(lane.rests_s * 1_000_000)
    moment = (
        f"for {text.duration(float(round(lane.rests_s)))}" if lane.rests_s < 90 else f"until {text.local_time(until)}"
    )
    return f"resting {moment.replace('.0 s', ' s')}: {why}"


def window_view(use: WindowUse) -> WindowView:
    """Return a quota window or a budget for a meter."""
    percent = use.percent_before
    until = text.local_time(use.resets_at)
    return WindowView(text.excerpt(use.window, 60), None if percent is None else round(percent, 1), until)


def progress_line(view: ProgressView) -> str:
    """Return a view on one line: counts, rate, time left, cost and failures."""
    parts = [view.done.replace(" of ", "/")]
    parts += [f"{share.tasks} {share.kind}" for share in view.shares if share.kind not in ("answered", "waiting")]
    figure = dict(view.figures)
    parts += [figure["rate"]] if "rate" in figure else []
    parts += [view.left] if view.left else []
    parts += [f"{title} {figure[title]}" for title in ("cost", "saved") if title in figure]
    parts += [f"{platform.name} {platform.rest}" for platform in view.platforms if platform.rest]
    if view.errors:
        parts.append("errors: " + ", ".join(f"{error.kind} {error.tasks}" for error in view.errors[:3]))
    status = "" if view.status in ("running", "finished") else view.status
    return text.printable(" · ".join(part for part in (view.title, view.step, status, *parts) if part))


def progress_block(view: ProgressView) -> str:
    """Return a view as text of several lines: its line, its platforms, its failures."""
    lines = [progress_line(view)]
    for platform in view.platforms:
        meters = [f"{w.label} {'unknown' if w.percent is None else f'{w.percent:.0f} %'}" for w in platform.windows]
        lines.append(" · ".join((f"  {platform.name}/{platform.model}", f"{platform.answers} answered", *meters)))
    lines += [f"  {error.tasks} x {error.kind}: {error.newest}" for error in view.errors]
    return text.printable("\n".join(lines))
