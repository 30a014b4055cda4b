"""How an event becomes a row: a checksum, then the event as MessagePack.

The checksum (CRC-32) covers the store, the topic and the row's place as well as the content, so that a row that is
whole but stands in the wrong place (a page of another file, a flipped bit in a key) is found like one that is damaged.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Any
from zlib import adler32, crc32

import msgspec

from nexus.errors import CorruptData
from nexus.event import JSON, Event

POSITION_BITS = 40
POSITION_MASK = (1 << POSITION_BITS) - 1
_pack_place = Struct("<qqdq").pack
_number = Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event[Any])

encode_event = _encoder.encode
"""The event's content as bytes; what a row holds behind its checksum."""


def topic_seed(store: bytes, topic: str) -> int:
    """Where the checksums of a topic's rows start."""
    return crc32(topic.encode(), crc32(store))


def seal_row(seed: int, seq: int, place: int, at: float, total: int, content: bytes) -> bytes:
    """Put the checksum before the content."""
    return crc32(content, crc32(_pack_place(seq, place, at, total), seed)).to_bytes(4, "little") + content


def open_row(seed: int, topic: str, seq: int, place: int, at: float, total: int, row: bytes) -> Event[Any]:
    """Check a row and return its event. Raises `CorruptData` naming topic, partition and position."""
    content = row[4:]
    try:
        if crc32(content, crc32(_pack_place(seq, place, at, total), seed)) == _number.unpack_from(row)[0]:
            return _decoder.decode(content)
    except Exception as error:  # a damaged column may have any type
        raise damaged(topic, place >> POSITION_BITS, place & POSITION_MASK) from error
    raise damaged(topic, place >> POSITION_BITS, place & POSITION_MASK)


def damaged(topic: str, partition: int, position: int) -> CorruptData:
    """Make the error for an event that is not as it was written."""
    error = CorruptData(
        f"topic {topic!r}, partition {partition}, position {position}: the stored event is damaged",
        hint="restore the file from a copy, or trim the topic above this position to go on without the event",
    )
    error.__dict__.update(topic=topic, partition=partition, position=position)
    return error


def checksum(*parts: object) -> int:
    """Checksum of a small row that is not an event, such as a cursor."""
    return crc32(repr(parts).encode())


def id_number(source: str, id: str) -> int:
    """A number of 63 bits for (source, id); equal ids have equal numbers, different ones nearly always different.

    Ids that begin with their time (UUIDv7) get numbers that begin with it too: they then land side by side in the
    table of ids, and a commit of 100 events touches one page of it, not 100.
    """
    if len(id) == 36 and id[14] == "7":
        try:
            time_ms = int(id[:8] + id[9:13], 16)
        except ValueError:
            pass
        else:
            return (time_ms & 0xFFFFFFFFFF) << 23 | crc32(id.encode(), _source_number(source)) >> 9
    digest = blake2b(f"{len(source)}:{source}{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@lru_cache(1024)
def _source_number(source: str) -> int:
    return crc32(source.encode())


def fact_number(event: Event[Any]) -> int:
    """Checksums of an event's id (upper 31 bits) and of what makes it the same fact (lower 32).

    Together they decide about a duplicate whose first event is trimmed; see `nexus.core.envelope.same_content`.
    """
    head = event.type if event.key is None else f"{event.type}\0{event.key}"
    if event.tenant is not None or event.subject is not None or event.datacontenttype != JSON:
        head = f"{head}\1{event.tenant!r}\1{event.subject!r}\1{event.datacontenttype}"
    return (adler32(event.id.encode()) & 0x7FFFFFFF) << 32 | crc32(event.body, crc32(head.encode()))
