"""What a topic is on the server: its stream, how it is configured, and below which positions events were forgotten."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from nexus.backends.nats.codec import status
from nexus.backends.nats.connection import (
    FULL,
    NO_RESPONDERS,
    Answer,
    ApiError,
    Connection,
    Down,
    Refused,
    decode,
)
from nexus.backends.nats.names import Names, all_subjects, topic_of
from nexus.backends.nats.settings import Settings
from nexus.errors import SettingsError, StoreFull, UnknownTopic
from nexus.spi.backend import Durability, TopicSpec

NO_STREAM, NO_MESSAGE, IN_USE, NO_PEERS = 10059, 10037, 10058, 10005
WRONG_LAST = frozenset({10071, 10164})
PARTITIONS = "nexus.partitions"
SECOND = 1_000_000_000
_JOURNAL_DEDUP_FACTOR = 2
"""A journal's ids are only there to recognise an append that was repeated: they are kept for two time limits."""


class Config(msgspec.Struct):
    """A stream's configuration, as far as it is needed."""

    name: str = ""
    max_age: int = 0
    max_bytes: int = -1
    storage: str = "file"
    num_replicas: int = 1
    duplicate_window: int = 0
    allow_atomic: bool = False
    persist_mode: str = ""
    metadata: dict[str, str] | None = None


class State(msgspec.Struct):
    """Where a stream stands."""

    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0


class Peer(msgspec.Struct):
    """Another server that has a copy."""

    name: str = ""


class Cluster(msgspec.Struct):
    """The servers that have a copy."""

    leader: str = ""
    replicas: list[Peer] = []


class Info(Answer):
    """What the server says about a stream."""

    config: Config = msgspec.field(default_factory=Config)
    state: State = msgspec.field(default_factory=State)
    cluster: Cluster = msgspec.field(default_factory=Cluster)

    @property
    def partitions(self) -> int | None:
        """How many it has; None if Nexus did not make it."""
        number = (self.config.metadata or {}).get(PARTITIONS, "")
        return int(number) if number.isdigit() else None

    @property
    def servers(self) -> set[str]:
        """Names of all servers that have a copy."""
        return {self.cluster.leader, *(peer.name for peer in self.cluster.replicas)} - {""}

    @property
    def forgets(self) -> bool:
        """Whether the server forgets the oldest events by itself."""
        return self.config.max_age > 0 or self.config.max_bytes > 0


class Message(msgspec.Struct):
    """A stored message."""

    seq: int = 0
    subject: str = ""
    data: str = ""


class Found(Answer):
    """One stored message."""

    message: Message = msgspec.field(default_factory=Message)


class StreamNames(Answer):
    """A page of the names of streams."""

    total: int = 0
    limit: int = 1024
    streams: list[str] | None = None


class Floors(msgspec.Struct):
    """What was forgotten on request, and where that is recorded."""

    floors: dict[int, tuple[int, int]]
    """Per partition: below where nothing is kept, and one above the last event that was there."""
    recorded_at: int = 0

    def first(self, partition: int) -> int:
        """The lowest position that may be kept."""
        return self.floors.get(partition, (0, 0))[0]

    def lost(self, partition: int) -> int:
        """One above the last event that was forgotten."""
        return self.floors.get(partition, (0, 0))[1]


class Streams:
    """Asks about and changes the streams of a store."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings

    async def create(self, names: Names, spec: TopicSpec) -> Info:
        """Make a stream, or give the one that is there its new retention. Raises `SettingsError`, `StoreFull`."""
        info = await self.find(names)
        if info is None:
            info = await self._make(names, spec)
        if info.partitions != spec.partitions:
            has = f"{info.partitions} partitions" if info.partitions else "none of Nexus' making"
            raise SettingsError(f"topic {spec.name} has {has}, not {spec.partitions} partitions")
        wished = self._retention(spec)
        if all(getattr(info.config, name) == value for name, value in wished.items()):
            return info
        return await self._update(names, wished)

    async def _make(self, names: Names, spec: TopicSpec) -> Info:
        config = {
            "name": names.stream,
            "description": f"topic {spec.name} of Nexus",
            "subjects": [names.subjects],
            "retention": "limits",
            "discard": "old",
            "storage": self._settings.storage,
            "allow_direct": True,
            "allow_atomic": True,
            "allow_rollup_hdrs": True,
            "metadata": {PARTITIONS: str(spec.partitions)},
            **self._retention(spec),
        }
        for replicas in (self._settings.replicas,) if self._settings.replicas else (3, 1):
            try:
                return await self._connection.api(
                    f"STREAM.CREATE.{names.stream}", {**config, "num_replicas": replicas}, Info
                )
            except Refused as refused:
                if refused.error.err_code == IN_USE:  # another process was faster
                    return await self.info(names)
                if _too_few_servers(refused.error) and self._settings.replicas is None and replicas > 1:
                    continue
                if refused.error.err_code in FULL:
                    raise StoreFull(str(refused)) from refused
                raise SettingsError(
                    f"topic {spec.name} cannot be made: {refused.error.description}",
                    hint="the server must be 2.12 or newer, with JetStream, and let this user make streams",
                ) from refused
        raise AssertionError("the loop returns or raises")

    def _retention(self, spec: TopicSpec) -> dict[str, int]:
        age = 0 if spec.retention_age_s is None else max(int(spec.retention_age_s * SECOND), SECOND // 10)
        window = self._settings.dedup_s if spec.dedup else _JOURNAL_DEDUP_FACTOR * self._settings.timeout_s
        dedup = int(window * SECOND)
        return {
            "max_age": age,
            "max_bytes": -1 if spec.retention_bytes is None else max(spec.retention_bytes, 1),
            "duplicate_window": min(dedup, age) if age else dedup,  # the server takes no window longer than the age
        }

    async def _update(self, names: Names, changes: dict[str, int]) -> Info:
        """Change the configuration and leave alone what this version does not know."""
        whole = await self._connection.api(f"STREAM.INFO.{names.stream}", None, dict[str, Any])
        config = {**whole["config"], **changes}
        return await self._connection.api(f"STREAM.UPDATE.{names.stream}", config, Info)

    async def find(self, names: Names) -> Info | None:
        """What the server says about a stream; None if there is none."""
        try:
            return await self._connection.api(f"STREAM.INFO.{names.stream}", None, Info)
        except Refused as refused:
            if refused.error.err_code == NO_STREAM:
                return None
            raise

    async def info(self, names: Names) -> Info:
        """What the server says about a stream. Raises `UnknownTopic`."""
        info = await self.find(names)
        if info is None or info.partitions is None:
            raise UnknownTopic(f"there is no topic {names.topic}", hint="topics are made by `create`")
        return info

    async def topics(self) -> list[str]:
        """Names of all topics."""
        found: list[str] = []
        while True:
            request = {"subject": all_subjects(self._settings.prefix), "offset": len(found)}
            page = await self._connection.api("STREAM.NAMES", request, StreamNames)
            found += page.streams or []
            if not page.streams or len(found) >= page.total:
                break
        topics = (topic_of(self._settings.prefix, stream) for stream in found)
        return [topic for topic in topics if topic is not None]

    async def last(self, names: Names, partition: int) -> int:
        """Position of the last kept event of a partition, of all appended before the call; 0 without one.

        Asked of the leader: a direct get may be answered by a copy that is behind.
        """
        found = await self._get(names, {"last_by_subj": names.subject(partition)})
        return 0 if found is None else found.seq

    async def lasts(self, names: Names, partitions: Sequence[int]) -> list[int]:
        return await asyncio.gather(*(self.last(names, partition) for partition in partitions))

    async def first_from(self, names: Names, partition: int, time: str) -> int:
        """Position of the first kept event stored at ``time`` (RFC 3339) or later; 0 without one."""
        found = await self._get(names, {"start_time": time, "next_by_subj": names.subject(partition)})
        return 0 if found is None else found.seq

    async def partition_of(self, names: Names, position: int) -> int | None:
        """The partition of a stored event; None when it is gone."""
        found = await self._get(names, {"seq": position})
        word = found.subject.rpartition(".")[2] if found is not None else ""
        return int(word) if word.isdigit() else None

    async def _get(self, names: Names, request: dict[str, Any]) -> Message | None:
        try:
            answer = await self._connection.api(f"STREAM.MSG.GET.{names.stream}", request, Found)
        except Refused as refused:
            if refused.error.err_code == NO_MESSAGE:
                return None
            if refused.error.err_code == NO_STREAM:
                raise UnknownTopic(f"there is no topic {names.topic}") from refused
            raise
        return answer.message

    async def floors(self, names: Names) -> Floors:
        """Below which positions events were forgotten on request."""
        found = await self._get(names, {"last_by_subj": names.floors})
        if found is None:
            return Floors({})
        return Floors(decode(base64.b64decode(found.data), dict[int, tuple[int, int]]), found.seq)

    async def last_below(self, names: Names, partition: int, before: int) -> int:
        """Position of the last kept event of a partition below a position; 0 without one."""
        low, high = 0, before  # by halves: each question names the first event from a position on
        while low < high - 1:
            middle = (low + high) // 2
            found = await self._get(names, {"seq": middle, "next_by_subj": names.subject(partition)})
            if found is None or found.seq >= before:
                high = middle
            else:
                low = found.seq
        return low

    async def raise_floor(self, names: Names, partition: int, floor: int, lost: int) -> bool:
        """Record that events below ``floor`` are forgotten; False if that is said already.

        Recorded before they are removed, so that nobody finds them missing without being told.
        """
        while True:
            floors = await self.floors(names)
            if floors.first(partition) >= floor:
                return False
            body = msgspec.json.encode({**floors.floors, partition: (floor, max(lost, floors.lost(partition)))})
            headers = (
                f"NATS/1.0\r\nNats-Rollup: sub\r\nNats-Expected-Last-Subject-Sequence: {floors.recorded_at}\r\n\r\n"
            ).encode()
            try:
                answer = await self._publish(names.floors, headers, body)
            except Down:
                continue  # stored or not: the floors say so
            error = answer.error
            if error is None:
                return True
            if error.err_code in FULL:
                raise StoreFull(f"topic {names.topic}: {error.description}")
            if error.err_code not in WRONG_LAST and not error.passes:
                raise Refused(names.floors, error)

    async def _publish(self, subject: str, headers: bytes, body: bytes) -> Answer:
        reply, future = self._connection.expect()
        try:
            total = len(headers) + len(body)
            line = b"HPUB %s %s %d %d\r\n" % (subject.encode(), reply, len(headers), total)
            self._connection.send(b"".join((line, headers, body, b"\r\n")))
            async with asyncio.timeout(5):
                arrived = await future
        except TimeoutError:
            raise Down("no answer came") from None
        finally:
            self._connection.forget(reply)
        if arrived is None or status(arrived[0])[0] == NO_RESPONDERS:
            raise Down("no answer came")
        return decode(arrived[1], Answer)

    async def purge(self, names: Names, partition: int, before: int) -> None:
        """Remove the events of a partition below a position."""
        request = {"filter": names.subject(partition), "seq": before}
        await self._connection.api(f"STREAM.PURGE.{names.stream}", request, Answer)


MORE_DURABLE = (
    "replicas=3 on three servers gives 'replicated', sync_interval: always on each of them, with monitor= in the URL "
    "to see it, gives 'disk'"
)


def durability_of(config: Config, servers: set[str], synced: set[str]) -> Durability:
    """What survives, given which servers have a copy and which of all were seen to sync before they answer."""
    if config.persist_mode == "async":
        return "none"  # the server answers before it has written
    on_disk = config.storage == "file" and bool(servers) and servers <= synced
    if config.num_replicas >= 3:
        return "replicated+disk" if on_disk else "replicated"
    if config.storage != "file":
        return "memory"
    return "disk" if on_disk else "process"


def _too_few_servers(error: ApiError) -> bool:
    return error.err_code in (NO_PEERS, 10074) or "replicas" in error.description
