"""Dead letters, as an operator sees them: list, show with history, requeue (edited or not), discard.

Everything is read from the parking topics and written to them as commands that name the entry's round, so it works
from any process, whether the group runs or not, and a command that comes too late changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from typing import Any

import msgspec

from nexus.clock import Clock
from nexus.core.control import Reopen, Replay, replay_group
from nexus.core.cursor import State, decode
from nexus.core.envelope import check_json
from nexus.core.fingerprint import fingerprint
from nexus.core.parking import Discard, Fold, LaneKey, Record, Requeue, decode_record, encode_record
from nexus.core.takeover import begin_fold
from nexus.errors import InvalidEvent, NexusError, UnknownGroup
from nexus.event import Event, is_json
from nexus.runtime.control import ControlTopic
from nexus.runtime.history import Attempt, Told, tell
from nexus.runtime.journal import Journal, parking_topic, record_of
from nexus.runtime.schemas import Schemas
from nexus.spi.backend import Backend, Want

_READ_EVENTS = 2_000
_READ_BYTES = 16 * 1024 * 1024
BATCH_LIMIT = 1_000
"""Commands that are appended together."""
VIEWS_LIMIT_LETTERS = 20_000
"""Entries that the partitions read so far may hold in memory; then what was read first is forgotten, and read again."""
_VIEWS_LIMIT = 256
_TOPICS_S = 1.0
"""How often who waits for a letter looks for topics that the group parks in since."""


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

    @property
    def error(self) -> str:
        """The last error, with its traceback; empty if there was none."""
        return self.history[-1].error if self.history else ""

    @property
    def fingerprint(self) -> str:
        """What dead letters share that died of the same error (`nexus.core.fingerprint`)."""
        return fingerprint(self.error, self.reason)


class NotDead(NexusError):
    """There is no such dead letter (any more)."""

    code = "NXS-6001"


_Sought = Sequence[tuple[int, int | None, Record]]
"""Commands of one partition: the caller's number of each, its place if the store told it, and the record."""


class DeadLetters:
    """The dead letters of a store."""

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        new_id: Callable[[], str],
        source: str,
        control: ControlTopic,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        """``schemas``: for patterns of event types, the JSON Schema files that edited bodies must fit."""
        self._control = control
        self._backend = backend
        self._schemas = Schemas(schemas or {})
        self._clock = clock
        self._journal = Journal(backend, clock, new_id, source)
        self._views: dict[tuple[str, str, int], _View] = {}
        self._reading = asyncio.Lock()

    async def all(self, group: str | None = None, topic: str | None = None) -> list[DeadLetterInfo]:
        """Return all dead letters, oldest first within a partition."""
        return [letter async for letter in self.each(group, topic)]

    async def each(
        self, group: str | None = None, topic: str | None = None, error: str | None = None
    ) -> AsyncIterator[DeadLetterInfo]:
        """Give the dead letters one after the other, those of one partition in memory at a time.

        ``error`` is a fingerprint. What dies in a partition after its first letter was given is not among them.
        """
        for of_group, of_topic, partitions in await self._parking_topics(group, topic):
            for partition in range(partitions):
                for letter in await self._read(of_group, of_topic, partition):
                    if error is None or letter.fingerprint == error:
                        yield letter

    async def first(self, group: str) -> DeadLetterInfo:
        """Return the oldest dead letter of a group; wait for one if there is none."""
        wake = asyncio.Event()
        watched: list[str] = []
        unwatch = self._backend.watch(watched, wake.set)
        try:
            while True:
                known = await self._parking_topics(group, None)
                topics = [parking_topic(topic, of_group) for of_group, topic, _ in known]
                if topics != watched:
                    unwatch()
                    watched, unwatch = topics, self._backend.watch(topics, wake.set)
                if letters := await self.all(group):
                    return min(letters, key=lambda letter: letter.died_at)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TOPICS_S):
                        await wake.wait()
                wake.clear()
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

    def check(self, letter: DeadLetterInfo, data: bytes) -> None:
        """Raise `InvalidEvent` unless ``data`` is what the content type says and fits the schema of the type."""
        if is_json(letter.event.datacontenttype):
            check_json(data)
        self._schemas.check(letter.event.type, letter.event.datacontenttype, data)

    async def requeue(self, letter: DeadLetterInfo, *, data: bytes | None = None, who: str = "") -> bool:
        """Have the group try the event again, with a new body if ``data`` is given; the original is kept.

        A replay that is over goes on for what is requeued. Returns False if the dead letter was gone when the command
        arrived. Raises `InvalidEvent` for a body that is not what the event's content type says, or that does not fit
        the schema of its type (setting ``schemas``), and `UnknownGroup` where nobody would handle it: the group was
        removed, or the replay is over, and its target was a function or was removed.
        """
        edited = None
        if data is not None:
            self.check(letter, data)
            edited = msgspec.structs.replace(letter.event, body=data)
        (taken,) = await self._requeue([(letter, edited)], who)
        return taken

    async def requeue_many(self, letters: Sequence[DeadLetterInfo], *, who: str = "") -> list[bool]:
        """Have the groups try many again as they are, with one append per parking topic and `BATCH_LIMIT` of them.

        Returns for each what `requeue` does.
        """
        return await self._requeue([(letter, None) for letter in letters], who)

    async def discard(self, letter: DeadLetterInfo, *, why: str = "", who: str = "") -> bool:
        """Give the event up for ever. Returns False if the dead letter was gone when the command arrived."""
        (taken,) = await self.discard_many([letter], why=why, who=who)
        return taken

    async def discard_many(self, letters: Sequence[DeadLetterInfo], *, why: str = "", who: str = "") -> list[bool]:
        """Give many events up for ever; as `requeue_many`."""
        now = self._clock.now()
        return await self._command(
            [(one, Discard(_key_of(one), one.position, one.round, who, why, now)) for one in letters]
        )

    async def _requeue(self, letters: Sequence[tuple[DeadLetterInfo, Event[Any] | None]], who: str) -> list[bool]:
        """Requeue letters, each with what its event is replaced by, if anything."""
        replays = await self._replays_of({letter.group for letter, _ in letters})
        # Before, lest a crash in between leave what nobody handles; after, since who ended a replay meanwhile may not
        # have read of it.
        await self._reopen([replay for replay in replays if self._control.state.outcome(replay.id) is not None], who)
        now = self._clock.now()
        taken = await self._command(
            [(one, Requeue(_key_of(one), one.position, one.round, who, edited, now)) for one, edited in letters]
        )
        groups = {letter.group for (letter, _), one in zip(letters, taken, strict=True) if one}
        await self._reopen([replay for replay in replays if replay_group(replay.id) in groups], who)
        return taken

    async def _reopen(self, replays: Sequence[Replay], who: str) -> None:
        for replay in replays:
            await self._control.write(Reopen(replay.id, who))

    async def _replays_of(self, groups: Set[str]) -> list[Replay]:
        """Return the replays among some groups. Raises `UnknownGroup` if one is over and nobody can go on with it."""
        state = await self._control.read_on()
        for group in sorted(groups & state.removed):
            raise UnknownGroup(
                f"nobody would handle it: group {group!r} was removed",
                hint="create it anew, and it goes on where it was; or discard it",
            )
        replays = [replay for replay in state.replays.values() if replay_group(replay.id) in groups]
        for replay in replays:
            if state.outcome(replay.id) is not None and (not replay.group or replay.group in state.removed):
                target = f"group {replay.group!r}, which was removed" if replay.group else "a function"
                raise UnknownGroup(
                    f"nobody would handle it: replay {replay.id} is over, and its target was {target}",
                    hint="discard it, and replay its event anew; see `nexus replay`",
                )
        return replays

    async def _command(self, wanted: Sequence[tuple[DeadLetterInfo, Record]]) -> list[bool]:
        """Append commands and read on up to them: whether one was taken is what every reader sees at its place."""
        for _, record in wanted:
            _check(record)
        taken = [False] * len(wanted)
        by_topic: dict[tuple[str, str], list[int]] = {}
        for number, (letter, _) in enumerate(wanted):
            by_topic.setdefault((letter.group, letter.topic), []).append(number)
        for (group, topic), numbers in by_topic.items():
            for batch in (numbers[at : at + BATCH_LIMIT] for at in range(0, len(numbers), BATCH_LIMIT)):
                records = [(wanted[number][0].partition, wanted[number][1]) for number in batch]
                async with self._reading:  # nobody else reads past the commands before this does
                    places = await self._journal.append(parking_topic(topic, group), records)
                    sought: dict[int, list[tuple[int, int | None, Record]]] = {}
                    for number, place, (partition, record) in zip(batch, places, records, strict=True):
                        sought.setdefault(partition, []).append((number, place, record))
                    for partition, commands in sought.items():
                        for number in await self._read_on(group, topic, partition, commands):
                            taken[number] = True
        return taken

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

    async def _read_on(self, group: str, topic: str, partition: int, sought: _Sought = ()) -> set[int]:
        """Fold in what is new, up to the last of the commands ``sought``, or to the end; the numbers of those taken."""
        parking = parking_topic(topic, group)
        at = (group, topic, partition)
        view = self._views.get(at) or await self._begin(at)
        by_place = {place: number for number, place, _ in sought if place is not None}
        placeless = [(number, record) for number, place, record in sought if place is None]
        until = max(by_place) if by_place and not placeless else None
        taken: set[int] = set()
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
                    taken.update(number for number, command in placeless if command == record)
                    if stored.position in by_place:
                        taken.add(by_place[stored.position])
            if not part.more:
                break
            await asyncio.sleep(0)
        self._forget_others(at)
        return taken

    def _forget_others(self, at: tuple[str, str, int]) -> None:
        """Forget what was read of other partitions, the oldest first, while all together hold too much."""
        entries = sum(len(view.told) for view in self._views.values())
        for other in list(self._views):
            if entries <= VIEWS_LIMIT_LETTERS and len(self._views) <= _VIEWS_LIMIT:
                return
            if other != at:
                entries -= len(self._views.pop(other).told)

    async def _begin(self, at: tuple[str, str, int]) -> _View:
        """Begin where the group's cursor says that reading must begin."""
        group, topic, partition = at
        state = State()
        for lag in await self._backend.lag(group):
            if (lag.topic, lag.partition) == (topic, partition):
                state = decode(lag.low, lag.state)
        view = self._views[at] = _View(begin_fold(state))
        return view


class _View:
    """What was read of one parking partition so far; a later look reads only what is new."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold
        self.told: dict[tuple[LaneKey, int], Told] = {}


def _check(record: Record) -> None:
    """Raise `InvalidEvent` for a command that no reader could read."""
    try:
        decode_record(encode_record(record))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise InvalidEvent(f"the {type(record).__name__.lower()} cannot be written: {error}") from error


def _key_of(letter: DeadLetterInfo) -> LaneKey:
    return letter.position if letter.key is None else (letter.tenant, letter.key)
