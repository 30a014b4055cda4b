"""What an owner may do next, by example. The rules under random schedules are in ``tests/delivery``."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from nexus.core import cursor as cursor_codec
from nexus.core.cursor import State
from nexus.core.cuts import CUTS_LIMIT
from nexus.core.lanes import Delivery, Lane
from nexus.core.outcome import ACK, CANCELLED, DeadLetter, Park, RetryIn
from nexus.core.owner import Owner
from nexus.core.parking import Carry, Claim, Discard, Done, Entry, Failed, Record, Requeue, Reset, Start, Unstart
from nexus.core.policy import Policy
from nexus.core.probation import Turn
from nexus.core.takeover import after_reset, begin_fold, take_over
from nexus.event import Event
from nexus.spi.backend import Cursor, Stored

KEY = (None, "k")


def event(position: int, key: str | None = "k") -> Event[Any]:
    return Event(str(position), "/s", "t", datetime(2013, 1, 1, tzinfo=UTC), key)


class Shell:
    """The least that drives an owner: a ready list and a parking topic in a list."""

    def __init__(self, *, stored: Cursor | None = None, history: tuple[Record, ...] = (), turn: Turn | None = None,
                 **policy: Any) -> None:  # fmt: skip
        self.topic: list[Record] = []
        cursor, state = take_over(stored or Cursor(0, 0), 0, max((getattr(r, "epoch", 0) for r in history), default=0))
        fold = begin_fold(state)
        for record in [*history, Claim(cursor.epoch, "me")]:
            fold.apply(len(self.topic), record)
            self.topic.append(record)
        self.ready: list[Lane] = []
        self.owner = Owner(cursor, state, fold, Policy(**policy), self.ready.append, turn)
        self.owner.resume(0.0)

    def offer(self, *positions: int, key: str | None = "k", now: float = 0.0) -> None:
        for position in positions:
            self.owner.offer(Stored(position, 0.0, 10, event(position, key)), now)

    def begin(self, now: float = 0.0) -> Delivery | None:
        return self.owner.begin(self.ready.pop(0), now)

    def run(self, outcome: Any, now: float = 0.0) -> Delivery:
        delivery = self.begin(now)
        assert delivery is not None
        self.owner.end(delivery, outcome, now)
        return delivery

    def write(self, now: float = 0.0, *foreign: Record) -> list[Record]:
        records = self.owner.take_records()
        for record in [*foreign, *records]:
            self.owner.tail(len(self.topic), record, now)
            self.topic.append(record)
        if records:
            self.owner.landed(now)
        return records

    def say(self, record: Record, now: float = 0.0) -> None:
        self.owner.tail(len(self.topic), record, now)
        self.topic.append(record)

    def settle(self) -> Cursor:
        cursor = self.owner.cursor()
        assert cursor is not None
        self.owner.settled(cursor, 0.0)
        return cursor


def test_a_key_runs_one_event_at_a_time_and_in_order() -> None:
    shell = Shell()
    shell.offer(0, 1)
    assert len(shell.ready) == 1
    first = shell.begin()
    assert first is not None
    assert not shell.ready
    assert shell.owner.ack(first)
    second = shell.begin()
    assert second is not None
    assert (first.position, second.position) == (0, 1)
    shell.owner.end(second, ACK, 0.0)
    assert shell.settle().low == 2
    assert not shell.owner.dirty


def test_without_order_every_event_is_a_key_of_its_own() -> None:
    shell = Shell(ordered=False)
    shell.offer(0, 1)
    assert len(shell.ready) == 2


def test_an_event_that_no_handler_wants_is_done_at_once() -> None:
    shell = Shell(stored=Cursor(1, 0, cursor_codec.encode(0, State(done=(1,))) or ""))
    shell.owner.skip(0)
    shell.owner.skip(1)
    assert shell.settle().low == 2


def test_what_was_trimmed_does_not_hold_the_watermark() -> None:
    shell = Shell()
    shell.owner.trimmed(50)
    assert shell.settle().low == 50


def test_a_short_delay_holds_the_key_in_its_lane() -> None:
    shell = Shell()
    shell.offer(0, 1)
    shell.run(RetryIn(2.0))
    assert not shell.ready
    assert shell.owner.wake_at == 2.0
    shell.offer(2, now=1.0)
    assert not shell.ready
    shell.owner.tick(1.9)
    assert not shell.ready
    shell.owner.tick(2.0)
    again = shell.begin(2.0)
    assert again is not None
    assert (again.position, again.attempt) == (0, 2)


def test_a_timer_of_a_key_that_is_gone_or_ready_does_nothing() -> None:
    shell = Shell()
    shell.offer(0)
    shell.run(RetryIn(2.0))
    shell.owner._set_timer(1.0, Lane(shell.owner, (None, "gone")))
    shell.owner.tick(3.0)
    shell.owner._set_timer(3.0, shell.owner._lane(KEY))
    shell.owner.tick(3.0)
    assert len(shell.ready) == 1


def test_a_held_lane_that_grows_too_deep_parks() -> None:
    shell = Shell(lane_limit=2)
    shell.offer(0)
    shell.run(RetryIn(2.0, "why"))
    shell.offer(1)
    assert not shell.owner.has_records
    shell.offer(2)
    entries = shell.write()
    assert [(e.position, e.attempts, e.due) for e in entries if isinstance(e, Entry)] == [
        (0, 1, 2.0),
        (1, 0, 0.0),
        (2, 0, 0.0),
    ]
    assert shell.owner.queued_events == 0
    assert shell.settle().low == 3


def test_a_parked_key_runs_from_the_parking_topic_when_it_is_due() -> None:
    shell = Shell(start_limit=2)
    shell.offer(0, 1, 2)
    shell.run(Park(10.0))
    shell.write()
    assert shell.owner.wake_at == 10.0
    shell.offer(3)  # nothing of its key can run now, so it follows
    assert [r.position for r in shell.write() if isinstance(r, Entry)] == [3]
    shell.owner.tick(10.0)
    assert [type(r) for r in shell.write(10.0)] == [Start, Start]
    shell.offer(4, now=10.0)  # its key runs, so it waits in its lane
    shell.run(ACK, 10.0)
    shell.run(ACK, 10.0)
    assert [type(r) for r in shell.write(10.0)] == [Done, Done, Start, Start]
    shell.run(ACK, 10.0)
    shell.run(ACK, 10.0)
    assert [type(r) for r in shell.write(10.0)] == [Done, Done]
    last = shell.begin(10.0)
    assert last is not None
    assert (last.position, last.parked) == (4, False)
    shell.owner.end(last, ACK, 10.0)
    assert shell.settle().low == 5


def test_a_failure_in_a_started_list_takes_the_rest_back() -> None:
    shell = Shell()
    shell.offer(0, 1, 2)
    shell.run(Park(0.0))
    shell.write()
    shell.write()
    shell.run(RetryIn(5.0, "e"), 1.0)
    records = shell.write(1.0)
    assert [type(r) for r in records] == [Failed, Unstart, Unstart]
    assert shell.owner.wake_at == 6.0
    known = shell.owner.fold.keys[KEY]
    assert [known.touched[p].attempts for p in (0, 1, 2)] == [2, 0, 0]


def test_after_a_failure_lists_begin_small_and_grow_while_all_goes_well() -> None:
    shell = Shell(start_limit=4)
    shell.offer(*range(12))
    shell.run(Park(0.0))
    shell.write()
    assert len([r for r in shell.write() if isinstance(r, Start)]) == 4
    shell.run(RetryIn(0.0, "e"))
    sizes = []
    while shell.owner.fold.unfinished:
        sizes.append(len([r for r in shell.write() if isinstance(r, Start)]))
        for _ in range(sizes[-1]):
            shell.run(ACK)
    assert [size for size in sizes if size] == [1, 2, 4, 4, 1]


def test_starts_stop_at_an_entry_that_is_not_due() -> None:
    history = (
        Claim(1, "old"),
        Entry(1, KEY, 0, event(0)),
        Entry(1, KEY, 1, event(1), due=50.0),
    )
    shell = Shell(stored=Cursor(1, 2), history=history)
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [0]
    shell.run(ACK)
    assert [type(r) for r in shell.write()] == [Done]
    assert shell.owner.wake_at == 50.0


def test_a_dead_letter_blocks_its_key_until_it_is_discarded() -> None:
    shell = Shell()
    shell.offer(0, 1)
    shell.run(DeadLetter("r", "e"))
    shell.write()
    assert [r.position for r in shell.write() if isinstance(r, Entry)] == [1], "followers wait behind it"
    shell.offer(2)
    shell.write()
    assert shell.settle().low == 3
    shell.say(Discard(KEY, 0, 1))
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [1, 2]


def test_starts_do_not_go_past_a_dead_letter() -> None:
    history = (
        Claim(1, "old"),
        Entry(1, KEY, 0, event(0)),
        Entry(1, KEY, 1, event(1), dead=True),
        Entry(1, KEY, 2, event(2)),
    )
    shell = Shell(stored=Cursor(1, 3), history=history)
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [0]
    shell.run(ACK)
    assert [type(r) for r in shell.write()] == [Done]
    assert not shell.owner.has_records


def test_skip_goes_on_without_the_dead_letter() -> None:
    shell = Shell(on_dead="skip")
    shell.offer(0, 1)
    shell.run(DeadLetter("r"))
    shell.write()
    follower = shell.begin()
    assert follower is not None
    assert follower.position == 1


@pytest.mark.parametrize("parked", [False, True])
def test_stop_stops_the_partition_and_keeps_the_event(parked: bool) -> None:
    shell = Shell(on_dead="stop")
    shell.offer(0)
    if parked:
        shell.run(Park(0.0))
        shell.write()
        shell.write()
    shell.run(DeadLetter("bad"))
    assert shell.owner.stopped is not None
    assert "bad" in shell.owner.stopped
    shell.write()
    assert shell.owner.credit == 0
    shell.offer(1, key="other")
    assert not shell.ready
    assert shell.settle().low == (1 if parked else 0)


def test_a_requeue_while_the_lane_is_ready_parks_it_again() -> None:
    shell = Shell(on_dead="skip")
    shell.offer(0, 1)
    shell.run(DeadLetter("r"))
    shell.write()
    assert len(shell.ready) == 1
    shell.say(Requeue(KEY, 0, 1))
    assert shell.begin() is None, "the requeued event comes first"
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [0]


def test_nothing_starts_twice_from_a_stale_place_in_the_ready_queue() -> None:
    shell = Shell()
    shell.offer(0)
    lane = shell.ready[0]
    delivery = shell.begin()
    assert delivery is not None
    assert shell.owner.begin(lane, 0.0) is None
    shell.owner.end(delivery, ACK, 0.0)
    assert shell.owner.begin(lane, 0.0) is None


def test_a_cancelled_delivery_takes_its_attempt_back() -> None:
    shell = Shell()
    shell.offer(0)
    shell.run(CANCELLED)
    assert shell.owner.ledger.attempts == {}
    shell.run(RetryIn(0.0))
    shell.run(CANCELLED)
    assert shell.owner.ledger.attempts == {0: 1}


def test_release_reports_what_ran_and_settles_clean() -> None:
    shell = Shell()
    shell.offer(0, 1)
    shell.run(Park(0.0))
    shell.write()
    shell.owner.stop("moved")
    assert not shell.owner.drained
    shell.write()
    assert [type(r) for r in shell.write()] == [Unstart, Unstart]
    assert shell.owner.drained
    cursor = shell.owner.cursor(clean=True)
    assert cursor is not None
    assert cursor_codec.decode(cursor.low, cursor.state).clean
    shell.owner.stop("again")
    assert shell.owner.stopped == "moved"


def test_release_waits_for_what_runs_and_for_what_is_sent() -> None:
    shell = Shell()
    shell.offer(0)
    shell.offer(1, 2, key="p")
    shell.run(ACK)
    shell.run(Park(0.0))
    shell.write()
    shell.write()
    running = shell.begin()
    shell.offer(3, key="q")
    other = shell.begin()
    assert running is not None
    assert other is not None
    shell.owner.stop("moved")
    assert shell.owner.running == 2
    shell.owner.end(running, ACK, 0.0)
    shell.owner.end(other, ACK, 0.0)
    assert [type(r) for r in shell.write()] == [Done, Unstart]
    assert shell.owner.drained


def test_an_owner_whose_claim_is_not_in_force_is_deposed() -> None:
    shell = Shell()
    shell.offer(0)
    shell.run(Park(1.0))
    records = shell.write(0.0, Claim(9, "other"))
    assert records
    assert shell.owner.deposed
    assert shell.owner.stopped == "epoch 9 is in force, not 1"
    assert len(shell.owner.ledger) == 1, "its records were dropped, so the event is not done"
    shell.owner.abandon("lost", 0.0)
    assert shell.owner.drained


def test_a_deposed_owner_reports_nothing_more() -> None:
    shell = Shell()
    shell.offer(0)
    shell.run(Park(0.0))
    shell.write()
    shell.write()
    running = shell.begin()
    assert running is not None
    shell.say(Claim(9, "other"))
    shell.owner.end(running, ACK, 0.0)
    assert not shell.owner.has_records


def test_only_one_batch_of_records_is_in_flight() -> None:
    shell = Shell()
    shell.offer(0)
    shell.offer(1, key="l")
    shell.run(Park(1.0))
    assert len(shell.owner.take_records()) == 1
    shell.run(Park(1.0))
    assert shell.owner.take_records() == []
    assert not shell.owner.has_records


def test_the_window_and_the_parking_topic_bound_what_is_fetched() -> None:
    shell = Shell(window_limit=2, parked_limit=1)
    assert shell.owner.credit == 2
    shell.offer(0, 1)
    assert shell.owner.credit == 0
    shell.run(Park(1.0))
    shell.write()
    assert shell.owner.fold.unfinished == 2
    assert shell.owner.credit == 0, "the parking topic is full"


def test_half_a_window_parks_rather_than_holds() -> None:
    shell = Shell(window_limit=4)
    shell.offer(0, 1, 2)
    shell.run(RetryIn(0.1))
    assert shell.owner.has_records


def test_a_checkpoint_forgets_what_is_finished() -> None:
    shell = Shell()
    assert not shell.owner.request_checkpoint(), "nothing was parked"
    shell.offer(0)
    shell.run(Park(0.0))
    shell.write()
    shell.write()
    shell.run(ACK)
    shell.write()
    shell.settle()
    assert shell.owner.request_checkpoint()
    shell.write()
    assert shell.owner.fold.keys == {}
    cursor = shell.settle()
    state = cursor_codec.decode(cursor.low, cursor.state)
    assert (state.place, state.place_epoch) == (shell.owner.trim_below, 1)
    assert shell.owner.trim_below == len(shell.topic)
    assert not shell.owner.request_checkpoint(), "it would change nothing"


def test_stale_entries_are_carried_forward_where_nothing_happens() -> None:
    history: list[Record] = [Claim(1, "old")]
    for position, key in enumerate("abc"):
        history.append(Entry(1, (None, key), position, event(position, key), dead=True, reason="r"))
    shell = Shell(stored=Cursor(1, 3), history=tuple(history))
    assert shell.owner.stale(3, 10) == [((None, "a"), 0), ((None, "b"), 1)]
    assert len(shell.owner.stale(99, 1)) == 1
    shell.owner.carry((None, "a"), 0, event(0, "a"), None)
    assert shell.owner.stale(3, 10) == [((None, "b"), 1)], "one that is being sent is left alone"
    shell.owner.carry((None, "a"), 0, event(0, "a"), None)
    shell.owner.carry((None, "z"), 9, event(9, "z"), None)
    assert len(shell.write()) == 1
    assert shell.owner.stale(3, 10) == [((None, "b"), 1)]


def test_probation_runs_one_at_a_time_and_ends_with_progress() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    shell = Shell(stored=unclean)
    assert shell.owner.on_probation
    shell.offer(0, key="a")
    shell.offer(1, key="b")
    shell.offer(2, key="c")
    first = shell.begin()
    assert first is not None
    assert shell.begin() is None
    assert shell.begin() is None
    assert shell.owner.ledger.attempts == {0: 1}, "nobody else's attempt is counted"
    assert not shell.owner.ack(first)
    shell.owner.end(first, ACK, 0.0)
    assert not shell.ready, "the others wait until the end is durable too"
    shell.settle()
    assert not shell.owner.on_probation, "that was progress"
    assert len(shell.ready) == 2, "those that waited for their turn go on"


def test_on_probation_an_end_that_could_not_be_stored_keeps_the_turn() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    turn = Turn()
    one, two = Shell(stored=unclean, turn=turn), Shell(stored=unclean, turn=turn)
    one.offer(0, key="a")
    one.offer(1, key="b")
    two.offer(0)
    one.ready.reverse()
    one.run(ACK)  # position 1: the watermark stands still
    assert two.begin() is None
    assert one.owner.cursor() is not None
    one.owner.not_settled()
    assert not two.ready
    one.settle()
    assert one.owner.on_probation
    assert two.ready


def test_an_owner_that_is_gone_does_not_give_back_the_turn_of_another() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    turn = Turn()
    one, two = Shell(stored=unclean, turn=turn), Shell(stored=unclean, turn=turn)
    one.offer(0)
    two.offer(0)
    one.run(ACK)
    cursor = one.owner.cursor()
    assert cursor is not None
    one.owner.abandon("lost", 0.0)
    assert two.begin() is not None
    one.owner.settled(cursor, 0.0)
    assert turn.holder == (two.owner, KEY)


def test_on_probation_a_key_goes_on_with_its_next_event_and_keeps_the_turn() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    turn = Turn()
    one, two = Shell(stored=unclean, turn=turn), Shell(stored=unclean, turn=turn)
    one.offer(0, 1)
    two.offer(0)
    one.run(ACK)
    assert two.begin() is None
    cursor = one.owner.cursor()
    assert cursor is not None
    assert one.begin() is not None
    one.owner.settled(cursor, 0.0)
    assert not two.ready, "what was settled is the end before"


def test_on_probation_the_turn_of_a_lane_that_has_nothing_to_start_is_given_back() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    turn = Turn()
    one, two = Shell(stored=unclean, turn=turn), Shell(stored=unclean, turn=turn)
    one.offer(0)
    two.offer(0)
    one.owner.stop("moved")
    assert one.begin() is None
    assert two.begin() is not None


def test_an_event_that_kills_its_process_does_not_use_up_the_attempts_of_another_partition() -> None:
    stored = [Cursor(0, 0), Cursor(0, 0)]
    attempts: list[int] = []
    for _ in range(12):
        turn = Turn()
        shells = [Shell(stored=cursor, turn=turn) for cursor in stored]
        for shell in shells:
            shell.offer(*range(shell.owner.ledger.low, 1))
        killer, neighbour = shells
        stored = [shell.settle() for shell in shells]
        delivery = neighbour.begin() if neighbour.ready else None
        if delivery is not None:
            attempts.append(delivery.attempt)
            if neighbour.owner.on_probation:
                stored[1] = neighbour.settle()
            neighbour.owner.end(delivery, ACK, 0.0)  # done, but the process dies before it is stored ...
        if killer.ready and killer.begin() is not None:  # ... if the killer may start now
            stored[0] = killer.settle()
            continue
        stored[1] = neighbour.settle()
    assert attempts == [1, 1, 1], "two before probation, not settled, and the one that was seen through"


def test_owners_on_probation_share_one_turn() -> None:
    unclean = Cursor(3, 0, cursor_codec.encode(0, State(clean=False, unclean=1)) or "")
    turn = Turn()
    one, two = Shell(stored=unclean, turn=turn), Shell(stored=unclean, turn=turn)
    one.offer(0)
    two.offer(0)
    first = one.begin()
    assert first is not None
    assert two.begin() is None
    one.owner.abandon("lost", 0.0)
    assert two.begin() is not None
    two.owner.abandon("lost", 0.0)
    turn.leave(object(), 0.0)
    assert turn.holder is None


def test_parked_entries_wait_for_the_turn_before_their_attempt_is_written() -> None:
    history = (
        Claim(3, "old"),
        Entry(3, (None, "a"), 0, event(0, "a")),
        Entry(3, (None, "b"), 1, event(1, "b")),
        Entry(3, (None, "c"), 2, event(2, "c"), due=9.0),
    )
    unclean = Cursor(3, 3, cursor_codec.encode(3, State(clean=False, unclean=1)) or "")
    shell = Shell(stored=unclean, history=history)
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [0]
    shell.run(ACK)
    shell.settle()
    assert [(type(r), r.position) for r in shell.write() if isinstance(r, Start | Done)] == [(Done, 0)]
    assert not shell.write(), "the end was not durable when the cursor was taken"
    shell.settle()
    assert [r.position for r in shell.write() if isinstance(r, Start)] == [1]
    shell.run(ACK)
    shell.write()
    assert shell.owner.wake_at == 9.0


def test_a_cursor_that_does_not_fit_is_not_offered() -> None:
    ragged = Shell(window_limit=1 << 20)
    ragged.offer(0)
    for position in sorted(random.Random(1).sample(range(1, 500_000), 9_000)):
        ragged.owner.skip(position)
    assert ragged.owner.cursor() is None
    ragged.owner.not_settled()
    assert ragged.owner.dirty
    assert ragged.owner.credit == 0, "and the partition is not fetched until it fits"
    last = ragged.owner.cursor(clean=True)
    assert last is not None, "a release leaves what fits"
    kept = cursor_codec.decode(last.low, last.state).done
    assert kept == tuple(ragged.owner.ledger.done[: len(kept)])
    assert kept


def test_a_cursor_follows_a_reset_that_it_does_not_know() -> None:
    stored = Cursor(3, 7, cursor_codec.encode(7, State(done=(9,), attempts=((8, 2),), unclean=1)) or "")
    cursor, state = take_over(stored, 0, 0)
    fold = begin_fold(state)
    assert after_reset(cursor, state, fold) == (cursor, state)
    fold.apply(0, Claim(cursor.epoch, "me"))
    fold.apply(1, Reset(cursor.epoch, 4, 2))
    moved, told = after_reset(cursor, state, fold)
    assert (moved.epoch, moved.low, told.done, told.attempts, told.reset) == (4, 2, (), (), 4)
    owner = Owner(moved, told, fold, Policy(), lambda lane: None)
    settled = owner.cursor()
    assert settled is not None
    again, state = take_over(settled, 0, 0)
    assert after_reset(again, state, fold) == (again, state), "it is followed once"


def test_a_paused_owner_starts_nothing_and_goes_on_where_it_was() -> None:
    shell = Shell()
    shell.offer(0, 1)
    shell.offer(2, key="b")
    running = shell.begin()
    assert running is not None
    shell.owner.pause()
    assert shell.owner.credit == 0
    assert shell.begin() is None
    shell.owner.end(running, ACK, 0.0)
    assert not shell.ready
    shell.owner.unpause(0.0)
    assert sorted(lane.queue[0].position for lane in shell.ready) == [1, 2]
    shell.owner.stop("moved")
    shell.owner.unpause(0.0)
    assert shell.owner.stopped == "moved"


def test_unpausing_makes_no_lane_ready_twice() -> None:
    shell = Shell()
    shell.offer(0)
    shell.owner.pause()
    shell.owner.unpause(0.0)
    assert len(shell.ready) == 1


def test_an_altered_filter_holds_from_the_next_fetched_event_on_once_that_is_stored() -> None:
    shell = Shell()
    shell.offer(0)
    shell.owner.cut(7)
    assert shell.owner.credit == 0
    stored = shell.settle()
    assert shell.owner.credit > 0
    assert (shell.owner.cuts.at(0), shell.owner.cuts.at(1)) == (0, 7)
    assert Shell(stored=stored).owner.cuts.at(1) == 7
    for filter in range(8, 8 + CUTS_LIMIT):
        shell.owner.cut(filter)
    assert shell.owner.cuts.in_force == 7 + CUTS_LIMIT - 1, "the last must wait"


def test_after_a_reset_the_filter_in_force_judges_all_that_is_handled_again() -> None:
    stored = Cursor(3, 7, cursor_codec.encode(7, State(cuts=((2, 5), (8, 6)))) or "")
    cursor, state = take_over(stored, 0, 0)
    fold = begin_fold(state)
    fold.apply(0, Claim(cursor.epoch, "me"))
    fold.apply(1, Reset(cursor.epoch, 4, 1))
    assert after_reset(cursor, state, fold)[1].cuts == ((1, 6),)


def test_take_over_is_above_everything_known() -> None:
    cursor, state = take_over(Cursor(4, 7), token=9, in_force=6)
    assert (cursor.epoch, cursor.low, state.clean, state.unclean) == (10, 7, False, 0)
    again, state = take_over(cursor, 0, 0)
    assert (again.epoch, state.unclean) == (11, 1)


def test_a_lane_is_forgotten_when_nothing_is_left_of_it() -> None:
    shell = Shell()
    shell.offer(0)
    delivery = shell.begin()
    assert delivery is not None
    assert shell.owner.ack(delivery)
    assert shell.owner._lanes == {}
    lane = shell.owner._lane(KEY)
    lane.queued = True
    shell.owner._advance(lane, 0.0)
    assert shell.owner._lanes == {KEY: lane}, "one that stands in the ready queue is met there again"
    assert shell.owner.begin(lane, 0.0) is None
    assert shell.owner._lanes == {}


def test_a_command_takes_back_a_carry_that_was_not_sent_yet() -> None:
    history: tuple[Record, ...] = (
        Claim(1, "old"),
        Entry(1, (None, "a"), 0, event(0, "a"), dead=True),
        Entry(1, (None, "b"), 1, event(1, "b"), dead=True),
    )
    shell = Shell(stored=Cursor(1, 2), history=history)
    for position, key in enumerate("ab"):
        shell.owner.carry((None, key), position, event(position, key), None)
    shell.say(Discard((None, "a"), 0, 1))
    assert [record.key for record in shell.write() if isinstance(record, Carry)] == [(None, "b")]
    shell.say(Discard((None, "b"), 1, 1))
    assert shell.owner.fold.unfinished == 0
