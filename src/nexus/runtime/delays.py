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

import msgspec

from nexus.clock import Clock
from nexus.core import cron, delays
from nexus.core.control import Schedule
from nexus.core.delays import PARTITIONS, TOPIC, Carried, Delays, Fired, Id, Later, Pending, Record, Ticked, Void
from nexus.core.partition import partition_of
from nexus.errors import BackendError, NexusError, SettingsError, UnknownOutcome
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
_PAUSE_S = 5.0
REST_S = 1.0
"""How long what is due for a topic that takes nothing now waits until it is tried again."""
LOOK_AGAIN_S = 30.0
"""What is due later than this is looked at again by then."""


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
                try:
                    record = delays.decode(stored.event.body)
                except msgspec.ValidationError as error:  # of a later release; what it says is not for this one
                    log.error("the record at %s[%d]@%d is passed over: %s", TOPIC, partition, stored.position, error)
                    continue
                taken |= fold.apply(stored.position, record) and stored.event.id == own
            fold.place = max(fold.place, part.next)
            more = part.more
            await asyncio.sleep(0)
        return taken

    async def load(self, partition: int, place: int) -> Later:
        """Read the record at a place."""
        (part,) = await self._backend.read([Want(TOPIC, partition, place, 1)], _READ_BYTES)
        record = delays.decode(part.events[0].event.body)
        if isinstance(record, Carried):
            return record.later
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
        self._firings: dict[str, tuple[Schedule, float, float]] = {}  # when it was looked at, and when it fires next
        self._refused: dict[str, Schedule] = {}  # schedules that cannot be followed here
        self._member: Member | None = None
        self._owned: dict[int, Delays] = {}
        self._epochs: dict[int, int] = {}
        self._lows: dict[int, int] = {}
        self._carried: dict[int, list[tuple[Id, int]]] = {}  # what was carried, and it is not known yet if in time
        self._settled_at = 0.0
        self._resting: dict[tuple[int, str], tuple[float, list[tuple[Id, Pending]]]] = {}
        """By partition and topic: until when what is due for a topic that takes nothing rests, and what that is."""
        self._troubles: dict[str, str] = {}
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
            except Exception:  # a fault of one event must not end the others for good, nor go unseen
                log.exception("delayed events wait for what should not happen")
                await asyncio.sleep(_PAUSE_S)
                continue
            if more:
                continue
            nexts = [fold.next_at for fold in self._owned.values()]
            nexts += [until for until, _ in self._resting.values()]
            due = min((at for at in (*nexts, self._next_tick) if at is not None), default=None)
            # The wall clock may be set, and a machine sleeps: what is far away is looked at again in between.
            timeout = None if due is None else min(max(0.0, due - self._clock.now()), LOOK_AGAIN_S)
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
                        self._give_up(partition)
                        self._owned[partition] = Delays(stored.low, KEEP_BYTES)
                        self._epochs[partition], self._lows[partition] = mine.epoch, mine.low
                case Revoking(_, partition):
                    await self._settle(partition, release=True)
                    self._give_up(partition)
                case Lost(_, partition):
                    self._give_up(partition)

    async def _settle(self, only: int | None = None, *, release: bool = False) -> dict[int, int]:
        """Store from where reading must begin; return that for each partition for which it is stored."""
        assert self._member is not None
        lows = {
            partition: self._lows[partition] if partition in self._carried else fold.low
            for partition, fold in self._owned.items()
            if only in (None, partition)
        }
        settlements = [Settlement(TOPIC, p, Cursor(self._epochs[p], low), release) for p, low in lows.items()]
        if not settlements:
            return {}
        for partition, answer in zip(list(lows), await self._member.settle(settlements), strict=True):
            if answer != "ok":
                del lows[partition]
            if answer == "fenced":
                self._give_up(partition)
        return lows

    def _give_up(self, partition: int) -> None:
        self._owned.pop(partition, None)
        self._carried.pop(partition, None)
        for place in [place for place in self._resting if place[0] == partition]:
            del self._resting[place]

    async def _keep(self) -> None:
        """Store from where reading must begin, trim what is below, and carry old ones forward where that pays."""
        await self._forget_ticks()
        for partition in list(self._carried):
            await self._call_void(partition)
        moved = [p for p, fold in self._owned.items() if fold.low > self._lows[p]]
        for partition in moved:
            for low in (await self._settle(partition)).values():
                self._lows[partition] = low
                if self._backend.capabilities.trim:
                    await self._backend.trim(TOPIC, partition, low)
        for partition, fold in list(self._owned.items()):
            if self._lows.get(partition) == fold.low:  # what comes between this look and the append is not below
                await self._carry(partition, fold)

    async def _forget_ticks(self) -> None:
        """Forget what ended schedules leave; a schedule that ticked is known to who has read all decisions."""
        if any(fold.ticks.keys() - self._control.state.schedules.keys() for fold in self._owned.values()):
            names = (await self._control.read_on()).schedules
            for fold in self._owned.values():
                fold.forget_ticks(names)

    async def _carry(self, partition: int, fold: Delays) -> None:
        stale, ticks = fold.stale(_CARRY_LIMIT)
        records: list[Record] = list(ticks)
        for _, pending in stale:
            due = pending.due
            later = msgspec.structs.replace(await self._later(partition, pending), due=due)
            records.append(Carried(pending.place, later))
        if records:
            self._carried[partition] = [(id, pending.place) for id, pending in stale]
            await self._journal.append([(partition, record) for record in records])
            await self._call_void(partition)

    async def _call_void(self, partition: int) -> None:
        """Call void what was carried too late: it was dropped or published before its record was written."""
        fold = self._owned[partition]
        await self._journal.read_on(partition, fold)
        late: list[tuple[int, Record]] = [
            (partition, Void(*id, seen)) for id, seen in self._carried[partition] if id not in fold.pending
        ]
        if late:
            await self._journal.append(late)
            await self._journal.read_on(partition, fold)
        del self._carried[partition]

    async def _later(self, partition: int, pending: Pending) -> Later:
        return pending.later or await self._journal.load(partition, pending.place)

    # ---- firing ---------------------------------------------------------------------------------------------------

    async def _fire(self, partition: int, fold: Delays) -> int:
        """Publish what is due of one partition; return how many were looked at."""
        self._wake_rested(partition, fold)
        taken = fold.due(self._clock.now(), FIRE_LIMIT)
        if not taken:
            return 0
        fired: list[tuple[Id, Pending]] = []
        try:
            batches: dict[str, tuple[list[tuple[Id, Pending]], list[tuple[int, Event[Any]]]]] = {}
            for id, pending in taken:
                later = await self._later(partition, pending)
                whose, batch = batches.setdefault(later.topic, ([], []))
                whose.append((id, pending))
                batch.append((later.partition, later.event))
            for topic, (whose, batch) in batches.items():
                if await self._publish(partition, topic, whose, batch):
                    fired += whose
            if fired:
                await self._journal.append([(partition, Fired(*id)) for id, _ in fired])
        except BaseException:
            fold.again(taken)
            raise
        await self._journal.read_on(partition, fold)
        return len(taken)

    async def _publish(
        self, partition: int, topic: str, whose: list[tuple[Id, Pending]], batch: list[tuple[int, Event[Any]]]
    ) -> bool:
        """Publish into one topic; one that takes nothing now is tried again later, and holds no other up."""
        resting = self._resting.get((partition, topic))
        if resting is None:
            try:
                self._say_refused(await self._backend.append(topic, batch))
            except (BackendError, UnknownOutcome) as error:
                self._say_waits(topic, error)
                resting = self._resting[partition, topic] = self._clock.now() + REST_S, []
            else:
                self._troubles.pop(topic, None)
                return True
        resting[1].extend(whose)
        return False

    def _wake_rested(self, partition: int, fold: Delays) -> None:
        for place, (until, whose) in list(self._resting.items()):
            if place[0] == partition and until <= self._clock.now():
                del self._resting[place]
                fold.again(whose)

    def _say_waits(self, what: str, error: NexusError) -> None:
        """Write into the log what holds something up, once for each reason."""
        if self._troubles.get(what) != str(error):
            self._troubles[what] = str(error)
            log.error("what is to be published into %s waits: %s", what, error)

    def _say_refused(self, answers: Any) -> None:
        for answer in answers:
            if isinstance(answer, NexusError):  # an event with this id and other content was published meanwhile
                log.error("a delayed event is given up: %s", answer.message)

    # ---- recurring schedules --------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        tried_again: float | None = None
        schedules = dict(self._control.state.schedules)  # decisions come while this waits for the store
        for known in (self._firings, self._refused):
            for name in known.keys() - schedules.keys():
                del known[name]
        for name, every in schedules.items():
            partition = home_of(name)
            if partition not in self._owned:
                self._firings.pop(name, None)
            elif self._refused.get(name) != every:
                try:
                    await self._tick_one(partition, self._owned[partition], every)
                except SettingsError as error:  # such as a zone that this machine does not know
                    self._refused[name] = every
                    log.error("schedule %s cannot be followed here: %s", name, error)
                except (BackendError, UnknownOutcome) as error:
                    self._firings.pop(name, None)
                    self._say_waits(every.type, error)
                    tried_again = self._clock.now() + REST_S
        nexts = [next_at for _, _, next_at in self._firings.values()]
        self._next_tick = min([*nexts, *([tried_again] if tried_again is not None else [])], default=None)

    async def _tick_one(self, partition: int, fold: Delays, every: Schedule) -> None:
        now = self._clock.now()
        known = self._firings.get(every.name)
        if known is not None and known[0] == every and known[1] <= now < known[2]:
            return
        tick = fold.ticks.get(every.name)
        last = max(tick.at if tick is not None else 0.0, every.since)
        times, done, next_at = cron.due(every.cron, every.zone, last, now, every.missed)
        for time in times:
            event = self.event_of(every, time)
            topic, at = self._place_of(event)
            self._say_refused(await self._backend.append(topic, [(at, event)]))
        if done > last:
            await self._journal.append([(partition, Ticked(every.name, done))])
            await self._journal.read_on(partition, fold)
        self._firings[every.name] = every, now, next_at

    @staticmethod
    def event_of(schedule: Schedule, time: float, *, by_hand: bool = False) -> Event[Any]:
        """Make the event of one firing; its id says which, so it is published once."""
        moment = datetime.fromtimestamp(time, UTC)
        id = f"{schedule.name}@{moment.isoformat()}" + ("-by-hand" if by_hand else "")
        source = f"/nexus/schedules/{quote(schedule.name)}"
        return Event(id, source, schedule.type, moment, schedule.key, schedule.body.encode(), datacontenttype=JSON)
