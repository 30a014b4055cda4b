"""The frames of RabbitMQ's stream protocol that a log needs, as bytes.

A frame is its length, a command, a version and what the command says. Answers to requests repeat the request's number.
rstream's own client reads 256 bytes at a time, forgets who waits when a connection breaks, and cannot ask for a
stream's end; so the protocol is spoken here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import msgspec

from nexus.errors import CorruptData

DECLARE_PUBLISHER, PUBLISH, CONFIRM, PUBLISH_ERROR, DELETE_PUBLISHER = 1, 2, 3, 4, 6
SUBSCRIBE, DELIVER, CREDIT, UNSUBSCRIBE = 7, 8, 9, 12
CREATE, DELETE, METADATA, METADATA_UPDATE, STATS = 13, 14, 15, 16, 28
PEER_PROPERTIES, SASL_HANDSHAKE, SASL_AUTHENTICATE, TUNE, OPEN, CLOSE, HEARTBEAT = 17, 18, 19, 20, 21, 22, 23
ANSWER = 0x8000

OK, NO_STREAM, STREAM_EXISTS, NOT_AVAILABLE = 1, 2, 5, 6
AUTHENTICATION_FAILED, VHOST_ACCESS, ACCESS_REFUSED, PRECONDITION_FAILED = 8, 12, 16, 17
REASONS = {
    2: "the stream does not exist", 3: "the subscription id is in use", 4: "there is no such subscription",
    5: "the stream exists", 6: "the stream is not available", 7: "the login mechanism is not supported",
    8: "the login failed", 9: "a login error", 10: "a login challenge", 11: "the login failed for this address",
    12: "the virtual host is not open to this user", 13: "an unknown frame", 14: "the frame is too large",
    15: "an internal error", 16: "access is refused", 17: "a precondition failed", 18: "there is no such publisher",
}  # fmt: skip

FIRST, LAST, NEXT, OFFSET, TIMESTAMP = 1, 2, 3, 4, 5
MESSAGE_OVERHEAD = 12
"""Bytes of a frame that each message takes beside itself."""
PUBLISH_OVERHEAD = 13

_CHUNK = struct.Struct(">bbHIqQQIIII")
_ENTRY = struct.Struct(">QI")


class Chunk(msgspec.Struct, gc=False):
    """Records that the broker has written together, at one time."""

    first: int
    """Position of the first record."""
    end: int
    recorded_at: float
    size: int
    records: list[bytes]


def frame(command: int, body: bytes, version: int = 1) -> bytes:
    """Put a frame's head before its body."""
    return struct.pack(">IHH", len(body) + 4, command, version) + body


def text(value: str) -> bytes:
    """Write a text of at most 32,767 bytes."""
    raw = value.encode()
    return len(raw).to_bytes(2, "big") + raw


def pairs(values: dict[str, str]) -> bytes:
    """Write texts by name."""
    return len(values).to_bytes(4, "big") + b"".join(text(name) + text(value) for name, value in values.items())


def publish(publisher: int, messages: Sequence[tuple[int, bytes]]) -> bytes:
    """Write messages under their publishing ids."""
    size = sum(len(record) for _, record in messages) + MESSAGE_OVERHEAD * len(messages)
    parts = [struct.pack(">IHHBI", size + 9, PUBLISH, 1, publisher, len(messages))]
    pack = _ENTRY.pack
    for number, record in messages:
        parts.append(pack(number, len(record)))
        parts.append(record)
    return b"".join(parts)


def subscribe(subscription: int, stream: str, spec: int, value: int, credit: int) -> bytes:
    """Write what a subscription wants; ``value`` counts for `OFFSET` and `TIMESTAMP` only."""
    at = struct.pack(">HQ", spec, value) if spec in (OFFSET, TIMESTAMP) else struct.pack(">H", spec)
    return bytes([subscription]) + text(stream) + at + struct.pack(">HI", credit, 0)


class Body:
    """Reads the body of an answer from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int, *, signed: bool = False) -> int:
        """Read a number of so many bytes."""
        self._at += size
        if self._at > len(self._data):
            raise CorruptData("RabbitMQ sent a frame that is cut off")
        return int.from_bytes(self._data[self._at - size : self._at], "big", signed=signed)

    def text(self) -> str:
        """Read a text; a missing one is empty."""
        size = self.number(2, signed=True)
        self._at += max(size, 0)
        return self._data[self._at - max(size, 0) : self._at].decode(errors="replace")

    def pairs(self) -> dict[str, str]:
        """Read texts by name."""
        return {self.text(): self.text() for _ in range(self.number(4))}


class Member(msgspec.Struct, frozen=True):
    """Where a stream is."""

    code: int
    leader: tuple[str, int] | None
    replicas: int
    """How many nodes have it, the leader's too."""
    nodes: int
    """How many nodes the broker has named."""


def read_metadata(data: bytes) -> dict[str, Member]:
    """Read where streams are."""
    body = Body(data)
    nodes: dict[int, tuple[str, int]] = {}
    for _ in range(body.number(4)):
        reference = body.number(2)
        nodes[reference] = body.text(), body.number(4)
    found = {}
    for _ in range(body.number(4)):
        stream, code, leader = body.text(), body.number(2), body.number(2)
        replicas = {body.number(2) for _ in range(body.number(4))}
        known = replicas & nodes.keys() | ({leader} & nodes.keys())
        found[stream] = Member(code, nodes.get(leader), len(known), len(nodes))
    return found


def read_nodes(data: bytes) -> list[tuple[str, int]]:
    """Read the addresses of the nodes that were named beside where streams are."""
    body = Body(data)
    nodes = []
    for _ in range(body.number(4)):
        body.number(2)
        nodes.append((body.text(), body.number(4)))
    return nodes


def read_stats(data: bytes) -> dict[str, int]:
    """Read numbers by name."""
    body = Body(data)
    return {body.text(): body.number(8, signed=True) for _ in range(body.number(4))}


def read_chunk(data: bytes, at: int) -> Chunk | None:
    """Read a delivered chunk; None if it holds no users' records. Raises `CorruptData` if its checksum is wrong."""
    if len(data) < at + _CHUNK.size:
        raise CorruptData("RabbitMQ sent a chunk that is cut off")
    _, kind, entries, count, time_ms, _, first, crc, size, _, _ = _CHUNK.unpack_from(data, at)
    at += _CHUNK.size
    stored = data[at : at + size]
    if kind != 0:
        return None
    if len(stored) != size or zlib.crc32(stored) != crc:
        raise CorruptData(f"RabbitMQ sent a damaged chunk at position {first}")
    return Chunk(first, first + count, time_ms / 1000, size, _records(stored, entries, first))


def _records(data: bytes, entries: int, first: int) -> list[bytes]:
    records: list[bytes] = []
    at = 0
    for _ in range(entries):
        kind = data[at]
        if kind & 0x80:
            at = _sub_batch(data, at, records)
        else:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > len(data):
                raise CorruptData(f"RabbitMQ sent a chunk that is cut off, at position {first}")
            records.append(data[at + 4 : end])
            at = end
    return records


def _sub_batch(data: bytes, at: int, records: list[bytes]) -> int:
    """Read messages that a foreign producer has put into one entry, plain or by gzip."""
    codec = (data[at] & 0x70) >> 4
    count, plain_size, size = struct.unpack_from(">HII", data, at + 1)
    at += 11
    packed = data[at : at + size]
    plain = packed if codec == 0 else _inflated(packed, plain_size) if codec == 1 else None
    found: list[bytes] = []
    if plain is not None:
        start = 0
        while start + 4 <= len(plain) and len(found) < count:
            end = start + 4 + int.from_bytes(plain[start : start + 4], "big")
            found.append(plain[start + 4 : end])
            start = end
    if len(found) != count:  # by a codec that is not known here: one foreign record holds all, the others nothing
        found = [packed, *[b""] * (count - 1)]
    records.extend(found)
    return int(at + size)


def _inflated(packed: bytes, size: int) -> bytes | None:
    try:
        return zlib.decompressobj(31).decompress(packed, max(size, 1))
    except zlib.error:
        return None
