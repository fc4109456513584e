"""What the promise tests share: how much to do, children to kill, and the verdict on what is left behind.

The oracle is never the ledger. The provider writes its own bill before each reply, a child writes down what it was
shown, and the verdict compares the two with what the ledger says afterwards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from agreement import INPUT, OUTPUT, check_numbers

from orchestrai.testing import ProviderServer, SpawnedServer, read_bill
from orchestrai.testing.answers import answer_to

SCALE = float(os.environ.get("ORCHESTRAI_TEST_SCALE") or 0.1)


def scaled(full: int, least: int = 1) -> int:
    """Return how many cases to try: `full` at a scale of 1, never fewer than `least`."""
    return max(least, round(full * SCALE))


def seeded() -> random.Random:
    """Return a source of chance whose seed is printed and may be given as PROMISE_SEED."""
    seed = int(os.environ.get("PROMISE_SEED") or random.randrange(2**32))
    print(f"PROMISE_SEED={seed}")
    return random.Random(seed)


class Child:
    """A process that does one job of `worker`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self._code: int | None = None
        self.pid = pid

    def kill(self) -> None:
        """SIGKILL: it cannot notice."""
        os.kill(self.pid, signal.SIGKILL)  # its parent has not reaped it, so the pid is its own

    def pause(self) -> None:
        """SIGSTOP: alive, and infinitely slow."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Return its exit code, -9 when it was killed.

        Raises:
            AssertionError: It failed by itself, or hangs; the message has its last words.
        """
        if self._code is None:
            code = self._nursery.order({"wait": self.pid, "timeout_s": timeout_s})
            assert code in ("0", "-9"), f"the child ended with {code}:\n{self._nursery.last_words()}"
            self._code = int(code)
        return self._code


class Nursery:
    """The process that all children are forked from."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "children.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    def start(self, do: str, **job: Any) -> Child:
        """Start a child on a job of `worker`."""
        return Child(self, int(self.order({"start": {"do": do, **job}})))

    def order(self, order: dict[str, Any]) -> str:
        """Give an order and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        answer = self._process.stdout.readline().strip()
        assert answer, f"the parent of the children is gone:\n{self.last_words()}"
        return answer

    def last_words(self) -> str:
        """Return the end of what the children wrote to stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-4000:]

    def close(self) -> None:
        """End it, and every child that still lives."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass(frozen=True)
class Ask:
    """One request as the provider has it on its own bill."""

    time: float
    prompt: str
    billed: bool
    charge: int = 0  # at the price of the children's platform [pico-USD]


@dataclass
class Kept:
    """What is in a ledger, by prompt."""

    sends: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)  # with an answer that may be charged for
    in_doubt: Counter[str] = field(default_factory=Counter)  # or open: sent, without a recorded end
    answers: dict[str, str] = field(default_factory=dict)
    claims: int = 0
    living: int = 0  # owners that have not ended
    reserved: int = 0  # reservations of quota
    endless: int = 0  # requests without a recorded end; after a recovery they are in doubt

    def left_over(self) -> dict[str, int]:
        """Return what no process that is gone may leave behind, once another has closed the ledger."""
        return {
            name: getattr(self, name) for name in ("claims", "living", "reserved", "endless") if getattr(self, name)
        }


@dataclass(frozen=True)
class Verdict:
    """What went wrong, as counts; the first four are zero or a promise is broken."""

    lost: int  # acknowledged, and not in the ledger as it was shown
    sent_again: int  # requests for a task after its result was acknowledged
    answered_twice: int  # tasks with two succeeded attempts
    unknown: int  # requests on the bill that the ledger knows nothing of
    repeats: int  # requests that were billed, beyond the first of their task, and have no recorded end
    in_doubt: int  # attempts that the ledger has no end of
    acknowledged: int
    requests: int

    def broken(self) -> dict[str, int]:
        """Return the promises that are broken."""
        zeros = ("lost", "sent_again", "answered_twice", "unknown")
        return {name: getattr(self, name) for name in zeros if getattr(self, name)}


class Scene:
    """A project, a provider that stays when its clients die, and everything written down about both.

    Args:
        folder: Empty folder for all of it.
        nursery: Where children come from.
        *options: Options of a provider in its own process.
        provider: A provider in this process instead.
        papers: Folder for what is written down, where it is not to lie beside the project.
    """

    def __init__(
        self,
        folder: Path,
        nursery: Nursery,
        *options: str,
        provider: ProviderServer | None = None,
        papers: Path | None = None,
    ) -> None:
        self.project = folder / "project"
        self.project.mkdir(parents=True)
        self._folder = folder = papers or folder
        folder.mkdir(exist_ok=True)
        self._nursery = nursery
        self._bill = folder / "bill.jsonl"
        self._server = provider or SpawnedServer("--bill", str(self._bill), *options)
        self._reports = 0

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.__exit__(*args)

    def start(self, prompts: list[str], how: str = "as_completed", do: str = "calls", **job: Any) -> Run:
        """Start a child on these prompts."""
        self._reports += 1
        report = self._folder / f"report-{self._reports}.json"
        child = self._nursery.start(
            do,
            project=str(self.project),
            base_url=self._server.base_url,
            prompts=prompts,
            how=how,
            acks=str(self._folder / "acks.jsonl"),
            report=str(report),
            **job,
        )
        return Run(child, report)

    @property
    def base_url(self) -> str:
        """The provider's address."""
        return self._server.base_url

    @property
    def ledger(self) -> Path:
        """The ledger's folder."""
        return self.project / ".orchestrai"

    def asked(self) -> list[Ask]:
        """Return the provider's bill, once it is done with every request."""
        _wait_until(lambda: not self._server.stats()["in_flight"])
        if isinstance(self._server, ProviderServer):
            return [
                Ask(
                    r.time,
                    first_prompt(r.json),
                    r.billed_tokens > 0,
                    _charge(r.billed_tokens, r.input_tokens, r.output_tokens),
                )
                for r in self._server.requests
            ]
        return [
            Ask(line["time"], line["prompt"], line["billed_tokens"] > 0,
                _charge(line["billed_tokens"], line["input_tokens"], line["output_tokens"]))
            for line in read_bill(self._bill)
        ]  # fmt: skip

    def wait_for_requests(self, count: int) -> None:
        """Wait until the provider has received so many."""
        _wait_until(lambda: self._server.stats().get("requests", 0) >= count)

    def acknowledged(self) -> list[dict[str, Any]]:
        """Return what children were shown."""
        return read_acks(self._folder / "acks.jsonl")

    def verdict(self) -> Verdict:
        """Judge what is there; only while no child is at work. The numbers must agree, whoever is asked."""
        asked = self.asked()
        verdict = judge(asked, self.acknowledged(), read_ledger(self.ledger, self._folder / "copy"))
        if (self.ledger / "ledger.db").exists() and not verdict.unknown:
            bill = [(ask.prompt, ask.charge) for ask in asked]
            print(check_numbers(self.ledger, self._folder / "numbers", bill))
        return verdict


@dataclass
class Run:
    """A child at work and where it reports."""

    child: Child
    report: Path

    def outcome(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait for its end and return its report."""
        assert self.child.wait(timeout_s) == 0
        report: dict[str, Any] = json.loads(self.report.read_text(encoding="utf-8"))
        return report

    def has_all(self, prompts: list[str]) -> None:
        """Wait for its end; it must have every answer, the right one, in the order of the input."""
        results = self.outcome()["results"]
        assert [(prompt, output, status) for prompt, output, status, _ in results] == [
            (prompt, answer_to(prompt), "succeeded") for prompt in prompts
        ]


def _charge(billed: int, input_tokens: int, output_tokens: int) -> int:
    return INPUT * input_tokens + OUTPUT * output_tokens if billed else 0


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "not reached within 20 s"
        time.sleep(0.005)


def first_prompt(body: Mapping[str, Any]) -> str:
    """Return the prompt of the task that a request belongs to; a repair has further messages behind it."""
    prompt: str = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return prompt


def read_acks(path: Path) -> list[dict[str, Any]]:
    """Return the lines that children wrote of what they were shown."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def read_ledger(ledger: Path, copy: Path) -> Kept:
    """Return what a ledger holds that nobody has open, from a copy: looking must not repair what a death left.

    Raises:
        AssertionError: It is damaged.
    """
    kept = Kept()
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    if not (ledger / "ledger.db").exists():
        return kept
    for name in ("ledger.db", "ledger.db-wal"):
        if (ledger / name).exists():
            shutil.copy(ledger / name, copy / name)
    connection = sqlite3.connect(copy / "ledger.db", isolation_level=None)
    try:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        connection.execute(
            "CREATE TEMP VIEW requests AS SELECT s.seq, p.text AS prompt, a.status, a.cost_source FROM sends s "
            "JOIN prompts p ON p.send_seq = coalesce(s.prompt_seq, s.seq) LEFT JOIN attempts a ON a.send_seq = s.seq"
        )
        (requests,) = connection.execute("SELECT count(*) FROM sends").fetchone()
        kept.sends.update(prompt for (prompt,) in connection.execute("SELECT prompt FROM requests"))
        assert kept.sends.total() == requests, "a request is in the ledger without its prompt"
        for prompt, status, cost_source in connection.execute("SELECT prompt, status, cost_source FROM requests"):
            kept.succeeded[prompt] += status == "succeeded"
            kept.in_doubt[prompt] += status in (None, "in_doubt")
            kept.endless += status is None
            kept.ended[prompt] += status in ("succeeded", "failed") and cost_source != "zero"
        kept.answers = dict(
            connection.execute(
                "SELECT r.prompt, t.text FROM requests r JOIN answers t ON t.send_seq = r.seq "
                "JOIN attempts a ON a.send_seq = r.seq WHERE a.settles AND a.status = 'succeeded'"
            )
        )
        (kept.reserved,) = connection.execute("SELECT count(*) FROM reservations").fetchone()
        (kept.claims,) = connection.execute("SELECT count(*) FROM claims").fetchone()
        (kept.living,) = connection.execute("SELECT count(*) FROM owners WHERE ended_at IS NULL").fetchone()
    finally:
        connection.close()
    return kept


def judge(asked: list[Ask], acknowledged: list[dict[str, Any]], kept: Kept) -> Verdict:
    """Compare the provider's bill and what was shown with what the ledger says."""
    answers = [ack for ack in acknowledged if ack["status"] == "succeeded"]
    shown: dict[str, float] = {}
    for ack in answers:
        shown.setdefault(ack["prompt"], ack["time"])
    outputs = {(ack["prompt"], ack["output"]) for ack in answers}
    requests = Counter(ask.prompt for ask in asked)
    billed = Counter(ask.prompt for ask in asked if ask.billed)
    return Verdict(
        lost=sum(kept.answers.get(prompt) != output for prompt, output in outputs),
        sent_again=sum(ask.time > shown.get(ask.prompt, ask.time) for ask in asked),
        answered_twice=sum(count > 1 for count in kept.succeeded.values()),
        unknown=(requests - kept.sends).total(),
        repeats=sum(count - max(1, kept.ended[prompt]) for prompt, count in billed.items()),
        in_doubt=kept.in_doubt.total(),
        acknowledged=len(outputs),
        requests=len(asked),
    )
