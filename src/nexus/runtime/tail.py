"""Watching topics without a group: nothing is acknowledged, nobody is affected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from nexus.core.filter import compile_filter
from nexus.core.pattern import Pattern, validate_pattern
from nexus.runtime.publisher import Publisher
from nexus.spi.backend import Backend, Stored, Want

_READ_EVENTS = 500
_READ_BYTES = 4 * 1024 * 1024


class Seen(NamedTuple):
    """An event and where it is."""

    topic: str
    partition: int
    stored: Stored


class Tail:
    """An asynchronous iterator over stored events: in position order within a partition, merged by time of storing."""

    def __init__(
        self,
        backend: Backend,
        publisher: Publisher,
        patterns: Sequence[str],
        where: str | None,
        start: str | float,
        follow: bool,
    ) -> None:
        for pattern in patterns:
            validate_pattern(pattern)
        self._backend = backend
        self._topics = sorted({topic for pattern in patterns for topic in publisher.topics_of(pattern)})
        self._patterns = [Pattern(pattern) for pattern in patterns]
        self._where = compile_filter(where) if where else None
        self._start = start
        self._follow = follow

    def __aiter__(self) -> AsyncIterator[Seen]:
        return self._events()

    async def _events(self) -> AsyncIterator[Seen]:
        wake = asyncio.Event()
        unwatch = self._backend.watch(self._topics, wake.set)
        try:
            places = await self._begin()
            while True:
                wake.clear()
                wants = [Want(topic, partition, at, _READ_EVENTS) for (topic, partition), at in places.items()]
                slices = await self._backend.read(wants, _READ_BYTES)
                found = [Seen(part.topic, part.partition, stored) for part in slices for stored in part.events]
                for part in slices:
                    places[part.topic, part.partition] = part.next
                found.sort(key=lambda seen: seen.stored.recorded_at)
                for seen in found:
                    if self._wanted(seen):
                        yield seen
                if any(part.more for part in slices):
                    continue
                if not self._follow:
                    return
                await wake.wait()
        finally:
            unwatch()

    def _wanted(self, seen: Seen) -> bool:
        event = seen.stored.event
        if not any(pattern.matches(event.type) for pattern in self._patterns):
            return False
        return self._where is None or self._where.matches(event)

    async def _begin(self) -> dict[tuple[str, int], int]:
        places = {}
        for topic in self._topics:
            info = await self._backend.describe(topic)
            for partition in range(info.spec.partitions):
                if self._start == "latest":
                    at = info.end[partition]
                elif isinstance(self._start, str):
                    at = info.first[partition]
                else:
                    at = await self._backend.position_at(topic, partition, self._start)
                places[topic, partition] = at
        return places
