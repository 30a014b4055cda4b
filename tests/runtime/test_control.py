"""The control topic: what cannot be read is never written, and what cannot be read stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus import Event, Nexus, NexusError, Selection, SettingsError
from nexus.core.control import TOPIC

ILL: dict[str, Callable[[Nexus], Any]] = {
    "who": lambda bus: bus.subscriptions.pause("billing", who=None),  # type: ignore[arg-type]
    "start": lambda bus: bus.subscriptions.create("g", "a.*", handler="h", start="newest"),  # type: ignore[arg-type]
    "key": lambda bus: bus.schedules.every("s", "* * * * *", "a.b", key=7),  # type: ignore[arg-type]
    "missed": lambda bus: bus.schedules.every("s", "* * * * *", "a.b", missed="never"),  # type: ignore[arg-type]
    "replay": lambda bus: bus.replays.start(Selection(), group="billing", id=7),  # type: ignore[arg-type]
    "place": lambda bus: bus.subscriptions.seek("billing", {"events": {0: 1.5}}),  # type: ignore[dict-item]
}


def shop(url: str, got: asyncio.Queue[Any]) -> Nexus:
    bus = Nexus(url)

    @bus.on("a.*", group="billing", start="earliest")
    async def handle(event: Event[Any]) -> None:
        got.put_nowait(event.data)

    return bus


@pytest.mark.parametrize("wish", ILL)
async def test_what_is_of_the_wrong_type_is_refused_before_anything_is_written(tmp_path: Path, wish: str) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with shop(url, got) as bus:
        before = bus.control.state.next
        with pytest.raises((NexusError, TypeError)):
            await ILL[wish](bus)
        assert (await bus.backend.describe(TOPIC)).end == (before,)
    async with shop(url, got) as bus, asyncio.timeout(10):
        await bus.publish("a.b", 1)
        assert await got.get() == 1
        await bus.subscriptions.pause("billing")


async def test_a_record_of_a_later_release_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with shop("memory://later-release", got) as bus, asyncio.timeout(10):
        await bus.subscriptions.pause("billing")
        unknown = Event("1", "/later", "nexus.control.record", datetime.now(UTC), body=b'{"record":"Dance"}')
        await bus.backend.append(TOPIC, [(0, unknown)])
        await bus.publish("a.b", 1)
        await bus.subscriptions.resume("billing")
        assert await got.get() == 1
        assert "is passed over" in caplog.text


async def test_who_wants_other_events_in_a_group_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with shop(url, got), shop(url, got) as second:
        assert "passes over" not in caplog.text, "they want the same"
        assert second.control.state.declared == {"billing": ("a.*",)}
        third = Nexus(url)
        third.on("b.*", group="billing")(_nothing)
        async with third:
            assert "has members that want a.*, and here it wants b.*" in caplog.text
    caplog.clear()
    async with shop(url, got):
        assert caplog.text == "", "nobody else is there"


async def test_a_loop_of_ones_own_joins_no_group_that_wants_other_events(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    got: asyncio.Queue[Any] = asyncio.Queue()
    async with shop(url, got) as bus, Nexus(url) as other, asyncio.timeout(10):
        with pytest.raises(SettingsError, match="each would pass over what the other wants"):
            async for _ in other.subscribe("b.*", group="billing"):
                pass
        await bus.publish("a.b", 1)
        assert await got.get() == 1


async def _nothing(event: Event[Any]) -> None: ...
