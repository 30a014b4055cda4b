"""What survives, as a bus says it: on one node and on three, with the settings that it takes and without."""

from __future__ import annotations

from typing import Any

import aio_pika

from nexus import Nexus
from nexus.backends.rabbitmq.names import stream_of
from nexus.brokers import Broker
from nexus.errors import DurabilityUnavailable
from nexus.testing.backends import fresh_prefix

THREE: dict[str, dict[str, str]] = {
    "kafka": {"log.flush.interval.messages": "1"},
    "nats": {"sync_interval": "always"},
    "rabbitmq": {},
}
"""Settings of three nodes for the most that they can give."""
SETTING = ("min.insync.replicas", "sync_interval", "setting of RabbitMQ")
"""What a bus says that does not start: which setting would change it."""


def url_of(broker: Broker, prefix: str, **options: object) -> str:
    """The URL of a store on a broker."""
    given = {"prefix": prefix} | options
    return f"{broker.url}{'&' if '?' in broker.url else '?'}{'&'.join(f'{name}={given[name]}' for name in given)}"


def monitors(broker: Broker) -> str:
    """The monitoring ports of a NATS."""
    return ",".join(f"http://127.0.0.1:{node.ports['monitor']}" for node in broker.nodes)


async def told(url: str, asked: str = "none") -> str:
    """The level on the receipt of a bus that asks for a level. Raises `DurabilityUnavailable`."""
    settings: dict[str, Any] = {"durability": asked, "topics": {"events": {"partitions": 2}}}
    async with Nexus(url, settings=settings) as bus:
        return (await bus.publish("proof.step", 1, key="k")).durability


async def refused(url: str, asked: str) -> str:
    """What a bus says that does not start, since the broker gives less than is asked for."""
    try:
        level = await told(url, asked)
    except DurabilityUnavailable as error:
        return str(error)
    raise AssertionError(f"it started with {level!r}, and was asked for {asked!r}")


async def on_three_nodes(broker: Broker) -> None:
    """Check each level that three nodes can have, and that a bus starts with exactly what it asks for."""
    kind = broker.kind
    if kind == "kafka":
        right: dict[str, object] = {"replicas": 3, "min_insync_replicas": 2}
        await check(url_of(broker, fresh_prefix(), **right), "replicated+disk", above=None)
        for wrong in ({"replicas": 1, "min_insync_replicas": 1}, {"replicas": 3, "min_insync_replicas": 1}):
            await check(url_of(broker, fresh_prefix(), **wrong), "disk", above="replicated+disk")
    elif kind == "nats":
        all_three = monitors(broker)
        await check(url_of(broker, fresh_prefix(), monitor=all_three), "replicated+disk", above=None)
        await check(url_of(broker, fresh_prefix()), "replicated", above="replicated+disk")  # nobody has looked
        one = all_three.partition(",")[0]
        await check(url_of(broker, fresh_prefix(), monitor=one), "replicated", above="replicated+disk")
        await check(url_of(broker, fresh_prefix(), monitor=all_three, replicas=1), "disk", above="replicated")
    else:
        prefix = fresh_prefix()
        await check(url_of(broker, prefix), "replicated", above="replicated+disk")
        await _leave_one_copy(broker, stream_of(prefix, "events", 1))
        await check(url_of(broker, prefix), "process", above="replicated")


async def check(url: str, level: str, *, above: str | None) -> None:
    """Hold what a bus says against what is so: that level is on the receipt, and more than it is refused."""
    assert await told(url) == level
    assert await told(url, level) == level
    if above is not None:
        said = await refused(url, above)
        assert repr(above) in said, said
        assert repr(level) in said, said
        assert any(name in said for name in SETTING), said


async def _leave_one_copy(broker: Broker, stream: str) -> None:
    """Have a stream on one node only, as an operator may."""
    host = broker.url.partition("?")[0].replace("rabbitmq://", "amqp://", 1).partition(",")[0]
    async with await aio_pika.connect(host) as connection:
        channel = await connection.channel()
        await channel.queue_delete(stream)
        arguments: dict[str, Any] = {"x-queue-type": "stream", "x-initial-cluster-size": 1}
        await channel.declare_queue(stream, durable=True, arguments=arguments)
