"""Each delivery rule switched off, in the product's own classes. The checker must see every one.

Rows that a world without late copies can't show (a second copy within one epoch) switch the world instead.
"""

from __future__ import annotations

from typing import Any

from nexus.core.lanes import Delivery, Lane
from nexus.core.outcome import Ack, Cancelled, Outcome
from nexus.core.owner import Owner
from nexus.core.parking import Claim, Done, Entry, Fold, Parked, Record, Reset, Start
from nexus.spi.backend import Stored

from .world import Rules


class NoEpoch(Fold):
    """2 off: records of any epoch count."""

    def _in_force(self, epoch: int) -> bool:
        return True


class HighestSeen(Fold):
    """2 halved: no claim record; the highest epoch seen is in force."""

    def _claim(self, record: Claim) -> bool:
        return True

    def _in_force(self, epoch: int) -> bool:
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        return True


class OwnerByHighestSeen(Owner):
    @property
    def deposed(self) -> bool:
        return self.fold.epoch > self.epoch


class LatestClaim(Fold):
    """3 off: the latest claim wins, whatever its epoch."""

    def _claim(self, record: Claim) -> bool:
        self.epoch = record.epoch
        self._marks.append((self.place, self.epoch, self.base))
        return True


class ExactPosition(Owner):
    """5 off: a position is settled unrun only if it has an entry itself."""

    def offer(self, stored: Stored, now: float, route: Any = None) -> None:
        keys = self.fold.keys
        key = stored.position if stored.event.key is None else (stored.event.tenant, stored.event.key)
        known = keys.get(key)
        if known is not None and stored.position not in getattr(self.fold, "exact", set()):
            floor, known.floor = known.floor, -1
            super().offer(stored, now, route)
            known.floor = floor
        else:
            super().offer(stored, now, route)


class RemembersEntries(Fold):
    def _entry(self, place: int, record: Entry) -> bool:
        self.exact = getattr(self, "exact", set())
        self.exact.add(record.position)
        return super()._entry(place, record)


class ForgetsFloor(Fold):
    """5 halved: the floor is forgotten once the key has drained."""

    def _finish(self, known: Any, position: int) -> None:
        super()._finish(known, position)
        if known.finished:
            known.floor = -1


class OpenLane(Owner):
    """6 off: the lane stays open until the append is acknowledged."""

    def _send(self, lane: Lane, records: list[Record]) -> None:
        super()._send(lane, records)
        if isinstance(records[0], Entry) and lane.queue and len(lane.queue) > len(records):
            lane.sending = False
            lane.queue.rotate(-len(records))
            self._make_ready(lane)
            lane.queue.rotate(len(records))
            lane.sending = False

    def begin(self, lane: Lane, now: float) -> Delivery | None:
        sent = [r.position for item, records in [*self._outbox, *self._in_flight] if item is lane for r in records
                if isinstance(r, Entry)]  # fmt: skip
        if not sent or lane.batch:
            return super().begin(lane, now)
        rest = [d for d in lane.queue if d.position not in sent]
        lane.queued = False
        if not rest or lane.running is not None or self.stopped is not None:
            return None
        delivery = rest[0]
        delivery.attempt = self.ledger.attempts[delivery.position] = self.ledger.attempts.get(delivery.position, 0) + 1
        lane.running = delivery
        self._running += 1
        return delivery

    def _drop_head(self, lane: Lane) -> None:
        super()._drop_head(lane)

    def end(self, delivery: Delivery, outcome: Outcome | Cancelled, now: float) -> None:
        lane = delivery.lane
        if not delivery.parked and isinstance(outcome, Ack) and lane.queue and lane.queue[0] is not delivery:
            lane.running = None
            self._running -= 1
            lane.queue.remove(delivery)
            self.queued_events -= 1
            self.ledger.finish(delivery.position)
            return
        super().end(delivery, outcome, now)


class SettleFirst(Owner):
    """8 off: what is sent to the parking topic is done at once."""

    def _send(self, lane: Lane, records: list[Record]) -> None:
        super()._send(lane, records)
        for record in records:
            if isinstance(record, Entry):
                self._drop_head(lane)

    def landed(self, now: float) -> None:
        kept = self._in_flight
        self._in_flight = [(lane, [r for r in records if not isinstance(r, Entry)]) for lane, records in kept]
        super().landed(now)


class DoneIsNotAwaited(Owner):
    """9 off: the next event starts before `Done` is acknowledged."""

    def _send(self, lane: Lane, records: list[Record]) -> None:
        super()._send(lane, records)
        if all(isinstance(record, Done) for record in records) and lane.queue:
            known = self.fold.keys[lane.key]
            done = {record.position for record in records if isinstance(record, Done)}
            if not list(known.opens(done)) and not known.dead:
                lane.sending = False
                for position in done:
                    self.fold._finish(known, position)
                self._make_ready(lane)


class BesideTheLane(Owner):
    """10 off: parked deliveries run beside the lane."""

    def _started(self, lane: Lane, record: Start) -> None:
        other = Lane(self, lane.key)
        super()._started(other, record)
        if other.batch:
            other.batch[0].lane = other
            self._make_ready(other)


class NoRound(Fold):
    """11 off: commands and records count in any life."""

    def _same_round(self, entry: Parked, round: int) -> bool:
        return True

    def _command(self, record: Any) -> bool:
        known = self.keys.get(record.key)
        if known is None or known.find(record.position) is None:
            if known is not None and record.position <= known.floor:  # a requeue revives what is finished
                known.add(record.position, Parked(known.floor_place, False, 0, 1, 0.0))
                self.unfinished += 1
                return True
            return False
        return super()._command(record)


class StartsUncounted(Owner):
    """12 off: a parked entry starts without its attempt being durable."""

    def _started(self, lane: Lane, record: Start) -> None:
        super()._started(lane, record)
        entry = self.fold.keys[lane.key].touched.get(record.position)
        if entry is not None and lane.batch:
            entry.attempts = record.attempt


class StartsUncountedFold(Fold):
    def apply(self, place: int, record: Record) -> bool:
        if isinstance(record, Start):
            self.place = place + 1
            known = self.keys.get(record.key)
            entry = known.find(record.position) if known and self._in_force(record.epoch) else None
            return entry is not None and not entry.dead and entry.round == record.round
        return super().apply(place, record)


class EntryWithoutAttempts(Owner):
    """12 halved: the entry does not carry what the lane counted."""

    def _park(self, lane: Lane, due: float, error: str, now: float) -> None:
        self.ledger.attempts.pop(lane.queue[0].position, None)
        super()._park(lane, due, error, now)


class NoProbation(Owner):
    """13 off: attempts are never settled before they start."""

    @property
    def on_probation(self) -> bool:
        return False


class KeepsAttempts(Owner):
    """14 halved: shutdown keeps the attempt of what it cancelled."""

    def end(self, delivery: Delivery, outcome: Outcome | Cancelled, now: float) -> None:
        if isinstance(outcome, Cancelled) and not delivery.parked:
            self.ledger.attempts[delivery.position] = self.ledger.attempts.get(delivery.position, 0) + 1
        super().end(delivery, outcome, now)


class OverflowsBehindTheHead(Owner):
    """4 off: followers of a running head go to the parking topic when the lane is crowded."""

    def offer(self, stored: Stored, now: float, route: Any = None) -> None:
        super().offer(stored, now, route)
        key = stored.position if stored.event.key is None else (stored.event.tenant, stored.event.key)
        lane = self._lanes.get(key)
        if lane is not None and lane.running is not None and not lane.running.parked and len(lane.queue) > 1:
            followers = list(lane.queue)[1:]
            if not self._outbox and not self._in_flight:
                self._outbox.append((lane, [self._entry(delivery) for delivery in followers]))
                head = lane.queue[0]
                self._overflow = (lane, head, followers)

    def landed(self, now: float) -> None:
        lane, head, followers = getattr(self, "_overflow", (None, None, []))
        if lane is None or not self._in_flight or self._in_flight[0][0] is not lane:
            super().landed(now)
            return
        del self._overflow, head
        self._in_flight = []
        for delivery in followers:
            if delivery in lane.queue:
                lane.queue.remove(delivery)
                self.queued_events -= 1
                self.ledger.finish(delivery.position)


class KeepsFloors(Fold):
    """15 off: a reset moves the cursor only."""

    def _reset(self, record: Reset) -> bool:
        if record.number <= self.reset:
            return False
        self.reset, self.reset_to = record.number, record.to
        self._mark()
        return True


ABLATIONS: dict[str, tuple[Rules, bool, int]] = {
    "1 claim before the fence": (Rules(fence_first=False), False, 3_000),
    "2 no epoch in records": (Rules(fold=NoEpoch), False, 3_000),
    "2 highest epoch seen, no claim": (Rules(fold=HighestSeen, owner=OwnerByHighestSeen, reclaim=False), False, 3_000),
    "3 latest claim wins": (Rules(fold=LatestClaim), False, 3_000),
    "4 overflow behind a running head": (Rules(owner=OverflowsBehindTheHead), False, 3_000),
    "5 duplicates by exact position": (Rules(owner=ExactPosition, fold=RemembersEntries), False, 3_000),
    "5 floor forgotten after the drain": (Rules(fold=ForgetsFloor), False, 3_000),
    "6 lane open until the acknowledgement": (Rules(owner=OpenLane), False, 3_000),
    "7 a batch may land out of order": (Rules(ordered_landing=False), False, 3_000),
    "8 settle before the append": (Rules(owner=SettleFirst), False, 3_000),
    "9 next event before done": (Rules(owner=DoneIsNotAwaited), False, 20_000),
    "10 parked beside the lane": (Rules(owner=BesideTheLane), False, 3_000),
    "11 commands without round": (Rules(fold=NoRound), False, 3_000),
    "11 owner does not tail": (Rules(owner_tails=False), False, 3_000),
    "12 no durable start": (Rules(owner=StartsUncounted, fold=StartsUncountedFold), True, 3_000),
    "12 entry without attempts": (Rules(owner=EntryWithoutAttempts), False, 3_000),
    "13 no probation": (Rules(owner=NoProbation), True, 3_000),
    "14 attempts kept at shutdown": (Rules(owner=KeepsAttempts), False, 20_000),
    "14 release does not wait": (Rules(release_waits=False), False, 20_000),
    "15 the cursor does not follow a reset": (Rules(reset_follows=False), False, 3_000),
    "15 a reset without a claim of its own": (Rules(reset_has_claim=False), False, 3_000),
    "15 floors stay at a reset": (Rules(fold=KeepsFloors), False, 3_000),
    "lost cursor begins anew at the end": (Rules(lose_cursor_silently=True), False, 3_000),
    "own claim need not be in force": (Rules(reclaim=False), False, 20_000),
}
"""Name of the row: what is off, whether one event kills its process, schedules within which it must be seen."""
