"""The log's contract on a real broker: what is appended is there, in order, for whoever reads from wherever."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from tests.backends.kafka.kafka_help import (
    MANY_BYTES,
    Bell,
    Tail,
    append,
    bootstrap,
    event,
    make,
    new_url,
    numbered,
    numbers,
    opened,
    read,
    read_all,
)

from nexus.backends.kafka import KafkaLog
from nexus.errors import Closed, PayloadTooLarge, UnknownTopic
from nexus.event import Event
from nexus.spi.backend import Want

WAKE_S = 0.25
SLACK_S = 0.75


# -- appending -------------------------------------------------------------------------------------------------------


async def test_answers_name_the_positions_that_reads_give() -> None:
    async with opened() as log:
        topic = await make(log, partitions=3)
        places = [2, 0, 1, 0, 2, 2, 1, 0]
        answers = await log.append(topic, [(place, event()) for place in places], dedup=True)
        assert [answer.partition for answer in answers] == places
        for partition in range(3):
            given = [answer.position for answer in answers if answer.partition == partition]
            assert given == [stored.position for stored in await read_all(log, topic, partition)]


async def test_calls_made_one_after_the_other_without_awaiting_keep_their_order() -> None:
    async with opened() as log:
        topic = await make(log, partitions=2)
        tasks = [
            asyncio.create_task(append(log, topic, number % 2, [each])) for number, each in enumerate(numbered(400))
        ]
        await asyncio.gather(*tasks)
        for partition in range(2):
            assert await numbers(log, topic, partition) == list(range(partition, 400, 2))


async def test_calls_that_wait_for_a_topic_to_be_looked_up_keep_their_order() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log)
        tasks = [asyncio.create_task(append(other, topic, 0, [each])) for each in numbered(20)]
        while not tasks[0].done():
            tasks.append(asyncio.create_task(append(other, topic, 0, numbered(1, len(tasks)))))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert await numbers(log, topic, 0) == list(range(len(tasks)))


async def test_a_call_that_is_cancelled_stores_all_or_nothing_and_in_order() -> None:
    async with opened() as log:
        topic = await make(log)
        for call in range(40):
            task = asyncio.create_task(append(log, topic, 0, numbered(5, call * 5)))
            for _ in range(call % 4):
                await asyncio.sleep(0)
            if call % 2:
                task.cancel()
            await asyncio.wait([task])
        await append(log, topic, 0, numbered(1, 200))  # what was cancelled last is stored before this, or not at all
        assert (found := await numbers(log, topic, 0)).pop() == 200
        assert found == [5 * call + n for call in range(40) if 5 * call in found for n in range(5)]
        assert all(5 * call in found for call in range(0, 40, 2))


async def test_every_attribute_comes_back_as_it_was() -> None:
    full: Event[object] = Event(
        "id ü 漢 🎉", "/shop?a=b#c", "order.placed:v1",
        datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=timezone(timedelta(hours=5, minutes=30))), "key/🎉",
        bytes(range(256)), "tenant", "subject", "correlation", "cause", "application/octet-stream", "https://schemas/1",
        datetime(2027, 1, 1, tzinfo=UTC), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b",
        {"text": "ü", "number": -(2**31), "yes": True, "no": False, "zero": 0, "one": 1},
    )  # fmt: skip
    async with opened() as log:
        topic = await make(log)
        sent = [full, event(key=None), event(key=""), event(body=b"")]
        await append(log, topic, 0, sent)
        assert [stored.event for stored in await read_all(log, topic, 0)] == sent


async def test_a_journal_takes_the_same_event_again() -> None:
    async with opened() as log:
        topic = await make(log, dedup=False)
        same = event()
        await append(log, topic, 0, [same, same])
        assert len(await read_all(log, topic, 0)) == 2


async def test_the_largest_body_is_taken_and_a_larger_one_refuses_the_whole_call() -> None:
    async with opened() as log:
        topic = await make(log)
        limit = log.capabilities.max_body_bytes
        await append(log, topic, 0, [event(body=bytes(limit)), event(body=b"after")])
        assert [len(stored.event.body) for stored in await read_all(log, topic, 0)] == [limit, 5]
        with pytest.raises(PayloadTooLarge):
            await append(log, topic, 0, [event(), event(body=bytes(limit + 1)), event()])
        assert len(await read_all(log, topic, 0)) == 2


async def test_attributes_that_leave_no_room_refuse_the_call() -> None:
    async with opened() as log:
        topic = await make(log)
        wide = event(body=bytes(log.capabilities.max_body_bytes), extensions={"x": "y" * 100_000})
        with pytest.raises(PayloadTooLarge):
            await append(log, topic, 0, [event(), wide])
        assert await read_all(log, topic, 0) == []


async def test_a_topic_that_takes_less_than_the_broker_says_so() -> None:
    async with opened() as log:
        name = f"{log.settings.prefix}.small"
        new = NewTopic(name, num_partitions=1, replication_factor=1, config={"max.message.bytes": "2000"})
        admin = AdminClient({"bootstrap.servers": bootstrap()})
        admin.create_topics([new])[name].result(10)
        await make(log, "small")
        with pytest.raises(PayloadTooLarge):
            await append(log, "small", 0, [event(body=bytes(5_000))])
        assert await append(log, "small", 0, [event()]) == [0]


async def test_an_unknown_topic_is_an_error_and_is_not_made() -> None:
    async with opened() as log:
        for call in (
            log.append("nothing", [(0, event())], dedup=True),
            log.describe("nothing"),
            log.read([Want("nothing", 0, 0, 1)], 1, fresh=True),
            log.read([Want("nothing", 0, 0, 1)], 1, fresh=False),
            log.position_at("nothing", 0, 0.0),
            log.trim("nothing", 0, 0),
            log.describe("n" * 300),
        ):
            with pytest.raises(UnknownTopic):
                await call
        assert await log.topics() == []


async def test_a_partition_that_the_topic_does_not_have_is_an_error() -> None:
    async with opened() as log:
        topic = await make(log, partitions=2)
        for partition in (-1, 2):
            with pytest.raises(UnknownTopic):
                await log.append(topic, [(0, event()), (partition, event())], dedup=True)
            with pytest.raises(UnknownTopic):
                await read(log, topic, partition)
        assert (await log.describe(topic)).end == (0, 0)


async def test_an_empty_call_is_answered_with_nothing() -> None:
    async with opened() as log:
        topic = await make(log)
        assert await log.append(topic, [], dedup=True) == []
        assert await log.read([], 1, fresh=True) == []


async def test_closing_sends_what_is_under_way_and_then_nothing_is_taken() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log)
        await append(other, topic, 0, numbered(1))
        task = asyncio.create_task(append(other, topic, 0, numbered(1_000, 1)))
        await asyncio.sleep(0)
        await other.close()
        await other.close()
        assert len(await task) == 1_000
        assert await numbers(log, topic, 0) == list(range(1_001))
        for call in (
            other.append(topic, [(0, event())], dedup=True),
            other.read([Want(topic, 0, 0, 1)], 1, fresh=True),
            other.describe(topic),
            other.topics(),
        ):
            with pytest.raises(Closed):
                await call


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_a_read_gives_at_most_max_events_and_says_where_to_go_on() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(10))
        found, position, pages, more = [], 0, [], True
        while more:
            answer = await read(log, topic, 0, position, 4)
            found += [int(stored.event.body) for stored in answer.events]
            pages.append((len(answer.events), answer.more))
            position, more = answer.next, answer.more
        assert found == list(range(10))
        assert pages == [(4, True), (4, True), (2, False)]


async def test_a_reader_that_does_not_wait_for_news_lets_others_run() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(10))
        found, position = 0, 0
        async with asyncio.timeout(10):
            while found < 10:
                (answer,) = await log.read([Want(topic, 0, position, 4)], MANY_BYTES, fresh=False)
                found, position = found + len(answer.events), answer.next


async def test_a_fresh_read_sees_what_any_process_appended_before() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log)
        position = 0
        for number in range(40):
            await append(other if number % 2 else log, topic, 0, numbered(1, number))
            answer = await read(log, topic, 0, position)
            assert [int(stored.event.body) for stored in answer.events] == [number]
            assert not answer.more
            position = answer.next


async def test_a_read_at_the_end_and_above_it_is_empty_and_stays_there() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(3))
        for position in (3, 10):
            answer = await read(log, topic, 0, position)
            assert (list(answer.events), answer.next, answer.more, answer.trimmed) == ([], position, False, None)
        await append(log, topic, 0, numbered(1, 3))
        assert await numbers(log, topic, 0, 3) == [3]


async def test_max_bytes_bounds_all_slices_but_the_first_event_is_given() -> None:
    async with opened() as log:
        topic = await make(log, partitions=3)
        for partition in (1, 2):
            await append(log, topic, partition, numbered(10, size=1_000))
        size = (await read(log, topic, 1)).events[0].size
        wants = [Want(topic, partition, 0, 100) for partition in range(3)]
        slices = await log.read(wants, 1, fresh=True)
        assert [(len(answer.events), answer.more) for answer in slices] == [(0, False), (1, True), (0, True)]
        slices = await log.read(wants, size * 14, fresh=True)
        assert sum(stored.size for answer in slices for stored in answer.events) <= size * 14
        assert [len(answer.events) for answer in slices][:2] == [0, 10]
        assert [answer.more for answer in slices] == [False, False, True]


async def test_two_wants_of_one_partition_are_two_answers() -> None:
    async with opened() as log:
        topic = await make(log, partitions=2)
        await append(log, topic, 1, numbered(10))
        wants = [Want(topic, 1, 4, 2), Want(topic, 0, 0, 5), Want(topic, 1, 0, 3), Want(topic, 1, 4, 2)]
        slices = await log.read(wants, MANY_BYTES, fresh=True)
        assert [[int(stored.event.body) for stored in answer.events] for answer in slices] == [
            [4, 5], [], [0, 1, 2], [4, 5],
        ]  # fmt: skip


async def test_reading_on_follows_many_partitions_and_finds_every_event() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log, partitions=8)
        for call in range(20):
            await other.append(topic, [(n % 8, each) for n, each in enumerate(numbered(400, call * 400))], dedup=True)
        tail = Tail(log, topic, 8)
        await tail.until(8_000)
        for partition in range(8):
            assert [int(stored.event.body) for stored in tail.found[partition]] == list(range(partition, 8_000, 8))


async def test_readers_at_different_places_of_one_partition_do_not_disturb_each_other() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(3_000))
        tails = [Tail(log, topic, 1) for _ in range(6)]  # more than are read ahead for
        for number, tail in enumerate(tails):
            tail.positions[0] = number * 300
        await asyncio.gather(*(tail.until(3_000 - number * 300, page=100) for number, tail in enumerate(tails)))
        for number, tail in enumerate(tails):
            assert [int(stored.event.body) for stored in tail.found[0]] == list(range(number * 300, 3_000))


async def test_a_jump_back_reads_again() -> None:
    async with opened() as log:
        topic = await make(log)
        await append(log, topic, 0, numbered(500))
        for start in (0, 400, 100, 100, 499, 0):
            tail = Tail(log, topic, 1)
            tail.positions[0] = start
            await tail.until(500 - start, page=50)
            assert [int(stored.event.body) for stored in tail.found[0]] == list(range(start, 500))


async def test_what_was_trimmed_is_answered_as_trimmed() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log, partitions=2)
        await append(log, topic, 0, numbered(10))
        tail = Tail(log, topic, 1)
        await tail.until(4, page=4)
        await other.trim(topic, 0, 6)
        answer = await read(log, topic, 0)
        assert (answer.trimmed, [int(stored.event.body) for stored in answer.events]) == (6, [6, 7, 8, 9])
        assert (await read(log, topic, 0, 6)).trimmed is None
        await log.trim(topic, 0, 3)  # lower than before: nothing
        assert (await log.describe(topic)).first == (6, 0)
        await log.trim(topic, 0, 1_000)  # all, and no more
        answer = await read(log, topic, 0, 2)
        assert (list(answer.events), answer.trimmed, answer.next, answer.more) == ([], 10, 10, False)
        state = await log.describe(topic)
        assert (state.first, state.end, state.size_bytes) == ((10, 0), (10, 0), 0)
        await append(log, topic, 0, numbered(1, 10))
        assert await numbers(log, topic, 0, 10) == [10]


async def test_many_partitions_that_were_trimmed_are_each_answered_so_and_the_others_not() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log, partitions=8)
        await log.append(topic, [(n % 8, each) for n, each in enumerate(numbered(80))], dedup=False)
        for cut in range(1, 10):
            for partition in range(0, 8, 2):
                await other.trim(topic, partition, cut)
            for position in (cut - 1, cut, 0):
                slices = await log.read([Want(topic, n, position, 100) for n in range(8)], MANY_BYTES, fresh=True)
                for partition, answer in enumerate(slices):
                    below = position < cut and partition % 2 == 0
                    assert answer.trimmed == (cut if below else None)
                    first = cut if below else position
                    assert [stored.position for stored in answer.events] == list(range(first, 10))


async def test_a_reader_ahead_of_which_others_trimmed_goes_on_where_the_log_begins() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log)
        await append(log, topic, 0, numbered(10))
        await other.trim(topic, 0, 7)
        (answer,) = await log.read([Want(topic, 0, 2, 100)], MANY_BYTES, fresh=False)
        assert (answer.trimmed, [int(stored.event.body) for stored in answer.events]) == (7, [7, 8, 9])


async def test_a_time_leads_to_the_first_event_recorded_then_or_later() -> None:
    async with opened() as log:
        topic = await make(log, partitions=2)
        times = []
        for _ in range(3):
            times.append(await _later())
            await append(log, topic, 0, numbered(2))
        times.append(await _later())
        assert [await log.position_at(topic, 0, at) for at in times] == [0, 2, 4, 6]
        stored = await read_all(log, topic, 0)
        assert await log.position_at(topic, 0, stored[2].recorded_at) == 2
        assert await log.position_at(topic, 0, 0.0) == 0
        assert await log.position_at(topic, 1, times[0]) == 0
        await log.trim(topic, 0, 3)
        assert await log.position_at(topic, 0, 0.0) == 3


async def test_recorded_times_are_those_of_the_broker() -> None:
    async with opened() as log:
        topic = await make(log)
        before = time.time()
        await append(log, topic, 0, [event(time=datetime(2001, 1, 1, tzinfo=UTC))])
        (stored,) = await read_all(log, topic, 0)
        assert before - 0.01 <= stored.recorded_at <= time.time() + 0.01


async def _later() -> float:
    start = time.time()
    while time.time() < start + 0.004:  # noqa: ASYNC110 - it is time that is watched
        await asyncio.sleep(0.001)
    return start + 0.002


# -- news ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", [True, False], ids=["reading", "only watching"])
async def test_an_append_by_anybody_wakes_within_its_time(reading: bool) -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log, partitions=2)
        bell = Bell()
        log.watch([topic], bell.ring)
        for number in range(20):
            bell.rung.clear()
            await append(other if number % 3 else log, topic, number % 2, [event()])
            await bell.within(WAKE_S + SLACK_S)
            if reading:
                await log.read([Want(topic, partition, 0, 100) for partition in range(2)], MANY_BYTES, fresh=False)


async def test_news_of_followed_partitions_come_in_milliseconds() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        topic = await make(log)
        tail = Tail(log, topic, 1)
        await append(other, topic, 0, numbered(1))
        await tail.until(1)
        took = []
        for number in range(1, 41):
            start = time.perf_counter()
            await append(other, topic, 0, numbered(1, number))
            await tail.until(number + 1)
            took.append(time.perf_counter() - start)
        assert sorted(took)[20] < 0.05


async def test_a_watch_that_was_stopped_is_not_woken() -> None:
    async with opened() as log:
        topic, second = await make(log), await make(log, "second")
        stopped, going = Bell(), Bell()
        stop = log.watch([topic, second], stopped.ring)
        log.watch([topic, second, topic], going.ring)
        await append(log, topic, 0, [event()])
        await going.within(WAKE_S + SLACK_S)
        stop()
        stop()
        count = stopped.count
        for name in (topic, second):
            going.rung.clear()
            await append(log, name, 0, [event()])
            await going.within(WAKE_S + SLACK_S)
        assert stopped.count == count


async def test_a_topic_that_is_made_later_may_be_watched() -> None:
    url = new_url()
    async with opened(url) as log, opened(url) as other:
        bell = Bell()
        log.watch(["late"], bell.ring)
        await make(other, "late")
        await append(other, "late", 0, [event()])
        await bell.within(WAKE_S + SLACK_S)


def test_a_log_that_was_never_opened_is_closed() -> None:
    async def run() -> None:
        log = KafkaLog("kafka://127.0.0.1:1/")
        with pytest.raises(Closed):
            await log.topics()
        await log.close()

    asyncio.run(run())
