"""A real JupyterLab or Notebook 7 server, and a notebook in a real Chromium, driven through the application's own object."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Page

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
]
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
HARMLESS = (
    "reading 'schema'",  # Notebook 7.6, always
    "processLuminoMessage",  # ipywidgets 8.1, of an output that is replaced before its widget is drawn
    "ResizeObserver",  # the browser, of any layout that settles late
)


def chromium() -> str | None:
    """Return the browser's path; None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Server:
    """A Jupyter server of its own: own settings, own folder, no network, ended with its starter.

    Args:
        folder: Everything it writes.
        app: "lab" or "notebook".
        theme: "light" or "dark".
        without: Extensions of the front-end that are switched off.
    """

    def __init__(self, folder: Path, app: str = "lab", theme: str = "light", without: tuple[str, ...] = ()) -> None:
        self.app, self.work = app, folder / "work"
        self.work.mkdir(parents=True)
        runtime = folder / "runtime"
        places = {
            "JUPYTER_CONFIG_DIR": folder / "config",
            "JUPYTER_DATA_DIR": folder / "data",
            "JUPYTER_RUNTIME_DIR": runtime,
            "IPYTHONDIR": folder / "ipython",
            "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        }
        for place in places.values():
            place.mkdir(parents=True)
        labconfig = folder / "config" / "labconfig"
        labconfig.mkdir()
        off = dict.fromkeys(("@jupyterlab/apputils-extension:announcements", *without), True)
        (labconfig / "page_config.json").write_text(json.dumps({"disabledExtensions": off}))
        themes = folder / "settings" / "@jupyterlab" / "apputils-extension"
        themes.mkdir(parents=True)
        name = "JupyterLab Dark" if theme == "dark" else "JupyterLab Light"
        (themes / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))
        self.token = secrets.token_hex(16)
        clean = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_CURRENT_TEST")}
        clean |= {k: str(v) for k, v in places.items()} | {"ORCHESTRAI_DATA_DIR": str(folder / "person")}
        self._log = (folder / "server.log").open("w")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={self.token}"),
                *(f"--ServerApp.root_dir={self.work}", "--ServerApp.terminals_enabled=False"),
                "--ServerApp.shutdown_no_activity_timeout=300",
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                *("--LabApp.expose_app_in_browser=True", "--JupyterNotebookApp.expose_app_in_browser=True"),
                "--LabApp.extension_manager=readonly",
            ],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - it makes one system call
        )
        self.url = self._started(runtime / f"jpserver-{self.process.pid}.json", folder / "server.log")

    def _started(self, told: Path, log: Path) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                url = str(json.loads(told.read_text())["url"]).rstrip("/")
                with urllib.request.urlopen(f"{url}/api/status?token={self.token}", timeout=2):
                    return url
            time.sleep(0.1)
        raise AssertionError(f"the Jupyter server did not start: {log.read_text()[-2000:]}")

    def close(self) -> None:
        """End the server and its kernels."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        finally:
            self._log.close()

    def kernels(self) -> list[dict[str, Any]]:
        """Return the kernels that run."""
        return list(self._asked("kernels"))

    def end_kernels(self) -> None:
        """End every session with its kernel."""
        for session in self._asked("sessions"):
            self._asked(f"sessions/{session['id']}", "DELETE")

    def _asked(self, what: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}/api/{what}?token={self.token}", method=method)
        with urllib.request.urlopen(request, timeout=20) as reply:
            text = reply.read()
        return json.loads(text) if text else None


class Notebook:
    """A notebook that is open in the browser.

    Args:
        server: Where.
        page: In which page.
        cells: Its cells; None to open a file that is there.
        name: Its file.
    """

    def __init__(self, server: Server, page: Page, cells: list[str] | None, name: str) -> None:
        self.server, self.page, self.name = server, page, name
        if cells is not None:
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
            notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(notebook, server.work / name)
        self.open()

    def open(self, *, kernel: bool = True) -> None:
        """Open it, or load the page again."""
        if self.server.app == "lab":
            self.page.goto(f"{self.server.url}/lab/tree/{self.name}?reset&token={self.server.token}")
        else:
            self.page.goto(f"{self.server.url}/notebooks/{self.name}?token={self.server.token}")
        if kernel:
            self.page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=90_000)
        else:
            self.page.wait_for_function(
                "() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=90_000
            )
        self.page.wait_for_selector(".jp-Notebook-cell")

    def start(self, cell: int) -> None:
        """Run a cell and do not wait for it."""
        self.page.evaluate(
            "i => { const w = jupyterapp.shell.currentWidget; w.content.activeCellIndex = i;"
            " void jupyterapp.commands.execute('notebook:run-cell'); }",
            cell,
        )

    def wait(self, cell: int, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Wait until a cell has run; return its outputs."""
        self.page.wait_for_function(
            "i => { const w = jupyterapp.shell.currentWidget; const cell = w.content.widgets[i];"
            " const k = w.sessionContext.session.kernel; return k.status === 'idle' && cell.model.executionCount !== null"
            " && !cell.promptNode.textContent.includes('*'); }",
            arg=cell,
            timeout=timeout_s * 1000,
        )
        return self.outputs(cell)

    def run(self, cell: int, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Run a cell to its end; return its outputs."""
        self.start(cell)
        return self.wait(cell, timeout_s)

    def outputs(self, cell: int) -> list[dict[str, Any]]:
        """Return the outputs of a cell as the notebook's model has them."""
        return list(
            self.page.evaluate("i => jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON()", cell)
        )

    def interrupt(self) -> None:
        """Interrupt the kernel."""
        self.page.evaluate(f"() => {KERNEL}.interrupt()")

    def restart(self) -> None:
        """Restart the kernel."""
        self.page.evaluate(f"() => {KERNEL}.restart()")
        self.page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=60_000)

    def save(self) -> nbformat.NotebookNode:
        """Save it; return what is in the file."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.context.save()")
        return nbformat.read(self.server.work / self.name, as_version=4)

    def cell(self, number: int) -> Any:
        """Return the element of a cell."""
        return self.page.locator(".jp-Notebook-cell").nth(number)

    def settled(self, count: int) -> None:
        """Wait until a live panel shows that at least so many tasks are settled [percent]."""
        self.page.wait_for_function(
            "n => [...document.querySelectorAll('.oai-bar')].some(bar => Number(bar.ariaValueNow) >= n)",
            arg=count,
            timeout=60_000,
        )


@contextlib.contextmanager
def page_of(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open a page that reaches this machine only; in the end it has logged no error and asked for nothing else."""
    context = browser.new_context(viewport={"width": 1180, "height": 900}, **options)
    context.set_default_timeout(60_000)
    outside: list[str] = []
    wrong: list[str] = []

    def route(way: Any) -> None:
        host = way.request.url.split("/")[2].partition(":")[0]
        if host in ("127.0.0.1", "localhost"):
            way.continue_()
        else:
            outside.append(way.request.url)
            way.abort()

    context.route("**/*", route)
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.outside, page.wrong = outside, wrong  # type: ignore[attr-defined]  # for tests that expect some
    try:
        yield page
        unknown = [text for text in wrong if not any(known in text for known in HARMLESS)]
        assert outside + unknown == [], [*outside, *unknown]
    finally:
        context.close()


def outputs_text(outputs: list[dict[str, Any]], kind: str = "text/plain") -> str:
    """Return the texts of outputs: streams, errors, and one kind of data."""
    shown = []
    for output in outputs:
        text = output.get("text") or output.get("data", {}).get(kind) or output.get("traceback") or ""
        shown.append("".join(text) if isinstance(text, list) else str(text))
    return "\n".join(shown)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
