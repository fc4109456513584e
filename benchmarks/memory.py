"""What a memory costs and what a search finds, beside Chroma used directly.

    apt install manpages manpages-dev              the retrieval set; most Debian and Ubuntu machines have it
    pip install "orchestrai[memory]"               adds the learned embedding
    python benchmarks/memory.py                    everything; each client in a fresh process
    python benchmarks/memory.py --quick            300 pages

The set: the manual pages of the Debian packages `manpages` and `manpages-dev` (about 1,100 texts of 6 MB). A query is the
one-line description of a page (what `whatis` prints), which is taken out of the text; right is that page alone. Recall@5 is the
share of queries whose page is among the first five. `few words shared` is the same for the queries of which at most half of
the words stand in their page.

Chroma is used as its documentation shows: a persistent collection, one text a document, the vectors given, as its own default
would download a model. It gets the vectors of the same embeddings as we use, of whole texts; `in pieces` gives it what
we do: the pieces of each text, best piece counts.

Two laws at the end, as counts: how many of 2,000 notes of one form a search returns when asked for all, and how many of 100
documents that another process added are returned by a process that had the store open.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrai import Orchestrator
from orchestrai.engine.loop import Errand
from orchestrai.memory import embedding
from orchestrai.memory.chunks import spans
from orchestrai.memory.hashed import _STOP_WORDS

_FONTS = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\[&|^/,cd]|\\\*\(..|\\s[-+]?\d")
_REQUESTS = re.compile(r"[.']\s*([A-Za-z]+)\s*(.*)")
_LAYOUT = {"nf", "fi", "in", "PD", "ie", "el", "if", "de", "ad", "na", "nh", "hy", "RS", "RE", "sp", "ne", "ft", "ds"}


@dataclass(frozen=True)
class Page:
    name: str
    query: str
    text: str


def manual_pages() -> list[Page]:
    listed = subprocess.run(["dpkg", "-L", "manpages", "manpages-dev"], capture_output=True, text=True, check=False)
    if listed.returncode:
        sys.exit("The retrieval set is not here: apt install manpages manpages-dev")
    pages = []
    for path in map(Path, listed.stdout.split()):
        if path.suffix == ".gz" and path.parent.name.startswith("man") and not path.is_symlink() and path.exists():
            source = gzip.decompress(path.read_bytes()).decode("utf-8")
            if not source.startswith(".so ") and (page := page_of(path.stem, source)) is not None:
                pages.append(page)
    return pages


def page_of(name: str, source: str) -> Page | None:
    """Return a page without its markup and without its NAME section, which has the description."""
    section, head, body = "", [], []
    for line in source.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".TH")):
            continue
        if line.startswith(".SH"):
            section = plain(line[3:]).strip().strip('"')
        request = _REQUESTS.match(line)
        said = ("" if request[1] in _LAYOUT else request[2].replace('"', "")) if request else line
        if plain(said).strip() and not line.startswith(".SH NAME"):
            (head if section == "NAME" else body).append(plain(said))
    _, dash, query = " ".join(head).partition(" - ")
    return Page(name, query.strip(), "\n".join(body)) if dash else None


def plain(line: str) -> str:
    for mark, meant in (("\\-", "-"), ("\\e", "\\"), ("\\(aq", "'"), ("\\(dq", '"'), ("\\[aq]", "'"), ("\\ ", " ")):
        line = line.replace(mark, meant)
    return _FONTS.sub("", line)


# The clients. Each adds, gets and searches texts by name; `settle` ends what goes on in the background.


class Ours:
    def __init__(self, folder: Path, kind: str) -> None:
        self._orch = Orchestrator(folder, platforms=[], settings={"memory": {"embedding": kind}})
        self._ids: dict[str, str] = {}

    async def add(self, name: str, text: str) -> None:
        self._ids[name] = await self._orch.memory.add(text, metadata={"name": name})

    async def get(self, name: str) -> str:
        return (await self._orch.memory.get(self._ids[name])).text

    async def search(self, query: str, limit: int) -> list[str]:
        return [match.memory.metadata["name"] for match in await self._orch.memory.search(query, limit=limit)]

    async def settle(self) -> None:
        await self._orch.memory.search("anything")
        await Errand(self._orch._opened().loop, self._orch.memory.stores[0].settled()).wait()

    def close(self) -> None:
        self._orch.close()


class Chroma:
    def __init__(self, folder: Path, kind: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import chromadb
            from chromadb.config import Settings

        kind, _, self._pieces = kind.partition(" ")
        client = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
        space: Any = {"hnsw": {"space": "cosine"}}
        self._rows = client.get_or_create_collection("pages", embedding_function=None, configuration=space)
        self._embedding = asyncio.run(embedding.load({"embedding": kind}, ThreadPoolExecutor(1)))

    async def add(self, name: str, text: str) -> None:
        parts = [text[a:b] for a, b in spans(text)] if self._pieces else [text]
        ids = [f"{name}#{i}" for i in range(len(parts))]
        self._rows.add(ids=ids, documents=parts, embeddings=await self._embedding(parts))

    async def get(self, name: str) -> str:
        return self._rows.get(ids=[f"{name}#0"])["documents"][0]

    async def search(self, query: str, limit: int) -> list[str]:
        most = 10 * limit if self._pieces else limit
        found = self._rows.query(query_embeddings=await self._embedding([query]), n_results=most)["ids"][0]
        return list(dict.fromkeys(name.partition("#")[0] for name in found))[:limit]

    async def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


CLIENTS: dict[str, Callable[[Path], Any]] = {
    "orchestrai, hashed": lambda folder: Ours(folder, "hashed"),
    "orchestrai, wordllama": lambda folder: Ours(folder, "wordllama"),
    "Chroma, hashed": lambda folder: Chroma(folder, "hashed"),
    "Chroma, wordllama": lambda folder: Chroma(folder, "wordllama"),
    "Chroma, wordllama, in pieces": lambda folder: Chroma(folder, "wordllama pieces"),
}


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    asyncio.run(work())
    return (time.perf_counter() - began) * 1000


def measure(client: str, folder: Path, most: int) -> dict[str, float]:
    pages = manual_pages()[:most]
    store = CLIENTS[client](folder)
    first = timed(lambda: store.search("anything", 1)) if "Chroma" not in client else 0.0  # what is loaded once
    add = [timed(lambda page=page: store.add(page.name, page.text)) for page in pages]
    index = timed(store.settle)
    get = [timed(lambda page=page: store.get(page.name)) for page in pages]
    ranks, search = [], []
    for page in pages:
        began = time.perf_counter()
        found = asyncio.run(store.search(page.query, 5))
        search.append((time.perf_counter() - began) * 1000)
        ranks.append(page.name in found)
    few = [hit for hit, page in zip(ranks, pages, strict=True) if shares_few(page)]
    store.close()
    return {
        "load": first,
        "add": statistics.median(add),
        "index": index / len(pages),
        "get": statistics.median(get),
        "search": statistics.median(search),
        "recall": statistics.mean(ranks),
        "few": statistics.mean(few),
        "queries": len(few),
        "mib": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20,
    }


def shares_few(page: Page) -> bool:
    words = [{w for w in re.findall(r"\w+", text.lower()) if w not in _STOP_WORDS} for text in (page.query, page.text)]
    return len(words[0] & words[1]) <= len(words[0]) / 2


def of_one_form(client: str, folder: Path) -> int:
    """Return how many of 2,000 notes a search for all of them returns."""
    store = CLIENTS[client](folder)

    async def fill() -> None:
        if isinstance(store, Chroma):
            texts = [note(i) for i in range(2000)]
            store._rows.add(ids=[f"{i}#0" for i in range(2000)], embeddings=await store._embedding(texts))
        else:
            await asyncio.gather(*(store.add(str(i), note(i)) for i in range(2000)))

    asyncio.run(fill())
    asyncio.run(store.settle())
    found = asyncio.run(store.search("what was found out", 2000))
    store.close()
    return len(found)


def from_another_process(client: str, folder: Path) -> int:
    """Return how many of 100 notes that another process added a search returns."""
    store = CLIENTS[client](folder)
    for i in range(5):
        asyncio.run(store.add(f"own {i}", note(i)))
    asyncio.run(store.search("what was found out", 5))
    subprocess.run([sys.executable, __file__, "--child", "adds", client, str(folder), "0"], check=True)
    found = asyncio.run(store.search("what was found out", 105))
    store.close()
    return sum(not name.startswith("own") for name in found)


def adds(client: str, folder: Path) -> None:
    store = CLIENTS[client](folder)
    for i in range(100):
        asyncio.run(store.add(f"other {i}", note(i + 1000)))
    store.close()


def note(i: int) -> str:
    return f"Memory number {i} of writer {i % 3}: what was found out."


# The tables.


def in_child(what: str, client: str, most: int = 0) -> Any:
    folder = Path(tempfile.mkdtemp())
    try:
        command = [sys.executable, __file__, "--child", what, client, str(folder), str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{client}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(clients: Sequence[str], most: int) -> None:
    print("| | add ms | sealing ms a page | get ms | search ms | recall@5 | few words shared | MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for client in clients:
        got = in_child("measure", client, most)
        print(
            f"| {client} | {got['add']:.2f} | {got['index']:.1f} | {got['get']:.2f} | {got['search']:.2f} | "
            f"{got['recall']:.3f} | {got['few']:.3f} of {got['queries']:.0f} | {got['mib']:.0f} |",
            flush=True,
        )
    print("\n| | 2,000 notes of one form: returned | 100 notes of another process: returned |\n|---|---|---|")
    for client in clients:
        if "pieces" not in client:
            print(f"| {client} | {in_child('form', client)} | {in_child('other', client)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 pages")
    parser.add_argument("--child", nargs=4, metavar=("WHAT", "CLIENT", "FOLDER", "MOST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, client, folder, most = options.child
        work = {"form": of_one_form, "other": from_another_process, "adds": adds}.get(what)
        print(json.dumps(work(client, Path(folder)) if work else measure(client, Path(folder), int(most))))
        return
    clients = [name for name in CLIENTS if "wordllama" not in name or _learned()]
    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    compare(clients, 300 if options.quick else 10_000)


def _learned() -> bool:
    import importlib.util

    return importlib.util.find_spec("wordllama") is not None


if __name__ == "__main__":
    main()
