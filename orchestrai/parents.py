"""Parents within one call: which of its tasks work with, or wait for, which others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any

from orchestrai.errors import InvalidInput
from orchestrai.task import Task


def has_lineage(task: Task) -> bool:
    """Return True for a task that belongs to a chain, or that has others before it."""
    return task.chain is not None or task.parent is not None or task.depends_on is not None


def within_call(tasks: list[Task], given: Sequence[Any]) -> list[Task]:
    """Return the tasks of a call with their parents among each other named by index; the same list where there are none.

    Args:
        tasks: One for each value, with the call's options.
        given: The values the caller gave; a Task among them may be named as a parent by itself.

    Raises:
        InvalidInput: A parent is not among them, or tasks wait for each other in a circle.
    """
    naming = [row for row, task in enumerate(tasks) if any(isinstance(p, Task | int) for p in before(task))]
    if not naming:
        return tasks
    rows: dict[int, int] = {}
    for row, value in enumerate(given):
        if isinstance(value, Task):
            rows.setdefault(id(value), row)
    named = list(tasks)
    for row in naming:
        named[row] = renamed(tasks[row], partial(_rows_of, row, rows, len(tasks)))
    _refuse_circles({row: rows_before(named[row]) for row in naming})
    return named


def before(task: Task) -> Iterator[Any]:
    """Yield everything that has to be there before a task can start, as it names it."""
    yield from task.parent or ()
    yield from task.depends_on or ()


def rows_before(task: Task) -> list[int]:
    """Return the tasks of the same call that come before a task, by index."""
    return [other for other in before(task) if isinstance(other, int)]


def renamed(task: Task, names: Callable[[Any], Sequence[Any]]) -> Task:
    """Return the task with everything that comes before it put through a function, which returns one or several."""
    changed: dict[str, Any] = {
        field: tuple(name for other in getattr(task, field) for name in names(other))
        for field in ("parent", "depends_on")
        if getattr(task, field) is not None
    }
    return replace(task, **changed)


def asked_again(result: Any, results: Mapping[int, Sequence[Any]], again: Mapping[int, int]) -> Task:
    """Return the task of a result that is asked again, apart from the call it was part of.

    Args:
        result: The result; its task goes on in the same run of its chain.
        results: Results of that call by index, those of several samples together: those of the parents that succeeded
            stand for them.
        again: Index → place of the tasks that are asked again with it.

    Raises:
        InvalidInput: A parent is not among the results.
    """
    task: Task = result.task if result.chain_id is None else replace(result.task, chain=result.chain_id)

    def names(other: Any) -> Sequence[Any]:
        if not isinstance(other, int):
            return (other,)
        if other not in results:
            raise InvalidInput(
                f"Row {other} comes before {task.prompt!r:.60} and is not part of this result: retry the whole."
            )
        return (again[other],) if other in again else results[other]

    return renamed(task, names) if rows_before(task) else task


def _rows_of(row: int, rows: Mapping[int, int], count: int, other: Any) -> Sequence[Any]:
    if isinstance(other, Task):
        found = rows.get(id(other))
        if found is None:
            raise InvalidInput(
                f"row {row}: its parent {other.prompt!r:.60} is no task of this call. Put that very Task into the same "
                "batch, or run it first and name its Result."
            )
        return (found,)
    if isinstance(other, int) and not 0 <= other < count:
        raise InvalidInput(
            f"row {row}: there is no row {other} to be its parent; rows are counted from 0 to {count - 1}."
        )
    return (other,)


def _refuse_circles(graph: Mapping[int, Sequence[int]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " → ".join(str(row) for row in reversed(error.args[1]))
        raise InvalidInput(f"These rows wait for each other, so none could start: {circle}.") from None
