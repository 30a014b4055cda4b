"""Becoming the owner of partitions: fence, claim, read, then fetch (rule 1); many at once.

If operators sent the group elsewhere, the new owner writes that down between reading and fetching (rule 15).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from nexus.core import cursor as cursor_codec
from nexus.core.control import Wish
from nexus.core.cursor import State
from nexus.core.parking import Claim, Fold, Record, Reset
from nexus.core.takeover import after_reset, begin_fold, take_over
from nexus.errors import BackendError, CorruptData, CursorLost, NexusError, PublishError
from nexus.runtime.journal import Journal, parking_topic, record_of
from nexus.runtime.subscription import Group
from nexus.spi.backend import Assigned, Backend, Cursor, Member, Settlement, Slice, Stored, Want

log = logging.getLogger("nexus.consumer")

_ROUNDS = 8
_HEADS_BYTES = 1024 * 1024
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

    def __init__(
        self,
        group: Group,
        backend: Backend,
        journal: Journal,
        member_name: str,
        wish: Callable[[Id], Wish | None],
    ) -> None:
        """``wish`` says where operators sent a partition last, if they did."""
        self._group = group
        self._wish = wish
        self._backend = backend
        self._journal = journal
        self._member_name = member_name
        self._wrote: dict[Id, int] = {}
        self.lost: dict[Id, NexusError] = {}
        """Partitions that are owned and stand still because their cursor is gone, or cannot be read."""

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
        claimed = await self._append({id: Claim(cursor.epoch, self._member_name) for id, (cursor, _) in fenced.items()})
        folds = {id: begin_fold(fenced[id][1]) for id in claimed}
        read = await self._read_on(folds)
        resets: dict[Id, Record] = {}
        for id in read:
            wish = self._wish(id)
            if self._in_force(folds[id], fenced[id][0]) and wish is not None and wish.number > folds[id].reset:
                resets[id] = Reset(fenced[id][0].epoch, wish.number, wish.to, wish.drop)
        if resets:
            reset = await self._append(resets)
            read = (read - resets.keys()) | await self._read_on({id: folds[id] for id in reset & read})
        again: dict[Id, Assigned] = {}
        for id, (cursor, state) in fenced.items():
            topic, number = id
            if id not in read:
                later.append(Assigned(topic, number, cursor, ids[id].token))
            elif self._in_force(folds[id], cursor):
                taken.append(Taken(topic, number, *after_reset(cursor, state, folds[id]), folds[id]))
            else:
                in_force[id] = folds[id].epoch
                first = ids[id].cursor
                if first is not None and first.epoch > 0:
                    again[id] = Assigned(topic, number, cursor, ids[id].token)
                elif await self._owns(member, ids[id], cursor, later):
                    again[id] = ids[id]  # the next round sees: a claim, and no cursor to go with it
        return again

    async def _owns(self, member: Member, one: Assigned, cursor: Cursor, later: list[Assigned]) -> bool:
        """Tell whether a partition is still the member's by storing its cursor as it stands.

        Before a cursor is called lost: a member that was held up may have lost the partition unawares, and what others
        wrote there since needs no cursor that this one knows of.
        """
        [answer] = await member.settle([Settlement(one.topic, one.partition, cursor)])
        if answer == "retry":
            later.append(one)
        return answer == "ok"

    def _in_force(self, fold: Fold, cursor: Cursor) -> bool:
        """Tell whether this member's claim counts.

        An equal number is not enough: with a lost cursor it may be that of an owner before the loss.
        """
        return (fold.epoch, fold.claimant) == (cursor.epoch, self._member_name)

    async def _read_on(self, folds: Mapping[Id, Fold]) -> set[Id]:
        """Let folds take in what they have not read yet; return of which partitions that worked."""
        try:
            await self._read_together(folds)
        except BackendError:  # it may be one of them: the others need not wait for it
            return {id for id, fold in folds.items() if await self._read_alone(id, fold)}
        return set(folds)

    async def _read_together(self, folds: Mapping[Id, Fold]) -> None:
        """Read all in as few turns as they need: each is a way to the broker and back."""
        places = {id: fold.place for id, fold in folds.items()}
        while places:
            wants = [self._journal.want(parking_topic(id[0], self._group.name), id[1], places[id]) for id in places]
            for id, part in zip(list(places), await self._journal.read_some(wants), strict=True):
                _fold_in(folds[id], part.events)
                places[id] = part.next
                if not part.more:
                    del places[id]

    async def _read_alone(self, id: Id, fold: Fold) -> bool:
        try:
            _fold_in(fold, await self._records(id, fold.place))
        except BackendError as error:
            log.warning("group %s cannot read what it parked of %s[%d]: %s", self._group.name, *id, error)
            return False
        return True

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
        fresh = [id for id, one in ids.items() if one.cursor is None or one.cursor.epoch == 0]
        # Looked at before anything is written: the next owner would find a cursor, and nothing amiss.
        heads = await self._heads(fresh) if fresh else {}
        for id, one in ids.items():
            stored = one.cursor
            known = in_force.get(id, 0)
            if stored is None or stored.epoch == 0:
                if id not in heads:
                    later.append(one)
                    continue
                try:
                    fold = await self._told_before(id, heads[id])
                    claimed = fold is not None and id not in in_force
                    if claimed and stored is not None and not await self._owns(member, one, stored, later):
                        continue
                    if fold is not None or stored is None:
                        stored = await self._decide_lost(id, fold or begin_fold(State()))
                except BackendError as error:
                    log.warning("group %s cannot look after %s[%d]: %s", self._group.name, *id, error)
                    later.append(one)
                    continue
                if stored is None:
                    taken.append(Taken(*id))
                    continue
            self.lost.pop(id, None)
            try:
                fenced[id] = take_over(stored, one.token, known, own=self._wrote.get(id) == stored.epoch > 0)
            except CorruptData as error:  # nor may anybody write over it: a later release may read it
                error.message = f"group {self._group.name}, {id[0]}[{id[1]}]: {error.message}"
                self._stands_still(id, error)
                taken.append(Taken(*id))
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

    async def _append(self, records: Mapping[Id, Record]) -> set[Id]:
        """Append a record for each partition; return whose are durable."""
        by_topic: dict[str, list[tuple[int, Record]]] = {}
        for (topic, number), record in records.items():
            by_topic.setdefault(topic, []).append((number, record))
        done: set[Id] = set()
        for topic, batch in by_topic.items():
            try:
                await self._journal.append(parking_topic(topic, self._group.name), batch)
            except (BackendError, PublishError) as error:
                log.warning("group %s cannot claim in %s: %s", self._group.name, topic, error)
                continue
            done.update((topic, number) for number, _ in batch)
        return done

    async def _records(self, id: Id, place: int) -> list[Stored]:
        topic, number = id
        records, _ = await self._journal.read(parking_topic(topic, self._group.name), number, place)
        return records

    async def _heads(self, ids: Sequence[Id]) -> dict[Id, Slice]:
        """Read the first record of the parking topics of partitions; without those that cannot be read now."""
        wants = [Want(parking_topic(topic, self._group.name), number, 0, 1) for topic, number in ids]
        heads: dict[Id, Slice] = {}
        try:
            for id, want, part in zip(ids, wants, await self._backend.read(wants, _HEADS_BYTES), strict=True):
                cut = part.more and not part.events  # by the bound on all of them together
                heads[id] = (await self._backend.read([want], 1))[0] if cut else part
        except BackendError as error:
            log.warning("group %s cannot look after %d partitions: %s", self._group.name, len(ids), error)
        return heads

    async def _told_before(self, id: Id, part: Slice) -> Fold | None:
        """What the group wrote of a partition that it has no cursor for; None if it never claimed it."""
        if not part.events:
            # All that it wrote may have been trimmed since: it was finished.
            return None if part.trimmed is None else Fold()
        first = part.events[0]
        # The claim that the first kept record needs may have been trimmed.
        epoch = 0 if part.trimmed is None else getattr(record_of(first), "epoch", 0)
        fold = Fold(first.position, epoch)
        _fold_in(fold, await self._records(id, first.position))
        return fold

    def _stands_still(self, id: Id, error: NexusError) -> None:
        self.lost[id] = error
        log.error("%s", error)

    async def _decide_lost(self, id: Id, fold: Fold) -> Cursor | None:
        """A group that has claimed before has no cursor: go on by its ``lost_cursor`` policy, or stop and say so."""
        topic, number = id
        first = (await self._backend.describe(topic)).first[number]
        checkpoint = max(first, fold.base)
        if self._group.lost_cursor == "stop":
            error = CursorLost(
                f"group {self._group.name} has consumed {topic}[{number}] before, and its cursor is gone",
                hint=f"start it with lost_cursor='checkpoint' (go on at {checkpoint}, as the parking topic says) "
                f"or 'earliest' (at {first})",
            )
            self._stands_still(id, error)
            return None
        low = first if self._group.lost_cursor == "earliest" else checkpoint
        log.error("group %s: the cursor of %s[%d] is lost; going on at %d", self._group.name, topic, number, low)
        place, epoch, base, place_reset = fold.checkpoint()
        state = State(place=place, place_epoch=epoch, base=base, place_reset=place_reset, reset=fold.reset)
        text = cursor_codec.encode(low, state)
        assert text is not None, "nothing of it is long"
        return Cursor(fold.epoch, low, text)


def _fold_in(fold: Fold, records: Iterable[Stored]) -> None:
    for stored in records:
        fold.apply(stored.position, record_of(stored))
