"""What a case about the bus gets: buses on one store, and handlers that write down what happened to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nexus.app import Nexus
from nexus.core.outcome import DeadLetter, Park, RetryIn
from nexus.event import Event
from nexus.plugins import make_backend
from nexus.runtime.binding import Context
from nexus.runtime.deadletters import DeadLetterInfo
from nexus.spi.backend import PartitionLag
from nexus.testing.conformance._world import World, run_in_world
from nexus.testing.faults import Faulty

WAIT_S = 30.0
"""How long a case waits for what must happen."""

Act = Callable[[Event[Any], Context], Awaitable[Any]]


class Buses:
    """One topic and one group that buses share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.topic = world.name("orders")
        self.group = world.name("billing")

    def make(self, *, backend: Any = None, partitions: int = 4, **settings: Any) -> Nexus:
        """Make a bus; it is closed at the end of the case if it is still open."""
        # The default topic stays empty, and is small: a broker keeps the files of every store open that it has seen.
        topics = {self.topic: {"patterns": ["**"], "partitions": partitions}, "events": {"partitions": 1}}
        bus = Nexus(
            self.world.url,
            clock=self.world.clock,
            backend=backend,
            settings={"topics": topics, "settle_interval": "20ms", **settings},
        )
        self.world.at_end(bus.close)
        return bus

    def faulty(self) -> Faulty:
        """A backend on the store that can be made to fail."""
        backend = Faulty(make_backend(self.world.url, self.world.clock))
        self.world.at_end(self._heal(backend))
        return backend

    def _heal(self, backend: Faulty) -> Callable[[], Awaitable[None]]:
        async def heal() -> None:
            backend.heal()

        return heal

    async def run(self, recorder: Recorder, *, backend: Any = None, settings: Any = None, **wishes: Any) -> Nexus:
        """Start a bus whose group has one handler for everything."""
        bus = self.make(backend=backend, **(settings or {}))
        bus.on("**", group=self.group, **({"start": "earliest"} | wishes))(recorder.handle)
        await bus.start()
        return bus

    async def publish(self, bus: Nexus, count: int, *, keys: int = 0, **attributes: Any) -> list[Event[Any]]:
        """Publish numbered events, over so many keys."""
        events = [
            bus.event("order.placed", number, key=f"key-{number % keys}" if keys else None, **attributes)
            for number in range(count)
        ]
        for answer in await bus.publish_many(events):
            if isinstance(answer, Exception):
                raise answer
        return events

    async def lags(self) -> list[PartitionLag]:
        lags = await self.world.backend.lag(self.group)
        return [lag for lag in lags if lag.topic == self.topic]

    async def until_settled(self) -> None:
        """Wait until the group's stored cursors have reached the end of the topic."""

        async def settled() -> bool:
            return all(lag.low >= lag.end for lag in await self.lags())

        await self.until(settled)

    async def until_owned(self, *buses: Nexus, count: int, within_s: float = WAIT_S) -> list[int]:
        """Wait until buses consume so many partitions of the topic together, and as many of all topics each."""

        async def owned() -> list[int]:
            shares = [bus.consumer(self.group).owned for bus in buses]
            counts = [len([1 for topic, _ in share if topic == self.topic]) for share in shares]
            even = max(map(len, shares)) - min(map(len, shares)) <= 1
            return counts if sum(counts) == count and even else []

        counts: list[int] = await self.until(owned, within_s)
        return counts

    async def until(self, holds: Callable[[], Awaitable[Any]], within_s: float = WAIT_S) -> Any:
        """Wait until something holds, looking again and again; return what made it hold."""
        async with asyncio.timeout(within_s):
            while not (found := await holds()):  # noqa: ASYNC110 - what is looked at gives no sign
                await asyncio.sleep(0.01)
            return found

    async def until_dead(self, bus: Nexus, count: int = 1) -> list[DeadLetterInfo]:
        """Wait for so many dead letters of the group; return them."""

        async def dead() -> list[DeadLetterInfo]:
            found = await bus.dead_letters.all(self.group)
            return found if len(found) >= count else []

        letters: list[DeadLetterInfo] = await self.until(dead)
        return letters


class Recorder:
    """A handler that remembers. ``act`` is what it does with each event; a result that is no failure is done."""

    def __init__(self, act: Act | None = None) -> None:
        self.act = act
        self.started: list[tuple[Event[Any], Context]] = []
        self.done: list[Event[Any]] = []
        self.overlaps: list[Event[Any]] = []
        """Events that began while another of their key was being handled."""
        self.news = asyncio.Event()
        self._running: set[tuple[str | None, str]] = set()

    async def handle(self, event: Event[Any], context: Context) -> Any:
        lane = None if event.key is None else (event.tenant, event.key)
        if lane is not None:
            if lane in self._running:
                self.overlaps.append(event)
            self._running.add(lane)
        self.started.append((event, context))
        self.news.set()
        try:
            result = await self.act(event, context) if self.act is not None else None
        finally:
            if lane is not None:
                self._running.discard(lane)
        if not isinstance(result, RetryIn | Park | DeadLetter):
            self.done.append(event)
            self.news.set()
        return result

    async def until(self, holds: Callable[[Recorder], bool]) -> None:
        """Wait until something holds of what happened."""
        async with asyncio.timeout(WAIT_S):
            while not holds(self):
                self.news.clear()
                await self.news.wait()

    async def until_done(self, count: int) -> None:
        await self.until(lambda recorder: len(recorder.done) >= count)

    @property
    def numbers(self) -> list[Any]:
        """Payloads of what is done, in the order in which it was done."""
        return [event.data for event in self.done]

    def attempts(self, number: Any) -> list[int]:
        """Attempts that the event with this payload was delivered with."""
        return [context.attempt for event, context in self.started if event.data == number]

    def check_order(self, events: Sequence[Event[Any]], *, once: bool = True) -> None:
        """Fail unless each key was handled in its order, one at a time.

        ``once``: also each event exactly once; else an event may be repeated, but only by going back to one that was
        done already.
        """
        assert not self.overlaps, f"two handlers of one key at once: {self.overlaps[:3]}"
        place = {event.id: index for index, event in enumerate(events)}
        done: dict[tuple[str | None, str | None], list[int]] = {}
        for event in self.done:
            done.setdefault((event.tenant, event.key), []).append(place[event.id])
        for lane, places in done.items():
            wanted = [place[event.id] for event in events if (event.tenant, event.key) == lane]
            if lane[1] is None:
                places.sort()
            if once:
                assert places == wanted, f"{lane}: {places} instead of {wanted}"
            else:
                reached = 0
                for at in places:
                    index = wanted.index(at)
                    assert index <= reached, f"{lane}: {at} was handled before what came before it: {places}"
                    reached = max(reached, index + 1)


def bus_case(test: Callable[[Buses], Awaitable[None]]) -> Callable[[str], None]:
    """As `_world.case`, for tests that take `Buses`."""

    async def in_world(world: World) -> None:
        await test(Buses(world))

    def run(nexus_backend_url: str) -> None:
        run_in_world(nexus_backend_url, in_world)

    run.__name__ = run.__qualname__ = getattr(test, "__name__", "case")
    run.__doc__ = test.__doc__
    run.__module__ = test.__module__
    return run
