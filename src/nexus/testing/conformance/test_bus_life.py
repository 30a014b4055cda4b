"""Life and death (G4, G6, G7, G10): an end is no failure, a crash loses nothing, a former owner changes nothing."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from nexus.core.outcome import RetryIn
from nexus.core.retry import Retry
from nexus.errors import StoreFull, Unavailable
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.testing.conformance._bus import Buses, Recorder, bus_case
from nexus.testing.conformance._world import FROZEN_S, read_all
from nexus.testing.stranger_bus import StrangerBus

ONCE = Retry(max_attempts=1)


class Gate:
    """A handler that waits at a gate."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, event: Event[Any], context: Context) -> None:
        await self.open.wait()


@bus_case
async def test_closing_waits_for_running_handlers_and_stores_what_they_did(buses: Buses) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    bus = await buses.run(recorder, workers=8)
    await buses.publish(bus, 8, keys=8)
    await recorder.until(lambda recorder: len(recorder.started) == 8)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    gate.open.set()
    await closing
    assert len(recorder.done) == 8
    assert all(lag.low >= lag.end for lag in await buses.lags())


@bus_case
async def test_after_a_clean_end_nothing_is_handled_again(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 200, keys=11)
    await recorder.until(lambda recorder: len(recorder.done) >= 50)
    await bus.close()
    again = await buses.run(recorder)
    await again.publish("order.placed", "last", key="key-0")
    await recorder.until_done(201)
    assert len(recorder.started) == 201
    recorder.done = [event for event in recorder.done if event.data != "last"]
    recorder.check_order(events)


@bus_case
async def test_a_handler_that_outlasts_the_drain_is_no_failure(buses: Buses) -> None:
    gate = Gate()
    recorder = Recorder(gate)
    bus = await buses.run(recorder, retry=ONCE, settings={"drain": "100ms"})
    await buses.publish(bus, 5, keys=5)
    await recorder.until(lambda recorder: len(recorder.started) == 5)
    await bus.close()
    assert recorder.done == []
    gate.open.set()
    again = await buses.run(recorder, retry=ONCE)
    await recorder.until_done(5)
    assert [context.attempt for _, context in recorder.started] == [1] * 10
    assert await again.dead_letters.all(buses.group) == []


@bus_case
async def test_release_under_load_fails_nothing_and_loses_nothing(buses: Buses) -> None:
    dice = Random(3)

    async def act(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(dice.random() / 200)

    recorder = Recorder(act)
    first = await buses.run(recorder, retry=ONCE)
    events = await buses.publish(first, 600, keys=60)
    for turn in range(3):
        await recorder.until_done(100 * (turn + 1))
        joined = await buses.run(recorder, retry=ONCE)
        await recorder.until_done(100 * (turn + 1) + 50)
        await joined.close()
    await recorder.until_done(600)
    await buses.until_settled()
    assert {context.attempt for _, context in recorder.started} == {1}
    assert await first.dead_letters.all(buses.group) == []
    recorder.check_order(events)


@bus_case
async def test_an_end_hands_over_to_a_bus_that_is_there_already(buses: Buses) -> None:
    recorder = Recorder()
    old = await buses.run(recorder)
    events = await buses.publish(old, 300, keys=20)
    await recorder.until_done(100)
    new = await buses.run(recorder)
    await old.close()
    await recorder.until_done(300)
    recorder.check_order(events)
    await buses.until_owned(new, count=4)


@bus_case
async def test_buses_that_start_together_share_at_once(buses: Buses) -> None:
    recorder = Recorder()
    together = [buses.make(partitions=12) for _ in range(3)]
    for bus in together:
        bus.on("**", group=buses.group, start="earliest")(recorder.handle)
    await asyncio.gather(*(bus.start() for bus in together))
    await buses.until_owned(*together, count=12, within_s=2.0)
    events = await buses.publish(together[0], 240, keys=60)
    await recorder.until_done(240)
    recorder.check_order(events)


@bus_case
async def test_a_crash_loses_nothing_and_repeats_only_what_was_not_settled(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0.001)

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 400, keys=30)
    await recorder.until_done(150)
    await bus.kill()
    settled = 0
    for lag in await buses.lags():  # positions may have gaps, so the events are counted
        stored = await read_all(buses.world.backend, lag.topic, lag.partition)
        settled += sum(each.position < lag.low for each in stored)
    done = len(recorder.done)
    await buses.run(recorder)
    await recorder.until(lambda recorder: {event.id for event in recorder.done} == {event.id for event in events})
    await buses.until_settled()
    assert len(recorder.done) - 400 <= done - settled
    recorder.check_order(events, once=False)


@bus_case
async def test_crash_after_crash_every_event_is_handled_in_order(buses: Buses) -> None:
    dice = Random(4)

    async def act(event: Event[Any], context: Context) -> Any:
        await asyncio.sleep(dice.random() / 500)
        return RetryIn(dice.choice([0.005, 0.2])) if dice.random() < 0.1 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder, hold_s=0.05, retry=Retry(max_attempts=50))
    events = await buses.publish(bus, 300, keys=15)
    for turn in range(5):
        await recorder.until_done(40 * (turn + 1))
        await bus.kill()
        bus = await buses.run(recorder, hold_s=0.05, retry=Retry(max_attempts=50))
    await recorder.until(lambda recorder: {event.id for event in recorder.done} == {event.id for event in events})
    await buses.until_settled()
    recorder.check_order(events, once=False)


@bus_case
async def test_attempts_are_remembered_across_a_crash(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        return RetryIn(3_600.0)

    recorder = Recorder(act)
    bus = await buses.run(recorder, hold_s=10_000.0)
    await bus.publish("order.placed", 0, key="k")
    await recorder.until(lambda recorder: len(recorder.started) == 1)

    async def settled() -> bool:
        return any(lag.low < lag.end and lag.epoch > 0 for lag in await buses.lags())

    await buses.until(settled)
    await bus.close()
    await buses.run(recorder, hold_s=10_000.0)
    await recorder.until(lambda recorder: len(recorder.started) == 2)
    assert recorder.attempts(0) == [1, 2]


@bus_case
async def test_attempts_of_a_parked_event_are_counted_before_its_handler_starts(buses: Buses) -> None:
    bus: Any = None

    async def act(event: Event[Any], context: Context) -> Any:
        if context.attempt > 1:
            await asyncio.Event().wait()  # the process ends here
        return RetryIn(0.2)

    recorder = Recorder(act)
    for crash in range(3):
        bus = await buses.run(recorder, hold_s=0.01, retry=Retry(max_attempts=3))
        if not crash:
            await bus.publish("order.placed", 0, key="k")
        await recorder.until(lambda recorder, crash=crash: len(recorder.started) == 2 + crash)  # type: ignore[misc]
        await bus.kill()
    assert recorder.attempts(0) == [1, 2, 3, 4]


@bus_case
async def test_a_dead_letter_outlives_a_crash_and_its_key_keeps_waiting(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> None:
        if event.data == 0:
            raise ValueError("no")

    recorder = Recorder(act)
    bus = await buses.run(recorder, retry=ONCE)
    events = await buses.publish(bus, 10, keys=2)
    await buses.until_dead(bus)
    await recorder.until_done(5)
    await bus.kill()
    bus = await buses.run(recorder, retry=ONCE)
    await bus.publish("order.placed", "after", key="key-1")
    await recorder.until(lambda recorder: recorder.done[-1].data == "after")
    assert {event.key for event in recorder.done} == {"key-1"}
    (letter,) = await bus.dead_letters.all(buses.group)
    recorder.act = None
    assert await bus.dead_letters.requeue(letter)
    await recorder.until(lambda recorder: {event.id for event in events} <= {event.id for event in recorder.done})
    recorder.done = [event for event in recorder.done if event.data != "after"]
    recorder.check_order(events, once=False)


@bus_case
async def test_an_event_that_takes_its_process_down_is_given_up_and_no_neighbour_with_it(buses: Buses) -> None:
    crashed = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        if event.data == 7:
            crashed.set()
            await asyncio.Event().wait()  # the process ends here
        await asyncio.sleep(0.001)

    recorder = Recorder(act)
    bus = await buses.run(recorder, retry=Retry(max_attempts=2))
    events = await buses.publish(bus, 40, keys=8)
    others = {event.id for event in events if event.key != events[7].key}
    for _ in range(30):
        waiting = [asyncio.create_task(crashed.wait()), asyncio.create_task(_dead(buses, bus))]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        found = waiting[1].done()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if found:
            break
        crashed.clear()
        await bus.kill()
        bus = await buses.run(recorder, retry=Retry(max_attempts=2))
    letters = await bus.dead_letters.all(buses.group)
    assert [(letter.event.data, letter.reason) for letter in letters] == [(7, "interrupted")]
    await recorder.until(lambda recorder: others <= {event.id for event in recorder.done})


async def _dead(buses: Buses, bus: Any) -> None:
    await buses.until_dead(bus)


@bus_case
async def test_a_dead_process_is_replaced_within_seconds(buses: Buses) -> None:
    stranger, events, recorder = await _stranger_at_work(buses)
    await stranger.kill()
    await _heir_finishes(buses, stranger, events, recorder)


@pytest.mark.slow
@bus_case
async def test_a_frozen_process_is_replaced_and_changes_nothing_when_it_wakes_up(buses: Buses) -> None:
    stranger, events, recorder = await _stranger_at_work(buses)
    await buses.world.freeze(stranger)
    await _heir_finishes(buses, stranger, events, recorder)
    epochs = [lag.epoch for lag in await buses.lags()]
    handled = len(recorder.done)
    stranger.thaw()
    bus = await buses.run(recorder)
    last = await bus.publish("order.placed", 1_000, key="key-0")
    await buses.until_settled()
    assert all(after >= before for before, after in zip(epochs, [lag.epoch for lag in await buses.lags()], strict=True))
    assert len(recorder.done) - handled <= 1  # the last one, unless the other bus got it
    assert {event.id for event in recorder.done[handled:]} <= {last.id}


async def _stranger_at_work(buses: Buses) -> tuple[StrangerBus, list[Event[Any]], Recorder]:
    world = buses.world
    publisher = buses.make()
    await publisher.start()
    events = await buses.publish(publisher, 60, keys=6)
    stranger = await StrangerBus.start(world.url, buses.topic, 4, buses.group, 0.1, world.clock)
    world.at_end(stranger.kill)
    async with asyncio.timeout(20):
        while len(stranger.handled) < 20:
            stranger.news.clear()
            await stranger.news.wait()
    return stranger, events, Recorder()


async def _heir_finishes(buses: Buses, stranger: StrangerBus, events: list[Event[Any]], recorder: Recorder) -> None:
    bus = await buses.run(recorder)
    async with asyncio.timeout(FROZEN_S + 10):
        await buses.until_settled()
    by_stranger = {handled.number for handled in stranger.handled}
    assert by_stranger | set(recorder.numbers) == {event.data for event in events}
    assert not recorder.overlaps
    for key in range(6):
        mine = [number for number in recorder.numbers if number % 6 == key]
        assert mine == list(range(key, 60, 6))[10 - len(mine) :], "what the heir did is no rest of the key"
    fences = {handled.number: handled.fence for handled in stranger.handled}
    again = [(event, context) for event, context in recorder.started if event.data in fences]
    assert all(context.fence > fences[event.data] for event, context in again)
    await bus.close()


@bus_case
async def test_a_settle_that_must_wait_is_done_later(buses: Buses) -> None:
    backend = buses.faulty()
    recorder = Recorder()
    bus = await buses.run(recorder, backend=backend)
    await buses.publish(bus, 20, keys=4)
    await recorder.until_done(20)
    backend.answer_settles("retry", times=5)
    await buses.publish(bus, 20, keys=4)
    await recorder.until_done(40)
    await buses.until_settled()
    assert len(recorder.started) == 40


@bus_case
async def test_a_store_that_is_away_for_a_while_stops_nothing_for_good(buses: Buses) -> None:
    backend = buses.faulty()
    recorder = Recorder()
    await buses.run(recorder, backend=backend)
    other = buses.make()
    await other.start()
    events = []
    for _ in range(3):
        backend.fail("fetch", Unavailable("away"), times=2)
        events += await buses.publish(other, 30, keys=3)
    await recorder.until_done(90)
    await buses.until_settled()
    recorder.check_order(events)


@bus_case
async def test_a_lost_answer_to_a_parking_append_breaks_no_order(buses: Buses) -> None:
    backend = buses.faulty()
    backend.only = lambda topic: topic.endswith(".park")
    failed: set[Any] = set()

    async def act(event: Event[Any], context: Context) -> Any:
        if event.data % 7 == 0 and event.data not in failed:
            failed.add(event.data)
            backend.lose_answers()
            return RetryIn(0.3)
        return None

    recorder = Recorder(act)
    bus = await buses.run(recorder, backend=backend, hold_s=0.05)
    events = await buses.publish(bus, 60, keys=6)
    await recorder.until(lambda recorder: {event.id for event in recorder.done} == {event.id for event in events})
    await buses.until_settled()
    recorder.check_order(events, once=False)


@bus_case
async def test_a_full_store_stops_no_consumer(buses: Buses) -> None:
    backend = buses.faulty()
    recorder = Recorder()
    bus = await buses.run(recorder, backend=backend)
    events = await buses.publish(bus, 40, keys=4)
    await recorder.until_done(40)
    backend.fail("append", StoreFull("full"), times=10)
    publishing = asyncio.create_task(buses.publish(bus, 40, keys=4))
    events += await publishing
    await recorder.until_done(80)
    recorder.check_order(events)
