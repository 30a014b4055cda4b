"""The workers of one consumer group: take the next ready lane, call its handler, say how it ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import random
import traceback
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from nexus.core.lanes import Delivery, Lane, ReadyQueue
from nexus.core.outcome import ACK, CANCELLED, Ack, Cancelled, DeadLetter, Outcome, Park, RetryIn
from nexus.errors import BackendError, HandlerError, IdConflict, PublishError
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.processes import ProcessPool
from nexus.runtime.subscription import Subscription, returned_events

if TYPE_CHECKING:
    from nexus.runtime.consumer import Consumer

log = logging.getLogger("nexus.delivery")

INTERRUPTED_LIMIT = 6
"""Attempts beyond the policy's that may end without an outcome, before the event is given up (rule 13)."""
ERROR_LIMIT_CHARS = 4_000
_TURN_S = 0.005  # a worker whose handlers never wait gives the loop back at least this often
current_event: contextvars.ContextVar[Event[Any] | None] = contextvars.ContextVar("nexus_event", default=None)


class HandlerTimeout(Exception):
    """The handler ran longer than its time limit."""


class Workers:
    """A pool of workers over one ready queue."""

    def __init__(self, consumer: Consumer, count: int) -> None:
        self._consumer = consumer
        self._count = count
        self.ready = ReadyQueue()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[asyncio.Task[None], _Run] = {}
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        self._processes: ProcessPool | None = None
        self._watch: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for number in range(self._count):
            name = f"nexus-{self._consumer.group.name}-{number}"
            self._tasks.append(asyncio.get_running_loop().create_task(self._work(), name=name))

    def push(self, lane: Lane) -> None:
        """Take a lane whose next delivery may start."""
        self.ready.push(lane)
        if self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _work(self) -> None:
        consumer = self._consumer
        clock = consumer.clock
        ready = self.ready
        task = asyncio.current_task()
        assert task is not None
        turn_began = clock.monotonic()
        while True:
            if not ready:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                turn_began = clock.monotonic()
                continue
            lane = ready.pop()
            delivery = lane.owner.begin(lane, clock.now())
            if delivery is not None:
                run = self._running[task] = _Run(task, [delivery])
                try:
                    await self._deliver(run, delivery)
                finally:
                    del self._running[task]
            if clock.monotonic() - turn_began >= _TURN_S:
                await asyncio.sleep(0)
                turn_began = clock.monotonic()

    async def _deliver(self, run: _Run, delivery: Delivery) -> None:
        """See one delivery, or a batch that it begins, through to its outcome."""
        if not delivery.lane.owner.on_probation:
            await self._deliver_now(run, delivery)
            return
        try:
            await self._consumer.alone.acquire()
        except asyncio.CancelledError:
            self._finish(delivery, CANCELLED)
            if not run.interrupted:
                raise
            run.task.uncancel()
            return
        try:
            await self._deliver_now(run, delivery)
        finally:
            self._consumer.alone.release()

    async def _deliver_now(self, run: _Run, delivery: Delivery) -> None:
        consumer = self._consumer
        owner = delivery.lane.owner
        try:
            if delivery.event is None:
                delivery.event = await consumer.load(delivery)
            event = delivery.event
            route: Subscription | None = delivery.route or consumer.group.route(event)
            if route is None:
                outcome: Outcome | Cancelled = ACK  # parked once, and no handler wants it any more
            elif event.expirytime is not None and event.expirytime.timestamp() <= consumer.clock.now():
                consumer.stats.expired += 1
                outcome = ACK
            elif delivery.attempt > route.retry.max_attempts + INTERRUPTED_LIMIT:
                outcome = DeadLetter("interrupted", f"{delivery.attempt - 1} attempts ended without an outcome")
            elif owner.on_probation and not delivery.parked and not await consumer.settle_before(delivery):
                outcome = CANCELLED
            elif route.binding.batch:
                await self._deliver_batch(run, delivery, route)
                return
            else:
                outcome = await self._call(run, route, delivery, event)
        except asyncio.CancelledError:
            self._finish(delivery, CANCELLED)
            if not run.interrupted:
                raise
            run.task.uncancel()
            return
        except BackendError as error:  # the parked event could not be read: nothing was tried
            log.warning("group %s: %s", consumer.group.name, error)
            outcome = RetryIn(1.0, str(error))
        self._finish(delivery, outcome)

    def _finish(self, delivery: Delivery, outcome: Outcome | Cancelled) -> None:
        self._consumer.ended(delivery, outcome)

    async def _call(self, run: _Run, route: Subscription, delivery: Delivery, event: Event[Any]) -> Outcome | Cancelled:
        """Call a handler with one event; whatever happens is an outcome."""
        try:
            arguments = route.binding.arguments(event, lambda: self._context(delivery))
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            return DeadLetter("undecodable", describe(error))  # no retry can make the bytes fit
        current_event.set(event)
        try:
            result = await self._invoke(run, route, arguments)
            if result is None:
                return ACK
            if isinstance(result, Ack | RetryIn | Park | DeadLetter):
                return result
            await self._publish_returned(result, route, event)
            return ACK
        except asyncio.CancelledError:
            if run.interrupted != "time limit":
                raise
            run.task.uncancel()
            run.interrupted = ""
            return self._failed(route, delivery, HandlerTimeout(f"longer than {route.timeout_s:g} s"))
        except Exception as failure:
            return self._failed(route, delivery, failure)
        finally:
            current_event.set(None)

    async def _invoke(self, run: _Run, route: Subscription, arguments: tuple[Any, ...]) -> Any:
        binding = route.binding
        if route.timeout_s is not None:
            run.deadline = self._consumer.clock.monotonic() + route.timeout_s
            self._watch_deadlines()
        try:
            if binding.run_in == "loop":
                return await binding.handler(*arguments)
            if binding.run_in == "process":
                if self._processes is None:
                    self._processes = ProcessPool(self._count)
                return await self._processes.run(binding.handler, arguments)
            if self._threads is None:
                self._threads = concurrent.futures.ThreadPoolExecutor(self._count, f"nexus-{self._consumer.group.name}")
            run.cancellable = False  # a thread cannot be stopped: its lane stays taken until it returns
            work = contextvars.copy_context().run
            call = asyncio.get_running_loop().run_in_executor(self._threads, work, binding.handler, *arguments)
            return await self._outlast(run, call)
        finally:
            run.deadline = None
            run.cancellable = True

    async def _outlast(self, run: _Run, call: asyncio.Future[Any]) -> Any:
        """Wait for a thread, whatever happens meanwhile."""
        while True:
            try:
                return await asyncio.shield(call)
            except asyncio.CancelledError:
                if call.done():
                    raise
                run.hard_cancelled = True
                await asyncio.wait([call])
                raise

    def _context(self, delivery: Delivery) -> Context:
        partition = self._consumer.partition_of(delivery)
        return Context(
            self._consumer.group.name,
            partition.topic,
            partition.number,
            delivery.position,
            delivery.attempt,
            delivery.lane.owner.epoch,
        )

    def _failed(self, route: Subscription, delivery: Delivery, failure: Exception) -> Outcome:
        """Turn a failure into an outcome, by the subscription's policy."""
        decided = route.retry.decide(attempt=delivery.attempt, failure=failure, dice=random.random())
        if isinstance(decided, Ack):
            return decided
        error = describe(failure)
        log.info(
            "group %s: %s failed, attempt %d: %s",
            self._consumer.group.name,
            route.binding.name,
            delivery.attempt,
            failure,
        )
        return _with_error(decided, error)

    async def _publish_returned(self, result: object, route: Subscription, event: Event[Any]) -> None:
        """Publish what a handler returned, before its event is acknowledged."""
        consumer = self._consumer
        now = datetime.fromtimestamp(consumer.clock.now(), UTC)
        made = returned_events(result, event, route, consumer.group.name, consumer.source, now)
        for answer in await consumer.publisher.publish_many(made):
            if isinstance(answer, PublishError):
                if not isinstance(answer, IdConflict):
                    raise answer
                # Other code made other content of the same event between two attempts: the first stands.
                consumer.stats.returned_conflicts += 1

    # ---- batches --------------------------------------------------------------------------------------------------

    async def _deliver_batch(self, run: _Run, first: Delivery, route: Subscription) -> None:
        """Call a batch handler with what is ready for it, at most one event per key."""
        batch = [first]
        now = self._consumer.clock.now()
        others: list[Lane] = []
        for _ in range(len(self.ready)):
            if len(batch) >= route.batch_size:
                break
            lane = self.ready.pop()
            head = None if lane.batch or not lane.queue else lane.queue[0]
            if head is None or head.route is not route or lane.owner.on_probation:
                others.append(lane)
                continue
            delivery = lane.owner.begin(lane, now)
            if delivery is not None:
                batch.append(delivery)
        for lane in others:
            self.ready.push(lane)
        run.deliveries = batch
        outcomes: list[Outcome | Cancelled] = [CANCELLED] * len(batch)
        try:
            outcomes = await self._call_batch(run, route, batch)
        except asyncio.CancelledError:
            if not run.interrupted:
                raise
            run.task.uncancel()
        finally:
            for delivery, outcome in zip(batch, outcomes, strict=True):
                self._finish(delivery, outcome)

    async def _call_batch(self, run: _Run, route: Subscription, batch: list[Delivery]) -> list[Outcome | Cancelled]:
        outcomes: list[Outcome | Cancelled] = [ACK] * len(batch)
        good: list[int] = []
        for index, delivery in enumerate(batch):
            event = delivery.event
            assert event is not None
            try:
                route.binding.arguments(event, lambda d=delivery: self._context(d))  # type: ignore[misc]
                good.append(index)
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                outcomes[index] = DeadLetter("undecodable", describe(error))
        pairs = [(batch[i].event, lambda d=batch[i]: self._context(d)) for i in good]
        if not good:
            return outcomes
        try:
            result = await self._invoke(run, route, route.binding.batch_arguments(pairs))  # type: ignore[arg-type]
            for index, outcome in zip(good, _batch_outcomes(result, len(good), route), strict=True):
                outcomes[index] = outcome
        except asyncio.CancelledError:
            if run.interrupted != "time limit":
                raise
            run.task.uncancel()
            run.interrupted = ""
            failure: Exception = HandlerTimeout(f"longer than {route.timeout_s:g} s")
        except Exception as raised:
            failure = raised
        else:
            return outcomes
        for index in good:
            outcomes[index] = self._failed(route, batch[index], failure)
        return outcomes

    # ---- time limits and shutdown ---------------------------------------------------------------------------------

    def _watch_deadlines(self) -> None:
        """Interrupt handlers past their time limit; one timer for all of them."""
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(0.02, self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._watch = None
        now = self._consumer.clock.monotonic()
        waiting = False
        for run in self._running.values():
            if run.deadline is None:
                continue
            if run.deadline > now:
                waiting = True
            elif run.cancellable:
                run.interrupt("time limit")
            else:
                run.deadline = None
                log.warning(
                    "group %s: a thread runs past its time limit; it cannot be stopped", self._consumer.group.name
                )
        if waiting:
            self._watch_deadlines()

    def interrupt(self, owner: object, reason: str) -> None:
        """Cancel the handlers of one owner's deliveries; those in threads go on until they return."""
        for run in self._running.values():
            if any(delivery.lane.owner is owner for delivery in run.deliveries) and run.cancellable:
                run.interrupt(reason)

    async def close(self) -> None:
        """End the workers. Deliveries still running are cancelled; threads are waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        if self._processes is not None:
            await self._processes.close()


class _Run:
    """What one worker is doing."""

    __slots__ = ("cancellable", "deadline", "deliveries", "hard_cancelled", "interrupted", "task")

    def __init__(self, task: asyncio.Task[None], deliveries: list[Delivery]) -> None:
        self.task = task
        self.deliveries = deliveries
        self.deadline: float | None = None
        self.cancellable = True
        self.hard_cancelled = False
        self.interrupted = ""

    def interrupt(self, reason: str) -> None:
        if not self.interrupted:
            self.interrupted = reason
            self.task.cancel()


def describe(failure: BaseException) -> str:
    """Return the failure with the end of its traceback, for the dead letter."""
    text = "".join(traceback.format_exception(failure)).rstrip()
    summary = traceback.format_exception_only(failure)[-1].strip()
    text = f"{summary}\n{text}"
    return (
        text
        if len(text) <= ERROR_LIMIT_CHARS
        else f"{text[: ERROR_LIMIT_CHARS // 2]}\n…\n{text[-ERROR_LIMIT_CHARS // 2 :]}"
    )


def _with_error(outcome: RetryIn | Park | DeadLetter, error: str) -> Outcome:
    match outcome:
        case RetryIn(delay_s):
            return RetryIn(delay_s, error)
        case Park(delay_s):
            return Park(delay_s, error)
        case DeadLetter(reason):
            return DeadLetter(reason, error)


def _batch_outcomes(result: object, count: int, route: Subscription) -> list[Outcome]:
    if result is None:
        return [ACK] * count
    if not isinstance(result, list | tuple) or len(result) != count:
        raise HandlerError(
            f"batch handler {route.binding.name} must return None or one outcome per event ({count})",
        )
    outcomes: list[Outcome] = []
    for item in result:
        if item is None:
            outcomes.append(ACK)
        elif isinstance(item, Ack | RetryIn | Park | DeadLetter):
            outcomes.append(item)
        else:
            raise HandlerError(f"batch handler {route.binding.name} returned {item!r}, which is no outcome")
    return outcomes
