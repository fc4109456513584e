"""Codex CLI on this machine: its binary, its login, what it knows, and a home that seals it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError
from orchestrai.platforms import codex_output, process

INSTALL: Final = "npm install -g @openai/codex"
LOGIN: Final = "codex login"
LOGIN_FILE: Final = "auth.json"
CATALOGUE: Final = "models-without-tools.json"

_STATUS: Final = {b"chatgpt": "chatgpt", b"api key": "apikey"}
_ASK_S: Final = 10.0  # seconds for a short question about the binary itself (0.05 s on an idle machine)
_NESTED: Final = "node_modules/@openai/codex-*/vendor/*/bin/codex"
_known_binaries: Final[dict[tuple[str, int], tuple[tuple[str, ...], bytes]]] = {}
_SWITCHED_OFF: Final = (
    *("shell_tool", "unified_exec", "multi_agent", "goals", "view_image", "apps", "plugins", "remote_plugin"),
    *("skill_search", "tool_suggest", "image_generation", "computer_use", "browser_use", "in_app_browser", "hooks"),
    *("shell_snapshot", "workspace_dependencies", "sleep_tool", "mentions_v2", "memories"),
    *("unbounded_connection_retries",),  # else a provider that is not there is asked for ever
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Yield a new private folder and remove it."""
    path = Path(tempfile.mkdtemp(prefix="orchestrai-codex-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def home_of(given: str | Path | None) -> Path:
    """Return the folder in which Codex keeps its login."""
    return Path(given or os.environ.get("CODEX_HOME") or Path.home() / ".codex").expanduser().absolute()


def binary_of(given: str | Path | None) -> str | None:
    """Return the native binary behind npm's launcher, which would stay in between as a second process."""
    found = process.find_binary("codex") if given is None else str(Path(given).expanduser().absolute())
    if found is None or not Path(found).exists():
        return None
    launcher = Path(found).resolve()
    if launcher.suffix == ".js":
        modules = launcher.parent.parent.parent  # …/node_modules/@openai/codex/bin/codex.js
        for native in sorted((*modules.glob("codex-*/vendor/*/bin/codex"), *launcher.parents[1].glob(_NESTED))):
            return str(native)
    return found


def login_file(home: Path) -> Mapping[str, Any]:
    """Return what stands in `auth.json`; empty without one."""
    try:
        given = orjson.loads((home / LOGIN_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}


def login_of(binary: str, home: Path) -> str | None:
    """Return how Codex is logged in, chatgpt or apikey; None when it is not."""
    auth = login_file(home)
    if auth:
        mode = auth.get("auth_mode") or ("apikey" if auth.get("OPENAI_API_KEY") else "chatgpt")
        return "chatgpt" if "chatgpt" in str(mode).lower() else "apikey"
    if not home.is_dir():
        return None
    # The login may be in the system's keyring, which only Codex reads.
    asked = process.ask(
        binary, ["login", "status"], env=process.environment(values={"CODEX_HOME": str(home)}), timeout_s=1.5
    )
    said = (asked.stdout + asked.stderr).lower()
    if asked.code != 0:
        return None
    return next((login for word, login in _STATUS.items() if b"using" in said and word in said), None)


def known_of(binary: str) -> tuple[tuple[str, ...], bytes]:
    """Return what seals this binary, asked once while its file stays the same.

    Returns:
        `--disable` for the features that it knows (a name that it does not know would be fatal), and its catalogue of
        models without their tools.
    """
    key = (binary, Path(binary).stat().st_mtime_ns)
    if key not in _known_binaries:
        with folder() as home:
            env = process.environment(values={"CODEX_HOME": str(home)})
            listed = process.ask(binary, ["features", "list"], env=env, timeout_s=_ASK_S)
            models = process.ask(binary, ["debug", "models", "--bundled"], env=env, timeout_s=_ASK_S, largest=2**24)
        known, catalogue = codex_output.features(listed.stdout), codex_output.without_tools(models.stdout)
        if not known or catalogue is None:
            raise PlatformError("request", f"{binary} told no features and models. Update it: {INSTALL}")
        switches = tuple(word for name in _SWITCHED_OFF if name in known for word in ("--disable", name))
        _known_binaries[key] = (switches, catalogue)
    return _known_binaries[key]


def made_home(models: bytes) -> Path:
    """Return a new home that holds nothing but the catalogue of models."""
    home = Path(tempfile.mkdtemp(prefix="orchestrai-codex-"))
    (home / CATALOGUE).write_bytes(models)
    return home


def link_login(home: Path, person: Path) -> bool:
    """Put the person's login into a home as a link, and return whether there is one that can be.

    Codex writes a refreshed login through the link (seen), so that the person's own stays the newest.
    """
    login, link = person / LOGIN_FILE, home / LOGIN_FILE
    if login.exists() and not link.is_symlink():
        link.symlink_to(login)
    return login.exists()
