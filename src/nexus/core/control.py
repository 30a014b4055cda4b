"""The control topic: what operators and programs decided about groups while they run, folded alike by every process.

One topic, `TOPIC`, of one partition. A record's *number* is one above its position, so numbers rise and 0 stands for
what the code says. Records state wishes; the owner of each partition carries them out, and writes the place from
which a wish holds into its cursor or its parking topic.

    record     about                          what holds from then on
    Pause      a group                        nothing of it starts
    Resume     a group                        as if it had never been paused
    Alter      a group                        only events that match its filter are the group's; None lifts that
    Seek       partitions of a group          it goes on at other positions
    Create     a group that no code knows     processes that have its handler consume it
    Remove     a group of `Create`            nobody consumes it any more
    Replay     a range of stored events       a group of its own consumes them by the handlers of another
    EndReplay  a replay                       it is over: done or cancelled
    Reopen     a replay that is over          dead letters of it that were requeued are handled, and nothing else
    Schedule   a recurring event              it is published by a cron expression; a known name is changed
    Unschedule a recurring event              it is not published any more
    Delay      the store                      somebody delays events: who consumes, publishes them in time
    Declare    a group                        its members want events of these patterns; of several the last holds
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Literal

import msgspec

TOPIC = "nexus.control"
Missed = Literal["skip", "once", "all"]
"""What becomes of firings of a schedule that were missed; see `nexus.core.cron`."""
Outcome = Literal["done", "cancelled"]


class Pause(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    who: str = ""


class Resume(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    who: str = ""


class Alter(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    where: str | None
    """A filter that events must match, besides what the code wants of them."""
    who: str = ""


class Seek(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    places: dict[str, dict[int, int]]
    """By topic and partition: the position of the event that is handled next."""
    drop: bool = False
    """Parked events below those positions are not handled any more. Dead letters stay."""
    who: str = ""


class Create(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    patterns: tuple[str, ...]
    handler: str
    """Name of a handler that programs registered."""
    start: Literal["latest", "earliest"] = "latest"
    where: str | None = None
    who: str = ""


class Remove(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    who: str = ""
    to_code: bool = False
    """Code names it by now: it is there as any other, and what else was decided about it holds."""


class Replay(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    id: str
    group: str
    """Whose handlers get the events; the replay is a group of its own and moves no cursor of this one."""
    ranges: dict[str, dict[int, tuple[int, int]]]
    """By topic and partition: the first position, and the one above the last."""
    patterns: tuple[str, ...] = ("**",)
    where: str | None = None
    rate: float | None = None
    """Events per second over all processes; None is as fast as the handlers are."""
    who: str = ""


class EndReplay(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    id: str
    outcome: Outcome
    who: str = ""
    seen: int = 0
    """Number of the last `Reopen` that it takes into account."""


class Reopen(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    id: str
    who: str = ""


class Schedule(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    name: str
    cron: str
    zone: str
    type: str
    body: str
    """The event's payload, JSON."""
    key: str | None
    missed: Missed
    since: float
    """It fires for times after this, in seconds since 1970."""
    who: str = ""


class Unschedule(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    name: str
    who: str = ""


class Delay(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    who: str = ""


class Declare(msgspec.Struct, frozen=True, tag=True, tag_field="record", omit_defaults=True):
    group: str
    patterns: tuple[str, ...]


Record = (
    Pause
    | Resume
    | Alter
    | Seek
    | Create
    | Remove
    | Replay
    | EndReplay
    | Reopen
    | Schedule
    | Unschedule
    | Delay
    | Declare
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
encode = _encoder.encode
decode = _decoder.decode


def replay_group(id: str) -> str:
    """Name of the group by which a replay reads and keeps its place."""
    return f"replay-{id}"


class Wish(msgspec.Struct, frozen=True):
    """Where a partition of a group is to go on."""

    number: int
    to: int
    drop: bool


class GroupControl:
    """What was decided about one group."""

    __slots__ = ("filters", "paused", "wishes")

    def __init__(self) -> None:
        self.paused = False
        self.filters: dict[int, str | None] = {0: None}
        """By number, rising; the last is the one in force. Older ones still judge what was fetched under them."""
        self.wishes: dict[tuple[str, int], Wish] = {}

    @property
    def version(self) -> int:
        """Number of the filter in force."""
        return next(reversed(self.filters))


NOTHING = GroupControl()
"""What holds for a group of which nothing was decided."""


class Control:
    """The state that the records of the control topic make."""

    def __init__(self) -> None:
        self.next = 0
        """Position where reading goes on."""
        self._groups: dict[str, GroupControl] = {}
        self._created: dict[str, Create] = {}
        self._removed: set[str] = set()
        self._replays: dict[str, Replay] = {}
        self._ended: dict[str, Outcome] = {}
        self._reopened: dict[str, int] = {}
        self._schedules: dict[str, Schedule] = {}
        self._declared: dict[str, tuple[str, ...]] = {}
        self.delays = False
        """True once anything was delayed or scheduled."""

    def apply(self, position: int, record: Record) -> None:
        """Take in the record that stands at ``position``; positions rise."""
        self.next = position + 1
        match record:
            case Pause(group):
                self._group(group).paused = True
            case Resume(group):
                self._group(group).paused = False
            case Alter(group, where):
                self._group(group).filters[self.next] = where
            case Seek(group, places, drop):
                wishes = self._group(group).wishes
                for topic, positions in places.items():
                    for partition, to in positions.items():
                        wishes[topic, partition] = Wish(self.next, to, drop)
            case Create(group):
                self._created.setdefault(group, record)
                self._removed.discard(group)
            case Remove(group, _, True):
                self._created.pop(group, None)
                self._removed.discard(group)
            case Remove(group):
                if self._created.pop(group, None) is not None:
                    self._removed.add(group)
                    own = self._group(group)
                    own.paused = False
                    own.filters[self.next] = None
            case Replay(id):
                if id not in self._replays:
                    self._replays[id] = record
                    wishes = self._group(replay_group(id)).wishes
                    for topic, ranges in record.ranges.items():
                        for partition, (first, _) in ranges.items():
                            wishes[topic, partition] = Wish(self.next, first, False)
            case EndReplay(id):
                if id in self._replays:
                    self._end(id, record)
            case Reopen(id):
                if id in self._replays:
                    self._reopen(id)
            case Schedule(name):
                self._schedules[name] = record
                self.delays = True
            case Unschedule(name):
                self._schedules.pop(name, None)
            case Declare(group, patterns):
                self._declared[group] = patterns
            case _:  # Delay
                self.delays = True

    def _end(self, id: str, record: EndReplay) -> None:
        running = id not in self._ended
        self._ended.setdefault(id, record.outcome)
        if record.outcome == "cancelled" or record.seen >= self._reopened.get(id, 0):
            self._reopened.pop(id, None)
        elif running:  # whoever ended it may not have read what was requeued meanwhile
            self._reopen(id)

    def _reopen(self, id: str) -> None:
        """Have the owners of a replay read again what was requeued, and have them go on at the end."""
        self._reopened[id] = self.next
        if id in self._ended:
            wishes = self._group(replay_group(id)).wishes
            for topic, ranges in self._replays[id].ranges.items():
                for partition, (first, end) in ranges.items():
                    if first < end:
                        wishes[topic, partition] = Wish(self.next, end, False)

    def _group(self, name: str) -> GroupControl:
        return self._groups.setdefault(name, GroupControl())

    def group(self, name: str) -> GroupControl:
        """What was decided about a group."""
        return self._groups.get(name, NOTHING)

    @property
    def created(self) -> Mapping[str, Create]:
        """Groups that no code knows, by name."""
        return self._created

    @property
    def removed(self) -> Set[str]:
        """Groups that were created and are not any more; their cursors are there still."""
        return self._removed

    @property
    def replays(self) -> Mapping[str, Replay]:
        """All replays, by id, oldest first."""
        return self._replays

    @property
    def declared(self) -> Mapping[str, tuple[str, ...]]:
        """What the members of groups said that they want, by group."""
        return self._declared

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """What recurs, by name."""
        return self._schedules

    def outcome(self, id: str) -> Outcome | None:
        """How a replay ended, or None while it runs."""
        return None if id in self._reopened else self._ended.get(id)

    def reopened(self, id: str) -> int:
        """Number of the `Reopen` for which a replay that was over runs again; 0 if it does not."""
        return self._reopened.get(id, 0) if id in self._ended else 0
