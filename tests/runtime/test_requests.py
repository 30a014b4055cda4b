"""Requests at their bounds."""

from __future__ import annotations

import asyncio

import pytest

from nexus import HandlerError, InvalidEvent, Nexus, Overloaded
from nexus.runtime import requests


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


def test_the_life_of_what_is_no_request_cannot_be_published() -> None:
    bus = Nexus("memory://")
    with pytest.raises(HandlerError):

        @bus.on("order.placed", lifecycle=True)
        async def handle(order: dict[str, int]) -> None: ...
