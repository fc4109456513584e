"""Gemini CLI on this machine: its program, its login, and a home that seals it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, Final

import orjson

from orchestrai.errors import PlatformError
from orchestrai.platforms import process

INSTALL: Final = "npm install -g @google/gemini-cli"
LOGIN: Final = "gemini (once, to log in)"
GOOGLE: Final = "oauth-personal"
API_KEY: Final = "gemini-api-key"
LOGINS: Final = (GOOGLE, API_KEY)

_PACKAGE: Final = "@google/gemini-cli"
_CREDENTIALS: Final = "oauth_creds.json"
_ACCOUNTS: Final = "google_accounts.json"
_LINKED: Final = (_CREDENTIALS, _ACCOUNTS)
_SELECTED: Final = re.compile(r'"selectedType"\s*:\s*"([^"]+)"')
_OFF: Final = {"enabled": False}
_SETTINGS: Final[dict[str, Any]] = {
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False, "maxAttempts": 1}
    | {"retryFetchErrors": False},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": _OFF,
    "advanced": {"autoConfigureMemory": False},
    "tools": {"core": ["none"], "useRipgrep": False},
    "skills": _OFF,
    "hooksConfig": _OFF,
    "context": {"includeDirectoryTree": False, "fileName": "NO_SUCH_FILE.md"},
    "admin": {"mcp": _OFF, "extensions": _OFF, "skills": _OFF},
    "agents": {"overrides": dict.fromkeys(("codebase_investigator", "cli_help", "generalist", "browser_agent"), _OFF)},
    "model": {"maxSessionTurns": 2},
}


class Home:
    """A folder for one process, which holds nothing of the person's but the Google login, as links.

    Gemini CLI keeps every prompt and answer in its home and, of requests that fail, in the folder for temporary files:
    both are in here and go with it. It reads the first `.env` that it finds from its working folder upwards: the empty
    one in here ends the search.
    """

    def __init__(self, login: str, person: Path) -> None:
        """Make the folder.

        Args:
            login: One of `LOGINS`.
            person: The home in which the person is logged in.
        """
        self.path = Path(tempfile.mkdtemp(prefix="orchestrai-gemini-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)  # also where nobody closes anything
        self.work = self.path / "empty"
        self.system = self.path / "system.md"
        own = self.path / ".gemini"
        for folder in (self.work, self.path / "tmp", own):
            folder.mkdir()
        (self.path / ".env").touch()
        security = {"auth": {"selectedType": login}, "folderTrust": {"enabled": False}}
        (own / "settings.json").write_bytes(orjson.dumps({"security": security, **_SETTINGS}))
        for name in _LINKED if login == GOOGLE else ():
            if (person / ".gemini" / name).exists():
                (own / name).symlink_to(person / ".gemini" / name)

    def environment(self) -> dict[str, str]:
        """Return the variables that keep a process inside."""
        return {
            "GEMINI_CLI_HOME": str(self.path),
            "HOME": str(self.path),
            "GEMINI_CLI_NO_RELAUNCH": "1",  # else it starts itself once more and leaves a process behind
            "GEMINI_SYSTEM_MD": str(self.system),
            "TMPDIR": str(self.path / "tmp"),
            "NO_BROWSER": "true",
            "NO_COLOR": "1",
        }

    def record(self, session: str) -> bytes:
        """Return what it kept of a session, and remove it; empty when it kept nothing."""
        kept = b""
        for path in self.path.glob(f".gemini/tmp/*/chats/session-*-{session[:8]}.jsonl"):
            kept += path.read_bytes()
            path.unlink(missing_ok=True)
        return kept

    def remove(self) -> None:
        """Remove the folder; the login that it links to stays."""
        shutil.rmtree(self.path, ignore_errors=True)


def person_home(given: str | Path | None) -> Path:
    """Return the folder that holds the person's `.gemini`."""
    return Path(given or os.environ.get("GEMINI_CLI_HOME") or Path.home()).expanduser().absolute()


def binary_of(given: str | None) -> str | None:
    """Return the absolute path of `gemini`; None when it is not installed."""
    found = process.find_binary("gemini") if given is None else str(Path(given).expanduser().absolute())
    return found if found is not None and Path(found).exists() else None


def version_of(binary: str) -> str | None:
    """Return the version that the package beside the program names; asked itself, it takes 4 s to tell."""
    for folder in Path(binary).resolve().parents:
        try:
            package = orjson.loads((folder / "package.json").read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(package, dict) and package.get("name") == _PACKAGE:
            return str(package.get("version"))
    return None


def login_of(person: Path) -> str | None:
    """Return how the person is logged in: what the settings select, else what is there; None for neither."""
    try:
        selected = _SELECTED.search((person / ".gemini" / "settings.json").read_text("utf-8"))  # JSON with comments
    except (OSError, UnicodeDecodeError):
        selected = None
    if selected is not None:
        return selected[1]
    if has_google_login(person):
        return GOOGLE
    return API_KEY if os.environ.get("GEMINI_API_KEY") else None


def has_google_login(person: Path) -> bool:
    """Return True when the credentials of a Google login are there; nothing is known of whether they still hold."""
    return (person / ".gemini" / _CREDENTIALS).is_file()


def account_of(person: Path) -> str | None:
    """Return the first 8 hex digits of the SHA-256 of the account that is logged in with Google; None when untold."""
    try:
        accounts = orjson.loads((person / ".gemini" / _ACCOUNTS).read_bytes())
    except (OSError, ValueError):
        return None
    active = accounts.get("active") if isinstance(accounts, dict) else None
    return hashlib.sha256(active.encode()).hexdigest()[:8] if isinstance(active, str) else None


def write_system(home: Home, text: str) -> None:
    """Write the system prompt, which is read when a session begins.

    Raises:
        PlatformError: request: it holds what Gemini CLI would replace, or half a surrogate pair.
    """
    replaced = re.search(r"\$\{(AgentSkills|SubAgents|AvailableTools)\}", text)
    if replaced is not None:
        raise PlatformError("request", f"the system prompt holds {replaced[0]}, which Gemini CLI replaces.")
    try:
        home.system.write_bytes(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        message = f"the system prompt holds half a surrogate pair (character {error.start})."
        raise PlatformError("request", message) from None
