"""What the control topic calls for: groups created while programs run, replays into a group, delayed events.

Every process whose code has what they need consumes them, from the record that begins them to the one that ends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import msgspec

from nexus.core.control import Create, EndReplay, Remove, Replay, replay_group
from nexus.core.cursor import decode
from nexus.errors import BackendError, NexusError, UnknownOutcome
from nexus.runtime.bounds import ends_of
from nexus.runtime.consumer import Consumer
from nexus.runtime.control import ControlTopic
from nexus.runtime.subscription import Group
from nexus.spi.backend import Backend

log = logging.getLogger("nexus.control")

Consume = Callable[[Group, Replay | None], Awaitable[Consumer]]
_RETRY_S = 1.0


class _Wish(msgspec.Struct, frozen=True):
    """Why a group is consumed."""

    handlers: Create | str
    """Whose: those of a created group, or of one that the code names."""
    replay: Replay | None = None


class _Run(msgspec.Struct):
    """A consumer, why it runs, and for a replay the task that ends it."""

    consumer: Consumer
    wish: _Wish
    watcher: asyncio.Task[None] | None = None


class Managed:
    """Keeps the consumers of one process in step with the control topic."""

    def __init__(
        self,
        control: ControlTopic,
        backend: Backend,
        groups: Mapping[str, Group],
        make: Callable[[Create], Group | None],
        consume: Consume,
        forget: Callable[[str], None],
        delays: Callable[[], Awaitable[None]],
    ) -> None:
        """``groups`` are those that the code names; ``make`` makes one for a created group, if the code can.

        ``delays`` is called when there may be delayed events to take a share of; again and again.
        """
        self._control = control
        self._backend = backend
        self._groups = groups
        self._make = make
        self._consume = consume
        self._forget = forget
        self._delays = delays
        self._running: dict[str, _Run] = {}
        self._refused: dict[str, _Wish] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._complaints: dict[str, str] = {}
        self._news = asyncio.Event()
        self._ignore: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self.ending: dict[str, asyncio.Task[None]] = {}
        """By group: consumers that drain, each until nothing of it runs. These tasks raise nothing."""

    def start(self) -> None:
        """Begin; the control topic is followed already."""
        self._news.set()
        self._ignore = self._control.listen(self._news.set)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Begin and end nothing more. What runs is closed by whoever closes consumers, who also awaits `ending`."""
        self._ignore()
        for timer in self._resting.values():
            timer.cancel()
        watchers = [run.watcher for run in self._running.values()]
        tasks = [task for task in (self._task, *watchers) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def kill(self) -> None:
        """Stop as a crash would."""
        await self.close()
        ending = list(self.ending.values())
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            done = [await self._tried(name, step) for name, step in self._steps()]
            if not all(done):
                await asyncio.sleep(_RETRY_S)
                self._news.set()

    async def _tried(self, name: str, step: Callable[[], Awaitable[None]]) -> bool:
        """Take a step; whatever one group meets, the others go on."""
        try:
            await step()
        except Exception as error:
            told = not isinstance(error, NexusError)
            self._warn(name, f"what the control topic asks for cannot be done: {error}", trace=told)
            return False
        self._complaints.pop(name, None)
        return True

    def _warn(self, name: str, text: str, *, trace: bool = False) -> None:
        """Say once what is wrong with a group, however often it is tried."""
        if self._complaints.get(name) != text:
            self._complaints[name] = text
            log.warning("%s", text, exc_info=trace)

    def _wanted(self) -> dict[str, _Wish]:
        """Return what the control topic says that is consumed, and that this process may have handlers for."""
        state = self._control.state
        own: dict[str, Create | str] = {name: name for name in self._groups}
        handlers = {**state.created, **own}
        wanted = {name: _Wish(wish) for name, wish in state.created.items() if name not in self._groups}
        for id, replay in state.replays.items():
            if replay.group in handlers and state.outcome(id) is None:
                wanted[replay_group(id)] = _Wish(handlers[replay.group], replay)
        return wanted

    def _steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """End what is not wanted as it runs; return what is to be done for the rest to be as the control topic says."""
        state = self._control.state
        wanted = self._wanted()
        for name, run in list(self._running.items()):
            if run.consumer.failed is not None and run.consumer.failed.done():
                self._rest(name, run.consumer.failed.exception())
                self._end(name)
            elif wanted.get(name) != run.wish:
                self._end(name)
        self._refused = {name: wish for name, wish in self._refused.items() if wanted.get(name) == wish}
        overruled = self._groups.keys() & (state.created.keys() | state.removed)
        told = wanted.keys() | overruled | {""}
        self._complaints = {name: text for name, text in self._complaints.items() if name in told}
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [("", self._delays)] if state.delays else []
        steps += [(name, partial(self._overrule, name)) for name in sorted(overruled)]
        busy = self._running.keys() | self.ending.keys() | self._resting.keys() | self._refused.keys()
        steps += [(name, partial(self._begin, name, wish)) for name, wish in wanted.items() if name not in busy]
        return steps

    async def _overrule(self, name: str) -> None:
        """What code names is as the code says, in every process: others would share its events and pass over them."""
        created = name in self._control.state.created
        await self._control.write(Remove(name, "code", to_code=True))
        if created:
            log.warning("group %s was created, and code names it: it is as the code says from now on", name)

    async def _begin(self, name: str, wish: _Wish) -> None:
        handlers, replay = wish.handlers, wish.replay
        group = self._make(handlers) if isinstance(handlers, Create) else self._groups[handlers]
        if group is None:
            self._refused[name] = wish
            log.info("group %s is left to others: its handler was not registered here", name)
            return
        if replay is not None:
            group = msgspec.structs.replace(group, name=name, start="earliest")
        consumer = await self._consume(group, replay)
        run = self._running[name] = _Run(consumer, wish)
        assert consumer.failed is not None, "it was started"
        consumer.failed.add_done_callback(lambda _: self._news.set())
        if replay is not None:
            run.watcher = asyncio.get_running_loop().create_task(self._see_through(replay, consumer))

    def _rest(self, name: str, error: BaseException | None) -> None:
        """A consumer failed: let it be begun anew, but not at once."""
        log.warning("group %s failed, and is begun anew in %g s: %r", name, _RETRY_S, error)

        def rested() -> None:
            del self._resting[name]
            self._news.set()

        self._resting[name] = asyncio.get_running_loop().call_later(_RETRY_S, rested)

    def _end(self, name: str) -> None:
        """Let a consumer drain; only one of the same name waits for that."""
        run = self._running.pop(name)
        if run.watcher is not None:
            run.watcher.cancel()
        self.ending[name] = asyncio.get_running_loop().create_task(self._see_off(name, run.consumer))

    async def _see_off(self, name: str, consumer: Consumer) -> None:
        try:
            await consumer.close()
        except Exception as error:
            if consumer.failed is None or not consumer.failed.done():  # else it was told
                log.warning("group %s ended badly: %r", name, error)
        finally:
            self._forget(name)
            del self.ending[name]
            self._news.set()

    async def _see_through(self, replay: Replay, consumer: Consumer) -> None:
        """Wait until a replay is done, and say so in the control topic."""
        while True:
            await consumer.settled.wait()
            consumer.settled.clear()
            try:
                if consumer.finished:
                    await end_if_done(self._backend, self._control, replay)
            except (BackendError, UnknownOutcome) as error:
                log.warning("replay %s: %s", replay.id, error)
                await asyncio.sleep(_RETRY_S)
                consumer.settled.set()  # look again: there may be nothing left to settle


async def end_if_done(backend: Backend, control: ControlTopic, replay: Replay, who: str = "") -> None:
    """Say in the control topic that a replay is done, if all its partitions are through, whoever owns them.

    Dead letters do not count. One that was requeued does: its owner has read of it once it has taken over again.
    """
    seen = control.state.reopened(replay.id)
    ends = ends_of(replay)
    for lag in await backend.lag(replay_group(replay.id)):
        end = ends.pop((lag.topic, lag.partition), None)
        state = decode(lag.low, lag.state)
        if state.parked or (end is not None and (lag.low < end or state.reset < seen)):
            return
    if not ends:
        await control.write(EndReplay(replay.id, "done", who, seen))
