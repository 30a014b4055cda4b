"""Replays (G9): what was stored goes to a group or a function again, and no live group moves."""

from __future__ import annotations

import asyncio
from typing import Any

from nexus.core.outcome import Park
from nexus.core.retry import Retry
from nexus.errors import NexusError, UnknownGroup
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.replays import Selection, UnknownReplay
from nexus.testing.conformance._bus import Buses, Recorder, bus_case

ONCE = Retry(max_attempts=1)


@bus_case
async def test_a_replay_into_a_live_group_brings_the_same_events_in_order_and_moves_no_cursor(buses: Buses) -> None:
    seen: list[tuple[Event[Any], str | None]] = []

    async def act(event: Event[Any], context: Context) -> None:
        seen.append((event, context.replay))

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 40, keys=8)
    await recorder.until_done(40)
    await buses.until_settled()
    before = await buses.lags()
    id = await bus.replays.start(Selection(topics=(buses.topic,)), group=buses.group, who="ann")
    info = await bus.replays.wait(id)
    assert info.read == info.total >= 40, "of positions, which may have gaps"
    assert (info.parked, info.dead, info.who) == (0, 0, "ann")
    replayed = [event for event, replay in seen if replay == id]
    assert sorted(event.id for event in replayed) == sorted(event.id for event in events)
    bodies = {event.id: event.body for event in events}
    assert all(event.body == bodies[event.id] for event in replayed)
    for key in {event.key for event in events}:
        assert [e.id for e in replayed if e.key == key] == [e.id for e in events if e.key == key]
    after = await buses.lags()
    assert [(lag.partition, lag.low, lag.epoch, lag.state) for lag in after] == [
        (lag.partition, lag.low, lag.epoch, lag.state) for lag in before
    ]


@bus_case
async def test_a_group_made_while_running_gets_what_was_stored_before_it(buses: Buses) -> None:
    got: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
    bus = buses.make()
    name, later = buses.world.name("made"), buses.world.name("write")

    @bus.handler(later)
    async def write(event: Event[Any], context: Context) -> None:
        got.put_nowait((event.id, context.replay))

    await bus.start()
    events = await buses.publish(bus, 6, keys=2)
    await bus.subscriptions.create(name, "order.*", handler=later)
    id = await bus.replays.start(Selection(topics=(buses.topic,)), group=name)
    info = await bus.replays.wait(id)
    assert (info.state, info.read) == ("done", info.total)
    assert sorted([got.get_nowait() for _ in events]) == sorted((event.id, id) for event in events)
    assert got.empty()
    await bus.subscriptions.remove(name)


@bus_case
async def test_only_what_is_selected_is_replayed(buses: Buses) -> None:
    seen: list[Any] = []

    async def handle(events: list[Event[Any]]) -> None:
        seen.extend(event.data for event in events)

    bus = buses.make()
    await bus.start(consume=False)
    for number in range(20):
        await bus.publish(f"order.{'placed' if number % 2 else 'paid'}", number, key=f"key-{number % 3}")
    by_type = Selection(("order.paid",), topics=(buses.topic,))
    by_key = Selection(topics=(buses.topic,), key="key-1")
    by_filter = Selection(topics=(buses.topic,), where="data > 10", key="key-2")
    for number, (selection, wanted) in enumerate(
        (
            (by_type, {n for n in range(20) if n % 2 == 0}),
            (by_key, {n for n in range(20) if n % 3 == 1}),
            (by_filter, {n for n in range(11, 20) if n % 3 == 2}),
        )
    ):
        seen.clear()
        looked = [found.stored.event.data async for found in bus.replays.look(selection)]
        assert set(looked) == wanted
        info = await bus.replays.into(handle, selection, id=buses.world.name(f"r{number}"))
        assert info.state == "done"
        assert sorted(seen) == sorted(wanted)


@bus_case
async def test_a_replay_by_position_ends_where_it_should_although_more_is_published(buses: Buses) -> None:
    recorder = Recorder()
    bus = buses.make()
    await bus.start(consume=False)
    receipts = [await bus.publish("order.placed", number, key="k") for number in range(10)]
    partition = receipts[0].partition
    positions = [seen.stored.position async for seen in bus.replays.look(Selection(topics=(buses.topic,)))]
    selection = Selection(ranges={buses.topic: {partition: (positions[3], positions[7])}})

    async def act(event: Event[Any], context: Context) -> None:
        await bus.publish("order.placed", 100, key="k")

    recorder.act = act
    info = await bus.replays.into(recorder.handle, selection, id=buses.world.name("r"))
    assert info.state == "done"
    assert recorder.numbers == [3, 4, 5, 6]


@bus_case
async def test_a_replay_whose_process_dies_goes_on_where_it_was(buses: Buses) -> None:
    id = buses.world.name("r")
    recorder = Recorder()
    bus = buses.make()
    await bus.start(consume=False)
    events = await buses.publish(bus, 200, keys=8)

    limit = 0

    async def act(event: Event[Any], context: Context) -> None:
        if len(recorder.done) >= limit:
            await asyncio.Event().wait()

    recorder.act = act
    for died in (60, 120):
        selection = Selection(topics=(buses.topic,)) if died == 60 else None
        limit = died
        replaying = asyncio.create_task(bus.replays.into(recorder.handle, selection, id=id))
        await recorder.until(lambda recorder, died=died: len(recorder.done) >= died)  # type: ignore[misc]
        await bus.kill()
        replaying.cancel()
        await asyncio.gather(replaying, return_exceptions=True)
        recorder._running.clear()
        bus = buses.make()
        await bus.start(consume=False)
    recorder.act = None
    info = await bus.replays.into(recorder.handle, id=id)
    assert info.state == "done"
    recorder.check_order(events, once=False)
    assert {event.id for event in recorder.done} == {event.id for event in events}


@bus_case
async def test_a_replay_waits_for_what_it_parked_and_has_dead_letters_of_its_own(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder, retry=ONCE)
    await buses.publish(bus, 8, keys=8)
    await recorder.until_done(8)

    async def act(event: Event[Any], context: Context) -> Any:
        if event.data == 3:
            raise ValueError("no 3")
        return Park(0.1) if event.data == 5 and context.attempt == 1 else None

    recorder.act = act
    recorder.done.clear()
    id = await bus.replays.start(Selection(topics=(buses.topic,)), group=buses.group)
    info = await bus.replays.wait(id)
    assert sorted(recorder.numbers) == [0, 1, 2, 4, 5, 6, 7]
    assert (info.dead, info.parked) == (1, 0)
    assert await bus.dead_letters.all(buses.group) == []
    (letter,) = await bus.dead_letters.all(f"replay-{id}")
    assert letter.event.data == 3


@bus_case
async def test_a_replay_that_is_cancelled_stops(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> None:
        if context.replay is not None:
            await asyncio.Event().wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, settings={"drain": "0s"})
    await buses.publish(bus, 40, keys=8)
    await recorder.until_done(40)
    id = await bus.replays.start(Selection(topics=(buses.topic,)), group=buses.group)
    await recorder.until(lambda recorder: recorder.started[-1][1].replay == id)
    await bus.replays.cancel(id)
    info = await bus.replays.get(id)
    assert info.state == "cancelled"

    async def gone() -> bool:
        try:
            bus.consumer(f"replay-{id}")
        except NexusError:
            return True
        return False

    await buses.until(gone)
    assert len(recorder.done) == 40


@bus_case
async def test_the_rate_of_a_replay_is_kept(buses: Buses) -> None:
    recorder = Recorder()
    bus = buses.make()
    await bus.start(consume=False)
    await buses.publish(bus, 60, keys=8)
    began = buses.world.clock.monotonic()
    await bus.replays.into(recorder.handle, Selection(topics=(buses.topic,)), id=buses.world.name("r"), rate=100.0)
    assert buses.world.clock.monotonic() - began > 0.3
    assert len(recorder.done) == 60


@bus_case
async def test_what_cannot_be_replayed_is_refused(buses: Buses) -> None:
    bus = await buses.run(Recorder())
    selection = Selection(topics=(buses.topic,))
    backwards = Selection(topics=(buses.topic,), start=1_000.0, until=500.0)
    for refused, error in (
        (bus.replays.start(selection, group="nobody"), UnknownGroup),
        (bus.replays.start(selection, group=buses.group, rate=0.0), NexusError),
        (bus.replays.start(backwards, group=buses.group), NexusError),
        (bus.replays.start(Selection(where="type =="), group=buses.group), NexusError),
        (bus.replays.cancel("nothing"), UnknownReplay),
        (bus.replays.into(Recorder().handle, id="nothing"), UnknownReplay),
    ):
        try:
            await refused
        except error:
            continue
        raise AssertionError("not refused")


@bus_case
async def test_a_group_that_is_created_is_consumed_by_who_has_its_handler_until_it_is_removed(buses: Buses) -> None:
    recorder = Recorder()
    name = buses.world.name("audit")
    with_handler, without, operator = buses.make(), buses.make(), buses.make()
    with_handler.handler(name)(recorder.handle)
    without.on("never.*", group=buses.world.name("other"))(Recorder().handle)
    for bus in (with_handler, without):
        await bus.start()
    await operator.start(consume=False)
    await buses.publish(operator, 10, keys=4)
    await operator.subscriptions.create(name, "order.*", handler=name, where="data >= 5", start="earliest")
    await recorder.until_done(5)
    assert sorted(recorder.numbers) == [5, 6, 7, 8, 9]
    try:
        await operator.subscriptions.create(name, "order.*", handler=name)
    except NexusError:
        pass
    else:
        raise AssertionError("not refused")
    await operator.subscriptions.remove(name)

    async def gone() -> bool:
        try:
            with_handler.consumer(name)
        except NexusError:
            return True
        return False

    await buses.until(gone)
    await operator.publish("order.placed", 77, key="key-0")
    late = buses.make()
    late.handler(name)(recorder.handle)
    await late.start()
    await operator.subscriptions.create(name + "-2", "order.*", handler=name, start="earliest")
    await recorder.until(lambda recorder: recorder.numbers.count(77) == 1)


@bus_case
async def test_a_removed_group_that_is_created_anew_goes_on_where_it_was(buses: Buses) -> None:
    recorder = Recorder()
    name = buses.world.name("audit")
    bus = buses.make()
    bus.handler(name)(recorder.handle)
    await bus.start()
    await bus.subscriptions.create(name, "order.*", handler=name, start="earliest")
    await buses.publish(bus, 10, keys=4)
    await recorder.until_done(10)
    await bus.subscriptions.remove(name)

    async def gone() -> bool:
        try:
            bus.consumer(name)
        except NexusError:
            return True
        return False

    await buses.until(gone)
    await bus.publish("order.placed", 10, key="key-0")
    await bus.subscriptions.create(name, "order.*", handler=name, start="latest")
    await bus.publish("order.placed", 11, key="key-0")
    await recorder.until_done(12)
    assert sorted(recorder.numbers) == list(range(12)), "none twice, and none left out"
