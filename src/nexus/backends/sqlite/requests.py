"""What the writer thread is asked to do: each request is applied inside a transaction and answered after it.

A request that cannot be done sets its error and changes nothing, so that it never spoils the others beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import apsw

from nexus.event import Event

if TYPE_CHECKING:
    from nexus.backends.sqlite.writer import Report

Item = tuple[int, Event[Any], bytes]
"""Partition, event, and the event's encoded content."""


class Request:
    """A wish and its answer. Made on the loop, applied by the writer, answered on the loop."""

    __slots__ = ("error", "events", "future", "result", "size_bytes")

    def __init__(self, future: asyncio.Future[Any] | None, events: int = 0, size_bytes: int = 0) -> None:
        self.future = future
        self.events = events
        self.size_bytes = size_bytes
        self.result: Any = None
        self.error: BaseException | None = None

    def aborted(self, error: BaseException) -> None:
        """Take the answer for a transaction that failed."""
        self.error = error


class AppendRequest(Request):
    """Events for one topic, all or none (but for those that are there already)."""

    __slots__ = ("at", "items", "topic")

    def __init__(self, future: asyncio.Future[Any], topic: str, items: Sequence[Item], size_bytes: int) -> None:
        # All of it here, without a call of `super`: one is made for every event.
        self.future: asyncio.Future[Any] | None = future
        self.events = len(items)
        self.size_bytes = size_bytes
        self.result: Any = None
        self.error: BaseException | None = None
        self.topic = topic
        self.items = items
        self.at: float | None = None
        """When its events were recorded, if all of them were new."""


class CallRequest(Request):
    """Anything else: a function that is given the connection inside the transaction.

    ``urgent`` ones may use the reserve when the disk is full: settles, leases, trims. A ``barrier`` sees all appends
    that were wished before it.
    """

    __slots__ = ("barrier", "call", "on_abort", "urgent")

    def __init__(
        self,
        future: asyncio.Future[Any] | None,
        call: Callable[[apsw.Connection, Report], Any],
        on_abort: Callable[[], Any] | None = None,
        *,
        urgent: bool = False,
        barrier: bool = True,
    ) -> None:
        super().__init__(future)
        self.call = call
        self.on_abort = on_abort
        self.urgent = urgent
        self.barrier = barrier

    def aborted(self, error: BaseException) -> None:
        """Answer with the value that says "not now", if the request has one."""
        if self.on_abort is not None:
            self.error, self.result = None, self.on_abort()
        else:
            self.error = error
