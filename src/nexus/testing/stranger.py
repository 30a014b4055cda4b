"""A member in another process, to be killed and frozen: what a backend must cope with, done for real.

    python -m nexus.testing.stranger URL GROUP MEMBER START TOPIC...

joins the group and writes each change that it hears as a line of JSON; each line that it reads is a `Settlement`, and
is answered with the word that ``settle`` gave. A store in memory has no other process: there `Stranger` is a member
of a second backend, and is killed and frozen by what the memory backend offers tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.plugins import make_backend
from nexus.spi.backend import Assigned, Backend, Change, Lost, Revoking, Settled, Settlement

_KINDS: dict[str, type[Change]] = {kind.__name__: kind for kind in (Assigned, Revoking, Lost)}
HEARD_LIMIT = 4_096


def environment() -> dict[str, str]:
    """The environment of another process that finds what this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Stranger:
    """A member elsewhere. ``heard`` is what it was told, oldest first; the last `HEARD_LIMIT` of it."""

    def __init__(self) -> None:
        self.heard: deque[Change] = deque(maxlen=HEARD_LIMIT)
        self.news = asyncio.Event()

    @staticmethod
    async def join(
        url: str, group: str, topics: Sequence[str], member: str, start: Literal["latest", "earliest"], clock: Clock
    ) -> Stranger:
        """Have a stranger join a group."""
        if urlsplit(url).scheme == "memory":
            backend = make_backend(url, clock)
            await backend.open()
            inside = _Inside(backend)
            inside.member = await backend.claim(group, topics, member, inside.listen, start)
            return inside
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nexus.testing.stranger", url, group, member, start, *topics),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        return _Process(process)

    async def settle(self, settlement: Settlement) -> Settled:
        """Have it settle. While it is frozen this waits."""
        raise NotImplementedError

    async def kill(self) -> None:
        """End it without warning."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Stop it where it is."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Let it go on."""
        raise NotImplementedError


class _Inside(Stranger):
    member: Any

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend

    def listen(self) -> None:
        self.heard.extend(self.member.changes())
        self.news.set()

    async def settle(self, settlement: Settlement) -> Settled:
        answers: list[Settled] = await self.member.settle([settlement])
        return answers[0]

    async def kill(self) -> None:
        await self._backend.close()

    def freeze(self) -> None:
        self._backend.freeze()

    def thaw(self) -> None:
        self._backend.thaw()


class _Process(Stranger):
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__()
        self._process = process
        self._answers: asyncio.Queue[Settled] = asyncio.Queue(16)
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            kind, value = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
            if kind == "Settled":
                await self._answers.put(msgspec.json.decode(value))
            else:
                self.heard.append(msgspec.json.decode(value, type=_KINDS[kind]))
                self.news.set()

    async def settle(self, settlement: Settlement) -> Settled:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(settlement) + b"\n")
        await self._process.stdin.drain()
        return await self._answers.get()

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
        await self._process.wait()
        await self._listener

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


async def _main(url: str, group: str, member: str, start: str, *topics: str) -> None:
    backend: Backend = make_backend(url, SYSTEM_CLOCK)
    await backend.open()
    news = asyncio.Event()
    joined = await backend.claim(group, topics, member, news.set, "earliest" if start == "earliest" else "latest")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def say(kind: str, value: object) -> None:
        os.write(1, msgspec.json.encode((kind, value)) + b"\n")

    async def obey() -> None:
        async for line in reader:
            answers = await joined.settle([msgspec.json.decode(line, type=Settlement)])
            say("Settled", answers[0])

    obeying = asyncio.create_task(obey())
    while not obeying.done():
        news.clear()
        for change in joined.changes():
            say(type(change).__name__, change)
        waiting = asyncio.create_task(news.wait())
        await asyncio.wait({waiting, obeying}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    await obeying
    await backend.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
