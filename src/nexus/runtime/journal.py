"""The parking topic's shell: records to events and back, claims, appends, tailing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from nexus.clock import Clock
from nexus.core.parking import Record, Unreadable, decode_record, encode_record
from nexus.event import Event
from nexus.spi.backend import Appended, Backend, Slice, Stored, TopicSpec, Want

log = logging.getLogger("nexus.consumer")

RECORD_TYPE = "nexus.parking.record"
_MSGPACK = "application/msgpack"
_READ_EVENTS = 2_000
_READ_BYTES = 16 * 1024 * 1024
_LOAD_BYTES = 1024 * 1024


def parking_topic(topic: str, group: str) -> str:
    """Name of the topic where a group parks what failed of a topic."""
    return f"{topic}.{group}.park"


def parking_spec(topic: str, group: str, partitions: int) -> TopicSpec:
    """A parking topic keeps what it has: time and size never trim it, only its owner does."""
    return TopicSpec(parking_topic(topic, group), partitions, dedup=False)


def record_of(stored: Stored) -> Record | Unreadable:
    """Read a record from its place in a parking topic; what is none is told of in the log."""
    try:
        return decode_record(stored.event.body)
    except msgspec.MsgspecError as error:
        log.error("the parking record at position %d is passed over: %s", stored.position, error)
        return Unreadable()


class Journal:
    """Appends to and reads from parking topics."""

    def __init__(self, backend: Backend, clock: Clock, new_id: Callable[[], str], source: str) -> None:
        self._backend = backend
        self._clock = clock
        self._new_id = new_id
        self._source = source

    def event(self, record: Record) -> Event[Any]:
        time = datetime.fromtimestamp(self._clock.now(), UTC)
        return Event(
            self._new_id(), self._source, RECORD_TYPE, time, None, encode_record(record), datacontenttype=_MSGPACK
        )

    async def append(self, topic: str, batch: Sequence[tuple[int, Record]]) -> list[int | None]:
        """Append records, durable when it returns their places. Raises what `Backend.append` raises."""
        answers = await self._backend.append(topic, [(partition, self.event(record)) for partition, record in batch])
        return [answer.position if isinstance(answer, Appended) else None for answer in answers]

    async def read(self, topic: str, partition: int, place: int, until: int | None = None) -> tuple[list[Stored], int]:
        """Read records from ``place`` on, up to and including ``until`` or to the end; and where to go on."""
        found: list[Stored] = []
        while until is None or place <= until:
            (part,) = await self.read_some([self.want(topic, partition, place)])
            found += part.events
            place = part.next
            if not part.more:
                break
        return found, place

    def want(self, topic: str, partition: int, place: int) -> Want:
        """Ask for a turn's worth of records of a partition."""
        return Want(topic, partition, place, _READ_EVENTS)

    async def read_some(self, wants: Sequence[Want]) -> list[Slice]:
        """Read a turn's worth of records of all that is wanted, at most 16 MiB together."""
        return await self._backend.read(wants, _READ_BYTES)

    async def load(self, topic: str, partition: int, places: Collection[int]) -> dict[int, Event[Any]]:
        """Read the events that the records at some places hold; the lowest place is always among the answers."""
        first, last = min(places), max(places)
        (part,) = await self._backend.read([Want(topic, partition, first, last - first + 1)], _LOAD_BYTES)
        found: dict[int, Event[Any]] = {}
        for stored in part.events:
            if stored.position in places:
                record = record_of(stored)
                event: Event[Any] | None = getattr(record, "edited", None) or getattr(record, "event", None)
                assert event is not None, record
                found[stored.position] = event
        return found
