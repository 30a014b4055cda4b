"""A group whose events are not called with but asked for, one after the other: the loop of `Nexus.subscribe`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from nexus.core.filter import compile_filter
from nexus.core.pattern import validate_pattern
from nexus.core.policy import Policy
from nexus.core.retry import Retry
from nexus.errors import HandlerError
from nexus.event import Event
from nexus.runtime.binding import Binding
from nexus.runtime.registering import Start, checked_group
from nexus.runtime.subscription import Group, Subscription


class Offers:
    """Hands over what the one worker of a group handles."""

    def __init__(self) -> None:
        self._offered: asyncio.Queue[tuple[Event[Any], asyncio.Future[None]] | None] = asyncio.Queue()
        """What the worker hands over; None where no more will come."""
        self._taken: asyncio.Future[None] | None = None

    def group(self, name: str, patterns: Sequence[str], where: str | None, start: Start) -> Group:
        """Return the group whose events are offered. Raises `HandlerError`, `FilterError`."""
        for pattern in patterns:
            validate_pattern(pattern)
        if not patterns:
            raise HandlerError("no event type was given", hint='name one, or "**" for all')
        group = Group(checked_group(name), Policy(), 1, start, "stop")
        wanted = None if where is None else compile_filter(where)
        group.add(Subscription(tuple(patterns), Binding(self._hand_over), wanted, Retry(), None, 1, None))
        return group

    async def _hand_over(self, event: Event[Any]) -> None:
        done = asyncio.get_running_loop().create_future()
        self._offered.put_nowait((event, done))
        await done

    def end(self, _: object = None) -> None:
        """Offer no more."""
        self._offered.put_nowait(None)

    async def next(self) -> Event[Any] | None:
        """Acknowledge the event before and return the next; None if no more will come."""
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        while (offered := await self._offered.get()) is not None:
            event, self._taken = offered
            if not self._taken.done():  # else its partition moved before it was taken
                return event
        return None
