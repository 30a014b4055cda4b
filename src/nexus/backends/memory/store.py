"""The store: topics and groups, and the bound on what all topics hold together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from nexus.backends.memory.group import Group, MemoryMember, Waker
from nexus.backends.memory.topic import ENVELOPE_BYTES, Topic
from nexus.clock import Clock
from nexus.errors import IdConflict, PayloadTooLarge, Sealed, SettingsError, StoreFull, UnknownGroup, UnknownTopic
from nexus.event import Event
from nexus.spi.backend import Appended, Cursor, PartitionLag, Slice, TopicInfo, TopicSpec, Want

MAX_EVENTS = 1_000_000
MAX_BYTES = 1024**3
MAX_BODY_BYTES = 16 * 1024**2

JOURNAL_EVENTS = 1_000
"""The reserve of journals is a quarter of the bound, and at least so many events."""

_CHUNKS = 1_024
"""When room must be made, at least this fraction of the bound is freed, so that it is not sought for every event."""


class Store:
    """What the backends of one name share. Used by one event loop at a time."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.reserve_events = max(max_events // 4, JOURNAL_EVENTS)
        self.reserve_bytes = max(max_bytes // 4, min(max_bytes, MAX_BODY_BYTES))
        self.topics: dict[str, Topic] = {}
        self.groups: dict[str, Group] = {}
        self._count = 0
        self._size_bytes = 0
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._users = 0
        self.loop: asyncio.AbstractEventLoop
        self._clock: Clock

    def attach(self, clock: Clock) -> None:
        """Begin to be used. Raises `SettingsError` when another event loop uses the store."""
        loop = asyncio.get_running_loop()
        if self._users and loop is not self.loop:
            raise SettingsError(
                "this memory store is in use by another event loop", hint="give each loop a store name of its own"
            )
        self.loop = loop
        self._clock = clock
        self._users += 1

    def detach(self) -> None:
        self._users -= 1

    def topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            raise UnknownTopic(f"there is no topic {name!r}", hint="create it by publishing or with `ensure`")
        return topic

    def ensure(self, spec: TopicSpec) -> TopicInfo:
        topic = self.topics.get(spec.name)
        if topic is None:
            if spec.partitions < 1:
                raise SettingsError(f"topic {spec.name!r} needs at least one partition, not {spec.partitions}")
            topic = self.topics[spec.name] = Topic(spec)
        elif topic.spec.partitions != spec.partitions:
            raise SettingsError(
                f"topic {spec.name!r} has {topic.spec.partitions} partitions, not {spec.partitions}",
                hint="the number of partitions of a topic stands; keep it, or use a new topic",
            )
        else:
            topic.keep(spec.retention_age_s, spec.retention_bytes)
            self._expire(topic)
        return topic.info()

    def describe(self, name: str) -> TopicInfo:
        topic = self.topic(name)
        self._expire(topic)
        return topic.info()

    def append(self, name: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        topic = self.topics.get(name) or self.topic(name)
        sizes = _check(topic, batch)
        if len(batch) == 1 and self._count < self.max_events and self._size_bytes + sizes[0] <= self.max_bytes:
            return [self._append_one(topic, *batch[0], sizes[0])]
        if self._count + len(sizes) > self.max_events or self._size_bytes + sum(sizes) > self.max_bytes:
            self._make_room(topic, *topic.fresh(batch, sizes))
        before = topic.size_bytes
        answers, stored = topic.add(batch, sizes, self._clock)
        self._count += stored
        self._size_bytes += topic.size_bytes - before
        if topic.retains:
            self._expire(topic)
        if stored:
            for wake in self._watchers.get(name, ()):
                wake()
        return answers

    def _append_one(self, topic: Topic, index: int, event: Event[object], size: int) -> Appended | IdConflict:
        answer = topic.add_one(index, event, size, self._clock)
        if answer.__class__ is Appended and not answer.duplicate:
            self._count += 1
            self._size_bytes += size
            if topic.retains:
                self._expire(topic)
            for wake in self._watchers.get(topic.spec.name, ()):
                wake()
        return answer

    def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        slices: list[Slice] = []
        left, at_least_one = max_bytes, True
        for want in wants:
            topic = self.topic(want.topic)
            if topic.retains:
                self._expire(topic)
            answer, taken = topic.slice_of(want, left, at_least_one)
            slices.append(answer)
            if taken:
                left -= taken
                at_least_one = False
        return slices

    def trim(self, name: str, index: int, before: int) -> None:
        topic = self.topic(name)
        topic.partition(index)
        self._forget(topic, index, before)

    def seal(self, name: str, index: int) -> int:
        return self.topic(name).seal(index)

    def watch(self, names: Sequence[str], wake: Callable[[], None]) -> None:
        for name in set(names):
            self._watchers.setdefault(name, []).append(wake)

    def unwatch(self, names: Sequence[str], wake: Callable[[], None]) -> None:
        for name in set(names):
            watchers = self._watchers.get(name, [])
            if wake in watchers:
                watchers.remove(wake)

    def claim(
        self,
        group_name: str,
        names: Sequence[str],
        member_name: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> MemoryMember:
        topics = [self.topic(name) for name in names]
        group = self.groups.setdefault(group_name, Group(group_name, self))
        for topic in topics:
            if (topic.spec.name, 0) not in group.cursors:
                for index, part in enumerate(topic.partitions):
                    low = part.end if start == "latest" else part.first
                    group.cursors[topic.spec.name, index] = Cursor(epoch=0, low=low)
        member = MemoryMember(group, member_name, names, Waker(wake, self.loop), self._clock)
        self.watch(member.topics, member.wake)
        group.join(member)
        return member

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock.now()

    def lag(self, group_name: str) -> list[PartitionLag]:
        group = self.groups.get(group_name)
        if group is None or not group.cursors:
            raise UnknownGroup(f"there is no group {group_name!r}")
        return group.lag()

    def _forget(self, topic: Topic, index: int, before: int) -> tuple[int, int]:
        count, size = topic.forget(index, before)
        self._count -= count
        self._size_bytes -= size
        return count, size

    def _expire(self, topic: Topic) -> None:
        before = topic.size_bytes
        self._count -= topic.expire(self._clock.now())
        self._size_bytes -= before - topic.size_bytes

    def _fits(self, count: int, size: int) -> bool:
        return self._count + count <= self.max_events and self._size_bytes + size <= self.max_bytes

    def _make_room(self, topic: Topic, count: int, size: int) -> None:
        """Free what ``count`` more events of ``size`` bytes need. Raises `StoreFull` when that cannot be."""
        if not count or self._fits(count, size):
            return
        if count <= self.max_events and size <= self.max_bytes:
            wish = max(count, self.max_events // _CHUNKS), max(size, self.max_bytes // _CHUNKS)
            for each in (topic, *self.topics.values()):
                self._forget_consumed(each, *wish)
            if topic.spec.dedup and not self._lows(topic, 0):
                while not self._fits(*wish) and (index := topic.oldest()) is not None:
                    self._forget(topic, index, topic.partitions[index].first + 1)
        # What is full is emptied by consumers, and they must be able to note in their journal what they park: its
        # reserve keeps them going.
        more = (0, 0) if topic.spec.dedup else (self.reserve_events, self.reserve_bytes)
        if not self._fits(count - more[0], size - more[1]):
            raise StoreFull(
                f"the memory store holds {self._count:,} of {self.max_events:,} events and {self._size_bytes:,} of "
                f"{self.max_bytes:,} bytes, and all of them are needed",
                hint="consume faster, or raise `max_events` and `max_bytes` in the URL",
            )

    def _forget_consumed(self, topic: Topic, count: int, size: int) -> None:
        if not topic.spec.dedup:  # a journal has no group: its reader folds it, and may need it from its first event
            return
        step = max(self._count + count - self.max_events, 64)
        for index, part in enumerate(topic.partitions):
            done = min(self._lows(topic, index), default=0)
            while part.first < min(done, part.end) and not self._fits(count, size):
                self._forget(topic, index, min(done, part.first + step))

    def _lows(self, topic: Topic, index: int) -> list[int]:
        lows = (group.low((topic.spec.name, index)) for group in self.groups.values())
        return [low for low in lows if low is not None]


def _check(topic: Topic, batch: Sequence[tuple[int, Event[object]]]) -> list[int]:
    """Refuse a batch as a whole if it has to be; return what each event counts for."""
    known, sizes = len(topic.partitions), []
    for index, event in batch:
        if not 0 <= index < known:
            topic.partition(index)  # raises
        # The size is worked out here and not in a function: this is the hot path, and a call costs as much again.
        body, key, extensions = len(event.body), event.key, event.extensions
        if body > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"payload of {body:,} bytes is over the limit of {MAX_BODY_BYTES:,}")
        size = ENVELOPE_BYTES + body + len(event.id)
        if key is not None:
            size += len(key)
        if extensions:
            size += sum(len(name) + len(str(value)) for name, value in extensions.items())
        sizes.append(size)
    if topic.sealed:
        for index, _ in batch:
            if topic.partitions[index].sealed:
                raise Sealed(f"partition {index} of topic {topic.spec.name!r} is sealed")
    return sizes
