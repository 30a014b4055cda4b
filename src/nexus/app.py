"""`Nexus`, the bus: the one object that a program makes. It wires settings, backend, publisher and consumers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import msgspec

from nexus import config
from nexus.clock import SYSTEM_CLOCK, Clock, SteadyClock
from nexus.core.control import Replay
from nexus.core.envelope import check_json, encode_payload, validate, validate_given
from nexus.core.ids import Uuid7
from nexus.core.pattern import validate_pattern
from nexus.core.plan import check_durability
from nexus.core.policy import OnDead
from nexus.core.probation import Turn
from nexus.core.retry import Retry
from nexus.errors import Closed, HandlerError, InvalidEvent, NexusError
from nexus.event import JSON, Event, is_json
from nexus.plugins import make_backend
from nexus.runtime.binding import RunIn
from nexus.runtime.bounds import Bounds
from nexus.runtime.consumer import Consumer
from nexus.runtime.control import ControlTopic
from nexus.runtime.deadletters import DeadLetters
from nexus.runtime.declaring import declare
from nexus.runtime.managed import Managed
from nexus.runtime.offers import Offers
from nexus.runtime.publisher import Publisher, Receipt
from nexus.runtime.registering import Handlers, LostCursor, Start, Wishes, refuse_function
from nexus.runtime.subscription import Group
from nexus.runtime.tail import Tail
from nexus.runtime.worker import current_event
from nexus.spi.backend import Backend, TopicSpec

if TYPE_CHECKING:  # what most programs do not use is loaded when it is
    from nexus.runtime.delays import DelayJournal, DelayOwner
    from nexus.runtime.replays import Replays
    from nexus.runtime.requests import Requests
    from nexus.runtime.schedules import Schedules
    from nexus.runtime.subscriptions import Subscriptions

log = logging.getLogger("nexus")

Handler = TypeVar("Handler", bound=Callable[..., Any])
DEFAULT_TOPIC = "events"
_SAME_SIGNAL_S = 0.3
"""Signals this close are one wish: a shell and its tools may send it to the process and to its group."""


class Nexus:
    """An event bus on one backend.

    >>> bus = Nexus("memory://")
    >>> @bus.on("order.placed", group="billing")
    ... async def charge(order: dict) -> None: ...

    Use it as ``async with bus:`` inside a program that has a loop, as ``bus.lifespan`` in an ASGI application, or
    ``await bus.run()`` in a process of its own.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Mapping[str, object] | str | os.PathLike[str] | None = None,
        source: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        backend: Backend | None = None,
    ) -> None:
        """Read the settings; nothing is opened yet.

        ``url`` and ``source`` win over every other place of theirs. ``settings`` is a mapping as in ``nexus.toml``, or
        the path of such a file. ``backend`` is an instance of one's own, instead of a URL. Raises `SettingsError`.
        """
        arguments: dict[str, object] = dict(settings) if isinstance(settings, Mapping) else {}
        arguments |= {name: value for name, value in (("backend", url), ("source", source)) if value is not None}
        file = None if isinstance(settings, Mapping) else settings
        self.loaded = config.load(arguments, file=file)
        self.settings = self.loaded.settings
        self.clock = clock
        self._handlers = Handlers(self.settings.workers)
        self.groups = self._handlers.groups
        self._uuid7 = Uuid7(random.getrandbits)
        self._unix_ms = -1
        self._time = datetime.now(UTC)
        self._member = f"{os.getpid()}-{random.getrandbits(32):08x}"
        self._consumers: dict[str, Consumer] = {}
        self._probation = Turn()
        self._delay_owner: DelayOwner | None = None
        self._requests: Requests | None = None
        self._schedules: Schedules | None = None
        self._publisher: Publisher | None = None
        self._dead_letters: DeadLetters | None = None
        self._state: Literal["new", "open", "closing", "closed"] = "new"
        self._closed = asyncio.Event()
        self._given = backend is not None
        self._wire(backend or self._make_backend())

    def _make_backend(self) -> Backend:
        url = self.settings.backend
        return make_backend(url, self.clock, self.loaded.backends.options(url))

    def _wire(self, backend: Backend) -> None:
        """Make what stands on the backend alone and is there before the bus is open."""
        self.backend = backend
        self._dead_letters = self._schedules = self._requests = None
        self.control = ControlTopic(backend, self.clock, self.new_id, self.settings.source)
        self._managed = Managed(
            self.control, backend, self.groups, self._handlers.created, self._consume, self._forget, self._own_delays
        )

    def use_backend(self, url: str) -> None:
        """Work on the store of this URL instead of the one that the settings name; before the bus is started.

        Raises `SettingsError`; `Closed` if it was started.
        """
        if self._state != "new":
            raise Closed("a bus that was started keeps its backend", hint="make another Nexus")
        self.settings = msgspec.structs.replace(self.settings, backend=url)
        self._wire(self._make_backend())

    def use_groups(self, names: Collection[str]) -> None:
        """Run these groups and no others, nor any made while it runs; before the start. Raises `Closed`."""
        if self._state != "new":
            raise Closed("a bus that was started keeps its groups", hint="make another Nexus")
        self._handlers.keep(names)

    # ---- handlers -------------------------------------------------------------------------------------------------

    def on(
        self,
        *patterns: str,
        group: str | None = None,
        where: str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        batch_size: int = 100,
        key: str | None = None,
        run_in: RunIn = "auto",
        on_dead: OnDead = "block_key",
        ordered: bool = True,
        workers: int | None = None,
        start: Start = "latest",
        hold_s: float = 5.0,
        lost_cursor: LostCursor = "stop",
        lifecycle: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function for events whose type matches one of the patterns.

        ``group``: members of one group share the events; each group gets all of them. Default: the function's name.
        ``where``: a filter on attributes and payload. ``retry``: how often and how long apart. ``timeout_s``: time
        limit of one attempt. ``key``: field of returned payloads that becomes their key. ``run_in``: ``"process"``
        for CPU-bound work. ``lifecycle``: for types that end in ``requested``: ``started`` is published before the
        call, then the result as ``success``, or ``failed`` when the event is given up. What follows belongs to the
        whole group: ``on_dead``: after a dead letter its key waits (``block_key``), goes on (``skip``), or the
        partition stops (``stop``). ``ordered=False`` gives up key order. ``workers``: handlers at once. ``start``:
        where a new group begins. ``hold_s``: longest delay for which a key waits in memory rather than in the parking
        topic. ``lost_cursor``: what to do when the group's cursor is gone.

        Raises `HandlerError`, `FilterError`.
        """
        refuse_function("on", *patterns)
        for pattern in patterns:
            validate_pattern(pattern)
        if not patterns:
            raise HandlerError("no event type was given", hint='name one: @bus.on("order.placed")')
        self._check_not_started()
        wishes = Wishes(
            retry=retry, timeout_s=timeout_s, batch_size=batch_size, key=key, run_in=run_in, on_dead=on_dead,
            ordered=ordered, workers=workers, hold_s=hold_s, lost_cursor=lost_cursor, start=start, lifecycle=lifecycle,
        )  # fmt: skip
        wishes.check()

        def register(handler: Handler) -> Handler:
            self._handlers.add(handler, patterns, group, where, wishes)
            return handler

        return register

    def handler(
        self,
        name: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        batch_size: int = 100,
        key: str | None = None,
        run_in: RunIn = "auto",
        on_dead: OnDead = "block_key",
        ordered: bool = True,
        workers: int | None = None,
        hold_s: float = 5.0,
        lost_cursor: LostCursor = "stop",
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function for groups that are created while programs run (`Subscriptions.create`).

        ``name``: by which those name it; default: the function's. The rest is as for `on`. Raises `HandlerError`.
        """
        refuse_function("handler", name)
        self._check_not_started()
        wishes = Wishes(
            retry=retry, timeout_s=timeout_s, batch_size=batch_size, key=key, run_in=run_in, on_dead=on_dead,
            ordered=ordered, workers=workers, hold_s=hold_s, lost_cursor=lost_cursor,
        )  # fmt: skip
        wishes.check()

        def register(handler: Handler) -> Handler:
            self._handlers.add_named(handler, name, wishes)
            return handler

        return register

    def _check_not_started(self) -> None:
        if self._state != "new":
            raise HandlerError("the bus is running; handlers are registered before it starts")

    def include(self, other: Nexus) -> None:
        """Register the handlers of another bus here too: an application's, on the bus of a test.

        Raises `HandlerError` if both know a group and disagree about it, or want the same events in it.
        """
        self._check_not_started()
        self._handlers.include(other._handlers)

    # ---- life -----------------------------------------------------------------------------------------------------

    async def start(self, *, consume: bool = True) -> None:
        """Open the backend, make sure that the topics exist, and begin to consume unless told otherwise.

        Raises `SettingsError` (also when the backend gives less durability than asked for), `BackendError`. If the
        backend could not be opened, it may be started again.
        """
        if self._state != "new":
            raise Closed("a bus starts once", hint="make another Nexus")
        try:
            await self.backend.open()
        except BaseException:
            if not self._given:  # one that failed may be closed for good; the next start is to have its chance
                self._wire(self._make_backend())
            raise
        self._state = "open"
        try:
            publisher = self._publisher = self._make_publisher()
            await publisher.open()
            for durability in publisher.durabilities.values():
                check_durability(self.settings.durability, durability, self.backend.capabilities.more_durable)
            if consume:
                # Together: the first of them to run must not have the loop for itself while the others are starting.
                started = await asyncio.gather(*map(self._consume, self.groups.values()), return_exceptions=True)
                for failure in started:
                    if isinstance(failure, BaseException):
                        raise failure
                if self._handlers:
                    await self.control.follow()
                    self._managed.start()
        except BaseException:
            await self.close()
            raise

    def _make_publisher(self) -> Publisher:
        specs = {
            name: TopicSpec(name, topic.partitions, topic.retention_age_s, topic.retention_size_bytes)
            for name, topic in self.settings.topics.items()
        }
        default = specs.get(DEFAULT_TOPIC) or TopicSpec(DEFAULT_TOPIC)
        publish = self.settings.publish
        return Publisher(
            self.backend,
            [(specs[name], topic.patterns) for name, topic in self.settings.topics.items()],
            default,
            self.clock,
            max_body_bytes=publish.max_body_bytes,
            queue_events=publish.queue_events,
            queue_bytes=publish.queue_bytes,
            timeout_s=publish.timeout_s,
        )

    async def _consume(self, group: Group, replay: Replay | None = None, *, alone: bool = False) -> Consumer:
        """Begin to consume. ``alone``: only if no member wants other events."""
        if group.name in self._consumers:  # two would be one member, and take each other's partitions
            raise HandlerError(f"group {group.name} is consumed by this bus already")
        consumer = Consumer(
            group,
            self.backend,
            self.publisher,
            SteadyClock(self.clock),
            self.new_id,
            self.settings.source,
            f"{self._member}-{group.name}",
            self._probation,
            self.control,
            prefetch_events=self.settings.prefetch_events,
            prefetch_bytes=self.settings.prefetch_bytes,
            settle_interval_s=self.settings.settle_interval_s,
            drain_s=self.settings.drain_s,
            bounds=None if replay is None else Bounds(replay, self.clock.now()),
        )
        self._consumers[group.name] = consumer
        try:
            await self.control.follow()
            if replay is None:
                await declare(self.control, self.backend, group, refuse=alone)
            await consumer.start()
        except BaseException:
            self._forget(group.name)
            await consumer.kill()
            raise
        return consumer

    def _forget(self, group: str) -> None:
        self._consumers.pop(group, None)

    async def close(self) -> None:
        """Drain and close: start nothing new, wait for running handlers, settle, leave. Idempotent.

        Handlers that are still running may publish until they are done. Raises what stopped a consumer, if something
        nobody planned did. Whatever one part raises, all are closed; the first failure is raised at the end.
        """
        if self._state != "open":
            return
        self._state = "closing"
        self._closed.set()
        failures: list[BaseException] = []
        for close in (
            self._managed.close,
            self._close_consumers,
            self._close_requests,
            self.control.close,
            self._close_publisher,
            self.backend.close,
        ):
            try:
                await close()
            except BaseException as error:
                failures.append(error)
        for failure in failures[1:]:
            log.warning("while the bus was closed: %r", failure)
        if failures:
            raise failures[0]

    async def _close_consumers(self) -> None:
        ending = dict(self._managed.ending)
        parts = [consumer.close() for name, consumer in self._consumers.items() if name not in ending]
        if self._delay_owner is not None:
            parts.append(self._delay_owner.close())
        try:
            ended = await asyncio.gather(*parts, *ending.values(), return_exceptions=True)
        finally:
            self._state = "closed"
        failures = [failure for failure in ended if isinstance(failure, BaseException)]
        for failure in failures[1:]:
            log.warning("while consumers were closed: %r", failure)
        if failures:
            raise failures[0]

    async def _close_requests(self) -> None:
        if self._requests is not None:
            self._requests.close()

    async def _close_publisher(self) -> None:
        if self._publisher is not None:
            await self._publisher.close()

    async def kill(self) -> None:
        """Stop as a crash would: nothing is drained, settled or given back. For tests of what survives."""
        self._state = "closed"
        self._closed.set()
        await self._close_requests()
        await self._managed.kill()
        if self._delay_owner is not None:
            await self._delay_owner.kill()
        for consumer in self._consumers.values():
            await consumer.kill()
        await self.control.close()
        await self.backend.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the bus for the life of an ASGI application: ``Starlette(lifespan=bus.lifespan)``."""
        async with self:
            yield

    async def run(self, *, on_open: Callable[[], object] | None = None) -> None:
        """Run until SIGTERM or SIGINT, then drain. A second signal stops at once.

        ``on_open`` is called once the bus is open and consumes.
        Raises what stopped a consumer, if something nobody planned did.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        stopped_at = 0.0

        def on_signal() -> None:
            nonlocal stopped_at
            now = loop.time()
            if not stop.is_set():
                stop.set()
                stopped_at = now
            elif now - stopped_at > _SAME_SIGNAL_S:
                os._exit(130)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            async with self:
                if on_open is not None:
                    on_open()
                stopping = loop.create_task(stop.wait())
                failures = [c.failed for c in self._consumers.values() if c.failed is not None]
                watched: list[asyncio.Future[Any]] = [stopping, *failures]
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                for failure in failures:
                    if failure.done():
                        failure.result()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    @property
    def publisher(self) -> Publisher:
        if self._publisher is None or self._state in ("new", "closed"):
            raise _not_open()
        if self._state == "closing" and current_event.get() is None:
            raise _not_open()
        return self._publisher

    # ---- publishing -----------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """Return a UUIDv7 above all that this bus has made."""
        return self._uuid7(int(self.clock.now() * 1000))

    def event(
        self,
        type: str,
        data: Any = None,
        *,
        key: str | None = None,
        id: str | None = None,
        source: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        time: datetime | None = None,
        expires_in_s: float | None = None,
        correlationid: str | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
    ) -> Event[Any]:
        """Make an event without publishing it. What is published within a handler carries on its correlation."""
        body, content_type = encode_payload(data)
        if datacontenttype is not None:
            content_type = datacontenttype
            if is_json(datacontenttype) and isinstance(data, bytes):
                check_json(data)
        now_s = self.clock.now()
        now = datetime.fromtimestamp(now_s, UTC)
        cause = current_event.get()
        causation = traceparent = tracestate = None
        if cause is not None:
            correlationid = correlationid or cause.correlationid or cause.id
            causation, traceparent, tracestate = cause.id, cause.traceparent, cause.tracestate
            tenant = tenant if tenant is not None else cause.tenant
        return Event(
            id if id is not None else self._uuid7(int(now_s * 1000)),
            source or self.settings.source,
            type,
            time or now,
            key,
            body,
            tenant,
            subject,
            correlationid,
            causation,
            content_type if content_type is not None else JSON,
            dataschema,
            None if expires_in_s is None else _later(now, expires_in_s),
            traceparent,
            tracestate,
            None if extensions is None else dict(extensions),
        )

    def _plain_event(self, type: str, data: Any, key: str | None) -> Event[Any]:
        """`event`, by the shortest way: published outside of a handler, with no attribute but its key."""
        body, content_type = encode_payload(data)
        unix_ms = int(self.clock.now() * 1000)
        if unix_ms != self._unix_ms:
            self._unix_ms = unix_ms
            self._time = datetime.fromtimestamp(unix_ms / 1000, UTC)
        event: Event[Any] = Event(
            self._uuid7(unix_ms), self.settings.source, type, self._time, key, body, datacontenttype=content_type
        )
        return event

    async def publish(
        self, type: str | Event[Any], data: Any = None, *, key: str | None = None, **attributes: Any
    ) -> Receipt:
        """Publish one event; when this returns it is as durable as the receipt says.

        ``data`` is a msgspec Struct, dataclass, TypedDict, pydantic model, plain JSON value, or bytes. Attributes are
        those of `event`: ``key``, ``id``, ``subject``, ``tenant``, ``time``, ``expires_in_s``, ``correlationid``,
        ``datacontenttype``, ``dataschema``, ``extensions``. Publishing the same id and content again returns the first
        receipt. Waits while too much is under way.

        Raises `InvalidEvent`, `IdConflict`, `Overloaded`, `UnknownOutcome`, `Closed`, `BackendError`.
        """
        check = validate
        if isinstance(type, Event):
            event = type
        elif not isinstance(type, str):
            raise InvalidEvent("the first argument is the event's type", hint='bus.publish("order.placed", payload)')
        elif attributes or current_event.get() is not None:
            event = self.event(type, data, key=key, **attributes)
        else:
            event = self._plain_event(type, data, key)
            check = validate_given
        publisher = self._publisher if self._state == "open" else self.publisher
        assert publisher is not None
        return await publisher.publish(event, check)

    async def publish_many(self, events: Sequence[Event[Any]]) -> list[Receipt | NexusError]:
        """Publish events made with `event`, as one batch: far faster than one by one.

        All are validated first: `InvalidEvent` names the first bad one, and nothing is stored. Then each event has its
        own answer, a receipt or the error that it met.
        """
        return await self.publisher.publish_many(events)

    # ---- reading --------------------------------------------------------------------------------------------------

    async def subscribe(
        self, *patterns: str, group: str, where: str | None = None, start: Start = "latest"
    ) -> AsyncIterator[Event[Any]]:
        """Consume as a member of a group, in a loop of one's own: an event is acknowledged when the next is asked for.

        Leaving the loop gives the current event back: it is delivered again. Raises `SettingsError` if the group has
        members that want other events: each would pass over what the other wants. When the bus closes, the loop raises
        `Closed`; if its consumer stops by an error that nobody planned, that error.
        """
        offers = Offers()
        consumer = await self._consume(offers.group(group, patterns, where, start), alone=True)
        closing = asyncio.get_running_loop().create_task(self._closed.wait())
        assert consumer.failed is not None
        for end in (closing, consumer.failed):
            end.add_done_callback(offers.end)
        try:
            while (event := await offers.next()) is not None:
                yield event
            if consumer.failed.done():
                consumer.failed.result()
            raise _not_open()
        finally:
            closing.cancel()
            consumer.interrupt_all("left the loop")
            await consumer.close()
            self._consumers.pop(group, None)

    def tail(
        self,
        *patterns: str,
        where: str | None = None,
        start: Literal["latest", "earliest"] | float = "latest",
        follow: bool = True,
    ) -> Tail:
        """Watch events without consuming them: ``async for stored in bus.tail("order.*")``.

        ``start``: ``latest``, ``earliest`` or a time in seconds since 1970. ``follow=False`` ends at the end; else the
        loop goes on until the bus closes, and raises `Closed` then.
        """
        return Tail(self.backend, self.publisher, patterns or ("**",), where, start, follow, self._closed)

    @property
    def dead_letters(self) -> DeadLetters:
        """What failed for good, to be looked at, edited, requeued or discarded."""
        if self._dead_letters is None:
            self._dead_letters = DeadLetters(
                self.backend, self.clock, self.new_id, self.settings.source, self.control, self.settings.schemas
            )
        return self._dead_letters

    @property
    def subscriptions(self) -> Subscriptions:
        """The groups of the store, to be paused, sent elsewhere, filtered otherwise, created and removed."""
        from nexus.runtime.subscriptions import Subscriptions

        return Subscriptions(self.backend, self.control)

    def _delay_journal(self) -> DelayJournal:
        from nexus.runtime.delays import DelayJournal

        return DelayJournal(self.backend, self.clock, self.new_id, self.settings.source)

    async def _own_delays(self) -> None:
        """Take a share of the delayed events of the store. Idempotent."""
        if self._delay_owner is None:
            from nexus.runtime.delays import DelayOwner

            self._delay_owner = DelayOwner(
                self.backend, self.control, self._delay_journal(), self.clock, f"{self._member}-delays", self._place_of
            )
        await self._delay_owner.start()

    def _place_of(self, event: Event[Any]) -> tuple[str, int]:
        spec = self.publisher.topic_of(event.type)
        return spec.name, self.publisher.partition(event, spec.partitions)

    async def publish_later(
        self,
        type: str | Event[Any],
        data: Any = None,
        *,
        at: datetime | float,
        key: str | None = None,
        **attributes: Any,
    ) -> str:
        """Have an event published at a time, and not before; return its id. Durable when this returns.

        ``at`` is a time with a zone, or seconds since 1970; ``expires_in_s`` counts from it. The rest is as for
        `publish`. What is published later is published once. Some process of the store must consume by then. Raises
        `InvalidEvent`, `Overloaded`, `BackendError`.
        """
        if isinstance(at, datetime) and at.tzinfo is None:
            raise InvalidEvent("the time has no zone", hint="datetime.now(UTC) + timedelta(minutes=5)")
        due = at.timestamp() if isinstance(at, datetime) else at
        event = type if isinstance(type, Event) else self.event(type, data, key=key, **attributes)
        if not isinstance(type, Event) and event.expirytime is not None and isinstance(due, int | float):
            event = msgspec.structs.replace(event, expirytime=_later(event.expirytime, due - self.clock.now()))
        return await self.schedules.later(event, due)

    async def request(
        self,
        type: str | Event[Any],
        data: Any = None,
        *,
        replies: Sequence[str] = (),
        timeout_s: float = 30.0,
        key: str | None = None,
        **attributes: Any,
    ) -> Event[Any]:
        """Publish an event and return the first that was published because of it: what its handler returned.

        ``replies``: patterns of the reply's type; default: ``success`` and ``failed`` of a type that ends in
        ``requested``, any of another. The rest is as for `publish`. Raises `NoReply` after ``timeout_s``: the request
        stands, and may still be handled; ask again with the same event. Raises `UnknownOutcome` if publishing took all
        of the time, `Closed` if the bus is closed meanwhile, and what `publish` raises.
        """
        event = type if isinstance(type, Event) else self.event(type, data, key=key, **attributes)
        if self._requests is None:
            from nexus.runtime.requests import Requests

            self._requests = Requests(self.backend, lambda: sorted(self.publisher.specs))
        return await self._requests.ask(event, self.publish, replies, timeout_s)

    @property
    def schedules(self) -> Schedules:
        """What is published later, and again and again."""
        if self._schedules is None:
            from nexus.runtime.schedules import Schedules

            self._schedules = Schedules(
                self.backend, self.control, self._delay_journal(), self.clock, self._place_of, self.publish,
                self.publisher.max_body_bytes,
            )  # fmt: skip
        return self._schedules

    @property
    def replays(self) -> Replays:
        """What was stored, replayed into a group or a function."""
        from nexus.runtime.replays import Replays

        return Replays(
            self.backend,
            self.control,
            self.new_id,
            lambda pattern: self.publisher.topics_of(pattern),
            self._consume,
            self._forget,
            self._closed,
        )

    def consumer(self, group: str) -> Consumer:
        """The running consumer of a group: its `stats`, what it owns, and why a partition stands still."""
        try:
            return self._consumers[group]
        except KeyError:
            raise NexusError(f"group {group} is not consumed by this bus") from None


def _later(now: datetime, seconds: float) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidEvent(f"{seconds!r} seconds from {now:%Y-%m-%d} is no time: {error}") from None


def _not_open() -> Closed:
    return Closed("the bus is not open", hint="use `async with bus:` or `await bus.start()`")
