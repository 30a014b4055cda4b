"""The ids that this process appended to a topic lately: what makes publishing again safe on any broker.

An id is known from the moment that its append begins: who appends the same event meanwhile waits for that answer.
What other processes appended is not known here. On a broker that knows no duplicates itself, consumers pass over the
second copy (`nexus.runtime.inbox`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from nexus.errors import IdConflict
from nexus.event import Event
from nexus.spi.backend import Appended

KNOWN_AGE_S = 600.0
KNOWN_LIMIT = 100_000
"""An id is known for the shorter of these, per topic."""

Id = tuple[str, str]


class Entry(msgspec.Struct, eq=False):
    """One id: where its event is, once that is known, and what the event said."""

    digest: int
    place: Appended | None = None
    pending: asyncio.Future[None] | None = None


class KnownIds:
    """The window of one topic."""

    def __init__(self, topic: str, monotonic: Callable[[], float]) -> None:
        self._topic = topic
        self._monotonic = monotonic
        self._entries: dict[Id, Entry] = {}
        self._order: deque[tuple[float, Id, Entry]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, event: Event[Any]) -> Entry | None:
        """The entry of an event's id, if it is known."""
        return self._entries.get((event.source, event.id))

    def begin(self, event: Event[Any]) -> Entry:
        """Note that an event is about to be appended."""
        entry = self._entries[event.source, event.id] = Entry(digest(event))
        return entry

    def stored(self, event: Event[Any], entry: Entry, place: Appended) -> None:
        """Note where it is."""
        now = self._monotonic()
        id = event.source, event.id
        entry.place = place
        self._wake(entry)
        self._order.append((now, id, entry))
        while len(self._order) > KNOWN_LIMIT or self._order[0][0] < now - KNOWN_AGE_S:
            _, old, gone = self._order.popleft()
            if self._entries.get(old) is gone:
                del self._entries[old]

    def failed(self, event: Event[Any], entry: Entry) -> None:
        """Forget an event that is not stored, or of which nobody knows: who waits for it tries for himself."""
        self._entries.pop((event.source, event.id), None)
        self._wake(entry)

    async def wait(self, entry: Entry) -> None:
        """Wait until an append that is under way has ended."""
        if entry.pending is None:
            entry.pending = asyncio.get_running_loop().create_future()
        await asyncio.shield(entry.pending)

    def answer(self, event: Event[Any], entry: Entry) -> Appended | IdConflict:
        """What to say of an event whose id is stored."""
        assert entry.place is not None
        if entry.digest == digest(event):
            return Appended(entry.place.partition, entry.place.position, True)
        first = entry.place
        return IdConflict(
            f"topic {self._topic!r} has another event with source {event.source!r} and id {event.id!r}, "
            f"at partition {first.partition}, position {first.position}",
            hint="give events ids of their own",
        )

    def _wake(self, entry: Entry) -> None:
        if entry.pending is not None and not entry.pending.done():
            entry.pending.set_result(None)


def digest(event: Event[Any]) -> int:
    """Stand for what `nexus.core.envelope.same_content` compares: 64 bits under this process's secret."""
    return hash((event.body, event.type, event.key, event.tenant, event.subject, event.datacontenttype))
