"""A log on NATS JetStream: one stream for each topic, one subject for each partition. See ``docs/nats.md``.

Positions are the stream's sequence numbers, so those of one partition rise and have gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from nexus.backends.nats.codec import dedup_id, to_headers
from nexus.backends.nats.connection import Connection
from nexus.backends.nats.examine import OLDEST_SERVER, examine
from nexus.backends.nats.flight import Entry, Flight, Target
from nexus.backends.nats.monitor import servers_that_sync
from nexus.backends.nats.names import Names
from nexus.backends.nats.news import News
from nexus.backends.nats.outbox import Outbox
from nexus.backends.nats.reading import ReadingRoom, Topic
from nexus.backends.nats.settings import Settings
from nexus.backends.nats.streams import MORE_DURABLE, Info, Streams, durability_of
from nexus.errors import Closed, InvalidEvent, PayloadTooLarge, SettingsError
from nexus.event import Event
from nexus.spi.backend import Appended, Durability, Finding, Slice, TopicSpec, Want
from nexus.spi.log import LogCapabilities, LogState

ATTRIBUTES_BYTES = 64 * 1024
"""Room in a message for the attributes of an event and the headers of the server."""
LOOK_EVERY_S = 1.0
TOPICS_KNOWN = 10_000
"""How many topics are remembered; more are asked for again."""


class NatsLog:
    """Partitioned logs on NATS JetStream."""

    name = "nats"

    def __init__(self, settings: Settings | str) -> None:
        self.settings = Settings.parse(settings) if isinstance(settings, str) else settings
        self.capabilities = LogCapabilities("window", positions_on_append=True, trim=True, max_body_bytes=0)
        self._connection = Connection(self.settings)
        self._streams = Streams(self._connection, self.settings)
        self._flight = Flight(self._connection, self._streams)
        self._news = News(self._connection, self._names_of, self._forgotten)
        self._room = ReadingRoom(self._connection, self.settings, self._streams, self._news.arrived)
        self._names: dict[str, Names] = {}
        self._infos: dict[str, Info] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._synced: set[str] = set()
        self._care: asyncio.Task[None] | None = None
        self._state = "new"
        self._connection.on_up.append(self._room.make_again)
        self._connection.on_up.append(self._infos.clear)

    # -- life ------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `Log.open`."""
        await self._connection.open()
        self._state = "open"
        try:
            if self._connection.version < OLDEST_SERVER:
                raise SettingsError(
                    f"the NATS server is {'.'.join(map(str, self._connection.version))}", hint="2.12 is the oldest"
                )
            room = self._connection.max_payload - min(ATTRIBUTES_BYTES, self._connection.max_payload // 4)
            self.capabilities = LogCapabilities(
                "window", positions_on_append=True, trim=True, max_body_bytes=room, more_durable=MORE_DURABLE
            )
            self._synced = await servers_that_sync(self.settings.monitor)
        except BaseException:
            await self.close()
            raise
        self._care = asyncio.create_task(self._look_after())

    async def close(self) -> None:
        """See `Log.close`."""
        if self._state == "closed":
            return
        self._state = "closed"
        for outbox in self._outboxes.values():
            outbox.closed = True
        await asyncio.gather(*(outbox.drain() for outbox in self._outboxes.values()))
        if self._care is not None:
            self._care.cancel()
            await asyncio.wait({self._care})
        self._news.close()
        self._room.close()
        await self._connection.close()

    async def examine(self, levels: Mapping[str, Durability]) -> list[Finding]:
        """See `nexus.spi.backend.Examined`."""
        return await examine(self.settings, levels)

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._room.look_after(loop.time())
            self._news.keep({reader.topic for reader in self._room.readers})
            for topic in [topic for topic, outbox in self._outboxes.items() if outbox.idle]:
                del self._outboxes[topic]

    def _check_open(self) -> None:
        if self._state != "open":
            raise Closed("the store was closed" if self._state == "closed" else "the store is not open yet")

    # -- topics ----------------------------------------------------------------------------------------------------

    def _names_of(self, topic: str) -> Names:
        names = self._names.get(topic)
        if names is None:
            if len(self._names) >= TOPICS_KNOWN:
                self._names.clear()
            names = self._names[topic] = Names(self.settings.prefix, topic)
        return names

    async def _info(self, topic: str) -> Info:
        info = self._infos.get(topic)
        if info is None:
            info = await self._streams.info(self._names_of(topic))
            self._remember(topic, info)
        return info

    def _remember(self, topic: str, info: Info) -> None:
        if len(self._infos) >= TOPICS_KNOWN:
            self._infos.clear()
        self._infos[topic] = info

    async def create(self, topic: TopicSpec) -> None:
        """See `Log.create`."""
        self._check_open()
        self._remember(topic.name, await self._streams.create(self._names_of(topic.name), topic))

    async def describe(self, topic: str) -> LogState:
        """See `Log.describe`."""
        self._check_open()
        names = self._names_of(topic)
        info = await self._streams.info(names)
        self._remember(topic, info)
        partitions = range(info.partitions or 0)
        lasts, floors = await asyncio.gather(self._streams.lasts(names, partitions), self._streams.floors(names))
        # What the server forgot by itself went from the front of the whole stream.
        kept = max(info.state.first_seq if info.forgets else 1, 1)
        first = tuple(max(floors.first(partition), kept) for partition in partitions)
        end = tuple(max(last + 1, lowest) for last, lowest in zip(lasts, first, strict=True))
        return LogState(first, end, info.state.bytes, durability_of(info.config, info.servers, self._synced))

    async def topics(self) -> list[str]:
        """See `Log.topics`."""
        self._check_open()
        return await self._streams.topics()

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `Log.position_at`."""
        self._check_open()
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=max(round(time * 1e6), 1))
        position = await self._streams.first_from(self._names_of(topic), partition, moment.isoformat())
        return position or (await self.describe(topic)).end[partition]

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """See `Log.trim`."""
        self._check_open()
        names = self._names_of(topic)
        last, floors = await asyncio.gather(self._streams.last(names, partition), self._streams.floors(names))
        end = max(last + 1, floors.first(partition))
        floor = min(before, end)
        if floor <= floors.first(partition):
            return
        lost = end if floor == end else await self._streams.last_below(names, partition, floor) + 1
        lost = lost if lost > 1 else 0
        if await self._streams.raise_floor(names, partition, floor, lost):
            self._forgotten(topic, partition, lost)
            self._news.tell_trim(topic, partition, lost)
            await self._streams.purge(names, partition, floor)

    def _forgotten(self, topic: str, partition: int, lost: int) -> None:
        self._room.forget(topic, partition, lost)

    # -- appending -------------------------------------------------------------------------------------------------

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        """See `Log.append`."""
        self._check_open()
        if not batch:
            return []
        entries = [self._entry(index, partition, event, dedup) for index, (partition, event) in enumerate(batch)]
        return await self._outbox(topic).append(entries, self.settings.timeout_s)

    def _entry(self, index: int, partition: int, event: Event[object], dedup: bool) -> Entry:
        headers = to_headers(event)
        id = dedup_id(event) if dedup else self._flight.new_id()
        size = len(headers) + len(id) + len(event.body) + 256  # the headers of a batch
        if len(event.body) > self.capabilities.max_body_bytes or size > self._connection.max_payload:
            raise PayloadTooLarge(
                f"an event of {size:,} bytes is over the server's limit of {self._connection.max_payload:,}",
                hint="raise max_payload of the server, or publish where the payload is in `dataref`",
                index=index,
            )
        if partition < 0:
            raise InvalidEvent(f"there is no partition {partition}", index=index)
        return Entry(partition, id, headers, event.body, not dedup)

    def _outbox(self, topic: str) -> Outbox:
        outbox = self._outboxes.get(topic)
        if outbox is None:
            names = self._names_of(topic)

            async def target(_deadline: float) -> Target:
                return Target.of(names, await self._info(topic), self.settings.atomic_events)

            outbox = self._outboxes[topic] = Outbox(
                target, self._flight, self.settings.pending_bytes, lambda: self._news.tell(topic)
            )
        return outbox

    # -- reading ---------------------------------------------------------------------------------------------------

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """See `Log.read`."""
        self._check_open()
        if not wants:
            return []
        topics = [
            self._topic(want.topic, self._infos.get(want.topic) or await self._info(want.topic)) for want in wants
        ]
        for want in wants:
            self._news.follow(want.topic)
        return await self._room.read(topics, wants, max_bytes, fresh)

    def _topic(self, topic: str, info: Info) -> Topic:
        names = self._names_of(topic)
        if not info.forgets:
            return Topic(names, None)

        async def first_kept() -> int:
            return (await self._streams.info(names)).state.first_seq

        return Topic(names, first_kept)

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `Log.watch`."""
        self._check_open()
        return self._news.watch(topics, wake)
