"""Appends: calls wait in one line, their events are handed to the client, and its reports come back by the call.

The line keeps the order of calls, also while the first of them waits for its topic to be looked up, for room in the
client's queue, or for brokers that are away. A call that has not begun can still be taken back; one that has begun is
handed over to its end, whether its caller waits or not.

The client's reports come on a thread of ours, many at once, and go to the loop in one hand-over per turn.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from nexus.backends.kafka.binding import Headers, to_record
from nexus.backends.kafka.cluster import AGAIN_S, TRY_S, Cluster
from nexus.backends.kafka.failures import UNKNOWN_TOPIC, error_of, of_append
from nexus.errors import Closed, NexusError, PayloadTooLarge, Unavailable, UnknownTopic
from nexus.event import Event
from nexus.spi.backend import Appended

log = logging.getLogger("nexus.kafka")

POLL_S = 0.1
"""How long the thread waits for reports; one that comes is served at once."""
LATE_S = 0.25
"""How often it is looked whether the time of calls that wait to begin is over."""
BATCH_BYTES = 512
"""What Kafka adds to a record and its batch, at most."""

NOWHERE = -1
"""The place of what an earlier try of the client had stored: librdkafka reports that as a success without one."""

Record = tuple[int, bytes | None, bytes, Headers]
Told = Callable[[str, dict[int, int]], None]
"""Called with a topic and the new ends of its partitions."""


class _Call:
    """One append. ``reported`` and ``refused`` count its events that are answered: by the thread, and by the loop."""

    __slots__ = (
        "answer", "arrived", "begun", "errors", "finished", "offsets", "partitions", "records", "refused", "reported",
        "topic",
    )  # fmt: skip

    def __init__(self, topic: str, records: list[Record], answer: asyncio.Future[list[Appended]], now: float) -> None:
        self.topic = topic
        self.records = records
        self.partitions = [record[0] for record in records]
        self.answer = answer
        self.arrived = now
        self.begun = self.reported = self.refused = 0
        self.finished = False
        self.offsets = [NOWHERE] * len(records)
        self.errors: dict[int, KafkaError] = {}

    @property
    def answered(self) -> bool:
        return self.reported + self.refused == len(self.partitions)


def _appended(call: _Call) -> list[Appended]:
    places: list[int | None] = list(call.offsets)
    if NOWHERE in places:
        places = [None if place == NOWHERE else place for place in places]
    return list(map(Appended, call.partitions, places))


class Appends:
    """The producer. ``told`` is called on the loop for what was stored."""

    def __init__(self, cluster: Cluster, max_message_bytes: int, told: Told) -> None:
        self._cluster = cluster
        self._loop = cluster.loop
        self._told = told
        self._max_message_bytes = max_message_bytes
        self._config = cluster.settings.producer(max_message_bytes)
        self._line: deque[_Call] = deque()
        self._answered: deque[_Call] = deque()
        self._looking = self._down = self._closing = False
        self._full = False
        self._late: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._start()

    def _start(self) -> None:
        before = self._thread
        self._stop = threading.Event()
        self._producer = Producer(self._config | {"error_cb": self._on_error}, logger=log)
        self._thread = threading.Thread(
            target=self._serve, args=(self._producer, self._stop, before), name="nexus-kafka-appends", daemon=True
        )
        self._thread.start()

    async def connect(self) -> None:
        """Have the producer connect, so that the first append does not wait for it."""
        producer = self._producer
        await self._cluster.ask("the cluster", lambda: self._cluster.run(lambda: producer.list_topics(timeout=TRY_S)))

    async def close(self) -> None:
        """Send what is under way; what has not begun is refused."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._late is not None:
            self._late.cancel()
        for call in list(self._line):
            if not call.begun:
                self._line.remove(call)
                self._refuse(call, Closed("the store was closed"))
        if self._line:  # a call larger than the client's queue
            self._emptied = self._loop.create_future()
            await self._emptied
        self._stop.set()
        if self._thread is not None:
            await asyncio.shield(self._loop.run_in_executor(None, self._thread.join))
        self._deliver()

    # On the loop

    def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> asyncio.Future[list[Appended]]:
        """Take a call; its place among others is the one in which this is called. Raises `PayloadTooLarge`."""
        records: list[Record] = []
        for partition, event in batch:
            key, headers, size = to_record(event)
            if size + BATCH_BYTES > self._max_message_bytes:
                raise PayloadTooLarge(
                    f"event {event.id!r} takes {size:,} bytes; the brokers take {self._max_message_bytes:,}",
                    hint="store the payload elsewhere and publish where it is in `dataref`",
                )
            records.append((partition, key, event.body, headers))
        call = _Call(topic, records, self._loop.create_future(), self._loop.time())
        self._line.append(call)
        if len(self._line) == 1:
            self._feed()
        if self._line and self._late is None:
            self._late = self._loop.call_later(LATE_S, self._look_for_late)
        return call.answer

    def _feed(self) -> None:
        """Hand over what the client has room for."""
        line = self._line
        while line and not self._looking:
            call = line[0]
            if not call.begun:
                if call.answer.done():  # taken back, or its time was over
                    line.popleft()
                    continue
                if self._down:
                    return
                number = self._cluster.known(call.topic)
                if number is None:
                    self._looking = True
                    self._own(self._look_for(call))
                    return
                if not 0 <= min(call.partitions) <= max(call.partitions) < number:
                    line.popleft()
                    self._refuse(call, UnknownTopic(f"topic {call.topic!r} has {number} partitions, no others"))
                    continue
            if not self._hand_over(call):
                self._full = True
                return
            line.popleft()

    def _hand_over(self, call: _Call) -> bool:
        """Give the client what is left of a call; False if it has no room."""
        produce = self._producer.produce
        name = self._cluster.kafka_name(call.topic)
        records = call.records
        for number in range(call.begun, len(records)):
            partition, key, body, headers = records[number]
            try:
                produce(name, body, key, partition, partial(self._report, call, number), None, 0, headers)
            except BufferError:
                return False
            except KafkaException as exception:
                error = error_of(exception)
                if error.code() == KafkaError._FATAL:
                    self._renew()
                    return self._hand_over(call)
                call.errors[number] = error
                call.refused += 1
            call.begun = number + 1
        call.records = []
        if call.refused and call.answered:
            self._answered.append(call)
            self._loop.call_soon(self._deliver)
        return True

    def _deliver(self) -> None:
        """Answer calls of which every event is reported, and go on handing over."""
        answered = self._answered
        while answered:
            call = answered.popleft()
            if call.finished:
                continue
            call.finished = True
            ends: dict[int, int] = {}
            for partition, offset in zip(call.partitions, call.offsets, strict=True):
                if offset >= ends.get(partition, 0):
                    ends[partition] = offset + 1
            if call.errors:
                if any(error.code() in UNKNOWN_TOPIC for error in call.errors.values()):
                    self._cluster.forget(call.topic)
                failed = of_append([call.errors.get(number) for number in range(len(call.offsets))], call.topic)
                assert failed is not None
                self._refuse(call, failed)
            elif not call.answer.done():
                call.answer.set_result(_appended(call))
            if ends:
                self._told(call.topic, ends)
        if self._line:
            self._full = False
            self._feed()
        if not self._line and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def _refuse(self, call: _Call, error: NexusError) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)

    def _look_for_late(self) -> None:
        """Give up calls that could not begin within their time."""
        self._late = None
        deadline = self._loop.time() - self._cluster.settings.delivery_s
        for call in self._line:
            if not call.begun and call.arrived < deadline:
                self._refuse(call, Unavailable(f"topic {call.topic!r}: the brokers took nothing in time"))
        while self._line and not self._line[0].begun and self._line[0].answer.done():
            self._line.popleft()
        if self._line:
            self._late = self._loop.call_later(LATE_S, self._look_for_late)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_for(self, call: _Call) -> None:
        """Learn how many partitions the topic of the first call has, then go on."""
        try:
            await self._cluster.partitions(call.topic)
        except NexusError as error:
            self._refuse(call, error)
        finally:
            self._looking = False
        if not self._closing:
            self._feed()

    def _on_down(self) -> None:
        if not self._down and not self._closing:
            self._down = True
            log.warning("no broker of %s answers; appends wait", self._cluster.settings.servers)
            self._own(self._look_for_brokers())

    async def _look_for_brokers(self) -> None:
        """Let nothing begin while no broker answers, so that it is known of what waits that it was not stored."""
        while True:
            producer = self._producer
            try:
                await self._cluster.run(lambda producer=producer: producer.list_topics(timeout=TRY_S))  # type: ignore[misc]
                break
            except KafkaException as exception:
                log.debug("no broker answers: %s", error_of(exception).str())
                await asyncio.sleep(AGAIN_S)
        self._down = False
        log.info("a broker of %s answers again", self._cluster.settings.servers)
        self._feed()

    def _renew(self) -> None:
        """Go on with a new producer after an error that ended the old one."""
        if self._closing:
            return
        log.warning("the producer ended with an error and is replaced")
        self._stop.set()
        self._start()

    # On the thread

    def _serve(self, producer: Producer, stop: threading.Event, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # reports of one call are counted by one thread at a time
        while not stop.is_set():
            served = producer.poll(POLL_S)
            if self._answered or (served and self._full):
                self._post(self._deliver)
        if producer is self._producer:
            producer.flush(self._cluster.settings.delivery_s)
        producer.purge()
        producer.flush(TRY_S)
        self._post(self._deliver)

    def _report(self, call: _Call, number: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            offset = message.offset()
            call.offsets[number] = NOWHERE if offset is None else offset
        else:
            call.errors[number] = error
        call.reported += 1
        if call.reported + call.refused == len(call.offsets):
            self._answered.append(call)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._post(self._renew)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._post(self._on_down)

    def _post(self, work: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)
