"""The one door to child processes: sealed, bounded, and nothing left behind.

A child gets an absolute binary, constant arguments, an environment built from nothing, an empty private folder and a
session of its own. Prompts travel on its stdin and never as an argument. It ends, with everything in its process group,
when the block that started it is left, when it prints too much or takes too long, and when this process dies:

    leaving the block       TERM to the group, 2 s, KILL to the group, reaped
    the child ends itself   KILL to what it forked, while its own number still cannot be given to another process
    this process is killed  KILL to the group, by the guard (`guard.py`)

A child of the child that starts a session of its own leaves the group and is not followed: no client that runs here
without tools does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrai.errors import PlatformError
from orchestrai.platforms import guard

LARGEST_OUTPUT: Final = 32 * 2**20  # bytes printed in answer to one write; as many as an HTTP reply may have
GRACE_S: Final = 2.0  # seconds between TERM and KILL
PASSED_ON: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "XDG_CONFIG_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
)
"""What a child needs to find itself, the person's login and the network; nothing that names a key or a model."""

_KEPT_ERRORS: Final = 64 * 2**10  # bytes of stderr that are kept: the last ones
_HIGH, _LOW = 2**18, 2**16  # bytes of whole lines that wait to be read; above the first the child has to wait
_REAP_S: Final = 5.0  # seconds that a killed child may take to be gone
_GIB: Final = 2**30


@asynccontextmanager
async def run(
    binary: str,
    arguments: Sequence[str] = (),
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    largest: int = LARGEST_OUTPUT,
    timeout_s: float | None = None,
) -> AsyncIterator[Child]:
    """Start a child and end it, whatever happens, when the block is left; see `start`."""
    child = await start(binary, arguments, env=env, cwd=cwd, largest=largest, timeout_s=timeout_s)
    try:
        yield child
    finally:
        await child.close()


async def start(
    binary: str,
    arguments: Sequence[str] = (),
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    largest: int = LARGEST_OUTPUT,
    timeout_s: float | None = None,
) -> Child:
    """Start a child that lives until `close` is awaited; its input stays open until `end_input`.

    Args:
        binary: Absolute path.
        arguments: Constant ones; what a person or a model wrote goes through `Child.write`.
        env: Its whole environment; see `environment`.
        cwd: Its working folder; None is an empty private one, removed with the child.
        largest: What it may print in answer to one write, stdout and stderr together [bytes].
        timeout_s: Wall clock from here to its end [s]; None for no limit.

    Raises:
        PlatformError: request: an argument cannot be one, or this system has no process groups; connection: the
            binary cannot be started.
    """
    if os.name != "posix":
        raise PlatformError("request", "command-line clients are run on Linux and macOS (on Windows: inside WSL).")
    if not Path(binary).is_absolute():
        raise PlatformError("request", f"{binary!r} is no absolute path.")
    if any("\0" in text for text in (binary, *arguments, *env, *env.values())):
        raise PlatformError("request", "an argument or a variable holds a NUL character, which no process can take.")
    folder = private_folder()
    try:
        popen = subprocess.Popen(  # noqa: S603, ASYNC220  # no shell, an absolute path; vfork takes about a millisecond
            [binary, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd or folder,
            env=dict(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise PlatformError("connection", f"{binary} cannot be started: {why}.") from None
    child = Child(popen, folder, largest)
    try:
        await child._connect(timeout_s)  # noqa: SLF001  # the other half of its construction, which waits
    except BaseException:
        await child.close()
        raise
    return child


def private_folder() -> Path:
    """Return a new empty folder that only this person can open."""
    return Path(tempfile.mkdtemp(prefix="orchestrai-"))


class Child:
    """A running child; made by `run` and `start`, used on the loop that started it, read by one reader at a time."""

    def __init__(self, popen: subprocess.Popen[bytes], folder: Path, largest: int) -> None:
        self.pid = popen.pid
        self.stderr = b""
        self.input_whole = True
        self._popen = popen
        self._folder = folder
        self._largest = largest
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

        A cancellation while it waits makes it kill at once; the reaping goes on in a thread.
        """
        try:
            if self.running:
                self._signal(signal.SIGTERM)
                try:
                    async with asyncio.timeout(GRACE_S):
                        await self._exited.wait()
                except TimeoutError:
                    self._signal(signal.SIGKILL)
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
        while self._open_pipes:
            self._changed.clear()
            await self._changed.wait()

    # Its pipes, on the loop.

    async def _connect(self, timeout_s: float | None) -> None:
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
            self.stderr = (self.stderr + data)[-_KEPT_ERRORS:]
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
        line = bytes(self._lines[:end])
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


# What a child is given.


class Environment(dict[str, str]):
    """The variables of a child; a login token may be among them, so no repr shows a value."""

    def __repr__(self) -> str:
        return f"Environment({', '.join(self)})"


def environment(names: Iterable[str] = (), values: Mapping[str, str] | None = None) -> Environment:
    """Return an environment built from nothing: `PASSED_ON` and `names` where they are set here, then `values`."""
    passed = Environment({name: os.environ[name] for name in (*PASSED_ON, *names) if name in os.environ})
    passed.update(values or {})
    return passed


def find_binary(name: str) -> str | None:
    """Return the absolute path of a program on PATH; entries of PATH that depend on the working folder are ignored."""
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(folder).is_absolute()]
    return shutil.which(name, path=os.pathsep.join(folders)) if folders else None


# Short questions.


@dataclass(frozen=True, slots=True)
class Asked:
    """What a program said in a short run; `code` is None when it could not be started or did not end in time."""

    code: int | None
    stdout: bytes = b""
    stderr: bytes = b""


def ask(
    binary: str,
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float = 3.0,
    largest: int = 2**20,
) -> Asked:
    """Run a program to its end and return what it printed; waits in the calling thread, whether it has a loop or not.

    Args:
        binary: Absolute path.
        arguments: Constant ones.
        env: Its whole environment.
        timeout_s: Wall clock [s].
        largest: What it may print [bytes].
    """
    said: list[Asked] = []

    async def asked() -> Asked:
        try:
            async with run(binary, arguments, env=env, timeout_s=timeout_s, largest=largest) as child:
                child.end_input()
                printed = b"\n".join([line async for line in child.lines()])
                return Asked(await child.exit(), printed, child.stderr)
        except PlatformError as error:
            return Asked(None, stderr=str(error).encode())

    thread = threading.Thread(target=lambda: said.append(asyncio.run(asked())), daemon=True)
    thread.start()
    thread.join()
    return said[0] if said else Asked(None)


def version(binary: str, arguments: Sequence[str] = ("--version",), *, timeout_s: float = 3.0) -> str | None:
    """Return the first version number that a program prints (`2.1.197`), asked once while its file stays the same."""
    try:
        file = Path(binary).stat()
    except OSError:
        return None
    key = (binary, tuple(arguments), file.st_mtime_ns, file.st_size)
    if key not in _versions:
        asked = ask(binary, arguments, env=environment(), timeout_s=timeout_s)
        found = _VERSION.search(asked.stdout.decode("utf-8", "replace"))
        if asked.code is None:
            return None  # too slow just now: asked again the next time
        _versions[key] = found[0] if found else None
    return _versions[key]


_versions: Final[dict[tuple[str, tuple[str, ...], int, int], str | None]] = {}
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+[-+.\w]*")


# How many at once.


def places(free: int | None, each: int, most: int, *, reserve: int = _GIB // 2) -> int:
    """Return how many children fit into the free memory, at least 1 and at most `most`.

    Args:
        free: Free memory [bytes]; None when unknown, which counts as room for two.
        each: What one child takes [bytes].
        most: The most that are useful.
        reserve: What stays free for everything else [bytes].
    """
    fitting = 2 if free is None else (free - reserve) // each
    return max(1, min(most, fitting))


def free_memory() -> int | None:
    """Return the memory that new processes can take without swapping [bytes]; None where nothing tells.

    On Linux the smaller of MemAvailable (proc(5)) and what a container's limit leaves (cgroup v2); elsewhere the free
    pages, or half of the physical ones where not even these are told (macOS).
    """
    told = [value for value in (_available(), _left_in_cgroup()) if value is not None]
    if told:
        return min(told)
    for name, share in (("SC_AVPHYS_PAGES", 1), ("SC_PHYS_PAGES", 2)):
        if name in os.sysconf_names:
            pages = os.sysconf(name)
            if pages > 0:
                return pages * os.sysconf("SC_PAGE_SIZE") // share
    return None


def _available() -> int | None:
    try:
        found = re.search(rb"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_bytes(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _left_in_cgroup() -> int | None:
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_bytes()) for name in ("max", "current"))
    except (OSError, ValueError):  # no cgroup v2, or `max` for no limit
        return None
    return max(0, limit - used)
