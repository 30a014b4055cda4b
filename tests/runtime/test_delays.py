"""Delayed events at their bounds, and on virtual time: a day passes at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nexus import Event, InvalidEvent, Nexus, NexusError, Overloaded
from nexus.core import delays as core
from nexus.core.control import Missed, Schedule
from nexus.core.delays import TOPIC
from nexus.errors import Unavailable
from nexus.runtime import delays, schedules
from nexus.testing.clock import VirtualClock, make_virtual

DAY_S = 86_400.0
SUMMER_S = 1_774_659_600.0  # 2026-03-28T01:00:00Z: the night before the clocks change in Berlin


class Shop:
    """A bus whose one group writes down what it gets, and when."""

    def __init__(self, clock: VirtualClock) -> None:
        self.bus = Nexus("memory://", clock=clock, settings={"topics": {"events": {"partitions": 2}}})
        self.got: list[tuple[float, Event[Any]]] = []
        self.clock = clock

        @self.bus.on("due.*", group="g")
        async def handle(event: Event[Any]) -> None:
            self.got.append((clock.now(), event))

    async def until(self, count: int, within_s: float) -> None:
        await self.clock.sleep_until(lambda: len(self.got) >= count, within_s)


@pytest.fixture
async def clock() -> VirtualClock:
    clock = make_virtual(asyncio.get_running_loop())
    clock.set_wall_clock(SUMMER_S - clock.now())
    return clock


async def test_a_delay_of_a_day_ends_to_the_millisecond(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        began = clock.now()
        await bus.publish_later("due.day", at=began + DAY_S)
        await clock.sleep(DAY_S - 1)
        assert shop.got == []
        await shop.until(1, 10)
        assert abs(shop.got[0][0] - began - DAY_S) < 0.001


async def test_a_nightly_event_follows_the_change_of_the_clocks(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.schedules.every("nightly", "30 2 * * *", "due.night", zone="Europe/Berlin")
        await shop.until(3, 4 * DAY_S)
        times = [event.time.isoformat() for _, event in shop.got]
        assert times == ["2026-03-28T01:30:00+00:00", "2026-03-29T01:00:00+00:00", "2026-03-30T00:30:00+00:00"]
        assert all(0 <= at - event.time.timestamp() < 0.001 for at, event in shop.got)


async def test_bodies_beyond_what_memory_keeps_are_read_when_they_are_due(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delays, schedules):
        monkeypatch.setattr(module, "KEEP_BYTES", 100)
    shop = Shop(clock)
    async with shop.bus as bus:
        for number in range(50):
            await bus.publish_later("due.large", {"n": number, "pad": "x" * 40}, at=clock.now() + 60, key="k")
        assert len(await bus.schedules.all()) == 50
        await shop.until(50, 120)
        assert {event.data["n"] for _, event in shop.got} == set(range(50))


async def test_no_more_is_delayed_than_there_is_room_for(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "PENDING_LIMIT", 10)
    bus = Shop(clock).bus
    async with bus:
        for _ in range(10):
            await bus.publish_later("due.day", at=clock.now() + DAY_S)
        await clock.sleep(1.1)
        with pytest.raises(Overloaded):
            await bus.publish_later("due.day", at=clock.now() + DAY_S)


async def test_the_journal_is_trimmed_and_what_is_old_is_carried_forward(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "CARRY_FROM", 20)
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.publish_later("due.late", at=clock.now() + DAY_S, key="k")
        for number in range(100):
            await bus.publish_later("due.soon", number, at=clock.now() + 0.1, key="k")
        await shop.until(100, 10)
        await clock.sleep(5)
        await bus.publish_later("due.soon", 100, at=clock.now() + 5, key="k")  # each turn keeps a little
        await shop.until(101, 10)
        info = await bus.backend.describe(TOPIC)
        assert sum(info.end) - sum(info.first) < 60
        await shop.until(102, 2 * DAY_S)
        assert shop.got[-1][1].type == "due.late"


async def test_a_store_that_fails_for_a_moment_delays_no_longer_than_that(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.publish_later("due.day", 1, at=clock.now() + 5)
        append, failures = bus.backend.append, 3

        async def failing(topic: str, batch: Any) -> Any:
            nonlocal failures
            if failures and topic == "events":
                failures -= 1
                raise delays.BackendError("for a moment")
            return await append(topic, batch)

        bus.backend.append = failing  # type: ignore[method-assign]
        await shop.until(1, 10)
        assert failures == 0


async def test_events_of_two_sources_may_have_one_id(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        for source in ("/shop", "/billing"):
            await bus.publish_later("due.same", at=clock.now() + 5, id="1", source=source, key="k")
        await shop.until(2, 10)
        assert {event.source for _, event in shop.got} == {"/shop", "/billing"}
        for key in ("k1", "k2", "k3"):
            await bus.publish_later("due.never", at=clock.now() + 5, id="2", source=f"/{key}", key=key)
        await bus.schedules.cancel("2")
        assert await bus.schedules.all() == []


async def test_schedules_change_while_others_fire(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        append = bus.backend.append

        async def slow(topic: str, batch: Any) -> Any:
            await clock.sleep(0.02)
            return await append(topic, batch)

        bus.backend.append = slow  # type: ignore[method-assign]
        for number in range(5):
            await bus.schedules.every(f"every-{number}", "* * * * *", "due.minute", number)
        await clock.sleep(60 - clock.now() % 60 + 0.03)
        await bus.schedules.every("new", "* * * * *", "due.minute", 5)
        await bus.schedules.cancel("every-4")
        await shop.until(15, 300)
        assert len({event.data for _, event in shop.got}) >= 5


async def test_a_schedule_that_cannot_be_followed_holds_no_other_up(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.control.write(Schedule("z", "* * * * *", "Mars/Olympus", "due.mars", "null", None, "skip", 0.0))
        await bus.publish_later("due.day", at=clock.now() + 5)
        await shop.until(1, 10)
        assert caplog.text.count("schedule z cannot be followed here") == 1


async def test_a_schedule_that_is_declared_at_each_start_makes_up_for_what_was_missed(
    clock: VirtualClock, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    got: list[Any] = []

    async def run(until: int, missed: Missed) -> int:
        bus = Nexus(url, clock=clock)

        @bus.on("due.*", group="g")
        async def handle(event: Event[Any]) -> None:
            got.append(event)

        async with bus:
            await bus.schedules.every("hourly", "0 * * * *", "due.hour", missed=missed)
            await clock.sleep_until(lambda: len(got) >= until, 10)
            return (await bus.backend.describe("nexus.control")).end[0]

    first = await run(0, "all")
    clock.set_wall_clock(5 * 3_600)
    assert await run(5, "all") == first, "nothing is written anew"
    assert len(got) == 5
    clock.set_wall_clock(5 * 3_600)
    await run(5, "once")
    assert len(got) == 5, "another policy counts from now on"


async def test_what_a_cancelled_schedule_leaves_keeps_no_room(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "CARRY_FROM", 20)
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.schedules.every("minutely", "* * * * *", "due.minute", key="k")
        await shop.until(1, 120)
        await bus.schedules.cancel("minutely")
        for number in range(100):
            await bus.publish_later("due.soon", number, at=clock.now() + 0.1, key="k")
            await shop.until(number + 2, 10)
        await clock.sleep(5)
        await bus.publish_later("due.soon", 100, at=clock.now() + 5, key="k")
        await shop.until(102, 10)
        await clock.sleep(2)
        info = await bus.backend.describe(TOPIC)
        assert sum(info.end) - sum(info.first) < 60


async def test_a_clock_that_is_set_forward_is_noticed_within_half_a_minute(clock: VirtualClock) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.publish_later("due.hour", at=clock.now() + 3_600)
        await clock.sleep(1)
        clock.set_wall_clock(3_600)
        await clock.sleep(delays.LOOK_AGAIN_S + 1)
        assert len(shop.got) == 1


@pytest.mark.parametrize("at", ["tomorrow", None, True, float("nan"), -1.0])
async def test_what_is_no_time_is_refused(clock: VirtualClock, at: Any) -> None:
    async with Shop(clock).bus as bus:
        with pytest.raises(InvalidEvent):
            await bus.publish_later("due.day", at=at)


@pytest.mark.parametrize(
    "wrong", [{"type": "a b..c"}, {"type": ""}, {"key": "k" * 100_000}, {"key": 7}, {"missed": "never"}]
)
async def test_what_could_not_be_published_is_not_scheduled(clock: VirtualClock, wrong: dict[str, Any]) -> None:
    given = {"type": "due.day", "key": None, "missed": "skip"} | wrong
    async with Shop(clock).bus as bus:
        with pytest.raises(NexusError):
            await bus.schedules.every("daily", "0 0 * * *", **given)
        assert await bus.schedules.all() == []


async def test_what_should_not_happen_is_told_and_ends_no_owner(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(clock)
    async with shop.bus as bus:
        await bus.publish_later("due.day", at=clock.now() + 5)
        append, faults = bus.backend.append, 1

        async def failing(topic: str, batch: Any) -> Any:
            nonlocal faults
            if faults and topic == "events":
                faults -= 1
                raise RuntimeError("nobody thought of this")
            return await append(topic, batch)

        bus.backend.append = failing  # type: ignore[method-assign]
        await shop.until(1, 20)
        assert "nobody thought of this" in caplog.text


async def test_a_topic_that_takes_nothing_holds_up_no_other_and_no_schedule(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(clock)
    shop.bus = Nexus("memory://", clock=clock, settings={"topics": {"old": {"patterns": ["old.*"], "partitions": 1}}})
    old: list[str] = []

    @shop.bus.on("due.*", group="g")
    async def handle(event: Event[Any]) -> None:
        shop.got.append((clock.now(), event))

    @shop.bus.on("old.*", group="h")
    async def handle_old(event: Event[Any]) -> None:
        old.append(event.id)

    append, full = shop.bus.backend.append, True

    async def refusing(topic: str, batch: Any) -> Any:
        if topic == "old" and full:
            raise Unavailable("no leader")
        return await append(topic, batch)

    monkeypatch.setattr(shop.bus.backend, "append", refusing)
    async with shop.bus as bus:
        await bus.schedules.every("old", "* * * * *", "old.tick")
        await bus.schedules.every("tick", "* * * * *", "due.tick")
        for number in range(20):
            await bus.publish_later("old.x", number, at=clock.now() + 1, key=f"k{number}", id=f"x{number}")
            await bus.publish_later("due.x", number, at=clock.now() + 2, key=f"k{number}")
        await shop.until(20, 5)
        await shop.until(23, 4 * 60)
        assert old == []
        assert caplog.text.count("what is to be published into old waits") == 1
        full = False
        await clock.sleep_until(lambda: len(old) >= 20 + 3, 5 * 60)
        assert {f"x{number}" for number in range(20)} <= set(old)
        assert len(old) == len(set(old))
