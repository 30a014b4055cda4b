"""The consumer of one group: own partitions, fetch, hand out, settle, give back.

Four kinds of task, all owned by `Consumer`: the workers call handlers; the *pump* takes changes of ownership and
fetches; the *journal* appends what the owners want written to the parking topics; the *settler* stores cursors. They
meet in the owners (`nexus.core.owner`), which never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any

from nexus.clock import Clock
from nexus.core.control import Wish
from nexus.core.lanes import Delivery
from nexus.core.outcome import ACK, Ack, Cancelled, DeadLetter, Outcome, Park, RetryIn
from nexus.core.owner import PAUSED, Owner
from nexus.core.probation import Turn
from nexus.errors import BackendError, CursorLost, UnknownGroup, UnknownOutcome
from nexus.event import Event
from nexus.runtime.bounds import Bounds
from nexus.runtime.control import ControlTopic
from nexus.runtime.fetcher import Fetcher
from nexus.runtime.inbox import inboxes_for
from nexus.runtime.intake import Intake
from nexus.runtime.journal import Journal, parking_spec, parking_topic, record_of
from nexus.runtime.parking import ParkingWriter
from nexus.runtime.partition import Partition, Stats
from nexus.runtime.publisher import Publisher
from nexus.runtime.settler import SETTLE_AFTER, Settler
from nexus.runtime.subscription import Group
from nexus.runtime.takeover import Takeover
from nexus.runtime.upkeep import Upkeep
from nexus.runtime.worker import Workers
from nexus.spi.backend import Assigned, Backend, Lost, Member, Revoking, Settlement, Slice

log = logging.getLogger("nexus.consumer")

LOAD_AHEAD = 32
"""Events of a parked key that are read at once."""
LEAVE_S = 5.0
"""How long the store may take to note that a member gives something up."""
_RETRY_S = 0.1


class Consumer:
    """One member of one group."""

    def __init__(
        self,
        group: Group,
        backend: Backend,
        publisher: Publisher,
        clock: Clock,
        new_id: Callable[[], str],
        source: str,
        member: str,
        probation: Turn,
        control: ControlTopic,
        *,
        prefetch_events: int,
        prefetch_bytes: int,
        settle_interval_s: float,
        drain_s: float,
        bounds: Bounds | None = None,
    ) -> None:
        """``bounds`` are those of a replay: which events are the group's, and until where."""
        self.group = group
        self._bounds = bounds
        self.clock = clock
        self.publisher = publisher
        self.source = source
        self.stats = Stats()
        self._backend = backend
        self._journal = Journal(backend, clock, new_id, source)
        self._member_name = member
        self._prefetch_events = prefetch_events
        self._drain_s = drain_s
        self._member: Member | None = None
        self._unwatch: Callable[[], None] = lambda: None
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._by_owner: dict[Owner, Partition] = {}
        self._again: list[Assigned] = []
        self._retaking: dict[tuple[str, int], Owner] = {}
        """Partitions that are taken over again once nothing of their former owner runs."""
        self._workers = Workers(self, group.workers)
        self._probation = probation
        self._control = control
        self._told = True
        self._cutting = False
        self._fetcher = Fetcher(
            group.name,
            self._partitions,
            Intake(group, control, bounds, self.stats, self._note_progress),
            clock,
            bounds,
            prefetch_events=prefetch_events,
            prefetch_bytes=prefetch_bytes,
            tail=self._tail,
        )
        self._takeover = Takeover(group, backend, self._journal, member, self._wish)
        self._settler = Settler(
            group.name,
            self._partitions,
            Upkeep(backend, self._journal),
            settle_interval_s,
            clock,
            fenced=lambda partition: self._drop(partition.id, "its settle was refused"),
            has_records=lambda: self._writer.wake.set(),
            settled=self._after_settle,
        )
        self._writer = ParkingWriter(group.name, self._journal, clock, self._partitions, self._retake, self._landed)
        self.settled = asyncio.Event()
        """Set at each settle; for whoever waits for progress, and clears it."""
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._hungry = False
        self._watched = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._releases: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] | None = None

    # ---- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin."""
        topics = self._bounds.topics if self._bounds is not None else await self._topics()
        for topic in topics:
            info = await self._backend.describe(topic)
            await self._backend.ensure(parking_spec(topic, self.group.name, info.spec.partitions))
        # Operators write their commands there, from any process.
        unwatch = self._backend.watch([parking_topic(topic, self.group.name) for topic in topics], self._parking_news)
        ignore = self._control.listen(self._control_news)

        def unwatch_all() -> None:
            unwatch()
            ignore()

        self._unwatch = unwatch_all
        start: Any = self.group.start
        self._member = await self._backend.claim(self.group.name, topics, self._member_name, self._wake.set, start)
        self._settler.start(self._member)
        loop = asyncio.get_running_loop()
        self.failed = loop.create_future()
        self._workers.start()
        for task in (self._pump(), self._writer.run(), self._settler.run()):
            self._tasks.append(loop.create_task(self.guard(task)))

    async def _topics(self) -> list[str]:
        patterns = [pattern for subscription in self.group.subscriptions for pattern in subscription.patterns]
        wanted = {topic for pattern in patterns for topic in self.publisher.topics_of(pattern)}
        return sorted(wanted | await self._unfinished_topics())

    async def _unfinished_topics(self) -> set[str]:
        """Topics where the group has events left, though its patterns point elsewhere by now: they are not stranded."""
        try:
            lags = await self._backend.lag(self.group.name)
        except UnknownGroup:
            return set()
        return {lag.topic for lag in lags if lag.low < lag.end}

    def _parking_news(self) -> None:
        self._fetcher.tail_parking = True
        self._wake.set()

    def _control_news(self) -> None:
        self._told = True
        self._wake.set()

    def _after_settle(self) -> None:
        self.settled.set()
        if self._hungry or self._cutting:
            self._cutting = False
            self._wake.set()

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Let nothing end silently: an error nobody planned stops the whole consumer, and is raised by `close`."""
        assert self.failed is not None
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if not self.failed.done():
                log.exception("group %s stopped by an error", self.group.name)
                self.failed.set_exception(error)
                self.failed.exception()  # seen; `close` raises it
                self._stop_by_itself()
            if not isinstance(error, Exception):
                raise

    def _stop_by_itself(self) -> None:
        """Give the partitions up as they stand, so that another member may do better."""
        self._stopping = True
        me = asyncio.current_task()
        for task in self._tasks:
            if task is not me:
                task.cancel()
        for id in list(self._partitions):
            self._drop(id, "the consumer failed")
        if self._member is not None:
            task = asyncio.get_running_loop().create_task(self._member.leave())
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def close(self) -> None:
        """Drain: start nothing, wait for what runs, settle, leave.

        Handlers that run past the drain time are cancelled and their attempts taken back; those in threads cannot be
        and are waited for. Raises what stopped the consumer, if something nobody planned did.
        """
        self._stopping = True
        self._unwatch()
        self._wake.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1])  # the pump ends by itself, and finishes a takeover it has begun
        if self._releases:
            await asyncio.gather(*self._releases, return_exceptions=True)
        await self._release(list(self._partitions.values()), self._drain_s, "shutdown")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._workers.close()
        if self._member is not None:
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._member.leave()
            except (BackendError, UnknownOutcome, TimeoutError) as error:  # its lease ends by itself
                log.warning("group %s could not be left: %s", self.group.name, str(error) or "no answer")
        if self.failed is not None and self.failed.done():
            raise self.failed.exception() or AssertionError

    async def kill(self) -> None:
        """Drop everything as a crash would: nothing is drained, settled or given back. For tests."""
        self._stopping = True
        self._unwatch()
        for partition in self._partitions.values():
            if partition.owner is not None:
                partition.owner.stop("killed")
        for task in [*self._tasks, *self._releases]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._releases, return_exceptions=True)
        self._partitions.clear()
        await self._workers.close()

    # ---- the pump: ownership, fetching, time ----------------------------------------------------------------------

    async def _pump(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                busy = await self._turn()
            except BackendError as error:
                log.warning("group %s: %s", self.group.name, error)
                await asyncio.sleep(_RETRY_S)
                continue
            if busy:
                await asyncio.sleep(0)
                continue
            wakes = [owner.wake_at for owner in self._owners() if owner.wake_at is not None]
            if self._fetcher.resting:
                wakes += [partition.resting_until for partition in self._partitions.values() if partition.resting_until]
            due = min(wakes, default=None)
            if self._bounds is not None and self._bounds.wake_at is not None:
                due = min(due or self._bounds.wake_at, self._bounds.wake_at)
                self._bounds.wake_at = None
            timeout = None if due is None else max(0.0, due - self.clock.now())
            if self._again:
                timeout = _RETRY_S if timeout is None else min(timeout, _RETRY_S)
            if not self._stopping:
                await self._wait(self._wake, timeout)

    async def _turn(self) -> bool:
        """Do all that can be done without waiting; True if there is more."""
        assert self._member is not None
        changes = self._member.changes()
        if changes or self._again:
            await self._take_changes(changes)
        now = self.clock.now()
        if self._told:
            self._told = False
            self._obey(now)
        for owner in self._owners():
            owner.tick(now)
        self._hungry = True
        busy = await self._fetcher.fetch(self._member)
        self._look_for_records()
        return busy

    def _wish(self, id: tuple[str, int]) -> Wish | None:
        return self._control.state.group(self.group.name).wishes.get(id)

    def _obey(self, now: float) -> None:
        """Let what operators decided about the group hold in all partitions."""
        for partition in self._partitions.values():
            if partition.owner is not None and not partition.releasing:
                self._obey_in(partition, partition.owner, now)

    def _obey_in(self, partition: Partition, owner: Owner, now: float) -> None:
        decided = self._control.state.group(self.group.name)
        wish = decided.wishes.get(partition.id)
        if wish is not None and wish.number > owner.fold.reset:
            self._start_move(partition)
            return
        if decided.paused:
            owner.pause()
            self._writer.wake.set()
        elif owner.stopped == PAUSED:
            owner.unpause(now)
            self._fetcher.tail_parking = True
        if owner.cuts.in_force != decided.version:
            owner.cut(decided.version)
            self._told |= owner.cuts.in_force != decided.version
            self._cutting = True
            self._settler.hurry()

    def _owners(self) -> list[Owner]:
        return [partition.owner for partition in self._partitions.values() if partition.owner is not None]

    async def _wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        if timeout_s is None:
            await event.wait()
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()

    async def _take_changes(self, changes: Sequence[Assigned | Revoking | Lost]) -> None:
        assigned, self._again = self._again, []
        for change in changes:
            match change:
                case Assigned(topic, number):
                    self._retaking.pop((topic, number), None)
                    assigned.append(change)
                case Revoking(topic, number, deadline_s):
                    for one in [a for a in assigned if (a.topic, a.partition) == (topic, number)]:
                        assigned.remove(one)
                        await self._give_back(one)
                    partition = self._partitions.get((topic, number))
                    if partition is not None and partition.moving:
                        partition.moving = False
                    elif partition is not None and not partition.releasing:
                        # Some of the deadline is for settling what was drained.
                        self._start_release(partition, min(0.8 * deadline_s, self._drain_s))
                case Lost(topic, number, reason):
                    assigned = [a for a in assigned if (a.topic, a.partition) != (topic, number)]
                    self._drop((topic, number), reason)
        if assigned:
            await self._take_over(assigned)

    async def _give_back(self, one: Assigned) -> None:
        """Release a partition that was not taken over yet, as it stands."""
        assert self._member is not None
        if one.cursor is not None:  # with none to store, the deadline releases it
            await self._member.settle([Settlement(one.topic, one.partition, one.cursor, release=True)])

    def _start_release(self, partition: Partition, deadline_s: float) -> None:
        partition.releasing = True
        task = asyncio.get_running_loop().create_task(self._release([partition], deadline_s, "moved"))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    def _start_move(self, partition: Partition) -> None:
        """Operators sent the group elsewhere: end what runs, and take over again, which begins there."""
        partition.releasing = partition.moving = True

        async def move() -> None:
            await self._wind_down([partition], self._drain_s, "sent elsewhere")
            if partition.moving:
                partition.moving = False
                self._retake(*partition.id)
            else:
                await self._let_go([partition], "moved")

        task = asyncio.get_running_loop().create_task(move())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    def _drop(self, id: tuple[str, int], reason: str) -> None:
        """Forget a partition that is not owned any more; what runs there is cancelled and its outcome dropped."""
        partition = self._partitions.pop(id, None)
        self._takeover.lost.pop(id, None)
        self._retaking.pop(id, None)
        if partition is None:
            return
        log.info("group %s lost %s[%d]: %s", self.group.name, *id, reason)
        self._forget_owner(partition, reason)
        self._changed.set()

    def _forget_owner(self, partition: Partition, reason: str) -> None:
        owner, partition.owner = partition.owner, None
        if owner is not None:
            owner.abandon(reason, self.clock.now())
            self._by_owner.pop(owner, None)
            self._workers.interrupt(owner, reason)

    async def _take_over(self, assigned: Sequence[Assigned]) -> None:
        assert self._member is not None
        taken, again = await self._takeover.run(self._member, assigned)
        self._again += again
        owned: list[tuple[Partition, Owner]] = []
        for one in taken:
            partition = Partition(one.topic, one.number, parking_topic(one.topic, self.group.name))
            if one.cursor is None or one.fold is None:
                self._install(partition)  # it stands still; `stopped` says why
                continue
            owner = Owner(one.cursor, one.state, one.fold, self.group.policy, self._workers.push, self._probation)
            partition.owner = owner
            partition.trimmed_to = partition.checkpoint_at = one.state.place
            owned.append((partition, owner))
        try:
            if self._backend.capabilities.dedup == "sender":
                places = [(partition.topic, partition.number, owner.ledger.low) for partition, owner in owned]
                for (partition, _), inbox in zip(owned, await inboxes_for(self._backend, places), strict=True):
                    partition.inbox = inbox
            if any(not self._knows(owner) for _, owner in owned):
                await self._control.read_on()
        except BackendError:  # nobody owns what nothing is known of
            self._again += [Assigned(*partition.id, owner.last_settled) for partition, owner in owned]
            raise
        for partition, owner in owned:
            self._install(partition)
            self._by_owner[owner] = partition
            self._obey_in(partition, owner, self.clock.now())
            owner.resume(self.clock.now())

    def _install(self, partition: Partition) -> None:
        before = self._partitions.get(partition.id)
        if before is not None:
            self._forget_owner(before, "taken over anew")
        self._partitions[partition.id] = partition

    def _knows(self, owner: Owner) -> bool:
        """Tell whether this process has read of the filter that judges events there; the owner before had."""
        return owner.cuts.in_force <= self._control.state.group(self.group.name).version

    # ---- what was fetched -------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """True if this member of a replay has nothing left in what it owns, as far as it has settled."""
        return self._bounds is not None and all(
            owner is not None and owner.ledger.low >= self._bounds.end(at) and owner.fold.unfinished == owner.fold.dead
            for at, owner in ((partition.id, partition.owner) for partition in self._partitions.values())
        )

    def _tail(self, part: Slice, now: float) -> None:
        topic = part.topic[: -len(f".{self.group.name}.park")]
        partition = self._partitions.get((topic, part.partition))
        owner = partition.owner if partition is not None else None
        if owner is None:
            return
        if part.more:
            self._parking_news()
        for stored in part.events:
            if stored.position >= owner.fold.place:
                owner.tail(stored.position, record_of(stored), now)
        if owner.dirty:
            self._note_progress(0)
        if owner.deposed:
            self._retake(topic, part.partition)

    def _retake(self, topic: str, number: int) -> None:
        """Become a new owner: another claim is in force, or an append has an unknown outcome.

        A new epoch makes late copies harmless; if the lease is gone, the takeover's settle is fenced and that is it.
        """
        partition = self._partitions.pop((topic, number), None)
        if partition is None or partition.owner is None:
            return
        owner = partition.owner
        cursor = owner.last_settled
        self._forget_owner(partition, "taking over again")
        self._retaking[topic, number] = owner

        async def when_nothing_runs() -> None:
            # A thread cannot be stopped: until it returns, the same event must not start again.
            while not await self._until(lambda: not owner.running, 10.0):
                log.warning("group %s waits for a handler of %s[%d]", self.group.name, topic, number)
            if self._retaking.get((topic, number)) is owner:  # else it was lost meanwhile, or given anew
                del self._retaking[topic, number]
                self._again.append(Assigned(topic, number, cursor, owner.fold.epoch))
                self._wake.set()

        task = asyncio.get_running_loop().create_task(when_nothing_runs())
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def load(self, delivery: Delivery) -> Event[Any]:
        """Read the event of a parked delivery, and with it those of its key that are next."""
        partition = self.partition_of(delivery)
        ahead = [delivery, *islice(delivery.lane.batch or (), LOAD_AHEAD)]
        near = {one.place: one for one in ahead if 0 <= one.place - delivery.place < 4 * LOAD_AHEAD}
        events = await self._journal.load(partition.parking, partition.number, near)
        for place, event in events.items():
            near[place].event = event
        assert delivery.event is not None
        return delivery.event

    def partition_of(self, delivery: Delivery) -> Partition:
        owner = delivery.lane.owner
        partition = self._by_owner.get(owner)
        if partition is None:
            raise BackendError("the partition is not owned any more")
        return partition

    # ---- outcomes -------------------------------------------------------------------------------------------------

    def ended(self, delivery: Delivery, outcome: Outcome | Cancelled) -> None:
        """Take an outcome in."""
        owner = delivery.lane.owner
        if outcome is ACK:
            self.stats.acked += 1
            if owner.ack(delivery):
                settler = self._settler
                settler.ended += 1
                if settler.ended >= SETTLE_AFTER or not settler.unsettled or self._watched:
                    self._note_progress(0)
                if self._hungry and owner.queued_events * 2 <= self._prefetch_events:
                    self._hungry = False
                    self._wake.set()
                return
        else:
            self._count(delivery, outcome)
        owner.end(delivery, outcome, self.clock.now())
        if owner.has_records:
            self._writer.wake.set()
        elif owner.wake_at is not None:
            self._wake.set()
        self._note_progress(1)
        if owner.on_probation:
            self._settler.hurry()  # the others wait until this end is durable
        if self._hungry and owner.queued_events * 2 <= self._prefetch_events:
            self._hungry = False
            self._wake.set()

    def _count(self, delivery: Delivery, outcome: Outcome | Cancelled) -> None:
        stats = self.stats
        match outcome:
            case Ack():
                stats.acked += 1
            case RetryIn():
                stats.retried += 1
            case Park():
                stats.parked += 1
            case DeadLetter(reason, error):
                stats.dead += 1
                partition = self._by_owner.get(delivery.lane.owner)
                where = (
                    f"{partition.topic}/{partition.number}/{delivery.position}" if partition else "of a lost partition"
                )
                log.warning("dead letter %s/%s (%s): %s", self.group.name, where, reason, error.partition("\n")[0])
            case Cancelled():
                stats.cancelled += 1

    def _note_progress(self, count: int) -> None:
        self._settler.note(count)
        if self._watched:
            self._changed.set()

    # ---- the parking topics ---------------------------------------------------------------------------------------

    def _look_for_records(self) -> None:
        if any(owner.has_records for owner in self._owners()):
            self._writer.wake.set()

    def _landed(self, owner: Owner, records: int) -> None:
        """Records of an owner are durable, and it knows."""
        self._note_progress(records)
        if owner.on_probation:
            self._settler.hurry()
        if owner.wake_at is not None or self._hungry:
            self._wake.set()

    async def settle_before(self, delivery: Delivery) -> bool:
        """Make an attempt durable before its handler starts (probation); False if the partition is gone."""
        partition = self._by_owner.get(delivery.lane.owner)
        while partition is not None and partition.owner is delivery.lane.owner:
            with contextlib.suppress(BackendError):
                await self._settler.settle([partition])
                owner = partition.owner
                if owner is None or not owner.dirty:
                    return owner is not None
            await asyncio.sleep(_RETRY_S)
        return False

    # ---- giving back ----------------------------------------------------------------------------------------------

    async def _release(self, partitions: Sequence[Partition], budget_s: float, reason: str) -> None:
        """Stop, wait for what runs, write what is to be written, settle clean (rule 14)."""
        await self._wind_down(partitions, budget_s, reason)
        await self._let_go(partitions, reason)

    async def _wind_down(self, partitions: Sequence[Partition], budget_s: float, reason: str) -> None:
        for partition in partitions:
            partition.releasing = True
            if partition.owner is not None:
                partition.owner.stop(reason)
        self._writer.wake.set()
        owners = [p.owner for p in partitions if p.owner is not None]
        if not await self._until(lambda: not any(owner.running for owner in owners), budget_s):
            for owner in owners:
                self._workers.interrupt(owner, reason)
            while not await self._until(lambda: not any(owner.running for owner in owners), 10.0):
                log.warning("group %s waits for handlers in threads that cannot be stopped", self.group.name)
        self._writer.wake.set()
        await self._until(lambda: all(owner.drained or owner.deposed for owner in owners), 10.0)

    async def _let_go(self, partitions: Sequence[Partition], reason: str) -> None:
        # Else the next owner finds a partition that was not given back.
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                drained = [p for p in partitions if p.owner is not None and p.owner.drained]
                await self._settler.settle(drained, clean=True)
        for partition in partitions:
            if self._partitions.get(partition.id) is partition:
                del self._partitions[partition.id]
            self._forget_owner(partition, reason)

    async def _until(self, condition: Callable[[], bool], budget_s: float) -> bool:
        """Wait for a condition that `_changed` announces; False if time is up."""
        deadline = self.clock.monotonic() + budget_s
        self._watched += 1
        try:
            while not condition():
                left = deadline - self.clock.monotonic()
                if left <= 0:
                    return False
                self._changed.clear()
                await self._wait(self._changed, left)
            return True
        finally:
            self._watched -= 1

    def interrupt_all(self, reason: str) -> None:
        """Cancel what runs; its attempts are taken back."""
        for partition in self._partitions.values():
            if partition.owner is not None:
                partition.owner.stop(reason)
                self._workers.interrupt(partition.owner, reason)

    @property
    def lost_cursors(self) -> list[CursorLost]:
        """What stands still because the group's cursor is gone."""
        return [error for error in self._takeover.lost.values() if isinstance(error, CursorLost)]

    @property
    def owned(self) -> list[tuple[str, int]]:
        """Partitions that this member consumes now."""
        return sorted(id for id, partition in self._partitions.items() if partition.owner is not None)

    @property
    def stopped(self) -> dict[tuple[str, int], str]:
        """Partitions that stand still, and why."""
        why = {id: str(error) for id, error in self._takeover.lost.items()}
        for id, partition in self._partitions.items():
            if partition.owner is not None and (partition.owner.stopped is not None or partition.resting_until):
                why[id] = partition.owner.stopped or partition.trouble
        return why
