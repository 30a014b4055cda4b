"""A log kept by another backend: it proves what is built above logs without a broker.

    log+sqlite:////tmp/store.db?positions=no&trim=no

takes nothing of the backend behind it but topics, appends and reads, so that groups, seals and known ids are those of
`nexus.coordination`. ``positions=no`` and ``trim=no`` stand for brokers that cannot say or do these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, urlencode

import msgspec

from nexus.clock import Clock
from nexus.coordination import LogBackend
from nexus.event import Event
from nexus.plugins import make_backend
from nexus.spi.backend import Appended, Backend, Slice, TopicSpec, Want
from nexus.spi.log import LogCapabilities, LogState


class BackedLog:
    """See `nexus.spi.log.Log`."""

    def __init__(self, backend: Backend, *, positions: bool, trim: bool) -> None:
        self.name = f"log+{backend.name}"
        self.capabilities = LogCapabilities(
            dedup="none", positions_on_append=positions, trim=trim, max_body_bytes=backend.capabilities.max_body_bytes
        )
        self._backend = backend

    async def open(self) -> None:
        await self._backend.open()

    async def close(self) -> None:
        await self._backend.close()

    async def create(self, topic: TopicSpec) -> None:
        await self._backend.ensure(msgspec.structs.replace(topic, dedup=False))

    async def describe(self, topic: str) -> LogState:
        info = await self._backend.describe(topic)
        return LogState(info.first, info.end, info.size_bytes, info.durability)

    async def topics(self) -> list[str]:
        return await self._backend.topics()

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        answers = await self._backend.append(topic, batch)
        told = self.capabilities.positions_on_append
        return [
            Appended(answer.partition, answer.position if told else None)
            for answer in answers
            if isinstance(answer, Appended)
        ]

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        return await self._backend.read(wants, max_bytes)

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        return await self._backend.position_at(topic, partition, time)

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        return self._backend.watch(topics, wake)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        await self._backend.trim(topic, partition, before)


def make(url: str, *, clock: Clock) -> LogBackend:
    """Make the backend that a ``log+...`` URL names."""
    inner, _, query = url.removeprefix("log+").partition("?")
    options = dict(parse_qsl(query))
    positions, trim = options.pop("positions", "yes") == "yes", options.pop("trim", "yes") == "yes"
    backend = make_backend(f"{inner}?{urlencode(options)}" if options else inner, clock)
    return LogBackend(BackedLog(backend, positions=positions, trim=trim), clock=clock)
