"""The server killed, frozen and started again under load: nothing acknowledged is lost, the order stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from nats_help import MANY, all_of, event, ids, opened, plain, read, served, until

from nexus.backends.nats import flight
from nexus.errors import Unavailable, UnknownOutcome
from nexus.spi.backend import TopicSpec, Want

ORDERS = TopicSpec("orders", 2)
JOURNAL = TopicSpec("journal", 1, dedup=False)


async def follow(log, topic: str, partition: int, found: list[str], positions: list[int]) -> None:  # type: ignore[no-untyped-def]
    """Read a partition as it grows, as a consumer does."""
    news = asyncio.Event()
    log.watch([topic], news.set)
    position = 0
    while True:
        news.clear()
        try:
            (answer,) = await log.read([Want(topic, partition, position, 100)], MANY, fresh=False)
        except Unavailable:
            continue
        found += [stored.event.id for stored in answer.events]
        positions += [stored.position for stored in answer.events]
        position = answer.next
        if not answer.events:
            await news.wait()


@pytest.mark.parametrize("options", ["", "atomic_events=2"])
async def test_a_server_killed_three_times_loses_and_reorders_nothing(tmp_path: Path, options: str) -> None:
    async with served(tmp_path) as server, opened(ORDERS, JOURNAL, servers=server.address, options=options) as log:
        found: list[str] = []
        positions: list[int] = []
        reading = asyncio.create_task(follow(log, "orders", 0, found, positions))
        acked: dict[str, list[str]] = {"orders": [], "journal": []}
        stop = False

        async def produce(topic: str, dedup: bool) -> None:
            number = 0
            while not stop:
                calls = []
                for size in (1, 3, 1, 12):
                    batch = [(0, event(f"{number}-{k}")) for k in range(size)]
                    calls.append((batch, asyncio.ensure_future(log.append(topic, batch, dedup=dedup))))
                    number += 1
                for batch, call in calls:
                    answers = await call
                    assert dedup or not any(answer.duplicate for answer in answers)
                    acked[topic] += [each.id for _, each in batch]

        producers = [asyncio.create_task(produce("orders", True)), asyncio.create_task(produce("journal", False))]
        for _ in range(3):
            before = len(acked["orders"])
            await until(lambda before=before: len(acked["orders"]) > before + 200)
            await server.stop()
            await until(lambda: not log._connection.up)
            await server.start()
            await until(lambda: log._connection.up, 10)
        stop = True
        await asyncio.gather(*producers)
        await until(lambda: len(found) >= len(acked["orders"]))
        reading.cancel()
        await asyncio.wait([reading])
        assert found == acked["orders"]
        assert positions == sorted(set(positions))
        assert await ids(log, "orders") == acked["orders"]
        assert await ids(log, "journal") == acked["journal"]


async def test_appends_wait_for_a_server_that_is_away_and_then_give_up(tmp_path: Path) -> None:
    options = "timeout_s=1&dedup_s=10"
    async with served(tmp_path) as server, opened(ORDERS, servers=server.address, options=options) as log:
        await log.append("orders", [(0, event("before"))], dedup=True)
        await server.stop()
        await until(lambda: not log._connection.up)
        calls = [asyncio.ensure_future(log.append("orders", [(0, event(n))], dedup=True)) for n in range(3)]
        reading = asyncio.ensure_future(read(log, "orders"))
        await asyncio.wait([*calls, reading])
        assert all(isinstance(call.exception(), Unavailable) for call in calls)  # nothing was sent
        assert isinstance(reading.exception(), Unavailable)
        await server.start()
        await until(lambda: log._connection.up)
        await log.append("orders", [(0, event("after"))], dedup=True)
        assert await ids(log, "orders") == ["before", "after"]  # what was given up did not land


async def test_a_frozen_server_leaves_the_outcome_unknown_and_a_second_try_safe(tmp_path: Path) -> None:
    options = "timeout_s=1&dedup_s=60"
    async with served(tmp_path) as server, opened(ORDERS, servers=server.address, options=options) as log:
        await log.append("orders", [(0, event("before"))], dedup=True)
        await server.freeze()
        with pytest.raises(UnknownOutcome):
            await log.append("orders", [(0, event("x"))], dedup=True)
        server.thaw()
        await log.append("orders", [(0, event("x"))], dedup=True)
        assert await ids(log, "orders") == ["before", "x"]


@pytest.mark.parametrize("topic", ["orders", "journal"])
async def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topic: str
) -> None:
    monkeypatch.setattr(flight, "ANSWER_S", 0.3)
    async with served(tmp_path) as server, opened(ORDERS, JOURNAL, servers=server.address) as log:
        dedup = topic == "orders"
        await log.append(topic, [(0, event("before"))], dedup=dedup)
        ended = asyncio.Event()
        go = log._flight.go

        async def watched(*given: Any) -> None:
            try:
                await go(*given)
            finally:
                ended.set()

        log._flight.go = watched  # type: ignore[method-assign]
        await server.freeze()
        flying = asyncio.ensure_future(log.append(topic, [(0, event(n)) for n in range(3)], dedup=dedup))
        await until(lambda: bool(log._connection._waiting))
        queued = asyncio.ensure_future(log.append(topic, [(0, event("queued"))], dedup=dedup))
        async with asyncio.timeout(10):
            await ended.wait()
        server.thaw()
        await flying
        await queued
        assert await ids(log, topic) == ["before", "0", "1", "2", "queued"]
        assert not log._connection._waiting


async def test_an_outbox_that_ended_unexpectedly_gives_its_room_back_and_goes_on() -> None:
    async with opened(ORDERS) as log:
        await log.append("orders", [(0, event("before"))], dedup=True)
        go = log._flight.go
        entered, leave = asyncio.Event(), asyncio.Event()

        async def broken(*given: Any) -> None:
            log._flight.go = go  # type: ignore[method-assign]
            entered.set()
            await leave.wait()
            raise asyncio.CancelledError

        log._flight.go = broken  # type: ignore[method-assign]
        calls = [asyncio.ensure_future(log.append("orders", [(0, event("x"))], dedup=True))]
        await entered.wait()
        calls.append(asyncio.ensure_future(log.append("orders", [(0, event("y"))], dedup=True)))
        (outbox,) = log._outboxes.values()
        await until(lambda: len(outbox._calls) == 1)
        leave.set()
        await asyncio.wait(calls)
        # The first was under way; the second was never sent.
        assert [type(call.exception()) for call in calls] == [UnknownOutcome, Unavailable]
        assert outbox.queued_bytes == 0
        await log.append("orders", [(0, event("after"))], dedup=True)
        assert await ids(log, "orders") == ["before", "after"]


async def test_duplicates_are_known_after_a_restart(tmp_path: Path) -> None:
    async with served(tmp_path) as server, opened(ORDERS, servers=server.address) as log:
        (first,) = await log.append("orders", [(1, event("a"))], dedup=True)
        await server.stop()
        await until(lambda: not log._connection.up)
        await server.start()
        (again,) = await log.append("orders", [(0, event("a"))], dedup=True)
        assert (again.partition, again.position, again.duplicate) == (1, first.position, True)


async def test_news_and_trims_are_heard_again_after_a_restart(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as server,
        opened(ORDERS, servers=server.address) as log,
        opened(prefix=log.settings.prefix, servers=server.address, keep=True) as other,
    ):
        answers = await log.append("orders", [(0, event(n)) for n in range(10)], dedup=True)
        news = asyncio.Event()
        log.watch(["orders"], news.set)
        slow = await read(log, "orders", 0, 0, 1)
        await server.stop()
        await until(lambda: not log._connection.up and not other._connection.up)
        await server.start()
        await until(lambda: log._connection.up and other._connection.up)
        async with asyncio.timeout(1):
            await news.wait()  # nobody knows what was missed
        news.clear()
        await other.append("orders", [(1, event("x"))], dedup=True)
        async with asyncio.timeout(0.25):
            await news.wait()
        await other.trim("orders", 0, answers[5].position or 0)
        after = await read(log, "orders", 0, slow.next)
        assert after.trimmed == answers[5].position
        assert len(after.events) == 5


async def test_a_connection_that_is_cut_in_the_middle_of_a_flight_stores_each_event_once(tmp_path: Path) -> None:
    async with served(tmp_path) as server, opened(ORDERS, JOURNAL, servers=server.address) as log:
        for turn in range(10):
            calls = [
                asyncio.ensure_future(log.append(topic, [(0, event(f"{turn}-{n}")) for n in range(40)], dedup=dedup))
                for topic, dedup in (("orders", True), ("journal", False))
            ]
            for _ in range(turn):
                await asyncio.sleep(0)
            log._connection._client._transport._io_writer.transport.abort()
            await asyncio.gather(*calls)
        for topic in ("orders", "journal"):
            assert await ids(log, topic) == [f"{turn}-{n}" for turn in range(10) for n in range(40)]


async def test_another_program_sees_every_acknowledged_event_in_the_file(tmp_path: Path) -> None:
    async with served(tmp_path) as server, opened(ORDERS, servers=server.address, keep=True) as log:
        await log.append("orders", [(0, event(n)) for n in range(100)], dedup=True)
        await server.stop()
        await server.start()
        async with plain(server.address) as client:
            info = await client.jetstream().stream_info(log._names_of("orders").stream)
            assert info.state.messages == 100
        assert len(await all_of(log, "orders")) == 100
