"""Publishing (G1): receipts mean what they say, and what cannot be stored is refused, not lost."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest

from nexus.errors import (
    Closed,
    DurabilityUnavailable,
    HandlerError,
    IdConflict,
    InvalidEvent,
    Overloaded,
    PayloadTooLarge,
    StoreFull,
    Unavailable,
    UnknownOutcome,
)
from nexus.runtime.publisher import Receipt
from nexus.spi.backend import Durability
from nexus.testing.conformance._bus import Buses, Recorder, bus_case
from nexus.testing.conformance._world import ids, read_all


@bus_case
async def test_a_receipt_says_where_the_event_is_and_how_durable(buses: Buses) -> None:
    async with buses.make() as bus:
        receipt = await bus.publish("order.placed", {"total": 3}, key="k")
        info = await buses.world.backend.describe(buses.topic)
        assert (receipt.topic, receipt.durability, receipt.duplicate) == (buses.topic, info.durability, False)
        (stored,) = await read_all(buses.world.backend, buses.topic, receipt.partition)
        assert (stored.event.id, stored.event.data) == (receipt.id, {"total": 3})
        if buses.world.backend.capabilities.positions_on_append:
            assert receipt.position == stored.position


@bus_case
async def test_what_has_a_receipt_survives_a_crash_of_the_publisher(buses: Buses) -> None:
    bus = buses.make()
    await bus.start()
    events = await buses.publish(bus, 100, keys=7)
    await bus.kill()
    found = {id for partition in range(4) for id in await ids(buses.world.backend, buses.topic, partition)}
    assert found == {event.id for event in events}


@bus_case
async def test_publishing_again_gives_the_first_receipt(buses: Buses) -> None:
    async with buses.make() as bus:
        first = await bus.publish("order.placed", 1, key="k", id="one")
        again = await bus.publish("order.placed", 1, key="k", id="one")
        assert (again.partition, again.position, again.duplicate) == (first.partition, first.position, True)


@bus_case
async def test_another_content_under_the_same_id_is_refused(buses: Buses) -> None:
    async with buses.make() as bus:
        await bus.publish("order.placed", 1, key="k", id="one")
        with pytest.raises(IdConflict):
            await bus.publish("order.placed", 2, key="k", id="one")


@bus_case
async def test_many_events_are_answered_one_by_one(buses: Buses) -> None:
    async with buses.make() as bus:
        await bus.publish("order.placed", 0, id="2", key="k")
        events = [bus.event("order.placed", number, id=str(number), key="k") for number in range(5)]
        answers = await bus.publish_many(events)
        assert [type(answer) for answer in answers] == [Receipt, Receipt, IdConflict, Receipt, Receipt]
        assert [answer.id for answer in answers if isinstance(answer, Receipt)] == ["0", "1", "3", "4"]


@bus_case
async def test_one_invalid_event_refuses_the_whole_batch_and_is_named(buses: Buses) -> None:
    async with buses.make() as bus:
        events = [bus.event("order.placed", number) for number in range(5)]
        events[3] = bus.event("not a type", 3)
        with pytest.raises(InvalidEvent) as error:
            await bus.publish_many(events)
        assert error.value.index == 3
        assert [await ids(buses.world.backend, buses.topic, partition) for partition in range(4)] == [[]] * 4


@bus_case
async def test_a_payload_too_large_is_refused(buses: Buses) -> None:
    async with buses.make(publish={"max_body_bytes": 1_000}) as bus:
        await bus.publish("order.placed", b"x" * 1_000)
        with pytest.raises(PayloadTooLarge):
            await bus.publish("order.placed", b"x" * 1_001)


@bus_case
async def test_events_of_one_key_are_in_one_partition_in_order(buses: Buses) -> None:
    async with buses.make() as bus:
        receipts = [await bus.publish("order.placed", number, key="k") for number in range(30)]
        (partition,) = {receipt.partition for receipt in receipts}
        assert await ids(buses.world.backend, buses.topic, partition) == [receipt.id for receipt in receipts]


@bus_case
async def test_events_without_a_key_are_spread(buses: Buses) -> None:
    async with buses.make() as bus:
        receipts = [await bus.publish("order.placed", number) for number in range(100)]
        assert len({receipt.partition for receipt in receipts}) == 4


@bus_case
async def test_too_much_under_way_waits_and_is_then_refused(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend, publish={"queue_events": 10, "timeout": "200ms"}) as bus:
        backend.hold("append")
        calls = [asyncio.create_task(bus.publish("order.placed", number, id=f"id-{number}")) for number in range(40)]
        refused = await asyncio.gather(*calls[10:], return_exceptions=True)
        assert all(isinstance(answer, Overloaded) and answer.retry_after_s > 0 for answer in refused)
        backend.let_go()
        await asyncio.gather(*calls[:10])
        found = [id for partition in range(4) for id in await ids(buses.world.backend, buses.topic, partition)]
        assert sorted(found) == sorted(f"id-{number}" for number in range(10))


@bus_case
async def test_who_waits_for_room_gets_it_in_turn(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend, publish={"queue_events": 5}) as bus:
        backend.hold("append")
        calls = [asyncio.create_task(bus.publish("order.placed", number, key="k")) for number in range(50)]
        await asyncio.sleep(0.01)
        backend.let_go()
        receipts = await asyncio.gather(*calls)
        found = await ids(buses.world.backend, buses.topic, receipts[0].partition)
        assert found == [receipt.id for receipt in receipts]


@bus_case
async def test_a_full_store_is_waited_for(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend) as bus:
        backend.fail("append", StoreFull("full"), times=5)
        assert not (await bus.publish("order.placed", 1)).duplicate


@bus_case
async def test_a_store_that_stays_full_refuses_and_stores_nothing(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend, publish={"timeout": "300ms"}) as bus:
        backend.fail("append", StoreFull("full"), times=1_000)
        with pytest.raises(Overloaded):
            await bus.publish("order.placed", 1)
        backend.heal()
        assert [await ids(buses.world.backend, buses.topic, partition) for partition in range(4)] == [[]] * 4
        await bus.publish("order.placed", 1)


@bus_case
async def test_an_unknown_outcome_is_cleared_up_by_publishing_again(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend) as bus:
        backend.lose_answers()
        event = bus.event("order.placed", 1, key="k")
        with pytest.raises(UnknownOutcome):
            await bus.publish(event)
        assert (await bus.publish(event)).duplicate
        receipt = await bus.publish(bus.event("order.placed", 2, key="k"))
        assert len(await ids(buses.world.backend, buses.topic, receipt.partition)) == 2


@bus_case
async def test_a_store_that_cannot_be_reached_is_an_error_of_this_call_only(buses: Buses) -> None:
    backend = buses.faulty()
    async with buses.make(backend=backend) as bus:
        backend.fail("append", Unavailable("gone"))
        with pytest.raises(Unavailable):
            await bus.publish("order.placed", 1)
        await bus.publish("order.placed", 2)


@bus_case
async def test_a_closed_bus_takes_nothing(buses: Buses) -> None:
    bus = buses.make()
    with pytest.raises(Closed):
        await bus.publish("order.placed", 1)
    await bus.start()
    await bus.close()
    await bus.close()
    with pytest.raises(Closed):
        await bus.publish("order.placed", 1)
    with pytest.raises(Closed):
        await bus.start()


@bus_case
async def test_closing_waits_for_what_is_being_published(buses: Buses) -> None:
    backend = buses.faulty()
    bus = buses.make(backend=backend)
    await bus.start()
    backend.hold("append")
    publishing = asyncio.create_task(bus.publish("order.placed", 1))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(bus.close())
    await asyncio.sleep(0.01)
    backend.let_go()
    receipt = await publishing
    await closing
    assert await ids(buses.world.backend, buses.topic, receipt.partition) == [receipt.id]


@bus_case
async def test_no_bus_starts_on_less_durability_than_asked_for(buses: Buses) -> None:
    observed = (await buses.world.backend.describe(await buses.world.topic("any"))).durability
    async with buses.make(durability=observed) as bus:
        assert (await bus.publish("order.placed", 1)).durability == observed
    if observed != "replicated+disk":
        with pytest.raises(DurabilityUnavailable):
            await buses.make(durability="replicated+disk").start()
    assert observed in get_args(Durability)


@bus_case
async def test_handlers_are_registered_before_the_start(buses: Buses) -> None:
    async with buses.make() as bus:
        with pytest.raises(HandlerError):
            bus.on("order.placed", group=buses.group)(Recorder().handle)
