"""Results and answers as they come, on the caller's own loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final, Literal

from orchestrai import intake
from orchestrai.engine.batch import Run
from orchestrai.engine.loop import Errand, engine_loop
from orchestrai.engine.prepare import Prepared, Preparer
from orchestrai.engine.stream import Outlet
from orchestrai.errors import BatchStopped, LedgerError
from orchestrai.result import Result
from orchestrai.task import Task

_LOOK_AHEAD: Final = 1000  # prompts read and not yet yielded
_PATIENCE_S: Final = 0.01  # how long a chunk waits for more rows
_Row = tuple[int, Task, str | None, Any]  # place in the input, task, why it is not sent, label
_CHUNK: Final = 100  # prompts handed to the engine at once; samples count as prompts


async def completed(
    prompts: Any,
    make_run: Callable[[Callable[[Result], None]], Run],
    preparer: Preparer,
    *,
    prompt: str | None,
    missing: Literal["skip", "error"],
    options: Mapping[str, Any],
    stop_at_failure: bool,
) -> AsyncIterator[Result]:
    """Yield results in the order in which they finish, reading the input only as far as needed.

    Raises:
        BatchStopped: A task failed and `stop_at_failure` is set; its `.result` is that Result.
        LedgerError: The ledger cannot be written; its `.result` lists the Results that are not in it. They were not
            yielded.
    """
    outlet: Outlet[Result] = Outlet(asyncio.get_running_loop())
    run = make_run(outlet.push)
    errand = Errand(engine_loop(), run.execute(None), run.stop)
    errand.future.add_done_callback(lambda _: outlet.end())
    room = asyncio.Semaphore(_LOOK_AHEAD)
    feeder = asyncio.create_task(_feed(prompts, run, preparer, outlet, room, prompt, missing, options))
    # Whatever ends the feeder, the run must learn that no more input comes.
    feeder.add_done_callback(lambda _: engine_loop().loop.call_soon_threadsafe(run.close_input))
    try:
        while (result := await outlet.get()) is not None:
            room.release()
            if stop_at_failure and result.status == "failed":
                raise BatchStopped(f"task {result.index} failed ({result.error_class}): {result.error}", result)
            yield result
        await errand.wait()
        if run.status == "finished":  # one that was closed under way needs no more of the input
            await feeder
    except LedgerError as error:
        error.result = list(run.unrecorded.values())
        raise
    finally:
        feeder.cancel()
        errand.stop()
        await asyncio.gather(asyncio.wrap_future(errand.future), feeder, return_exceptions=True)


async def _feed(
    prompts: Any,
    run: Run,
    preparer: Preparer,
    outlet: Outlet[Result],
    room: asyncio.Semaphore,
    prompt: str | None,
    missing: Literal["skip", "error"],
    options: Mapping[str, Any],
) -> None:
    """Read the input in chunks, as far ahead as there is room, and hand it to the engine."""
    if hasattr(prompts, "__aiter__"):
        async for row in intake.take_each_async(prompts, prompt=prompt, missing=missing, options=options):
            await _hand_over([row], run, preparer, outlet, room)
        return
    rows = iter(intake.take_each(prompts, prompt=prompt, missing=missing, options=options))
    more = True
    while more:
        chunk, more, fault = _next_chunk(rows)
        await _hand_over(chunk, run, preparer, outlet, room)
        if fault is not None:  # an error of the input; what came before it is answered first
            raise fault


def _next_chunk(rows: Iterator[_Row]) -> tuple[list[_Row], bool, Exception | None]:
    """Read the next rows, a slow input's as they come; return them, whether there may be more, and what went wrong."""
    chunk: list[_Row] = []
    until = time.monotonic() + _PATIENCE_S
    try:
        for row in rows:
            chunk.append(row)
            if len(chunk) == _CHUNK or time.monotonic() > until:
                return chunk, True, None
    except Exception as error:  # noqa: BLE001 - a person's generator may raise anything; it reaches the person
        return chunk, False, error
    return chunk, False, None


async def _hand_over(
    rows: list[_Row],
    run: Run,
    preparer: Preparer,
    outlet: Outlet[Result],
    room: asyncio.Semaphore,
) -> None:
    if not rows:
        return
    refused = {index: why for index, _, why, _ in rows if why is not None}
    prepared = preparer.prepare(
        [task for _, task, _, _ in rows], refused=refused, labels=[label for *_, label in rows], start=rows[0][0]
    )
    for result in prepared.refused.values():
        await room.acquire()
        outlet.push(result)
    for start in range(0, len(prepared.items), _CHUNK):  # one prompt may stand for more samples than there is room
        items = prepared.items[start : start + _CHUNK]
        for _ in items:
            await room.acquire()
        await asyncio.wrap_future(engine_loop().submit(run.feed(items)))


class AnswerStream:
    """One answer, piece by piece; iterate it once, then read `.result`.

    A loop that is left ends the request with it; where the stream itself is kept, the answer goes on to its end and
    `.result` has it, unless `aclose` ends it.

    Args:
        make_run: Makes the run that streams.
        prepared: The one task.
    """

    def __init__(self, make_run: Callable[[Callable[[str], None]], Run], prepared: Prepared) -> None:
        self._make_run = make_run
        self._prepared = prepared
        self._pieces: AsyncGenerator[str, None] | None = None
        self._runs: list[Run] = []  # the one run, once it is made

    @property
    def result(self) -> Result | None:
        """The settled Result once the answer is whole, also where the loop was left earlier; None until then."""
        return self._runs[0].results[0] if self._runs and self._runs[0].results else None

    def __aiter__(self) -> AsyncIterator[str]:
        if self._pieces is None:
            # It knows nothing of this object: so the last reference to the one ends the other.
            self._pieces = _pieces(self._make_run, self._prepared, self._runs)
        return self._pieces

    async def aclose(self) -> None:
        """End the request, if it is still under way; what was settled stays in `.result`."""
        if self._pieces is not None:
            await self._pieces.aclose()


async def _pieces(
    make_run: Callable[[Callable[[str], None]], Run], prepared: Prepared, runs: list[Run]
) -> AsyncGenerator[str, None]:
    outlet: Outlet[str] = Outlet(asyncio.get_running_loop())
    run = make_run(outlet.push)
    runs.append(run)
    errand = Errand(engine_loop(), run.execute(prepared.items, prepared.refused), run.stop)
    errand.future.add_done_callback(lambda _: outlet.end())
    given = False
    try:
        while (piece := await outlet.get()) is not None:
            given = True
            yield piece
        await errand.wait()
    finally:
        errand.stop()
        await asyncio.gather(asyncio.wrap_future(errand.future), return_exceptions=True)
    result = run.results[0]
    assert result is not None
    result.raise_for_failure()
    if not given and result.output:  # it came from the ledger
        yield result.output
