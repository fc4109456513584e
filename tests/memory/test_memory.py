"""`orch.memory`: what is added is there, whole; what is deleted is not; what was altered is never given out."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import finished, orchestrator, upper

from orchestrai import InvalidInput, Memory, MemoryMissing, MemoryWarning
from orchestrai.engine.engine import close_engine, open_engine
from orchestrai.ledger.chains import remember
from orchestrai.ledger.memories import digest_of
from orchestrai.ledger.rows import MemoryRow

HASHED = {"embedding": "hashed"}


@pytest.fixture
def orch(tmp_path):
    with orchestrator(tmp_path, upper, memory=HASHED) as made:
        yield made


def change(orch, statement, *values):
    """Do to the ledger what a hand with a hex editor would do."""
    connection = sqlite3.connect(orch.ledger_path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


async def test_what_is_added_comes_back_as_it_was(orch):
    text = "WAL: a log that is written first.\r\n\tÄ 汉字 🙂 {parent} \x00 end"
    metadata = {"topic": "wal", "year": 2026, "share": 0.5, "seen": True}
    memory = await orch.memory.get(await orch.memory.add(text, metadata=metadata))
    assert (memory.text, memory.metadata) == (text, metadata)
    assert memory.digest == hashlib.sha256(text.encode()).hexdigest()


async def test_memories_are_listed_in_the_order_in_which_they_came(orch):
    ids = [await orch.memory.add(f"note {i}", metadata={"even": i % 2 == 0}) for i in range(6)]
    assert [memory.id for memory in await orch.memory.list()] == ids
    assert [memory.id for memory in await orch.memory.list(where={"even": True})] == ids[::2]


async def test_the_nearest_comes_first_with_the_passage_that_fits(orch):
    filler = "Nothing of interest stands here.\n\n" * 200
    await orch.memory.add("How bread is baked: flour, water, salt, yeast and patience.")
    long = await orch.memory.add(f"{filler}The ledger is a write-ahead log in SQLite.\n\n{filler}")
    best, *_ = await orch.memory.search("write-ahead log of SQLite")
    assert best.memory.id == long
    assert best.memory.text.startswith(filler)
    assert "write-ahead log in SQLite" in best.passage
    assert len(best.passage) < 1000


async def test_a_condition_holds_for_search(orch):
    for i in range(40):
        await orch.memory.add(f"the same words, number {i}", metadata={"number": i})
    found = await orch.memory.search("the same words", limit=50, where={"number": {"$gte": 30, "$ne": 33}})
    assert {match.memory.metadata["number"] for match in found} == set(range(30, 40)) - {33}
    assert await orch.memory.search("the same words", where={"number": 99}) == []


async def test_a_deleted_memory_is_gone_for_good(orch):
    kept, gone = [await orch.memory.add(f"a note about bread {i}") for i in range(2)]
    assert len(await orch.memory.search("bread")) == 2
    await orch.memory.delete(gone)
    await orch.memory.delete(gone)
    assert [match.memory.id for match in await orch.memory.search("bread")] == [kept]
    assert [memory.id for memory in await orch.memory.list()] == [kept]
    with pytest.raises(MemoryMissing, match="was deleted"):
        await orch.memory.get(gone)
    row = MemoryRow(gone, digest_of("back"), 4, "back", None, None, None, 1)
    engine = orch._opened()
    engine.loop.submit(_do(engine, lambda c: remember(c, [row]))).result()
    with pytest.raises(MemoryMissing, match="was deleted"):
        await orch.memory.get(gone)


async def _do(engine, work):
    await engine.journal.do(work)


async def test_a_memory_that_never_was_is_named(orch):
    for ask in (orch.memory.get, orch.memory.delete):
        with pytest.raises(MemoryMissing, match="nope: there is none"):
            await ask("nope")
    with pytest.raises(InvalidInput, match="named by its id"):
        await orch.memory.get(7)


async def test_an_altered_text_is_never_given_out(orch):
    kept, altered = [await orch.memory.add(f"a note about bread {i}") for i in range(2)]
    change(orch, "UPDATE memories SET text = 'a note about bread 9' WHERE memory_id = ?", altered)
    with pytest.raises(MemoryMissing, match="SHA-256"):
        await orch.memory.get(altered)
    with pytest.warns(MemoryWarning, match=altered):
        assert [match.memory.id for match in await orch.memory.search("bread")] == [kept]
    with pytest.warns(MemoryWarning, match=altered):
        assert [memory.id for memory in await orch.memory.list()] == [kept]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "not NoneType"),
        (b"bytes", "not bytes"),
        ("", "is empty"),
        ("half \ud83d", "half of a character .* at position 5"),
    ],
)
async def test_what_is_no_text_is_refused(orch, text, said):
    with pytest.raises(InvalidInput, match=said):
        await orch.memory.add(text)
    assert await orch.memory.list() == []


@pytest.mark.parametrize("query", ["", " ", None, 7])
async def test_a_query_is_a_text(orch, query):
    with pytest.raises(InvalidInput, match="query is a text"):
        await orch.memory.search(query)


async def test_a_query_of_half_a_character_is_refused(orch):
    with pytest.raises(InvalidInput, match="half of a character"):
        await orch.memory.search("half \ud800")


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "5"])
async def test_a_limit_is_a_whole_number(orch, limit):
    with pytest.raises(InvalidInput, match="limit="):
        await orch.memory.search("bread", limit=limit)


async def test_a_document_of_16_mb_is_found_and_comes_back_whole(orch):
    line = "This line of a long report says nothing that anybody would look for, again and again.\n"
    text = line * 100_000 + "The zebra crossed the Zambezi at dawn.\n" + line * 95_000
    assert len(text) > 16_000_000
    long = await orch.memory.add(text)
    await orch.memory.add("short")
    best, *_ = await orch.memory.search("zebra Zambezi dawn")
    assert best.memory.id == long
    assert "zebra" in best.passage
    assert best.memory.text == text


async def test_what_is_too_long_is_refused_before_it_is_written(orch):
    with pytest.raises(InvalidInput, match=r"67,108,865 bytes; a memory has at most 67,108,864"):
        await orch.memory.add("x" * (64 * 2**20 + 1))


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_any_text_is_kept_and_searched(tmp_path_factory, texts):
    with orchestrator(tmp_path_factory.mktemp("ledger"), upper, memory=HASHED) as orch:

        async def all_of_them():
            ids = [await orch.memory.add(text) for text in texts]
            assert [(await orch.memory.get(one)).text for one in ids] == texts
            found = await orch.memory.search("anything", limit=9)
            assert sorted(match.memory.id for match in found) == sorted(ids)

        asyncio.run(all_of_them())


async def test_an_answer_of_a_task_is_a_memory_without_a_second_copy(tmp_path):
    with orchestrator(tmp_path, upper, memory=HASHED) as orch:
        result = await orch.chain("bread").run("how is bread baked")
        memory = await orch.memory.get(result.task_id)
        assert isinstance(memory, Memory)
        assert memory.text == result.output
        assert [match.memory.id for match in await orch.memory.search("bread")] == [result.task_id]
        connection = sqlite3.connect(orch.ledger_path)
        assert connection.execute("SELECT text FROM memories").fetchall() == [(None,)]
        connection.close()
        await orch.memory.delete(result.task_id)
        assert await orch.memory.search("bread") == []


async def test_memories_of_another_ledger_are_not_seen(tmp_path):
    with orchestrator(tmp_path / "a", upper, memory=HASHED) as a, orchestrator(tmp_path / "b", upper) as b:
        memory = await a.memory.add("a secret of project a")
        assert await b.memory.list() == []
        with pytest.raises(MemoryMissing):
            await b.memory.get(memory)


async def test_a_call_that_is_not_awaited_does_nothing_and_says_so(orch):
    call = orch.memory.add("never")
    assert "await orch.memory.add(…)" in repr(call)
    call.close()
    assert await orch.memory.list() == []


def test_memories_can_be_had_without_await_and_after_a_close(orch):
    memory = orch.wait(orch.memory.add("bread"))
    orch.close()
    assert orch.wait(orch.memory.get(memory)).text == "bread"
    assert [match.memory.id for match in orch.wait(orch.memory.search("bread"))] == [memory]


def test_a_few_memories_are_added_read_and_searched_without_loading_chroma(tmp_path):
    script = """
        import asyncio, sys
        from orchestrai import Orchestrator

        async def main(orch):
            memory = await orch.memory.add("bread")
            assert (await orch.memory.get(memory)).text == "bread"
            assert "numpy" not in sys.modules
            assert len(await orch.memory.search("bread")) == 1

        with Orchestrator(sys.argv[1], platforms=[], settings={"memory": {"embedding": "hashed"}}) as orch:
            asyncio.run(main(orch))
        print(*(name for name in ("chromadb", "onnxruntime", "wordllama") if name in sys.modules))
    """
    assert finished(script, tmp_path).split() == []


def test_a_forgotten_orchestrator_lets_go_of_its_memories(tmp_path):
    engine = open_engine(tmp_path / ".orchestrai", "test")
    orch = orchestrator(tmp_path, upper, memory=HASHED)
    orch.wait(orch.memory.add("bread"))
    orch.wait(orch.memory.search("bread"))
    stores = orch.memory.stores
    del orch
    import gc

    gc.collect()
    engine.loop.submit(asyncio.sleep(0)).result()
    assert stores == []
    close_engine(engine)
