"""Estimates: what a task will take in tokens and money, from its length and from what earlier replies reported."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from orchestrai import tokens
from orchestrai.attachments import Attachment
from orchestrai.ledger.queries import Replied
from orchestrai.messages import messages_of
from orchestrai.result import Usage
from orchestrai.routing.offers import Offer
from orchestrai.task import Task

_IMAGE: Final = 1_000  # tokens of an image, of which the size says little
_MOST_IMAGE: Final = 10_000
_FORMAT: Final = 200  # tokens that a chat's format, and the words around a schema, take at the most
_ENOUGH: Final = 8  # replies of a model that say more than the defaults
_LOW, _HIGH = 0.1, 0.9  # quantiles that stand for the least and the most


class Span(NamedTuple):
    """An amount that is not known exactly: the least, the likely and the most it may be."""

    low: int
    expected: int
    high: int


_INPUT: Final = Span(650, 1_000, 1_500)  # tokens per thousand guessed: the spread of bytes per token over languages
_OUTPUT: Final = Span(20, 300, 1_500)  # tokens of an ordinary answer


@dataclass(frozen=True, slots=True)
class Experience:
    """What replies of a model reported lately, against what was guessed before.

    Args:
        input: Input tokens that were counted, for a thousand that were guessed from the length.
        output: Tokens of an answer.
        seconds: How long an answer took, in the middle [s]; None without any.
        replies: How many it is drawn from; 0 for the defaults.
    """

    input: Span = _INPUT
    output: Span = _OUTPUT
    seconds: float | None = None
    replies: int = 0

    def usage(self, task: Task, size: int, which: str) -> Usage:
        """Return the tokens a task may take: `low`, `expected` or `high`.

        Args:
            task: The task; an answer is never longer than its `max_tokens`.
            size: Its input, guessed [tokens].
            which: Which of the three.
        """
        output = int(getattr(self.output, which))
        if task.max_tokens is not None:
            output = task.max_tokens if which == "high" else min(output, task.max_tokens)
        ratio = int(getattr(self.input, which))
        return Usage(-(-size * ratio // 1_000), None, None, output, None, "estimated")


UNKNOWN: Final = Experience()
"""Of a model that has not answered yet."""


def guessed(task: Task) -> int:
    """Return a task's input, guessed from its length [tokens]; files that were not read yet do not count."""
    system = tokens.quick(task.system) if task.system else 0
    if type(task.prompt) is str and not task.files:
        return system + tokens.quick(task.prompt)
    return system + sum(
        tokens.quick(part) if isinstance(part, str) else _IMAGE if part.is_image else -(-part.size // 4)
        for part in _parts(task)
    )


def most(task: Task, offer: Offer, handed: int = 0) -> Usage | None:
    """Return the most tokens that one request of a task can take at an offer; None where nothing bounds the answer.

    A token is at least a byte of the prompt. An answer is bounded by `max_tokens` where the platform enforces it, else
    by the context window of the model, where that is known.

    Args:
        task: The task.
        offer: Where it goes.
        handed: Size of what others hand to it [bytes].
    """
    can = offer.platform.capabilities(offer.model)
    output = task.max_tokens if can.output_limit and task.max_tokens is not None else offer.context_tokens
    if offer.platform.transport == "cli" or output is None:
        return None
    size = handed + len((task.system or "").encode("utf-8", "surrogatepass"))
    for part in _parts(task):
        if isinstance(part, str):
            size += len(part.encode("utf-8", "surrogatepass"))
        else:
            size += _MOST_IMAGE if part.is_image else part.size
    return Usage(size + _FORMAT, None, None, output, None, "estimated")


def experience(replies: Iterable[Replied]) -> dict[str, Experience]:
    """Return what replies reported, by the model that was asked for; models with few replies are left out.

    Args:
        replies: The newest of the ledger.
    """
    by_model: dict[str, list[Replied]] = {}
    for reply in replies:
        by_model.setdefault(reply.model, []).append(reply)
    return {model: _drawn(rows) for model, rows in by_model.items() if len(rows) >= _ENOUGH}


def share_of_request(told: Sequence[tuple[float, int]]) -> int:
    """Return what one request took of a window in percent [millionths of a percent]; 0 where that is unknown.

    Args:
        told: Readings of the window, the newest first: how much was used [percent], and the requests sent up to then.
    """
    if not told:
        return 0
    newest, until = used, since = told[0]
    for earlier, sent in told:
        if earlier > used:  # it began anew in between
            break
        used, since = earlier, sent
    requests = until - since
    return int((newest - used) * 1_000_000 / requests) if requests >= _ENOUGH and newest > used else 0


def _drawn(replies: Sequence[Replied]) -> Experience:
    ratios = sorted(1_000 * r.input_tokens // r.guessed for r in replies if r.guessed and r.input_tokens)
    outputs = sorted(r.output_tokens for r in replies if r.output_tokens is not None)
    times = sorted(r.duration_ms for r in replies if r.duration_ms is not None)
    return Experience(
        _span(ratios) if ratios else UNKNOWN.input,
        _span(outputs) if outputs else UNKNOWN.output,
        times[len(times) // 2] / 1_000 if times else None,
        len(replies),
    )


def _span(values: list[int]) -> Span:
    last = len(values) - 1
    return Span(values[int(last * _LOW)], values[last // 2], values[math.ceil(last * _HIGH)])


def _parts(task: Task) -> Iterable[str | Attachment]:
    for message in messages_of(task.prompt):
        yield from (message.content,) if isinstance(message.content, str) else message.content
    yield from (file for file in task.files or () if isinstance(file, Attachment))
