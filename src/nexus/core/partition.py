"""Which partition an event belongs to: CRC-32 of its key, the same on every backend and for foreign producers.

>>> partition_of("N14228", 16)
14

The function is frozen: changing it would break the order of every key that is stored. Golden vectors stand in
``tests/core/test_partition.py``. It equals librdkafka's ``partitioner=consistent``.
"""

from __future__ import annotations

from zlib import crc32


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key, CRC-32 (ISO 3309) of its UTF-8 bytes modulo the number of partitions."""
    return crc32(key.encode()) % partitions


def partition_of_keyless(source: str, id: str, partitions: int) -> int:
    """Return the partition of an event without key: by (source, id), so that a resent event meets its first copy."""
    return crc32(id.encode(), crc32(source.encode())) % partitions
