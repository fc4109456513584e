"""Call: a coroutine that explains itself when somebody forgets to await it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Final, TypeVar

T = TypeVar("T")

_NOT_STARTED: Final = "not started: write `await {name}(…)`"


class Call(Coroutine[Any, Any, T]):
    """Work that starts when it is awaited, and not before.

    It is a coroutine for every purpose of asyncio (`create_task`, `TaskGroup`, `gather`, `wait_for`, `run`); unlike
    a bare one it may be dropped without a warning, because nothing has begun.

    Args:
        name: How it was called, for its repr ("orch.batch").
        make: Makes the coroutine that does the work.
    """

    __slots__ = ("__name__", "__qualname__", "_inner", "_make")

    def __init__(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.__name__ = self.__qualname__ = name
        self._make: Callable[[], Coroutine[Any, Any, T]] | None = make
        self._inner: Coroutine[Any, Any, T] | None = None

    def _started(self) -> Coroutine[Any, Any, T]:
        if self._inner is None:
            if self._make is None:
                raise RuntimeError(f"{self.__name__}: cannot reuse an already awaited or closed call")
            make, self._make = self._make, None
            self._inner = make()
        return self._inner

    def __await__(self) -> Generator[Any, Any, T]:
        if self._inner is not None:
            raise RuntimeError(f"{self.__name__}: cannot reuse an already awaited call")
        return self._started().__await__()

    def send(self, value: Any) -> Any:
        """Go on, as asyncio does with any coroutine."""
        return self._started().send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Any:
        """Raise inside, as asyncio does to cancel."""
        if isinstance(kind, BaseException):
            return self._started().throw(kind)
        error = value if isinstance(value, BaseException) else kind() if value is None else kind(value)
        return self._started().throw(error.with_traceback(trace))

    def close(self) -> None:
        """Give it up."""
        self._make = None
        if self._inner is not None:
            self._inner.close()

    def __repr__(self) -> str:
        if self._make is not None:
            return f"<{self.__name__}: {_NOT_STARTED.format(name=self.__name__)}>"
        return f"<{self.__name__}: started>"
