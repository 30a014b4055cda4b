"""The events that this process appended last, kept for its own consumers.

What was just committed need not be read from the file, checked and decoded by those who wait for it in the same
process. Kept are runs: per partition the events of consecutive positions up to the last append. Whatever makes a run
doubtful (another process wrote, something was trimmed) empties it, and so does the bound; then the file is read as
ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus.backends.sqlite.requests import AppendRequest
from nexus.spi.backend import Stored, Want

LIMIT_EVENTS = 16_384
LIMIT_BYTES = 16 * 1024 * 1024
"""Of all topics together; beyond either, all is let go."""


class Recent:
    """Runs of all topics that somebody here consumes."""

    def __init__(self) -> None:
        self._runs: dict[str, dict[int, list[Stored]]] = {}
        self._events = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._events

    def add(self, request: AppendRequest) -> None:
        """Keep the events of a request that was committed, if all of them were new."""
        at = request.at
        if at is None:
            return
        if self._events >= LIMIT_EVENTS or self._bytes >= LIMIT_BYTES:
            self.clear()
        runs = self._runs.setdefault(request.topic, {})
        for (partition, event, content), answer in zip(request.items, request.result, strict=True):
            size = len(content) + 4
            position = answer.position
            stored = Stored(position, at, size, event)
            run = runs.get(partition)
            if run is None or run[-1].position + 1 != position:
                runs[partition] = [stored]
            else:
                run.append(stored)
            self._bytes += size
        self._events += len(request.items)

    def find(self, want: Want) -> Sequence[Stored]:
        """Return events from exactly the wished position on, at most so many as wished; none if they are not here."""
        runs = self._runs.get(want.topic)
        run = runs.get(want.partition) if runs else None
        if run is None:
            return ()
        start = want.position - run[0].position
        return run[start : start + want.max_events] if start >= 0 else ()

    def forget(self, topic: str) -> None:
        """Let the events of a topic go."""
        for run in self._runs.pop(topic, {}).values():
            self._events -= len(run)
            self._bytes -= sum([stored.size for stored in run])

    def clear(self) -> None:
        """Let all go."""
        self._runs.clear()
        self._events = self._bytes = 0
