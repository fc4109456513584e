"""A person's shell: the commands as real processes against a provider on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from orchestrai.testing.server import ProviderServer

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m \x9b31m [bold]loud[/bold] \u202etxt"
PRICES = '[prices."127.0.0.1/gpt-5-mini"]\ninput_mtok = "0.25"\noutput_mtok = "2"\n'
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "command_line.md"


@dataclass
class Shell:
    """A person's shell: a folder, an environment, and the command.

    Args:
        folder: Working directory and home.
        server: The provider that is configured; None when none is.
        more: Further environment variables.
    """

    folder: Path
    server: ProviderServer | None = None
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT", "PYTHONPATH") if name in os.environ}
        home = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache"), "PYTHONWARNINGS": "error"}
        data = {"ORCHESTRAI_DATA_DIR": str(self.folder / "person")}
        provider = {}
        if self.server is not None:
            provider = {
                "OPENAI_BASE_URL": self.server.base_url,
                "OPENAI_API_KEY": "sk-test",
                "OPENAI_MODEL": "gpt-5-mini",
            }
        return {**kept, **home, **data, **provider, **self.more}

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "orchestrai", *map(str, words)]

    def __call__(
        self, *words: object, stdin: str | bytes = b"", folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=folder or self.folder,
            env=self.environment,
            timeout=120,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def json(self, *words: object, code: int = 0):
        done = self(*words, "--format", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def file(self, name: str, content: object) -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path
