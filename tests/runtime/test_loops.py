"""Loops over events end when the bus does, and say why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nexus import Closed, HandlerError, Nexus
from nexus.runtime.consumer import Consumer


def loop_of(bus: Nexus, kind: str) -> AsyncIterator[Any]:
    return bus.subscribe("x", group="g") if kind == "subscribe" else aiter(bus.tail("x"))


@pytest.mark.parametrize("kind", ["subscribe", "tail"])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_loop_that_waits_ends_when_the_bus_closes(kind: str, store: str, tmp_path: Path) -> None:
    bus = Nexus("memory://" if store == "memory" else f"sqlite:///{tmp_path / 'n.db'}")
    await bus.start()
    got = asyncio.Event()

    async def loop() -> None:
        async for _ in loop_of(bus, kind):
            got.set()

    task = asyncio.create_task(loop())
    async with asyncio.timeout(20):
        while not got.is_set():
            await bus.publish("x")
            await asyncio.sleep(0.01)
        await bus.close()
        with pytest.raises(Closed):
            await task


async def test_a_loop_whose_consumer_fails_raises_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Nexus("memory://") as bus:
        loop = bus.subscribe("x", group="g", start="earliest")
        await bus.publish("x")
        assert (await anext(loop)).type == "x"

        def broken(self: Consumer, *_: object) -> bool:
            raise AssertionError("a fault")

        monkeypatch.setattr(Consumer, "_look_for_records", broken)
        bus.consumer("g")._wake.set()
        async with asyncio.timeout(20):
            with pytest.raises(AssertionError, match="a fault"):
                await anext(loop)
        bus._consumers.clear()


async def test_a_loop_names_what_it_wants() -> None:
    async with Nexus("memory://") as bus:
        with pytest.raises(HandlerError, match="no event type"):
            await anext(bus.subscribe(group="g"))


async def test_what_the_publisher_does_to_its_headers_afterwards_changes_no_event() -> None:
    async with Nexus("memory://") as bus:
        headers: dict[str, str | int | bool] = {"region": "eu"}
        await bus.publish("x", 1, extensions=headers)
        headers["region"] = "us"
        (seen,) = [one async for one in bus.tail("x", start="earliest", follow=False)]
        assert seen.stored.event.extensions == {"region": "eu"}
