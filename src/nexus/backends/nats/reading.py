"""Reading: which reader serves which wish, and how the answers are bounded.

A wish that goes on where the one before it ended is served by the same reader, without a question to the server. Any
other position gets a reader of its own. Readers are given up when there are too many, the one unused longest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from nexus.backends.nats.connection import Connection
from nexus.backends.nats.names import Names
from nexus.backends.nats.reader import Reader
from nexus.backends.nats.settings import Settings
from nexus.backends.nats.streams import Streams
from nexus.errors import Closed, Unavailable
from nexus.spi.backend import Slice, Stored, Want

PER_PARTITION = 8
"""Readers of one partition at once: as many groups of one process as read it ahead without disturbing each other."""
SILENT_S = 2.0
"""How long an event that is known to be stored may fail to arrive before the consumer is made again."""


class Topic:
    """What reading needs to know about a topic."""

    __slots__ = ("first_kept", "names")

    def __init__(self, names: Names, first_kept: Callable[[], Awaitable[int]] | None) -> None:
        self.names = names
        self.first_kept = first_kept


class _Place:
    """A wish, who serves it, and what was found out for it."""

    __slots__ = ("last", "made", "reader", "want")

    def __init__(self, want: Want, reader: Reader, made: bool) -> None:
        self.want = want
        self.reader = reader
        self.made = made
        self.last = -1
        """Position of the last event that must arrive; -1 without one."""


class ReadingRoom:
    """The readers of a store."""

    def __init__(
        self, connection: Connection, settings: Settings, streams: Streams, on_news: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._streams = streams
        self._on_news = on_news
        self._readers: dict[tuple[str, int], list[Reader]] = {}
        self._count = 0

    @property
    def readers(self) -> list[Reader]:
        return [reader for readers in self._readers.values() for reader in readers]

    async def read(self, topics: Sequence[Topic], wants: Sequence[Want], max_bytes: int, fresh: bool) -> list[Slice]:
        """Answer wishes; ``topics`` are those that they name. See `Log.read`."""
        places = [self._place(topic, want) for topic, want in zip(topics, wants, strict=True)]
        try:
            await self._prepare(topics, places, fresh)
            budget = _Budget(max_bytes)
            return [await self._slice(place, budget) for place in places]
        except BaseException:
            for place in places:
                if place.made or place.reader.failure is not None:
                    self._give_up(place.want, place.reader)
            raise
        finally:
            for place in places:
                place.reader.busy = False
                place.reader.ask()

    # -- who serves it ---------------------------------------------------------------------------------------------

    def _place(self, topic: Topic, want: Want) -> _Place:
        now = asyncio.get_running_loop().time()
        readers = self._readers.setdefault((want.topic, want.partition), [])
        for reader in readers:
            if not reader.busy and reader.start <= want.position <= reader.next:
                reader.skip_to(want.position)
                break
        else:
            self._make_room(readers)
            reader = Reader(
                self._connection,
                self._settings,
                topic.names,
                want.partition,
                want.position,
                self._on_news,
                topic.first_kept,
            )
            readers.append(reader)
            self._count += 1
            reader.busy, reader.used_at = True, now
            return _Place(want, reader, True)
        reader.busy, reader.used_at = True, now
        return _Place(want, reader, False)

    def _make_room(self, readers: list[Reader]) -> None:
        if len(readers) >= PER_PARTITION:
            self._evict(readers)
        if self._count >= self._settings.readers:
            self._evict(self.readers)

    def _evict(self, readers: list[Reader]) -> None:
        unused = [reader for reader in readers if not reader.busy]
        if unused:
            reader = min(unused, key=lambda reader: reader.used_at)
            self._remove(next(place for place, all in self._readers.items() if reader in all), reader)

    def _give_up(self, want: Want, reader: Reader) -> None:
        self._remove((want.topic, want.partition), reader)

    def _remove(self, place: tuple[str, int], reader: Reader) -> None:
        readers = self._readers.get(place, [])
        if reader in readers:
            readers.remove(reader)
            self._count -= 1
            reader.close()
        if not readers:
            self._readers.pop(place, None)

    async def _prepare(self, topics: Sequence[Topic], places: Sequence[_Place], fresh: bool) -> None:
        """Open new readers, and ask the server what there is where that must be known."""
        asking = [(topic, place) for topic, place in zip(topics, places, strict=True) if fresh or place.made]
        if not asking:
            return
        names = {place.want.topic: topic.names for topic, place in asking}
        lasts, found, _ = await asyncio.gather(
            asyncio.gather(*(self._streams.last(topic.names, place.want.partition) for topic, place in asking)),
            asyncio.gather(*(self._streams.floors(known) for known in names.values())),
            asyncio.gather(*(place.reader.open() for place in places if place.made)),
        )
        floors = dict(zip(names, found, strict=True))
        for (_, place), last in zip(asking, lasts, strict=True):
            place.last = last or -1
            place.reader.forget(floors[place.want.topic].lost(place.want.partition))

    # -- the answers -----------------------------------------------------------------------------------------------

    async def _slice(self, place: _Place, budget: _Budget) -> Slice:
        want, reader = place.want, place.reader
        events: list[Stored] = []
        following = want.position
        trimmed: int | None = None
        stopped = False
        while True:
            if reader.gap is not None and want.position >= reader.gap[1]:
                reader.gap = None  # who reads on above it knows of it, or never wanted it
            if reader.gap is not None and reader.start >= reader.gap[0] and not events:
                await self._until_arrived(place)
                first = reader.first_unread()
                trimmed = following = first if first is not None else max(reader.gap[1], want.position)
                reader.gap = None
            position = reader.first_unread()
            if position is None:
                if len(events) >= want.max_events or budget.spent or reader.next > place.last:
                    stopped = len(events) >= want.max_events or budget.spent
                    break
                await self._until_arrived(place)
                continue
            if len(events) >= want.max_events or not budget.allows(reader.first_size()):
                stopped = True
                break
            if reader.gap is not None and position >= reader.gap[0] and events:
                stopped = True  # what follows was forgotten; the next answer says so
                break
            stored = reader.take()
            budget.take(stored.size)
            events.append(stored)
            following = stored.position + 1
            if reader.unread == 0:
                reader.ask()
        more = stopped and (reader.unread > 0 or reader.next <= place.last or reader.pending > 0)
        return Slice(want.topic, want.partition, events, following, more, trimmed)

    async def _until_arrived(self, place: _Place) -> None:
        """Wait until the next event is here, or it is certain that there is none."""
        reader = place.reader
        deadline = asyncio.get_running_loop().time() + self._settings.timeout_s
        while reader.unread == 0 and reader.next <= place.last:
            if reader.closed:
                raise Closed("the store was closed")
            reader.ask()
            if not await reader.until_news(SILENT_S):
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"an event of {place.want.topic} that is stored did not arrive")
                reader.make_again()

    # -- care ------------------------------------------------------------------------------------------------------

    def look_after(self, now: float) -> None:
        """See that no reader has fallen silent. To be called about once a second."""
        for reader in self.readers:
            if not reader.busy:
                reader.look_after(now)

    def make_again(self) -> None:
        """The connection is back: what was on the way is lost, and so are the consumers, maybe."""
        for reader in self.readers:
            reader.make_again()

    def forget(self, topic: str, partition: int, lost: int) -> None:
        """Somebody had events forgotten."""
        for reader in self._readers.get((topic, partition), []):
            reader.forget(lost)

    def close(self) -> None:
        """Let go of all readers."""
        for place, readers in list(self._readers.items()):
            for reader in list(readers):
                self._remove(place, reader)


class _Budget:
    """Bytes for all answers of a call together; the first event is always given."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._given = False
        self.spent = False

    def allows(self, size: int) -> bool:
        if self._given and size > self._left:
            self.spent = True
        return not self.spent

    def take(self, size: int) -> None:
        self._given = True
        self._left -= size
