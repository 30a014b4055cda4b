"""Groups that are changed while they run: what is refused before anything is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus import Event, HandlerError, Nexus, SettingsError
from nexus.errors import UnknownGroup


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_no_group_is_sent_above_the_end_of_a_topic(store: str, tmp_path: Path) -> None:
    bus = Nexus("memory://" if store == "memory" else f"sqlite:///{tmp_path}/seek.db")
    got: list[int] = []

    @bus.on("a.*", group="g", start="earliest")
    async def handle(event: Event[int]) -> None:
        got.append(event.data)

    async with bus, asyncio.timeout(30):
        receipt = await bus.publish("a.x", 0, key="k")
        end = (await bus.backend.describe("events")).end[receipt.partition]
        before = (await bus.control.read_on()).next
        wrong: Any
        for wrong in (end + 1, -1, 10_000, 0.5):
            with pytest.raises(SettingsError, match="cannot be sent"):
                await bus.subscriptions.seek("g", {"events": {receipt.partition: wrong}})
        for wrong in ("tomorrow", float("nan"), float("inf"), None):
            with pytest.raises(SettingsError, match="no place"):
                await bus.subscriptions.seek("g", wrong)
        assert (await bus.control.read_on()).next == before
        await until(lambda: got == [0])
        await bus.subscriptions.seek("g", {"events": {receipt.partition: end}})
        await bus.publish("a.x", 1, key="k")
        await until(lambda: got == [0, 1])


@pytest.mark.parametrize("name", ["", "a.b", "bad name/x", "-a", "a" * 101, "replay-x", "nexus-delays"])
async def test_what_no_group_can_be_named_is_not_created(name: str) -> None:
    async with Nexus("memory://") as bus:
        with pytest.raises(HandlerError, match="group name"):
            await bus.subscriptions.create(name, "a.*", handler="write")
        assert (await bus.control.read_on()).created == {}


async def test_a_group_that_wants_nothing_or_begins_nowhere_is_not_created() -> None:
    async with Nexus("memory://") as bus:
        with pytest.raises(HandlerError, match="no event type"):
            await bus.subscriptions.create("audit", handler="write")
        newest: Any = "newest"
        with pytest.raises(HandlerError, match="start"):
            await bus.subscriptions.create("audit", "a.*", handler="write", start=newest)
        assert (await bus.control.read_on()).created == {}


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_group_that_was_removed_is_unknown_until_it_is_created_anew(store: str, tmp_path: Path) -> None:
    bus = Nexus("memory://" if store == "memory" else f"sqlite:///{tmp_path}/removed.db")
    got: list[int] = []

    @bus.handler("write")
    async def write(event: Event[int]) -> None:
        got.append(event.data)

    async with bus, asyncio.timeout(30):
        groups = bus.subscriptions
        await groups.create("audit", "a.*", handler="write", start="earliest")
        await bus.publish("a.x", 1)
        await until(lambda: got == [1])
        await groups.remove("audit")
        before = bus.control.state.next
        for refused in (
            groups.pause("audit"),
            groups.resume("audit"),
            groups.alter("audit", where="data > 5"),
            groups.seek("audit", "earliest"),
            groups.remove("audit"),
        ):
            with pytest.raises(UnknownGroup):
                await refused
        assert bus.control.state.next == before
        await groups.create("audit", "a.*", handler="write")
        await bus.publish("a.x", 2)
        await until(lambda: got == [1, 2])


async def test_a_group_that_was_removed_and_that_code_names_now_is_as_any_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/code.db"
    operator, bus = Nexus(url), Nexus(url)

    @bus.on("a.*", group="audit")
    async def handle(event: Event[int]) -> None: ...

    async with operator, asyncio.timeout(30):
        await operator.subscriptions.create("audit", "a.*", handler="write")
        await operator.subscriptions.remove("audit")
        async with bus:
            await until(lambda: not bus.control.state.removed)
            await operator.subscriptions.pause("audit")
            await until(lambda: bus.consumer("audit").stopped.keys() == set(bus.consumer("audit").owned) != set())
