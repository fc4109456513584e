"""What the tests of chains share."""

from __future__ import annotations

from orchestrai import Orchestrator
from orchestrai.handoff import unfenced
from orchestrai.testing import ScriptedPlatform


def upper(**more):
    """Return a platform that answers a prompt without its fences in capitals, and what it was handed behind it."""

    def answer(request):
        instruction, blocks = unfenced(request.messages[-1].text)
        return " | ".join([instruction.upper(), *(block.text for block in blocks)])

    return ScriptedPlatform(replies=answer, **more)


def orchestrator(folder, *platforms, **settings):
    return Orchestrator(folder, platforms=list(platforms) or [upper()], settings=settings)
