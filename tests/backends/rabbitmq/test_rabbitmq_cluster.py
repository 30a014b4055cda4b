"""Three nodes: what is asked of which, what is promised, and what happens when the leader is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.backends.rabbitmq.rabbitmq_help import event, opened, read_all, store_url, until

from nexus import brokers
from nexus.errors import Unavailable, UnknownOutcome
from nexus.spi.backend import TopicSpec

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[brokers.Broker]:
    name = f"three-{uuid4().hex[:6]}"
    yield brokers.up("rabbitmq", 3, name=name)
    brokers.down("rabbitmq", 3, name=name, data=True)


async def test_a_killed_leader_is_followed_by_another(cluster: brokers.Broker) -> None:
    url = store_url(cluster.url, timeout_s=60)
    async with opened(url) as log, opened(url) as other:
        await log.create(TopicSpec("t", 3))
        assert (await log.describe("t")).durability == "replicated"
        stored: list[list[str]] = [[], [], []]
        unknown: set[str] = set()
        stop = asyncio.Event()

        async def write(partition: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                id = f"{number:06}"
                try:
                    await log.append("t", [(partition, event(id))], dedup=False)
                except UnknownOutcome:
                    unknown.add(id)
                except Unavailable:
                    continue
                else:
                    stored[partition].append(id)

        writing = [asyncio.create_task(write(partition)) for partition in range(3)]
        await until(lambda: min(map(len, stored)) > 50)
        leader = (await log._links.place(log._streams["t"][0])).leader
        assert leader is not None
        victim = next(at for at, node in enumerate(cluster.nodes) if node.ports["stream"] == leader[1])
        await asyncio.to_thread(cluster.kill, victim)
        before = [len(one) for one in stored]
        await until(lambda: all(len(one) > was + 50 for one, was in zip(stored, before, strict=True)), 60)
        stop.set()
        await asyncio.gather(*writing)
        for partition in range(3):
            for reader in (log, other):
                found = [one.event.id for one in await read_all(reader, "t", partition)]
                assert [id for id in found if id not in unknown] == [
                    id for id in stored[partition] if id not in unknown
                ]
                assert found == sorted(set(found))
        assert (await other.describe("t")).durability == "replicated"
        await asyncio.to_thread(cluster.start, victim)
