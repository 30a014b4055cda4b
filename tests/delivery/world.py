"""A world for the delivery rules: one partition, one group, owners that crash, freeze, wake and release.

The owners are the product's own (`Owner`, `Fold`, cursor text); the world around them is random by seed: records that
land late, twice or never, settles in batches, lost cursors, operators who requeue and discard. A frozen owner has lost
its lease and goes on acting, in any interleaving, until a settle is fenced.

`run(seed)` returns None or the guarantee that broke. `rules` replaces classes of the product by ones with a rule
switched off, to show that the checker would see it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from nexus.core import cursor as cursor_codec
from nexus.core.lanes import Delivery, Lane
from nexus.core.outcome import ACK, CANCELLED, DeadLetter, Park, RetryIn
from nexus.core.owner import Owner
from nexus.core.parking import (
    Claim,
    Dead,
    Discard,
    Entry,
    Fold,
    Record,
    Requeue,
    Reset,
    decode_record,
    encode_record,
)
from nexus.core.policy import Policy
from nexus.core.takeover import after_reset, take_over
from nexus.event import Event
from nexus.spi.backend import Cursor, Stored

EPOCH_2013 = datetime(2013, 1, 1, tzinfo=UTC)
INTERRUPTED_LIMIT = 6


class Violation(Exception):
    pass


@dataclass
class Rules:
    """What the world plays by; the defaults are the product's."""

    owner: type[Owner] = Owner
    fold: type[Fold] = Fold
    fence_first: bool = True
    owner_tails: bool = True
    release_waits: bool = True
    settle_before_start: bool = True
    lose_cursor_silently: bool = False
    reclaim: bool = True
    ordered_landing: bool = True
    reset_follows: bool = True
    reset_has_claim: bool = True


class Acting:
    """One owner in the world: the product's `Owner` and what its shell would keep."""

    def __init__(self, cursor: Cursor, state: cursor_codec.State) -> None:
        self.cursor = cursor
        self.state = state
        self.phase = "claim"
        self.owner: Owner | None = None
        self.ready: list[Lane] = []
        self.running: list[Delivery] = []
        self.in_flight: list[Record] = []
        self.landed_at: int | None = None
        self.next = 0
        self.waiting: Delivery | None = None  # in probation: counted, to be settled before it runs
        self.releasing = False
        self.obeying = False
        self.runs: Counter[int] = Counter()


@dataclass
class World:
    seed: int
    rules: Rules
    killer: bool = False
    with_lost_cursor: bool = True
    with_seek: bool = True
    trace: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(self.seed)
        count = rng.randint(3, 8)
        keys = "ab" if rng.random() < 0.7 else "a"
        self.keys = [rng.choice(keys) if rng.random() < 0.93 else None for _ in range(count)]
        self.max_attempts = rng.choice((1, 2))
        on_dead = "block_key" if rng.random() < 0.6 else "skip"
        self.policy = Policy(
            on_dead=on_dead,  # type: ignore[arg-type]
            hold_s=5.0,
            lane_limit=rng.choice((1, 2, 100)),
            window_limit=rng.choice((4, 16_384)),
            start_limit=rng.choice((1, 2, 64)),
        )
        self.budget = {
            "crash": rng.randint(0, 3), "freeze": rng.randint(0, 2), "fail": rng.randint(1, 5),
            "dup": rng.randint(0, 1), "command": rng.randint(0, 3), "release": rng.randint(0, 1),
            "lose": int(self.with_lost_cursor and rng.random() < 0.1), "checkpoint": rng.randint(0, 2),
            "carry": rng.randint(0, 2), "seek": rng.randint(0, 2) if self.with_seek else 0,
        }  # fmt: skip
        self.kill_position = rng.randrange(count) if self.killer else None
        if self.killer:
            self.budget.update(crash=0, freeze=0, fail=2, command=0, lose=0, seek=0)
        self.parking: list[bytes] = []
        self.truth = self.rules.fold()
        self.cursor: Cursor | None = Cursor(0, 0)
        self.owners: list[Acting | None] = []
        self.holder: int | None = None
        self.late: list[list[Record]] = []
        self.now = 0.0
        self.healing = False
        self.effects: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.starts: Counter[int] = Counter()
        self.unstored: Counter[int] = Counter()  # attempts counted in a lane since the last settle
        self.uncertain: Counter[int] = Counter()  # of those, the ones that a crash made forgotten
        self.ended: dict[int, str] = {}  # durable ends
        self.requeued: set[int] = set()
        self.durable_done: set[int] = set()
        self.lost_cursor = False
        self.wish = Reset(0, 0, 0)  # the last place to which operators sent the group; of epoch 0, not written yet
        self.kills = 0
        self.crashes = 0
        self._final: set[int] = set()
        self._seen: set[int] = set()

    # ---- helpers --------------------------------------------------------------------------------------------------

    def event(self, position: int) -> Event[Any]:
        key = self.keys[position]
        return Event(id=str(position), source="/w", type="t", time=EPOCH_2013, key=key, body=b"%d" % position)

    def lane_key(self, position: int) -> Any:
        key = self.keys[position]
        return position if key is None else (None, key)

    def entry(self, position: int) -> str:
        """State of a position in the parking topic, as every reader sees it: '', open, dead or final."""
        known = self.truth.keys.get(self.lane_key(position))
        if known is not None and position in known.touched:
            return "dead" if known.touched[position].dead else "open"
        if known is not None and position in list(known.opens()):
            return "open"
        return "final" if position in self._final else ""

    def land(self, record: Record) -> int:
        place = len(self.parking)
        self.parking.append(encode_record(record))
        position = getattr(record, "position", None)
        before = self.entry(position) if position is not None else ""
        taken = self.truth.apply(place, record)
        if taken and isinstance(record, Reset):
            self.moved(record)
        if not taken or position is None:
            return place
        if isinstance(record, Discard):
            self._final.add(position)
            self.ended[position] = "discarded"
        elif isinstance(record, Requeue):
            if self.ended.get(position) == "done":
                raise Violation("revived after its end")
            self.starts[position] = self.uncertain[position] = self.failures[position] = 0
            self.requeued.add(position)
        elif record.__class__.__name__ == "Done":
            self._final.add(position)
            if not self.effects[position]:
                raise Violation("lost")
            self.ended.setdefault(position, "done")
        elif isinstance(record, Entry) and (before == "final" or position in self._seen):
            raise Violation("revived after its end")
        if isinstance(record, Entry):
            self._seen.add(position)
        if (isinstance(record, Entry) and record.dead) or isinstance(record, Dead):
            if position != self.kill_position:
                if not self.failures[position]:
                    raise Violation("dead on a stale owner's word")
                interrupted = self.starts[position] - self.failures[position]
                if self.failures[position] + self.crashes < self.max_attempts and interrupted <= INTERRUPTED_LIMIT:
                    raise Violation("shutdown counted")
            if self.ended.get(position) == "done":
                raise Violation("done and dead")
        return place

    def moved(self, reset: Reset) -> None:
        """From its position on all is to be handled as if for the first time; what was skipped is not owed."""
        for position in range(len(self.keys)):
            if position < reset.to:
                if self.entry(position) == "":
                    self.ended.setdefault(position, "discarded")
                continue
            for counted in (self.effects, self.failures, self.starts, self.uncertain, self.unstored):
                del counted[position]
            self.ended.pop(position, None)
            for kept in (self.requeued, self.durable_done, self._final, self._seen):
                kept.discard(position)

    def check_settled(self) -> None:
        """Everything that the stored cursor calls done was handled, has an entry, or was skipped by an operator."""
        assert self.cursor is not None
        state = cursor_codec.decode(self.cursor.low, self.cursor.state)
        for position in {*range(self.cursor.low), *state.done}:
            if self.entry(position) == "" and not self.effects[position] and self.ended.get(position) != "discarded":
                raise Violation("lost")
            if self.entry(position) == "":
                self.durable_done.add(position)
                self.ended.setdefault(position, "done")

    def lawful(self, index: int) -> bool:
        """Tell whether what this owner does counts: it holds the lease, or its claim is still the one in force."""
        acting = self.owners[index]
        return index == self.holder or (acting is not None and acting.cursor.epoch == self.truth.epoch)

    def start(self, index: int, delivery: Delivery) -> None:
        acting = self.owners[index]
        assert acting is not None
        acting.running.append(delivery)
        if not self.lawful(index):
            return
        position = delivery.position
        self.starts[position] += 1
        if not delivery.parked and acting.waiting is not delivery:
            (self.unstored if index == self.holder else self.uncertain)[position] += 1
        key = self.lane_key(position)
        if index != self.holder:
            return
        same = [d for d in acting.running if self.lane_key(d.position) == key]
        if len(same) > 1:
            raise Violation("two at once")
        if self.ended.get(position):
            raise Violation("again after its end")
        bound = self.max_attempts + self.uncertain[position] + self.crashes
        if self.kill_position is None and self.starts[position] > bound:
            raise Violation("attempts over the bound")
        if self.keys[position] is None:
            return
        for other in range(len(self.keys)):
            if self.keys[other] != self.keys[position]:
                continue
            if other < position and not self.effects[other]:
                state = self.entry(other)
                if self.ended.get(other) == "discarded":
                    continue
                if self.policy.on_dead == "skip" and (state == "dead" or other in self.requeued):
                    continue
                raise Violation("order: overtook an unfinished one")
            if other > position and self.ended.get(other) == "done":
                if self.policy.on_dead == "skip" and position in self.requeued:
                    continue
                raise Violation("order: behind a finished one")

    # ---- actions --------------------------------------------------------------------------------------------------

    def actions(self) -> list[tuple[str, Callable[[], None]]]:
        out: list[tuple[str, Callable[[], None]]] = []
        add = out.append
        if self.holder is None:
            if self.lost_cursor:
                add(("decide", self.decide))
            else:
                add(("take", self.take))
        elif self.budget["freeze"] and not self.healing:
            add(("freeze", self.freeze))
        for index, acting in enumerate(self.owners):
            if acting is None:
                continue

            def bind(name: str, index: int = index) -> tuple[str, Callable[[], None]]:
                return f"{name} {index}", lambda: getattr(self, name)(index)

            if acting.in_flight and acting.landed_at is None:
                add(bind("landing"))
                if self.budget["dup"] and not self.healing and acting.phase == "live":
                    add(bind("landing_twice"))
            if acting.landed_at is not None:
                add(bind("acknowledged"))
            if index == self.holder and self.budget["crash"] and not self.healing:
                add(bind("crash"))
            if acting.phase == "fence":
                add(bind("fence_late"))
            owner = acting.owner
            if acting.phase != "live" or owner is None:
                continue
            stopping = acting.releasing or acting.obeying
            if acting.next < len(self.keys) and owner.credit and not stopping:
                add(bind("fetch"))
            if owner._outbox and not acting.in_flight:
                add(bind("take_records"))
            if self.rules.owner_tails and owner.fold.place < len(self.parking):
                add(bind("tail"))
            if acting.waiting is not None:
                add(bind("settle"))
            else:
                if owner.dirty or index != self.holder:
                    add(bind("settle"))
                if acting.ready:
                    add(bind("begin"))
            for number in range(len(acting.running)):
                position = acting.running[number].position
                if position == self.kill_position:
                    add((f"kill {index}", lambda index=index: self.kill(index)))
                    continue
                add((f"ok {index} {position}", lambda i=index, n=number: self.ok(i, n)))
                if self.budget["fail"] and not self.healing:
                    for how in ("hold", "park"):
                        add((f"{how} {index} {position}", lambda i=index, n=number, h=how: self.fail(i, n, h)))
            if owner.wake_at is not None:
                add(bind("tick"))
            if index == self.holder and not self.healing:
                if self.budget["release"] and not stopping:
                    add(bind("release"))
                if self.budget["checkpoint"] and owner.fold.keys and not stopping:
                    add(bind("checkpoint"))
                if self.budget["carry"] and not stopping:
                    add(bind("carry"))
            if index == self.holder and acting.state.reset < self.wish.number and not stopping:
                add(bind("obey"))
            if index == self.holder and acting.obeying and owner.drained:
                add(bind("obeyed"))
            if acting.releasing and (owner.drained or not self.rules.release_waits):
                add(bind("released"))
        if self.budget["seek"] and not self.healing and not self.lost_cursor:
            add(("seek", self.seek))
        if not self.healing:
            for number in range(len(self.late)):
                add(("late", lambda n=number: self.lands_late(n)))
        for key, known in list(self.truth.keys.items()):
            for position in list(known.dead):
                if self.budget["command"] or self.healing:
                    round = known.touched[position].round
                    add((f"requeue {position}", lambda k=key, p=position, r=round: self.command(Requeue(k, p, r))))
                    if not self.healing:
                        old = max(1, round - 1)
                        add((f"requeue_old {position}", lambda k=key, p=position, r=old: self.late_command(k, p, r)))
                        add((f"discard {position}", lambda k=key, p=position, r=round: self.command(Discard(k, p, r))))
        return out

    def take(self, *, own: bool = False) -> None:
        """Rule 1: fence the cursor, then claim."""
        assert self.cursor is not None
        acting_cursor, state = take_over(self.cursor, 0, 0, own=own)
        acting = Acting(acting_cursor, state)
        if self.rules.fence_first:
            self.cursor = acting_cursor
        self.owners.append(acting)
        self.holder = len(self.owners) - 1
        acting.in_flight = [Claim(acting_cursor.epoch, str(self.holder))]

    def fence_late(self, index: int) -> None:
        """Only with rule 1 off: the cursor that was read before the claim replaces what is there."""
        acting = self.owners[index]
        assert acting is not None
        if self.cursor is None or index != self.holder:
            self.owners[index] = None
            return
        self.cursor = acting.cursor
        self.go_live(index)

    def decide(self) -> None:
        """An operator's answer to a lost cursor: begin again at the start; floors and entries stand."""
        self.lost_cursor = False
        # Of no epoch: the claims in the parking topic must tell the next owner its own.
        self.cursor = Cursor(0, 0, cursor_codec.encode(0, cursor_codec.State(reset=self.truth.reset)) or "")
        for position in range(len(self.keys)):
            self.uncertain[position] += 100  # attempts were kept there too
        for position, end in list(self.ended.items()):
            if end == "done" and position not in self._final:
                del self.ended[position]  # only the cursor knew: it may run again

    def freeze(self) -> None:
        self.budget["freeze"] -= 1
        self.crashes += 1
        self.lose_hold()

    def lose_hold(self) -> None:
        """The holder has lost its lease: what it ran may have counted without being stored."""
        assert self.holder is not None
        self.holder = None
        self.uncertain += self.unstored
        self.unstored.clear()

    def crash(self, index: int) -> None:
        self.budget["crash"] -= 1
        self.drop(index)

    def drop(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        if acting.in_flight and acting.landed_at is None:
            self.late.append(acting.in_flight)
        self.owners[index] = None
        if self.holder == index:
            self.crashes += 1
            self.lose_hold()
        if self.budget["lose"] and not self.healing and self.holder is None:
            self.budget["lose"] -= 1
            if self.rules.lose_cursor_silently:
                self.cursor = Cursor(0, len(self.keys))  # "start new": at the end
            elif self.truth.epoch:
                self.cursor, self.lost_cursor = None, True

    def landing(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        batch = list(acting.in_flight)
        if not self.rules.ordered_landing:
            self.rng.shuffle(batch)
        for record in batch:
            acting.landed_at = self.land(record)

    def landing_twice(self, index: int) -> None:
        """A copy of the batch lands now, unnoticed; the append is sent again and lands too."""
        self.budget["dup"] -= 1
        acting = self.owners[index]
        assert acting is not None
        for record in acting.in_flight[: self.rng.randint(1, len(acting.in_flight))]:
            self.land(record)

    def lands_late(self, number: int) -> None:
        """Of an append whose sender is gone, some first records land, in order; the rest may follow."""
        batch = self.late.pop(number)
        part = self.rng.randint(1, len(batch))
        for record in batch[:part]:
            self.land(record)
        if batch[part:] and self.rng.random() < 0.5:
            self.late.append(batch[part:])

    def acknowledged(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.landed_at is not None
        place = acting.landed_at
        if acting.phase == "claim":
            acting.in_flight, acting.landed_at = [], None
            if not self.rules.fence_first:
                acting.phase = "fence"
                return
            self.go_live(index, place)
            return
        if acting.phase == "reset":
            acting.in_flight, acting.landed_at = [], None
            self.go_live(index, place)
            return
        owner = acting.owner
        assert owner is not None
        self.read_parking(acting, place)
        acting.in_flight, acting.landed_at = [], None
        owner.landed(self.now)
        if owner.deposed and index == self.holder and self.rules.reclaim:
            self.owners[index] = None
            self.crashes += 1
            self.lose_hold()

    def go_live(self, index: int, place: int | None = None) -> None:
        acting = self.owners[index]
        assert acting is not None
        state = acting.state
        fold = self.rules.fold(state.place, state.place_epoch, state.base, state.place_reset)
        for at in range(state.place, (place if place is not None else len(self.parking) - 1) + 1):
            fold.apply(at, decode_record(self.parking[at]))
        if (fold.epoch, fold.claimant) != (acting.cursor.epoch, str(index)) and self.rules.reclaim:
            if index != self.holder or self.cursor is None:
                self.owners[index] = None
                return
            # Another claim is in force: take over again, above it.
            again, acting.state = take_over(self.cursor, 0, fold.epoch, own=True)
            acting.cursor = self.cursor = again
            acting.phase = "claim"
            acting.in_flight = [Claim(again.epoch, str(index))]
            return
        if fold.reset < self.wish.number and index == self.holder:
            acting.phase = "reset"
            acting.in_flight = [msgspec.structs.replace(self.wish, epoch=acting.cursor.epoch)]
            return
        if self.rules.reset_follows:
            acting.cursor, acting.state = after_reset(acting.cursor, state, fold)
            state = acting.state
        acting.owner = self.rules.owner(acting.cursor, state, fold, self.policy, acting.ready.append)
        acting.next = acting.cursor.low
        acting.phase = "live"
        acting.owner.resume(self.now)

    def read_parking(self, acting: Acting, place: int) -> None:
        owner = acting.owner
        assert owner is not None
        while owner.fold.place <= place:
            at = owner.fold.place
            owner.tail(at, decode_record(self.parking[at]), self.now)

    def tail(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        self.read_parking(acting, acting.owner.fold.place)

    def take_records(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        acting.in_flight = acting.owner.take_records()

    def fetch(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        acting.owner.offer(Stored(acting.next, 0.0, 1, self.event(acting.next)), self.now)
        acting.next += 1

    def begin(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        lane = acting.ready.pop(self.rng.randrange(len(acting.ready)))
        delivery = acting.owner.begin(lane, self.now)
        if delivery is None:
            return
        if acting.owner.on_probation and delivery.attempt > self.max_attempts + INTERRUPTED_LIMIT:
            acting.owner.end(delivery, DeadLetter("interrupted"), self.now)
        elif acting.owner.on_probation and not delivery.parked and self.rules.settle_before_start:
            acting.waiting = delivery
        else:
            self.start(index, delivery)

    def finish(self, index: int, number: int) -> tuple[Owner, Delivery]:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        return acting.owner, acting.running.pop(number)

    def ok(self, index: int, number: int) -> None:
        owner, delivery = self.finish(index, number)
        if self.lawful(index):
            self.effects[delivery.position] += 1
        owner.end(delivery, ACK, self.now)

    def fail(self, index: int, number: int, how: str) -> None:
        self.budget["fail"] -= 1
        owner, delivery = self.finish(index, number)
        if self.lawful(index):
            self.failures[delivery.position] += 1
        if delivery.attempt >= self.max_attempts:
            owner.end(delivery, DeadLetter("attempts_exhausted"), self.now)
        else:
            owner.end(delivery, RetryIn(1.0) if how == "hold" else Park(self.rng.choice((0.0, 60.0))), self.now)

    def kill(self, index: int) -> None:
        self.kills += 1
        if self.kills > 3 * len(self.keys) + self.max_attempts + 20:
            raise Violation("never dead-lettered")
        self.drop(index)

    def tick(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        self.now = max(self.now, acting.owner.wake_at or 0.0)
        acting.owner.tick(self.now)

    def settle(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        owner = acting.owner
        assert owner is not None
        cursor = owner.cursor()
        assert cursor is not None
        if self.store(index, cursor):
            owner.settled(cursor, self.now)
            if acting.waiting is not None:
                delivery = acting.waiting
                self.start(index, delivery)
                acting.waiting = None

    def store(self, index: int, cursor: Cursor) -> bool:
        if self.cursor is None or (self.cursor.epoch != cursor.epoch):
            self.drop(index)
            return False
        if index != self.holder and self.rules.fence_first:
            # The lease is lost and nobody took over yet: the backend refuses too.
            self.drop(index)
            return False
        self.cursor = cursor
        if index == self.holder:
            self.unstored.clear()
        self.check_settled()
        return True

    def release(self, index: int) -> None:
        self.budget["release"] -= 1
        acting = self.owners[index]
        assert acting is not None
        acting.releasing = True
        self.stop(acting, index)

    def stop(self, acting: Acting, index: int) -> None:
        """Start nothing, and take back the attempts of what runs."""
        assert acting.owner is not None
        acting.owner.stop("release")
        if acting.waiting is not None:
            acting.owner.end(acting.waiting, CANCELLED, self.now)
            acting.waiting = None
        for delivery in acting.running:
            if self.lawful(index):
                self.starts[delivery.position] -= 1
            acting.owner.end(delivery, CANCELLED, self.now)
        acting.running = []

    def released(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        owner = acting.owner
        assert owner is not None
        self.check_view(owner)
        cursor = owner.cursor(clean=True)
        assert cursor is not None
        if self.store(index, cursor):
            if acting.in_flight and acting.landed_at is None:
                self.late.append(acting.in_flight)
            self.owners[index] = None
            self.holder = None

    def checkpoint(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        assert acting.owner is not None
        if acting.owner.request_checkpoint():
            self.budget["checkpoint"] -= 1

    def carry(self, index: int) -> None:
        acting = self.owners[index]
        assert acting is not None
        owner = acting.owner
        assert owner is not None
        self.budget["carry"] -= 1
        for key, position in owner.stale(len(self.parking), 1):
            owner.carry(key, position, self.event(position), None)

    def command(self, record: Record) -> None:
        if not self.healing:
            self.budget["command"] -= 1
        self.land(record)

    def late_command(self, key: Any, position: int, round: int) -> None:
        """A requeue that names an older death than the last, or is sent twice."""
        self.budget["command"] -= 1
        self.land(Requeue(key, position, round))

    def seek(self) -> None:
        """An operator sends the group to another position, back or forward, or past all that it has parked."""
        self.budget["seek"] -= 1
        to, drop = self.rng.randint(0, len(self.keys)), self.rng.random() < 0.3
        self.wish = Reset(0, self.wish.number + 1, to, drop)
        if not self.rules.reset_has_claim:
            self.land(msgspec.structs.replace(self.wish, epoch=self.truth.epoch))

    def obey(self, index: int) -> None:
        """The owner learns of it, and stops as before a release."""
        acting = self.owners[index]
        assert acting is not None
        acting.obeying = True
        self.stop(acting, index)

    def obeyed(self, index: int) -> None:
        """What ran has ended, and what was to be written is: it takes over again, as rule 1 says."""
        self.owners[index] = None
        self.uncertain += self.unstored
        self.unstored.clear()
        self.take(own=True)

    def check_view(self, owner: Owner) -> None:
        """The owner's live view is the fold of what it read."""
        again = self.rules.fold()
        for place in range(owner.fold.place):
            again.apply(place, decode_record(self.parking[place]))
        if view(again) != view(owner.fold):
            raise Violation("the live view differs from the fold")

    # ---- the run --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        calm = (
            "take",
            "decide",
            "landing",
            "ack",
            "fetch",
            "take_rec",
            "begin",
            "ok",
            "tick",
            "tail",
            "hold",
            "park",
            "kill",
            "obey",
        )
        part = self.rng.choice((0.5, 0.7, 0.9))
        for _ in range(self.rng.randint(30, 180)):
            self.step(calm if self.rng.random() < part else None)
        if self.kill_position is not None:
            self.budget["command"] = 1_000_000  # whoever is in front of it is repaired
            for _ in range(3000):
                if self.entry(self.kill_position) == "dead":
                    break
                self.step(None, without=("crash", "freeze", "requeue_old", "discard", "release "))
            else:
                raise Violation("never dead-lettered")
            self.kill_position = None
        self.healing = True
        for _ in range(4000):
            if not self.step(None):
                break
        else:
            raise Violation("no quiescence")
        self.check_end()

    def step(self, calm: tuple[str, ...] | None, without: tuple[str, ...] = ()) -> bool:
        actions = [a for a in self.actions() if not a[0].startswith(without or ("\0",))]
        if not actions:
            return False
        chosen = [a for a in actions if a[0].startswith(calm)] if calm else actions
        name, act = self.rng.choice(chosen or actions)
        self.trace.append(name)
        act()
        return True

    def check_end(self) -> None:
        for position in range(len(self.keys)):
            if self.entry(position) in ("open", "dead"):
                raise Violation("stuck")
            assert self.cursor is not None
            state = cursor_codec.decode(self.cursor.low, self.cursor.state)
            if position >= self.cursor.low and position not in state.done:
                raise Violation("stuck")
            if not self.effects[position] and self.ended.get(position) != "discarded":
                raise Violation("lost")
        acting = self.owners[self.holder] if self.holder is not None else None
        if acting is not None and acting.owner is not None:
            self.check_view(acting.owner)


def view(fold: Fold) -> dict[Any, Any]:
    """What a fold says that matters: unfinished entries."""
    out = {}
    for key, known in fold.keys.items():
        entries = [(p, known.touched[p].state() if p in known.touched else (False, 0, 0, 0.0)) for p in known.opens()]
        entries += [(p, known.touched[p].state()) for p in known.dead]
        if entries:
            out[key] = sorted(entries)
    return out


def run(seed: int, rules: Rules | None = None, *, killer: bool = False) -> str | None:
    """Play one schedule; return the guarantee that broke, or None."""
    world = World(seed, rules or Rules(), killer)
    try:
        world.run()
    except Violation as violation:
        return str(violation)
    return None
