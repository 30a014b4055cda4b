"""Writes what the owners of a consumer want in their parking topics, one batch of a partition at a time.

An owner goes on only when its records are durable and were read back in their place (`Owner.landed`): then it knows
that no other owner's claim stands before them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nexus.clock import Clock
from nexus.core.owner import Owner
from nexus.errors import BackendError, NexusError, Overloaded, UnknownOutcome
from nexus.runtime.journal import Journal, record_of
from nexus.runtime.partition import Partition

log = logging.getLogger("nexus.consumer")

_RETRY_S = 0.1
_LINGER_S = 0.005
"""Between two writes: with lists of 64, a parked key still runs at more than 10,000 events a second."""


class ParkingWriter:
    """The one task of a consumer that appends to parking topics."""

    def __init__(
        self,
        group: str,
        journal: Journal,
        clock: Clock,
        partitions: Mapping[tuple[str, int], Partition],
        retake: Callable[[str, int], None],
        told: Callable[[Owner, int], None],
    ) -> None:
        """``retake``: a partition must be taken over again. ``told``: an owner knows of that many records."""
        self.wake = asyncio.Event()
        self._group = group
        self._journal = journal
        self._clock = clock
        self._partitions = partitions
        self._retake = retake
        self._told = told

    async def run(self) -> None:
        """Write whenever `wake` says that there may be something; for ever."""
        while True:
            await self.wake.wait()
            self.wake.clear()
            while await self._write_once():  # noqa: ASYNC110
                # What is parked has time. Gathering it spares the store commits that everybody else waits for.
                await asyncio.sleep(_LINGER_S)

    async def _write_once(self) -> bool:
        """Append what the owners want written, tail it, and tell them; False if there was nothing."""
        by_topic: dict[str, list[tuple[Partition, Owner, list[Any]]]] = {}
        for partition in self._partitions.values():
            owner = partition.owner
            if owner is not None:
                records = owner.take_records()
                if records:
                    by_topic.setdefault(partition.parking, []).append((partition, owner, records))
        for parking, writes in by_topic.items():
            batch = [(partition.number, record) for partition, _, records in writes for record in records]
            try:
                places = await self._append_records(parking, batch)
            except NexusError as error:
                await self._write_one_by_one(parking, writes, error)
                continue
            at = 0
            for partition, owner, records in writes:
                own = None if places is None else places[at : at + len(records)]
                at += len(records)
                if partition.owner is not owner:
                    continue
                if own is None:
                    self._retake(partition.topic, partition.number)
                else:
                    await self._landed(partition, owner, records, own)
        return bool(by_topic)

    async def _write_one_by_one(
        self, parking: str, writes: list[tuple[Partition, Owner, list[Any]]], error: NexusError
    ) -> None:
        """Something in a batch is refused for good: let the other partitions go on, and stop the one that has it."""
        for partition, owner, records in writes:
            if len(writes) > 1:
                try:
                    places = await self._append_records(parking, [(partition.number, record) for record in records])
                except NexusError as own_error:
                    error = own_error
                else:
                    if partition.owner is owner and places is not None:
                        await self._landed(partition, owner, records, places)
                    elif partition.owner is owner:
                        self._retake(partition.topic, partition.number)
                    continue
            log.error("group %s: %s[%d] stands still: %s", self._group, partition.topic, partition.number, error)
            owner.stop(str(error))

    async def _append_records(self, parking: str, batch: list[tuple[int, Any]]) -> list[int | None] | None:
        """Append until it is done; None if nobody knows whether it was. Raises what no retry can mend."""
        while True:
            try:
                return await self._journal.append(parking, batch)
            except UnknownOutcome as error:
                log.warning("group %s: %s; taking over again", self._group, error)
                return None
            except (BackendError, Overloaded) as error:
                if not error.retryable:
                    raise
                log.warning("group %s cannot write to %s: %s", self._group, parking, error)
                await asyncio.sleep(_RETRY_S)

    async def _landed(self, partition: Partition, owner: Owner, records: list[Any], places: list[int | None]) -> None:
        first, last = places[0], places[-1]
        if first == owner.fold.place and last == first + len(records) - 1:  # nothing foreign in between
            for place, record in enumerate(records, first):
                owner.tail(place, record, self._clock.now())
        else:
            try:
                stored, _ = await self._journal.read(partition.parking, partition.number, owner.fold.place, last)
            except BackendError as error:
                log.warning("group %s cannot read %s: %s", self._group, partition.parking, error)
                self._retake(partition.topic, partition.number)
                return
            if partition.owner is not owner:
                return
            for one in stored:
                if one.position >= owner.fold.place:
                    owner.tail(one.position, record_of(one), self._clock.now())
        owner.landed(self._clock.now())
        if owner.deposed:
            self._retake(partition.topic, partition.number)
        self._told(owner, len(records))
