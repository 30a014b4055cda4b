"""What is pending, when it is due, and what of the journal is still needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nexus.core import delays
from nexus.core.delays import CARRY_FROM, Delays, Drop, Fired, Later, Now, Record, Ticked
from nexus.event import Event


def later(id: str, due: float, body: bytes = b"") -> Later:
    return Later(due, "t", 0, Event(id, "/s", "t", datetime(2013, 1, 1, tzinfo=UTC), body=body))


def folded(*records: Record, keep_bytes: int = 100) -> Delays:
    fold = Delays(0, keep_bytes)
    for place, record in enumerate(records):
        fold.apply(place, record)
    return fold


def ids(found: list[tuple[str, Any]]) -> list[str]:
    return [id for id, _ in found]


def test_what_is_due_comes_in_the_order_of_its_times_and_once() -> None:
    fold = folded(later("a", 5.0), later("b", 3.0), later("c", 9.0))
    assert fold.next_at == 3.0
    assert ids(fold.due(6.0, 1)) == ["b"]
    assert ids(fold.due(6.0, 10)) == ["a"]
    assert fold.due(6.0, 10) == []
    assert fold.next_at == 9.0


def test_what_is_gone_or_has_another_time_by_now_is_not_due() -> None:
    fold = folded(later("a", 5.0), later("b", 6.0), Drop("a"), later("b", 50.0), later("c", 7.0))
    assert ids(fold.due(10.0, 10)) == ["c"]


def test_what_was_not_published_is_due_again() -> None:
    fold = folded(later("a", 5.0), later("b", 5.0))
    taken = fold.due(6.0, 10)
    fold.apply(2, Fired("a"))
    fold.again(taken)
    assert ids(fold.due(6.0, 10)) == ["b"]


def test_what_is_dropped_or_fired_is_gone_and_what_is_wanted_now_is_due() -> None:
    fold = folded(later("a", 5.0), later("b", 6.0), later("c", 7.0), Drop("a"), Fired("b"), Now("c"), Now("x"))
    assert fold.next_at == 0.0
    assert ids(fold.due(1.0, 10)) == ["c"]
    assert fold.next_at is None


def test_of_two_with_one_id_the_last_holds() -> None:
    fold = folded(later("a", 5.0), later("a", 8.0))
    assert (len(fold.pending), fold.next_at, fold.low) == (1, 8.0, 1)


def test_events_are_kept_in_memory_up_to_a_bound_and_found_at_their_places_beyond() -> None:
    fold = folded(later("a", 5.0, b"x" * 60), later("b", 6.0, b"x" * 60))
    assert fold.pending["a"].later is not None
    assert (fold.pending["b"].later, fold.pending["b"].place) == (None, 1)
    fold.apply(2, Fired("a"))
    fold.apply(3, later("c", 6.0, b"x" * 60))
    assert fold.pending["c"].later is not None


def test_the_journal_is_needed_from_the_oldest_that_is_pending_or_ticked_on() -> None:
    fold = folded(later("a", 5.0), Ticked("daily", 1.0), later("b", 6.0), Fired("a"))
    assert fold.low == 1
    assert fold.ticks == {"daily": (1.0, 1)}
    fold.apply(4, Ticked("daily", 2.0))
    assert fold.low == 2
    fold.apply(5, Fired("b"))
    assert fold.low == 4


def test_without_anything_pending_nothing_is_needed() -> None:
    assert folded(later("a", 5.0), Fired("a")).low == 2


def test_old_ones_are_carried_forward_when_most_of_the_journal_is_needed_no_more() -> None:
    fold = folded(later("old", 5.0), later("now", 5.0), Now("now"))
    assert fold.stale(10) == []
    for place in range(3, CARRY_FROM + 10, 2):
        fold.apply(place, later("x", 1.0))
        fold.apply(place + 1, Fired("x"))
    assert ids(fold.stale(10)) == ["old"]


records = st.one_of(
    st.builds(later, st.sampled_from("abc"), st.floats(0, 9)),
    st.builds(Drop, st.sampled_from("abc")),
    st.builds(Now, st.sampled_from("abc")),
    st.builds(Fired, st.sampled_from("abc")),
    st.builds(Ticked, st.sampled_from("de"), st.floats(0, 9)),
)


@given(st.lists(records, max_size=30))
def test_who_begins_at_the_lowest_place_that_is_needed_sees_the_same(history: list[Record]) -> None:
    fold = folded(*history)
    again = Delays(fold.low, 100)
    for place in range(fold.low, len(history)):
        again.apply(place, history[place])
    assert {id: (p.due, p.place) for id, p in again.pending.items()} == {
        id: (p.due, p.place) for id, p in fold.pending.items()
    }
    assert again.ticks == fold.ticks
    assert again.next_at == fold.next_at


@given(records)
def test_records_are_read_as_written(record: Record) -> None:
    assert delays.decode(delays.encode(record)) == record
