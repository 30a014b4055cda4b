"""A backend made of a broker's log: see `nexus.spi.backend.Backend` for what each method promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from nexus.clock import Clock
from nexus.coordination.groups import PREFIX, Group, replica_of
from nexus.coordination.known import Entry, KnownIds, digest
from nexus.coordination.member import LogMember
from nexus.coordination.rejoining import Rejoining
from nexus.coordination.replica import Replica
from nexus.core import catalogue, roster
from nexus.errors import (
    Closed,
    IdConflict,
    NexusError,
    PayloadTooLarge,
    Sealed,
    SettingsError,
    UnknownGroup,
    UnknownOutcome,
    UnknownTopic,
)
from nexus.event import Event
from nexus.spi.backend import (
    Appended,
    Capabilities,
    Durability,
    Examined,
    Finding,
    Member,
    PartitionLag,
    Slice,
    TopicInfo,
    TopicSpec,
    Want,
)
from nexus.spi.log import Log

CATALOGUE = "nexus.catalogue"
FRESH_S = 0.5
"""How old the catalogue may be when an event is appended. A seal waits twice as long before it looks for the end."""
LEASE_S = 4.0
REVOKE_S = 5.0
CLOSE_S = 2.0
"""How long leaving the groups may take when the backend is closed; what is left then runs out."""
_REPLICAS = 64
_LATE_EVENTS = 1_000
_OLDEST_BYTES = 64 * 1024 * 1024


class LogBackend:
    """Consumer groups, seals and known ids above a log."""

    def __init__(self, store: Log, *, clock: Clock, lease_s: float = LEASE_S, revoke_s: float = REVOKE_S) -> None:
        self.name = store.name
        self.capabilities = Capabilities("sender", False, True, 1024 * 1024, None, lease_s + 1.0)
        """Known once the backend is open."""
        self._log = store
        self._clock = clock
        self._lease_s = lease_s
        self._revoke_s = revoke_s
        self._catalogue = Replica(
            store,
            CATALOGUE,
            catalogue.Catalogue(),
            catalogue.decode_record,
            catalogue.encode_record,
            catalogue.Snapshot,
            clock,
        )
        self._known: dict[str, KnownIds] = {}
        self._groups: dict[str, Group] = {}
        self._lags: dict[str, Replica[roster.Roster]] = {}
        self._members: dict[LogMember, tuple[Group, tuple[str, ...], Literal["latest", "earliest"]]] = {}
        self._opening = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._gate = asyncio.Lock()
        self._at_gate = 0
        self._failed: tuple[float, BaseException] | None = None  # when a look failed last, unless one did well since
        self._tasks: set[asyncio.Task[None]] = set()
        self._rejoining = Rejoining(self.describe, self._takes_part, clock)
        self._open = False

    # ---- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `nexus.spi.backend.Backend.open`."""
        if self._open:
            return
        await self._log.open()
        try:
            await self._catalogue.create()
            await self._catalogue.refresh()
        except BaseException:
            with contextlib.suppress(Exception):  # what failed first is what to tell
                await self._log.close()
            raise
        native = self._log.capabilities
        self.capabilities = Capabilities(
            dedup="ids" if native.dedup == "window" else "sender",
            positions_on_append=native.positions_on_append,
            trim=True,
            max_body_bytes=native.max_body_bytes,
            max_cursor_chars=None,
            takeover_s=self._lease_s + 1.0,
            more_durable=native.more_durable,
        )
        self._open = True

    async def close(self) -> None:
        """See `nexus.spi.backend.Backend.close`."""
        if not self._open:
            return
        self._open = False
        members = list(self._members)
        for member in members:
            member.drop()
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(TimeoutError, NexusError):  # what is not said now, others find out
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(group.leave(list(group.members.values())) for group in self._groups.values()))
        await asyncio.gather(*(group.stop() for group in self._groups.values()))
        self._groups.clear()
        await self._log.close()

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("the store is not open")

    async def examine(self, levels: Mapping[str, Durability]) -> list[Finding]:
        """See `nexus.spi.backend.Examined`; what the log does not tell is not told."""
        return await self._log.examine(levels) if isinstance(self._log, Examined) else []

    # ---- topics ---------------------------------------------------------------------------------------------------

    async def ensure(self, topic: TopicSpec) -> TopicInfo:
        """See `nexus.spi.backend.Backend.ensure`."""
        self._check_open()
        if topic.partitions < 1:
            raise SettingsError(f"topic {topic.name!r} needs at least one partition, not {topic.partitions}")
        await self._catalogue.refresh()
        known = self._catalogue.fold.specs.get(topic.name)
        _check_partitions(topic, known)
        await self._log.create(topic)
        retention = (topic.retention_age_s, topic.retention_bytes)
        if known is None or (known.retention_age_s, known.retention_bytes) != retention:
            await self._catalogue.submit(catalogue.Define(topic))
            _check_partitions(topic, self._catalogue.fold.specs.get(topic.name))
        return await self._describe(topic.name)

    async def describe(self, topic: str) -> TopicInfo:
        """See `nexus.spi.backend.Backend.describe`."""
        self._check_open()
        await self._catalogue.refresh()
        return await self._describe(topic)

    async def _describe(self, topic: str) -> TopicInfo:
        state = await self._log.describe(topic)
        fold = self._catalogue.fold
        sealed = fold.sealed.get(topic, {})
        ends = [end if (cut := sealed.get(p)) is None else cut for p, end in enumerate(state.end)]
        first = [max(low, fold.first.get((topic, p), 0)) for p, low in enumerate(state.first)]
        return TopicInfo(
            # A topic that another program made is what it is: Nexus was never told how long it keeps.
            spec=fold.specs.get(topic) or TopicSpec(topic, len(state.end)),
            first=tuple(first),
            end=tuple(ends),
            sealed=tuple(sorted(sealed)),
            size_bytes=state.size_bytes,
            durability=state.durability,
        )

    async def topics(self) -> list[str]:
        """See `nexus.spi.backend.Backend.topics`."""
        self._check_open()
        return sorted(name for name in await self._log.topics() if name != CATALOGUE and not name.startswith(PREFIX))

    async def seal(self, topic: str, partition: int) -> int:
        """See `nexus.spi.backend.Backend.seal`."""
        await self._checked(topic, partition)
        fold = self._catalogue.fold
        known = fold.sealed.get(topic, {}).get(partition)
        if known is not None:
            return known
        await self._catalogue.submit(catalogue.Seal(topic, partition))
        # By then every process that appends has looked at the catalogue again, or looks before it does.
        await asyncio.sleep(2 * FRESH_S)
        state = await self._log.describe(topic)
        await self._catalogue.submit(catalogue.End(topic, partition, state.end[partition]))
        end = fold.sealed[topic][partition]
        assert end is not None
        return end

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """See `nexus.spi.backend.Backend.trim`."""
        info = await self._checked(topic, partition)
        before = min(before, info.end[partition])
        if before <= info.first[partition]:
            return
        if self._log.capabilities.trim:
            await self._log.trim(topic, partition, before)
        elif before > self._catalogue.fold.first.get((topic, partition), 0):
            await self._catalogue.submit(catalogue.Trim(topic, partition, before))

    async def _checked(self, topic: str, partition: int) -> TopicInfo:
        info = await self.describe(topic)
        if not 0 <= partition < len(info.end):
            raise SettingsError(
                f"topic {topic!r} has no partition {partition}", hint=f"they are 0 to {len(info.end) - 1}"
            )
        return info

    # ---- events ---------------------------------------------------------------------------------------------------

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        """See `nexus.spi.backend.Backend.append`."""
        self._check_open()
        if not batch:
            return []
        limit = self.capabilities.max_body_bytes
        for _, event in batch:
            if len(event.body) > limit:
                raise PayloadTooLarge(f"payload of {len(event.body):,} bytes is over the limit of {limit:,}")
        began = self._clock.monotonic()
        age = began - self._catalogue.confirmed_at
        if self._at_gate or age > FRESH_S or topic not in self._catalogue.fold.specs:
            await self._pass_gate(topic)
        elif age > FRESH_S / 2 and self._looking is None:
            self._look()  # before anybody has to wait for it
        sealed = self._catalogue.fold.sealed.get(topic)
        if sealed:
            self._refuse_sealed(topic, batch, sealed)
        spec = self._catalogue.fold.specs.get(topic)
        if spec is None or spec.dedup:
            answers = await self._append_once(topic, batch)
        else:
            answers = list(await self._log.append(topic, batch, dedup=False))
        if self._clock.monotonic() - began > FRESH_S:
            await self._refuse_late(topic, batch, answers)
        return answers

    async def _pass_gate(self, topic: str) -> None:
        """Bring the catalogue up to date: calls wait for one look together, and pass in the order they came."""
        arrived = self._clock.monotonic()
        self._at_gate += 1
        try:
            async with self._gate:  # first come, first served
                while not self._is_fresh(topic, arrived):
                    self._check_open()
                    if self._failed is not None and self._failed[0] > arrived:
                        raise self._failed[1]  # it waited for that look too, behind others
                    look = self._look()
                    await asyncio.wait([look])  # so that it goes on for others when this call is cancelled
                    if not look.cancelled():
                        look.result()
        finally:
            self._at_gate -= 1
        self._check_open()

    def _is_fresh(self, topic: str, arrived: float) -> bool:
        """Whether the catalogue is new enough for a call that came then, and not when a long look lets it go on.

        A look that began long before may have ended only now, and who seals waits for no longer than looks are good.
        """
        looked = self._catalogue.confirmed_at
        return looked >= arrived or (looked >= arrived - FRESH_S and topic in self._catalogue.fold.specs)

    def _look(self) -> asyncio.Task[None]:
        """Look at the catalogue, once for all who append meanwhile."""
        if self._looking is not None and not self._looking.done():
            return self._looking
        task = self._looking = asyncio.get_running_loop().create_task(self._catalogue.refresh())
        self._tasks.add(task)
        task.add_done_callback(self._looked)
        return task

    def _looked(self, task: asyncio.Task[None]) -> None:
        if self._looking is task:
            self._looking = None
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()  # who waits for it is told, else the next looks again
        self._failed = None if error is None else (self._clock.monotonic(), error)

    def _refuse_sealed(
        self, topic: str, batch: Sequence[tuple[int, Event[object]]], sealed: dict[int, int | None]
    ) -> None:
        for partition, _ in batch:
            if partition in sealed:
                raise Sealed(f"topic {topic!r}, partition {partition} takes no more events")

    async def _refuse_late(
        self, topic: str, batch: Sequence[tuple[int, Event[object]]], answers: Sequence[Appended | IdConflict]
    ) -> None:
        """Refuse what took so long that it may have landed behind a seal: nobody will ever read it there."""
        behind = None
        try:
            await self._catalogue.refresh()
            sealed = self._catalogue.fold.sealed.get(topic, {})
            for (_, event), answer in zip(batch, answers, strict=True):
                if not isinstance(answer, Appended) or answer.partition not in sealed:
                    continue
                if await self._is_behind(topic, event, answer, sealed[answer.partition]):
                    behind = answer.partition
                    break
        except NexusError as error:
            raise UnknownOutcome(
                f"topic {topic!r}: events were stored, but perhaps behind the end of a sealed partition: {error}",
                hint="append them again with the same ids",
            ) from error
        if behind is not None:
            raise Sealed(f"topic {topic!r}, partition {behind} was sealed meanwhile")

    async def _is_behind(self, topic: str, event: Event[object], place: Appended, end: int | None) -> bool:
        """Whether an event of a sealed partition lies behind its end."""
        if end is None:  # whoever sealed it has not said yet, and may say what was so before the event landed
            end = await self.seal(topic, place.partition)
        if place.position is not None:
            return place.position >= end
        part = Slice(topic, place.partition, [], end, True)
        while part.more:
            (part,) = await self._log.read(
                [Want(topic, place.partition, part.next, _LATE_EVENTS)], _OLDEST_BYTES, fresh=True
            )
            if any((late.event.source, late.event.id) == (event.source, event.id) for late in part.events):
                return True
        return False

    async def _append_once(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        known = self._known.get(topic)
        if known is None:
            known = self._known[topic] = KnownIds(topic, self._clock.monotonic)
        fresh = []
        again = []
        answers: list[Appended | IdConflict | None] = [None] * len(batch)
        for index, (_, event) in enumerate(batch):
            entry = known.find(event)
            if entry is None:
                fresh.append((index, known.begin(event)))
            else:
                again.append((index, entry))
        if fresh:
            stored = await self._store(topic, known, [(*batch[index], entry) for index, entry in fresh])
            for (index, _), answer in zip(fresh, stored, strict=True):
                answers[index] = answer
        for index, entry in again:
            if entry.place is None:
                await known.wait(entry)
            if entry.place is None:  # that append failed: this one is on its own
                (answers[index],) = await self._append_once(topic, [batch[index]])
            else:
                answers[index] = known.answer(batch[index][1], entry)
        return [answer for answer in answers if answer is not None]

    async def _store(
        self, topic: str, known: KnownIds, new: Sequence[tuple[int, Event[object], Entry]]
    ) -> list[Appended | IdConflict]:
        """Append events whose ids are not known yet, and note where they are."""
        answers: list[Appended | IdConflict] = []
        try:
            places = await self._log.append(topic, [(partition, event) for partition, event, _ in new], dedup=True)
            for (_, event, entry), place in zip(new, places, strict=True):
                if not place.duplicate:
                    known.stored(event, entry, place)
                    answers.append(place)
                    continue
                first = await self._at(topic, place)
                if first is not None:
                    entry.digest = digest(first)
                known.stored(event, entry, place)
                answers.append(known.answer(event, entry))
        except BaseException:
            for _, event, entry in new[len(answers) :]:
                known.failed(event, entry)
            raise
        return answers

    async def _at(self, topic: str, place: Appended) -> Event[object] | None:
        """Read the event that the broker says is there already; None if it is gone or nobody knows its position."""
        if place.position is None:
            return None
        (part,) = await self._log.read([Want(topic, place.partition, place.position, 1)], 1, fresh=True)
        return next((stored.event for stored in part.events if stored.position == place.position), None)

    async def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """See `nexus.spi.backend.Backend.read`."""
        self._check_open()
        return await self._read(wants, max_bytes, fresh=True)

    async def _fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        self._check_open()
        return await self._read(wants, max_bytes, fresh=False)

    async def _read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        fold = self._catalogue.fold
        if not fold.first and not fold.sealed:
            return await self._log.read(wants, max_bytes, fresh=fresh)
        lows = [fold.first.get((want.topic, want.partition), 0) for want in wants]
        moved = [
            msgspec.structs.replace(want, position=max(want.position, low))
            for want, low in zip(wants, lows, strict=True)
        ]
        found = await self._log.read(moved, max_bytes, fresh=fresh)
        return [
            self._cut(part, low if want.position < low else None)
            for want, low, part in zip(wants, lows, found, strict=True)
        ]

    def _cut(self, part: Slice, trimmed: int | None) -> Slice:
        """Answer what a broker does not know: that the beginning was trimmed, and that a sealed partition ended."""
        if trimmed is not None and part.trimmed is None:
            part = msgspec.structs.replace(part, trimmed=trimmed)
        end = self._catalogue.fold.sealed.get(part.topic, {}).get(part.partition)
        if end is not None and part.next >= end:
            events = [stored for stored in part.events if stored.position < end]
            part = msgspec.structs.replace(part, events=events, next=end, more=False)
        return part

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `nexus.spi.backend.Backend.position_at`."""
        info = await self._checked(topic, partition)
        found = await self._log.position_at(topic, partition, time)
        return max(info.first[partition], min(found, info.end[partition]))

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `nexus.spi.backend.Backend.watch`."""
        self._check_open()
        return self._log.watch(topics, wake)

    # ---- groups ---------------------------------------------------------------------------------------------------

    async def claim(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> Member:
        """See `nexus.spi.backend.Backend.claim`."""
        self._check_open()
        wanted = tuple(dict.fromkeys(topics))
        infos = [await self.describe(topic) for topic in wanted]
        joined = await self._group(group)
        unwatch = self._log.watch(wanted, wake)

        def stopped(member: LogMember) -> None:
            unwatch()
            self._members.pop(member, None)

        async def left() -> None:
            await self._let_go(joined)

        made = LogMember(member, joined, self._clock, wake, self._fetch, self._rejoin, stopped, left)
        self._members[made] = joined, wanted, start  # nothing was awaited since the group was found, so it is kept
        try:
            await joined.join(made, infos, start)
        except BaseException:
            made.drop()
            await self._let_go(joined)
            raise
        return made

    async def _group(self, name: str) -> Group:
        async with self._opening:
            group = self._groups.get(name)
            if group is None:
                group = Group(name, self._log, self._clock, lease_s=self._lease_s, revoke_s=self._revoke_s)
                await group.open()
                self._groups[name] = group
            return group

    async def _let_go(self, group: Group) -> None:
        """Follow a group no more once no member of this process is in it, nor waits to be again."""
        if self._groups.get(group.name) is group and all(of is not group for of, _, _ in self._members.values()):
            del self._groups[group.name]
            await group.stop()

    def _rejoin(self, member: LogMember) -> None:
        if self._takes_part(member):
            task = asyncio.get_running_loop().create_task(self._rejoining.run(member, *self._members[member]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _takes_part(self, member: LogMember) -> bool:
        return self._open and member in self._members

    async def groups(self) -> list[str]:
        """See `nexus.spi.backend.Backend.groups`."""
        self._check_open()
        names = [name.removeprefix(PREFIX) for name in await self._log.topics() if name.startswith(PREFIX)]
        return sorted([name for name in names if await self._has_cursors(name)])

    async def _has_cursors(self, group: str) -> bool:
        """Whether a group's journal tells of any: it may be new, or an operator may have emptied it."""
        known = self._groups[group].replica if group in self._groups else self._lags.get(group)
        if known is not None and known.fold.seats:
            return True
        try:
            return bool((await self._roster_of(group)).seats)
        except UnknownGroup:  # it was deleted this moment
            return False

    async def lag(self, group: str) -> list[PartitionLag]:
        """See `nexus.spi.backend.Backend.lag`."""
        self._check_open()
        fold = await self._roster_of(group)
        if not fold.seats:
            raise UnknownGroup(f"no consumer group {group!r}")
        infos = {topic: await self.describe(topic) for topic in sorted({topic for topic, _ in fold.seats})}
        places = sorted(fold.seats)
        behind = [
            Want(topic, partition, fold.seats[topic, partition].cursor.low, 1)
            for topic, partition in places
            if fold.seats[topic, partition].cursor.low < infos[topic].end[partition]
        ]
        oldest: dict[roster.Place, float] = {}
        for part in await self._read(behind, _OLDEST_BYTES, fresh=True) if behind else ():
            if part.trimmed is None and part.events:
                oldest[part.topic, part.partition] = part.events[0].recorded_at
        lags = []
        for place in places:
            seat = fold.seats[place]
            owner = fold.members.get(seat.owner) if seat.owner is not None else None
            lags.append(
                PartitionLag(
                    *place,
                    low=seat.cursor.low,
                    end=infos[place[0]].end[place[1]],
                    epoch=seat.cursor.epoch,
                    owner=owner.name if owner is not None else None,
                    oldest_at=oldest.get(place),
                    state=seat.cursor.state,
                    handover=seat.handover,
                )
            )
        return lags

    async def _roster_of(self, group: str) -> roster.Roster:
        """Read where a group stands, also one that this process has no member in."""
        taking_part = self._groups.get(group)
        if taking_part is not None:
            await taking_part.replica.refresh()
            return taking_part.replica.fold
        replica = self._lags.get(group)
        if replica is None:
            replica = replica_of(group, self._log, self._clock)
            while len(self._lags) >= _REPLICAS:
                del self._lags[next(iter(self._lags))]
            self._lags[group] = replica
        try:
            await replica.refresh()
        except UnknownTopic as error:
            if self._lags.get(group) is replica:  # another call may have come to the same before
                del self._lags[group]
            raise UnknownGroup(f"no consumer group {group!r}") from error
        return replica.fold


def _check_partitions(wished: TopicSpec, known: TopicSpec | None) -> None:
    if known is not None and known.partitions != wished.partitions:
        raise SettingsError(
            f"topic {wished.name!r} has {known.partitions} partitions, not {wished.partitions}",
            hint="the number of partitions of a topic stands; keep it, or use a new topic",
        )
