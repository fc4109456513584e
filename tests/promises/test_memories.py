"""Memories: what `add` returned for is there for every process, found by search, and survives every kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import Child, Nursery, scaled, seeded

from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.memory.store import MemoryStore

pytestmark = pytest.mark.promise

SEAL_AT = 60


class Reader:
    """A kernel that reads what others write: its store stays open all the time."""

    def __init__(self, ledger: Path) -> None:
        self._engine = open_engine(ledger, "test")
        self._store: MemoryStore = self._engine.loop.submit(self._made()).result()

    async def _made(self) -> MemoryStore:
        return MemoryStore(self._engine.ledger, {"embedding": "hashed"}, SEAL_AT)

    def has(self, memory_id: str, text: str) -> bool:
        """Return True when the memory is there, whole, and found by its text before all others."""
        return bool(self._engine.loop.submit(self._has(memory_id, text)).result())

    async def _has(self, memory_id: str, text: str) -> bool:
        if (await self._store.get(memory_id)).text != text:
            return False
        matches, problems = await self._store.search(text, 1, None)
        assert problems == []
        return [match.memory.id for match in matches] == [memory_id]

    def texts(self) -> set[str]:
        """Return all that a search finds."""

        async def found() -> set[str]:
            return {match.memory.text for match in (await self._store.search("found out", 100_000, None))[0]}

        return self._engine.loop.submit(found()).result()

    def settle(self) -> list[tuple[int, int]]:
        """Wait for the sealing that a search began, and return the spans of the sealed parts."""
        self._engine.loop.submit(self._store.settled()).result()
        rows = self._engine.ledger.read(
            lambda c: c.execute("SELECT first_seq, last_seq FROM segments ORDER BY 1").fetchall()
        )
        return [(first, last) for first, last in rows]

    def close(self) -> None:
        self._engine.loop.submit(self._store.close()).result()
        close_engine(self._engine)


@contextmanager
def reading(ledger: Path) -> Iterator[Reader]:
    reader = Reader(ledger)
    try:
        yield reader
    finally:
        reader.close()


def start(nursery: Nursery, folder: Path, writer: int, count: int, *, early: bool = False) -> Child:
    folder.mkdir(exist_ok=True)
    job: dict[str, Any] = {"writer": writer, "count": count, "early": early, "seal_at": SEAL_AT, "search_every": 10}
    return nursery.start("remember", ledger=str(folder / "ledger"), acks=str(folder / "acks"), **job)


def acknowledged(folder: Path) -> dict[str, str]:
    """Return what writers were told is kept: text → id."""
    path = folder / "acks"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {text: memory_id for memory_id, text in map(json.loads, lines)}


def test_a_reader_sees_every_memory_the_moment_it_is_committed(tmp_path, nursery):
    """Two processes add and seal; a third, whose store was open before, gets and finds each as soon as it is told."""
    count = scaled(500, 60)
    with reading(tmp_path / "ledger") as reader:
        assert reader.texts() == set()
        writers = [start(nursery, tmp_path, writer, count) for writer in range(2)]
        seen: set[str] = set()
        until = time.monotonic() + 240
        while len(seen) < 2 * count and time.monotonic() < until:
            for text, memory_id in acknowledged(tmp_path).items():
                if text not in seen:
                    assert reader.has(memory_id, text), text
                    seen.add(text)
        assert [writer.wait(120) for writer in writers] == [0, 0]
        assert len(seen) == 2 * count
        assert reader.texts() == seen
        spans = reader.settle()
        print(f"{len(seen)} memories seen at once, {len(spans)} sealed parts")
        assert spans
        assert spans[0][0] == 1


@pytest.mark.timeout(1800)  # each writer that is started loads Chroma
def test_no_kill_loses_a_memory_or_breaks_the_index(tmp_path, nursery):
    """Two writers that also seal are killed at random moments, again and again; then all is there, and once."""
    chance = seeded()
    kept = 0
    for turn in range(scaled(20, 5)):
        writers = [start(nursery, tmp_path, 10 * turn + writer, 100_000) for writer in range(2)]
        before = len(acknowledged(tmp_path))
        until = time.monotonic() + 60
        while len(acknowledged(tmp_path)) < before + 60 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        for writer in writers:
            writer.kill()
        assert [writer.wait() for writer in writers] == [-signal.SIGKILL] * 2
        told = acknowledged(tmp_path)
        kept = len(told)
        with reading(tmp_path / "ledger") as reader:
            found = reader.texts()
            assert told.keys() <= found
            assert len(found) <= kept + 2 * (turn + 1)  # what was committed, and not yet told, is no mistake
            for text in chance.sample(sorted(told), 10):
                assert reader.has(told[text], text)
            spans = reader.settle()
            assert all(a[1] < b[0] for a, b in pairwise(spans))
            reader.texts()
            reader.settle()
    print(f"{kept} memories through {scaled(20, 5)} rounds of two kills, {len(spans)} sealed parts")


def test_control_a_writer_that_says_so_too_early_is_found_out(tmp_path, nursery):
    """The same kills and the same comparison, with writers that note a memory before it is kept."""
    lost = 0
    for turn in range(12):
        writers = [start(nursery, tmp_path, 10 * turn + writer, 100_000, early=True) for writer in range(2)]
        before = len(acknowledged(tmp_path))
        until = time.monotonic() + 60
        while len(acknowledged(tmp_path)) < before + 30 and time.monotonic() < until:
            time.sleep(0.01)
        for writer in writers:
            writer.kill()
            writer.wait()
        with reading(tmp_path / "ledger") as reader:
            lost = len(acknowledged(tmp_path).keys() - reader.texts())
        if lost:
            break
    assert lost > 0


CHROMA = """
import sys
import chromadb
from chromadb.config import Settings
client = chromadb.PersistentClient(sys.argv[1], Settings(anonymized_telemetry=False))
rows = client.get_or_create_collection("rows", embedding_function=None)
start, count = int(sys.argv[2]), int(sys.argv[3])
rows.add(ids=[str(i) for i in range(start, start + count)], embeddings=[[float(i), 1.0] for i in range(start, start + count)])
"""


def test_control_chroma_by_itself_does_not_see_what_another_process_adds(tmp_path):
    """The same law, asked of a Chroma collection that two processes share: its own search misses what was added."""

    def add(first: int, count: int) -> None:
        command = [sys.executable, "-W", "ignore", "-c", CHROMA, str(tmp_path), str(first), str(count)]
        subprocess.run(command, check=True, timeout=120, env={**os.environ, "PYTHONWARNINGS": "ignore"})

    add(0, 5)
    script = f"""
import sys, subprocess
sys.argv = ["", {str(tmp_path)!r}, "0", "0"]
import chromadb
from chromadb.config import Settings
rows = chromadb.PersistentClient(sys.argv[1], Settings(anonymized_telemetry=False)).get_collection("rows", embedding_function=None)
before = len(rows.query(query_embeddings=[[1.0, 1.0]], n_results=100)["ids"][0])
subprocess.run([sys.executable, "-W", "ignore", "-c", {CHROMA!r}, sys.argv[1], "5", "100"], check=True)
print(before, rows.count(), len(rows.query(query_embeddings=[[1.0, 1.0]], n_results=105)["ids"][0]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], check=True, timeout=240, capture_output=True, text=True
    )
    before, there, found = map(int, done.stdout.split())
    assert (before, there) == (5, 105)
    assert found < there
    print(f"Chroma's own search: {found} of {there}")
