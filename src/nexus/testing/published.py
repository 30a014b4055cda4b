"""What was published, for assertions: ``assert await published("order.*") == [...]``."""

from __future__ import annotations

from typing import Any

from nexus.app import Nexus
from nexus.event import Event


class Published:
    """Reads back what is stored on a bus, in the order in which it was stored."""

    def __init__(self, bus: Nexus) -> None:
        self._bus = bus

    async def __call__(self, *patterns: str, where: str | None = None) -> list[Event[Any]]:
        """The events whose type matches one of the patterns; all if none is given."""
        tail = self._bus.tail(*patterns, where=where, start="earliest", follow=False)
        return [seen.stored.event async for seen in tail]

    async def data(self, *patterns: str, where: str | None = None) -> list[tuple[str, Any]]:
        """Type and payload of each, which makes a failing comparison easy to read."""
        return [(event.type, event.data) for event in await self(*patterns, where=where)]
