"""Reading at a place that nobody follows: a consumer is pointed there, reads what is wanted, and is let go again.

It waits a millisecond at the brokers for news, not longer, since an order to read somewhere else waits until the
brokers have answered the previous one. So it is pointed only where something is to be read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from nexus.backends.kafka.asker import Introductions
from nexus.backends.kafka.buffer import Buffer
from nexus.backends.kafka.cluster import TRY_S, Cluster, Partition
from nexus.backends.kafka.failures import PASSING, UNKNOWN_TOPIC
from nexus.errors import Unavailable

JUMPERS = 2
"""How many may read so at once; others wait."""
WAIT_MS = 1
TRIES = 10
AT_ONCE = 500


class Wish(msgspec.Struct):
    """A place to read at, and how much at most."""

    topic: str
    partition: int
    position: int
    end: int
    max_events: int


class _Beyond(Exception):
    """A partition begins above the place where it was to be read."""


class Jumper:
    """Reads pages. Its consumers are made when they are first needed and kept."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._idle: list[_Consumer] = []
        self._turns = asyncio.Semaphore(JUMPERS)

    async def read(self, wishes: Sequence[Wish], max_bytes: int) -> dict[Partition, Buffer]:
        """Read a page of each wish; no two name the same partition. Raises as `Log.read` does.

        A page ends where the wish's end is reached, at its most events, or where the budget is surely used up.
        """
        cluster = self._cluster
        firsts: dict[Partition, int] = {}

        async def question() -> dict[Partition, Buffer]:
            pages = []
            for wish in wishes:
                first = firsts.get((wish.topic, wish.partition), 0)
                page = Buffer(wish.topic, wish.partition, max(wish.position, first))
                page.trimmed = first if first > wish.position else None
                pages.append(page)
            todo = [(wish, page) for wish, page in zip(wishes, pages, strict=True) if page.start < wish.end]
            if todo:
                await self._collect(todo, max_bytes)
            return {(page.topic, page.partition): page for page in pages}

        # Once as a rule; again if somebody trims just then.
        for _ in range(TRIES):
            try:
                return await cluster.ask("reading", question, {wish.topic for wish in wishes})
            except _Beyond:
                firsts = await cluster.firsts((wish.topic, wish.partition) for wish in wishes)
        raise Unavailable(f"topic {wishes[0].topic!r} was trimmed again and again while it was read")

    async def _collect(self, todo: list[tuple[Wish, Buffer]], max_bytes: int) -> None:
        async with self._turns:
            reader = self._idle.pop() if self._idle else _Consumer(self._cluster)
            task = asyncio.ensure_future(self._cluster.run(lambda: reader.pages(todo, max_bytes)))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])  # it is still on its thread; what it says is for nobody
                if not task.cancelled():
                    task.exception()
                raise
            finally:
                self._idle.append(reader)

    def close(self) -> None:
        """Let go of the consumers. Blocks."""
        for reader in self._idle:
            reader.consumer.close()
        self._idle.clear()


class _Consumer:
    """A consumer that reads somewhere else each time. Used on one thread at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.consumer = Consumer(cluster.settings.consumer(WAIT_MS))
        self._introductions = Introductions(self.consumer)

    def pages(self, todo: list[tuple[Wish, Buffer]], max_bytes: int) -> None:
        """Fill the pages. Raises `KafkaException` and `_Beyond`."""
        consumer = self.consumer
        names = {wish.topic: self._cluster.kafka_name(wish.topic) for wish, _ in todo}
        open_pages = {(names[wish.topic], wish.partition): (wish, page) for wish, page in todo}
        self._introductions.make(names.values())
        consumer.assign([TopicPartition(name, each, page.start) for (name, each), (_, page) in open_pages.items()])
        deadline = time.monotonic() + TRY_S
        try:
            while open_pages:
                if self._cluster.closing or time.monotonic() > deadline:
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "reading took too long"))
                message = consumer.poll(0.1)
                if message is None:
                    continue
                full = []
                for each in [message, *consumer.consume(AT_ONCE - 1, 0)]:
                    place = (each.topic() or "", each.partition() or 0)
                    found = open_pages.get(place)
                    if found is None:
                        continue
                    wish, page = found
                    error = each.error()
                    if error is None:
                        page.add([each])
                    elif error.code() == KafkaError._PARTITION_EOF:
                        page.reach(each.offset() or 0)
                    elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                        # What lies below is the error of an earlier read, that nobody had waited for.
                        if (each.offset() or 0) >= page.head:
                            raise _Beyond
                    elif error.code() in UNKNOWN_TOPIC or error.code() not in PASSING:
                        raise KafkaException(error)
                    if page.head >= wish.end or len(page.messages) >= wish.max_events or page.size_bytes > max_bytes:
                        del open_pages[place]
                        full.append(TopicPartition(*place))
                if _enough(todo, max_bytes):
                    return
                if full and open_pages:
                    consumer.incremental_unassign(full)
        except KafkaException:
            self._introductions.forget()
            raise
        finally:
            consumer.unassign()


def _enough(todo: list[tuple[Wish, Buffer]], max_bytes: int) -> bool:
    """Whether the pages up to one that is not complete use up the budget already."""
    size = 0
    for wish, page in todo:
        size += page.size_bytes
        if size > max_bytes:
            return True
        if page.head < wish.end and len(page.messages) < wish.max_events:
            return False
    return True
