"""The SQLite backend as the loop sees it: requests go to the writer thread, reads to the reader thread.

What this process knows of each topic's ends is kept here, so that asking for news when there is none costs no thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

import apsw

from nexus.backends.sqlite import groups, topics
from nexus.backends.sqlite.files import boot_time
from nexus.backends.sqlite.housekeeping import Housekeeping
from nexus.backends.sqlite.log import load_shape
from nexus.backends.sqlite.member import Share, SqliteMember
from nexus.backends.sqlite.news import News
from nexus.backends.sqlite.reader import Reader
from nexus.backends.sqlite.recent import Recent
from nexus.backends.sqlite.requests import AppendRequest, CallRequest, Request
from nexus.backends.sqlite.rows import encode_event
from nexus.backends.sqlite.settings import Settings
from nexus.backends.sqlite.store import Store
from nexus.backends.sqlite.writer import Report, Writer
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.errors import Closed, IdConflict, PayloadTooLarge
from nexus.event import Event
from nexus.spi.backend import (
    Appended,
    Capabilities,
    Member,
    PartitionLag,
    Settled,
    Settlement,
    Slice,
    Stored,
    TopicInfo,
    TopicSpec,
    Want,
)

QUEUE_EVENTS = 32_768
QUEUE_BYTES = 64 * 1024 * 1024
HAND_OVER_EVENTS = 100
"""From so many events on the writer begins at once, while the loop goes on making more."""
MAX_BODY_BYTES = 16 * 1024 * 1024
_EVENT_BYTES = 256
"""What an event takes in memory besides its content, roughly."""


class SqliteBackend:
    """See `nexus.spi.backend.Backend`."""

    name = "sqlite"
    settings_type = Settings
    capabilities = Capabilities(
        dedup="window", positions_on_append=True, trim=True, max_body_bytes=MAX_BODY_BYTES, max_cursor_chars=None
    )

    def __init__(
        self, url_or_path: str, *, clock: Clock = SYSTEM_CLOCK, options: Mapping[str, Any] | None = None
    ) -> None:
        self.settings = Settings.parse(url_or_path, options)
        self._clock = clock
        self._store: Store
        self._writer: Writer
        self._reader: Reader
        self._news: News
        self._house: Housekeeping
        self._loop: asyncio.AbstractEventLoop
        self._opened = False
        self._closing = False
        self._out: list[Request] = []
        self._waiting_events = self._waiting_bytes = 0
        self._waiters: deque[tuple[asyncio.Future[None], int, int]] = deque()
        self._ends: dict[str, list[int]] = {}
        self._recent = Recent()
        self._news_count = 0
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}
        self._members: set[SqliteMember] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._topic_names: dict[int, str] = {}

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or `open` was not."""
        return self._closing or not self._opened

    async def open(self) -> None:
        """See `nexus.spi.backend.Backend.open`."""
        if self._opened:
            return
        self._loop = asyncio.get_running_loop()
        self._store = Store(self.settings)
        await asyncio.shield(asyncio.to_thread(self._store.open))
        self._news = News(self._store.presence)
        self._news.open()
        self._news.listen(self._loop, self._on_news)
        self._writer = Writer(self._store, self._clock, self._loop, self._deliver, self._news.tell)
        self._house = Housekeeping(self._writer)
        self._reader = Reader(self._store.path, self._store.id, self.settings, self._loop)
        self._writer.start()
        self._opened = True

    async def close(self) -> None:
        """See `nexus.spi.backend.Backend.close`."""
        if self.closed:
            return
        self._closing = True
        for member in list(self._members):
            member.drop()
        for task in list(self._tasks):
            task.cancel()
        for waiter, _, _ in self._waiters:
            if not waiter.done():
                waiter.set_exception(Closed("the store was closed"))
        self._flush()
        await asyncio.shield(asyncio.to_thread(self._shut))
        self._news.close(self._loop)
        # The writer's last answers were posted before it ended; let them be delivered.
        await asyncio.sleep(0)

    def _shut(self) -> None:
        self._writer.stop()
        self._writer.join()
        self._house.bury()
        self._reader.stop()
        self._store.close()

    # Requests and their answers

    def _put(self, request: Request) -> None:
        self._out.append(request)
        if len(self._out) == 1 and request.events < HAND_OVER_EVENTS:
            # One hand-over for all that is wished in this turn of the loop, unless it is much.
            self._loop.call_soon(self._flush)
        elif request.events >= HAND_OVER_EVENTS or len(self._out) >= HAND_OVER_EVENTS:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            self._writer.put(out)

    async def _call(
        self,
        call: Callable[[apsw.Connection, Report], Any],
        on_abort: Callable[[], Any] | None = None,
        *,
        urgent: bool = False,
        barrier: bool = True,
    ) -> Any:
        self._check_open()
        future = self._loop.create_future()
        self._put(CallRequest(future, call, on_abort, urgent=urgent, barrier=barrier))
        return await future

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the store is not open")

    def _deliver(self, report: Report) -> None:
        """Take what came of a transaction: answers first, then news."""
        if report.foreign:
            self._forget_ends()
        self._ends.update(report.ends)
        for topic in report.trimmed:
            self._recent.forget(topic)
        for request in report.requests:
            if isinstance(request, AppendRequest) and request.error is None and request.topic in self._watchers:
                self._recent.add(request)
            self._waiting_events -= request.events
            self._waiting_bytes -= request.size_bytes
            future = request.future
            if future is None or future.done():  # nobody waits
                continue
            if request.error is not None:
                future.set_exception(request.error)
            else:
                future.set_result(request.result)
        for post in report.posts:
            post()
        if self._waiters:
            self._admit()
        if report.foreign:
            self._wake_all()
        else:
            for topic in report.ends:
                self._wake(topic)

    def _has_room(self) -> bool:
        return self._waiting_events < QUEUE_EVENTS and self._waiting_bytes < QUEUE_BYTES

    def _admit(self) -> None:
        """Let those in who wait for room, first come, first served; their room is taken here, before they run."""
        while self._waiters and self._has_room():
            waiter, events, size = self._waiters.popleft()
            if not waiter.done():
                self._waiting_events += events
                self._waiting_bytes += size
                waiter.set_result(None)

    async def _wait_for_room(self, events: int, size: int) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((waiter, events, size))
        try:
            await waiter
            self._check_open()
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._waiting_events -= events
                self._waiting_bytes -= size
                self._admit()
            raise

    # News

    def _on_news(self, numbers: set[int]) -> None:
        """Another process wrote to these topics; 0 stands for groups."""
        self._forget_ends()
        if 0 in numbers:
            self._writer.nudge()
        unknown = [number for number in numbers if number and number not in self._topic_names]
        if unknown:
            self._wake_all()
            self.own_task(self._learn_names())
            return
        for number in numbers:
            if number:
                self._wake(self._topic_names[number])

    async def _learn_names(self) -> None:
        with contextlib.suppress(Exception):
            self._topic_names.update(
                await self._reader.run(lambda reader: dict(reader.db.execute("SELECT id, name FROM topic")))
            )

    def _forget_ends(self) -> None:
        self._ends.clear()
        self._recent.clear()
        self._news_count += 1

    def _wake(self, topic: str) -> None:
        for wake in list(self._watchers.get(topic, {}).values()):
            wake()

    def _wake_all(self) -> None:
        for wake in {id(w): w for watchers in self._watchers.values() for w in watchers.values()}.values():
            wake()

    def own_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; it ends with the store."""
        if self._closing:
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Topics and events

    async def ensure(self, topic: TopicSpec) -> TopicInfo:
        """See `nexus.spi.backend.Backend.ensure`."""
        topics.check(topic)
        info: TopicInfo = await self._call(lambda db, report: topics.ensure(self._writer, topic))
        await self._reader.run(Reader.forget)
        return info

    async def describe(self, topic: str) -> TopicInfo:
        """See `nexus.spi.backend.Backend.describe`."""
        self._check_open()
        return await self._reader.run(lambda reader: topics.describe(reader, topic, self._store.durable))

    async def topics(self) -> list[str]:
        """See `nexus.spi.backend.Backend.topics`."""
        self._check_open()
        return await self._reader.run(
            lambda reader: sorted(row[0] for row in reader.db.execute("SELECT name FROM topic"))
        )

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        """See `nexus.spi.backend.Backend.append`."""
        if self._closing or not self._opened:
            raise Closed("the store is not open")
        if not batch:
            return []
        items = []
        size = 0
        for partition, event in batch:
            if len(event.body) > MAX_BODY_BYTES:
                raise PayloadTooLarge(f"payload of {len(event.body):,} bytes is over the limit of {MAX_BODY_BYTES:,}")
            content = encode_event(event)
            size += len(content) + _EVENT_BYTES
            items.append((partition, event, content))
        # `_has_room` and `_put` without the calls: this is done for every event.
        if self._waiters or self._waiting_events >= QUEUE_EVENTS or self._waiting_bytes >= QUEUE_BYTES:
            await self._wait_for_room(len(items), size)
        else:
            self._waiting_events += len(items)
            self._waiting_bytes += size
        future: asyncio.Future[list[Appended | IdConflict]] = self._loop.create_future()
        request = AppendRequest(future, topic, items, size)
        out = self._out
        if not out or len(out) + 1 >= HAND_OVER_EVENTS or request.events >= HAND_OVER_EVENTS:
            self._put(request)
        else:
            out.append(request)
        return await future

    async def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """See `nexus.spi.backend.Backend.read`."""
        if self.closed:
            raise Closed("the store is not open")
        self._news.poll(self._on_news)
        slices: list[Slice | None] = []
        missing: list[int] = []
        room, found_any = max_bytes, False
        for number, want in enumerate(wants):
            ends = self._ends.get(want.topic)
            if ends is not None and 0 <= want.partition < len(ends):
                end = ends[want.partition]
                if want.position >= end:
                    slices.append(Slice(want.topic, want.partition, (), want.position, False))
                    continue
                kept = self._recent.find(want)
                if kept:
                    kept, size = _fit(kept, room, at_least_one=not found_any)
                    room -= size
                    found_any = found_any or bool(kept)
                    following = want.position + len(kept)
                    slices.append(Slice(want.topic, want.partition, kept, following, following < end))
                    continue
            slices.append(None)
            missing.append(number)
        if missing:
            asked = [wants[number] for number in missing]
            count = self._news_count
            found, ends_read = await self._reader.run(lambda reader: reader.read(asked, room, found_any))
            if count == self._news_count:
                # Nobody else wrote since, and what this process wrote is told by its writer.
                for name, ends in ends_read.items():
                    known = self._ends.get(name)
                    self._ends[name] = ends if known is None else [max(a, b) for a, b in zip(known, ends, strict=True)]
            for number, slice_ in zip(missing, found, strict=True):
                slices[number] = slice_
        return [slice_ for slice_ in slices if slice_ is not None]

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """See `nexus.spi.backend.Backend.position_at`."""
        self._check_open()
        return await self._reader.run(lambda reader: topics.position_at(reader, topic, partition, time))

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `nexus.spi.backend.Backend.watch`."""
        self._check_open()
        key = object()
        for topic in topics:
            self._watchers.setdefault(topic, {})[key] = wake

        def stop() -> None:
            for topic in topics:
                watchers = self._watchers.get(topic)
                if watchers is not None:
                    watchers.pop(key, None)
                    if not watchers:
                        del self._watchers[topic]

        return stop

    async def seal(self, topic: str, partition: int) -> int:
        """See `nexus.spi.backend.Backend.seal`."""
        end: int = await self._call(lambda db, report: topics.seal(self._writer, report, topic, partition))
        return end

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """See `nexus.spi.backend.Backend.trim`."""
        await self._call(lambda db, report: topics.trim(self._writer, report, topic, partition, before), urgent=True)

    # Groups

    async def claim(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> Member:
        """See `nexus.spi.backend.Backend.claim`."""
        made = SqliteMember(self, wake, self.settings.lease_s)
        share = Share(made, {}, member, group)

        def join(db: apsw.Connection, report: Report) -> SqliteMember:
            shapes = [load_shape(db, self._store.id, name) for name in dict.fromkeys(topics)]
            share.topics = {shape.id: shape.spec.name for shape in shapes}
            self._house.bury_dead(db)  # so that what is free is had at once, after a restart for example
            joined = groups.join(db, group, shapes, member, self._store.presence.name, self.settings.lease_s, start)
            self._house.add(share, *joined)
            return made

        made.store = lambda settlements: self._settle(share, settlements)
        made.rejoin = lambda: self._rejoin(share)
        made.go = lambda: self._leave(share)
        self._members.add(made)
        stop = self.watch(topics, made.wake)

        def stopped() -> None:
            stop()
            self._members.discard(made)

        made.stopped = stopped
        try:
            await self._call(join)
        except BaseException:
            # Cancelled while the writer may still let it in: then out again, as by a crash.
            made.drop()
            if not self.closed:
                self._put(CallRequest(None, lambda db, report: self._house.remove(db, share), urgent=True))
            raise
        made.start()
        return made

    async def _settle(self, share: Share, settlements: Sequence[Settlement]) -> list[Settled]:
        def settle(db: apsw.Connection, report: Report) -> list[Settled]:
            return self._house.settle(db, share, settlements)

        try:
            answers: list[Settled] = await self._call(
                settle, lambda: ["retry"] * len(settlements), urgent=True, barrier=False
            )
        except Closed:
            return ["fenced"] * len(settlements)
        return answers

    async def _leave(self, share: Share) -> None:
        # If the file cannot be written now, the end of the lease does it.
        await self._call(lambda db, report: self._house.remove(db, share), lambda: None, urgent=True)

    async def _rejoin(self, share: Share) -> None:
        """Become a new member under the same name, after the lease was lost."""

        def join(db: apsw.Connection, report: Report) -> None:
            until = boot_time() + self.settings.lease_s
            number = groups.add_member(
                db, share.group, share.name, self._store.presence.name, list(share.topics), self.settings.lease_s
            )
            self._house.add(share, share.group, number)
            report.posts.append(lambda: share.member.joined_again(until))

        await self._call(join, urgent=True)

    async def groups(self) -> list[str]:
        """See `nexus.spi.backend.Backend.groups`."""
        self._check_open()
        return await self._reader.run(lambda reader: groups.names(reader.db))

    async def lag(self, group: str) -> list[PartitionLag]:
        """See `nexus.spi.backend.Backend.lag`."""
        self._check_open()
        return await self._reader.run(
            lambda reader: groups.lag(reader.db, group, lambda name: load_shape(reader.db, reader.store, name))
        )


def _fit(events: Sequence[Stored], room: int, *, at_least_one: bool) -> tuple[Sequence[Stored], int]:
    """Return as many events as there is room for, and their bytes."""
    taken = sum([stored.size for stored in events])
    if taken <= room:
        return events, taken
    taken = 0
    for count, stored in enumerate(events):
        if taken + stored.size > room and (count or not at_least_one):
            return events[:count], taken
        taken += stored.size
    return events, taken
