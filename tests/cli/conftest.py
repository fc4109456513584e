"""A shell with a provider, and one with nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_shell import HOSTILE, PRICES, Shell

from orchestrai.testing.server import ProviderServer


@pytest.fixture
def shell(tmp_path: Path):
    with ProviderServer(script={"poison": 400}, replies={"hostile": HOSTILE}) as server:
        shell = Shell(tmp_path, server)
        shell.file("orchestrai.toml", PRICES)
        yield shell


@pytest.fixture
def bare(tmp_path: Path) -> Shell:
    return Shell(tmp_path)
