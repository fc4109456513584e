"""What the tests of the public calls share: a platform on loopback, an orchestrator with a folder of its own, a child."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrai import Orchestrator
from orchestrai.platforms import OpenAI
from orchestrai.testing import ProviderServer, SpawnedServer


def openai(server: ProviderServer | SpawnedServer, **more: Any) -> OpenAI:
    """Return the server as a platform."""
    return OpenAI(**{"base_url": server.base_url, "api_key": "test", "model": "test-model", **more})


def orchestrator(folder: Path, *platforms: Any, **settings: Any) -> Orchestrator:
    """Return an orchestrator with its ledger in `folder`."""
    return Orchestrator(folder, platforms=platforms, settings=settings)


async def upper(request: Any) -> str:
    """Answer with the last message in capitals: an async function as a platform."""
    return str(request.messages[-1].text).upper()


def python(script: str, *arguments: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a script in a process of its own, its warnings errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=None if env is None else dict(env),
    )


def finished(script: str, *arguments: object, env: Mapping[str, str] | None = None) -> str:
    """Run a script to its end, which must be a clean one, and return what it printed."""
    child = python(script, *arguments, env=env)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, ""), f"exit {child.returncode}\n{out}\n{err}"
    return out
