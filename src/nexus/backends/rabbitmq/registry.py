"""Which topics a store has: a small stream of records, as the stream protocol has no way to list streams.

The first record of a topic decides its number of partitions; later ones can only change its retention. Everybody reads
the same records in the same order, so everybody agrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from nexus.backends.rabbitmq.amqp import Message, Unreadable, decode, encode
from nexus.backends.rabbitmq.settings import Settings
from nexus.spi.backend import TopicSpec

_RECORD = "nexus.topic"


class Entry(msgspec.Struct, frozen=True):
    """A topic, as the registry has it."""

    name: str
    partitions: int
    retention_age_s: float | None = None
    retention_bytes: int | None = None


def entry_of(topic: TopicSpec) -> Entry:
    """What is recorded of a topic."""
    return Entry(topic.name, topic.partitions, topic.retention_age_s, topic.retention_bytes)


def to_record(entry: Entry) -> bytes:
    """Write an entry as a message that RabbitMQ's tools can show."""
    return encode({"type": _RECORD}, "application/json", msgspec.json.encode(entry))


def from_record(record: bytes) -> Entry | None:
    """Read an entry; None if the record is none."""
    try:
        message: Message = decode(record)
        if message.application.get("type") != _RECORD:
            return None
        entry = msgspec.json.decode(message.body, type=Entry)
    except (Unreadable, msgspec.DecodeError):
        return None
    return entry if entry.name and entry.partitions > 0 else None


def retention_of(settings: Settings, topic: TopicSpec) -> dict[str, str]:
    """Return the arguments of a topic's streams: retention goes by whole segments, and each stream has its share."""
    arguments = {"queue-leader-locator": "balanced"}
    segment = settings.segment_bytes
    if topic.retention_bytes is not None:
        share = max(1, topic.retention_bytes // topic.partitions)
        arguments["max-length-bytes"] = str(share)
        segment = max(4096, min(segment, share // settings.retention_segments))
    if topic.retention_age_s is not None:
        arguments["max-age"] = f"{max(1, math.ceil(topic.retention_age_s))}s"
    arguments["stream-max-segment-size-bytes"] = str(segment)
    return arguments


class Registry:
    """What the records fold to."""

    def __init__(self) -> None:
        self.topics: dict[str, Entry] = {}
        self.next = 0
        """Position of the first record that was not folded in."""

    def fold_in(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Take records with their positions, in order; those that were taken before are passed over."""
        for position, record in records:
            if position < self.next:
                continue
            self.next = position + 1
            entry = from_record(record)
            if entry is None:
                continue
            known = self.topics.get(entry.name)
            if known is None or entry.partitions == known.partitions:
                self.topics[entry.name] = entry
