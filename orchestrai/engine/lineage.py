"""Lineage: the chain of a task, what comes before it, and what it is handed.

What stands outside of the call is looked up before anything is sent (`Lineages`, in the caller's thread); what belongs
to the same call becomes known when it is settled (`join`, in a worker thread). The texts themselves are read by the
attempt that sends them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import orjson

from orchestrai.engine.fit import Spans, fitted
from orchestrai.engine.item import Item
from orchestrai.handoff import PARENT, PARENTS, SHARED, Block, HandoffContext, digest_of, slots
from orchestrai.ledger.rows import HandoffRow
from orchestrai.result import Result
from orchestrai.routing.estimate import guessed
from orchestrai.routing.offers import Route
from orchestrai.settings import HandoffFit
from orchestrai.task import Task
from orchestrai.text import excerpt, printable

Kind = Literal["parent", "after"]

_FENCE: Final = 250  # bytes around a text: two lines with its number, and whose words it is
_GIVEN: Final = {"head_tail": "their beginnings and ends", "relevant": "the passages nearest to the instruction"}
_UNKNOWN: Final = 300  # tokens of an answer that is not there yet


class Link(NamedTuple):
    """Something that comes before a task, and is there.

    Args:
        kind: "parent" hands its text over; the task only comes "after" the others.
        task_id: The task.
        context: What it hands over; None for "after".
        source: Whose words they are, in one line.
        size: Of the text in UTF-8 [bytes].
        root: Where its line of first parents begins.
        depth: Steps from the farthest root.
        spans: What of the text is given; None for all.
    """

    kind: Kind
    task_id: str
    context: HandoffContext | None
    source: str
    size: int
    root: str
    depth: int
    spans: Spans | None = None


class Awaited(NamedTuple):
    """Something of the same call that comes before a task, and is not there yet.

    Args:
        kind: As in `Link`.
        position: Of its result.
        item: The task; None for one that is never sent.
    """

    kind: Kind
    position: int
    item: Item | None


class Rules(NamedTuple):
    """What the settings say of hand-offs.

    Args:
        summary: Characters of a summary.
        fit: What to do with texts that fit nowhere.
    """

    summary: int = 500
    fit: HandoffFit = "head_tail"


@dataclass(slots=True, eq=False)
class Lineage:
    """Where a task stands.

    Args:
        rules: What the settings say.
        chain_id: Run of its chain; None outside of chains.
        before: What comes before it, in order.
        shared: Shared values by slot.
        remembers: Its answer is kept as a memory, as others may work with it.
        route: Where it may go, before anything is known of what it is handed.
        positions: Results of the same call that have to be there before it starts.
        first_key: Key of its task before what it awaits is known: what tells one call from another.
    """

    rules: Rules
    chain_id: str | None = None
    before: tuple[Link | Awaited, ...] = ()
    shared: dict[str, str] = field(default_factory=dict)
    remembers: bool = False
    route: Route | None = None
    positions: frozenset[int] = frozenset()
    first_key: bytes = b""

    @property
    def links(self) -> list[Link]:
        """What comes before it and is there."""
        return [one for one in self.before if isinstance(one, Link)]

    @property
    def awaited(self) -> list[Awaited]:
        """What comes before it and is not there yet."""
        return [one for one in self.before if isinstance(one, Awaited)]

    @property
    def parents(self) -> list[Link]:
        """What hands its text over."""
        return [link for link in self.links if link.kind == "parent"]

    @property
    def depth(self) -> int:
        """Steps from the farthest root, as far as it is known."""
        return max((1 + _depth(one) for one in self.before), default=0)

    @property
    def root(self) -> str | None:
        """Where its line of first parents begins; None where that is the task itself."""
        return next((link.root for link in self.links), None)

    @property
    def parent_id(self) -> str | None:
        """The first of its parents, or else of what it came after."""
        return next((link.task_id for link in (*self.parents, *self.links)), None)

    def handed(self) -> Any:
        """Return what of it can change the answer, as JSON; None for nothing."""
        mark: dict[str, Any] = {}
        if parents := self.parents:
            mark["parents"] = [[link.context.digest if link.context else None, link.spans] for link in parents]
        if self.shared:
            mark["shared"] = self.shared
        return mark or None

    def rows(self, task_id: str) -> tuple[HandoffRow, ...]:
        """Return what the ledger keeps of it."""
        return tuple(_row(task_id, place, one) for place, one in enumerate(self.before) if _task_id(one) is not None)


def join(item: Item, result_at: Callable[[int], Result | None]) -> str | None:
    """Give a task what it awaited of the same call; return why it cannot start, or None.

    Args:
        item: The task; its key, its route and its size follow from what it is handed.
        result_at: Returns the settled result at a position.
    """
    lineage = item.lineage
    assert lineage is not None
    if not lineage.awaited:
        return None
    results = {one.position: result_at(one.position) for one in lineage.awaited}
    for awaited in lineage.awaited:
        result = results[awaited.position]
        if result is None or not result.success:
            return why_not(result)
        if awaited.kind == "parent" and not result.output:
            return f"{_place(result)} is an empty text, so there is nothing to hand over"
    texts: dict[str, str] = {}
    before: list[Link | Awaited] = []
    for one in lineage.before:
        if isinstance(one, Awaited):
            result = results[one.position]
            assert result is not None
            parent = one.item.lineage if one.item is not None else None
            link = link_to(
                result, one.kind, lineage.rules, parent.root if parent else None, parent.depth if parent else 0
            )
            texts[link.task_id] = result.output or ""
            before.append(link)
        else:
            before.append(one)
    lineage.before = tuple(before)
    item.task = replace(
        item.task,
        parent=tuple(link.context for link in lineage.parents) or None,
        depends_on=tuple(link.task_id for link in lineage.links if link.kind == "after") or None,
    )
    fit(item, texts.get)
    return None


def fit(item: Item, text_of: Callable[[str], str | None]) -> None:
    """Decide what of its parents' texts a task is given, and with that its key, its route and its size.

    Args:
        item: The task.
        text_of: Returns the text of a parent by the id of its task.
    """
    lineage, task = item.lineage, item.task
    assert lineage is not None
    assert lineage.route is not None
    parents = lineage.parents
    item.handed = sum(link.size + _FENCE for link in parents) + sum(len(v) * 4 for v in lineage.shared.values())
    item.route = lineage.route
    if parents and _may_be_too_long(item):
        blocks = [Block(text_of(link.task_id) or "", link.source) for link in parents]
        item.route, spans = fitted(task, blocks, lineage.shared, lineage.route, lineage.rules.fit)
        if any(spans):
            cut = iter(spans)
            lineage.before = tuple(
                one._replace(spans=next(cut)) if isinstance(one, Link) and one.kind == "parent" else one
                for one in lineage.before
            )
            item.handed = sum(4 * (end - start) for some in spans for start, end in some or ()) + _FENCE * len(spans)
            _say_shortened(lineage)
    item.size = guessed(task) + item.handed // 4 + _UNKNOWN * len(lineage.awaited)
    item.key = task.sample_key(item.sample, item.schema.digest if item.schema is not None else None, lineage.handed())


def why_not(result: Result | None) -> str:
    """Return why nothing can follow on a result: the first failure, however many were skipped because of it."""
    if result is None:
        return "what comes before it has no result"
    if result.status == "skipped" and result.error_class == "parent":
        return result.error or ""
    error = f": {excerpt(result.error, 200)}" if result.error else ""
    return f"{_place(result)} {result.status} ({result.error_class}){error}"


def link_to(result: Result, kind: Kind, rules: Rules, root: str | None, depth: int) -> Link:
    """Return the link to a task that has answered.

    Args:
        result: Its result.
        kind: How it comes before another.
        rules: What the settings say.
        root: Where its line begins; None for itself.
        depth: Its steps from the farthest root.
    """
    assert result.task_id is not None
    task_id = result.task_id
    if kind == "after":
        return Link(kind, task_id, None, "", 0, root or task_id, depth)
    text = result.output or ""
    context = context_of(result, rules)
    size = len(text.encode("utf-8", "surrogatepass"))
    return Link(kind, task_id, context, source_of(result.platform, result.model), size, root or task_id, depth)


def context_of(result: Result, rules: Rules) -> HandoffContext:
    """Return what a result hands over."""
    text, task_id = result.output or "", result.task_id or ""
    return HandoffContext(
        result.reused_from or task_id,
        digest_of(text),
        text[: rules.summary],
        task_id,
        result.chain_id,
        result.answered_at or 0,
    )


def source_of(platform: str | None, model: str | None) -> str:
    """Return whose words a text is, in one line."""
    if platform is None:
        return "Text from memory"
    who = f"{platform} ({model})" if model else platform
    return f"Answer of {' '.join(printable(who).split())[:120]}"


def places_of(task: Task, *, chained: bool) -> set[str]:
    """Return the names of the shared values that a prompt reads.

    Raises:
        InvalidTemplate: It has a place for something that it is not handed.
    """
    from orchestrai.errors import InvalidTemplate

    names = slots(task.prompt)
    parents, shared = names & {PARENT, PARENTS}, names - {PARENT, PARENTS}
    if parents and not task.parent:
        raise InvalidTemplate(f"{{{min(parents)}}} stands in the prompt, and the task has no parent: give parent=.")
    if shared and not chained:
        raise InvalidTemplate(f"{{{min(shared)}}} stands in the prompt, and the task belongs to no chain: give chain=.")
    return {name.removeprefix(SHARED) for name in shared}


def _may_be_too_long(item: Item) -> bool:
    """Return False where no window is small enough for it to matter, without looking at any text."""
    assert item.lineage is not None
    assert item.lineage.route is not None
    smallest = item.lineage.route.smallest_context
    return smallest is not None and item.handed + 4 * guessed(item.task) >= smallest


def _say_shortened(lineage: Lineage) -> None:
    given = sum(end - start for link in lineage.parents for start, end in link.spans or ())
    warnings.warn(
        f"The answers of parents fit no platform's context window: {_GIVEN[lineage.rules.fit]} are given, {given:,} "
        'characters. (Setting handoff_fit = "refuse" refuses such tasks.)',
        stacklevel=2,
    )


def _place(result: Result) -> str:
    return f"row {result.index}" if result.success is False else f"the answer of row {result.index}"


def _depth(one: Link | Awaited) -> int:
    if isinstance(one, Link):
        return one.depth
    return one.item.lineage.depth if one.item is not None and one.item.lineage is not None else 0


def _task_id(one: Link | Awaited) -> str | None:
    if isinstance(one, Link):
        return one.task_id
    return one.item.work.task_id if one.item is not None and one.item.work is not None else None


def _row(task_id: str, place: int, one: Link | Awaited) -> HandoffRow:
    context = one.context if isinstance(one, Link) else None
    spans = orjson.dumps(one.spans).decode() if isinstance(one, Link) and one.spans is not None else None
    parent = _task_id(one)
    assert parent is not None
    return HandoffRow(
        task_id,
        place,
        one.kind,
        parent,
        context.memory_id if context is not None else None,
        bytes.fromhex(context.digest) if context is not None else None,
        spans,
    )
