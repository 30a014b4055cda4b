"""What operators decided, folded from the control topic."""

from __future__ import annotations

import pytest

from nexus.core import control
from nexus.core.control import (
    Alter,
    Control,
    Create,
    Declare,
    Delay,
    EndReplay,
    Pause,
    Record,
    Remove,
    Reopen,
    Replay,
    Resume,
    Schedule,
    Seek,
    Unschedule,
    Wish,
    replay_group,
)


def folded(*records: Record) -> Control:
    fold = Control()
    for position, record in enumerate(records):
        fold.apply(position, record)
    return fold


@pytest.mark.parametrize(
    "record",
    [
        Pause("g", "ann"),
        Resume("g"),
        Alter("g", None),
        Alter("g", "data.total > 5"),
        Seek("g", {"events": {0: 5, 3: 0}}, True),
        Create("g", ("order.*",), "charge"),
        Remove("g"),
        Remove("g", "code", to_code=True),
        Replay("r", "g", {"events": {0: (1, 9)}}, rate=5.0),
        EndReplay("r", "done"),
        EndReplay("r", "done", seen=7),
        Reopen("r", "ann"),
        Schedule("daily", "0 0 * * *", "UTC", "day.began", "{}", None, "once", 5.0),
        Unschedule("daily"),
        Delay("ann"),
    ],
)
def test_records_are_read_as_written(record: Record) -> None:
    assert control.decode(control.encode(record)) == record


def test_a_group_of_which_nothing_was_decided_is_as_its_code_says() -> None:
    group = folded().group("g")
    assert (group.paused, group.version, group.filters, group.wishes) == (False, 0, {0: None}, {})


def test_pause_holds_until_resume() -> None:
    assert folded(Pause("g"), Pause("other")).group("g").paused
    assert not folded(Pause("g"), Resume("g")).group("g").paused


def test_every_filter_is_kept_by_its_number_and_the_last_is_in_force() -> None:
    group = folded(Pause("g"), Alter("g", "type == 'a'"), Alter("g", None)).group("g")
    assert group.filters == {0: None, 2: "type == 'a'", 3: None}
    assert group.version == 3


def test_of_several_wishes_for_a_partition_the_last_holds() -> None:
    group = folded(Seek("g", {"t": {0: 5, 1: 6}}), Seek("g", {"t": {0: 2}}, drop=True)).group("g")
    assert group.wishes == {("t", 0): Wish(2, 2, True), ("t", 1): Wish(1, 6, False)}


def test_the_first_to_create_a_group_wins_until_it_is_removed() -> None:
    first, second = Create("g", ("a",), "one"), Create("g", ("b",), "two")
    assert folded(first, second).created == {"g": first}
    assert folded(first, Pause("g"), Remove("g"), second).created == {"g": second}
    again = folded(first, Pause("g"), Alter("g", "type == 'a'"), Remove("g"), second)
    assert (again.group("g").paused, again.group("g").filters[again.group("g").version]) == (False, None)
    assert folded(first, Remove("g"), Remove("h")).removed == {"g"}
    assert again.removed == set()
    assert folded(Remove("g"), Pause("g"), Remove("g")).group("g").paused, "what code knows cannot be removed"


def test_of_what_a_group_wants_the_last_word_holds() -> None:
    assert folded(Declare("g", ("a.*",)), Declare("h", ("b",)), Declare("g", ("c",))).declared == {
        "g": ("c",),
        "h": ("b",),
    }


def test_a_group_that_code_names_is_neither_created_nor_removed_and_stays_as_it_was() -> None:
    wish, to_code = Create("g", ("a",), "one"), Remove("g", "code", to_code=True)
    for fold in (folded(wish, Pause("g"), to_code), folded(wish, Remove("g"), Pause("g"), to_code)):
        assert (fold.created, fold.removed, fold.group("g").paused) == ({}, set(), True)


def test_a_schedule_holds_until_it_is_changed_or_removed() -> None:
    first = Schedule("daily", "0 0 * * *", "UTC", "day.began", "{}", None, "once", 5.0)
    second = Schedule("daily", "0 1 * * *", "UTC", "day.began", "{}", None, "once", 5.0)
    assert folded(first, second).schedules == {"daily": second}
    assert folded(first, Unschedule("daily"), Unschedule("x")).schedules == {}
    assert [folded(*records).delays for records in ((), (Delay(),), (first,))] == [False, True, True]


def test_a_replay_ends_once() -> None:
    replay = Replay("r", "g", {"t": {0: (0, 5)}})
    fold = folded(EndReplay("r", "done"), replay, replay)
    assert list(fold.replays) == ["r"]
    assert fold.group(replay_group("r")).wishes == {("t", 0): Wish(2, 0, False)}
    assert fold.outcome("r") is None
    assert folded(replay, EndReplay("r", "cancelled"), EndReplay("r", "done")).outcome("r") == "cancelled"
    assert fold.next == 3


def test_a_replay_that_is_over_is_opened_again_at_its_end_until_the_end_that_knows_of_it() -> None:
    replay = Replay("r", "g", {"t": {0: (0, 5), 1: (0, 0)}})
    begun = [replay, EndReplay("r", "cancelled"), Reopen("r")]
    fold = folded(*begun)
    assert (fold.outcome("r"), fold.reopened("r")) == (None, 3)
    assert fold.group(replay_group("r")).wishes == {("t", 0): Wish(3, 5, False), ("t", 1): Wish(1, 0, False)}
    assert folded(*begun, EndReplay("r", "done")).outcome("r") is None, "it had not seen what was requeued"
    ended = folded(*begun, EndReplay("r", "done", seen=3))
    assert (ended.outcome("r"), ended.reopened("r")) == ("cancelled", 0)
    assert folded(*begun, EndReplay("r", "cancelled")).outcome("r") == "cancelled"
    assert folded(*begun, Reopen("r"), EndReplay("r", "done", seen=3)).reopened("r") == 4
    assert folded(Reopen("r"), replay, EndReplay("r", "done")).outcome("r") == "done", "there was no such replay"


def test_what_is_requeued_while_a_replay_runs_is_handled_after_its_end_at_the_latest() -> None:
    replay = Replay("r", "g", {"t": {0: (0, 5)}})
    running = folded(replay, Reopen("r"))
    assert (running.outcome("r"), running.reopened("r")) == (None, 0)
    assert running.group(replay_group("r")).wishes == {("t", 0): Wish(1, 0, False)}, "it goes on where it is"
    fold = folded(replay, Reopen("r"), EndReplay("r", "done"))
    assert (fold.outcome("r"), fold.reopened("r")) == (None, 3)
    assert fold.group(replay_group("r")).wishes == {("t", 0): Wish(3, 5, False)}
    assert folded(replay, Reopen("r"), EndReplay("r", "done"), EndReplay("r", "done", seen=3)).outcome("r") == "done"
    assert folded(replay, Reopen("r"), EndReplay("r", "cancelled")).outcome("r") == "cancelled"
