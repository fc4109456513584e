"""A ledger with a known history, made once and read by many tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from history import lived, orchestrator

from orchestrai import Orchestrator


@pytest.fixture(scope="module")
def orch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    """Return an orchestrator whose ledger has calls of every kind."""
    with orchestrator(tmp_path_factory.mktemp("lived")) as made:
        yield lived(made)


@pytest.fixture
def empty(tmp_path: object) -> Iterator[Orchestrator]:
    """Return an orchestrator with a new ledger."""
    with orchestrator(tmp_path) as made:  # type: ignore[arg-type]
        yield made
