"""Prepare: tasks become items, with their keys, routes and compiled schemas; nothing is sent."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrai import attachments
from orchestrai.attachments import Attachment
from orchestrai.engine.item import Item
from orchestrai.engine.lineage import Awaited, fit
from orchestrai.engine.origins import Origins, Placed, Refusal
from orchestrai.errors import InvalidInput
from orchestrai.parents import has_lineage, rows_before
from orchestrai.result import Result
from orchestrai.routing.context import fitting
from orchestrai.routing.estimate import guessed
from orchestrai.routing.offers import Offer, Router
from orchestrai.schemas import AnswerSchema, answer_schema
from orchestrai.task import Task


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a call is going to do.

    Args:
        items: The tasks to be answered, each with its position in the results.
        refused: Results of those that are never sent, by position.
    """

    items: list[Item]
    refused: dict[int, Result]


class Preparer:
    """Turns tasks into items; keeps what many tasks share (schemas, files, routes).

    Args:
        router: Where tasks may go.
        origins: Looks up the chains and parents that tasks name.
        streaming: The answers are to be streamed.
        whole: All tasks of the call are prepared at once, so that they can name each other.
    """

    def __init__(self, router: Router, origins: Origins, *, streaming: bool = False, whole: bool = False) -> None:
        self._router = router
        self._origins = origins
        self._streaming = streaming
        self._whole = whole
        self._schemas: dict[int, tuple[Any, AnswerSchema]] = {}  # the schema is kept, so that its id stays its own
        self._files: dict[str | Path, Attachment] = {}
        self._told: set[tuple[str, str]] = set()  # options that were dropped and warned of
        self._position = 0

    def prepare(
        self,
        tasks: Sequence[Task],
        *,
        refused: Mapping[int, str] | None = None,
        labels: Sequence[Any] | None = None,
        start: int = 0,
    ) -> Prepared:
        """Return the items of tasks, one for each sample, in the order of the input.

        Args:
            tasks: With all options filled in.
            refused: Index → why a task is not to be sent.
            labels: Row labels of the tasks.
            start: Index of the first task in the whole input.

        Raises:
            InvalidInput: A hint names an unknown platform, or a schema is none.
        """
        items: list[Item] = []
        results: dict[int, Result] = {}
        refused = refused or {}
        placed = self._placed(tasks, refused, start)
        for offset, given in enumerate(tasks):
            index, row = start + offset, labels[offset] if labels is not None else None
            place = placed.get(index)
            task = given if place is None else place.task
            refusal = None if place is None else place.refusal
            if index in refused:
                refusal = Refusal(refused[index], "skipped", "input")
            if refusal is None and task.files:
                try:
                    task = self._with_files(task)
                except InvalidInput as error:
                    refusal = Refusal(str(error), "skipped", "input")
            route = fitting(self._router.route(task, streaming=self._streaming), task) if refusal is None else None
            if route is not None and not route.offers:
                refusal = Refusal(f"no platform can take this task: {route.why_none()}", "failed", "request")
            elif route is not None:
                self._tell_dropped(task, route.offers[0])
            schema = self.schema(task.schema) if refusal is None else None
            digest = schema.digest if schema is not None else None
            size = guessed(task) if refusal is None else 0
            for sample in range(task.samples or 1):
                if refusal is not None or route is None:
                    assert refusal is not None
                    chain_id = None if place is None else place.lineage.chain_id
                    results[self._position] = _refused(task, refusal, index, row, sample, chain_id)
                else:
                    key = task.sample_key(sample, digest) if place is None else b""
                    item = Item(task, index, row, sample, key, route, schema, size, self._position)
                    if place is not None:
                        item.lineage = replace(place.lineage, route=route)
                    items.append(item)
                self._position += 1
        if placed:
            self._join(items, results)
        return Prepared(items, results)

    def _placed(self, tasks: Sequence[Task], refused: Mapping[int, str], start: int) -> dict[int, Placed]:
        """Return where tasks stand that name a chain or others; most calls have none."""
        if not any(map(has_lineage, tasks)):
            return {}
        if not self._whole and any(map(rows_before, tasks)):
            raise InvalidInput(
                "A parent that is named by its row belongs to a whole batch: use batch(…) or start(…), or name its Result."
            )
        return self._origins.place({start + i: task for i, task in enumerate(tasks) if start + i not in refused})

    def _join(self, items: Sequence[Item], results: Mapping[int, Result]) -> None:
        """Tell tasks from each other that name each other, and measure what each is handed."""
        at: dict[int, list[Awaited]] = {}  # what stands for a row: one for each of its samples
        for item in items:
            at.setdefault(item.index, []).append(Awaited("after", item.position, item))
        for position, result in results.items():
            at.setdefault(result.index, []).append(Awaited("after", position, None))
        for item in items:
            if item.lineage is None:
                continue
            item.lineage.before = tuple(
                one
                for named in item.lineage.before
                for one in (
                    [other._replace(kind=named.kind) for other in at.get(named.position, ())]
                    if isinstance(named, Awaited)
                    else [named]
                )
            )
            item.lineage.positions = frozenset(one.position for one in item.lineage.awaited)
            contexts = {link.task_id: link.context for link in item.lineage.parents}
            fit(item, lambda task_id, contexts=contexts: self._origins.text_of(contexts[task_id]))  # type: ignore[misc]  # mypy knows no defaults of lambdas
            item.lineage.first_key = item.key

    def _tell_dropped(self, task: Task, offer: Offer) -> None:
        """Warn once of options that the platform cannot take; its tasks are sent without them."""
        if task.max_tokens is None and task.temperature is None and task.effort is None:
            return
        can = offer.platform.capabilities(offer.model)
        takes = {"max_tokens": can.output_limit, "temperature": can.temperature, "effort": can.effort}
        where = f"{offer.model} on {offer.platform.name}"
        dropped = [name for name, able in takes.items() if not able and getattr(task, name) is not None]
        new = [name for name in dropped if (where, name) not in self._told]
        if new:
            self._told.update((where, name) for name in new)
            warnings.warn(f"{where} takes no {', '.join(new)}: dropped for its tasks.", stacklevel=3)

    def schema(self, schema: Any) -> AnswerSchema | None:
        """Return the compiled form of a schema, compiled once; None stays None.

        Raises:
            InvalidSchema: It is none.
        """
        if schema is None:
            return None
        known = self._schemas.get(id(schema))
        if known is None:
            known = self._schemas[id(schema)] = (schema, answer_schema(schema))
        return known[1]

    def _with_files(self, task: Task) -> Task:
        """Return the task with its files hashed; a file that many tasks share is read once."""
        hashed = []
        for file in task.files or ():
            if isinstance(file, Attachment):
                hashed.append(file)
                continue
            if file not in self._files:
                self._files[file] = attachments.from_path(file)
            hashed.append(self._files[file])
        return replace(task, files=tuple(hashed))


def _refused(task: Task, refusal: Refusal, index: int, row: Any, sample: int, chain_id: str | None) -> Result:
    return Result(
        task,
        status=refusal.status,
        error=refusal.why,
        error_class=refusal.error_class,
        index=index,
        row=row,
        sample=sample,
        chain_id=chain_id,
    )
