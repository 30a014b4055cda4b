"""Requests at their bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nexus import Closed, Event, HandlerError, InvalidEvent, Nexus, Overloaded, Publish
from nexus.backends.memory import MemoryBackend
from nexus.errors import Unavailable, UnknownOutcome
from nexus.runtime import requests
from nexus.runtime.requests import NoReply
from nexus.testing.faults import Faulty


async def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WAITING_LIMIT", 2)
    async with Nexus("memory://") as bus:
        waiting = [asyncio.create_task(bus.request("a.asked", n)) for n in range(2)]
        await asyncio.sleep(0)  # both have begun
        await asyncio.sleep(0)
        assert bus._requests is not None
        assert len(bus._requests._waiting) == 2
        with pytest.raises(Overloaded):
            await bus.request("a.asked")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert bus._requests._tail is None, "nobody waits any more"


async def test_a_request_that_cannot_be_published_says_why() -> None:
    async with Nexus("memory://") as bus:
        with pytest.raises(InvalidEvent):
            await bus.request("no type")


async def test_a_request_stands_only_if_it_is_known_to_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = Faulty(MemoryBackend())
    async with Nexus(backend=faulty) as bus:
        request = bus.event("quote.asked", 1)
        faulty.hold("append")
        with pytest.raises(UnknownOutcome, match="nobody knows") as caught:
            await bus.request(request, timeout_s=0.05)
        assert caught.value.retryable
        faulty.let_go()
        with pytest.raises(NoReply):
            await bus.request(request, timeout_s=0.05)

        async def wait_for_ever(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(requests, "starts", wait_for_ever)
        with pytest.raises(Unavailable, match="nothing was published"):
            await bus.request("quote.asked", 2, timeout_s=0.05)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_one_request_may_be_waited_for_by_several_and_asked_again(store: str, tmp_path: Path) -> None:
    bus = Nexus("memory://" if store == "memory" else f"sqlite:///{tmp_path}/requests.db")
    go_on = asyncio.Event()
    handled = 0

    @bus.on("quote.asked", group="quotes", start="earliest")
    async def answer(event: Event[int]) -> Publish:
        nonlocal handled
        handled += 1
        await go_on.wait()
        return Publish("quote.given", event.data * 2)

    async with bus, asyncio.timeout(20):
        request = bus.event("quote.asked", 7)
        waiting = [asyncio.create_task(bus.request(request, timeout_s=20)) for _ in range(3)]
        hurried = await asyncio.gather(bus.request(request, timeout_s=0.05), return_exceptions=True)
        assert isinstance(hurried[0], NoReply)
        go_on.set()
        assert [(await task).data for task in waiting] == [14, 14, 14]
        assert bus._requests is not None
        assert (bus._requests._waiting, bus._requests._tail) == ({}, None)
        again = await bus.request(request, timeout_s=20)
        assert (again.data, handled) == (14, 1), "it was answered before, and is not handled twice"
        with pytest.raises(NoReply):
            await bus.request(request, replies=["quote.refused"], timeout_s=0.05)


async def test_what_waits_for_a_reply_ends_when_the_bus_is_closed() -> None:
    bus = Nexus("memory://")
    await bus.start()
    request = bus.event("quote.asked", 1)
    waiting = [asyncio.create_task(bus.request(one)) for one in (request, request, bus.event("quote.asked", 2))]
    while bus._requests is None or bus._requests._count < 3:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await bus.close()
    assert [type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == [Closed] * 3


async def test_a_handler_that_runs_when_the_bus_is_closed_gets_its_reply() -> None:
    bus, other = Nexus("memory://asks"), Nexus("memory://asks")
    asked, got = asyncio.Event(), []

    @bus.on("order.placed", group="orders", start="earliest")
    async def handle(event: Event[int]) -> None:
        asked.set()
        got.append((await bus.request("quote.asked", event.data)).data)

    @other.on("quote.asked", group="quotes", start="earliest")
    async def answer(event: Event[int]) -> Publish:
        while bus._state == "open":  # noqa: ASYNC110
            await asyncio.sleep(0)
        return Publish("quote.given", event.data * 2)

    async with other, asyncio.timeout(20):
        await bus.start()
        await bus.publish("order.placed", 4)
        await asked.wait()
        await bus.close()
    assert got == [8]


def test_the_life_of_what_is_no_request_cannot_be_published() -> None:
    bus = Nexus("memory://")
    with pytest.raises(HandlerError):

        @bus.on("order.placed", lifecycle=True)
        async def handle(order: dict[str, int]) -> None: ...
