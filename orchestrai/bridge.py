"""Bridge: how a call without `await` waits inside a loop that is running.

By default the work is on the engine's loop, in its own thread, and the caller waits for it: nothing is patched. With
`bridge="nest"`, and only then, `nest_asyncio` is applied to the caller's loop, once, so that the loop goes on while the call
waits in it. Its price (measured): asyncio's tasks become Python ones in the whole process, for ever, and a task
costs up to twice as much; of two calls that wait at once the inner one ends first.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable
from typing import Final, Literal, TypeVar

from orchestrai.errors import InvalidInput

T = TypeVar("T")

Bridge = Literal["thread", "nest"]

_GRACE_S: Final = 10.0  # how long an interrupted caller waits for what is being cancelled
_log = logging.getLogger("orchestrai")


def is_in_loop() -> bool:
    """Return True where a loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def wait_nested(awaitable: Awaitable[T]) -> T:
    """Return the value of an awaitable on the running loop, which goes on meanwhile; an interrupt cancels it first.

    Raises:
        InvalidInput: The running loop cannot be nested.
    """
    loop = asyncio.get_running_loop()
    _apply(loop)
    task: asyncio.Task[T] = loop.create_task(_value(awaitable))
    try:
        return loop.run_until_complete(task)
    except BaseException:  # it goes on, also a cancel, once nothing is left running
        # Under nest_asyncio an interrupt ends the wait alone; what was waited for would go on, and spend.
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait({task}, timeout=_GRACE_S))
        raise


async def _value(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _apply(loop: asyncio.AbstractEventLoop) -> None:
    kind = f"{type(loop).__module__}.{type(loop).__name__}"
    if not kind.startswith("asyncio."):
        raise InvalidInput(f'bridge="nest" needs a plain asyncio loop, and this one is {kind}: use bridge="thread".')
    if sys.version_info >= (3, 14):
        raise InvalidInput('nest_asyncio does not work on Python 3.14 and later: use bridge="thread".')
    if hasattr(loop, "_nest_patched"):
        return
    import nest_asyncio  # type: ignore[import-untyped]  # it has no types

    nest_asyncio.apply(loop)
    _log.info('nest_asyncio was applied to the running loop, as bridge="nest" asks.')
