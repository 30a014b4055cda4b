"""Request and reply over the bus: publish, and wait for the event that was published because of it.

A reply is an event whose ``causationid`` is the request's id: what a handler returns has it by itself. One tail serves
all requests of a bus, and is there only while one waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from nexus.core.lifecycle import is_request, stage_of
from nexus.core.pattern import Pattern, validate_pattern
from nexus.errors import Closed, NexusError, Overloaded, Unavailable, UnknownOutcome
from nexus.event import Event
from nexus.runtime.publisher import Receipt
from nexus.runtime.reading import At, merged, starts
from nexus.spi.backend import Backend, Want

WAITING_LIMIT = 10_000
"""Requests of one bus that wait at once."""
_CLOCKS_S = 1.0
"""By how much the clocks of a broker's nodes may differ."""


class NoReply(NexusError):
    """Nobody has answered in time. The request stands: it may still be handled, and answered."""

    code = "NXS-3004"
    retryable = False


class _Waiter:
    """One that waits for a reply."""

    def __init__(self, replies: Sequence[str], until: asyncio.Timeout) -> None:
        self._patterns = [Pattern(pattern) for pattern in replies]
        self.reply: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
        self.until = until

    def offer(self, event: Event[Any]) -> None:
        """Take an event that the request caused, if it is what is waited for and the first."""
        if not self.reply.done() and any(pattern.matches(event.type) for pattern in self._patterns):
            self.reply.set_result(event)


class Requests:
    """Requests of one bus that wait for their replies."""

    def __init__(self, backend: Backend, topics: Callable[[], list[str]]) -> None:
        """``topics`` are all that may hold a reply."""
        self._backend = backend
        self._topics = topics
        self._waiting: dict[str, list[_Waiter]] = {}
        self._count = 0
        self._tail: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def ask(
        self,
        event: Event[Any],
        publish: Callable[[Event[Any]], Awaitable[Receipt]],
        replies: Sequence[str],
        timeout_s: float,
    ) -> Event[Any]:
        """Publish a request; return the first event that it caused and whose type matches one of the patterns.

        Without patterns: ``success`` or ``failed`` of a request (`nexus.core.lifecycle`), else any that it caused. One
        that was published before may have been answered before: that is read back. Raises `NoReply`, `UnknownOutcome`
        if publishing took all of the time, `Overloaded`, `Closed`, and what publishing raises.
        """
        if self._count >= WAITING_LIMIT:
            raise Overloaded(f"{WAITING_LIMIT:,} requests wait already; nothing was published", retry_after_s=1.0)
        if not replies:
            lives = is_request(event.type)
            replies = [stage_of(event.type, "success"), stage_of(event.type, "failed")] if lives else ["**"]
        for pattern in replies:
            validate_pattern(pattern)
        begun = stands = False
        try:
            async with asyncio.timeout(timeout_s) as until:
                with self._listed(event.id, _Waiter(replies, until)) as waiter:
                    await self._listen()
                    begun = True
                    receipt = await publish(event)
                    stands = True
                    if receipt.duplicate:
                        await self._look_back(event, receipt, waiter)
                    return await waiter.reply
        except TimeoutError:
            if self._closed:
                hint = "the request stands, and may still be handled" if stands else "the request may not be stored"
                raise Closed("the bus was closed", hint=hint) from None
            if not begun:
                raise Unavailable(f"the store did not answer within {timeout_s:g} s; nothing was published") from None
            if not stands:
                raise UnknownOutcome(
                    f"{event.type} {event.id} was not confirmed within {timeout_s:g} s: stored or not, nobody knows",
                    hint="ask again with the same event: it is stored once",
                ) from None
            raise NoReply(
                f"nobody answered {event.type} {event.id} within {timeout_s:g} s",
                hint="does a group run that handles it, and does its handler return something?",
            ) from None

    @contextlib.contextmanager
    def _listed(self, id: str, waiter: _Waiter) -> Iterator[_Waiter]:
        """Have the tail know of a waiter; without any there is no tail."""
        self._waiting.setdefault(id, []).append(waiter)
        self._count += 1
        try:
            yield waiter
        finally:
            self._count -= 1
            self._waiting[id].remove(waiter)
            if not self._waiting[id]:
                del self._waiting[id]
            if not self._waiting and self._tail is not None:
                self._tail.cancel()
                self._tail = None

    def close(self) -> None:
        """Have all that wait end with `Closed`."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for waiter in [waiter for waiters in self._waiting.values() for waiter in waiters]:
            if not waiter.until.expired():
                waiter.until.reschedule(now)

    async def _listen(self) -> None:
        """Have the tail run from before the request on."""
        async with self._starting:
            if self._tail is None or self._tail.done():
                places = await starts(self._backend, self._topics(), "latest")
                self._tail = asyncio.get_running_loop().create_task(self._follow(places))

    async def _follow(self, places: dict[At, int]) -> None:
        try:
            async for seen in merged(self._backend, places, follow=True):
                event = seen.stored.event
                for waiter in self._waiting.get(event.causationid, ()) if event.causationid is not None else ():
                    waiter.offer(event)
        except NexusError as error:
            for waiters in self._waiting.values():
                for waiter in waiters:
                    if not waiter.reply.done():
                        waiter.reply.set_exception(error)

    async def _look_back(self, request: Event[Any], receipt: Receipt, waiter: _Waiter) -> None:
        """Look for a reply between where a request was stored the first time and the end."""
        since = request.time.timestamp()
        if receipt.position is not None:
            (part,) = await self._backend.read([Want(receipt.topic, receipt.partition, receipt.position, 1)], 1)
            since = next((one.recorded_at for one in part.events if one.position == receipt.position), since)
        places = await starts(self._backend, self._topics(), since - _CLOCKS_S)
        async for seen in merged(self._backend, places):
            if seen.stored.event.causationid == request.id:
                waiter.offer(seen.stored.event)
            if waiter.reply.done():
                break
