"""Virtual time: an event loop that does not wait for timers but jumps to the next one when nothing else is ready.

>>> import asyncio
>>> async def a_day() -> float:
...     clock = VirtualClock.running()
...     await asyncio.sleep(86_400)
...     return clock.monotonic()
>>> with asyncio.Runner(loop_factory=virtual_loop) as runner:
...     runner.run(a_day())
86400.0

Work outside the loop cannot jump. While a job of ``run_in_executor`` or an operation inside `VirtualClock.outside` is
under way, time goes on as real time does. If there are threads that the loop knows nothing of (a backend's writer),
or files and sockets, each jump first gives them `GRACE_S` of real time to report; without them a program runs in the
same order every time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from selectors import BaseSelector, SelectorKey
from typing import Any

START = 1_767_225_600.0
"""What `VirtualClock.now` starts with: 2026-01-01 00:00 UTC."""

GRACE_S = 0.02
"""How long a jump waits for threads that the loop does not know. An fsync on a busy disk takes about as long."""

_MAX_WAIT_S = 3_600.0


class VirtualClock:
    """The time of one virtual loop, as a `nexus.clock.Clock`."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._start_s = start_s
        self._monotonic = start_s
        self._wall = START
        self._outside = 0
        self._workers: set[int] = set()
        """Threads that run jobs of the executor: their jobs are counted, so they need no grace."""

    @staticmethod
    def running() -> VirtualClock:
        """The clock of the running loop. Raises `RuntimeError` if its time is not virtual."""
        clock = getattr(asyncio.get_running_loop(), "nexus_clock", None)
        if not isinstance(clock, VirtualClock):
            raise RuntimeError("this event loop has no virtual time; make it with nexus.testing.clock.virtual_loop")
        return clock

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> float:
        return self._wall + (self._monotonic - self._start_s)

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        await asyncio.sleep(seconds)

    async def sleep_until(self, holds: Callable[[], object], within_s: float = 86_400.0) -> None:
        """Let time pass until something holds; looks at least once in every hundredth of the time that has passed.

        Raises `TimeoutError` after ``within_s``.
        """
        started = self._monotonic
        async with asyncio.timeout(within_s):
            while not holds():  # noqa: ASYNC110 - it is time that must pass
                await asyncio.sleep(max(0.001, (self._monotonic - started) / 100))

    def set_wall_clock(self, seconds: float) -> None:
        """Move the wall clock by so much, back or forth, as an administrator or NTP may."""
        self._wall += seconds

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Declare an operation that threads, processes or the network work on: no jump until it has ended."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def _may_jump(self) -> bool:
        return not self._outside

    def _strangers(self) -> bool:
        here = threading.get_ident()
        return any(thread.ident != here and thread.ident not in self._workers for thread in threading.enumerate())

    def _track(self, loop: asyncio.AbstractEventLoop, job: Callable[..., Any]) -> Callable[..., Any]:
        """Count a job until its thread is done with it, which may be long after its future was cancelled."""
        self._outside += 1

        def ended() -> None:
            self._outside -= 1

        def tracked(*args: Any) -> Any:
            self._workers.add(threading.get_ident())
            try:
                return job(*args)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(ended)

        return tracked


class _JumpingSelector(BaseSelector):
    """Asks the real selector, and lets the clock jump instead of waiting for a timer."""

    def __init__(self, real: BaseSelector, clock: VirtualClock) -> None:
        self._real = real
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        clock, real = self._clock, self._real
        if timeout is None or timeout <= 0:
            return real.select(timeout)
        # One file is the loop's own, by which threads wake it.
        grace_s = GRACE_S if len(real.get_map()) > 1 or clock._strangers() else 0.0
        while True:
            if clock._may_jump():
                events = real.select(grace_s)
                if not events:
                    clock._monotonic += timeout
                return events
            started = time.monotonic()
            events = real.select(min(timeout, _MAX_WAIT_S))
            passed = min(time.monotonic() - started, timeout)
            clock._monotonic += passed
            timeout -= passed
            if events or timeout <= 0:
                return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> SelectorKey:
        return self._real.get_key(fileobj)

    def get_map(self) -> Any:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def virtual_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop whose time is virtual and starts at 0; for ``asyncio.Runner(loop_factory=...)``."""
    loop = asyncio.SelectorEventLoop()
    make_virtual(loop, start_s=0.0)
    return loop


def make_virtual(loop: asyncio.AbstractEventLoop, start_s: float | None = None) -> VirtualClock:
    """Turn the time of ``loop`` virtual, for good; return its clock. The loop may be running.

    Timers that are set already stay right unless the time is made to start elsewhere. Raises `RuntimeError` for a
    loop that is not one of asyncio's selector loops.
    """
    real = getattr(loop, "_selector", None)
    if not isinstance(loop, asyncio.SelectorEventLoop) or not isinstance(real, BaseSelector):
        raise RuntimeError(f"the time of a {type(loop).__name__} cannot be virtual; use asyncio.SelectorEventLoop")
    if isinstance(real, _JumpingSelector):
        return real._clock
    clock = VirtualClock(loop.time() if start_s is None else start_s)
    run_in_executor = loop.run_in_executor

    def tracking(executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        if not isinstance(executor, ProcessPoolExecutor):  # its jobs are pickled
            func = clock._track(loop, func)
        future = run_in_executor(executor, func, *args)
        clock._outside += 1
        future.add_done_callback(lambda _: setattr(clock, "_outside", clock._outside - 1))
        return future

    patched: Any = loop
    patched._selector = _JumpingSelector(real, clock)
    patched._clock_resolution = 1e-6  # so that a jump that lands a rounding error before its timer has reached it
    patched.time = clock.monotonic
    patched.run_in_executor = tracking
    patched.nexus_clock = clock
    return clock
