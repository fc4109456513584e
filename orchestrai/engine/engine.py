"""What all calls of this process to one ledger share: the journal, the lanes and the rules of retrying."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from orchestrai.engine.lane import Lane
from orchestrai.engine.loop import EngineLoop, engine_loop
from orchestrai.engine.wall_clock import WallClock
from orchestrai.ledger.connection import Connect, connect
from orchestrai.ledger.ledger import Ledger
from orchestrai.ledger.queries import newest_replies
from orchestrai.ledger.writer import Journal
from orchestrai.limits.admission import START, Admission
from orchestrai.limits.allowance import RetryAllowance
from orchestrai.platforms.protocol import Platform
from orchestrai.routing.estimate import Experience, experience

_EXPERIENCE_S: Final = 60.0  # for which what was drawn from replies is taken for the present


class Engine:
    """A ledger with its journal and its lanes, on the engine's loop; one per ledger and process.

    Args:
        folder: The ledger's folder.
        lib_version: Recorded with what is written.
        connect: How a connection to the ledger's file is made.

    Raises:
        LedgerError: The ledger cannot be opened.
    """

    def __init__(self, folder: Path, lib_version: str, connect: Connect = connect) -> None:
        self.loop: EngineLoop = engine_loop()
        self.ledger = Ledger(folder, lib_version, connect)
        self.lib_version = lib_version
        self._lanes: dict[tuple[_Account, str], Lane] = {}
        self._allowances: dict[_Account, RetryAllowance] = {}
        self.clock = WallClock(self.loop.loop)
        self._experience: dict[str, Experience] = {}
        self._experienced = float("-inf")  # loop time at which that was drawn [s]
        inside = self.loop.inside()  # an async function as a platform may make calls of its own
        self.journal = self.ledger.attach(self.loop.loop) if inside else self.loop.submit(self._attach()).result()

    async def _attach(self) -> Journal:
        return self.ledger.attach(asyncio.get_running_loop())

    async def experience(self) -> dict[str, Experience]:
        """Return what the newest replies of each model reported; drawn anew once a minute at the most.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        now = self.loop.loop.time()
        if now - self._experienced > _EXPERIENCE_S:
            self._experience = experience(await self.ledger.read_soon(newest_replies))
            self._experienced = now
        return self._experience

    def lane(self, platform: Platform, model: str) -> Lane:
        """Return the way to a model at this account of the platform, the same for all calls of the process.

        Limits of one model say nothing of another; the retries of a platform are its own, whatever the model.
        """
        account = (platform.name, platform.account, platform.address)
        lane = self._lanes.get((account, model))
        if lane is None:
            told: Mapping[str, float] = getattr(platform, "limits", None) or {}
            admission = Admission(
                START if platform.transport == "api" else platform.concurrency,
                platform.concurrency,
                rpm=told.get("rpm"),
                tpm=told.get("tpm"),
                allowance=self._allowances.setdefault(account, RetryAllowance()),
            )
            lane = self._lanes[(account, model)] = Lane(admission)
        return lane


_Account = tuple[str, str | None, str | None]  # name, account and address of a platform
_open: dict[Path, tuple[Engine, int]] = {}
_opening = threading.Lock()
_in_use: list[tuple[Platform, ...]] = []  # the platforms of each open orchestrator


def open_engine(folder: Path, lib_version: str, connect: Connect = connect) -> Engine:
    """Return the engine of a ledger; every call is paired with one of `close_engine`.

    `connect` counts only where this call is the one that opens the ledger.
    """
    with _opening:
        engine, users = _open.get(folder, (None, 0))
        if engine is None:
            engine = Engine(folder, lib_version, connect)
        _open[folder] = (engine, users + 1)
        return engine


def close_engine(engine: Engine) -> None:
    """Close the ledger once its last user is gone; everything recorded is durable before this returns."""
    with _opening:
        folder = engine.ledger.folder
        known, users = _open.get(folder, (None, 0))
        if known is not engine:
            return
        if users > 1:
            _open[folder] = (engine, users - 1)
            return
        del _open[folder]
    _close(engine)


def close_engines() -> None:
    """Close the ledgers that are left when the process ends, of orchestrators that were forgotten unclosed."""
    with _opening:
        left = [engine for engine, _ in _open.values()]
        _open.clear()
    for engine in left:
        _close(engine)


def take_platforms(platforms: tuple[Platform, ...]) -> None:
    """Note that one more orchestrator uses these platforms."""
    _in_use.append(platforms)


def give_back_platforms(platforms: tuple[Platform, ...]) -> list[Platform]:
    """Note that it uses them no more; return those that nobody uses now, for closing.

    It takes no lock: the garbage collector may call it, in any thread and at any moment.
    """
    _in_use.remove(platforms)
    used = {id(platform) for others in list(_in_use) for platform in others}
    return [platform for platform in platforms if id(platform) not in used]


def _close(engine: Engine) -> None:
    engine.loop.submit(engine.journal.close()).result()
    engine.ledger.close()


def _before_fork() -> None:
    _opening.acquire()
    for engine, _ in _open.values():
        engine.ledger.before_fork()


def _after_fork() -> None:
    for engine, _ in _open.values():
        engine.ledger.after_fork()
    _opening.release()


def _forget() -> None:
    global _opening  # noqa: PLW0603 - a child begins without its parent's engines
    for engine, _ in _open.values():
        engine.ledger.forget()
    _open.clear()
    _in_use.clear()
    _opening = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget)
