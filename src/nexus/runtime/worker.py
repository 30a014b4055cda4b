"""The workers of one consumer group: take the next ready lane, call its handler, say how it ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from nexus.core.lanes import Delivery, Lane, ReadyQueue
from nexus.core.lifecycle import Stage, stage_of
from nexus.core.outcome import ACK, CANCELLED, Ack, Cancelled, DeadLetter, Outcome, Park, RetryIn
from nexus.errors import BackendError, HandlerError, IdConflict, NexusError
from nexus.event import Event
from nexus.runtime.binding import Context, event_itself
from nexus.runtime.bounds import replay_of
from nexus.runtime.subscription import Publish, Subscription, returned_events

if TYPE_CHECKING:
    import concurrent.futures

    from nexus.runtime.consumer import Consumer
    from nexus.runtime.processes import ProcessPool

log = logging.getLogger("nexus.delivery")

INTERRUPTED_LIMIT = 6
"""Attempts beyond the policy's, before an event on probation is given up without an outcome (rule 13)."""
ERROR_LIMIT_CHARS = 4_000
PART_LIMIT_CHARS = 800
"""Of a frame or of a message; a part that is longer keeps its beginning and its end."""
DELAY_LIMIT_S = 100 * 365.25 * 86_400
_TURN_S = 0.005  # workers whose handlers never wait give the loop back at least this often
TIME_LIMIT = "time limit"
FAILURES = (Exception, SystemExit)
"""What a handler raises when its attempt has failed. `sys.exit` is one: an event does not decide when a worker ends."""
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
        self._closing = False
        self._turn_ends = 0.0

    def start(self) -> None:
        for number in range(self._count):
            name = f"nexus-{self._consumer.group.name}-{number}"
            self._tasks.append(asyncio.get_running_loop().create_task(self._consumer.guard(self._work()), name=name))

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
        while True:
            if not ready:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
                continue
            lane = ready.pop()
            began = now()
            delivery = lane.owner.begin(lane, began)
            if delivery is not None:
                await self._deliver(run, delivery, began)
            if began > self._turn_ends:  # all workers of the group share a turn: others on the loop want theirs
                await asyncio.sleep(0)
                self._turn_ends = now() + _TURN_S

    async def _deliver(self, run: _Run, delivery: Delivery, now: float) -> None:
        """See one delivery, or a batch that it begins, through to its outcome. One coroutine: this is the hot path.

        Whatever happens, each begun delivery ends exactly once.
        """
        run.deliveries = (delivery,)
        route: Subscription | None = None
        called = False
        try:
            event = delivery.event
            if event is None:
                event = await self._consumer.load(delivery)
            route = delivery.route or self._consumer.group.route(event)
            outcome: Outcome | Cancelled | None = None
            if route is None or delivery.attempt > 1 or event.expirytime is not None:
                outcome = self._outcome_without_call(delivery, event, route, now)
            if outcome is None and delivery.lane.owner.on_probation and not delivery.parked:
                outcome = None if await self._consumer.settle_before(delivery) else CANCELLED
            if outcome is None:
                assert route is not None
                binding = route.binding
                if binding.batch:
                    await self._deliver_batch(run, delivery, route)
                    return
                if route.plain and binding.only is not None:
                    argument = event if binding.only is event_itself else _decoded(binding.only, event)
                    current_event.set(event)
                    called = True
                    result = await binding.handler(argument)
                else:
                    arguments = _decoded(binding.arguments, event, lambda: self._context(delivery))
                    current_event.set(event)
                    if route.lifecycle:
                        await self._publish_stage("started", None, route, event)
                    called = True
                    result = await self._invoke(run, route, arguments)
                plain = result is None and not route.lifecycle
                outcome = ACK if plain else await self._outcome_of(result, route, event)
        except asyncio.CancelledError as cancelled:
            outcome = self._outcome_of_cancellation(run, cancelled, delivery, route)
            if outcome is None:
                self._consumer.ended(delivery, CANCELLED)
                raise
        except FAILURES as failure:
            outcome = self._outcome_of_failure(failure, delivery, route, called)
        except BaseException:
            self._consumer.ended(delivery, CANCELLED)
            raise
        finally:
            run.deliveries = ()
            if run.interrupted:
                run.forget()
        if isinstance(outcome, DeadLetter) and route is not None and route.lifecycle:
            outcome = await self._fail(outcome, route, delivery)
        self._consumer.ended(delivery, outcome)

    async def _fail(self, outcome: DeadLetter, route: Subscription, delivery: Delivery) -> Outcome:
        """Publish that a request has failed for good, before it is a dead letter."""
        assert delivery.event is not None
        told = {"reason": outcome.reason, "error": outcome.error.partition("\n")[0]}
        try:
            await self._publish_stage("failed", told, route, delivery.event)
        except NexusError as error:
            log.warning("group %s: %s", self._consumer.group.name, error)
            return RetryIn(1.0, clean_text(str(error)))
        except BaseException:
            self._consumer.ended(delivery, CANCELLED)
            raise
        return outcome

    async def _publish_stage(self, stage: Stage, data: object, route: Subscription, event: Event[Any]) -> None:
        """Publish where a request is; its id follows from the request, so each stage is published once."""
        await self._publish_returned(Publish(stage_of(event.type, stage), data), route, event)

    def _outcome_without_call(
        self, delivery: Delivery, event: Event[Any], route: Subscription | None, now: float
    ) -> Outcome | None:
        if route is None:
            return ACK  # parked once, and no handler wants it any more
        if (
            event.expirytime is not None
            and event.expirytime.timestamp() <= now
            and not _is_wanted_again(delivery, event)
        ):
            self._consumer.stats.expired += 1
            return ACK
        if delivery.lane.owner.on_probation and delivery.attempt > route.retry.most_attempts + INTERRUPTED_LIMIT:
            return DeadLetter(
                "interrupted", f"the process ended during it, again and again; attempt {delivery.attempt}"
            )
        return None

    async def _outcome_of(self, result: object, route: Subscription, event: Event[Any]) -> Outcome:
        if isinstance(result, Ack | RetryIn | Park | DeadLetter):
            return checked(result)
        if route.lifecycle:
            await self._publish_stage("success", result, route, event)
        else:
            await self._publish_returned(result, route, event)
        return ACK

    def _outcome_of_cancellation(
        self, run: _Run, cancelled: BaseException, delivery: Delivery, route: Subscription | None
    ) -> Outcome | Cancelled | None:
        """Tell apart who cancelled: the time limit, a moved partition, the handler itself; None: the bus closes."""
        if run.interrupted == TIME_LIMIT:
            assert route is not None
            return self._failed(route, delivery, HandlerTimeout(f"longer than {route.timeout_s:g} s"))
        if run.interrupted:
            return CANCELLED
        if self._closing or route is None:
            return None
        failure = RuntimeError("the handler was cancelled from within")
        failure.__cause__ = cancelled
        return self._failed(route, delivery, failure)

    def _outcome_of_failure(
        self, failure: BaseException, delivery: Delivery, route: Subscription | None, called: bool
    ) -> Outcome | Cancelled:
        if isinstance(failure, Undecodable):  # no retry can make the bytes fit
            return DeadLetter("undecodable", describe(failure.__cause__ or failure))
        if not called or route is None:  # the store failed before anything was tried
            log.warning("group %s: %s", self._consumer.group.name, failure)
            waits = delivery.parked or (route is not None and route.lifecycle)  # else it would be tried at once, again
            return RetryIn(1.0, clean_text(str(failure))) if waits else CANCELLED
        return self._failed(route, delivery, failure)

    async def _invoke(self, run: _Run, route: Subscription, arguments: tuple[Any, ...]) -> Any:
        binding = route.binding

        def begun() -> None:
            if route.timeout_s is not None:
                run.deadline = self._consumer.clock.monotonic() + route.timeout_s
                self._watch_deadlines()

        try:
            if binding.run_in == "loop":
                begun()
                return await binding.handler(*arguments)
            if binding.run_in == "process":
                if self._processes is None:
                    from nexus.runtime.processes import ProcessPool  # most programs never need it

                    self._processes = ProcessPool(self._count)
                return await self._processes.run(binding.handler, arguments, begun)
            begun()
            if self._threads is None:
                import concurrent.futures.thread

                self._threads = concurrent.futures.ThreadPoolExecutor(self._count, f"nexus-{self._consumer.group.name}")
            run.cancellable = False  # a thread cannot be stopped: its lane stays taken until it returns
            work = contextvars.copy_context().run
            call = asyncio.get_running_loop().run_in_executor(self._threads, work, _called, binding.handler, arguments)
            return await self._outlast(call)
        finally:
            run.deadline = None
            run.cancellable = True

    async def _outlast(self, call: asyncio.Future[Any]) -> Any:
        """Wait for a thread, also if the worker itself is cancelled: nothing can stop it, and its lane stays taken."""
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            if not call.done():
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
            replay_of(delivery.event) if delivery.event is not None else None,
        )

    def _failed(self, route: Subscription, delivery: Delivery, failure: BaseException) -> Outcome:
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
            error.partition("\n")[0],
        )
        return checked(_with_error(decided, error))

    async def _publish_returned(self, result: object, route: Subscription, event: Event[Any]) -> None:
        """Publish what a handler returned, before its event is acknowledged."""
        consumer = self._consumer
        now = datetime.fromtimestamp(consumer.clock.now(), UTC)
        made = returned_events(result, event, route, consumer.group.name, consumer.source, now)
        for answer in await consumer.publisher.publish_many(made):
            if isinstance(answer, NexusError):
                if not isinstance(answer, IdConflict):
                    raise answer
                # Other code made other content of the same event between two attempts: the first stands.
                consumer.stats.returned_conflicts += 1
                log.warning("group %s: %s", consumer.group.name, answer.message)

    # ---- batches --------------------------------------------------------------------------------------------------

    async def _deliver_batch(self, run: _Run, first: Delivery, route: Subscription) -> None:
        """Call a batch handler with what is ready for it, at most one event per key, and end each of them."""
        batch = [first, *self._gather(route)]
        run.deliveries = batch
        outcomes: list[Outcome | Cancelled] = [CANCELLED] * len(batch)
        try:
            outcomes = await self._call_batch(run, route, batch)
        finally:
            for delivery, outcome in zip(batch, outcomes, strict=True):
                self._consumer.ended(delivery, outcome)

    def _gather(self, route: Subscription) -> list[Delivery]:
        """Begin further deliveries of the same handler, as far as a short look at the ready queue finds them."""
        found: list[Delivery] = []
        others: list[Lane] = []
        now = self._consumer.clock.now()
        for _ in range(min(len(self.ready), 4 * route.batch_size)):
            if len(found) + 1 >= route.batch_size:
                break
            lane = self.ready.pop()
            head = None if lane.batch or not lane.queue else lane.queue[0]
            if head is None or head.route is not route or lane.owner.on_probation:
                others.append(lane)
                continue
            delivery = lane.owner.begin(lane, now)
            if delivery is not None:
                found.append(delivery)
        for lane in others:
            self.ready.push(lane)
        return found

    async def _call_batch(self, run: _Run, route: Subscription, batch: list[Delivery]) -> list[Outcome | Cancelled]:
        outcomes: list[Outcome | Cancelled] = [ACK] * len(batch)
        rows: list[tuple[Any, ...]] = []
        called: list[int] = []
        now = self._consumer.clock.now()
        for index, delivery in enumerate(batch):
            event = delivery.event
            assert event is not None
            early = self._outcome_without_call(delivery, event, route, now)
            if early is not None:
                outcomes[index] = early
                continue
            try:
                rows.append(_decoded(route.binding.arguments, event, lambda d=delivery: self._context(d)))
                called.append(index)
            except Undecodable as failure:
                outcomes[index] = DeadLetter("undecodable", describe(failure.__cause__ or failure))
        if not called:
            return outcomes
        try:
            result = await self._invoke(run, route, tuple(list(column) for column in zip(*rows, strict=True)))
            for index, outcome in zip(called, _batch_outcomes(result, len(called), route), strict=True):
                outcomes[index] = outcome
            return outcomes
        except asyncio.CancelledError as cancelled:
            decided = [self._outcome_of_cancellation(run, cancelled, batch[index], route) for index in called]
            if None in decided:
                raise
            for index, given in zip(called, decided, strict=True):
                outcomes[index] = given or CANCELLED
        except FAILURES as failure:
            for index in called:
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
        """End the workers. Deliveries still running are cancelled, except in threads, which are waited for."""
        self._closing = True
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

    __slots__ = ("cancellable", "deadline", "deliveries", "interrupted", "task")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.deliveries: Sequence[Delivery] = ()
        self.deadline: float | None = None
        self.cancellable = True
        self.interrupted = ""
        """Why the bus cancelled the handler; empty if it did not."""

    def works_for(self, owner: object) -> bool:
        return any(delivery.lane.owner is owner for delivery in self.deliveries)

    def interrupt(self, reason: str) -> None:
        if not self.interrupted:
            self.interrupted = reason
            self.task.cancel()

    def forget(self) -> None:
        """The delivery is over, and so is its cancellation, whether the handler let it through or not."""
        self.interrupted = ""
        self.task.uncancel()


def _is_wanted_again(delivery: Delivery, event: Event[Any]) -> bool:
    """Whether an operator asked for this event, by requeueing it or by a replay: then its expiry does not count."""
    return delivery.round > 0 or replay_of(event) is not None


def _called(handler: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a plain handler, in a thread. A future takes no StopIteration: whoever waits for it would wait for ever."""
    try:
        return handler(*arguments)
    except StopIteration as failure:
        raise RuntimeError("the handler raised StopIteration") from failure


class Undecodable(Exception):
    """The payload is not what the handler takes."""


def _decoded(build: Callable[..., Any], event: Event[Any], *context: Any) -> Any:
    try:
        return build(event, *context)
    except BackendError:  # the partition was lost meanwhile
        raise
    except FAILURES as error:
        raise Undecodable(str(error)) from error


def checked(outcome: Outcome) -> Outcome:
    """Return an outcome that can be written down. Raises `HandlerError` for a delay that is none."""
    match outcome:
        case RetryIn(delay_s, error) | Park(delay_s, error):
            if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not 0 <= delay_s <= DELAY_LIMIT_S:
                raise HandlerError(
                    f"a handler asked for a delay of {delay_s!r}; wanted seconds from 0 to {DELAY_LIMIT_S:g}"
                )
            return type(outcome)(float(delay_s), clean_text(error))
        case DeadLetter(reason, error):
            return DeadLetter(clean_text(reason)[:200], clean_text(error))
    return outcome


def clean_text(text: object) -> str:
    """Return any text, or what stands for one, as short text that can be stored."""
    text = text if isinstance(text, str) else str(text)
    return _shortened(text, ERROR_LIMIT_CHARS).encode("utf-8", "backslashreplace").decode()


def describe(failure: BaseException) -> str:
    """Return the failure with its traceback, for the dead letter. However long the message, the last frames stay."""
    summary = traceback.format_exception_only(failure)[-1].strip()
    parts = [_shortened(part, PART_LIMIT_CHARS) for part in traceback.format_exception(failure)]
    return clean_text(f"{_shortened(summary, PART_LIMIT_CHARS)}\n{''.join(parts).rstrip()}")


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]}\n…\n{text[-limit // 2 :]}"


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
            outcomes.append(checked(item))
        else:
            raise HandlerError(f"batch handler {route.binding.name} returned {item!r}, which is no outcome")
    return outcomes
