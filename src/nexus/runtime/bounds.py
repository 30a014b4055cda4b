"""What the group of a replay may fetch: a range of each partition, what matches, and so many events per second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from nexus.core.control import Replay
from nexus.core.filter import compile_filter
from nexus.core.pace import Pace
from nexus.core.pattern import Pattern
from nexus.event import Event
from nexus.spi.backend import Stored

REPLAY = "nexusreplay"
"""Attribute of a replayed event: the replay's id."""

READ_AHEAD = 64
"""At most so many times what the rate has room for is read at once, where nothing of what was read matched."""

At = tuple[str, int]


def replay_of(event: Event[Any]) -> str | None:
    """Return the id of the replay that delivers an event, if one does."""
    found = event.extensions.get(REPLAY) if event.extensions else None
    return found if isinstance(found, str) else None


def ends_of(replay: Replay) -> dict[At, int]:
    """Return the position above the last of each range that is not empty."""
    return {
        (topic, partition): end
        for topic, ranges in replay.ranges.items()
        for partition, (first, end) in ranges.items()
        if first < end
    }


class Bounds:
    """The bounds of one replay, as one process keeps to them."""

    def __init__(self, replay: Replay, now: float) -> None:
        self.replay = replay
        self.topics = sorted(replay.ranges)
        self._ends = ends_of(replay)
        self._patterns = [Pattern(pattern) for pattern in replay.patterns]
        self._where = compile_filter(replay.where) if replay.where is not None else None
        self._paces = self._make_paces(replay, now)
        self._ahead: dict[At, int] = {}
        self.wake_at: float | None = None
        """When more may be fetched, where the rate allowed none."""

    def _make_paces(self, replay: Replay, now: float) -> Mapping[At, Pace]:
        """Share the rate among the partitions by their part of the events: all owners keep to it without talking."""
        if replay.rate is None:
            return {}
        counts = {(t, p): end - first for t, ranges in replay.ranges.items() for p, (first, end) in ranges.items()}
        total = sum(counts.values()) or 1
        return {at: Pace(replay.rate * count / total, now) for at, count in counts.items() if count > 0}

    def end(self, at: At) -> int:
        """Return the position at which a partition is through; 0 if nothing of it is replayed."""
        return self._ends.get(at, 0)

    def room(self, at: At, next: int, wanted: int, now: float) -> int:
        """Return how many events may be fetched of a partition from ``next`` on, if so many are ``wanted``."""
        wanted = min(wanted, max(0, self.end(at) - next))
        pace = self._paces.get(at)
        if pace is None or not wanted:
            return wanted
        room = pace.room(now)
        if not room:
            self.wake_at = min(self.wake_at or pace.wake_at, pace.wake_at)
            return 0
        ahead = self._ahead.get(at, 1)
        self._ahead[at] = min(2 * ahead, READ_AHEAD)
        return min(wanted, ahead * room)

    def wants(self, at: At, event: Event[Any]) -> bool:
        """Tell whether an event is to be replayed; if so, it counts."""
        wanted = any(pattern.matches(event.type) for pattern in self._patterns) and (
            self._where is None or self._where.matches(event)
        )
        if wanted and self._paces:
            self._paces[at].take(1)
            self._ahead[at] = 1
        return wanted

    def marked(self, stored: Stored) -> Stored:
        """Return the same with the replay's id among the event's attributes."""
        extensions = {**(stored.event.extensions or {}), REPLAY: self.replay.id}
        event = msgspec.structs.replace(stored.event, extensions=extensions)
        return msgspec.structs.replace(stored, event=event)
