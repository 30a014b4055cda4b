"""The bus for scripts that have no event loop: publish, and be done.

>>> with BlockingNexus("memory://") as bus:
...     receipt = bus.publish("order.placed", {"total": 3}, key="o-1")
>>> receipt.topic
'events'
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

from nexus.app import Nexus
from nexus.errors import Closed, NexusError
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
        self._lock = threading.Lock()
        """For ids, which the bus makes without one, and for the end of the loop, after which nothing may be asked."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(loop,), name="nexus-blocking", daemon=True)
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
        """Publish one event, as `Nexus.publish` does, and wait for its receipt. Raises `Closed` outside of ``with``."""
        event = type if isinstance(type, Event) else self.event(type, data, **attributes)
        return self._run(self._bus.publish(event))

    def event(self, type: str, data: Any = None, **attributes: Any) -> Event[Any]:
        """Make an event without publishing it."""
        with self._lock:
            return self._bus.event(type, data, **attributes)

    def publish_many(self, events: Sequence[Event[Any]]) -> list[Receipt | NexusError]:
        """Publish events as one batch, as `Nexus.publish_many` does: to each a receipt or the error that it met."""
        return self._run(self._bus.publish_many(events))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                work.close()
                raise Closed("the bus is not open", hint="use `with BlockingNexus(...) as bus:`")
            answer = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return answer.result()
        except concurrent.futures.CancelledError:
            raise Closed("the bus was closed meanwhile", hint="publish before `with` ends") from None

    def _stop_loop(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        assert loop is not None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped, and end what is asked of it by then, so that nobody waits for ever."""
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(asyncio.sleep(0))  # answers of what ended in the loop's last turn are on their way
    finally:
        loop.close()
