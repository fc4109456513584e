"""The one loop: a daemon thread that runs every attempt of this process, and the ways in and out of it.

The caller's own loop, a notebook's kernel for example, only waits: its buttons and meters stay alive, and clients
are bound to one loop whoever calls. There is one code path for `await` and for sync calls.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_GRACE_S: Final = 10.0  # how long an interrupted caller waits for what is being cancelled
_AWAKE_S: Final = 0.1  # between two moments at which a waiting loop hears of an interrupt
_BEAT_S: Final = 0.02  # interval at which the loop looks for a caller that starves it
_LAG_S: Final = 0.004  # lateness that says so; the interpreter's default turn is 5 ms
_GC_EVERY: Final = 50_000  # objects between collections while a call is under way
_SHORT_TURN_S: Final = 0.0001  # turn of the interpreter while a caller computes


class _RareCollections:
    """While anybody is inside, in any thread, cyclic garbage is looked for more rarely; then as usual.

    Tasks and results are many and all kept, so a look at each 700 new objects finds nothing to free (measured: 12 %
    of the time of a batch, and 6 % more for what is made before and after it).
    """

    def __init__(self) -> None:
        self._inside = 0
        self._usual = gc.get_threshold()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._usual = gc.get_threshold()
                if 0 < self._usual[0] < _GC_EVERY:
                    gc.set_threshold(_GC_EVERY, *self._usual[1:])

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and gc.get_threshold()[0] == _GC_EVERY:
                gc.set_threshold(*self._usual)

    def forget(self) -> None:
        """Begin anew in a forked child, where nobody is inside."""
        self._lock = threading.Lock()
        if self._inside and gc.get_threshold()[0] == _GC_EVERY:
            gc.set_threshold(*self._usual)
        self._inside = 0


rare_collections: Final = _RareCollections()


class _Awake:
    """While anybody waits inside, on the main thread, the waiting loop wakes up now and then.

    A Jupyter kernel cancels an interrupted cell from its signal handler, which does not wake the loop: one that sleeps
    until an answer comes would hear of the interrupt only then (measured: after the whole batch).
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the last one may have been closed with somebody still inside
            self._loop, self._waiting, self._timer = loop, 0, None
        self._waiting += 1
        if self._timer is None:
            self._wake(loop)
        try:
            yield
        finally:
            if loop is self._loop:
                self._waiting -= 1
                if not self._waiting and self._timer is not None:
                    self._timer.cancel()
                    self._timer = None

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            self._timer = loop.call_later(_AWAKE_S, self._wake, loop)


awake: Final = _Awake()


class EngineLoop:
    """An event loop in its own daemon thread; uvloop's where that is installed."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._busy = 0
        self._usual_turn: float | None = None
        self._thread = threading.Thread(target=self._run, name="orchestrai-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def inside(self) -> bool:
        """Return True when called from the loop's own thread."""
        return threading.current_thread() is self._thread

    def refuse_inside(self) -> None:
        """Refuse to wait for the loop from its own thread, before anything is begun.

        Raises:
            RuntimeError: Called from the loop's own thread, which would wait for itself.
        """
        if self.inside():
            raise RuntimeError("A sync call from inside orchestrai's own loop would wait for itself. Use `await`.")

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While inside, set the interpreter up for many small steps and many kept results; then as it was.

        A thread in a pure Python loop gives the interpreter up only every 5 ms, and the engine needs it for each
        small step, so a busy caller would slow a batch down several times: the interpreter's turn is shortened
        when the loop notices one.
        """
        self._busy += 1
        if self._busy == 1:
            self._beat(self.loop.time())
        try:
            with rare_collections:
                yield
        finally:
            self._busy -= 1
            if self._busy == 0 and self._usual_turn is not None:
                sys.setswitchinterval(self._usual_turn)
                self._usual_turn = None

    def _beat(self, expected: float) -> None:
        if self._busy == 0 or self._usual_turn is not None:
            return
        now = self.loop.time()
        if now - expected > _LAG_S and sys.getswitchinterval() > _SHORT_TURN_S:
            self._usual_turn = sys.getswitchinterval()
            sys.setswitchinterval(_SHORT_TURN_S)
            return
        self.loop.call_at(now + _BEAT_S, self._beat, now + _BEAT_S)


class Errand(Generic[T]):
    """Something running on the engine's loop, seen from the caller's side.

    Args:
        engine: The loop.
        work: What runs.
        stop: Called on the loop when the caller is interrupted; it makes `work` end soon and keep what it has.
            Without it, `work` is cancelled.
    """

    def __init__(
        self, engine: EngineLoop, work: Coroutine[Any, Any, T], stop: Callable[[], object] | None = None
    ) -> None:
        self._engine = engine
        self._stop = stop
        self.future = engine.submit(work)

    def stop(self) -> None:
        """Ask it to end, from any thread."""
        if self._stop is not None:
            self._engine.loop.call_soon_threadsafe(self._stop)
        else:
            self.future.cancel()

    async def wait(self) -> T:
        """Wait for it on the caller's loop; when the caller is cancelled, stop it and wait for its end first."""
        waiter = asyncio.wrap_future(self.future)
        try:
            with awake():
                return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait({waiter}, timeout=_GRACE_S)
            raise

    def wait_sync(self) -> T:
        """Wait for it in a caller without a loop of its own; an interrupt stops it first, then goes on.

        Raises:
            RuntimeError: Called from the engine's own thread, which would wait for itself.
        """
        self._engine.refuse_inside()
        try:
            return self.future.result()
        except KeyboardInterrupt:
            self.stop()
            with contextlib.suppress(Exception):  # what it ends with is kept elsewhere; the interrupt goes on
                self.future.result(timeout=_GRACE_S)
            raise


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


_engine: EngineLoop | None = None
_making = threading.Lock()


def engine_loop() -> EngineLoop:
    """Return the process's one engine loop, started on first use and anew after a fork."""
    global _engine  # noqa: PLW0603 - one per process by design
    with _making:
        if _engine is None:
            _engine = EngineLoop()
        return _engine


_inherited: list[EngineLoop] = []  # by a forked child; kept, because closing the parent's loop is touching it


def _forget() -> None:
    global _engine, _making
    if _engine is not None:
        _inherited.append(_engine)
    _engine, _making = None, threading.Lock()
    rare_collections.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
