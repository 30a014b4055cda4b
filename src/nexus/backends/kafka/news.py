"""News: who watches which topic, and what makes them look.

An event that was appended here, or that arrived by reading ahead, wakes at once. For the partitions of which nothing
arrives by itself the brokers are asked where they end, all in one question, while somebody watches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from nexus.backends.kafka.cluster import Cluster, Partition
from nexus.errors import Closed, NexusError

log = logging.getLogger("nexus.kafka")

ASK_S = 0.15
"""How often the brokers are asked."""

Wake = Callable[[], None]


class News:
    """The watchers. ``arrives`` tells of a partition whose news come by themselves."""

    def __init__(self, cluster: Cluster, arrives: Callable[[str, int], bool]) -> None:
        self._cluster = cluster
        self._arrives = arrives
        self._watchers: dict[str, dict[object, Wake]] = {}
        self._ends: dict[Partition, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._trouble = False

    def watched(self, topic: str) -> bool:
        """Whether anybody watches a topic."""
        return topic in self._watchers

    def watch(self, topics: Sequence[str], wake: Wake) -> Callable[[], None]:
        """See `nexus.spi.log.Log.watch`."""
        token = object()
        for topic in topics:
            self._watchers.setdefault(topic, {})[token] = wake
        if self._task is None or self._task.done():
            self._task = self._cluster.loop.create_task(self._ask())

        def stop() -> None:
            for topic in topics:
                watchers = self._watchers.get(topic, {})
                if watchers.pop(token, None) is not None and not watchers:
                    del self._watchers[topic]
                    for place in [place for place in self._ends if place[0] == topic]:
                        del self._ends[place]

        return stop

    def tell(self, topic: str) -> None:
        """Wake the watchers of a topic."""
        for wake in list(self._watchers.get(topic, {}).values()):
            wake()

    def saw(self, topic: str, partition: int, end: int) -> None:
        """Know that a partition ends there at least, so that nobody is woken for it again."""
        place = (topic, partition)
        if topic in self._watchers and end > self._ends.get(place, end):
            self._ends[place] = end

    async def close(self) -> None:
        """Wake nobody any more."""
        self._watchers.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _ask(self) -> None:
        while self._watchers:
            try:
                await self._look()
                self._trouble = False
            except Closed:
                return
            except NexusError as error:
                if not self._trouble:  # once, until it is over
                    log.warning("no news of watched topics: %s", error)
                self._trouble = True
            await asyncio.sleep(ASK_S)

    async def _look(self) -> None:
        cluster = self._cluster
        places: list[Partition] = []
        for topic in list(self._watchers):
            try:
                number = cluster.known(topic) or await cluster.partitions(topic)
            except NexusError as error:
                log.debug("a watched topic cannot be looked at: %s", error)
                continue
            places += [(topic, each) for each in range(number) if not self._arrives(topic, each)]
        ends = await cluster.ends(places)
        told: set[str] = set()
        for place, end in ends.items():
            # The first look wakes too: something may have come between the wish to watch and the look.
            if place[0] in self._watchers and end > self._ends.get(place, -1):
                self._ends[place] = end
                told.add(place[0])
        for topic in told:
            self.tell(topic)
