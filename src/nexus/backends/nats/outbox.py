"""Appends on their way: one flight of a topic at a time, in the order of the calls.

While a flight is under way, calls gather and make up the next one. So nothing can overtake: whatever has to be sent
again, after a lost reply or a reconnect, is sent before anything newer. Each event carries an id by which the server
recognises it (journals get one of a kind), so that sending again never stores twice.

A flight goes as single messages, many under way at once, or as one atomic batch; see `Flight`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from nexus.backends.nats.flight import Entry, Flight, Target
from nexus.errors import Closed, NexusError, Unavailable, UnknownOutcome
from nexus.spi.backend import Appended

FLIGHT_BYTES = 4 << 20
"""What one flight takes at most, unless a single call is larger."""
FLIGHT_EVENTS = 1_000
"""As many as the server takes in an atomic batch."""


class Call:
    """One call of append."""

    __slots__ = ("deadline", "entries", "future", "sent", "size")

    def __init__(self, entries: list[Entry], deadline: float, future: asyncio.Future[list[Appended]]) -> None:
        self.entries = entries
        self.deadline = deadline
        self.future = future
        self.size = sum(len(entry.headers) + len(entry.body) for entry in entries)
        self.sent = False


class Outbox:
    """The appends to one topic."""

    def __init__(
        self,
        target: Callable[[float], Awaitable[Target]],
        flight: Flight,
        limit_bytes: int,
        on_stored: Callable[[], None],
    ) -> None:
        self._target = target
        self._flight = flight
        self._limit_bytes = limit_bytes
        self._on_stored = on_stored
        self._calls: deque[Call] = deque()
        self._queued_bytes = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self.closed = False

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait here; at most the limit, and one call."""
        return self._queued_bytes

    @property
    def idle(self) -> bool:
        return self._pump is None and not self._turns

    async def append(self, entries: list[Entry], timeout_s: float) -> list[Appended]:
        """Store what is given, after everything that was given before. See `Log.append`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._turns or self._queued_bytes >= self._limit_bytes:
            await self._turn(deadline)
        if self.closed:
            raise Closed("the store was closed")
        call = Call(entries, deadline, loop.create_future())
        self._calls.append(call)
        self._queued_bytes += call.size
        if self._pump is None:
            self._pump = asyncio.create_task(self._run())
        # Whoever is cancelled here only stops waiting: the call is stored all the same, in its turn.
        return await call.future

    async def _turn(self, deadline: float) -> None:
        """Wait for room, first come, first served."""
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            raise Unavailable("no room came free before the time limit; NATS takes less than is appended") from None
        finally:
            # It kept its place until now, so that no newer call could slip in before it.
            self._turns.remove(turn)
            asyncio.get_running_loop().call_soon(self._give_turn)

    def _give_turn(self) -> None:
        if self._turns and not self._turns[0].done() and (self._queued_bytes < self._limit_bytes or self.closed):
            self._turns[0].set_result(None)

    async def _run(self) -> None:
        try:
            while self._calls:
                calls = self._take()
                try:
                    await self._fly(calls)
                except NexusError as error:
                    _fail(calls, error)
                except BaseException:
                    _fail(calls, UnknownOutcome("appending ended unexpectedly"))
                    raise
                finally:
                    self._queued_bytes -= sum(call.size for call in calls)
                    self._give_turn()
        finally:
            self._pump = None
            if self._calls:  # an error that nobody foresaw; what waits must not wait for ever, and was never sent
                _fail(self._calls, Unavailable("appending ended unexpectedly"))
                self._queued_bytes -= sum(call.size for call in self._calls)
                self._calls.clear()
                self._give_turn()

    def _take(self) -> list[Call]:
        """The calls of the next flight."""
        calls = [self._calls.popleft()]
        count, size = len(calls[0].entries), calls[0].size
        while self._calls:
            following = self._calls[0]
            count += len(following.entries)
            size += following.size
            if count > FLIGHT_EVENTS or size > FLIGHT_BYTES:
                break
            calls.append(self._calls.popleft())
        return calls

    async def _fly(self, calls: list[Call]) -> None:
        target = await self._target(calls[-1].deadline)
        loop = asyncio.get_running_loop()
        going = calls
        while going:
            await self._flight.until_ready(going[-1].deadline)
            todo = [entry for call in going for entry in call.entries if not entry.done]
            for call in going:
                call.sent = True
            await self._flight.go(target, todo, min(call.deadline for call in going))
            stored = False
            staying = []
            for call in going:
                if all(entry.done for entry in call.entries):
                    stored |= self._answer(call)
                elif loop.time() >= call.deadline:
                    _fail([call], self._flight.unavailable())
                else:
                    staying.append(call)
            going = staying
            if stored:
                self._on_stored()

    def _answer(self, call: Call) -> bool:
        """Tell a call how it ended; whether something was stored."""
        failed = [entry.failure for entry in call.entries if entry.failure is not None]
        stored = len(failed) < len(call.entries)
        if not call.future.done():
            if not failed:
                call.future.set_result([entry.answer for entry in call.entries if entry.answer is not None])
            elif stored:
                call.future.set_exception(UnknownOutcome(f"{len(failed)} events were not stored: {failed[0]}"))
            else:
                call.future.set_exception(failed[0])
        return stored

    async def drain(self) -> None:
        """Take nothing more, and wait for what is under way."""
        self.closed = True
        self._give_turn()
        if self._pump is not None:
            await asyncio.wait({self._pump})

    def abandon(self) -> None:
        """End at once; what is under way fails."""
        self.closed = True
        if self._pump is not None:
            self._pump.cancel()


def _fail(calls: Sequence[Call] | deque[Call], error: Exception) -> None:
    """Fail what has not ended. What was sent may be stored, so it is not called unavailable."""
    for call in calls:
        if not call.future.done():
            unsure = call.sent and isinstance(error, Unavailable)
            failure = UnknownOutcome(f"no answer came before the time limit: {error}") if unsure else error
            call.future.set_exception(failure)
