"""Reading: bounds, where to go on, and news by `watch`."""

from __future__ import annotations

import asyncio
import threading

import pytest

from nexus.errors import UnknownTopic
from nexus.spi.backend import Want
from nexus.testing.conformance._world import MANY_BYTES, WAKE_S, World, case, ids, read_all, within


@case
async def test_a_read_gives_at_most_max_events_and_says_where_to_go_on(world: World) -> None:
    topic = await world.topic(partitions=1)
    events = world.events(10)
    await world.append(topic, 0, events)
    found, position, pages = [], 0, []
    while True:
        (answer,) = await world.backend.read([Want(topic, 0, position, 4)], MANY_BYTES)
        found += [stored.event.id for stored in answer.events]
        pages.append((len(answer.events), answer.more))
        position = answer.next
        if not answer.more:
            break
    assert found == [event.id for event in events]
    assert pages == [(4, True), (4, True), (2, False)]


@case
async def test_a_read_that_ends_exactly_at_the_end_says_so(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(4))
    (answer,) = await world.backend.read([Want(topic, 0, 0, 4)], MANY_BYTES)
    assert (len(answer.events), answer.more) == (4, False)


@case
async def test_next_is_above_the_last_event(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(5))
    (answer,) = await world.backend.read([Want(topic, 0, 0, 3)], MANY_BYTES)
    assert answer.next > answer.events[-1].position
    (rest,) = await world.backend.read([Want(topic, 0, answer.next, 9)], MANY_BYTES)
    assert len(rest.events) == 2


@case
async def test_a_read_at_the_end_is_empty_and_stays_there(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(3))
    end = (await world.backend.describe(topic)).end[0]
    (answer,) = await world.backend.read([Want(topic, 0, end, 10)], MANY_BYTES)
    assert (list(answer.events), answer.next, answer.more, answer.trimmed) == ([], end, False, None)
    await world.append(topic, 0, [world.event("next")])
    assert await ids(world.backend, topic, 0, answer.next) == ["next"]


@case
async def test_an_empty_partition_reads_empty(world: World) -> None:
    topic = await world.topic(partitions=1)
    start = (await world.backend.describe(topic)).first[0]
    (answer,) = await world.backend.read([Want(topic, 0, start, 10)], MANY_BYTES)
    assert (list(answer.events), answer.next, answer.more, answer.trimmed) == ([], start, False, None)


@case
async def test_max_bytes_bounds_all_slices_together(world: World) -> None:
    topic = await world.topic(partitions=3)
    for partition in range(3):
        await world.append(topic, partition, world.events(10, body=b"x" * 1_000))
    wants = [Want(topic, partition, 0, 10) for partition in range(3)]
    size = (await read_all(world.backend, topic, 0))[0].size
    budget = size * 14 + size // 2
    slices = await world.backend.read(wants, budget)
    counts = [len(answer.events) for answer in slices]
    assert counts[0] >= 1
    assert sum(stored.size for answer in slices for stored in answer.events) <= budget
    assert [answer.more for answer in slices] == [count < 10 for count in counts]


@case
async def test_reading_on_with_a_small_budget_finds_every_event(world: World) -> None:
    topic = await world.topic(partitions=2)
    for partition in range(2):
        await world.append(topic, partition, world.events(15, body=b"x" * 500))
    positions, found = [0, 0], [0, 0]
    async with asyncio.timeout(20):
        while sum(found) < 30:
            slices = await world.backend.read([Want(topic, p, positions[p], 100) for p in range(2)], 3_000)
            assert any(answer.events for answer in slices)
            for partition, answer in enumerate(slices):
                found[partition] += len(answer.events)
                positions[partition] = answer.next
    assert found == [15, 15]


@case
async def test_the_first_event_is_given_however_large(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 1, world.events(3, body=b"x" * 10_000))
    slices = await world.backend.read([Want(topic, 0, 0, 10), Want(topic, 1, 0, 10)], 1)
    assert [len(answer.events) for answer in slices] == [0, 1]
    assert [answer.more for answer in slices] == [False, True]


@case
async def test_a_slice_cut_by_the_budget_goes_on_where_it_stopped(world: World) -> None:
    topic = await world.topic(partitions=2)
    for partition in range(2):
        await world.append(topic, partition, world.events(2, body=b"x" * 10_000))
    first, second = await world.backend.read([Want(topic, 0, 0, 10), Want(topic, 1, 0, 10)], 1)
    assert (len(first.events), first.more, len(second.events), second.more) == (1, True, 0, True)
    assert len(await ids(world.backend, topic, 1, second.next)) == 2
    assert len(await ids(world.backend, topic, 0, first.next)) == 1


@case
async def test_slices_come_in_the_order_of_the_wants(world: World) -> None:
    first, second = await world.topic("a", 2), await world.topic("b", 2)
    for topic in (first, second):
        for partition in range(2):
            await world.append(topic, partition, [world.event(f"{topic}/{partition}")])
    wants = [Want(second, 1, 0, 9), Want(first, 0, 0, 9), Want(second, 0, 0, 9), Want(first, 0, 0, 9)]
    slices = await world.backend.read(wants, MANY_BYTES)
    assert [(answer.topic, answer.partition) for answer in slices] == [(want.topic, want.partition) for want in wants]
    assert [[stored.event.id for stored in answer.events] for answer in slices] == [
        [f"{want.topic}/{want.partition}"] for want in wants
    ]


@case
async def test_no_wants_give_no_slices(world: World) -> None:
    assert await world.backend.read([], MANY_BYTES) == []


@case
async def test_reading_an_unknown_topic_is_an_error(world: World) -> None:
    with pytest.raises(UnknownTopic):
        await world.backend.read([Want(world.name("nothing"), 0, 0, 1)], MANY_BYTES)


@case
async def test_a_time_leads_to_the_first_event_recorded_then_or_later(world: World) -> None:
    topic = await world.topic(partitions=2)
    start = (await world.backend.describe(topic)).first[0]
    times = []
    for _ in range(3):
        times.append(await world.until_later())
        await world.append(topic, 0, world.events(2))
    times.append(await world.until_later())
    stored = await read_all(world.backend, topic, 0)
    expected = [stored[at].position for at in (0, 2, 4)] + [(await world.backend.describe(topic)).end[0]]
    assert [await world.backend.position_at(topic, 0, time) for time in times] == expected
    assert await world.backend.position_at(topic, 0, 0.0) == stored[0].position
    assert await world.backend.position_at(topic, 0, stored[2].recorded_at) == stored[2].position
    assert await world.backend.position_at(topic, 1, times[0]) == start


@case
async def test_a_time_before_what_is_kept_leads_to_the_first_kept(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(4))
    cut = (await read_all(world.backend, topic, 0))[2].position
    await world.backend.trim(topic, 0, cut)
    assert await world.backend.position_at(topic, 0, 0.0) == cut


class _Bell:
    """Counts wakes and waits for one."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self.threads: set[int] = set()

    def ring(self) -> None:
        self.threads.add(threading.get_ident())
        self.rung.set()


@case
async def test_every_append_wakes_the_watchers(world: World) -> None:
    topic = await world.topic(partitions=2)
    bells = [_Bell(), _Bell()]
    for bell in bells:
        world.backend.watch([topic], bell.ring)
    for number in range(30):
        for bell in bells:
            bell.rung.clear()
        await world.append(topic, number % 2, [world.event()])
        for bell in bells:
            await within(WAKE_S, world, bell.rung.wait())


@case
async def test_an_append_by_another_backend_wakes_too(world: World) -> None:
    topic = await world.topic(partitions=1)
    other, bell = await world.open(), _Bell()
    world.backend.watch([topic], bell.ring)
    for _ in range(10):
        bell.rung.clear()
        await other.append(topic, [(0, world.event())])
        await within(WAKE_S, world, bell.rung.wait())
        assert len(await ids(world.backend, topic, 0))


@case
async def test_one_watch_may_be_on_several_topics(world: World) -> None:
    first, second = await world.topic("a"), await world.topic("b")
    bell = _Bell()
    world.backend.watch([first, second], bell.ring)
    for topic in (first, second, first):
        bell.rung.clear()
        await world.append(topic, 0, [world.event()])
        await within(WAKE_S, world, bell.rung.wait())


@case
async def test_wakes_come_on_the_loop(world: World) -> None:
    topic = await world.topic(partitions=1)
    other, bell = await world.open(), _Bell()
    world.backend.watch([topic], bell.ring)
    for backend in (world.backend, other):
        bell.rung.clear()
        await backend.append(topic, [(0, world.event())])
        await within(WAKE_S, world, bell.rung.wait())
    assert bell.threads == {threading.get_ident()}


@case
async def test_a_watch_that_was_stopped_is_not_woken(world: World) -> None:
    topic = await world.topic(partitions=1)
    stopped, going = _Bell(), _Bell()
    stop = world.backend.watch([topic], stopped.ring)
    world.backend.watch([topic], going.ring)
    await world.append(topic, 0, [world.event()])
    await within(WAKE_S, world, going.rung.wait())
    stop()
    stop()
    stopped.rung.clear()
    for _ in range(5):
        going.rung.clear()
        await world.append(topic, 0, [world.event()])
        await within(WAKE_S, world, going.rung.wait())
    assert not stopped.rung.is_set()
