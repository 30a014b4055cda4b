"""Groups: where they start, how members share, how partitions move, and one owner at a time."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TypeVar

import pytest

from nexus.errors import UnknownTopic
from nexus.spi.backend import Assigned, Backend, Cursor, Lost, Revoking, Settlement
from nexus.testing.conformance._world import (
    FROZEN_S,
    MOVE_S,
    Party,
    World,
    case,
    settle_down,
    settled_low,
    start_of,
    within,
)
from nexus.testing.stranger import Stranger

A = TypeVar("A")


@case
async def test_a_lone_member_owns_every_partition(world: World) -> None:
    topic = await world.topic(partitions=5)
    party = await world.join(world.name("group"), [topic])
    await party.owns(5)
    assert set(party.owned) == {(topic, partition) for partition in range(5)}


@case
async def test_earliest_starts_at_the_first_kept_event(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 0, world.events(5))
    await world.backend.trim(topic, 0, (await world.backend.describe(topic)).end[0] - 2)
    first = (await world.backend.describe(topic)).first
    party = await world.join(world.name("group"), [topic], start="earliest")
    await party.owns(2)
    assert [start_of(party.owned[topic, partition]).low for partition in range(2)] == list(first)


@case
async def test_latest_starts_at_the_end(world: World) -> None:
    topic = await world.topic(partitions=2)
    await world.append(topic, 0, world.events(5))
    end = (await world.backend.describe(topic)).end
    party = await world.join(world.name("group"), [topic], start="latest")
    await party.owns(2)
    assert [start_of(party.owned[topic, partition]).low for partition in range(2)] == list(end)


@case
async def test_the_start_is_stored_when_claim_returns(world: World) -> None:
    topic, group = await world.topic(partitions=3), world.name("group")
    await world.append(topic, 1, world.events(5))
    end = (await world.backend.describe(topic)).end
    await world.join(group, [topic], start="latest")
    await world.append(topic, 1, world.events(5))
    other = await world.open()
    assert [lag.low for lag in await other.lag(group)] == list(end)


@case
async def test_a_group_that_died_before_its_first_settle_misses_nothing(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    await world.append(topic, 0, world.events(3))
    end = (await world.backend.describe(topic)).end[0]
    other = await world.open()
    await world.join(group, [topic], "one", start="latest", backend=other)
    await other.close()
    await world.append(topic, 0, world.events(3))
    party = await world.join(group, [topic], "two", start="latest")
    await party.owns(1)
    assert start_of(party.owned[topic, 0]).low == end


@case
async def test_the_start_of_a_known_group_is_itsstart_of(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    await world.append(topic, 0, world.events(9))
    party = await world.join(group, [topic], start="latest")
    await party.owns(1)
    low = start_of(party.owned[topic, 0]).low
    await party.member.leave()
    again = await world.join(group, [topic], start="earliest")
    await again.owns(1)
    assert start_of(again.owned[topic, 0]).low == low


@case
async def test_a_topic_that_joins_a_group_later_gets_a_start_of_its_own(world: World) -> None:
    old, new, group = await world.topic("a", 1), await world.topic("b", 1), world.name("group")
    party = await world.join(group, [old], start="earliest")
    await party.owns(1)
    await party.settle(old, 0, 3, 0)
    await party.member.leave()
    await world.append(old, 0, world.events(4))
    await world.append(new, 0, world.events(4))
    again = await world.join(group, [old, new], start="latest")
    await again.owns(2)
    assert start_of(again.owned[old, 0]) == Cursor(3, 0)
    assert start_of(again.owned[new, 0]).low == (await world.backend.describe(new)).end[0]


@case
async def test_an_unknown_topic_cannot_be_claimed(world: World) -> None:
    group = world.name("group")
    with pytest.raises(UnknownTopic):
        await world.join(group, [await world.topic(), world.name("nothing")])
    assert group not in await world.backend.groups()


@pytest.mark.parametrize(("members", "partitions"), [(2, 7), (3, 16), (4, 16), (5, 3)])
def test_members_share_evenly(nexus_backend_url: str, members: int, partitions: int) -> None:
    @case
    async def run(world: World) -> None:
        topic, group = await world.topic(partitions=partitions), world.name("group")
        parties = [await world.join(group, [topic], f"member-{number}") for number in range(members)]
        await settle_down(parties, partitions)
        counts = sorted(len(party.owned) for party in parties)
        assert sum(counts) == partitions
        assert counts[-1] - counts[0] <= 1

    run(nexus_backend_url)


@case
async def test_members_of_several_backends_share_evenly(world: World) -> None:
    topic, group = await world.topic(partitions=6), world.name("group")
    parties = [await world.join(group, [topic], f"member-{number}", backend=await world.open()) for number in range(3)]
    await settle_down(parties, 6)
    assert [len(party.owned) for party in parties] == [2, 2, 2]


@case
async def test_members_that_join_together_have_shared_within_a_second_of_letting_go(world: World) -> None:
    topic = await world.topic(partitions=12)
    backends = [await world.open() for _ in range(3)]
    for turn in range(5):
        group = world.name(f"group-{turn}")
        parties = await asyncio.gather(
            *(
                world.join(group, [topic], f"member-{number}", backend=backend)
                for number, backend in enumerate(backends)
            )
        )
        await within(MOVE_S, world, settle_down(parties, 12))
        assert [len(party.owned) for party in parties] == [4, 4, 4]


@case
async def test_members_hear_of_what_they_get_also_while_they_write(world: World) -> None:
    topic, other = await world.topic(partitions=12), await world.topic("other", 1)
    backends = [await world.open() for _ in range(3)]
    busy = True

    async def write(backend: Backend) -> None:
        while busy:
            await backend.append(other, [(0, world.event())])
            await asyncio.sleep(0.001)

    writing = [asyncio.create_task(write(backend)) for backend in backends]
    try:
        for turn in range(10):
            group = world.name(f"group-{turn}")
            parties = [
                await world.join(group, [topic], f"member-{number}", backend=backend)
                for number, backend in enumerate(backends)
            ]
            await within(MOVE_S, world, settle_down(parties, 12))
    finally:
        busy = False
        await asyncio.gather(*writing)


@case
async def test_a_group_may_be_on_several_topics(world: World) -> None:
    first, second, group = await world.topic("a", 4), await world.topic("b", 2), world.name("group")
    parties = [await world.join(group, [first, second], name) for name in ("one", "two")]
    await settle_down(parties, 6)
    assert [len(party.owned) for party in parties] == [3, 3]


@case
async def test_members_get_only_topics_that_they_claimed(world: World) -> None:
    first, second, group = await world.topic("a", 4), await world.topic("b", 4), world.name("group")
    one = await world.join(group, [first], "one")
    two = await world.join(group, [second], "two")
    await one.owns(4)
    await two.owns(4)
    assert {topic for topic, _ in one.owned} == {first}
    assert {topic for topic, _ in two.owned} == {second}


@case
async def test_groups_do_not_know_each_other(world: World) -> None:
    topic = await world.topic(partitions=3)
    parties = [await world.join(world.name(group), [topic]) for group in ("a", "b")]
    for party in parties:
        await party.owns(3)
    assert await parties[0].settle(topic, 1, 5, 7) == "ok"
    assert await settled_low(world.backend, world.name("b"), topic, 1) != 7
    assert await settled_low(world.backend, world.name("a"), topic, 1) == 7


@case
async def test_revoking_then_release_moves_the_partition_with_itsstart_of(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    one = await world.join(group, [topic], "one")
    await one.owns(2)
    two = await world.join(group, [topic], "two")
    (revoking,) = await one.hears(Revoking)
    assert revoking.deadline_s > 0
    assert await one.release(revoking, Cursor(7, 3, "kept")) == "ok"
    await two.owns(1)
    assert set(two.owned) == {(revoking.topic, revoking.partition)}
    assert two.owned[topic, revoking.partition].cursor == Cursor(7, 3, "kept")


@case
async def test_until_it_is_released_a_revoked_partition_is_still_owned(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    one = await world.join(group, [topic], "a")
    await one.owns(1)
    others = [await world.join(group, [topic], name) for name in ("b", "c", "d", "e")]
    assert await one.settle(topic, 0, 1, 1) == "ok"
    for other in others:
        assert await other.settle(topic, 0, 9, 9) == "fenced"
    assert await settled_low(world.backend, group, topic, 0) == 1


@pytest.mark.slow
@case
async def test_after_the_deadline_the_partition_moves_unasked(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    one = await world.join(group, [topic], "one")
    await one.owns(2)
    two = await world.join(group, [topic], "two")
    (revoking,) = await one.hears(Revoking)
    assert await one.settle(topic, revoking.partition, 4, 4) == "ok"
    await two.owns(1, within_s=revoking.deadline_s + world.takeover_s)
    assert two.owned[topic, revoking.partition].cursor == Cursor(4, 4)
    lost = (await one.hears(Lost))[0]
    assert (lost.topic, lost.partition) == (topic, revoking.partition)
    assert lost.reason
    assert await one.settle(topic, revoking.partition, 5, 5) == "fenced"


@case
async def test_who_leaves_hands_everything_over(world: World) -> None:
    topic, group = await world.topic(partitions=4), world.name("group")
    one = await world.join(group, [topic], "one", backend=await world.open())
    two = await world.join(group, [topic], "two")
    await settle_down([one, two], 4)
    for _, partition in one.owned:
        assert await one.settle(topic, partition, 3, 3) == "ok"
    moved = list(one.owned)
    await one.member.leave()
    await one.member.leave()
    await two.owns(4)
    assert [two.owned[place].cursor for place in moved] == [Cursor(3, 3)] * len(moved)


@case
async def test_who_has_left_is_fenced_and_hears_nothing_more(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(1)
    await party.member.leave()
    assert await party.settle(topic, 0, 9, 9) == "fenced"
    assert await settled_low(world.backend, group, topic, 0) != 9
    assert not [change for change in party.member.changes() if isinstance(change, Assigned)]


@case
async def test_a_name_can_be_used_again_after_leaving(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    for turn in range(3):
        party = await world.join(group, [topic], "same")
        await party.owns(2)
        assert await party.settle(topic, 0, turn, turn) == "ok"
        await party.member.leave()
    assert await settled_low(world.backend, group, topic, 0) == 2


@case
async def test_a_closed_backend_gives_up_what_its_members_owned(world: World) -> None:
    topic, group = await world.topic(partitions=4), world.name("group")
    other = await world.open()
    one = await world.join(group, [topic], "one", backend=other)
    await one.owns(4)
    two = await world.join(group, [topic], "two")
    await other.close()
    await two.owns(4)


@case
async def test_the_partitions_of_a_dead_process_move_in_time(world: World) -> None:
    topic, group = await world.topic(partitions=4), world.name("group")
    stranger = await world.stranger(group, [topic])
    await _heard(world, stranger, Assigned, 4)
    party = await world.join(group, [topic], "heir")
    await stranger.kill()
    await party.owns(4, within_s=world.takeover_s)


@pytest.mark.slow
@case
async def test_the_partitions_of_a_frozen_process_move_and_its_settles_are_fenced(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    stranger = await world.stranger(group, [topic])
    (assigned,) = await _heard(world, stranger, Assigned, 1)
    party = await world.join(group, [topic], "heir")
    await world.freeze(stranger)
    await party.owns(1, within_s=FROZEN_S)
    epoch = start_of(assigned).epoch + 1
    assert await party.settle(topic, 0, epoch, 5) == "ok"
    stranger.thaw()
    late = Settlement(topic, 0, Cursor(99, 99, "late"))
    assert await within(10 * MOVE_S, world, stranger.settle(late)) == "fenced"
    lost = await _heard(world, stranger, Lost, 1)
    assert (lost[0].topic, lost[0].partition) == (topic, 0)
    assert await settled_low(world.backend, group, topic, 0) == 5


@case
async def test_at_most_one_member_can_settle_at_any_time(world: World) -> None:
    topic, group, dice = await world.topic(partitions=5), world.name("group"), Random(7)
    parties: dict[str, Party] = {}
    epoch = 0
    for turn in range(40):
        name = f"member-{dice.randrange(5)}"
        if name in parties:
            await parties.pop(name).member.leave()
        else:
            parties[name] = await world.join(group, [topic], name)
        for party in parties.values():
            party.listen()
            for revoking in party.all(Revoking):
                if dice.random() < 0.5 and (topic, revoking.partition) in party.owned:
                    epoch += 1
                    assert await party.release(revoking, Cursor(epoch, turn)) in ("ok", "fenced")
        for partition in range(5):
            epoch += 1
            words = [await party.settle(topic, partition, epoch, turn) for party in parties.values()]
            assert words.count("ok") <= 1, f"{words} for partition {partition}"


@case
async def test_a_token_grows_with_each_owner_if_there_is_one(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    tokens = []
    for turn in range(4):
        party = await world.join(group, [topic], f"member-{turn}")
        await party.owns(1)
        tokens.append(party.owned[topic, 0].token)
        await party.member.leave()
    assert tokens == [0] * 4 or tokens == sorted(set(tokens))


async def _heard(world: World, stranger: Stranger, kind: type[A], count: int) -> list[A]:
    async with asyncio.timeout(10 * MOVE_S):  # a process needs a while to start
        while True:
            found: list[A] = [change for change in stranger.heard if isinstance(change, kind)]
            if len(found) >= count:
                return found
            stranger.news.clear()
            await stranger.news.wait()


@case
async def test_what_is_told_of_a_change_of_hands_is_true(world: World) -> None:
    """A backend need not know it; what it knows is so."""
    topic, group = await world.topic(partitions=1), world.name("group")
    party = await world.join(group, [topic], "one")
    await party.owns(1)
    await party.member.leave()
    (lag,) = await world.backend.lag(group)
    assert lag.owner is None
    if lag.handover is not None:
        assert (lag.handover.why, lag.handover.before) == ("left", "one")
    again = await world.join(group, [topic], "two")
    await again.owns(1)
    (lag,) = await world.backend.lag(group)
    assert lag.owner == "two"
    if lag.handover is not None:
        assert (lag.handover.why, lag.handover.before) == ("joined", None)
