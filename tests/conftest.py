"""Every test has a home of its own, a clean environment and no way out of this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import settings

from orchestrai.errors import ModelMissing
from orchestrai.platforms import model_file

settings.register_profile("shared machine", deadline=None)  # how long an example takes says nothing there
settings.load_profile("shared machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

_KEEP = ("ORCHESTRAI_TEST_SCALE", "ORCHESTRAI_GGUF")
_KEYS = ("OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "GROQ_", "OPENROUTER_", "CLAUDE", "CODEX_")
_LOGINS = ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the person's own ledger, keys, logins and settings out of every test."""
    for name in list(os.environ):
        if (name.startswith("ORCHESTRAI_") and name not in _KEEP) or name.startswith(_KEYS):
            monkeypatch.delenv(name)
    for name in _LOGINS:
        monkeypatch.setenv(name, str(tmp_path / "no-login"))
    data = tmp_path / "person"
    monkeypatch.setenv("ORCHESTRAI_DATA_DIR", str(data))
    return data


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The file of the embedded demo model, whole and checked: found on this machine, or fetched once."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    if importlib.util.find_spec("xllamacpp") is None:
        give_up("xllamacpp is not installed: pip install 'orchestrai[local]'")
    found = model_file.find_model()
    if found is not None and model_file.is_demo(found):
        return found
    try:
        return model_file.fetch_model()
    except ModelMissing as error:
        give_up(f"the demo model is not here and cannot be fetched: {error}")
        raise
