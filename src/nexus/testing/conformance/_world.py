"""What a case gets: a store by its URL, members that listen, events, and deadlines instead of waits.

    @case
    async def test_something(world: World) -> None: ...

is a plain test function for pytest, once per backend. It needs no plug-in that runs coroutines, so that the suite
runs the same in any project.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.errors import IdConflict
from nexus.event import Event
from nexus.plugins import make_backend
from nexus.spi.backend import (
    Appended,
    Assigned,
    Backend,
    Change,
    Cursor,
    Lost,
    Revoking,
    Settled,
    Settlement,
    Stored,
    TopicSpec,
    Want,
)
from nexus.testing.clock import make_virtual, virtual_loop
from nexus.testing.stranger import Stranger

CASE_LIMIT_S = 60.0
"""No case takes longer, in virtual or in real time."""
WAKE_S = 0.25
"""The longest that news may take."""
MOVE_S = 1.0
"""The longest until a partition that is free, or was given up, has its new owner."""
FROZEN_S = 15.0
"""The longest until a frozen member's partitions have moved."""
SLACK_S = 0.75
"""What a loaded machine may add to any of them, where time is real."""

MANY_BYTES = 1 << 30

A = TypeVar("A")


def case(test: Callable[[World], Awaitable[None]]) -> Callable[[str], None]:
    """Make a test function of an async one that takes a `World`."""

    def run(nexus_backend_url: str) -> None:
        run_in_world(nexus_backend_url, test)

    run.__name__ = run.__qualname__ = getattr(test, "__name__", "case")
    run.__doc__ = test.__doc__
    run.__module__ = test.__module__
    return run


def run_in_world(url: str, test: Callable[[World], Awaitable[None]]) -> None:
    """Run one case on the store at ``url``."""

    async def main() -> None:
        async with asyncio.timeout(CASE_LIMIT_S), World.on(url) as world:
            await test(world)

    with asyncio.Runner(loop_factory=loop_factory(url)) as runner:
        runner.run(main())


def loop_factory(url: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Virtual time where nothing but this process takes part; else real time."""
    return virtual_loop if urlsplit(url).scheme == "memory" else None


class Freezable(Protocol):
    """Another process, or what stands for one."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


class World:
    """A store and those who use it."""

    def __init__(self, url: str, clock: Clock, stack: AsyncExitStack) -> None:
        self.url = url
        self.clock = clock
        self.slack_s = SLACK_S if clock is SYSTEM_CLOCK else 0.0
        self.backend: Backend
        self._stack = stack
        self._suffix = uuid4().hex[:8]
        self._ids = itertools.count(1)

    @staticmethod
    @asynccontextmanager
    async def on(url: str) -> AsyncIterator[World]:
        """A world around the store at ``url``, with one open backend."""
        virtual = loop_factory(url) is not None
        clock = make_virtual(asyncio.get_running_loop()) if virtual else SYSTEM_CLOCK
        async with AsyncExitStack() as stack:
            world = World(url, clock, stack)
            world.backend = await world.open()
            yield world

    @property
    def takeover_s(self) -> float:
        """The longest until a dead member's partitions have moved."""
        return self.backend.capabilities.takeover_s

    @property
    def one_memory(self) -> bool:
        """Whether an append recognises what any other backend object has stored, and not only its own.

        What is not recognised there is stored twice and handled once: see the cases of whole buses.
        """
        return self.backend.capabilities.dedup != "sender"

    async def open(self) -> Backend:
        """One more backend on the same store, as another process would have it."""
        backend = make_backend(self.url, self.clock)
        await backend.open()
        self._stack.push_async_callback(backend.close)
        return backend

    def at_end(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something done when the case is over, the latest first."""
        self._stack.push_async_callback(work)

    def name(self, base: str) -> str:
        """A name that no other case uses, also if the store outlives the case."""
        return f"{base}-{self._suffix}"

    async def topic(self, base: str = "orders", partitions: int = 4, **wishes: Any) -> str:
        """Make a topic and return its name."""
        name = self.name(base)
        await self.backend.ensure(TopicSpec(name, partitions=partitions, **wishes))
        return name

    def event(self, id: str | None = None, **attributes: Any) -> Event[object]:
        """An event, with a new id unless one is given."""
        given: dict[str, Any] = {"source": "/shop", "type": "order.placed", "time": datetime(2026, 1, 1, tzinfo=UTC)}
        given |= attributes
        return Event(id=id if id is not None else f"event-{next(self._ids)}", **given)

    def events(self, count: int, **attributes: Any) -> list[Event[object]]:
        return [self.event(**attributes) for _ in range(count)]

    async def append(self, topic: str, partition: int, events: Sequence[Event[object]]) -> list[Appended]:
        """Append events that must all be taken."""
        answers = await self.backend.append(topic, [(partition, event) for event in events])
        return taken(answers)

    async def join(
        self,
        group: str,
        topics: Sequence[str],
        member: str = "member-1",
        *,
        start: Literal["latest", "earliest"] = "earliest",
        backend: Backend | None = None,
    ) -> Party:
        """Have a member join a group and listen."""
        party = Party(self)
        party.member = await (backend or self.backend).claim(group, topics, member, party.wake, start)
        return party

    async def stranger(self, group: str, topics: Sequence[str], member: str = "stranger") -> Stranger:
        """Have a member in another process join, or what stands for one in memory."""
        stranger = await Stranger.join(self.url, group, topics, member, "earliest", self.clock)
        self._stack.push_async_callback(stranger.kill)
        return stranger

    async def freeze(self, stranger: Freezable) -> None:
        """Stop a stranger between two writes.

        A process that is stopped in the middle of one may hold the store's own lock, as SQLite's. Then everybody
        waits for it, and no lease can help; that is not what a case about leases is about.
        """
        probe = await self.topic("probe", 1)
        while True:
            stranger.freeze()
            try:
                async with asyncio.timeout(1.0):
                    await self.append(probe, 0, [self.event()])
            except TimeoutError:
                stranger.thaw()
                await self.until_later()
            else:
                return

    async def until_later(self) -> float:
        """Let the wall clock pass on by a little; return a time between before and after."""
        start = self.clock.now()
        while self.clock.now() < start + 0.004:  # noqa: ASYNC110 - it is time that is watched
            await asyncio.sleep(0.001)
        return start + 0.002


class Party:
    """A member and all that it has heard."""

    def __init__(self, world: World) -> None:
        self.member: Any = None
        self.heard: list[Change] = []
        self.owned: dict[tuple[str, int], Assigned] = {}
        self.wakes = 0
        self._world = world
        self.news = asyncio.Event()

    def wake(self) -> None:
        self.wakes += 1
        self.news.set()

    def listen(self) -> None:
        """Take the changes that there are."""
        for change in self.member.changes():
            self.heard.append(change)
            if isinstance(change, Assigned):
                self.owned[change.topic, change.partition] = change
            elif isinstance(change, Lost):
                self.owned.pop((change.topic, change.partition), None)

    async def until(self, holds: Callable[[Party], bool], within_s: float = MOVE_S) -> None:
        """Wait for changes until something holds. Only a wake makes it look again, so a missing wake fails."""
        async with asyncio.timeout(within_s + self._world.slack_s):
            while True:
                self.news.clear()
                self.listen()
                if holds(self):
                    return
                await self.news.wait()

    async def owns(self, count: int, within_s: float = MOVE_S) -> None:
        await self.until(lambda party: len(party.owned) == count, within_s)

    async def hears(self, kind: type[Change], count: int = 1, within_s: float = MOVE_S) -> list[Any]:
        """Wait until it has heard so many changes of a kind; return them."""
        await self.until(lambda party: len(party.all(kind)) >= count, within_s)
        return self.all(kind)

    def all(self, kind: type[Change]) -> list[Any]:
        return [change for change in self.heard if isinstance(change, kind)]

    async def settle(
        self, topic: str, partition: int, epoch: int, low: int, state: str = "", *, release: bool = False
    ) -> Settled:
        """Settle one cursor; a ``retry`` is tried again."""
        while True:
            word: Settled = (
                await self.member.settle([Settlement(topic, partition, Cursor(epoch, low, state), release)])
            )[0]
            if word != "retry":
                if word == "ok" and release:
                    self.owned.pop((topic, partition), None)
                return word
            await asyncio.sleep(0.01)

    async def release(self, change: Revoking | Assigned, cursor: Cursor) -> Settled:
        return await self.settle(change.topic, change.partition, cursor.epoch, cursor.low, cursor.state, release=True)


def taken(answers: Sequence[Appended | IdConflict]) -> list[Appended]:
    """The answers, none of which may be a conflict."""
    for answer in answers:
        if isinstance(answer, IdConflict):
            raise answer
    return [answer for answer in answers if isinstance(answer, Appended)]


async def read_all(reader: Any, topic: str, partition: int, start: int = 0, page: int = 1_000) -> list[Stored]:
    """Everything in a partition from ``start`` on, by ``read`` of a backend or ``fetch`` of a member."""
    read = reader.read if hasattr(reader, "read") else reader.fetch
    found: list[Stored] = []
    position = start
    while True:
        (answer,) = await read([Want(topic, partition, position, page)], MANY_BYTES)
        found.extend(answer.events)
        assert answer.next >= position
        position = answer.next
        if not answer.more:
            return found


async def bodies(reader: Any, topic: str, partition: int, start: int = 0) -> list[bytes]:
    return [stored.event.body for stored in await read_all(reader, topic, partition, start)]


async def ids(reader: Any, topic: str, partition: int, start: int = 0) -> list[str]:
    return [stored.event.id for stored in await read_all(reader, topic, partition, start)]


async def settled_low(backend: Backend, group: str, topic: str, partition: int) -> int:
    """Low watermark that the store has for a group."""
    return next(lag.low for lag in await backend.lag(group) if (lag.topic, lag.partition) == (topic, partition))


def start_of(assigned: Assigned) -> Cursor:
    """The cursor that came with an assignment."""
    assert assigned.cursor is not None
    return assigned.cursor


async def settle_down(parties: Sequence[Party], partitions: int) -> None:
    """Release what is revoked until all partitions are owned and shared evenly. Only wakes make it look again."""
    async with asyncio.timeout(20):
        while True:
            quiet = True
            for party in parties:
                party.news.clear()
                party.listen()
                for change in party.heard:
                    if isinstance(change, Revoking) and (change.topic, change.partition) in party.owned:
                        quiet = False
                        await party.release(change, start_of(party.owned[change.topic, change.partition]))
                party.heard.clear()
            counts = [len(party.owned) for party in parties]
            if not quiet:
                continue
            if sum(counts) == partitions and max(counts) - min(counts) <= 1:
                return
            waiting = [asyncio.create_task(party.news.wait()) for party in parties]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()


async def within(seconds: float, world: World, awaitable: Awaitable[A]) -> A:
    """Await with a deadline."""
    async with asyncio.timeout(seconds + world.slack_s):
        return await awaitable
