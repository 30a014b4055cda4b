"""The parking topic of one (topic, group, partition): its records, and the one way to read them.

A key whose event failed for longer than a lane should wait is parked: its events go to the parking topic, in order,
and run from there. Whether a key is parked is never written; it follows from the fold. Every reader (owner,
command line, console) folds the same records to the same state:

    record      writer    the fold takes it if                          and then
    Claim       owner     its epoch is higher than the one in force     that epoch is in force
    Entry       owner     epoch in force, position above the floor      a new entry, open or dead; the floor rises to it
    Start       owner     epoch in force, entry open, same round        attempts = the record's
    Unstart     owner     as Start, and it names the last attempt       attempts - 1
    Failed      owner     as Start                                      due later
    Done        owner     as Start                                      final
    Dead        owner     as Start                                      dead, round + 1
    Requeue     operator  entry dead, same round                        open, attempts 0, edited event if there is one
    Discard     operator  entry dead, same round                        final
    Carry       owner     epoch in force, the entry as the record says  the entry stands here from now on
    Checkpoint  owner     epoch in force                                what is finished below ``low`` may be forgotten
    Reset       owner     epoch in force, its number above the last     the group goes on at ``to``: entries from there
                                                                        on are gone, floors are below it

What is not taken leaves no trace, so every record may be sent twice and land late. ``round`` says how often the entry
has died; a late copy cannot speak about the next life. An entry at position q says: every earlier event of its key is
finished or has an entry. So a position at or below its key's *floor* never runs from the topic again.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from nexus.event import Event

LaneKey = tuple[str | None, str] | int
"""(tenant, key), or the position of an event without key: it is a key of its own."""


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    member: str


class Entry(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    event: Event[Any]
    dead: bool = False
    attempts: int = 0
    due: float = 0.0
    """Seconds since 1970; 0 is at once."""
    reason: str = ""
    error: str = ""
    at: float = 0.0
    """When it was written, seconds since 1970; for people, not for rules."""


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    round: int
    attempt: int


class Unstart(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    round: int
    attempt: int


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    round: int
    attempt: int
    due: float
    error: str = ""
    at: float = 0.0


class Done(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    round: int


class Dead(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    round: int
    reason: str
    error: str = ""
    at: float = 0.0


class Requeue(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    key: LaneKey
    position: int
    round: int
    who: str = ""
    event: Event[Any] | None = None
    """The edited event; None keeps the original."""
    at: float = 0.0


class Discard(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    key: LaneKey
    position: int
    round: int
    who: str = ""
    why: str = ""
    at: float = 0.0


class Carry(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    key: LaneKey
    position: int
    event: Event[Any]
    edited: Event[Any] | None
    dead: bool
    attempts: int
    round: int
    due: float
    seen: int
    """The writer had folded all records below this place."""
    reason: str = ""
    history: tuple[str, ...] = ()
    """What was said of it so far, oldest first, one JSON object each."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    epoch: int
    low: int


class Reset(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The group was told to go on elsewhere. An owner writes it right after its own claim, before it fetches.

    So every record about positions that were handled before is of an older epoch, and late copies are dropped.
    """

    epoch: int
    number: int
    """Which of the operators' wishes this is; they rise."""
    to: int
    """The position that is fetched next."""
    drop: bool = False
    """Open entries below ``to`` are finished too; dead ones never are."""


class Unreadable(msgspec.Struct, frozen=True):
    """Stands in a parking topic and is no record, or one of a later release: every reader passes over it alike."""


Record = (
    Claim | Entry | Start | Unstart | Failed | Done | Dead | Requeue | Discard | Carry | Checkpoint | Reset
)  # fmt: skip

SPOKEN_LIMIT = 65_536
"""Records over which a fold remembers what they were about; a `Carry` lands far sooner after its writing."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
encode_record = _encoder.encode


def decode_record(body: bytes) -> Record:
    """Read a record. Raises `msgspec.MsgspecError` for what is none."""
    return _decoder.decode(body)


class Parked:
    """What the fold knows of one entry that was touched; untouched followers are two numbers in an array."""

    __slots__ = ("attempts", "dead", "due", "place", "round", "since")

    def __init__(self, place: int, dead: bool, attempts: int, round: int, due: float) -> None:
        self.place = place
        """Where in the parking topic the record stands that holds the event to run."""
        self.since = place
        """Where the record stands that makes the entry known; reading must begin there or before."""
        self.dead = dead
        self.attempts = attempts
        self.round = round
        self.due = due

    def state(self) -> tuple[bool, int, int, float]:
        return self.dead, self.attempts, self.round, self.due


class ParkedKey:
    """All entries of one key that are not finished, and its floor."""

    __slots__ = ("_head", "_places", "_waiting", "dead", "floor", "floor_place", "open", "touched")

    def __init__(self) -> None:
        self.floor = -1
        self.floor_place = 0
        self.touched: dict[int, Parked] = {}
        self.open: list[int] = []  # touched and open, rising
        self.dead: list[int] = []  # touched and dead, rising
        # A blocked key may have a million followers: 16 bytes each.
        self._waiting = array("q")
        self._places = array("q")
        self._head = 0

    def wait(self, position: int, place: int) -> None:
        """Add an untouched open entry; positions rise."""
        self._waiting.append(position)
        self._places.append(place)

    def find(self, position: int) -> Parked | None:
        """Return the entry as one that may be changed, or None if it is unknown or finished."""
        entry = self.touched.get(position)
        if entry is not None:
            return entry
        index = bisect_left(self._waiting, position, self._head)
        if index == len(self._waiting) or self._waiting[index] != position:
            return None
        entry = Parked(self._places[index], False, 0, 0, 0.0)
        if index == self._head:
            self._head += 1
            if self._head > 1024 and self._head * 2 > len(self._waiting):
                del self._waiting[: self._head], self._places[: self._head]
                self._head = 0
        else:
            del self._waiting[index], self._places[index]
        self.add(position, entry)
        return entry

    def holds(self, position: int) -> bool:
        index = bisect_left(self._waiting, position, self._head)
        return position in self.touched or (index < len(self._waiting) and self._waiting[index] == position)

    def add(self, position: int, entry: Parked) -> None:
        self.touched[position] = entry
        insort(self.dead if entry.dead else self.open, position)

    def remove(self, position: int) -> None:
        entry = self.touched.pop(position)
        side = self.dead if entry.dead else self.open
        del side[bisect_left(side, position)]

    def opens(self, skip: Collection[int] = ()) -> Iterator[int]:
        """Positions of open entries, rising, without those in ``skip``."""
        waiting = islice(self._waiting, self._head, None)
        return (position for position in heapq.merge(self.open, waiting) if position not in skip)

    @property
    def open_count(self) -> int:
        return len(self.open) + len(self._waiting) - self._head

    @property
    def lowest_open(self) -> int | None:
        waiting = self._waiting[self._head] if self._head < len(self._waiting) else None
        if not self.open:
            return waiting
        return self.open[0] if waiting is None else min(self.open[0], waiting)

    @property
    def finished(self) -> bool:
        return not self.touched and self._head == len(self._waiting)

    def cut(self, to: int, *, drop: bool) -> None:
        """Forget the entries from position ``to`` on, with ``drop`` the open ones below too."""
        end = bisect_left(self._waiting, to, self._head)
        del self._waiting[end:], self._places[end:]
        if drop:
            self._head = end
        for position in [p for p, entry in self.touched.items() if p >= to or (drop and not entry.dead)]:
            self.remove(position)
        self.floor = min(self.floor, to - 1)

    def since_lowest(self, otherwise: int) -> int:
        """Lowest place that makes an unfinished entry known; untouched ones stand in the order of their places."""
        lowest = min((entry.since for entry in self.touched.values()), default=otherwise)
        return min(lowest, self._places[self._head]) if self._head < len(self._places) else lowest

    def since(self) -> Iterator[tuple[int, int]]:
        """(position, place of the record that makes it known) of unfinished entries."""
        yield from ((position, entry.since) for position, entry in self.touched.items())
        yield from zip(islice(self._waiting, self._head, None), islice(self._places, self._head, None), strict=True)


class Fold:
    """The state that the records of one parking partition make."""

    def __init__(self, place: int = 0, epoch: int = 0, base: int = 0, reset: int = 0) -> None:
        self.place = place
        """Where reading goes on."""
        self.epoch = epoch
        """The epoch in force."""
        self.claimant = ""
        """The member whose claim made it so; empty if that claim lies before the place where this fold began."""
        self.base = base
        """Positions below are finished, or have an entry that is known."""
        self.reset = reset
        """Number of the last `Reset`."""
        self.reset_to = 0
        """Where that said to go on; 0 if it lies before the place where this fold began."""
        self.keys: dict[LaneKey, ParkedKey] = {}
        self.unfinished = 0
        """Count of entries that are open or dead."""
        self.dead = 0
        """Count of entries that are dead."""
        self._whole = place == 0
        self._marks = [(place, epoch, base, reset)]  # what was in force from which place on
        # Only of a fold that began behind the start: places of the last records about entries, known or not. What was
        # spoken of before its own record was written before this fold began, and that record is a late copy.
        self._spoken: dict[tuple[LaneKey, int], int] = {}
        self._refused: list[tuple[int, int]] = []  # carries that lost against a command: (what they had seen, place)

    def floor(self, key: LaneKey) -> int:
        known = self.keys.get(key)
        return known.floor if known else -1

    def holds(self, key: LaneKey, position: int) -> bool:
        """Tell whether there is an unfinished entry at a position."""
        known = self.keys.get(key)
        return known is not None and known.holds(position)

    def apply(self, place: int, record: Record | Unreadable) -> bool:
        """Fold in the record that stands at ``place``; True if it was taken."""
        self.place = place + 1
        match record:
            case Unreadable():
                return False
            case Requeue() | Discard():
                return self._command(record)
            case Claim():
                return self._claim(record)
        if not self._in_force(record.epoch):
            return False
        match record:
            case Entry():
                return self._entry(place, record)
            case Carry():
                return self._carry(place, record)
            case Checkpoint():
                return self._checkpoint(record)
            case Reset():
                return self._reset(record)
        known = self.keys.get(record.key)
        entry = known.find(record.position) if known else None
        self._note(record.key, record.position)
        if known is None or entry is None or entry.dead or not self._same_round(entry, record.round):
            return False
        match record:
            case Start():
                entry.attempts = max(entry.attempts, record.attempt)
            case Unstart():
                if entry.attempts != record.attempt:
                    return False
                entry.attempts -= 1
            case Failed():
                entry.due = record.due
            case Done():
                self._finish(known, record.position)
            case _:  # Dead
                self.dead += 1
                known.remove(record.position)
                entry.dead, entry.round = True, entry.round + 1
                known.add(record.position, entry)
        return True

    def _claim(self, record: Claim) -> bool:
        if record.epoch <= self.epoch:  # a slow loser's claim, landing late, must not silence the owner
            return False
        self.epoch = record.epoch
        self.claimant = record.member
        self._mark()
        return True

    def _in_force(self, epoch: int) -> bool:
        return epoch == self.epoch

    def _same_round(self, entry: Parked, round: int) -> bool:
        return entry.round == round

    def _entry(self, place: int, record: Entry) -> bool:
        known = self.keys.get(record.key)
        if record.position < self.base or (known and record.position <= known.floor):
            return False
        if (record.key, record.position) in self._spoken:
            return False
        if known is None:
            known = self.keys[record.key] = ParkedKey()
        known.floor, known.floor_place = record.position, place
        self.unfinished += 1
        self.dead += record.dead
        if record.dead or record.attempts or record.due:
            rounds = 1 if record.dead else 0
            known.add(record.position, Parked(place, record.dead, record.attempts, rounds, record.due))
        else:
            known.wait(record.position, place)
        return True

    def _carry(self, place: int, record: Carry) -> bool:
        """Move an entry here. A fold that began behind its first record learns of it only now.

        Both must agree when a command fell between the writing and the landing: the full fold sees a changed
        entry, the later one sees the command, about an entry that it may not know.
        """
        known = self.keys.get(record.key)
        told = Parked(place, record.dead, record.attempts, record.round, record.due)
        entry = known.find(record.position) if known else None
        if known is not None and entry is not None:
            if entry.state() != told.state():
                self._refused.append((record.seen, place))
                return False
            entry.place = entry.since = place
            return True
        if self._whole or self._spoken.get((record.key, record.position), -1) >= record.seen:
            self._refused.append((record.seen, place))
            return False  # finished meanwhile
        if known is None:
            known = self.keys[record.key] = ParkedKey()
        known.add(record.position, told)
        self.unfinished += 1
        self.dead += record.dead
        if record.position > known.floor:
            known.floor, known.floor_place = record.position, place
        return True

    def _checkpoint(self, record: Checkpoint) -> bool:
        self.base = max(self.base, record.low)
        gone = [key for key, known in self.keys.items() if known.finished and known.floor < self.base]
        for key in gone:
            del self.keys[key]
        recent = self.place - SPOKEN_LIMIT
        self._spoken = {about: at for about, at in self._spoken.items() if about[1] >= self.base or at >= recent}
        self._mark()
        return True

    def _reset(self, record: Reset) -> bool:
        if record.number <= self.reset:
            return False
        self.reset, self.reset_to = record.number, record.to
        self.base = record.to
        for key, known in list(self.keys.items()):
            before, dead = known.open_count, len(known.dead)
            known.cut(record.to, drop=record.drop)
            gone = dead - len(known.dead)
            self.dead -= gone
            self.unfinished -= gone + before - known.open_count
            if known.finished:
                del self.keys[key]
        self._spoken = {about: at for about, at in self._spoken.items() if about[1] < record.to}
        self._mark()
        return True

    def _mark(self) -> None:
        self._marks.append((self.place, self.epoch, self.base, self.reset))

    def _command(self, record: Requeue | Discard) -> bool:
        known = self.keys.get(record.key)
        entry = known.find(record.position) if known else None
        self._note(record.key, record.position)
        if known is None or entry is None or not entry.dead or not self._same_round(entry, record.round):
            return False
        self.dead -= 1
        if isinstance(record, Discard):
            self._finish(known, record.position)
            return True
        known.remove(record.position)
        entry.dead, entry.attempts, entry.due = False, 0, 0.0
        if record.event is not None:
            entry.place = self.place - 1
        known.add(record.position, entry)
        return True

    def _note(self, key: LaneKey, position: int) -> None:
        if not self._whole:
            self._spoken[key, position] = self.place - 1

    def _finish(self, known: ParkedKey, position: int) -> None:
        known.remove(position)
        self.unfinished -= 1

    def checkpoint(self) -> tuple[int, int, int, int]:
        """Return (place, epoch, base, reset) from which a reader folds to the same state, as far as it still matters:
        unfinished entries, and floors from the base on. What is below the place may be trimmed.
        """
        place = self.place
        for known in self.keys.values():
            place = min(place, known.since_lowest(place))
            if known.floor >= self.base:
                place = min(place, known.floor_place)
        for seen, at in reversed(self._refused):
            if seen < place <= at:  # who begins in between sees the carry, and not the command that it lost against
                place = seen
        self._refused = [(seen, at) for seen, at in self._refused if at >= place]
        while len(self._marks) > 1 and self._marks[1][0] <= place:
            del self._marks[0]
        return (place, *self._marks[0][1:])


KeyState = Literal["free", "parked", "blocked"]


def key_state(known: ParkedKey | None, *, dead_blocks: bool) -> KeyState:
    """Tell whether a key runs from its topic, from the parking topic, or not at all."""
    if known is None:
        return "free"
    lowest = known.lowest_open
    if dead_blocks and known.dead and (lowest is None or known.dead[0] < lowest):
        return "blocked"
    return "free" if lowest is None else "parked"
