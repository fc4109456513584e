"""orchestrai: send a batch of prompts to the cheapest AI that can answer them, and know to the cent what it cost."""

__version__ = "0.1.0"
