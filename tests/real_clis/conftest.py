"""The real clients, from npm: found on PATH or below REAL_CLIS_DIR, sent to the loopback, and gone after each test.

    npm install --prefix DIR @anthropic-ai/claude-code@2.1.197 @openai/codex@0.169.0 @google/gemini-cli@0.61.0
    REAL_CLIS_DIR=DIR pytest tests/real_clis

Where CI or REAL_CLIS_DIR is set, a client that is missing is a failure; elsewhere its tests are skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrai.platforms import process

CLIENTS = {"test_claude_code": "claude", "test_codex": "codex", "test_gemini_cli": "gemini"}
FOLDER = os.environ.get("REAL_CLIS_DIR")
STRANGERS = ("CLAUDE", "ANTHROPIC_", "CODEX_", "OPENAI_", "GEMINI_", "GOOGLE_", "CLOUDSDK_")


@pytest.fixture(autouse=True)
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the absolute path of the client under test; nobody's login and settings are in reach of it."""
    if FOLDER:
        monkeypatch.setenv(
            "PATH", f"{Path(FOLDER).absolute() / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
        )
    for name in list(os.environ):
        if name.startswith(STRANGERS):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    name = CLIENTS[request.module.__name__.rpartition(".")[2]]
    path = process.find_binary(name)
    if path is None:
        give_up = pytest.fail if FOLDER or os.environ.get("CI") else pytest.skip
        give_up(f"{name} is not installed: see the head of {Path(__file__).name}")
    return path


@pytest.fixture(autouse=True)
def nothing_is_left(client: str, tmp_path: Path) -> Iterator[None]:
    """Fail where a process of this test lives on, whoever its parent is by then: the test's home is in its environment."""
    mark = f"HOME={tmp_path / 'home'}\0".encode()
    yield
    end = time.monotonic() + 10.0
    while left := _marked(mark):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.02)


def _marked(mark: bytes) -> list[str]:
    """Return the command lines of the other processes whose environment holds the mark; Linux alone can tell."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes() + b"\0":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:  # it ended, or is another person's
            continue
    return found
