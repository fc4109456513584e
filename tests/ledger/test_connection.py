from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrai.errors import LedgerDamaged, LedgerError, LedgerTooNew, LedgerUnusable
from orchestrai.ledger.connection import LedgerFile, network_filesystem
from orchestrai.ledger.schema import SCHEMA_VERSION


def put(file: LedgerFile, value: str) -> None:
    file.write(lambda c: c.execute("INSERT OR IGNORE INTO systems (digest, text) VALUES (?, ?)", (value, value)))


def texts(file: LedgerFile) -> list[str]:
    return [text for (text,) in file.read(lambda c: c.execute("SELECT text FROM systems ORDER BY text").fetchall())]


def filled(folder: Path, count: int = 200) -> Path:
    file = LedgerFile(folder)
    for i in range(count):
        put(file, f"{i:05d}" * 40)
    file.close()
    return file.path


def test_what_was_written_is_there_after_closing(tmp_path):
    file = LedgerFile(tmp_path / "a")
    put(file, "x")
    file.close()
    again = LedgerFile(tmp_path / "a")
    assert texts(again) == ["x"]
    again.close()


def test_a_write_that_fails_leaves_nothing(tmp_path):
    file = LedgerFile(tmp_path / "a")

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO systems (digest, text) VALUES ('0', 'x')")
        connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(LedgerError, match="nowhere"):
        file.write(half)
    assert texts(file) == []
    file.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        file = LedgerFile(tmp_path / "a")
        put(file, "x")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()}
        file.close()
    finally:
        os.umask(before)
    assert set(modes) >= {"ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db.lock"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path):
    path = filled(tmp_path / "a")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerTooNew, match="Upgrade orchestrai"):
        LedgerFile(tmp_path / "a")
    assert path.read_bytes() == before


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for content in (b"", b"these are my notes, not a database" * 50):
        (folder / "ledger.db").write_bytes(content)
        with pytest.raises(LedgerDamaged):
            LedgerFile(folder)
        assert (folder / "ledger.db").read_bytes() == content
    (folder / "ledger.db").unlink()
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = (folder / "ledger.db").read_bytes()
    with pytest.raises(LedgerDamaged, match="no ledger of orchestrai"):
        LedgerFile(folder)
    assert (folder / "ledger.db").read_bytes() == before


def test_a_cut_ledger_is_reported_at_every_length_and_never_changed(tmp_path):
    path = filled(tmp_path / "a")
    whole = path.read_bytes()
    chance = random.Random(7)
    for length in sorted({0, 1, 100, 4096, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(60))}):
        path.write_bytes(whole[:length])
        with pytest.raises(LedgerDamaged):
            LedgerFile(tmp_path / "a")
        assert path.read_bytes() == whole[:length]
    path.write_bytes(whole)
    file = LedgerFile(tmp_path / "a")  # the control: the whole file opens
    assert len(texts(file)) == 200
    file.close()


def test_flipped_bytes_give_right_answers_or_a_clear_error(tmp_path):
    path = filled(tmp_path / "a")
    whole = path.read_bytes()
    expected = [f"{i:05d}" * 40 for i in range(200)]
    chance = random.Random(11)
    reported = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            file = LedgerFile(tmp_path / "a")
        except LedgerError:
            reported += 1
            continue
        try:
            found = texts(file)
            assert len(found) <= len(expected)
        except LedgerError:
            reported += 1
        finally:
            file.close()
    assert reported > 0


def test_a_place_that_cannot_hold_a_ledger_is_named_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerUnusable, match="ORCHESTRAI_DATA_DIR"):
        LedgerFile(tmp_path / "file" / "inside")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_planted_symbolic_link_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(LedgerUnusable, match="symbolic link"):
        LedgerFile(tmp_path / "link")
    (tmp_path / "real" / "ledger.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LedgerUnusable, match="symbolic link"):
        LedgerFile(tmp_path / "real")
    assert not (tmp_path / "elsewhere").exists()


def test_network_file_systems_are_told_from_local_ones():
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:35 / /mnt/share rw,relatime shared:2 - nfs4 server:/export rw\n"
        "41 40 8:2 / /mnt/share/local rw shared:3 - xfs /dev/sdb1 rw\n"
        "42 22 0:36 / /mnt/with\\040space rw - fuse.sshfs me@host: rw\n"
    )
    assert network_filesystem(Path("/mnt/share/project"), mounts) == "nfs4"
    assert network_filesystem(Path("/mnt/with space/project"), mounts) == "fuse.sshfs"
    assert network_filesystem(Path("/mnt/share/local/project"), mounts) is None
    assert network_filesystem(Path("/mnt/shared"), mounts) is None


def test_a_log_that_was_exchanged_under_us_loses_nothing(tmp_path):
    """The trap: another `open()` in this process drops SQLite's locks, and the next process to close deletes the log."""
    file = LedgerFile(tmp_path / "a")
    elsewhere = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        'c.execute("INSERT OR IGNORE INTO systems VALUES (?, ?)", (sys.argv[2], sys.argv[2])); '
        "c.commit(); c.close()"
    )
    expected = set()
    for i in range(12):
        put(file, f"ours {i}")
        expected.add(f"ours {i}")
        file.path.open("rb").close()  # what a user's own code may do
        subprocess.run([sys.executable, "-c", elsewhere, str(file.path), f"theirs {i}"], check=True)
        expected.add(f"theirs {i}")
        put(file, f"ours again {i}")
        expected.add(f"ours again {i}")
    file.close()
    control = LedgerFile(tmp_path / "a")
    assert set(texts(control)) == expected
    control.close()


def test_the_same_accident_loses_rows_without_the_guard(tmp_path):
    """The control: a plain connection, treated the same way, loses commits without an error."""
    path = filled(tmp_path / "a", 0)
    plain = sqlite3.connect(path, isolation_level=None)
    plain.execute("INSERT INTO systems VALUES (x'00', 'first')")
    path.open("rb").close()
    insert = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit(); c.close()"
    theirs = "INSERT INTO systems VALUES (x'ff', 'theirs')"
    subprocess.run([sys.executable, "-c", insert, str(path), theirs], check=True)
    for i in range(10):
        plain.execute("INSERT INTO systems VALUES (?, 'later')", (str(i),))
    count = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM systems').fetchone())"
    )
    seen = subprocess.run([sys.executable, "-c", count, str(path)], check=True, capture_output=True, text=True).stdout
    plain.close()
    assert int(seen) < 12
