"""Becoming the owner of partitions: fence, claim, read, then fetch (rule 1); many at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from nexus.core.cursor import State
from nexus.core.parking import Claim, Fold
from nexus.core.takeover import take_over
from nexus.errors import BackendError, CursorLost, UnknownOutcome
from nexus.runtime.journal import Journal, parking_topic, record_of
from nexus.runtime.subscription import Group
from nexus.spi.backend import Assigned, Backend, Cursor, Member, Settlement, Stored

log = logging.getLogger("nexus.consumer")

_ROUNDS = 8
Id = tuple[str, int]


class Taken(msgspec.Struct, frozen=True):
    """A partition that is owned now; without cursor and fold its cursor is lost and it must stand still."""

    topic: str
    number: int
    cursor: Cursor | None = None
    state: State = State()
    fold: Fold | None = None


class Takeover:
    """Takes partitions over for one member of one group."""

    def __init__(self, group: Group, backend: Backend, journal: Journal, member_name: str) -> None:
        self._group = group
        self._backend = backend
        self._journal = journal
        self._member_name = member_name
        self._wrote: dict[Id, int] = {}
        self.lost: dict[Id, CursorLost] = {}
        """Partitions that are owned and stand still because their cursor is gone."""

    async def run(self, member: Member, assigned: Sequence[Assigned]) -> tuple[list[Taken], list[Assigned]]:
        """Take over what was assigned; return what is owned, and what should be tried again later."""
        ids: dict[Id, Assigned] = {(one.topic, one.partition): one for one in assigned}
        in_force: dict[Id, int] = {}
        taken: list[Taken] = []
        later: list[Assigned] = []
        for _ in range(_ROUNDS):  # each round only with those above whose claim another one stood
            if not ids:
                return taken, later
            ids = await self._once(member, ids, in_force, taken, later)
        log.warning("group %s: the takeover of %s is contended; trying again", self._group.name, sorted(ids))
        return taken, [*later, *ids.values()]

    async def _once(
        self,
        member: Member,
        ids: dict[Id, Assigned],
        in_force: dict[Id, int],
        taken: list[Taken],
        later: list[Assigned],
    ) -> dict[Id, Assigned]:
        fenced = await self._fence(member, ids, in_force, taken, later)
        claimed = await self._claim(fenced)
        again: dict[Id, Assigned] = {}
        for id, (cursor, state) in fenced.items():
            topic, number = id
            if id not in claimed:
                later.append(Assigned(topic, number, cursor, ids[id].token))
                continue
            fold = Fold(state.place, state.place_epoch, state.base)
            try:
                _fold_in(fold, await self._records(id, state.place))
            except BackendError as error:
                log.warning("group %s cannot read what it parked of %s[%d]: %s", self._group.name, topic, number, error)
                later.append(Assigned(topic, number, cursor, ids[id].token))
                continue
            # An equal number is not enough: with a lost cursor it may be that of an owner before the loss.
            if (fold.epoch, fold.claimant) == (cursor.epoch, self._member_name):
                taken.append(Taken(topic, number, cursor, state, fold))
                continue
            in_force[id] = fold.epoch
            first = ids[id].cursor
            fresh = first is None or first.epoch == 0  # the next round sees: a claim, and no cursor to go with it
            again[id] = Assigned(topic, number, first if fresh else cursor, ids[id].token)
        return again

    async def _fence(
        self,
        member: Member,
        ids: dict[Id, Assigned],
        in_force: dict[Id, int],
        taken: list[Taken],
        later: list[Assigned],
    ) -> dict[Id, tuple[Cursor, State]]:
        """Store cursors of a new epoch; from here on the former owner's settles are refused."""
        fenced: dict[Id, tuple[Cursor, State]] = {}
        for id, one in ids.items():
            stored = one.cursor
            known = in_force.get(id, 0)
            if stored is None or (stored.epoch == 0 and known > 0):
                try:
                    stored = await self._decide_lost(id)
                except BackendError as error:
                    log.warning("group %s cannot look after %s[%d]: %s", self._group.name, *id, error)
                    later.append(one)
                    continue
                if stored is None:
                    taken.append(Taken(*id))
                    continue
            self.lost.pop(id, None)
            fenced[id] = take_over(stored, one.token, known, own=self._wrote.get(id) == stored.epoch > 0)
        settlements = [Settlement(*id, cursor) for id, (cursor, _) in fenced.items()]
        for settlement, answer in zip(settlements, await member.settle(settlements), strict=True):
            id = (settlement.topic, settlement.partition)
            if answer == "ok":
                self._wrote[id] = settlement.cursor.epoch
            else:
                del fenced[id]
                if answer == "retry":
                    later.append(ids[id])
        return fenced

    async def _claim(self, fenced: dict[Id, Any]) -> set[Id]:
        """Append the claims; return whose are durable."""
        by_topic: dict[str, list[tuple[int, Claim]]] = {}
        for (topic, number), (cursor, _) in fenced.items():
            by_topic.setdefault(topic, []).append((number, Claim(cursor.epoch, self._member_name)))
        done: set[Id] = set()
        for topic, batch in by_topic.items():
            try:
                await self._journal.append(parking_topic(topic, self._group.name), batch)
            except (BackendError, UnknownOutcome) as error:
                log.warning("group %s cannot claim in %s: %s", self._group.name, topic, error)
                continue
            done.update((topic, number) for number, _ in batch)
        return done

    async def _records(self, id: Id, place: int) -> list[Stored]:
        topic, number = id
        records, _ = await self._journal.read(parking_topic(topic, self._group.name), number, place)
        return records

    async def _decide_lost(self, id: Id) -> Cursor | None:
        """A group that has claimed before has no cursor: go on by its ``lost_cursor`` policy, or stop and say so."""
        topic, number = id
        first = (await self._backend.describe(topic)).first[number]
        fold = Fold()
        _fold_in(fold, await self._records(id, 0))
        checkpoint = max(first, fold.base)
        if self._group.lost_cursor == "stop":
            error = CursorLost(
                f"group {self._group.name} has consumed {topic}[{number}] before, and its cursor is gone",
                hint=f"start it with lost_cursor='checkpoint' (go on at {checkpoint}, as the parking topic says) "
                f"or 'earliest' (at {first})",
            )
            self.lost[id] = error
            log.error("%s", error)
            return None
        low = first if self._group.lost_cursor == "earliest" else checkpoint
        log.error("group %s: the cursor of %s[%d] is lost; going on at %d", self._group.name, topic, number, low)
        return Cursor(fold.epoch, low)


def _fold_in(fold: Fold, records: Iterable[Stored]) -> None:
    for stored in records:
        fold.apply(stored.position, record_of(stored))
