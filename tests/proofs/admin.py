"""What an operator may do on a broker, by its own client: delete a topic, empty it, and ask who leads it."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from typing import Any
from urllib.parse import quote

import aio_pika
import nats
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from nexus.backends.kafka.names import to_kafka
from nexus.backends.nats.names import Names
from nexus.backends.rabbitmq.names import stream_of
from nexus.brokers import Broker

_LIMIT_S = 20


def delete(broker: Broker, prefix: str, topic: str) -> None:
    """Delete a topic of one partition, as an operator would by mistake."""
    if broker.kind == "kafka":
        client, name = _kafka(broker), to_kafka(prefix, topic)
        client.delete_topics([name], operation_timeout=_LIMIT_S)[name].result(_LIMIT_S)
    elif broker.kind == "nats":
        asyncio.run(_with_jetstream(broker, "delete_stream", Names(prefix, topic).stream))
    else:
        asyncio.run(_delete_queue(broker, stream_of(prefix, topic, 0)))


def empty(broker: Broker, prefix: str, topic: str) -> None:
    """Let go of all that a topic of one partition holds, as a retention would; on brokers that can on request."""
    if broker.kind == "kafka":
        client, where = _kafka(broker), TopicPartition(to_kafka(prefix, topic), 0)
        (end,) = client.list_offsets({where: OffsetSpec.latest()}).values()  # type: ignore[no-untyped-call]
        where.offset = end.result(_LIMIT_S).offset
        (done,) = client.delete_records([where]).values()
        done.result(_LIMIT_S)
    else:
        assert broker.kind == "nats"
        asyncio.run(_with_jetstream(broker, "purge_stream", Names(prefix, topic).stream))


def leader(broker: Broker, prefix: str, topic: str, partition: int) -> int:
    """Which node leads a partition, counted from 0."""
    if broker.kind == "kafka":
        name = to_kafka(prefix, topic)
        found = _kafka(broker).list_topics(name, timeout=_LIMIT_S).topics[name].partitions[partition].leader
        return int(found) - 1
    if broker.kind == "nats":
        info = asyncio.run(_with_jetstream(broker, "stream_info", Names(prefix, topic).stream))
        return int(info.cluster.leader.rpartition("-")[2]) - 1
    stream = stream_of(prefix, topic, partition)
    names = {_management(node, "overview")["node"]: node.index for node in broker.nodes}
    return names[_management(broker.nodes[0], f"queues/%2F/{quote(stream, safe='')}")["leader"]]


def _kafka(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.url.removeprefix("kafka://")})


async def _with_jetstream(broker: Broker, verb: str, stream: str) -> Any:
    client = await nats.connect([f"nats://{host}" for host in broker.url.removeprefix("nats://").split(",")])
    try:
        return await getattr(client.jetstream(), verb)(stream)
    finally:
        await client.close()


async def _delete_queue(broker: Broker, name: str) -> None:
    async with await aio_pika.connect(broker.url.partition("?")[0].replace("rabbitmq://", "amqp://", 1)) as connection:
        channel = await connection.channel()
        await channel.queue_delete(name)


def _management(node: Any, what: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{node.ports['http']}/api/{what}")
    request.add_header("Authorization", f"Basic {base64.b64encode(b'guest:guest').decode()}")
    with urllib.request.urlopen(request, timeout=_LIMIT_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
