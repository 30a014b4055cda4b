"""The way in under cancellation, time-outs and failures: nobody is lost count of, and no receipt is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from nexus.backends.memory import MemoryBackend
from nexus.errors import Closed, NexusError, Overloaded, Unavailable, UnknownTopic
from nexus.event import Event
from nexus.runtime.publisher import Publisher, Receipt
from nexus.spi.backend import TopicSpec
from nexus.testing.clock import VirtualClock, virtual_loop
from nexus.testing.faults import Faulty

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
_numbers = count()


def event(type: str = "order.placed") -> Event[Any]:
    return Event(id=f"e-{next(_numbers)}", source="/test", type=type, time=NOON, body=b"{}")


def virtually(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    async def awaited() -> None:
        await test()

    def run() -> None:
        with asyncio.Runner(loop_factory=virtual_loop) as runner:
            runner.run(awaited())

    return run


async def opened(queue_events: int = 1) -> tuple[Faulty, Publisher]:
    clock = VirtualClock.running()
    backend = Faulty(MemoryBackend(clock=clock))
    await backend.open()
    publisher = Publisher(
        backend,
        [(TopicSpec("bills", 2), ["bill.*"])],
        TopicSpec("orders", 2),
        clock,
        max_body_bytes=1_000_000,
        queue_events=queue_events,
        queue_bytes=1_000_000,
        timeout_s=5.0,
    )
    await publisher.open()
    return backend, publisher


async def two_in_line(backend: Faulty, publisher: Publisher) -> list[asyncio.Task[Receipt]]:
    """One event that is being stored, and one that waits for its room."""
    backend.hold("append")
    tasks = [asyncio.ensure_future(publisher.publish(event())) for _ in range(2)]
    await asyncio.sleep(0)
    return tasks


@virtually
async def test_who_is_cancelled_in_the_turn_that_makes_room_is_cancelled_and_nothing_else() -> None:
    backend, publisher = await opened()
    first, second = await two_in_line(backend, publisher)
    backend.let_go()
    second.cancel()
    assert isinstance(await first, Receipt)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert isinstance(await publisher.publish(event()), Receipt)


@virtually
async def test_who_has_waited_too_long_in_the_turn_that_makes_room_is_told_so() -> None:
    backend, publisher = await opened()
    first, second = await two_in_line(backend, publisher)
    # In the turn of the loop in which the second's time is up, but before it: timers so near run together.
    loop = asyncio.get_running_loop()
    loop.call_at(loop.time() + 5.0 - 5e-10, backend.let_go)
    with pytest.raises(Overloaded):
        await second
    assert isinstance(await first, Receipt)
    assert isinstance(await publisher.publish(event()), Receipt)


@virtually
async def test_who_is_let_in_and_cancelled_while_the_bus_closes_does_not_keep_it_open() -> None:
    backend, publisher = await opened()
    first, second = await two_in_line(backend, publisher)
    closing = asyncio.ensure_future(publisher.close())
    await asyncio.sleep(0)
    backend.let_go()
    await asyncio.sleep(0)  # the first is done and has let the second in, which has not run yet
    second.cancel()
    assert isinstance(await first, Receipt)
    with pytest.raises(asyncio.CancelledError):
        await second
    async with asyncio.timeout(5):
        await closing


def kinds(answers: list[Receipt | NexusError]) -> list[type]:
    return [type(answer) for answer in answers]


async def stored(backend: Faulty, topic: str) -> int:
    return sum((await backend.describe(topic)).end)


@virtually
async def test_a_topic_that_fails_leaves_the_receipts_of_another() -> None:
    backend, publisher = await opened()
    backend.only = lambda topic: topic == "bills"
    backend.fail("append", Unavailable("away"))
    answers = await publisher.publish_many([event(), event("bill.made"), event()])
    assert kinds(answers) == [Receipt, Unavailable, Receipt]
    assert await stored(backend, "orders") == 2


@virtually
async def test_after_a_topic_failed_nothing_more_of_it_is_stored_and_all_of_the_others() -> None:
    backend, publisher = await opened()
    backend.only = lambda topic: topic == "bills"
    backend.fail("append", UnknownTopic("gone"))
    batch = [event("bill.made" if number % 2 else "order.placed") for number in range(2_500)]
    assert kinds(await publisher.publish_many(batch)) == [Receipt, UnknownTopic] * 1_250
    assert (await stored(backend, "orders"), await stored(backend, "bills")) == (1_250, 0)


@virtually
async def test_a_bus_that_closes_between_two_chunks_leaves_the_receipts_of_the_first() -> None:
    backend, publisher = await opened()
    backend.hold("append")
    batch = [event() for _ in range(2_500)]
    publishing = asyncio.ensure_future(publisher.publish_many(batch))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert backend.calls["append"] == 1
    closing = asyncio.ensure_future(publisher.close())
    await asyncio.sleep(0)
    backend.let_go()
    answers = await publishing
    assert kinds(answers) == [Receipt] * 1_000 + [Closed] * 1_500
    await closing


@virtually
async def test_no_room_for_a_chunk_is_the_answer_of_the_rest_and_is_waited_for_once() -> None:
    backend, publisher = await opened()
    backend.hold("append")
    one = asyncio.ensure_future(publisher.publish(event()))
    await asyncio.sleep(0)
    started = asyncio.get_running_loop().time()
    assert kinds(await publisher.publish_many([event() for _ in range(2_500)])) == [Overloaded] * 2_500
    assert asyncio.get_running_loop().time() - started < 6.0
    backend.let_go()
    assert isinstance(await one, Receipt)


@virtually
async def test_nobody_overtakes_who_was_let_in_a_moment_ago() -> None:
    backend, publisher = await opened(queue_events=2)
    backend.hold("append")
    early = [asyncio.ensure_future(publisher.publish(event())) for _ in range(3)]  # two under way, one in line
    await asyncio.sleep(0)
    stored: list[str] = []
    late: list[asyncio.Task[Receipt]] = []
    append = backend.backend.append

    async def noting(topic: str, batch: Any) -> Any:
        stored.append(batch[0][1].id)
        if not late:  # it runs when there is room again and the third was let in, before that one goes on
            late.append(asyncio.ensure_future(publisher.publish(event())))
        return await append(topic, batch)

    backend.backend.append = noting  # type: ignore[method-assign]
    backend.let_go()
    assert [(await task).id for task in early] == stored[:3]
    assert (await late[0]).id == stored[3]
