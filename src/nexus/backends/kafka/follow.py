"""Reading ahead: one consumer on a thread of its own follows many partitions and hands over what arrives.

The loop gives orders (follow, leave, pause, resume), the thread carries them out between two polls. So all that it
hands over after an order belongs to what was ordered: a record of an earlier place cannot be taken for one of a later.
Nothing runs away: the thread reads on only when the loop has taken most of what was handed over, and the loop pauses
a partition whose buffer is full.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from nexus.backends.kafka.asker import Introductions
from nexus.backends.kafka.buffer import Buffer
from nexus.backends.kafka.failures import PASSING, error_of

log = logging.getLogger("nexus.kafka")

ORDER_S = 0.02
"""How long an order may wait while nothing arrives."""
QUIET_S = 30.0
"""How often the client is asked what it has to say while nothing is followed."""
AT_ONCE = 500
"""How many records are handed over together."""
HANDED_OVER = 4
"""How many hand-overs may wait for the loop."""


class Stream(Buffer):
    """A place in a partition from which on somebody reads ahead."""

    __slots__ = ("broken", "follower", "live", "paused", "used_at", "waiters")

    def __init__(self, topic: str, partition: int, start: int, follower: Follower, now: float) -> None:
        super().__init__(topic, partition, start)
        self.follower = follower
        self.live = False
        """Whether something arrived; until then it is not known how long it takes."""
        self.paused = False
        self.broken = False
        self.used_at = now
        self.waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Wake those who wait for something to arrive."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


Arrival = tuple[Stream, list[Message], int, KafkaError | None]
"""Records of a stream, where the partition ended then or -1, and what ended the stream."""


class Follower:
    """One consumer. Each partition is followed from one place at most."""

    def __init__(
        self,
        config: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        kafka_name: Callable[[str], str],
        arrived: Callable[[list[Arrival]], None],
    ) -> None:
        self.streams: dict[tuple[str, int], Stream] = {}
        """What is followed, by the names that Nexus gives topics. The loop's."""
        self._loop = loop
        self._kafka_name = kafka_name
        self._arrived = arrived
        self._orders: deque[Callable[[], None]] = deque()
        self._wanted = threading.Event()
        self._room = threading.Semaphore(HANDED_OVER)
        self._closing = False
        self._followed: dict[tuple[str, int], Stream] = {}  # by Kafka's names; the thread's
        self._consumer = Consumer(config, logger=log)
        self._introductions = Introductions(self._consumer)
        self._thread = threading.Thread(target=self._run, name="nexus-kafka-follow", daemon=True)
        self._thread.start()

    # On the loop

    def follow(self, topic: str, partition: int, start: int) -> Stream:
        """Read ahead from ``start`` on, in place of what was followed of this partition."""
        self.leave(topic, partition)
        stream = Stream(topic, partition, start, self, self._loop.time())
        self.streams[topic, partition] = stream
        name = self._kafka_name(topic)
        self._order(lambda: self._follow(stream, name))
        return stream

    def leave(self, topic: str, partition: int) -> None:
        """Do not read ahead in this partition any more."""
        stream = self.streams.pop((topic, partition), None)
        if stream is not None:
            stream.broken = True
            stream.messages.clear()
            stream.ring()
            name = self._kafka_name(topic)
            self._order(lambda: self._leave(name, partition))

    def pause(self, stream: Stream) -> None:
        """Have nothing more arrive for a while."""
        if not stream.paused:
            stream.paused = True
            place = TopicPartition(self._kafka_name(stream.topic), stream.partition)
            self._order(lambda: self._consumer.pause([place]))

    def resume(self, stream: Stream) -> None:
        """Have the next records arrive."""
        if stream.paused:
            stream.paused = False
            place = TopicPartition(self._kafka_name(stream.topic), stream.partition)
            self._order(lambda: self._consumer.resume([place]))

    def stop(self) -> None:
        """End the thread soon."""
        self._closing = True
        self._room.release()
        self._wanted.set()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._wanted.set()

    def _take(self, arrivals: list[Arrival]) -> None:
        self._room.release()
        self._arrived(arrivals)

    # On the thread

    def _run(self) -> None:
        consumer = self._consumer
        while not self._closing:
            self._obey()
            if not self._followed:
                self._wanted.wait(QUIET_S)
                self._wanted.clear()
                consumer.poll(0)  # takes what the client has to say, so that it does not pile up
                continue
            try:
                message = consumer.poll(ORDER_S)
                if message is None:
                    continue
                messages = [message, *consumer.consume(AT_ONCE - 1, 0)]
            except KafkaException as exception:
                log.warning("reading ahead: %s", error_of(exception).str())
                continue
            arrivals = self._sort(messages)
            if arrivals:
                self._room.acquire()
                if not self._closing and not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._take, arrivals)
        consumer.close()

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            try:
                order()
            except KafkaException as exception:
                # A partition that was left is paused or resumed, or the client has lost it: then it reports that too.
                log.debug("reading ahead: %s", error_of(exception).str())

    def _follow(self, stream: Stream, name: str) -> None:
        try:
            self._introductions.make([name])
        except KafkaException as exception:
            log.debug("reading ahead: %s", error_of(exception).str())  # then the client looks it up when it can
        self._consumer.incremental_assign([TopicPartition(name, stream.partition, stream.start)])
        self._followed[name, stream.partition] = stream

    def _leave(self, name: str, partition: int) -> None:
        if self._followed.pop((name, partition), None) is not None:
            self._consumer.incremental_unassign([TopicPartition(name, partition)])

    def _sort(self, messages: list[Message]) -> list[Arrival]:
        """The records by stream."""
        found: dict[Stream, list[Message]] = {}
        arrivals: list[Arrival] = []
        followed = self._followed
        for message in messages:
            stream = followed.get((message.topic(), message.partition()))  # type: ignore[arg-type]
            error = message.error()
            if error is None:
                if stream is not None:
                    mine = found.get(stream)
                    if mine is None:
                        mine = found[stream] = []
                        arrivals.append((stream, mine, -1, None))
                    mine.append(message)
            elif stream is None or error.code() in PASSING:
                log.debug("reading ahead: %s", error.str())
            elif error.code() == KafkaError._PARTITION_EOF:
                found.pop(stream, None)
                arrivals.append((stream, [], message.offset() or 0, None))
            else:
                arrivals.append((stream, [], -1, error))
        return arrivals
