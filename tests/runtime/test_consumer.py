"""One partition, one record or one call that fails holds up nothing else of its group."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from nexus import Event, Nexus, Park
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.core.control import Control
from nexus.core.partition import partition_of
from nexus.errors import BackendError, Overloaded, Unavailable, UnknownTopic
from nexus.plugins import make_backend
from nexus.spi.backend import Cursor, Settlement, Slice, Want
from nexus.testing.clock import VirtualClock, make_virtual
from nexus.testing.faults import Faulty

_numbers = itertools.count()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def fresh() -> str:
    return f"memory://consumer-{next(_numbers)}"


def key_of(partition: int, partitions: int) -> str:
    return next(key for n in itertools.count() if partition_of(key := f"k{n}", partitions) == partition)


def shop(url: str, partitions: int = 4, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> tuple[Nexus, list[int]]:
    """A bus on one topic whose group writes down what it handles."""
    backend = Faulty(make_backend(url, clock))
    topics = {"orders": {"patterns": ["order.*"], "partitions": partitions}}
    bus = Nexus(url, backend=backend, clock=clock, settings={"topics": topics, "settle_interval": "5ms"} | settings)
    got: list[int] = []

    @bus.on("order.*", group="g", start="earliest")
    async def handle(event: Event[Any]) -> Park | None:
        if event.type == "order.parked" and event.data not in got:
            got.append(event.data)
            return Park(0.05)
        got.append(event.data)
        return None

    return bus, got


def failing_fetch(monkeypatch: pytest.MonkeyPatch, bus: Nexus, of: Callable[[Want], BackendError | None]) -> None:
    """Let a fetch raise if one of its wants does."""
    member = bus.consumer("g")._member
    fetch = member.fetch  # type: ignore[union-attr]

    async def refusing(wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        for want in wants:
            if error := of(want):
                raise error
        return await fetch(wants, max_bytes)

    monkeypatch.setattr(member, "fetch", refusing)


async def test_a_cursor_that_cannot_be_read_stops_its_partition_only() -> None:
    url = fresh()
    bus, got = shop(url)
    backend = make_backend(url, SYSTEM_CLOCK)
    await backend.open()
    async with Nexus(url, settings={"topics": {"orders": {"patterns": ["order.*"], "partitions": 4}}}) as publisher:
        for number in range(4):
            await publisher.publish("order.x", number, key=key_of(number, 4))
    member = await backend.claim("g", ["orders"], "a later release", lambda: None, "earliest")
    member.changes()
    assert await member.settle([Settlement("orders", 2, Cursor(1, 0, "9of a later release"))]) == ["ok"]
    await member.leave()
    async with bus:
        await until(lambda: len(got) == 3)
        consumer = bus.consumer("g")
        assert set(got) == {0, 1, 3}
        assert list(consumer.stopped) == [("orders", 2)]
        assert "g, orders[2]: the cursor cannot be read" in consumer.stopped["orders", 2]
        assert consumer.lost_cursors == []
        (stored,) = [lag for lag in await backend.lag("g") if (lag.topic, lag.partition) == ("orders", 2)]
        assert stored.state == "9of a later release", "nobody wrote over it"
    await backend.close()


@pytest.mark.parametrize("error", [UnknownTopic("gone"), Unavailable("no leader")])
async def test_a_partition_that_cannot_be_read_rests_and_the_others_go_on(
    error: BackendError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = make_virtual(asyncio.get_running_loop())
    bus, got = shop(fresh(), clock=clock)
    away = True
    async with bus:
        consumer = bus.consumer("g")
        failing_fetch(
            monkeypatch, bus, lambda want: error if away and (want.topic, want.partition) == ("orders", 1) else None
        )
        for number in range(40):
            await bus.publish("order.x", number, key=key_of(number % 4, 4))
        await clock.sleep_until(lambda: len(got) == 30, 60)
        assert {number % 4 for number in got} == {0, 2, 3}
        assert consumer.stopped == {("orders", 1): str(error)}
        await clock.sleep(30)
        assert caplog.text.count("orders[1] cannot be read now") == 1
        away = False
        await clock.sleep_until(lambda: len(got) == 40, 60)
        assert consumer.stopped == {}


async def test_what_operators_did_while_a_partition_rested_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = make_virtual(asyncio.get_running_loop())
    bus, got = shop(fresh(), clock=clock)
    away = True
    async with bus:
        failing_fetch(monkeypatch, bus, lambda want: Unavailable("away") if away and want.partition == 1 else None)
        await bus.publish("order.parked", 1, key=key_of(1, 4))
        await bus.publish("order.parked", 2, key=key_of(2, 4))
        await clock.sleep_until(lambda: got.count(2) == 2, 60)
        away = False
        await clock.sleep_until(lambda: got.count(1) == 2, 60)


async def test_no_partition_takes_the_room_of_all() -> None:
    url = fresh()
    bus, got = shop(url, prefetch_bytes="1MiB")
    topics = {"orders": {"patterns": ["order.*"], "partitions": 4}}
    async with Nexus(url, settings={"topics": topics}) as publisher:
        for number in range(400):  # 100 kB each: ten of them fill the room
            event = publisher.event("order.x", number, key=key_of(number % 4, 4))
            await publisher.publish(msgspec.structs.replace(event, body=str(number).encode() + b" " * 100_000))
    async with bus:
        await until(lambda: len(got) >= 60)
        assert min(sum(number % 4 == partition for number in got[:60]) for partition in range(4)) > 3


async def test_a_read_of_the_decisions_that_fails_once_in_a_takeover_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = fresh()
    first, got = shop(url, partitions=1)
    async with first:
        await first.subscriptions.alter("g", where='type == "order.parked"')
        await first.publish("order.parked", 1, key="k")
        await until(lambda: got == [1, 1])
        await first.subscriptions.pause("g")
        await first.publish("order.parked", 2, key="k")
    second, got = shop(url, partitions=1)
    read_on, failures = second.control.read_on, 0

    async def flaky() -> Control:
        nonlocal failures
        task = asyncio.current_task()
        if task is not None and "guard" in repr(task.get_coro()):
            failures += 1
            if failures == 1:
                raise Unavailable("away for a moment")
        elif not failures:
            return second.control.state  # the news has not come yet
        return await read_on()

    monkeypatch.setattr(second.control, "read_on", flaky)
    async with second:
        await until(lambda: failures)
        await second.subscriptions.resume("g")
        await until(lambda: got == [2, 2])


async def test_a_store_that_is_too_busy_to_park_is_asked_again() -> None:
    bus, got = shop(fresh(), partitions=1)
    faulty: Any = bus.backend
    async with bus:
        faulty.only = lambda topic: topic.endswith(".park")
        faulty.fail("append", Overloaded("too much at once", retry_after_s=0.1), times=3)
        await bus.publish("order.parked", 1, key="k")
        await until(lambda: got == [1, 1])
        assert bus.consumer("g").stopped == {}


async def test_who_takes_over_again_does_so_once_though_the_lease_ended_meanwhile() -> None:
    clock: VirtualClock = make_virtual(asyncio.get_running_loop())
    url = fresh()
    topics = {"orders": {"patterns": ["order.*"], "partitions": 1}}
    faulty = Faulty(make_backend(url, clock))
    bus = Nexus(url, backend=faulty, clock=clock, settings={"topics": topics})
    let_go = asyncio.Event()
    handled: list[int] = []

    @bus.on("order.*", group="g", start="earliest")
    async def handle(event: Event[Any]) -> Park | None:
        if event.type == "order.parked":
            return Park(600.0)
        while not let_go.is_set() and event.data == 0:  # as a thread: nothing stops it
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        handled.append(event.data)
        return None

    async with bus:
        faulty.only = lambda topic: topic.endswith(".park")
        faulty.lose_answers(times=1)
        await bus.publish("order.slow", 0, key="slow")
        await bus.publish("order.slow", 1, key="slow")
        consumer = bus.consumer("g")
        await bus.publish("order.parked", 99, key="other")
        try:
            await clock.sleep_until(lambda: consumer._retaking, 60)
            member: Any = consumer._member
            member._member.freeze()
            await clock.sleep(11)
            member._member.thaw()
            await clock.sleep_until(lambda: ("orders", 0) in consumer.owned, 60)
            owner = consumer._partitions["orders", 0].owner
        finally:
            let_go.set()
        await clock.sleep(60)
        assert consumer._partitions["orders", 0].owner is owner, "nobody took it over from itself"
        assert sum(partition.topic == "orders" for partition in consumer._by_owner.values()) == 1
        assert handled.count(1) == 1


async def test_closing_does_not_wait_for_a_store_that_is_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = make_virtual(asyncio.get_running_loop())
    bus, _ = shop(fresh(), clock=clock, drain="3s")
    await bus.start()
    member: Any = bus.consumer("g")._member

    async def silent(*_: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(member, "settle", silent)
    monkeypatch.setattr(type(member), "__getattr__", lambda self, name: getattr(self._member, name), raising=False)
    monkeypatch.setattr(member, "leave", silent, raising=False)
    began = clock.monotonic()
    await bus.close()
    assert clock.monotonic() - began < 15
    assert "group g could not be left: no answer" in caplog.text
