"""What is pending, when it is due, and what of the journal is still needed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nexus.core import delays
from nexus.core.delays import CARRY_FROM, Carried, Delays, Drop, Fired, Later, Now, Record, Tick, Ticked, Void
from nexus.event import Event


def later(id: str, due: float, body: bytes = b"") -> Later:
    return Later(due, "t", 0, Event(id, "/s", "t", datetime(2013, 1, 1, tzinfo=UTC), body=body))


def folded(*records: Record, keep_bytes: int = 100) -> Delays:
    fold = Delays(0, keep_bytes)
    for place, record in enumerate(records):
        fold.apply(place, record)
    return fold


def ids(found: list[tuple[tuple[str, str], Any]]) -> list[str]:
    return [id for (_, id), _ in found]


def test_what_is_due_comes_in_the_order_of_its_times_and_once() -> None:
    fold = folded(later("a", 5.0), later("b", 3.0), later("c", 9.0))
    assert fold.next_at == 3.0
    assert ids(fold.due(6.0, 1)) == ["b"]
    assert ids(fold.due(6.0, 10)) == ["a"]
    assert fold.due(6.0, 10) == []
    assert fold.next_at == 9.0


def test_what_is_gone_or_has_another_time_by_now_is_not_due() -> None:
    fold = folded(later("a", 5.0), later("b", 6.0), Drop("/s", "a"), later("b", 50.0), later("c", 7.0))
    assert ids(fold.due(10.0, 10)) == ["c"]


def test_what_was_not_published_is_due_again() -> None:
    fold = folded(later("a", 5.0), later("b", 5.0))
    taken = fold.due(6.0, 10)
    fold.apply(2, Fired("/s", "a"))
    fold.again(taken)
    assert ids(fold.due(6.0, 10)) == ["b"]


def test_what_is_dropped_or_fired_is_gone_and_what_is_wanted_now_is_due() -> None:
    fold = folded(
        later("a", 5.0),
        later("b", 6.0),
        later("c", 7.0),
        Drop("/s", "a"),
        Fired("/s", "b"),
        Now("/s", "c"),
        Now("/s", "x"),
    )
    assert fold.next_at == 0.0
    assert ids(fold.due(1.0, 10)) == ["c"]
    assert fold.next_at is None


def test_of_two_with_one_id_the_last_holds() -> None:
    fold = folded(later("a", 5.0), later("a", 8.0))
    assert (len(fold.pending), fold.next_at, fold.low) == (1, 8.0, 1)


def test_events_are_kept_in_memory_up_to_a_bound_and_found_at_their_places_beyond() -> None:
    fold = folded(later("a", 5.0, b"x" * 60), later("b", 6.0, b"x" * 60))
    assert fold.pending["/s", "a"].later is not None
    assert (fold.pending["/s", "b"].later, fold.pending["/s", "b"].place) == (None, 1)
    fold.apply(2, Fired("/s", "a"))
    fold.apply(3, later("c", 6.0, b"x" * 60))
    assert fold.pending["/s", "c"].later is not None


def test_the_journal_is_needed_from_the_oldest_that_is_pending_or_ticked_on() -> None:
    fold = folded(later("a", 5.0), Ticked("daily", 1.0), later("b", 6.0), Fired("/s", "a"))
    assert fold.low == 1
    assert fold.ticks == {"daily": Tick(1.0, 1, 2)}
    fold.apply(4, Ticked("daily", 2.0))
    assert fold.low == 2
    fold.apply(5, Fired("/s", "b"))
    assert fold.low == 4


def test_without_anything_pending_nothing_is_needed() -> None:
    assert folded(later("a", 5.0), Fired("/s", "a")).low == 2


def test_events_of_two_sources_may_have_one_id() -> None:
    other = msgspec.structs.replace(later("a", 7.0), event=Event("a", "/other", "t", datetime(2013, 1, 1, tzinfo=UTC)))
    fold = folded(later("a", 5.0), other, Drop("/s", "a"))
    assert list(fold.pending) == [("/other", "a")]


def busy(fold: Delays, count: int = CARRY_FROM) -> Delays:
    """Let so many events come and go."""
    for place in range(fold.place, fold.place + count, 2):
        fold.apply(place, later("x", 1.0))
        fold.apply(place + 1, Fired("/s", "x"))
    return fold


def test_old_ones_are_carried_forward_when_most_of_the_journal_is_needed_no_more() -> None:
    fold = folded(later("old", 5.0), later("now", 5.0), Now("/s", "now"), Ticked("daily", 1.0))
    assert fold.stale(10) == ([], [])
    busy(fold)
    stale, ticks = fold.stale(10)
    assert (ids(stale), ticks) == (["old", "now"], [Ticked("daily", 1.0)])
    for _, pending in stale:
        assert pending.later is not None
        carried = Carried(pending.place, msgspec.structs.replace(pending.later, due=pending.due))
        assert fold.apply(fold.place, carried)
    fold.apply(fold.place, ticks[0])
    assert fold.low == fold.place - 3
    assert (fold.stale(10), ids(fold.due(9.0, 10))) == (([], []), ["now", "old"])


def test_what_was_dropped_or_wanted_while_it_was_carried_stays_so() -> None:
    fold = folded(later("a", 5.0), later("b", 5.0), Drop("/s", "a"), Now("/s", "b"))
    assert not fold.apply(4, Carried(0, later("a", 5.0)))
    assert not fold.apply(5, Carried(1, later("b", 5.0)))
    assert (ids(fold.due(1.0, 10)), len(fold.pending)) == (["b"], 1)
    begun_between = Delays(1, 100)
    begun_between.apply(2, Drop("/s", "a"))
    assert not begun_between.apply(4, Carried(0, later("a", 5.0)))
    assert begun_between.apply(5, Carried(0, later("c", 5.0))), "nothing was said of this one"


def test_what_was_carried_too_late_is_called_void_and_nothing_else_is() -> None:
    fold = Delays(5, 100)
    assert fold.apply(5, Carried(0, later("a", 5.0))), "what came before is not known here"
    assert not fold.apply(6, Void("/s", "a", 3))
    assert fold.apply(7, Void("/s", "a", 0))
    assert not fold.pending
    fold.apply(8, later("a", 5.0))
    assert not fold.apply(9, Void("/s", "a", 0)), "it was delayed anew"


def test_what_a_schedule_leaves_is_forgotten_with_it() -> None:
    fold = folded(Ticked("daily", 1.0), Ticked("weekly", 2.0), Ticked("weekly", 1.5))
    assert fold.ticks == {"daily": Tick(1.0, 0, 1), "weekly": Tick(2.0, 1, 2)}, "an older one says nothing new"
    fold.forget_ticks({"weekly"})
    assert (list(fold.ticks), fold.low) == (["weekly"], 1)


def test_positions_may_have_gaps_and_the_heaps_have_a_bound() -> None:
    fold = folded(later("far", 1e9))
    for place in range(10, 400_000, 100):
        fold.apply(place, later("x", 1e9 + place))
        fold.apply(place + 1, Drop("/s", "x"))
    assert fold.stale(10) == ([], []), "it is records that count"
    assert len(fold._dues) < 1_100
    assert len(fold._places) < 1_100


def test_what_is_gone_is_remembered_up_to_a_bound() -> None:
    fold = Delays()
    for place in range(12_000):
        fold.apply(place, Drop("/s", str(place)))
    assert len(fold._gone) == 10_000


records = st.one_of(
    st.builds(later, st.sampled_from("abc"), st.floats(0, 9)),
    st.builds(Drop, st.just("/s"), st.sampled_from("abc")),
    st.builds(Now, st.just("/s"), st.sampled_from("abc")),
    st.builds(Fired, st.just("/s"), st.sampled_from("abc")),
    st.builds(Ticked, st.sampled_from("de"), st.floats(0, 9)),
)


@given(st.lists(st.tuples(records, st.sampled_from(["", "", "look", "carry"])), max_size=30))
def test_who_begins_where_an_owner_stored_that_reading_begins_sees_the_same(history: list[tuple[Record, str]]) -> None:
    """An owner stores its low, looks what is stale, and appends that later; others write in between.

    It stores its low again when it has called void what came too late.
    """
    fold = Delays(0, 100)
    written: list[Record] = []
    begins = [0]
    looked: list[Record] = []

    def write(record: Record) -> None:
        fold.apply(len(written), record)
        written.append(record)

    for record, step in history:
        if step == "look" and not looked:
            begins.append(fold.low)
            looked = [
                Carried(one.place, msgspec.structs.replace(one.later, due=one.due))
                for one in fold.pending.values()
                if one.later is not None
            ] + [Ticked(name, tick.at) for name, tick in fold.ticks.items()]
        elif step == "carry":
            for one in looked:
                write(one)
            for one in looked:
                id = (one.later.event.source, one.later.event.id) if isinstance(one, Carried) else None
                if isinstance(one, Carried) and id is not None and id not in fold.pending:
                    write(Void(*id, one.seen))
            looked = []
        write(record)
    if not looked:
        begins.append(fold.low)
    for begin in begins:
        again = Delays(begin, 100)
        for place in range(begin, len(written)):
            again.apply(place, written[place])
        assert {id: (p.due, p.place) for id, p in again.pending.items()} == {
            id: (p.due, p.place) for id, p in fold.pending.items()
        }
        assert {name: tick.at for name, tick in again.ticks.items()} == {
            name: tick.at for name, tick in fold.ticks.items()
        }
        assert again.next_at == fold.next_at


@given(records)
def test_records_are_read_as_written(record: Record) -> None:
    assert delays.decode(delays.encode(record)) == record
