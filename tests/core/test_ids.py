"""Ids rise, whatever the clock does."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.ids import Uuid7


@given(st.lists(st.tuples(st.integers(0, 2**48 - 3), st.integers(0, 2**73 - 1)), min_size=2, max_size=50))
def test_ids_rise_and_are_version_7(calls: list[tuple[int, int]]) -> None:
    make = Uuid7()
    ids = [make(unix_ms, dice) for unix_ms, dice in calls]
    assert ids == sorted(set(ids))
    for id in ids:
        parsed = uuid.UUID(id)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, id)


def test_a_full_counter_borrows_from_the_next_millisecond() -> None:
    make = Uuid7()
    first = make(1, 2**73 - 1)
    make._counter = 2**74 - 1
    assert make(1, 5) > first
    assert make(0, 5).startswith("00000000-0002-7000")


def test_the_time_can_be_read_from_an_id() -> None:
    id = Uuid7()(0x0123456789AB, 0)
    assert id.startswith("01234567-89ab-7000-8000-")
