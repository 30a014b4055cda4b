"""What becomes of a group whose cursors an operator destroyed on the broker, by mistake or by a retention."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nexus import Context, Event, Nexus, Park, Retry, brokers
from nexus.brokers import Broker
from nexus.errors import CursorLost
from nexus.testing.backends import fresh_prefix

from . import admin
from .load import until

pytestmark = [pytest.mark.slow, pytest.mark.broker]

GROUP = "billing"
PARTITIONS = 4
HOW = [("kafka", "delete"), ("kafka", "empty"), ("nats", "delete"), ("nats", "empty"), ("rabbitmq", "delete")]
"""RabbitMQ's streams are emptied by files of at least 4 KiB, never to the last record."""


class Store:
    """A store in which a group has handled 20 events, set one aside, and not seen the next 20 when its journal goes."""

    def __init__(self, kind: str) -> None:
        self.broker: Broker = brokers.up(kind)
        self.prefix = fresh_prefix()
        self.url = f"{self.broker.url}{'&' if '?' in self.broker.url else '?'}prefix={self.prefix}"
        self.handled: list[tuple[str | None, int]] = []
        self.later = itertools.count(40)

    def bus(self) -> Nexus:
        return Nexus(self.url, settings={"topics": {"events": {"partitions": PARTITIONS}}})

    def consumer(self, lost_cursor: Any, start: Any = "latest") -> Nexus:
        bus = self.bus()

        @bus.on("proof.**", group=GROUP, start=start, lost_cursor=lost_cursor, retry=Retry(1))
        async def handle(event: Event[Any], context: Context) -> Park | None:
            if event.data == "bad":
                raise ValueError("this one is bad")
            if event.data in range(7) and context.attempt == 1:
                return Park(0.1)  # one of each key, so that what was written of it is trimmed when it has ended
            self.handled.append((event.key, event.data))
            return None

        return bus

    async def publish(self, numbers: Sequence[int]) -> None:
        bus = self.bus()
        await bus.start(consume=False)
        await bus.publish_many([bus.event("proof.step", number, key=f"k{number % 7}") for number in numbers])
        await bus.close()

    async def fill(self) -> None:
        await self.publish(range(20))
        async with self.consumer("stop", "earliest") as bus:
            await bus.publish("proof.step", "bad", key="bad")
            await until(lambda: len(self.handled) == 20 and bus.consumer(GROUP).stats.dead == 1, 30)
        await self.publish(range(20, 40))
        self.handled.clear()

    def check_handled(self) -> None:
        """Nothing that the group had not seen is missing, and each key is in order."""
        assert {number for _, number in self.handled} >= set(range(20, 40))
        for key in {key for key, _ in self.handled}:
            numbers = [number for own, number in self.handled if own == key]
            assert numbers == sorted(set(numbers))


def nexus(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nexus", *arguments, "-o", "json"]
    folder = Path(__file__).parents[2] / "src"
    environment = os.environ | {"NEXUS_BACKEND": url}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("kind", "how"), HOW)
async def test_a_group_that_lost_its_cursors_stands_still_and_says_so(
    kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await asyncio.to_thread(Store, kind)
    await store.fill()
    await asyncio.to_thread(getattr(admin, how), store.broker, store.prefix, f"nexus.group.{GROUP}")
    # Until it is started again there is no such group; what it had set aside is still told of.
    shown = await asyncio.to_thread(nexus, store.url, "groups", "ls")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == []
    assert (await asyncio.to_thread(nexus, store.url, "groups", "show", GROUP)).returncode == 3
    for _ in range(2):  # whoever starts next must find it as amiss as the first
        await stands_still(store, caplog)
    assert store.handled == []
    async with store.consumer("checkpoint"):
        await until(lambda: {number for _, number in store.handled} >= set(range(20, 40)), 30)
    store.check_handled()


async def stands_still(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.ERROR, "nexus.consumer"):
        async with store.consumer("stop") as bus:
            consumer = bus.consumer(GROUP)
            await until(lambda: len(consumer.lost_cursors) == PARTITIONS, 30)
            assert all(isinstance(error, CursorLost) for error in consumer.lost_cursors)
            assert "lost_cursor='checkpoint'" in str(consumer.lost_cursors[0])
            assert consumer.owned == []
            said = {record.getMessage().partition("\n")[0] for record in caplog.records}
            assert said >= {
                f"NXS-4100 group {GROUP} has consumed events[{number}] before, and its cursor is gone"
                for number in range(PARTITIONS)
            }
            await bus.publish("proof.step", next(store.later), key="k5")
            shown = await asyncio.to_thread(nexus, store.url, "groups", "show", GROUP)
            rows = json.loads(shown.stdout)
            assert [row["partition"] for row in rows] == list(range(PARTITIONS)), shown
            assert sum(row["lag"] for row in rows) > 0, "what waits is told as lag"


@pytest.mark.parametrize("policy", ["checkpoint", "earliest"])
@pytest.mark.parametrize(("kind", "how"), HOW)
async def test_a_group_that_lost_its_cursors_goes_on_as_it_was_told_and_loses_nothing(
    kind: str, how: str, policy: str
) -> None:
    store = await asyncio.to_thread(Store, kind)
    await store.fill()
    await asyncio.to_thread(getattr(admin, how), store.broker, store.prefix, f"nexus.group.{GROUP}")
    async with store.consumer(policy) as bus:
        await until(lambda: {number for _, number in store.handled} >= set(range(20, 40)), 30)
        (letter,) = await bus.dead_letters.all(GROUP)
        assert letter.key == "bad"
        assert bus.consumer(GROUP).lost_cursors == []
        assert bus.consumer(GROUP).stats.dead == 0, "what is dead is not tried again"
    store.check_handled()
