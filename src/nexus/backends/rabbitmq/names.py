"""What a partition is called on the broker: ``<prefix>.<topic>.<partition>``, and back.

A prefix has no dot, so the topic is what stands between the first dot and the last. Letters, digits and ``. _ -`` of a
topic stay as they are; every other byte of its UTF-8 is written ``~xx``, so that RabbitMQ's own tools take the name
without quoting.

>>> stream_of("nexus", "orders.placed", 3)
'nexus.orders.placed.3'
>>> stream_of("nexus", "a/ü", 0)
'nexus.a~2f~c3~bc.0'
>>> partition_of("nexus.a~2f~c3~bc.0")
('nexus', 'a/ü', 0)
"""

from __future__ import annotations

import re

from nexus.errors import SettingsError

LIMIT_BYTES = 200
"""Longest name of a stream. RabbitMQ makes a folder of the name, the virtual host and a time: 255 bytes in all."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_NAME = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9._~-]+)\.(0|[1-9][0-9]*)\Z")


def stream_of(prefix: str, topic: str, partition: int) -> str:
    """Name the stream of a partition. Raises `SettingsError` when that is too long for the broker."""
    if not topic:
        raise SettingsError("a topic needs a name")
    encoded = "".join(chr(byte) if byte in _PLAIN else f"~{byte:02x}" for byte in topic.encode())
    name = f"{prefix}.{encoded}.{partition}"
    if len(name) > LIMIT_BYTES:
        raise SettingsError(
            f"topic {topic!r} makes a stream's name of {len(name)} bytes; RabbitMQ takes {LIMIT_BYTES}",
            hint="choose a shorter name or prefix",
        )
    return name


def partition_of(stream: str) -> tuple[str, str, int] | None:
    """Return prefix, topic and partition of a stream's name; None if no topic makes such a name."""
    match = _NAME.match(stream)
    if match is None:
        return None
    prefix, encoded, partition = match.groups()
    try:
        topic = re.sub(rb"~([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), encoded.encode()).decode()
    except UnicodeDecodeError:
        return None
    try:
        return (prefix, topic, int(partition)) if stream_of(prefix, topic, int(partition)) == stream else None
    except SettingsError:
        return None


def registry_of(prefix: str) -> str:
    """Name the stream that lists the topics of a store; no partition has this name, as none ends in a word."""
    return f"{prefix}.topics"
