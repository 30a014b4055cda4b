"""Delivery (G2, G3, G5, G8, G9): all of it, in order, to the right handler, within the bounds."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec

from nexus.core.outcome import Park, RetryIn
from nexus.core.retry import Retry
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.subscription import Publish
from nexus.testing.conformance._bus import Buses, Recorder, bus_case
from nexus.testing.conformance._world import ids


class Order(msgspec.Struct):
    total: int


@bus_case
async def test_every_event_is_handled_once_and_settled(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    events = await buses.publish(bus, 1_000, keys=37)
    await recorder.until_done(1_000)
    await buses.until_settled()
    recorder.check_order(events)
    assert {context.attempt for _, context in recorder.started} == {1}


@bus_case
async def test_each_key_stays_in_order_under_64_workers(buses: Buses) -> None:
    dice = Random(1)

    async def act(event: Event[Any], context: Context) -> None:
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(dice.random() / 500)

    recorder = Recorder(act)
    bus = await buses.run(recorder, workers=64)
    events = await buses.publish(bus, 800, keys=25)
    await recorder.until_done(800)
    recorder.check_order(events)


@bus_case
async def test_each_key_stays_in_order_through_failures_and_parking(buses: Buses) -> None:
    dice = Random(2)

    async def act(event: Event[Any], context: Context) -> Any:
        await asyncio.sleep(dice.random() / 1_000)
        if context.attempt < 4 and dice.random() < 0.15:
            return dice.choice([RetryIn(0.001), RetryIn(0.2), Park(0.05)])
        if context.attempt < 4 and dice.random() < 0.1:
            raise ValueError("unlucky")
        return None

    recorder = Recorder(act)
    bus = await buses.run(
        recorder, workers=64, hold_s=0.1, retry=Retry(max_attempts=10, base_s=0.01, cap_s=0.3), on_dead="block_key"
    )
    events = await buses.publish(bus, 400, keys=20)
    await recorder.until_done(400)
    recorder.check_order(events)
    assert bus.consumer(buses.group).stats.parked > 0


@bus_case
async def test_handlers_run_side_by_side_across_keys(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, workers=64)
    await buses.publish(bus, 40, keys=40)
    await recorder.until(lambda recorder: len(recorder.started) == 40)
    gate.set()
    await recorder.until_done(40)


@bus_case
async def test_a_key_that_waits_holds_no_other_up(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        if event.key == "key-0":
            await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, workers=4)
    events = await buses.publish(bus, 200, keys=10)
    await recorder.until_done(180)
    assert all(event.key != "key-0" for event in recorder.done)
    assert any(lag.low < lag.end for lag in await buses.lags())
    gate.set()
    await recorder.until_done(200)
    await buses.until_settled()
    recorder.check_order(events)


@bus_case
async def test_events_without_a_key_wait_for_nothing(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        if event.data == 0:
            await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, workers=4, settings={"partitions": 1})
    await buses.publish(bus, 50)
    await recorder.until_done(49)
    gate.set()
    await recorder.until_done(50)


@bus_case
async def test_one_key_of_two_tenants_is_two_keys(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        if event.tenant == "a":
            await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder)
    for number in range(10):
        for tenant in ("a", "b"):
            await bus.publish("order.placed", number, key="same", tenant=tenant)
    await recorder.until_done(10)
    assert {event.tenant for event in recorder.done} == {"b"}
    gate.set()
    await recorder.until_done(20)
    assert not recorder.overlaps


@bus_case
async def test_without_order_a_key_does_not_wait_for_itself(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        if event.data == 0:
            await gate.wait()

    recorder = Recorder(act)
    bus = await buses.run(recorder, ordered=False)
    for number in range(20):
        await bus.publish("order.placed", number, key="same")
    await recorder.until_done(19)
    gate.set()
    await recorder.until_done(20)


@bus_case
async def test_each_group_gets_every_event(buses: Buses) -> None:
    one, two = Recorder(), Recorder()
    bus = buses.make()
    bus.on("**", group=buses.group)(one.handle)
    bus.on("**", group=buses.world.name("audit"))(two.handle)
    await bus.start()
    events = await buses.publish(bus, 100, keys=5)
    for recorder in (one, two):
        await recorder.until_done(100)
        recorder.check_order(events)


@bus_case
async def test_a_new_group_starts_at_now_or_at_the_first_event(buses: Buses) -> None:
    first = buses.make()
    await first.start()
    await buses.publish(first, 10, keys=3)
    late, early = Recorder(), Recorder()
    bus = buses.make()
    bus.on("**", group=buses.world.name("late"))(late.handle)
    bus.on("**", group=buses.world.name("early"), start="earliest")(early.handle)
    await bus.start()
    await bus.publish("order.placed", "new", key="k")
    await early.until_done(11)
    await late.until_done(1)
    assert late.numbers == ["new"]


@bus_case
async def test_an_event_goes_to_the_handler_whose_pattern_and_filter_match(buses: Buses) -> None:
    large, small, other = Recorder(), Recorder(), Recorder()
    bus = buses.make()
    bus.on("order.*", group=buses.group, where="data.total >= 100")(large.handle)
    bus.on("order.*", group=buses.group)(small.handle)
    bus.on("payment.taken", group=buses.group)(other.handle)
    await bus.start()
    for total in (5, 500, 50):
        await bus.publish("order.placed", {"total": total}, key="k")
    await bus.publish("payment.taken", {}, key="k")
    await bus.publish("payment.refused", {}, key="k")
    await other.until_done(1)
    await buses.until_settled()
    assert [event.data["total"] for event in large.done] == [500]
    assert [event.data["total"] for event in small.done] == [5, 50]
    assert bus.consumer(buses.group).stats.skipped == 1


@bus_case
async def test_what_a_filter_turns_down_is_done(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder, where="data == 7")
    await buses.publish(bus, 100, keys=5)
    await recorder.until_done(1)
    await buses.until_settled()
    assert recorder.numbers == [7]


@bus_case
async def test_an_expired_event_is_not_handled(buses: Buses) -> None:
    bus = buses.make()
    await bus.start()
    await bus.publish("order.placed", "expired", key="k", expires_in_s=0.001)
    await bus.publish("order.placed", "lasting", key="k", expires_in_s=3_600)
    await buses.world.until_later()
    recorder = Recorder()
    consuming = await buses.run(recorder)
    await recorder.until_done(1)
    await buses.until_settled()
    assert recorder.numbers == ["lasting"]
    assert consuming.consumer(buses.group).stats.expired == 1


@bus_case
async def test_a_handler_knows_its_delivery(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    receipts = [await bus.publish("order.placed", number, key=f"k{number}") for number in range(5)]
    await recorder.until_done(5)
    for receipt in receipts:
        (context,) = [context for event, context in recorder.started if event.id == receipt.id]
        assert (context.group, context.topic, context.partition) == (buses.group, buses.topic, receipt.partition)
        assert context.attempt == 1
        assert context.fence > 0
        if receipt.position is not None:
            assert context.position == receipt.position


@bus_case
async def test_payloads_are_decoded_into_the_type_that_a_handler_asks_for(buses: Buses) -> None:
    got: asyncio.Queue[Order] = asyncio.Queue(10)

    async def handle(order: Order) -> None:
        await got.put(order)

    bus = buses.make()
    bus.on("order.placed", group=buses.group)(handle)
    await bus.start()
    await bus.publish("order.placed", Order(3), key="k")
    assert await asyncio.wait_for(got.get(), 10) == Order(3)


@bus_case
async def test_a_plain_function_runs_in_a_thread_and_keeps_order(buses: Buses) -> None:
    seen: dict[str | None, list[Any]] = {}
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()

    def handle(event: Event[Any]) -> None:
        seen.setdefault(event.key, []).append(event.data)
        if sum(map(len, seen.values())) == 60:
            loop.call_soon_threadsafe(finished.set)

    bus = buses.make()
    bus.on("**", group=buses.group)(handle)
    await bus.start()
    await buses.publish(bus, 60, keys=6)
    await asyncio.wait_for(finished.wait(), 20)
    await buses.until_settled()
    assert seen == {f"key-{key}": list(range(key, 60, 6)) for key in range(6)}


@bus_case
async def test_a_batch_has_at_most_one_event_of_a_key_and_keeps_order(buses: Buses) -> None:
    batches: list[list[Event[Any]]] = []
    news = asyncio.Event()

    async def handle(events: list[Event[Any]]) -> None:
        batches.append(events)
        news.set()

    bus = buses.make()
    await bus.start()
    await buses.publish(bus, 120, keys=12)
    consuming = buses.make(workers=2)
    consuming.on("**", group=buses.group, start="earliest", batch_size=10)(handle)
    await consuming.start()
    async with asyncio.timeout(20):
        while sum(map(len, batches)) < 120:
            news.clear()
            await news.wait()
    for batch in batches:
        assert len(batch) <= 10
        assert len({event.key for event in batch}) == len(batch)
    handled = [event for batch in batches for event in batch]
    for key in range(12):
        assert [event.data for event in handled if event.key == f"key-{key}"] == list(range(key, 120, 12))
    assert max(map(len, batches)) > 1


@bus_case
async def test_one_of_a_batch_may_fail_alone(buses: Buses) -> None:
    handled: list[Any] = []
    news = asyncio.Event()
    failed: set[Any] = set()

    async def handle(events: list[Event[Any]]) -> list[RetryIn | None]:
        outcomes: list[RetryIn | None] = []
        for event in events:
            if event.data % 5 == 0 and event.data not in failed:
                failed.add(event.data)
                outcomes.append(RetryIn(0.01))
            else:
                handled.append(event.data)
                outcomes.append(None)
        news.set()
        return outcomes

    bus = buses.make()
    bus.on("**", group=buses.group)(handle)
    await bus.start()
    await buses.publish(bus, 40, keys=40)
    async with asyncio.timeout(20):
        while len(handled) < 40:
            news.clear()
            await news.wait()
    await buses.until_settled()
    assert sorted(handled) == list(range(40))


@bus_case
async def test_what_a_handler_returns_is_published_with_its_cause(buses: Buses) -> None:
    recorder = Recorder()

    async def charge(event: Event[Any]) -> Publish:
        return Publish("payment.taken", {"of": event.data})

    bus = buses.make()
    bus.on("order.placed", group=buses.group)(charge)
    bus.on("payment.taken", group=buses.world.name("books"))(recorder.handle)
    await bus.start()
    receipt = await bus.publish("order.placed", 7, key="k", correlationid="trip")
    await recorder.until_done(1)
    (payment,) = recorder.done
    assert payment.data == {"of": 7}
    assert (payment.key, payment.causationid, payment.correlationid) == ("k", receipt.id, "trip")


@bus_case
async def test_returned_events_are_published_once_however_often_their_cause_is_handled(buses: Buses) -> None:
    attempts: list[int] = []
    backend = buses.faulty()

    async def charge(event: Event[Any], context: Context) -> list[Publish]:
        attempts.append(context.attempt)
        backend.hold("settle")  # handled and published, and never settled
        return [Publish("payment.taken", {"n": n}, key=f"k{n}") for n in range(3)]

    bus = buses.make(backend=backend)
    bus.on("order.placed", group=buses.group, start="earliest")(charge)
    await bus.start()
    await bus.publish("order.placed", 7, key="k")

    async def handled() -> bool:
        found = [id for partition in range(4) for id in await ids(buses.world.backend, buses.topic, partition)]
        return len(found) == 4

    await buses.until(handled)
    await bus.kill()
    again = buses.make()
    again.on("order.placed", group=buses.group, start="earliest")(charge)
    taken = Recorder()
    again.on("payment.taken", group=buses.world.name("books"), start="earliest")(taken.handle)
    await again.start()
    await buses.until_settled()
    await taken.until_done(3)
    found = [id for partition in range(4) for id in await ids(buses.world.backend, buses.topic, partition)]
    assert len(attempts) == 2
    assert len(set(found)) == 1 + 3
    await again.close()  # drained: whatever there was to handle is handled
    assert sorted(event.data["n"] for event in taken.done) == [0, 1, 2]


@bus_case
async def test_an_event_that_two_buses_publish_is_handled_once(buses: Buses) -> None:
    recorder = Recorder()
    await buses.run(recorder)
    publishers = [buses.make(), buses.make()]
    for publisher in publishers:
        await publisher.start(consume=False)
    for number in range(20):
        for publisher in publishers:
            await publisher.publish("order.placed", number, id=f"order-{number}", source="/shop", key=f"k{number % 3}")
    await buses.until_settled()
    assert sorted(event.data for event in recorder.done) == list(range(20))


@bus_case
async def test_a_second_copy_is_passed_over_by_the_next_owner_too(buses: Buses) -> None:
    first, second = Recorder(), Recorder()
    bus = await buses.run(first)
    await bus.publish("order.placed", 1, id="order-1", source="/shop", key="k")
    await first.until_done(1)
    await buses.until_settled()
    await bus.close()
    heir = await buses.run(second)
    await heir.publish("order.placed", 1, id="order-1", source="/shop", key="k")
    await heir.publish("order.placed", 2, id="order-2", source="/shop", key="k")
    await second.until_done(1)
    await buses.until_settled()
    assert [event.data for event in second.done] == [2]


@bus_case
async def test_members_share_the_events_and_keep_the_order(buses: Buses) -> None:
    recorder = Recorder()
    buses_running = [await buses.run(recorder) for _ in range(3)]
    events = await buses.publish(buses_running[0], 600, keys=60)
    await recorder.until_done(600)
    await buses.until_settled()
    assert not recorder.overlaps
    assert {event.id for event in recorder.done} == {event.id for event in events}


@bus_case
async def test_a_slow_handler_makes_the_bus_fetch_no_more_than_it_may_hold(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        await gate.wait()

    recorder = Recorder(act)
    backend = buses.faulty()
    first = buses.make()
    await first.start()
    await buses.publish(first, 2_000, keys=50)
    bus = await buses.run(recorder, backend=backend, settings={"prefetch_events": 100})
    await recorder.until(lambda recorder: len(recorder.started) >= 16)
    for _ in range(50):
        await bus.publish("order.placed", "more", key="key-0")
        await asyncio.sleep(0.001)
    assert backend.fetched <= 100 + 4
    gate.set()
    await recorder.until_done(2_050)


@bus_case
async def test_bytes_bound_what_the_bus_holds_too(buses: Buses) -> None:
    gate = asyncio.Event()

    async def act(event: Event[Any], context: Context) -> None:
        await gate.wait()

    recorder = Recorder(act)
    backend = buses.faulty()
    first = buses.make()
    await first.start()
    for number in range(60):
        await first.publish("order.placed", b"x" * 100_000, key=f"k{number}")
    await buses.run(recorder, backend=backend, settings={"prefetch_bytes": "1MiB"})
    await recorder.until(lambda recorder: len(recorder.started) >= 8)
    await asyncio.sleep(0.05)
    assert backend.fetched <= 22
    gate.set()
    await recorder.until_done(60)


@bus_case
async def test_a_noisy_tenant_does_not_hold_the_others_up(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0.001)

    recorder = Recorder(act)
    first = buses.make()
    await first.start()
    for number in range(400):
        await first.publish("order.placed", number, key=f"k{number}", tenant="noisy")
    for number in range(10):
        await first.publish("order.placed", number, key=f"k{number}", tenant="quiet")
    await buses.run(recorder, workers=2)
    await recorder.until_done(410)
    last_quiet = max(at for at, event in enumerate(recorder.done) if event.tenant == "quiet")
    assert last_quiet < 205


@bus_case
async def test_watching_does_not_move_a_group(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    await buses.publish(bus, 20, keys=3)
    await recorder.until_done(20)
    await buses.until_settled()
    before = await buses.lags()
    watched = [seen.stored.event.data async for seen in bus.tail("order.*", start="earliest", follow=False)]
    assert sorted(watched) == list(range(20))
    assert await buses.lags() == before
    assert len(recorder.started) == 20


@bus_case
async def test_a_loop_of_ones_own_acknowledges_when_it_asks_for_more(buses: Buses) -> None:
    bus = buses.make()
    await bus.start()
    await buses.publish(bus, 5, keys=1)
    seen = []
    first = bus.subscribe("**", group=buses.group, start="earliest")
    async for event in first:
        seen.append(event.data)
        if len(seen) == 3:
            break
    await first.aclose()  # type: ignore[attr-defined]
    again = bus.subscribe("**", group=buses.group, start="earliest")
    async for event in again:
        seen.append(event.data)
        if event.data == 4:
            break
    await again.aclose()  # type: ignore[attr-defined]
    assert seen == [0, 1, 2, 2, 3, 4]
