"""Item: one task of a call while it is worked on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from orchestrai.ids import new_id
from orchestrai.messages import Message
from orchestrai.result import NO_USAGE, Usage
from orchestrai.routing.offers import Offer, Route
from orchestrai.schemas import AnswerSchema
from orchestrai.task import Task

if TYPE_CHECKING:
    from orchestrai.engine.lineage import Lineage


@dataclass(slots=True, eq=False)
class Work:
    """What is only known of an item that has begun: its identity in the ledger, its attempts, its money."""

    queued_at: int  # [µs]
    task_id: str = field(default_factory=new_id)
    attempts: int = 0
    tries: int = 0  # attempts at the present offer
    kind: str = "first"  # of the next attempt: first, retry, repair, reroute
    usage: Usage = NO_USAGE
    cost: int | None = 0  # [pico-USD]; None once an attempt's cost is unknown
    list_cost: int | None = 0
    began: float | None = None  # loop time of the first attempt [s]
    backoff_s: float = 0.0
    repairs_left: int = 1
    follow_up: tuple[Message, ...] = ()  # the unusable answer and what was wrong with it
    failures: tuple[str, ...] = ()  # of the platforms that have failed it for good, in their words
    constrained: bool = True  # False once the platform refused to constrain the answer
    first_send: int | None = None  # number of its first request
    metered: bool = False  # whether the request under way counts against quotas or budgets
    answered_at: int | None = None


@dataclass(slots=True, eq=False)
class Item:
    """One task of a call: small while it waits, so that a hundred thousand can.

    Args:
        task: With all options filled in.
        index: Position in the input.
        row: Label of the input row.
        sample: Number of the independent answer.
        key: What can change the answer, hashed [16 bytes].
        route: Where it may go.
        schema: Compiled form of the task's schema.
    """

    task: Task
    index: int
    row: Any
    sample: int
    key: bytes
    route: Route
    schema: AnswerSchema | None = None
    size: int = 0  # its input, guessed [tokens]
    position: int = 0  # in the list of results
    since: int | None = None  # newest task known when the ledger was searched for its answer
    copies: list[Item] | None = None  # equal tasks that take its answer
    work: Work | None = None
    choice: int = 0  # which offer of its route is being tried
    lineage: Lineage | None = None  # its chain and what comes before it; None for most tasks
    handed: int = 0  # size of what others hand to it [bytes]

    @property
    def offer(self) -> Offer:
        """Where it goes now."""
        return self.route.offers[self.choice]

    @property
    def expected_cash(self) -> int | None:
        """What a request there is expected to cost [pico-USD]; None when nobody can tell."""
        return self.route.cash[self.choice] if self.route.cash else None

    @property
    def has_another_offer(self) -> bool:
        """True when another platform could answer once this one has failed for good."""
        return self.choice + 1 < len(self.route.offers)

    def told(self, why: str) -> str:
        """Return why the task has no answer: in the words of every platform that was asked."""
        if self.work is None or not self.work.failures or not self.route.offers:
            return why
        return "; ".join((*self.work.failures, f"{self.offer.platform.name}: {why}"))

    def fall_back(self, why: str, repair_attempts: int) -> None:
        """Turn to the next offer, and begin there as with the first: nothing said to one platform is said to another."""
        self._leave(why, repair_attempts)
        self.choice += 1

    def give_up(self, closed: Offer, why: str, repair_attempts: int) -> None:
        """Leave a platform's model that nothing more is sent to; what is left of the route is planned for anew."""
        self._leave(why, repair_attempts)
        where = (closed.platform.name, closed.model)
        left = tuple(o for o in self.route.offers[self.choice :] if (o.platform.name, o.model) != where)
        excluded = {**self.route.excluded, closed.platform.name: why}
        self.route, self.choice = replace(self.route, offers=left, excluded=excluded, lacks="window", cash=()), 0

    def _leave(self, why: str, repair_attempts: int) -> None:
        work = self.work
        assert work is not None
        work.failures += (f"{self.offer.platform.name}: {why}",)
        work.kind = "reroute" if work.attempts else "first"
        work.tries = 0
        work.repairs_left = repair_attempts
        work.follow_up = ()
        work.constrained = True
