"""Reads one partition ahead from one position on, into a buffer with a bound.

An ephemeral pull consumer of the server starts at the position; it is asked for the next events before the last ones
are used up, and the question stays open when there are none, so that new ones come by themselves. What the server
keeps of it is lost when the server restarts or the reader rests for long: then it is made again, where it stands.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable

from nexus.backends.nats.codec import from_message, place_of, status
from nexus.backends.nats.connection import Answer, Connection, Down, Refused
from nexus.backends.nats.names import Names
from nexus.backends.nats.settings import Settings
from nexus.backends.nats.streams import NO_STREAM, SECOND
from nexus.errors import NexusError, UnknownTopic
from nexus.spi.backend import Stored

log = logging.getLogger("nexus.nats")

ASK_S = 5.0
"""How long a question for more events stays open. In a cluster the server that keeps the consumer may die alone; that
is noticed when the question does not end in time."""
LATE_S = 1.5
"""How much later than that its end must have been heard of; else the consumer is taken for dead."""
REST_S = 120.0
"""How long the server keeps a consumer that is not asked anything."""
_RUN = os.urandom(6).hex()
_numbers = itertools.count(1)

Raw = tuple[int, int, bytes, bytes]
"""Position, time of storing in nanoseconds, headers, body."""


class Reader:
    """One place in one partition, going forward."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        names: Names,
        partition: int,
        start: int,
        on_news: Callable[[str], None],
        first_kept: Callable[[], Awaitable[int]] | None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._names = names
        self._on_news = on_news
        self._first_kept = first_kept
        """How to learn the lowest position that the server keeps; None where it forgets nothing by itself."""
        self.topic = names.topic
        self.partition = partition
        self._subject = names.subject(partition)
        self.start = start
        """Where the next event that is taken may be; events below it were taken."""
        self.next = start
        """One above the last event that arrived."""
        self.pending = 0
        """How many more the server had when the last one arrived."""
        self.gap: tuple[int, int] | None = None
        """From where to where events may have been forgotten before they arrived here."""
        self.busy = False
        self.used_at = 0.0
        self._buffer: deque[Raw] = deque()
        self._buffered_bytes = 0
        self._asked: dict[int, tuple[int, float]] = {}
        self._asks = itertools.count(1)
        self._one_large = False
        self._consumer = ""
        self._inbox = ""
        self._listening = 0
        self._delivered = 0
        self._arrived = asyncio.Event()
        self._making: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self.failure: NexusError | None = None
        self._closed = False

    # -- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Have the server make a consumer and ask it for events. Raises `UnknownTopic` or `Unavailable`."""
        self._making = asyncio.current_task()
        try:
            await self._make()
        finally:
            self._making = None

    async def _make(self) -> None:
        self._let_go()
        name = f"{_RUN}-{next(_numbers)}"
        config = {
            "name": name,
            "filter_subject": self._subject,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(self.next, 1),
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(REST_S * SECOND),
        }
        request = {"stream_name": self._names.stream, "config": config, "action": "create"}
        what = f"CONSUMER.CREATE.{self._names.stream}.{name}.{self._subject}"
        try:
            await self._connection.api(what, request, Answer)
        except Refused as refused:
            if refused.error.err_code == NO_STREAM:
                raise UnknownTopic(f"there is no topic {self._names.topic}") from refused
            raise
        if self._first_kept is not None:
            await self._look_for_gap(self._first_kept)
        if self.closed:
            return
        self._consumer = name
        self._delivered = 0
        self._inbox = self._connection.new_inbox()
        self._listening = self._connection.listen(self._inbox + ".*", self._on_message)
        self.ask()

    def make_again(self) -> None:
        """Have a new consumer made where this one stands, in the background."""
        self._let_go()
        if self._making is None and not self.closed and self._connection.up:
            self._making = asyncio.create_task(self._remake())

    async def _remake(self) -> None:
        try:
            await self._make()
        except NexusError as error:
            self.failure = error  # whoever reads next is told
            self._tell()
        finally:
            self._making = None

    def _let_go(self) -> None:
        """Forget the consumer; what arrived already stays."""
        self._asked.clear()
        if self._listening:
            self._connection.leave(self._listening)
            self._listening = 0
        if self._consumer:
            consumer, self._consumer = self._consumer, ""
            if self._connection.up:
                subject = f"$JS.API.CONSUMER.DELETE.{self._names.stream}.{consumer}"
                self._connection.send(f"PUB {subject} 0\r\n\r\n".encode())

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._closed = True
        self._let_go()
        for task in (self._making, self._looking):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._buffer.clear()
        self._buffered_bytes = 0
        self._arrived.set()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def unread(self) -> int:
        """How many events wait here."""
        return len(self._buffer)

    @property
    def unread_bytes(self) -> int:
        return self._buffered_bytes

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for more if there is room."""
        if not self._consumer or not self._connection.up:
            return
        events, size = self._settings.fetch_events, self._settings.fetch_bytes
        waiting = sum(count for count, _ in self._asked.values())
        if len(self._buffer) + waiting > events // 2 or self._buffered_bytes + len(self._asked) * size > size:
            return
        if self._first_kept is not None and self.pending and not self._asked and self._looking is None:
            # Nothing was asked for a while, since there was no room. What the server forgot meanwhile is skipped by it
            # without a word.
            self._looking = asyncio.create_task(self._look_and_ask(self._first_kept))
            return
        if self._looking is None:
            self._ask()

    async def _look_and_ask(self, first_kept: Callable[[], Awaitable[int]]) -> None:
        try:
            await self._look_for_gap(first_kept)
        except NexusError as error:
            self.failure = error
            self._tell()
        finally:
            self._looking = None
        if self._consumer and self._connection.up:
            self._ask()

    async def _look_for_gap(self, first_kept: Callable[[], Awaitable[int]]) -> None:
        first = await first_kept()
        if first > max(self.next, 1):  # the server counts from 1
            self.gap = (self.gap[0] if self.gap else self.next), first

    def _ask(self) -> None:
        events, size = self._settings.fetch_events, self._settings.fetch_bytes
        count = 1 if self._one_large else events
        number = next(self._asks)
        limit = "" if self._one_large else f',"max_bytes":{size}'
        body = f'{{"batch":{count}{limit},"expires":{int(ASK_S * SECOND)}}}'
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.stream}.{self._consumer}"
        self._asked[number] = count, asyncio.get_running_loop().time() + ASK_S + LATE_S
        try:
            self._connection.send(f"PUB {subject} {self._inbox}.{number} {len(body)}\r\n{body}\r\n".encode())
        except Down:
            self._asked.clear()  # made again when the connection is back

    def look_after(self, now: float) -> None:
        """Make the consumer again if it has fallen silent, or could not be made."""
        if not self._consumer:
            self.make_again()
        elif any(late < now for _, late in self._asked.values()):
            log.warning("a consumer of %s has fallen silent; it is made again", self._subject)
            self.make_again()

    # -- arriving --------------------------------------------------------------------------------------------------

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if not reply:
            self._on_status(subject, headers)
            return
        position, delivery, time_ns, self.pending = place_of(reply)
        if delivery != self._delivered + 1:
            self.make_again()  # something was lost on the way here
            return
        self._delivered = delivery
        if position < self.next:
            return  # forgotten on request while it was on its way
        self.next = position + 1
        self._buffer.append((position, time_ns, headers, data))
        self._buffered_bytes += len(headers) + len(data)
        self._one_large = False
        for number, (count, late) in self._asked.items():  # the oldest question is answered first
            if count == 1:
                del self._asked[number]
            else:
                self._asked[number] = count - 1, late
            break
        self.ask()
        self._tell()

    def _on_status(self, subject: bytes, headers: bytes) -> None:
        """A question was ended: nothing came in time, no room for the next event, or the consumer is gone."""
        code, words = status(headers)
        if code == 100:
            return
        open_count, _ = self._asked.pop(int(subject.rpartition(b".")[2]), (0, 0.0))
        if code == 408 or words == "Batch Completed":
            self.ask()
        elif code == 409 and "MaxBytes" in words:
            # When nothing came before it, the next event alone is too large: then it is asked for without a limit.
            self._one_large = open_count == self._settings.fetch_events
            self.ask()
        else:
            self.make_again()

    def _tell(self) -> None:
        self._arrived.set()
        self._on_news(self.topic)

    # -- taking ----------------------------------------------------------------------------------------------------

    async def until_news(self, timeout_s: float) -> bool:
        """Wait until something arrives; False if nothing did. Raises what the reader failed with."""
        self._arrived.clear()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            self.make_again()
            raise failure
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    def skip_to(self, position: int) -> None:
        """Drop what is below a position, which is not above the last event that arrived."""
        while self._buffer and self._buffer[0][0] < position:
            self._drop()
        self.start = max(self.start, position)

    def forget(self, below: int) -> None:
        """Events below a position were forgotten on request: do not give them any more, and say so."""
        if below > self.start:
            self.gap = self.start, below
            while self._buffer and self._buffer[0][0] < below:
                self._drop()
            self.next = max(self.next, below)

    def first_unread(self) -> int | None:
        """Position of the next event that is here."""
        return self._buffer[0][0] if self._buffer else None

    def first_size(self) -> int:
        """Bytes of the next event that is here."""
        _, _, headers, data = self._buffer[0]
        return len(headers) + len(data)

    def take(self) -> Stored:
        """Take the next event."""
        position, time_ns, headers, data = self._drop()
        self.start = position + 1
        # To the microsecond, downwards: a float holds no more, and must not name a time after the event's own.
        recorded_at = time_ns // 1_000 / 1e6
        event = from_message(self._subject, position, recorded_at, headers, data)
        return Stored(position, recorded_at, len(headers) + len(data), event)

    def _drop(self) -> Raw:
        raw = self._buffer.popleft()
        self._buffered_bytes -= len(raw[2]) + len(raw[3])
        return raw
