"""One subscription to one partition, and what has arrived of it: records ahead of whoever reads, within a bound.

The broker sends chunks as far as it has been given credit, a chunk for each. Credit is given as long as little is
buffered, and withheld until it is read. How much is little begins small and doubles each time that somebody has to
wait: who wants a few old records must not be sent all that stands above them.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable

import msgspec

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.binding import from_record
from nexus.backends.rabbitmq.connection import Connection
from nexus.errors import CorruptData
from nexus.spi.backend import Stored

CREDIT = 4
"""Chunks that may be on their way, or here beyond the bound."""
FIRST_AHEAD_BYTES = 16 * 1024
"""What a new subscription may buffer."""


class Source(msgspec.Struct, frozen=True):
    """A stream, and the partition that it is."""

    stream: str
    topic: str
    partition: int


class Tail(msgspec.Struct, frozen=True, gc=False):
    """What is known of a stream's end: if ``chunk`` is its last chunk, ``end`` is its end."""

    chunk: int
    end: int
    recorded_at: float
    record_bytes: int
    """Mean size of the last records."""


class Reader:
    """See the module."""

    def __init__(
        self,
        source: Source,
        position: int,
        limit: Callable[[], int],
        arrived: Callable[[Reader, Tail], None],
    ) -> None:
        """``limit`` says how many bytes may be buffered; ``arrived`` is called for each chunk."""
        self.source = source
        self.stream = source.stream
        self.position = position
        """The next position to hand out: what stands below is read or was never wanted."""
        self.arrived = 0
        """End of the last chunk that has come; everything committed below it is here or was read."""
        self.committed = 0
        """What was known to be stored when it began: all below is to come, but for what is the broker's own."""
        self.buffered_bytes = 0
        self.gap = False
        """Whether positions between those handed out and those buffered have not come: they may be trimmed."""
        self.alive = False
        self.busy = False
        self.used_at = 0.0
        self.damage: CorruptData | None = None
        self.connection: Connection | None = None
        self._number = -1
        self._limit = limit
        self._ahead = FIRST_AHEAD_BYTES
        self._arrived = arrived
        self._chunks: deque[frames.Chunk] = deque()
        self._at = 0
        """Place in the first chunk."""
        self._owed = 0
        self._recorded_at = 0.0
        self._changed: asyncio.Future[None] | None = None
        self._stopping: asyncio.Future[None] | None = None

    # -- from the broker ------------------------------------------------------------------------------------------

    async def subscribe(self, connection: Connection, number: int, spec: int, value: int) -> None:
        """Have the broker send from there on. Raises `Refused` and `ConnectionLost`."""
        self.connection, self._number = connection, number
        connection.subscriptions[number] = self
        self.alive = True
        try:
            await connection.request(
                frames.SUBSCRIBE, frames.subscribe(number, self.stream, spec, value, CREDIT), self.stream
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Have the broker send no more; the number is free when it has said so."""
        if not self.alive or self.connection is None:
            return
        self.lost()
        self._stopping = asyncio.get_running_loop().create_future()
        self.connection.tell(frames.UNSUBSCRIBE, bytes([self._number]), self._free)

    def _free(self) -> None:
        if self.connection is not None and self.connection.subscriptions.get(self._number) is self:
            del self.connection.subscriptions[self._number]
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)

    async def freed(self) -> None:
        """Wait until the number of a subscription that was stopped is free."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)

    def lost(self) -> None:
        self.alive = False
        self._chunks.clear()
        self.buffered_bytes = 0
        self._wake()

    def deliver(self, data: bytes) -> None:
        if not self.alive:
            return
        try:
            chunk = frames.read_chunk(data, 5)
        except CorruptData as error:
            self.damage = error
            self._wake()
            return
        if chunk is None:
            self._give_credit(1)
            return
        if chunk.first > max(self.arrived, self.position):
            self.gap = True
        self.arrived = chunk.end
        # A leader whose clock is behind the last one's would otherwise make recorded times fall.
        chunk.recorded_at = self._recorded_at = max(self._recorded_at, chunk.recorded_at)
        if chunk.end > self.position and chunk.records:
            self._chunks.append(chunk)
            self.buffered_bytes += chunk.size
        if self._has_room():
            self._give_credit(1)
        else:
            self._owed += 1
        mean = chunk.size // max(1, len(chunk.records))
        self._arrived(self, Tail(chunk.first, chunk.end, chunk.recorded_at, mean))
        self._wake()

    def _has_room(self) -> bool:
        return self.buffered_bytes < min(self._ahead, self._limit())

    def _give_owed(self) -> None:
        if self._owed and self._has_room():
            self._give_credit(self._owed)
            self._owed = 0

    def _give_credit(self, count: int) -> None:
        if self.connection is not None:
            self.connection.send(frames.frame(frames.CREDIT, struct.pack(">BH", self._number, count)))

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # -- to whoever reads -----------------------------------------------------------------------------------------

    @property
    def starved(self) -> bool:
        """Whether the broker waits for what is here to be read."""
        return self._owed > 0

    async def changed(self, within_s: float) -> bool:
        """Wait for the next chunk, or the loss of the subscription; False if neither came."""
        if self.buffered_bytes == 0:
            self._ahead = min(2 * self._ahead, max(FIRST_AHEAD_BYTES, self._limit()))
        self._give_owed()
        self._changed = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within_s):
                await self._changed
        except TimeoutError:
            return False
        finally:
            self._changed = None
        return True

    def covers(self, position: int) -> bool:
        """Whether reading can go on from ``position`` here."""
        return self.alive and self.damage is None and self.position <= position <= max(self.arrived, self.position)

    def skip_to(self, position: int) -> None:
        """Go on from a higher position."""
        self.position = max(self.position, position)

    def take(self, into: list[Stored], max_events: int, budget: int) -> tuple[int, bool]:
        """Move events into a list; return the bytes they take, and whether a bound stopped it.

        The very first event of a whole answer may be larger than the budget: say so with a budget of -1.
        """
        used = 0
        while self._chunks:
            chunk = self._chunks[0]
            records, first = chunk.records, chunk.first
            at = max(self._at, self.position - first)
            topic, partition, recorded_at = self.source.topic, self.source.partition, chunk.recorded_at
            while at < len(records):
                size = len(records[at])
                if len(into) >= max_events or (budget >= 0 and used + size > budget):
                    self._at = at
                    self.position = max(self.position, first + at)
                    return used, True
                position = first + at
                event = from_record(records[at], topic, partition, position, recorded_at)
                into.append(Stored(position, recorded_at, size, event))
                used += size
                at += 1
                if budget < 0:
                    self._at, self.position = at, first + at
                    if at >= len(records):
                        self._drop()
                    return used, True
            self._drop()
        return used, False

    def _drop(self) -> None:
        chunk = self._chunks.popleft()
        self._at = 0
        self.position = max(self.position, chunk.end)
        self.buffered_bytes -= chunk.size
        self._give_owed()

    def take_records(self, into: list[tuple[int, bytes]]) -> None:
        """Move whole records, undecoded, into a list; for streams that hold no events."""
        while self._chunks:
            chunk = self._chunks[0]
            into.extend((chunk.first + at, record) for at, record in enumerate(chunk.records))
            self._drop()
