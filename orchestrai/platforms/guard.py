"""The guard: one `sh` that kills the process groups of our children when this process is gone, however it went.

It reads from a pipe which groups there are and, at the pipe's end, kills them. It is started with the first child and
ended with the last one. It is chosen over Linux's PR_SET_PDEATHSIG because that one follows the thread that forked, needs
code between fork and exec (unsafe beside threads), reaches no grandchildren, and exists nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from typing import Final

_SCRIPT: Final = """
trap '' HUP INT TERM
while read -r what group; do
  case $what in
    +) groups="$groups $group" ;;
    -) rest=; for g in $groups; do [ "$g" = "$group" ] || rest="$rest $g"; done; groups=$rest ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
"""


class _Guard:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._shell: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            if self._shell is None:
                self._start()
            else:
                self._tell("+", group)

    def forget(self, group: int) -> None:
        with self._lock:
            self._groups.discard(group)
            self._tell("-", group)
            if not self._groups:
                self._end()

    def drop(self) -> None:
        shell = self._shell
        self._lock, self._groups, self._shell = threading.Lock(), set(), None  # the old lock may be held for ever
        if shell is not None:
            assert shell.stdin is not None
            shell.stdin.close()
            shell.returncode = 0  # the parent's child: nothing is to be waited for here

    def _start(self) -> None:
        with contextlib.suppress(OSError):  # without /bin/sh children may outlive a SIGKILL of this process
            self._shell = subprocess.Popen(  # noqa: S603  # a constant script
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={},
                start_new_session=True,
            )
        for group in self._groups:
            self._tell("+", group)

    def _tell(self, what: str, group: int) -> None:
        if self._shell is not None:
            assert self._shell.stdin is not None
            try:
                self._shell.stdin.write(f"{what} {group}\n".encode())
            except OSError:  # somebody killed it: the next child gets another one
                self._end()

    def _end(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            assert shell.stdin is not None
            shell.stdin.close()
            shell.wait()


_guard: Final = _Guard()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_guard.drop)


def watch(group: int) -> None:
    """Have this process group killed when this process is gone."""
    _guard.watch(group)


def forget(group: int) -> None:
    """Note that this process group has ended."""
    _guard.forget(group)
