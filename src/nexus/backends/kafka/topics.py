"""Topics as Kafka keeps them: made with the settings that our promises need, and described as they are observed.

Kafka stamps a record with the broker's time (``LogAppendTime``), since positions are looked up by it. Nothing is
compacted: a position that was answered stays what it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from nexus.backends.kafka.cluster import TRY_S, Cluster
from nexus.backends.kafka.failures import error_of
from nexus.backends.kafka.names import from_kafka, to_kafka
from nexus.errors import SettingsError, UnknownTopic
from nexus.spi.backend import Durability, TopicSpec
from nexus.spi.log import LogState

EVENT_BYTES = 512
"""What an event is taken to need, since this client cannot ask a broker how large its files are."""
FACTS_S = 30.0
"""How long what was observed of a topic's durability is believed."""


def config_of(spec: TopicSpec) -> dict[str, str]:
    """The settings that a topic must have."""
    age_ms = -1 if spec.retention_age_s is None else max(1, round(spec.retention_age_s * 1_000))
    # Kafka bounds each partition, we bound the topic; at least one event of any size stays where Kafka rounds.
    size = -1 if spec.retention_bytes is None else max(1, spec.retention_bytes // spec.partitions)
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(age_ms),
        "retention.bytes": str(size),
    }


MORE_DURABLE = "min.insync.replicas of 2 and 3 replicas give 'replicated', flush.messages=1 of the topic gives 'disk'"


def durability_of(config: Mapping[str, str | None], replicas: int) -> Durability:
    """What survives once an append returned, by the settings of a topic.

    >>> durability_of({"min.insync.replicas": "2", "flush.messages": "1"}, 3)
    'replicated+disk'
    >>> durability_of({"min.insync.replicas": "1", "flush.messages": "9223372036854775807"}, 3)
    'process'
    """
    flushed = config.get("flush.messages") == "1"
    copies = min(replicas, int(config.get("min.insync.replicas") or 1))
    if copies >= 2 and config.get("unclean.leader.election.enable") != "true":
        return "replicated+disk" if flushed else "replicated"
    return "disk" if flushed else "process"


class Topics:
    """Makes, describes and trims topics."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._durability: dict[str, tuple[float, Durability]] = {}

    async def create(self, spec: TopicSpec) -> None:
        """See `nexus.spi.log.Log.create`."""
        cluster, settings = self._cluster, self._cluster.settings
        name = to_kafka(settings.prefix, spec.name)
        if not 1 <= spec.partitions <= 100_000:
            raise SettingsError(f"topic {spec.name!r} cannot have {spec.partitions:,} partitions")
        wished = config_of(spec)
        first = dict(wished)
        if settings.min_insync_replicas is not None:
            first["min.insync.replicas"] = str(settings.min_insync_replicas)
        new = NewTopic(name, num_partitions=spec.partitions, replication_factor=settings.replicas or -1, config=first)

        async def make() -> bool:
            try:
                await cluster.gather(cluster.admin.create_topics([new], request_timeout=TRY_S))
            except KafkaException as exception:
                if error_of(exception).code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return False
                raise
            return True

        made = await cluster.ask(f"topic {spec.name!r}", make)
        cluster.forget(spec.name)
        found = await self._settled(spec.name)
        if found != spec.partitions:
            raise SettingsError(
                f"topic {spec.name!r} has {found} partitions, not {spec.partitions}",
                hint="the number of partitions of a topic stands; choose another topic",
            )
        if not made:
            await self._take_over(spec.name, wished)

    async def _settled(self, topic: str) -> int:
        """The number of partitions, once the brokers know of them: they learn of a new topic one after the other."""
        cluster = self._cluster

        async def look() -> int:
            try:
                return await cluster.partitions(topic)
            except UnknownTopic as error:
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE)) from error

        return await cluster.ask(f"topic {topic!r}", look)

    async def _take_over(self, topic: str, wished: Mapping[str, str]) -> None:
        """Give an existing topic the settings that it must have."""
        current = await self._config(topic)
        changes = {key: value for key, value in wished.items() if current.get(key) != value}
        if not changes:
            return
        cluster = self._cluster
        resource = ConfigResource(
            ResourceType.TOPIC,
            cluster.kafka_name(topic),
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in changes.items()
            ],
        )
        await cluster.ask(
            f"settings of topic {topic!r}",
            lambda: cluster.gather(cluster.admin.incremental_alter_configs([resource], request_timeout=TRY_S)),
            [topic],
        )

    async def _config(self, topic: str) -> dict[str, str | None]:
        cluster = self._cluster
        resource = ConfigResource(ResourceType.TOPIC, cluster.kafka_name(topic))
        (entries,) = await cluster.ask(
            f"settings of topic {topic!r}",
            lambda: cluster.gather(cluster.admin.describe_configs([resource], request_timeout=TRY_S)),
            [topic],
        )
        return {name: entry.value for name, entry in entries.items()}

    async def describe(self, topic: str) -> LogState:
        """See `nexus.spi.log.Log.describe`."""
        cluster = self._cluster
        number = await cluster.partitions(topic)
        durability = await self._observed(topic)
        partitions = [(topic, each) for each in range(number)]
        firsts, ends = await asyncio.gather(cluster.firsts(partitions), cluster.ends(partitions))
        first = tuple(firsts[each] for each in partitions)
        end = tuple(max(ends[each], firsts[each]) for each in partitions)
        return LogState(first, end, EVENT_BYTES * (sum(end) - sum(first)), durability)

    async def _observed(self, topic: str) -> Durability:
        now = self._cluster.loop.time()
        known = self._durability.get(topic)
        if known is not None and now < known[0] + FACTS_S:
            return known[1]
        metadata: TopicMetadata = await self._cluster.metadata(topic)
        replicas = min(len(each.replicas) for each in metadata.partitions.values())
        durability = durability_of(await self._config(topic), replicas)
        if len(self._durability) >= 4_096:
            self._durability.clear()
        self._durability[topic] = (now, durability)
        return durability

    async def names(self) -> list[str]:
        """See `nexus.spi.log.Log.topics`."""
        overview = await self._cluster.overview()
        names = (from_kafka(self._cluster.settings.prefix, each) for each in overview.topics)
        return [name for name in names if name is not None]

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `nexus.spi.log.Log.position_at`."""
        cluster = self._cluster
        await cluster.partitions(topic)
        place = (topic, partition)
        # Kafka counts whole milliseconds; a float that came from one is to lead back to it.
        at_ms = max(0, -int(-round(time * 1_000, 3) // 1))
        found = (await cluster.offsets([place], at_ms))[place]
        return found if found >= 0 else (await cluster.ends([place]))[place]

    async def trim(self, topic: str, partition: int, before: int) -> int:
        """Forget events below ``before``, at most all; return the lowest position that is kept."""
        cluster = self._cluster
        await cluster.partitions(topic)
        place = (topic, partition)
        before = min(before, (await cluster.ends([place]))[place])
        offset = TopicPartition(cluster.kafka_name(topic), partition, max(0, before))

        async def delete() -> list[Any]:
            # The client has to know who leads the partition: looking for that inside the call could crash it, see
            # `nexus.backends.kafka.asker`. That the topic exists is known, so it is not made by being asked for.
            await cluster.run(lambda: cluster.admin.list_topics(offset.topic, timeout=TRY_S))
            return await cluster.gather(cluster.admin.delete_records([offset], request_timeout=TRY_S))

        (answer,) = await cluster.ask(f"trim of {topic!r}", delete, [topic])
        kept: int = answer.low_watermark
        return kept
