"""Virtual time jumps over waiting, and over nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from nexus.testing.clock import START, VirtualClock, make_virtual, virtual_loop


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=virtual_loop) as runner:
        return runner.run(main)


def test_a_year_passes_at_once() -> None:
    async def main() -> tuple[float, float]:
        clock = VirtualClock.running()
        await asyncio.sleep(365 * 86_400)
        return clock.monotonic(), clock.now()

    started = time.monotonic()
    assert run(main()) == (365 * 86_400, START + 365 * 86_400)
    assert time.monotonic() - started < 5


def test_timers_fire_in_order_and_on_time() -> None:
    async def main() -> list[tuple[int, float]]:
        loop, fired = asyncio.get_running_loop(), []
        for delay in (7, 3, 5, 3):
            loop.call_later(delay, lambda delay=delay: fired.append((delay, loop.time())))
        await asyncio.sleep(10)
        return fired

    assert run(main()) == [(3, 3.0), (3, 3.0), (5, 5.0), (7, 7.0)]


def test_a_time_limit_is_virtual_too() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run(main()) == 60.0


def test_time_does_not_jump_while_a_job_runs_in_a_thread() -> None:
    release = threading.Event()

    async def main() -> str:
        job = asyncio.create_task(asyncio.to_thread(release.wait, 10))
        threading.Timer(0.05, release.set).start()
        done, _ = await asyncio.wait([job], timeout=5)
        return "job" if done else "timer"

    assert run(main()) == "job"


def test_a_job_counts_until_its_thread_is_done_although_nobody_waits() -> None:
    release = threading.Event()

    async def main() -> float:
        job = asyncio.ensure_future(asyncio.to_thread(release.wait, 10))
        await asyncio.sleep(0)
        job.cancel()
        threading.Timer(0.05, release.set).start()
        await asyncio.sleep(0.01)
        assert not VirtualClock.running()._may_jump()
        while not VirtualClock.running()._may_jump():  # noqa: ASYNC110 - it is time that is watched
            await asyncio.sleep(0.01)
        assert release.is_set()
        return 0.0

    run(main())


def test_time_does_not_jump_inside_a_declared_operation() -> None:
    async def main() -> str:
        loop, answer = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.1, loop.call_soon_threadsafe, [answer.set]).start()
        with VirtualClock.running().outside():
            async with asyncio.timeout(5):
                await answer.wait()
        return "answered"

    assert run(main()) == "answered"


def test_an_unknown_thread_gets_its_grace() -> None:
    asked = threading.Event()
    stop = threading.Event()

    async def main() -> None:
        loop, answer = asyncio.get_running_loop(), asyncio.Event()

        def serve() -> None:
            while asked.wait(10) and not stop.is_set():
                asked.clear()
                loop.call_soon_threadsafe(answer.set)

        thread = threading.Thread(target=serve)
        thread.start()
        for _ in range(20):
            answer.clear()
            asked.set()
            async with asyncio.timeout(5):
                await answer.wait()
        stop.set()
        asked.set()
        await asyncio.to_thread(thread.join)

    run(main())


def test_a_running_loop_can_be_made_virtual() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        clock = make_virtual(loop)
        assert make_virtual(loop) is clock
        await asyncio.sleep(1_000)
        return loop.time() - before

    with asyncio.Runner() as runner:
        assert 1_000 <= runner.run(main()) < 1_001


def test_two_runs_are_the_same() -> None:
    async def main() -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []

        async def work(number: int) -> None:
            for turn in range(20):
                await asyncio.sleep((number * 7 + turn * 3) % 11 / 10)
                seen.append((number, asyncio.get_running_loop().time()))

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(work(number))
        return seen

    assert run(main()) == run(main())


def test_the_wall_clock_may_jump_and_the_other_does_not() -> None:
    async def main() -> tuple[float, float]:
        clock = VirtualClock.running()
        clock.set_wall_clock(-3_600)
        await asyncio.sleep(10)
        return clock.monotonic(), clock.now()

    assert run(main()) == (10.0, START - 3_590)


def test_an_ordinary_loop_has_no_virtual_clock() -> None:
    async def main() -> None:
        VirtualClock.running()

    with pytest.raises(RuntimeError, match="virtual"):
        asyncio.run(main())
