"""News: who wants to hear of which topic, and how the log hears of appends by others.

Subscriptions that stand bring the news of their partitions by themselves. The ends of all other watched partitions are
asked for, all in one go, a few times a second.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence

from nexus.errors import NexusError

log = logging.getLogger("nexus.rabbitmq")

POLL_S = 0.2
"""Pause between two questions: news are to come within 0.25 s."""
_FAILED_PAUSE_S = 0.5


class Watchers:
    """See the module."""

    def __init__(
        self,
        streams: Callable[[str], Awaitable[Sequence[str]]],
        covered: Callable[[str], bool],
        last: Callable[[str], Awaitable[int]],
        upkeep: Callable[[], None],
    ) -> None:
        """``streams`` of a topic; ``covered``: a subscription brings news; ``last`` chunk; ``upkeep`` once a round."""
        self._streams = streams
        self._covered = covered
        self._last = last
        self._upkeep = upkeep
        self._wakes: dict[str, dict[int, Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._seen: dict[str, int] = {}
        self._asked: dict[str, asyncio.Task[None]] = {}
        self._unknown = itertools.count(-2, -1)
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.get_running_loop().create_task(self._listen())

    async def stop(self) -> None:
        """Wake nobody any more."""
        self._wakes.clear()
        tasks = [*self._asked.values(), *([self._task] if self._task is not None else [])]
        self._asked.clear()
        self._task = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def add(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `nexus.spi.log.Log.watch`."""
        number = next(self._numbers)
        for topic in topics:
            self._wakes.setdefault(topic, {})[number] = wake

        def stop() -> None:
            for topic in topics:
                wakes = self._wakes.get(topic, {})
                wakes.pop(number, None)
                if not wakes:
                    self._wakes.pop(topic, None)

        return stop

    def watched(self, topic: str) -> bool:
        """Whether anybody wants to hear of a topic."""
        return topic in self._wakes

    def tell(self, topic: str) -> None:
        """Wake all who watch a topic."""
        for wake in list(self._wakes.get(topic, {}).values()):
            wake()

    async def _listen(self) -> None:
        while True:
            try:
                await self._ask()
            except NexusError as error:
                self._late(error)
                await asyncio.sleep(_FAILED_PAUSE_S)
            self._upkeep()
            await asyncio.sleep(POLL_S)

    async def _ask(self) -> None:
        """Ask for the ends, and wait for none: an answer that does not come keeps no other back."""
        owners: dict[str, str] = {}
        for topic in list(self._wakes):
            for stream in await self._streams(topic):
                if self._covered(stream):
                    # What it brings is told; when it is gone, the first answer counts as news.
                    self._seen.pop(stream, None)
                else:
                    owners[stream] = topic
        if self._seen.keys() - owners.keys():
            self._seen = {stream: last for stream, last in self._seen.items() if stream in owners}
        loop = asyncio.get_running_loop()
        for stream, topic in owners.items():
            if stream not in self._asked:
                self._asked[stream] = loop.create_task(self._answer(stream, topic))

    async def _answer(self, stream: str, topic: str) -> None:
        try:
            last = await self._last(stream)
            self._failing = False
        except NexusError as error:
            self._late(error)
            last = next(self._unknown)  # when it can be told again, there may be news
        finally:
            self._asked.pop(stream, None)
        if self._seen.get(stream) != last:
            self._seen[stream] = last
            self.tell(topic)

    def _late(self, error: NexusError) -> None:
        if not self._failing:
            log.warning("RabbitMQ: news are late: %s", error.message)
        self._failing = True
