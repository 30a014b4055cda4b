"""Any sequence of operations, by two members on two backends, does what a small model says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from nexus.errors import IdConflict, Sealed
from nexus.event import Event
from nexus.spi.backend import Assigned, Backend, Cursor, Lost, Revoking, TopicSpec, Want
from nexus.testing.conformance._world import MANY_BYTES, MOVE_S, Party, World, loop_factory, read_all

A = TypeVar("A")

PARTITIONS = 3
STEP_LIMIT_S = 20.0

partitions = st.integers(0, PARTITIONS - 1)
members = st.sampled_from(["one", "two"])
calls = st.lists(st.tuples(partitions, st.integers(0, 15), st.sampled_from([b"", b"a"])), max_size=6)


class Model:
    """What the store should hold. Positions are taken from the store, since they may have gaps."""

    def __init__(self, first: tuple[int, ...]) -> None:
        self.events: list[list[Event[object]]] = [[] for _ in range(PARTITIONS)]
        self.positions: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.first = list(first)
        self.known: dict[tuple[Any, str], tuple[int, bytes]] = {}
        """Where each id is, and with which body, also when the event is gone; for each memory of ids there is."""
        self.sealed: set[int] = set()
        self.cursors: list[Cursor] = []

    def append(self, call: list[tuple[int, Event[object]]], memory: Any) -> list[tuple[str, int]]:
        """Take a call over; say what each event is and in which partition."""
        answers = []
        for partition, event in call:
            first = self.known.get((memory, event.id))
            if first is None:
                self.known[memory, event.id] = partition, event.body
                self.events[partition].append(event)
                answers.append(("new", partition))
            elif not any(kept.id == event.id for kept in self.events[first[0]]):
                answers.append(("gone" if first[1] == event.body else "gone conflict", first[0]))
            else:
                answers.append(("duplicate" if first[1] == event.body else "conflict", first[0]))
        return answers

    def trim(self, partition: int, count: int, before: int) -> None:
        del self.events[partition][:count], self.positions[partition][:count]
        self.first[partition] = max(self.first[partition], before)


class Machine(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=loop_factory(self.url))
        self.stack = AsyncExitStack()
        self.parties: dict[str, Party] = {}
        self.backends: dict[str, Backend] = {}
        self.run(self._start())

    def run(self, step: Coroutine[Any, Any, A]) -> A:
        async def limited() -> A:
            async with asyncio.timeout(STEP_LIMIT_S):
                return await step

        return self.runner.run(limited())

    async def _start(self) -> None:
        self.world = await self.stack.enter_async_context(World.on(self.url))
        self.topic = self.world.name("orders")
        self.group = self.world.name("group")
        info = await self.world.backend.ensure(TopicSpec(self.topic, partitions=PARTITIONS))
        self.model = Model(info.first)
        for name in ("one", "two"):
            self.backends[name] = await self.world.open()

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    @rule(call=calls, name=members)
    def append(self, call: list[tuple[int, int, bytes]], name: str) -> None:
        batch = [(partition, self.world.event(f"id-{number}", body=body)) for partition, number, body in call]
        self.run(self._append(batch, name))

    async def _append(self, batch: list[tuple[int, Event[object]]], name: str) -> None:
        if {partition for partition, _ in batch} & self.model.sealed:
            try:
                await self.backends[name].append(self.topic, batch)
            except Sealed:
                return
            raise AssertionError("a sealed partition took events")
        answers = await self.backends[name].append(self.topic, batch)
        expected = self.model.append(batch, None if self.world.one_memory else self.backends[name])
        assert len(answers) == len(expected)
        only_ids = self.world.backend.capabilities.dedup == "ids"
        for answer, (kind, partition) in zip(answers, expected, strict=True):
            if only_ids and kind.startswith("gone"):
                # The broker still knows the id, and maybe nobody what the event said and in which partition it was.
                assert isinstance(answer, IdConflict) or answer.duplicate
            elif isinstance(answer, IdConflict):
                assert kind in ("conflict", "gone conflict")
            else:
                assert (answer.duplicate, answer.partition) == (kind in ("duplicate", "gone"), partition)

    @rule(partition=partitions, at=st.integers(0, 20), count=st.integers(0, 5), name=members)
    def read(self, partition: int, at: int, count: int, name: str) -> None:
        positions = self.model.positions[partition]
        at = min(at, len(positions))
        start = positions[at] if at < len(positions) else self.run(self._end(partition))
        (answer,) = self.run(self.backends[name].read([Want(self.topic, partition, start, count)], MANY_BYTES))
        assert [each.event for each in answer.events] == self.model.events[partition][at : at + count]
        assert answer.more == (at + count < len(positions))
        assert answer.trimmed is None
        assert answer.next >= start

    @rule(partition=partitions, count=st.integers(0, 6), name=members)
    def trim(self, partition: int, count: int, name: str) -> None:
        positions = self.model.positions[partition]
        before = positions[count] if count < len(positions) else self.run(self._end(partition))
        self.run(self.backends[name].trim(self.topic, partition, before))
        self.model.trim(partition, count, before)

    @rule(partition=partitions, name=members)
    def seal(self, partition: int, name: str) -> None:
        end = self.run(self._end(partition))
        assert self.run(self.backends[name].seal(self.topic, partition)) == end
        self.model.sealed.add(partition)

    @rule(name=members)
    def join(self, name: str) -> None:
        if name not in self.parties:
            self.run(self._join(name))

    async def _join(self, name: str) -> None:
        self.parties[name] = await self.world.join(self.group, [self.topic], name, backend=self.backends[name])
        if not self.model.cursors:
            lags = await self.world.backend.lag(self.group)
            assert [lag.low for lag in lags] == self.model.first
            self.model.cursors = [Cursor(lag.epoch, lag.low) for lag in lags]

    @rule(name=members)
    def leave(self, name: str) -> None:
        if name in self.parties:
            self.run(self.parties.pop(name).member.leave())

    @rule(name=members)
    def crash(self, name: str) -> None:
        self.run(self._crash(name))

    async def _crash(self, name: str) -> None:
        await self.backends[name].close()
        self.parties.pop(name, None)
        self.backends[name] = await self.world.open()

    @rule(name=members, partition=partitions, step=st.integers(-1, 1), low=st.integers(0, 30), release=st.booleans())
    def settle(self, name: str, partition: int, step: int, low: int, release: bool) -> None:
        if name in self.parties:
            self.run(self._settle(self.parties[name], partition, step, low, release))

    async def _settle(self, party: Party, partition: int, step: int, low: int, release: bool) -> None:
        self._listen()
        place = (self.topic, partition)
        if not any(place in other.owned for other in self.parties.values()):
            return  # who owns it just now is the backend's to know
        stored = self.model.cursors[partition]
        cursor = Cursor(max(stored.epoch + step, 0), low, f"state-{low}")
        mine = place in party.owned
        losses = len(party.all(Lost))
        word = await party.settle(*place, cursor.epoch, cursor.low, cursor.state, release=release)
        if mine and cursor.epoch >= stored.epoch:
            assert word == "ok"
            self.model.cursors[partition] = cursor
        else:
            assert word == "fenced"
            if mine:
                del party.owned[place]
                await party.until(lambda party: len(party.all(Lost)) > losses)

    @rule()
    def share(self) -> None:
        self.run(self._share())

    async def _share(self) -> None:
        """Release what is revoked; soon all partitions are owned, evenly, with the cursors that are stored."""
        parties = self.parties.values()
        async with asyncio.timeout(MOVE_S * 5):
            while parties:
                self._listen()
                for party in parties:
                    for change in party.all(Revoking):
                        if (change.topic, change.partition) in party.owned:
                            assert await party.release(change, self.model.cursors[change.partition]) == "ok"
                    party.heard = [change for change in party.heard if not isinstance(change, Revoking)]
                counts = [len(party.owned) for party in parties]
                if sum(counts) == PARTITIONS and max(counts) - min(counts) <= 1:
                    break
                await asyncio.sleep(0.002)

    def _listen(self) -> None:
        for party in self.parties.values():
            heard = len(party.heard)
            party.listen()
            for change in party.heard[heard:]:
                if isinstance(change, Assigned):
                    assert change.cursor == self.model.cursors[change.partition]
        owners = [place for party in self.parties.values() for place in party.owned]
        assert len(owners) == len(set(owners)), "two members believe that they own a partition"

    async def _end(self, partition: int) -> int:
        return (await self.world.backend.describe(self.topic)).end[partition]

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        info = await self.world.backend.describe(self.topic)
        assert info.sealed == tuple(sorted(self.model.sealed))
        for partition in range(PARTITIONS):
            stored = await read_all(self.world.backend, self.topic, partition, self.model.first[partition])
            assert [each.event for each in stored] == self.model.events[partition]
            positions = [each.position for each in stored]
            known = self.model.positions[partition]
            assert positions[: len(known)] == known
            assert positions == sorted(set(positions))
            assert all(info.first[partition] <= position < info.end[partition] for position in positions)
            self.model.positions[partition] = positions
        if self.model.cursors:
            lags = await self.world.backend.lag(self.group)
            assert [Cursor(lag.epoch, lag.low) for lag in lags] == [
                Cursor(cursor.epoch, cursor.low) for cursor in self.model.cursors
            ]
            assert {lag.owner for lag in lags} <= {None, *self.parties}


def test_any_sequence_of_operations_does_what_the_model_says(nexus_backend_url: str) -> None:
    class OnThisBackend(Machine):
        url = nexus_backend_url

    run_state_machine_as_test(
        OnThisBackend,
        settings=settings(
            max_examples=30
            if urlsplit(nexus_backend_url).scheme in ("memory", "sqlite")
            else 6,  # a broker takes its time
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
