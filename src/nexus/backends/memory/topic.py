"""A topic in memory: per partition a list of events and the position of its first, and a window of known ids.

Positions have no gaps, so a read is a slice and a position is an index. Forgotten events leave a hole at the front
of the list until it is half holes; then one deletion closes it, so forgetting costs the same however long the list.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from nexus.clock import Clock
from nexus.core.envelope import same_content
from nexus.errors import IdConflict, SettingsError
from nexus.event import Event
from nexus.spi.backend import Appended, Slice, Stored, TopicInfo, TopicSpec, Want

DEDUP_AGE_S = 600.0
DEDUP_LIMIT = 1_000_000
"""An id is known for at least the shorter of these, and little longer."""
_BUCKET_LIMIT = 1_024
_BUCKET_AGE_S = 60.0

ENVELOPE_BYTES = 512
"""What an event takes besides its texts: its attributes' places and one entry in the window of ids."""

_HOLE: Final = Stored(-1, 0.0, 0, Event(id="", source="", type="", time=None))  # type: ignore[arg-type]


class Partition:
    """One totally ordered part of a topic."""

    __slots__ = ("base", "events", "head", "last_at", "sealed")

    def __init__(self) -> None:
        self.events: list[Stored] = []
        self.base = 0
        """Position of ``events[0]``, which may be a hole."""
        self.head = 0
        """Index of the first event that is kept."""
        self.last_at = 0.0
        """When the last event was recorded. Recorded times never fall, also if the clock does, so they can be
        searched."""
        self.sealed = False

    @property
    def first(self) -> int:
        return self.base + self.head

    @property
    def end(self) -> int:
        return self.base + len(self.events)

    def at(self, position: int) -> Stored | None:
        """The event at a position, or None if there is none or it is gone."""
        return self.events[position - self.base] if self.first <= position < self.end else None

    def position_at(self, time: float) -> int:
        """Lowest position recorded at or after ``time``, or the end."""
        return self.base + bisect_left(self.events, time, lo=self.head, key=_recorded_at)

    def forget(self, count: int) -> list[Stored]:
        """Drop the ``count`` oldest events and return them."""
        events, start = self.events, self.head
        gone = events[start : start + count]
        self.head = start + len(gone)
        if self.head * 2 >= len(events):
            del events[: self.head]
            self.base += self.head
            self.head = 0
        else:
            events[start : self.head] = [_HOLE] * len(gone)
        return gone


def _recorded_at(stored: Stored) -> float:
    return stored.recorded_at


def _retains(spec: TopicSpec) -> bool:
    return spec.retention_age_s is not None or spec.retention_bytes is not None


class Topic:
    """A topic: its partitions, its ids and how many bytes it holds."""

    def __init__(self, spec: TopicSpec) -> None:
        self.spec = spec
        self.retains = _retains(spec)
        """Whether retention may let events go."""
        self.partitions = [Partition() for _ in range(spec.partitions)]
        self.size_bytes = 0
        self.sealed = 0
        """How many partitions are sealed."""
        self.ids: dict[tuple[str, str], int] | None = {} if spec.dedup else None
        """First place of each known (source, id), as position x partitions + partition: a plain number costs half
        of what a pair would, and the garbage collector need not look at it."""
        self._digests: dict[tuple[str, str], int] = {}
        """What the content was of events that are known and gone, so that a window of ids keeps no body alive."""
        self._recent: list[tuple[str, str]] = []
        self._recent_since_s = 0.0
        self._buckets: deque[tuple[float, list[tuple[str, str]]]] = deque()
        """Known ids, oldest first, in lists with the time of their last."""

    def partition(self, index: int) -> Partition:
        """The partition of that number. Raises `SettingsError` if there is none."""
        if not 0 <= index < len(self.partitions):
            raise SettingsError(
                f"topic {self.spec.name!r} has no partition {index}", hint=f"they are 0 to {len(self.partitions) - 1}"
            )
        return self.partitions[index]

    def add(
        self, batch: Sequence[tuple[int, Event[object]]], sizes: Sequence[int], clock: Clock
    ) -> tuple[list[Appended | IdConflict], int]:
        """Store checked events; return an answer for each and how many were stored."""
        answers: list[Appended | IdConflict] = []
        answer = answers.append
        partitions, ids, stored, size_bytes = self.partitions, self.ids, 0, 0
        known = len(partitions)
        remember = self._recent.append
        now = clock.now()
        for (index, event), size in zip(batch, sizes):  # noqa: B905 - made from one another; `strict` costs a call
            part = partitions[index]
            events = part.events
            position = part.base + len(events)
            if ids is not None:
                key = (event.source, event.id)
                place = position * known + index
                found = ids.setdefault(key, place)
                if found != place:
                    answer(self._again(event, key, found))
                    continue
                remember(key)
            if now > part.last_at:
                part.last_at = now
            events.append(Stored(position, part.last_at, size, event))
            size_bytes += size
            stored += 1
            answer(Appended(index, position))
        self.size_bytes += size_bytes
        if ids is not None:
            monotonic = clock.monotonic()
            if len(self._recent) >= _BUCKET_LIMIT or monotonic >= self._recent_since_s + _BUCKET_AGE_S:
                self._turn_window(ids, monotonic)
        return answers, stored

    def add_one(self, index: int, event: Event[object], size: int, clock: Clock) -> Appended | IdConflict:
        """`add` of one checked event: the commonest call, without the loops."""
        part = self.partitions[index]
        events = part.events
        position = part.base + len(events)
        ids = self.ids
        if ids is not None:
            key = (event.source, event.id)
            place = position * len(self.partitions) + index
            found = ids.setdefault(key, place)
            if found != place:
                return self._again(event, key, found)
            self._recent.append(key)
            monotonic = clock.monotonic()
            if len(self._recent) >= _BUCKET_LIMIT or monotonic >= self._recent_since_s + _BUCKET_AGE_S:
                self._turn_window(ids, monotonic)
        now = clock.now()
        if now > part.last_at:
            part.last_at = now
        events.append(Stored(position, part.last_at, size, event))
        self.size_bytes += size
        return Appended(index, position)

    def _again(self, event: Event[object], key: tuple[str, str], found: int) -> Appended | IdConflict:
        position, index = divmod(found, len(self.partitions))
        first = self.partitions[index].at(position)
        if same_content(first.event, event) if first is not None else self._digests.get(key) == _digest(event):
            return Appended(index, position, True)
        return IdConflict(
            f"event {event.id!r} of {event.source!r} is in {self.spec.name!r} at {index}@{position} with other content",
            hint="give a new fact a new id",
        )

    def _turn_window(self, ids: dict[tuple[str, str], int], monotonic: float) -> None:
        if self._recent:
            self._buckets.append((monotonic, self._recent))
            self._recent = []
        self._recent_since_s = monotonic
        while self._buckets and (
            self._buckets[0][0] < monotonic - DEDUP_AGE_S or len(ids) - len(self._buckets[0][1]) >= DEDUP_LIMIT
        ):
            for key in self._buckets.popleft()[1]:
                del ids[key]
                self._digests.pop(key, None)

    def keep(self, age_s: float | None, size_bytes: int | None) -> None:
        """Take a new retention over."""
        self.spec = msgspec.structs.replace(self.spec, retention_age_s=age_s, retention_bytes=size_bytes)
        self.retains = _retains(self.spec)

    def seal(self, index: int) -> int:
        """Refuse further events in a partition; return its end."""
        part = self.partition(index)
        self.sealed += not part.sealed
        part.sealed = True
        return part.end

    def fresh(self, batch: Sequence[tuple[int, Event[object]]], sizes: Sequence[int]) -> tuple[int, int]:
        """How many events of a batch would be stored, and their bytes."""
        if self.ids is None:
            return len(batch), sum(sizes)
        new = {
            key: size
            for (_, event), size in zip(batch, sizes, strict=True)
            if (key := (event.source, event.id)) not in self.ids
        }
        return len(new), sum(new.values())

    def forget(self, index: int, before: int) -> tuple[int, int]:
        """Drop events of a partition below ``before``; return how many and their bytes."""
        part = self.partitions[index]
        count = min(before, part.end) - part.first
        if count <= 0:
            return 0, 0
        gone = part.forget(count)
        ids = self.ids
        if ids is not None:
            for stored in gone:
                key = (stored.event.source, stored.event.id)
                if key in ids:
                    self._digests[key] = _digest(stored.event)
        size = sum(stored.size for stored in gone)
        self.size_bytes -= size
        return count, size

    def oldest(self) -> int | None:
        """The partition with the oldest event, or None if the topic is empty."""
        best, best_at = None, 0.0
        for index, part in enumerate(self.partitions):
            if len(part.events) > part.head:
                at = part.events[part.head].recorded_at
                if best is None or at < best_at:
                    best, best_at = index, at
        return best

    def expire(self, now: float) -> int:
        """Drop what retention lets go; return how many events."""
        count = 0
        age, limit = self.spec.retention_age_s, self.spec.retention_bytes
        if age is not None:
            for index, part in enumerate(self.partitions):
                count += self.forget(index, part.position_at(now - age))[0]
        while limit is not None and self.size_bytes > limit and (index_ := self.oldest()) is not None:
            count += self.forget(index_, self.partitions[index_].first + 1)[0]
        return count

    def info(self) -> TopicInfo:
        """Describe the topic."""
        return TopicInfo(
            spec=self.spec,
            first=tuple(part.first for part in self.partitions),
            end=tuple(part.end for part in self.partitions),
            sealed=tuple(index for index, part in enumerate(self.partitions) if part.sealed),
            size_bytes=self.size_bytes,
            durability="memory",
        )

    def slice_of(self, want: Want, budget: int, at_least_one: bool) -> tuple[Slice, int]:
        """Read what ``want`` wants, of at most ``budget`` bytes together; return it and the bytes it takes.

        ``at_least_one``: give the first event also if it is larger than that.
        """
        part = self.partition(want.partition)
        start = max(want.position, part.first)
        at = start - part.base
        events = part.events[at : at + max(want.max_events, 0)]
        taken = sum([stored.size for stored in events])
        if taken > budget:
            events, taken = _fit(events, budget, at_least_one)
        following = start + len(events)
        trimmed = part.first if want.position < part.first else None
        return Slice(self.spec.name, want.partition, events, following, following < part.end, trimmed), taken


def _fit(events: list[Stored], budget: int, at_least_one: bool) -> tuple[list[Stored], int]:
    taken = 0
    for count, stored in enumerate(events):
        if taken + stored.size > budget and (count or not at_least_one):
            return events[:count], taken
        taken += stored.size
    return events, taken


def _digest(event: Event[object]) -> int:
    """Stand for what `same_content` compares: 64 bits under this process's secret."""
    return hash((event.body, event.type, event.key, event.tenant, event.subject, event.datacontenttype))
