"""The commands in a real terminal: tmux draws it, types into it and reads what stands there."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from command_shell import HOSTILE, Shell

from orchestrai.testing.server import ProviderServer


class Terminal:
    """A terminal of 100 columns with a shell in it.

    Args:
        folder: Working directory and home.
        environment: What the shell knows besides.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.socket = f"orchestrai-{uuid.uuid4().hex[:8]}"
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        environment = {**kept, "HOME": str(folder), "PS1": "$ ", "TERM": "screen-256color", **environment}
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), "bash", "--norc", "-i"]
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", "-c", str(folder), *words)
        self.wait_for(lambda screen: "$" in screen)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.socket, *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def type(self, words: str, *, enter: bool = True) -> None:
        self._tmux("send-keys", "-l", "--", words)
        if enter:
            self.press("Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def screen(self, *, styles: bool = False) -> str:
        return self._tmux("capture-pane", "-p", "-S", "-200", *(["-e"] if styles else []))

    def title(self) -> str:
        return self._tmux("display-message", "-p", "#{pane_title}").strip()

    def wait_for(self, seen, timeout_s: float = 60.0) -> str:
        until = time.monotonic() + timeout_s
        while not seen(screen := self.screen()):
            assert time.monotonic() < until, screen
            time.sleep(0.05)
        return screen

    def run(self, words: str, *, styles: bool = False) -> str:
        """Run a command to its end and return the screen; its exit code stands at the end as `exit N`."""
        self._tmux("send-keys", "-R")
        self._tmux("clear-history")
        self.type(f"{words}; echo exit $?")
        self.wait_for(lambda screen: re.search(r"^exit \d+$", screen, re.MULTILINE))
        return self.screen(styles=styles)

    def resize(self, columns: int) -> None:
        self._tmux("resize-window", "-x", str(columns))

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def command(tmp_path: Path) -> str:
    """The command under the name by which a person calls it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "orchestrai"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m orchestrai "$@"\n')
    script.chmod(0o755)
    return str(folder)


@pytest.fixture
def server():
    is_late = [True]
    with ProviderServer(
        script=lambda request: "hang" if is_late[0] and "late" in request.prompt else None, replies={"hostile": HOSTILE}
    ) as server:
        server.is_late = is_late
        yield server


@pytest.fixture
def terminal(tmp_path: Path, server, command):
    if shutil.which("tmux") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("tmux is not installed")
    environment = {
        "PATH": f"{command}:{os.environ['PATH']}",
        "ORCHESTRAI_DATA_DIR": str(tmp_path / "person"),
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_MODEL": "gpt-5-mini",
    }
    terminal = Terminal(tmp_path, environment)
    yield terminal
    terminal.close()


def test_a_batch_shows_its_progress_live_and_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    tmp_path, server, terminal
):
    (tmp_path / "tasks.csv").write_text("text\n" + "".join(f"quick {i}\n" for i in range(6)) + "late 1\nlate 2\n")
    terminal.type("orchestrai batch -i tasks.csv --prompt '{text}' -o out.csv -y; echo exit $?")
    terminal.wait_for(lambda screen: re.search(r"6/8|6 of 8", screen) and not re.search(r"^exit", screen, re.MULTILINE))
    terminal.press("C-c")
    screen = terminal.wait_for(lambda screen: re.search(r"^exit 130$", screen, re.MULTILINE))
    assert "Traceback" not in screen
    assert "6 of 8 answered" in screen
    (batch,) = re.findall(r"orchestrai resume (\w+)", screen)
    server.is_late[0] = False
    screen = terminal.run(f"cd / && orchestrai resume {batch}")
    assert "exit 0" in screen
    assert "8 of 8 answered" in screen
    assert len(server.prompts) == len(set(server.prompts)) + 2  # the two that were under way at Ctrl-C
    assert (tmp_path / "out.csv").read_text().count("succeeded") == 8


def test_no_answer_drives_the_terminal(terminal):
    before = terminal.title()
    screen = terminal.run("orchestrai submit -p hostile -y", styles=True)
    assert "exit 0" in screen
    assert "[bold]loud[/bold]" in screen
    assert "orchestrai submit" in screen  # it was not cleared
    assert "\x1b[31mred" not in screen
    assert terminal.title() == before
    terminal.run("printf '\\033]0;owned\\007'")  # the control: the terminal does obey
    assert terminal.title() == "owned"


def test_styles_are_for_terminals_that_want_them(terminal):
    assert "\x1b[32m" in terminal.run("orchestrai submit -p a -y", styles=True)
    assert "\x1b[" not in terminal.run("NO_COLOR=1 orchestrai submit -p b -y", styles=True)
    assert "\x1b[" not in terminal.run("orchestrai submit -p c -y | cat", styles=True)


def test_a_shell_completes_commands_and_options(terminal):
    terminal.run("orchestrai --show-completion bash > completion.sh")
    terminal.run(". ./completion.sh")
    terminal.type("orchestrai res", enter=False)
    terminal.press("Tab")
    terminal.wait_for(lambda screen: re.search(r"orchestrai resume\s*$", screen.strip()))
    terminal.type(" --for", enter=False)
    terminal.press("Tab")
    terminal.wait_for(lambda screen: re.search(r"orchestrai resume +--format\s*$", screen.strip()))


def test_status_in_another_terminal_shows_what_runs(tmp_path, server, terminal):
    (tmp_path / "tasks.json").write_text('["quick", "late"]')
    terminal.type("orchestrai batch -i tasks.json --name here -y > log 2>&1 &")
    server.wait_for(lambda: "late" in server.prompts, timeout_s=60)
    screen = terminal.run("orchestrai status")
    (row,) = [line for line in screen.splitlines() if re.search(r"running +here", line)]
    assert "1/2" in row
    terminal.type("kill %1")


@pytest.mark.parametrize("columns", [50, 80, 100, 140])
def test_no_amount_and_no_id_is_broken_however_narrow_the_terminal_is(tmp_path, terminal, columns):
    prices = '[prices."127.0.0.1/gpt-5-mini"]\ninput_mtok = "0.25"\noutput_mtok = "2"\n'
    (tmp_path / "orchestrai.toml").write_text(prices)
    terminal.resize(columns)
    terminal.run("orchestrai submit --chain-id c -y -p 'a prompt of several words'")
    for words in ("costs --by batch", "costs --chain-id c", "status", "chains", "chains c"):
        screen = terminal.run(f"orchestrai {words} > plain; orchestrai {words}")
        table = (tmp_path / "plain").read_text().split("\n\n")[0]
        whole = re.findall(r"\$[\d.]+|[0-9a-f]{32}", table)
        assert whole, table
        assert [word for word in whole if word not in screen] == [], screen


def on_terminal(shell: Shell, *words: object) -> str:
    """Return all that a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**shell.environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(
        shell.command(*words), cwd=shell.folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    written = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # Linux says EIO when the last writer has gone
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    process.wait(10)
    return written.decode()


@pytest.mark.parametrize("format", ["text", "json"])
def test_hostile_words_of_a_model_reach_a_terminal_inert(shell, format):
    tasks = shell.file("tasks.json", ["hostile words", f"hostile prompt {HOSTILE}"])
    for words in (("submit", "-p", "hostile"), ("batch", "-i", tasks)):
        screen = on_terminal(shell, *words, "--format", format)
        assert "loud" in screen
        assert "[bold]" in screen  # markup stays text
        assert not re.search("\x1b\\]|\x07|\x9b|\u202e|\x1b\\[31mred", screen)


def test_a_terminal_gets_styles_and_no_color_takes_them_away(shell):
    tasks = shell.file("tasks.json", ["a", "b"])
    assert "\x1b[" in on_terminal(shell, "batch", "-i", tasks)
    shell.more["NO_COLOR"] = "1"
    screen = on_terminal(shell, "platforms") + on_terminal(shell, "submit", "-p", "x")
    assert "openai" in screen
    assert "\x1b" not in screen
    colours = re.compile("\x1b\\[[0-9;]*m")
    assert not [
        code for code in colours.findall(on_terminal(shell, "batch", "-i", tasks)) if re.search("[34][0-9]", code)
    ]
