"""Groups that are changed while they run: paused, sent elsewhere, filtered otherwise; durable, and seen by all."""

from __future__ import annotations

import asyncio
from typing import Any

from nexus.core.outcome import Park
from nexus.core.retry import Retry
from nexus.errors import NexusError, UnknownGroup
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.testing.conformance._bus import Buses, Recorder, bus_case

ONCE = Retry(max_attempts=1)


async def _marked(buses: Buses, bus: Any, recorder: Recorder) -> None:
    """Publish one event per partition and wait until they are handled: everything before them was looked at."""
    marks = {f"mark-{number}" for number in range(16)}
    for mark in sorted(marks):
        await bus.publish("order.mark", mark, key=mark)
    await recorder.until(lambda recorder: marks <= set(recorder.numbers))
    recorder.done = [event for event in recorder.done if event.data not in marks]


@bus_case
async def test_a_paused_group_starts_nothing_until_it_is_resumed_from_another_process(buses: Buses) -> None:
    recorder = Recorder()
    bus, operator = await buses.run(recorder), buses.make()
    await operator.start(consume=False)
    first = await buses.publish(bus, 8, keys=4)
    await recorder.until_done(8)
    await operator.subscriptions.pause(buses.group, who="ann")

    async def paused() -> bool:
        return set(bus.consumer(buses.group).stopped.values()) == {"paused"}

    await buses.until(paused)
    second = await buses.publish(bus, 8, keys=4)
    lags = await buses.lags()
    assert sum(lag.end - lag.low for lag in lags) >= 8
    await operator.subscriptions.resume(buses.group)
    await recorder.until_done(16)
    recorder.check_order([*first, *second])


@bus_case
async def test_a_pause_holds_for_members_that_start_later(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    await bus.subscriptions.pause(buses.group)
    await bus.close()
    other = await buses.run(recorder)
    events = await buses.publish(other, 8, keys=4)
    assert set(other.consumer(buses.group).stopped.values()) in ({"paused"}, set())
    await buses.until_owned(other, count=4)
    assert set(other.consumer(buses.group).stopped.values()) == {"paused"}
    assert recorder.started == []
    await other.subscriptions.resume(buses.group)
    await recorder.until_done(8)
    recorder.check_order(events)


@bus_case
async def test_what_runs_when_its_group_is_paused_ends_and_counts(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    await bus.publish("order.placed", 1, key="k")
    await recorder.until(lambda recorder: len(recorder.started) == 1)
    await bus.subscriptions.pause(buses.group)
    gate.set()
    await recorder.until_done(1)
    await buses.until_settled()


@bus_case
async def test_a_group_sent_back_handles_again_in_order_and_no_other_group_does(buses: Buses) -> None:
    recorder, bystander = Recorder(), Recorder()
    bus = buses.make()
    bus.on("**", group=buses.group, start="earliest")(recorder.handle)
    bus.on("**", group=f"{buses.group}-2", start="earliest")(bystander.handle)
    await bus.start()
    events = await buses.publish(bus, 40, keys=8)
    await recorder.until_done(40)
    await bystander.until_done(40)
    recorder.done.clear()
    await bus.subscriptions.seek(buses.group, "earliest")
    await recorder.until_done(40)
    await buses.until_settled()
    recorder.check_order(events)
    assert len(bystander.done) == 40


@bus_case
async def test_a_group_sent_to_positions_goes_on_there_and_the_other_partitions_do_not_notice(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 20, keys=1)
    await recorder.until_done(20)
    await buses.until_settled()
    partition = recorder.started[0][1].partition
    position = recorder.started[12][1].position
    recorder.done.clear()
    await bus.subscriptions.seek(buses.group, {buses.topic: {partition: position}})
    await recorder.until_done(8)
    assert recorder.numbers == [event.data for event in events[12:]]


@bus_case
async def test_a_group_sent_forward_skips_what_lies_between(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    await bus.subscriptions.pause(buses.group)
    await buses.publish(bus, 20, keys=4)
    await bus.subscriptions.seek(buses.group, "latest")
    await bus.subscriptions.resume(buses.group)
    await _marked(buses, bus, recorder)
    assert recorder.numbers == []


@bus_case
async def test_a_group_that_nobody_runs_is_sent_back_when_it_is_run(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 20, keys=4)
    await recorder.until_done(20)
    await bus.close()
    operator = buses.make()
    await operator.start(consume=False)
    await operator.subscriptions.seek(buses.group, "earliest")
    recorder.done.clear()
    await buses.run(recorder)
    await recorder.until_done(20)
    recorder.check_order(events)


@bus_case
async def test_a_wish_is_carried_out_once(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 10, keys=4)
    await recorder.until_done(10)
    await bus.subscriptions.seek(buses.group, "earliest")
    await recorder.until_done(20)
    await buses.until_settled()
    await bus.close()
    recorder.done.clear()
    other = await buses.run(recorder)
    await _marked(buses, other, recorder)
    assert recorder.numbers == []
    assert len(events) == 10


@bus_case
async def test_sent_back_before_a_dead_letter_its_key_is_handled_again_from_there(buses: Buses) -> None:
    async def fail(event: Event[Any], context: Context) -> None:
        if event.data == 2:
            raise ValueError("no 2")

    recorder = Recorder(fail)
    bus = await buses.run(recorder, retry=ONCE)
    events = await buses.publish(bus, 6, keys=1)
    await buses.until_dead(bus)
    await buses.until_settled()
    recorder.act = None
    recorder.done.clear()
    await bus.subscriptions.seek(buses.group, "earliest")
    await recorder.until_done(6)
    recorder.check_order(events)
    assert await bus.dead_letters.all(buses.group) == []


@bus_case
async def test_sent_forward_what_is_parked_stays_owed_unless_it_is_dropped(buses: Buses) -> None:
    gate = False

    async def park(event: Event[Any], context: Context) -> Any:
        return None if gate or str(event.data).startswith("mark") else Park(0.5)

    recorder = Recorder(park)
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 8, keys=2)
    await recorder.until(lambda recorder: len({event.key for event, _ in recorder.started}) == 2)
    await buses.until_settled()
    await bus.subscriptions.seek(buses.group, "latest")
    gate = True
    await recorder.until_done(8)
    recorder.check_order(events)


@bus_case
async def test_sent_past_all_that_is_parked_only_dead_letters_are_left(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        if str(event.data).startswith("mark"):
            return None
        if event.key == "key-0":
            raise ValueError("no")
        return Park(3_600.0)

    recorder = Recorder(act)
    bus = await buses.run(recorder, retry=ONCE)
    await buses.publish(bus, 8, keys=2)
    await buses.until_dead(bus)
    await recorder.until(lambda recorder: len({event.key for event, _ in recorder.started}) == 2)
    await buses.until_settled()
    before = {lag.partition: lag.epoch for lag in await buses.lags()}
    await bus.subscriptions.seek(buses.group, "latest", drop_parked=True)

    async def moved() -> bool:
        return all(lag.epoch > before[lag.partition] for lag in await buses.lags())

    await buses.until(moved)
    await _marked(buses, bus, recorder)
    (letter,) = await bus.dead_letters.all(buses.group)
    assert (letter.event.data, letter.followers) == (0, 0)
    recorder.act = None
    await bus.dead_letters.requeue(letter)
    await recorder.until_done(1)
    assert recorder.numbers == [0]


@bus_case
async def test_an_altered_filter_holds_from_one_place_of_each_partition_on_under_traffic(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    stop = False
    published: list[Event[Any]] = []

    async def publish() -> None:
        while not stop:
            number = len(published)
            event = bus.event("order.placed", number, key=f"key-{number % 16}", subject="ab"[number // 16 % 2])
            published.append(event)
            await bus.publish(event)

    publishing = asyncio.create_task(publish())
    await recorder.until_done(100)
    await bus.subscriptions.alter(buses.group, where="subject == 'a'")
    count = len(published)
    await recorder.until(lambda recorder: recorder.done[-1].data > count + 200)
    stop = True
    await publishing
    await _marked_a(bus, recorder)
    _check_cut(recorder, published)
    recorder.check_order([event for event in published if event.id in {done.id for done in recorder.done}])


async def _marked_a(bus: Any, recorder: Recorder) -> None:
    for number in range(16):
        await bus.publish("order.mark", f"mark-{number}", key=f"key-{number}", subject="a")
    await recorder.until(lambda recorder: sum(str(number).startswith("mark") for number in recorder.numbers) >= 16)
    recorder.done = [event for event in recorder.done if not str(event.data).startswith("mark")]


def _check_cut(recorder: Recorder, published: list[Event[Any]]) -> None:
    """All that matches was handled; what does not, only before one place of its partition."""
    done = {event.id for event in recorder.done}
    assert {event.id for event in published if event.subject == "a"} <= done
    partitions = {event.key: context.partition for event, context in recorder.started}
    for partition in set(partitions.values()):
        others = [e.id in done for e in published if e.subject == "b" and partitions.get(e.key) == partition]
        assert others == sorted(others, reverse=True), "a place where the filter changed, and no gap"
    assert any(event.subject == "b" and event.id not in done for event in published)


@bus_case
async def test_an_altered_filter_survives_the_death_of_its_owner_under_traffic(buses: Buses) -> None:
    recorder = Recorder()
    bus, publisher = await buses.run(recorder), buses.make()
    await publisher.start(consume=False)
    published: list[Event[Any]] = []

    async def publish(count: int) -> None:
        for _ in range(count):
            number = len(published)
            event = bus.event("order.placed", number, key=f"key-{number % 16}", subject="ab"[number // 16 % 2])
            published.append(event)
            await publisher.publish(event)

    await publish(64)
    await recorder.until_done(8)
    await publisher.subscriptions.alter(buses.group, where="subject == 'a'")
    await bus.kill()
    bus = await buses.run(recorder)
    await publish(64)
    await _marked_a(publisher, recorder)
    assert {event.id for event in published if event.subject == "a"} <= {event.id for event in recorder.done}
    late = [event for event in published[64:] if event.subject == "b"]
    assert not {event.id for event in late} & {event.id for event in recorder.done}
    await publisher.subscriptions.alter(buses.group, where=None)

    async def lifted() -> bool:
        last = await publisher.publish("order.placed", "lifted", key="key-1", subject="b")
        return bool(last) and "lifted" in recorder.numbers

    await buses.until(lifted)


@bus_case
async def test_an_unknown_group_and_a_bad_filter_are_refused(buses: Buses) -> None:
    bus = await buses.run(Recorder())
    for refused in (
        bus.subscriptions.pause("nobody"),
        bus.subscriptions.resume("nobody"),
        bus.subscriptions.alter("nobody", where=None),
        bus.subscriptions.seek("nobody", "latest"),
        bus.subscriptions.remove("nobody"),
    ):
        try:
            await refused
        except UnknownGroup:
            continue
        raise AssertionError("not refused")
    for bad in (
        bus.subscriptions.alter(buses.group, where="subject =="),
        bus.subscriptions.seek(buses.group, {buses.topic: {99: 0}}),
        bus.subscriptions.seek(buses.group, "latest", topic="elsewhere"),
    ):
        try:
            await bad
        except NexusError:
            continue
        raise AssertionError("not refused")
