"""Every queue and buffer has a bound, and these reach it: nothing is lost, reordered or held for ever."""

from __future__ import annotations

import asyncio

import pytest
from tests.backends.kafka.kafka_help import (
    MANY_BYTES,
    Tail,
    append,
    event,
    make,
    new_url,
    numbered,
    numbers,
    opened,
    read,
    until,
)

from nexus.backends.kafka import reader as reader_module
from nexus.backends.kafka.follow import Stream
from nexus.errors import Closed, Unavailable
from nexus.spi.backend import Want


def streams(log: object, topic: str) -> list[Stream]:
    return [
        stream
        for follower in log._reader._followers  # type: ignore[attr-defined]
        for (name, _), stream in follower.streams.items()
        if name == topic
    ]


async def test_a_call_larger_than_the_queue_waits_for_room_and_keeps_its_order_and_that_of_others() -> None:
    async with opened(queue_events=50) as log:
        topic = await make(log)
        calls = [numbered(1_000), numbered(3, 1_000), numbered(200, 1_003), numbered(1, 1_203)]
        answers = await asyncio.gather(*(append(log, topic, 0, call) for call in calls))
        assert [position for answer in answers for position in answer] == list(range(1_204))
        assert await numbers(log, topic, 0) == list(range(1_204))


async def test_a_queue_full_of_bytes_waits_for_room_too() -> None:
    async with opened(queue_bytes=1 << 20) as log:
        topic = await make(log)
        await asyncio.gather(*(append(log, topic, 0, numbered(10, n * 10, size=100_000)) for n in range(8)))
        assert await numbers(log, topic, 0) == list(range(80))


async def test_a_call_that_waits_for_room_can_be_taken_back() -> None:
    async with opened(queue_events=10) as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(1))
        tasks = [asyncio.create_task(append(log, topic, 0, numbered(200, 1 + 200 * n))) for n in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.wait(tasks)
        assert await numbers(log, topic, 0) == [0, *range(1, 401), *range(601, 801)]


async def test_closing_hands_over_the_rest_of_a_call_that_has_begun_awaited_or_not() -> None:
    url = new_url()
    async with opened(url) as log, opened(f"{url}&queue_events=50") as other:
        topic = await make(log)
        await append(other, topic, 0, numbered(1))
        tasks = [asyncio.create_task(append(other, topic, 0, numbered(1_000, 1 + n * 1_000))) for n in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        async with asyncio.timeout(20):
            await other.close()
        await asyncio.wait(tasks)
        assert isinstance(tasks[1].exception(), Closed)  # it had not begun
        assert await numbers(log, topic, 0) == list(range(1_001))


async def test_what_waits_while_no_broker_answers_is_given_up_in_time_and_was_not_stored() -> None:
    async with opened(delivery_s=0.5) as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(1))
        log._appends._down = True  # as after the last connection was lost, with no broker to be found
        tasks = [asyncio.create_task(append(log, topic, 0, numbered(1, n))) for n in range(1, 5)]
        async with asyncio.timeout(5):
            for answer in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(answer, Unavailable)
        assert len(log._appends._line) == 0
        log._appends._down = False
        await append(log, topic, 0, numbered(1, 9))
        assert await numbers(log, topic, 0) == [0, 9]


async def test_reading_ahead_stops_at_its_bound_and_goes_on_when_there_is_room() -> None:
    async with opened(buffer_events=256) as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(20_000))
        tail = Tail(log, topic, 1)
        await tail.until(10, page=10)
        await until(lambda: any(stream.paused for stream in streams(log, topic)))
        (stream,) = streams(log, topic)
        # One batch may be on its way when the bound is reached; no more than what is handed over at once.
        assert 256 <= len(stream.messages) <= 256 + 5 * 500
        await tail.until(20_000)
        assert [int(stored.event.body) for stored in tail.found[0]] == list(range(20_000))


async def test_reading_ahead_is_bounded_by_bytes_too() -> None:
    async with opened(buffer_bytes=1 << 20, buffer_events=100_000) as log:
        topic = await make(log)
        for call in range(8):
            await append(log, topic, 0, numbered(100, call * 100, size=10_000))
        tail = Tail(log, topic, 1)
        await tail.until(1, page=1)
        await until(lambda: any(stream.paused for stream in streams(log, topic)))
        assert len(streams(log, topic)[0].messages) < 799
        await tail.until(800)
        assert [int(stored.event.body) for stored in tail.found[0]] == list(range(800))


async def test_a_full_partition_does_not_hold_up_the_others() -> None:
    async with opened(buffer_events=512) as log:
        topic = await make(log, partitions=2)
        await append(log, topic, 0, numbered(5_000))
        tail = Tail(log, topic, 2)
        await tail.until(10, page=10)
        await until(lambda: any(stream.paused for stream in streams(log, topic)))
        del tail.positions[0]  # nobody takes what fills up
        for number in range(20):
            await append(log, topic, 1, numbered(1, number))
            await tail.until(11 + number, seconds=5)


async def test_what_nobody_reads_is_not_read_ahead_any_more() -> None:
    async with opened(idle_s=0.2) as log:
        topic, other = await make(log), await make(log, "other")
        await append(log, topic, 0, numbered(100))
        log.watch([other], lambda: None)
        for name in (topic, other):
            await log.read([Want(name, 0, 0, 10)], MANY_BYTES, fresh=False)
            assert len(streams(log, name)) == 1
        log._reader.drop_idle()
        await until(lambda: log._reader.drop_idle() or not streams(log, topic))
        assert len(streams(log, other)) == 1  # watched, and nothing waits to be taken
        assert (await read(log, topic, 0, 10)).events[0].position == 10


async def test_places_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "PLACES", 8)
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(50))
        for position in range(0, 50, 2):
            await read(log, topic, 0, position, 1)
        assert len(log._reader._stopped_at) == 8


async def test_readers_of_one_partition_that_are_read_ahead_for_are_few() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(100))
        for position in range(0, 90, 10):
            (answer,) = await log.read([Want(topic, 0, position, 5)], MANY_BYTES, fresh=False)
            assert [stored.position for stored in answer.events] in ([], list(range(position, position + 5)))
        assert len(streams(log, topic)) <= reader_module.FOLLOWERS


async def test_an_answer_that_nobody_awaits_any_more_leaves_no_trace() -> None:
    url = new_url()
    async with opened(url) as log:
        topic = await make(log, partitions=4)
        await append(log, topic, 0, [event() for _ in range(1_000)])
        for steps in range(12):
            wants = [Want(topic, number, 0, 10_000) for number in range(4)]
            task = asyncio.create_task(log.read(wants, MANY_BYTES, fresh=True))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert len((await read(log, topic, 0)).events) == 1_000
