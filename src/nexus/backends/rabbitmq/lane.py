"""Appends to one topic that cannot go at once: they wait in line, so that calls keep their order.

One task sees to the first in line: that its partitions can be written to, and that there is room. Whoever is ready
behind it goes in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from nexus.errors import Closed

Sent = asyncio.Future[asyncio.Future[None]]


class Waiting(msgspec.Struct):
    """A call that waits; ``sent`` gets what tells of its confirms."""

    records: dict[int, list[bytes]]
    size: int
    events: int
    sent: Any  # a Sent; typed where it is made
    has_room: bool = False
    """Whether room was taken for it already."""


class Lane:
    """See the module. There is one only while somebody waits."""

    def __init__(
        self,
        send_now: Callable[[Waiting], asyncio.Future[None] | None],
        prepare: Callable[[Waiting], Awaitable[None]],
        give_room: Callable[[Waiting], None],
        empty: Callable[[], object],
    ) -> None:
        """``send_now`` sends a call if all is ready; ``prepare`` waits for what is missing; ``give_room`` gives
        back what a call has taken that will not be sent; ``empty`` ends the lane."""
        self._send_now = send_now
        self._prepare = prepare
        self._give_room = give_room
        self._empty = empty
        self._waiting: deque[Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def send(
        self, records: dict[int, list[bytes]], size: int, events: int, within_s: float
    ) -> asyncio.Future[None]:
        """Wait in line, and be sent. Who is cancelled meanwhile is not sent, nor who waits longer: `TimeoutError`."""
        sent: Sent = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(records, size, events, sent))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drain())
        try:
            # Not by a timeout, which would forget that it was sent in the very turn in which its time was over.
            await asyncio.wait([sent], timeout=within_s)
        finally:
            sent.cancel()
        if sent.cancelled():
            raise TimeoutError
        return sent.result()

    async def _drain(self) -> None:
        try:
            while self._waiting:
                first = self._waiting[0]
                try:
                    while not first.sent.done():
                        done = self._send_now(first)
                        if done is not None:
                            first.sent.set_result(done)
                            first.has_room = False
                        else:
                            await self._prepare(first)
                except Exception as error:
                    if not first.sent.done():
                        first.sent.set_exception(error)
                self._waiting.popleft()
                if first.has_room:
                    self._give_room(first)
        finally:
            self._empty()
            for late in self._waiting:
                if not late.sent.done():
                    late.sent.set_exception(Closed("the store was closed before this could be sent"))

    async def stop(self) -> None:
        """Send nothing more; who waits is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
