"""Dead letters, as an operator sees them: list, show with history, requeue (edited or not), discard.

Everything is read from the parking topics and written to them as commands that name the entry's round, so it works
from any process, whether the group runs or not, and a command that comes too late changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from nexus.clock import Clock
from nexus.core.cursor import State, decode
from nexus.core.envelope import check_json
from nexus.core.parking import Discard, Fold, LaneKey, Record, Requeue
from nexus.errors import NexusError, UnknownGroup
from nexus.event import Event, is_json
from nexus.runtime.history import Attempt, Told, tell
from nexus.runtime.journal import Journal, parking_topic, record_of
from nexus.spi.backend import Backend, Want

_READ_EVENTS = 2_000
_READ_BYTES = 16 * 1024 * 1024
_VIEWS_LIMIT = 256


class DeadLetterInfo(msgspec.Struct, frozen=True):
    """One event that a group gave up on, with where it came from and what happened to it."""

    group: str
    topic: str
    partition: int
    position: int
    round: int
    """How often it has died."""
    key: str | None
    tenant: str | None
    attempts: int
    reason: str
    died_at: float
    event: Event[Any]
    """The original."""
    edited: Event[Any] | None
    """What an earlier requeue had it replaced by."""
    followers: int
    """Events of its key that wait behind it in the parking topic."""
    history: tuple[Attempt, ...]

    @property
    def id(self) -> str:
        """Name for the command line: group/topic/partition/position."""
        return f"{self.group}/{self.topic}/{self.partition}/{self.position}"


class NotDead(NexusError):
    """There is no such dead letter (any more)."""

    code = "NXS-6001"


class DeadLetters:
    """The dead letters of a store."""

    def __init__(self, backend: Backend, clock: Clock, new_id: Callable[[], str], source: str) -> None:
        self._backend = backend
        self._clock = clock
        self._journal = Journal(backend, clock, new_id, source)
        self._views: dict[tuple[str, str, int], _View] = {}
        self._reading = asyncio.Lock()

    async def all(self, group: str | None = None, topic: str | None = None) -> list[DeadLetterInfo]:
        """Return all dead letters, oldest first within a partition."""
        found: list[DeadLetterInfo] = []
        for of_group, of_topic, partitions in await self._parking_topics(group, topic):
            for partition in range(partitions):
                found += await self._read(of_group, of_topic, partition)
        return found

    async def first(self, group: str) -> DeadLetterInfo:
        """Return the oldest dead letter of a group; wait for one if there is none."""
        wake = asyncio.Event()
        topics = [parking_topic(topic, of_group) for of_group, topic, _ in await self._parking_topics(group, None)]
        unwatch = self._backend.watch(topics, wake.set)
        try:
            while not (letters := await self.all(group)):
                await wake.wait()
                wake.clear()
            return min(letters, key=lambda letter: letter.died_at)
        finally:
            unwatch()

    async def get(self, id: str) -> DeadLetterInfo:
        """Return one dead letter by its id. Raises `NotDead`."""
        try:
            group, topic, partition, position = id.rsplit("/", 3)
            number, place = int(partition), int(position)
        except ValueError:
            raise NotDead(
                f"{id!r} is no dead letter's id", hint="they look like group/topic/partition/position"
            ) from None
        parking = parking_topic(topic, group)
        if parking in await self._backend.topics() and (
            0 <= number < (await self._backend.describe(parking)).spec.partitions
        ):
            for letter in await self._read(group, topic, number):
                if letter.position == place:
                    return letter
        raise NotDead(f"there is no dead letter {id}", hint="it was requeued or discarded; see `nexus dlq ls`")

    async def requeue(self, letter: DeadLetterInfo, *, data: bytes | None = None, who: str = "") -> bool:
        """Have the group try the event again, with a new body if ``data`` is given; the original is kept.

        Returns False if the dead letter was gone when the command arrived. Raises `InvalidEvent` for a body that is
        not what the event's content type says.
        """
        edited = None
        if data is not None:
            if is_json(letter.event.datacontenttype):
                check_json(data)
            edited = msgspec.structs.replace(letter.event, body=data)
        command = Requeue(_key_of(letter), letter.position, letter.round, who, edited, self._clock.now())
        return await self._command(letter, command)

    async def discard(self, letter: DeadLetterInfo, *, why: str = "", who: str = "") -> bool:
        """Give the event up for ever. Returns False if the dead letter was gone when the command arrived."""
        command = Discard(_key_of(letter), letter.position, letter.round, who, why, self._clock.now())
        return await self._command(letter, command)

    async def _command(self, letter: DeadLetterInfo, command: Record) -> bool:
        """Append a command and read on up to it: whether it was taken is what every reader sees there."""
        parking = parking_topic(letter.topic, letter.group)
        async with self._reading:  # nobody else reads past the command before this does
            (place,) = await self._journal.append(parking, [(letter.partition, command)])
            return await self._read_on(letter.group, letter.topic, letter.partition, place, command)

    async def _parking_topics(self, group: str | None, topic: str | None) -> list[tuple[str, str, int]]:
        groups = await self._backend.groups()
        if group is not None and group not in groups:
            raise UnknownGroup(f"there is no group {group!r}", hint=f"known: {', '.join(groups) or 'none'}")
        names = await self._backend.topics()
        found = []
        for name in names:
            for of_group in [group] if group else groups:
                suffix = f".{of_group}.park"
                if name.endswith(suffix) and name[: -len(suffix)] in names:
                    of_topic = name[: -len(suffix)]
                    if topic is None or topic == of_topic:
                        found.append((of_group, of_topic, (await self._backend.describe(name)).spec.partitions))
        return found

    async def _read(self, group: str, topic: str, partition: int) -> list[DeadLetterInfo]:
        async with self._reading:
            await self._read_on(group, topic, partition)
        view = self._views[group, topic, partition]
        letters = []
        for key, known in view.fold.keys.items():
            for position in known.dead:
                entry, said = known.touched[position], view.told[key, position]
                tenant, name = key if isinstance(key, tuple) else (said.event.tenant, None)
                letters.append(
                    DeadLetterInfo(
                        group,
                        topic,
                        partition,
                        position,
                        entry.round,
                        name,
                        tenant,
                        entry.attempts,
                        said.reason,
                        said.died_at,
                        said.event,
                        said.edited,
                        known.open_count,
                        tuple(said.history),
                    )
                )
        return sorted(letters, key=lambda letter: letter.position)

    async def _read_on(
        self, group: str, topic: str, partition: int, until: int | None = None, command: Record | None = None
    ) -> bool:
        """Fold in what is new, up to a place or to the end; True if ``command`` was met there and taken."""
        parking = parking_topic(topic, group)
        at = (group, topic, partition)
        view = self._views.get(at) or await self._begin(at)
        taken = False
        while until is None or view.fold.place <= until:
            wanted = view.fold.place
            (part,) = await self._backend.read([Want(parking, partition, wanted, _READ_EVENTS)], _READ_BYTES)
            if part.trimmed is not None and part.trimmed > wanted:
                view = await self._begin(at)  # its owner has moved the start: the cursor names a later place
                continue
            for stored in part.events:
                record = record_of(stored)
                if view.fold.apply(stored.position, record):
                    tell(view.told, record, view.fold)
                    taken |= stored.position == until or (until is None and record == command)
            if not part.more:
                break
            await asyncio.sleep(0)
        return taken

    async def _begin(self, at: tuple[str, str, int]) -> _View:
        """Begin where the group's cursor says that reading must begin."""
        group, topic, partition = at
        state = State()
        for lag in await self._backend.lag(group):
            if (lag.topic, lag.partition) == (topic, partition):
                state = decode(lag.low, lag.state)
        if len(self._views) >= _VIEWS_LIMIT:
            self._views.clear()
        view = self._views[at] = _View(Fold(state.place, state.place_epoch, state.base))
        return view


class _View:
    """What was read of one parking partition so far; a later look reads only what is new."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.told: dict[tuple[LaneKey, int], Told] = {}


def _key_of(letter: DeadLetterInfo) -> LaneKey:
    return letter.position if letter.key is None else (letter.tenant, letter.key)
