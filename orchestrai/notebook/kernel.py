"""Kernel: whether this runs in a Jupyter kernel, and what the other side of it can be expected to do.

Nothing here loads IPython: code that runs in a kernel has it loaded already.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def shell() -> Any:
    """Return IPython's shell, in a kernel or in a terminal; None elsewhere."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def kernel() -> Any:
    """Return the Jupyter kernel this runs in; None elsewhere."""
    return getattr(shell(), "kernel", None)


def is_attended() -> bool:
    """Return True in a kernel with somebody in front of it: not in CI, papermill or nbclient, who answer no questions."""
    here = kernel()
    # Front-ends with a person allow questions to stdin; programs that execute notebooks do not (nbclient's client.py).
    return here is not None and not os.environ.get("CI") and bool(getattr(here, "_allow_stdin", True))


def hears_clicks() -> bool:
    """Return True where the kernel hears of a click while a cell awaits: from ipykernel 7 on (measured)."""
    ipykernel = sys.modules.get("ipykernel")
    return ipykernel is not None and bool(ipykernel.version_info[0] >= 7)


def has_widgets() -> bool:
    """Return True where widgets can be made: a kernel with comms, and the packages."""
    if getattr(kernel(), "comm_manager", None) is None:
        return False
    from importlib.util import find_spec

    return find_spec("anywidget") is not None
