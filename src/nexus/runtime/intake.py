"""What becomes of fetched events before any handler sees them: handled, passed over, or not the group's at all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

from nexus.core.filter import compile_filter
from nexus.core.owner import Owner
from nexus.runtime.bounds import Bounds
from nexus.runtime.control import ControlTopic
from nexus.runtime.partition import Partition, Stats
from nexus.runtime.subscription import Group
from nexus.spi.backend import Slice, Stored

log = logging.getLogger("nexus.consumer")
_compiled = functools.lru_cache(256)(compile_filter)
Wanted = Callable[[Stored], bool]


class Intake:
    """Hands what was fetched to the owners of partitions."""

    def __init__(
        self,
        group: Group,
        control: ControlTopic,
        bounds: Bounds | None,
        stats: Stats,
        progress: Callable[[int], None],
    ) -> None:
        """``progress`` is told how many events were passed over, also 0 when an owner has moved without any."""
        self._group = group
        self._control = control
        self._bounds = bounds
        self._stats = stats
        self._progress = progress

    def take(self, partition: Partition, owner: Owner, part: Slice, now: float) -> bool:
        """Take a slice in; True if there is more."""
        if part.trimmed is not None and part.trimmed > owner.ledger.next:
            self._trimmed(owner, part, part.trimmed)
        route = self._group.route
        events: Sequence[Stored] = part.events
        wanted = self._altered(owner)
        if self._bounds is not None:
            events, wanted = self._bounded(partition, owner, part, self._bounds)
        inbox = partition.inbox
        skipped = 0
        for stored in events:
            if stored.position < owner.ledger.next:
                continue  # the takeover of this partition happened while the fetch was under way
            subscription = route(stored.event) if wanted is None or wanted(stored) else None
            if subscription is None:
                owner.skip(stored.position)
                skipped += 1
            elif inbox is not None and not inbox.take(stored.event):
                owner.skip(stored.position)
                self._stats.duplicates += 1
                self._progress(1)
            else:
                owner.offer(stored, now, subscription)
        if skipped:
            self._stats.skipped += skipped
            self._progress(skipped)
        return part.more

    def _trimmed(self, owner: Owner, part: Slice, first: int) -> None:
        gone = first - owner.ledger.next
        self._stats.trimmed += gone
        log.error(
            "group %s: retention took events of %s[%d] before they were handled: up to %d from position %d on",
            self._group.name, part.topic, part.partition, gone, owner.ledger.next,
        )  # fmt: skip
        owner.trimmed(first)
        self._progress(0)

    def _bounded(
        self, partition: Partition, owner: Owner, part: Slice, bounds: Bounds
    ) -> tuple[Sequence[Stored], Wanted]:
        """Return what of a slice is replayed, marked, and which of these are wanted; note if that was the last."""
        end = bounds.end(partition.id)
        events = [bounds.marked(stored) for stored in part.events if stored.position < end]
        if part.next >= end and not events and owner.ledger.next < end:
            owner.trimmed(end)  # positions have gaps: there is nothing more below the end
            self._progress(0)
        return events, lambda stored: bounds.wants(partition.id, stored.event)

    def _altered(self, owner: Owner) -> Wanted | None:
        """Return what operators want of an event of this partition besides what the code wants, if anything."""
        filters = self._control.state.group(self._group.name).filters
        if len(filters) == 1:
            return None

        def wanted(stored: Stored) -> bool:
            text = filters[owner.cuts.at(stored.position)]
            return text is None or _compiled(text).matches(stored.event)

        return wanted
