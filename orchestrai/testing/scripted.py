"""A platform without a network: replies, delays and faults by script, and a bill it keeps itself."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

from orchestrai.errors import PlatformError, PlatformErrorKind, nearest
from orchestrai.messages import lone_surrogate
from orchestrai.platforms.protocol import Capabilities, DataUse, Reply, Request, Transport
from orchestrai.result import NO_USAGE, Tier, Usage
from orchestrai.testing.answers import answer_to, instance_of
from orchestrai.testing.bill import Bill

Said = str | Reply | PlatformError
"""What one request gets: a text, a whole Reply, or an error that is raised."""

Replies = (
    str
    | Sequence[Said]
    | Mapping[str, Said | Sequence[Said]]
    | Callable[[Request], Said | Awaitable[Said | None] | None]
    | None
)
"""A text for all; a list by request number; a mapping from a regular expression found in the prompt to one, or to a
list by attempt at that prompt; a function of the request. What is not mentioned is answered from the prompt."""

FaultStep = PlatformErrorKind | PlatformError | None
Faults = Mapping[str, Sequence[FaultStep]] | Callable[[str, int], FaultStep] | None
"""A mapping from a regular expression found in the prompt to what its attempts meet, in order; or a function of the
prompt and the attempt, from 0. A kind stands for an error of that kind; None is an answer."""

_KINDS: Final[tuple[str, ...]] = get_args(PlatformErrorKind)
_BILLED_KINDS: Final = frozenset({"reply", "connection", "timeout"})
_PIECES: Final = re.compile(r"\s*\S+|\s+")


class ScriptedPlatform:
    """A platform that says what it was told to say, and counts what it was asked.

    Args:
        name: What it is asked for by.
        replies: What it answers; see `Replies`.
        model: Model used when a task names none.
        models: Further models it serves; None for any.
        tier: free, subscription, paid or local.
        delay_s: Time to an answer [s].
        faults: What goes wrong before an answer; see `Faults`.
        bill: File to which each request is appended before its reply; see `bill.read_bill`.
        concurrency: Requests it is given at once.
        capabilities: What it can do.
        usage: Report tokens: a quarter of the bytes of prompt and answer. False leaves them unknown.
        provider: Whose prices apply; default its own name, which has none.
        account: A short text that tells accounts apart.
        limits: `{"rpm", "tpm", "rpd"}`, kept as they are.
        price: USD per million tokens by class, kept as it is.
        data_use: What its plan lets the provider do with the data.
        demo: Behave as the embedded demo model.

    Attributes:
        requests: Every Request it was sent, in order.
        prompts: Their prompts.
        in_flight, most_in_flight: Requests being answered, now and at most.
        closed: True after `close`.
    """

    transport: Final[Transport] = "local"
    address: Final = None

    def __init__(
        self,
        name: str = "scripted",
        *,
        replies: Replies = None,
        model: str = "scripted-1",
        models: Sequence[str] | None = None,
        tier: Tier = "free",
        delay_s: float = 0.0,
        faults: Faults = None,
        bill: str | Path | None = None,
        concurrency: int = 64,
        capabilities: Capabilities | None = None,
        usage: bool = True,
        provider: str | None = None,
        account: str | None = None,
        limits: Mapping[str, float] | None = None,
        price: Mapping[str, Any] | None = None,
        data_use: DataUse = "none",
        demo: bool = False,
    ) -> None:
        self.name = name
        self.model = model
        self.tier: Tier = tier
        self.provider = provider or name
        self.account = account
        self.concurrency = concurrency
        self.data_use: DataUse = data_use
        self.demo = demo
        self.limits = limits or {}
        self.price = price or {}
        self.requests: list[Request] = []
        self.prompts: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.closed = False
        self._models = None if models is None else frozenset(models)
        self._capabilities = capabilities or Capabilities()
        self._replies = replies
        self._faults = faults
        self._delay_s = delay_s
        self._usage = usage
        self._attempts: Counter[str] = Counter()
        self._bill = Bill(bill) if bill is not None else None
        if isinstance(faults, Mapping):
            for step in (step for steps in faults.values() for step in steps):
                _error(step)  # a slip in a script is told when it is written

    def __repr__(self) -> str:
        return f"ScriptedPlatform(name={self.name!r}, model={self.model!r})"

    def serves(self, model: str) -> bool:
        """Return True for its model, and for those of `models` (any, when none are listed)."""
        return model == self.model or self._models is None or model in self._models

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002  # all of its models are alike
        """Return what it was given."""
        return self._capabilities

    async def send(self, request: Request) -> Reply:
        """Answer one request as the script says.

        Raises:
            PlatformError: Where the script says so.
        """
        if lone_surrogate("".join(m.text for m in request.messages)) is not None:
            raise PlatformError("request", "The prompt holds half of a character and cannot be sent.")
        number, attempt, prompt = self._receive(request)
        try:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            reply = await self._reply(request, number, attempt, prompt)
        finally:
            self.in_flight -= 1
        return reply

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Answer one request word by word, then with the whole Reply.

        Raises:
            PlatformError: As `send`.
        """
        started = time.perf_counter()
        reply = await self.send(request)
        ttft_ms = (time.perf_counter() - started) * 1000
        for piece in _PIECES.findall(reply.text):
            yield piece
            await asyncio.sleep(0)
        yield replace(reply, ttft_ms=ttft_ms)

    async def close(self) -> None:
        """Close the bill; a second call does nothing."""
        self.closed = True
        if self._bill is not None:
            self._bill.close()

    def _receive(self, request: Request) -> tuple[int, int, str]:
        prompt = next((m.text for m in reversed(request.messages) if m.role == "user"), "")
        number, attempt = len(self.requests), self._attempts[prompt]
        self.requests.append(request)
        self.prompts.append(prompt)
        self._attempts[prompt] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return number, attempt, prompt

    async def _reply(self, request: Request, number: int, attempt: int, prompt: str) -> Reply:
        said: Said | None = _error(self._fault(prompt, attempt)) or _scripted(self._replies, number, attempt, prompt)
        if said is None and callable(self._replies):
            found = self._replies(request)
            said = await found if inspect.isawaitable(found) else found
        if said is None:
            schema = request.json_schema
            said = answer_to(prompt) if schema is None else json.dumps(instance_of(schema, prompt))
        if isinstance(said, PlatformError):
            self._write(number, attempt, prompt, said.reply, "fault", billed=said.may_be_billed)
            raise said.with_traceback(None)
        reply = said if isinstance(said, Reply) else self._whole(request, said)
        self._write(number, attempt, prompt, reply, "answered", billed=True)
        return reply

    def _fault(self, prompt: str, attempt: int) -> FaultStep:
        if callable(self._faults):
            return self._faults(prompt, attempt)
        for pattern, steps in (self._faults or {}).items():
            if re.search(pattern, prompt, re.DOTALL):
                return steps[attempt] if attempt < len(steps) else None
        return None

    def _whole(self, request: Request, text: str) -> Reply:
        usage = NO_USAGE
        if self._usage:
            read = _tokens("".join(m.text for m in request.messages) + (request.system or ""))
            usage = Usage(read, 0, None, _tokens(text), 0, "provider")
        return Reply(text, model=request.model or self.model, usage=usage, finish_reason="stop")

    def _write(self, number: int, attempt: int, prompt: str, reply: Any, outcome: str, *, billed: bool) -> None:
        if self._bill is None:
            return
        usage = reply.usage if isinstance(reply, Reply) else Usage(_tokens(prompt), None, None, 0, None, "estimated")
        self._bill.write(
            time=time.time(),
            number=number,
            attempt=attempt,
            prompt=prompt,
            outcome=outcome,
            status=200 if outcome == "answered" else 0,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            billed_tokens=(usage.total_tokens or 0) if billed else 0,
        )


def _scripted(replies: Replies, number: int, attempt: int, prompt: str) -> Said | None:
    """Return what a text, a list or a mapping says; None where it says nothing, and for a function."""
    if isinstance(replies, str):
        return replies
    if isinstance(replies, Mapping):
        for pattern, said in replies.items():
            if re.search(pattern, prompt, re.DOTALL):
                if isinstance(said, str | Reply | PlatformError):
                    return said
                return said[attempt] if attempt < len(said) else None
        return None
    if isinstance(replies, Sequence):
        return replies[number] if number < len(replies) else None
    return None


def _error(step: FaultStep) -> PlatformError | None:
    if step is None or isinstance(step, PlatformError):
        return step
    if step not in _KINDS:
        raise ValueError(f"unknown kind of error {step!r}.{nearest(step, _KINDS)}")
    return PlatformError(step, f"scripted {step}", may_be_billed=step in _BILLED_KINDS)


def _tokens(text: str) -> int:
    return max(1, len(text.encode("utf-8", "surrogatepass")) // 4)
