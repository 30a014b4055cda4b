"""RabbitMQ by others: the raw rstream client on 16 streams, and FastStream on a quorum queue, its durable one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from nexus.bench.contestants import PAYLOAD, Figures, contestant
from nexus.bench.load import BODY, IN_FLIGHT, Backlog, Clock, Latency, in_flight, number_of, numbered_body
from nexus.bench.on_brokers import BATCH, url

_CREDIT = 10


def _login() -> dict[str, Any]:
    parts = urlsplit(url())
    port = parse_qs(parts.query)["stream_port"][0].partition(",")[0]
    return {"host": parts.hostname, "port": int(port), "username": parts.username, "password": parts.password}


def _amqp() -> str:
    return f"amqp://{urlsplit(url()).netloc}/"


class _Streams:
    """A producer, and 16 new streams; counts what is confirmed."""

    def __init__(self, producer: Any, names: list[str]) -> None:
        self._producer = producer
        self.names = names
        self._sent = self._stored = 0
        self._news = asyncio.Event()

    def _confirmed(self, status: Any) -> None:
        self._stored += 1
        if self._stored == self._sent:
            self._news.set()

    async def send(self, number: int, messages: list[bytes]) -> None:
        """Send a batch to one of the streams."""
        self._sent += len(messages)
        self._news.clear()
        await self._producer.send_batch(
            self.names[number % len(self.names)], messages, on_publish_confirm=self._confirmed
        )

    async def stored(self) -> None:
        """Wait until all that was sent is confirmed."""
        while self._stored < self._sent:
            await self._news.wait()


@asynccontextmanager
async def _streams() -> AsyncIterator[_Streams]:
    from rstream import Producer

    async with Producer(**_login()) as producer:
        names = [f"bench-{uuid4().hex[:8]}" for _ in range(16)]
        for name in names:
            await producer.create_stream(name)
        yield _Streams(producer, names)


@asynccontextmanager
async def _consumer(streams: list[str], handle: Any) -> AsyncIterator[None]:
    """rstream, from the beginning of the streams, each message decoded."""
    from rstream import Consumer, ConsumerOffsetSpecification, OffsetType, amqp_decoder

    consumer = Consumer(**_login())
    await consumer.start()
    try:
        for name in streams:
            await consumer.subscribe(
                name,
                handle,
                decoder=amqp_decoder,
                offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None),
                initial_credit=_CREDIT,
            )
        yield
    finally:
        await consumer.close()


async def _fill(streams: _Streams, count: int) -> Figures:
    """Send what is encoded already, 500 in a batch, without waiting for one to be confirmed before the next."""
    from rstream import AMQPMessage

    message = bytes(AMQPMessage(body=BODY))
    for number in range(len(streams.names)):
        await streams.send(number, [message])
    await streams.stored()
    clock = Clock()
    for number in range(count // BATCH):
        await streams.send(number, [message] * BATCH)
    await streams.stored()
    return clock.rate(count // BATCH * BATCH)


@contestant
def rabbitmq_raw_batches(count: int, _: Path) -> Figures:
    """rstream's `send_batch`, 500 at a time, until all are confirmed."""

    async def work() -> Figures:
        async with _streams() as streams:
            return await _fill(streams, count)

    return asyncio.run(work())


@contestant
def rabbitmq_raw_consume(count: int, _: Path) -> Figures:
    """rstream, an async handler call for each decoded message; no place is stored."""

    async def work() -> Figures:
        async with _streams() as streams:
            await _fill(streams, count)
            backlog = Backlog(count // BATCH * BATCH)

            async def handle(message: Any, _context: Any) -> None:
                backlog.seen()

            async with _consumer(streams.names, handle):
                await backlog.done.wait()
            return backlog.figures

    return asyncio.run(work())


@contestant
def rabbitmq_raw_latency(count: int, _: Path) -> Figures:
    """rstream, each event sent by itself, and its consumer."""

    async def work() -> Figures:
        from rstream import AMQPMessage

        async with _streams() as streams:
            latency = Latency(count)

            async def handle(message: Any, _context: Any) -> None:
                latency.arrived(number_of(message.body))

            async def publish(number: int) -> None:
                await streams.send(number, [bytes(AMQPMessage(body=numbered_body(number)))])

            async with _consumer(streams.names, handle):
                return await latency.measure(publish)

    return asyncio.run(work())


def _faststream() -> tuple[Any, Any]:
    """A broker, and a new quorum queue."""
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

    broker = RabbitBroker(_amqp(), logger=None, default_channel=Channel(prefetch_count=IN_FLIGHT))
    return broker, RabbitQueue(f"bench-{uuid4().hex[:8]}", queue_type=QueueType.QUORUM, durable=True)


@contestant
def rabbitmq_faststream_publish(count: int, _: Path) -> Figures:
    """FastStream, each publish confirmed, 500 under way at once; a quarter of the events."""

    async def work() -> Figures:
        broker, queue = _faststream()
        async with broker:
            await broker.declare_queue(queue)
            return await in_flight(count // 4, lambda _: broker.publish(PAYLOAD, queue, persist=True))

    return asyncio.run(work())


@contestant
def rabbitmq_faststream_consume(count: int, _: Path) -> Figures:
    """FastStream, a handler call per message, acknowledged after it, 500 in flight; a quarter of the events."""
    count //= 4

    async def work() -> Figures:
        from faststream import AckPolicy

        broker, queue = _faststream()
        async with broker:
            await broker.declare_queue(queue)
            await in_flight(count, lambda _: broker.publish(PAYLOAD, queue, persist=True))
        backlog = Backlog(count)
        broker, _new = _faststream()

        async def handle(body: dict[str, Any]) -> None:
            backlog.seen()

        broker.subscriber(queue, ack_policy=AckPolicy.ACK)(handle)
        async with broker:
            await broker.start()
            await backlog.done.wait()
        return backlog.figures

    return asyncio.run(work())
