"""Events that are to be published later: the journal of one partition of the delay topic, folded.

    record   writer     the fold takes it if         and then
    Later    publisher  always                       the event is pending; of two with one id the last holds
    Drop     operator   the id is pending            it is never published
    Now      operator   the id is pending            it is due
    Fired    owner      the id is pending            it was published, under its own id
    Ticked   owner      always                       a recurring schedule has fired for all times up to ``at``

An owner that died between publishing and `Fired` leaves an event that is published again, under the same id: so it is
recognised, by the backend or by whoever consumes. No record needs an epoch.
"""

from __future__ import annotations

import heapq
from typing import Any

import msgspec

from nexus.event import Event

TOPIC = "nexus.delays"
PARTITIONS = 4
CARRY_FROM = 10_000
"""With fewer records than this behind the oldest that is needed, nothing is carried forward."""


class Later(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    due: float
    """Seconds since 1970."""
    topic: str
    partition: int
    """Where it is published."""
    event: Event[Any]


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    id: str
    who: str = ""


class Now(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    id: str
    who: str = ""


class Fired(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    id: str


class Ticked(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    name: str
    at: float
    """Seconds since 1970."""


Record = Later | Drop | Now | Fired | Ticked

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
encode = _encoder.encode
decode = _decoder.decode


class Pending:
    """An event that is not due yet."""

    __slots__ = ("due", "later", "place")

    def __init__(self, due: float, place: int, later: Later | None) -> None:
        self.due = due
        self.place = place
        self.later = later
        """The record, or None where it must be read at its place."""


class Delays:
    """What is pending in one partition."""

    def __init__(self, place: int = 0, keep_bytes: int = 0) -> None:
        """Begin to read at ``place``; keep at most so many bytes of events in memory, the others at their places."""
        self.place = place
        self.pending: dict[str, Pending] = {}
        self.ticks: dict[str, tuple[float, int]] = {}
        """When each schedule fired last, and the place of the record that says so."""
        self._keep_bytes = keep_bytes
        self._kept = 0
        self._dues: list[tuple[float, str]] = []
        self._places: list[tuple[int, str]] = []

    def apply(self, place: int, record: Record) -> bool:
        """Take in the record that stands at ``place``; False if it is about nothing that is pending."""
        self.place = place + 1
        match record:
            case Later(due, _, _, event):
                self._forget(event.id)
                kept = self._kept + len(event.body) <= self._keep_bytes
                self._kept += len(event.body) if kept else 0
                self.pending[event.id] = Pending(due, place, record if kept else None)
                heapq.heappush(self._dues, (due, event.id))
                heapq.heappush(self._places, (place, event.id))
            case Drop(id) | Fired(id):
                return self._forget(id)
            case Now(id):
                pending = self.pending.get(id)
                if pending is None:
                    return False
                pending.due = 0.0
                heapq.heappush(self._dues, (0.0, id))
            case _:
                self.ticks[record.name] = (record.at, place)
        return True

    def _forget(self, id: str) -> bool:
        pending = self.pending.pop(id, None)
        if pending is not None and pending.later is not None:
            self._kept -= len(pending.later.event.body)
        return pending is not None

    def due(self, now: float, limit: int) -> list[tuple[str, Pending]]:
        """Take at most ``limit`` that are due, the longest due first; `again` gives back what was not published."""
        found: list[tuple[str, Pending]] = []
        while self._dues and self._dues[0][0] <= now and len(found) < limit:
            due, id = heapq.heappop(self._dues)
            pending = self.pending.get(id)
            if pending is not None and pending.due == due:
                found.append((id, pending))
        return found

    def again(self, taken: list[tuple[str, Pending]]) -> None:
        """Let what was taken be due again, as far as it is still pending."""
        for id, pending in taken:
            if self.pending.get(id) is pending:
                heapq.heappush(self._dues, (pending.due, id))

    @property
    def next_at(self) -> float | None:
        """When the next is due, seconds since 1970."""
        while self._dues:
            due, id = self._dues[0]
            pending = self.pending.get(id)
            if pending is not None and pending.due == due:
                return due
            heapq.heappop(self._dues)
        return None

    @property
    def low(self) -> int:
        """The lowest place that is still needed: reading begins there, and what is below may be trimmed."""
        while self._places:
            place, id = self._places[0]
            pending = self.pending.get(id)
            if pending is not None and pending.place == place:
                break
            heapq.heappop(self._places)
        lowest = self._places[0][0] if self._places else self.place
        return min(lowest, min((place for _, place in self.ticks.values()), default=lowest))

    def stale(self, limit: int) -> list[tuple[str, Pending]]:
        """Return the oldest that are pending if most of the journal is not needed any more: write them again."""
        needed = len(self.pending) + len(self.ticks)
        if self.place - self.low < max(CARRY_FROM, 4 * needed):
            return []
        oldest = heapq.nsmallest(limit, self.pending.items(), key=lambda item: item[1].place)
        return [(id, pending) for id, pending in oldest if pending.due > 0]
