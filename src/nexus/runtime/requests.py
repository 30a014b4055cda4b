"""Request and reply over the bus: publish, and wait for the event that was published because of it.

A reply is an event whose ``causationid`` is the request's id: what a handler returns has it by itself. One tail serves
all requests of a bus, and is there only while one waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nexus.core.lifecycle import is_request, stage_of
from nexus.core.pattern import Pattern, validate_pattern
from nexus.errors import NexusError, Overloaded
from nexus.event import Event
from nexus.runtime.reading import At, merged, starts
from nexus.spi.backend import Backend

WAITING_LIMIT = 10_000
"""Requests of one bus that wait at once."""


class NoReply(NexusError):
    """Nobody has answered in time. The request stands: it may still be handled, and answered."""

    code = "NXS-3004"
    retryable = False


class Requests:
    """Requests of one bus that wait for their replies."""

    def __init__(self, backend: Backend, topics: Callable[[], list[str]]) -> None:
        """``topics`` are all that may hold a reply."""
        self._backend = backend
        self._topics = topics
        self._waiting: dict[str, tuple[list[Pattern], asyncio.Future[Event[Any]]]] = {}
        self._tail: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def ask(
        self,
        event: Event[Any],
        publish: Callable[[Event[Any]], Awaitable[Any]],
        replies: Sequence[str],
        timeout_s: float,
    ) -> Event[Any]:
        """Publish a request; return the first event that it caused and whose type matches one of the patterns.

        Without patterns: ``success`` or ``failed`` of a request (`nexus.core.lifecycle`), else any that it caused.
        Raises `NoReply`, `Overloaded`, and what publishing raises.
        """
        if len(self._waiting) >= WAITING_LIMIT:
            raise Overloaded(f"{WAITING_LIMIT:,} requests wait already; nothing was published", retry_after_s=1.0)
        if not replies:
            lives = is_request(event.type)
            replies = [stage_of(event.type, "success"), stage_of(event.type, "failed")] if lives else ["**"]
        for pattern in replies:
            validate_pattern(pattern)
        reply: asyncio.Future[Event[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[event.id] = ([Pattern(pattern) for pattern in replies], reply)
        try:
            async with asyncio.timeout(timeout_s):
                await self._listen()
                await publish(event)
                return await reply
        except TimeoutError:
            raise NoReply(
                f"nobody answered {event.type} {event.id} within {timeout_s:g} s",
                hint="does a group run that handles it, and does its handler return something?",
            ) from None
        finally:
            del self._waiting[event.id]
            if not self._waiting and self._tail is not None:
                self._tail.cancel()
                self._tail = None

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
                wanted = self._waiting.get(event.causationid) if event.causationid is not None else None
                if wanted is not None:
                    patterns, reply = wanted
                    if not reply.done() and any(pattern.matches(event.type) for pattern in patterns):
                        reply.set_result(event)
        except NexusError as error:
            for _, reply in self._waiting.values():
                if not reply.done():
                    reply.set_exception(error)
