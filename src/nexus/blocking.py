"""The bus for scripts that have no event loop: publish, and be done.

>>> with BlockingNexus("memory://") as bus:
...     receipt = bus.publish("order.placed", {"total": 3}, key="o-1")
>>> receipt.topic
'events'
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

from nexus.app import Nexus
from nexus.errors import NexusError
from nexus.event import Event
from nexus.runtime.publisher import Receipt

T = TypeVar("T")


class BlockingNexus:
    """A thin facade over `Nexus`, whose loop runs in a thread of its own. Safe to call from many threads.

    It publishes and does not consume: handlers belong in a program with a loop, or in ``nexus worker``.
    """

    def __init__(self, url: str | None = None, **options: Any) -> None:
        """Take what `Nexus` takes."""
        self._bus = Nexus(url, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nexus-blocking", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._run(self._bus.start(consume=False))
        except BaseException:
            self._stop_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._bus.close())
        finally:
            self._stop_loop()

    def publish(self, type: str | Event[Any], data: Any = None, **attributes: Any) -> Receipt:
        """Publish one event, as `Nexus.publish` does, and wait for its receipt."""
        return self._run(self._bus.publish(type, data, **attributes))

    def event(self, type: str, data: Any = None, **attributes: Any) -> Event[Any]:
        """Make an event without publishing it."""
        return self._bus.event(type, data, **attributes)

    def publish_many(self, events: Sequence[Event[Any]]) -> list[Receipt | NexusError]:
        """Publish events as one batch, as `Nexus.publish_many` does."""
        return self._run(self._bus.publish_many(events))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
