"""Ledger: every task, attempt and cent of a person or a project, shared by all processes that work on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orchestrai.errors import LedgerError
from orchestrai.ids import new_id, now_us
from orchestrai.ledger import history, queries
from orchestrai.ledger.answers import RecentAnswers
from orchestrai.ledger.connection import Connect, LedgerFile, connect, explained
from orchestrai.ledger.lock import SignOfLife, is_alive
from orchestrai.ledger.queries import Claim, StoredAnswer
from orchestrai.ledger.recovery import recover
from orchestrai.ledger.writer import Journal

T = TypeVar("T")


class Found(NamedTuple):
    """What the ledger has on some tasks."""

    newest: int
    """Number of the newest answer there was; an opening says it, so that a newer one is noticed."""
    answers: dict[bytes, list[StoredAnswer]]
    """By key, newest first."""
    working: dict[bytes, Claim]
    """By claim."""


class Ledger:
    """One ledger, open in this process.

    Opening it makes it if need be, takes over what dead processes left, and announces this process.

    Args:
        folder: The ledger's own folder.
        lib_version: Recorded with the owner.
        connect: How a connection is made.

    Raises:
        LedgerError: The folder cannot hold a ledger, or the file is damaged or too new.
    """

    def __init__(self, folder: Path, lib_version: str, connect: Connect = connect) -> None:
        self.folder = folder
        self.file = LedgerFile(folder, connect)
        self.owner_id = new_id()
        self._reading = threading.Lock()
        self._answers = RecentAnswers()
        self._readers: ThreadPoolExecutor | None = None
        self.journal: Journal | None = None
        me = (self.owner_id, os.getpid(), socket.gethostname(), now_us(), lib_version)
        with contextlib.ExitStack() as opened:
            opened.callback(self.file.close)
            with explained(self.file.path):
                self._life = SignOfLife(folder / "owners", self.owner_id)
            opened.callback(self._life.close)
            self.file.write(lambda connection: self._announce(connection, me))
            opened.pop_all()  # from here on, `close` closes them

    def attach(self, loop: asyncio.AbstractEventLoop) -> Journal:
        """Return the journal on the engine's loop, made on first use; called on that loop."""
        if self.journal is None:
            self.journal = Journal(self.file, loop, self.owner_id)
        return self.journal

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query from any thread but the engine's."""
        with self._reading:
            return self.file.read(work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a transaction from any thread but the engine's; durable when it returns."""
        return self.file.write(work)

    async def read_soon(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the ledger's reading thread, without holding up the loop."""
        if self._readers is None:
            self._readers = ThreadPoolExecutor(1, thread_name_prefix="orchestrai-reader")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read, work)

    def find_answers(
        self, keys: Sequence[bytes], batch_id: str | None = None, claims: Sequence[bytes] = ()
    ) -> Awaitable[Found]:
        """Look for answers to these keys, and for who works on these claims; without holding up the loop.

        Args:
            keys: Task keys.
            batch_id: Take answers of this batch alone.
            claims: Claims that are looked for too.
        """

        def look(connection: sqlite3.Connection) -> Found:
            # In this order: an answer that comes after the newest was read is noticed when its task is opened.
            sends = self._answers.find(connection, keys)
            newest = self._answers.newest
            return Found(
                newest, queries.stored_answers(connection, sends, batch_id), queries.claims_on(connection, claims)
            )

        return self.read_soon(look)

    async def recover(self) -> int:
        """Take over from owners that died since this ledger was opened; returns the attempts now in doubt."""
        assert self.journal is not None
        owners = self.folder / "owners"
        in_doubt: int = await self.journal.do(lambda connection: recover(connection, owners))
        return in_doubt

    def calls_since(self, since_us: int) -> list[dict[str, Any]]:
        """Return the calls under way in any process, and those begun since a moment [µs]; see `history`."""
        owners = self.folder / "owners"
        return self.read(lambda c: history.calls_since(c, since_us, lambda owner: is_alive(owners, owner)))

    def resumable(self, named: str | None) -> dict[str, Any] | None:
        """Return the batch that a shell could go on with; see `history`."""
        owners = self.folder / "owners"
        return self.read(lambda c: history.resumable(c, named, lambda owner: is_alive(owners, owner)))

    def before_fork(self) -> None:
        """Wait for what is being read or written, so that a child inherits no half of it."""
        self._reading.acquire()
        self.file.lock.pause()

    def after_fork(self) -> None:
        """Go on, in the parent."""
        self.file.lock.resume()
        self._reading.release()

    def forget(self) -> None:
        """Let go, in a forked child, of the connections and locks that are its parent's."""
        self._life.forget()
        self.file.forget()

    def close(self) -> None:
        """End this process's part and let go of the file, once the journal is closed."""
        if self._readers is not None:
            self._readers.shutdown()
        self._life.close()
        with contextlib.suppress(LedgerError):  # on a full disk: the next to open the ledger does the same
            self.file.write(lambda connection: recover(connection, self.folder / "owners"))
        self.file.close()

    def _announce(self, connection: sqlite3.Connection, me: tuple[object, ...]) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO owners (owner_id, pid, host, started_at, lib_version) VALUES (?, ?, ?, ?, ?)", me
        )
        recover(connection, self.folder / "owners")
