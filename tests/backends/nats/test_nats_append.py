"""Appending on a real server: order, duplicates, batches, bounds, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from nats_help import all_of, api, event, ids, opened, plain, read, served, until, url

from nexus.backends.nats import NatsLog
from nexus.errors import Closed, InvalidEvent, PayloadTooLarge, StoreFull, Unavailable, UnknownTopic
from nexus.spi.backend import Appended, TopicSpec

ORDERS = TopicSpec("orders", 4)
JOURNAL = TopicSpec("journal", 1, dedup=False)
WAYS = ["", "atomic_events=2", "storage=memory"]


@pytest.mark.parametrize("options", WAYS)
async def test_answers_name_the_places_and_the_order_is_kept(options: str) -> None:
    async with opened(ORDERS, options=options) as log:
        answers = await log.append("orders", [(n % 4, event(n)) for n in range(300)], dedup=True)
        for partition in range(4):
            stored = await all_of(log, "orders", partition)
            assert [each.event.id for each in stored] == [str(n) for n in range(partition, 300, 4)]
            assert [Appended(partition, each.position) for each in stored] == answers[partition::4]


@pytest.mark.parametrize("options", WAYS)
async def test_calls_that_nobody_awaited_yet_keep_their_order(options: str) -> None:
    async with opened(ORDERS, options=options) as log:
        calls = [
            log.append("orders", [(0, event(f"{n}-{k}")) for k in range(n % 3 + 1)], dedup=True) for n in range(200)
        ]
        await asyncio.gather(*map(asyncio.ensure_future, calls))
        assert await ids(log, "orders") == [f"{n}-{k}" for n in range(200) for k in range(n % 3 + 1)]


@pytest.mark.parametrize("options", WAYS)
async def test_a_duplicate_is_answered_with_its_first_place(options: str) -> None:
    async with opened(ORDERS, options=options) as log:
        (first,) = await log.append("orders", [(2, event("a"))], dedup=True)
        assert await log.append("orders", [(1, event("a"))], dedup=True) == [Appended(2, first.position, True)]
        mixed = [(0, event("b")), (1, event("a")), (0, event("b")), (0, event("c")), (3, event("a"))]
        answers = await log.append("orders", mixed, dedup=True)
        assert [answer.duplicate for answer in answers] == [False, True, True, False, True]
        assert answers[1] == answers[4] == Appended(2, first.position, True)
        assert answers[2].position == answers[0].position
        assert await ids(log, "orders") == ["b", "c"]
        assert await ids(log, "orders", 1) == await ids(log, "orders", 3) == []


@pytest.mark.parametrize("options", WAYS)
async def test_a_batch_of_nothing_but_duplicates_stores_nothing(options: str) -> None:
    async with opened(ORDERS, options=options) as log:
        batch = [(0, event(n)) for n in range(50)]
        first = await log.append("orders", batch, dedup=True)
        again = await log.append("orders", batch, dedup=True)
        assert again == [Appended(0, answer.position, True) for answer in first]
        assert len(await ids(log, "orders")) == 50


async def test_the_window_of_duplicates_is_that_of_the_settings() -> None:
    async with opened(ORDERS, JOURNAL, options="dedup_s=77&timeout_s=20") as log, plain() as client:
        for topic, seconds in (("orders", 77), ("journal", 40)):
            config = (await api(client, f"STREAM.INFO.{log._names_of(topic).stream}"))["config"]
            assert config["duplicate_window"] == seconds * 10**9


async def test_the_same_event_in_another_topic_or_store_is_another() -> None:
    async with opened(ORDERS, TopicSpec("other", 1)) as one, opened(ORDERS) as two:
        for log, topic in ((one, "orders"), (one, "other"), (two, "orders")):
            assert not (await log.append(topic, [(0, event("a"))], dedup=True))[0].duplicate


@pytest.mark.parametrize("options", WAYS)
async def test_a_journal_takes_the_same_event_again(options: str) -> None:
    async with opened(JOURNAL, options=options) as log:
        for _ in range(3):
            answers = await log.append("journal", [(0, event("a")), (0, event("a"))], dedup=False)
            assert not any(answer.duplicate for answer in answers)
        assert await ids(log, "journal") == ["a"] * 6


@pytest.mark.parametrize("options", ["", "storage=memory"])
async def test_more_than_one_batch_of_the_server_is_sent_in_order(options: str) -> None:
    async with opened(ORDERS, options=options) as log:
        answers = await log.append("orders", [(n % 2, event(n)) for n in range(2_500)], dedup=True)
        positions = [answer.position or 0 for answer in answers]
        assert positions == sorted(set(positions))
        assert await ids(log, "orders", 1) == [str(n) for n in range(1, 2_500, 2)]


async def test_a_server_that_takes_fewer_at_once_gets_fewer() -> None:
    async with opened(ORDERS, options="atomic_events=2") as log:
        log._flight.batch_events = 1_500  # more than the server takes: it says so
        await log.append("orders", [(0, event(n)) for n in range(1_500)], dedup=True)
        assert log._flight.batch_events <= 1_000
        assert await ids(log, "orders") == [str(n) for n in range(1_500)]


@pytest.mark.parametrize("options", WAYS)
async def test_appends_of_several_logs_at_once_are_all_stored_in_order(options: str) -> None:
    async with opened(ORDERS, options=options) as one, opened(prefix=one.settings.prefix, keep=True) as two:
        logs = [one, two]
        await asyncio.gather(
            *(
                logs[call % 2].append("orders", [(0, event(f"{call}-{n}")) for n in range(30)], dedup=True)
                for call in range(20)
            )
        )
        found = await ids(one, "orders")
        assert len(found) == 600
        for call in range(20):
            assert [id for id in found if id.startswith(f"{call}-")] == [f"{call}-{n}" for n in range(30)]


async def test_the_largest_body_is_taken_and_a_larger_one_refused() -> None:
    async with opened(ORDERS) as log:
        most = log.capabilities.max_body_bytes
        with pytest.raises(PayloadTooLarge) as caught:
            await log.append("orders", [(0, event("a")), (0, event("b", bytes(most + 1)))], dedup=True)
        assert caught.value.index == 1
        with pytest.raises(PayloadTooLarge):
            await log.append("orders", [(0, event("c", bytes(most), extensions={"x": "y" * 70_000}))], dedup=True)
        assert await ids(log, "orders") == []
        await log.append("orders", [(0, event("d", bytes(most))), (0, event("e"))], dedup=True)
        assert [len(each.event.body) for each in await all_of(log, "orders")] == [most, 7]


async def test_an_unknown_topic_and_a_partition_below_zero_are_refused() -> None:
    async with opened(ORDERS) as log:
        with pytest.raises(UnknownTopic):
            await log.append("nothing", [(0, event("a"))], dedup=True)
        with pytest.raises(InvalidEvent):
            await log.append("orders", [(-1, event("a"))], dedup=True)
        assert await log.topics() == ["orders"]
        assert await log.append("orders", [], dedup=True) == []


async def test_a_topic_that_was_removed_is_unknown_from_then_on() -> None:
    async with opened(ORDERS) as log, plain() as client:
        await log.append("orders", [(0, event("a"))], dedup=True)
        await api(client, f"STREAM.DELETE.{log._names_of('orders').stream}")
        with pytest.raises(UnknownTopic):
            await log.append("orders", [(0, event("b"))], dedup=True)
        with pytest.raises(UnknownTopic):
            await read(log, "orders")
        await log.create(ORDERS)
        await log.append("orders", [(0, event("c"))], dedup=True)
        assert await ids(log, "orders") == ["c"]


async def test_a_full_store_says_so_and_goes_on_reading(tmp_path: Path) -> None:
    async with (
        served(tmp_path, lambda server: server.jetstream(", max_file_store: 1MB")) as server,
        opened(ORDERS, servers=server.address) as log,
    ):
        stored = 0

        async def fill() -> None:
            nonlocal stored
            while True:
                await log.append("orders", [(0, event(stored, bytes(50_000)))], dedup=True)
                stored += 1

        with pytest.raises(StoreFull):
            await fill()
        assert 10 < stored < 25
        assert len(await ids(log, "orders")) == stored


async def test_what_waits_is_bounded_and_keeps_its_order() -> None:
    async with opened(ORDERS, options="pending_bytes=5000") as log:
        outbox = log._outbox("orders")
        calls = [
            asyncio.ensure_future(log.append("orders", [(0, event(n, bytes(1_000)))], dedup=True)) for n in range(100)
        ]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, outbox.queued_bytes)
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        assert 4_000 < most < 5_000 + 2_000
        assert await ids(log, "orders") == [str(n) for n in range(100)]
        assert outbox.queued_bytes == 0


async def test_calls_that_were_cancelled_keep_the_order_of_the_others() -> None:
    async with opened(ORDERS, options="pending_bytes=3000") as log:
        calls = [
            asyncio.ensure_future(log.append("orders", [(0, event(n, bytes(500)))], dedup=True)) for n in range(60)
        ]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        await asyncio.wait(calls)
        found = [int(id) for id in await ids(log, "orders")]
        assert found == sorted(found)
        assert {n for n in range(60) if n % 3} <= set(found)


@pytest.mark.parametrize("options", WAYS)
async def test_an_append_whose_answer_is_lost_is_stored_once(options: str) -> None:
    """The first answers of each append are thrown away: what is sent again must be recognised, in journals too."""
    async with opened(ORDERS, JOURNAL, options=options) as log:
        connection = log._connection
        arrivals = connection._client.arrivals
        inbox = next(iter(connection._subjects))
        take = arrivals[inbox]
        to_lose = 0

        def forgetful(subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
            nonlocal to_lose
            if to_lose:
                to_lose -= 1
                connection._waiting.pop(subject[len(connection._inbox) :]).set_result(None)
            else:
                take(subject, reply, headers, data)

        arrivals[inbox] = forgetful
        for topic, dedup in (("orders", True), ("journal", False)):
            for count in (1, 2, 20):
                to_lose = 3
                batch = [(0, event(f"{count}-{n}")) for n in range(count)]
                answers = await log.append(topic, batch, dedup=dedup)
                assert to_lose == 0
                positions = [answer.position or 0 for answer in answers]
                assert positions == sorted(set(positions))
                assert dedup or not any(answer.duplicate for answer in answers)
            assert await ids(log, topic) == [f"{count}-{n}" for count in (1, 2, 20) for n in range(count)]


async def test_a_closed_log_sends_what_was_given_and_takes_nothing_more() -> None:
    async with opened(ORDERS) as log:
        other = NatsLog(url(log.settings.prefix))
        await other.open()
        calls = [asyncio.ensure_future(other.append("orders", [(0, event(n))], dedup=True)) for n in range(50)]
        await asyncio.sleep(0)
        await other.close()
        await other.close()
        await asyncio.gather(*calls)
        assert len(await ids(log, "orders")) == 50
        with pytest.raises(Closed):
            await other.append("orders", [(0, event("x"))], dedup=True)
        with pytest.raises(Closed):
            await other.describe("orders")


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    log = NatsLog("nats://127.0.0.1:1/?connect_s=0.3")
    with pytest.raises(Unavailable):
        await log.open()
    with pytest.raises(Closed):
        await log.append("orders", [(0, event("x"))], dedup=True)


async def test_outboxes_that_rest_are_let_go_of() -> None:
    async with opened(ORDERS) as log:
        await log.append("orders", [(0, event("a"))], dedup=True)
        assert log._outboxes
        await until(lambda: not log._outboxes)
        await log.append("orders", [(0, event("b"))], dedup=True)
        assert await ids(log, "orders") == ["a", "b"]
