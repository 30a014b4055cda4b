"""The control topic's shell: read on when there is news, write a decision, tell whoever listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from nexus.clock import Clock
from nexus.core import control
from nexus.core.control import TOPIC, Control, Record
from nexus.errors import BackendError, SettingsError, Unavailable, UnknownTopic
from nexus.event import JSON, Event
from nexus.spi.backend import Backend, Stored, TopicSpec, Want

log = logging.getLogger("nexus.control")

RECORD_TYPE = "nexus.control.record"
_SPEC = TopicSpec(TOPIC, 1, dedup=False)
_READ_EVENTS = 1_000
_READ_BYTES = 4 * 1024 * 1024
_RETRY_S = 0.5


class ControlTopic:
    """The control topic of a store, as far as it was read."""

    def __init__(self, backend: Backend, clock: Clock, new_id: Callable[[], str], source: str) -> None:
        self.state = Control()
        self._backend = backend
        self._clock = clock
        self._new_id = new_id
        self._source = source
        self._listeners: list[Callable[[], None]] = []
        self._reading = asyncio.Lock()
        self._following = asyncio.Lock()
        self._news = asyncio.Event()
        self._unwatch: Callable[[], None] = lambda: None
        self._follower: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Read what is there, and from now on what comes. Idempotent. Raises `BackendError`.

        While the store is not there, it waits: nobody may consume who does not know what was decided.
        """
        async with self._following:
            if self._follower is None:
                await self._backend.ensure(_SPEC)
                self._unwatch = self._backend.watch([TOPIC], self._news.set)
                while True:
                    try:
                        await self.read_on()
                    except Unavailable as error:
                        log.warning("the control topic cannot be read: %s", error)
                        await asyncio.sleep(_RETRY_S)
                    else:
                        break
                self._follower = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        self._unwatch()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    def listen(self, told: Callable[[], None]) -> Callable[[], None]:
        """Have ``told`` called when something was decided; returns how to stop that."""
        self._listeners.append(told)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(told)

        return stop

    async def read_on(self) -> Control:
        """Read up to the end; without a control topic nothing was decided. Raises `BackendError`."""
        async with self._reading:
            before = self.state.next
            more = True
            while more:
                want = Want(TOPIC, 0, self.state.next, _READ_EVENTS)
                try:
                    (part,) = await self._backend.read([want], _READ_BYTES)
                except UnknownTopic:
                    break
                for stored in part.events:
                    self._take(stored)
                more = part.more
            if self.state.next > before:
                for told in list(self._listeners):
                    told()
        return self.state

    def _take(self, stored: Stored) -> None:
        try:
            record = control.decode(stored.event.body)
        except msgspec.ValidationError as error:  # of a later release; what it says is not for this one
            log.error("the control topic's record at %d is passed over: %s", stored.position, error)
            self.state.next = stored.position + 1
        else:
            self.state.apply(stored.position, record)

    async def write(self, record: Record) -> None:
        """Write a decision; durable, and known to this process, when this returns.

        Raises `BackendError`; `SettingsError` for what is not of the right type, before anything is written.
        """
        try:
            control.decode(control.encode(record))
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise SettingsError(f"{type(record).__name__.lower()}: {error}") from error
        await self._backend.ensure(_SPEC)
        time = datetime.fromtimestamp(self._clock.now(), UTC)
        event: Event[object] = Event(
            self._new_id(), self._source, RECORD_TYPE, time, None, control.encode(record), datacontenttype=JSON
        )
        await self._backend.append(TOPIC, [(0, event)])
        await self.read_on()

    async def _follow(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.read_on()
            except BackendError as error:  # what is known holds on
                log.warning("the control topic cannot be read: %s", error)
                await asyncio.sleep(_RETRY_S)
                self._news.set()
