"""Fit: what a task is given of its parents' texts, where no platform that may answer it could take all of them.

The rule is a setting (`handoff_fit`): "head_tail" keeps the beginning and the end of each text, "refuse" refuses the
task. What was left out is said in the prompt, in a warning and in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from orchestrai.handoff import Block, handed_over
from orchestrai.routing.context import fitting, too_long
from orchestrai.routing.offers import Offer, Route
from orchestrai.settings import HandoffFit
from orchestrai.task import Task

Spans = tuple[tuple[int, int], ...]
"""Which characters of a text are given: from, and up to."""

_SHARE: Final = 0.75  # of a context window for a prompt that has to be cut; the rest is for the answer
_CHARS_PER_TOKEN: Final = 5  # more than any language has: where cutting begins
_STEP: Final = 0.8  # from one cut to the next
_LEAST: Final = 200  # characters of a text below which its beginning and end say nothing


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
    spans = _cut(task, blocks, shared, widest)
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
    task: Task, blocks: Sequence[Block], shared: Mapping[str, str], offer: Offer
) -> tuple[Spans | None, ...] | None:
    """Return the beginning and the end of each text, as long as they fit into an offer's window; None where none do."""
    assert offer.context_tokens is not None
    room = replace(offer, context_tokens=math.floor(offer.context_tokens * _SHARE))
    each = room.context_tokens * _CHARS_PER_TOKEN // len(blocks)  # type: ignore[operator]  # it is known
    while each >= _LEAST:
        spans = tuple(_head_and_tail(len(block.text), each) for block in blocks)
        cut = [shortened(block, spans_of) for block, spans_of in zip(blocks, spans, strict=True)]
        if too_long(_given(task, cut, shared), room) is None:
            return spans
        each = math.floor(each * _STEP)
    return None


def _head_and_tail(length: int, most: int) -> Spans | None:
    if length <= most:
        return None
    head = most - most // 2
    return (0, head), (length - most // 2, length)


def _given(task: Task, blocks: Sequence[Block], shared: Mapping[str, str]) -> Task:
    return replace(task, prompt=handed_over(task.prompt, blocks, shared))
