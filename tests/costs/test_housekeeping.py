"""Housekeeping: what is pruned or forgotten is gone from the file and every mirror, and nothing else is."""

from __future__ import annotations

import subprocess
import sys

import pytest
from history import DAY_US, Writer, lived, orchestrator, platforms
from loopback import python

from orchestrai import HandoffContextMissing, InvalidInput, Orchestrator
from orchestrai.costs import segments as segments_module
from orchestrai.costs.mirror import Mirror
from orchestrai.costs.sql import rows
from orchestrai.ids import now_us

TEXTS = ("prompts", "answers", "systems")


def counts(orch: Orchestrator, *tables: str) -> dict[str, int]:
    ledger = orch._opened().ledger
    return {t: ledger.read(lambda c, t=t: c.execute(f"SELECT count(*) FROM {t}").fetchone()[0]) for t in tables}


def on_disk(orch: Orchestrator) -> bytes:
    """Return all bytes of the ledger's folder, read in another process: opening the file here would drop its locks."""
    script = "import sys, pathlib; sys.stdout.buffer.write(b''.join(p.read_bytes() for p in sorted(pathlib.Path(sys.argv[1]).rglob('*')) if p.is_file()))"
    return subprocess.run(
        [sys.executable, "-c", script, str(orch.ledger_path.parent)], capture_output=True, check=True
    ).stdout


def old_and_new(folder) -> tuple[int, int]:
    """Write 250 requests of 60 to 30 days ago and 50 of today; return the cost of both [pico-USD]."""
    writer = Writer(folder / ".orchestrai")
    writer.offer(1, "openai", "paid")
    old, new = writer.batch("old", at=now_us() - 60 * DAY_US), writer.batch("new", at=now_us() - DAY_US)
    first = [writer.send(old, at=now_us() - 60 * DAY_US + i) for i in range(250)]
    last = [writer.send(new, at=now_us() - DAY_US + i) for i in range(50)]
    writer.write(*first, *last, *(writer.end(send, cost=1) for send in (*first, *last)))
    writer.write(*(writer.outcome(old, at=now_us() - 60 * DAY_US) for _ in range(20)), writer.outcome(new))
    writer.close()
    return 250, 50


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(segments_module, "SEGMENT", 100)


def test_pruning_removes_what_is_before_and_nothing_since(tmp_path, small):
    old, new = old_and_new(tmp_path)
    with orchestrator(tmp_path) as orch:
        assert orch.costs.summary()["value"]["attempts"] == old + new
        other = Mirror(orch._opened().ledger)
        assert rows(other, "SELECT count(*) FROM attempts") == [(old + new,)]
        pruned = orch.costs.prune(before="30d")
        assert pruned == (old, 20, 1)
        for mirror in (orch.costs.mirror, other, Mirror(orch._opened().ledger)):
            assert rows(mirror, "SELECT count(*), sum(cost) * 1e12 FROM attempts") == [(new, float(new))]
            assert rows(mirror, "SELECT count(*) FROM tasks") == [(new + 1,)]
            assert rows(mirror, "SELECT name FROM batches") == [("new",)]
        assert orch.costs.prune(before="30d") == (0, 0, 0)
        assert rows(Mirror(orch._opened().ledger), "SELECT count(*) FROM attempts") == [(new,)]
        names = sorted(path.name.split("-")[2] for path in (orch.ledger_path.parent / "segments").glob("attempts-*"))
        assert names == ["200"]  # of which half is left


def test_calls_of_rows_that_stay_are_known_after_a_prune_and_after_the_first_outcome(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    for days in (60, 20, 10, 5):
        at = now_us() - days * DAY_US
        send = writer.send(writer.batch(f"{days} days ago", at=at), at=at)
        writer.write(send, writer.end(send))
    with orchestrator(tmp_path) as orch:

        def known() -> dict[str, int]:
            assert orch.costs.summary(project="here")["value"].equals(orch.costs.summary()["value"])
            found = orch.costs.by_batch()
            return dict(zip(found["batch"], found["attempts"], strict=True))

        before = {"60 days ago": 1, "20 days ago": 1, "10 days ago": 1, "5 days ago": 1}
        assert known() == before
        writer.write(writer.outcome(writer.batch("now")))
        assert known() == before | {"now": 0}
        orch.costs.prune(before="30d")
        assert known() == {"20 days ago": 1, "10 days ago": 1, "5 days ago": 1, "now": 0}
    writer.close()


def test_numbers_go_on_growing_when_everything_is_pruned(tmp_path, small):
    old_and_new(tmp_path)
    with orchestrator(tmp_path) as orch:
        mirror = orch.costs.mirror
        assert orch.costs.summary()["value"]["attempts"] == 300
        assert orch.costs.prune(before="0m").requests == 299
        orch.batch_sync(["one", "two"], platform="cash", confirm="never")
        assert orch.costs.sql("SELECT max(seq) AS n FROM attempts")["n"][0] == 302
        assert orch.costs.summary()["value"]["attempts"] == 3
        assert mirror is orch.costs.mirror


def test_pruning_takes_texts_reuse_and_memories_with_it_and_answers_are_asked_again(tmp_path):
    with orchestrator(tmp_path) as orch:
        orch.batch_sync(["one", "two", "three"], platform="gratis", system="be brief", confirm="never")
        orch.batch_sync(["last"], platform="gratis", confirm="never")
        assert counts(orch, "prompts", "answers", "systems") == {"prompts": 4, "answers": 4, "systems": 1}
        orch.costs.prune(before="0m")
        assert counts(orch, "prompts", "answers", "systems") == {"prompts": 1, "answers": 1, "systems": 0}
        again = orch.batch_sync(["one", "last"], platform="gratis", system=None, confirm="never")
        assert [result.reused for result in again] == [False, True]


def test_pruning_while_another_process_writes_loses_none_of_its_results(tmp_path):
    old_and_new(tmp_path)
    script = """
        import sys
        from orchestrai import Orchestrator
        from orchestrai.testing import ScriptedPlatform
        with Orchestrator(sys.argv[1], platforms=[ScriptedPlatform(delay_s=0.001)], settings={"progress": "off"}) as orch:
            res = orch.batch_sync([f"task {i}" for i in range(300)])
            assert res.success_count == 300
    """
    child = python(script, tmp_path)
    with orchestrator(tmp_path) as orch:
        while child.poll() is None:
            orch.costs.prune(before="30d")
        assert child.communicate()[1] == ""
        assert orch.costs.by_platform().set_index("platform")["tasks"]["scripted"] == 300
        assert orch.costs.summary()["value"]["attempts"] == 350


@pytest.mark.parametrize("by", ["task", "batch by name", "batch by result", "tag", "tag as text"])
def test_what_is_forgotten_is_gone_from_the_disk_and_its_cost_stays(tmp_path, by):
    with orchestrator(tmp_path) as orch:
        ask = {"platform": "cash", "confirm": "never"}
        kept = orch.batch_sync(["keepthis alpha"], name="kept", system="keepsystem", **ask)
        res = orch.batch_sync(["secretword beta"], name="gone", tags={"team": "red"}, system="secretsystem", **ask)
        assert b"secretword" in on_disk(orch)  # the control
        before = orch.costs.summary(money="decimal")["value"]
        named = {
            "task": {"task": res[0]}, "batch by name": {"batch": "gone"}, "batch by result": {"batch": res},
            "tag": {"tag": {"team": "red"}}, "tag as text": {"tag": "team=red"},
        }[by]  # fmt: skip
        assert orch.forget(**named) == (1, 1)
        found = on_disk(orch)
        assert b"secretword" not in found
        assert b"secretsystem" not in found
        assert b"keepthis" in found
        assert b"keepsystem" in found
        assert orch.costs.summary(money="decimal")["value"].equals(before)
        again = orch.batch_sync(["secretword beta", "keepthis alpha"], system=None, **ask)
        assert [r.reused for r in again] == [False, False]
        assert orch.batch_sync(["keepthis alpha"], system="keepsystem", **ask)[0].reused
        assert kept[0].success


def test_the_text_of_a_reused_answer_is_forgotten_at_its_source_too(tmp_path):
    with orchestrator(tmp_path) as orch:
        ask = {"platform": "gratis", "confirm": "never"}
        orch.batch_sync(["secretword"], name="first", **ask)
        assert orch.batch_sync(["secretword"], name="second", **ask)[0].reused
        orch.forget(batch="second")
        assert b"secretword" not in on_disk(orch)


def test_what_a_chain_handed_on_is_forgotten_with_its_task_and_a_text_of_ones_own_stays(tmp_path):
    with orchestrator(tmp_path) as orch:
        chain = orch.chain("report")
        ask = {"platform": "gratis", "confirm": "never"}
        first = orch.wait(chain.run("secretword", **ask))
        orch.wait(chain.run("go on: {parent}", parent=first, **ask))
        own = orch.wait(orch.memory.add("a note of mine"))
        assert orch.wait(orch.memory.search("secretword"))  # makes an index
        assert counts(orch, "memories")["memories"] >= 2
        assert first.output.encode() in on_disk(orch)
        orch.forget(task=first)
        assert first.output.encode() not in on_disk(orch)  # not in the prompt of its child either
        with pytest.raises(HandoffContextMissing):
            orch.wait(chain.run("once more: {parent}", parent=first, **ask))
        assert orch.wait(orch.memory.get(own)).text == "a note of mine"


def test_forgetting_names_what_is_not_there(tmp_path):
    with lived(orchestrator(tmp_path)) as orch:
        with pytest.raises(InvalidInput, match=r"no batch 'frist'\. Did you mean 'first'"):
            orch.forget(batch="frist")
        with pytest.raises(InvalidInput, match="no tag 'team=green'"):
            orch.forget(tag="team=green")
        with pytest.raises(InvalidInput, match="by one of: task=, batch=, tag="):
            orch.forget()
        for tag in ("red", 5, {}, {"team": "red", "other": "x"}):
            with pytest.raises(InvalidInput, match="one tag is"):
                orch.forget(tag=tag)


def test_without_keep_texts_no_text_of_a_call_reaches_the_disk(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"word": ["secretcell"]})
    for keep, folder in ((True, tmp_path / "kept"), (False, tmp_path / "none")):
        folder.mkdir()
        with Orchestrator(folder, platforms=platforms(), settings={"keep_texts": keep, "progress": "off"}) as orch:
            res = orch.batch_sync(
                frame, prompt="secrettemplate {word}", system="secretsystem", platform="gratis", confirm="never"
            )
            assert res.success_count == 1
            found = on_disk(orch)
            words = [word for word in (b"secretcell", b"secrettemplate", b"secretsystem") if word in found]
            assert len(words) == (3 if keep else 0)
            assert orch.costs.summary()["value"]["tasks"] == 1
            assert counts(orch, *TEXTS) == dict.fromkeys(TEXTS, int(keep))


def test_a_moment_must_be_said(tmp_path):
    with orchestrator(tmp_path) as orch:
        with pytest.raises(InvalidInput, match="Say before when"):
            orch.costs.prune(before=None)
        with pytest.raises(InvalidInput, match="is no moment"):
            orch.costs.prune(before="long ago")
