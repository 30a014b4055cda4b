"""Reading on a real server: bounds, where to go on, what was forgotten, and how little it asks."""

from __future__ import annotations

import asyncio

import pytest
from nats_help import MANY, all_of, api, event, ids, opened, plain, read, until

from nexus.backends.nats import NatsLog
from nexus.backends.nats.reading import PER_PARTITION
from nexus.backends.nats.streams import Streams
from nexus.errors import UnknownTopic
from nexus.spi.backend import TopicSpec, Want

ORDERS = TopicSpec("orders", 4)
ONE = TopicSpec("one", 1)


async def fill(log: NatsLog, topic: str, partition: int, count: int, size: int = 10) -> list[int]:
    answers = await log.append(
        topic, [(partition, event(f"{partition}-{n}", bytes(size))) for n in range(count)], dedup=True
    )
    return [answer.position or 0 for answer in answers]


async def test_pages_go_on_where_they_ended() -> None:
    async with opened(ONE) as log:
        await fill(log, "one", 0, 10)
        found, position, pages = [], 0, []
        while True:
            answer = await read(log, "one", 0, position, 4)
            found += [stored.event.id for stored in answer.events]
            pages.append((len(answer.events), answer.more))
            position = answer.next
            if not answer.more:
                break
        assert found == [f"0-{n}" for n in range(10)]
        assert pages == [(4, True), (4, True), (2, False)]
        assert (await read(log, "one", 0, 0, 10)).more is False
        at_end = await read(log, "one", 0, position)
        assert (list(at_end.events), at_end.next, at_end.more, at_end.trimmed) == ([], position, False, None)


async def test_the_bytes_bound_all_slices_together_and_the_first_event_is_always_given() -> None:
    async with opened(ORDERS) as log:
        for partition in range(3):
            await fill(log, "orders", partition, 10, 1_000)
        wants = [Want("orders", partition, 0, 10) for partition in range(3)]
        size = (await all_of(log, "orders"))[0].size
        slices = await log.read(wants, size * 14 + size // 2, fresh=True)
        assert [len(answer.events) for answer in slices] == [10, 4, 0]
        assert [answer.more for answer in slices] == [False, True, True]
        tiny = await log.read([Want("orders", 3, 0, 9), *wants], 1, fresh=True)
        assert [(len(answer.events), answer.more) for answer in tiny] == [(0, False), (1, True), (0, True), (0, True)]
        rest = await log.read([Want("orders", 1, slices[1].next, 10)], MANY, fresh=True)
        assert len(rest[0].events) == 6


async def test_a_sequential_reader_asks_the_server_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(ORDERS, options="fetch_events=100") as log:
        for partition in range(4):
            await fill(log, "orders", partition, 500)
        asked: list[str] = []
        ask = log._connection.api

        async def counting(what: str, *rest: object) -> object:
            asked.append(what)
            return await ask(what, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(log._connection, "api", counting)
        news = asyncio.Event()
        log.watch(["orders"], news.set)
        positions, found = [0] * 4, 0
        async with asyncio.timeout(10):
            while found < 2_000:
                news.clear()
                wants = [Want("orders", partition, positions[partition], 90) for partition in range(4)]
                slices = await log.read(wants, MANY, fresh=False)
                found += sum(len(answer.events) for answer in slices)
                positions = [answer.next for answer in slices]
                if not any(answer.events for answer in slices):
                    await news.wait()
        consumers = [what for what in asked if what.startswith("CONSUMER.CREATE")]
        assert len(consumers) == 4
        assert len(asked) == 4 + 4 + 1  # with where each ends, and what was forgotten, once in the beginning
        assert len(log._room.readers) == 4


async def test_what_is_held_is_bounded_by_events_and_by_bytes() -> None:
    for options, size, most_events, most_bytes in (
        ("fetch_events=50", 10, 100, MANY),
        ("fetch_bytes=10000", 1_000, 10_000, 2 * 10_000 + 1_500),
    ):
        async with opened(ONE, options=options) as log:
            await fill(log, "one", 0, 400, size)
            answer = await read(log, "one", 0, 0, 1)
            (reader,) = log._room.readers
            await until(lambda reader=reader: not reader._asked)  # it has no room to ask for more
            assert 5 < reader.unread <= most_events
            assert reader.unread_bytes <= most_bytes
            found = [*answer.events]
            while answer.more:
                answer = await read(log, "one", 0, answer.next, 30)
                found += answer.events
            assert [stored.event.id for stored in found] == [f"0-{n}" for n in range(400)]
            assert log._room.readers == [reader]


async def test_an_event_larger_than_what_is_asked_for_does_not_stall() -> None:
    async with opened(ONE, options="fetch_bytes=2000") as log:
        sizes = [10, 100_000, 10, 10, 300_000, 200_000, 10]
        await log.append("one", [(0, event(n, bytes(size))) for n, size in enumerate(sizes)], dedup=True)
        async with asyncio.timeout(5):
            assert [len(stored.event.body) for stored in await all_of(log, "one")] == sizes
            assert [len(stored.event.body) for stored in (await read(log, "one")).events] == sizes


async def test_several_places_of_one_partition_are_read_at_once() -> None:
    async with opened(ONE) as log:
        positions = await fill(log, "one", 0, 30)
        wants = [Want("one", 0, positions[n], 3) for n in (0, 10, 20, 0)]
        for _ in range(3):
            slices = await log.read(wants, MANY, fresh=False)
            wants = [Want("one", 0, answer.next, 3) for answer in slices]
        assert [answer.next for answer in slices] == [positions[9], positions[19], positions[29], positions[9]]
        assert len(log._room.readers) == 4


async def test_readers_are_bounded_by_partition_and_in_all() -> None:
    async with opened(ORDERS, options="readers=10") as log, plain() as client:
        positions = await fill(log, "orders", 0, 40)
        for position in positions:
            assert len((await read(log, "orders", 0, position, 1)).events) == 1
        assert len(log._room.readers) <= PER_PARTITION
        for partition in range(1, 4):
            await read(log, "orders", partition, 0)
            await read(log, "orders", partition, 1)
        assert len(log._room.readers) <= 10

        async def consumers() -> int:
            state = (await api(client, f"STREAM.INFO.{log._names_of('orders').stream}"))["state"]
            return int(state["consumer_count"])

        async with asyncio.timeout(5):
            while await consumers() > 10:  # noqa: ASYNC110 - those given up are removed on the server too
                await asyncio.sleep(0.01)


async def test_fresh_reads_see_what_any_process_has_appended() -> None:
    async with opened(ONE) as log, opened(prefix=log.settings.prefix, keep=True) as other:
        position = 0
        for number in range(50):
            await other.append("one", [(0, event(number))], dedup=True)
            answer = await read(log, "one", 0, position)
            assert [stored.event.id for stored in answer.events] == [str(number)]
            position = answer.next
        assert len(log._room.readers) == 1


async def test_siblings_that_came_first_are_not_taken_for_forgotten() -> None:
    async with opened(ORDERS) as log:
        await fill(log, "orders", 0, 100)
        assert (await read(log, "orders", 1, 0)).trimmed is None
        await fill(log, "orders", 1, 3)
        answer = await read(log, "orders", 1, 0)
        assert (len(answer.events), answer.trimmed) == (3, None)
        await log.trim("orders", 0, 1_000)
        assert (await read(log, "orders", 1, 0)).trimmed is None
        assert (await read(log, "orders", 2, 0)).trimmed is None


async def test_what_was_forgotten_on_request_is_said_exactly() -> None:
    async with opened(ORDERS) as log:
        first = await fill(log, "orders", 1, 4)
        await fill(log, "orders", 0, 10)
        second = await log.append("orders", [(1, event(f"late-{n}")) for n in range(3)], dedup=True)
        await log.trim("orders", 1, first[-1] + 5)  # into the gap between the two
        later = [answer.position for answer in second]
        answer = await read(log, "orders", 1, first[2])
        assert (answer.trimmed, [stored.position for stored in answer.events]) == (later[0], later)
        between = await read(log, "orders", 1, first[-1] + 1)  # nothing was there, so nothing was lost
        assert (between.trimmed, [stored.position for stored in between.events]) == (None, later)
        assert (await log.describe("orders")).first[1] == first[-1] + 5
        await log.trim("orders", 1, MANY)
        empty = await read(log, "orders", 1, first[2])
        end = (await log.describe("orders")).end[1]
        assert (list(empty.events), empty.trimmed, empty.next, empty.more) == ([], end, end, False)
        assert end == (later[-1] or 0) + 1
        assert (await log.describe("orders")).first[1] == end


async def test_a_reader_ahead_of_which_another_process_trims_is_told() -> None:
    async with opened(ONE, options="fetch_events=10") as log, opened(prefix=log.settings.prefix, keep=True) as other:
        positions = await fill(log, "one", 0, 100)
        answer = await read(log, "one", 0, 0, 5)
        reader = log._room.readers[0]
        await until(lambda: not reader._asked)
        await other.trim("one", 0, positions[50])
        await until(lambda: reader.gap is not None)  # by the news alone
        (after,) = await log.read([Want("one", 0, answer.next, 1_000)], MANY, fresh=True)
        assert after.trimmed == positions[50]
        assert [stored.position for stored in after.events] == positions[50:]


async def test_a_reader_that_was_overtaken_by_the_retention_is_told() -> None:
    spec = TopicSpec("short", 1, retention_bytes=20_000)
    async with opened(spec, options="fetch_events=10") as log:
        await fill(log, "short", 0, 20, 300)
        answer = await read(log, "short", 0, 0, 1)
        reader = log._room.readers[0]
        await until(lambda: not reader._asked)
        await log.append("short", [(0, event(f"later-{n}", bytes(300))) for n in range(100)], dedup=True)
        first = (await log.describe("short")).first[0]
        assert first > 30
        found = []
        trimmed = []
        while True:
            (answer,) = await log.read([Want("short", 0, answer.next, 7)], MANY, fresh=True)
            found += [stored.position for stored in answer.events]
            if answer.trimmed is not None:
                trimmed.append(answer.trimmed)
            if not answer.more:
                break
        assert trimmed == [first]
        assert found == [*range(2, found[found.index(first) - 1] + 1), *range(first, 121)]
        assert (await read(log, "short", 0, 2)).trimmed == first


async def test_an_unknown_topic_is_an_error_and_leaves_no_reader() -> None:
    async with opened(ONE) as log:
        with pytest.raises(UnknownTopic):
            await log.read([Want("one", 0, 0, 1), Want("nothing", 0, 0, 1)], MANY, fresh=True)
        assert log._room.readers == []
        assert await log.read([], MANY, fresh=True) == []


async def test_a_read_that_is_cancelled_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(ONE) as log:
        await fill(log, "one", 0, 50)
        for turns in range(30):
            reading = asyncio.ensure_future(read(log, "one", 0, 0, 20))
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        assert await ids(log, "one") == [f"0-{n}" for n in range(50)]
        assert not any(reader.busy for reader in log._room.readers)


async def test_a_consumer_that_the_server_lost_is_made_again() -> None:
    async with opened(ONE) as log, plain() as client:
        await fill(log, "one", 0, 5)
        answer = await read(log, "one", 0, 0)
        (reader,) = log._room.readers
        stream = log._names_of("one").stream
        for turn in range(3):
            before = reader._consumer
            await api(client, f"CONSUMER.DELETE.{stream}.{before}")
            await until(lambda before=before: reader._consumer not in ("", before))
            await log.append("one", [(0, event(f"after-{turn}"))], dedup=True)
            (answer,) = await log.read([Want("one", 0, answer.next, 9)], MANY, fresh=True)
            assert [stored.event.id for stored in answer.events] == [f"after-{turn}"]
        assert log._room.readers == [reader]


async def test_a_consumer_that_fell_silent_is_made_again() -> None:
    async with opened(ONE) as log:
        await fill(log, "one", 0, 5)
        answer = await read(log, "one", 0, 0)
        (reader,) = log._room.readers
        before = reader._consumer
        reader.look_after(asyncio.get_running_loop().time() + 1)
        assert reader._consumer == before
        reader.look_after(asyncio.get_running_loop().time() + 1_000)
        await until(lambda: reader._consumer not in ("", before))
        await log.append("one", [(0, event("after"))], dedup=True)
        (answer,) = await log.read([Want("one", 0, answer.next, 9)], MANY, fresh=True)
        assert len(answer.events) == 1


async def test_times_lead_to_positions() -> None:
    async with opened(ORDERS) as log:
        for number in range(3):
            await log.append("orders", [(0, event(f"{number}-{k}")) for k in range(2)], dedup=True)
            await asyncio.sleep(0.003)  # wall time is what is asked for
        stored = await all_of(log, "orders")
        for at in (0, 2, 4):
            assert await log.position_at("orders", 0, stored[at].recorded_at) == stored[at].position
        assert await log.position_at("orders", 0, 0.0) == stored[0].position
        assert await log.position_at("orders", 0, stored[1].recorded_at + 0.001) == stored[2].position
        assert await log.position_at("orders", 0, stored[-1].recorded_at + 1) == (await log.describe("orders")).end[0]
        assert await log.position_at("orders", 1, 0.0) == 1
        with pytest.raises(UnknownTopic):
            await log.position_at("nothing", 0, 0.0)


async def test_asking_for_the_last_event_before_a_position_is_a_bisection() -> None:
    async with opened(ORDERS) as log:
        positions = await fill(log, "orders", 1, 5)
        await fill(log, "orders", 0, 7)
        positions += [
            a.position or 0 for a in await log.append("orders", [(1, event(f"z{n}")) for n in range(5)], dedup=True)
        ]
        streams: Streams = log._streams
        for before in range(1, positions[-1] + 3):
            expected = max((position for position in positions if position < before), default=0)
            assert await streams.last_below(log._names_of("orders"), 1, before) == expected
