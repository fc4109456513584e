"""The version, where everything can read it without importing the package."""

from typing import Final

__version__: Final = "0.1.0"
