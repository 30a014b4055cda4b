"""Delayed and recurring events: make them, list them, cancel one, or have it published now."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from nexus.clock import Clock
from nexus.core import cron
from nexus.core.control import Delay, Missed, Schedule, Unschedule
from nexus.core.delays import TOPIC, Delays, Drop, Later, Now
from nexus.core.envelope import encode_payload, validate
from nexus.errors import InvalidEvent, NexusError, Overloaded, SettingsError, UnknownGroup
from nexus.event import JSON, Event
from nexus.runtime.control import ControlTopic
from nexus.runtime.delays import GROUP, KEEP_BYTES, SPEC, DelayJournal, DelayOwner, home_of
from nexus.spi.backend import Backend

PENDING_LIMIT = 2_000_000
"""Records of the delay topic that are still needed or not trimmed yet; above, nothing more is delayed."""
_LOOK_S = 1.0


class UnknownSchedule(NexusError):
    """Nothing is scheduled under this name or id, or not any more."""

    code = "NXS-6003"


class Scheduled(msgspec.Struct, frozen=True):
    """An event that is published later, or a schedule that publishes one again and again."""

    id: str
    """The event's id, or the schedule's name."""
    due: float | None
    """When it is published next, seconds since 1970; None where this machine cannot tell."""
    type: str
    key: str | None
    cron: str | None = None
    """Of a schedule, with its time zone."""
    zone: str | None = None
    fault: str | None = None
    """Why this machine cannot tell when it is published next, such as that it does not know the zone."""


class Schedules:
    """What a store publishes later."""

    def __init__(
        self,
        backend: Backend,
        control: ControlTopic,
        journal: DelayJournal,
        clock: Clock,
        place_of: Callable[[Event[Any]], tuple[str, int]],
        publish: Callable[[Event[Any]], Any],
        max_body_bytes: int,
    ) -> None:
        self._backend = backend
        self._control = control
        self._journal = journal
        self._clock = clock
        self._place_of = place_of
        self._publish = publish
        self._max_body_bytes = max_body_bytes
        self._look_at = 0.0

    async def later(self, event: Event[Any], due: float) -> str:
        """Have an event published at a time, in seconds since 1970; return its id. Durable when this returns.

        Raises `InvalidEvent`, `Overloaded` above `PENDING_LIMIT`, `BackendError`.
        """
        validate(event, self._max_body_bytes)
        if isinstance(due, bool) or not isinstance(due, int | float) or not 0 <= due < 1e11:
            raise InvalidEvent(f"{due!r} is no time", hint="give a datetime with a zone, or seconds since 1970")
        await self._make_room()
        topic, partition = self._place_of(event)
        home = home_of(event.id if event.key is None else event.key)
        await self._journal.append([(home, Later(float(due), topic, partition, event))])
        return event.id

    async def _make_room(self) -> None:
        """Make sure that the delay topic is there and has room; looked at once a second."""
        if self._clock.monotonic() < self._look_at:
            return
        info = await self._backend.ensure(SPEC)
        if not (await self._control.read_on()).delays:
            await self._control.write(Delay())
        if sum(info.end) - sum(info.first) >= PENDING_LIMIT:
            raise Overloaded(
                f"the delay topic holds {PENDING_LIMIT:,} records; nothing was stored",
                hint="is a process running that publishes them?",
                retry_after_s=_LOOK_S,
            )
        self._look_at = self._clock.monotonic() + _LOOK_S

    async def every(
        self,
        name: str,
        expression: str,
        type: str,
        data: Any = None,
        *,
        key: str | None = None,
        zone: str = "UTC",
        missed: Missed = "skip",
        who: str = "",
    ) -> None:
        """Publish an event whenever a cron expression says so, from now on; a name that is known is changed.

        A program may say so each time that it starts: what is as it was is not written again, and what was missed since
        is made up for. It is counted from anew only when the expression, the zone or ``missed`` changes.

        ``missed``: what to do about firings while nobody was there: ``skip`` them, make up for the last ``once``, or
        for ``all``. Raises `SettingsError`, `InvalidEvent`, `BackendError`.
        """
        cron.check(expression, zone)
        if not name or len(name) > 100 or "@" in name:
            raise SettingsError(f"{name!r} cannot name a schedule", hint="1 to 100 characters without '@'")
        body, content_type = encode_payload(data)
        if content_type not in (None, JSON):
            raise InvalidEvent("the payload of a recurring event must be JSON")
        now = self._clock.now()
        wanted = Schedule(name, expression, zone, type, body.decode(), key, missed, now, who)
        validate(DelayOwner.event_of(wanted, now), self._max_body_bytes)
        await self._backend.ensure(SPEC)
        known = (await self._control.read_on()).schedules.get(name)
        if known is not None and (known.cron, known.zone, known.missed) == (expression, zone, missed):
            wanted = msgspec.structs.replace(wanted, since=known.since)
        if known is None or wanted != msgspec.structs.replace(known, who=who):
            await self._control.write(wanted)

    async def all(self) -> list[Scheduled]:
        """Return what is published later, the next first; last that of which this machine cannot tell when."""
        found = [self._recurring(one) for one in (await self._control.read_on()).schedules.values()]
        for partition in range(SPEC.partitions):
            fold = await self._fold(partition)
            for (_, id), pending in fold.pending.items():
                event = (pending.later or await self._journal.load(partition, pending.place)).event
                found.append(Scheduled(id, pending.due, event.type, event.key))
        return sorted(found, key=lambda one: math.inf if one.due is None else one.due)

    def _recurring(self, schedule: Schedule) -> Scheduled:
        due, fault = None, None
        try:
            due = next(cron.firings(schedule.cron, schedule.zone, self._clock.now()))
        except SettingsError as error:
            fault = error.message
        return Scheduled(schedule.name, due, schedule.type, schedule.key, schedule.cron, schedule.zone, fault)

    async def cancel(self, id: str, *, who: str = "") -> None:
        """Have an event never be published, or a schedule end. Raises `UnknownSchedule`, `BackendError`.

        If several events of different sources or keys have this id, it is for all of them.
        """
        if id in (await self._control.read_on()).schedules:
            await self._control.write(Unschedule(id, who))
        else:
            await self._command(id, lambda source: Drop(source, id, who))

    async def fire(self, id: str, *, who: str = "") -> None:
        """Have an event published now, or a schedule fire once more; as `cancel`.

        Raises `UnknownSchedule`, `BackendError`.
        """
        schedule = (await self._control.read_on()).schedules.get(id)
        if schedule is None:
            await self._command(id, lambda source: Now(source, id, who))
        else:
            await self._publish(DelayOwner.event_of(schedule, self._clock.now(), by_hand=True))

    async def _command(self, id: str, make: Callable[[str], Drop | Now]) -> None:
        taken = False
        for partition in range(SPEC.partitions):
            fold = await self._fold(partition)
            for source in [source for source, name in fold.pending if name == id]:
                (own,) = await self._journal.append([(partition, make(source))])
                taken |= await self._journal.read_on(partition, fold, own)
        if not taken:
            raise UnknownSchedule(f"nothing is scheduled as {id!r}", hint="it was published, or it was cancelled")

    async def _fold(self, partition: int) -> Delays:
        """Read what is pending in a partition."""
        low = 0
        if TOPIC in await self._backend.topics():
            try:
                lags = await self._backend.lag(GROUP)
            except UnknownGroup:
                lags = []
            low = max((lag.low for lag in lags if lag.partition == partition), default=0)
            fold = Delays(low, KEEP_BYTES)
            await self._journal.read_on(partition, fold)
            return fold
        return Delays()
