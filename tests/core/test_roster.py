"""The roster of a group: what each record is granted, and what always holds, whatever stands in the journal."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.roster import (
    Evict,
    Expire,
    Item,
    Join,
    Leave,
    Record,
    Renew,
    Roster,
    Settle,
    Snapshot,
    decode_record,
    encode_record,
)
from nexus.spi.backend import Cursor

STARTS = {"orders": [5, 0, 7, 0]}


def joined(*members: str, starts: dict[str, list[int]] = STARTS) -> Roster:
    roster = Roster()
    for member in members:
        roster.apply(Join(member, member, "", starts))
    return roster


def item(partition: int, epoch: int, low: int, state: str = "", *, release: bool = False) -> Item:
    return Item("orders", partition, epoch, low, state, release)


def owners(roster: Roster) -> dict[int, str | None]:
    return {partition: seat.owner for (_, partition), seat in roster.seats.items()}


def test_the_first_to_join_says_where_a_topic_begins() -> None:
    roster = joined("a")
    roster.apply(Join("b", "b", "", {"orders": [9, 9, 9, 9], "bills": [3]}))
    assert [roster.seats["orders", p].cursor for p in range(4)] == [Cursor(0, low) for low in (5, 0, 7, 0)]
    assert roster.seats["bills", 0].cursor == Cursor(0, 3)
    assert roster.seats["bills", 0].owner == "b"


def test_what_another_is_to_have_is_given_up_by_its_owner() -> None:
    roster = joined("a", "b")
    revoked = [p for (_, p), seat in roster.seats.items() if seat.revoking]
    assert len(revoked) == 2
    answers = roster.apply(Settle("a", 1, [item(p, 1, 9, release=True) for p in revoked]))
    assert answers == ["ok", "ok"]
    assert {p for p, owner in owners(roster).items() if owner == "b"} == set(revoked)
    assert {seat.token for seat in roster.owned("b").values()} == {2}
    assert not any(seat.revoking for seat in roster.seats.values())


def test_a_cursor_counts_only_from_the_owner_and_not_below_the_stored_epoch() -> None:
    roster = joined("a")
    assert roster.apply(Settle("a", 1, [item(0, 3, 8, "s")])) == ["ok"]
    assert roster.apply(Settle("nobody", 1, [item(0, 9, 9)])) == ["fenced"]
    assert roster.apply(Settle("a", 2, [item(9, 1, 1)])) == ["fenced"]
    token = roster.seats["orders", 0].token
    assert roster.apply(Settle("a", 3, [item(0, 2, 1), item(1, 1, 1)])) == ["fenced", "ok"]
    assert roster.seats["orders", 0].cursor == Cursor(3, 8, "s")
    assert roster.seats["orders", 0].token > token  # taken from it, and handed out anew


def test_a_late_copy_of_an_older_settle_changes_nothing() -> None:
    roster = joined("a")
    older = Settle("a", 1, [item(0, 1, 1)])
    roster.apply(older)
    roster.apply(Settle("a", 2, [item(0, 1, 5)]))
    assert roster.apply(older) == ["ok"]
    assert roster.seats["orders", 0].cursor.low == 5


def test_a_lease_that_was_renewed_does_not_expire() -> None:
    roster = joined("a", "b")
    roster.apply(Renew(["a", "gone"]))
    roster.apply(Expire("a", 0))
    assert "a" in roster.members
    roster.apply(Expire("a", 1))
    roster.apply(Expire("a", 1))
    assert set(owners(roster).values()) == {"b"}


def test_an_owner_is_evicted_only_from_the_ownership_that_is_meant() -> None:
    roster = joined("a", "b")
    revoked = next(p for (_, p), seat in roster.seats.items() if seat.revoking)
    kept = next(p for (_, p), seat in roster.seats.items() if not seat.revoking)
    for evict in (Evict("orders", kept, 1), Evict("orders", revoked, 2), Evict("other", 0, 1)):
        roster.apply(evict)
    assert set(owners(roster).values()) == {"a"}
    roster.apply(Evict("orders", revoked, 1))
    assert owners(roster)[revoked] == "b"


def test_who_joins_anew_takes_the_place_of_what_it_was() -> None:
    roster = joined("a")
    roster.apply(Join("a2", "a", "a", STARTS))
    assert set(roster.members) == {"a2"}
    assert set(owners(roster).values()) == {"a2"}


def test_who_leaves_gives_up_all() -> None:
    roster = joined("a")
    roster.apply(Leave(["a"]))
    assert set(owners(roster).values()) == {None}


def test_a_body_that_is_no_record_is_told() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_record(b"nonsense")


IDS = st.sampled_from(["a", "b", "c", "d"])
PARTITIONS = st.integers(0, 3)
SOME_STARTS: list[dict[str, list[int]]] = [STARTS, {"bills": [0, 0]}, STARTS | {"bills": [0]}]
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(Join, IDS, st.just("m"), st.just("") | IDS, st.sampled_from(SOME_STARTS)),
    st.builds(Renew, st.lists(IDS, max_size=3)),
    st.builds(Leave, st.lists(IDS, max_size=2)),
    st.builds(Expire, IDS, st.integers(0, 2)),
    st.builds(Evict, st.just("orders"), PARTITIONS, st.integers(0, 4)),
    st.builds(
        Settle,
        IDS,
        st.integers(1, 6),
        st.lists(
            st.builds(item, PARTITIONS, st.integers(0, 3), st.integers(0, 9), release=st.booleans()),
            max_size=3,
        ),
    ),
)


@given(st.lists(RECORDS, max_size=40))
def test_what_always_holds(records: list[Record]) -> None:
    roster = Roster()
    for record in records:
        before = {place: (seat.owner, seat.token, seat.cursor) for place, seat in roster.seats.items()}
        roster.apply(record)
        for place, seat in roster.seats.items():
            owner, token, cursor = before.get(place, (None, 0, Cursor(0, 0)))
            assert seat.token >= token
            assert seat.cursor.epoch >= cursor.epoch
            if seat.owner != owner and seat.owner is not None:
                assert seat.token > token  # no two ownerships are taken for one another
            if owner in roster.members and seat.owner != owner and owner is not None:
                # A live owner loses a partition only by its own settle, by an eviction, or when it joins anew.
                assert isinstance(record, Settle | Evict | Join | Leave)
            assert seat.owner is None or seat.owner in roster.members
        wanting = [person for person in roster.members.values() if "orders" in person.topics]
        seats = [seat for seat in roster.seats.values() if seat.topic == "orders"]
        if wanting:
            assert all(seat.owner is not None for seat in seats)
        if not any(seat.revoking for seat in roster.seats.values()):
            counts = Counter(seat.owner for seat in seats)
            same = {tuple(person.topics) for person in roster.members.values()}
            if len(same) == 1 and seats and wanting:
                shares = [counts.get(id, 0) for id in roster.members]
                assert max(shares) - min(shares) <= 1


@given(st.lists(RECORDS, max_size=30), st.lists(RECORDS, max_size=10))
def test_a_snapshot_stands_for_what_it_was_made_of(before: list[Record], after: list[Record]) -> None:
    roster = Roster()
    for record in before:
        roster.apply(record)
    text = encode_record(roster.snapshot(len(before) - 1))
    snapshot = decode_record(text)
    assert isinstance(snapshot, Snapshot)
    assert roster.apply(snapshot) == []
    other = Roster()
    other.restore(snapshot)
    for record in after:
        assert roster.apply(record) == other.apply(decode_record(encode_record(record)))
    assert (roster.members, roster.seats) == (other.members, other.seats)


def handovers(roster: Roster) -> dict[int, tuple[float, str, str | None]]:
    seats = {partition: seat.handover for (_, partition), seat in roster.seats.items()}
    return {partition: (told.at, told.why, told.before) for partition, told in seats.items() if told is not None}


def test_a_partition_tells_when_it_changed_hands_why_and_who_had_it() -> None:
    roster = Roster()
    roster.apply(Join("a", "anna", "", {"orders": [0, 0]}), 1.0)
    assert handovers(roster) == {0: (1.0, "joined", None), 1: (1.0, "joined", None)}
    roster.apply(Join("b", "bert", "", {"orders": [0, 0]}), 2.0)
    assert handovers(roster)[0] == (1.0, "joined", None)  # nothing has moved yet
    moving = next(p for (_, p), seat in roster.seats.items() if seat.revoking)
    roster.apply(Settle("a", 1, [item(moving, 1, 1, release=True)]), 3.0)
    assert handovers(roster)[moving] == (3.0, "released", "anna")
    roster.apply(Expire("b", 0), 4.0)
    assert handovers(roster)[moving] == (4.0, "expired", "bert")
    roster.apply(Join("a2", "anna", "a", {"orders": [0, 0]}), 5.0)
    assert set(handovers(roster).values()) == {(5.0, "rejoined", "anna")}
    roster.apply(Leave(["a2"]), 6.0)
    assert set(handovers(roster).values()) == {(6.0, "left", "anna")}
    roster.apply(Join("c", "carl", "", {"orders": [0, 0]}), 7.0)
    assert set(handovers(roster).values()) == {(7.0, "joined", None)}


def test_an_owner_that_did_not_give_up_in_time_or_wrote_late_is_told_so() -> None:
    roster = joined("a", "b")
    revoked = next(p for (_, p), seat in roster.seats.items() if seat.revoking)
    roster.apply(Evict("orders", revoked, 1), 8.0)
    assert handovers(roster)[revoked] == (8.0, "took over", "a")
    kept = next(p for (_, p), seat in roster.seats.items() if seat.owner == "a" and not seat.revoking)
    roster.apply(Settle("a", 1, [item(kept, 5, 5)]), 9.0)
    roster.apply(Settle("a", 2, [item(kept, 4, 5)]), 10.0)
    assert handovers(roster)[kept] == (10.0, "fenced", "a")


WHYS = {Join: {"joined", "rejoined"}, Expire: {"expired"}, Leave: {"left"}, Evict: {"took over"},
        Settle: {"released", "fenced"}}  # fmt: skip


@given(st.lists(RECORDS, max_size=40))
def test_every_change_of_hands_is_told_and_nothing_else(records: list[Record]) -> None:
    roster = Roster()
    for at, record in enumerate(records):
        before = {place: (seat.owner, seat.token) for place, seat in roster.seats.items()}
        names = {id: person.name for id, person in roster.members.items()}
        roster.apply(record, float(at))
        for place, seat in roster.seats.items():
            owner, token = before.get(place, (None, 0))
            if (seat.owner, seat.token) == (owner, token):
                assert seat.handover is None or seat.handover.at < at
                continue
            assert seat.handover is not None
            assert seat.handover.at == at
            assert seat.handover.why in WHYS[type(record)]
            assert seat.handover.before == (None if owner is None else names[owner])
