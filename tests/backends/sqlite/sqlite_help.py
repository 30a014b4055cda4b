"""What the tests of the SQLite backend share: events, waiting, and a reader of whole topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nexus.backends.sqlite import SqliteBackend
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.event import Event
from nexus.spi.backend import Change, Member, Stored, TopicSpec, Want

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(id: object, body: bytes = b'{"n":1}', source: str = "/test", **more: Any) -> Event[Any]:
    return Event(id=str(id), source=source, type="order.placed", time=NOON, key=str(id), body=body, **more)


@asynccontextmanager
async def opened(
    path: Path | str, topic: TopicSpec | None = None, clock: Clock = SYSTEM_CLOCK, options: str = ""
) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(f"sqlite:///{path}{'?' + options if options else ''}", clock=clock)
    await backend.open()
    try:
        if topic is not None:
            await backend.ensure(topic)
        yield backend
    finally:
        await backend.close()


async def until(true: Callable[[], Any], deadline_s: float = 10.0) -> float:
    """Wait for a condition; return how long it took."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < deadline_s, f"not within {deadline_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - start


async def all_of(backend: SqliteBackend, topic: str, partitions: int, step: int = 100) -> list[list[Stored]]:
    """Read every event of a topic, partition by partition."""
    found: list[list[Stored]] = [[] for _ in range(partitions)]
    positions = [0] * partitions
    more = True
    while more:
        slices = await backend.read([Want(topic, p, positions[p], step) for p in range(partitions)], 1 << 20)
        more = any(part.events or part.more for part in slices)
        for part in slices:
            positions[part.partition] = part.next
            found[part.partition] += part.events
    return found


class Seen:
    """Collects a member's changes."""

    def __init__(self) -> None:
        self.member: Member | None = None
        self.all: list[Change] = []
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def look(self) -> list[Change]:
        assert self.member is not None
        new = self.member.changes()
        self.all += new
        return new

    def of(self, kind: type[Change]) -> list[Any]:
        self.look()
        return [change for change in self.all if isinstance(change, kind)]
