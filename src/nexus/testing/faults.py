"""Faults between a bus and its backend: calls that wait, errors, and answers that get lost.

    backend = Faulty(make_backend(url, clock))
    backend.fail("append", StoreFull("full"), times=3)
    bus = Nexus(backend=backend)

The backend behind it is a real one, so what was stored is stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar

from nexus.errors import IdConflict, UnknownOutcome
from nexus.event import Event
from nexus.spi.backend import Appended, Backend, Capabilities, Change, Member, Settled, Settlement, Slice, Want

Call = Literal["append", "read", "fetch", "settle"]
A = TypeVar("A")


class Faulty:
    """A backend around another. Everything that is not named here goes straight to the other."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.fetched = 0
        """Events that members got by `fetch`."""
        self.calls: dict[Call, int] = {"append": 0, "read": 0, "fetch": 0, "settle": 0}
        self._errors: dict[Call, deque[tuple[BaseException, bool]]] = {call: deque() for call in self.calls}
        self._answers: deque[Settled] = deque()
        self._held: dict[Call, asyncio.Event] = {}
        self.only: Callable[[str], bool] = lambda topic: True
        """Which topics appends fail for."""

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    def fail(self, call: Call, error: BaseException, *, times: int = 1) -> None:
        """Let the next calls of a kind raise, and do nothing."""
        self._errors[call].extend([(error, False)] * times)

    def lose_answers(self, *, times: int = 1) -> None:
        """Let the next appends be done, and raise `UnknownOutcome`."""
        self._errors["append"].extend([(UnknownOutcome("the answer was lost"), True)] * times)

    def answer_settles(self, word: Settled, *, times: int = 1) -> None:
        """Let the next settles store nothing and answer with a word for each cursor."""
        self._answers.extend([word] * times)

    def hold(self, *calls: Call) -> None:
        """Let calls of these kinds wait until `let_go`."""
        for call in calls:
            self._held.setdefault(call, asyncio.Event())

    def let_go(self) -> None:
        """Let everything that is held go on."""
        held, self._held = self._held, {}
        for event in held.values():
            event.set()

    def heal(self) -> None:
        """End all faults."""
        for errors in self._errors.values():
            errors.clear()
        self._answers.clear()
        self.let_go()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        if not self.only(topic):
            return await self.backend.append(topic, batch)
        return await self._through("append", lambda: self.backend.append(topic, batch))

    async def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        return await self._through("read", lambda: self.backend.read(wants, max_bytes))

    async def claim(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> Member:
        return _FaultyMember(self, await self.backend.claim(group, topics, member, wake, start))

    async def _through(self, call: Call, work: Callable[[], Awaitable[A]]) -> A:
        self.calls[call] += 1
        if call in self._held:
            await self._held[call].wait()
        if self._errors[call]:
            error, done = self._errors[call].popleft()
            if done:
                await work()
            raise error
        return await work()


class _FaultyMember:
    def __init__(self, faulty: Faulty, member: Member) -> None:
        self._faulty = faulty
        self._member = member

    def changes(self) -> list[Change]:
        return self._member.changes()

    async def fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        slices = await self._faulty._through("fetch", lambda: self._member.fetch(wants, max_bytes))
        self._faulty.fetched += sum(len(answer.events) for answer in slices)
        return slices

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        if self._faulty._answers:
            return [self._faulty._answers.popleft()] * len(settlements)
        return await self._faulty._through("settle", lambda: self._member.settle(settlements))

    async def leave(self) -> None:
        await self._member.leave()
