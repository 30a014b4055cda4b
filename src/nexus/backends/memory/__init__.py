"""The log in this process's memory: bounded lists, no task, no await that suspends.

A store is private to its backend (``memory://``) or shared by name within the process (``memory://name``); a named
store stays while the process lives. Its bounds are ``max_events`` and ``max_bytes`` over all topics:

    memory://orders?max_events=1000000&max_bytes=1073741824

At a bound, events that every group of their topic is done with make room first; a topic without groups gives up its
oldest. A journal gives up nothing unasked, since what it holds is state. When that makes no room, `StoreFull` says so.

Journals have a reserve above the bounds: a quarter of ``max_events`` and at least 1,000, a quarter of ``max_bytes`` and
at least what the largest event takes. For a store that is full is emptied by consumers, and a consumer that cannot
note what it parks does not go on.

A member lives as long as its process does, so a lease needs no renewal here. ``freeze`` and `MemoryMember.kill` are
for tests: they make of it what a stopped process and a crash are on other backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from nexus.backends.memory.group import MemoryMember, Waker
from nexus.backends.memory.settings import Settings
from nexus.backends.memory.store import MAX_BODY_BYTES, MAX_BYTES, MAX_EVENTS, Store
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.errors import Closed, IdConflict, SettingsError
from nexus.event import Event
from nexus.spi.backend import Appended, Capabilities, PartitionLag, Slice, TopicInfo, TopicSpec, Want

__all__ = ["MemoryBackend", "MemoryMember", "Settings"]

_named: dict[str, Store] = {}


class MemoryBackend:
    """A store in memory. Raises `SettingsError` for a URL that it does not understand."""

    name = "memory"
    capabilities = Capabilities(
        dedup="exact", positions_on_append=True, trim=True, max_body_bytes=MAX_BODY_BYTES, max_cursor_chars=None
    )

    settings_type = Settings

    def __init__(
        self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK, options: Mapping[str, Any] | None = None
    ) -> None:
        settings = Settings.parse(url, options)
        self._store = _store(settings.name, settings.bounds)
        self._clock = clock
        self._members: list[MemoryMember] = []
        self._unwatch: list[Callable[[], None]] = []
        self._open = False
        self._thawed: asyncio.Event | None = None

    async def open(self) -> None:
        if not self._open:
            self._store.attach(self._clock)
            self._open = True

    async def close(self) -> None:
        if self._open:
            self._open = False
            for member in self._members:
                member.kill()
            for unwatch in self._unwatch:
                unwatch()
            self._members.clear()
            self._unwatch.clear()
            self._store.detach()
            self.thaw()

    async def ensure(self, topic: TopicSpec) -> TopicInfo:
        return (await self._ready()).ensure(topic)

    async def describe(self, topic: str) -> TopicInfo:
        return (await self._ready()).describe(topic)

    async def topics(self) -> list[str]:
        return sorted((await self._ready()).topics)

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        if not self._open or self._thawed is not None:
            await self._ready()
        return self._store.append(topic, batch)

    async def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        return (await self._ready()).read(wants, max_bytes)

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        return (await self._ready()).topic(topic).partition(partition).position_at(time)

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        if not self._open:
            raise _closed()
        store, names = self._store, tuple(topics)
        waker = Waker(wake, store.loop)

        def unwatch() -> None:
            waker.stop()
            store.unwatch(names, waker)
            if unwatch in self._unwatch:
                self._unwatch.remove(unwatch)

        store.watch(names, waker)
        self._unwatch.append(unwatch)
        return unwatch

    async def claim(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> MemoryMember:
        store = await self._ready()
        self._members = [each for each in self._members if each.active]
        claimed = store.claim(group, topics, member, wake, start)
        self._members.append(claimed)
        return claimed

    async def groups(self) -> list[str]:
        return sorted(name for name, group in (await self._ready()).groups.items() if group.cursors)

    async def lag(self, group: str) -> list[PartitionLag]:
        return (await self._ready()).lag(group)

    async def seal(self, topic: str, partition: int) -> int:
        return (await self._ready()).seal(topic, partition)

    async def trim(self, topic: str, partition: int, before: int) -> None:
        (await self._ready()).trim(topic, partition, before)

    def freeze(self) -> None:
        """For tests: stop as a stopped process does, with all members. Calls wait until `thaw`."""
        if self._thawed is None:
            self._thawed = asyncio.Event()
            for member in self._members:
                member.freeze()

    def thaw(self) -> None:
        """For tests: go on after `freeze`."""
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None
            for member in self._members:
                member.thaw()

    async def _ready(self) -> Store:
        if self._thawed is not None:
            await self._thawed.wait()
        if not self._open:
            raise _closed()
        return self._store


def _closed() -> Closed:
    return Closed("the memory backend is not open")


def _store(name: str, bounds: dict[str, int]) -> Store:
    store = _named.get(name) if name else None
    if store is None:
        store = Store(bounds.get("max_events", MAX_EVENTS), bounds.get("max_bytes", MAX_BYTES))
        if name:
            _named[name] = store
    for setting, value in bounds.items():
        if getattr(store, setting) != value:
            raise SettingsError(
                f"memory store {name!r} exists with {setting}={getattr(store, setting)}, not {value}",
                hint="give the same bounds wherever the name is used, or give them once",
            )
    return store
