"""The provider on loopback in a process of its own: for measurements, and for tests that kill."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from typing import Any, Final, Self

from orchestrai.testing.faults import Chances
from orchestrai.testing.server import Limits, ProviderServer

_STOP_S: Final = 10.0  # seconds that a child may take to end


class SpawnedServer:
    """A `ProviderServer` as a child process, run by `with`; it dies with its parent, however that dies.

    Args:
        *options: Options of `python -m orchestrai.testing.server`: `"--latency", "lognormal:0.1"`.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def base_url(self) -> str:
        """Its address in the form of `OpenAI(base_url=…)`."""
        return f"{self.url}/v1"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "orchestrai.testing.server", "--until-stdin-closes", *self._options]
        self._process = subprocess.Popen(  # noqa: S603  # our own module and the caller's options, no shell
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        if not self.url:
            self.__exit__()
            raise OSError(f"the provider server did not start: {' '.join(command)}")
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def stats(self) -> dict[str, Any]:
        """Return its counters; see `ProviderServer.stats`."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/_stats", timeout=_STOP_S) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


def main(arguments: list[str] | None = None) -> None:
    """Run the server in this process; its address is the first line of stdout."""
    given = _parser().parse_args(arguments)
    script: Any = json.loads(given.script) if given.script else None
    server = ProviderServer(
        script=Chances(json.loads(given.faults), given.seed) if given.faults else script,
        replies=given.reply,
        latency=given.latency,
        limits=Limits(given.rpm, given.tpm, given.burst_s),
        seed=given.seed,
        piece_s=given.piece_s,
        api_key=given.api_key,
        bill=given.bill,
        keep=False,
        port=given.port,
    )

    def started() -> None:
        print(server.url, flush=True)  # noqa: T201  # the address is this command's output
        if given.until_stdin_closes:
            threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()

    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    run(server.serve(started))


def _stop_with_stdin(server: ProviderServer) -> None:
    sys.stdin.buffer.read()
    server.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrai.testing.server", description="A provider on loopback, for tests and measurements."
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port; 0 for a free one")
    add("--latency", default="0", help="seconds, or lognormal:MEDIAN[:SIGMA]")
    add("--piece-s", type=float, default=0.0, help="seconds between the pieces of a stream")
    add("--rpm", type=float, help="requests per minute")
    add("--tpm", type=float, help="input tokens per minute")
    add("--burst-s", type=float, default=1.0, help="size of the buckets, in seconds of their rate")
    add("--faults", help='chances as JSON: {"429:1": 0.03, "500": 0.05, "cut_body": 0.02, "malformed": 0.01}')
    add("--script", help='faults as JSON: [null, 500], or {"regex": [429, null]}')
    add("--reply", help="the text of every answer; default one made from the prompt")
    add("--seed", type=int, default=0, help="seed of latency and chances")
    add("--api-key", help="the key it demands")
    add("--bill", help="file to which each request is appended before its reply is written")
    add("--until-stdin-closes", action="store_true", help="end when stdin does, and so with the parent")
    return parser
