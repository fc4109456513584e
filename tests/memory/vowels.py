"""An embedding that a person wrote."""

from __future__ import annotations


def count(texts: list[str]) -> list[list[float]]:
    """Count the vowels of each text."""
    return [[float(text.lower().count(vowel)) + 0.1 for vowel in "aeiou"] for text in texts]


async def slowly(texts: list[str]) -> list[list[float]]:
    """Do the same on the loop."""
    return count(texts)


def broken(texts: list[str]) -> list[list[float]]:
    """Return a number that is none."""
    return [[float("nan")] for _ in texts]


def ragged(texts: list[str]) -> list[list[float]]:
    """Return vectors of several lengths."""
    return [[1.0] * (1 + len(text) % 2) for text in texts]


def growing(texts: list[str]) -> list[list[float]]:
    """Return longer vectors for longer texts."""
    return [[1.0] * len(texts[0]) for _ in texts]


NUMBER = 7
