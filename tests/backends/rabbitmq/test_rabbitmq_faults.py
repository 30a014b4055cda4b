"""The broker killed, frozen and back: everything recovers by itself, and what was acknowledged is there, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.backends.rabbitmq.rabbitmq_help import MANY_BYTES, event, opened, read_all, store_url, until
from tests.brokers.speak import rabbitmq_registered

from nexus import brokers
from nexus.errors import Unavailable, UnknownOutcome
from nexus.spi.backend import TopicSpec, Want

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker() -> Iterator[brokers.Broker]:
    name = f"faults-{uuid4().hex[:6]}"
    yield brokers.up("rabbitmq", name=name)
    brokers.down("rabbitmq", name=name, data=True)


async def test_a_killed_broker_loses_nothing_acknowledged_and_keeps_the_order(broker: brokers.Broker) -> None:
    url = store_url(broker.url)
    async with opened(url) as log, opened(url) as other:
        await log.create(TopicSpec("t", 2))
        await until(lambda: rabbitmq_registered(broker.nodes[0], "coordination", b"rabbit_stream_coordinator"))
        acknowledged: list[list[int]] = [[], []]
        delivered: list[list[int]] = [[], []]
        unknown: set[int] = set()
        stop = asyncio.Event()
        numbers = iter(range(10**9))

        async def write(partition: int) -> None:
            while not stop.is_set():
                batch = [next(numbers) for _ in range(5)]
                try:
                    await log.append("t", [(partition, event(str(one))) for one in batch], dedup=False)
                except UnknownOutcome:
                    unknown.update(batch)
                except Unavailable:
                    continue
                else:
                    acknowledged[partition] += batch

        async def consume(partition: int) -> None:
            position = 0
            news = asyncio.Event()
            other.watch(["t"], news.set)
            while True:
                news.clear()
                try:
                    (part,) = await other.read([Want("t", partition, position, 100)], MANY_BYTES, fresh=False)
                except Unavailable:
                    continue
                delivered[partition] += [int(stored.event.id) for stored in part.events]
                position = part.next
                if not part.more:
                    await news.wait()

        writers = [asyncio.create_task(write(partition)) for partition in (0, 1)]
        consumers = [asyncio.create_task(consume(partition)) for partition in (0, 1)]
        for _ in range(2):
            before = len(acknowledged[0])
            await until(lambda before=before: len(acknowledged[0]) > before + 200)  # type: ignore[misc]
            await asyncio.to_thread(broker.kill, 0)
            await asyncio.to_thread(broker.start, 0)
            before = len(acknowledged[1])
            await until(lambda before=before: len(acknowledged[1]) > before + 200, 60)  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*writers)
        await log.append("t", [(partition, event(str(next(numbers)))) for partition in (0, 1)], dedup=False)
        for partition in (0, 1):
            stored = [int(one.event.id) for one in await read_all(log, "t", partition)]
            assert [number for number in stored if number not in unknown][:-1] == acknowledged[partition]
            assert stored == sorted(set(stored)), "in order, and nothing twice"
            await until(lambda p=partition, s=stored: len(delivered[p]) >= len(s))  # type: ignore[misc]
            assert delivered[partition] == stored
        assert unknown, "something was on its way at a kill"
        for task in consumers:
            task.cancel()
        await asyncio.wait(consumers)


async def test_without_the_broker_calls_end_in_time_and_say_what_is_known(broker: brokers.Broker) -> None:
    async with opened(store_url(broker.url, timeout_s=1, heartbeat_s=1)) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1"))], dedup=False)
        await read_all(log, "t")
        await asyncio.to_thread(broker.freeze, 0)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(UnknownOutcome):
                    await log.append("t", [(0, event("2"))], dedup=False)
                with pytest.raises(Unavailable):
                    await log.read([Want("t", 0, 0, 1)], MANY_BYTES, fresh=True)
                outlet = log._outlets.ready(log._streams["t"][0])
                await until(lambda: outlet is None or not outlet.alive)  # the heartbeat finds out
                with pytest.raises(Unavailable):
                    await log.append("t", [(0, event("3"))], dedup=False)
                with pytest.raises(Unavailable):
                    await log.describe("t")
        finally:
            await asyncio.to_thread(broker.thaw, 0)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(Unavailable, UnknownOutcome):
                    await log.append("t", [(0, event("4"))], dedup=False)
                    break
        found = [stored.event.id for stored in await read_all(log, "t")]
        assert [one for one in found if one not in ("2", "4")] == ["1"]
        assert found[-1] == "4"


async def test_calls_wait_for_a_broker_that_comes_back_in_time(broker: brokers.Broker) -> None:
    async with opened(store_url(broker.url, timeout_s=120)) as log:  # a slow machine takes long to start it
        await log.create(TopicSpec("t", 1))
        # A node that is killed before it has noted down that it coordinates streams does so never again.
        await until(lambda: rabbitmq_registered(broker.nodes[0], "coordination", b"rabbit_stream_coordinator"))
        await log.append("t", [(0, event("1"))], dedup=False)
        await asyncio.to_thread(broker.kill, 0)
        await until(lambda: log._outlets.ready(log._streams["t"][0]) is None)
        calls = [asyncio.create_task(log.append("t", [(0, event(str(at)))], dedup=False)) for at in range(2, 20)]
        reading = asyncio.create_task(log.read([Want("t", 0, 0, 1)], MANY_BYTES, fresh=True))
        await asyncio.to_thread(broker.start, 0)
        async with asyncio.timeout(120):
            await asyncio.gather(*calls)
            (part,) = await reading
        assert [stored.event.id for stored in part.events] == ["1"]
        assert [stored.event.id for stored in await read_all(log, "t")] == [str(at) for at in range(1, 20)]
