"""orchestrai: send a batch of prompts to the cheapest AI that can answer them, and know to the cent what it cost."""

from orchestrai.version import __version__

__all__ = ["__version__"]
