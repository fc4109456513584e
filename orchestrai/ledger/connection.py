"""The one door to the ledger's file: where it may lie, how it is opened, and what guards every write.

Three dangers shape this module (measured; docs/explanation/durability.md):

- Any other SQLite library, or a plain `open()`, that closes the file inside this process drops its locks, after
  which another process may delete the write-ahead log under our hands and later commits vanish without an error.
  So the log's inode is compared before and after every commit, and a batch of rows whose log was exchanged is
  written again, unless it is there already.
- A checkpoint that starts while another connection commits can corrupt the log in many released versions of
  SQLite. So nothing checkpoints by itself, and every write, checkpoint and close holds the write lock.
- A read transaction that is held open keeps the log growing. So reads are short and never cross an await.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from orchestrai.errors import LedgerDamaged, LedgerError, LedgerTooNew, LedgerUnusable
from orchestrai.ledger.lock import WriteLock
from orchestrai.ledger.schema import APPLICATION_ID, SCHEMA_VERSION, migrate

T = TypeVar("T")
Connect = Callable[[str], sqlite3.Connection]

CHECKPOINT_AT: Final = 32 * 1024 * 1024  # size of the write-ahead log that triggers a checkpoint [bytes]
_WAIT: Final = "PRAGMA busy_timeout = 30000"  # for a foreign writer [ms]; our own take turns by the write lock
_REPLAYS: Final = 20  # exchanged logs in a row before we stop believing in the file
_NETWORK: Final = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "9p",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "beegfs",
        "davfs",
        "ncpfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.gcsfuse",
    ]
)


def connect(path: str) -> sqlite3.Connection:
    """Return a plain connection in autocommit mode that may be handed between threads."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)


class LedgerFile:
    """A ledger's file, opened and checked; `write` and `read` are the only ways in.

    Args:
        folder: The ledger's own folder; made with mode 0700 if it does not exist.
        connect: How a connection is made (tests put faults in here).

    Raises:
        LedgerUnusable: The folder cannot hold a ledger; the message says why and what to do.
        LedgerTooNew: A newer version of the library wrote it.
        LedgerDamaged: The file is no ledger, or is cut. It was not changed.
    """

    def __init__(self, folder: Path, connect: Connect = connect) -> None:
        self.path = folder / "ledger.db"
        self._wal = f"{self.path}-wal"
        self._connect = connect
        _prepare(folder)
        with explained(self.path):
            self.lock = WriteLock(folder / "ledger.db.lock")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._writer_inode: int | None = None
        self._reader_inode: int | None = None
        try:
            with self.lock, explained(self.path):
                if self.path.exists():
                    _check(self.path, connect)
                else:
                    _create(self.path, connect)
        except BaseException:  # whatever it was, it goes on, and a file that is not opened keeps no lock
            self.lock.close()
            raise

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one transaction and return its value once it is durable.

        `work` may run more than once (after an exchanged log), so it must be idempotent.

        Raises:
            LedgerError: It could not be made durable; nothing of it was kept.
        """
        with self.lock, explained(self.path):
            for _ in range(_REPLAYS):
                connection = self._writing()
                connection.execute("BEGIN IMMEDIATE")
                began, _ = _log(self._wal)
                self._writer_inode = began
                try:
                    value = work(connection)
                    connection.execute("COMMIT")
                except BaseException:  # whatever it was, it goes on, and nothing of it is kept
                    if connection.in_transaction:  # the error may itself have ended it (disk full does)
                        connection.execute("ROLLBACK")
                    raise
                inode, size = _log(self._wal)
                if inode == began:
                    if size > CHECKPOINT_AT:
                        # What was committed is durable: a checkpoint without room on the disk takes nothing of it back.
                        with contextlib.suppress(OSError, sqlite3.OperationalError):
                            _checkpoint(connection)
                    return value
        raise LedgerDamaged(
            f"{self.path}: another program keeps replacing the ledger's log. Close programs that open this file "
            "other than through orchestrai."
        )

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on a reading connection; for one thread at a time, never across an await."""
        with explained(self.path):
            inode = _log(self._wal)[0]
            if self._reader is not None and inode != self._reader_inode:
                with self.lock:
                    self._reader.close()
                self._reader = None
            if self._reader is None:
                self._reader = self._connect(str(self.path))
                self._reader.execute("PRAGMA query_only = 1")
                self._reader.execute("SELECT 1 FROM owners LIMIT 1").fetchall()  # maps the log
                inode = _log(self._wal)[0]
            self._reader_inode = inode
            return work(self._reader)

    def fold(self) -> None:
        """Fold the log into the file as far as readers allow, so that what was overwritten is not in the log either."""
        with self.lock, explained(self.path):
            _checkpoint(self._writing())

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self.lock:
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error):
                    _checkpoint(self._writer)
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None
        self.lock.close()

    def forget(self) -> None:
        """Let go of the file in a forked child, where nothing was being read or written.

        SQLite counts its locks for each process and file in memory that a child inherits, though it inherits none of
        the locks: a connection opened beside these would believe to hold them. Closing them here leaves the log
        alone, because the parent's own lock tells SQLite that somebody else is working with it.
        """
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None
        self.lock.close()

    def _writing(self) -> sqlite3.Connection:
        """Return the writing connection, reopened when its log is no longer the file's log."""
        if self._writer is not None and _log(self._wal)[0] != self._writer_inode:
            # Close first: two connections to different logs of one file end in disk I/O errors.
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = self._connect(str(self.path))
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.execute("PRAGMA wal_autocheckpoint = 0")
            self._writer.execute(_WAIT)
        return self._writer


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Fold the log into the file as far as readers allow, without waiting for them: a later commit tries again.

    A reader may be anybody's open cursor, and whoever waits here holds up every process that writes.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(_WAIT)


def network_filesystem(path: Path, mounts: str) -> str | None:
    """Return the type of the network file system that holds `path`, or None.

    Args:
        path: An absolute path without symbolic links.
        mounts: Text in the form of /proc/self/mountinfo (proc(5)): field 5 is the mount point, and the first
            field after the lone dash the type.
    """
    longest, found = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if "-" not in fields or len(fields) < 7:
            continue
        point = fields[4].encode().decode("unicode_escape")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= longest:
            longest, found = len(point), fields[fields.index("-") + 1]
    return found if found in _NETWORK else None


def _prepare(folder: Path) -> None:
    """Make the folder private, and refuse places where a ledger would not be safe."""
    if folder.is_symlink() or (folder / "ledger.db").is_symlink():
        raise LedgerUnusable(f"{folder}: the ledger or its folder is a symbolic link. Name the real folder instead.")
    try:
        # The parents too are private where they are made here, as the XDG Base Directory Specification asks.
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        if sys.platform != "win32":
            folder.chmod(0o700)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise LedgerUnusable(
            f"{folder}: cannot keep a ledger here ({error.strerror or error}). Name a folder you may write to: "
            'Orchestrator(project="…"), or the setting data_dir (ORCHESTRAI_DATA_DIR).'
        ) from error
    with contextlib.suppress(OSError):  # no such file outside Linux
        kind = network_filesystem(folder.resolve(), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        if kind:
            raise LedgerUnusable(
                f"{folder}: lies on a network file system ({kind}), where SQLite's log is not safe. Set data_dir "
                "(ORCHESTRAI_DATA_DIR) to a local disk."
            )


def _create(path: Path, connect: Connect) -> None:
    """Make a ledger beside its final place, so that a half-made one is never found there."""
    fresh = path.with_suffix(".new")
    for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
        leftover.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    connection = connect(str(fresh))
    try:
        # Rows are small and a commit writes whole pages: half the usual page is half the bytes on the disk.
        connection.execute("PRAGMA page_size = 2048")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, 0)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()
    fresh.replace(path)
    if sys.platform != "win32":
        fd = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(fd)  # the name is durable too
        finally:
            os.close(fd)


def _check(path: Path, connect: Connect) -> None:
    """Refuse what is no ledger of ours, is cut or is too new, without changing it; bring an older one up."""
    size = path.stat().st_size
    if size == 0:
        raise LedgerDamaged(f"{path}: the ledger is empty. {_RESTORE}")
    log = Path(f"{path}-wal")
    logged = log.exists() and log.stat().st_size > 0
    connection = connect(str(path))
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        if application != APPLICATION_ID:
            raise LedgerDamaged(f"{path}: this SQLite file is no ledger of orchestrai. {_RESTORE}")
        if version > SCHEMA_VERSION:
            raise LedgerTooNew(
                f"{path}: written by a newer version (ledger version {version}, this library knows "
                f"{SCHEMA_VERSION}). Upgrade orchestrai, or name another folder."
            )
        if not logged and size < pages * page_size:
            raise LedgerDamaged(f"{path}: {size:,} of {pages * page_size:,} bytes are there. {_RESTORE}")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        migrate(connection, version)
    finally:
        connection.close()


_FULL: Final = "the disk is full. Make room; nothing that was recorded is lost."
_RESTORE: Final = "Move it away to start a new one, or put a backup in its place. It was not changed."


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the system into ours, which say what to do."""
    try:
        yield
    except OSError as error:
        why = _FULL if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror or error})."
        raise LedgerUnusable(f"{path}: {why}") from error
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text or ("I/O" in text and _is_full(path)):
            raise LedgerUnusable(f"{path}: {_FULL}") from error
        if "readonly" in text or "unable to open" in text:
            raise LedgerUnusable(f"{path}: cannot be written ({text}). Check its permissions.") from error
        raise LedgerError(f"{path}: {text}") from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # a statement of ours is wrong, not the file
            raise LedgerError(f"{path}: {type(error).__name__}: {error}") from error
        raise LedgerDamaged(f"{path}: {error}. {_RESTORE}") from error


def _is_full(path: Path) -> bool:
    """Return True where SQLite's index of the log, which grows by 32 KiB, has no room: told as an I/O error."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path.parent).free < 64 * 1024
    return False


def _log(path: str) -> tuple[int | None, int]:
    """Return the inode and the size [bytes] of the log; without a log there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - on the path of every commit
    except FileNotFoundError:
        return None, 0
    return found.st_ino, found.st_size
