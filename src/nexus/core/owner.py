"""What the owner of one (group, partition) may do next: the delivery rules as one pure state machine.

The shell feeds it with what was fetched, what the parking topic said and how deliveries ended, and carries out what
it asks for. It never waits and does no I/O:

    offer(...)       events came from the topic                  -> lanes, or settled unrun (floor, done before)
    tail(...)        a record was read from the parking topic    -> the fold; it moves only through the log
    begin, end       a delivery starts, and how it ended         -> ack, hold in the lane, park, dead letter
    take_records     records to append as one ordered batch      -> nothing of their keys starts until landed()
    landed           that batch is durable and was tailed        -> what it parked is done in the ledger
    cursor, settled  what to store, and that it was stored

The rules, numbered as in ``docs/delivery.md``:

 1 fence, then claim, then read, then fetch (the shell; `take_over` gives the number)
 2 records carry the epoch, and a reader drops those of an epoch that is not in force (`Fold`)
 3 a claim counts only if its epoch is higher (`Fold`)
 4 a key parks only from the head of its lane, when nothing of it runs; followers in position order (`_advance`)
 5 a fetched position at or below its key's floor is settled unrun (`offer`)
 6 a key's lane is closed from the decision to park until the append is acknowledged (`Lane.sending`)
 7 one unacknowledged append per key (`_send`)
 8 appended, then done in the ledger, then settled (`landed`)
 9 what ended in the parking topic is written before anything of the key that was not started yet starts (`report`)
10 parked deliveries run in the key's own lane, by the same gate (`_advance`)
11 requeue and discard name a round; the owner learns of them by tailing (`tail`)
12 attempts of a parked entry are durable before its handler starts (`Start`)
13 probation: after two unclean takeovers without progress an attempt is settled before it starts, and its end before
   the next one starts (`begin`, `settled`)
14 release: stop, wait for appends, take attempts of cancelled runs back, settle clean (`stop`, `drained`, `cursor`)
15 reset: a group that was sent elsewhere is taken over again, and the new owner writes the place down before it fetches
   (the shell; `after_reset` lets a cursor follow that does not know of it)
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from nexus.core import cursor as cursor_codec
from nexus.core.cuts import Cuts
from nexus.core.lanes import Delivery, Lane
from nexus.core.ledger import Ledger
from nexus.core.outcome import Ack, Cancelled, DeadLetter, Outcome, Park
from nexus.core.parking import (
    Carry,
    Checkpoint,
    Dead,
    Discard,
    Done,
    Entry,
    Failed,
    Fold,
    LaneKey,
    Record,
    Requeue,
    Start,
    Unreadable,
    Unstart,
    key_state,
)
from nexus.core.policy import PROBATION_AFTER, Policy
from nexus.core.probation import Turn
from nexus.event import Event
from nexus.spi.backend import Cursor, Stored

PAUSED = "paused"


class Owner:
    """One ownership of one partition of one group."""

    def __init__(
        self,
        stored: Cursor,
        state: cursor_codec.State,
        fold: Fold,
        policy: Policy,
        ready: Callable[[Lane], None],
        turn: Turn | None = None,
    ) -> None:
        """Go on at the cursor that `take_over` made and that was stored.

        ``fold`` is read up to and including the owner's own claim; ``ready`` is called with each lane whose next
        delivery may `begin`. ``turn`` is shared by all owners of a process.
        """
        self.epoch = stored.epoch
        low = stored.low
        self.policy = policy
        self.fold = fold
        self.ledger = Ledger(low, state.done, dict(state.attempts))
        self.unclean = state.unclean
        self.stopped: str | None = None
        """Why nothing starts any more, or None."""
        self.queued_events = 0
        self.queued_bytes = 0
        self._ready = ready
        self._lanes: dict[LaneKey, Lane] = {}
        self._timers: list[tuple[float, int, LaneKey]] = []
        self._timer_ids = 0
        self._outbox: list[tuple[Lane | None, list[Record]]] = []
        self._in_flight: list[tuple[Lane | None, list[Record]]] = []
        self._running = 0
        self._turn = turn or Turn()
        self._turns: deque[LaneKey] = deque()  # in probation: keys that wait for the turn
        self._turn_ended: Lane | None = None  # in probation: has the turn until its end is durable
        self._turn_covered: Lane | None = None  # the same, and the cursor last offered holds that end
        self._ragged = False
        self._takeover_low = low
        self._settled_low = low
        self.last_settled = stored
        """The cursor as it was last stored."""
        self.cuts = Cuts(state.cuts)
        self._checkpoint = (state.place, state.place_epoch, state.base, state.place_reset)
        self._offered_place = state.place
        self.trim_below = state.place
        """Place in the parking topic below which no owner will read again."""
        self._dirty = True

    # ---- what comes in --------------------------------------------------------------------------------------------

    def resume(self, now: float) -> None:
        """Let parked keys that the fold knows go on; once, after takeover."""
        for key in list(self.fold.keys):
            self._advance(self._lane(key), now)

    def offer(self, stored: Stored, now: float, route: Any = None) -> None:
        """Take in a fetched event. Positions rise."""
        position = stored.position
        self._dirty = True
        if not self.ledger.begin(position):
            return
        event = stored.event
        key: LaneKey = position
        if event.key is not None and self.policy.ordered:
            key = (event.tenant, event.key)
        fold = self.fold
        if position < fold.base or (fold.keys and position <= fold.floor(key)):
            self.ledger.finish(position)  # rule 5
            return
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self, key)
        delivery = Delivery(lane, position, event, stored.size)
        delivery.route = route
        lane.queue.append(delivery)
        self.queued_events += 1
        self.queued_bytes += stored.size
        if not lane.queued and lane.running is None:
            if fold.keys or self.stopped is not None or lane.sending or lane.due:
                self._advance(lane, now)
            else:
                lane.queued = True
                self._ready(lane)

    def skip(self, position: int) -> None:
        """Take in a fetched position that no handler of the group wants: done at once."""
        self._dirty = True
        if self.ledger.begin(position):
            self.ledger.finish(position)

    def cut(self, filter: int) -> None:
        """Have the group's filter of this number judge what is fetched from now on; nothing is until that is stored.

        Without effect while there are too many cuts; ask again.
        """
        if self.cuts.add(self.ledger.next, filter):
            self._dirty = True

    def trimmed(self, first: int) -> None:
        """The topic was trimmed: events below ``first`` that were not fetched are gone."""
        self._dirty = True
        self.ledger.skip_to(first)

    def tail(self, place: int, record: Record | Unreadable, now: float) -> bool:
        """Fold in a record of the parking topic, own or foreign, in place order; True if it was taken.

        False for a record of one's own means that another owner claimed before it landed.
        """
        taken = self.fold.apply(place, record)
        if taken and isinstance(record, Requeue | Discard):
            self._dirty = True
            lane = self._lane(record.key)
            self._drop_carry(lane)
            self._advance(lane, now)
        if self.deposed and self.stopped is None:
            self.stopped = f"epoch {self.fold.epoch} is in force, not {self.epoch}"
        return taken

    # ---- the gate -------------------------------------------------------------------------------------------------

    def _lane(self, key: LaneKey) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(self, key)
        return lane

    def _closed(self, lane: Lane) -> bool:
        """Tell whether nothing of the key may start (rules 6 and 10)."""
        return lane.sending or lane.running is not None or self.stopped is not None

    def _advance(self, lane: Lane, now: float) -> None:
        """Do what the key may do next: start, send records, wait for a timer, or be forgotten."""
        if lane.sending or lane.running is not None:
            return
        if self.stopped is not None:
            self._wind_down(lane)
            return
        if lane.batch:
            self._make_ready(lane)
            return
        records: list[Record] = lane.report or []
        ended = {record.position for record in records if isinstance(record, Done)} if records else ()
        if records and len(ended) < len(records):  # a failure: what may follow depends on the fold behind it
            self._send(lane, records)
            return
        known = self.fold.keys.get(lane.key) if self.fold.keys else None
        state = key_state(known, dead_blocks=self.policy.on_dead != "skip")
        due = 0.0
        if known is not None and state == "parked":
            starts, due = self._starts(lane, ended, now)
            records += starts
            state = "parked" if due or starts or not ended else "free"
        if state != "free" and lane.queue and (state == "blocked" or due or self._crowded(lane)):
            records += [self._entry(delivery) for delivery in lane.queue]
        if records:
            self._send(lane, records)
        elif state == "parked":
            if due:
                self._set_timer(due, lane)
        elif state == "free" and lane.queue:
            if lane.due <= now:
                self._make_ready(lane)
            elif self._crowded(lane):
                self._park(lane, lane.due, "", now)
            else:
                self._set_timer(lane.due, lane)
        elif not lane.queued:
            self._lanes.pop(lane.key, None)

    def _starts(
        self, lane: Lane, ended: Sequence[int] | set[int] | tuple[()], now: float
    ) -> tuple[list[Record], float]:
        """Return `Start` records for the lowest open entries, or the time at which the lowest is due."""
        known = self.fold.keys[lane.key]
        limit = 1 if self.on_probation else min(lane.starts, self.policy.start_limit)
        barrier = known.dead[0] if known.dead and self.policy.on_dead != "skip" else None
        starts: list[Record] = []
        for position in islice(known.opens(ended), limit):
            entry = known.touched.get(position)
            due = entry.due if entry else 0.0
            if barrier is not None and position > barrier:
                break
            if due > now:
                if starts:
                    break
                return [], due
            attempts, round = (entry.attempts, entry.round) if entry else (0, 0)
            starts.append(Start(self.epoch, lane.key, position, round, attempts + 1))
        if starts and self.on_probation:
            if not self._take_turn(lane):
                return [], 0.0
            self._turn_ended = self._turn_covered = None
        return starts, 0.0

    def _take_turn(self, lane: Lane) -> bool:
        if self._turn.take((self, lane.key), self._take_turns):
            return True
        self._turns.append(lane.key)
        return False

    def _crowded(self, lane: Lane) -> bool:
        """Tell whether what waits in this lane should go to the parking topic rather than stay in memory."""
        return len(lane.queue) > self.policy.lane_limit or len(self.ledger) * 2 > self.policy.window_limit

    def _entry(self, delivery: Delivery) -> Entry:
        event = delivery.event
        assert event is not None
        attempts = self.ledger.attempts.get(delivery.position, 0)
        return Entry(self.epoch, delivery.lane.key, delivery.position, event, attempts=attempts)

    def _park(self, lane: Lane, due: float, error: str, now: float) -> None:
        """Send the lane to the parking topic, head first (rule 4)."""
        head, *followers = lane.queue
        event = head.event
        assert event is not None
        attempts = self.ledger.attempts.get(head.position, 0)
        entry = Entry(self.epoch, lane.key, head.position, event, attempts=attempts, due=due, error=error, at=now)
        self._send(lane, [entry, *(self._entry(delivery) for delivery in followers)])

    def _make_ready(self, lane: Lane) -> None:
        if not lane.queued:
            lane.queued = True
            self._ready(lane)

    def _send(self, lane: Lane, records: list[Record]) -> None:
        lane.report = None
        lane.sending = True
        self._outbox.append((lane, records))

    # ---- deliveries -----------------------------------------------------------------------------------------------

    def begin(self, lane: Lane, now: float) -> Delivery | None:
        """Start the lane's next delivery and count its attempt (G6); None if it may not start any more.

        In probation (`on_probation`) the shell must settle before it calls the handler.
        """
        lane.queued = False
        if self.unclean >= PROBATION_AFTER and self.on_probation:
            return self._begin_on_probation(lane, now)
        if lane.batch or self.fold.keys or lane.running is not None or lane.sending or self.stopped is not None:
            delivery = self._next(lane, now)
            if delivery is None:
                return None
        else:
            if not lane.queue:
                self._lanes.pop(lane.key, None)
                return None
            delivery = lane.queue[0]
            attempts = self.ledger.attempts
            delivery.attempt = attempts[delivery.position] = attempts.get(delivery.position, 0) + 1
        lane.running = delivery
        self._running += 1
        self._dirty = True
        return delivery

    def _begin_on_probation(self, lane: Lane, now: float) -> Delivery | None:
        if not self._take_turn(lane):
            return None
        delivery = self._next(lane, now)
        if delivery is None:
            if self._turn_ended is not lane and not lane.sending:
                self._turn.free((self, lane.key), now)
            return None
        self._turn_ended = self._turn_covered = None
        lane.running = delivery
        self._running += 1
        self._dirty = True
        return delivery

    def _next(self, lane: Lane, now: float) -> Delivery | None:
        if self._closed(lane):
            return None
        if lane.batch:
            return lane.batch.popleft()
        known = self.fold.keys.get(lane.key) if self.fold.keys else None
        if not lane.queue or (
            known is not None and key_state(known, dead_blocks=self.policy.on_dead != "skip") != "free"
        ):
            self._advance(lane, now)
            return None
        delivery = lane.queue[0]
        attempts = self.ledger.attempts
        delivery.attempt = attempts[delivery.position] = attempts.get(delivery.position, 0) + 1
        return delivery

    @property
    def on_probation(self) -> bool:
        return self.unclean >= PROBATION_AFTER

    def ack(self, delivery: Delivery) -> bool:
        """Take the shortest way of `end` with an `Ack`, where nothing is parked; False if it must be called."""
        if delivery.parked or self.fold.keys or self._turn.holder is not None or self.stopped is not None:
            return False
        lane = delivery.lane
        lane.running = None
        lane.due = 0.0
        self._running -= 1
        self._dirty = True
        queue = lane.queue
        queue.popleft()
        self.queued_events -= 1
        self.queued_bytes -= delivery.size
        self.ledger.finish(delivery.position)
        if queue:
            lane.queued = True
            self._ready(lane)
        else:
            del self._lanes[lane.key]
        return True

    def end(self, delivery: Delivery, outcome: Outcome | Cancelled, now: float) -> None:
        """Say how a delivery ended."""
        lane = delivery.lane
        lane.running = None
        self._running -= 1
        self._dirty = True
        if delivery.parked:
            self._end_parked(lane, delivery, outcome, now)
        elif isinstance(outcome, Ack):
            self._drop_head(lane)
        elif isinstance(outcome, Cancelled):
            left = self.ledger.attempts[delivery.position] - 1
            if left:
                self.ledger.attempts[delivery.position] = left
            else:
                del self.ledger.attempts[delivery.position]
        elif isinstance(outcome, DeadLetter):
            self._dead(lane, delivery, outcome, now)
        elif isinstance(outcome, Park) or outcome.delay_s > self.policy.hold_s or self._crowded(lane):
            self._park(lane, now + outcome.delay_s, outcome.error, now)
        else:
            lane.due = now + outcome.delay_s
        if self._turn.holder is not None and self._turn.holder == (self, lane.key):
            self._turn_ended = lane
        self._advance(lane, now)

    def _take_turns(self, now: float) -> None:
        keys, self._turns = self._turns, deque()
        for key in keys:
            lane = self._lanes.get(key)
            if lane is not None and not lane.queued:
                self._advance(lane, now)

    def _dead(self, lane: Lane, delivery: Delivery, outcome: DeadLetter, now: float) -> None:
        if self.policy.on_dead == "stop":
            self.stopped = f"event at position {delivery.position} failed for good: {outcome.reason}"
            return
        event = delivery.event
        assert event is not None
        attempts = self.ledger.attempts.get(delivery.position, 0)
        self._send(
            lane,
            [
                Entry(
                    self.epoch,
                    lane.key,
                    delivery.position,
                    event,
                    dead=True,
                    attempts=attempts,
                    reason=outcome.reason,
                    error=outcome.error,
                    at=now,
                )
            ],
        )

    def _end_parked(self, lane: Lane, delivery: Delivery, outcome: Outcome | Cancelled, now: float) -> None:
        about = (self.epoch, lane.key, delivery.position, delivery.round)
        delivery.event = None
        report = lane.report = lane.report if lane.report is not None else []
        match outcome:
            case Ack():
                report.append(Done(*about))
                if not lane.batch:
                    lane.starts = min(2 * lane.starts, 1 << 20)
                return
            case Cancelled():
                report.append(Unstart(*about, delivery.attempt))
            case DeadLetter(reason, error) if self.policy.on_dead == "stop":
                report.append(Failed(*about, delivery.attempt, 0.0, error, now))
                self.stopped = f"parked event at position {delivery.position} failed for good: {reason}"
            case DeadLetter(reason, error):
                report.append(Dead(*about, reason, error, now))
            case _:
                report.append(Failed(*about, delivery.attempt, now + outcome.delay_s, outcome.error, now))
        lane.starts = 1
        self._unstart_rest(lane)

    def _unstart_rest(self, lane: Lane) -> None:
        while lane.batch:
            rest = lane.batch.popleft()
            lane.report = lane.report if lane.report is not None else []
            lane.report.append(Unstart(self.epoch, lane.key, rest.position, rest.round, rest.attempt))

    def _drop_head(self, lane: Lane) -> None:
        delivery = lane.queue.popleft()
        lane.due = 0.0
        self.queued_events -= 1
        self.queued_bytes -= delivery.size
        self.ledger.finish(delivery.position)

    # ---- the parking topic ----------------------------------------------------------------------------------------

    def take_records(self) -> list[Record]:
        """Take what is to be appended to the parking topic, as one ordered batch; empty while one is in flight."""
        if self._in_flight or not self._outbox:
            return []
        self._in_flight, self._outbox = self._outbox, []
        return [record for _, records in self._in_flight for record in records]

    def landed(self, now: float) -> None:
        """The batch last taken is durable and was tailed, the whole of it (rule 8: only now is it done)."""
        sent, self._in_flight = self._in_flight, []
        if self.deposed:
            return  # dropped by every reader: the new owner gets these positions again
        self._dirty = True
        for lane, records in sent:
            if lane is None:
                self._checkpoint = self.fold.checkpoint()
                continue
            lane.sending = False
            for record in records:
                if isinstance(record, Entry):
                    assert lane.queue[0].position == record.position
                    self._drop_head(lane)
                elif isinstance(record, Start):
                    self._started(lane, record)
            self._advance(lane, now)

    def _started(self, lane: Lane, record: Start) -> None:
        known = self.fold.keys[lane.key]
        entry = known.touched[record.position]  # taken by the fold, and still open: nothing else of it was sent
        delivery = Delivery(
            lane,
            record.position,
            None,
            0,
            parked=True,
            place=entry.place,
            round=record.round,
            attempt=record.attempt,
        )
        lane.batch = lane.batch if lane.batch is not None else deque()
        lane.batch.append(delivery)

    def stale(self, before: int, limit: int) -> list[tuple[LaneKey, int]]:
        """Return (key, position) of at most ``limit`` unfinished entries known by records below place ``before``.

        Only keys of which nothing happens now; they hold the start of the parking topic back.
        """
        found: list[tuple[LaneKey, int]] = []
        for key, known in self.fold.keys.items():
            if self._closed(self._lanes.get(key) or Lane(self, key)):
                continue
            for position, since in known.since():
                if since < before:
                    found.append((key, position))
                    if len(found) == limit:
                        return found
        return found

    def carry(
        self,
        key: LaneKey,
        position: int,
        event: Event[Any],
        edited: Event[Any] | None,
        reason: str = "",
        history: tuple[str, ...] = (),
    ) -> None:
        """Write a stale entry again at the end of the parking topic, so that the start may be trimmed."""
        lane = self._lane(key)
        known = self.fold.keys.get(key)
        entry = known.find(position) if known else None
        if entry is None or self._closed(lane) or lane.batch or lane.report:
            return
        self._send(
            lane,
            [
                Carry(
                    self.epoch,
                    key,
                    position,
                    event,
                    edited,
                    entry.dead,
                    entry.attempts,
                    entry.round,
                    entry.due,
                    self.fold.place,
                    reason,
                    history,
                )
            ],
        )

    def _drop_carry(self, lane: Lane) -> None:
        """A command has changed the entry before its `Carry` was taken to be appended: it would be refused."""
        kept = [item for item in self._outbox if item[0] is not lane or not isinstance(item[1][0], Carry)]
        if len(kept) < len(self._outbox):
            self._outbox = kept
            lane.sending = False

    def request_checkpoint(self) -> bool:
        """Have a record sent that lets finished entries be forgotten; False if it would change nothing.

        Once it has landed, the next cursor names a later place to begin reading; once that is settled, records below
        `trim_below` are needed by nobody.
        """
        low = self._settled_low
        if low <= self.fold.base or not self.fold.keys or self.stopped is not None:
            return False
        self._outbox.append((None, [Checkpoint(self.epoch, low)]))
        return True

    # ---- time -----------------------------------------------------------------------------------------------------

    def _set_timer(self, due: float, lane: Lane) -> None:
        if lane.timer is None or due < lane.timer:
            lane.timer = due
            self._timer_ids += 1
            heapq.heappush(self._timers, (due, self._timer_ids, lane.key))

    @property
    def wake_at(self) -> float | None:
        """When `tick` should be called next."""
        return self._timers[0][0] if self._timers else None

    def tick(self, now: float) -> None:
        """Let held and parked keys go on whose time has come."""
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            lane = self._lanes.get(key)
            if lane is not None and lane.timer == due:
                lane.timer = None
                if not lane.queued:
                    self._advance(lane, now)

    # ---- window, cursor, release ----------------------------------------------------------------------------------

    @property
    def credit(self) -> int:
        """How many events more may be fetched: by the bounds of the window and the parking topic, and by a `cut`."""
        if self.stopped is not None or self._ragged or self.fold.unfinished >= self.policy.parked_limit:
            return 0
        if not self.cuts.stored:
            return 0
        return max(0, self.policy.window_limit - len(self.ledger))

    def pause(self) -> None:
        """Start nothing until `unpause`. What runs goes on until its end."""
        self.stop(PAUSED)

    def unpause(self, now: float) -> None:
        """Go on, if it was `pause` that stopped it."""
        if self.stopped == PAUSED:
            self.stopped = None
            for lane in list(self._lanes.values()):
                if not lane.queued:
                    self._advance(lane, now)

    def stop(self, reason: str) -> None:
        """Start nothing any more (rule 14). What runs goes on until its `end`, and is still reported."""
        if self.stopped is None:
            self.stopped = reason
        for lane in list(self._lanes.values()):
            if not lane.sending and lane.running is None:
                self._wind_down(lane)

    def _wind_down(self, lane: Lane) -> None:
        self._unstart_rest(lane)
        if lane.report and not self.deposed:
            self._send(lane, lane.report)

    @property
    def deposed(self) -> bool:
        """True if another owner's claim is in force: nothing of this one counts any more."""
        return self.fold.epoch != self.epoch

    def abandon(self, reason: str, now: float) -> None:
        """The partition is lost: start nothing, and write nothing any more."""
        self.stopped = reason
        self._outbox = []
        self._in_flight = []
        self._turn.leave(self, now)

    @property
    def has_records(self) -> bool:
        """True if `take_records` would return some."""
        return bool(self._outbox) and not self._in_flight

    @property
    def drained(self) -> bool:
        """True if nothing runs and no record waits or is in flight."""
        return not self._running and not self._outbox and not self._in_flight

    @property
    def running(self) -> int:
        return self._running

    @property
    def dirty(self) -> bool:
        """True if the cursor is not stored as it stands."""
        return self._dirty

    def cursor(self, *, clean: bool = False) -> Cursor | None:
        """Return what to store; None if it does not fit: the window is too ragged, and is not fetched until it fits.

        ``clean`` is the last settle of a release: only when `drained`.
        """
        low = self.ledger.low
        place, place_epoch, base, place_reset = self._checkpoint
        state = cursor_codec.State(
            done=tuple(self.ledger.done),
            attempts=tuple(sorted(self.ledger.attempts.items())),
            clean=clean,
            unclean=0 if low > self._takeover_low else self.unclean,
            place=place,
            place_epoch=place_epoch,
            base=base,
            place_reset=place_reset,
            reset=self.fold.reset,
            cuts=self.cuts.offer(low),
            parked=self.fold.unfinished - self.fold.dead,
            dead=self.fold.dead,
        )
        text = cursor_codec.encode(low, state)
        while text is None and (clean or self.on_probation):  # leave what fits: the rest is handled again, in order
            state = msgspec.structs.replace(state, done=state.done[: len(state.done) // 2])
            text = cursor_codec.encode(low, state)
        self._ragged = text is None
        if text is None:
            return None
        self._dirty = False
        self._offered_place = place
        ended = self._turn_ended
        self._turn_covered = None if ended is None or ended.sending else ended
        return Cursor(self.epoch, low, text)

    def settled(self, cursor: Cursor, now: float) -> None:
        """A cursor was stored."""
        self._settled_low = max(self._settled_low, cursor.low)
        self.last_settled = cursor
        self.trim_below = self._offered_place
        self.cuts.settled()
        if self._settled_low > self._takeover_low:
            self.unclean = 0  # progress: the innocent neighbours are through
            if self._turns:
                self._take_turns(now)
        covered, self._turn_covered = self._turn_covered, None
        if covered is not None:
            self._turn_ended = None
            self._turn.free((self, covered.key), now)

    def not_settled(self) -> None:
        """A cursor could not be stored now; it will be offered again."""
        self._dirty = True
