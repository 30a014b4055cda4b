"""The end of a bus: all of it, whatever a part of it meets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nexus import Event, Nexus
from nexus.errors import Closed, Unavailable
from nexus.plugins import make_backend


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("part", ["managed", "delays", "consumer", "control"])
async def test_all_of_a_bus_is_closed_whatever_one_part_raises(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Nexus("memory://")

    @bus.on("a.*", group="g")
    async def handle(event: Event[Any]) -> None: ...

    bus.on("a.*", group="other")(handle)
    before = asyncio.all_tasks()
    await bus.start()
    await bus.publish_later("a.b", 1, at=4e9)
    await until(lambda: bus._delay_owner is not None and bus._delay_owner._member is not None)
    parts: dict[str, Any] = {
        "managed": bus._managed,
        "delays": bus._delay_owner,
        "consumer": bus.consumer("g"),
        "control": bus.control,
    }
    close = parts[part].close

    async def fail() -> None:
        await close()
        raise Unavailable(f"the broker is away for {part}")

    monkeypatch.setattr(parts[part], "close", fail)
    with pytest.raises(Unavailable, match=part):
        await bus.close()
    assert asyncio.all_tasks() == before, "nothing runs any more"
    with pytest.raises(Closed):
        await bus.backend.topics()
    await bus.close()


async def test_a_bus_whose_backend_could_not_be_opened_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def make(url: str, *rest: Any) -> Any:
        made.append(backend := make_backend(url, *rest))
        if len(made) < 3:
            monkeypatch.setattr(backend, "open", unavailable)
        return backend

    async def unavailable() -> None:
        raise Unavailable("nobody is there yet")

    monkeypatch.setattr("nexus.app.make_backend", make)
    bus, got = Nexus("memory://"), asyncio.Event()

    @bus.on("a.*", group="g", start="earliest")
    async def handle(event: Event[Any]) -> None:
        got.set()

    for _ in range(2):
        with pytest.raises(Unavailable):
            await bus.start()
    async with bus, asyncio.timeout(10):
        await bus.publish("a.b")
        await got.wait()
