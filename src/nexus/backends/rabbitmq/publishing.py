"""Sending: records go out in the order they came, in as few frames as the loop's turns allow, and are confirmed.

An `Outlet` is a publisher on one connection. When that is lost, so is the outlet, and whatever it had sent has an
unknown end; the next append makes another. Publishers have no names: nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.connection import Connection, ConnectionLost, Refused
from nexus.backends.rabbitmq.links import Full, Links
from nexus.errors import Overloaded, ReadOnly, UnknownOutcome

FRAME_MESSAGES = 5_000
"""Messages in one frame, at most."""


class Room:
    """How much may be on its way; who wants more waits in line."""

    def __init__(self, limit_bytes: int, limit_events: int) -> None:
        self.bytes = self.events = 0
        self._limit_bytes = limit_bytes
        self._limit_events = limit_events
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    def try_take(self, size: int, events: int) -> bool:
        """Take room if there is some and nobody waits for it. A call larger than all the room gets it alone."""
        if self._waiting or not self._fits(size, events):
            return False
        self._add(size, events)
        return True

    async def take(self, size: int, events: int) -> None:
        """Wait for room."""
        if self.try_take(size, events):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, events, turn))
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give(size, events)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[2] is not turn)
                self._admit()
            raise

    def give(self, size: int, events: int) -> None:
        """Give room back."""
        self.bytes -= size
        self.events -= events
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, events, turn = self._waiting[0]
            if not turn.done() and not self._fits(size, events):
                return
            self._waiting.popleft()
            if not turn.done():
                self._add(size, events)
                turn.set_result(None)

    def _fits(self, size: int, events: int) -> bool:
        if not self.events:
            return True
        return self.bytes + size <= self._limit_bytes and self.events + events <= self._limit_events

    def _add(self, size: int, events: int) -> None:
        self.bytes += size
        self.events += events


class Call:
    """One append: done when every record of it has an end. It has taken its room, and gives it back."""

    def __init__(self, room: Room, size: int, events: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room = room
        self._size = size
        self._events = events
        self._open = events
        self._error: Exception | None = None

    def confirmed(self) -> None:
        """One record is stored."""
        self._open -= 1
        if not self._open:
            self._finish()

    def failed(self, error: Exception) -> None:
        """One record is not stored, or nobody knows. The worst that befell the call is its answer."""
        if self._error is None or isinstance(error, UnknownOutcome):
            self._error = error
        self.confirmed()

    def _finish(self) -> None:
        self._room.give(self._size, self._events)
        if self.done.done():  # cancelled
            return
        if self._error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(self._error)
            self.done.exception()  # seen, whether or not somebody still waits


class Outlet:
    """See the module."""

    def __init__(self, stream: str, connection: Connection, number: int) -> None:
        self.stream = stream
        self.alive = True
        self._connection = connection
        self._publisher = number
        self._next = 1
        self._unsent: list[tuple[int, bytes]] = []
        self._pending: dict[int, Call] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._pending

    def put(self, records: Sequence[bytes], call: Call) -> None:
        """Send records, with all that others put in this turn of the loop."""
        if not self.alive:
            for _ in records:
                call.failed(_unknown(self.stream))
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        number = self._next
        for record in records:
            self._unsent.append((number, record))
            self._pending[number] = call
            number += 1
        self._next = number

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        limit = self._connection.frame_max - frames.PUBLISH_OVERHEAD
        start = size = 0
        for at, (_, record) in enumerate(unsent):
            needed = len(record) + frames.MESSAGE_OVERHEAD
            if at > start and (size + needed > limit or at - start >= FRAME_MESSAGES):
                self._connection.send(frames.publish(self._publisher, unsent[start:at]))
                start, size = at, 0
            size += needed
        if unsent:
            self._connection.send(frames.publish(self._publisher, unsent[start:]))

    def confirmed(self, numbers: tuple[int, ...]) -> None:
        pop = self._pending.pop
        for number in numbers:
            call = pop(number, None)
            if call is not None:
                call.confirmed()

    def refused(self, number: int, code: int) -> None:
        call = self._pending.pop(number, None)
        if call is not None:
            reason = frames.REASONS.get(code, f"code {code}")
            refusal = ReadOnly if code == frames.ACCESS_REFUSED else UnknownOutcome
            call.failed(refusal(f"RabbitMQ refused an event for {self.stream}: {reason}"))

    def withdraw(self) -> None:
        """Give the publisher's id back. The broker takes requests in order, so it is free at once."""
        self.alive = False
        self._connection.tell(frames.DELETE_PUBLISHER, bytes([self._publisher]))
        self._connection.publishers.pop(self._publisher, None)

    def lost(self) -> None:
        self.alive = False
        pending, self._pending = self._pending, {}
        self._unsent = []
        for call in pending.values():
            call.failed(_unknown(self.stream))


def _unknown(stream: str) -> UnknownOutcome:
    return UnknownOutcome(
        f"RabbitMQ: the connection was lost before an event was confirmed for {stream}",
        hint="publish it again with the same id; consumers pass over a second copy",
    )


class Outlets:
    """The outlets of a store, one for each stream that was written to."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._outlets: dict[str, Outlet] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def ready(self, stream: str) -> Outlet | None:
        """Return the stream's outlet, if it is there."""
        outlet = self._outlets.get(stream)
        return outlet if outlet is not None and outlet.alive else None

    async def open(self, stream: str) -> Outlet:
        """Return the stream's outlet, made if need be. Raises as `Links.attempt`."""
        async with self._opening.setdefault(stream, asyncio.Lock()):
            return await self._links.attempt(f"cannot write to {stream}", lambda: self._declare(stream), stream=stream)

    async def _declare(self, stream: str) -> Outlet:
        known = self.ready(stream)
        if known is not None:
            return known
        while True:
            try:
                connection = await self._links.to(stream, "write", lambda one: one.free_publisher() is not None)
            except Full:
                self._evict()
                continue
            number = connection.free_publisher()
            if number is not None:
                break
        outlet = Outlet(stream, connection, number)
        connection.publishers[number] = outlet
        try:
            body = bytes([number]) + frames.text("") + frames.text(stream)
            await connection.request(frames.DECLARE_PUBLISHER, body, stream)
        except Refused:
            connection.publishers.pop(number, None)
            raise
        except BaseException:
            outlet.withdraw()
            raise
        if not outlet.alive:
            raise ConnectionLost(f"the leader of {stream} is gone")
        self._outlets.pop(stream, None)
        self._outlets[stream] = outlet
        return outlet

    def _evict(self) -> None:
        """Give up the outlet that was made first among those that send nothing."""
        for stream, outlet in list(self._outlets.items()):
            if not outlet.alive:
                del self._outlets[stream]
            elif outlet.idle:
                del self._outlets[stream]
                outlet.withdraw()
                return
        raise Overloaded("RabbitMQ: too many partitions are being written at once", retry_after_s=0.1)
