"""Events that are published later, and again and again: in time, once, and from any process."""

from __future__ import annotations

import contextlib
from typing import Any

from nexus.core.control import Schedule
from nexus.errors import NexusError
from nexus.runtime.schedules import UnknownSchedule
from nexus.testing.conformance._bus import Buses, Recorder, bus_case


@bus_case
async def test_a_delayed_event_is_handled_at_its_time_and_not_before(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    now = buses.world.clock.now
    due = now() + 0.4
    id = await bus.publish_later("order.due", 1, at=due, key="k")
    await bus.publish("order.placed", 0, key="k")
    await recorder.until_done(2)
    assert now() >= due
    assert recorder.numbers == [0, 1]
    assert recorder.done[1].id == id


@bus_case
async def test_delayed_events_come_in_the_order_of_their_times(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    now = buses.world.clock.now()
    for number in range(20):
        await bus.publish_later("order.due", number, at=now + 2.0 - number * 0.02, key="k")
    await recorder.until_done(20)
    assert recorder.numbers == list(reversed(range(20)))


@bus_case
async def test_a_time_that_is_past_is_now(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    await bus.publish_later("order.due", 1, at=5.0, key="k")
    await recorder.until_done(1)


@bus_case
async def test_what_a_process_delayed_that_is_gone_another_publishes(buses: Buses) -> None:
    first, recorder = buses.make(), Recorder()
    await first.start(consume=False)
    await first.publish_later("order.due", 1, at=buses.world.clock.now() + 0.3, key="k")
    await first.kill()
    await buses.run(recorder)
    await recorder.until_done(1)


@bus_case
async def test_what_is_due_when_its_owner_dies_is_published_once(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    now = buses.world.clock.now()
    ids = [await bus.publish_later("order.due", number, at=now + 0.2, key=f"key-{number % 4}") for number in range(40)]
    await recorder.until(lambda recorder: len(recorder.done) >= 5)
    await bus.kill()
    bus = await buses.run(recorder)
    await recorder.until(lambda recorder: set(ids) <= {event.id for event in recorder.done})

    async def nothing_left() -> bool:
        own = set(ids)
        return not [one for one in await bus.schedules.all() if one.id in own]

    await buses.until(nothing_left)
    stored = [s.stored.event.id async for s in bus.tail("order.due", start="earliest", follow=False)]
    if bus.backend.capabilities.dedup != "sender":
        assert sorted(id for id in stored if id in set(ids)) == sorted(ids)


@bus_case
async def test_delayed_events_are_listed_cancelled_and_published_now(buses: Buses) -> None:
    recorder = Recorder()
    bus, operator = await buses.run(recorder), buses.make()
    await operator.start(consume=False)
    now = buses.world.clock.now()
    late, never, soon = [
        await bus.publish_later("order.due", number, at=now + 3_600 + number, key="k") for number in range(3)
    ]
    own = {late, never, soon}
    listed = [one for one in await operator.schedules.all() if one.id in own]
    assert [(one.id, one.type, one.key) for one in listed] == [(id, "order.due", "k") for id in (late, never, soon)]
    await operator.schedules.cancel(never)
    await operator.schedules.fire(soon)
    await recorder.until_done(1)
    assert recorder.numbers == [2]

    async def only_late() -> bool:
        return [one.id for one in await operator.schedules.all() if one.id in own] == [late]

    await buses.until(only_late)
    for gone in (never, soon, "nothing"):
        with contextlib.suppress(UnknownSchedule):
            await operator.schedules.cancel(gone)
            raise AssertionError("not refused")
    await operator.schedules.cancel(late)


@bus_case
async def test_a_recurring_event_is_published_at_each_of_its_times_by_one_process(buses: Buses) -> None:
    recorder = Recorder()
    one, other = await buses.run(recorder), await buses.run(recorder)
    name = buses.world.name("daily")
    clock = buses.world.clock
    # Three hours of firings were missed: the schedule is made to have begun then.
    since = clock.now() - 3 * 3_600
    await one.schedules.every(name, "0 0 29 2 *", "day.began", {"n": 1}, key=name)
    await one.control.write(Schedule(name, "0 * * * *", "UTC", "hour.began", '{"n":1}', name, "all", since))
    await recorder.until(lambda recorder: sum(event.key == name for event in recorder.done) >= 3)
    assert await one.schedules.all() == await other.schedules.all()
    (listed,) = [scheduled for scheduled in await one.schedules.all() if scheduled.id == name]
    assert (listed.type, listed.cron, listed.zone) == ("hour.began", "0 * * * *", "UTC")
    assert listed.due is not None
    assert clock.now() < listed.due <= clock.now() + 3_600
    await one.schedules.fire(name)
    await recorder.until(lambda recorder: sum(event.key == name for event in recorder.done) >= 4)
    await other.schedules.cancel(name)
    assert [scheduled for scheduled in await one.schedules.all() if scheduled.id == name] == []
    ids = [event.id for event in recorder.done if event.key == name]
    assert len(ids) == len(set(ids)) == 4


@bus_case
async def test_what_cannot_be_scheduled_is_refused(buses: Buses) -> None:
    bus = await buses.run(Recorder())
    refused: list[Any] = [
        bus.publish_later("order.due", 1, at=-5.0),
        bus.publish_later("order due", 1, at=5.0),
        bus.schedules.every("x", "61 * * * *", "hour.began"),
        bus.schedules.every("x", "* * * * *", "hour.began", zone="Mars/Base"),
        bus.schedules.every("", "* * * * *", "hour.began"),
        bus.schedules.every("x", "* * * * *", "hour.began", b"bytes"),
        bus.schedules.fire("nothing"),
    ]
    for one in refused:
        try:
            await one
        except NexusError:
            continue
        raise AssertionError("not refused")
