"""The search index is never the truth: whatever becomes of it, a search sees every memory and nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest
from loopback import finished
from remembering import SEAL_AT, kept, notes

from orchestrai.ledger import memories
from orchestrai.ledger.memories import digest_of
from orchestrai.memory import segment as segment_module
from orchestrai.memory.segment import Segment, SegmentDamaged, SegmentMaker
from orchestrai.memory.vectors import Piece


async def sees_all(opened, ids):
    """Every memory is among what is found, and nothing else is."""
    assert sorted(await opened.found("a note", limit=len(ids) + 10)) == sorted(ids)


async def test_a_long_tail_is_sealed_and_the_parts_stay_few(tmp_path):
    async with kept(tmp_path) as opened:
        ids = []
        spans = []
        for i in range(12):
            ids += await opened.add(*notes(SEAL_AT, start=i * SEAL_AT))
            spans.append(await opened.sealed())
            await sees_all(opened, ids)
        assert spans[0] == [(1, SEAL_AT)]
        assert spans[1] == [(1, 2 * SEAL_AT)]  # it absorbed the first
        assert max(map(len, spans)) <= 3
        for found in spans:
            assert all(a[1] + 1 == b[0] for a, b in pairwise(found))
        assert len(opened.parts()) - len(spans[-1]) <= 3  # what was absorbed is removed at the next sealing


async def test_texts_of_one_form_are_all_found(tmp_path):
    """Control: the graph of a Chroma collection of the same vectors does not lead to all of them."""
    texts = [f"Memory number {i} of writer {i % 3}: what was found out." for i in range(700)]
    async with kept(tmp_path) as opened:
        ids = await opened.add(*texts)
        assert await opened.sealed() == [(1, 700)]
        for i in range(0, 700, 25):
            assert (await opened.found(texts[i], limit=1)) == [ids[i]]
        row = opened.engine.ledger.read(lambda c: c.execute("SELECT chunks, reached FROM segments").fetchone())
        assert row[0] == 700
        assert row[1] < 700


async def test_what_another_process_adds_and_seals_is_seen_at_once(tmp_path):
    script = """
        import asyncio, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from remembering import kept, notes

        async def main():
            async with kept(Path(sys.argv[1])) as opened:
                await opened.add(*notes(60, of="stone", start=1000))
                print(await opened.sealed())

        asyncio.run(main())
    """
    async with kept(tmp_path) as opened:
        await opened.add(*notes(30))
        await opened.sealed()
        spans = await asyncio.to_thread(finished, script, tmp_path, Path(__file__).parent)
        assert spans.strip() == "[(1, 90)]"
        assert len(await opened.found("a note", limit=200)) == 90
        assert len(await opened.found("stone", limit=60)) == 60


async def test_an_index_that_was_deleted_is_made_again(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(50))
        await opened.sealed()
    shutil.rmtree(tmp_path / "memory")
    async with kept(tmp_path) as opened:
        await sees_all(opened, ids)
        assert await opened.sealed() == [(1, 50)]
        assert len(opened.parts()) == 1


async def test_an_index_that_is_deleted_under_a_running_process_is_no_loss(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(50))
        await opened.sealed()
        shutil.rmtree(tmp_path / "memory")
        await sees_all(opened, ids)
        ids += await opened.add(*notes(SEAL_AT, start=50))
        await opened.sealed()
        await sees_all(opened, ids)


def cut(part):
    (file,) = part.rglob("data_level0.bin")
    file.write_bytes(file.read_bytes()[:-100])


def alter(part):
    (file,) = part.rglob("data_level0.bin")
    file.write_bytes(bytes(reversed(file.read_bytes())))


def lose_a_file(part):
    (file,) = part.rglob("header.bin")
    file.unlink()


def lose_the_database(part):
    (part / "chroma.sqlite3").unlink()


def break_the_database(part):
    (part / "chroma.sqlite3").write_bytes(b"no database" * 1000)


def lose_a_row(part):
    connection = sqlite3.connect(part / "chroma.sqlite3")
    connection.execute("DELETE FROM embeddings WHERE id = (SELECT max(id) FROM embeddings)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [cut, alter, lose_a_file, lose_the_database, break_the_database, lose_a_row])
async def test_a_damaged_part_is_noticed_and_made_again(tmp_path, damage):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(50))
        await opened.sealed()
    (part,) = [path for path in (tmp_path / "memory").iterdir() if path.is_dir()]
    damage(part)
    async with kept(tmp_path) as opened:
        await sees_all(opened, ids)
        assert await opened.sealed() == [(1, 50)]
        assert part not in opened.parts() or len(opened.parts()) == 2
        await sees_all(opened, ids)


async def test_a_gap_between_parts_is_filled(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(100))
        await opened.sealed()
        ids += await opened.add(*notes(40, start=100))
        await opened.sealed()
        ids += await opened.add(*notes(41, start=140))
        await opened.sealed()
        spans = opened.spans()
        assert spans == [(1, 100), (101, 181)]
        ids += await opened.add(*notes(10, start=181))
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.execute("DELETE FROM segments WHERE first_seq = 1")
    connection.commit()
    connection.close()
    async with kept(tmp_path) as opened:
        await sees_all(opened, ids)
        assert await opened.sealed() == [(1, 100), (101, 181)]
        await sees_all(opened, ids)


async def test_each_embedding_has_an_index_of_its_own(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(50))
        await opened.sealed()
    async with kept(tmp_path, "vowels:count") as opened:
        await sees_all(opened, ids)
        assert await opened.sealed() == [(1, 50)] * 2
        await sees_all(opened, ids)
    async with kept(tmp_path) as opened:
        await sees_all(opened, ids)
        assert len(opened.parts()) == 2


async def test_what_is_deleted_leaves_the_parts_that_are_made_after(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(SEAL_AT))
        await opened.sealed()
        for gone in ids[:10]:
            await opened.delete(gone)
        await sees_all(opened, ids[10:])
        assert len(await opened.found("a note", limit=3)) == 3  # what is deleted takes nobody's place
        ids += await opened.add(*notes(SEAL_AT, start=SEAL_AT))
        assert await opened.sealed() == [(1, 2 * SEAL_AT)]
        await sees_all(opened, ids[10:])
        (chunks,) = opened.engine.ledger.read(lambda c: c.execute("SELECT chunks FROM segments").fetchone())
        assert chunks == 2 * SEAL_AT - 10


async def test_what_is_committed_while_the_ledger_is_looked_at_is_not_sealed_over(tmp_path, monkeypatch):
    async with kept(tmp_path) as opened:
        await opened.add(*notes(SEAL_AT))
        path = str(tmp_path / "ledger.db")

        def committing_after(question):
            def asked(connection, *more):
                answer = question(connection, *more)
                other = sqlite3.connect(path, timeout=30)
                text = f"a note of another process, after {question.__name__}"
                row = (os.urandom(8).hex(), digest_of(text), len(text), text)
                other.execute(
                    "INSERT INTO memories (memory_id, digest, chars, text, created_at) VALUES (?, ?, ?, ?, 1)", row
                )
                other.commit()
                other.close()
                return answer

            return asked

        for name in ("sizes_between", "newest_number"):
            monkeypatch.setattr(memories, name, committing_after(getattr(memories, name)))
        assert await opened.sealed() != []
        monkeypatch.undo()
        ids = opened.engine.ledger.read(lambda c: [one for (one,) in c.execute("SELECT memory_id FROM memories")])
        assert len(ids) > SEAL_AT + 2
        await sees_all(opened, ids)


async def test_stores_that_seal_at_once_leave_one_index(tmp_path):
    async with kept(tmp_path) as first, kept(tmp_path) as second:
        ids = await first.add(*notes(60))
        await asyncio.gather(first.sealed(), second.sealed())
        await asyncio.gather(first.sealed(), second.sealed())
        assert first.spans() == [(1, 60)]
        await sees_all(first, ids)
        await sees_all(second, ids)


async def test_a_part_that_is_in_the_way_is_not_recorded(tmp_path):
    from orchestrai.ledger.segments import SegmentRow, seal, segments_of

    async with kept(tmp_path) as opened:

        def row(name, first, last):
            return SegmentRow(name, "e", first, last, 1, 1, b"", 1)

        async def recorded(*given):
            async def write():
                return await opened.engine.journal.do(lambda c: seal(c, *given))

            return await opened.inside(write())

        assert await recorded(row("a", 1, 10), [])
        assert await recorded(row("a", 1, 10), [])  # run again
        assert not await recorded(row("b", 10, 20), [])
        assert not await recorded(row("b", 11, 20), ["gone"])
        assert await recorded(row("b", 1, 20), ["a"])
        assert await recorded(row("b", 1, 20), ["a"])
        assert [s.name for s in opened.engine.ledger.read(lambda c: segments_of(c, "e"))] == ["b"]


async def test_where_nothing_can_be_sealed_a_search_is_right_and_says_so(tmp_path):
    async with kept(tmp_path) as opened:
        ids = await opened.add(*notes(40))
        opened.folder.write_text("a file where the folder should be")
        said = []
        for _ in range(3):
            matches, problems = await opened.inside(opened.store.search("a note", 100, None))
            assert sorted(match.memory.id for match in matches) == sorted(ids)
            await opened.inside(opened.store.settled())
            said += problems
        (problem,) = said  # once, and it is not tried again before there is twice as much
        assert "cannot be kept on the disk" in problem


def test_a_large_part_is_searched_by_its_graph(tmp_path):
    import numpy as np

    vectors = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    maker = SegmentMaker(tmp_path / "memory", 400)
    maker.add([Piece(i // 2, i % 2) for i in range(400)], vectors)
    row = maker.sealed("e", 0, 199)
    assert row.reached == row.chunks == 400
    exact, graph = Segment(tmp_path / "memory", row), Segment(tmp_path / "memory", row, exact=100)
    assert graph._exact is None
    among = set(range(0, 200, 3))
    for vector in vectors[:50]:
        for limits in (None, among):
            ours, theirs = exact.nearest(vector, 5, limits), graph.nearest(vector, 5, limits)
            assert [piece for piece, _ in ours] == [piece for piece, _ in theirs]
            assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)
    assert graph.nearest(vectors[0], 5, {1000}) == []
    with pytest.raises(SegmentDamaged):
        Segment(tmp_path / "memory", row._replace(digest=bytes(64)))
    exact.close()
    graph.close()
    assert segment_module._open == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_searches_for_itself(tmp_path):
    script = """
        import asyncio, os, sys
        from orchestrai import Orchestrator

        with Orchestrator(sys.argv[1], platforms=[], settings={"memory": {"embedding": "hashed"}}) as orch:
            async def fill():
                await asyncio.gather(*(orch.memory.add(f"note {i} about bread") for i in range(600)))

            orch.wait(fill())
            orch.wait(orch.memory.search("bread"))

            async def settled():
                from orchestrai.engine.loop import Errand
                await Errand(orch._engine.loop, orch.memory.stores[0].settled()).wait()

            orch.wait(settled())
            print(len(orch.wait(orch.memory.search("bread", limit=1000))), flush=True)
            import warnings
            warnings.simplefilter("ignore")  # Python says that this process has threads, which is what is tested
            pid = os.fork()
            if pid == 0:
                orch.wait(orch.memory.add("a note of the child"))
                found = orch.wait(orch.memory.search("note", limit=1000))
                print(len(found), flush=True)
                os._exit(0 if len(found) == 601 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            print(len(orch.wait(orch.memory.search("bread", limit=1000))), flush=True)
    """
    assert finished(script, tmp_path).split() == ["600", "601", "601"]
