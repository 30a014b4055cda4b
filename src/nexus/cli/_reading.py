"""Finding an event by its id alone."""

from __future__ import annotations

from nexus.runtime.reading import At, Seen, merged, starts
from nexus.spi.backend import Backend

__all__ = ["At", "Seen", "find_event", "merged", "starts"]


async def find_event(backend: Backend, topics: list[str], id: str) -> Seen | None:
    """Find an event by its id, oldest first. Reads everything: no backend keeps an index of ids alone."""
    async for seen in merged(backend, await starts(backend, topics, "earliest")):
        if seen.stored.event.id == id:
            return seen
    return None
