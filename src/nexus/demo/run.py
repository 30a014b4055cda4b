"""One run of the demo, from the first event to the report.

The parent publishes and watches; the worker process handles, is killed in the middle, and its successor goes on. Then
the dead letters are repaired, and everything is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nexus import Event, Nexus, Receipt
from nexus.demo.events import Planned, payload_of, timeline
from nexus.demo.folder import Stalled
from nexus.demo.handlers import GROUPS, make_bus
from nexus.demo.process import WorkerProcess
from nexus.demo.repair import Repaired, can_be_repaired, describe, repair
from nexus.demo.report import (
    TOP,
    Crash,
    DeadLetterCounts,
    Report,
    carriers_by_delay,
    problems_of,
    weather_delays,
)
from nexus.demo.statistics import FILE, Figures, Statistics
from nexus.demo.tables import Tables
from nexus.demo.view import GroupState, State, View
from nexus.runtime.deadletters import DeadLetterInfo

BATCH = 500
CRASH_AT = 0.4
"""Share of all deliveries after which the worker is killed."""
MAX_LAG = 20_000
"""The publisher waits when a group is further behind: a year published in a minute would be handled from cold pages."""
FAILING = "turnaround"
_POLL_S = 0.05
_TICK_S = 0.02
_LOOK_EVERY_S = 0.25
_STALL_S = 30.0
_ROUNDS = 1_000


class Demo:
    """What one run knows."""

    def __init__(
        self,
        folder: Path,
        url: str,
        tables: Tables,
        view: View,
        *,
        speed: float | None,
        crash: bool,
        repair_early: bool,
    ) -> None:
        """``url``: the backend, empty as yet. ``speed``: seconds of 2013 per second; None: as fast as it goes.
        ``repair_early``: repair dead letters as they come, so that an aircraft does not wait all year behind its
        first."""
        self._folder = folder
        self._tables = tables
        self._view = view
        self._speed = speed
        self._with_crash = crash
        self._repair_early = repair_early
        self._events = timeline(tables)
        self._bus: Nexus = make_bus(url)
        self._worker = WorkerProcess(folder, url)
        self._worker_state = "starting"
        self._statistics: Statistics | None = None
        self._published: Counter[str] = Counter()
        self._publish_s = 0.0
        self._clock: datetime | None = None
        self._letters: Sequence[DeadLetterInfo] = ()
        self._one_at_a_time = asyncio.Lock()
        """Around dead letters: a look between a command and its answer would take the answer away."""
        self._discarded = self._requeued = 0
        types = Counter(planned.type for planned in self._events)
        self._expected = {group: sum(types[type] for type in types_of) for group, types_of in GROUPS.items()}

    @property
    def statistics(self) -> Statistics:
        assert self._statistics is not None
        return self._statistics

    async def run(self) -> Report:
        """Run; whatever happens, no process is left behind."""
        began = time.monotonic()
        Statistics.create(self._folder / FILE, list(GROUPS))
        async with contextlib.AsyncExitStack() as stack:
            self._statistics = Statistics(self._folder / FILE)
            stack.callback(self._statistics.close)
            await self._bus.start(consume=False)
            stack.push_async_callback(self._bus.close)
            stack.push_async_callback(self._worker.stop)
            await self._worker.start()
            self._worker_state = f"process {self._worker.pid}"
            self._view.say(f"worker      process {self._worker.pid} runs the groups {', '.join(GROUPS)}")
            crash, before, shown = await self._story()
            await self._worker.stop()
            await self._look_at_letters()
            return self._report(time.monotonic() - began, crash, before, shown)

    async def _story(self) -> tuple[Crash | None, DeadLetterCounts, Repaired | None]:
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                publishing = tasks.create_task(self._publish())
                crash = await self._crash() if self._with_crash else None
                await publishing
                self._view.say(f"published   {sum(self._published.values()):,} events in {self._publish_s:.1f} s")
                await self._until(self._settled, "the groups have handled everything")
                before = self._counts()
                self._view.say(f"handled     all; {before.dead} dead letters hold back {before.waiting} events")
                shown = await self._repair()
                watching.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return crash, before, shown

    # ---- publishing -----------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        began = time.monotonic()
        first = self._events[0].time
        batch: list[Planned] = []
        for planned in self._events:
            if self._speed is not None:
                due = began + (planned.time - first).total_seconds() / self._speed
                while (ahead := due - time.monotonic()) > 0:
                    await self._send(batch)
                    batch = []
                    await asyncio.sleep(min(ahead, _TICK_S))
            batch.append(planned)
            if len(batch) >= BATCH:
                await self._send(batch)
                batch = []
        await self._send(batch)
        self._publish_s = time.monotonic() - began

    async def _send(self, batch: Sequence[Planned]) -> None:
        if not batch:
            return
        await self._until(self._keeping_up, "the groups have caught up")
        for answer in await self._bus.publish_many([self._event(planned) for planned in batch]):
            if not isinstance(answer, Receipt):
                raise answer
        self._published.update(planned.type for planned in batch)
        self._clock = batch[-1].time

    async def _keeping_up(self) -> bool:
        return max(group.lag for group in self._state().groups) <= MAX_LAG

    def _event(self, planned: Planned) -> Event[Any]:
        return self._bus.event(
            planned.type,
            payload_of(planned, self._tables),
            key=planned.key,
            id=planned.id,
            subject=planned.subject,
            time=planned.time,
        )

    # ---- the crash ------------------------------------------------------------------------------------------------

    async def _crash(self) -> Crash:
        wanted = int(CRASH_AT * sum(self._expected.values()))
        await self._until(self._has_handled(wanted), f"{wanted:,} events are handled")
        pid, handled = self._worker.pid, self._handled()
        at = await self._worker.crash()
        self._worker_state = f"process {pid} was killed"
        self._view.say(f"CRASH       kill -9 of process {pid}, after {handled:,} handled events")
        await self._worker.start()
        self._worker_state = f"process {self._worker.pid}, after the crash of {pid}"
        await self._until(self._has_delivered, "the new worker handles an event")
        life = self.statistics.workers()[-1]
        assert life.first_delivery_at is not None
        crash = Crash(pid, handled, round(life.first_delivery_at - at, 3), round(life.started_at - at, 3))
        self._view.say(
            f"recovery    process {self._worker.pid} handled its first event {crash.recovery_s:.2f} s after the kill "
            f"({crash.start_s:.2f} s of it to start)"
        )
        return crash

    def _has_handled(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def condition() -> bool:
            return self._handled() >= count

        return condition

    async def _has_delivered(self) -> bool:
        lives = self.statistics.workers()
        return len(lives) == self._worker.number and lives[-1].first_delivery_at is not None

    # ---- repair ---------------------------------------------------------------------------------------------------

    async def _repair(self) -> Repaired | None:
        shown = await self._show_one_repair()
        for _ in range(_ROUNDS):
            letters = self._letters
            if not letters:
                break
            for letter in letters:
                await self._repair_one(letter)
            await self._until(self._settled, "the repaired events are handled")
        self._view.say(f"repair      {self._requeued} requeued with a corrected delay, {self._discarded} discarded")
        return shown

    async def _show_one_repair(self) -> Repaired | None:
        fitting = [letter for letter in self._letters if can_be_repaired(letter)]
        if not fitting:
            return None
        letter = max(fitting, key=lambda one: one.followers)
        shown = describe(letter)
        self._view.say(f"dead letter {shown.id}: {shown.reason} after {shown.attempts} attempts: {shown.error}")
        self._view.say(f"  event     {shown.event} of aircraft {shown.aircraft}, {shown.waiting} events wait behind it")
        self._view.say(f"  is        {shown.before}")
        self._view.say(f"  becomes   {shown.after}")
        handled, began = self._handled(), time.monotonic()
        await self._repair_one(letter)
        await self._until(self._settled, "the events behind the dead letter are handled")
        self._view.say(
            f"  requeued  {self._handled() - handled} events of {shown.aircraft} were handled "
            f"within {time.monotonic() - began:.2f} s"
        )
        return shown

    async def _repair_one(self, letter: DeadLetterInfo) -> None:
        async with self._one_at_a_time:
            done = await repair(self._bus, letter)
        self._requeued += done == "requeued"
        self._discarded += done == "discarded"

    # ---- looking --------------------------------------------------------------------------------------------------

    def _handled(self) -> int:
        return sum(events for events, _ in self.statistics.handled().values())

    def _counts(self) -> DeadLetterCounts:
        return DeadLetterCounts(len(self._letters), sum(letter.followers for letter in self._letters))

    def _aside(self) -> dict[str, int]:
        counts = self._counts()
        return {FAILING: counts.dead + counts.waiting + self._discarded}

    async def _look_at_letters(self) -> None:
        async with self._one_at_a_time:
            if FAILING in await self._bus.backend.groups():
                self._letters = await self._bus.dead_letters.all(FAILING)

    async def _settled(self) -> bool:
        """Tell whether every published event is handled, dead, waiting behind one, or discarded."""
        if self._problems():
            return False
        # An event that has just been handled may still be told as waiting: only what stays so is true.
        await self._look_at_letters()
        seen = self._counts(), self._handled()
        if self._problems():
            return False
        await asyncio.sleep(_POLL_S)
        await self._look_at_letters()
        return (self._counts(), self._handled()) == seen

    def _problems(self) -> list[str]:
        handled = {group: events for group, (events, _) in self.statistics.handled().items()}
        return problems_of(self._expected, handled, self._aside(), 0)

    async def _until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition. Raises `Stalled` if nothing was published or handled for a while before it."""
        progress, since = None, time.monotonic()
        while not await condition():
            self._worker.check()
            now = self._handled(), sum(self._published.values())
            if now != progress:
                progress, since = now, time.monotonic()
            elif time.monotonic() - since > _STALL_S and sum(self._published.values()) == len(self._events):
                raise Stalled(f"nothing moved for {_STALL_S:.0f} s before {what}; {self._problems()}")
            await asyncio.sleep(_POLL_S)

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await self._look_at_letters()
            if self._repair_early:
                for letter in self._letters:
                    await self._repair_one(letter)
            self._view.show(self._state())
            # Looking takes longer the more there is to see; it must not keep the publisher waiting.
            await asyncio.sleep(max(_LOOK_EVERY_S, 3 * (time.monotonic() - began)))

    def _state(self) -> State:
        counts = self._counts()
        groups = []
        for name, (handled, twice) in self.statistics.handled().items():
            published = sum(self._published[type] for type in GROUPS[name])
            dead, waiting = (counts.dead, counts.waiting) if name == FAILING else (0, 0)
            groups.append(GroupState(name, self._expected[name], published, handled, twice, dead, waiting))
        total = sum(self._published.values())
        return State(self._clock, total, len(self._events), self._worker_state, groups)

    # ---- the report -----------------------------------------------------------------------------------------------

    def _report(self, seconds: float, crash: Crash | None, before: DeadLetterCounts, shown: Repaired | None) -> Report:
        figures: Figures = self.statistics.figures()
        problems = problems_of(self._expected, figures.handled, self._aside(), figures.order_violations)
        published = sum(self._published.values())
        return Report(
            ok=not problems,
            problems=problems,
            seconds=round(seconds, 2),
            flights=len(self._tables.flights),
            published=published,
            published_by_type=dict(sorted(self._published.items())),
            publish_rate=round(published / max(self._publish_s, 0.001)),
            expected=self._expected,
            handled={group: figures.handled[group] for group in GROUPS},
            duplicates={group: self.statistics.handled()[group][1] for group in GROUPS},
            crash=crash,
            dead_letters_before=before,
            dead_letters_after=self._counts(),
            requeued=self._requeued,
            discarded=self._discarded,
            repaired=shown,
            order_violations=figures.order_violations,
            top_delays=carriers_by_delay(figures.delays)[:TOP],
            weather=weather_delays(figures),
            figures=figures,
        )
