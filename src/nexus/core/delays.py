"""Events that are to be published later: the journal of one partition of the delay topic, folded.

    record   writer     the fold takes it if                          and then
    Later    publisher  always                                        the event is pending; of two the last holds
    Drop     operator   the event is pending                          it is never published
    Now      operator   the event is pending                          it is due
    Fired    owner      the event is pending                          it was published, under its own id
    Carried  owner      the event is pending since the place ``seen`` it stands here from now on, and not there
    Void     owner      it is pending by a `Carried` like that        the `Carried` came too late: it never counted
    Ticked   owner      it is not older than what is known            a recurring schedule has fired up to ``at``

An event is known by its source and id. An owner that died between publishing and `Fired` leaves an event that is
published again, under the same id: so it is recognised, by the backend or by whoever consumes. No record needs an
epoch. An owner stores from where reading begins before it carries anything forward, and not again before it has read
what came between the two and has called void what came too late: whoever begins anywhere sees the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from typing import Any

import msgspec

from nexus.event import Event

TOPIC = "nexus.delays"
PARTITIONS = 4
CARRY_FROM = 10_000
"""With fewer records than this behind the oldest that is needed, nothing is carried forward."""
_GONE_LIMIT = 10_000

Id = tuple[str, str]
"""An event's source and id."""


class Later(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    due: float
    """Seconds since 1970."""
    topic: str
    partition: int
    """Where it is published."""
    event: Event[Any]


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    source: str
    id: str
    who: str = ""


class Now(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    source: str
    id: str
    who: str = ""


class Fired(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    source: str
    id: str


class Carried(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    seen: int
    """Where it stood until now."""
    later: Later
    """``due`` is 0 for one that was wanted now."""


class Void(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    source: str
    id: str
    seen: int


class Ticked(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    name: str
    at: float
    """Seconds since 1970."""


Record = Later | Drop | Now | Fired | Carried | Void | Ticked

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
encode = _encoder.encode
decode = _decoder.decode


class Pending:
    """An event that is not due yet."""

    __slots__ = ("due", "later", "number", "place", "seen")

    def __init__(self, due: float, place: int, number: int, later: Later | None) -> None:
        self.due = due
        self.place = place
        self.number = number
        """Which record of those that were read says so."""
        self.later = later
        """The record, or None where it must be read at its place."""
        self.seen = -1
        """Where it stood before it was carried, if nothing else is known of it."""


class Tick(msgspec.Struct, frozen=True):
    """When a schedule fired last, and the record that says so."""

    at: float
    place: int
    number: int


class Delays:
    """What is pending in one partition."""

    def __init__(self, place: int = 0, keep_bytes: int = 0) -> None:
        """Begin to read at ``place``; keep at most so many bytes of events in memory, the others at their places."""
        self.place = place
        self.pending: dict[Id, Pending] = {}
        self.ticks: dict[str, Tick] = {}
        self._begin = place
        self._gone: dict[Id, int] = {}  # not pending here and dropped or fired: the place of the last record of it
        self._read = 0
        self._keep_bytes = keep_bytes
        self._kept = 0
        self._dues: list[tuple[float, Id]] = []
        self._places: list[tuple[int, Id]] = []

    def apply(self, place: int, record: Record) -> bool:
        """Take in the record that stands at ``place``; False if it is about nothing that is pending."""
        self.place = place + 1
        self._read += 1
        match record:
            case Later():
                self._add(place, record)
            case Drop(source, id) | Fired(source, id):
                if not self._forget((source, id)):
                    self._note_gone((source, id), place)
                    return False
            case Now(source, id):
                pending = self.pending.get((source, id))
                if pending is None:
                    return False
                pending.due = 0.0
                heapq.heappush(self._dues, (0.0, (source, id)))
            case Carried(seen, later):
                return self._carry(place, seen, later)
            case Void(source, id, seen):
                pending = self.pending.get((source, id))
                if pending is None or pending.seen != seen:
                    return False
                self._forget((source, id))
            case _:
                known = self.ticks.get(record.name)
                if known is None or record.at >= known.at:
                    self.ticks[record.name] = Tick(record.at, place, self._read)
        return True

    def _add(self, place: int, later: Later) -> None:
        id = later.event.source, later.event.id
        self._forget(id)
        kept = self._kept + len(later.event.body) <= self._keep_bytes
        self._kept += len(later.event.body) if kept else 0
        self.pending[id] = Pending(later.due, place, self._read, later if kept else None)
        heapq.heappush(self._dues, (later.due, id))
        heapq.heappush(self._places, (place, id))
        self._clear_heaps()

    def _carry(self, place: int, seen: int, later: Later) -> bool:
        id = later.event.source, later.event.id
        pending = self.pending.get(id)
        if pending is None:
            if seen >= self._begin or self._gone.get(id, -1) > seen:
                return False
            self._add(place, later)
            self.pending[id].seen = seen
            return True
        if pending.place != seen or pending.due != later.due:
            return False
        pending.place, pending.number = place, self._read
        heapq.heappush(self._places, (place, id))
        self._clear_heaps()
        return True

    def _forget(self, id: Id) -> bool:
        pending = self.pending.pop(id, None)
        if pending is not None and pending.later is not None:
            self._kept -= len(pending.later.event.body)
        return pending is not None

    def _note_gone(self, id: Id, place: int) -> None:
        self._gone.pop(id, None)
        self._gone[id] = place
        if len(self._gone) > _GONE_LIMIT:
            del self._gone[next(iter(self._gone))]

    def _clear_heaps(self) -> None:
        """Leave out of the heaps what is gone, once that is most of them."""
        bound = 2 * len(self.pending) + 1_000
        if len(self._dues) > bound:
            self._dues = [(pending.due, id) for id, pending in self.pending.items()]
            heapq.heapify(self._dues)
        if len(self._places) > bound:
            self._places = [(pending.place, id) for id, pending in self.pending.items()]
            heapq.heapify(self._places)

    def due(self, now: float, limit: int) -> list[tuple[Id, Pending]]:
        """Take at most ``limit`` that are due, the longest due first; `again` gives back what was not published."""
        found: list[tuple[Id, Pending]] = []
        taken: set[Id] = set()
        while self._dues and self._dues[0][0] <= now and len(found) < limit:
            due, id = heapq.heappop(self._dues)
            pending = self.pending.get(id)
            if pending is not None and pending.due == due and id not in taken:
                taken.add(id)
                found.append((id, pending))
        return found

    def again(self, taken: list[tuple[Id, Pending]]) -> None:
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
        return self._lowest()[0]

    def _lowest(self) -> tuple[int, int]:
        """Return the lowest place that is needed, and the number of its record."""
        while self._places:
            place, id = self._places[0]
            pending = self.pending.get(id)
            if pending is not None and pending.place == place:
                break
            heapq.heappop(self._places)
        needed = [(tick.place, tick.number) for tick in self.ticks.values()]
        if self._places:
            place, id = self._places[0]
            needed.append((place, self.pending[id].number))
        return min(needed, default=(self.place, self._read + 1))

    def forget_ticks(self, names: Collection[str]) -> None:
        """Forget when schedules fired that are none any more; ``names`` are those that there are."""
        for name in self.ticks.keys() - set(names):
            del self.ticks[name]

    def stale(self, limit: int) -> tuple[list[tuple[Id, Pending]], list[Ticked]]:
        """Return the oldest that are needed if most of the journal is not needed any more: write them again."""
        needed = len(self.pending) + len(self.ticks)
        behind = self._read - self._lowest()[1]
        if behind < max(CARRY_FROM, 4 * needed):
            return [], []
        oldest = heapq.nsmallest(limit, self.pending.items(), key=lambda item: item[1].place)
        bound = oldest[-1][1].place if len(oldest) == limit else self.place
        ticks = [Ticked(name, tick.at) for name, tick in self.ticks.items() if tick.place <= bound]
        return oldest, ticks
