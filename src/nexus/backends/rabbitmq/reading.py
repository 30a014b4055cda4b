"""Reading: which subscriptions stand, where a stream ends, and slices for wants.

Whoever reads on from where the last answer ended is served from what has arrived, without a round trip. Anyone else
gets a subscription of their own; several may stand on one partition, as several groups read it at their own pace.

A node takes only so many subscriptions. Where more partitions are read than that, they are served in portions: those
whose subscription stands, then some of the others, for which those give way that were used least lately.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from nexus.backends.rabbitmq import frames, links
from nexus.backends.rabbitmq.connection import Connection
from nexus.backends.rabbitmq.ends import STALL_S, Gone, Tails
from nexus.backends.rabbitmq.links import Full, Links
from nexus.backends.rabbitmq.reader import Reader, Source, Tail
from nexus.spi.backend import Slice, Stored

READERS = 600
"""Subscriptions of a store, at most; the one that was used least lately gives way."""
READERS_OF_ONE = 8
"""Subscriptions to one partition, at most."""
IDLE_S = 30.0
"""A subscription that nobody reads from is given up after this."""
LEAST_BUFFER_BYTES = 128 * 1024
_STALLS = 50
_PUT_OFF = 10_000
"""How many wants are remembered that were put off."""


def most_readers() -> int:
    """How many subscriptions may stand: a part of what a node takes is kept for looks at ends, and for changes."""
    return max(1, min(READERS, links.CONNECTIONS * Connection.SLOTS * 3 // 4))


def portion() -> int:
    """How many subscriptions give way at once: to open one takes some milliseconds, and whoever reads waits."""
    return max(1, most_readers() // 6)


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A wish to read from a stream."""

    source: Source
    position: int
    max_events: int


class Turn:
    """A want while it is answered."""

    __slots__ = ("answer", "reader", "start", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.start = wanted.position
        """Where reading really begins: not below what is kept."""
        self.reader: Reader | None = None
        self.answer: Slice | None = None

    @property
    def stream(self) -> str:
        return self.wanted.source.stream

    @property
    def place(self) -> tuple[str, int]:
        return self.wanted.source.stream, self.wanted.position

    def end(self, events: Sequence[Stored], next: int, *, more: bool) -> None:
        """Set the answer."""
        source = self.wanted.source
        trimmed = self.start if self.start > self.wanted.position else None
        self.answer = Slice(source.topic, source.partition, events, next, more, trimmed)


class Budget:
    """The bytes that all slices of an answer share; the very first event is given, however large it is."""

    __slots__ = ("given", "left", "spent")

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes
        self.given = False
        self.spent = False

    def take(self, reader: Reader, events: list[Stored], max_events: int) -> bool:
        """Move events into a list; return whether a bound stopped it."""
        if not self.given:
            taken, _ = reader.take(events, 1, -1)
            self.given = bool(events)
            self.left -= taken
        if not self.given:
            return False
        taken, stopped = reader.take(events, max_events, max(0, self.left))
        self.left -= taken
        self.spent |= stopped and len(events) < max_events
        return stopped


class Readers:
    """All subscriptions of a store."""

    def __init__(self, links: Links, buffer_bytes: int, news: Callable[[str], None]) -> None:
        """``news`` is called with a topic when something of it has arrived."""
        self._links = links
        self._buffer_bytes = buffer_bytes
        self._news = news
        self._readers: dict[str, list[Reader]] = {}
        self._count = 0
        self._put_off: dict[tuple[str, int], None] = {}
        """Wants that found no room, the longest put off first."""
        self._released = asyncio.Event()
        self.tails = Tails(links, self._attach)

    # -- subscriptions --------------------------------------------------------------------------------------------

    async def _attach(self, reader: Reader, spec: int, value: int) -> None:
        while True:
            try:
                connection = await self._links.to(
                    reader.stream, "read", lambda one: one.free_subscription() is not None
                )
            except Full:
                evicted = self._evict()
                if evicted is None:
                    raise Gone("too many partitions are being read at once") from None
                await evicted.freed()
                continue
            number = connection.free_subscription()
            if number is not None:
                await reader.subscribe(connection, number, spec, value)
                return

    def _add(self, source: Source, position: int, now: float) -> Reader:
        """Make room for a subscription, and take it."""
        reader = Reader(source, position, self._limit, self._arrived)
        reader.busy, reader.used_at = True, now
        for one in [one for one in self._readers.get(source.stream, ()) if not one.alive and not one.busy]:
            self._forget(one)
        standing = self._readers.setdefault(source.stream, [])
        if len(standing) >= READERS_OF_ONE:
            self._evict(standing)
        while self._count >= most_readers() and self._evict() is not None:
            pass
        self._readers.setdefault(source.stream, standing).append(reader)
        self._count += 1
        return reader

    async def _begin(self, reader: Reader, last: int) -> None:
        """Have a reader sent what is there. ``last`` is the last committed chunk, so that its end becomes known."""
        tail = self.tails.get(reader.stream)
        if last < 0:
            spec, value = frames.FIRST, 0
        elif tail is not None and tail.chunk >= last and reader.position == tail.end:
            spec, value = frames.OFFSET, reader.position
            reader.arrived = reader.position
        else:
            spec, value = frames.OFFSET, min(reader.position, last)
            reader.arrived = value
        reader.committed = last + 1
        try:
            await self._attach(reader, spec, value)
        except BaseException:
            self._forget(reader)
            raise

    def _limit(self) -> int:
        return max(LEAST_BUFFER_BYTES, self._buffer_bytes // max(1, self._count))

    def _arrived(self, reader: Reader, tail: Tail) -> None:
        self.tails.learn(reader.stream, tail)
        self._news(reader.source.topic)

    def _evict(self, among: list[Reader] | None = None) -> Reader | None:
        """Give up the reader that was used least lately, and return it; None if all are being read.

        One that holds what nobody has read comes last: that would have to be sent again.
        """
        if among is None:
            among = [reader for readers in self._readers.values() for reader in readers]
        idle = [reader for reader in among if not reader.busy]
        if not idle:
            return None
        oldest = min(idle, key=lambda reader: (reader.buffered_bytes > 0, reader.used_at))
        self._forget(oldest)
        return oldest

    def _forget(self, reader: Reader) -> None:
        reader.stop()
        standing = self._readers.get(reader.stream, [])
        if reader in standing:
            standing.remove(reader)
            self._count -= 1
            if not standing:
                self._readers.pop(reader.stream, None)

    def drop_idle(self, now: float, watched: Callable[[str], bool]) -> None:
        """Give up what nobody reads; one that has read all of a watched topic stays, as it brings its news."""
        for reader in [reader for readers in list(self._readers.values()) for reader in readers]:
            at_end = not reader.buffered_bytes and watched(reader.source.topic)
            if not reader.busy and (not reader.alive or (now - reader.used_at > IDLE_S and not at_end)):
                self._forget(reader)

    def brings_news(self, stream: str) -> bool:
        """Whether a subscription stands that will tell of the next record."""
        return any(reader.alive and not reader.starved for reader in self._readers.get(stream, ()))

    @property
    def buffered_bytes(self) -> int:
        """How much has arrived and was not read."""
        return sum(reader.buffered_bytes for readers in self._readers.values() for reader in readers)

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Give up all."""
        for reader in [reader for readers in list(self._readers.values()) for reader in readers]:
            self._forget(reader)

    # -- slices ---------------------------------------------------------------------------------------------------

    async def read(self, wants: Sequence[Wanted], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """See `nexus.spi.log.Log.read`. Raises `ConnectionLost`, `Refused`; then it may be tried again.

        A fresh answer is whole, in as many portions as it takes. Any other has what stands and one portion, and says
        of the rest that there is more; that comes first the next time.
        """
        turns = [Turn(wanted) for wanted in wants]
        budget = Budget(max_bytes)
        told: dict[str, tuple[int, int]] = {}
        todo, portions = turns, 0
        while todo:
            late = await self._serve(todo, budget, told, fresh=fresh)
            portions += 1
            if budget.spent or (portions > 1 and not fresh):
                self._put_off_all(late)
                break
            if len(late) == len(todo):
                await self._room()
            todo = late
        return [turn.answer for turn in turns if turn.answer is not None]

    async def _serve(
        self, turns: Sequence[Turn], budget: Budget, told: dict[str, tuple[int, int]], *, fresh: bool
    ) -> list[Turn]:
        """Answer as many as there is room for; return the others. What is asked of streams is kept in ``told``."""
        now = asyncio.get_running_loop().time()
        for turn in turns:
            turn.reader = self._pick(turn.wanted, now)
        try:
            asked = {
                turn.stream
                for turn in turns
                if turn.stream not in told and (fresh or turn.reader is None or turn.reader.gap)
            }
            told.update(zip(asked, await asyncio.gather(*(self.tails.stats(stream) for stream in asked)), strict=True))
            for turn in turns:
                if turn.stream in told:
                    turn.start = max(turn.wanted.position, told[turn.stream][0])
            late = await self._fill_in(turns, told, now, fresh=fresh)
            waiting = set(late)
            for turn in turns:
                if turn not in waiting:
                    await self._collect(turn, budget, told.get(turn.stream))
            return late
        finally:
            for turn in turns:
                if turn.reader is not None:
                    self._release(turn.reader)

    def _release(self, reader: Reader) -> None:
        reader.busy = False
        if not reader.alive or reader.damage:
            self._forget(reader)
        self._released.set()

    def _pick(self, wanted: Wanted, now: float) -> Reader | None:
        standing = [
            reader
            for reader in self._readers.get(wanted.source.stream, ())
            if not reader.busy and reader.covers(wanted.position)
        ]
        if not standing:
            return None
        reader = max(standing, key=lambda reader: reader.position)
        reader.busy, reader.used_at = True, now
        return reader

    async def _fill_in(
        self, turns: Sequence[Turn], told: dict[str, tuple[int, int]], now: float, *, fresh: bool
    ) -> list[Turn]:
        """Open the subscriptions that are missing, all at once; return those that there is no room for.

        None is needed where nothing is to be read; there it only brings the news, if there is room.
        """
        missing, resting = [], []
        for turn in turns:
            if turn.reader is not None:
                turn.reader.skip_to(turn.start)
                if turn.stream in told:
                    turn.reader.gap = False
            elif not self._is_end(turn.stream, turn.start, told[turn.stream][1]):
                missing.append(turn)
            elif not fresh:
                resting.append(turn)
        # Whoever reads a single partition, such as a journal, never waits behind those who read hundreds.
        opened, late = self._in_turn(missing) if len(turns) > 1 else (missing, [])
        opened += resting[: max(0, most_readers() - self._count - len(opened))]
        for turn in opened:
            self._put_off.pop(turn.place, None)
            turn.reader = self._add(turn.wanted.source, turn.start, now)
        beginning = (self._begin(turn.reader, told[turn.stream][1]) for turn in opened if turn.reader is not None)
        for result in await asyncio.gather(*beginning, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        return late

    def _in_turn(self, missing: list[Turn]) -> tuple[list[Turn], list[Turn]]:
        """Say which get a subscription now, and which later; who was put off before comes first."""
        free = most_readers() - self._count
        if len(missing) <= free:
            return missing, []
        count = max(0, free, min(portion(), most_readers() - self._busy))
        order = {place: number for number, place in enumerate(self._put_off)}
        missing = sorted(missing, key=lambda turn: order.get(turn.place, len(order)))
        return missing[:count], missing[count:]

    def _put_off_all(self, turns: Sequence[Turn]) -> None:
        """Answer that there is more, and remember who comes first the next time."""
        for turn in turns:
            turn.end([], turn.start, more=True)
            self._put_off.setdefault(turn.place)
        while len(self._put_off) > _PUT_OFF:
            del self._put_off[next(iter(self._put_off))]

    @property
    def _busy(self) -> int:
        """How many subscriptions are being read from, and cannot give way."""
        return sum(reader.busy for readers in self._readers.values() for reader in readers)

    async def _room(self) -> None:
        """Wait until one may give way. Whoever waits here holds none, so that nobody waits for one another."""
        while self._busy >= most_readers():
            self._released.clear()
            await self._released.wait()

    def _is_end(self, stream: str, position: int, last: int) -> bool:
        """Whether it is known that nothing stands at or above a position."""
        tail = self.tails.get(stream)
        return last < 0 or (tail is not None and tail.chunk >= last and position >= tail.end)

    async def _collect(self, turn: Turn, budget: Budget, told: tuple[int, int] | None) -> None:
        """Answer one want."""
        reader, max_events = turn.reader, turn.wanted.max_events
        events: list[Stored] = []
        position = end = turn.start
        if reader is not None:
            end = await self._end_for(reader, told)
            while max_events > 0:
                stopped = budget.take(reader, events, max_events)
                if stopped or reader.position >= end or len(events) >= max_events:
                    break
                end = await self._progress(reader, end, told)
            position = max(position, reader.position)
            reader.used_at = asyncio.get_running_loop().time()
        turn.end(events, position, more=position < end)

    async def _end_for(self, reader: Reader, told: tuple[int, int] | None) -> int:
        """How far an answer must reach: to the end that was told, else to what is known to be committed."""
        stream = reader.stream
        if told is None:
            tail = self.tails.get(stream)
            return max(reader.arrived, reader.committed, tail.end if tail is not None else 0)
        last = told[1]
        if last < 0:
            return reader.position
        while True:
            tail = self.tails.get(stream)
            if tail is not None and tail.chunk >= last:
                return tail.end
            if reader.buffered_bytes and reader.starved:
                return last + 1  # the end is above this, and more is there than may be buffered
            if not await self._moved(reader):
                return (await self.tails.probe(stream, last)).end

    async def _progress(self, reader: Reader, end: int, told: tuple[int, int] | None) -> int:
        """Wait for the next chunk of what is committed; return where that ends. Raises `ConnectionLost`."""
        last = told[1] if told is not None else reader.committed - 1
        for _ in range(_STALLS):
            if await self._moved(reader):
                return end
            if last >= reader.arrived:  # what was taken for the last chunk may hold the broker's own records
                reader.committed = max((await self.tails.probe(reader.stream, last)).end, reader.arrived)
                end = min(end, reader.committed)
            if reader.position >= end or reader.buffered_bytes:  # it came while nobody waited for it
                return end
        raise Gone(f"the subscription to {reader.stream} brings nothing")

    async def records(self, source: Source, position: int) -> list[tuple[int, bytes]]:
        """Return all records from a position on, as bytes; all that were stored before the call. Raises as `read`."""
        told = await self.tails.stats(source.stream)
        if self._is_end(source.stream, position, told[1]):
            return []
        now = asyncio.get_running_loop().time()
        wanted = Wanted(source, position, 1)
        reader = self._pick(wanted, now)
        begun = reader is not None
        reader = reader or self._add(source, position, now)
        found: list[tuple[int, bytes]] = []
        try:
            if not begun:
                await self._begin(reader, told[1])
            end = await self._end_for(reader, told)
            while True:
                reader.take_records(found)
                if reader.position >= end:
                    return found
                end = await self._progress(reader, end, told)
        finally:
            self._release(reader)

    async def _moved(self, reader: Reader) -> bool:
        if reader.damage is not None:
            raise reader.damage
        if not reader.alive:
            raise Gone(f"the subscription to {reader.stream} ended")
        moved = await reader.changed(STALL_S)
        if reader.damage is not None:
            raise reader.damage
        if not reader.alive:
            raise Gone(f"the subscription to {reader.stream} ended")
        return moved
