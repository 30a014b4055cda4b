"""The store: what outlives a backend object, and what several of them share."""

from __future__ import annotations

import pytest

from nexus.errors import Closed, Sealed
from nexus.spi.backend import Cursor, TopicSpec, Want
from nexus.testing.conformance._world import MANY_BYTES, World, case, ids, read_all, taken


@case
async def test_closing_twice_is_closing_once(world: World) -> None:
    other = await world.open()
    await other.close()
    await other.close()
    assert await world.backend.topics() is not None


@case
async def test_closing_one_backend_leaves_the_others(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    await other.append(topic, [(0, world.event("1"))])
    await other.close()
    await world.append(topic, 0, [world.event("2")])
    assert await ids(world.backend, topic, 0) == ["1", "2"]


@case
async def test_a_closed_backend_gives_nothing(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    await other.close()
    with pytest.raises(Closed):
        await other.read([Want(topic, 0, 0, 1)], MANY_BYTES)
    with pytest.raises(Closed):
        await other.ensure(TopicSpec(topic, partitions=1))
    with pytest.raises(Closed):
        await other.claim("group", [topic], "member", lambda: None, "earliest")


@case
async def test_events_are_there_when_the_store_is_opened_again(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 1, [world.event(str(number), key="k", body=b"%d" % number) for number in range(100)])
    await world.backend.trim(topic, 1, (await world.backend.describe(topic)).first[1] + 10)
    before = await read_all(world.backend, topic, 1), await world.backend.describe(topic)
    await world.backend.close()
    again = await world.open()
    assert (await read_all(again, topic, 1), await again.describe(topic)) == before
    await again.append(topic, [(1, world.event("new"))])
    stored = await read_all(again, topic, 1)
    assert stored[-1].event.id == "new"
    assert stored[-1].position > before[0][-1].position


@case
async def test_cursors_are_there_when_the_store_is_opened_again(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(2)
    assert await party.settle(topic, 1, 8, 4, "state") == "ok"
    await world.backend.close()
    again = await world.open()
    assert group in await again.groups()
    assert [(lag.low, lag.epoch, lag.owner) for lag in await again.lag(group)][1] == (4, 8, None)
    heir = await world.join(group, [topic], "heir", backend=again)
    await heir.owns(2)
    assert heir.owned[topic, 1].cursor == Cursor(8, 4, "state")


@case
async def test_ids_are_known_when_the_store_is_opened_again_if_the_store_has_the_memory_of_them(world: World) -> None:
    topic = await world.topic(partitions=1)
    event = world.event(body=b"1")
    (first,) = await world.append(topic, 0, [event])
    await world.backend.close()
    again = await world.open()
    (answer,) = taken(await again.append(topic, [(0, event)]))
    assert answer.duplicate == world.one_memory
    if world.one_memory:
        assert answer.position == first.position
    assert len(await ids(again, topic, 0)) == (1 if world.one_memory else 2)


@case
async def test_a_seal_is_there_when_the_store_is_opened_again(world: World) -> None:
    topic = await world.topic(partitions=2)
    end = await world.backend.seal(topic, 1)
    await world.backend.close()
    again = await world.open()
    with pytest.raises(Sealed):
        await again.append(topic, [(1, world.event())])
    assert await again.seal(topic, 1) == end


@case
async def test_trimming_everything_is_remembered_when_the_store_is_opened_again(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(5))
    end = (await world.backend.describe(topic)).end
    await world.backend.trim(topic, 0, end[0])
    await world.backend.close()
    again = await world.open()
    info = await again.describe(topic)
    assert info.first == info.end == end
    await again.append(topic, [(0, world.event("new"))])
    assert await ids(again, topic, 0, end[0]) == ["new"]


@case
async def test_several_backends_see_the_same_store(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    backends = [world.backend, await world.open(), await world.open()]
    for number, backend in enumerate(backends):
        await backend.append(topic, [(0, world.event(str(number)))])
    party = await world.join(group, [topic], backend=backends[1])
    await party.owns(1)
    for backend in backends:
        assert await ids(backend, topic, 0) == ["0", "1", "2"]
        assert topic in await backend.topics()
        assert group in await backend.groups()
        assert [lag.owner for lag in await backend.lag(group)] == ["member-1"]
