"""A broker that is killed and comes back, or is not there: nothing acknowledged is lost, and all goes on by itself.

These tests kill brokers, so they start their own, with `nexus.brokers`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.backends.kafka.kafka_help import (
    MANY_BYTES,
    Bell,
    Tail,
    append,
    bootstrap,
    make,
    new_url,
    numbered,
    numbers,
    opened,
    read,
    until,
)

from nexus import brokers
from nexus.backends.kafka import KafkaLog, Settings
from nexus.errors import NexusError, SettingsError, Unavailable, UnknownOutcome
from nexus.spi.backend import Want

pytestmark = pytest.mark.slow


class Victim:
    """A broker, or several, to be killed by number."""

    def __init__(self, broker: brokers.Broker) -> None:
        self._broker = broker

    def url(self, **options: object) -> str:
        return new_url(self._broker.url.removeprefix("kafka://").rstrip("/"), **options)

    async def kill(self, number: int = 0) -> None:
        await asyncio.to_thread(self._broker.kill, number)

    async def start(self, number: int = 0) -> None:
        await asyncio.to_thread(self._broker.start, number)


def _victim(nodes: int) -> Iterator[Victim]:
    name = f"kafka-faults-{nodes}"
    yield Victim(brokers.up("kafka", nodes, name=name))
    brokers.down("kafka", nodes, name=name, data=True)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    yield from _victim(1)


@pytest.fixture
def cluster() -> Iterator[Victim]:
    yield from _victim(3)


async def test_a_broker_killed_under_load_loses_nothing_and_breaks_no_order(victim: Victim) -> None:
    where = victim.url(delivery_s=60)
    async with opened(where) as log, opened(where) as other:
        topic = await make(log, partitions=3)
        tail = Tail(other, topic, 3)
        stored: list[list[int]] = [[], [], []]
        stop = asyncio.Event()

        async def publish(partition: int) -> None:
            number = 0
            while not stop.is_set():
                await append(log, topic, partition, numbered(5, number))
                stored[partition] += range(number, number + 5)
                number += 5

        tasks = [asyncio.create_task(publish(partition)) for partition in range(3)]
        await tail.until(300)
        for _ in range(2):
            await victim.kill()
            await victim.start()
            before = sum(map(len, stored))
            await until(lambda: sum(map(len, stored)) >= before + 300, 30)  # noqa: B023 - awaited here
            await tail.until(before + 300, seconds=30)
        stop.set()
        await asyncio.gather(*tasks)
        await tail.until(sum(map(len, stored)), seconds=30)
        for partition in range(3):
            assert [int(each.event.body) for each in tail.found[partition]] == stored[partition]
            assert await numbers(other, topic, partition) == stored[partition]


async def test_while_no_broker_is_there_calls_end_in_time_and_what_arrived_is_read(victim: Victim) -> None:
    async with opened(victim.url(request_s=1, delivery_s=3)) as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(100))
        tail = Tail(log, topic, 1)
        await tail.until(10, page=10)
        await until(lambda: log._reader.follows(topic, 0))
        await victim.kill()
        try:
            await tail.until(100, page=10)
            outcomes: list[BaseException] = []
            begun = time.monotonic()
            for number in range(100, 103):
                with pytest.raises((Unavailable, UnknownOutcome)) as caught:
                    await append(log, topic, 0, numbered(1, number))
                outcomes.append(caught.value)
            # Once it is known that nobody answers, nothing is sent, and that is said.
            assert isinstance(outcomes[-1], Unavailable)
            assert time.monotonic() - begun < 15
            for call in (
                read(log, topic, 0, 100),
                log.describe(topic),
                log.topics(),
                log.position_at(topic, 0, 0.0),
                make(log, "second"),
            ):
                begun = time.monotonic()
                with pytest.raises(Unavailable):
                    await call
                assert time.monotonic() - begun < 6
        finally:
            await victim.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    await append(log, topic, 0, numbered(1, 200))
                    break
                except (Unavailable, UnknownOutcome):
                    continue
        found = await numbers(log, topic, 0)
        assert found[:100] == list(range(100))
        assert found[-1] == 200
        assert {100, 101, 102} - set(found[100:-1]) >= {
            number for number, outcome in enumerate(outcomes, 100) if isinstance(outcome, Unavailable)
        }


async def test_watchers_are_woken_again_after_the_broker_came_back(victim: Victim) -> None:
    where = victim.url()
    async with opened(where) as log, opened(where) as other:
        topic = await make(log)
        bell = Bell()
        log.watch([topic], bell.ring)
        await append(other, topic, 0, numbered(1))
        await bell.within(5)
        await victim.kill()
        await victim.start()
        await append(other, topic, 0, numbered(1, 1))
        bell.rung.clear()
        await append(other, topic, 0, numbered(1, 2))
        await bell.within(5)


async def test_a_broker_that_is_not_there_is_unavailable_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        async with opened(new_url("127.0.0.1:1", request_s=0.5)):
            pass
    assert time.monotonic() - begun < 6


async def test_closing_does_not_wait_for_a_broker_that_is_away_longer_than_its_time(victim: Victim) -> None:
    async with opened(victim.url(delivery_s=2, request_s=1)) as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(1))
        await victim.kill()
        try:
            task = asyncio.create_task(append(log, topic, 0, numbered(1)))
            await asyncio.sleep(0)
            begun = time.monotonic()
            await log.close()
            assert time.monotonic() - begun < 10
            with pytest.raises(NexusError):
                await task
        finally:
            await victim.start()


async def test_a_broker_that_speaks_no_tls_or_knows_no_users_is_a_matter_of_settings() -> None:
    for said, options in (("SSL", {"tls": "true"}), ("SASL", {"sasl": "PLAIN", "user": "me"})):
        log = KafkaLog(Settings.parse(new_url(bootstrap(), request_s=2, **options), {"password": "secret"}))
        with pytest.raises(SettingsError, match=said) as caught:
            await log.open()
        assert "secret" not in str(caught.value)


async def test_an_unread_page_is_not_lost_when_the_connection_is(victim: Victim) -> None:
    async with opened(victim.url(delivery_s=60)) as log:
        topic = await make(log, partitions=2)
        for partition in range(2):
            await append(log, topic, partition, numbered(2_000, size=500))
        positions, found = [0, 0], [0, 0]
        killed = False
        async with asyncio.timeout(60):
            while sum(found) < 4_000:
                wants = [Want(topic, partition, positions[partition], 150) for partition in range(2)]
                for answer in await log.read(wants, MANY_BYTES, fresh=sum(found) > 2_500):
                    assert [each.position for each in answer.events] == list(
                        range(positions[answer.partition], positions[answer.partition] + len(answer.events))
                    )
                    positions[answer.partition] = answer.next
                    found[answer.partition] += len(answer.events)
                if sum(found) > 1_000 and not killed:
                    killed = True
                    await victim.kill()
                    await victim.start()
        assert found == [2_000, 2_000]


async def test_a_cluster_of_three_goes_on_when_one_is_killed_and_says_that_it_can(cluster: Victim) -> None:
    where = cluster.url(replicas=3, min_insync_replicas=2, delivery_s=60)
    async with opened(where) as log, opened(where) as other:
        topic = await make(log, partitions=6)
        assert (await log.describe(topic)).durability == "replicated"
        tail = Tail(other, topic, 6)
        stored: dict[int, list[int]] = {partition: [] for partition in range(6)}

        async def publish(partition: int, count: int) -> None:
            for _ in range(count):
                start = len(stored[partition])
                await append(log, topic, partition, numbered(1, start))
                stored[partition].append(start)

        async with asyncio.timeout(240):
            await asyncio.gather(*(publish(partition, 50) for partition in range(6)))
            for number in range(3):
                await cluster.kill(number)
                await asyncio.gather(*(publish(partition, 50) for partition in range(6)))
                await tail.until(sum(map(len, stored.values())), seconds=60)
                for partition in range(6):
                    assert await numbers(other, topic, partition) == stored[partition]
                await cluster.start(number)
                state = await log.describe(topic)
                assert state.end == tuple(map(len, stored.values()))
        for partition in range(6):
            assert [int(each.event.body) for each in tail.found[partition]] == stored[partition]
