"""Watching topics without a group: nothing is acknowledged, nobody is affected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from nexus.core.filter import compile_filter
from nexus.core.pattern import Pattern, validate_pattern
from nexus.runtime.publisher import Publisher
from nexus.runtime.reading import Seen, merged, starts
from nexus.spi.backend import Backend


class Tail:
    """An asynchronous iterator over stored events, merged by the time of storing; in order within a partition."""

    def __init__(
        self,
        backend: Backend,
        publisher: Publisher,
        patterns: Sequence[str],
        where: str | None,
        start: str | float,
        follow: bool,
        closed: asyncio.Event,
    ) -> None:
        """``closed``: is set when the bus closes."""
        for pattern in patterns:
            validate_pattern(pattern)
        self._backend = backend
        self._topics = sorted({topic for pattern in patterns for topic in publisher.topics_of(pattern)})
        self._patterns = [Pattern(pattern) for pattern in patterns]
        self._where = None if where is None else compile_filter(where)
        self._start = start
        self._follow = follow
        self._closed = closed

    def __aiter__(self) -> AsyncIterator[Seen]:
        return self._events()

    async def _events(self) -> AsyncIterator[Seen]:
        places = await starts(self._backend, self._topics, self._start)
        async for seen in merged(self._backend, places, follow=self._follow, closed=self._closed):
            event = seen.stored.event
            if any(pattern.matches(event.type) for pattern in self._patterns) and (
                self._where is None or self._where.matches(event)
            ):
                yield seen
