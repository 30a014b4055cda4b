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
        self._running: dict[str, Consumer] = {}
        self._created: dict[str, Group] = {}
        self._refused: set[str] = set()
        self._complaints: dict[str, str] = {}
        self._news = asyncio.Event()
        self._ignore: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None
        self._watchers: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin; the control topic is followed already."""
        self._news.set()
        self._ignore = self._control.listen(self._news.set)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Begin nothing more. What runs is closed by whoever closes consumers."""
        self._ignore()
        tasks = [task for task in (self._task, *self._watchers.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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

    def _steps(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """What is to be done for the consumers to be as the control topic says."""
        state = self._control.state
        replays = {replay_group(id): replay for id, replay in state.replays.items() if state.outcome(id) is None}
        created = {name: wish for name, wish in state.created.items() if name not in self._groups}
        self._refused &= created.keys()
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [("", self._delays)] if state.delays else []
        overruled = self._groups.keys() & (state.created.keys() | state.removed)
        steps += [(name, partial(self._overrule, name)) for name in sorted(overruled)]
        gone = [name for name in self._running if name not in created and name not in replays]
        steps += [(name, partial(self._end, name)) for name in gone]
        new = [wish for name, wish in created.items() if name not in self._running and name not in self._refused]
        steps += [(wish.group, partial(self._begin_created, wish)) for wish in new]
        steps += [
            (name, partial(self._begin_replay, name, replay))
            for name, replay in replays.items()
            if name not in self._running and (replay.group in self._groups or replay.group in created)
        ]
        return steps

    async def _overrule(self, name: str) -> None:
        """What code names is as the code says, in every process: others would share its events and pass over them."""
        if name in self._control.state.created:
            self._warn(name, f"group {name} was created, and code names it: it is as the code says from now on")
        await self._control.write(Remove(name, "code", to_code=True))

    async def _begin_created(self, wish: Create) -> None:
        group = self._make(wish)
        if group is None:
            self._refused.add(wish.group)
            log.info("group %s is left to others: there is no handler %r here", wish.group, wish.handler)
        else:
            self._running[wish.group] = await self._consume(group, None)
            self._created[wish.group] = group

    async def _begin_replay(self, name: str, replay: Replay) -> None:
        group = self._groups.get(replay.group) or self._created.get(replay.group)
        if group is None:
            return  # created, and left to others
        own = msgspec.structs.replace(group, name=name, start="earliest")
        consumer = self._running[name] = await self._consume(own, replay)
        self._watchers[name] = asyncio.get_running_loop().create_task(self._see_through(replay, consumer))

    async def _end(self, name: str) -> None:
        self._created.pop(name, None)
        consumer = self._running.pop(name)
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.cancel()
        await consumer.close()
        self._forget(name)

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
