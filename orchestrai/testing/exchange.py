"""One request at a provider on loopback, its answer, and what a wire form has to know about them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import orjson

Outcome = Literal["pending", "answered", "fault", "limited", "refused", "abandoned"]
"""pending: not finished · answered · fault: by script · limited: by a rate limit · refused: no such address, wrong
key, no JSON · abandoned: the client left before the reply."""


@dataclass(slots=True)
class Received:
    """One request as it came in, and what became of it.

    Args:
        number: Position among the requests of this server, from 0.
        attempt: How often this prompt was asked before.
        time: When it came [s since 1970].
        path: Path and query.
        head: Request line and headers as they came.
        body: The body as it came.
        prompt: Text of its last user message.
        outcome: What became of it.
        status: Status of its reply; 0 without one.
        input_tokens: Counted for it [tokens].
        output_tokens: Counted for its answer [tokens].
        billed_tokens: Both together where a provider would charge for it, else 0 [tokens].
        fault: Kind of the fault it met.
    """

    number: int
    attempt: int
    time: float
    path: str
    head: bytes
    body: bytes
    prompt: str = ""
    outcome: Outcome = "pending"
    status: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    billed_tokens: int = 0
    fault: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers, their names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the provider; token counts that are None are derived from the sizes of body and text.

    Args:
        text: The answer.
        finish_reason: In the words of the wire form.
        input_tokens: All input, cached included [tokens].
        cached_tokens: Part of it read from a cache [tokens].
        cache_write_tokens: Part of it written to a cache [tokens].
        output_tokens: All output, reasoning included [tokens].
        reasoning_tokens: Part of it that was reasoning [tokens].
        model: The model that answers; None for the one asked for.
        refusal: The model's refusal, beside or instead of the text.
        more: Further top-level fields of the reply; they win.
        headers: Further headers of the reply.
    """

    text: str = ""
    finish_reason: str = "stop"
    input_tokens: int | None = None
    cached_tokens: int = 0
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    model: str | None = None
    refusal: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


Replies = str | Callable[[Received], str | Answer] | Mapping[str, str | Answer] | None
"""What is answered: a text for all; a function of the request; a mapping from a regular expression found in the
prompt; None for an answer made from the prompt (`answers.answer_to`, or an instance of the schema that is asked for)."""


_WORDS: Final = re.compile(r"\s*\S+|\s+")


def words(text: str) -> list[str]:
    """Return the pieces in which a text is streamed: word by word, each with the blanks before it."""
    return _WORDS.findall(text)


class WireForm(Protocol):
    """How one provider's protocol looks on the wire; the server knows nothing else about it."""

    def prompt(self, body: Mapping[str, Any]) -> str:
        """Return the text of the last user message."""

    def schema(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the JSON Schema that the answer must satisfy."""

    def streams(self, path: str, body: Mapping[str, Any], /) -> bool:
        """Return True when the answer is asked for piece by piece."""

    def whole(self, body: Mapping[str, Any], received: Received, answer: Answer) -> bytes:
        """Return the body of a whole reply; token counts stand in `received`."""

    def events(self, body: Mapping[str, Any], received: Received, answer: Answer) -> list[bytes]:
        """Return the server-sent events of a streamed reply, each with its empty line."""

    def error(self, status: int, code: str | None, message: str, wait_s: float | None = None) -> bytes:
        """Return the body of an error reply; `wait_s` is the wait that it tells, where the body tells it [s]."""

    def headers(self, number: int, wait_s: float | None = None) -> bytes:
        """Return the lines of the headers that name a request and tell a wait [s], each with its line end."""

    def limit_headers(self, requests: Bucket | None, tokens: Bucket | None) -> bytes:
        """Return the lines of the rate-limit headers, each with its line end."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """State of one rate limit.

    Args:
        limit: Allowed per minute.
        left: Left at this moment.
        full_in_s: Until all are there again [s].
    """

    limit: int
    left: int
    full_in_s: float
