"""A ledger that an earlier version wrote opens, with everything that was in it."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from loopback import orchestrator

from orchestrai.ledger.schema import APPLICATION_ID, SCHEMA_VERSION, migrate
from orchestrai.testing import ScriptedPlatform

STORED = {int(path.stem.removeprefix("version_")): path for path in Path(__file__).parent.glob("ledgers/*.sql")}


def stored(version: int, folder: Path) -> Path:
    """Put a stored ledger in a project's place and return its path."""
    path = folder / ".orchestrai" / "ledger.db"
    path.parent.mkdir(mode=0o700, parents=True)
    connection = sqlite3.connect(path)
    connection.executescript(STORED[version].read_text(encoding="utf-8"))
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return path


def shape(path: Path) -> list[tuple[str, str, str]]:
    """Return the tables, views and indexes of a ledger that nobody has open, as they were declared."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
    rows = [(kind, name, " ".join(sql.replace('"', "").split())) for kind, name, sql in found]
    connection.close()
    return rows


def platform(**more):
    return ScriptedPlatform(tier="paid", price={"input_mtok": "1", "output_mtok": "2"}, **more)


def test_every_version_but_this_one_has_a_stored_ledger():
    assert sorted(STORED) == [*range(1, SCHEMA_VERSION)]


@pytest.mark.parametrize("version", sorted(STORED))
def test_an_old_ledger_is_brought_to_the_shape_of_a_new_one(tmp_path, version):
    old = stored(version, tmp_path / "old")
    for folder in (tmp_path / "old", tmp_path / "new"):
        with orchestrator(folder, platform()) as orch:
            orch.run_sync("something else")
    assert shape(old) == shape(tmp_path / "new" / ".orchestrai" / "ledger.db")


def test_what_version_1_had_answered_is_reused_and_what_it_was_doing_is_in_doubt(tmp_path):
    path = stored(1, tmp_path)
    asked = platform()
    with orchestrator(tmp_path, asked) as orch:
        again = orch.batch_sync(["plain", "retry me", "new"], system="Be brief.")
        assert [r.output for r in again] == ["xxx"] * 3
        assert all(r.reused for r in again)
        assert asked.prompts == []
        assert not orch.batch_sync(["doubtful"])[0].reused
    connection = sqlite3.connect(path)
    tasks = connection.execute(
        "SELECT status, error_class, attempts, cost > 0, reused_from IS NOT NULL, tags FROM tasks "
        "WHERE batch_id IN (SELECT batch_id FROM batches WHERE name = 'first') ORDER BY task_index"
    ).fetchall()
    assert tasks == [
        ("succeeded", None, 1, 1, 0, '{"k":"v"}'),
        ("succeeded", None, 0, 0, 1, '{"k":"v"}'),
        ("succeeded", None, 2, 1, 0, '{"k":"v"}'),
        ("failed", "request", 1, 0, 0, '{"k":"v"}'),
    ]
    statuses = connection.execute("SELECT status, count(*) FROM attempts GROUP BY status ORDER BY status").fetchall()
    assert dict(statuses)["in_doubt"] == 1
    retried = connection.execute(
        "SELECT s.attempt_kind, p.text FROM sends s JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) "
        "WHERE s.attempt_kind <> 'first' ORDER BY s.seq"
    ).fetchall()
    assert retried == [("retry", "retry me"), ("repair", "label this")]
    assert connection.execute("SELECT text FROM systems").fetchall() == [("Be brief.",)]
    connection.close()


def test_what_version_2_had_answered_is_reused_and_ends_are_put_in_their_order(tmp_path):
    path = stored(2, tmp_path)
    asked = platform()
    with orchestrator(tmp_path, asked) as orch:
        again = orch.batch_sync(["plain", "retry me"], system="Be brief.")
        assert ([r.output for r in again], asked.prompts) == (["xxx"] * 2, [])
        assert not orch.batch_sync(["doubtful"])[0].reused
        assert asked.prompts == ["doubtful"]
    connection = sqlite3.connect(path)
    ends = connection.execute("SELECT send_seq, finished_at, status FROM attempts ORDER BY seq").fetchall()
    assert ends[:-2] == sorted(ends[:-2], key=lambda end: end[1])
    assert [status for *_, status in ends[-2:]] == ["in_doubt", "succeeded"]
    assert connection.execute("SELECT count(*) FROM tasks WHERE status = 'failed'").fetchone() == (1,)
    connection.close()


def test_a_migration_that_fails_half_way_leaves_the_old_ledger_as_it_was(tmp_path):
    path = stored(1, tmp_path)
    before = shape(path)

    class Failing(sqlite3.Connection):
        def execute(self, sql, *rest):
            if "DROP TABLE old_tasks" in sql:
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *rest)

    connection = sqlite3.connect(path, isolation_level=None, factory=Failing)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, 1)
    connection.close()
    assert shape(path) == before
    shutil.copy(path, tmp_path / "copy.db")  # the control: the same file, without the fault
    connection = sqlite3.connect(tmp_path / "copy.db", isolation_level=None)
    migrate(connection, 1)
    assert connection.execute("SELECT count(*) FROM answers").fetchone() == (4,)
    connection.close()
