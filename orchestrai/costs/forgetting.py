"""Forgetting: history that goes for good, and texts of a task, a batch or a tag that go while their costs stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from orchestrai.costs.batches import batch_names
from orchestrai.costs.mirror import Mirror
from orchestrai.costs.period import Moment, moment_of
from orchestrai.costs.segments import discard
from orchestrai.costs.sql import rows, tag_pointer
from orchestrai.errors import InvalidInput, nearest
from orchestrai.ledger import housekeeping
from orchestrai.ledger.housekeeping import Forgotten, Pruned
from orchestrai.ledger.ledger import Ledger

_CONDITIONS: Final = {
    "task": "task_id = $value",
    "batch": "batch_id IN (SELECT batch_id FROM ledger.batches WHERE batch_id = $value OR name = $value)",
    "tag": "tags :: JSON ->> $key = $value",
}


class Meant(NamedTuple):
    """What is to be forgotten, by numbers and ids."""

    sends: list[int]
    outcomes: list[int]
    batches: list[str]


def prune(ledger: Ledger, before: Moment) -> Pruned:
    """Remove the history from before a moment, and the files that held it; see `Costs.prune`."""
    moment = moment_of(before, "before")
    if moment is None:
        raise InvalidInput('Say before when: prune(before="90d").')
    before_us = int(moment.timestamp() * 1e6)
    keep = ledger.read(lambda c: housekeeping.bounds(c, before_us))
    pruned = housekeeping.prune(ledger, before_us)
    discard(ledger.folder / "segments", {"attempts": keep.send, "outcomes": keep.outcome})
    ledger.file.fold()
    return pruned


def forget(ledger: Ledger, mirror: Mirror, task: Any, batch: Any, tag: Mapping[str, str] | str | None) -> Forgotten:
    """Forget the texts that one of three names means; see `Orchestrator.forget`."""
    forgotten = housekeeping.forget(ledger, *meant(mirror, task, batch, tag))
    ledger.file.fold()
    return forgotten


def meant(mirror: Mirror, task: Any, batch: Any, tag: Mapping[str, str] | str | None) -> Meant:
    """Return what one of three names means: its requests, and those of the tasks whose answers they took.

    Args:
        mirror: The ledger.
        task: Id of a task, or its Result.
        batch: Id or name of a batch (all of that name), or its BatchResult.
        tag: `{"team": "red"}` or `"team=red"`.

    Raises:
        InvalidInput: Not exactly one is given, or the ledger knows nothing of it.
    """
    given = {"task": task, "batch": batch, "tag": tag}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise InvalidInput("Name what to forget, by one of: task=, batch=, tag=.")
    what = named[0]
    parameters = _tag(tag) if tag is not None else {"value": _id(given[what], f"{what}_id")}
    condition = _CONDITIONS[what]
    outcomes = rows(mirror, f"SELECT seq, reused_from, batch_id FROM ledger.outcomes WHERE {condition}", parameters)  # noqa: S608
    sends = rows(mirror, f"SELECT seq, task_id, batch_id FROM ledger.attempts WHERE {condition}", parameters)  # noqa: S608
    if not outcomes and not sends:
        known = batch_names(mirror) if what == "batch" else []
        shown = "=".join(reversed([str(value) for value in parameters.values()])).lstrip("/")
        raise InvalidInput(f"The ledger has no {what} {shown!r}.{nearest(shown, known)}")
    numbers = [row[0] for row in sends]
    if sources := sorted({row[1] for row in outcomes if row[1] is not None} - {row[1] for row in sends}):
        numbers += [
            row[0]
            for row in rows(
                mirror, "SELECT seq FROM ledger.attempts WHERE list_contains($sources, task_id)", {"sources": sources}
            )
        ]
    calls = {row[2] for row in (*sends, *outcomes)} if what == "batch" else set()
    return Meant(sorted(numbers), sorted(row[0] for row in outcomes), sorted(calls))


def _id(value: Any, attribute: str) -> str:
    found = value if isinstance(value, str) else getattr(value, attribute, None)
    if not isinstance(found, str):
        raise InvalidInput(f"{type(value).__name__} has no {attribute}: give an id, a name, or a result.")
    return found


def _tag(tag: Mapping[str, str] | str) -> dict[str, str]:
    pairs = (
        [tuple(tag.split("=", 1))] if isinstance(tag, str) else list(tag.items()) if isinstance(tag, Mapping) else []
    )
    if len(pairs) != 1 or len(pairs[0]) != 2:
        raise InvalidInput(f'tag={tag!r}: one tag is {{"team": "red"}} or "team=red".')
    key, value = pairs[0]
    return {"value": str(value), "key": tag_pointer(key)}
