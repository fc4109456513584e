"""Children for all promise tests, forked from one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Return where children come from."""
    nursery = Nursery(tmp_path_factory.mktemp("children"))
    yield nursery
    nursery.close()
