"""The owner of delayed events: it publishes what is due, and what recurring schedules say.

Each partition of the delay topic is owned by one process, by the lease of a group that every consuming process joins.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from nexus.clock import Clock
from nexus.core import cron, delays
from nexus.core.control import Schedule
from nexus.core.delays import PARTITIONS, TOPIC, Delays, Fired, Later, Pending, Record, Ticked
from nexus.core.partition import partition_of
from nexus.errors import BackendError, NexusError, UnknownOutcome
from nexus.event import JSON, Event
from nexus.runtime.control import ControlTopic
from nexus.spi.backend import Assigned, Backend, Cursor, Lost, Member, Revoking, Settlement, TopicSpec, Want

log = logging.getLogger("nexus.delays")

GROUP = "nexus-delays"
SPEC = TopicSpec(TOPIC, PARTITIONS, dedup=False)
RECORD_TYPE = "nexus.delays.record"
FIRE_LIMIT = 500
"""Events that are published at once."""
KEEP_BYTES = 16 * 1024 * 1024
"""Of each partition, so much of what is pending is kept in memory; the rest is read when it is due."""
_CARRY_LIMIT = 500
_SETTLE_S = 1.0
_READ_EVENTS = 2_000
_READ_BYTES = 8 * 1024 * 1024
_RETRY_S = 0.2


class DelayJournal:
    """Appends to and reads from the delay topic."""

    def __init__(self, backend: Backend, clock: Clock, new_id: Callable[[], str], source: str) -> None:
        self._backend = backend
        self._clock = clock
        self._new_id = new_id
        self._source = source

    async def append(self, batch: list[tuple[int, Record]]) -> list[str]:
        """Append records, durable when this returns the ids of their own. Raises what `Backend.append` raises."""
        time = datetime.fromtimestamp(self._clock.now(), UTC)
        events: list[tuple[int, Event[Any]]] = [
            (
                partition,
                Event(self._new_id(), self._source, RECORD_TYPE, time, None, delays.encode(record),
                      datacontenttype="application/msgpack"),
            )
            for partition, record in batch
        ]  # fmt: skip
        await self._backend.append(TOPIC, events)
        return [event.id for _, event in events]

    async def read_on(self, partition: int, fold: Delays, own: str | None = None) -> bool:
        """Let a fold take in what it has not read yet; True if it took the record whose id is ``own``."""
        more, taken = True, False
        while more:
            (part,) = await self._backend.read([Want(TOPIC, partition, fold.place, _READ_EVENTS)], _READ_BYTES)
            for stored in part.events:
                took = fold.apply(stored.position, delays.decode(stored.event.body))
                taken |= took and stored.event.id == own
            fold.place = max(fold.place, part.next)
            more = part.more
            await asyncio.sleep(0)
        return taken

    async def load(self, partition: int, place: int) -> Later:
        """Read the record at a place."""
        (part,) = await self._backend.read([Want(TOPIC, partition, place, 1)], _READ_BYTES)
        record = delays.decode(part.events[0].event.body)
        assert isinstance(record, Later)
        return record


def home_of(text: str) -> int:
    """Return the partition of the delay topic for an event's key, its id if it has none, or a schedule's name.

    So the events of a key come in the order of their times.
    """
    return partition_of(text, PARTITIONS)


class DelayOwner:
    """One process's share of the delayed events of a store."""

    def __init__(
        self,
        backend: Backend,
        control: ControlTopic,
        journal: DelayJournal,
        clock: Clock,
        member: str,
        place_of: Callable[[Event[Any]], tuple[str, int]],
    ) -> None:
        """``place_of`` says to which topic and partition an event belongs."""
        self._backend = backend
        self._control = control
        self._journal = journal
        self._clock = clock
        self._member_name = member
        self._place_of = place_of
        self._next_tick: float | None = None
        self._member: Member | None = None
        self._owned: dict[int, Delays] = {}
        self._epochs: dict[int, int] = {}
        self._lows: dict[int, int] = {}
        self._settled_at = 0.0
        self._wake = asyncio.Event()
        self._stops: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join, and begin. Idempotent. Raises `BackendError`."""
        if self._task is not None:
            return
        await self._backend.ensure(SPEC)
        self._member = await self._backend.claim(GROUP, [TOPIC], self._member_name, self._wake.set, "earliest")
        self._stops = [self._backend.watch([TOPIC], self._wake.set), self._control.listen(self._wake.set)]
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Settle and leave."""
        await self.kill()
        if self._member is not None:
            with contextlib.suppress(BackendError):
                await self._settle(release=True)
            await self._member.leave()

    async def kill(self) -> None:
        """Stop without a word, as a crash would."""
        for stop in self._stops:
            stop()
        self._stops = []
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                more = await self._turn()
            except (BackendError, UnknownOutcome) as error:
                log.warning("delayed events wait: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            if more:
                continue
            nexts = [fold.next_at for fold in self._owned.values()]
            due = min((at for at in (*nexts, self._next_tick) if at is not None), default=None)
            timeout = None if due is None else max(0.0, due - self._clock.now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()

    async def _turn(self) -> bool:
        """Do what is to be done now; True if there is more."""
        await self._take_changes()
        for partition, fold in self._owned.items():
            await self._journal.read_on(partition, fold)
        fired = 0
        for partition, fold in list(self._owned.items()):
            fired += await self._fire(partition, fold)
        await self._tick()
        now = self._clock.now()
        if now - self._settled_at >= _SETTLE_S:
            self._settled_at = now
            await self._keep()
        return fired >= FIRE_LIMIT

    # ---- ownership ------------------------------------------------------------------------------------------------

    async def _take_changes(self) -> None:
        assert self._member is not None
        for change in self._member.changes():
            match change:
                case Assigned(_, partition, cursor, token):
                    stored = cursor or Cursor(0, 0)
                    mine = Cursor(max(stored.epoch, token) + 1, stored.low)
                    (answer,) = await self._member.settle([Settlement(TOPIC, partition, mine)])
                    if answer != "fenced":
                        self._owned[partition] = Delays(stored.low, KEEP_BYTES)
                        self._epochs[partition], self._lows[partition] = mine.epoch, mine.low
                case Revoking(_, partition):
                    await self._settle(partition, release=True)
                    self._owned.pop(partition, None)
                case Lost(_, partition):
                    self._owned.pop(partition, None)

    async def _settle(self, only: int | None = None, *, release: bool = False) -> None:
        assert self._member is not None
        partitions = [p for p in self._owned if only in (None, p)]
        settlements = [Settlement(TOPIC, p, Cursor(self._epochs[p], self._owned[p].low), release) for p in partitions]
        if not settlements:
            return
        for partition, answer in zip(partitions, await self._member.settle(settlements), strict=True):
            if answer == "fenced":
                del self._owned[partition]

    async def _keep(self) -> None:
        """Store from where reading must begin, trim what is below, and carry old ones forward where that pays."""
        moved = [p for p, fold in self._owned.items() if fold.low > self._lows[p]]
        for partition in moved:
            low = self._owned[partition].low
            await self._settle(partition)
            if partition in self._owned:
                self._lows[partition] = low
                if self._backend.capabilities.trim:
                    await self._backend.trim(TOPIC, partition, low)
        for partition, fold in list(self._owned.items()):
            stale = fold.stale(_CARRY_LIMIT)
            if stale:
                await self._journal.append([(partition, await self._later(partition, one)) for _, one in stale])

    async def _later(self, partition: int, pending: Pending) -> Later:
        return pending.later or await self._journal.load(partition, pending.place)

    # ---- firing ---------------------------------------------------------------------------------------------------

    async def _fire(self, partition: int, fold: Delays) -> int:
        """Publish what is due of one partition; return how many."""
        taken = fold.due(self._clock.now(), FIRE_LIMIT)
        if not taken:
            return 0
        try:
            batches: dict[str, list[tuple[int, Event[Any]]]] = {}
            for _, pending in taken:
                later = await self._later(partition, pending)
                batches.setdefault(later.topic, []).append((later.partition, later.event))
            for topic, batch in batches.items():
                self._say_refused(await self._backend.append(topic, batch))
            await self._journal.append([(partition, Fired(id)) for id, _ in taken])
        except BaseException:
            fold.again(taken)
            raise
        await self._journal.read_on(partition, fold)
        return len(taken)

    def _say_refused(self, answers: Any) -> None:
        for answer in answers:
            if isinstance(answer, NexusError):  # an event with this id and other content was published meanwhile
                log.error("a delayed event is given up: %s", answer.message)

    # ---- recurring schedules --------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        now = self._clock.now()
        nexts: list[float] = []
        for name, every in self._control.state.schedules.items():
            partition = home_of(name)
            fold = self._owned.get(partition)
            if fold is None:
                continue
            last = max(fold.ticks.get(name, (0.0, 0))[0], every.since)
            times, done, next_at = cron.due(every.cron, every.zone, last, now, every.missed)
            nexts.append(next_at)
            for time in times:
                event = self.event_of(every, time)
                topic, at = self._place_of(event)
                self._say_refused(await self._backend.append(topic, [(at, event)]))
            if done > last:
                await self._journal.append([(partition, Ticked(name, done))])
                await self._journal.read_on(partition, fold)
        self._next_tick = min(nexts, default=None)

    @staticmethod
    def event_of(schedule: Schedule, time: float, *, by_hand: bool = False) -> Event[Any]:
        """Make the event of one firing; its id says which, so it is published once."""
        moment = datetime.fromtimestamp(time, UTC)
        id = f"{schedule.name}@{moment.isoformat()}" + ("-by-hand" if by_hand else "")
        source = f"/nexus/schedules/{quote(schedule.name)}"
        return Event(id, source, schedule.type, moment, schedule.key, schedule.body.encode(), datacontenttype=JSON)
