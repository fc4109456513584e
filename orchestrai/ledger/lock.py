"""Locks between processes: the write lock of a ledger, and the sign of life of a process that works on it.

Both are advisory locks of the operating system on an open file, which the system releases the moment the process
is gone, however it ended. So a lock that can be taken *proves* that its holder is dead: no pid that may have been
given to another process, no clock and no time-out is involved, and it works between containers too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int, *, wait: bool) -> bool:
        while True:
            try:
                msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            except OSError:
                if not wait:
                    return False
                threading.Event().wait(0.001)
            else:
                return True

    def _unlock(fd: int) -> None:
        os.lseek(fd, 0, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(fd: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class WriteLock:
    """The lock around every write and checkpoint of a ledger, between threads and between processes.

    SQLite's own busy handler starves writers under load; this lock is fair enough that four busy processes wait
    0.1 s at the most (measured; docs/explanation/durability.md).
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._threads = threading.Lock()

    def __enter__(self) -> Self:
        self._threads.acquire()
        try:
            _lock(self._fd, wait=True)
        except BaseException:  # an interrupt while waiting, say: it goes on, and the other threads get their turn
            self._threads.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _unlock(self._fd)
        self._threads.release()

    def pause(self) -> None:
        """Wait until no thread holds it, and let none take it before `resume`."""
        self._threads.acquire()

    def resume(self) -> None:
        """End a pause."""
        self._threads.release()

    def close(self) -> None:
        """Give the file back to the system."""
        os.close(self._fd)


class SignOfLife:
    """A lock that this process holds as long as it lives; others see by it that its claims are still meant."""

    def __init__(self, folder: Path, owner_id: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.owner_id = owner_id
        self._path = folder / owner_id
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        _lock(self._fd, wait=False)

    def forget(self) -> None:
        """Let go of it in a forked child, where it is the parent's: it must end when the parent does."""
        os.close(self._fd)

    def close(self) -> None:
        """End it: whoever looks now finds this owner gone."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def is_alive(folder: Path, owner_id: str) -> bool:
    """Return False only when the owner's process is proved to be gone."""
    try:
        fd = os.open(folder / owner_id, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return False
    try:
        return not _lock(fd, wait=False)
    finally:
        os.close(fd)


def bury(folder: Path, owner_id: str) -> None:
    """Remove what a dead owner left in the folder."""
    (folder / owner_id).unlink(missing_ok=True)


@contextlib.contextmanager
def turn(path: Path) -> Iterator[bool]:
    """Hold a lock while inside, if nobody else does; what is yielded says whether."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        taken = _lock(fd, wait=False)
        try:
            yield taken
        finally:
            if taken:
                _unlock(fd)
    finally:
        os.close(fd)
