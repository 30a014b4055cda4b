"""Laws of the fold: what is sent twice, comes late or is stale changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.parking import (
    SPOKEN_LIMIT,
    Carry,
    Checkpoint,
    Claim,
    Dead,
    Discard,
    Done,
    Entry,
    Failed,
    Fold,
    Record,
    Requeue,
    Reset,
    Start,
    Unreadable,
    Unstart,
    decode_record,
    encode_record,
    key_state,
)
from nexus.event import Event

from ..delivery.world import view

KEYS: list[Any] = [(None, "a"), ("t", "a"), 7]


def event(position: int) -> Event[Any]:
    return Event(str(position), "/s", "t", datetime(2013, 1, 1, tzinfo=UTC))


def records() -> st.SearchStrategy[Record]:
    epoch, key, position = st.integers(1, 3), st.sampled_from(KEYS), st.integers(0, 6)
    round, attempt = st.integers(0, 2), st.integers(1, 3)
    return st.one_of(
        st.builds(Claim, epoch, st.just("m")),
        st.builds(Entry, epoch, key, position, position.map(event), st.booleans(), st.integers(0, 2)),
        st.builds(Start, epoch, key, position, round, attempt),
        st.builds(Unstart, epoch, key, position, round, attempt),
        st.builds(Failed, epoch, key, position, round, attempt, st.just(5.0)),
        st.builds(Done, epoch, key, position, round),
        st.builds(Dead, epoch, key, position, round, st.just("r")),
        st.builds(Requeue, key, position, round),
        st.builds(Discard, key, position, round),
        st.builds(Checkpoint, epoch, st.integers(0, 4)),
        st.builds(Reset, epoch, st.integers(1, 3), position, st.booleans()),
    )


def folded(history: list[Record]) -> Fold:
    fold = Fold()
    for place, record in enumerate(history):
        fold.apply(place, record)
    return fold


def state(fold: Fold) -> Any:
    return fold.epoch, fold.base, view(fold), {key: known.floor for key, known in fold.keys.items()}, fold.unfinished


@given(st.lists(records(), max_size=40), st.data())
def test_what_is_no_record_changes_nothing(history: list[Record], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(history)))
    fold = Fold()
    for place, record in enumerate([*history[:at], Unreadable(), *history[at:]]):
        taken = fold.apply(place, record)
        assert not (taken and place == at)
    assert fold.place == len(history) + 1
    assert state(fold) == state(folded(history))


@given(st.lists(records(), max_size=40), st.data())
def test_a_record_sent_twice_in_a_row_counts_once(history: list[Record], data: st.DataObject) -> None:
    if not history:
        return
    index = data.draw(st.integers(0, len(history) - 1))
    if isinstance(history[index], Unstart | Failed):
        return  # a copy right behind: Unstart names the attempt, which it has just taken back
    twice = [*history[: index + 1], history[index], *history[index + 1 :]]
    assert state(folded(twice)) == state(folded(history))


@given(st.lists(records(), max_size=40), records())
def test_a_record_of_an_older_epoch_changes_nothing(history: list[Record], late: Record) -> None:
    fold = folded(history)
    fold.apply(len(history), Claim(9, "new"))
    before = state(fold)
    if not isinstance(late, Requeue | Discard):
        assert not fold.apply(fold.place, late)
        assert state(fold) == before


@given(st.lists(records(), max_size=60))
def test_counts_agree_with_what_is_kept(history: list[Record]) -> None:
    fold = folded(history)
    assert fold.unfinished == sum(known.open_count + len(known.dead) for known in fold.keys.values())
    assert fold.dead == sum(len(known.dead) for known in fold.keys.values())
    for known in fold.keys.values():
        opens = list(known.opens())
        assert opens == sorted(opens)
        assert known.lowest_open == (opens[0] if opens else None)
        assert known.finished == (not opens and not known.dead)
        assert {position for position, _ in known.since()} == {*opens, *known.dead}


def spoken_of_in_order(history: list[Record]) -> list[Record]:
    """Without records about entries that were not written yet: no owner and no operator makes them."""
    written: set[Any] = set()
    kept: list[Record] = []
    for record in history:
        about = (getattr(record, "key", None), getattr(record, "position", None))
        if isinstance(record, Entry):
            written.add(about)
        if isinstance(record, Reset):  # an owner writes it behind a claim of its own, and nothing of it comes later
            epoch = 3 + record.number
            kept += [Claim(epoch, "m"), msgspec.structs.replace(record, epoch=epoch)]
            written.clear()
        elif about[1] is None or about in written:
            kept.append(record)
    return kept


@given(st.lists(records(), max_size=60))
def test_a_reader_that_begins_at_the_checkpoint_sees_the_same(history: list[Record]) -> None:
    history = spoken_of_in_order(history)
    fold = folded(history)
    later = Fold(*fold.checkpoint())
    for at in range(later.place, len(history)):
        later.apply(at, history[at])
    assert later.epoch == fold.epoch
    assert later.reset == fold.reset
    assert view(later) == view(fold)
    for key, known in fold.keys.items():
        if known.floor >= fold.base:
            assert later.floor(key) == known.floor


@given(records())
def test_records_are_read_as_written(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


def sent_to(to: int, number: int = 1, *, drop: bool = False) -> Fold:
    """A key with a dead entry and followers at 1 to 5, an unkeyed one at 6; then the group is sent to ``to``."""
    history: list[Record] = [Claim(1, "m"), Entry(1, KEYS[0], 1, event(1), dead=True, attempts=1)]
    history += [Entry(1, KEYS[0], position, event(position)) for position in (2, 3, 4, 5)]
    history += [Entry(1, 6, 6, event(6), attempts=1, due=9.0), Claim(2, "m"), Reset(2, number, to, drop)]
    return folded(history)


def test_who_is_sent_back_forgets_entries_and_floors_from_there_on() -> None:
    fold = sent_to(3)
    assert (fold.reset, fold.reset_to, fold.base, fold.unfinished) == (1, 3, 3, 2)
    assert view(fold) == {KEYS[0]: [(1, (True, 1, 1, 0.0)), (2, (False, 0, 0, 0.0))]}
    assert fold.floor(KEYS[0]) == 2
    assert [position for position in range(8) if fold.holds(KEYS[0], position)] == [1, 2]
    assert not fold.holds(6, 6)
    assert fold.apply(fold.place, Entry(2, KEYS[0], 3, event(3))), "it is delivered, and may be parked, again"
    assert not fold.apply(fold.place, Entry(1, KEYS[0], 5, event(5))), "a late one of the owner before"


def test_who_is_sent_forward_is_still_owed_what_was_parked() -> None:
    fold = sent_to(9)
    assert (fold.base, fold.unfinished) == (9, 6)
    assert not fold.apply(fold.place, Entry(2, KEYS[1], 8, event(8))), "that was skipped"


def test_who_is_sent_past_all_that_is_parked_keeps_the_dead_letters() -> None:
    fold = sent_to(9, drop=True)
    assert view(fold) == {KEYS[0]: [(1, (True, 1, 1, 0.0))]}
    assert fold.unfinished == 1


def test_a_wish_that_was_followed_is_not_followed_twice() -> None:
    fold = sent_to(3)
    assert not fold.apply(fold.place, Reset(2, 1, 5))
    assert fold.apply(fold.place, Reset(2, 2, 5))
    assert fold.reset_to == 5


def test_a_million_followers_cost_16_bytes_each() -> None:
    fold = folded([Claim(1, "m"), Entry(1, (None, "k"), 0, event(0), dead=True)])
    one = event(1)
    for position in range(1, 100_001):
        fold.apply(position + 1, Entry(1, (None, "k"), position, one))
    known = fold.keys[None, "k"]
    assert len(known._waiting) * known._waiting.itemsize + len(known._places) * 8 == 16 * 100_000
    assert len(known.touched) == 1
    assert known.open_count == 100_000
    assert key_state(known, dead_blocks=True) == "blocked"
    fold.apply(200_000, Discard((None, "k"), 0, 1))
    for position in range(1, 60_001):
        fold.apply(200_000 + position, Done(1, (None, "k"), position, 0))
    assert len(known._waiting) < 60_000, "what ran is given back"
    assert known.lowest_open == 60_001


def test_an_entry_in_the_middle_can_be_touched() -> None:
    fold = folded([Claim(1, "m"), *(Entry(1, 7, position, event(position)) for position in (1, 2, 3))])
    assert fold.apply(9, Start(1, 7, 2, 0, 1))
    assert list(fold.keys[7].opens()) == [1, 2, 3]
    assert dict(fold.keys[7].since()) == {1: 1, 2: 2, 3: 3}
    assert not fold.apply(10, Start(1, 7, 9, 0, 1))


def test_the_lowest_open_entry_may_be_touched_or_waiting() -> None:
    fold = folded([Claim(1, "m"), *(Entry(1, 7, position, event(position)) for position in (1, 2, 3))])
    known = fold.keys[7]
    assert known.lowest_open == 1
    fold.apply(9, Start(1, 7, 2, 0, 1))
    assert known.lowest_open == 1
    fold.apply(10, Done(1, 7, 1, 0))
    assert known.lowest_open == 2
    fold.apply(11, Done(1, 7, 2, 0))
    assert known.lowest_open == 3
    fold.apply(12, Start(1, 7, 3, 0, 1))
    assert known.lowest_open == 3


def test_an_edited_requeue_names_the_record_that_holds_the_edit() -> None:
    fold = folded([Claim(1, "m"), Entry(1, 7, 1, event(1), dead=True), Requeue(7, 1, 1, "me", event(2))])
    assert fold.keys[7].touched[1].place == 2
    assert fold.checkpoint()[0] == 1, "the original is still needed"


def carried(history: list[Record], *, seen: int, dead: bool = True) -> Record:
    return Carry(1, 7, 1, event(1), None, dead, 1, 1, 0.0, seen)


def test_a_carried_entry_lets_the_start_be_trimmed() -> None:
    history: list[Record] = [Claim(1, "m"), Entry(1, 7, 1, event(1), dead=True, attempts=1)]
    fold = folded(history)
    assert fold.apply(2, carried(history, seen=2))
    fold.apply(3, Checkpoint(1, 5))
    assert fold.checkpoint()[0] == 2
    later = Fold(*fold.checkpoint())
    assert later.apply(2, carried(history, seen=2))
    assert view(later) == view(fold)


def test_a_command_between_the_writing_and_the_landing_of_a_carry_wins_for_every_reader() -> None:
    history: list[Record] = [Claim(1, "m"), Entry(1, 7, 1, event(1), dead=True, attempts=1), Discard(7, 1, 1)]
    whole = folded(history)
    assert not whole.apply(3, carried(history, seen=2))
    later = Fold(2, 1, 0)
    later.apply(2, history[2])
    assert not later.apply(3, carried(history, seen=2))
    requeued = folded([*history[:2], Requeue(7, 1, 1)])
    assert not requeued.apply(3, carried(history, seen=2))


def test_nobody_begins_between_a_command_and_the_carry_that_lost_against_it() -> None:
    history: list[Record] = [Claim(1, "m"), Entry(1, 7, 1, event(1), dead=True, attempts=1)]
    for command in (Discard(7, 1, 1), Requeue(7, 1, 1)):
        fold = folded([*history, command])
        assert not fold.apply(3, carried(history, seen=2))
        if isinstance(command, Requeue):
            fold.apply(4, Start(1, 7, 1, 1, 1))
            fold.apply(5, Done(1, 7, 1, 1))
        fold.apply(fold.place, Checkpoint(1, 5))
        assert fold.unfinished == 0
        assert fold.checkpoint()[0] != 3
        later = Fold(*fold.checkpoint())
        whole = [*history, command, carried(history, seen=2)]
        for at in range(later.place, len(whole)):
            later.apply(at, whole[at])
        assert view(later) == {}


def test_a_late_copy_of_an_entry_that_was_spoken_of_is_no_new_entry() -> None:
    later = Fold(2, 1, 0)
    assert not later.apply(2, Done(1, 7, 1, 0))
    assert not later.apply(3, Entry(1, 7, 1, event(1)))
    assert later.apply(4, Entry(1, 7, 2, event(2)))


def test_what_was_spoken_of_is_forgotten_in_time() -> None:
    later = Fold(2, 1, 0)
    later.apply(2, Done(1, 7, 1, 0))
    later.apply(3, Checkpoint(1, 5))
    assert (7, 1) in later._spoken
    later.apply(SPOKEN_LIMIT + 10, Checkpoint(1, 6))
    assert later._spoken == {}


def test_an_entry_between_a_command_and_the_carry_it_beat_moves_the_beginning_before_the_command() -> None:
    history: list[Record] = [
        Claim(1, "m"), Entry(1, 7, 1, event(1), dead=True, attempts=1), Discard(7, 1, 1), Entry(1, 8, 8, event(8)),
    ]  # fmt: skip
    history += [carried(history, seen=2), Checkpoint(1, 5)]
    fold = folded(history)
    assert fold.checkpoint()[0] == 2
    later = Fold(*fold.checkpoint())
    for at in range(2, len(history)):
        later.apply(at, history[at])
    assert view(later) == view(fold) == {8: [(8, (False, 0, 0, 0.0))]}
