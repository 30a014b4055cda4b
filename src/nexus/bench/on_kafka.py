"""Kafka by others: the raw confluent-kafka client, and FastStream upon the same client.

Each topic has 16 partitions, as those of Nexus have; producers are idempotent and wait for all replicas.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from nexus.bench.contestants import PAYLOAD, Figures, contestant
from nexus.bench.load import BODY, Backlog, Clock, Latency, in_flight, key, number_of, numbered_body
from nexus.bench.on_brokers import BATCH, servers

_POLL_S = 0.05


def _new_topic() -> str:
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"bench-{uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": servers()})
    admin.create_topics([NewTopic(name, 16, 1)])[name].result()
    return name


def _producer(linger_ms: int = 1) -> Any:
    from confluent_kafka import Producer

    return Producer(
        {
            "bootstrap.servers": servers(), "acks": "all", "enable.idempotence": True, "linger.ms": linger_ms,
            "queue.buffering.max.messages": 1_000_000,
        }
    )  # fmt: skip


def _consumer(topic: str) -> Any:
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": servers(), "group.id": topic, "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )  # fmt: skip
    consumer.subscribe([topic])
    return consumer


class _Futures:
    """A raw producer with a future for each event; reports come on a thread, and go to the loop many at once."""

    def __init__(self, topic: str, linger_ms: int) -> None:
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._producer = _producer(linger_ms)
        self._reported: list[asyncio.Future[None]] = []
        self.stop = False

    def send(self, body: bytes, key: str) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._producer.produce(
            self._topic, body, key=key, on_delivery=lambda _error, _message: self._reported.append(future)
        )
        return future

    def serve(self) -> None:
        reported = self._reported
        while not self.stop:
            self._producer.poll(0 if reported else _POLL_S)
            if reported:
                several = reported[:]
                del reported[: len(several)]
                self._loop.call_soon_threadsafe(_resolve, several)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


@contextmanager
def _futures(topic: str, linger_ms: int = 1) -> Iterator[_Futures]:
    producer = _Futures(topic, linger_ms)
    thread = threading.Thread(target=producer.serve)
    thread.start()
    try:
        yield producer
    finally:
        producer.stop = True
        thread.join()


@contestant
def kafka_raw_futures(count: int, _: Path) -> Figures:
    """A raw producer, a future for each event, 500 under way at once."""

    async def work() -> Figures:
        with _futures(_new_topic()) as producer:
            return await in_flight(count, lambda number: producer.send(BODY, key(number)))

    return asyncio.run(work())


def _fill(topic: str, count: int) -> Figures:
    producer = _producer()
    producer.produce(topic, BODY)
    producer.flush()
    clock = Clock()
    for number in range(1, count):
        producer.produce(topic, BODY, key=key(number))
        if number % BATCH == 0:
            producer.poll(0)
    producer.flush()
    return clock.rate(count)


@contestant
def kafka_raw_many(count: int, _: Path) -> Figures:
    """A raw producer without futures, flushed at the end."""
    return _fill(_new_topic(), count)


@contestant
def kafka_raw_consume(count: int, _: Path) -> Figures:
    """A raw consumer in lists of 500, committed at the end."""
    topic = _new_topic()
    _fill(topic, count)
    consumer = _consumer(topic)
    backlog = Backlog(count)
    while backlog.left > 0:
        messages = consumer.consume(BATCH, 0.2)
        backlog.seen(sum(1 for message in messages if message.error() is None and message.value() is not None))
    consumer.commit(asynchronous=False)
    backlog.finished()
    consumer.close()
    return backlog.figures


@contestant
def kafka_raw_latency(count: int, _: Path) -> Figures:
    """The raw producer and a raw consumer on a thread, which hands each event to the loop; nothing is committed."""

    async def work() -> Figures:
        topic = _new_topic()
        loop = asyncio.get_running_loop()
        latency = Latency(count)
        consumer = _consumer(topic)
        stop = threading.Event()

        def consume() -> None:
            while not stop.is_set():
                message = consumer.poll(_POLL_S)
                if message is not None and message.error() is None:
                    loop.call_soon_threadsafe(latency.arrived, number_of(message.value()))
            consumer.close()

        thread = threading.Thread(target=consume)
        thread.start()
        try:
            with _futures(topic, linger_ms=0) as producer:

                async def publish(number: int) -> None:
                    await producer.send(numbered_body(number), key(number))

                return await latency.measure(publish)
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)

    return asyncio.run(work())


@contestant
def kafka_faststream_publish(count: int, _: Path) -> Figures:
    """FastStream, each publish awaited, 500 under way at once."""

    async def work() -> Figures:
        from faststream.confluent import KafkaBroker

        topic = _new_topic()
        async with KafkaBroker(servers(), logger=None, acks="all", enable_idempotence=True) as broker:
            return await in_flight(count, lambda number: broker.publish(PAYLOAD, topic, key=key(number).encode()))

    return asyncio.run(work())


@contestant
def kafka_faststream_consume(count: int, _: Path) -> Figures:
    """FastStream, a handler call per event, acknowledged after the handler; a tenth of the events."""
    count //= 10

    async def work() -> Figures:
        from faststream import AckPolicy
        from faststream.confluent import KafkaBroker

        topic = _new_topic()
        _fill(topic, count)
        broker = KafkaBroker(servers(), logger=None)
        backlog = Backlog(count)

        async def handle(body: dict[str, Any]) -> None:
            backlog.seen()

        broker.subscriber(topic, group_id=topic, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK)(handle)
        async with broker:
            await broker.start()
            await backlog.done.wait()
        return backlog.figures

    return asyncio.run(work())
