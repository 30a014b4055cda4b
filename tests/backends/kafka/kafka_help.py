"""What the tests of the Kafka backend share: a log of their own on a real broker, events, and deadlines.

The broker is the one at ``NEXUS_KAFKA_BOOTSTRAP``, else one that is started. Without it these tests fail: they prove
nothing without a broker.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from nexus.backends.kafka import KafkaLog
from nexus.event import Event
from nexus.spi.backend import Slice, Stored, TopicSpec, Want
from nexus.testing.backends import broker_url

MANY_BYTES = 1 << 30
_ids = itertools.count(1)


def bootstrap() -> str:
    return broker_url("kafka").removeprefix("kafka://").rstrip("/")


def new_url(servers: str | None = None, **options: Any) -> str:
    """The URL of a store that nobody uses yet."""
    wishes = {"prefix": f"test-{uuid4().hex[:10]}"} | options
    return f"kafka://{servers or bootstrap()}/?" + "&".join(f"{name}={value}" for name, value in wishes.items())


@asynccontextmanager
async def opened(url: str | None = None, **options: Any) -> AsyncIterator[KafkaLog]:
    """An open log, on a store of its own unless a URL is given; one of its own is removed in the end.

    Thousands of topics that nobody needs make a broker slow.
    """
    log = KafkaLog(url or new_url(**options))
    async with asyncio.timeout(300):
        await log.open()
        try:
            yield log
            if url is None:
                names = [log._cluster.kafka_name(topic) for topic in await log.topics()]
                await log._cluster.gather(log._cluster.admin.delete_topics(names) if names else {})
        finally:
            await log.close()


async def make(log: KafkaLog, name: str = "orders", partitions: int = 1, **wishes: Any) -> str:
    await log.create(TopicSpec(name, partitions=partitions, **wishes))
    return name


def event(**attributes: Any) -> Event[object]:
    given: dict[str, Any] = {
        "id": f"event-{next(_ids)}",
        "source": "/shop",
        "type": "order.placed",
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "key": "key",
    }
    return Event(**(given | attributes))


def numbered(count: int, start: int = 0, size: int = 0) -> list[Event[object]]:
    """Events whose bodies are numbers, filled up to a size."""
    return [event(body=b"%d" % number + b" " * size) for number in range(start, start + count)]


async def append(log: KafkaLog, topic: str, partition: int, events: Sequence[Event[object]]) -> list[int]:
    """Append, and return the positions."""
    answers = await log.append(topic, [(partition, each) for each in events], dedup=False)
    return [answer.position for answer in answers if answer.position is not None]


async def read(log: KafkaLog, topic: str, partition: int, position: int = 0, most: int = 1_000_000) -> Slice:
    """One fresh read."""
    (answer,) = await log.read([Want(topic, partition, position, most)], MANY_BYTES, fresh=True)
    return answer


async def read_all(log: KafkaLog, topic: str, partition: int, position: int = 0) -> list[Stored]:
    found: list[Stored] = []
    while True:
        answer = await read(log, topic, partition, position)
        found.extend(answer.events)
        position = answer.next
        if not answer.more:
            return found


async def numbers(log: KafkaLog, topic: str, partition: int, position: int = 0) -> list[int]:
    return [int(stored.event.body) for stored in await read_all(log, topic, partition, position)]


class Bell:
    """Rings when there is news, and waits for it."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.count = 0

    def ring(self) -> None:
        self.count += 1
        self.rung.set()

    async def within(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await self.rung.wait()
        self.rung.clear()


class Tail:
    """A reader that goes on and on, and looks again only when it is woken."""

    def __init__(self, log: KafkaLog, topic: str, partitions: int) -> None:
        self.log = log
        self.bell = Bell()
        self.stop = log.watch([topic], self.bell.ring)
        self.topic = topic
        self.positions = dict.fromkeys(range(partitions), 0)
        self.found: dict[int, list[Stored]] = {number: [] for number in range(partitions)}

    @property
    def count(self) -> int:
        return sum(map(len, self.found.values()))

    async def until(self, count: int, seconds: float = 20.0, page: int = 500) -> None:
        """Read until so many events were found."""
        async with asyncio.timeout(seconds):
            while True:
                self.bell.rung.clear()
                more = True
                while more and self.count < count:
                    wants = [Want(self.topic, number, position, page) for number, position in self.positions.items()]
                    slices = await self.log.read(wants, 16 << 20, fresh=False)
                    for answer in slices:
                        self.found[answer.partition].extend(answer.events)
                        assert answer.next >= self.positions[answer.partition]
                        self.positions[answer.partition] = answer.next
                    more = any(answer.more for answer in slices)
                if self.count >= count:
                    return
                await self.bell.rung.wait()


async def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something holds that no wake tells of."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - it is the other thread's doing
            await asyncio.sleep(0.005)
