"""What is the memory backend's own: its bounds, its names, its cost. The rest is in the conformance suite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from functools import wraps
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.backends.memory import MemoryBackend
from nexus.backends.memory import topic as topic_module
from nexus.backends.memory.topic import DEDUP_AGE_S, Partition
from nexus.errors import Closed, SettingsError, StoreFull
from nexus.event import Event
from nexus.spi.backend import Appended, Assigned, Cursor, Lost, Settlement, Stored, TopicSpec, Want
from nexus.testing.clock import VirtualClock, virtual_loop

_numbers = count()
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def virtually(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=virtual_loop) as runner:
            runner.run(_coroutine(test()))

    del run.__wrapped__  # or it would be taken for a coroutine function
    return run


async def _coroutine(awaitable: Awaitable[None]) -> None:
    await awaitable


async def opened(url: str = "memory://", partitions: int = 1, **wishes: Any) -> MemoryBackend:
    backend = MemoryBackend(url, clock=VirtualClock.running())
    await backend.open()
    await backend.ensure(TopicSpec("orders", partitions=partitions, **wishes))
    return backend


def event(id: str | None = None, body: bytes = b"") -> Event[object]:
    return Event(id=id or f"event-{next(_numbers)}", source="/shop", type="order.placed", time=TIME, body=body)


async def put(backend: MemoryBackend, number: int, body: bytes = b"", topic: str = "orders") -> None:
    await backend.append(topic, [(0, event(body=body)) for _ in range(number)])


async def kept(backend: MemoryBackend, topic: str = "orders") -> int:
    info = await backend.describe(topic)
    return sum(info.end) - sum(info.first)


@virtually
async def test_a_full_store_refuses_what_a_group_still_needs_the_room_of() -> None:
    backend = await opened("memory://?max_events=100")
    await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    await put(backend, 100)
    with pytest.raises(StoreFull):
        await put(backend, 1)
    assert await kept(backend) == 100
    assert len((await backend.read([Want("orders", 0, 0, 1_000)], 10**9))[0].events) == 100


@virtually
async def test_what_every_group_is_done_with_makes_room() -> None:
    backend = await opened("memory://?max_events=100")
    members = [await backend.claim(group, ["orders"], "one", lambda: None, "earliest") for group in ("a", "b")]
    await put(backend, 100)
    await members[0].settle([Settlement("orders", 0, Cursor(1, 60))])
    with pytest.raises(StoreFull):
        await put(backend, 1)
    await members[1].settle([Settlement("orders", 0, Cursor(1, 30))])
    await put(backend, 30)
    assert (await backend.describe("orders")).first[0] == 30
    with pytest.raises(StoreFull):
        await put(backend, 1)


@virtually
async def test_bytes_bound_too() -> None:
    backend = await opened("memory://?max_bytes=100000")
    await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    with pytest.raises(StoreFull):
        await put(backend, 101, b"x" * 1_000)
    assert await kept(backend) == 0
    await put(backend, 50, b"x" * 1_000)
    with pytest.raises(StoreFull):
        await put(backend, 50, b"x" * 1_000)
    assert (await backend.describe("orders")).size_bytes <= 100_000


@virtually
async def test_a_topic_without_groups_forgets_its_oldest() -> None:
    backend = await opened("memory://?max_events=100", partitions=2)
    for number in range(1_000):
        await backend.append("orders", [(number % 2, event(f"id-{number}"))])
        await asyncio.sleep(0.001)
    assert await kept(backend) == 100
    assert (await backend.describe("orders")).first == (450, 450)


@virtually
async def test_a_batch_larger_than_the_store_forgets_nothing() -> None:
    backend = await opened("memory://?max_events=100")
    await put(backend, 50)
    with pytest.raises(StoreFull):
        await put(backend, 101)
    assert await kept(backend) == 50


@virtually
async def test_a_journal_is_never_forgotten_for_room() -> None:
    backend = await opened("memory://?max_events=100")
    await backend.ensure(TopicSpec("orders.park", partitions=1, dedup=False))
    await put(backend, 60, topic="orders.park")
    for _ in range(100):
        await put(backend, 1)
    assert (await kept(backend, "orders.park"), await kept(backend)) == (60, 40)


@virtually
async def test_a_journal_has_a_reserve_above_the_bound_and_it_ends_too() -> None:
    backend = await opened("memory://?max_events=100")
    await backend.ensure(TopicSpec("orders.park", partitions=1, dedup=False))
    member = await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    await put(backend, 100)
    await put(backend, 1_000, topic="orders.park")
    for topic in ("orders", "orders.park"):
        with pytest.raises(StoreFull):
            await put(backend, 1, topic=topic)
    # Consuming frees the reserve before anything is published again.
    await member.settle([Settlement("orders", 0, Cursor(1, 100))])
    await put(backend, 100, topic="orders.park")
    with pytest.raises(StoreFull):
        await put(backend, 1)
    await backend.trim("orders.park", 0, 1_100)
    await put(backend, 100)


@virtually
async def test_a_journal_has_a_reserve_of_bytes() -> None:
    backend = await opened("memory://?max_bytes=100000")
    await backend.ensure(TopicSpec("orders.park", partitions=1, dedup=False))
    await put(backend, 50, b"x" * 1_000, topic="orders.park")
    await put(backend, 50, b"x" * 1_000, topic="orders.park")
    with pytest.raises(StoreFull):
        await put(backend, 50, b"x" * 1_000, topic="orders.park")


@virtually
async def test_what_another_topic_is_done_with_makes_room_and_what_it_holds_does_not() -> None:
    backend = await opened("memory://?max_events=100")
    await backend.ensure(TopicSpec("bills", partitions=1))
    member = await backend.claim("billing", ["orders", "bills"], "one", lambda: None, "earliest")
    await put(backend, 100)
    with pytest.raises(StoreFull):
        await put(backend, 1, topic="bills")
    await member.settle([Settlement("orders", 0, Cursor(1, 40))])
    await put(backend, 40, topic="bills")


@virtually
async def test_duplicates_are_answered_by_a_full_store_too() -> None:
    backend = await opened("memory://?max_events=10")
    await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    first = event("first")
    await backend.append("orders", [(0, first)])
    await put(backend, 9)
    (answer,) = await backend.append("orders", [(0, first)])
    assert answer == Appended(0, 0, True)


@virtually
async def test_events_older_than_the_retention_go() -> None:
    backend = await opened(partitions=2, retention_age_s=60.0)
    await put(backend, 3)
    await asyncio.sleep(59)
    await put(backend, 2)
    assert await kept(backend) == 5
    await asyncio.sleep(2)
    (answer,) = await backend.read([Want("orders", 0, 0, 10)], 10**9)
    assert (len(answer.events), answer.trimmed) == (2, 3)
    await asyncio.sleep(100)
    assert await kept(backend) == 0


@virtually
async def test_the_oldest_events_go_when_the_topic_is_larger_than_its_retention() -> None:
    backend = await opened(partitions=2, retention_bytes=20_000)
    for number in range(100):
        await backend.append("orders", [(number % 2, event(body=b"x" * 1_000))])
        await asyncio.sleep(0.001)
    info = await backend.describe("orders")
    assert 10_000 < info.size_bytes <= 20_000
    assert abs(info.first[0] - info.first[1]) <= 1


@virtually
async def test_ids_are_known_for_ten_minutes_and_not_for_ever() -> None:
    backend = await opened()
    first = event("first")
    await backend.append("orders", [(0, first)])
    await asyncio.sleep(DEDUP_AGE_S - 1)
    assert await backend.append("orders", [(0, first)]) == [Appended(0, 0, True)]
    for _ in range(3):
        await asyncio.sleep(DEDUP_AGE_S)
        await put(backend, 1)
    (answer,) = await backend.append("orders", [(0, first)])
    assert isinstance(answer, Appended)
    assert not answer.duplicate


@virtually
async def test_the_window_of_ids_is_bounded() -> None:
    backend = await opened()
    topic = backend._store.topic("orders")
    assert topic.ids is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topic_module, "DEDUP_LIMIT", 2_000)
        for _ in range(20):
            await put(backend, 1_024)
            assert len(topic.ids) <= 2_000 + 2 * 1_024
    assert len(topic.ids) >= 2_000


@virtually
async def test_recorded_times_do_not_fall_when_the_wall_clock_does() -> None:
    backend = await opened()
    await put(backend, 1)
    VirtualClock.running().set_wall_clock(-3_600)
    await put(backend, 1)
    (answer,) = await backend.read([Want("orders", 0, 0, 10)], 10**9)
    assert answer.events[0].recorded_at == answer.events[1].recorded_at
    assert await backend.position_at("orders", 0, answer.events[0].recorded_at) == 0


@virtually
async def test_a_burst_of_appends_costs_one_wake() -> None:
    backend = await opened()
    wakes: list[str] = []
    backend.watch(["orders"], lambda: wakes.append("watcher"))
    await backend.claim("billing", ["orders"], "one", lambda: wakes.append("member"), "earliest")
    await asyncio.sleep(0)
    wakes.clear()
    for _ in range(1_000):
        await put(backend, 1)
    await asyncio.sleep(0)
    assert sorted(wakes) == ["member", "watcher"]


@virtually
async def test_appending_does_not_suspend() -> None:
    backend = await opened()
    call: Coroutine[Any, Any, Any] = backend.append("orders", [(0, event())])
    with pytest.raises(StopIteration) as stop:
        call.send(None)
    assert stop.value.value == [Appended(0, 0)]


@virtually
async def test_a_store_without_a_name_is_private_and_one_with_a_name_is_shared() -> None:
    name = f"memory://shared-{next(_numbers)}"
    one, two = await opened(name), await opened(name)
    await put(one, 3)
    assert await kept(two) == 3
    private = await opened()
    await put(private, 1)
    assert (await kept(private), await kept(await opened())) == (1, 0)


@virtually
async def test_a_named_store_stays_after_its_last_backend_closed() -> None:
    name = f"memory://stays-{next(_numbers)}"
    backend = await opened(name)
    await put(backend, 3)
    await backend.close()
    assert await kept(await opened(name)) == 3


@virtually
async def test_a_named_store_has_one_set_of_bounds() -> None:
    name = f"memory://bounds-{next(_numbers)}"
    await opened(f"{name}?max_events=10")
    await opened(name)
    await opened(f"{name}?max_events=10")
    with pytest.raises(SettingsError, match="max_events=10"):
        MemoryBackend(f"{name}?max_events=11")


def test_a_store_in_use_belongs_to_one_event_loop() -> None:
    name = f"memory://loop-{next(_numbers)}"
    with asyncio.Runner() as one, asyncio.Runner() as two:
        backend = MemoryBackend(name)
        one.run(backend.open())
        with pytest.raises(SettingsError, match="event loop"):
            two.run(MemoryBackend(name).open())
        one.run(backend.close())
        two.run(MemoryBackend(name).open())


@pytest.mark.parametrize(
    "url",
    ["memory://?max_event=1", "memory://?max_events=0", "memory://?max_events=-1", "memory://?max_bytes=1.5",
     "memory://?max_bytes=", "sqlite://x", "memory:///path", "memory://name/path", "memory://name#part"],
)  # fmt: skip
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        MemoryBackend(url)


@virtually
async def test_a_partition_that_is_not_there_is_an_error() -> None:
    backend = await opened(partitions=2)
    for partition in (-1, 2):
        with pytest.raises(SettingsError, match="no partition"):
            await backend.append("orders", [(0, event()), (partition, event())])
        with pytest.raises(SettingsError):
            await backend.read([Want("orders", partition, 0, 1)], 1)
    assert await kept(backend) == 0
    with pytest.raises(SettingsError):
        await backend.ensure(TopicSpec("none", partitions=0))


@virtually
async def test_a_killed_member_loses_its_partitions_at_once() -> None:
    backend = await opened(partitions=4)
    one = await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    two = await backend.claim("billing", ["orders"], "two", lambda: None, "earliest")
    one.kill()
    assert len([change for change in two.changes() if isinstance(change, Assigned)]) == 4
    assert one.changes() == []
    assert not one.active
    with pytest.raises(Closed):
        await one.fetch([], 1)


@virtually
async def test_a_frozen_member_keeps_its_partitions_until_its_lease_ends() -> None:
    backend = await opened()
    one = await backend.claim("billing", ["orders"], "one", lambda: None, "earliest")
    one.changes()
    one.freeze()
    settling = asyncio.create_task(one.settle([Settlement("orders", 0, Cursor(1, 1))]))
    await asyncio.sleep(9)
    assert [lag.owner for lag in await backend.lag("billing")] == ["one"]
    one.thaw()
    assert await settling == ["ok"]
    one.freeze()
    await asyncio.sleep(11)
    assert [lag.owner for lag in await backend.lag("billing")] == [None]
    assert one.changes() == []
    one.thaw()
    assert [type(change) for change in one.changes()] == [Lost, Assigned]


@virtually
async def test_a_frozen_backend_does_nothing_until_it_goes_on() -> None:
    name = f"memory://frozen-{next(_numbers)}"
    one, two = await opened(name), await opened(name)
    one.freeze()
    appending = asyncio.create_task(put(one, 1))
    await asyncio.sleep(100)
    assert not appending.done()
    assert await kept(two) == 0
    one.thaw()
    await appending
    assert await kept(two) == 1


@virtually
async def test_a_member_that_joins_under_a_used_name_takes_its_place() -> None:
    backend = await opened()
    one = await backend.claim("billing", ["orders"], "same", lambda: None, "earliest")
    one.changes()
    two = await backend.claim("billing", ["orders"], "same", lambda: None, "earliest")
    assert [type(change) for change in one.changes()] == [Lost]
    assert [type(change) for change in two.changes()] == [Assigned]
    assert await one.settle([Settlement("orders", 0, Cursor(9, 9))]) == ["fenced"]


@given(
    st.lists(st.one_of(st.integers(1, 30).map(lambda n: ("add", n)), st.integers(0, 40).map(lambda n: ("forget", n))))
)
def test_forgetting_from_the_front_is_invisible_but_for_what_is_gone(steps: list[tuple[str, int]]) -> None:
    part, model = Partition(), list[int]()
    for step, number in steps:
        if step == "add":
            for _ in range(number):
                model.append(part.end)
                part.events.append(Stored(part.end, float(part.end), 1, event()))
        else:
            gone = part.forget(number)
            assert [stored.position for stored in gone] == model[:number]
            del model[:number]
        assert part.end - part.first == len(model)
        assert [part.at(position) for position in (part.first - 1, part.end)] == [None, None]
        for position in model:
            stored = part.at(position)
            assert stored is not None
            assert stored.position == position
            assert part.position_at(float(position)) == position
        assert part.head * 2 <= max(len(part.events), 1)


@virtually
async def test_a_partition_tells_how_it_changed_hands() -> None:
    backend = await opened(partitions=1)

    async def told() -> tuple[str | None, str, str | None]:
        (lag,) = await backend.lag("g")
        assert lag.handover is not None
        return lag.owner, lag.handover.why, lag.handover.before

    first = await backend.claim("g", ["orders"], "a", lambda: None, "earliest")
    assert await told() == ("a", "joined", None)
    await first.settle([Settlement("orders", 0, Cursor(1, 0), release=True)])
    assert await told() == ("a", "released", "a")
    await first.settle([Settlement("orders", 0, Cursor(0, 0))])
    assert await told() == ("a", "fenced", "a")
    again = await backend.claim("g", ["orders"], "a", lambda: None, "earliest")
    assert await told() == ("a", "rejoined", "a")
    again.kill()
    assert await told() == (None, "expired", "a")
