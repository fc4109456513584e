"""`python -m orchestrai` is the command `orchestrai`."""

from __future__ import annotations

from orchestrai.cli.app import main

if __name__ == "__main__":
    main()
