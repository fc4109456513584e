"""Fit: what a task is given of its parents' texts, where no platform that may answer it could take all of them.

The rule is a setting (`handoff_fit`): "head_tail" keeps the beginning and the end of each text, "relevant" the passages that
have most in common with the instruction, "refuse" refuses the task. What was left out is said in the prompt, in a warning and in
the ledger. The passages are found by the embedding that memory has without any download, which is the same on every machine: what
a task is given is part of what decides whether its answer can be reused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from orchestrai.handoff import PARENT, PARENTS, Block, filled, handed_over
from orchestrai.messages import messages_of
from orchestrai.routing.context import fitting, too_long
from orchestrai.routing.offers import Offer, Route
from orchestrai.settings import HandoffFit
from orchestrai.task import Task

Spans = tuple[tuple[int, int], ...]
"""Which characters of a text are given: from, and up to."""

_SHARE: Final = 0.75  # of a context window for a prompt that has to be cut; the rest is for the answer
_CHARS_PER_TOKEN: Final = 5  # more than any language has: where cutting begins
_STEP: Final = 0.8  # from one cut to the next
_LEAST: Final = 200  # characters of a text below which a part of it says nothing
_DIMENSION: Final = 1024  # of the vectors by which passages are compared


class Fitted(NamedTuple):
    """Where a task may go with what it is handed.

    Args:
        route: The offers that can take it; none where it had to be refused.
        spans: What is given of each text; None for all.
    """

    route: Route
    spans: tuple[Spans | None, ...]


def fitted(task: Task, blocks: Sequence[Block], shared: Mapping[str, str], route: Route, rule: HandoffFit) -> Fitted:
    """Return where a task may go with its parents' texts: with all of them if anything can take them, else by the rule.

    Args:
        task: The task, its parents' texts not in it.
        blocks: The texts.
        shared: Shared values by slot.
        route: Where it could go without them.
        rule: What to do where they fit nowhere.
    """
    whole = fitting(route, _given(task, blocks, shared))
    windows = [offer for offer in route.offers if offer.context_tokens is not None]
    if whole.offers or rule == "refuse" or not windows:
        return Fitted(whole, (None,) * len(blocks))
    widest = max(windows, key=lambda offer: offer.context_tokens or 0)
    choices = [
        _head_and_tail(len(block.text)) if rule == "head_tail" else _relevant(block.text, task) for block in blocks
    ]
    spans = _cut(task, blocks, shared, widest, choices)
    if spans is None:
        return Fitted(whole, (None,) * len(blocks))
    cut = [shortened(block, spans_of) for block, spans_of in zip(blocks, spans, strict=True)]
    return Fitted(fitting(route, _given(task, cut, shared)), spans)


def shortened(block: Block, spans: Spans | None) -> Block:
    """Return what is given of a text, with a note at each place where something is left out."""
    if spans is None:
        return block
    text = block.text
    pieces = []
    at = 0
    for start, end in spans:
        if start > at:
            pieces.append(f"[… {start - at:,} characters left out …]")
        pieces.append(text[start:end])
        at = end
    if at < len(text):
        pieces.append(f"[… {len(text) - at:,} characters left out …]")
    kept = sum(end - start for start, end in spans)
    return Block("\n".join(pieces), f"{block.source}, {kept:,} of {len(text):,} characters")


def _cut(
    task: Task,
    blocks: Sequence[Block],
    shared: Mapping[str, str],
    offer: Offer,
    choices: Sequence[Callable[[int], Spans | None]],
) -> tuple[Spans | None, ...] | None:
    """Return what is given of each text so that all of it fits into an offer's window; None where nothing does."""
    assert offer.context_tokens is not None
    room = replace(offer, context_tokens=math.floor(offer.context_tokens * _SHARE))
    each = math.floor(offer.context_tokens * _SHARE * _CHARS_PER_TOKEN) // len(blocks)
    while each >= _LEAST:
        spans = tuple(choose(each) for choose in choices)
        cut = [shortened(block, spans_of) for block, spans_of in zip(blocks, spans, strict=True)]
        if too_long(_given(task, cut, shared), room) is None:
            return spans
        each = math.floor(each * _STEP)
    return None


def _head_and_tail(length: int) -> Callable[[int], Spans | None]:
    """Return what chooses the beginning and the end of a text of some length, for a number of characters."""

    def choose(most: int) -> Spans | None:
        if length <= most:
            return None
        head = most - most // 2
        return (0, head), (length - most // 2, length)

    return choose


def _relevant(text: str, task: Task) -> Callable[[int], Spans | None]:
    """Return what chooses the passages of a text that have most in common with an instruction, in their order."""
    from orchestrai.memory.chunks import spans
    from orchestrai.memory.embedding import unit
    from orchestrai.memory.hashed import HashedEmbedding

    embed = HashedEmbedding(_DIMENSION)
    passages = spans(text)
    vectors = unit(embed([text[start:end] for start, end in passages]))
    (wanted,) = unit(embed([_instruction(task)]))
    ranked = sorted(range(len(passages)), key=lambda at: (-float(vectors[at] @ wanted), at))

    def choose(most: int) -> Spans | None:
        if len(text) <= most:
            return None
        kept: list[tuple[int, int]] = []
        for at in ranked:
            start, end = passages[at]
            if end - start > most:
                break
            most -= end - start
            kept.append((start, end))
        return _joined(sorted(kept)) or ((0, most),)

    return choose


def _joined(spans: Sequence[tuple[int, int]]) -> Spans:
    """Return spans with those that touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def _instruction(task: Task) -> str:
    """Return the words of the user, without the places of what is handed over."""
    words = filled(task.prompt, {PARENT: "", PARENTS: ""})
    return "\n".join(message.text for message in messages_of(words) if message.role == "user")


def _given(task: Task, blocks: Sequence[Block], shared: Mapping[str, str]) -> Task:
    return replace(task, prompt=handed_over(task.prompt, blocks, shared))
