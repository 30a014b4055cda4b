"""Ctrl-C at every moment: while a coroutine runs, as it ends, and between two."""

from __future__ import annotations

import asyncio
import signal

import pytest

from nexus.cli._turns import Turns


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


async def _value() -> int:
    return 1


def test_what_runs_is_cancelled_and_the_next_may_run() -> None:
    async def waits() -> None:
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.Event().wait()

    with Turns() as turns:
        with pytest.raises(KeyboardInterrupt):
            turns.run(waits())
        assert turns.run(_value()) == 1


def test_one_that_comes_as_the_work_ends_is_not_lost() -> None:
    async def ends() -> int:
        interrupt()
        return 1

    with Turns() as turns:
        with pytest.raises(KeyboardInterrupt):
            turns.run(ends())
        assert turns.run(_value()) == 1


def test_one_between_two_turns_ends_what_blocks_there() -> None:
    with Turns() as turns:
        assert turns.run(_value()) == 1
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert turns.run(_value()) == 1


def test_the_handler_before_is_there_again_and_other_ends_are_left_alone() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    before = signal.getsignal(signal.SIGINT)
    with Turns() as turns, pytest.raises(asyncio.CancelledError):
        turns.run(cancelled())
    assert signal.getsignal(signal.SIGINT) is before
