"""A consumer group in memory: cursors, who owns which partition, and how ownership moves.

    free     --wanted by a member-->            owned      the member gets `Assigned`
    owned    --wanted by another member-->      revoking   the owner gets `Revoking`
    revoking --released-->                      free       nothing is said, the owner asked for it
    revoking --the deadline passed-->           free       the owner gets `Lost`
    owned, revoking  --left, killed, lease over, settled with a lower epoch-->  free

After every step the partitions that are free go to whom `assign` wants to have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nexus.clock import Clock
from nexus.core.assignment import assign
from nexus.errors import Closed
from nexus.spi.backend import (
    Assigned,
    Change,
    Cursor,
    Handover,
    Lost,
    PartitionLag,
    Revoking,
    Settled,
    Settlement,
    Slice,
    Want,
    Why,
)

if TYPE_CHECKING:
    from nexus.backends.memory.store import Store

LEASE_S = 10.0
"""A member that is frozen for so long loses its partitions."""
REVOKE_S = 10.0
"""How long an owner has to settle and release."""

Place = tuple[str, int]
"""Topic and partition."""


class Waker:
    """Calls ``wake`` soon, once for however many pieces of news there are until then."""

    __slots__ = ("_loop", "_pending", "_wake")

    def __init__(self, wake: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._wake: Callable[[], None] | None = wake
        self._loop = loop
        self._pending = False

    def __call__(self) -> None:
        if not self._pending:
            self._pending = True
            self._loop.call_soon(self._fire)

    def _fire(self) -> None:
        self._pending = False
        if self._wake is not None:
            self._wake()

    def stop(self) -> None:
        self._wake = None


class Group:
    """A durable consumer: its cursors outlive its members."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.cursors: dict[Place, Cursor] = {}
        self.members: list[MemoryMember] = []
        self._owners: dict[Place, MemoryMember] = {}
        self._tokens: dict[Place, int] = {}
        self._deadlines: dict[Place, asyncio.TimerHandle] = {}
        self._handovers: dict[Place, Handover] = {}
        self._freed: set[Place] = set()
        """What became free in this step, before it is shared out."""

    def low(self, place: Place) -> int | None:
        """Position below which the group is done, or None if it does not know the partition."""
        cursor = self.cursors.get(place)
        return cursor.low if cursor is not None else None

    def owner(self, place: Place) -> MemoryMember | None:
        return self._owners.get(place)

    def join(self, member: MemoryMember) -> None:
        for other in [other for other in self.members if other.name == member.name]:
            self._remove(other, "another member joined under this name", "rejoined")
        self.members.append(member)
        self._share()

    def drop(self, member: MemoryMember, reason: str | None, why: Why) -> None:
        """Take a member out of the group; tell it why unless it left by itself."""
        if member in self.members:
            self._remove(member, reason, why)
            self._share()

    def _remove(self, member: MemoryMember, reason: str | None, why: Why) -> None:
        self.members.remove(member)
        for place in [place for place, owner in self._owners.items() if owner is member]:
            self._free(place, why)
            if reason is not None:
                member.tell(Lost(*place, reason))

    def settle(self, member: MemoryMember, settlement: Settlement) -> Settled:
        place = (settlement.topic, settlement.partition)
        owned = self._owners.get(place) is member
        stored = self.cursors.get(place)
        if owned and (stored is None or stored.epoch <= settlement.cursor.epoch):
            self.cursors[place] = settlement.cursor
            if settlement.release:
                self._free(place, "released")
                self._share()
            return "ok"
        if owned:
            self._free(place, "fenced")
            member.tell(Lost(*place, "a higher epoch is stored"))
            self._share()
        else:
            member.tell_lost(place)
        return "fenced"

    def lag(self) -> list[PartitionLag]:
        return [self._lag(place, cursor) for place, cursor in sorted(self.cursors.items())]

    def _lag(self, place: Place, cursor: Cursor) -> PartitionLag:
        part = self.store.topic(place[0]).partition(place[1])
        head = part.at(cursor.low)
        owner = self._owners.get(place)
        return PartitionLag(
            topic=place[0],
            partition=place[1],
            low=cursor.low,
            end=part.end,
            epoch=cursor.epoch,
            owner=owner.name if owner is not None else None,
            oldest_at=head.recorded_at if head is not None else None,
            state=cursor.state,
            handover=self._handovers.get(place),
        )

    def _share(self) -> None:
        for place, member in self._wanted().items():
            owner = self._owners.get(place)
            if owner is None:
                self._owners[place] = member
                if place not in self._freed:
                    self._handovers[place] = Handover(self.store.now(), "joined", None)
                self._tokens[place] = token = self._tokens.get(place, 0) + 1
                member.tell(Assigned(*place, self.cursors.get(place), token))
            elif owner is not member and place not in self._deadlines:
                self._deadlines[place] = self.store.loop.call_later(REVOKE_S, self._deadline_passed, place)
                owner.tell(Revoking(*place, REVOKE_S))
        self._freed.clear()

    def _wanted(self) -> dict[Place, MemoryMember]:
        """Who should own what: topics with the same members are shared out together."""
        wishes: dict[str, list[str]] = {}
        for member in self.members:
            for topic in member.topics:
                wishes.setdefault(topic, []).append(member.name)
        shares: dict[tuple[str, ...], list[Place]] = {}
        for topic, names in sorted(wishes.items()):
            places = [(topic, index) for index in range(len(self.store.topic(topic).partitions))]
            shares.setdefault(tuple(names), []).extend(places)
        by_name = {member.name: member for member in self.members}
        return {
            place: by_name[name]
            for names, places in shares.items()
            for name, mine in assign(names, places).items()
            for place in mine
        }

    def _free(self, place: Place, why: Why) -> None:
        owner = self._owners.pop(place)
        self._handovers[place] = Handover(self.store.now(), why, owner.name)
        self._freed.add(place)
        timer = self._deadlines.pop(place, None)
        if timer is not None:
            timer.cancel()

    def _deadline_passed(self, place: Place) -> None:
        owner = self._owners[place]
        self._free(place, "took over")
        owner.tell(Lost(*place, "it was not released before the deadline"))
        self._share()


class MemoryMember:
    """One member of one group. Stays until it leaves, is killed, or its backend is closed."""

    def __init__(self, group: Group, name: str, topics: Sequence[str], wake: Waker, clock: Clock) -> None:
        self.name = name
        self.topics = tuple(dict.fromkeys(topics))
        self._group = group
        self._waker = wake
        self._clock = clock
        self._changes: list[Change] = []
        self._open = True
        self._thawed: asyncio.Event | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._lease_until_s = 0.0

    @property
    def active(self) -> bool:
        """Whether it has neither left nor been killed."""
        return self._open

    def tell(self, change: Change) -> None:
        if self._open:
            self._changes.append(change)
            self.wake()

    def tell_lost(self, place: Place) -> None:
        """Say `Lost` of a partition that is not owned, unless that is what it will hear anyway."""
        for change in reversed(self._changes):
            if (change.topic, change.partition) == place:
                if isinstance(change, Lost):
                    return
                break
        self.tell(Lost(*place, "another member owns it, or nobody"))

    def wake(self) -> None:
        if self._thawed is None:
            self._waker()

    def changes(self) -> list[Change]:
        if self._thawed is not None:
            return []
        taken, self._changes = self._changes, []
        return taken

    async def fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        if self._thawed is not None:
            await self._thawed.wait()
        if not self._open:
            raise Closed(f"member {self.name!r} of group {self._group.name!r} has left")
        return self._group.store.read(wants, max_bytes)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        if self._thawed is not None:
            await self._thawed.wait()
        return [self._group.settle(self, settlement) for settlement in settlements]

    async def leave(self) -> None:
        if self._thawed is not None:
            await self._thawed.wait()
        self._close(None)

    def kill(self) -> None:
        """For tests: end as the process would end by a crash. Its partitions move at once."""
        self._close("killed")

    def freeze(self) -> None:
        """For tests: stop as a stopped process does. Calls wait, nothing is noticed, and the lease runs out."""
        if self._thawed is None and self._open:
            self._thawed = asyncio.Event()
            self._lease_until_s = self._clock.monotonic() + LEASE_S
            self._watch_lease()

    def thaw(self) -> None:
        """For tests: go on after `freeze`; join anew if the lease ran out."""
        if self._thawed is None:
            return
        self._end_freeze(self._thawed)
        if self not in self._group.members:
            self._group.join(self)
        self._waker()

    def _end_freeze(self, thawed: asyncio.Event) -> None:
        thawed.set()
        self._thawed = None
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None

    def _watch_lease(self) -> None:
        left_s = self._lease_until_s - self._clock.monotonic()
        if left_s > 0:
            self._lease_timer = self._group.store.loop.call_later(left_s, self._watch_lease)
        else:
            self._lease_timer = None
            self._group.drop(self, "its lease ran out", "expired")

    def _close(self, reason: str | None) -> None:
        if not self._open:
            return
        self._group.drop(self, reason, "left" if reason is None else "expired")
        self._open = False
        self._changes.clear()
        self._waker.stop()
        self._group.store.unwatch(self.topics, self.wake)
        if self._thawed is not None:
            self._end_freeze(self._thawed)
