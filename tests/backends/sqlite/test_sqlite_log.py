"""Appending, reading, finding, trimming: what a single process sees of a topic."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_help import NOON, all_of, event, opened, until

from nexus.backends.sqlite import SqliteBackend, backend
from nexus.backends.sqlite.log import Shape, locate, seq_at_time
from nexus.backends.sqlite.reader import Reader
from nexus.errors import Closed, IdConflict, PayloadTooLarge, Sealed, SettingsError, StoreFull, UnknownTopic
from nexus.spi.backend import Appended, TopicSpec, Want

ORDERS = TopicSpec("orders", 4)


class Virtual:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.time = now

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


async def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    sent = event(
        "1", b"\x00\xff" * 10, tenant="t", subject="s", correlationid="c", causationid="d", datacontenttype="x/y",
        dataschema="u", expirytime=NOON, traceparent="p", tracestate="q", extensions={"a": 1, "b": True, "c": "x"},
    )  # fmt: skip
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        assert await store.append("orders", [(2, sent)]) == [Appended(2, 0)]
        found = (await store.read([Want("orders", 2, 0, 10)], 1 << 20))[0]
        assert [stored.event for stored in found.events] == [sent]
        assert (found.next, found.more, found.trimmed) == (1, False, None)
        assert found.events[0].size > len(sent.body)


async def test_a_second_opening_finds_everything_and_goes_on(tmp_path: Path) -> None:
    for turn in range(3):
        async with opened(tmp_path / "bus.db", ORDERS) as store:
            answers = await store.append("orders", [(n % 4, event(f"{turn}-{n}")) for n in range(1_000)])
            assert answers[0] == Appended(0, turn * 250)
            assert (await store.describe("orders")).end == (250 * (turn + 1),) * 4
    async with opened(tmp_path / "bus.db") as store:
        for partition, found in enumerate(await all_of(store, "orders", 4)):
            assert [stored.event.id for stored in found] == [
                f"{t}-{n}" for t in range(3) for n in range(partition, 1_000, 4)
            ]
            assert [stored.position for stored in found] == list(range(750))


async def test_the_same_id_with_the_same_content_is_answered_with_its_first_place(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.append("orders", [(0, event("a")), (1, event("b"))])
        again = await store.append("orders", [(1, event("b")), (0, event("c")), (0, event("c")), (0, event("a", b"2"))])
        assert again[:3] == [Appended(1, 0, True), Appended(0, 1), Appended(0, 1, True)]
        assert isinstance(again[3], IdConflict)
        assert "partition 0, position 0" in str(again[3])
        assert await store.append("orders", [(0, event("a", source="/other"))]) == [Appended(0, 2)]
        assert (await store.describe("orders")).end == (3, 1, 0, 0)


async def test_a_trimmed_event_is_still_known_by_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.append("orders", [(0, event(n)) for n in range(10)])
        await store.trim("orders", 0, 10)
        answers = await store.append("orders", [(0, event(4)), (0, event(5, b"other"))])
        assert answers[0] == Appended(0, 4, True)
        assert isinstance(answers[1], IdConflict)


async def test_ids_are_remembered_for_the_window_and_then_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1), options="dedup_ids=1000") as store:
        await store.append("orders", [(0, event(n)) for n in range(200)])
        for start in range(200, 1_100, 100):
            await store.append("orders", [(0, event(n)) for n in range(start, start + 100)])
        assert (await store.append("orders", [(0, event(150))]))[0] == Appended(0, 150, True)
        for start in range(1_100, 6_000, 100):
            await store.append("orders", [(0, event(n)) for n in range(start, start + 100)])
            # Within the last thousand none may be forgotten.
            assert (await store.append("orders", [(0, event(start - 800))]))[0].duplicate  # type: ignore[union-attr]
        assert (await store.append("orders", [(0, event(150))]))[0] == Appended(0, 6_000)
    async with opened(tmp_path / "bus.db", options="dedup_ids=1000") as store:
        assert (await store.append("orders", [(0, event(5_900))]))[0] == Appended(0, 5_900, True)


async def test_ids_whose_numbers_collide_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus.backends.sqlite.append.id_number", lambda source, id: 7)
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        assert await store.append("orders", [(0, event("a"))]) == [Appended(0, 0)]
        assert await store.append("orders", [(0, event("b")), (0, event("c"))]) == [Appended(0, 1), Appended(0, 2)]
        again = await store.append("orders", [(0, event(id)) for id in "cab"])
        assert again == [Appended(0, 2, True), Appended(0, 0, True), Appended(0, 1, True)]


async def test_a_topic_without_dedup_takes_the_same_event_twice(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("journal", 1, dedup=False)) as store:
        assert await store.append("journal", [(0, event("a")), (0, event("a"))]) == [Appended(0, 0), Appended(0, 1)]


async def test_many_at_once_share_commits_and_keep_each_callers_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:

        async def publish(who: int) -> list[int | None]:
            places = []
            for n in range(30):
                answer = (await store.append("orders", [(who % 4, event(f"{who}-{n}"))]))[0]
                assert isinstance(answer, Appended)
                places.append(answer.position)
            return places

        for places in await asyncio.gather(*[publish(who) for who in range(40)]):
            assert places == sorted(places)  # type: ignore[type-var]
        ids = [stored.event.id for found in await all_of(store, "orders", 4) for stored in found]
        assert len(ids) == len(set(ids)) == 1_200


async def test_a_failing_call_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.append("orders", [(0, event("a"))])
        await store.seal("orders", 3)
        answers = await asyncio.gather(
            store.append("orders", [(0, event("b"))]),
            store.append("orders", [(0, event("x")), (3, event("y"))]),
            store.append("nowhere", [(0, event("z"))]),
            store.append("orders", [(0, event("a", b"other"))]),
            store.append("orders", [(9, event("z"))]),
            store.append("orders", [(-1, event("z"))]),
            store.append("orders", [(1, event("c"))]),
            return_exceptions=True,
        )
        assert answers[0] == [Appended(0, 1)]
        assert answers[6] == [Appended(1, 0)]
        assert [type(answer) for answer in answers[1:6]] == [Sealed, UnknownTopic, list, UnknownTopic, UnknownTopic]
        assert isinstance(answers[3][0], IdConflict)  # type: ignore[index]
        assert (await store.describe("orders")).end == (2, 1, 0, 0)


async def test_too_large_a_body_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        with pytest.raises(PayloadTooLarge):
            await store.append("orders", [(0, event("a", bytes(backend.MAX_BODY_BYTES + 1)))])
        assert await store.append("orders", [(0, event("a", bytes(3_000_000)))]) == [Appended(0, 0)]


async def test_a_full_queue_makes_callers_wait_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "QUEUE_EVENTS", 10)
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1)) as store:
        most = 0

        async def publish(n: int) -> None:
            nonlocal most
            await store.append("orders", [(0, event(n))])
            most = max(most, store._waiting_events)

        tasks = [asyncio.ensure_future(publish(n)) for n in range(300)]
        await asyncio.sleep(0)
        for n in range(50, 100):  # those that are cancelled while they wait store nothing
            tasks[n].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 10
        ids = [int(stored.event.id) for stored in (await all_of(store, "orders", 1))[0]]
        assert ids == [*range(50), *range(100, 300)]


async def test_a_cancelled_append_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1)) as store:
        task = asyncio.ensure_future(store.append("orders", [(0, event(n)) for n in range(50)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.append("orders", [(0, event("last"))])
        assert (await store.describe("orders")).end[0] in (1, 51)


async def test_a_read_gives_the_first_event_however_large_and_stops_at_its_bounds(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.append("orders", [(n % 2, event(n, bytes(10_000))) for n in range(20)])
        one, other = await store.read([Want("orders", 0, 0, 10), Want("orders", 1, 0, 10)], 100)
        assert (len(one.events), one.next, one.more) == (1, 1, True)
        assert (len(other.events), other.next, other.more) == (0, 0, True)
        found = await store.read([Want("orders", 0, 8, 100), Want("orders", 1, 0, 3), Want("orders", 0, 0, 2)], 1 << 20)
        assert [[e.position for e in part.events] for part in found] == [[8, 9], [0, 1, 2], [0, 1]]
        assert [part.more for part in found] == [False, True, True]
        assert (await store.read([Want("orders", 2, 0, 10), Want("orders", 0, 99, 5)], 100))[1].next == 99
        with pytest.raises(UnknownTopic):
            await store.read([Want("nowhere", 0, 0, 1)], 100)


async def test_a_lone_event_of_a_quiet_partition_is_found_behind_many_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        for turn in range(4):
            await store.append("orders", [(3, event(f"rare-{turn}"))])
            await store.append("orders", [(n % 2, event(f"{turn}-{n}")) for n in range(3_000)])
        for position in range(4):
            found = await store.read([Want("orders", 3, position, 1), Want("orders", 0, 5_999, 1)], 1 << 20)
            assert [e.event.id for e in found[0].events] == [f"rare-{position}"]
            assert [e.position for e in found[1].events] == [5_999]


async def test_a_time_is_found_by_bisection_and_never_runs_backwards(tmp_path: Path) -> None:
    clock = Virtual(1_000.0)
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2), clock) as store:
        for n in range(100):
            await store.append("orders", [(n % 2, event(n))])
            clock.time += -500.0 if n == 50 else 1.0
        times = [stored.recorded_at for stored in (await all_of(store, "orders", 2))[0]]
        assert times == sorted(times)
        assert times[0] == 1_000.0
        assert await store.position_at("orders", 0, 0.0) == 0
        assert await store.position_at("orders", 0, 1_010.0) == 5
        assert await store.position_at("orders", 1, 1_010.0) == 5
        assert await store.position_at("orders", 1, 1_009.5) == 5
        assert await store.position_at("orders", 0, 1_009.0) == 5
        assert await store.position_at("orders", 1, 1e12) == 50


async def test_places_and_times_are_found_without_looking_at_every_row(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1)) as store:
        for start in range(0, 60_000, 2_000):
            await store.append("orders", [(0, event(n)) for n in range(start, start + 2_000)])
        steps = 0

        def count() -> bool:
            nonlocal steps
            steps += 1
            return False

        def look(reader: Reader) -> None:
            topic = reader.topic("orders")
            topic.ends()
            reader.db.set_progress_handler(count, 100)
            assert rows_left(reader, topic.shape) == 1
            assert seq_at_time(reader.db, topic.shape, 0.0) == 1
            reader.db.set_progress_handler(None)

        await store._reader.run(look)
        assert steps < 500  # of 100 instructions each; a look at every row takes thousands


def rows_left(reader: Reader, shape: Shape) -> int:
    """Return how far the located row is from the one that was sought."""
    return 1 if 0 <= 30_001 - locate(reader.db, shape, 0, 30_000) <= 2_000 else 0


async def test_trimmed_events_are_answered_as_trimmed_and_their_rows_go(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)) as store:
        await store.append("orders", [(n % 2, event(n)) for n in range(5_000)])
        await store.trim("orders", 0, 2_400)
        await store.trim("orders", 0, 10)
        found = (await store.read([Want("orders", 0, 0, 3)], 1 << 20))[0]
        assert found.trimmed == 2_400
        assert [e.position for e in found.events] == [2_400, 2_401, 2_402]
        await store.trim("orders", 1, 1 << 50)
        assert (await store.describe("orders")).first == (2_400, 2_500)
        before = (await store.describe("orders")).size_bytes
        assert before > 0
        sizes: list[int] = []

        def freed() -> bool:
            task = asyncio.ensure_future(store.describe("orders"))
            task.add_done_callback(lambda done: sizes.append(done.result().size_bytes))
            return bool(sizes) and sizes[-1] < before // 20

        await until(freed)
        assert (await store.read([Want("orders", 1, 0, 3)], 1 << 20))[0].trimmed == 2_500
        assert await store.append("orders", [(1, event("next"))]) == [Appended(1, 2_500)]
    async with opened(tmp_path / "bus.db") as store:
        assert (await store.describe("orders")).end == (2_500, 2_501)


async def test_positions_are_never_used_twice_even_when_all_rows_are_gone(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1, dedup=False)) as store:
        await store.append("orders", [(0, event(n)) for n in range(100)])
        await store.trim("orders", 0, 100)
        rows = [1]

        async def count() -> None:
            rows[0] = await store._reader.run(lambda r: r.db.execute("SELECT count(*) FROM log_1").fetchone()[0])

        while rows[0]:
            await asyncio.wait_for(count(), 5)
    async with opened(tmp_path / "bus.db") as store:
        assert (await store.describe("orders")).end == (100,)
        assert await store.append("orders", [(0, event("x"))]) == [Appended(0, 100)]


async def test_retention_by_age_and_by_size_forgets_the_oldest(tmp_path: Path) -> None:
    clock = Virtual(1_000_000.0)
    spec = TopicSpec("orders", 2, retention_age_s=100.0)
    async with opened(tmp_path / "bus.db", spec, clock) as store:
        for n in range(30):
            await store.append("orders", [(n % 2, event(n, bytes(1_000)))])
            clock.time += 10.0
        firsts: list[tuple[int, ...]] = [(0, 0)]

        async def first() -> tuple[int, ...]:
            return (await store.describe("orders")).first

        while firsts[-1] == (0, 0):
            firsts.append(await asyncio.wait_for(first(), 5))
        assert firsts[-1] == (10, 10)  # 100 s ago, event 20 was recorded
        await store.ensure(TopicSpec("orders", 2, retention_bytes=5_500))
        while firsts[-1] == (10, 10):
            firsts.append(await asyncio.wait_for(first(), 5))
        kept = sum(len(part) for part in await all_of(store, "orders", 2))
        assert kept in (4, 5)


async def test_ensure_is_idempotent_and_keeps_the_number_of_partitions(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.ensure(TopicSpec("a.journal", 2, dedup=False))
        info = await store.ensure(TopicSpec("orders", 4, retention_age_s=5.0))
        assert info.spec.retention_age_s == 5.0
        assert info.durability == "disk"
        assert (await store.describe("orders")).spec == info.spec
        with pytest.raises(SettingsError):
            await store.ensure(TopicSpec("orders", 5))
        assert await store.topics() == ["a.journal", "orders"]
        with pytest.raises(UnknownTopic):
            await store.describe("nowhere")


async def test_watchers_are_woken_after_an_append_and_no_more_when_stopped(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        woken: list[int] = []
        stop = store.watch(["orders"], lambda: woken.append(1))
        await store.append("orders", [(0, event("a"))])
        await until(lambda: woken)
        stop()
        stop()
        woken.clear()
        await store.append("orders", [(0, event("b"))])
        assert not woken


async def test_asking_for_news_when_there_is_none_needs_no_thread(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await store.append("orders", [(0, event("a"))])
        store._reader.stop()
        assert (await store.read([Want("orders", 0, 1, 10), Want("orders", 3, 0, 10)], 100))[0].next == 1


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SqliteBackend(str(tmp_path / "bus.db"))
    with pytest.raises(Closed):
        await store.topics()
    await store.open()
    await store.ensure(ORDERS)
    last = asyncio.ensure_future(store.append("orders", [(0, event("a"))]))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert await last == [Appended(0, 0)]
    with pytest.raises(Closed):
        await store.append("orders", [(0, event("a"))])


async def test_a_bounded_store_says_full_reads_on_and_settles(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="max_bytes=2000000") as store:
        stored = 0
        for stored in range(100):
            try:
                await store.append("orders", [(0, event(stored, bytes(100_000)))])
            except StoreFull:
                break
        assert 10 < stored < 30
        assert sum(len(part) for part in await all_of(store, "orders", 4)) == stored
        await store.trim("orders", 0, stored)
        for n in range(200):
            try:
                await store.append("orders", [(0, event(f"again-{n}", bytes(100_000)))])
            except StoreFull:
                await asyncio.sleep(0.02)
            else:
                break
        assert (await store.describe("orders")).end[0] == stored + 1


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.booleans()), min_size=1, max_size=30),
            st.tuples(st.integers(0, 2), st.integers(0, 80)),
        ),
        max_size=12,
    )
)
def test_any_course_of_appends_and_trims_reads_like_a_list(tmp_path_factory: pytest.TempPathFactory, course) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("model") / "bus.db"

    async def run() -> None:
        lists: dict[int, list[str]] = defaultdict(list)
        first: dict[int, int] = defaultdict(int)
        places: dict[str, tuple[int, int, bytes]] = {}
        async with opened(path, TopicSpec("orders", 3)) as store:
            for step in course:
                if isinstance(step, tuple):
                    partition, before = step
                    await store.trim("orders", partition, before)
                    first[partition] = max(first[partition], min(before, len(lists[partition])))
                    continue
                answers = await store.append("orders", [(p, event(n, b"1" if same else b"2")) for p, n, same in step])
                for (p, n, same), answer in zip(step, answers, strict=True):
                    body = b"1" if same else b"2"
                    if str(n) not in places:
                        assert answer == Appended(p, len(lists[p]))
                        places[str(n)] = (p, len(lists[p]), body)
                        lists[p].append(str(n))
                    else:
                        where, position, known = places[str(n)]
                        if known == body:
                            assert answer == Appended(where, position, True)
                        else:
                            assert isinstance(answer, IdConflict)
            for partition, found in enumerate(await all_of(store, "orders", 3, step=7)):
                assert [stored.event.id for stored in found] == lists[partition][first[partition] :]

    asyncio.run(run())
