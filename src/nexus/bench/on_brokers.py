"""Nexus on a broker, the same whichever it is; the modules beside this one hold each broker's raw client and peers.

The broker is the one that ``NEXUS_BENCH_URL`` names. Each contestant makes topics of its own.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from nexus.app import Nexus
from nexus.bench.contestants import PAYLOAD, Figures, contestant
from nexus.bench.load import Backlog, Clock, Latency, in_flight, key, numbered
from nexus.event import Event

BATCH = 500
"""Events in one call, of ours as of the raw clients."""
AT_ONCE = 8


def url() -> str:
    return os.environ["NEXUS_BENCH_URL"]


def servers() -> str:
    """The first ``host:port`` of the broker."""
    return url().partition("://")[2].partition("/")[0]


@contestant
def nexus_broker_publish(count: int, _: Path) -> Figures:
    """`publish`, 500 under way at once, each awaiting its receipt."""

    async def work() -> Figures:
        bus = Nexus(url(), settings={})
        await bus.start(consume=False)
        figures = await in_flight(count, lambda number: bus.publish("flight.departed", PAYLOAD, key=key(number)))
        await bus.close()
        return figures

    return asyncio.run(work())


async def _fill(bus: Nexus, count: int) -> Figures:
    """Publish in batches of 500, eight batches at once."""
    events = [bus.event("flight.departed", PAYLOAD, key=key(number)) for number in range(count)]

    async def publisher(first: int) -> None:
        for start in range(first * BATCH, count, AT_ONCE * BATCH):
            for answer in await bus.publish_many(events[start : start + BATCH]):
                if isinstance(answer, Exception):
                    raise answer

    clock = Clock()
    await asyncio.gather(*(publisher(first) for first in range(AT_ONCE)))
    return clock.rate(count)


@contestant
def nexus_broker_many(count: int, _: Path) -> Figures:
    """`publish_many` in batches of 500, eight at once."""

    async def work() -> Figures:
        bus = Nexus(url(), settings={})
        await bus.start(consume=False)
        await _fill(bus, AT_ONCE * BATCH)
        figures = await _fill(bus, count)
        await bus.close()
        return figures

    return asyncio.run(work())


async def _consumed(count: int, *, batches: bool) -> Figures:
    bus = Nexus(url(), settings={})
    await bus.start(consume=False)
    await _fill(bus, count)
    await bus.close()
    bus = Nexus(url(), settings={})
    backlog = Backlog(count)

    async def handle(event: Event[Any]) -> None:
        backlog.seen()

    async def handle_many(events: list[Event[Any]]) -> None:
        backlog.seen(len(events))

    bus.on("flight.**", group="bench", start="earliest", batch_size=BATCH)(handle_many if batches else handle)
    async with bus:  # it settles all along, at least each 1,000 events
        await backlog.done.wait()
    return backlog.figures


@contestant
def nexus_broker_consume(count: int, _: Path) -> Figures:
    """A stored backlog: one async handler call per event, keyed lanes, settled."""
    return asyncio.run(_consumed(count, batches=False))


@contestant
def nexus_broker_consume_batches(count: int, _: Path) -> Figures:
    """The same with a batch handler."""
    return asyncio.run(_consumed(count, batches=True))


async def _latency(count: int, *, batches: bool) -> Figures:
    bus = Nexus(url(), settings={})
    latency = Latency(count)

    async def handle(event: Event[Any]) -> None:
        latency.arrived(event.data["number"])

    async def handle_many(events: list[Event[Any]]) -> None:
        for event in events:
            latency.arrived(event.data["number"])

    bus.on("flight.**", group="bench", start="earliest", batch_size=BATCH)(handle_many if batches else handle)
    async with bus:
        return await latency.measure(lambda number: bus.publish("flight.departed", numbered(number), key=key(number)))


@contestant
def nexus_broker_latency(count: int, _: Path) -> Figures:
    """From when an event is due to be published until its handler is called, at 500 a second."""
    return asyncio.run(_latency(count, batches=False))


@contestant
def nexus_broker_latency_batches(count: int, _: Path) -> Figures:
    """The same with a batch handler."""
    return asyncio.run(_latency(count, batches=True))
