"""Partitioning is frozen: these vectors may never change."""

from __future__ import annotations

import pytest

from nexus.core.partition import partition_of, partition_of_keyless


@pytest.mark.parametrize(
    ("key", "partitions", "expected"),
    [("", 16, 0), ("a", 16, 3), ("N14228", 16, 14), ("order-1", 16, 15), ("ключ", 16, 10), ("鍵", 7, 3), ("a", 1, 0)],
)
def test_golden_vectors(key: str, partitions: int, expected: int) -> None:
    assert partition_of(key, partitions) == expected


def test_an_event_without_key_goes_by_source_and_id() -> None:
    assert partition_of_keyless("/shop", "1", 16) == partition_of("/shop1", 16)
    assert len({partition_of_keyless("/shop", str(n), 16) for n in range(200)}) == 16
