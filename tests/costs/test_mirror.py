"""The mirror: what it says is what the ledger holds, whoever writes it, and however it was opened."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from history import Writer, lived, orchestrator
from loopback import finished, python

from orchestrai.costs import mirror as mirror_module
from orchestrai.costs import segments as segments_module
from orchestrai.costs.mirror import Mirror
from orchestrai.costs.sql import rows
from orchestrai.ledger.ledger import Ledger

SUMS = "SELECT count(*), count(status), sum(cost), sum(input_tokens) FROM ledger.attempts"


def truth(ledger: Ledger) -> tuple[object, ...]:
    """Return what SQLite itself says."""
    found = ledger.read(
        lambda c: c.execute(
            "SELECT count(*), count(a.status), sum(a.cost), sum(a.input_tokens) FROM sends s "
            "LEFT JOIN attempts a ON a.send_seq = s.seq"
        ).fetchone()
    )
    return tuple(found)


def mirrored(mirror: Mirror) -> tuple[object, ...]:
    count, ended, cost, tokens = rows(mirror, SUMS)[0]
    return count, ended, None if cost is None else int(cost * 10**12), tokens


@pytest.fixture
def written(tmp_path):
    """Return a writer and the ledger it writes to, opened by another part of the process."""
    writer = Writer(tmp_path)
    writer.offer(1, "openai", "paid")
    ledger = Ledger(tmp_path, "0")
    yield writer, ledger
    ledger.close()
    writer.close()


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(segments_module, "SEGMENT", 100)


def fill(writer: Writer, count: int) -> str:
    batch = writer.batch()
    sends = [writer.send(batch) for _ in range(count)]
    writer.write(*sends, *(writer.end(send, cost=send.seq) for send in sends))
    return batch


def test_new_rows_ends_of_open_requests_and_changed_batches_are_seen(written):
    writer, ledger = written
    mirror = Mirror(ledger)
    assert mirrored(mirror) == (0, 0, None, None)
    fill(writer, 50)
    late = writer.send(writer.batch("late"))
    writer.write(late)
    assert mirrored(mirror) == truth(ledger)
    assert rows(mirror, "SELECT count(*) FROM attempts WHERE status = 'open'") == [(1,)]
    fill(writer, 50)
    writer.write(writer.end(late))  # commits after requests that left later
    writer.file.write(lambda c: c.execute("UPDATE batches SET status = 'running' WHERE name = 'late'").rowcount)
    assert mirrored(mirror) == truth(ledger)
    assert rows(mirror, "SELECT count(*) FROM attempts WHERE status = 'open'") == [(0,)]
    mirror.close()
    assert mirrored(mirror) == truth(ledger)
    assert rows(mirror, "SELECT status FROM batches WHERE name = 'late'") == [("running",)]
    writer.file.write(lambda c: c.execute("UPDATE batches SET status = 'finished' WHERE name = 'late'").rowcount)
    assert rows(mirror, "SELECT status FROM batches WHERE name = 'late'") == [("finished",)]


def test_where_nothing_was_written_nothing_is_read(written):
    writer, ledger = written
    fill(writer, 10)
    mirror = Mirror(ledger)
    mirror.refresh()
    reads = []
    ledger.file._reader.set_trace_callback(reads.append)
    mirror.refresh()
    quiet = [sql for sql in reads if sql.startswith("SELECT")]
    fill(writer, 1)
    mirror.refresh()
    ledger.file._reader.set_trace_callback(None)
    assert quiet == []
    assert any(sql.startswith("SELECT") for sql in reads)  # the control


def test_another_kernel_opens_from_segments_and_sees_the_same(written, small_segments):
    writer, ledger = written
    fill(writer, 1_050)
    for _ in range(30):
        writer.write(writer.outcome("b" * 32))
    first = Mirror(ledger)
    assert mirrored(first) == truth(ledger)
    found = sorted((ledger.folder / "segments").glob("attempts-*.parquet"))
    assert len(found) == 10
    other = Mirror(ledger)
    stored = []
    read_range = type(mirror_module.ATTEMPTS).read_range
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(mirror_module.ATTEMPTS),
            "read_range",
            lambda t, c, a, u: stored.append((t.name, a)) or read_range(t, c, a, u),
        )
        assert mirrored(other) == truth(ledger)
    assert [above for name, above in stored if name == "attempts"] == [1_000]
    whole = "SELECT * FROM attempts ORDER BY seq"
    assert rows(first, whole) == rows(other, whole)


def test_a_range_with_an_open_request_becomes_no_segment(written, small_segments):
    writer, ledger = written
    fill(writer, 150)
    waiting = writer.send(writer.batch())
    writer.write(waiting)
    fill(writer, 100)
    mirror = Mirror(ledger)
    assert mirrored(mirror) == truth(ledger)
    assert len(list((ledger.folder / "segments").glob("attempts-*"))) == 1
    writer.write(writer.end(waiting))
    assert mirrored(mirror) == mirrored(Mirror(ledger)) == truth(ledger)
    assert len(list((ledger.folder / "segments").glob("attempts-*"))) == 2


@pytest.mark.parametrize("harm", ["cut", "of another ledger", "gone", "no room"])
def test_segments_that_cannot_be_used_cost_nothing_but_time(written, small_segments, harm, tmp_path_factory):
    writer, ledger = written
    fill(writer, 350)
    folder = ledger.folder / "segments"
    if harm == "no room":
        folder.touch()
    else:
        mirrored(Mirror(ledger))
    some = sorted(folder.glob("*"))
    if harm == "cut":
        some[0].write_bytes(some[0].read_bytes()[:100])
    elif harm == "gone":
        some[1].unlink()
    elif harm == "of another ledger":
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        another = Writer(elsewhere)
        another.offer(1, "openai", "paid")
        fill(another, 350)
        another.close()
        strange = Ledger(elsewhere, "0")
        (elsewhere / "segments").mkdir()
        for path in some:
            (elsewhere / "segments" / path.name).write_bytes(path.read_bytes())
        assert mirrored(Mirror(strange)) == truth(strange)
        strange.close()
    assert mirrored(Mirror(ledger)) == truth(ledger)


@pytest.mark.skipif(os.name == "nt", reason="modes are those of POSIX")
def test_segments_are_their_owners_alone_and_hold_no_text(tmp_path, small_segments):
    with orchestrator(tmp_path) as orch:
        orch.batch_sync([f"secretprompt {i}" for i in range(120)], platform="gratis", confirm="never")
        assert orch.costs.summary()["value"]["tasks"] == 120
        folder = orch.ledger_path.parent / "segments"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        found = list(folder.iterdir())
        assert found
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found)
        texts = orch.costs.sql("SELECT table_name, column_name FROM information_schema.columns")
        assert not {"error", "error_message", "text", "prompt", "answer", "output"} & set(texts["column_name"])
        everything = b"".join(path.read_bytes() for path in found)
    assert b"secretprompt" not in everything


def test_what_other_processes_write_meanwhile_is_seen_exactly(tmp_path):
    """Two processes write while a third asks; each of its answers is a moment of the ledger, the last one all of it."""
    script = """
        import asyncio, sys
        from orchestrai import Orchestrator
        from orchestrai.testing import ScriptedPlatform
        cash = ScriptedPlatform("cash", tier="paid", price={"input_mtok": "2", "output_mtok": "8"}, delay_s=0.05)
        with Orchestrator(sys.argv[1], platforms=[cash], settings={"progress": "off"}) as orch:
            orch.batch_sync([f"{sys.argv[2]} {i}" for i in range(400)], confirm="never", concurrency=8)
    """
    seen = []
    with orchestrator(tmp_path) as orch:
        assert orch.costs.summary()["value"]["attempts"] == 0
        children = [python(script, tmp_path, name) for name in ("one", "two")]
        while any(child.poll() is None for child in children):
            now = orch.costs.summary(money="decimal")["value"]
            groups = orch.costs.by_model(money="decimal")
            seen.append((now["attempts"], now["cost"]))
            assert groups["attempts"].sum() >= now["attempts"]
        for child in children:
            assert child.communicate()[1] == ""
        last = orch.costs.summary(money="decimal")["value"]
        ledger = orch._opened().ledger
        assert (last["attempts"], int(last["cost"] * 10**12)) == (truth(ledger)[0], truth(ledger)[2])
        assert last["tasks"] == 800
    assert seen == sorted(seen)
    assert len({attempts for attempts, _ in seen}) > 2


def test_many_threads_may_ask_at_once(tmp_path):
    with lived(orchestrator(tmp_path)) as orch:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(orch.costs.summary()["value"]["tasks"])) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [23] * 8


def test_days_are_those_of_the_persons_time_zone(tmp_path):
    writer = Writer(tmp_path / ".orchestrai")
    writer.offer(1, "openai", "paid")
    send = writer.send(writer.batch(), at=1_764_284_400_000_000)  # 2025-11-27 23:00 UTC
    writer.write(send, writer.end(send))
    writer.close()
    script = """
        import sys
        from orchestrai import Orchestrator
        with Orchestrator(sys.argv[1]) as orch:
            print(orch.costs.by_day()["day"][0].date())
    """
    env = dict(os.environ)
    assert finished(script, tmp_path, env={**env, "TZ": "UTC"}).strip() == "2025-11-27"
    assert finished(script, tmp_path, env={**env, "TZ": "Asia/Tokyo"}).strip() == "2025-11-28"


def test_absurd_moments_and_amounts_are_unknown_and_bar_nothing(written):
    writer, ledger = written
    send = writer.send(writer.batch(), at=2**62)
    writer.write(send, writer.end(send, cost=2**62, duration_ms=1e300, http_status=2**62))
    fine = writer.send(writer.batch())
    writer.write(fine, writer.end(fine, cost=5))
    assert rows(Mirror(ledger), "SELECT count(*), sum(cost) * 1e12 FROM attempts") == [(2, 5.0)]


def test_a_ledger_of_an_earlier_opening_is_not_taken_for_this_one(tmp_path):
    orch = lived(orchestrator(tmp_path))
    assert orch.costs.summary()["value"]["tasks"] == 23
    orch.close()
    assert orch.costs.summary()["value"]["tasks"] == 23
    orch.close()


@pytest.mark.skipif(os.name == "nt", reason="there is no fork")
def test_a_forked_child_builds_a_mirror_of_its_own(tmp_path):
    script = """
        import os, sys, warnings
        from orchestrai import Orchestrator
        from orchestrai.testing import ScriptedPlatform
        warnings.simplefilter("ignore", DeprecationWarning)
        orch = Orchestrator(sys.argv[1], platforms=[ScriptedPlatform()], settings={"progress": "off"})
        orch.batch_sync(["a", "b"])
        print(int(orch.costs.summary()["value"]["tasks"]), flush=True)
        pid = os.fork()
        if pid == 0:
            sys.exit(int(orch.costs.summary()["value"]["tasks"] != 2))
        print(os.waitpid(pid, 0)[1])
        orch.close()
    """
    assert finished(script, tmp_path).split() == ["2", "0"]
