"""Every delivery ends exactly once, whatever a handler, a store or a shutdown does. One test per bug that was found."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from nexus import Context, DeadLetter, Event, HandlerError, Nexus, Park, Publish, Retry, RetryIn
from nexus.core import cursor as cursor_codec
from nexus.errors import CorruptData, StoreFull, Unavailable, UnknownOutcome
from nexus.runtime.replays import Selection
from nexus.spi.backend import Slice
from nexus.testing.clock import make_virtual


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def make(url: str = "memory://", **settings: Any) -> Nexus:
    return Nexus(url, settings={"topics": {"events": {"partitions": 2}}, "settle_interval": "5ms"} | settings)


@contextlib.asynccontextmanager
async def running(bus: Nexus) -> AsyncIterator[Any]:
    """Run a bus of one group, and see that it closes in time."""
    await bus.start()
    try:
        yield bus.consumer("g")
    finally:
        async with asyncio.timeout(5):
            await bus.close()


async def test_a_handler_that_is_cancelled_from_within_has_failed() -> None:
    bus = make()
    calls = 0

    @bus.on("a", group="g", workers=1, retry=Retry(2, base_s=0.0))
    async def handle(event: Event[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

    async with running(bus) as consumer:
        await bus.publish("a")
        await until(lambda: consumer.stats.acked == 1)
        assert consumer.stats.retried == 1


async def test_a_plain_handler_that_finds_nothing_by_next_has_failed() -> None:
    bus = make()

    @bus.on("a", group="g", retry=Retry(1))
    def handle(event: Event[Any]) -> None:
        next(row for row in event.data if row > 1)

    async with running(bus) as consumer:
        await bus.publish("a", [0, 1])
        await until(lambda: consumer.stats.dead == 1)
        letter = await bus.dead_letters.first("g")
        assert letter.history[0].error.startswith("RuntimeError: the handler raised StopIteration")


@pytest.mark.parametrize("nonsense", [RetryIn("5"), RetryIn(float("nan")), Park(-1.0), RetryIn(True), 5])  # type: ignore[arg-type]
async def test_an_outcome_that_is_none_is_a_failure_of_the_handler(nonsense: object) -> None:
    bus = make()

    @bus.on("a", group="g", retry=Retry(1))
    async def handle(event: Event[Any]) -> object:
        return nonsense if event.data == 1 else None

    async with running(bus) as consumer:
        await bus.publish("a", 1, key="x")
        await bus.publish("a", 2, key="y")
        await until(lambda: consumer.stats.dead == 1 and consumer.stats.acked == 1)
        letter = await bus.dead_letters.first("g")
        assert "HandlerError" in letter.history[0].error


@pytest.mark.parametrize("failure", [ValueError("bad \udcff"), ValueError("x" * 1_000_000), DeadLetter(5, object())])  # type: ignore[arg-type]
async def test_whatever_a_failure_says_can_be_stored_and_read(failure: Any) -> None:
    bus = make()

    @bus.on("a", group="g", retry=Retry(1))
    async def handle(event: Event[Any]) -> DeadLetter:
        if isinstance(failure, Exception):
            raise failure
        return failure  # type: ignore[no-any-return]

    async with running(bus) as consumer:
        await bus.publish("a", 1, key="x")
        await until(lambda: consumer.stats.dead == 1)
        letter = await bus.dead_letters.first("g")
        assert len(letter.history[0].error) < 5_000


async def test_a_handler_may_publish_while_the_bus_drains() -> None:
    bus = make()
    entered = asyncio.Event()

    @bus.on("a", group="g", retry=Retry(1))
    async def handle(event: Event[Any]) -> None:
        entered.set()
        await asyncio.sleep(0.05)
        await bus.publish("b", event.data)

    async with running(bus) as consumer:
        await bus.publish("a", 1)
        await entered.wait()
    assert (consumer.stats.acked, consumer.stats.dead) == (1, 0)


async def test_a_handler_that_swallows_its_cancellation_does_not_make_the_next_one_deaf() -> None:
    bus = make()
    second = asyncio.Event()

    @bus.on("a", group="g", workers=1, timeout_s=0.05, retry=Retry(1))
    async def handle(event: Event[Any]) -> None:
        if event.data == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return
        second.set()
        await asyncio.sleep(60)

    async with running(bus) as consumer:
        await bus.publish("a", 1, key="k")
        await bus.publish("a", 2, key="k")
        await until(lambda: consumer.stats.dead == 1)
        assert second.is_set()
        assert consumer.stats.acked == 1


async def test_a_batch_member_that_cannot_be_decoded_or_has_expired_ends_once() -> None:
    bus = make()
    batches: list[list[Any]] = []

    @bus.on("a", group="g", start="earliest", retry=Retry(1), workers=1)
    async def handle(batch: list[Any]) -> None:
        batches.append(batch)

    starter = Nexus("memory://ends", settings={"topics": {"events": {"partitions": 2}}})
    await starter.start(consume=False)
    await starter.publish("a", b"[" * 100_000, datacontenttype="text/plain", key="deep")
    past = datetime.now(UTC) - timedelta(seconds=5)
    old = msgspec.structs.replace(starter.event("a", "old", key="old"), expirytime=past)
    await starter.publish(old)
    await starter.publish("a", "good", key="good")
    bus = make("memory://ends")
    bus.on("a", group="g", start="earliest", retry=Retry(1), workers=1)(handle)
    async with running(bus) as consumer:
        await until(lambda: sum(map(len, batches)) == 2)
        assert consumer.stats.expired == 1
        assert all(owner.running == 0 for owner in consumer._owners())
    assert sorted(str(one)[:4] for batch in batches for one in batch) == ["b'[[", "good"]
    await starter.close()


async def test_what_is_asked_for_again_is_handled_although_it_has_expired() -> None:
    clock = make_virtual(asyncio.get_running_loop())
    bus = Nexus("memory://", clock=clock)
    calls: list[str | None] = []

    @bus.on("a", group="g", retry=Retry(1))
    async def handle(event: Event[Any], context: Context) -> None:
        calls.append(context.replay)
        if len(calls) == 1:
            raise ValueError("not now")

    async with running(bus) as consumer:
        await bus.publish("a", 1, expires_in_s=60)
        letter = await bus.dead_letters.first("g")
        await clock.sleep(61)
        await bus.dead_letters.requeue(letter)
        await clock.sleep_until(lambda: consumer.stats.acked == 1)
        assert (calls, consumer.stats.expired) == ([None, None], 0)
        id = await bus.replays.start(Selection(), group="g")
        await bus.replays.wait(id)
        assert calls == [None, None, id]


async def test_a_request_whose_start_cannot_be_published_waits_before_it_is_tried_again() -> None:
    clock = make_virtual(asyncio.get_running_loop())
    bus = Nexus("memory://", clock=clock)
    left = 3

    @bus.on("a.requested", group="g", lifecycle=True)
    async def handle(event: Event[Any]) -> None: ...

    async with running(bus) as consumer:
        publish = bus.publisher.publish_many

        async def publish_many(events: list[Event[Any]]) -> Any:
            nonlocal left
            if left and events[0].type == "a.started":
                left -= 1
                return [StoreFull("no space")]
            return await publish(events)

        bus.publisher.publish_many = publish_many  # type: ignore[method-assign, assignment]
        await bus.publish("a.requested")
        began = clock.monotonic()
        await clock.sleep_until(lambda: consumer.stats.acked == 1)
        assert (consumer.stats.retried, consumer.stats.cancelled) == (3, 0)
        assert clock.monotonic() - began >= 3.0


def exit_in_thread(event: Event[Any]) -> None:
    sys.exit(0)


async def exit_on_loop(event: Event[Any]) -> None:
    sys.exit(0)


async def exit_in_a_batch(events: list[Event[Any]]) -> None:
    sys.exit(0)


@pytest.mark.parametrize(
    ("handler", "run_in"),
    [(exit_in_thread, "thread"), (exit_in_thread, "process"), (exit_on_loop, "loop"), (exit_in_a_batch, "loop")],
)
async def test_a_handler_that_exits_has_failed_and_ends_nothing_else(handler: Any, run_in: Any) -> None:
    bus = make()
    bus.on("a", group="g", retry=Retry(1), run_in=run_in)(handler)
    async with running(bus) as consumer:
        await bus.publish("a")
        await until(lambda: consumer.stats.dead == 1)
        assert not consumer.failed.done()
        letter = await bus.dead_letters.first("g")
        assert letter.history[0].error.startswith("SystemExit: 0")


async def test_polling_with_retries_is_never_taken_for_an_interruption() -> None:
    bus = make()

    @bus.on("a", group="g")
    async def handle(event: Event[Any], context: Context) -> RetryIn | None:
        return RetryIn(0.0) if context.attempt < 30 else None

    async with running(bus) as consumer:
        await bus.publish("a")
        await until(lambda: consumer.stats.acked == 1)
        assert (consumer.stats.retried, consumer.stats.dead) == (29, 0)


async def test_an_error_nobody_planned_stops_the_consumer_and_is_raised_by_close() -> None:
    bus = make()
    bus.on("a", group="g")(_ignore)
    await bus.start()
    consumer = bus.consumer("g")
    await until(lambda: len(consumer.owned) == 2)

    async def broken(*_: object) -> list[Slice]:
        raise RuntimeError("a bug")

    consumer._member.fetch = broken  # type: ignore[union-attr, method-assign]
    await bus.publish("a")
    async with asyncio.timeout(5):
        while any([lag.owner for lag in await bus.backend.lag("g")]):  # noqa: ASYNC110, C419
            await asyncio.sleep(0.005)
    with pytest.raises(RuntimeError, match="a bug"):
        await bus.close()


async def test_a_store_that_fails_for_a_moment_is_no_crash() -> None:
    bus = make("memory://moment")
    handled: list[Any] = []

    @bus.on("a", group="g", start="earliest")
    async def handle(event: Event[Any]) -> None:
        handled.append(event.data)

    failures = {"read": 2, "fetch": 2, "settle": 0}
    real_read = bus.backend.read

    async def read(*arguments: Any) -> Any:
        if failures["read"]:
            failures["read"] -= 1
            raise Unavailable("for a moment")
        return await real_read(*arguments)

    bus.backend.read = read  # type: ignore[method-assign]
    async with running(bus) as consumer:
        await until(lambda: len(consumer.owned) == 2)
        assert {owner.unclean for owner in consumer._owners()} == {0}, "nobody has died"
        real_fetch = consumer._member.fetch

        async def fetch(*arguments: Any) -> Any:
            if failures["fetch"]:
                failures["fetch"] -= 1
                raise Unavailable("for a moment")
            return await real_fetch(*arguments)

        consumer._member.fetch = fetch
        await bus.publish("a", 1)
        await until(lambda: handled == [1])


async def test_a_command_is_seen_although_the_fetch_that_would_have_read_it_failed() -> None:
    bus = make()
    broken = True

    @bus.on("a", group="g", retry=Retry(1))
    async def handle(event: Event[Any]) -> None:
        if broken:
            raise ValueError("no")

    async with running(bus) as consumer:
        await bus.publish("a", 1, key="k")
        await until(lambda: consumer.stats.dead == 1)
        letter = await bus.dead_letters.first("g")
        broken = False
        real_fetch = consumer._member.fetch
        left = 1

        async def fetch(*arguments: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise Unavailable("for a moment")
            return await real_fetch(*arguments)

        consumer._member.fetch = fetch
        await bus.dead_letters.requeue(letter)
        await until(lambda: consumer.stats.acked == 1)


async def test_after_an_unknown_outcome_nothing_runs_twice_at_once() -> None:
    bus = make()
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    at_once = most = 0

    @bus.on("slow", group="g", retry=Retry(3))
    def in_a_thread(event: Event[Any]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        at_once -= 1

    @bus.on("bad", group="g", retry=Retry(1))
    async def fails(event: Event[Any]) -> None:
        raise ValueError("no")

    real_append = bus.backend.append
    lost = 1

    async def append(topic: str, batch: Any) -> Any:
        nonlocal lost
        if topic.endswith(".park") and lost and b"Entry" in batch[0][1].body:
            lost -= 1
            await real_append(topic, batch)
            raise UnknownOutcome("the answer was lost")
        return await real_append(topic, batch)

    bus.backend.append = append  # type: ignore[method-assign]
    async with running(bus) as consumer:
        slow = await bus.publish("slow", 1, key="a")
        await until(lambda: at_once == 1)
        key = next(
            f"k{n}" for n in range(100) if bus.publisher.partition(bus.event("x", key=f"k{n}"), 2) == slow.partition
        )
        await bus.publish("bad", 1, key=key)
        await until(lambda: not lost)
        await asyncio.sleep(0.05)
        gate.set()
        await until(lambda: consumer.stats.acked >= 1 and at_once == 0 and len(consumer.owned) == 2)
        assert most == 1
        assert len(await bus.dead_letters.all("g")) == 1


async def test_a_damaged_partition_stands_still_and_the_others_go_on() -> None:
    bus = make()
    handled: list[Any] = []

    @bus.on("a", group="g")
    async def handle(event: Event[Any]) -> None:
        handled.append(event.data)

    async with running(bus) as consumer:
        await until(lambda: len(consumer.owned) == 2)
        real_fetch = consumer._member.fetch

        async def fetch(wants: Any, max_bytes: int) -> Any:
            if any(want.partition == 0 for want in wants):
                raise CorruptData("a bad row in events[0]")
            return await real_fetch(wants, max_bytes)

        consumer._member.fetch = fetch
        for number in range(20):
            await bus.publish("a", number, key=str(number))
        await until(lambda: ("events", 0) in consumer.stopped and handled)
        assert "a bad row" in consumer.stopped["events", 0]


async def test_a_bus_that_cannot_join_says_why_and_lets_go() -> None:
    bus = make()
    bus.on("a", group="g")(_ignore)

    async def claim(*_: object) -> Any:
        raise Unavailable("cannot join")

    bus.backend.claim = claim  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="cannot join"):
        await bus.start()


async def test_returned_events_with_an_empty_key_and_without_key_are_two() -> None:
    bus = make()
    arrived: list[Any] = []

    @bus.on("a", group="g")
    async def both(event: Event[Any]) -> list[Publish]:
        return [Publish("b", 1, key=""), Publish("b", 2)]

    @bus.on("b", group="h")
    async def collect(event: Event[Any]) -> None:
        arrived.append(event.data)

    async with running(bus):
        await bus.publish("a")
        await until(lambda: sorted(arrived) == [1, 2])


async def test_a_returned_event_that_was_not_stored_is_not_forgotten() -> None:
    bus = make()
    arrived: list[Any] = []

    @bus.on("a", group="g", retry=Retry(3, base_s=0.0))
    async def returns(event: Event[Any]) -> Publish:
        return Publish("b", 1)

    @bus.on("b", group="h")
    async def collect(event: Event[Any]) -> None:
        arrived.append(event.data)

    real_append = bus.backend.append
    failures = 2

    async def append(topic: str, batch: Any) -> Any:
        nonlocal failures
        if failures and batch[0][1].type == "b":
            failures -= 1
            raise Unavailable("for a moment")
        return await real_append(topic, batch)

    bus.backend.append = append  # type: ignore[method-assign]
    async with running(bus) as consumer:
        await bus.publish("a")
        await until(lambda: arrived == [1])
        assert consumer.stats.retried == 2


async def test_a_bus_of_a_test_takes_the_handlers_of_an_application() -> None:
    application = make("sqlite:///never-opened.db")
    application.on("a", group="g")(_ignore)
    bus = make()
    bus.include(application)
    with pytest.raises(HandlerError, match="already has"):
        bus.include(application)
    async with running(bus) as consumer:
        await bus.publish("a", 1)
        await until(lambda: consumer.stats.acked == 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"retry": 3}, {"workers": -1}, {"workers": 10_000}, {"start": "begin"}, {"on_dead": "blok_key"},
        {"run_in": "proces"}, {"lost_cursor": "begin"}, {"timeout_s": "3s"}, {"timeout_s": 0}, {"batch_size": 0},
        {"hold_s": -1},
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HandlerError, match=next(iter(wrong))):
        make().on("a", group="g", **wrong)(_ignore)


async def test_a_group_finishes_what_it_has_left_in_a_topic_that_its_pattern_has_left() -> None:
    handled: list[Any] = []

    async def handle(event: Event[Any]) -> None:
        handled.append(event.data)

    before = make("memory://moved")
    before.on("a", group="g", start="earliest")(handle)
    await before.start()
    await until(lambda: len(before.consumer("g").owned) == 2)
    await before.close()
    publisher = make("memory://moved")
    await publisher.start(consume=False)
    await publisher.publish("a", "old", key="k")
    await publisher.close()
    after = make("memory://moved", topics={"events": {"partitions": 2}, "special": {"patterns": ["a"]}})
    after.on("a", group="g", start="earliest")(handle)
    async with running(after):
        await after.publish("a", "new", key="k")
        await until(lambda: sorted(handled) == ["new", "old"])


def test_a_group_name_cannot_make_two_parking_topics_one() -> None:
    bus = make()
    with pytest.raises(HandlerError, match=r"eu\.billing"):
        bus.on("a", group="eu.billing")(_ignore)


async def test_a_loop_over_a_group_survives_that_its_partition_moves() -> None:
    first, second = make("memory://moves"), make("memory://moves")
    await first.start()
    got: list[Any] = []

    async def consume() -> None:
        async for event in first.subscribe("a", group="g", start="earliest"):
            got.append(event.data)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(consume())
    for number in range(40):
        await first.publish("a", number, key=str(number))
    await until(lambda: len(got) > 5)
    second.on("a", group="g", start="earliest")(_ignore)
    await second.start()
    await until(lambda: second.consumer("g").stats.acked > 0 and len(got) + second.consumer("g").stats.acked >= 40)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await second.close()
    await first.close()


async def test_a_cursor_of_quick_runs_that_closed_in_order_is_clean() -> None:
    for _ in range(4):
        bus = make("memory://quick")
        bus.on("a", group="g")(_ignore)
        async with running(bus):
            pass
    watcher = make("memory://quick")
    await watcher.start(consume=False)
    for lag in await watcher.backend.lag("g"):
        assert cursor_codec.decode(lag.low, lag.state).unclean == 0
    await watcher.close()


def slow_to_start(payload: int) -> None:
    """Runs in a process of its own, whose start takes longer than the handler's time limit."""


async def test_the_time_limit_of_a_handler_in_a_process_begins_when_it_does() -> None:
    bus = make()
    bus.on("a", group="g", run_in="process", timeout_s=0.05, retry=Retry(1))(slow_to_start)
    async with running(bus) as consumer:
        await bus.publish("a", 1)
        await until(lambda: consumer.stats.acked + consumer.stats.dead == 1)
        assert consumer.stats.acked == 1


async def _ignore(event: Event[Any]) -> None: ...
