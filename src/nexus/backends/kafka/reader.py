"""Reading: from what is read ahead where somebody reads on and on, else by a jump to the place.

Who reads is not known, only where: a reader that goes on where it stopped is known by its position. So each reader
that goes on gets a stream of its own, at most `FOLLOWERS` per partition; all others read by jumps, which are slower and
give the same.

A fresh read asks the brokers first where the partitions end, and gives all up to there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from nexus.backends.kafka.buffer import Budget, Buffer
from nexus.backends.kafka.cluster import Cluster, Partition
from nexus.backends.kafka.follow import Arrival, Follower, Stream
from nexus.backends.kafka.jump import Jumper, Wish
from nexus.errors import UnknownTopic
from nexus.spi.backend import Slice, Want

FOLLOWERS = 4
"""How many readers of one partition are read ahead for."""
FOLLOW_MS = 50
"""How long a follower waits at a broker for news; an order to follow one more partition waits as long."""
ARRIVE_S = 0.05
"""How long a fresh read waits for what is read ahead, before it jumps."""
IN_USE_S = 2.0
"""A stream that was read so lately is not pointed elsewhere."""
SKIP = 1_024
"""A stream that is to go on so far above is pointed there anew."""
PLACES = 4_096
"""How many places are remembered where a reader stopped."""
LEAST_EVENTS = 256
LEAST_BYTES = 64 * 1024


class Reader:
    """What is read ahead, and how reads are answered from it."""

    def __init__(self, cluster: Cluster, news: Callable[[str, int, int], None], watched: Callable[[str], bool]) -> None:
        self._cluster = cluster
        self._settings = cluster.settings
        self._news = news
        self._watched = watched
        self._jumper = Jumper(cluster)
        self._followers: list[Follower] = []
        self._stopped_at: OrderedDict[tuple[str, int, int], None] = OrderedDict()

    def close(self) -> None:
        """Let go of everything. Blocks."""
        for follower in self._followers:
            follower.stop()
        for follower in self._followers:
            follower.join()
        self._jumper.close()

    # Answers

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        """See `nexus.spi.log.Log.read`."""
        sources: list[Buffer | None] = [self._stream(want) for want in wants]
        ends: dict[Partition, int] = {}
        if fresh or None in sources:
            ends = await self._fill(wants, sources, max_bytes, fresh=fresh)
        budget = Budget(max_bytes)
        slices = [
            self._answer(want, source, budget, ends, fresh=fresh) for want, source in zip(wants, sources, strict=True)
        ]
        if not budget.used:
            await asyncio.sleep(0)  # so that a reader that asks again and again lets something arrive
        return slices

    async def _fill(
        self, wants: Sequence[Want], sources: list[Buffer | None], max_bytes: int, *, fresh: bool
    ) -> dict[Partition, int]:
        """See to it that every source has what is there. Return where the partitions end."""
        cluster = self._cluster
        for want in wants:
            known = cluster.known(want.topic) or await cluster.partitions(want.topic)
            if not 0 <= want.partition < known:
                raise UnknownTopic(f"topic {want.topic!r} has {known} partitions, not one {want.partition}")
        ends = await cluster.ends(
            (want.topic, want.partition) for want, source in zip(wants, sources, strict=True) if fresh or source is None
        )
        jumps: list[int] = []
        for number, want in enumerate(wants):
            end = ends.get((want.topic, want.partition))
            source = sources[number]
            if end is None:
                continue
            if isinstance(source, Stream) and await self._arrived(source, want, end):
                continue
            if want.position >= end:
                sources[number] = self._empty(want)
            else:
                jumps.append(number)
        while jumps:
            jumps = await self._jump(wants, sources, jumps, ends, max_bytes)
        return ends

    async def _jump(
        self,
        wants: Sequence[Want],
        sources: list[Buffer | None],
        jumps: list[int],
        ends: dict[Partition, int],
        max_bytes: int,
    ) -> list[int]:
        """Read what is wanted by a jump, one want of each partition; return those that are left."""
        left: list[int] = []
        now: dict[Partition, int] = {}
        for number in jumps:
            place = (wants[number].topic, wants[number].partition)
            if place in now:
                left.append(number)
            else:
                now[place] = number
        wishes = [
            Wish(*place, wants[number].position, ends[place], wants[number].max_events) for place, number in now.items()
        ]
        pages = await self._jumper.read(wishes, max_bytes)
        for place, number in now.items():
            sources[number] = pages[place]
        return left

    def _answer(
        self, want: Want, source: Buffer | None, budget: Budget, ends: dict[Partition, int], *, fresh: bool
    ) -> Slice:
        assert source is not None
        place = (want.topic, want.partition)
        stream = isinstance(source, Stream)
        if stream and (source.broken or source.start > want.position):  # type: ignore[attr-defined]
            # Somebody else took it meanwhile. Nothing is lost: the next read looks again.
            return Slice(*place, [], want.position, True)
        answer = source.take(want, budget, ends.get(place, 0))
        if stream:
            self._used(source)  # type: ignore[arg-type]
        else:
            self._remember(want, answer, fresh=fresh)
        return answer

    def _empty(self, want: Want) -> Buffer:
        return Buffer(want.topic, want.partition, want.position)

    # Streams

    def _stream(self, want: Want) -> Stream | None:
        """The stream that has what is wanted, or will have it next."""
        place = (want.topic, want.partition)
        best: Stream | None = None
        for follower in self._followers:
            stream = follower.streams.get(place)
            if stream is None or stream.start > want.position:
                continue
            if stream.start == want.position:
                return stream
            near = stream.head + (SKIP if stream.live else 0)
            if want.position <= near and (best is None or stream.start > best.start):
                best = stream
        return best

    async def _arrived(self, stream: Stream, want: Want, end: int) -> bool:
        """Wait until a stream has all that is wanted below ``end``; False if that takes too long."""
        loop = self._cluster.loop
        deadline = loop.time() + ARRIVE_S
        while not stream.broken and stream.start <= want.position:
            if stream.head >= end or len(stream.messages) >= want.max_events or stream.paused:
                return True
            if not stream.live or loop.time() >= deadline:
                return False
            waiter: asyncio.Future[None] = loop.create_future()
            stream.waiters.append(waiter)
            timer = loop.call_at(deadline, stream.ring)
            try:
                await waiter
            finally:
                timer.cancel()
        return False

    def _used(self, stream: Stream) -> None:
        stream.used_at = self._cluster.loop.time()
        if stream.paused:
            events, size = self._bounds(stream.follower)
            if len(stream.messages) <= events // 2 and stream.size_bytes <= size // 2:
                stream.follower.resume(stream)

    def _bounds(self, follower: Follower) -> tuple[int, int]:
        """How many events and bytes one partition is read ahead."""
        count = sum(len(each.streams) for each in self._followers) or 1
        settings = self._settings
        return max(LEAST_EVENTS, settings.buffer_events // count), max(LEAST_BYTES, settings.buffer_bytes // count)

    def _remember(self, want: Want, answer: Slice, *, fresh: bool) -> None:
        """Note where a reader stopped; read ahead for one that goes on, or that is content with what arrives."""
        stopped = (want.topic, want.partition, answer.next)
        goes_on = self._stopped_at.pop((want.topic, want.partition, want.position), 0) is None
        if goes_on or not fresh:
            self._follow(want.topic, want.partition, answer.next)
        else:
            self._stopped_at[stopped] = None
            if len(self._stopped_at) > PLACES:
                self._stopped_at.popitem(last=False)

    def _follow(self, topic: str, partition: int, position: int) -> None:
        """Read ahead from ``position`` on, unless that is done already or too many are."""
        now = self._cluster.loop.time()
        oldest: Stream | None = None
        free: Follower | None = None
        for follower in self._followers:
            stream = follower.streams.get((topic, partition))
            if stream is None:
                free = free or follower
            elif stream.start <= position <= stream.head + (SKIP if stream.live else 0):
                if position > stream.head:
                    stream.skip(position)
                stream.used_at = now
                return
            elif stream.used_at < now - IN_USE_S and (oldest is None or stream.used_at < oldest.used_at):
                oldest = stream
        if oldest is not None:
            oldest.follower.follow(topic, partition, position)
        elif free is not None:
            free.follow(topic, partition, position)
        elif len(self._followers) < FOLLOWERS:
            self._followers.append(
                Follower(
                    self._settings.consumer(FOLLOW_MS),
                    self._cluster.loop,
                    self._cluster.kafka_name,
                    self._on_arrivals,
                )
            )
            self._followers[-1].follow(topic, partition, position)

    def _on_arrivals(self, arrivals: list[Arrival]) -> None:
        for stream, messages, head, error in arrivals:
            if stream.broken:
                continue
            if error is not None:
                # Where it begins has changed, or the topic is gone: the next read finds out which.
                self._cluster.forget(stream.topic)
                stream.follower.leave(stream.topic, stream.partition)
                self._news(stream.topic, stream.partition, -1)
                continue
            stream.live = True
            if messages:
                taken = stream.add(messages)
                if taken:
                    self._news(stream.topic, stream.partition, stream.head)
                events, size = self._bounds(stream.follower)
                if len(stream.messages) >= events or stream.size_bytes >= size:
                    stream.follower.pause(stream)
            elif head >= 0:
                stream.reach(head)
            stream.ring()

    def follows(self, topic: str, partition: int) -> bool:
        """Whether news of a partition come by themselves."""
        for follower in self._followers:
            stream = follower.streams.get((topic, partition))
            if stream is not None and stream.live and not stream.paused:
                return True
        return False

    def drop_idle(self) -> None:
        """Do not read ahead any more where nobody has read for a while, or nobody takes what came."""
        before = self._cluster.loop.time() - self._settings.idle_s
        for follower in self._followers:
            for (topic, partition), stream in list(follower.streams.items()):
                if stream.used_at < before and (stream.messages or not self._watched(topic)):
                    follower.leave(topic, partition)

    def trimmed(self, topic: str, partition: int, first: int) -> None:
        """Forget what was read ahead below ``first``."""
        for follower in self._followers:
            stream = follower.streams.get((topic, partition))
            if stream is not None and stream.start < first:
                follower.leave(topic, partition)
