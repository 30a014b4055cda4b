"""Cursors: settled or fenced, kept as they were, and shown as lag."""

from __future__ import annotations

import asyncio

import pytest

from nexus.errors import UnknownGroup
from nexus.spi.backend import Cursor, Lost, Revoking, Settlement, Want
from nexus.testing.conformance._world import (
    MANY_BYTES,
    WAKE_S,
    World,
    case,
    read_all,
    settle_down,
    settled_low,
    start_of,
    within,
)

PRINTABLE = "".join(map(chr, range(32, 127)))


@case
async def test_a_settled_cursor_is_stored_when_settle_returns(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    other = await world.open()
    party = await world.join(group, [topic])
    await party.owns(2)
    for low in range(1, 20):
        assert await party.settle(topic, 1, 1, low) == "ok"
        assert await settled_low(other, group, topic, 1) == low


@case
async def test_the_epoch_may_stay_or_rise(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(1)
    for epoch in (1, 1, 2, 2, 50):
        assert await party.settle(topic, 0, epoch, epoch) == "ok"
    assert [lag.epoch for lag in await world.backend.lag(group)] == [50]


@case
async def test_the_epoch_may_not_fall(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(1)
    assert await party.settle(topic, 0, 5, 5) == "ok"
    assert await party.settle(topic, 0, 4, 6) == "fenced"
    lag = (await world.backend.lag(group))[0]
    assert (lag.epoch, lag.low) == (5, 5)
    await party.hears(Lost)


@case
async def test_the_low_watermark_may_be_set_back(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(1)
    for low in (9, 2):
        assert await party.settle(topic, 0, 1, low) == "ok"
    assert await settled_low(world.backend, group, topic, 0) == 2


@case
async def test_settling_what_one_does_not_own_changes_nothing(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    one = await world.join(group, [topic], "one")
    await one.owns(2)
    two = await world.join(group, [topic], "two")
    before = [(lag.low, lag.owner) for lag in await world.backend.lag(group)]
    for partition in range(2):
        assert await two.settle(topic, partition, 9, 9, release=True) == "fenced"
    assert [(lag.low, lag.owner) for lag in await world.backend.lag(group)] == before
    assert [owner for _, owner in before] == ["one"] * 2


@case
async def test_many_cursors_in_one_call_are_answered_one_by_one(world: World) -> None:
    topic, group = await world.topic(partitions=6), world.name("group")
    parties = [await world.join(group, [topic], name) for name in ("one", "two")]
    await settle_down(parties, 6)
    one = parties[0]
    owned = {partition for _, partition in one.owned}
    stale = min(owned)
    assert await one.settle(topic, stale, 5, 5) == "ok"
    settlements = [Settlement(topic, p, Cursor(4 if p == stale else 6, 9)) for p in reversed(range(6))]
    words = await one.member.settle(settlements)
    assert words == ["ok" if p in owned and p != stale else "fenced" for p in reversed(range(6))]
    lows = [lag.low for lag in await world.backend.lag(group)]
    assert [p for p in range(6) if lows[p] == 9] == sorted(owned - {stale})
    assert lows[stale] == 5


@case
async def test_settling_nothing_is_answered_with_nothing(world: World) -> None:
    party = await world.join(world.name("group"), [await world.topic()])
    assert await party.member.settle([]) == []


@case
async def test_releasing_some_keeps_the_others(world: World) -> None:
    topic, group = await world.topic(partitions=4), world.name("group")
    one = await world.join(group, [topic], "one")
    await one.owns(4)
    two = await world.join(group, [topic], "two")
    revoking = await one.hears(Revoking, 2)
    settlements = [Settlement(topic, change.partition, Cursor(1, 1), release=True) for change in revoking]
    kept = sorted({0, 1, 2, 3} - {change.partition for change in revoking})
    settlements += [Settlement(topic, partition, Cursor(1, 1)) for partition in kept]
    assert await one.member.settle(settlements) == ["ok"] * 4
    await two.owns(2)
    for partition in kept:
        assert await one.settle(topic, partition, 1, 2) == "ok"


@pytest.mark.parametrize("state", ["", "x", PRINTABLE, "longest"], ids=["empty", "short", "printable", "longest"])
def test_the_state_of_a_cursor_comes_back_as_it_was(nexus_backend_url: str, state: str) -> None:
    @case
    async def run(world: World) -> None:
        topic, group = await world.topic(partitions=1), world.name("group")
        length = world.backend.capabilities.max_cursor_chars or 32_768
        text = (PRINTABLE * (length // len(PRINTABLE) + 1))[:length] if state == "longest" else state
        one = await world.join(group, [topic], "one")
        await one.owns(1)
        assert await one.settle(topic, 0, 1, 1, text, release=True) == "ok"
        await one.member.leave()
        two = await world.join(group, [topic], "two", backend=await world.open())
        await two.owns(1)
        assert two.owned[topic, 0].cursor == Cursor(1, 1, text)

    run(nexus_backend_url)


@case
async def test_an_append_wakes_the_members(world: World) -> None:
    topic = await world.topic(partitions=2)
    other = await world.open()
    party = await world.join(world.name("group"), [topic])
    await party.owns(2)
    for number, backend in enumerate([world.backend, other] * 5):
        wakes = party.wakes
        await backend.append(topic, [(number % 2, world.event())])
        await party.until(lambda party, wakes=wakes: party.wakes > wakes, within_s=WAKE_S)  # type: ignore[misc]


@case
async def test_fetch_reads_what_the_member_owns_and_its_journal(world: World) -> None:
    topic, journal = await world.topic(partitions=2), await world.topic("park", 2, dedup=False)
    for name in (topic, journal):
        for partition in range(2):
            await world.append(name, partition, [world.event(f"{name}/{partition}")])
    party = await world.join(world.name("group"), [topic])
    await party.owns(2)
    wants = [Want(name, partition, 0, 10) for partition in range(2) for name in (topic, journal)]
    slices = await party.member.fetch(wants, MANY_BYTES)
    assert slices == await world.backend.read(wants, MANY_BYTES)
    assert [answer.events[0].event.id for answer in slices] == [f"{want.topic}/{want.partition}" for want in wants]


@case
async def test_fetch_keeps_to_its_bounds(world: World) -> None:
    topic = await world.topic(partitions=2)
    for partition in range(2):
        await world.append(topic, partition, world.events(10, body=b"x" * 1_000))
    party = await world.join(world.name("group"), [topic])
    await party.owns(2)
    slices = await party.member.fetch([Want(topic, partition, 0, 3) for partition in range(2)], MANY_BYTES)
    assert [(len(answer.events), answer.more) for answer in slices] == [(3, True), (3, True)]
    slices = await party.member.fetch([Want(topic, partition, 0, 3) for partition in range(2)], 1)
    assert [(len(answer.events), answer.more) for answer in slices] == [(1, True), (0, True)]


@case
async def test_fetch_does_not_wait_for_events(world: World) -> None:
    topic = await world.topic(partitions=1)
    party = await world.join(world.name("group"), [topic])
    await party.owns(1)
    start = start_of(party.owned[topic, 0]).low
    (answer,) = await within(WAKE_S, world, party.member.fetch([Want(topic, 0, start, 10)], MANY_BYTES))
    assert (list(answer.events), answer.more) == ([], False)


@case
async def test_changes_are_given_once(world: World) -> None:
    party = await world.join(world.name("group"), [await world.topic(partitions=3)])
    await party.owns(3)
    assert party.member.changes() == []
    assert len(party.heard) == 3


@case
async def test_cancelled_calls_lose_nothing(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    await world.append(topic, 0, world.events(50))
    party = await world.join(group, [topic])
    await party.owns(2)
    for turn in range(1, 30):
        calls = [
            asyncio.create_task(party.member.settle([Settlement(topic, 0, Cursor(1, turn))])),
            asyncio.create_task(party.member.fetch([Want(topic, 0, 0, 10)], MANY_BYTES)),
        ]
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        party.listen()
        assert set(party.owned) == {(topic, 0), (topic, 1)}
    assert await party.settle(topic, 0, 1, 40) == "ok"
    assert await settled_low(world.backend, group, topic, 0) == 40
    (answer,) = await party.member.fetch([Want(topic, 0, 0, 100)], MANY_BYTES)
    assert len(answer.events) == 50


@case
async def test_groups_are_listed_sorted(world: World) -> None:
    topic = await world.topic(partitions=1)
    names = [world.name(base) for base in ("c", "a", "b")]
    for name in names:
        await (await world.join(name, [topic])).member.leave()
    listed = await world.backend.groups()
    assert listed == sorted(listed)
    assert set(names) <= set(listed)


@case
async def test_lag_says_where_a_group_stands(world: World) -> None:
    topic, group = await world.topic(partitions=3), world.name("group")
    await world.append(topic, 0, world.events(4))
    await world.until_later()
    await world.append(topic, 0, world.events(4))
    await world.append(topic, 1, world.events(2))
    stored = await read_all(world.backend, topic, 0)
    end = (await world.backend.describe(topic)).end
    party = await world.join(group, [topic], "me")
    await party.owns(3)
    await party.settle(topic, 0, 3, stored[5].position)
    await party.settle(topic, 1, 4, end[1])
    lags = await world.backend.lag(group)
    assert [(lag.topic, lag.partition, lag.owner, lag.end) for lag in lags] == [
        (topic, partition, "me", end[partition]) for partition in range(3)
    ]
    assert [(lag.low, lag.epoch) for lag in lags[:2]] == [(stored[5].position, 3), (end[1], 4)]
    assert lags[0].oldest_at == stored[5].recorded_at
    assert [lag.oldest_at for lag in lags[1:]] == [None, None]


@case
async def test_lag_does_not_invent_the_time_of_an_event_that_is_gone(world: World) -> None:
    topic, group = await world.topic(partitions=1), world.name("group")
    await world.append(topic, 0, world.events(4))
    party = await world.join(group, [topic])
    await party.owns(1)
    await world.backend.trim(topic, 0, (await world.backend.describe(topic)).end[0] - 1)
    assert [lag.oldest_at for lag in await world.backend.lag(group)] == [None]


@case
async def test_lag_names_no_owner_when_nobody_is_there(world: World) -> None:
    topic, group = await world.topic(partitions=2), world.name("group")
    party = await world.join(group, [topic])
    await party.owns(2)
    await party.member.leave()
    assert [lag.owner for lag in await world.backend.lag(group)] == [None, None]


@case
async def test_lag_is_sorted_by_topic_and_partition(world: World) -> None:
    topics, group = [await world.topic(base, 12) for base in ("b", "a")], world.name("group")
    await world.join(group, topics)
    places = [(lag.topic, lag.partition) for lag in await world.backend.lag(group)]
    assert places == sorted(places)
    assert len(places) == 24


@case
async def test_the_lag_of_an_unknown_group_is_an_error(world: World) -> None:
    with pytest.raises(UnknownGroup):
        await world.backend.lag(world.name("nobody"))
