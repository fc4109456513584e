"""What the refusals of a platform allow: a wait that was told, and how many retries all its tasks have together."""

from __future__ import annotations

import math
from typing import Final

from orchestrai.errors import InvalidSettings

LONGEST_TOLD_S: Final = 3600.0
"""A platform that says to come back later than this [s] is not waited for: its tasks go elsewhere."""

_WAITING_COST: Final = 0.1  # of a retry, for one that waits for a told moment or the end of a rest
_REFUND: Final = 0.2  # of a retry, for an answer


def told_wait_s(retry_after_s: object) -> float | None:
    """Return a told wait that means something: a number from 0 up; None for anything else."""
    if isinstance(retry_after_s, bool) or not isinstance(retry_after_s, int | float) or not retry_after_s >= 0:
        return None
    return float(retry_after_s)


class RetryAllowance:
    """How many retries all tasks of one platform have together, so that retries cannot become a storm.

    A retry takes one from it, an answer gives a little back: as long as most requests are answered it never runs
    out, and a platform that answers nothing costs one request a task and the allowance (source: the retry quota of
    the AWS SDKs, 500 tokens of which a retry costs 5 and a success refunds 1). A retry that cannot storm, because its
    wait was told or because the platform rests, takes little.

    Args:
        most: Retries at first, and at most.

    Raises:
        InvalidSettings: `most` is below zero.
    """

    __slots__ = ("left", "most")

    def __init__(self, most: float = 100.0) -> None:
        if not 0 <= most < math.inf:
            raise InvalidSettings(f"a retry allowance is a number from 0 up, not {most}.")
        self.most = most
        self.left = most

    def take(self, *, waits: bool = False) -> bool:
        """Take what one retry costs; return False, and take nothing, when that is not there.

        Args:
            waits: The platform told when to come back, or rests.
        """
        cost = _WAITING_COST if waits else 1.0
        if self.left < cost:
            return False
        self.left -= cost
        return True

    def refund(self) -> None:
        """Give back a little for an answer."""
        self.left = min(self.most, self.left + _REFUND)
