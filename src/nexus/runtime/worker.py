"""The workers of one consumer group: take the next ready lane, call its handler, say how it ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import traceback
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from nexus.core.lanes import Delivery, Lane, ReadyQueue
from nexus.core.outcome import ACK, CANCELLED, Ack, Cancelled, DeadLetter, Outcome, Park, RetryIn
from nexus.errors import HandlerError, IdConflict, PublishError
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.subscription import Subscription, returned_events

if TYPE_CHECKING:
    import concurrent.futures

    from nexus.runtime.consumer import Consumer
    from nexus.runtime.processes import ProcessPool

log = logging.getLogger("nexus.delivery")

INTERRUPTED_LIMIT = 6
"""Attempts beyond the policy's that may end without an outcome, before the event is given up (rule 13)."""
ERROR_LIMIT_CHARS = 4_000
_TURN_S = 0.005  # a worker whose handlers never wait gives the loop back at least this often
TIME_LIMIT = "time limit"
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
        self._runs: list[_Run] = []
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
        now = consumer.clock.now
        ready = self.ready
        task = asyncio.current_task()
        assert task is not None
        run = _Run(task)
        self._runs.append(run)
        turn_ends = now() + _TURN_S
        while True:
            if not ready:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                turn_ends = now() + _TURN_S
                continue
            lane = ready.pop()
            began = now()
            delivery = lane.owner.begin(lane, began)
            if delivery is not None:
                await self._deliver(run, delivery, began)
            if began > turn_ends:
                await asyncio.sleep(0)
                turn_ends = now() + _TURN_S

    async def _deliver(self, run: _Run, delivery: Delivery, now: float) -> None:
        """See one delivery, or a batch that it begins, through to its outcome. One coroutine: this is the hot path."""
        run.delivery = delivery
        route: Subscription | None = None
        called = False
        try:
            event = delivery.event
            if event is None:
                event = delivery.event = await self._consumer.load(delivery)
            route = delivery.route or self._consumer.group.route(event)
            outcome: Outcome | Cancelled | None = None
            if route is None or delivery.attempt > 1 or event.expirytime is not None:
                outcome = self._outcome_without_call(delivery, event, route, now)
            if outcome is None and delivery.lane.owner.on_probation and not delivery.parked:
                outcome = None if await self._consumer.settle_before(delivery) else CANCELLED
            if outcome is None:
                assert route is not None
                if route.binding.batch:
                    await self._deliver_batch(run, delivery, route)
                    return
                arguments = route.binding.arguments(event, lambda: self._context(delivery))
                current_event.set(event)
                called = True
                if route.plain:
                    result = await route.binding.handler(*arguments)
                else:
                    result = await self._invoke(run, route, arguments)
                outcome = ACK if result is None else await self._outcome_of(result, route, event)
        except asyncio.CancelledError:
            limit = run.interrupted == TIME_LIMIT
            run.forgive()
            outcome = CANCELLED
            if limit:
                assert route is not None
                outcome = self._failed(route, delivery, HandlerTimeout(f"longer than {route.timeout_s:g} s"))
        except Exception as failure:
            outcome = self._outcome_of_failure(failure, delivery, route, called)
        finally:
            run.delivery = None
        self._consumer.ended(delivery, outcome)

    def _outcome_without_call(
        self, delivery: Delivery, event: Event[Any], route: Subscription | None, now: float
    ) -> Outcome | None:
        if route is None:
            return ACK  # parked once, and no handler wants it any more
        if event.expirytime is not None and event.expirytime.timestamp() <= now:
            self._consumer.stats.expired += 1
            return ACK
        if delivery.attempt > route.retry.max_attempts + INTERRUPTED_LIMIT:
            return DeadLetter("interrupted", f"{delivery.attempt - 1} attempts ended without an outcome")
        return None

    async def _outcome_of(self, result: object, route: Subscription, event: Event[Any]) -> Outcome:
        if isinstance(result, Ack | RetryIn | Park | DeadLetter):
            return result
        await self._publish_returned(result, route, event)
        return ACK

    def _outcome_of_failure(
        self, failure: Exception, delivery: Delivery, route: Subscription | None, called: bool
    ) -> Outcome:
        if route is None:  # the parked event could not be read: nothing was tried
            log.warning("group %s: %s", self._consumer.group.name, failure)
            return RetryIn(1.0, str(failure))
        if not called:
            return DeadLetter("undecodable", describe(failure))  # no retry can make the bytes fit
        return self._failed(route, delivery, failure)

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
                    from nexus.runtime.processes import ProcessPool  # most programs never need it

                    self._processes = ProcessPool(self._count)
                return await self._processes.run(binding.handler, arguments)
            if self._threads is None:
                import concurrent.futures.thread

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
        run.batch = batch
        outcomes: list[Outcome | Cancelled] = [CANCELLED] * len(batch)
        try:
            outcomes = await self._call_batch(run, route, batch)
        except asyncio.CancelledError:
            run.forgive()
        finally:
            run.batch = ()
            for delivery, outcome in zip(batch, outcomes, strict=True):
                self._consumer.ended(delivery, outcome)

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
            if run.interrupted != TIME_LIMIT:
                raise
            run.forgive()
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
        for run in self._runs:
            if run.deadline is None:
                continue
            if run.deadline > now:
                waiting = True
            elif run.cancellable:
                run.interrupt(TIME_LIMIT)
            else:
                run.deadline = None
                log.warning(
                    "group %s: a thread runs past its time limit; it cannot be stopped", self._consumer.group.name
                )
        if waiting:
            self._watch_deadlines()

    def interrupt(self, owner: object, reason: str) -> None:
        """Cancel the handlers of one owner's deliveries; those in threads go on until they return."""
        for run in self._runs:
            if run.cancellable and run.works_for(owner):
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

    __slots__ = ("batch", "cancellable", "deadline", "delivery", "interrupted", "task")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.delivery: Delivery | None = None
        self.batch: Sequence[Delivery] = ()
        self.deadline: float | None = None
        self.cancellable = True
        self.interrupted = ""
        """Why the handler was cancelled by the bus; empty if somebody else cancels the worker itself."""

    def works_for(self, owner: object) -> bool:
        one = self.delivery
        return (one is not None and one.lane.owner is owner) or any(d.lane.owner is owner for d in self.batch)

    def interrupt(self, reason: str) -> None:
        if not self.interrupted:
            self.interrupted = reason
            self.task.cancel()

    def forgive(self) -> None:
        """Go on after a cancellation that was meant for the handler; raise it again if it was meant for the worker."""
        if not self.interrupted:
            raise
        self.interrupted = ""
        self.task.uncancel()


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
