"""The real demo model for the tests of `orchestrai demo`: found on this machine, or fetched once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from orchestrai.errors import ModelMissing
from orchestrai.platforms import model_file


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The file of the embedded demo model; CI cannot do without it."""
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    if importlib.util.find_spec("xllamacpp") is None:
        give_up("xllamacpp is not installed: pip install 'orchestrai[local]'")
    try:
        return model_file.find_model() or model_file.fetch_model()
    except ModelMissing as error:
        give_up(f"the demo model is not here and cannot be fetched: {error}")
        raise
