"""How load is made and timed, the same for every contestant: so many under way, a backlog, or a steady rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from nexus.bench.contestants import KEYS, PAYLOAD, Figures

IN_FLIGHT = 500
RATE = 500
"""Events per second when it is latency that is measured."""
WARM = 250
"""Events before the first that counts: an idempotent Kafka producer's first send takes half a second."""
BODY = msgspec.json.encode(PAYLOAD)


def percentiles(waits_s: list[float]) -> Figures:
    """The median and the 99th percentile, in milliseconds."""
    waits_s = sorted(waits_s)
    return {"p50_ms": waits_s[len(waits_s) // 2] * 1e3, "p99_ms": waits_s[int(len(waits_s) * 0.99)] * 1e3}


class Clock:
    """Wall-clock time and the process's own, from when it is made."""

    def __init__(self) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), time.process_time()

    def rate(self, events: int) -> Figures:
        """Events per second, and the processor time that each took here: that hardly depends on the machine's load."""
        took_s, cpu_s = time.perf_counter() - self._began_s, time.process_time() - self._cpu_s
        return {"events": events / took_s, "cpu_us": cpu_s / events * 1e6}


async def in_flight(count: int, publish: Callable[[int], Awaitable[object]]) -> Figures:
    """Warm up, then publish with 500 under way at once, each awaited: the rate, and how long each took."""
    waits_s: list[float] = []

    async def publisher(first: int, until: int) -> None:
        for number in range(first, until, IN_FLIGHT):
            began = time.perf_counter()
            await publish(number)
            waits_s.append(time.perf_counter() - began)

    await asyncio.gather(*(publisher(first, WARM) for first in range(WARM)))
    waits_s.clear()
    clock = Clock()
    await asyncio.gather(*(publisher(first, count) for first in range(IN_FLIGHT)))
    return clock.rate(count) | percentiles(waits_s)


class Backlog:
    """How fast ``count`` stored events are worked off.

    The clock starts when a tenth is done: who joins a group for seconds is not slow for that at consuming.
    """

    def __init__(self, count: int) -> None:
        self.done = asyncio.Event()
        self.figures: Figures = {}
        """The rate, once all are done."""
        self._count = count
        self._seen = self._first = 0
        self._clock = Clock()

    def seen(self, events: int = 1) -> None:
        """So many more are handled."""
        before, self._seen = self._seen, self._seen + events
        if before < max(1, self._count // 10) <= self._seen:
            self._clock, self._first = Clock(), self._seen
        if before < self._count <= self._seen:
            self.finished()
            self.done.set()

    def finished(self) -> None:
        """All are acknowledged only now."""
        self.figures = self._clock.rate(self._count - self._first)

    @property
    def left(self) -> int:
        return self._count - self._seen


class Latency:
    """How long each event takes from when it is due to be published until its handler is called.

    The loop is open: events are due 500 times a second, whatever became of those before. Their numbers travel in them.
    """

    def __init__(self, count: int) -> None:
        self._total = WARM + count
        self._due_s = [0.0] * self._total
        self._waits_s: list[float] = []
        self._warm = asyncio.Event()
        self._done = asyncio.Event()
        self._left = self._total

    def arrived(self, number: int) -> None:
        """The handler of this event was called."""
        self._left -= 1
        if number >= WARM:
            self._waits_s.append(time.perf_counter() - self._due_s[number])
        if self._left == self._total - WARM:
            self._warm.set()
        if not self._left:
            self._done.set()

    async def measure(self, publish: Callable[[int], Coroutine[Any, Any, object]]) -> Figures:
        """Publish at the rate; return when all have arrived."""
        await self._publish(range(WARM), publish)
        await self._warm.wait()
        await self._publish(range(WARM, self._total), publish)
        await self._done.wait()
        return percentiles(self._waits_s)

    async def _publish(self, numbers: range, publish: Callable[[int], Coroutine[Any, Any, object]]) -> None:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as under_way:
            for number in numbers:
                due = self._due_s[number] = began + (number - numbers.start) / RATE
                await asyncio.sleep(due - time.perf_counter())
                under_way.create_task(publish(number))


def numbered(number: int) -> dict[str, Any]:
    """The payload of an event whose latency is measured."""
    return PAYLOAD | {"number": number}


def numbered_body(number: int) -> bytes:
    """The same as bytes."""
    return msgspec.json.encode(numbered(number))


def number_of(body: bytes) -> int:
    """Which of `numbered` it is."""
    number: int = msgspec.json.decode(body)["number"]
    return number


def key(number: int) -> str:
    """The key of an event."""
    return KEYS[number % len(KEYS)]
