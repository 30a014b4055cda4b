"""The log on a real broker: what the shipped suite does not ask, and every bound."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from rstream import AMQPMessage, Consumer, ConsumerOffsetSpecification, OffsetType, Producer, amqp_decoder
from tests.backends.rabbitmq.rabbitmq_help import MANY_BYTES, broker_url, event, ids, opened, read_all, store_url, until

from nexus.backends.rabbitmq import RabbitLog, Settings, frames, publishing, reader, reading
from nexus.backends.rabbitmq.connection import Connection, Refused
from nexus.backends.rabbitmq.names import stream_of
from nexus.backends.rabbitmq.publishing import Call, Room
from nexus.clock import SYSTEM_CLOCK
from nexus.coordination import LogBackend, replica
from nexus.errors import Closed, PayloadTooLarge, SettingsError, Unavailable, UnknownTopic
from nexus.spi.backend import Cursor, Settlement, TopicSpec, Want


@pytest.fixture
def url() -> str:
    return store_url(broker_url())


async def stats(log: RabbitLog, topic: str, partition: int = 0) -> tuple[int, int]:
    return await log._readers.tails.stats(stream_of(log.settings.prefix, topic, partition))


# -- topics -----------------------------------------------------------------------------------------------------------


async def test_the_number_of_partitions_is_found_again(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("a/ü", 3))
    async with opened(url) as log:
        assert await log.topics() == ["a/ü"]
        assert len((await log.describe("a/ü")).end) == 3
        with pytest.raises(SettingsError, match="3 partitions"):
            await log.create(TopicSpec("a/ü", 2))


async def test_of_two_who_create_one_topic_differently_one_wins_for_all(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        results = await asyncio.gather(
            one.create(TopicSpec("t", 1)), two.create(TopicSpec("t", 2)), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "SettingsError"]
        states = [await log.describe("t") for log in (one, two)]
        assert states[0] == states[1]


async def test_stores_of_other_prefixes_do_not_see_the_topics(url: str) -> None:
    async with opened(url) as one, opened(store_url(broker_url())) as two:
        await one.create(TopicSpec("t", 1))
        assert await two.topics() == []
        with pytest.raises(UnknownTopic):
            await two.describe("t")


async def test_retention_is_the_brokers_and_lets_the_oldest_go(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1, retention_bytes=400_000))
        async with asyncio.timeout(60):
            while (await log.describe("t")).first[0] == 0:  # it goes by whole files, as new ones are begun
                await log.append("t", [(0, event("x", body=b"x" * 10_000))] * 10, dedup=False)
        state = await log.describe("t")
        (part,) = await log.read([Want("t", 0, 0, 1)], MANY_BYTES, fresh=True)
        assert part.trimmed is not None
        assert part.trimmed >= state.first[0] > 0
        assert part.events[0].position >= part.trimmed


async def test_a_groups_journal_is_cut_by_the_broker_and_tells_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "KEPT_BYTES", 400_000)
    monkeypatch.setattr(replica, "SNAPSHOT_BYTES", 40_000)
    store = LogBackend(RabbitLog(Settings.parse(url)), clock=SYSTEM_CLOCK)
    await store.open()
    try:
        await store.ensure(TopicSpec("orders", 1))
        member = await store.claim("g", ["orders"], "one", lambda: None, "earliest")
        low = 0
        async with asyncio.timeout(60):
            while (await store._log.describe("nexus.group.g")).first[0] == 0:
                for _ in range(20):
                    low += 1
                    cursor = Cursor(1, low, "x" * 2_000)
                    assert await member.settle([Settlement("orders", 0, cursor)]) == ["ok"]
        late = LogBackend(RabbitLog(Settings.parse(url)), clock=SYSTEM_CLOCK)
        await late.open()
        try:
            (lag,) = await late.lag("g")
            assert (lag.low, lag.owner, lag.state) == (low, "one", "x" * 2_000)
        finally:
            await late.close()
    finally:
        await store.close()


async def test_one_node_promises_what_survives_a_kill(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 2))
        assert (await log.describe("t")).durability == "process"


async def test_trim_does_nothing(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1"))], dedup=False)
        assert not log.capabilities.trim
        await log.trim("t", 0, 1)
        assert await ids(log, "t") == ["1"]


# -- appending --------------------------------------------------------------------------------------------------------


async def test_what_waits_for_the_first_connection_keeps_its_order(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
    async with opened(url) as log:
        calls = [[(0, event(f"{call}-{at}")) for at in range(3)] for call in range(50)]
        await asyncio.gather(*(log.append("t", call, dedup=False) for call in calls))
        assert await ids(log, "t") == [one.id for call in calls for _, one in call]


async def test_no_more_is_on_its_way_than_there_is_room(url: str) -> None:
    async with opened(f"{url}&inflight_events=10") as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("first"))], dedup=False)
        most = 0
        give = log._room.give

        def watch(size: int, events: int) -> None:
            nonlocal most
            most = max(most, log._room.events)
            give(size, events)

        log._room.give = watch  # type: ignore[method-assign]
        await asyncio.gather(*(log.append("t", [(0, event(str(at)))] * 3, dedup=False) for at in range(40)))
        await log.append("t", [(0, event("large"))] * 30, dedup=False)  # larger than the room: alone
        assert most == 30
        found = await ids(log, "t")
        assert found == ["first", *(str(at) for at in range(40) for _ in range(3)), *["large"] * 30]


async def test_room_is_given_in_turn_and_comes_back_from_the_cancelled() -> None:
    room = Room(100, 3)
    assert room.try_take(1, 2)
    waiting = [asyncio.create_task(room.take(1, 2)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not room.try_take(1, 1), "who comes later waits behind"
    waiting[0].cancel()
    room.give(1, 2)
    await waiting[1]
    assert (room.bytes, room.events) == (1, 2)
    room.give(1, 2)
    waiting[2].cancel()  # its turn has come already
    await asyncio.wait(waiting)
    assert (room.bytes, room.events) == (0, 0)
    call = Call(room, 0, 0)
    assert not call.done.done()


async def test_an_event_larger_than_a_frame_is_refused_with_nothing_stored(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        largest = event("largest", body=bytes(log.capabilities.max_body_bytes), source="s" * 1_024)
        await log.append("t", [(0, largest)] * 3, dedup=False)
        too_large = event("x", body=bytes(1 << 20))
        with pytest.raises(PayloadTooLarge):
            await log.append("t", [(0, event("1")), (0, too_large)], dedup=False)
        assert await ids(log, "t") == ["largest"] * 3


async def test_more_partitions_than_a_connection_takes_are_written_and_read(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "SLOTS", 1)  # of four connections
    async with opened(url) as log:
        await log.create(TopicSpec("t", 7))
        for number in range(3):
            for partition in range(7):
                await log.append("t", [(partition, event(f"{number}"))], dedup=False)
        for _ in range(2):
            for partition in range(7):
                assert await ids(log, "t", partition) == ["0", "1", "2"]


async def test_an_unknown_partition_is_an_error(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        for partition in (-1, 1):
            with pytest.raises(SettingsError, match="no partition"):
                await log.append("t", [(partition, event("1"))], dedup=False)
            with pytest.raises(SettingsError, match="no partition"):
                await log.read([Want("t", partition, 0, 1)], 1, fresh=True)


# -- reading ----------------------------------------------------------------------------------------------------------


async def test_reading_on_asks_the_broker_nothing(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        for _ in range(5):
            await log.append("t", [(0, event(str(at))) for at in range(200)], dedup=False)
        (part,) = await log.read([Want("t", 0, 0, 10)], MANY_BYTES, fresh=False)
        assert part.more
        asked: list[int] = []
        request = Connection.raw_request

        async def watch(self: Connection, command: int, body: bytes) -> bytes:
            asked.append(command)
            return await request(self, command, body)

        Connection.raw_request = watch  # type: ignore[method-assign]
        try:
            found = len(part.events)
            news = asyncio.Event()
            log.watch(["t"], news.set)
            async with asyncio.timeout(10):
                while found < 1_000:
                    news.clear()
                    (part,) = await log.read([Want("t", 0, part.next, 10)], MANY_BYTES, fresh=False)
                    found += len(part.events)
                    if not part.events:
                        await news.wait()
        finally:
            Connection.raw_request = request  # type: ignore[method-assign]
        assert [command for command in asked if command != frames.STATS] == []


async def test_two_who_read_one_partition_at_their_own_pace_do_not_disturb_each_other(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event(str(at))) for at in range(100)], dedup=False)
        places = [0, 50]
        for _ in range(5):
            for who, place in enumerate(places):
                (part,) = await log.read([Want("t", 0, place, 10)], MANY_BYTES, fresh=False)
                assert [stored.event.id for stored in part.events] == [str(at) for at in range(place, place + 10)]
                places[who] = part.next
        assert len(log._readers) == 3  # and one for the registry


async def test_what_nobody_reads_is_not_fetched_beyond_the_bound(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LEAST_BUFFER_BYTES", 0)
    async with opened(f"{url}&buffer_bytes=1048576") as log:
        await log.create(TopicSpec("t", 1))
        for _ in range(60):
            await log.append("t", [(0, event("x", body=bytes(100_000)))], dedup=False)
        (part,) = await log.read([Want("t", 0, 0, 1)], MANY_BYTES, fresh=False)
        (held,) = log._readers._readers[stream_of(log.settings.prefix, "t", 0)]
        await until(lambda: held.starved)
        assert held.buffered_bytes <= 1_048_576 + (reader.CREDIT + 1) * 110_000
        assert len(await read_all(log, "t", start=part.next)) == 59


async def test_subscriptions_are_bounded_and_the_least_used_goes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READERS", 4)
    async with opened(url) as log:
        await log.create(TopicSpec("t", 6))
        await log.append("t", [(partition, event(str(at))) for partition in range(6) for at in range(3)], dedup=False)
        for _ in range(2):
            for partition in range(6):
                (part,) = await log.read([Want("t", partition, 0, 1)], MANY_BYTES, fresh=False)
                assert len(part.events) == 1
        assert len(log._readers) <= 4
        wants = [Want("t", partition, 0, 9) for partition in range(6)]
        assert [len(part.events) for part in await log.read(wants, MANY_BYTES, fresh=True)] == [3] * 6


@pytest.fixture
def few_subscriptions(monkeypatch: pytest.MonkeyPatch) -> int:
    """A node that takes few of them; returns how many partitions are far too many."""
    monkeypatch.setattr(Connection, "SLOTS", 4)  # of four connections
    assert (reading.most_readers(), reading.portion()) == (12, 2)
    return 40


async def filled(log: RabbitLog, partitions: int, events: int) -> list[str]:
    await log.create(TopicSpec("t", partitions))
    for partition in range(partitions):
        await log.append("t", [(partition, event(str(at))) for at in range(events)], dedup=False)
    return [str(at) for at in range(events)]


async def test_a_fresh_read_of_more_partitions_than_there_are_subscriptions_is_whole(
    url: str, few_subscriptions: int
) -> None:
    async with opened(url) as log:
        written = await filled(log, few_subscriptions, 3)
        wants = [Want("t", partition, 0, 9) for partition in range(few_subscriptions)]
        both = await asyncio.gather(*(log.read(wants, MANY_BYTES, fresh=True) for _ in range(2)))
        for parts in both:
            assert [part.partition for part in parts] == list(range(few_subscriptions))
            assert [[stored.event.id for stored in part.events] for part in parts] == [written] * few_subscriptions
            assert not any(part.more for part in parts)
        assert len(log._readers) <= reading.most_readers()
        parts = await log.read(wants, 1, fresh=True)
        assert sum(len(part.events) for part in parts) == 1
        assert all(part.more for part in parts), "what the bound on all cut off"
    async with opened(url) as log:
        assert (await log.describe("t")).end == (3,) * few_subscriptions


async def test_each_of_more_partitions_than_there_are_subscriptions_gets_its_turn(
    url: str, few_subscriptions: int
) -> None:
    async with opened(url) as log:
        written = await filled(log, few_subscriptions, 6)

        async def follow() -> None:
            """Read on as a consumer does: what has more is asked for again with all others, in the same order."""
            places = [0] * few_subscriptions
            found: list[list[str]] = [[] for _ in places]
            rounds, more = 0, True
            while more:
                rounds += 1
                wants = [Want("t", partition, place, 2) for partition, place in enumerate(places)]
                more = False
                for part in await log.read(wants, MANY_BYTES, fresh=False):
                    places[part.partition] = part.next
                    found[part.partition] += [stored.event.id for stored in part.events]
                    more |= part.more
                # Those that stand read on; two of the others take the place of some. Two read in this way.
                assert rounds < 10 * few_subscriptions
            assert found == [written] * few_subscriptions

        async with asyncio.timeout(60):
            await asyncio.gather(follow(), follow())
        assert len(log._readers) <= reading.most_readers()


async def test_a_member_of_more_partitions_than_there_are_subscriptions_gets_all(
    url: str, few_subscriptions: int
) -> None:
    store = LogBackend(RabbitLog(Settings.parse(url)), clock=SYSTEM_CLOCK)
    await store.open()
    try:
        await store.ensure(TopicSpec("orders", few_subscriptions))
        member = await store.claim("g", ["orders"], "one", lambda: None, "earliest")
        for partition in range(few_subscriptions):
            await store.append("orders", [(partition, event(f"{partition}"))])
        assert [lag.oldest_at is not None for lag in await store.lag("g")] == [True] * few_subscriptions
        places, found = [0] * few_subscriptions, 0
        async with asyncio.timeout(20):
            while found < few_subscriptions:
                wants = [Want("orders", partition, place, 9) for partition, place in enumerate(places)]
                parts = await member.fetch(wants, MANY_BYTES)
                found += sum(len(part.events) for part in parts)
                places = [part.next for part in parts]
                assert found == few_subscriptions or any(part.more for part in parts)
    finally:
        await store.close()


async def test_partitions_at_their_end_take_no_subscription_from_others(url: str, few_subscriptions: int) -> None:
    async with opened(url) as log, opened(url) as other:
        await filled(log, few_subscriptions, 1)
        wants = [Want("t", partition, 1, 9) for partition in range(few_subscriptions)]
        await log.read([Want("t", partition, 0, 9) for partition in range(few_subscriptions)], MANY_BYTES, fresh=True)
        for _ in range(3):
            standing = {id(one) for readers in log._readers._readers.values() for one in readers}
            parts = await log.read(wants, MANY_BYTES, fresh=False)
            assert not any(part.more or part.events for part in parts)
            assert {id(one) for readers in log._readers._readers.values() for one in readers} >= standing
        rung = asyncio.Event()
        log.watch(["t"], rung.set)
        for partition in range(few_subscriptions):
            await other.append("t", [(partition, event("new"))], dedup=False)
            found: list[str] = []
            async with asyncio.timeout(10):
                while not found:
                    rung.clear()
                    parts = await log.read(wants, MANY_BYTES, fresh=False)
                    found = [stored.event.id for part in parts for stored in part.events]
                    wants = [Want("t", part.partition, part.next, 9) for part in parts]
                    if not found and not any(part.more for part in parts):
                        await rung.wait()
            assert found == ["new"]


async def test_subscriptions_that_were_lost_do_not_count(url: str) -> None:
    async with opened(url) as log:
        await filled(log, 5, 1)
        for _ in range(3):
            for partition in range(5):
                (part,) = await log.read([Want("t", partition, 0, 9)], MANY_BYTES, fresh=True)
                assert len(part.events) == 1
            for readers in log._readers._readers.values():
                for one in readers:
                    one.lost()  # as when a connection breaks
        for partition in range(5):
            await log.read([Want("t", partition, 0, 9)], MANY_BYTES, fresh=True)
        assert len(log._readers) == sum(len(readers) for readers in log._readers._readers.values())


async def test_an_idle_subscription_is_dropped_unless_it_brings_news(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.create(TopicSpec("u", 1))
        for topic in "tu":
            await log.append(topic, [(0, event("1"))], dedup=False)
            await read_all(log, topic)
        log.watch(["t"], lambda: None)
        later = asyncio.get_running_loop().time() + 2 * reading.IDLE_S
        log._readers.drop_idle(later, log._watchers.watched)
        assert list(log._readers._readers) == [stream_of(log.settings.prefix, "t", 0)]
        assert await ids(log, "u") == ["1"]


async def test_a_read_that_was_cancelled_loses_nothing(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 2))
        await log.append("t", [(at % 2, event(str(at))) for at in range(100)], dedup=False)
        for turns in range(12):
            task = asyncio.create_task(log.read([Want("t", 0, 0, 99), Want("t", 1, 0, 99)], MANY_BYTES, fresh=True))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert await ids(log, "t", 0) == [str(at) for at in range(0, 100, 2)]
        assert await ids(log, "t", 1) == [str(at) for at in range(1, 100, 2)]


async def test_a_position_beyond_the_end_reads_empty_until_it_is_there(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        for fresh in (True, False):
            (part,) = await log.read([Want("t", 0, 5, 9)], MANY_BYTES, fresh=fresh)
            assert (list(part.events), part.next, part.more, part.trimmed) == ([], 5, False, None)
        await log.append("t", [(0, event(str(at))) for at in range(8)], dedup=False)
        (part,) = await log.read([Want("t", 0, 5, 9)], MANY_BYTES, fresh=True)
        assert [stored.event.id for stored in part.events] == ["5", "6", "7"]


async def test_another_process_is_seen_at_once_by_a_fresh_read(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        await one.create(TopicSpec("t", 1))
        position = 0
        for number in range(100):
            await one.append("t", [(0, event(str(number)))], dedup=False)
            (part,) = await two.read([Want("t", 0, position, 9)], MANY_BYTES, fresh=True)
            assert [stored.event.id for stored in part.events] == [str(number)]
            position = part.next


async def test_the_brokers_own_records_are_no_gap_and_no_standstill(url: str) -> None:
    """An offset that another program stores is a chunk of its own, which no subscription brings."""
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1"))], dedup=False)
        stream = stream_of(log.settings.prefix, "t", 0)
        connection = await log._links.any()
        for number in range(1, 4):
            _, before = await stats(log, "t")
            body = frames.text("tool") + frames.text(stream) + number.to_bytes(8, "big")
            connection.send(frames.frame(10, body))  # StoreOffset has no answer
            async with asyncio.timeout(10):
                while (await stats(log, "t"))[1] == before:  # noqa: ASYNC110 - the broker tells nobody
                    await asyncio.sleep(0.01)
            state = await log.describe("t")
            (part,) = await log.read([Want("t", 0, state.end[0], 9)], MANY_BYTES, fresh=True)
            assert (list(part.events), part.more, part.trimmed) == ([], False, None)
            await log.append("t", [(0, event(f"{number + 1}"))], dedup=False)
        found = await read_all(log, "t")
        assert [stored.event.id for stored in found] == ["1", "2", "3", "4"]
        assert found[-1].position > 3
        async with opened(url) as other:
            assert [stored.position for stored in await read_all(other, "t")] == [one.position for one in found]


async def test_a_time_is_found_in_the_broker(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        for number in range(5):
            await log.append("t", [(0, event(f"{number}{at}")) for at in range(3)], dedup=False)
            await until_later()
        found = await read_all(log, "t")
        for stored in found:
            first = next(one.position for one in found if one.recorded_at >= stored.recorded_at)
            assert await log.position_at("t", 0, stored.recorded_at) == first
        assert await log.position_at("t", 0, found[-1].recorded_at + 0.001) == found[-1].position + 1
        assert await log.position_at("t", 0, 0) == 0


async def until_later() -> None:
    start = datetime.now(UTC).timestamp()
    while datetime.now(UTC).timestamp() < start + 0.004:  # noqa: ASYNC110 - it is time that is watched
        await asyncio.sleep(0.001)


# -- news -------------------------------------------------------------------------------------------------------------


async def test_news_of_others_come_whether_or_not_anybody_reads(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        await one.create(TopicSpec("t", 2))
        rung = asyncio.Event()
        two.watch(["t"], rung.set)
        for number in range(10):
            rung.clear()
            await one.append("t", [(number % 2, event(str(number)))], dedup=False)
            async with asyncio.timeout(1.0):  # 0.25 s are promised; the machine may be loaded
                await rung.wait()
            if number == 4:
                await read_all(two, "t", 0)


async def test_a_topic_may_be_watched_before_it_is_there(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        rung = asyncio.Event()
        two.watch(["t"], rung.set)
        await one.create(TopicSpec("t", 1))
        await one.append("t", [(0, event("1"))], dedup=False)
        async with asyncio.timeout(1.5):
            await rung.wait()


# -- others -----------------------------------------------------------------------------------------------------------


def rstream_options(settings: Settings) -> dict[str, Any]:
    host, port = settings.addresses[0]
    return {"host": host, "port": port, "username": "guest", "password": "guest", "vhost": settings.vhost}


async def test_another_program_reads_our_events_and_we_read_its_records(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1", body=b'{"a": 1}', key="k"))], dedup=False)
        stream = stream_of(log.settings.prefix, "t", 0)
        async with Producer(**rstream_options(log.settings)) as producer:
            await producer.send_wait(stream, AMQPMessage(body=b"theirs", application_properties={"x": "y"}))
            await producer.send_wait(stream, b"no message at all")
        found = [stored.event for stored in await read_all(log, "t")]
        assert [one.type for one in found] == ["order.placed", *["nexus.foreign.record"] * 2]
        assert [one.body for one in found[1:]] == [b"theirs", b"no message at all"]

        seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def take(message: Any, context: Any) -> None:
            if not seen.done():
                seen.set_result(message)

        consumer = Consumer(**rstream_options(log.settings))
        await consumer.start()
        await consumer.subscribe(
            stream, take, decoder=amqp_decoder, offset_specification=ConsumerOffsetSpecification(OffsetType.FIRST, None)
        )
        async with asyncio.timeout(10):
            theirs = await seen
        await consumer.close()
        assert theirs.application_properties[b"cloudEvents:partitionkey"] == b"k"
        assert theirs.properties.content_type == b"application/json"
        assert theirs.body == b'{"a": 1}'


# -- life -------------------------------------------------------------------------------------------------------------


async def test_closing_sends_what_is_under_way(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("first"))], dedup=False)
        task = asyncio.create_task(log.append("t", [(0, event(str(at))) for at in range(500)], dedup=False))
        await asyncio.sleep(0)
        await log.close()
        assert len(await task) == 500
        with pytest.raises(Closed):
            await log.append("t", [(0, event("late"))], dedup=False)
    async with opened(url) as log:
        assert len(await ids(log, "t")) == 501


async def test_a_wrong_password_or_virtual_host_says_so(url: str) -> None:
    address = url.rpartition("@")[2]
    with pytest.raises(SettingsError, match="login"):
        await RabbitLog(Settings.parse(f"rabbitmq://somebody@{address}", {"password": "wrong"})).open()
    with pytest.raises(SettingsError, match="virtual host"):
        await RabbitLog(Settings.parse(url.replace("/?", "/nowhere?"))).open()


async def test_a_broker_that_is_not_there_is_unavailable_in_time() -> None:
    log = RabbitLog(Settings.parse("rabbitmq://guest:guest@127.0.0.1/?stream_port=1&timeout_s=0.3"))
    with pytest.raises(Unavailable, match="no connection to"):
        async with asyncio.timeout(5):
            await log.open()


async def test_frames_are_cut_to_what_the_broker_takes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "FRAME_MESSAGES", 7)
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        batch = [(0, event(str(at), body=bytes(300_000 if at % 5 == 0 else 10))) for at in range(50)]
        await log.append("t", batch, dedup=False)
        assert await ids(log, "t") == [str(at) for at in range(50)]


async def test_a_stream_that_an_operator_deleted_is_an_unknown_topic(url: str) -> None:
    async with opened(f"{url}&timeout_s=3") as log:
        await log.create(TopicSpec("t", 1))
        await log.append("t", [(0, event("1"))], dedup=False)
        await read_all(log, "t")
        connection = await log._links.any()
        stream = stream_of(log.settings.prefix, "t", 0)
        await connection.request(frames.DELETE, frames.text(stream), stream)
        await until(lambda: log._outlets.ready(stream) is None)
        with pytest.raises(UnknownTopic):
            await log.append("t", [(0, event("2"))], dedup=False)
        with pytest.raises(UnknownTopic):
            await log.read([Want("t", 0, 0, 1)], MANY_BYTES, fresh=True)
        with pytest.raises(Refused):
            await connection.request(frames.STATS, frames.text(stream), stream)


async def test_a_stream_that_an_operator_deleted_is_made_again_with_its_topic(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 2))
        await log.append("t", [(0, event("1")), (1, event("2"))], dedup=False)
        connection = await log._links.any()
        await connection.request(frames.DELETE, frames.text(stream_of(log.settings.prefix, "t", 0)))
    async with opened(url) as log:
        await log.create(TopicSpec("t", 2))
        await log.append("t", [(0, event("3"))], dedup=False)
        assert [await ids(log, "t", partition) for partition in range(2)] == [["3"], ["2"]]


async def test_who_wants_one_old_record_is_not_sent_all_that_stands_above_it(url: str) -> None:
    async with opened(url) as log:
        await log.create(TopicSpec("t", 1))
        for at in range(300):
            await log.append("t", [(0, event(str(at), body=b"x" * 1_000))], dedup=False)
    async with opened(url) as log:
        (part,) = await log.read([Want("t", 0, 5, 1)], MANY_BYTES, fresh=True)
        assert [stored.position for stored in part.events] == [5]
        await read_all(log, "t")  # by another subscription, so that what was under way has come
        (first, *_) = log._readers._readers[log._streams["t"][0]]
        assert first.buffered_bytes < 2 * reader.FIRST_AHEAD_BYTES + 8 * 1_200
