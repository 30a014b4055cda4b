"""The thread that reads, on a connection of its own, so that nothing blocks the loop and no read waits for a write."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw

from nexus.backends.sqlite.engine import connect, translate
from nexus.backends.sqlite.scan import TopicReader
from nexus.backends.sqlite.settings import Settings
from nexus.spi.backend import Slice, Want

T = TypeVar("T")
Job = tuple[Callable[["Reader"], Any], "asyncio.Future[Any]"]


class Reader:
    """Runs functions in its thread, each in one short read transaction."""

    def __init__(self, path: str, store: bytes, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self._path = path
        self._settings = settings
        self._loop = loop
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._topics: dict[str, TopicReader] = {}
        self._thread = threading.Thread(target=self._run, name="nexus-sqlite-reader", daemon=True)
        self.db: apsw.Connection
        self._thread.start()

    async def run(self, job: Callable[[Reader], T]) -> T:
        """Run ``job`` in the thread and return what it returns."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((job, future))
        return await future

    def topic(self, name: str) -> TopicReader:
        """Return the reader of a topic, inside a job. Raises `UnknownTopic`."""
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = TopicReader(self.db, self.store, name)
        return found

    def forget(self) -> None:
        """Read all settings of topics anew."""
        self._topics.clear()

    def read(
        self, wants: Sequence[Want], max_bytes: int, found_before: bool
    ) -> tuple[list[Slice], dict[str, list[int]]]:
        """Serve wants, inside a job; also return the ends of their topics. Unless something was found before, the
        first event is given however large."""
        slices: list[Slice | None] = [None] * len(wants)
        # One pass per topic; a partition that is wished for twice takes a second pass.
        rounds: list[dict[tuple[str, int], int]] = []
        for number, want in enumerate(wants):
            key = (want.topic, want.partition)
            for taken in rounds:
                if key not in taken:
                    taken[key] = number
                    break
            else:
                rounds.append({key: number})
        room = max_bytes
        for taken in rounds:
            by_topic: dict[str, list[int]] = {}
            for (topic, _), number in taken.items():
                by_topic.setdefault(topic, []).append(number)
            for topic, numbers in by_topic.items():
                found, size = self.topic(topic).read(
                    [wants[n] for n in numbers], room, found_before or room < max_bytes
                )
                room -= size
                for number, slice_ in zip(numbers, found, strict=True):
                    slices[number] = slice_
        ends = {want.topic: list(self.topic(want.topic).ends()) for want in wants}
        return [slice_ for slice_ in slices if slice_ is not None], ends

    def stop(self) -> None:
        """End the thread after what was asked before, and wait for it."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        connected = False
        while (item := self._jobs.get()) is not None:
            job, future = item
            if future.cancelled():
                continue
            try:
                if not connected:
                    self.db = connect(self._path, self._settings)
                    connected = True
                self.db.execute("BEGIN")
                try:
                    result = job(self)
                finally:
                    self.db.execute("COMMIT")
            except BaseException as error:
                self._topics.clear()
                if connected and not isinstance(error, apsw.BusyError):
                    with contextlib.suppress(apsw.Error):
                        if self.db.in_transaction:
                            self.db.execute("ROLLBACK")
                    if isinstance(error, apsw.Error):
                        with contextlib.suppress(apsw.Error):
                            self.db.close(True)
                        connected = False
                self._post(future, None, translate(error, self._path))
            else:
                self._post(future, result, None)
        if connected:
            with contextlib.suppress(apsw.Error):
                self.db.close(True)

    def _post(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_resolve, future, result, error)


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
