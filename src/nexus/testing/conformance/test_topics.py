"""Topics: made once, described as they are, sealed and trimmed for good."""

from __future__ import annotations

import asyncio
from typing import get_args

import pytest

from nexus.errors import Sealed, SettingsError, UnknownTopic
from nexus.spi.backend import Durability, TopicSpec, Want
from nexus.testing.conformance._world import MANY_BYTES, World, case, ids


@case
async def test_a_new_topic_is_empty(world: World) -> None:
    info = await world.backend.ensure(TopicSpec(world.name("orders"), partitions=3))
    assert info.spec.partitions == len(info.first) == len(info.end) == 3
    assert info.first == info.end
    assert info.sealed == ()
    assert all(position >= 0 for position in info.first)


@case
async def test_describe_says_what_ensure_said(world: World) -> None:
    spec = TopicSpec(world.name("orders"), partitions=3, retention_age_s=3_600.0, retention_bytes=10**9)
    made = await world.backend.ensure(spec)
    assert made.spec == spec
    assert await world.backend.describe(spec.name) == made


@case
async def test_durability_is_stated_in_a_known_word(world: World) -> None:
    assert (await world.backend.describe(await world.topic())).durability in get_args(Durability)


@case
async def test_ensuring_again_changes_nothing(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 1, [world.event("kept")])
    before = await world.backend.describe(topic)
    assert await world.backend.ensure(TopicSpec(topic, partitions=2)) == before
    assert await ids(world.backend, topic, 1) == ["kept"]


@case
async def test_the_number_of_partitions_stands(world: World) -> None:
    topic = await world.topic(partitions=4)
    for other in (3, 5):
        with pytest.raises(SettingsError):
            await world.backend.ensure(TopicSpec(topic, partitions=other))
    assert (await world.backend.describe(topic)).spec.partitions == 4


@case
async def test_a_new_retention_is_taken_over(world: World) -> None:
    topic = await world.topic(partitions=1)
    for age_s, size in ((60.0, None), (None, 10**6), (None, None)):
        await world.backend.ensure(TopicSpec(topic, partitions=1, retention_age_s=age_s, retention_bytes=size))
        spec = (await world.backend.describe(topic)).spec
        assert (spec.retention_age_s, spec.retention_bytes) == (age_s, size)


@case
async def test_events_inside_the_retention_stay(world: World) -> None:
    topic = await world.topic(partitions=1, retention_age_s=3_600.0, retention_bytes=10**7)
    events = world.events(50, body=b"x" * 100)
    await world.append(topic, 0, events)
    assert await ids(world.backend, topic, 0) == [event.id for event in events]


@case
async def test_another_backend_sees_the_topic(world: World) -> None:
    other = await world.open()
    topic = await world.topic(partitions=2)
    assert (await other.ensure(TopicSpec(topic, partitions=2))).spec.partitions == 2
    with pytest.raises(SettingsError):
        await other.ensure(TopicSpec(topic, partitions=3))


@case
async def test_many_may_ensure_one_topic_at_once(world: World) -> None:
    backends = [world.backend, await world.open(), await world.open()]
    spec = TopicSpec(world.name("orders"), partitions=4)
    infos = await asyncio.gather(*(backend.ensure(spec) for backend in backends for _ in range(5)))
    assert all(info == infos[0] for info in infos)
    assert (await world.backend.topics()).count(spec.name) == 1


@case
async def test_an_unknown_topic_is_an_error(world: World) -> None:
    with pytest.raises(UnknownTopic):
        await world.backend.describe(world.name("nothing"))


@case
async def test_topics_are_listed_sorted_journals_too(world: World) -> None:
    names = {world.name(base) for base in ("b", "a", "c.park")}
    for name in names:
        await world.backend.ensure(TopicSpec(name, partitions=1, dedup=not name.startswith("c.")))
    listed = await world.backend.topics()
    assert listed == sorted(listed)
    assert names <= set(listed)


@case
async def test_first_and_end_follow_the_events(world: World) -> None:
    topic = await world.topic(partitions=2)
    empty = await world.backend.describe(topic)
    answers = await world.append(topic, 1, world.events(10))
    info = await world.backend.describe(topic)
    assert info.first[0] == info.end[0] == empty.end[0]
    assert info.first[1] == empty.first[1]
    assert info.end[1] == (answers[-1].position or info.end[1] - 1) + 1
    assert info.size_bytes > empty.size_bytes


@case
async def test_a_sealed_partition_takes_nothing_more(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 0, world.events(3))
    end = await world.backend.seal(topic, 0)
    assert end == (await world.backend.describe(topic)).end[0]
    with pytest.raises(Sealed):
        await world.append(topic, 0, [world.event()])
    assert (await world.backend.describe(topic)).sealed == (0,)
    assert len(await ids(world.backend, topic, 0)) == 3


@case
async def test_sealing_again_gives_the_same_end(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(3))
    assert await world.backend.seal(topic, 0) == await world.backend.seal(topic, 0)


@case
async def test_sealing_leaves_the_other_partitions_open(world: World) -> None:
    topic = await world.topic(partitions=3)
    await world.backend.seal(topic, 1)
    for partition in (0, 2):
        await world.append(topic, partition, [world.event()])


@case
async def test_a_call_with_a_sealed_partition_stores_nothing(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.backend.seal(topic, 1)
    with pytest.raises(Sealed):
        await world.backend.append(topic, [(0, world.event()), (1, world.event()), (0, world.event())])
    assert await ids(world.backend, topic, 0) == []


@case
async def test_a_seal_holds_for_every_backend_of_the_store(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    await other.append(topic, [(0, world.event())])
    await world.backend.seal(topic, 0)
    with pytest.raises(Sealed):
        await other.append(topic, [(0, world.event())])
    assert (await other.describe(topic)).sealed == (0,)


@case
async def test_an_empty_partition_can_be_sealed(world: World) -> None:
    topic = await world.topic(partitions=2)
    assert await world.backend.seal(topic, 1) == (await world.backend.describe(topic)).end[1]


@case
async def test_what_is_trimmed_is_answered_as_trimmed(world: World) -> None:
    topic = await world.topic(partitions=1)
    events = world.events(10)
    await world.append(topic, 0, events)
    start = (await world.backend.describe(topic)).first[0]
    cut = [stored.position for stored in (await _read(world, topic, start)).events][6]
    await world.backend.trim(topic, 0, cut)
    answer = await _read(world, topic, start)
    assert answer.trimmed == cut
    assert [stored.event.id for stored in answer.events] == [event.id for event in events[6:]]
    assert (await world.backend.describe(topic)).first == (cut,)
    assert (await _read(world, topic, cut)).trimmed is None


@case
async def test_trimming_all_leaves_the_end_where_it_was(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(5))
    before = await world.backend.describe(topic)
    await world.backend.trim(topic, 0, before.end[0])
    answer = await _read(world, topic, before.first[0])
    assert list(answer.events) == []
    assert (answer.trimmed, answer.next, answer.more) == (before.end[0], before.end[0], False)
    after = await world.backend.describe(topic)
    assert after.first == after.end == before.end
    await world.append(topic, 0, [world.event("new")])
    assert [stored.event.id for stored in (await _read(world, topic, before.end[0])).events] == ["new"]


@case
async def test_trimming_lower_than_before_does_nothing(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(5))
    info = await world.backend.describe(topic)
    await world.backend.trim(topic, 0, info.first[0] + 3)
    await world.backend.trim(topic, 0, info.first[0] + 1)
    await world.backend.trim(topic, 0, info.first[0] + 3)
    assert len(await ids(world.backend, topic, 0, info.first[0] + 3)) == 2


@case
async def test_trimming_beyond_the_end_forgets_what_is_there_and_no_more(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, world.events(5))
    info = await world.backend.describe(topic)
    await world.backend.trim(topic, 0, info.end[0] + 1_000)
    await world.append(topic, 0, [world.event("next")])
    assert await ids(world.backend, topic, 0, info.end[0]) == ["next"]


@case
async def test_trimming_one_partition_leaves_the_others(world: World) -> None:
    topic = await world.topic(partitions=2)
    for partition in range(2):
        await world.append(topic, partition, world.events(4))
    info = await world.backend.describe(topic)
    await world.backend.trim(topic, 0, info.end[0])
    assert len(await ids(world.backend, topic, 1)) == 4


@case
async def test_what_was_trimmed_is_still_known_as_a_duplicate(world: World) -> None:
    topic = await world.topic(partitions=1)
    event = world.event(body=b"1")
    (first,) = await world.append(topic, 0, [event])
    await world.backend.trim(topic, 0, (await world.backend.describe(topic)).end[0])
    (again,) = await world.append(topic, 0, [event])
    assert (again.duplicate, again.partition, again.position) == (True, 0, first.position)


async def _read(world: World, topic: str, position: int):  # type: ignore[no-untyped-def]
    return (await world.backend.read([Want(topic, 0, position, 1_000)], MANY_BYTES))[0]
