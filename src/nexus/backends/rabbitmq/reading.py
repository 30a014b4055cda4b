"""Reading: which subscriptions stand, where a stream ends, and slices for wants.

Whoever reads on from where the last answer ended is served from what has arrived, without a round trip. Anyone else
gets a subscription of their own; several may stand on one partition, as several groups read it at their own pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from nexus.backends.rabbitmq import frames
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


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """A wish to read from a stream."""

    source: Source
    position: int
    max_events: int


class Readers:
    """All subscriptions of a store."""

    def __init__(self, links: Links, buffer_bytes: int, news: Callable[[str], None]) -> None:
        """``news`` is called with a topic when something of it has arrived."""
        self._links = links
        self._buffer_bytes = buffer_bytes
        self._news = news
        self._readers: dict[str, list[Reader]] = {}
        self._count = 0
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

    async def _open(self, wanted: Wanted, last: int, now: float) -> Reader:
        """Make a reader at a position. ``last`` is the last committed chunk, so that its end becomes known."""
        reader = Reader(wanted.source, wanted.position, self._limit, self._arrived)
        reader.busy, reader.used_at = True, now
        standing = self._readers.setdefault(wanted.source.stream, [])
        standing[:] = [one for one in standing if one.alive]
        if len(standing) >= READERS_OF_ONE or self._count >= READERS:
            self._evict(standing if len(standing) >= READERS_OF_ONE else None)
        standing.append(reader)
        self._count += 1
        tail = self.tails.get(wanted.source.stream)
        if last < 0:
            spec, value = frames.FIRST, 0
        elif tail is not None and tail.chunk >= last and wanted.position == tail.end:
            spec, value = frames.OFFSET, wanted.position
            reader.arrived = wanted.position
        else:
            spec, value = frames.OFFSET, min(wanted.position, last)
            reader.arrived = value
        reader.committed = last + 1
        try:
            await self._attach(reader, spec, value)
        except BaseException:
            self._forget(reader)
            raise
        return reader

    def _limit(self) -> int:
        return max(LEAST_BUFFER_BYTES, self._buffer_bytes // max(1, self._count))

    def _arrived(self, reader: Reader, tail: Tail) -> None:
        self.tails.learn(reader.stream, tail)
        self._news(reader.source.topic)

    def _evict(self, among: list[Reader] | None = None) -> Reader | None:
        """Give up the reader that was used least lately, and return it; None if all are being read."""
        if among is None:
            among = [reader for readers in self._readers.values() for reader in readers]
        idle = [reader for reader in among if not reader.busy]
        if not idle:
            return None
        oldest = min(idle, key=lambda reader: reader.used_at)
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
        """See `nexus.spi.log.Log.read`. Raises `ConnectionLost`, `Refused`; then it may be tried again."""
        now = asyncio.get_running_loop().time()
        readers = [self._pick(wanted, now) for wanted in wants]
        try:
            asked = {
                wanted.source.stream
                for wanted, reader in zip(wants, readers, strict=True)
                if fresh or reader is None or reader.gap
            }
            told = dict(zip(asked, await asyncio.gather(*(self.tails.stats(stream) for stream in asked)), strict=True))
            starts = [self._start(wanted, told.get(wanted.source.stream)) for wanted in wants]
            await self._fill_in(wants, readers, starts, told, now, fresh=fresh)
            return await self._collect(wants, readers, starts, told, max_bytes)
        finally:
            for reader in readers:
                if reader is not None:
                    reader.busy = False
                    if not reader.alive or reader.damage:
                        self._forget(reader)

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

    def _start(self, wanted: Wanted, told: tuple[int, int] | None) -> int:
        """Where reading really begins: not below what is kept."""
        return max(wanted.position, told[0]) if told is not None else wanted.position

    async def _fill_in(
        self,
        wants: Sequence[Wanted],
        readers: list[Reader | None],
        starts: list[int],
        told: dict[str, tuple[int, int]],
        now: float,
        *,
        fresh: bool,
    ) -> None:
        """Open the subscriptions that are missing, all at once; none where a fresh answer is empty anyway."""

        async def open_one(index: int, wanted: Wanted) -> None:
            readers[index] = await self._open(wanted, told[wanted.source.stream][1], now)

        missing = []
        for index, (wanted, reader) in enumerate(zip(wants, readers, strict=True)):
            if reader is not None:
                reader.skip_to(starts[index])
                if wanted.source.stream in told:
                    reader.gap = False
            elif not fresh or not self._is_end(wanted.source.stream, starts[index], told[wanted.source.stream][1]):
                missing.append(open_one(index, msgspec.structs.replace(wanted, position=starts[index])))
        for result in await asyncio.gather(*missing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _is_end(self, stream: str, position: int, last: int) -> bool:
        """Whether it is known that nothing stands at or above a position."""
        tail = self.tails.get(stream)
        return last < 0 or (tail is not None and tail.chunk >= last and position >= tail.end)

    async def _collect(
        self,
        wants: Sequence[Wanted],
        readers: list[Reader | None],
        starts: list[int],
        told: dict[str, tuple[int, int]],
        max_bytes: int,
    ) -> list[Slice]:
        slices: list[Slice] = []
        used, given = 0, False
        for wanted, reader, start in zip(wants, readers, starts, strict=True):
            stream = wanted.source.stream
            events: list[Stored] = []
            position = start
            end = start
            if reader is not None:
                end = await self._end_for(reader, told.get(stream))
                while wanted.max_events > 0:
                    if not given:
                        taken, _ = reader.take(events, 1, -1)
                        given = bool(events)
                        used += taken
                    stopped = False
                    if given:
                        taken, stopped = reader.take(events, wanted.max_events, max(0, max_bytes - used))
                        used += taken
                    if stopped or reader.position >= end or len(events) >= wanted.max_events:
                        break
                    end = await self._progress(reader, end, told.get(stream))
                position = max(position, reader.position)
                reader.used_at = asyncio.get_running_loop().time()
            trimmed = start if start > wanted.position else None
            slices.append(
                Slice(wanted.source.topic, wanted.source.partition, events, position, position < end, trimmed)
            )
        return slices

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
        reader = self._pick(wanted, now) or await self._open(wanted, told[1], now)
        found: list[tuple[int, bytes]] = []
        try:
            end = await self._end_for(reader, told)
            while True:
                reader.take_records(found)
                if reader.position >= end:
                    return found
                end = await self._progress(reader, end, told)
        finally:
            reader.busy = False
            if not reader.alive or reader.damage:
                self._forget(reader)

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
