"""Ids rise, whatever the clock does."""

from __future__ import annotations

import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.ids import Uuid7


@given(st.lists(st.integers(0, 2**48 - 3), min_size=2, max_size=50), st.integers(0, 2**32))
def test_ids_rise_and_are_version_7(times: list[int], seed: int) -> None:
    make = Uuid7(random.Random(seed).getrandbits)
    ids = [make(unix_ms) for unix_ms in times]
    assert ids == sorted(set(ids))
    for id in ids:
        parsed = uuid.UUID(id)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, id)


def test_a_full_counter_borrows_from_the_next_millisecond() -> None:
    make = Uuid7(lambda bits: 0)
    first = make(1)
    make._counter = 2**48 - 1
    assert make(1) > first
    assert make(0).startswith("00000000-0002-7000-8000-")


def test_the_time_can_be_read_from_an_id() -> None:
    assert Uuid7(lambda bits: 0)(0x0123456789AB).startswith("01234567-89ab-7000-8000-")
