"""Lanes: one queue per key, so that a key's events run one at a time and in order at any concurrency.

Ready lanes stand in a `ReadyQueue`, from which workers take the next. It is fair between tenants: each tenant with
ready lanes gets turns in proportion to its weight (deficit round robin, Shreedhar and Varghese 1996, with unit cost),
so that one tenant's backlog delays another's event by one round, not by the backlog. Weights are what the queue
offers; no setting gives any yet, so that every tenant has the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexus.core.parking import LaneKey
from nexus.event import Event

if TYPE_CHECKING:
    from nexus.core.owner import Owner


class Delivery:
    """One event on its way through a lane."""

    __slots__ = ("attempt", "event", "lane", "parked", "place", "position", "round", "route", "size")

    def __init__(
        self,
        lane: Lane,
        position: int,
        event: Event[Any] | None,
        size: int,
        *,
        parked: bool = False,
        place: int = 0,
        round: int = 0,
        attempt: int = 0,
    ) -> None:
        self.lane = lane
        self.position = position
        self.event = event
        """None until the shell has read a parked event from ``place`` in the parking topic."""
        self.size = size
        self.parked = parked
        self.place = place
        self.round = round
        self.attempt = attempt
        """Number of this delivery, from 1; set when it begins."""
        self.route: Any = None
        """What the shell attaches: the subscription that handles the event."""


class Lane:
    """What is known of one key between fetch and settle."""

    __slots__ = (
        "batch", "due", "key", "owner", "queue", "queued", "report", "running", "sending", "starts", "tenant", "timer",
    )  # fmt: skip

    def __init__(self, owner: Owner, key: LaneKey) -> None:
        self.owner = owner
        self.key = key
        self.tenant: str | None = key[0] if key.__class__ is tuple else None
        """Whose turn it takes. Worked out once: the queue asks each time that the lane is ready."""
        self.queue: deque[Delivery] = deque()
        """Deliveries from the topic, in order; the head stays until it is done or has an entry."""
        self.running: Delivery | None = None
        self.sending = False
        """Records of this key are on their way to the parking topic; nothing of it starts meanwhile."""
        self.queued = False
        """The lane stands in the ready queue."""
        self.due = 0.0
        """The head is held until then."""
        self.timer: float | None = None
        """When a timer of this lane fires next."""
        self.starts = 1 << 20
        """How many parked entries may be started at once next: one after a failure, since that takes the starts of the
        others back; then twice as many after each list that went well."""
        self.batch: deque[Delivery] | None = None
        """Parked deliveries whose start is durable, in order."""
        self.report: list[Any] | None = None
        """Records about parked deliveries that ended, not sent yet."""


class ReadyQueue:
    """Lanes whose next delivery may start, in fair order."""

    def __init__(self, weights: Mapping[str | None, int] | None = None) -> None:
        """Give tenants turns by ``weights``, from 1; who is not named there has 1."""
        self._weights = weights or {}
        self._lanes: dict[str | None, deque[Lane]] = {}
        self._turn: deque[str | None] = deque()
        self._left = 0
        self._count = 0

    def push(self, lane: Lane) -> None:
        """Put a lane at the end of its tenant's queue."""
        tenant = lane.tenant
        lanes = self._lanes.get(tenant)
        if lanes is None:
            lanes = self._lanes[tenant] = deque()
            self._turn.append(tenant)
        lanes.append(lane)
        self._count += 1

    def pop(self) -> Lane:
        """Take the next lane; the queue must not be empty."""
        turn = self._turn
        tenant = turn[0]
        lanes = self._lanes[tenant]
        lane = lanes.popleft()
        self._count -= 1
        if not lanes:
            del self._lanes[tenant]  # an idle tenant keeps no credit
            turn.popleft()
            self._left = 0
        elif len(turn) > 1:
            self._left = (self._left or self._weights.get(tenant, 1)) - 1
            if not self._left:
                turn.rotate(-1)
        return lane

    def __len__(self) -> int:
        return self._count
