"""The one door to child processes: sealed, bounded, and nothing left behind.

A child gets an absolute binary, constant arguments, an environment built from nothing, an empty private folder and a
session of its own. Prompts travel on its stdin and never as an argument. It ends, with everything in its process group,
when the block that started it is left, when it prints too much or takes too long, and when this process dies (`child.py`,
`guard.py`).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrai.errors import PlatformError
from orchestrai.platforms.child import Child

__all__ = [
    "IS_POSIX",
    "LARGEST_OUTPUT",
    "NOT_POSIX",
    "PASSED_ON",
    "Asked",
    "Child",
    "Environment",
    "ask",
    "environment",
    "find_binary",
    "free_memory",
    "places",
    "private_folder",
    "run",
    "start",
    "version",
]

LARGEST_OUTPUT: Final = 32 * 2**20  # bytes printed in answer to one write; as many as an HTTP reply may have
IS_POSIX: Final = os.name == "posix"
NOT_POSIX: Final = "command-line clients are run on Linux and macOS (on Windows: inside WSL)"
PASSED_ON: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "XDG_CONFIG_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"),
)
"""What a child needs to find itself, the person's login and the network; nothing that names a key or a model."""

_NAMES_A_KEY: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|AUTH|HEADERS", re.IGNORECASE)  # a variable that holds one
_SHORTEST_KEY: Final = 8  # characters; shorter values of such variables are numbers of tokens
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
    if not IS_POSIX:
        raise PlatformError("request", f"{NOT_POSIX}.")
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
    child = Child(popen, folder, largest, _redactor(env))
    try:
        await child.connect(timeout_s)
    except BaseException:
        await child.close()
        raise
    return child


def private_folder() -> Path:
    """Return a new empty folder that only this person can open."""
    return Path(tempfile.mkdtemp(prefix="orchestrai-"))


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


def _redactor(env: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """Return what takes the keys of an environment out of what is printed; a closure, so that nothing shows them."""
    keys = [
        os.fsencode(value) for name, value in env.items() if len(value) >= _SHORTEST_KEY and _NAMES_A_KEY.search(name)
    ]

    def redacted(text: bytes) -> bytes:
        for key in keys:
            text = text.replace(key, b"[key]")
        return text

    return redacted


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
