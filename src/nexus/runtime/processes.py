"""Handlers in processes of their own: for CPU-bound work, and for code that may take its process down.

Each slot is one spawned process that runs one call at a time. A call that is cancelled (time limit, shutdown) ends
its process, since nothing else can stop it; the slot starts another for its next call. A process that is still
starting when its call is cancelled goes on starting, for the next call: else a time limit shorter than the start would
never be met.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.reduction
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

T = TypeVar("T")
_LOAD = None
"""Stands in the place of arguments: find the function, and do not call it."""
_PICKLE = multiprocessing.reduction.ForkingPickler


class HandlerProcessDied(Exception):
    """The process of a handler ended before it answered."""


class ProcessPool:
    """At most ``limit`` processes, started when they are needed."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[_Slot] = []
        """Not in use; some may still be starting."""
        self._all: set[_Slot] = set()

    async def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], begun: Callable[[], object] = lambda: None
    ) -> Any:
        """Call a function that can be found by its name in a new process, and return or raise what it does.

        ``begun`` is called when the process is ready and the call begins: from there a time limit is the function's.
        """
        async with self._slots:
            slot = self._take()
            try:
                await slot.prepare(function)
            except asyncio.CancelledError:
                if slot in self._all:
                    self._idle.append(slot)
                raise
            except BaseException:
                self._drop(slot)
                raise
            try:
                begun()
                answered, value = await slot.call(function, arguments)
            except BaseException:
                self._drop(slot)
                raise
            self._idle.append(slot)
        if answered:
            return value
        raise value.failure() if isinstance(value, _Told) else value

    def _take(self) -> _Slot:
        """Take a process that is ready, else one that is starting, else start one."""
        for slot in [slot for slot in self._idle if not slot.usable]:
            # It died between calls, which is no event's fault.
            self._idle.remove(slot)
            self._drop(slot)
        self._idle.sort(key=lambda slot: slot.ready)
        slot = self._idle.pop() if self._idle else _Slot()
        self._all.add(slot)
        return slot

    def _drop(self, slot: _Slot) -> None:
        self._all.discard(slot)
        slot.kill()

    async def close(self) -> None:
        slots = list(self._all)
        self._all.clear()
        self._idle.clear()
        for slot in slots:
            await slot.end()


class _Slot:
    """One process, started at once. `prepare`, then `call`, by one user at a time."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection
        self._ending = False
        self._loaded: set[Callable[..., Any]] = set()
        self._preparing = asyncio.create_task(self._start())
        """Goes on when the call that it is for is cancelled."""

    @property
    def ready(self) -> bool:
        return self._preparing.done()

    @property
    def usable(self) -> bool:
        """Whether the process is starting, or lives and waits for a call."""
        if not self.ready:
            return True
        if self._preparing.cancelled() or self._preparing.exception() is not None:
            return False
        return self._process is not None and self._process.is_alive()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy locks that other threads hold
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._process = process

    async def _start(self) -> None:
        await asyncio.to_thread(self._spawn)
        if self._ending:
            self._end_process()
        await self._receive()

    async def prepare(self, function: Callable[..., Any]) -> None:
        """Wait until the process has started and has imported what the function needs."""
        await asyncio.shield(self._preparing)
        while function not in self._loaded:
            self._preparing = asyncio.create_task(self._load(function))
            await asyncio.shield(self._preparing)

    async def _load(self, function: Callable[..., Any]) -> None:
        await self._send((function, _LOAD))
        await self._receive()  # if it cannot be found there, the call will say so
        self._loaded.add(function)

    async def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        await self._send((function, arguments))
        return await self._receive()

    async def _send(self, message: object) -> None:
        # Not on the loop: a pipe takes 64 KiB, and then a send waits for the other end to read.
        with self._alive():
            await self._in_thread(lambda: self._pipe.send(message))

    async def _receive(self) -> tuple[bool, Any]:
        with self._alive():
            await self._readable()  # without a thread: a call may take hours
            return await self._in_thread(self._pipe.recv)

    @contextlib.contextmanager
    def _alive(self) -> Any:
        try:
            yield
        except (EOFError, OSError) as error:
            assert self._process is not None
            self._process.join(1)
            raise HandlerProcessDied(f"exit code {self._process.exitcode}") from error

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        number = self._pipe.fileno()

        def on_readable() -> None:
            loop.remove_reader(number)
            if not readable.done():
                readable.set_result(None)

        loop.add_reader(number, on_readable)
        try:
            await readable
        finally:
            loop.remove_reader(number)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run something on the pipe in a thread, which has ended when this returns, also when it is cancelled."""
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._end_process()  # so that the pipe ends, and with it the thread
            await asyncio.wait([thread])
            raise

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()

    def kill(self) -> None:
        """End the process; not while it is being prepared."""
        self._end_process()
        if self._process is not None:
            self._process.join()
            self._pipe.close()

    async def end(self) -> None:
        """End the process, also while it is being prepared."""
        self._ending = True
        self._end_process()
        await asyncio.wait([self._preparing])
        self.kill()


def _serve(pipe: Connection) -> None:
    """Say that the process is ready, and answer calls until the other end goes."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        pipe.send((True, None))
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _answer(message: bytes) -> Any:
    """Do what is asked; return what came of it, as it is sent."""
    try:
        function, arguments = _PICKLE.loads(message)
        answer = (True, None if arguments is _LOAD else function(*arguments))
    except (Exception, SystemExit) as failure:
        return _PICKLE.dumps((False, _sendable(failure)))
    try:
        return _PICKLE.dumps(answer)
    except Exception as unsendable:
        return _PICKLE.dumps((False, RuntimeError(f"the result cannot be sent between processes: {unsendable}")))


class HandlerProcessTrace(Exception):
    """Where in its process a handler failed; the cause of a failure that could not be sent as it was."""


class _Told:
    """What can be told of a failure that cannot be sent as it is."""

    def __init__(
        self, kind: type[BaseException], arguments: tuple[object, ...], attributes: dict[str, object], trace: str
    ) -> None:
        self._kind = kind
        self._arguments = arguments
        self._attributes = attributes
        self._trace = trace

    def failure(self) -> BaseException:
        """Make one of its class, without the ``__init__``: that may want what was not kept."""
        failure = self._kind.__new__(self._kind)
        failure.args = self._arguments
        vars(failure).update(self._attributes)
        failure.__cause__ = HandlerProcessTrace(self._trace)
        return failure


def _sendable(failure: BaseException) -> BaseException | _Told:
    """Return a failure, or as much of it as arrives; its class, so that a policy knows it, if that can be found."""
    kind, text = type(failure), ""
    with contextlib.suppress(Exception):
        text = str(failure)
    trace = "".join(traceback.format_exception(failure))
    for made in (
        failure,
        _Told(kind, failure.args, vars(failure), trace),
        _Told(kind, (text,), {}, trace),
    ):
        with contextlib.suppress(Exception):
            received = _PICKLE.loads(_PICKLE.dumps(made))
            if isinstance(received.failure() if isinstance(received, _Told) else received, kind):
                return made
    return _Told(RuntimeError, (f"{kind.__qualname__}: {text}",), {}, trace)
