"""Questions to the cluster: what is there, how it is set, where partitions begin and end.

The client's answers come on threads of its own and are handed to the loop, once per question. A question that fails for
a passing reason is asked again until `Settings.request_s` is over.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, TopicMetadata

from nexus.backends.kafka.asker import EARLIEST, LATEST, TRY_S, Asker
from nexus.backends.kafka.failures import UNKNOWN_TOPIC, error_of, is_strange, of_question
from nexus.backends.kafka.names import to_kafka
from nexus.backends.kafka.settings import Settings
from nexus.errors import Closed, SettingsError, Unavailable, UnknownTopic

THREADS = 4
"""How many questions may block at once."""
AGAIN_S = 0.1
"""How long to wait before asking again."""

A = TypeVar("A")
__all__ = ["AGAIN_S", "TRY_S", "Cluster", "Partition"]

LAG_S = 5.0
"""How long a broker may not know yet of a topic that another one knows."""
MISSED_LIMIT = 4_096
"""Topics of which that is kept in mind."""
Partition = tuple[str, int]
"""A partition, by the name that Nexus gives its topic."""


class Cluster:
    """The brokers, as far as they are asked. Known topics are remembered; an error of one forgets it."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.closing = False
        self._threads = ThreadPoolExecutor(THREADS, "nexus-kafka")
        self._partitions: dict[str, int] = {}
        self._missed: dict[str, float] = {}
        """Until when it is doubted that a topic is gone that was known."""
        self._names: dict[str, str] = {}
        self.trouble: KafkaError | None = None
        """Why the brokers do not let this client in, if they said so."""
        self._askers: list[Asker] = []
        self._here = threading.local()
        self.admin = AdminClient(settings.client())

    def close(self) -> None:
        """Let go of the connections. Blocks."""
        self.closing = True
        self._threads.shutdown(wait=True)
        for asker in self._askers:
            asker.close()

    def _on_error(self, error: KafkaError) -> None:
        if is_strange(error):
            self.trouble = error

    # How to ask

    async def run(self, work: Callable[[], A]) -> A:
        """Have something done that blocks, on a thread."""
        self.check_open()
        return await self.loop.run_in_executor(self._threads, work)

    def asker(self) -> Asker:
        """The asker of this thread, one of ours."""
        asker: Asker | None = getattr(self._here, "asker", None)
        if asker is None:
            asker = self._here.asker = Asker(self.settings.consumer(100), self._on_error)
            self._askers.append(asker)
        return asker

    def check_open(self) -> None:
        if self.closing:
            raise Closed("the store is not open")

    async def ask(self, asked: str, question: Callable[[], Awaitable[A]], topics: Iterable[str] = ()) -> A:
        """Ask until there is an answer. Raises what the error means; `Unavailable` when the time is over.

        A broker that has just started may not know of its partitions yet: that one of ``topics`` is unknown is
        believed when the cluster says so too.
        """
        deadline = self.loop.time() + self.settings.request_s
        while True:
            self.check_open()
            try:
                return await question()
            except KafkaException as exception:
                error = error_of(exception)
                meaning = of_question(error, asked)
                if isinstance(meaning, UnknownTopic) and topics:
                    for topic in topics:
                        self.forget(topic)
                        await self.partitions(topic)
                    meaning = Unavailable(f"{asked}: {error.str()}")
                if not isinstance(meaning, Unavailable) or self.loop.time() + AGAIN_S > deadline:
                    raise meaning from exception
            await asyncio.sleep(AGAIN_S)

    def gather(self, futures: Mapping[Any, Future[A]]) -> asyncio.Future[list[A]]:
        """The results of the admin client's futures, in their order, in one hand-over to the loop."""
        answer: asyncio.Future[list[A]] = self.loop.create_future()
        waiting = list(futures.values())
        left = len(waiting)
        lock = threading.Lock()

        def deliver() -> None:
            if answer.done():
                return
            try:
                answer.set_result([future.result(0) for future in waiting])
            except Exception as error:
                answer.set_exception(error)

        def done(_: Future[A]) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(deliver)

        for future in waiting:
            future.add_done_callback(done)
        if not waiting:
            answer.set_result([])
        return answer

    # Topics

    def kafka_name(self, topic: str) -> str:
        """Kafka's name of a topic. Raises `UnknownTopic` when no topic can have it."""
        name = self._names.get(topic)
        if name is None:
            try:
                name = to_kafka(self.settings.prefix, topic)
            except SettingsError as error:
                raise UnknownTopic(error.message) from error
            if topic in self._partitions:
                self._names[topic] = name
        return name

    def known(self, topic: str) -> int | None:
        """Number of partitions of a topic that was seen before; None if it must be looked for."""
        return self._partitions.get(topic)

    def forget(self, topic: str) -> None:
        """Look for the topic again when it is asked for next."""
        self._names.pop(topic, None)
        if self._partitions.pop(topic, None) is not None:
            if len(self._missed) >= MISSED_LIMIT:
                self._missed.clear()
            self._missed[topic] = self.loop.time() + LAG_S

    async def partitions(self, topic: str) -> int:
        """Number of partitions of a topic. Raises `UnknownTopic`."""
        known = self._partitions.get(topic)
        if known is not None:
            return known
        found = await self.metadata(topic)
        self._missed.pop(topic, None)
        self._partitions[topic] = len(found.partitions)
        return len(found.partitions)

    async def metadata(self, topic: str) -> TopicMetadata:
        """What the brokers say of a topic; each of its partitions has a leader. Raises `UnknownTopic`.

        Of one that was known a moment ago it is believed only after a while: brokers learn of a new topic one after the
        other.
        """
        name = self.kafka_name(topic)
        doubted_until = self.loop.time() + LAG_S if topic in self._partitions else self._missed.get(topic, 0.0)

        async def look() -> TopicMetadata:
            try:
                return await self.run(lambda: self.asker().topic(name))
            except KafkaException as exception:
                if error_of(exception).code() in UNKNOWN_TOPIC and self.loop.time() < doubted_until:
                    raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE)) from exception
                raise

        return await self.ask(f"topic {topic!r}", look)

    async def overview(self) -> ClusterMetadata:
        """What the brokers say of themselves and of all topics."""
        return await self.ask("the cluster", lambda: self.run(lambda: self.asker().overview()))

    # Positions

    async def offsets(self, partitions: Iterable[Partition], at_ms: int) -> dict[Partition, int]:
        """The first position of each partition at or after a time; -1 if there is none."""
        wanted = list(dict.fromkeys(partitions))
        if not wanted:
            return {}
        places = [(self.kafka_name(topic), number) for topic, number in wanted]
        topics = {topic for topic, _ in wanted}
        found = await self.ask(
            f"offsets of {', '.join(sorted(topics))}",
            lambda: self.run(lambda: self.asker().offsets(places, at_ms)),
            topics,
        )
        return dict(zip(wanted, found, strict=True))

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """One above the highest position of each partition, of all that was appended before."""
        return await self.offsets(partitions, LATEST)

    async def firsts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The lowest kept position of each partition."""
        return await self.offsets(partitions, EARLIEST)
