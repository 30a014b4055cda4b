"""A log on Kafka: what the rest of the package does, under the names of the contract."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from nexus.backends.kafka.appends import Appends
from nexus.backends.kafka.cluster import TRY_S, Cluster
from nexus.backends.kafka.examine import examine
from nexus.backends.kafka.failures import FORBIDDEN, error_of
from nexus.backends.kafka.news import News
from nexus.backends.kafka.reader import Reader
from nexus.backends.kafka.settings import Settings
from nexus.backends.kafka.topics import MORE_DURABLE, Topics
from nexus.errors import Closed, PayloadTooLarge, SettingsError, Unavailable
from nexus.event import Event
from nexus.spi.backend import Appended, Durability, Finding, Slice, TopicSpec, Want
from nexus.spi.log import LogCapabilities, LogState

ATTRIBUTE_BYTES = 64 * 1024
"""Room for an event's attributes beside the largest body."""
MESSAGE_BYTES = 1_048_588
"""Kafka's own default of ``message.max.bytes``."""
KEEP_S = 5.0
"""How often it is looked what nobody reads any more."""


class KafkaLog:
    """See `nexus.spi.log.Log`."""

    name = "kafka"

    def __init__(self, settings: Settings | str) -> None:
        self.settings = Settings.parse(settings) if isinstance(settings, str) else settings
        self.capabilities = LogCapabilities(
            dedup="none", positions_on_append=True, trim=True, max_body_bytes=MESSAGE_BYTES - ATTRIBUTE_BYTES
        )
        self._opened = self._closing = False
        self._cluster: Cluster
        self._topics: Topics
        self._appends: Appends
        self._reader: Reader
        self._news: News
        self._keeping: asyncio.TimerHandle

    async def open(self) -> None:
        """See `nexus.spi.log.Log.open`."""
        if self._opened:
            return
        loop = asyncio.get_running_loop()
        cluster = self._cluster = Cluster(self.settings, loop)
        try:
            largest = await self._look_at_brokers()
            self._appends = Appends(cluster, largest, self._told)
            await self._appends.connect()
        except BaseException:
            await asyncio.shield(asyncio.to_thread(cluster.close))
            raise
        self.capabilities = LogCapabilities(
            dedup="none",
            positions_on_append=True,
            trim=True,
            max_body_bytes=max(1, largest - ATTRIBUTE_BYTES),
            more_durable=MORE_DURABLE,
        )
        self._topics = Topics(cluster)
        self._reader = Reader(cluster, self._arrived, lambda topic: self._news.watched(topic))
        self._news = News(cluster, self._reader.follows)
        self._keeping = loop.call_later(KEEP_S, self._keep)
        self._opened = True

    async def _look_at_brokers(self) -> int:
        """The largest message that the brokers take."""
        cluster = self._cluster
        try:
            overview = await cluster.overview()
        except Unavailable as error:
            trouble = cluster.trouble
            if trouble is not None:
                raise SettingsError(
                    f"{self.settings.servers}: {trouble.str()}",
                    hint="look at the URL, its sasl, user, ca, cert and key, and the password",
                ) from error
            raise
        resource = ConfigResource(ResourceType.BROKER, str(min(overview.brokers)))
        try:
            (entries,) = await cluster.gather(cluster.admin.describe_configs([resource], request_timeout=TRY_S))
        except KafkaException as exception:
            if error_of(exception).code() in FORBIDDEN:
                return MESSAGE_BYTES
            raise Unavailable(f"settings of the brokers: {error_of(exception).str()}") from exception
        return int(entries["message.max.bytes"].value)

    async def close(self) -> None:
        """See `nexus.spi.log.Log.close`."""
        if not self._opened or self._closing:
            return
        self._closing = True
        self._keeping.cancel()
        await self._news.close()
        await self._appends.close()
        await asyncio.shield(asyncio.to_thread(self._shut))

    async def examine(self, levels: Mapping[str, Durability]) -> list[Finding]:
        """See `nexus.spi.backend.Examined`."""
        return await examine(self.settings, levels)

    def _shut(self) -> None:
        self._cluster.close()
        self._reader.close()

    def _check_open(self) -> None:
        if self._closing or not self._opened:
            raise Closed("the store is not open")

    def _keep(self) -> None:
        self._reader.drop_idle()
        self._keeping = self._cluster.loop.call_later(min(KEEP_S, self.settings.idle_s), self._keep)

    # News

    def _told(self, topic: str, ends: dict[int, int]) -> None:
        """Something was appended here."""
        for partition, end in ends.items():
            self._news.saw(topic, partition, end)
        self._news.tell(topic)

    def _arrived(self, topic: str, partition: int, end: int) -> None:
        """Something arrived by reading ahead."""
        self._news.saw(topic, partition, end)
        self._news.tell(topic)

    # The contract

    async def create(self, topic: TopicSpec) -> None:
        """See `nexus.spi.log.Log.create`."""
        self._check_open()
        await self._topics.create(topic)

    async def describe(self, topic: str) -> LogState:
        """See `nexus.spi.log.Log.describe`."""
        self._check_open()
        return await self._topics.describe(topic)

    async def topics(self) -> list[str]:
        """See `nexus.spi.log.Log.topics`."""
        self._check_open()
        return await self._topics.names()

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        """See `nexus.spi.log.Log.append`. Kafka knows no ids: ``dedup`` changes nothing."""
        if self._closing or not self._opened:
            raise Closed("the store is not open")
        if not batch:
            return []
        limit = self.capabilities.max_body_bytes
        for _, event in batch:
            if len(event.body) > limit:
                raise PayloadTooLarge(
                    f"payload of {len(event.body):,} bytes is over the limit of {limit:,}",
                    hint="store the payload elsewhere and publish where it is in `dataref`",
                )
        return await self._appends.append(topic, batch)

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """See `nexus.spi.log.Log.read`."""
        self._check_open()
        return await self._reader.read(wants, max_bytes, fresh=fresh)

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `nexus.spi.log.Log.position_at`."""
        self._check_open()
        if not math.isfinite(time):
            raise ValueError(f"{time} is no time")
        return await self._topics.position_at(topic, partition, time)

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `nexus.spi.log.Log.watch`."""
        self._check_open()
        return self._news.watch(topics, wake)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """See `nexus.spi.log.Log.trim`."""
        self._check_open()
        first = await self._topics.trim(topic, partition, before)
        self._reader.trimmed(topic, partition, first)
