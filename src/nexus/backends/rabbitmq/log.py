"""The log: see `nexus.spi.log.Log` for what each method promises."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence

from nexus.backends.rabbitmq import frames, registry
from nexus.backends.rabbitmq.binding import to_record
from nexus.backends.rabbitmq.connection import Refused
from nexus.backends.rabbitmq.ends import Ends
from nexus.backends.rabbitmq.examine import examine
from nexus.backends.rabbitmq.lane import Lane, Waiting
from nexus.backends.rabbitmq.links import Links
from nexus.backends.rabbitmq.names import registry_of, stream_of
from nexus.backends.rabbitmq.publishing import Call, Outlet, Outlets, Room
from nexus.backends.rabbitmq.reader import Source
from nexus.backends.rabbitmq.reading import Readers, Wanted
from nexus.backends.rabbitmq.settings import Settings
from nexus.backends.rabbitmq.watching import Watchers
from nexus.errors import Closed, PayloadTooLarge, SettingsError, Unavailable, UnknownOutcome, UnknownTopic
from nexus.event import Event
from nexus.spi.backend import Appended, Durability, Finding, Slice, TopicSpec, Want
from nexus.spi.log import LogCapabilities, LogState

ATTRIBUTES_BYTES = 64 * 1024
"""Room that a frame keeps for an event's attributes."""
_CREATES = 4
"""Streams that are made at once."""
_CLOSE_S = 5.0

_MORE_DURABLE = "a stream with replicas on three nodes gives 'replicated'; no setting of RabbitMQ syncs streams to disk"


class RabbitLog:
    """Partitioned logs as RabbitMQ streams."""

    def __init__(self, settings: Settings) -> None:
        self.name = "rabbitmq"
        self.settings = settings
        self.capabilities = LogCapabilities("none", False, False, (1 << 20) - ATTRIBUTES_BYTES)
        self._registry_source = Source(registry_of(settings.prefix), "", 0)
        self._open = False
        self._links: Links
        self._readers: Readers
        self._outlets: Outlets
        self._watchers: Watchers
        self._room: Room
        self._registry: registry.Registry
        self._folding: asyncio.Lock
        self._frame_max = 1 << 20
        self._streams: dict[str, list[str]] = {}
        self._lanes: dict[str, Lane] = {}
        self._under_way: set[asyncio.Future[None]] = set()

    # ---- life -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See `nexus.spi.log.Log.open`."""
        if self._open:
            return
        settings = self.settings
        self._links = Links(settings)
        self._outlets = Outlets(self._links)
        self._room = Room(settings.inflight_bytes, settings.inflight_events)
        self._registry, self._folding, self._streams = registry.Registry(), asyncio.Lock(), {}
        self._watchers = Watchers(self._known_streams, self._brings_news, self._last_chunk, self._upkeep)
        self._readers = Readers(self._links, settings.buffer_bytes, self._watchers.tell)
        try:
            connection = await self._links.attempt("cannot connect", self._links.any)
            self._frame_max = connection.frame_max
            self.capabilities = LogCapabilities(
                "none", False, False, max(1024, self._frame_max - ATTRIBUTES_BYTES), _MORE_DURABLE
            )
            await self._create_stream(self._registry_source.stream, {})
            await self._refresh()
        except BaseException:
            await self._links.close()
            raise
        self._watchers.start()
        self._open = True

    async def close(self) -> None:
        """See `nexus.spi.log.Log.close`."""
        if not self._open:
            return
        self._open = False
        await self._watchers.stop()
        await asyncio.gather(*(lane.stop() for lane in list(self._lanes.values())))
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_CLOSE_S)
        self._readers.close()
        await self._links.close()

    async def examine(self, levels: Mapping[str, Durability]) -> list[Finding]:
        """See `nexus.spi.backend.Examined`."""
        return await examine(self.settings, levels)

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("the store is not open")

    def _upkeep(self) -> None:
        self._readers.drop_idle(asyncio.get_running_loop().time(), self._watchers.watched)

    # ---- topics ---------------------------------------------------------------------------------------------------

    async def create(self, topic: TopicSpec) -> None:
        """See `nexus.spi.log.Log.create`. Retention of a stream that exists stays as it is; the new one is recorded."""
        self._check_open()
        if topic.partitions < 1:
            raise SettingsError(f"topic {topic.name!r} needs at least one partition, not {topic.partitions}")
        stream_of(self.settings.prefix, topic.name, topic.partitions - 1)
        wished = registry.entry_of(topic)
        if self._registry.topics.get(topic.name) != wished:
            await self._refresh()
        known = self._registry.topics.get(topic.name)
        self._check_partitions(wished, known)
        if known is None or not await self._there(topic):
            await self._create_streams(topic)
        if known == wished:
            return
        outlet = await self._outlets.open(self._registry_source.stream)
        record = registry.to_record(wished)
        await self._room.take(len(record), 1)
        await self._send([(outlet, [record])], len(record), 1)
        await self._refresh()
        self._check_partitions(wished, self._registry.topics.get(topic.name))

    def _check_partitions(self, wished: registry.Entry, known: registry.Entry | None) -> None:
        if known is not None and known.partitions != wished.partitions:
            raise SettingsError(
                f"topic {wished.name!r} has {known.partitions} partitions, not {wished.partitions}",
                hint="the number of partitions of a topic stands; keep it, or use a new topic",
            )

    async def _there(self, topic: TopicSpec) -> bool:
        """Whether all streams of a topic that is recorded are there: an operator may have deleted some."""
        streams = [stream_of(self.settings.prefix, topic.name, number) for number in range(topic.partitions)]
        try:
            await self._links.attempt(f"cannot look for {topic.name!r}", lambda: self._links.look(streams))
        except UnknownTopic:
            return False
        return True

    async def _create_streams(self, topic: TopicSpec) -> None:
        arguments = registry.retention_of(self.settings, topic)
        few = asyncio.Semaphore(_CREATES)

        async def create_one(partition: int) -> None:
            async with few:
                await self._create_stream(stream_of(self.settings.prefix, topic.name, partition), arguments)

        await asyncio.gather(*(create_one(partition) for partition in range(topic.partitions)))

    async def _create_stream(self, stream: str, arguments: dict[str, str]) -> None:
        async def create() -> None:
            connection = await self._links.any()
            try:
                await connection.request(frames.CREATE, frames.text(stream) + frames.pairs(arguments), stream)
            except Refused as error:
                # Also when it exists with other arguments; if it does not exist, they are at fault.
                if error.code == frames.PRECONDITION_FAILED:
                    await self._links.look([stream])
                elif error.code != frames.STREAM_EXISTS:
                    raise

        await self._links.attempt(f"cannot create {stream}", create)

    async def _refresh(self) -> None:
        """Fold in what others have recorded of topics."""
        async with self._folding:
            records = await self._links.attempt(
                "cannot read the topics",
                lambda: self._readers.records(self._registry_source, self._registry.next),
                stream=self._registry_source.stream,
            )
            self._registry.fold_in(records)

    async def _streams_of(self, topic: str) -> list[str]:
        """Return the names of a topic's streams. Raises `UnknownTopic`."""
        streams = self._streams.get(topic)
        if streams is None:
            if topic not in self._registry.topics:
                await self._refresh()
            entry = self._registry.topics.get(topic)
            if entry is None:
                raise UnknownTopic(f"no topic {topic!r}", hint="create it first")
            streams = [stream_of(self.settings.prefix, topic, number) for number in range(entry.partitions)]
            self._streams[topic] = streams
        return streams

    async def describe(self, topic: str) -> LogState:
        """See `nexus.spi.log.Log.describe`. The size is an estimate: kept positions by the mean of the last records."""
        self._check_open()
        streams = await self._streams_of(topic)

        async def look() -> tuple[list[frames.Member], list[Ends]]:
            members = await self._links.look(streams)
            return members, await asyncio.gather(*(self._readers.tails.ends(stream) for stream in streams))

        members, ends = await self._links.attempt(f"cannot describe {topic!r}", look)
        durability: Durability = "replicated" if min(one.replicas for one in members) > 1 else "process"
        return LogState(
            first=tuple(one.first for one in ends),
            end=tuple(one.end for one in ends),
            size_bytes=sum((one.end - one.first) * one.tail.record_bytes for one in ends if one.tail is not None),
            durability=durability,
        )

    async def topics(self) -> list[str]:
        """See `nexus.spi.log.Log.topics`."""
        self._check_open()
        await self._refresh()
        return list(self._registry.topics)

    # ---- appending ------------------------------------------------------------------------------------------------

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        """See `nexus.spi.log.Log.append`."""
        self._check_open()
        if not batch:
            return []
        records: dict[int, list[bytes]] = {}
        size = 0
        limit = self._frame_max - frames.PUBLISH_OVERHEAD - frames.MESSAGE_OVERHEAD
        for partition, event in batch:
            record = to_record(event)
            if len(record) > limit:
                raise PayloadTooLarge(f"an event of {len(record):,} bytes is over the broker's limit of {limit:,}")
            size += len(record)
            records.setdefault(partition, []).append(record)
        done = self._send_now(topic, records, size, len(batch)) if topic not in self._lanes else None
        if done is None:
            done = await self._in_line(topic, records, size, len(batch))
        await self._confirmed(done)
        self._watchers.tell(topic)
        return [Appended(partition, None) for partition, _ in batch]

    def _send_now(
        self, topic: str, records: dict[int, list[bytes]], size: int, events: int, *, has_room: bool = False
    ) -> asyncio.Future[None] | None:
        """Send records if each partition can be written to and there is room."""
        streams = self._streams.get(topic)
        if streams is None:
            return None
        outlets = []
        for partition, part in records.items():
            outlet = self._outlets.ready(streams[partition]) if 0 <= partition < len(streams) else None
            if outlet is None:
                return None
            outlets.append((outlet, part))
        return self._put(outlets, size, events) if has_room or self._room.try_take(size, events) else None

    async def _in_line(
        self, topic: str, records: dict[int, list[bytes]], size: int, events: int
    ) -> asyncio.Future[None]:
        lane = self._lanes.get(topic)
        if lane is None:
            lane = self._lanes[topic] = Lane(
                lambda call: self._send_now(topic, call.records, call.size, call.events, has_room=call.has_room),
                lambda call: self._prepare(topic, call),
                lambda call: self._room.give(call.size, call.events),
                lambda: self._lanes.pop(topic, None),
            )
        try:
            return await lane.send(records, size, events, self.settings.timeout_s)
        except TimeoutError as error:
            raise Unavailable("RabbitMQ: nothing could be sent in time", hint="look whether the broker runs") from error

    async def _prepare(self, topic: str, call: Waiting) -> None:
        """Wait for what an append needs."""
        self._check_open()
        streams = await self._streams_of(topic)
        for partition in call.records:
            if not 0 <= partition < len(streams):
                raise SettingsError(
                    f"topic {topic!r} has no partition {partition}", hint=f"they are 0 to {len(streams) - 1}"
                )
        missing = [streams[partition] for partition in call.records if self._outlets.ready(streams[partition]) is None]
        if missing:
            await asyncio.gather(*(self._outlets.open(stream) for stream in missing))
        else:
            await self._room.take(call.size, call.events)
            call.has_room = True

    def _put(self, outlets: list[tuple[Outlet, list[bytes]]], size: int, events: int) -> asyncio.Future[None]:
        """Send records; the room is taken."""
        call = Call(self._room, size, events)
        for outlet, part in outlets:
            outlet.put(part, call)
        self._under_way.add(call.done)
        call.done.add_done_callback(self._under_way.discard)
        return call.done

    async def _confirmed(self, done: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await done
        except TimeoutError as error:
            raise UnknownOutcome(
                "RabbitMQ did not confirm in time", hint="publish again with the same id; look for an alarm there"
            ) from error

    async def _send(self, outlets: list[tuple[Outlet, list[bytes]]], size: int, events: int) -> None:
        await self._confirmed(self._put(outlets, size, events))

    # ---- reading --------------------------------------------------------------------------------------------------

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """See `nexus.spi.log.Log.read`."""
        self._check_open()
        wanted = []
        for want in wants:
            streams = self._streams.get(want.topic) or await self._streams_of(want.topic)
            if not 0 <= want.partition < len(streams):
                raise SettingsError(f"topic {want.topic!r} has no partition {want.partition}")
            source = Source(streams[want.partition], want.topic, want.partition)
            wanted.append(Wanted(source, want.position, want.max_events))
        if not wanted:
            return []
        return await self._links.attempt("cannot read", lambda: self._readers.read(wanted, max_bytes, fresh=fresh))

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `nexus.spi.log.Log.position_at`. Times are those of the broker, in milliseconds."""
        self._check_open()
        streams = await self._streams_of(topic)
        if not 0 <= partition < len(streams):
            raise SettingsError(f"topic {topic!r} has no partition {partition}")
        stream = streams[partition]
        time_ms = max(0, math.ceil(round(time * 1000, 3)))

        async def look() -> int:
            found = await self._readers.tails.first_at(stream, time_ms)
            return found if found is not None else (await self._readers.tails.ends(stream)).end

        return await self._links.attempt(f"cannot look into {stream}", look, stream=stream)

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `nexus.spi.log.Log.watch`."""
        self._check_open()
        return self._watchers.add(list(topics), wake)

    async def _known_streams(self, topic: str) -> Sequence[str]:
        with contextlib.suppress(UnknownTopic):  # it may be made later
            return await self._streams_of(topic)
        return ()

    def _brings_news(self, stream: str) -> bool:
        return self._readers.brings_news(stream)

    async def _last_chunk(self, stream: str) -> int:
        async def ask() -> int:
            return (await self._readers.tails.stats(stream))[1]

        return await self._links.attempt(f"cannot look at {stream}", ask, stream=stream)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Do nothing: streams forget by retention only."""
        self._check_open()
