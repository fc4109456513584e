"""Running a batch to whatever end it comes to, and the exit codes that tell it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from orchestrai.errors import BatchStopped, LedgerError
from orchestrai.handle import Handle
from orchestrai.orchestrator import Orchestrator
from orchestrai.result import Result
from orchestrai.results.batch_result import BatchResult

SUCCEEDED: Final = 0
TASKS_FAILED: Final = 1
BAD_INPUT: Final = 2
NOTHING_RAN: Final = 3
REFUSED: Final = 4
INTERRUPTED: Final = 130

_PATIENCE: Final = b"\nKeeping what is finished; press Ctrl-C again to leave at once.\n"


class Outcome(NamedTuple):
    """How a batch ended: its exit code, all that was finished of it, why it ended early, and its id where it can go on."""

    code: int
    result: BatchResult | None
    error: str | None = None
    batch_id: str | None = None


@contextlib.contextmanager
def one_interrupt() -> Iterator[None]:
    """Let a first Ctrl-C end the work and a third leave at once; a second does not disturb keeping what is finished."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as behind `nohup` and `&`
        yield
        return
    presses = 0

    def pressed(_number: int, _frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses == 2:
            os.write(2, _PATIENCE)  # print may be at work already, and does not start twice
        else:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_batch(
    orchestrator: Orchestrator, tasks: Any, options: Mapping[str, Any], arguments: Sequence[str] | None = None
) -> Outcome:
    """Run a batch with its progress on stderr, and return how it ended, also when that was by an interrupt.

    Args:
        orchestrator: Who runs it.
        tasks: What `Orchestrator.batch` takes.
        options: Its options.
        arguments: Those of the command, if `orchestrai resume` can repeat it.

    Raises:
        InvalidInput: The tasks cannot be sent; nothing was.
        NoPlatform: Nothing can answer.
    """
    handle: Handle | None = None
    try:
        handle = orchestrator.start(tasks, progress="text", **options)
        if arguments is not None:
            handle.note_command(str(Path.cwd()), arguments)
        result = handle.wait()
    except KeyboardInterrupt:
        if handle is None:
            return Outcome(INTERRUPTED, None)
        return Outcome(INTERRUPTED, handle.result, batch_id=handle.batch_id)
    except BatchStopped as error:
        return Outcome(TASKS_FAILED, error.result, f"Stopped at the first failure: {error}")
    except LedgerError as error:
        if handle is None:
            raise
        return Outcome(NOTHING_RAN, handle.result, str(error))
    return Outcome(exit_code(result.failures), result)


def exit_code(failures: Sequence[Result]) -> int:
    """Return the exit code of tasks without an answer: none, some, or all for want of a budget."""
    if not failures:
        return SUCCEEDED
    return REFUSED if all(failure.error_class == "budget" for failure in failures) else TASKS_FAILED
