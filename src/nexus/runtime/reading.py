"""Events of many partitions as one line, by the time of storing: each partition in order, merged with a heap."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from nexus.errors import Closed
from nexus.spi.backend import Backend, Stored, Want

_READ_EVENTS = 500
_READ_BYTES = 8 * 1024 * 1024

At = tuple[str, int]
"""A topic and a partition."""


class Seen(NamedTuple):
    """An event and where it is."""

    topic: str
    partition: int
    stored: Stored


async def merged(
    backend: Backend,
    places: Mapping[At, int],
    *,
    until: float | None = None,
    ends: Mapping[At, int] | None = None,
    follow: bool = False,
    closed: asyncio.Event | None = None,
) -> AsyncIterator[Seen]:
    """Read from ``places`` on, to the end as it is then or for ever; without what was stored after ``until``.

    ``ends`` are positions that are not read any more. Raises `Closed` when ``closed`` is set while it waits for more.

    Holds at most 500 events of a partition.
    """
    wake = asyncio.Event()
    unwatch = backend.watch(sorted({topic for topic, _ in places}), wake.set) if follow else lambda: None
    nexts = dict(places)
    held: dict[At, deque[Stored]] = {at: deque() for at in places}
    reading = set(places)  # whose end was not seen yet
    heads: list[tuple[float, At]] = []
    try:
        while True:
            wake.clear()
            while hungry := [at for at in sorted(reading) if not held[at]]:
                slices = await backend.read([Want(*at, nexts[at], _READ_EVENTS) for at in hungry], _READ_BYTES)
                for part in slices:
                    at = part.topic, part.partition
                    nexts[at] = part.next
                    end = ends[at] if ends is not None else None
                    taken = [
                        s
                        for s in part.events
                        if (until is None or s.recorded_at <= until) and (end is None or s.position < end)
                    ]
                    held[at].extend(taken)
                    if not part.more or len(taken) < len(part.events):
                        reading.discard(at)
                    if taken:
                        heapq.heappush(heads, (taken[0].recorded_at, at))
            while heads:
                _, at = heapq.heappop(heads)
                yield Seen(*at, held[at].popleft())
                if held[at]:
                    heapq.heappush(heads, (held[at][0].recorded_at, at))
                elif at in reading:
                    break
            else:
                if not follow:
                    return
                await _either(wake, closed)
                if closed is not None and closed.is_set():
                    raise Closed("the bus is closed", hint="it gives no more events")
                reading = set(places)
    finally:
        unwatch()


async def _either(wake: asyncio.Event, closed: asyncio.Event | None) -> None:
    if closed is None:
        await wake.wait()
        return
    waiting = [asyncio.ensure_future(event.wait()) for event in (wake, closed)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


async def starts(backend: Backend, topics: list[str], at: str | float) -> dict[At, int]:
    """Return where to begin: ``earliest``, ``latest`` or a time in seconds since 1970."""
    places: dict[At, int] = {}
    for topic in topics:
        info = await backend.describe(topic)
        for partition in range(info.spec.partitions):
            if at == "earliest":
                places[topic, partition] = info.first[partition]
            elif at == "latest":
                places[topic, partition] = info.end[partition]
            else:
                places[topic, partition] = await backend.position_at(topic, partition, float(at))
    return places
