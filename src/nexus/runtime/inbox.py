"""Second copies of an event, where the backend does not recognise them: passed over by whoever consumes.

An event that was published again by another process, because nobody knew what became of it, stands twice in its
partition (the partition follows from the key, or from source and id, so both copies are in the same). The consumer
remembers the ids of the last `REACH_EVENTS` events of each partition that it owns; after a takeover it reads them back
from the partition itself, so nothing has to be stored.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from nexus.core.envelope import content_hash
from nexus.errors import BackendError
from nexus.event import Event
from nexus.spi.backend import Backend, Want

log = logging.getLogger("nexus.consumer")

REACH_EVENTS = 512
"""A second copy is passed over if at most so many events of its partition came in between."""
_READ_BYTES = 16 * 1024 * 1024

Id = tuple[str, str]


class Inbox:
    """The ids of one partition."""

    def __init__(self) -> None:
        self._ids: dict[Id, int] = {}
        """By id, what its event says."""
        self._order: deque[Id] = deque()

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, event: Event[Any]) -> bool:
        """Note an event; False if it is a second copy. Another event under a known id is none, and is told of."""
        id, content = (event.source, event.id), content_hash(event)
        known = self._ids.get(id)
        if known is not None:
            if known != content:
                log.error("two events with source %r and id %r differ; both are handled", *id)
            return known != content
        self._ids[id] = content
        self._order.append(id)
        if len(self._order) > REACH_EVENTS:
            del self._ids[self._order.popleft()]
        return True


async def inboxes_for(backend: Backend, places: Sequence[tuple[str, int, int]]) -> list[Inbox]:
    """Return an inbox for each (topic, partition, position), with what came right before if it can be read."""
    try:
        return await _read_back(backend, places)
    except BackendError as error:  # second copies of what came before are handled then, and nothing is lost
        log.warning("cannot read what came before the takeover: %s", error)
        return [Inbox() for _ in places]


async def _read_back(backend: Backend, places: Sequence[tuple[str, int, int]]) -> list[Inbox]:
    inboxes = {(topic, partition): Inbox() for topic, partition, _ in places}
    ends = {(topic, partition): position for topic, partition, position in places}
    wants = [
        Want(topic, partition, max(0, position - REACH_EVENTS), REACH_EVENTS)
        for topic, partition, position in places
        if position > 0
    ]
    while wants:
        following = []
        for part in await backend.read(wants, _READ_BYTES):
            place = part.topic, part.partition
            for stored in part.events:
                if stored.position < ends[place]:
                    inboxes[place].take(stored.event)
            if part.more and part.next < ends[place]:
                following.append(Want(*place, part.next, REACH_EVENTS))
        wants = following
    return [inboxes[topic, partition] for topic, partition, _ in places]
