"""What the records of a parking topic tell people about an entry: the event, each failure, what an operator edited.

The fold keeps none of this; it is read when somebody asks, or when an old entry is carried forward.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nexus.core.parking import (
    Carry,
    Dead,
    Discard,
    Done,
    Entry,
    Failed,
    Fold,
    LaneKey,
    Record,
    Requeue,
    Reset,
    Unreadable,
)
from nexus.event import Event

HISTORY_LIMIT = 20
"""Failures kept of one entry, the latest."""
HISTORY_LIMIT_CHARS = 24_000


class Attempt(msgspec.Struct, frozen=True):
    """One failure of an event."""

    attempt: int
    at: float
    """Seconds since 1970; 0 if unknown."""
    error: str


class Told:
    """What the records say of one entry."""

    __slots__ = ("died_at", "edited", "event", "history", "reason")

    def __init__(self, event: Event[Any]) -> None:
        self.event = event
        self.edited: Event[Any] | None = None
        self.reason = ""
        self.died_at = 0.0
        self.history: list[Attempt] = []

    def failed(self, attempt: int, at: float, error: str) -> None:
        self.history.append(Attempt(attempt, at, error))
        del self.history[:-HISTORY_LIMIT]

    def history_lines(self) -> tuple[str, ...]:
        """The history as a `Carry` holds it: the latest failures, as far as they fit."""
        lines: list[str] = []
        size = 0
        for attempt in reversed(self.history):
            line = msgspec.json.encode(attempt).decode()
            size += len(line)
            if size > HISTORY_LIMIT_CHARS:
                break
            lines.append(line)
        return tuple(reversed(lines))


def tell(told: dict[tuple[LaneKey, int], Told], record: Record | Unreadable, fold: Fold) -> None:
    """Note what a record says that ``fold`` has just taken."""
    match record:
        case Entry(_, key, position, event):
            said = told[key, position] = Told(event)
            if record.error or record.dead:
                said.failed(record.attempts, record.at, record.error)
            if record.dead:
                said.reason, said.died_at = record.reason, record.at
        case Carry(_, key, position, event):
            said = told.setdefault((key, position), Told(event))
            said.edited = record.edited
            if not said.history:
                said.history = [msgspec.json.decode(line, type=Attempt) for line in record.history]
                said.reason = record.reason
                said.died_at = said.history[-1].at if said.history else 0.0
        case Failed(_, key, position):
            told[key, position].failed(record.attempt, record.at, record.error)
        case Dead(_, key, position):
            said = told[key, position]
            said.failed(fold.keys[key].touched[position].attempts, record.at, record.error)
            said.reason, said.died_at = record.reason, record.at
        case Requeue(key, position):
            if record.event is not None:  # else it stays what an earlier one made of it
                told[key, position].edited = record.event
        case Done(_, key, position) | Discard(key, position):
            told.pop((key, position), None)
        case Reset():
            for key, position in [about for about in told if not fold.holds(*about)]:
                del told[key, position]
