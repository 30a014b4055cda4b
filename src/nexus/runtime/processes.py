"""Handlers in processes of their own: for CPU-bound work, and for code that may take its process down.

Each slot is one spawned process that runs one call at a time. A call that is cancelled (time limit, shutdown) ends
its process, since nothing else can stop it; the slot starts another for its next call.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any


class HandlerProcessDied(Exception):
    """The process of a handler ended before it answered."""


class ProcessPool:
    """At most ``limit`` processes, started when they are needed."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[_Slot] = []
        self._all: set[_Slot] = set()

    async def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call a function that can be found by its name in a new process, and return or raise what it does."""
        async with self._slots:
            slot = self._idle.pop() if self._idle else await asyncio.to_thread(_Slot)
            self._all.add(slot)
            try:
                answered, value = await slot.call(function, arguments)
            except BaseException:
                self._all.discard(slot)
                slot.kill()
                raise
            self._idle.append(slot)
        if answered:
            return value
        raise value

    async def close(self) -> None:
        for slot in self._all:
            slot.kill()
        self._all.clear()
        self._idle.clear()


class _Slot:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks that other threads hold
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    async def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def on_readable() -> None:
            loop.remove_reader(self._pipe.fileno())
            if not readable.done():
                readable.set_result(None)

        try:
            self._pipe.send((function, arguments))
            loop.add_reader(self._pipe.fileno(), on_readable)
            await readable
            answer: tuple[bool, Any] = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(1)
            raise HandlerProcessDied(f"exit code {self._process.exitcode}") from error
        finally:
            loop.remove_reader(self._pipe.fileno())
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """Answer calls until the other end goes."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            function, arguments = pipe.recv()
            try:
                answer = (True, function(*arguments))
            except Exception as failure:
                answer = (False, failure)
            try:
                pipe.send(answer)
            except Exception as unsendable:
                pipe.send((False, RuntimeError(f"the result cannot be sent between processes: {unsendable}")))
