"""A consumer group as its journal tells it: who is a member, who owns which partition, how far each one is.

A broker keeps logs and nothing else, so a group is a fold over a journal of its own, a topic of one partition: every
process reads the same records in the same order and so comes to the same roster. Nobody decides anywhere else. What a
record asks for is granted or refused by what stands before it, which makes each of them a compare-and-set:

    Join     a member is there; topics that are new to the group begin where it says
    Renew    members of one process live; their leases begin anew
    Expire   a lease ran out: counts only if the member has not renewed meanwhile
    Leave    a member gives up all that it owns
    Settle   cursors: each counts only if the member owns the partition and the stored epoch is not higher
    Evict    an owner kept a partition beyond its deadline: counts only for that ownership
    Snapshot the roster as of a place, so that what stands below may be forgotten

After each change of members or owners the partitions are shared out: who is free goes to whom `assign` wants to have
it, who is owned by another is to be given up (`Seat.revoking`).

Time is not here. A member counts its lease from before it wrote `Join` or `Renew`, all others from when they read it,
so it knows of the end before anybody else may write `Expire`. What a partition's `Handover` says of the time is what
stood on the record, for people to read; nothing follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nexus.core.assignment import assign
from nexus.spi.backend import Cursor, Handover, Settled, Why

Place = tuple[str, int]
"""Topic and partition."""


class Join(msgspec.Struct, frozen=True, tag="join"):
    """A process wants to be a member."""

    member: str
    """An id that nobody had before."""
    name: str
    replaces: str
    """The id that it had before its lease ran out, or nothing: that one may still be there."""
    starts: dict[str, list[int]]
    """Topics of the member, with the position per partition where the group begins if the topic is new to it."""


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    members: list[str]


class Expire(msgspec.Struct, frozen=True, tag="expire"):
    member: str
    renewals: int
    """How often it had renewed when its lease ran out."""


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    members: list[str]


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One cursor of a `Settle`."""

    topic: str
    partition: int
    epoch: int
    low: int
    state: str
    release: bool


class Settle(msgspec.Struct, frozen=True, tag="settle"):
    member: str
    number: int
    """Counts the member's settles: a late copy of an older one changes nothing."""
    items: list[Item]


class Evict(msgspec.Struct, frozen=True, tag="evict"):
    topic: str
    partition: int
    token: int


class Seat(msgspec.Struct):
    """One partition of the group."""

    topic: str
    partition: int
    cursor: Cursor
    owner: str | None = None
    token: int = 0
    """Grows with each owner."""
    revoking: bool = False
    handover: Handover | None = None


class Person(msgspec.Struct):
    """One member."""

    name: str
    topics: list[str]
    renewals: int = 0
    settles: int = 0


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    through: int
    """Place of the last record that is in it."""
    members: dict[str, Person]
    seats: list[Seat]


Record = Join | Renew | Expire | Leave | Settle | Evict | Snapshot

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)
encode_record = _encoder.encode


def decode_record(body: bytes) -> Record:
    """Read a record. Raises `msgspec.DecodeError`."""
    record: Record = _decoder.decode(body)
    return record


class Roster:
    """The fold."""

    def __init__(self) -> None:
        self.members: dict[str, Person] = {}
        self.seats: dict[Place, Seat] = {}
        self._at = 0.0
        self._freed: set[Place] = set()

    def apply(self, record: Record, at: float = 0.0) -> list[Settled]:
        """Fold one record in, written ``at`` a time (seconds since 1970).

        Returns an answer for each item of a `Settle`, and nothing for the others.
        """
        self._at = at
        self._freed.clear()
        match record:
            case Settle():
                return self._settle(record)
            case Renew(members):
                for id in members:
                    if id in self.members:
                        self.members[id].renewals += 1
                return []
            case Join():
                self._join(record)
            case Expire(member, renewals):
                person = self.members.get(member)
                if person is None or person.renewals != renewals:
                    return []
                self._remove([member], "expired")
            case Leave(members):
                self._remove(members, "left")
            case Evict(topic, partition, token):
                seat = self.seats.get((topic, partition))
                if seat is None or seat.token != token or not seat.revoking:
                    return []
                self._free(seat, "took over")
            case _:
                return []  # a snapshot says nothing new to who has read what it was made of
        self._share()
        return []

    def snapshot(self, through: int) -> Snapshot:
        """Return all of it, to be written into the journal; ``through`` is the place of the last record folded in."""
        return Snapshot(through, dict(self.members), list(self.seats.values()))

    def restore(self, snapshot: Snapshot) -> None:
        """Be what a snapshot says."""
        self.members = dict(snapshot.members)
        self.seats = {(seat.topic, seat.partition): seat for seat in snapshot.seats}

    def owned(self, member: str) -> Mapping[Place, Seat]:
        """What a member owns."""
        return {place: seat for place, seat in self.seats.items() if seat.owner == member}

    def _join(self, join: Join) -> None:
        self._remove([join.replaces], "rejoined")
        self.members[join.member] = Person(join.name, sorted(join.starts))
        for topic, lows in join.starts.items():
            if (topic, 0) not in self.seats:
                for partition, low in enumerate(lows):
                    self.seats[topic, partition] = Seat(topic, partition, Cursor(0, low))

    def _settle(self, settle: Settle) -> list[Settled]:
        person = self.members.get(settle.member)
        if person is None:
            return ["fenced"] * len(settle.items)
        if settle.number <= person.settles:
            return ["ok"] * len(settle.items)  # a copy: what it said was granted or refused before
        person.settles = settle.number
        answers: list[Settled] = []
        freed = False
        for item in settle.items:
            seat = self.seats.get((item.topic, item.partition))
            if seat is None or seat.owner != settle.member:
                answers.append("fenced")
            elif item.epoch < seat.cursor.epoch:
                self._free(
                    seat, "fenced"
                )  # it owns the partition and somebody with a higher epoch wrote: it owns no more
                freed = True
                answers.append("fenced")
            else:
                seat.cursor = Cursor(item.epoch, item.low, item.state)
                if item.release:
                    self._free(seat, "released")
                    freed = True
                answers.append("ok")
        if freed:
            self._share()
        return answers

    def _remove(self, members: Sequence[str], why: Why) -> None:
        for seat in self.seats.values():
            if seat.owner in members:
                self._free(seat, why)
        for member in members:
            self.members.pop(member, None)

    def _free(self, seat: Seat, why: Why) -> None:
        assert seat.owner is not None
        seat.handover = Handover(self._at, why, self.members[seat.owner].name)
        self._freed.add((seat.topic, seat.partition))
        seat.owner = None
        seat.revoking = False

    def _share(self) -> None:
        for place, target in self._plan().items():
            seat = self.seats[place]
            if seat.owner is None:
                seat.owner = target
                seat.token += 1
                if place not in self._freed:
                    seat.handover = Handover(self._at, "joined", None)
            elif seat.owner != target:
                seat.revoking = True

    def _plan(self) -> dict[Place, str]:
        """Who should own what: topics with the same members are shared out together."""
        members: dict[str, list[str]] = {}
        for id, person in self.members.items():
            for topic in person.topics:
                members.setdefault(topic, []).append(id)
        shares: dict[tuple[str, ...], list[Place]] = {}
        for place in self.seats:
            if place[0] in members:
                shares.setdefault(tuple(sorted(members[place[0]])), []).append(place)
        plan: dict[Any, str] = {}
        for who, places in shares.items():
            for member, share in assign(who, sorted(places)).items():
                plan.update(dict.fromkeys(share, member))
        return plan
