"""A consumer that is only asked: it answers what is there and where partitions begin and end.

Not the admin client, for three reasons: that one makes a topic of any name that it is asked for; its ``list_offsets``
looks for leaders on the caller's thread beside its own, and crashed the process in librdkafka 2.16.0 when both were at
it; and it keeps to the leaders that it knew. Calls block; each asker belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ClusterMetadata, TopicMetadata

TRY_S = 2.0
"""How long one attempt may take at the brokers."""
LATEST = -1
"""A time that means: one above the highest position."""
EARLIEST = -2
"""A time that means: the lowest kept position."""
INTRODUCED_S = 300.0
"""How long a client surely knows a topic that it was told of; librdkafka forgets after ``metadata.max.age.ms``."""
INTRODUCTIONS = 4_096


class Introductions:
    """Which topics a consumer was told of. One that has to read an unknown topic looks it up only a second later."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._until: dict[str, float] = {}

    def make(self, names: Iterable[str]) -> None:
        """Have the consumer know these topics. Blocks. Raises `KafkaException` when no broker answers."""
        now = time.monotonic()
        for name in names:
            if self._until.get(name, 0.0) < now:
                self._consumer.list_topics(name, timeout=TRY_S)
                if len(self._until) >= INTRODUCTIONS:
                    self._until.clear()
                self._until[name] = now + INTRODUCED_S

    def forget(self) -> None:
        """Look them all up again: who leads them has changed."""
        self._until.clear()


class Asker:
    """See the module. All names are Kafka's. Every method raises `KafkaException`."""

    def __init__(self, config: dict[str, Any], on_error: Callable[[KafkaError], None]) -> None:
        self._consumer = Consumer(config | {"error_cb": on_error})
        self._introductions = Introductions(self._consumer)

    def close(self) -> None:
        self._consumer.close()

    def overview(self) -> ClusterMetadata:
        """What the brokers say of themselves and of all topics."""
        try:
            overview: ClusterMetadata = self._consumer.list_topics(timeout=TRY_S)
            return overview
        finally:
            self._listen()

    def topic(self, name: str) -> TopicMetadata:
        """What the brokers say of a topic, each of whose partitions has a leader."""
        self._listen()
        found: TopicMetadata = self._consumer.list_topics(name, timeout=TRY_S).topics[name]
        if found.error is not None:
            raise KafkaException(found.error)
        if not found.partitions or any(each.leader < 0 for each in found.partitions.values()):
            raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        return found

    def offsets(self, partitions: Sequence[tuple[str, int]], at_ms: int) -> list[int]:
        """The first offset of each partition at or after a time, -1 if there is none; or what the time means."""
        self._listen()
        try:
            self._introductions.make({name for name, _ in partitions})
            answers = self._consumer.offsets_for_times(
                [TopicPartition(name, number, at_ms) for name, number in partitions], timeout=TRY_S
            )
            # They come in the order of the question, and each may have an error of its own.
            for answer in answers:
                if answer.error is not None:
                    raise KafkaException(answer.error)
                if answer.offset < (0 if at_ms < 0 else -1):
                    raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
        except KafkaException:
            self._introductions.forget()
            raise
        found = {(answer.topic, answer.partition): answer.offset for answer in answers}
        return [found[partition] for partition in partitions]

    def _listen(self) -> None:
        """Take what the client has to say in between, so that it does not pile up."""
        self._consumer.poll(0)
