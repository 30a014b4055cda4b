"""A consumer group as one process takes part in it: its members here, their leases, and what others let run out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Literal
from uuid import uuid4

from nexus.clock import Clock
from nexus.coordination.member import LogMember
from nexus.coordination.replica import Replica
from nexus.core.findings import few
from nexus.core.roster import (
    Evict,
    Expire,
    Item,
    Join,
    Leave,
    Place,
    Record,
    Renew,
    Roster,
    Settle,
    Snapshot,
    decode_record,
    encode_record,
)
from nexus.errors import Closed, NexusError
from nexus.spi.backend import Settled, Settlement, TopicInfo
from nexus.spi.log import Log

log = logging.getLogger("nexus.coordination")

LOOK_S = 0.25
"""How often a group looks after leases and deadlines, and after news that no wake told of."""
OWN_LEASE = 0.9
"""How much of its lease a member counts on: clocks run apart, and it gives up before others may take."""
EVICT_GRACE_S = 0.5
"""How much later than told to the owner a partition is taken from it: the owner gives it up by itself first."""
PREFIX = "nexus.group."


def journal_of(group: str) -> str:
    """Name of the topic that a group's journal is."""
    return f"{PREFIX}{group}"


def replica_of(
    group: str, store: Log, clock: Clock, folded: Callable[[Record, list[Settled]], None] = lambda record, answer: None
) -> Replica[Roster]:
    """The roster of a group, as its journal tells it."""
    return Replica(store, journal_of(group), Roster(), decode_record, encode_record, Snapshot, clock, folded)


class Group:
    """One group, while this process has members in it."""

    def __init__(
        self,
        name: str,
        store: Log,
        clock: Clock,
        *,
        lease_s: float,
        revoke_s: float,
    ) -> None:
        self.name = name
        self.members: dict[str, LogMember] = {}
        """Those of this process, by id."""
        self.replica = replica_of(name, store, clock, self._compare)
        self._clock = clock
        self._lease_s = lease_s
        self._revoke_s = revoke_s
        self._seen: dict[str, tuple[int, float]] = {}  # member → renewals, and when they were first seen
        self._revoking: dict[Place, tuple[int, float]] = {}  # ownership that is to end, and since when
        self._hands: dict[Place, tuple[str | None, int]] = {}  # owner and token of each partition, as last told
        self._telling = False
        self._renew_at = 0.0
        self._news = asyncio.Event()
        self._unwatch: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._store = store

    @property
    def _roster(self) -> Roster:
        return self.replica.fold

    async def open(self) -> None:
        """Make the journal, read it, and follow it from now on."""
        await self.replica.create()
        await self.replica.refresh()
        self._telling = True  # what happened before is for those to tell who saw it
        self._unwatch = self._store.watch([self.replica.topic], self._news.set)
        self._task = asyncio.get_running_loop().create_task(self._follow(), name=f"nexus-group-{self.name}")

    async def stop(self) -> None:
        """Follow it no more; leases that are left run out. Idempotent."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # ---- members --------------------------------------------------------------------------------------------------

    async def join(self, member: LogMember, infos: Sequence[TopicInfo], start: Literal["latest", "earliest"]) -> None:
        """Make ``member`` one of the group, also again after its lease ran out."""
        id, before = f"{member.name}@{uuid4().hex[:12]}", member.id
        began = self._clock.monotonic()
        starts = {info.spec.name: list(info.end if start == "latest" else info.first) for info in infos}
        self.members.pop(before, None)
        self.members[id] = member
        member.begin(id, began + OWN_LEASE * self._lease_s)
        try:
            await self.replica.submit(Join(id, member.name, before, starts))
        except BaseException:
            self.members.pop(id, None)
            raise

    async def leave(self, members: Sequence[LogMember]) -> None:
        """Give up all that members own."""
        ids = [member.id for member in members if member.id in self.members]
        for id in ids:
            del self.members[id]
        if ids:
            await self.replica.submit(Leave(ids))

    async def settle(self, member: LogMember, settlements: Sequence[Settlement]) -> list[Settled]:
        """Store cursors, in one record."""
        items = [
            Item(s.topic, s.partition, s.cursor.epoch, s.cursor.low, s.cursor.state, s.release) for s in settlements
        ]
        record = Settle(member.id, member.next_settle(), items)
        try:
            answers: list[Settled] = await self.replica.submit(record)
        except Closed:
            return ["fenced"] * len(items)
        except NexusError as error:
            log.warning("group %s cannot settle now: %s", self.name, error)
            return ["retry"] * len(items)
        return answers

    # ---- what the journal says ------------------------------------------------------------------------------------

    def _compare(self, record: Record, answer: list[Settled]) -> None:
        """After each record: tell members what is new for them, and note what others let run out."""
        roster, now = self._roster, self._clock.monotonic()
        self._tell(record)
        self._tell_handovers()
        if isinstance(record, Settle) and record.member in self.members:
            for item, word in zip(record.items, answer, strict=True):
                if item.release and word == "ok":
                    self.members[record.member].released(item.topic, item.partition)
        for id, member in list(self.members.items()):
            person = roster.members.get(id)
            if person is None:
                if member.joined:  # its lease ran out, or another took its name
                    member.lapse("the lease ended")
                continue
            member.compare(roster.owned(id), self._revoke_s)
        for id, person in roster.members.items():
            seen = self._seen.get(id)
            if seen is None or seen[0] != person.renewals:
                self._seen[id] = person.renewals, now
        for id in self._seen.keys() - roster.members.keys():
            del self._seen[id]
        for place, seat in roster.seats.items():
            if not seat.revoking:
                self._revoking.pop(place, None)
            elif self._revoking.get(place, (0, 0.0))[0] != seat.token:
                self._revoking[place] = seat.token, now

    def _tell(self, record: Record) -> None:
        """Write down who comes, who goes and why, for those who watch."""
        if not self._telling:
            return
        if isinstance(record, Join):
            again = f", again after its lease ran out as {record.replaces}" if record.replaces else ""
            log.info("group %s: %s joined%s", self.name, record.member, again)
        elif isinstance(record, Leave):
            log.info("group %s: %s left", self.name, ", ".join(record.members))
        elif isinstance(record, Expire) and record.member not in self._roster.members:
            log.info("group %s: the lease of %s ran out", self.name, record.member)
        elif isinstance(record, Evict):
            log.info("group %s: %s[%d] was not given up in time", self.name, record.topic, record.partition)

    def _tell_handovers(self) -> None:
        """Write down which partitions changed hands, from whom to whom, and why."""
        moved: dict[tuple[str, str, str], list[str]] = {}
        roster = self._roster
        for place, seat in roster.seats.items():
            hand = seat.owner, seat.token
            if self._hands.get(place, (None, 0)) == hand:
                continue
            self._hands[place] = hand
            if seat.handover is not None:
                owner = "nobody" if seat.owner is None else roster.members[seat.owner].name
                way = seat.handover.before or "nobody", owner, seat.handover.why
                moved.setdefault(way, []).append(f"{seat.topic}[{seat.partition}]")
        if self._telling:
            for (before, owner, why), places in moved.items():
                log.info("group %s: from %s to %s (%s): %s", self.name, before, owner, why, few(places))

    # ---- what is due ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()
            self._news.clear()
            try:
                await self.replica.refresh(fresh=False)
                await self._look()
            except NexusError as error:
                log.warning("group %s: %s", self.name, error)
                await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """Renew, and end what ran out."""
        for member in list(self.members.values()):
            member.check()  # after a pause of this process it may be here before the member's own timer
        now = self._clock.monotonic()
        joined = {id: member for id, member in self.members.items() if member.joined}
        if joined and now >= self._renew_at:
            self._renew_at = now + self._lease_s / 3
            await self.replica.submit(Renew(list(joined)))
            # Only now, and from this very record: one before, that had no answer, may be the last that others read.
            for id, member in joined.items():
                member.renewed(id, now + OWN_LEASE * self._lease_s)
        roster = self._roster
        overdue = [
            Expire(id, renewals)
            for id, (renewals, since) in self._seen.items()
            if id not in self.members and now > since + self._lease_s
        ]
        late = [
            Evict(*place, token)
            for place, (token, since) in self._revoking.items()
            if now > since + self._revoke_s + EVICT_GRACE_S and roster.seats[place].token == token
        ]
        if overdue or late:
            # What was read here may be old, after a pause of this process: nobody is judged by old news.
            await self.replica.refresh()
            for expire in overdue:
                if self._seen.get(expire.member, (-1, 0.0))[0] == expire.renewals:
                    await self.replica.submit(expire)
            for evict in late:
                await self.replica.submit(evict)
