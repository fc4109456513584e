"""Real JupyterLab in real Chromium. Without a browser these tests are skipped on a person's machine, and fail in CI."""

from __future__ import annotations

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MISSING = [name for name in ("playwright", "jupyterlab", "notebook") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["*"] if "playwright" in MISSING and not os.environ.get("CI") else []

if not collect_ignore_glob:
    from jupyter import FLAGS, Notebook, Server, chromium, page_of
    from playwright.sync_api import Browser, Page, sync_playwright


@pytest.fixture(
    scope="module"
)  # while it lives, its loop counts as running, and other tests of the process could run none
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None or MISSING:
        what = ", ".join([*MISSING, *([] if path else ["chromium"])])
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the browser tests need {what}")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots go: to CI's artefacts, or nowhere in particular."""
    folder = Path(os.environ.get("TEST_SHOTS") or Path(tempfile.gettempdir()) / "orchestrai-shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with page_of(browser) as opened:
        yield opened


_numbers = itertools.count(1)


@pytest.fixture
def notebook(lab: Server, page: Page) -> Iterator[Callable[..., Notebook]]:
    def opened(*cells: str, **more: Any) -> Notebook:
        return Notebook(more.get("server", lab), more.get("page", page), list(cells), f"case_{next(_numbers)}.ipynb")

    yield opened
    lab.end_kernels()
