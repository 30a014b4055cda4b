"""A bus in another process, to be killed and frozen while its handlers run.

    python -m nexus.testing.stranger_bus URL TOPIC PARTITIONS GROUP HANDLE_S

consumes everything and writes a line of JSON when a handler starts: the payload and the fence. A store in memory has
no other process: there it is a second bus of this one, whose backend is frozen; its handlers go on meanwhile, which
is worse than what a frozen process can do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

import msgspec

from nexus.app import Nexus
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.testing.stranger import environment


class Handled(msgspec.Struct, frozen=True):
    """A handler started."""

    number: int
    fence: int
    attempt: int


class StrangerBus:
    """A bus elsewhere; ``handled`` is what its handlers started with."""

    def __init__(self) -> None:
        self.handled: list[Handled] = []
        self.news = asyncio.Event()

    @staticmethod
    async def start(url: str, topic: str, partitions: int, group: str, handle_s: float, clock: Clock) -> StrangerBus:
        """Start a bus whose handlers take ``handle_s`` each."""
        if urlsplit(url).scheme == "memory":
            inside = _Inside()
            inside.bus = _bus(url, topic, partitions, group, handle_s, inside.note, clock)
            await inside.bus.start()
            return inside
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nexus.testing.stranger_bus", url, topic, str(partitions), group, str(handle_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        return _Process(process)

    def note(self, handled: Handled) -> None:
        self.handled.append(handled)
        self.news.set()

    async def kill(self) -> None:
        """End it without warning."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Stop it where it is."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let it go on."""
        raise NotImplementedError


class _Inside(StrangerBus):
    bus: Any

    async def kill(self) -> None:
        self.thaw()
        await self.bus.kill()

    def freeze(self) -> None:
        self.bus.backend.freeze()

    def thaw(self) -> None:
        self.bus.backend.thaw()


class _Process(StrangerBus):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.note(msgspec.json.decode(line, type=Handled))

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._listener

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def _bus(url: str, topic: str, partitions: int, group: str, handle_s: float, note: Any, clock: Clock) -> Nexus:
    bus = Nexus(
        url,
        clock=clock,
        settings={
            "topics": {topic: {"patterns": ["**"], "partitions": partitions}, "events": {"partitions": 1}},
            "settle_interval": "20ms",
        },
    )

    async def handle(event: Event[Any], context: Context) -> None:
        note(Handled(event.data, context.fence, context.attempt))
        await asyncio.sleep(handle_s)

    bus.on("**", group=group, start="earliest")(handle)
    return bus


async def _main(url: str, topic: str, partitions: str, group: str, handle_s: str) -> None:
    def note(handled: Handled) -> None:
        os.write(1, msgspec.json.encode(handled) + b"\n")

    async with _bus(url, topic, int(partitions), group, float(handle_s), note, SYSTEM_CLOCK):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
