"""Retry and repair (G3, G6): attempts are counted and bounded, and what fails for good waits for somebody, in order."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from nexus.core.outcome import Ack, DeadLetter, Park, RetryIn
from nexus.core.retry import Retry
from nexus.errors import StoreFull
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.testing.conformance._bus import Act, Buses, Recorder, bus_case

AT_ONCE = Retry(max_attempts=3, base_s=0.0, cap_s=0.0)


def failing(*numbers: Any, times: int = 1_000_000) -> Act:
    """Fail for these payloads, so many times each."""
    left = dict.fromkeys(numbers, times)

    async def act(event: Event[Any], context: Context) -> None:
        if left.get(event.data, 0) > 0:
            left[event.data] -= 1
            raise ValueError(f"no {event.data}")

    return act


async def publish_key(buses: Buses, bus: Any, count: int = 5) -> list[Event[Any]]:
    return await buses.publish(bus, count, keys=1)


@bus_case
async def test_a_failed_event_is_tried_again_with_the_next_attempt(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=2))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    await recorder.until_done(5)
    assert recorder.attempts(0) == [1, 2, 3]
    recorder.check_order(events)
    assert await bus.dead_letters.all(buses.group) == []


@bus_case
async def test_no_attempt_begins_before_its_delay(buses: Buses) -> None:
    times: list[float] = []

    async def act(event: Event[Any], context: Context) -> Any:
        times.append(buses.world.clock.monotonic())
        return RetryIn(0.2) if context.attempt < 3 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    await bus.publish("order.placed", 0, key="k")
    await recorder.until_done(1)
    gaps = [after - before for before, after in pairwise(times)]
    assert len(gaps) == 2
    assert all(gap >= 0.199 for gap in gaps)


@bus_case
async def test_while_a_key_waits_for_its_delay_the_others_go_on(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        return RetryIn(0.5) if event.data == 0 and context.attempt == 1 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder, workers=1, settings={"partitions": 1})
    events = await buses.publish(bus, 50, keys=5)
    await recorder.until_done(50)
    recorder.check_order(events)
    assert [event.key for event in recorder.done[-10:]] == ["key-0"] * 10


@bus_case
async def test_a_long_delay_parks_the_key_and_keeps_its_order(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        return RetryIn(0.4) if event.data == 0 and context.attempt == 1 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder, hold_s=0.1)
    events = await buses.publish(bus, 30, keys=3)
    await recorder.until_done(20)
    assert all(event.key != "key-0" for event in recorder.done)
    await buses.until_settled()  # what is parked holds no cursor up
    await recorder.until_done(30)
    recorder.check_order(events)
    assert recorder.attempts(0) == [1, 2]


@bus_case
async def test_a_handler_may_park_its_key(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        return Park(0.2) if event.data == 1 and context.attempt == 1 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    events = await publish_key(buses, bus)
    await recorder.until_done(5)
    recorder.check_order(events)


@bus_case
async def test_attempts_are_bounded_and_the_event_goes_to_the_dead_letters(buses: Buses) -> None:
    recorder = Recorder(failing(2))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    assert recorder.attempts(2) == [1, 2, 3]
    assert (letter.event, letter.attempts, letter.reason, letter.round) == (events[2], 3, "attempts_exhausted", 1)
    assert (letter.topic, letter.key, letter.group) == (buses.topic, "key-0", buses.group)
    assert "no 2" in letter.history[-1].error


@bus_case
async def test_behind_a_dead_letter_its_key_waits_and_no_other(buses: Buses) -> None:
    recorder = Recorder(failing(0))
    bus = await buses.run(recorder, retry=AT_ONCE, on_dead="block_key")
    await buses.publish(bus, 40, keys=4)
    await recorder.until_done(30)
    await buses.until_settled()
    assert all(event.key != "key-0" for event in recorder.done)
    (letter,) = await buses.until_dead(bus)
    assert letter.followers == 9


@bus_case
async def test_a_requeued_event_runs_before_those_that_waited_behind_it(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=3))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    assert recorder.done == []
    assert await bus.dead_letters.requeue(letter)
    await recorder.until_done(5)
    recorder.check_order(events)
    assert recorder.attempts(0) == [1, 2, 3, 1]
    assert await bus.dead_letters.all(buses.group) == []


@bus_case
async def test_a_discarded_event_is_not_handled_and_its_key_goes_on(buses: Buses) -> None:
    recorder = Recorder(failing(0))
    bus = await buses.run(recorder, retry=AT_ONCE)
    await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    assert await bus.dead_letters.discard(letter, why="a test")
    await recorder.until_done(4)
    assert recorder.numbers == [1, 2, 3, 4]
    assert recorder.attempts(0) == [1, 2, 3]
    assert await bus.dead_letters.all(buses.group) == []


@bus_case
async def test_a_requeued_event_may_be_edited(buses: Buses) -> None:
    recorder = Recorder(failing(0))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    assert await bus.dead_letters.requeue(letter, data=b'"repaired"', who="me")
    await recorder.until_done(5)
    assert recorder.numbers == ["repaired", 1, 2, 3, 4]
    assert recorder.done[0].id == events[0].id


@bus_case
async def test_an_event_may_die_again_in_another_round(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=6))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    (first,) = await buses.until_dead(bus)
    assert await bus.dead_letters.requeue(first)

    async def again() -> Any:
        return [letter for letter in await bus.dead_letters.all(buses.group) if letter.round == 2]

    (second,) = await buses.until(again)
    assert not await bus.dead_letters.requeue(first), "a command of an earlier round came too late"
    assert await bus.dead_letters.requeue(second)
    await recorder.until_done(5)
    recorder.check_order(events)
    assert recorder.attempts(0) == [1, 2, 3, 1, 2, 3, 1]


@bus_case
async def test_of_two_commands_for_one_dead_letter_one_counts(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=3))
    bus = await buses.run(recorder, retry=AT_ONCE)
    await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    other = buses.make()
    await other.start(consume=False)
    answers = await asyncio.gather(
        bus.dead_letters.requeue(letter), other.dead_letters.requeue(letter), other.dead_letters.discard(letter)
    )
    assert sorted(answers) == [False, False, True]


@bus_case
async def test_an_operator_may_requeue_while_nobody_consumes(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=3))
    bus = await buses.run(recorder, retry=AT_ONCE)
    events = await publish_key(buses, bus)
    await buses.until_dead(bus)
    await bus.close()
    operator = buses.make()
    await operator.start(consume=False)
    (letter,) = await operator.dead_letters.all(buses.group)
    assert await operator.dead_letters.requeue(letter)
    await buses.run(recorder, retry=AT_ONCE)
    await recorder.until_done(5)
    recorder.check_order(events)


@bus_case
async def test_with_skip_the_key_goes_on_without_the_dead_letter(buses: Buses) -> None:
    recorder = Recorder(failing(1, times=3))
    bus = await buses.run(recorder, retry=AT_ONCE, on_dead="skip")
    await publish_key(buses, bus)
    await recorder.until_done(4)
    assert recorder.numbers == [0, 2, 3, 4]
    (letter,) = await buses.until_dead(bus)
    await buses.until_settled()
    assert await bus.dead_letters.requeue(letter)
    await recorder.until_done(5)
    assert recorder.numbers == [0, 2, 3, 4, 1]


@bus_case
async def test_with_stop_the_partition_stands_still_and_no_other(buses: Buses) -> None:
    recorder = Recorder(failing(0))
    bus = await buses.run(recorder, retry=AT_ONCE, on_dead="stop")
    events = await buses.publish(bus, 80, keys=16)

    async def stopped() -> Any:
        return bus.consumer(buses.group).stopped

    (((_, partition), why),) = (await buses.until(stopped)).items()
    assert why
    others = {event.id for event in events if bus.publisher.partition(event, 4) != partition}
    await recorder.until(lambda recorder: others <= {event.id for event in recorder.done})
    assert await bus.dead_letters.all(buses.group) == []
    await bus.close()
    recorder.act = None
    await buses.run(recorder, retry=AT_ONCE, on_dead="stop")
    await recorder.until_done(80)
    recorder.check_order(events)


@bus_case
async def test_an_event_without_a_key_blocks_nothing_when_it_is_dead(buses: Buses) -> None:
    recorder = Recorder(failing(3))
    bus = await buses.run(recorder, retry=AT_ONCE)
    await buses.publish(bus, 20)
    await recorder.until_done(19)
    await buses.until_settled()
    (letter,) = await buses.until_dead(bus)
    assert letter.key is None
    assert letter.followers == 0


@bus_case
async def test_what_cannot_be_decoded_is_dead_at_once_with_its_bytes(buses: Buses) -> None:
    got: list[int] = []
    news = asyncio.Event()

    async def handle(number: int) -> None:
        got.append(number)
        news.set()

    bus = buses.make()
    bus.on("order.placed", group=buses.group, on_dead="skip")(handle)
    await bus.start()
    for data in (1, "not a number", 2):
        await bus.publish("order.placed", data, key="k")
    (letter,) = await buses.until_dead(bus)
    assert (letter.reason, letter.attempts, letter.event.body) == ("undecodable", 1, b'"not a number"')
    await buses.until_settled()
    assert got == [1, 2]


@bus_case
async def test_an_outcome_that_a_handler_returns_is_what_happens(buses: Buses) -> None:
    outcomes = {0: Ack(), 1: DeadLetter("unwanted", "because"), 2: None, 3: RetryIn(0.01)}

    async def act(event: Event[Any], context: Context) -> Any:
        return outcomes[event.data] if context.attempt == 1 else None

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    for number in range(4):
        await bus.publish("order.placed", number, key=f"k{number}")
    await recorder.until_done(3)
    assert sorted(recorder.numbers) == [0, 2, 3]
    (letter,) = await buses.until_dead(bus)
    assert (letter.reason, letter.event.data, letter.history[-1].error) == ("unwanted", 1, "because")


@bus_case
async def test_an_exception_may_have_a_policy_of_its_own(buses: Buses) -> None:
    failures: dict[Any, Exception] = {0: KeyError("never"), 1: LookupError("ack"), 2: ValueError("often")}

    async def act(event: Event[Any], context: Context) -> None:
        raise failures[event.data]

    recorder = Recorder(act)
    retry = Retry(max_attempts=2, base_s=0, cap_s=0, never=(KeyError,), on={LookupError: Ack(), KeyError: AT_ONCE})
    bus = await buses.run(recorder, retry=retry)
    for number in failures:
        await bus.publish("order.placed", number, key=f"k{number}")
    letters = await buses.until_dead(bus, 2)
    assert {letter.event.data: letter.attempts for letter in letters} == {0: 3, 2: 2}
    assert recorder.attempts(1) == [1]


@bus_case
async def test_a_handler_past_its_time_limit_has_failed(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> None:
        if event.data == 0 and context.attempt == 1:
            await asyncio.Event().wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, retry=AT_ONCE, timeout_s=0.1)
    events = await publish_key(buses, bus, 3)
    await recorder.until_done(3)
    assert recorder.attempts(0) == [1, 2]
    recorder.check_order(events)


@bus_case
async def test_a_dead_letter_of_one_group_is_none_of_another(buses: Buses) -> None:
    bad, good = Recorder(failing(0)), Recorder()
    other = buses.world.name("audit")
    bus = buses.make()
    bus.on("**", group=buses.group, retry=AT_ONCE)(bad.handle)
    bus.on("**", group=other, retry=AT_ONCE)(good.handle)
    await bus.start()
    await publish_key(buses, bus)
    await good.until_done(5)
    (letter,) = await buses.until_dead(bus)
    assert await bus.dead_letters.all(other) == []
    bad.act = None
    assert await bus.dead_letters.requeue(letter)
    await bad.until_done(5)
    assert good.attempts(0) == [1]


@bus_case
async def test_a_dead_letter_is_found_by_its_id_until_it_is_repaired(buses: Buses) -> None:
    recorder = Recorder(failing(0, times=3))
    bus = await buses.run(recorder, retry=AT_ONCE)
    await publish_key(buses, bus, 1)
    (letter,) = await buses.until_dead(bus)
    assert await bus.dead_letters.get(letter.id) == letter
    assert await bus.dead_letters.requeue(letter)
    await recorder.until_done(1)
    assert not await bus.dead_letters.requeue(letter)
    assert not await bus.dead_letters.discard(letter)


@bus_case
async def test_nothing_is_dropped_acked_dead_and_waiting_are_all(buses: Buses) -> None:
    recorder = Recorder(failing(*range(0, 200, 17)))
    bus = await buses.run(recorder, retry=AT_ONCE, on_dead="block_key")
    events = await buses.publish(bus, 200, keys=40)
    await buses.until_settled()

    async def accounted() -> Any:
        letters = await bus.dead_letters.all(buses.group)
        return len(recorder.done) + sum(1 + letter.followers for letter in letters) == 200 and letters

    for letter in await buses.until(accounted):
        assert letter.event.data % 17 == 0
    recorder.act = None
    while letters := await bus.dead_letters.all(buses.group):
        for letter in letters:
            await bus.dead_letters.requeue(letter)
        await asyncio.sleep(0.02)
    await recorder.until_done(200)
    recorder.check_order(events)


@bus_case
async def test_parking_waits_while_the_store_is_full(buses: Buses) -> None:
    backend = buses.faulty()
    backend.only = lambda topic: topic.endswith(".park")
    recorder = Recorder(failing(0, times=3))
    bus = await buses.run(recorder, backend=backend, retry=AT_ONCE, on_dead="block_key")

    async def owned() -> bool:
        return bool(bus.consumer(buses.group).owned)

    await buses.until(owned)
    backend.fail("append", StoreFull("full"), times=3)
    events = await publish_key(buses, bus)
    (letter,) = await buses.until_dead(bus)
    assert await bus.dead_letters.requeue(letter)
    await recorder.until_done(5)
    recorder.check_order(events)
