"""Groups and topics above a plain log: what the shipped suite does not reach, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from nexus.clock import Clock
from nexus.coordination import backend as coordination
from nexus.coordination import known, rejoining, replica
from nexus.coordination.known import KnownIds
from nexus.coordination.member import LogMember
from nexus.coordination.replica import Replica
from nexus.core import roster
from nexus.errors import Closed, Sealed, Unavailable, UnknownGroup, UnknownOutcome, UnknownTopic
from nexus.event import Event
from nexus.plugins import make_backend
from nexus.spi.backend import Appended, Assigned, Cursor, Lost, Member, Revoking, Settlement, Slice, TopicSpec, Want
from nexus.testing.backed_log import BackedLog
from nexus.testing.clock import VirtualClock

numbers = count()
LOG_LIMIT_S = 30.0
"""How long a log waits for its broker, as a rule."""


class Breakable(BackedLog):
    """A log whose broker may be away, or take what it is asked and say nothing for as long as a log waits."""

    down = False
    silent = False

    async def append(self, topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
        await self._check()
        return await super().append(topic, batch, dedup=dedup)

    async def read(self, wants: Any, max_bytes: int, *, fresh: bool) -> Any:
        await self._check()
        return await super().read(wants, max_bytes, fresh=fresh)

    async def _check(self) -> None:
        if self.silent:
            await asyncio.sleep(LOG_LIMIT_S)
        if self.silent or self.down:
            raise Unavailable("the broker is away")


@asynccontextmanager
async def store(name: str, clock: Clock, **options: bool) -> AsyncIterator[tuple[Breakable, coordination.LogBackend]]:
    log = Breakable(make_backend(f"memory://{name}", clock), **({"positions": True, "trim": True} | options))
    made = coordination.LogBackend(log, clock=clock)
    await made.open()
    yield log, made
    log.down = log.silent = False
    await made.close()


@pytest.fixture
def name() -> str:
    return f"coordination-{next(numbers)}"


class Held:
    """A log whose appends to a topic are stored at once; their answers come when they are let go."""

    def __init__(self, log: Breakable, topic: str) -> None:
        self.go = asyncio.Event()
        self.stored: list[str] = []
        plain = log.append

        async def append(of: str, batch: Any, *, dedup: bool) -> list[Appended]:
            answers = await plain(of, batch, dedup=dedup)
            if of == topic:
                self.stored += [event.id for _, event in batch]
                await self.go.wait()
            return answers

        log.append = append  # type: ignore[method-assign]


def event(id: str = "1", **attributes: Any) -> Event[object]:
    return Event(id=id, source="/s", type="t", time=datetime(2026, 1, 1, tzinfo=UTC), **attributes)


async def test_a_journal_is_kept_short_and_a_newcomer_learns_all_of_it(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 2))
        member = await one.claim("g", ["orders"], "m", lambda: None, "earliest")
        member.changes()
        for low in range(2 * replica.SNAPSHOT_EVERY + 50):
            assert await member.settle([Settlement("orders", 0, Cursor(1, low))]) == ["ok"]
        journal = await log.describe("nexus.group.g")
        assert journal.end[0] - journal.first[0] < 2.2 * replica.SNAPSHOT_EVERY
        assert journal.first[0] > 0
        assert [lag.low for lag in await two.lag("g")] == [low, 0]


async def test_a_reader_that_was_left_behind_begins_at_a_snapshot(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (_, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        member = await one.claim("g", ["orders"], "m", lambda: None, "earliest")
        assert [lag.low for lag in await two.lag("g")] == [0]
        for low in range(3 * replica.SNAPSHOT_EVERY):
            await member.settle([Settlement("orders", 0, Cursor(1, low))])
        assert [lag.low for lag in await two.lag("g")] == [low]


async def test_who_cannot_renew_loses_all_before_another_may_have_it(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        news = asyncio.Event()
        cut_off = await one.claim("g", ["orders"], "one", news.set, "earliest")
        assert [type(change) for change in cut_off.changes()] == [Assigned]
        heard = asyncio.Event()
        heir = await two.claim("g", ["orders"], "two", heard.set, "earliest")
        await asyncio.sleep(1.0)
        cut_off.changes()
        log.down = True
        began = nexus_clock.monotonic()
        news.clear()
        while not any(isinstance(change, Lost) for change in cut_off.changes()):
            await news.wait()
            news.clear()
        lost_after = nexus_clock.monotonic() - began
        heard.clear()
        while not any(isinstance(change, Assigned) for change in heir.changes()):
            await heard.wait()
            heard.clear()
        taken_after = nexus_clock.monotonic() - began
        assert lost_after < taken_after <= coordination.LEASE_S + 1.0
        assert await cut_off.settle([Settlement("orders", 0, Cursor(9, 9))]) == ["fenced"]
        log.down = False
        await asyncio.sleep(2.0)  # it is a member again, under a new id
        assert {person.name for person in two._groups["g"].replica.fold.members.values()} == {"one", "two"}


@asynccontextmanager
async def followed(one: coordination.LogBackend, two: coordination.LogBackend) -> AsyncIterator[tuple[Member, Any]]:
    """Have an owner and an heir that take what they are told when they are woken, and only then.

    Gives the owner, and a list that grows with what both were told.
    """
    told: list[tuple[str, type]] = []

    async def follow(name: str, member: Member, news: asyncio.Event) -> None:
        while True:
            changes = [type(change) for change in member.changes()]
            told.extend((name, change) for change in changes if change is not Revoking)
            await news.wait()
            news.clear()

    tasks = []
    members = []
    for of, name in ((one, "owner"), (two, "heir")):
        news = asyncio.Event()
        members.append(await of.claim("g", ["orders"], name, news.set, "earliest"))
        tasks.append(asyncio.create_task(follow(name, members[-1], news)))
    yield members[0], told
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lease_ends_in_time_while_the_broker_is_silent(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        async with followed(one, two) as (_, told):
            log.silent = True
            await nexus_clock.sleep_until(lambda: ("heir", Assigned) in told, within_s=coordination.LEASE_S + 1.0)
            assert told == [("owner", Assigned), ("owner", Lost), ("heir", Assigned)]


async def test_a_lease_counts_from_a_renewal_that_was_answered(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        append, read = log.append, log.read
        renewals: list[float] = []

        async def loses_answers(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            record = roster.decode_record(batch[0][1].body)
            if isinstance(record, roster.Settle):
                return await append(topic, batch, dedup=dedup)
            if not isinstance(record, roster.Renew):
                raise Unavailable("the broker is away")
            renewals.append(nexus_clock.monotonic())
            if len(renewals) == 1:
                await append(topic, batch, dedup=dedup)
                raise UnknownOutcome("the connection broke")
            await asyncio.sleep(LOG_LIMIT_S)
            raise Unavailable("the broker is away")

        async def hears_nothing(wants: Any, max_bytes: int, *, fresh: bool) -> Any:
            if fresh:
                return await read(wants, max_bytes, fresh=fresh)
            return [Slice(want.topic, want.partition, [], want.position, False) for want in wants]

        async with followed(one, two) as (owner, told):
            log.append, log.read = loses_answers, hears_nothing  # type: ignore[method-assign]
            await nexus_clock.sleep_until(lambda: len(renewals) == 2)
            # Only now it reads the first one, and nothing tells it from the second, which is not stored.
            assert await owner.settle([Settlement("orders", 0, Cursor(1, 1))]) == ["ok"]
            await nexus_clock.sleep_until(lambda: ("heir", Assigned) in told, within_s=2 * coordination.LEASE_S)
            assert told == [("owner", Assigned), ("owner", Lost), ("heir", Assigned)]


async def test_who_hears_of_its_join_after_the_lease_is_over_owns_nothing(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        plain = log.append

        async def late(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            if topic == "nexus.group.g":
                log.append = plain  # type: ignore[method-assign]
                await asyncio.sleep(coordination.LEASE_S)
            return await plain(topic, batch, dedup=dedup)

        log.append = late  # type: ignore[method-assign]
        news = asyncio.Event()
        member = await one.claim("g", ["orders"], "m", news.set, "earliest")
        assert isinstance(member, LogMember)
        assert not any(isinstance(change, Assigned) for change in member._changes)
        while not any(isinstance(change, Assigned) for change in member.changes()):
            await news.wait()
            news.clear()


async def test_while_the_broker_is_away_a_settle_is_to_be_tried_again(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        member = await one.claim("g", ["orders"], "one", lambda: None, "earliest")
        log.down = True
        assert await member.settle([Settlement("orders", 0, Cursor(1, 1))]) == ["retry"]
        log.down = False
        assert await member.settle([Settlement("orders", 0, Cursor(1, 2))]) == ["ok"]


async def looks_of(log: Breakable, look_s: float, topic: str = coordination.CATALOGUE) -> list[float]:
    """Have each look at the catalogue, or another journal, take so long; return a list that grows with each."""
    looks: list[float] = []
    plain = log.read

    async def read(wants: Any, max_bytes: int, *, fresh: bool) -> Any:
        if wants[0].topic == topic:
            looks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(look_s)
        return await plain(wants, max_bytes, fresh=fresh)

    log.read = read  # type: ignore[method-assign]
    return looks


async def test_who_appends_on_and_on_never_waits_for_the_catalogue(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        looks = await looks_of(log, look_s=0.1)
        for number in range(100):
            await asyncio.sleep(0.05)
            began = nexus_clock.monotonic()
            await one.append("orders", [(0, event(str(number)))])
            assert nexus_clock.monotonic() == began
        assert 5.0 / coordination.FRESH_S <= len(looks) <= 2 * 5.0 / coordination.FRESH_S


async def test_those_who_wait_for_the_catalogue_wait_together_and_keep_their_order(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        looks = await looks_of(log, look_s=0.1)
        await asyncio.sleep(2 * coordination.FRESH_S)
        places: list[int] = []

        async def append(number: int) -> None:
            (place,) = await one.append("orders", [(0, event(str(number)))])
            assert isinstance(place, Appended)
            assert place.position is not None
            places.append(place.position)
            if number < 100:  # comes again while others, who waited, have not gone on yet
                await append(number + 100)

        await asyncio.gather(*(append(number) for number in range(100)))
        assert len(looks) == 1
        (part,) = await one.read([Want("orders", 0, 0, 1_000)], 1 << 20)
        assert [int(stored.event.id) for stored in part.events] == list(range(200))


async def test_appends_that_took_long_look_behind_seals_together(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        plain = log.append

        async def slow(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            await asyncio.sleep(2 * coordination.FRESH_S)
            return await plain(topic, batch, dedup=dedup)

        log.append = slow  # type: ignore[method-assign]
        looks = await looks_of(log, look_s=0.1)
        began = nexus_clock.monotonic()
        await asyncio.gather(*(one.append("orders", [(0, event(str(number)))]) for number in range(100)))
        assert len(looks) <= 2
        assert nexus_clock.monotonic() - began < 2 * coordination.FRESH_S + 0.3


async def test_a_look_that_fails_is_told_to_who_waits_for_it_and_tried_again(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        await asyncio.sleep(2 * coordination.FRESH_S)
        log.down = True
        with pytest.raises(Unavailable):
            await one.append("orders", [(0, event("1"))])
        log.down = False
        await one.append("orders", [(0, event("1"))])


async def test_who_comes_while_a_look_ends_passes_behind_those_that_waited_for_it(
    nexus_clock: VirtualClock, name: str
) -> None:
    loop = asyncio.get_running_loop()
    for turns in range(8):
        async with store(f"{name}-{turns}", nexus_clock) as (log, one):
            await one.ensure(TopicSpec("orders", 1))
            await asyncio.sleep(2 * coordination.FRESH_S)
            plain = log.read
            came: asyncio.Future[asyncio.Task[Any]] = loop.create_future()

            def come(turns: int, one: Any = one, came: Any = came) -> None:
                if turns:
                    loop.call_soon(come, turns - 1)
                else:
                    came.set_result(loop.create_task(one.append("orders", [(0, event("second"))])))

            async def read(wants: Any, max_bytes: int, *, fresh: bool, log: Any = log, plain: Any = plain) -> Any:
                log.read = plain
                found = await plain(wants, max_bytes, fresh=fresh)
                come(turns)  # noqa: B023
                return found

            log.read = read  # type: ignore[method-assign]
            await one.append("orders", [(0, event("first"))])
            await (await came)
            (part,) = await one.read([Want("orders", 0, 0, 10)], 1 << 20)
            assert [stored.event.id for stored in part.events] == ["first", "second"], turns


async def test_a_look_that_began_long_ago_lets_nobody_pass_who_came_since(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        await asyncio.sleep(2 * coordination.FRESH_S)
        plain, append = log.read, log.append
        go = asyncio.Event()

        async def answers_late(wants: Any, max_bytes: int, *, fresh: bool) -> Any:
            log.read = plain  # type: ignore[method-assign]
            found = await plain(wants, max_bytes, fresh=fresh)
            await go.wait()
            return found

        async def takes_a_while(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            await asyncio.sleep(0.01)
            return await append(topic, batch, dedup=dedup)

        log.read, log.append = answers_late, takes_a_while  # type: ignore[method-assign]
        early = asyncio.create_task(one.append("orders", [(0, event("early"))]))
        await asyncio.sleep(0.1)
        assert await two.seal("orders", 0) == 0
        late = asyncio.create_task(one.append("orders", [(0, event("late"))]))
        await asyncio.sleep(0.1)
        go.set()
        answers = await asyncio.gather(early, late, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Sealed, Sealed]


async def test_all_who_wait_for_a_look_are_told_at_once_that_it_failed(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        await asyncio.sleep(2 * coordination.FRESH_S)
        log.silent = True
        began = nexus_clock.monotonic()
        appends = [one.append("orders", [(0, event(str(number)))]) for number in range(10)]
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Unavailable] * 10
        assert nexus_clock.monotonic() - began == pytest.approx(LOG_LIMIT_S)


async def test_who_waits_for_a_look_when_the_store_is_closed_is_told_so(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        await asyncio.sleep(2 * coordination.FRESH_S)
        log.silent = True
        appends = [asyncio.create_task(one.append("orders", [(0, event(str(number)))])) for number in range(3)]
        await asyncio.sleep(0.1)
        await one.close()
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Closed] * 3


@pytest.mark.parametrize("positions", [True, False])
async def test_an_append_that_took_too_long_is_not_believed_behind_a_seal(
    nexus_clock: VirtualClock, name: str, positions: bool
) -> None:
    async with store(name, nexus_clock, positions=positions) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        await one.append("orders", [(0, event("0"))])
        go = asyncio.Event()
        plain = log.append

        async def slow(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            await go.wait()
            return await plain(topic, batch, dedup=dedup)

        log.append = slow  # type: ignore[method-assign]
        late = asyncio.create_task(one.append("orders", [(0, event("late"))]))
        assert await two.seal("orders", 0) == 1
        go.set()
        with pytest.raises(Sealed):
            await late
        (part,) = await two.read([Want("orders", 0, 0, 10)], 1 << 20)
        assert ([stored.event.id for stored in part.events], part.next, part.more) == (["0"], 1, False)


@pytest.mark.parametrize("positions", [True, False])
async def test_a_late_append_in_front_of_the_end_of_a_sealed_partition_is_believed(
    nexus_clock: VirtualClock, name: str, positions: bool
) -> None:
    async with store(name, nexus_clock, positions=positions) as (log, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        await one.append("orders", [(0, event("0"))])
        held = Held(log, "orders")
        late = asyncio.create_task(one.append("orders", [(0, event("late"))]))
        await nexus_clock.sleep_until(lambda: held.stored)
        assert await two.seal("orders", 0) == 2
        held.go.set()
        assert await late == [Appended(0, 1 if positions else None)]


async def test_a_late_append_waits_until_it_is_said_where_a_sealed_partition_ends(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (other, two):
        await one.ensure(TopicSpec("orders", 1))
        await one.append("orders", [(0, event("0"))])
        go, looked = asyncio.Event(), asyncio.Event()
        plain, describe = log.append, other.describe

        async def slow(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            if topic == "orders":
                await go.wait()
            return await plain(topic, batch, dedup=dedup)

        async def slow_to_say(topic: str) -> Any:
            state = await describe(topic)
            if two._catalogue.fold.sealed:
                looked.set()
                await asyncio.sleep(0.5)
            return state

        log.append, other.describe = slow, slow_to_say  # type: ignore[method-assign]
        late = asyncio.create_task(one.append("orders", [(0, event("late"))]))
        sealing = asyncio.create_task(two.seal("orders", 0))
        await looked.wait()
        go.set()
        with pytest.raises(Sealed):
            await late
        assert await sealing == 1


async def test_nobody_knows_of_a_late_append_when_seals_cannot_be_looked_at(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        held = Held(log, "orders")
        late = asyncio.create_task(one.append("orders", [(0, event("late"))]))
        await nexus_clock.sleep_until(lambda: held.stored)
        await asyncio.sleep(2 * coordination.FRESH_S)
        log.down = True
        held.go.set()
        with pytest.raises(UnknownOutcome):
            await late


async def test_the_lag_of_a_group_of_which_nobody_heard(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (_, one):
        with pytest.raises(UnknownGroup):
            await one.lag("nobody")


async def test_the_lag_of_a_group_of_which_nobody_heard_may_be_asked_for_twice_at_once(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await looks_of(log, look_s=0.1, topic="nexus.group.nobody")
        answers = await asyncio.gather(one.lag("nobody"), one.lag("nobody"), return_exceptions=True)
        assert [type(answer) for answer in answers] == [UnknownGroup, UnknownGroup]


async def test_the_groups_whose_lag_was_asked_for_are_remembered_within_a_bound(
    nexus_clock: VirtualClock, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordination, "_REPLICAS", 3)
    async with store(name, nexus_clock) as (_, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        for number in range(8):
            await one.claim(f"g{number}", ["orders"], "m", lambda: None, "earliest")
            assert len(await two.lag(f"g{number}")) == 1
        assert len(two._lags) == 3
        assert await two.groups() == [f"g{number}" for number in range(8)]


def followers() -> list[str]:
    """The groups that something in this process follows."""
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("nexus-group-"))


async def test_a_group_that_all_members_of_a_process_left_is_not_followed_by_it(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        for number in range(100):  # as many replays in turn
            member = await one.claim(f"g{number}", ["orders"], "m", lambda: None, "earliest")
            assert followers() == [f"nexus-group-g{number}"]
            assert await member.settle([Settlement("orders", 0, Cursor(1, number))]) == ["ok"]
            await member.leave()
            await member.leave()
        assert followers() == []
        assert one._groups == {}
        looks: list[str] = []
        plain = log.read

        async def read(wants: Any, max_bytes: int, *, fresh: bool) -> Any:
            looks.append(wants[0].topic)
            return await plain(wants, max_bytes, fresh=fresh)

        log.read = read  # type: ignore[method-assign]
        await asyncio.sleep(60.0)
        assert looks == []
        assert [(lag.low, lag.owner) for lag in await one.lag("g99")] == [(99, None)]
        assert len(await one.groups()) == 100


async def test_a_group_is_followed_as_long_as_one_member_is_in_it_or_comes(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        anna, bert = await asyncio.gather(
            *(one.claim("g", ["orders"], member, lambda: None, "earliest") for member in ("anna", "bert"))
        )
        await anna.leave()
        assert followers() == ["nexus-group-g"]
        # The last one leaves while another comes: followed once, by whichever of both was later.
        _, cleo = await asyncio.gather(bert.leave(), one.claim("g", ["orders"], "cleo", lambda: None, "earliest"))
        assert followers() == ["nexus-group-g"]
        await asyncio.sleep(2 * coordination.LEASE_S)
        assert [type(change) for change in cleo.changes()] == [Assigned]
        assert [lag.owner for lag in await one.lag("g")] == ["cleo"]
        # Who lost its lease and waits for the broker is in it too, until it leaves.
        log.down = True
        await asyncio.sleep(2 * coordination.LEASE_S)
        assert [type(change) for change in cleo.changes()] == [Lost]
        assert followers() == ["nexus-group-g"]
        log.down = False
        await asyncio.sleep(2.0)
        assert [type(change) for change in cleo.changes()] == [Assigned]
        await cleo.leave()
        assert followers() == []


async def test_a_group_that_cannot_be_told_of_a_leave_is_not_followed_either(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        member = await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        log.down = True
        with pytest.raises(Unavailable):
            await member.leave()
        log.down = False
        assert followers() == []
        heard = asyncio.Event()
        heir = await one.claim("g", ["orders"], "bert", heard.set, "earliest")
        began = nexus_clock.monotonic()
        while not heir.changes():
            await heard.wait()
            heard.clear()
        assert nexus_clock.monotonic() - began <= coordination.LEASE_S + 1.0


async def test_who_leaves_while_it_joins_again_stays_away(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        member = await one.claim("g", ["orders"], "bert", lambda: None, "earliest")
        assert isinstance(member, LogMember)
        plain = log.describe
        asked, go = asyncio.Event(), asyncio.Event()

        async def describe(topic: str) -> Any:
            asked.set()
            await go.wait()
            return await plain(topic)

        log.describe = describe  # type: ignore[method-assign]
        member.lapse("the lease could not be renewed in time")
        await asked.wait()
        await member.leave()
        go.set()
        await asyncio.sleep(coordination.FRESH_S)
        people = one._groups["g"].replica.fold.members.values()
        assert [person.name for person in people] == ["anna"]


async def test_a_member_joins_again_without_a_topic_that_is_gone_and_with_it_when_it_is_back(
    nexus_clock: VirtualClock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with store(name, nexus_clock) as (log, one):
        for topic in ("bills", "orders"):
            await one.ensure(TopicSpec(topic, 1))
        member = await one.claim("g", ["bills", "orders"], "anna", lambda: None, "earliest")
        assert isinstance(member, LogMember)
        plain = log.describe
        gone = {"orders"}
        away = True

        async def describe(topic: str) -> Any:
            if away:
                raise Unavailable("the broker is away")
            if topic in gone:
                raise UnknownTopic(f"no topic {topic!r}")
            return await plain(topic)

        def owned() -> list[str]:
            taken.extend(member.changes())
            last = {change.topic: type(change) for change in taken}
            return sorted(topic for topic, change in last.items() if change is Assigned)

        log.describe = describe  # type: ignore[method-assign]
        taken: list[Any] = []
        assert owned() == ["bills", "orders"]
        member.lapse("the lease could not be renewed in time")
        await asyncio.sleep(2 * rejoining.GONE_S)
        assert owned() == []
        began, away = nexus_clock.monotonic(), False
        await nexus_clock.sleep_until(lambda: owned() == ["bills"], within_s=60)
        assert nexus_clock.monotonic() - began >= rejoining.GONE_S  # it may be a broker that does not know it yet
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
            "group g: anna cannot join again: NXS-4001 the broker is away",
            "group g: anna cannot join again: there is no topic orders",
            "group g: anna goes on without topic orders",
        ]
        await asyncio.sleep(10 * coordination.LEASE_S)
        assert owned() == ["bills"]
        gone.clear()
        await nexus_clock.sleep_until(lambda: owned() == ["bills", "orders"], within_s=2 * rejoining.GONE_S)
        assert Lost("bills", 0, "topic orders is there again") in taken


async def test_what_keeps_a_member_from_joining_again_is_said_when_it_changes(
    nexus_clock: VirtualClock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        member = await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        assert isinstance(member, LogMember)
        plain = log.describe
        error: list[Exception] = [UnknownTopic("no topic 'orders'")]

        async def describe(topic: str) -> Any:
            if error:
                raise error[0]
            return await plain(topic)

        def told() -> list[str]:
            return [record.message for record in caplog.records if "cannot join" in record.message]

        log.describe = describe  # type: ignore[method-assign]
        member.lapse("the lease could not be renewed in time")
        await asyncio.sleep(60)
        assert told() == ["group g: anna cannot join again: there is no topic orders"]
        assert [type(change) for change in member.changes()] == [Lost]
        error[0] = Unavailable("the broker is away")
        await asyncio.sleep(60)
        assert told()[1:] == ["group g: anna cannot join again: NXS-4001 the broker is away"]
        error.clear()
        await nexus_clock.sleep_until(member.changes, within_s=1.0)
        assert len(told()) == 2


async def test_a_claim_that_fails_leaves_nothing_that_follows_the_group(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        plain = log.append

        async def refuse(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            if topic == "nexus.group.g":
                raise Unavailable("away")
            return await plain(topic, batch, dedup=dedup)

        log.append = refuse  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        assert followers() == []
        assert one._groups == {}


async def test_a_store_that_is_opened_again_follows_its_groups_again(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (_, one):
        await one.ensure(TopicSpec("orders", 1))
        await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        await one.close()
        assert followers() == []
        await one.open()
        await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        assert followers() == ["nexus-group-g"]


async def test_a_store_that_cannot_be_opened_lets_go_of_its_log(nexus_clock: VirtualClock, name: str) -> None:
    log = Breakable(make_backend(f"memory://{name}", nexus_clock), positions=True, trim=True)
    one = coordination.LogBackend(log, clock=nexus_clock)
    plain = log.close
    closed = []

    async def close() -> None:
        closed.append(True)
        await plain()
        raise Unavailable("it cannot be closed either")

    log.close = close  # type: ignore[method-assign]
    log.down = True
    with pytest.raises(Unavailable, match="the broker is away"):
        await one.open()
    assert closed == [True]
    await one.close()
    assert closed == [True]


async def test_a_record_that_is_none_is_passed_over(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        await one.claim("g", ["orders"], "m", lambda: None, "earliest")
        await log.append("nexus.group.g", [(0, event("foreign", body=b"nonsense"))], dedup=False)
        assert [lag.owner for lag in await one.lag("g")] == ["m"]


async def test_a_group_whose_journal_tells_of_no_cursor_is_not_listed(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (log, one), store(name, nexus_clock) as (_, two):
        await log.create(TopicSpec("nexus.group.new", 1, dedup=False))  # by a process that died before it joined
        await one.ensure(TopicSpec("orders", 1))
        await one.claim("billing", ["orders"], "m", lambda: None, "earliest")
        assert await one.groups() == await two.groups() == ["billing"]
        await one.claim("new", ["orders"], "m", lambda: None, "earliest")
        assert await one.groups() == await two.groups() == ["billing", "new"]


async def test_many_records_at_once_are_answered_each_for_itself(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock, positions=False) as (log, _):
        journal = Replica(
            log, "j", roster.Roster(), roster.decode_record, roster.encode_record, roster.Snapshot, nexus_clock
        )
        await journal.create()
        await journal.submit(roster.Join("a", "a", "", {"orders": [0] * 50}))
        settles = [roster.Settle("a", n + 1, [roster.Item("orders", n % 60, 1, n, "", False)]) for n in range(60)]
        answers = await asyncio.gather(*map(journal.submit, settles))
        assert answers == [["ok"]] * 50 + [["fenced"]] * 10


async def test_known_ids_are_kept_within_their_bounds(
    nexus_clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "KNOWN_LIMIT", 10)
    ids = KnownIds("orders", nexus_clock.monotonic)

    def store_one(id: str) -> None:
        ids.stored(event(id), ids.begin(event(id)), Appended(0, 0))

    for number in range(25):
        store_one(str(number))
    assert len(ids) == 10
    assert ids.find(event("14")) is None
    assert ids.find(event("15")) is not None
    await asyncio.sleep(known.KNOWN_AGE_S + 1)
    store_one("new")
    assert len(ids) == 1


async def test_an_append_that_failed_is_not_known_and_who_waited_tries_for_himself(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        go = asyncio.Event()
        plain = BackedLog.append
        calls = []

        async def fails_once(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            calls.append(len(batch))
            if len(calls) == 1:
                await go.wait()
                raise Unavailable("away")
            return await plain(log, topic, batch, dedup=dedup)

        log.append = fails_once  # type: ignore[method-assign]
        first = asyncio.create_task(one.append("orders", [(0, event("1"))]))
        await asyncio.sleep(0)
        second = asyncio.create_task(one.append("orders", [(0, event("1"))]))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(Unavailable):
            await first
        (answer,) = await second
        assert answer == Appended(0, 0)


async def test_who_waited_for_an_append_whose_first_place_cannot_be_read_tries_for_himself(
    nexus_clock: VirtualClock, name: str
) -> None:
    async with store(name, nexus_clock) as (log, one):
        await one.ensure(TopicSpec("orders", 1))
        append, read = log.append, log.read
        go, asked = asyncio.Event(), asyncio.Event()

        async def knows_copies(topic: str, batch: Any, *, dedup: bool) -> list[Appended]:
            end = (await log.describe(topic)).end[0]
            return [Appended(0, 0, duplicate=True)] if end else await append(topic, batch, dedup=dedup)

        async def fails_once(wants: Any, max_bytes: int, *, fresh: bool) -> Any:
            if wants[0].topic == "orders" and not asked.is_set():
                asked.set()
                await go.wait()
                raise Unavailable("away")
            return await read(wants, max_bytes, fresh=fresh)

        await log.append("orders", [(0, event("1"))], dedup=True)  # by another process
        log.append, log.read = knows_copies, fails_once  # type: ignore[method-assign]
        first = asyncio.create_task(one.append("orders", [(0, event("1"))]))
        await asked.wait()
        second = asyncio.create_task(one.append("orders", [(0, event("1"))]))
        await asyncio.sleep(0.1)
        go.set()
        with pytest.raises(Unavailable):
            await first
        async with asyncio.timeout(LOG_LIMIT_S):
            assert await second == [Appended(0, 0, duplicate=True)]


async def test_who_had_a_partition_and_why_it_moved_is_told_and_written_down(
    nexus_clock: VirtualClock, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "nexus.coordination")
    async with store(name, nexus_clock) as (_, one), store(name, nexus_clock) as (_, two):
        await one.ensure(TopicSpec("orders", 1))
        began = nexus_clock.now()
        member = await one.claim("g", ["orders"], "anna", lambda: None, "earliest")
        (lag,) = await two.lag("g")
        assert lag.handover is not None
        assert (lag.owner, lag.handover.why, lag.handover.before) == ("anna", "joined", None)
        assert lag.handover.at == pytest.approx(began, abs=1)
        assert "group g: from nobody to anna (joined): orders[0]" in caplog.messages
        await member.leave()
        (lag,) = await two.lag("g")
        assert lag.handover is not None
        assert (lag.owner, lag.handover.why, lag.handover.before) == (None, "left", "anna")
        assert "group g: from anna to nobody (left): orders[0]" in caplog.messages
        caplog.clear()
        await two.claim("g", ["orders"], "bert", lambda: None, "earliest")
        told = [message for message in caplog.messages if "from" in message]
        assert "group g: from nobody to bert (joined): orders[0]" in told
        assert not any("anna" in message for message in told)  # what was before is not told anew by who comes later


async def test_a_log_that_cannot_be_examined_is_not(nexus_clock: VirtualClock, name: str) -> None:
    async with store(name, nexus_clock) as (_, one):
        assert await one.examine({"orders": "process"}) == []
