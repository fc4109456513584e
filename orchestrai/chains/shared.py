"""Shared: values that the tasks of a chain share, across calls, kernels and processes."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import orjson

from orchestrai.errors import InvalidInput
from orchestrai.ids import now_us
from orchestrai.ledger import chains
from orchestrai.messages import check_characters

if TYPE_CHECKING:
    from orchestrai.engine.engine import Engine

_PAUSE_S: Final = 0.002  # before the value is read again that another changed; longer each time
_LONGEST_PAUSE_S: Final = 0.1


class Shared:
    """What the tasks of one run of a chain share: JSON values by name. A prompt reads one by `{shared.NAME}`.

    A value is read when a call is prepared, and is part of what decides whether an answer can be reused.

    Args:
        engine: Opens the ledger.
        chain_id: The run.
    """

    def __init__(self, engine: Callable[[], Engine], chain_id: str) -> None:
        self._engine = engine
        self._chain_id = chain_id

    async def get(self, name: str, default: Any = None) -> Any:
        """Return a value.

        Args:
            name: Its name.
            default: What is returned where there is none.
        """
        return (await self._read(_checked(name), default))[0]

    async def all(self) -> dict[str, Any]:
        """Return every value by its name."""
        found = await asyncio.to_thread(self._all)
        return {name: orjson.loads(value) for name, (value, _) in found.items()}

    async def set(self, name: str, value: Any) -> None:
        """Set a value, whatever it was before.

        Args:
            name: Its name: any text of one line without braces.
            value: Anything that JSON can hold.

        Raises:
            InvalidInput: The name cannot stand in a prompt, or JSON cannot hold the value.
        """
        await asyncio.to_thread(self._write, _checked(name), _as_json(name, value), None)

    async def update(self, name: str, fn: Callable[[Any], Any | Awaitable[Any]], default: Any = None) -> Any:
        """Change a value and return it: no change of anybody is lost, however many change it at once.

        Args:
            name: Its name.
            fn: Returns the new value for the present one; called again with a newer one where somebody else was
                quicker. It may be a coroutine function.
            default: What it is given where there is no value yet.

        Raises:
            InvalidInput: As `set`.
        """
        _checked(name)
        pause_s = _PAUSE_S
        while True:
            present, revision = await self._read(name, default)
            value = fn(present)
            if inspect.isawaitable(value):
                value = await value
            if await asyncio.to_thread(self._write, name, _as_json(name, value), revision):
                return value
            await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311 - spreads those who wait
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _read(self, name: str, default: Any) -> tuple[Any, int]:
        value, revision = (await asyncio.to_thread(self._all)).get(name, (None, 0))
        return (default if value is None else orjson.loads(value)), revision

    def _all(self) -> dict[str, tuple[str, int]]:
        return self._engine().ledger.read(lambda c: chains.shared_values(c, self._chain_id))

    def _write(self, name: str, value: str, revision: int | None) -> bool:
        """Write a value; return False where it is no longer of that revision."""
        now = now_us()
        written: list[int] = []

        def work(connection: Any) -> bool:
            # It runs again where the log was exchanged under it: what is there already is not written twice.
            if written and chains.shared_values(connection, self._chain_id).get(name) == (value, written[-1]):
                return True
            new = chains.share(connection, self._chain_id, name, value, revision, now)
            if new is not None:
                written.append(new)
            return new is not None

        return self._engine().ledger.file.write(work)


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name or any(letter in name for letter in "{}\n"):
        raise InvalidInput(f"A shared value's name is a text of one line without braces, not {name!r}.")
    check_characters("A shared value's name", name)
    return name


def _as_json(name: str, value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"shared value {name!r}: JSON cannot hold it ({error}).") from None
