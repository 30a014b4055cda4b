"""Replaying what was stored: a range of topics, filtered, into a group or a function, without moving any live group.

A replay is a group of its own with a beginning and an end. So it keeps its place when its process dies, shares its
work among processes, retries, and has dead letters of its own, all by the rules that hold for every group.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeGuard

import msgspec

from nexus.core.control import EndReplay, Outcome, Replay, replay_group
from nexus.core.cursor import decode
from nexus.core.filter import compile_filter
from nexus.core.pattern import Pattern, validate_pattern
from nexus.core.policy import Policy
from nexus.core.retry import Retry
from nexus.errors import Closed, HandlerError, NexusError, SettingsError, UnknownGroup
from nexus.runtime.binding import Binding
from nexus.runtime.bounds import ends_of
from nexus.runtime.control import ControlTopic
from nexus.runtime.managed import Consume, end_if_done
from nexus.runtime.reading import At, Seen, merged, starts
from nexus.runtime.registering import OWN_NAMES, checked_group
from nexus.runtime.subscription import Group, Subscription
from nexus.spi.backend import Backend

BATCH = 500
"""Events of a batch that a function is called with."""


class UnknownReplay(NexusError):
    """There is no such replay."""

    code = "NXS-6002"


class Selection(msgspec.Struct, frozen=True):
    """Which stored events are replayed."""

    patterns: tuple[str, ...] = ("**",)
    topics: tuple[str, ...] = ()
    """None of them is all that may hold events of the patterns."""
    start: str | float = "earliest"
    """``earliest``, ``latest`` or a time in seconds since 1970 at which an event was stored."""
    until: float | None = None
    """Events stored at or after this time are not; None is what is stored now."""
    where: str | None = None
    key: str | None = None
    correlationid: str | None = None
    ranges: dict[str, dict[int, tuple[int, int]]] | None = None
    """Positions by topic and partition, the second not included; instead of topics and times."""

    def filter(self) -> str | None:
        """All conditions as one filter."""
        parts = [f"({self.where})"] if self.where is not None else []
        parts += [f"key == {_literal(self.key)}"] if self.key is not None else []
        if self.correlationid is not None:
            text = _literal(self.correlationid)
            parts.append(f"(correlationid == {text} || id == {text})")
        return " && ".join(parts) or None


def _literal(text: str) -> str:
    """Write a text as a filter has it."""
    return json.dumps(text, ensure_ascii=False)


def _all_of(*filters: str | None) -> str | None:
    """Return a filter for what all of these want."""
    given = [text for text in filters if text is not None]
    return " && ".join(f"({text})" for text in given) if len(given) > 1 else next(iter(given), None)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _checked_id(id: str) -> str:
    """Return the id of a replay, or raise `SettingsError`: the name of a group is made of it."""
    try:
        checked_group(id)
        checked_group(replay_group(id))
    except HandlerError:
        raise SettingsError(
            f"a replay cannot have the id {id!r}", hint="letters, digits, '_' and '-', at most 93"
        ) from None
    return id


class ReplayInfo(msgspec.Struct, frozen=True):
    """A replay and how far it is."""

    id: str
    group: str
    """The group whose handlers get the events; empty if it is a function of whoever began it."""
    state: str
    """``running``, ``done`` or ``cancelled``."""
    read: int
    """Positions that it is through with; they have gaps on some backends, and not every event matches."""
    total: int
    parked: int
    dead: int
    who: str
    replay: Replay


class Replays:
    """The replays of a store."""

    def __init__(
        self,
        backend: Backend,
        control: ControlTopic,
        new_id: Callable[[], str],
        topics_of: Callable[[str], list[str]],
        consume: Consume,
        forget: Callable[[str], None],
        closed: asyncio.Event,
    ) -> None:
        """``closed`` is set when the bus is closed, which closes consumers too."""
        self._closed = closed
        self._backend = backend
        self._control = control
        self._new_id = new_id
        self._topics_of = topics_of
        self._consume = consume
        self._forget = forget

    # ---- looking before -------------------------------------------------------------------------------------------

    async def ranges(self, selection: Selection) -> dict[str, dict[int, tuple[int, int]]]:
        """Return the positions that a selection covers now. Raises `UnknownTopic`, `SettingsError`, `FilterError`."""
        for pattern in selection.patterns:
            validate_pattern(pattern)
        if selection.ranges is not None:
            return await self._checked(selection.ranges)
        if not selection.patterns:
            raise SettingsError("no event type was given", hint="'**' is all of them")
        for time in (selection.start, selection.until):
            if time not in ("earliest", "latest", None) and not _is_number(time):
                raise SettingsError(f"{time!r} is no time", hint="earliest, latest, or seconds since 1970")
        topics = list(selection.topics) or sorted({t for p in selection.patterns for t in self._topics_of(p)})
        firsts = await starts(self._backend, topics, selection.start)
        ends = await starts(self._backend, topics, "latest" if selection.until is None else selection.until)
        if _is_number(selection.start) and selection.until is not None and selection.until < selection.start:
            raise SettingsError("the replay ends before it begins", hint="the first time must be the earlier one")
        found: dict[str, dict[int, tuple[int, int]]] = {}
        for (topic, partition), first in firsts.items():
            found.setdefault(topic, {})[partition] = (first, max(first, ends[topic, partition]))
        return found

    async def _checked(self, ranges: dict[str, dict[int, tuple[int, int]]]) -> dict[str, dict[int, tuple[int, int]]]:
        """Return ranges if all that they name is there: what is not would be waited for, for ever."""
        if not ranges:
            raise SettingsError("the replay has no ranges", hint="None is all that may hold events of the patterns")
        for topic, of in ranges.items():
            ends = (await self._backend.describe(topic)).end
            for partition, (first, end) in of.items():
                if not isinstance(partition, int) or not 0 <= partition < len(ends):
                    raise SettingsError(f"topic {topic!r} has no partition {partition}", hint=f"it has {len(ends)}")
                whole = isinstance(first, int) and isinstance(end, int)
                if not whole or not 0 <= first <= end <= ends[partition]:
                    raise SettingsError(
                        f"{topic}[{partition}] cannot be replayed from {first} to {end}",
                        hint=f"it ends at {ends[partition]}",
                    )
        return {topic: {at: (first, end) for at, (first, end) in of.items()} for topic, of in ranges.items()}

    async def look(self, selection: Selection) -> AsyncIterator[Seen]:
        """Go through what would be replayed, by time; nothing is written and nobody is affected."""
        ranges = await self.ranges(selection)
        where = selection.filter()
        matches = compile_filter(where).matches if where is not None else None
        patterns = [Pattern(pattern) for pattern in selection.patterns]
        ends = {(topic, partition): end for topic, of in ranges.items() for partition, (_, end) in of.items()}
        places: dict[At, int] = {
            (topic, partition): first
            for topic, of in ranges.items()
            for partition, (first, end) in of.items()
            if first < end
        }
        async for seen in merged(self._backend, places, ends=ends):
            event = seen.stored.event
            if any(pattern.matches(event.type) for pattern in patterns) and (matches is None or matches(event)):
                yield seen

    # ---- doing it -------------------------------------------------------------------------------------------------

    async def start(
        self, selection: Selection, *, group: str, rate: float | None = None, id: str | None = None, who: str = ""
    ) -> str:
        """Replay into a group: processes that have its handlers carry it out. Return the replay's id.

        The filter that operators altered the group's to counts as it is now. ``rate`` is in events per second, over
        all processes. Raises `UnknownGroup`, `UnknownTopic`, `SettingsError`, `FilterError`.
        """
        state = await self._control.read_on()
        if group in state.removed:
            raise UnknownGroup(f"group {group!r} was removed", hint="create it anew first")
        if group.startswith(OWN_NAMES):
            raise UnknownGroup(f"group {group!r} is Nexus's own, and has no handlers", hint="replay into another")
        if group not in await self._backend.groups() and group not in state.created:
            raise UnknownGroup(f"there is no group {group!r}", hint="its handlers must have run once")
        return (await self._begin(selection, group, rate, id, who)).id

    async def _begin(self, selection: Selection, group: str, rate: float | None, id: str | None, who: str) -> Replay:
        if rate is not None and not (_is_number(rate) and rate > 0):
            raise SettingsError(f"a replay cannot run at {rate!r} events per second")
        decided = self._control.state.group(group)
        where = _all_of(selection.filter(), decided.filters[decided.version])
        if where is not None:
            compile_filter(where)
        id = _checked_id(id) if id is not None else self._new_id()[-12:]
        replay = Replay(id, group, await self.ranges(selection), tuple(selection.patterns), where, rate, who)
        if id in (await self._control.read_on()).replays:
            raise SettingsError(f"there is a replay {id!r} already", hint="go on with it, or choose another id")
        await self._control.write(replay)
        if self._control.state.replays[id] != replay:
            raise SettingsError(f"replay {id!r} was begun by somebody else at this moment")
        return replay

    async def into(
        self,
        handler: Callable[..., Any],
        selection: Selection | None = None,
        *,
        id: str,
        rate: float | None = None,
        retry: Retry | None = None,
        who: str = "",
    ) -> ReplayInfo:
        """Replay into a function, here, and return when that is done or was cancelled.

        The function is called as a handler is; one that takes a list gets up to 500 events at once. Events of a key
        come in order. With the ``id`` of a replay that was begun before and no selection, it goes on where that was:
        what was handled last may come again. Raises `UnknownReplay`, `HandlerError`, `SettingsError` if a replay with
        this id goes into a group, `Closed`, and what `start` raises.
        """
        binding = Binding(handler)
        state = await self._control.read_on()
        await self._control.follow()
        replay = state.replays.get(id)
        if selection is not None:
            replay = await self._begin(selection, "", rate, id, who)
        if replay is None:
            raise UnknownReplay(f"there is no replay {id!r}", hint="see `nexus replay ls`")
        if replay.group:
            raise SettingsError(f"replay {id!r} goes into group {replay.group!r}", hint="choose another id")
        if state.outcome(id) is not None:
            return await self.get(id)
        group = Group(replay_group(id), Policy(on_dead="skip"), 16, "earliest", "stop")
        group.add(Subscription(("**",), binding, None, retry or Retry(), None, BATCH, None))
        consumer = await self._consume(group, replay)
        ended = asyncio.Event()
        ignore = self._control.listen(ended.set)
        try:
            while state.outcome(id) is None:
                if consumer.finished:
                    await end_if_done(self._backend, self._control, replay, who)
                    if state.outcome(id) is not None:
                        break
                failed = consumer.failed
                await self._first_of([consumer.settled, ended], [failed] if failed is not None else [])
                if failed is not None and failed.done():
                    break  # `close` raises what it was
                consumer.settled.clear()
                ended.clear()
        finally:
            ignore()
            if not self._closed.is_set():
                await consumer.close()
                self._forget(group.name)
        return await self.get(id)

    async def _first_of(self, news: Sequence[asyncio.Event], ends: Sequence[asyncio.Future[None]] = ()) -> None:
        """Wait for one of these. Raises `Closed` if the bus is closed."""
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(one.wait()) for one in (*news, self._closed)]
        try:
            await asyncio.wait([*waiting, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self._closed.is_set():
            raise Closed("the bus was closed", hint="what is not over yet goes on wherever its handlers run")

    async def wait(self, id: str) -> ReplayInfo:
        """Return when a replay is over. Raises `UnknownReplay`, and `Closed` if the bus is closed before."""
        await self._known(id)
        await self._control.follow()
        news = asyncio.Event()
        ignore = self._control.listen(news.set)
        try:
            while self._control.state.outcome(id) is None:
                await self._first_of([news])
                news.clear()
        finally:
            ignore()
        return await self.get(id)

    async def cancel(self, id: str, *, who: str = "") -> None:
        """Have a replay end where it is. Raises `UnknownReplay`."""
        await self._known(id)
        await self._control.write(EndReplay(id, "cancelled", who))

    async def _known(self, id: str) -> Replay:
        replay = (await self._control.read_on()).replays.get(id)
        if replay is None:
            raise UnknownReplay(f"there is no replay {id!r}", hint="see `nexus replay ls`")
        return replay

    # ---- looking after --------------------------------------------------------------------------------------------

    async def all(self) -> Sequence[ReplayInfo]:
        """Return every replay that was begun, oldest first, and how far it is."""
        return [await self._info(replay) for replay in list((await self._control.read_on()).replays.values())]

    async def get(self, id: str) -> ReplayInfo:
        """Return one replay and how far it is. Raises `UnknownReplay`."""
        return await self._info(await self._known(id))

    async def _info(self, replay: Replay) -> ReplayInfo:
        outcome: Outcome | None = self._control.state.outcome(replay.id)
        ends = ends_of(replay)
        firsts = {at: replay.ranges[at[0]][at[1]][0] for at in ends}
        read = parked = dead = 0
        try:
            lags = await self._backend.lag(replay_group(replay.id))
        except UnknownGroup:
            lags = []
        for lag in lags:
            state = decode(lag.low, lag.state)
            parked += state.parked
            dead += state.dead
            at = (lag.topic, lag.partition)
            if at in ends and state.reset:
                read += max(0, min(lag.low, ends[at]) - firsts[at])
        total = sum(end - firsts[at] for at, end in ends.items())
        return ReplayInfo(replay.id, replay.group, outcome or "running", read, total, parked, dead, replay.who, replay)
