"""Origins: the chains, parents and shared values that tasks name, looked up before anything is sent.

It reads and writes the ledger in the caller's thread; tasks without a chain and without parents cost it nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson

from orchestrai.engine.engine import Engine
from orchestrai.engine.handing import texts_of
from orchestrai.engine.lineage import Awaited, Kind, Lineage, Link, Rules, context_of, places_of, source_of, why_not
from orchestrai.errors import ErrorClass, HandoffContextMissing, InvalidInput, InvalidTemplate, nearest
from orchestrai.handoff import SHARED, HandoffContext
from orchestrai.ids import now_us
from orchestrai.ledger import chains
from orchestrai.ledger.chains import Answered, ChainRow, Place, Source
from orchestrai.ledger.memories import read_memories
from orchestrai.ledger.rows import MemoryRow
from orchestrai.parents import before, has_lineage, rows_before
from orchestrai.result import Result, Status
from orchestrai.task import Task


class Refusal(NamedTuple):
    """Why a task is never sent."""

    why: str
    status: Status
    error_class: ErrorClass


@dataclass(slots=True)
class Placed:
    """A task with what was found of it.

    Args:
        task: The task: its chain by name, its parents outside of the call as what they hand over.
        lineage: Where it stands; what it awaits of its own call is filled in by whoever knows the items.
        refusal: Why it is not sent; None when it may be.
    """

    task: Task
    lineage: Lineage
    refusal: Refusal | None = None


class Origins:
    """Looks up what tasks name.

    Args:
        engine: Opens the ledger; called where a task names anything.
        project: Project of the caller.
        rules: What the settings say of hand-offs.
        keep_texts: The ledger keeps texts.
    """

    def __init__(self, engine: Callable[[], Engine], project: str, rules: Rules, *, keep_texts: bool) -> None:
        self._engine = engine
        self._project = project
        self._rules = rules
        self._keep_texts = keep_texts

    def place(self, tasks: Mapping[int, Task]) -> dict[int, Placed]:
        """Return where tasks stand, by index; those that name nothing, and that nobody names, are left out.

        Raises:
            InvalidInput: A parent is unknown to this ledger, or a prompt reads a shared value that there is not.
            LedgerError: The ledger cannot be used.
        """
        named = {index: task for index, task in tasks.items() if has_lineage(task)}
        if not named:
            return {}
        if not self._keep_texts:
            raise InvalidInput(
                "Chains and parents need the texts of answers, and keep_texts = false keeps none. Turn it on in the settings."
            )
        runs = self._runs({task.chain for task in named.values() if task.chain is not None})
        shared = self._shared(named, runs)
        found = self._found(other for task in named.values() for other in before(task) if not isinstance(other, int))
        placed = {index: self._placed(task, runs, shared[index], found) for index, task in named.items()}
        for index in {row for task in named.values() for row in rows_before(task)} & tasks.keys():
            placed.setdefault(index, Placed(tasks[index], Lineage(self._rules))).lineage.remembers = True
        return placed

    def handed_by(self, parent: Result) -> HandoffContext:
        """Return what a result hands over; its answer is a memory then.

        Raises:
            InvalidInput: The ledger does not know its task, or its answer is empty.
            HandoffContextMissing: Its answer was deleted from memory or altered.
        """
        found = self._found([parent])[_name(parent)]
        refusal = found.refusal or found.empty
        if refusal is not None:
            raise HandoffContextMissing(refusal.why) if refusal.status == "failed" else InvalidInput(refusal.why)
        assert found.context is not None
        return found.context

    def texts(self, contexts: Sequence[HandoffContext]) -> list[str]:
        """Return the texts that contexts point to.

        Raises:
            HandoffContextMissing: One is gone, or is not what was handed over.
        """
        return self._engine().ledger.read(lambda c: texts_of(c, contexts))

    def knows(self, task_id: str) -> bool:
        """Return True where the ledger has the task."""
        ledger = self._engine().ledger
        return bool(ledger.read(lambda c: chains.sources(c, [task_id], 0) or chains.answered(c, [task_id])))

    def text_of(self, context: HandoffContext) -> str | None:
        """Return the text of a parent, for measuring it; None where it is gone."""
        record = self._engine().ledger.read(lambda c: read_memories(c, [context.memory_id])).get(context.memory_id)
        return None if record is None else record.text

    def _placed(
        self, task: Task, runs: Mapping[str, ChainRow], shared: dict[str, str], found: Mapping[Any, _Found]
    ) -> Placed:
        run = runs[task.chain] if task.chain is not None else None
        lineage = Lineage(self._rules, run.chain_id if run else None, (), shared, run is not None)
        fed = [_named("parent", other, found) for other in task.parent or ()]
        came_after = [_named("after", other, found) for other in task.depends_on or ()]
        lineage.before = tuple(one.link for one in (*fed, *came_after) if one.link is not None)
        task = replace(
            task,
            chain=None if run is None else run.name,
            parent=tuple(one.name for one in fed) or None,
            depends_on=tuple(one.name for one in came_after) or None,
        )
        return Placed(task, lineage, next((one.refusal for one in (*fed, *came_after) if one.refusal), None))

    def _runs(self, names: set[str]) -> dict[str, ChainRow]:
        """Return the run that each name or id means; a name that is new begins its first run."""
        if not names:
            return {}
        ledger, project = self._engine().ledger, self._project
        known = ledger.read(lambda c: {name: chains.find_chain(c, name, project) for name in names})
        missing = [name for name, row in known.items() if row is None]
        if missing:
            now = now_us()
            known |= ledger.file.write(lambda c: {name: chains.chain_of(c, name, project, now) for name in missing})
        return {name: row for name, row in known.items() if row is not None}

    def _shared(self, tasks: Mapping[int, Task], runs: Mapping[str, ChainRow]) -> dict[int, dict[str, str]]:
        """Return the shared values that each prompt reads, by slot."""
        values: dict[str, dict[str, str]] = {}
        found: dict[int, dict[str, str]] = {}
        for index, task in tasks.items():
            names = places_of(task, chained=task.chain is not None)
            found[index] = {}
            if not names:
                continue
            assert task.chain is not None
            run = runs[task.chain]
            if run.chain_id not in values:
                values[run.chain_id] = self._values(run.chain_id)
            there = values[run.chain_id]
            for name in sorted(names):
                if name not in there:
                    known = ", ".join(there) or "none"
                    raise InvalidTemplate(
                        f"row {index}: chain {run.name!r} shares no value {name!r}.{nearest(name, there)} It shares: "
                        f"{known}. Set it with await chain.shared.set({name!r}, …)."
                    )
                found[index][f"{SHARED}{name}"] = there[name]
        return found

    def _values(self, chain_id: str) -> dict[str, str]:
        shared = self._engine().ledger.read(lambda c: chains.shared_values(c, chain_id))
        values = {name: orjson.loads(value) for name, (value, _) in shared.items()}
        return {name: v if isinstance(v, str) else orjson.dumps(v).decode() for name, v in values.items()}

    def _found(self, others: Iterable[Any]) -> dict[Any, _Found]:
        """Return what there is of each parent outside of the call."""
        named = {_name(other): other for other in others}
        if not named:
            return {}
        for other in named.values():
            if isinstance(other, Task):
                raise InvalidInput(
                    f"The parent {other.prompt!r:.60} is a Task that is not part of this call: put both into one batch, or "
                    "run it first and name its Result."
                )
        ledger = self._engine().ledger
        wanted = {name: _memory_id(other) for name, other in named.items()}
        memories = ledger.read(lambda c: chains.sources(c, {m for m in wanted.values() if m}, self._rules.summary))
        lost = {name: other for name, other in named.items() if wanted[name] and wanted[name] not in memories}
        answered = self._answered(lost)
        if answered:
            wanted |= {name: row.source for name, row in answered.items()}
            sources = {row.source for row in answered.values()}
            memories |= ledger.read(lambda c: chains.sources(c, sources, self._rules.summary))
        found = {
            name: _look_at(other, memories.get(wanted[name] or ""), answered.get(name), self._rules)
            for name, other in named.items()
        }
        self._find_places(found.values())
        return found

    def _answered(self, lost: Mapping[Any, Any]) -> dict[Any, Answered]:
        """Return the tasks of parents that are no memory yet, and make their answers memories.

        Raises:
            InvalidInput: The ledger knows nothing of a task.
        """
        ids = {name: _task_id(other) for name, other in lost.items() if not isinstance(other, HandoffContext)}
        if not ids:
            return {}
        ledger = self._engine().ledger
        known = ledger.read(lambda c: chains.answered(c, [*ids.values()]))
        asked = {row.source for row in known.values() if row.source != row.task_id}
        known |= ledger.read(lambda c: chains.answered(c, [*asked])) if asked else {}
        found: dict[Any, Answered] = {}
        rows: list[MemoryRow] = []
        now = now_us()
        for name, task_id in ids.items():
            row = known.get(task_id)
            if row is None:
                raise InvalidInput(
                    f"unknown parent: the ledger {ledger.file.path} has no finished task {task_id}. A task of a project "
                    "with a ledger of its own can hand over nothing here: continue it with that project's orchestrator."
                )
            source = known.get(row.source, row)
            found[name] = row
            text = lost[name].output if isinstance(lost[name], Result) else source.text
            if source.status == "succeeded" and text is not None:
                as_it_came = text == source.text
                rows.append(
                    chains.memory_of(source.task_id, text, source.send_seq, source.chain_id, now, as_it_came=as_it_came)
                )
        if rows:
            ledger.file.write(lambda c: chains.remember(c, rows))
        return found

    def _find_places(self, found: Iterable[_Found]) -> None:
        """Note where parents stand in their own chains."""
        by_chain: dict[str, list[_Found]] = {}
        for one in found:
            if one.task_id is not None and one.chain_id is not None:
                by_chain.setdefault(one.chain_id, []).append(one)
        for chain_id, some in by_chain.items():
            ids = {one.task_id: one for one in some if one.task_id is not None}
            there = self._engine().ledger.read(lambda c, chain_id=chain_id, ids=ids: chains.places(c, chain_id, ids))  # type: ignore[misc]  # mypy knows no defaults of lambdas
            for task_id, one in ids.items():
                place = there.get(task_id, Place(None, None))
                one.root, one.depth = place.root_task_id or task_id, place.depth or 0


@dataclass(slots=True)
class _Found:
    """What there is of a parent outside of the call."""

    task_id: str | None  # None for a failure that was never sent
    chain_id: str | None = None
    context: HandoffContext | None = None
    source: str = ""
    size: int = 0
    root: str = ""
    depth: int = 0
    refusal: Refusal | None = None  # of whatever comes after it
    empty: Refusal | None = None  # of whoever is handed its text


class _Named(NamedTuple):
    """One of those that come before a task."""

    link: Link | Awaited | None  # None where it was never sent
    name: Any  # by which the task names it from here on
    refusal: Refusal | None = None


def _named(kind: Kind, other: Any, found: Mapping[Any, _Found]) -> _Named:
    """Return one of those that come before a task, as it was found; one of the same call by its index for now."""
    if isinstance(other, int):
        return _Named(Awaited(kind, other, None), other)
    one = found[_name(other)]
    if kind == "after":
        link = Link(kind, one.task_id, None, "", 0, one.root, one.depth) if one.task_id is not None else None
        return _Named(link, one.task_id or other, one.refusal)
    if one.task_id is None:
        return _Named(None, other, one.refusal)
    link = Link(kind, one.task_id, one.context, one.source, one.size, one.root, one.depth)
    return _Named(link, one.context or other, one.refusal or one.empty)


def _look_at(other: Any, memory: Source | None, answered: Answered | None, rules: Rules) -> _Found:
    """Return what there is of one parent."""
    if isinstance(other, Result) and not other.success:
        return _Found(other.task_id, other.chain_id, root=other.task_id or "", refusal=_skipped(why_not(other)))
    if answered is not None and answered.status != "succeeded":
        why = f"task {answered.task_id} {answered.status}"
        return _Found(answered.task_id, answered.chain_id, root=answered.task_id, refusal=_skipped(why))
    context, task_id = _context_of(other, memory, answered, rules)
    found = _Found(task_id, context.chain_id, context, root=task_id)
    found.refusal = _broken(context, memory)
    if memory is not None and found.refusal is None:
        found.source = source_of(memory.platform, memory.model)
        found.size = memory.size or 0
        if not found.size:
            found.empty = _skipped(f"the answer of task {task_id} is an empty text, so there is nothing to hand over")
    return found


def _context_of(
    other: Any, memory: Source | None, answered: Answered | None, rules: Rules
) -> tuple[HandoffContext, str]:
    if isinstance(other, HandoffContext):
        return other, other.parent_task_id
    if isinstance(other, Result):
        return context_of(other, rules), other.task_id or ""
    assert memory is not None or answered is not None
    chain_id = answered.chain_id if answered is not None else memory.chain_id if memory is not None else None
    if memory is None:
        return HandoffContext(other, "", "", other, chain_id, 0), other
    digest = memory.digest.hex()
    return HandoffContext(memory.memory_id, digest, memory.beginning or "", other, chain_id, memory.created_at), other


def _broken(context: HandoffContext, memory: Source | None) -> Refusal | None:
    """Return why a memory is not what was handed over; None when it is."""
    if memory is None:
        why = "is not in this ledger"
    elif memory.deleted_at is not None:
        why = "was deleted"
    elif memory.beginning is None:
        why = "has lost its text"
    elif memory.digest.hex() != context.digest:
        why = "is not the text that was handed over: its digest differs"
    else:
        return None
    return Refusal(f"memory {context.memory_id} {why}", "failed", "parent")


def _skipped(why: str) -> Refusal:
    return Refusal(why, "skipped", "parent")


def _name(other: Any) -> Any:
    """Return what tells a parent from others: itself where it can be hashed by what it is."""
    return other if isinstance(other, str | HandoffContext) else id(other)


def _memory_id(other: Any) -> str | None:
    if isinstance(other, HandoffContext):
        return other.memory_id
    if isinstance(other, Result):
        return (other.reused_from or other.task_id) if other.success else None
    return str(other)


def _task_id(other: Any) -> str:
    return other.task_id or "" if isinstance(other, Result) else str(other)
