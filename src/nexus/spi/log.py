"""What a broker must do to be a backend: keep partitioned logs. The rest is written once above it.

A broker's client is turned into a `Log`: topics, appends, reads, news. Consumer groups, leases, cursors, seals and
known ids are not a broker's business: `nexus.coordination` builds them from ordinary topics of the same log, so that
they mean the same on every broker, and makes a `nexus.spi.backend.Backend` of the two.

Everything said in `nexus.spi.backend` about topics, positions, news and errors holds here too. All methods are called
on one event loop and none may block it. Each log owns its reconnection: a call waits for it, within the log's own time
limit, and then raises `Unavailable` (nothing was stored) or `UnknownOutcome` (nobody knows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from nexus.event import Event
from nexus.spi.backend import Appended, Durability, Slice, TopicSpec, Want


class LogCapabilities(msgspec.Struct, frozen=True):
    """What a broker does natively. Known once the log is open."""

    dedup: Literal["window", "none"]
    """``window``: an event whose (source, id) was appended lately, by anybody, is answered with its first place."""
    positions_on_append: bool
    """Whether `append` tells where events are; perhaps not for one that an earlier try of its client had stored."""
    trim: bool
    """Whether the broker can forget events on request; if not, `nexus.coordination` keeps where a partition begins."""
    max_body_bytes: int
    """Largest body of an event, with room left for its attributes."""
    more_durable: str = ""
    """See `nexus.spi.backend.Capabilities.more_durable`."""


class LogState(msgspec.Struct, frozen=True):
    """A topic as the broker has it now."""

    first: tuple[int, ...]
    """Per partition: the lowest position that may still be kept."""
    end: tuple[int, ...]
    """Per partition: one above the highest position, of all that was appended before the question."""
    size_bytes: int
    durability: Durability
    """As observed from the broker's settings, not as configured."""


class Log(Protocol):
    """Partitioned logs on a broker, under the names that Nexus gives them."""

    name: str
    capabilities: LogCapabilities

    async def open(self) -> None:
        """Connect, and look at the broker's settings. Raises `Unavailable` or `SettingsError`."""

    async def close(self) -> None:
        """Send what is under way, and let go of everything. Idempotent."""

    async def create(self, topic: TopicSpec) -> None:
        """Make sure that a topic exists, with this retention. Idempotent, also between processes.

        Raises `SettingsError` when it exists with another number of partitions.
        """

    async def describe(self, topic: str) -> LogState:
        """Say how the topic is. Raises `UnknownTopic`."""

    async def topics(self) -> list[str]:
        """Names of all topics of this store, in any order."""

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        """Store events, each in its partition, durable at the topic's level when this returns.

        One answer per event, in the same order. Within a call and a partition the order is kept, and so it is between
        calls made one after the other, also without awaiting the first. ``dedup`` is False for journals: then each
        event is stored, whatever its id. A call that is cancelled may still store its events, in order.
        Raises as `Backend.append` does.
        """

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """Read at once what is there; one slice per want, in the same order. See `Member.fetch` for the bounds.

        ``fresh``: all that was appended before the call, by anybody, is there. Else the answer may come from what has
        arrived already: more of it arrives by itself, and the watchers of the topic are woken when it does.
        """

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """Lowest position recorded at or after ``time`` (seconds since 1970), or the end."""

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called on this loop when one of the topics may have news; returns how to stop that.

        An append that returned, in any process, is followed by a wake within 250 ms.
        """

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Forget events below ``before``, at most all. Does nothing without `LogCapabilities.trim`."""
