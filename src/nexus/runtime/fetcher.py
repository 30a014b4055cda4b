"""What a consumer reads, and how much: a room of events and bytes that its partitions share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from nexus.clock import Clock
from nexus.errors import BackendError, CorruptData
from nexus.runtime.bounds import Bounds
from nexus.runtime.intake import Intake
from nexus.runtime.partition import Partition
from nexus.spi.backend import Member, Slice, Want

log = logging.getLogger("nexus.consumer")

REST_S = 1.0
"""How long a partition that cannot be read, where others can, is left alone."""
_TAIL_EVENTS = 1_000
_EVENT_OVERHEAD_BYTES = 1_024  # what Python keeps around an event's bytes
_served = attrgetter("served")


class Fetcher:
    """Fetches for the partitions of one consumer."""

    def __init__(
        self,
        group: str,
        partitions: Mapping[tuple[str, int], Partition],
        intake: Intake,
        clock: Clock,
        bounds: Bounds | None,
        *,
        prefetch_events: int,
        prefetch_bytes: int,
        tail: Callable[[Slice, float], None],
    ) -> None:
        """``tail`` is given what was read of parking topics."""
        self._group = group
        self._partitions = partitions
        self._intake = intake
        self._clock = clock
        self._bounds = bounds
        self._prefetch_events = prefetch_events
        self._prefetch_bytes = prefetch_bytes
        self._tail = tail
        self._fetches = 0
        self._crowded = False
        """Whether bytes have ever been what a fetch was short of: then they must be shared fairly."""
        self.resting = False
        """Whether a partition rests."""
        self.tail_parking = True
        """Whether there may be news in the parking topics."""

    async def fetch(self, member: Member) -> bool:
        """Fetch what the windows allow, and what operators wrote; True if there is more."""
        live = self._live(self._clock.now())
        if not live:
            return False
        events = self._prefetch_events
        size = self._prefetch_bytes
        for partition in live:
            owner = partition.owner
            assert owner is not None
            events -= owner.queued_events
            size -= owner.queued_bytes + owner.queued_events * _EVENT_OVERHEAD_BYTES
        share = max(1, events // len(live)) if events > 0 and size > 0 else 0
        wants = []
        for partition in live:
            owner = partition.owner
            assert owner is not None
            count = min(owner.credit, share)
            if self._crowded and owner.queued_bytes * len(live) > self._prefetch_bytes:
                continue  # it holds more than its share of the bytes, and others may have none
            if self._bounds is not None:
                count = self._bounds.room(partition.id, owner.ledger.next, count, self._clock.now())
            if count:
                wants.append(Want(partition.topic, partition.number, owner.ledger.next, count))
        from_topic = len(wants)
        tailed, self.tail_parking = self.tail_parking, False
        if tailed:
            wants += [Want(p.parking, p.number, p.owner.fold.place, _TAIL_EVENTS) for p in live if p.owner is not None]
        size = max(size, 65_536)
        self._fetches += 1
        slices: Sequence[Slice | None]
        try:
            slices = await member.fetch(wants, size)
        except BackendError as error:
            self.tail_parking |= tailed
            slices = await self._fetch_apart(member, wants, size, error)
        now = self._clock.now()
        more = crowded = False
        for want, part in zip(wants[:from_topic], slices, strict=False):
            own = self._partitions.get((want.topic, want.partition))
            if part is None or own is None or own.owner is None:
                continue
            own.trouble = ""
            if part.events:
                own.served = self._fetches
            crowded |= part.more and len(part.events) < want.max_events
            more |= self._intake.take(own, own.owner, part, now)
        self._crowded |= crowded
        for part in slices[from_topic:]:
            if part is not None:
                self._tail(part, now)
        return more and share > 0

    def _live(self, now: float) -> list[Partition]:
        """Partitions of which something may be fetched, first who had nothing for longest, as they share the room."""
        live = [
            p for p in self._partitions.values() if p.owner is not None and not p.releasing and p.owner.stopped is None
        ]
        if self.resting:
            for partition in live:
                if 0 < partition.resting_until <= now:
                    partition.resting_until = 0.0
                    self.tail_parking = True  # the news of the meantime were not for it
            awake = [partition for partition in live if not partition.resting_until]
            self.resting = len(awake) < len(live)
            live = awake
        if self._crowded:
            live.sort(key=_served)
        return live

    async def _fetch_apart(
        self, member: Member, wants: Sequence[Want], size: int, error: BackendError
    ) -> list[Slice | None]:
        """Fetch each by itself, so that what cannot be read holds nothing else up. Raises if nothing can be read."""
        each = max(size // max(1, len(wants)), 65_536)
        answers = await asyncio.gather(*(member.fetch([want], each) for want in wants), return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(failures) == len(wants) and not any(isinstance(failure, CorruptData) for failure in failures):
            raise error
        found: list[Slice | None] = []
        for want, answer in zip(wants, answers, strict=True):
            if isinstance(answer, BackendError):
                self._lay_aside(want, answer)
                found.append(None)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += answer
        return found

    def _lay_aside(self, want: Want, error: BackendError) -> None:
        """Leave a partition that cannot be read alone: for good if it is damaged, else for a while."""
        topic = want.topic.removesuffix(f".{self._group}.park")
        partition = self._partitions.get((topic, want.partition))
        if partition is None or partition.owner is None:
            return
        if isinstance(error, CorruptData):
            log.error("group %s: %s[%d] stands still: %s", self._group, topic, want.partition, error)
            partition.owner.stop(str(error))
            return
        if partition.trouble != str(error):
            partition.trouble = str(error)
            log.warning("group %s: %s[%d] cannot be read now: %s", self._group, topic, want.partition, error)
        partition.resting_until = self._clock.now() + REST_S
        self.resting = True
