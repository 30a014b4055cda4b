"""NATS JetStream by others: the raw nats-py client, and FastStream upon it. A stream has 16 subjects in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from nexus.bench.contestants import PAYLOAD, Figures, contestant
from nexus.bench.load import BODY, Backlog, Latency, in_flight, number_of, numbered_body
from nexus.bench.on_brokers import servers

_PULL = 200
_PATIENCE_S = 60.0
"""A machine under load answers late; that is a figure, and no failure."""


@asynccontextmanager
async def _connected() -> AsyncIterator[tuple[Any, str]]:
    """A JetStream context, and the name of a new stream that keeps what is published below it."""
    import nats

    name = f"bench-{uuid4().hex[:8]}"
    client = await nats.connect(f"nats://{servers()}")
    stream = client.jetstream(timeout=_PATIENCE_S, publish_async_max_pending=4_000)
    await stream.add_stream(name=name, subjects=[f"{name}.>"])
    try:
        yield stream, name
    finally:
        await client.close()


def _subject(name: str, number: int) -> str:
    return f"{name}.{number % 16}"


@contestant
def nats_raw_publish(count: int, _: Path) -> Figures:
    """nats-py, each publish awaited, 500 under way at once."""

    async def work() -> Figures:
        async with _connected() as (stream, name):
            return await in_flight(count, lambda number: stream.publish(_subject(name, number), BODY))

    return asyncio.run(work())


async def _subscribe(stream: Any, name: str, handle: Any) -> None:
    await stream.subscribe(f"{name}.>", cb=handle, manual_ack=True, pending_msgs_limit=-1, pending_bytes_limit=-1)


@contestant
def nats_raw_push(count: int, _: Path) -> Figures:
    """nats-py, a push consumer that acknowledges each message."""

    async def work() -> Figures:
        async with _connected() as (stream, name):
            await in_flight(count, lambda number: stream.publish(_subject(name, number), BODY))
            backlog = Backlog(count)

            async def handle(message: Any) -> None:
                await message.ack()
                backlog.seen()

            await _subscribe(stream, name, handle)
            await backlog.done.wait()
            return backlog.figures

    return asyncio.run(work())


@contestant
def nats_raw_latency(count: int, _: Path) -> Figures:
    """nats-py, each publish awaited by a task of its own, and a push consumer that acknowledges each message."""

    async def work() -> Figures:
        async with _connected() as (stream, name):
            latency = Latency(count)

            async def handle(message: Any) -> None:
                latency.arrived(number_of(message.data))
                await message.ack()

            await _subscribe(stream, name, handle)
            return await latency.measure(lambda number: stream.publish(_subject(name, number), numbered_body(number)))

    return asyncio.run(work())


@contestant
def nats_faststream_publish(count: int, _: Path) -> Figures:
    """FastStream, each publish awaited, 500 under way at once."""

    async def work() -> Figures:
        from faststream.nats import NatsBroker

        async with _connected() as (_stream, name), NatsBroker(f"nats://{servers()}", logger=None) as broker:
            return await in_flight(
                count, lambda number: broker.publish(PAYLOAD, _subject(name, number), stream=name, timeout=_PATIENCE_S)
            )

    return asyncio.run(work())


async def _faststream_consume(count: int, **options: Any) -> Figures:
    from faststream import AckPolicy
    from faststream.nats import JStream, NatsBroker

    async with _connected() as (stream, name):
        await in_flight(count, lambda number: stream.publish(_subject(name, number), BODY))
        broker = NatsBroker(f"nats://{servers()}", logger=None)
        backlog = Backlog(count)

        async def handle(body: dict[str, Any]) -> None:
            backlog.seen()

        kept = JStream(name, declare=False)
        broker.subscriber(f"{name}.>", stream=kept, ack_policy=AckPolicy.ACK, durable="bench", **options)(handle)
        async with broker:
            await broker.start()
            await backlog.done.wait()
        return backlog.figures


@contestant
def nats_faststream_push(count: int, _: Path) -> Figures:
    """FastStream, a push consumer that acknowledges each message after its handler; half of the events."""
    return asyncio.run(_faststream_consume(count // 2))


@contestant
def nats_faststream_pull(count: int, _: Path) -> Figures:
    """The same, pulling 200 at a time, whose handlers run at once."""

    async def work() -> Figures:
        from faststream.nats import PullSub

        return await _faststream_consume(count // 2, pull_sub=PullSub(batch_size=_PULL))

    return asyncio.run(work())
