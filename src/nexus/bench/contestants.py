"""What is measured: each contestant does one kind of work on ``count`` events and returns its figures.

A figure is events (or deliveries) per second of wall-clock time, unless its name ends in ``_ms``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nexus.app import Nexus
from nexus.event import Event

Figures = dict[str, float]
CONTESTANTS: dict[str, Callable[[int, Path], Figures]] = {}
PAYLOAD: dict[str, Any] = {"flight": "UA1545", "origin": "EWR", "destination": "IAH", "delay_min": 2, "note": "x" * 330}
KEYS = [f"N{number:05d}" for number in range(1000)]


def contestant(work: Callable[[int, Path], Figures]) -> Callable[[int, Path], Figures]:
    CONTESTANTS[work.__name__] = work
    return work


def _run(work: Coroutine[Any, Any, Figures]) -> Figures:
    return asyncio.run(work)


# ---- in memory ---------------------------------------------------------------------------------


async def _nexus_memory(count: int, groups: int) -> Figures:
    bus = Nexus("memory://?max_events=100000000&max_bytes=17179869184", settings={})
    left = count * groups
    done = asyncio.Event()

    async def handler(event: Event[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    for number in range(groups):
        bus.on("flight.**", group=f"g{number}", start="earliest")(handler)
    async with bus:
        began = time.perf_counter()
        for number in range(count):
            await bus.publish("flight.departed", PAYLOAD, key=KEYS[number % 1000])
        await done.wait()
        return {"deliveries": count * groups / (time.perf_counter() - began)}


@contestant
def nexus_memory(count: int, _: Path) -> Figures:
    """Publish one by one, an async handler in one group, until all are handled."""
    return _run(_nexus_memory(count, 1))


@contestant
def nexus_memory_10_groups(count: int, _: Path) -> Figures:
    return _run(_nexus_memory(count, 10))


async def _pyventus(count: int, handlers: int) -> Figures:
    from pyventus.events import AsyncIOEventEmitter, EventLinker  # type: ignore

    class Linker(EventLinker):  # type: ignore[misc]
        pass

    left = count * handlers
    done = asyncio.Event()

    def subscribe() -> None:
        async def handler(event: dict[str, Any]) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        Linker.on("flight.departed")(handler)

    for _ in range(handlers):
        subscribe()
    emitter = AsyncIOEventEmitter(event_linker=Linker)
    began = time.perf_counter()
    for number in range(count):
        emitter.emit("flight.departed", PAYLOAD)
        if number % 128 == 0:
            await asyncio.sleep(0)
    await done.wait()
    return {"deliveries": count * handlers / (time.perf_counter() - began)}


@contestant
def pyventus(count: int, _: Path) -> Figures:
    return _run(_pyventus(count, 1))


@contestant
def pyventus_10_handlers(count: int, _: Path) -> Figures:
    return _run(_pyventus(count, 10))


# ---- SQLite: publishing ---------------------------------------------------------------------------------


def _file(folder: Path) -> str:
    return f"sqlite:///{folder / 'bench.db'}"


async def _publish_singly(count: int, folder: Path, at_once: int) -> Figures:
    bus = Nexus(_file(folder), settings={})
    waits: list[float] = []
    await bus.start(consume=False)
    for _ in range(20):
        await bus.publish("flight.departed", PAYLOAD, key="warm")

    async def publisher(first: int) -> None:
        for number in range(first, count, at_once):
            began = time.perf_counter()
            await bus.publish("flight.departed", PAYLOAD, key=KEYS[number % 1000])
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(publisher(first) for first in range(at_once)))
    took = time.perf_counter() - began
    await bus.close()
    waits.sort()
    return {
        "events": count / took,
        "p50_ms": waits[len(waits) // 2] * 1e3,
        "p99_ms": waits[int(len(waits) * 0.99)] * 1e3,
    }


@contestant
def nexus_sqlite_publish_100(count: int, folder: Path) -> Figures:
    """100 publishers at once, each awaiting its receipt."""
    return _run(_publish_singly(count, folder, 100))


@contestant
def nexus_sqlite_publish_alone(count: int, folder: Path) -> Figures:
    return _run(_publish_singly(count // 20, folder, 1))


@contestant
def nexus_sqlite_publish_many(count: int, folder: Path) -> Figures:
    """`publish_many` in batches of 100."""

    async def work() -> Figures:
        bus = Nexus(_file(folder), settings={})
        await bus.start(consume=False)
        # Made before, as the raw contestant's rows are: what is measured is storing them.
        events = [bus.event("flight.departed", PAYLOAD, key=KEYS[n % 1000]) for n in range(count)]
        began = time.perf_counter()
        for first in range(0, count, 100):
            await bus.publish_many(events[first : first + 100])
        took = time.perf_counter() - began
        await bus.close()
        return {"events": count / took}

    return _run(work())


def _raw_connection(folder: Path) -> Any:
    import apsw

    connection = apsw.Connection(str(folder / "raw.db"))
    connection.execute("PRAGMA synchronous=EXTRA; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
    # SQLite's own checkpoints stay on: a log that only grows would be no engine to compare with.
    connection.execute("CREATE TABLE event (position INTEGER PRIMARY KEY, time REAL, body BLOB)")
    connection.execute(
        "CREATE TABLE id (source TEXT, id TEXT, position INTEGER, PRIMARY KEY (source, id)) WITHOUT ROWID"
    )
    return connection


_BLOB = b"x" * 520


@contestant
def raw_apsw_publish_100(count: int, folder: Path) -> Figures:
    """A writer thread with group commit, and nothing else: a future each, one blob and one unique id per event."""
    return _raw_singly(count, folder, 100)


@contestant
def raw_apsw_publish_alone(count: int, folder: Path) -> Figures:
    return _raw_singly(count // 20, folder, 1)


def _raw_singly(count: int, folder: Path, at_once: int) -> Figures:
    import queue
    import threading

    connection = _raw_connection(folder)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waits: list[float] = []

    async def work() -> Figures:
        loop = asyncio.get_running_loop()

        def resolve(futures: list[asyncio.Future[None]]) -> None:
            for future in futures:
                if not future.done():
                    future.set_result(None)

        def write() -> None:
            while True:
                batch = [requests.get()]
                with contextlib.suppress(queue.Empty):
                    while len(batch) < 1024:
                        batch.append(requests.get_nowait())
                if batch[-1] is None:
                    return
                now = time.time()
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT INTO event VALUES (?, ?, ?)", [(n, now, _BLOB) for n, _ in batch])
                connection.executemany(
                    "INSERT INTO id VALUES ('/bench', ?, ?)", [(f"id-{n:012d}", n) for n, _ in batch]
                )
                connection.execute("COMMIT")
                loop.call_soon_threadsafe(resolve, [future for _, future in batch])

        thread = threading.Thread(target=write)
        thread.start()

        async def publisher(first: int) -> None:
            for number in range(first, count, at_once):
                began = time.perf_counter()
                future = loop.create_future()
                requests.put((number, future))
                await future
                waits.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(publisher(first) for first in range(at_once)))
        took = time.perf_counter() - began
        requests.put(None)
        thread.join()
        waits.sort()
        return {
            "events": count / took,
            "p50_ms": waits[len(waits) // 2] * 1e3,
            "p99_ms": waits[int(len(waits) * 0.99)] * 1e3,
        }

    return _run(work())


@contestant
def raw_apsw_batches(count: int, folder: Path) -> Figures:
    """The same rows in transactions of 100, on the main thread."""
    connection = _raw_connection(folder)
    began = time.perf_counter()
    for first in range(0, count, 100):
        now = time.time()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO event VALUES (?, ?, ?)", [(n, now, _BLOB) for n in range(first, first + 100)]
        )
        connection.executemany(
            "INSERT INTO id VALUES ('/bench', ?, ?)", [(f"id-{n:012d}", n) for n in range(first, first + 100)]
        )
        connection.execute("COMMIT")
    return {"events": count / (time.perf_counter() - began)}


# ---- SQLite: all the way ---------------------------------------------------------------------------------


@contestant
def nexus_sqlite_settled(count: int, folder: Path) -> Figures:
    """Publish (100 at once), handle and settle, while both go on; and consuming alone, from a full topic."""

    async def work() -> Figures:
        bus = Nexus(_file(folder), settings={})
        await bus.start(consume=False)
        for first in range(0, count, 500):
            await bus.publish_many(
                [bus.event("flight.departed", PAYLOAD, key=KEYS[n % 1000]) for n in range(first, first + 500)]
            )
        await bus.close()
        began = time.perf_counter()
        await _consume(folder, "backlog", count, 0)
        consumed = count / (time.perf_counter() - began)
        began = time.perf_counter()
        await _consume(folder, "live", count, count)
        return {"end_to_end": count / (time.perf_counter() - began), "consume": consumed}

    return _run(work())


async def _consume(folder: Path, group: str, count: int, publish: int) -> None:
    bus = Nexus(_file(folder), settings={})
    left = publish or count
    done = asyncio.Event()

    @bus.on("flight.**", group=group, start="latest" if publish else "earliest")
    async def handler(event: Event[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    async def publisher(first: int) -> None:
        for number in range(first, publish, 100):
            await bus.publish("flight.departed", PAYLOAD, key=KEYS[number % 1000])

    async with bus:
        await asyncio.gather(*(publisher(first) for first in range(100)))
        await done.wait()  # and settled, since leaving the block settles


def _peer(publish: Callable[[int], object], consume: Callable[[], object], count: int) -> Figures:
    """One at a time, as these peers work."""
    count = min(count, 3000)
    began = time.perf_counter()
    for number in range(count):
        publish(number)
    published = time.perf_counter()
    for _ in range(count):
        consume()
    consumed = time.perf_counter()
    publish_rate, consume_rate = count / (published - began), count / (consumed - published)
    return {
        "publish": publish_rate,
        "consume": consume_rate,
        "end_to_end": 1 / (1 / publish_rate + 1 / consume_rate),
    }


@contestant
def huey(count: int, folder: Path) -> Figures:
    from huey import SqliteHuey  # type: ignore

    bus = SqliteHuey(filename=str(folder / "huey.db"), fsync=True, results=False)

    @bus.task()  # type: ignore[untyped-decorator]
    def handler(payload: dict[str, Any]) -> None: ...

    return _peer(lambda _: handler(PAYLOAD), lambda: bus.execute(bus.dequeue()), count)


@contestant
def persist_queue(count: int, folder: Path) -> Figures:
    import persistqueue  # type: ignore

    queue = persistqueue.SQLiteAckQueue(str(folder / "persist"), auto_commit=True)
    return _peer(lambda _: queue.put(PAYLOAD), lambda: queue.ack(queue.get()), count)


@contestant
def litequeue(count: int, folder: Path) -> Figures:
    import json

    import litequeue as package

    queue = package.LiteQueue(str(folder / "lite.db"))
    queue.conn.execute("PRAGMA synchronous=FULL")
    text = json.dumps(PAYLOAD)
    return _peer(lambda _: queue.put(text), lambda: queue.done(queue.pop().message_id), count)


# ---- growth ---------------------------------------------------------------------------------


@contestant
def nexus_sqlite_growth(count: int, folder: Path) -> Figures:
    """Microseconds per event, published in batches of 100 and then handled, at each size of the topic."""

    async def work() -> Figures:
        figures: Figures = {}
        stored = 0
        size = 10_000
        while size <= count:
            bus = Nexus(_file(folder), settings={})
            await bus.start(consume=False)
            await _fill(bus, size - stored - 10_000)
            began = time.perf_counter()
            await _fill(bus, 10_000)
            figures[f"publish_us_at_{size}"] = (time.perf_counter() - began) * 100
            await bus.close()
            stored = size
            began = time.perf_counter()
            await _consume(folder, f"at-{size}", 0, 10_000)
            figures[f"settled_us_at_{size}"] = (time.perf_counter() - began) * 100
            stored += 10_000
            figures[f"mebibytes_at_{size}"] = os.stat(folder / "bench.db").st_size / 2**20
            size *= 10
        return figures

    async def _fill(bus: Nexus, events: int) -> None:
        for first in range(0, max(0, events), 100):
            await bus.publish_many(
                [bus.event("flight.departed", PAYLOAD, key=KEYS[n % 1000]) for n in range(first, first + 100)]
            )

    return _run(work())
