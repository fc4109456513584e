"""What a provider on loopback does wrong, and when: by script, reproducibly."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import statistics
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from orchestrai.errors import nearest

FaultKind = Literal[
    "status",
    "malformed",
    "cut_body",
    "cut_stream",
    "empty",
    "hang",
    "slow",
    "reset",
    "gzip_bomb",
    "redirect",
    "wrong_charset",
    "raw",
]
"""What goes wrong.

status: an error reply · malformed: JSON cut in half, its length correct · cut_body, cut_stream: the connection ends
half way · empty: 200 without a body · hang: no reply until the client leaves · slow: the answer, `seconds` later ·
reset: the connection is reset · gzip_bomb: 64 MiB of blanks in 64 KiB · redirect: 307 to `location` ·
wrong_charset: Latin-1 that says it is UTF-8 · raw: exactly `status`, `headers` and `body`.
"""

_NORMAL: Final = statistics.NormalDist()
_BOMB: Final = 64 * 2**20  # bytes unpacked


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong with one request.

    Args:
        kind: See `FaultKind`.
        status: Status of the reply (status, raw).
        headers: Further headers of the reply.
        code: The provider's error code (status).
        message: The provider's words (status).
        seconds: How long it is late (slow), or after how long the connection ends (hang; 0 never) [s].
        body: The bytes of the reply (raw).
        location: Where it redirects to.
    """

    kind: FaultKind
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str | None = None
    message: str | None = None
    seconds: float = 0.0
    body: bytes = b""
    location: str = "/elsewhere"

    @property
    def is_billed(self) -> bool:
        """True where a provider would have done the work: the fault is in what came back."""
        return self.kind not in ("hang", "reset", "redirect") and self.status < 300


Step = Fault | int | str | Mapping[str, Any] | None
"""What happens to one request: None is an answer; 429 or "429:2" a status (with `retry-after: 2`); "cut_body" a kind,
"slow:0.5" one with seconds; a mapping the fields of a Fault."""


def fault_of(step: Step) -> Fault | None:
    """Return a step of a script in its full form.

    Raises:
        ValueError: It is no step; the message names the nearest kind.
    """
    if step is None or isinstance(step, Fault):
        return step
    if isinstance(step, Mapping):
        return Fault(**step)
    name, _, number = str(step).partition(":")
    if name.isdigit():
        return Fault("status", int(name), headers={"retry-after": number} if number else {})
    if name not in get_args(FaultKind):
        raise ValueError(f"unknown fault {name!r}.{nearest(name, get_args(FaultKind))}")
    return Fault(name, seconds=float(number or 0))  # type: ignore[arg-type]  # checked in the line above


@dataclass(frozen=True, slots=True)
class Chances:
    """Faults by probability, decided by (seed, prompt, attempt): the same in every run and order.

    Args:
        of: Probability of each step, written as text: `{"429:1": 0.03, "500": 0.05, "cut_body": 0.02}`.
        seed: Another seed is another run.
    """

    of: Mapping[str, float]
    seed: int = 0

    def step(self, prompt: str, attempt: int) -> str | None:
        """Return what happens to this attempt at this prompt."""
        left = uniform(self.seed, prompt, attempt)
        for step, probability in self.of.items():
            left -= probability
            if left < 0:
                return step
        return None


Script = Callable[[Any], Step] | Sequence[Step] | Mapping[str, Step | Sequence[Step]] | Chances | None
"""Which request meets what: a function of the `Received`; a list by request number; a mapping from a regular
expression found in the prompt to a step for always, or a list of steps by attempt; or chances. What a script does not
mention is answered."""


class Decider:
    """A script in the form in which it is asked."""

    def __init__(self, script: Script) -> None:
        self._script = script
        if isinstance(script, Chances):
            steps: list[Any] = list(script.of)
        elif isinstance(script, Mapping):
            steps = [
                s for v in script.values() for s in ([v] if isinstance(v, str) or not isinstance(v, Sequence) else v)
            ]
        else:
            steps = list(script) if isinstance(script, Sequence) else []
        for step in steps:
            fault_of(step)  # a slip in a script is told when it is written, not when it is met
        self._rules = (
            [(re.compile(pattern, re.DOTALL), steps) for pattern, steps in script.items()]
            if isinstance(script, Mapping)
            else []
        )

    def fault(self, received: Any) -> Fault | None:
        """Return what happens to a request that has `number`, `prompt` and `attempt`."""
        script = self._script
        if script is None:
            return None
        if isinstance(script, Chances):
            return fault_of(script.step(received.prompt, received.attempt))
        if isinstance(script, Mapping):
            steps = next((steps for pattern, steps in self._rules if pattern.search(received.prompt)), None)
            if isinstance(steps, Sequence) and not isinstance(steps, str):
                return fault_of(steps[received.attempt] if received.attempt < len(steps) else None)
            return fault_of(steps)
        if isinstance(script, Sequence):
            return fault_of(script[received.number] if received.number < len(script) else None)
        return fault_of(script(received))


@dataclass(frozen=True, slots=True)
class Latency:
    """Time that a provider takes: constant, or lognormal as real ones are [s].

    Args:
        median_s: Its median [s].
        sigma: Spread of its logarithm; 0 is constant. Real chat endpoints lie near 0.5.
        seed: Another seed is another run.
    """

    median_s: float = 0.0
    sigma: float = 0.0
    seed: int = 0

    @classmethod
    def of(cls, text: str | float | Latency, seed: int = 0) -> Latency:
        """Return the latency that `0.05`, `"0.05"`, `"lognormal:0.1"` or `"lognormal:0.1:0.5"` means.

        Raises:
            ValueError: It means none.
        """
        if isinstance(text, Latency):
            return text
        name, _, rest = str(text).partition(":")
        if name != "lognormal":
            return cls(float(text), seed=seed)
        median, _, sigma = rest.partition(":")
        return cls(float(median), float(sigma or 0.5), seed)

    def seconds(self, prompt: str, attempt: int) -> float:
        """Return the time for this attempt at this prompt [s]."""
        if not self.sigma:
            return self.median_s
        deviate = _NORMAL.inv_cdf(uniform(self.seed + 1, prompt, attempt))
        return self.median_s * math.exp(self.sigma * deviate)


def uniform(seed: int, prompt: str, attempt: int) -> float:
    """Return a number in (0, 1) that depends on these three alone."""
    text = f"{seed}|{attempt}|{prompt}".encode("utf-8", "surrogatepass")
    (number,) = struct.unpack("<Q", hashlib.blake2b(text, digest_size=8).digest())
    return (float(number >> 12) + 0.5) / 2.0**52


@functools.cache
def gzip_bomb() -> bytes:
    """Return 64 MiB of blanks, packed with gzip."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    blanks = b" " * 2**20
    return b"".join(packer.compress(blanks) for _ in range(_BOMB // 2**20)) + packer.flush()
