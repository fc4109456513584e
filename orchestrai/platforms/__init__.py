"""Platforms: the places that answer, each with one account."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from orchestrai.platforms.protocol import Capabilities, Platform, RateLimits, Reply, Request

if TYPE_CHECKING:
    from orchestrai.platforms.anthropic import Anthropic
    from orchestrai.platforms.claude_code import ClaudeCode
    from orchestrai.platforms.codex import Codex
    from orchestrai.platforms.gemini import Gemini
    from orchestrai.platforms.gemini_cli import GeminiCLI
    from orchestrai.platforms.local import LocalModel
    from orchestrai.platforms.openai import OpenAI

__all__ = [
    "Anthropic",
    "Capabilities",
    "ClaudeCode",
    "Codex",
    "Gemini",
    "GeminiCLI",
    "LocalModel",
    "OpenAI",
    "Platform",
    "RateLimits",
    "Reply",
    "Request",
]

_ADAPTERS: Final = {  # loaded when they are first named
    "Anthropic": "anthropic",
    "ClaudeCode": "claude_code",
    "Codex": "codex",
    "Gemini": "gemini",
    "GeminiCLI": "gemini_cli",
    "LocalModel": "local",
    "OpenAI": "openai",
}


def __getattr__(name: str) -> Any:
    if name not in _ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ADAPTERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
