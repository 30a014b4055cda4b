"""Handlers in processes: starting ones are kept, dead ones are replaced, and the loop never waits for a pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from nexus import Nexus, Retry
from nexus.runtime import processes
from nexus.runtime.processes import HandlerProcessDied, ProcessPool

FOLDER = "NEXUS_TEST_FOLDER"
real_serve = processes._serve


def held_serve(pipe: Connection) -> None:
    """Start, leave a note, and become ready when there is a file ``go``."""
    folder = Path(os.environ[FOLDER])
    (folder / f"started-{os.getpid()}").touch()
    deadline = time.monotonic() + 20
    while not (folder / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    real_serve(pipe)


def fail_to_load() -> None:
    raise ValueError("cannot be read here")


class Broken:
    """Can be sent, and not be received."""

    def __reduce__(self) -> Any:
        return fail_to_load, ()


class Refused(Exception):
    """Wants more than what is kept of an exception that is sent."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{code} for {why}")
        self.why = why


def refuse(code: int) -> None:
    raise Refused(code, why="sums")


def refuse_with_what_cannot_be_sent(code: int) -> None:
    failure = Refused(code, why="sums")
    failure.__dict__["lock"] = memoryview(b"")
    raise failure


def refuse_in_its_own_words(code: int) -> None:
    class Own(Exception):
        pass

    raise Own(f"{code} for sums")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(processes, "_serve", held_serve)
    return tmp_path


@asynccontextmanager
async def pool_of(limit: int) -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(limit)
    try:
        async with asyncio.timeout(30):
            yield pool
    finally:
        await pool.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def started(folder: Path) -> int:
    return len(list(folder.glob("started-*")))


async def test_the_loop_runs_while_a_large_argument_waits_for_a_process_that_starts(held: Path) -> None:
    async with pool_of(1) as pool:
        call = asyncio.ensure_future(pool.run(len, (bytes(8_000_000),)))
        await until(lambda: started(held))
        (held / "go").touch()  # by this loop, or never
        assert await call == 8_000_000
        assert len(await pool.run(bytes, (8_000_000,))) == 8_000_000


async def test_a_cancelled_call_leaves_a_starting_process_to_the_next(held: Path) -> None:
    async with pool_of(1) as pool:
        for _ in range(3):
            begun: list[bool] = []
            call = asyncio.ensure_future(pool.run(os.getpid, (), lambda begun=begun: begun.append(True)))  # type: ignore[misc]
            await until(lambda: started(held))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not begun
        (held / "go").touch()
        pid = await pool.run(os.getpid, (), lambda: begun.append(True))
        assert begun
        assert started(held) == 1
        assert (held / f"started-{pid}").exists()


async def test_a_call_cancelled_before_its_process_runs_at_all_leaks_none(held: Path) -> None:
    (held / "go").touch()
    async with pool_of(1) as pool:
        call = asyncio.ensure_future(pool.run(os.getpid, ()))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await pool.run(os.getpid, ())
        assert started(held) == 1


async def test_closing_ends_a_process_that_is_starting(held: Path) -> None:
    async with pool_of(1) as pool:
        call = asyncio.ensure_future(pool.run(os.getpid, ()))
        await until(lambda: started(held))
        await pool.close()
        with pytest.raises(HandlerProcessDied):
            await call


async def test_a_process_that_died_between_calls_is_replaced_at_nobodys_cost() -> None:
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid, ())
        assert await pool.run(os.getpid, ()) == pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not pool._idle[0].usable)
        assert await pool.run(os.getpid, ()) != pid


async def test_a_process_that_dies_in_a_call_says_so_and_is_replaced() -> None:
    async with pool_of(1) as pool:
        with pytest.raises(HandlerProcessDied, match="3"):
            await pool.run(os._exit, (3,))
        assert await pool.run(len, ("abc",)) == 3


async def test_a_cancelled_call_ends_its_process() -> None:
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid, ())
        begun = asyncio.Event()
        call = asyncio.ensure_future(pool.run(signal.pause, (), begun.set))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await pool.run(len, ("abc",)) == 3


async def test_what_cannot_be_read_there_is_an_error_and_the_process_stays() -> None:
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid, ())
        with pytest.raises(ValueError, match="cannot be read here"):
            await pool.run(len, (Broken(),))
        with pytest.raises(RuntimeError, match="cannot be sent"):
            await pool.run(memoryview, (b"",))
        assert await pool.run(os.getpid, ()) == pid


@pytest.mark.parametrize(
    ("function", "kind"),
    [(refuse, Refused), (refuse_with_what_cannot_be_sent, Refused), (refuse_in_its_own_words, RuntimeError)],
)
async def test_a_failure_that_cannot_be_sent_whole_arrives_by_its_class_and_text(
    function: Callable[[int], None], kind: type[Exception]
) -> None:
    async with pool_of(1) as pool:
        pid = await pool.run(os.getpid, ())
        with pytest.raises(kind, match="7 for sums") as caught:
            await pool.run(function, (7,))
        assert function.__name__ in str(caught.value.__cause__), "and it says where"
        assert getattr(caught.value, "why", None) == ("sums" if function is refuse else None)
        assert await pool.run(os.getpid, ()) == pid


async def test_a_policy_knows_a_failure_of_a_process() -> None:
    bus = Nexus("memory://", settings={"settle_interval": "5ms"})
    bus.on("a", group="g", run_in="process", retry=Retry(5, base_s=0.0, never=(Refused,)))(refuse)
    async with bus, asyncio.timeout(30):
        await bus.publish("a", 7)
        letter = await bus.dead_letters.first("g")
        assert (letter.reason, letter.attempts) == ("not_retryable", 1)
        assert "Refused: 7 for sums" in letter.history[0].error


async def test_no_more_processes_than_the_limit() -> None:
    async with pool_of(2) as pool:
        pids = await asyncio.gather(*(pool.run(os.getpid, ()) for _ in range(20)))
        assert len(set(pids)) <= 2
