"""What is known of a command-line client before anything is sent: found or not, its version, its login."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CliState:
    """Whether a command-line client can answer, and why not.

    Args:
        found: It is installed, new enough and logged in.
        version: Its version; None when it did not tell one.
        login: How it is logged in, without any secret ("claude.ai, max"); None when it is not.
        why: Where it was found, or what is missing and which command helps.
        binary: Absolute path of its binary; None when it is not installed.
    """

    found: bool
    version: str | None
    login: str | None
    why: str
    binary: str | None = None


def older(version: str, least: str) -> bool:
    """Return True when a version is older than another: numbers are compared as numbers, suffixes not at all."""
    return _numbers(version) < _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version.partition("-")[0])[:3])
