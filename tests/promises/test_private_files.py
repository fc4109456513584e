"""P26: prompts and answers are for their owner's eyes, whatever the umask."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from harness import Scene

pytestmark = [
    pytest.mark.promise,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes"),
]


def open_to_others(folder: Path) -> dict[str, str]:
    """Return everything below a folder, itself included, that is not its owner's alone."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode != (0o700 if path.is_dir() else 0o600):
            found[str(path)] = oct(mode)
    return found


def test_every_file_of_a_ledger_is_private_under_an_open_umask(tmp_path, nursery):
    """After a whole run under umask 0, during it, and after a kill: files 0600, folders 0700."""
    prompts = [f"task {i}" for i in range(200)]
    with Scene(tmp_path, nursery, "--latency", "0.01") as scene:
        killed = scene.start(prompts, umask=0)
        scene.wait_for_requests(20)
        assert open_to_others(scene.ledger) == {}
        killed.child.kill()
        killed.child.wait()
        assert open_to_others(scene.ledger) == {}
        scene.start(prompts, umask=0).has_all(prompts)
        assert open_to_others(scene.ledger) == {}
        names = {path.name for path in scene.ledger.iterdir()}
    assert {"ledger.db", "ledger.db.lock", "owners", ".gitignore"} <= names


def test_folders_that_are_made_on_the_way_to_a_ledger_are_private(tmp_path, nursery):
    """A data directory whose parents do not exist yet: all that is made is for the owner alone."""
    with Scene(tmp_path, nursery) as scene:
        prompts = ["one"]
        scene.start(prompts, umask=0, data_dir=str(tmp_path / "a" / "b" / "c")).has_all(prompts)
    assert (tmp_path / "a" / "b" / "c" / "ledger.db").exists()
    assert open_to_others(tmp_path / "a") == {}


def test_the_check_sees_a_file_that_is_open_to_others(tmp_path):
    """The control."""
    before = os.umask(0)
    try:
        (tmp_path / "open").touch()
    finally:
        os.umask(before)
    assert str(tmp_path / "open") in open_to_others(tmp_path)
