"""A running child process: what it is told, what it says, and its end, which leaves nothing behind.

    closing it              TERM to the group, 2 s, KILL to the group, reaped
    it ends by itself       KILL to what it forked, while its own number still cannot be given to another process
    this process is killed  KILL to the group, by the guard (`guard.py`)

A child of the child that starts a session of its own leaves the group and is not followed: no client that runs here
without tools does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from orchestrai.errors import PlatformError
from orchestrai.platforms import guard

GRACE_S: Final = 2.0  # seconds between TERM and KILL

_KEPT_ERRORS: Final = 64 * 2**10  # bytes of stderr that are kept: the last ones
_HIGH, _LOW = 2**18, 2**16  # bytes of whole lines that wait to be read; above the first the child has to wait
_REAP_S: Final = 5.0  # seconds that a killed child may take to be gone


class Child:
    """A running child; made by `process.run` and `process.start`, used on the loop that started it by one reader at a time."""

    def __init__(
        self, popen: subprocess.Popen[bytes], folder: Path, largest: int, redacted: Callable[[bytes], bytes]
    ) -> None:
        self.pid = popen.pid
        self.input_whole = True
        self._popen = popen
        self._folder = folder
        self._largest = largest
        self._redacted = redacted
        self._errors = b""
        self._loop = asyncio.get_running_loop()
        self._signals = threading.Lock()
        self._code: int | None = None
        self._reaped = False  # under `_signals`: from then on its number may be another process's
        self._owner = os.getpid()
        self._exited = asyncio.Event()
        self._changed = asyncio.Event()
        self._failure: PlatformError | None = None
        self._printed = 0
        self._lines = bytearray()
        self._looked = 0  # bytes of `_lines` that were searched for a line's end
        self._discard = False
        self._paused = False
        self._open_pipes = 0
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self._stderr: asyncio.ReadTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        guard.watch(popen.pid)
        threading.Thread(target=self._reap, name=f"orchestrai-child-{popen.pid}", daemon=True).start()

    def __repr__(self) -> str:
        return f"<Child {self.pid}, {'running' if self.running else f'ended with {self._code}'}>"

    @property
    def stderr(self) -> bytes:
        """The end of its stderr, with `[key]` for every key that it was given."""
        return self._redacted(self._errors)

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return not self._exited.is_set()

    @property
    def usable(self) -> bool:
        """True while it runs, its input is open, and the caller is in the process and on the loop that started it."""
        here = self._owner == os.getpid() and self._loop is asyncio.get_running_loop()
        return here and self.running and self._failure is None and self._stdin is not None

    def expires_in(self, seconds: float | None) -> None:
        """Set its wall clock anew [s]; None for no limit. At its end it is killed and `line` raises."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            late = PlatformError("timeout", f"no answer within {seconds:g} s.", may_be_billed=True)
            self._timer = self._loop.call_later(seconds, self._fail, late)

    def kill(self) -> None:
        """Kill it and everything in its group at once; `close` still has to be awaited."""
        self._signal(signal.SIGKILL)

    def write(self, data: bytes) -> None:
        """Send bytes to its stdin, whole and in order, without waiting for it; its output is counted anew.

        `input_whole` turns False when it closes its end before everything was written.
        """
        self._printed = len(self._lines)
        if self._stdin is None or self._stdin.is_closing():
            self.input_whole = False
        elif data:
            self._stdin.write(data)

    def end_input(self) -> None:
        """Close its stdin once everything is written."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.close()  # of a pipe that is written to: after what was written

    async def line(self) -> bytes | None:
        r"""Return the next line of its stdout without `\n`, the last one also if it lacks one; None at the end.

        Raises:
            PlatformError: reply: it printed too much; timeout: its time is over. It may have been billed.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            end = self._lines.find(b"\n", self._looked)
            if end >= 0:
                return self._taken(end, end + 1)
            self._looked = len(self._lines)
            if self._stdout is None:
                return self._taken(len(self._lines), len(self._lines)) if self._lines else None
            self._changed.clear()
            await self._changed.wait()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of its stdout as they come; see `line`."""
        while (line := await self.line()) is not None:
            yield line

    async def exit(self) -> int:
        """Wait for its end and return its code (negative: the signal); what it still prints is dropped.

        Raises:
            PlatformError: As `line`.
        """
        self._discard = True
        self._lines.clear()
        self._looked = 0
        self._resume()
        while self._code is None and self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        assert self._code is not None
        return self._code

    async def close(self) -> None:
        """End it and everything in its group, and wait until it is gone; a second call does nothing.

        A cancellation while it waits makes it kill at once; the reaping goes on in a thread. In a forked process it does
        nothing: the child is the parent's.
        """
        if self._owner != os.getpid():
            return
        try:
            if self.running:
                self._signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(GRACE_S):
                        await self._exited.wait()
                except TimeoutError:
                    self._signal(signal.SIGKILL)
                    with contextlib.suppress(TimeoutError):  # the kernel still holds it: the thread reaps it later
                        async with asyncio.timeout(_REAP_S):
                            await self._exited.wait()
        finally:
            self._signal(signal.SIGKILL)
            self.expires_in(None)
            if self._stdin is not None and not self._stdin.is_closing():
                self._stdin.abort()
            for pipe in (self._stdout, self._stderr):
                if pipe is not None:
                    pipe.close()
            shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(TimeoutError):  # a loop that never says that a pipe is closed holds up nobody
            async with asyncio.timeout(_REAP_S):
                while self._open_pipes:
                    self._changed.clear()
                    await self._changed.wait()

    # Its pipes, on the loop.

    async def connect(self, timeout_s: float | None) -> None:
        """Open its pipes and start its wall clock [s]; the second half of its construction."""
        popen = self._popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._stdin, _ = await self._loop.connect_write_pipe(lambda: _Pipe(self, "stdin"), popen.stdin)
        self._stdout, _ = await self._loop.connect_read_pipe(lambda: _Pipe(self, "stdout"), popen.stdout)
        self._stderr, _ = await self._loop.connect_read_pipe(lambda: _Pipe(self, "stderr"), popen.stderr)
        self.expires_in(timeout_s)

    def _opened(self) -> None:
        self._open_pipes += 1

    def _received(self, pipe: str, data: bytes) -> None:
        self._printed += len(data)
        if self._printed > self._largest:
            message = f"the client printed more than {self._largest:,} bytes."
            self._fail(PlatformError("reply", message, may_be_billed=True))
        elif pipe == "stderr":
            self._errors = (self._errors + data)[-_KEPT_ERRORS:]
        elif not self._discard:
            self._lines += data
            # A line that has not ended yet is never waited with: its end is what the reader waits for.
            if len(self._lines) > _HIGH and not self._paused and self._lines.rfind(b"\n", self._looked) >= 0:
                self._paused = True
                assert self._stdout is not None
                self._stdout.pause_reading()
            self._changed.set()

    def _lost(self, pipe: str, error: Exception | None) -> None:
        self._open_pipes -= 1
        if pipe == "stdin":
            self._stdin = None
            self.input_whole = self.input_whole and error is None
        elif pipe == "stdout":
            self._stdout = None
        else:
            self._stderr = None
        self._changed.set()

    def _taken(self, end: int, next_line: int) -> bytes:
        line = self._redacted(bytes(self._lines[:end]))
        del self._lines[:next_line]
        self._looked = 0
        if len(self._lines) < _LOW or b"\n" not in self._lines:
            self._resume()
        return line

    def _resume(self) -> None:
        if self._paused and self._stdout is not None:
            self._stdout.resume_reading()
        self._paused = False

    def _fail(self, error: PlatformError) -> None:
        if self._failure is None:
            self._failure = error
        self._discard = True
        self._lines.clear()
        self._resume()
        self._signal(signal.SIGKILL)
        self._changed.set()

    # Its end.

    def _signal(self, number: int) -> None:
        """Send a signal to the whole group, unless the child is reaped already."""
        with self._signals:
            if not self._reaped and self._owner == os.getpid():  # a forked process does not end its parent's children
                with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
                    os.killpg(self.pid, number)

    def _reap(self) -> None:
        """Wait in a thread for its end, kill what it forked, and reap it."""
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._signal(signal.SIGKILL)  # it is a zombie: its number is still its own, and its group's
            with self._signals:
                code = self._popen.wait()
                self._reaped = True
        else:
            code = self._popen.wait()
            self._signal(signal.SIGKILL)
            self._reaped = True
        guard.forget(self.pid)
        with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        self._code = code
        self._exited.set()
        self._changed.set()


class _Pipe(asyncio.Protocol):
    """One end of a pipe of a child."""

    def __init__(self, child: Child, name: str) -> None:
        self._child = child
        self._name = name

    def connection_made(self, _: asyncio.BaseTransport) -> None:
        self._child._opened()  # noqa: SLF001  # two halves of one thing

    def data_received(self, data: bytes) -> None:
        self._child._received(self._name, data)  # noqa: SLF001  # as above

    def connection_lost(self, error: Exception | None) -> None:
        self._child._lost(self._name, error)  # noqa: SLF001  # as above
