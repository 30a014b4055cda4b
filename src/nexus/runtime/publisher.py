"""The way in: validate, choose the partition, wait for room, append, give a receipt."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from nexus.clock import Clock
from nexus.core.envelope import validate
from nexus.core.partition import partition_of, partition_of_keyless
from nexus.core.pattern import Router
from nexus.errors import Closed, IdConflict, InvalidEvent, NexusError, Overloaded, StoreFull
from nexus.event import Event
from nexus.spi.backend import Appended, Backend, Durability, TopicInfo, TopicSpec

ENVELOPE_BYTES = 64 * 1024
"""Kept free below the backend's largest body, so that an event with its history can always be parked."""
_YIELD_EVERY = 256
_FULL_RETRY_S = 0.05
_ROUTES_LIMIT = 4_096


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """Where an event is, and how durable."""

    id: str
    topic: str
    partition: int
    position: int | None
    """None where the backend does not tell."""
    durability: Durability
    duplicate: bool = False
    """The event was stored before, with the same content; this is where."""


class _Route(msgspec.Struct, frozen=True, gc=False):
    """Where events of a type go."""

    topic: str
    partitions: int
    durability: Durability


class Publisher:
    """Publishes to the topics of one bus, with a bound on what is under way."""

    def __init__(
        self,
        backend: Backend,
        topics: Sequence[tuple[TopicSpec, Sequence[str]]],
        default: TopicSpec,
        clock: Clock,
        *,
        max_body_bytes: int,
        queue_events: int,
        queue_bytes: int,
        timeout_s: float,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._router: Router[TopicSpec] = Router()
        self._topics = topics
        for spec, patterns in topics:
            if patterns:
                self._router.add(spec, *patterns)
        self.default = default
        self.specs = {spec.name: spec for spec, _ in topics} | {default.name: default}
        self._durability: dict[str, Durability] = {}
        self._routes: dict[str, _Route] = {}
        self.max_body_bytes = min(max_body_bytes, backend.capabilities.max_body_bytes - ENVELOPE_BYTES)
        self._queue_events = queue_events
        self._queue_bytes = queue_bytes
        self._timeout_s = timeout_s
        self._events = 0
        self._bytes = 0
        self._waiting: deque[tuple[asyncio.Future[None], int, int]] = deque()
        self._line = 0
        """How many wait, or were let in and have not gone on yet: nobody may overtake them."""
        self._since_yield = 0
        self._closed = False
        self._drained = asyncio.Event()

    async def open(self) -> None:
        """Make sure that the topics exist."""
        for spec in self.specs.values():
            self.learn(await self._backend.ensure(spec))

    def learn(self, info: TopicInfo) -> None:
        self._durability[info.spec.name] = info.durability

    @property
    def durabilities(self) -> dict[str, Durability]:
        return self._durability

    def _route(self, event_type: str) -> _Route:
        spec = self.topic_of(event_type)
        if len(self._routes) >= _ROUTES_LIMIT:
            self._routes.clear()
        route = self._routes[event_type] = _Route(spec.name, spec.partitions, self._durability[spec.name])
        return route

    def topic_of(self, event_type: str) -> TopicSpec:
        """The topic that a type belongs to: the first whose pattern matches, else the default."""
        found = self._router.match(event_type)
        return found[0] if found else self.default

    def topics_of(self, pattern: str) -> list[str]:
        """Topics that may hold events of a pattern."""
        if "*" not in pattern:
            return [self.topic_of(pattern).name]
        earlier: list[str] = []
        for spec, patterns in self._topics:
            earlier.append(spec.name)
            if pattern in patterns:  # all of it belongs here, but for what an earlier topic takes first
                return sorted(earlier)
        return sorted(self.specs)

    def partition(self, event: Event[Any], partitions: int) -> int:
        if event.key is not None:
            return partition_of(event.key, partitions)
        return partition_of_keyless(event.source, event.id, partitions)

    async def publish(self, event: Event[Any], check: Callable[[Event[Any], int], None] = validate) -> Receipt:
        """Store one event. Raises `InvalidEvent`, `PublishError`, `Closed`, `BackendError`."""
        check(event, self.max_body_bytes)
        if self._closed:
            raise _closed()
        size = len(event.body)
        if self._line or self._events >= self._queue_events or self._bytes >= self._queue_bytes:
            await self._wait_for_room(1, size)
        else:
            self._events += 1
            self._bytes += size
        try:
            route = self._routes.get(event.type) or self._route(event.type)
            key = event.key
            partition = (
                crc32(key.encode()) % route.partitions  # `partition_of`, without the call
                if key is not None
                else partition_of_keyless(event.source, event.id, route.partitions)
            )
            batch = [(partition, event)]
            try:
                (place,) = await self._backend.append(route.topic, batch)
            except StoreFull as full:
                (place,) = await self._append_when_there_is_room(route.topic, batch, full)
            self._since_yield += 1
            if self._since_yield >= _YIELD_EVERY:  # afterwards: who publishes next must not be stored before
                await self._yield()
        finally:
            self._events -= 1
            self._bytes -= size
            if self._waiting or self._closed:
                self._left()
        if place.__class__ is Appended:
            return Receipt(event.id, route.topic, place.partition, place.position, route.durability, place.duplicate)
        raise place  # type: ignore[misc]

    async def publish_many(self, events: Sequence[Event[Any]]) -> list[Receipt | NexusError]:
        """Store events: all are validated before any is stored, then each has an answer of its own, in order.

        An answer is a receipt or the error that the event met. After a topic failed as a whole, what follows for it is
        not tried and has the same answer: what comes later must not be stored before what came first.

        Raises `InvalidEvent` with the ``index`` of the first bad event; nothing was stored then.
        """
        for index, event in enumerate(events):
            try:
                validate(event, self.max_body_bytes)
            except InvalidEvent as error:
                error.index = index
                error.message = f"event {index} of {len(events)}: {error.message}"
                raise
        answers: list[Receipt | NexusError] = []
        failed: dict[str, NexusError] = {}
        for start in range(0, len(events), 1000):
            try:
                answers += await self._append_all(events[start : start + 1000], failed)
            except NexusError as error:  # no room, or closed: so it is for the rest
                answers += [error] * (len(events) - start)
                break
        return answers

    async def _append_all(
        self, events: Sequence[Event[Any]], failed: dict[str, NexusError]
    ) -> list[Receipt | NexusError]:
        if self._closed:
            raise _closed()
        size = sum([len(event.body) for event in events])
        await self._wait_for_room(len(events), size)
        try:
            answers = await self._append(events, failed)
            await self._yield()
            return answers
        finally:
            self._events -= len(events)
            self._bytes -= size
            self._left()

    async def _append(self, events: Sequence[Event[Any]], failed: dict[str, NexusError]) -> list[Receipt | NexusError]:
        """Store events topic by topic, but for topics in ``failed``; note there which fail."""
        by_route: dict[str, tuple[_Route, list[int]]] = {}
        for index, event in enumerate(events):
            route = self._routes.get(event.type) or self._route(event.type)
            by_route.setdefault(route.topic, (route, []))[1].append(index)
        answers: dict[int, Receipt | NexusError] = {}
        for topic, (route, indexes) in by_route.items():
            if topic in failed:
                answers |= dict.fromkeys(indexes, failed[topic])
                continue
            durability = route.durability
            batch = [(self.partition(events[index], route.partitions), events[index]) for index in indexes]
            try:
                try:
                    places = await self._backend.append(topic, batch)
                except StoreFull as full:
                    places = await self._append_when_there_is_room(topic, batch, full)
            except NexusError as error:
                failed[topic] = error
                answers |= dict.fromkeys(indexes, error)
                continue
            for index, place in zip(indexes, places, strict=True):
                if isinstance(place, IdConflict):
                    answers[index] = place
                else:
                    answers[index] = Receipt(
                        events[index].id, topic, place.partition, place.position, durability, place.duplicate
                    )
        return [answers[index] for index in range(len(events))]

    async def _yield(self) -> None:
        """Let consumers have their turn: a backend in memory never suspends."""
        self._since_yield = 0
        await asyncio.sleep(0)

    def _left(self) -> None:
        if self._waiting:
            self._let_in()
        if self._closed and not self._events:
            self._drained.set()

    async def _append_when_there_is_room(
        self, topic: str, batch: list[tuple[int, Event[Any]]], full: StoreFull
    ) -> list[Appended | IdConflict]:
        deadline = self._clock.monotonic() + self._timeout_s
        while self._clock.monotonic() < deadline:
            await asyncio.sleep(_FULL_RETRY_S)
            try:
                return await self._backend.append(topic, batch)
            except StoreFull as again:
                full = again
        raise self._overloaded(f"the store stayed full for {self._timeout_s:g} s: {full.message}") from full

    async def _wait_for_room(self, count: int, size: int) -> None:
        """Wait in line until what is under way is below its bounds, at most for the publish timeout."""
        if not self._line and self._events < self._queue_events and self._bytes < self._queue_bytes:
            self._events += count
            self._bytes += size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (turn, count, size)
        self._waiting.append(entry)
        self._line += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # let in at the same moment
                self._events -= count
                self._bytes -= size
                self._left()
            else:
                with contextlib.suppress(ValueError):  # `_let_in` passed over it: it was cancelled in the same turn
                    self._waiting.remove(entry)
            if isinstance(error, TimeoutError):
                raise self._overloaded(f"{self._events:,} events were under way for {self._timeout_s:g} s") from None
            raise
        finally:
            self._line -= 1

    def _let_in(self) -> None:
        while self._waiting and self._events < self._queue_events and self._bytes < self._queue_bytes:
            turn, count, size = self._waiting.popleft()
            if not turn.done():
                self._events += count
                self._bytes += size
                turn.set_result(None)

    def _overloaded(self, why: str) -> Overloaded:
        return Overloaded(
            f"no room for the event: {why}",
            retry_after_s=max(1.0, self._timeout_s / 10),
            hint="publish again later; nothing was stored",
        )

    async def close(self) -> None:
        """Take no more events, and wait for those under way."""
        self._closed = True
        self._drained.clear()
        if self._events:
            await self._drained.wait()


def _closed() -> Closed:
    return Closed("the bus is closed", hint="publish before it closes, or open another")
