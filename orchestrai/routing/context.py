"""Context windows: a prompt that cannot fit is refused before it is sent, by name, count and limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from orchestrai import tokens
from orchestrai.attachments import Attachment
from orchestrai.messages import Message, messages_of
from orchestrai.routing.offers import Offer, Route
from orchestrai.task import Task

_MOST_PER_BYTE: Final = 2.5 / 4  # tokens: the worst that `tokens` measured over languages and JSON
_PIECE: Final = 1_000_000  # characters counted at a time, so that a far too long text is not counted to its end
_CUT: Final = 8  # tokens by which a cut between two pieces may move the count


def fitting(route: Route, task: Task) -> Route:
    """Return the route without the offers whose context window the prompt cannot fit; the same route when all can.

    A prompt of ordinary length costs about a microsecond. One whose size says that it is near a window is counted,
    which loads tiktoken once (0.25 s of CPU, 85 MB).

    Args:
        route: As the router found it.
        task: With its files hashed; paths that were not read yet do not count.
    """
    smallest = route.smallest_context
    if smallest is None or _most_bytes(task) * _MOST_PER_BYTE < smallest:
        return route
    reasons = {offer.platform.name: too_long(task, offer) for offer in route.offers}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    if not refused:
        return route
    kept = tuple(offer for offer in route.offers if offer.platform.name not in refused)
    return replace(route, offers=kept, excluded={**route.excluded, **refused})


def too_long(task: Task, offer: Offer) -> str | None:
    """Return why a prompt cannot fit the context window of an offer, or None when it may.

    Only what is too long by the least that its tokens can be is refused: no prompt that the provider would take.
    Texts and text files count, images do not. Where the window is unknown, nothing is too long.
    """
    window = offer.context_tokens
    if window is None or _most_bytes(task) * _MOST_PER_BYTE < window:
        return None
    parts = list(_parts(task))
    left = size = sum(map(_size, parts))
    if size * _MOST_PER_BYTE < window:
        return None
    least = likely = 0
    for part in parts:
        found = _count(part, offer)
        least += max(0, found.low - _CUT)
        likely += found.value
        left -= _size(part)
        if least > window:
            whole = math.ceil(likely * size / (size - left))
            return (
                f"the prompt is too long: about {whole:,} tokens, and the context window of {offer.model} is {window:,}"
            )
    return None


def _count(part: str | Attachment, offer: Offer) -> tokens.TokenCount:
    model, provider = offer.model, offer.platform.provider
    if isinstance(part, str):
        return tokens.count(part, model=model, provider=provider)
    return tokens.prompt_tokens([Message("user", (part,))], model=model, provider=provider)


def _most_bytes(task: Task) -> int:
    """Return no less than the UTF-8 bytes of the prompt, without encoding it."""
    if type(task.prompt) is str and not task.files:
        return 4 * (len(task.prompt) + len(task.system or ""))
    return sum(4 * len(part) if isinstance(part, str) else part.size for part in _whole_parts(task))


def _size(part: str | Attachment) -> int:
    return len(part.encode("utf-8", "surrogatepass")) if isinstance(part, str) else part.size


def _parts(task: Task) -> Iterator[str | Attachment]:
    """Yield the texts in pieces, and the text files."""
    for part in _whole_parts(task):
        if isinstance(part, str):
            yield from (part[start : start + _PIECE] for start in range(0, len(part), _PIECE))
        else:
            yield part


def _whole_parts(task: Task) -> Iterator[str | Attachment]:
    if task.system:
        yield task.system
    for message in messages_of(task.prompt):
        content = (message.content,) if isinstance(message.content, str) else message.content
        yield from (part for part in content if isinstance(part, str) or not part.is_image)
    yield from (file for file in task.files or () if isinstance(file, Attachment) and not file.is_image)
