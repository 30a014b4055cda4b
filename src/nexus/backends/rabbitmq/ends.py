"""Where streams begin and end: asked of the broker, and remembered as long as it holds.

The broker tells where the last chunk begins, not where it ends; a chunk never grows, so its end is looked at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.connection import ConnectionLost
from nexus.backends.rabbitmq.links import Links
from nexus.backends.rabbitmq.reader import Reader, Source, Tail

STALL_S = 0.1
"""After this long without a chunk it is looked whether one is to come at all."""
LOOKS = 50
"""Looks at single chunks at once: each takes a subscription of the node for a moment."""
_TAILS = 20_000


class Ends(msgspec.Struct, frozen=True):
    """Where a stream begins and ends now."""

    first: int
    tail: Tail | None
    """None: nothing was ever stored."""

    @property
    def end(self) -> int:
        """One above the highest position."""
        return self.tail.end if self.tail is not None else 0


class Gone(ConnectionLost):
    """A subscription ended while it was read from."""


class Tails:
    """The ends of a store's streams."""

    def __init__(self, links: Links, attach: Callable[[Reader, int, int], Awaitable[None]]) -> None:
        """``attach`` subscribes a reader, from an offset on."""
        self._links = links
        self._attach = attach
        self._tails: dict[str, Tail] = {}
        self._looks = asyncio.Semaphore(LOOKS)

    def get(self, stream: str) -> Tail | None:
        """Return the end that was learnt last."""
        return self._tails.get(stream)

    async def stats(self, stream: str) -> tuple[int, int]:
        """Return the first positions of the first chunk and of the last one that is committed; -1 for none."""
        connection = await self._links.to(stream, "write", lambda one: True)
        stats = frames.read_stats(await connection.request(frames.STATS, frames.text(stream), stream))
        return stats.get("first_chunk_id", -1), stats.get("committed_chunk_id", -1)

    async def ends(self, stream: str) -> Ends:
        """Say where a stream begins and ends. Raises `ConnectionLost`, `Refused`."""
        first, last = await self.stats(stream)
        if last < 0:
            return Ends(max(first, 0), None)
        tail = self._tails.get(stream)
        if tail is None or tail.chunk < last:
            tail = await self.probe(stream, last)
        return Ends(max(first, 0), tail)

    async def probe(self, stream: str, last: int) -> Tail:
        """Look at the last chunk with users' records; above it there may be some of the broker's own."""
        found = await self._one_chunk(stream, frames.LAST, 0)
        if found is None:  # nothing but the broker's own
            found = Tail(last, 0, 0.0, 0)
        elif found.chunk < last:
            found = msgspec.structs.replace(found, chunk=last)
        return self.learn(stream, found)

    def learn(self, stream: str, tail: Tail) -> Tail:
        """Remember where a stream ends; return the latest that is known."""
        known = self._tails.get(stream)
        if known is not None and known.chunk >= tail.chunk:
            return known
        if known is None and len(self._tails) >= _TAILS:
            del self._tails[next(iter(self._tails))]
        self._tails[stream] = tail
        return tail

    async def first_at(self, stream: str, time_ms: int) -> int | None:
        """Return the position of the first chunk recorded then or later; None if there is none."""
        ends = await self.ends(stream)
        if ends.tail is None or ends.tail.recorded_at * 1000 < time_ms - 0.5:
            return None
        found = await self._one_chunk(
            stream, frames.TIMESTAMP, time_ms, lambda tail: tail.recorded_at * 1000 + 0.5 >= time_ms
        )
        if found is None:
            raise Gone(f"{stream} has records of that time, and none came")
        return found.chunk

    async def _one_chunk(
        self, stream: str, spec: int, value: int, fits: Callable[[Tail], bool] = lambda tail: True
    ) -> Tail | None:
        """Look at one chunk by a subscription of a moment; None if none comes soon."""
        seen: list[Tail] = []

        def arrived(reader: Reader, tail: Tail) -> None:
            if fits(tail):
                seen.append(tail)

        reader = Reader(Source(stream, "", 0), 1 << 62, lambda: 1 << 40, arrived)
        async with self._looks:
            await self._attach(reader, spec, value)
            try:
                async with asyncio.timeout(self._links.settings.connect_s):
                    while not seen:
                        await reader.changed(STALL_S)
                        if not reader.alive:
                            raise Gone(f"the subscription to {stream} ended")
            except TimeoutError:
                return None
            finally:
                reader.stop()
        return seen[0]
