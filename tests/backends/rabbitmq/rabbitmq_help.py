"""What the tests on a real broker share: its address, a store of one's own, events, and conditions to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from nexus.backends.rabbitmq import RabbitLog, Settings
from nexus.event import Event
from nexus.spi.backend import Stored, Want
from nexus.testing import backends

MANY_BYTES = 1 << 30


def broker_url() -> str:
    """The broker of ``NEXUS_RABBITMQ_URL``, else one that is started."""
    return backends.broker_url("rabbitmq")


def store_url(url: str, **options: Any) -> str:
    """The URL of a store that nobody else uses."""
    given = {"prefix": f"t{uuid4().hex[:10]}"} | options
    return url + ("&" if "?" in url else "?") + "&".join(f"{name}={value}" for name, value in given.items())


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RabbitLog]:
    """A log that is open for a while."""
    log = RabbitLog(Settings.parse(url))
    await log.open()
    try:
        yield log
    finally:
        await log.close()


def event(id: str, **attributes: Any) -> Event[object]:
    given: dict[str, Any] = {"source": "/shop", "type": "order.placed", "time": datetime(2026, 1, 1, tzinfo=UTC)}
    return Event(id=id, **(given | attributes))


async def read_all(log: RabbitLog, topic: str, partition: int = 0, start: int = 0) -> list[Stored]:
    """Everything in a partition, as of now."""
    found: list[Stored] = []
    position = start
    while True:
        (part,) = await log.read([Want(topic, partition, position, 1_000)], MANY_BYTES, fresh=True)
        found += part.events
        position = part.next
        if not part.more:
            return found


async def ids(log: RabbitLog, topic: str, partition: int = 0) -> list[str]:
    return [stored.event.id for stored in await read_all(log, topic, partition)]


async def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what it looks at tells nobody
            await asyncio.sleep(0.005)
