"""Store events at the end of a topic's log, each (source, id) once.

The usual batch has no duplicate: its ids and its rows go down with one statement each. Only if fewer ids were new than
there are events, the batch is taken back and done again event by event.

Ids are remembered in three tables that take turns. New ids go to the current one, both the current and the one before
are asked, and the third is emptied, a few rows with each batch. They take turns when the current one has taken as many
ids, or is as old, as the window says; an id is so remembered for one whole turn at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from nexus.backends.sqlite.engine import one
from nexus.backends.sqlite.files import BOOT_ID, boot_time
from nexus.backends.sqlite.log import (
    Parts,
    Shape,
    check_tail,
    load_ends,
    load_parts,
    load_shape,
    rows_of,
    save_part,
    seal_mark,
)
from nexus.backends.sqlite.requests import AppendRequest, Item
from nexus.backends.sqlite.rows import POSITION_BITS, POSITION_MASK, fact_number, id_number, open_row, seal_row
from nexus.backends.sqlite.settings import Settings
from nexus.core.envelope import same_content
from nexus.errors import CorruptData, IdConflict, Sealed, UnknownTopic
from nexus.event import Event
from nexus.spi.backend import Appended

_EMPTY_ROWS = 2_000


class TopicWriter:
    """What the writer knows about one topic. Right as long as nobody else writes and no transaction fails."""

    def __init__(self, db: apsw.Connection, store: bytes, name: str, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self.shape: Shape = load_shape(db, store, name)
        check_tail(db, self.shape)
        self.seq, self.ends = load_ends(db, self.shape)
        self.parts: Parts = load_parts(db, self.shape)
        last = one(db, f"SELECT at, total FROM log_{self.shape.id} ORDER BY seq DESC LIMIT 1")
        self._last_at: float
        self._total: int
        self._last_at, self._total = last or (0.0, 0)
        self._mark_seq: int = one(db, f"SELECT max(seq) FROM mark_{self.shape.id}")[0] or 0
        self._generation, self._turn_seq, boot, self._turn_at = one(
            db,
            "SELECT generation, generation_seq, generation_boot, generation_at FROM topic WHERE id = ?",
            (self.shape.id,),
        )
        if boot != BOOT_ID:
            # Time before the last start of the machine cannot be measured: let the turn begin anew, remember longer.
            self._turn_at = None
        self._two_tables = self._holds(self._generation - 1)
        self._emptying = self._holds(self._generation - 2)
        self._insert_row = f"INSERT INTO log_{self.shape.id} VALUES (?, ?, ?, ?, ?)"

    def _table(self, generation: int) -> str:
        return f"ids_{self.shape.id}_{generation % 3}"

    def _holds(self, generation: int) -> bool:
        return self._db.execute(f"SELECT 1 FROM {self._table(generation)} LIMIT 1").fetchone() is not None

    def append(self, requests: Sequence[AppendRequest], now: float) -> None:
        """Store the events of ``requests``, in order; each gets its result or its error."""
        accepts = self._accepts
        requests = [request for request in requests if accepts(request)]
        if not requests:
            return
        at = max(now, self._last_at)
        if self.seq - self._mark_seq >= self.shape.mark_every:
            self.mark()
        if not self.shape.spec.dedup:
            self._append_all(requests, at)
            return
        self._take_turns()
        before = self.ends.copy(), self.seq, self._total, self._last_at
        self._db.execute("SAVEPOINT fast")
        if not self._append_all(requests, at):
            self._db.execute("ROLLBACK TO fast")
            self.ends, self.seq, self._total, self._last_at = before
            for request in requests:
                self._append_one_by_one(request, at)
        self._db.execute("RELEASE fast")

    def _accepts(self, request: AppendRequest) -> bool:
        sealed, partitions = self.parts.sealed, len(self.ends)
        for partition, _, _ in request.items:
            if not 0 <= partition < partitions:
                request.error = UnknownTopic(f"topic {self.shape.spec.name!r} has no partition {partition}")
                return False
            if sealed and partition in sealed:
                request.error = Sealed(f"topic {self.shape.spec.name!r}, partition {partition} takes no more events")
                return False
        return True

    def _append_all(self, requests: Sequence[AppendRequest], at: float) -> bool:
        """Store all events as new ones; False, with half of it done, if an id was there already."""
        seed, ends, seq, total = self.shape.seed, self.ends, self.seq, self._total
        dedup = self.shape.spec.dedup
        rows: list[tuple[int, int, float, int, bytes]] = []
        ids: list[tuple[int, int]] = []
        add_row, add_id = rows.append, ids.append
        for request in requests:
            answers = []
            for partition, event, content in request.items:
                position = ends[partition]
                ends[partition] = position + 1
                place = partition << POSITION_BITS | position
                total += len(content) + 4
                add_row((seq, place, at, total, seal_row(seed, seq, place, at, total, content)))
                if dedup:
                    add_id((id_number(event.source, event.id), seq))
                answers.append(Appended(partition, position))
                seq += 1
            request.result = answers
            request.at = at
        self.seq, self._total, self._last_at = seq, total, at
        if dedup and not self._insert_new(ids):
            return False
        self._db.executemany(self._insert_row, rows)
        return True

    def _insert_new(self, ids: list[tuple[int, int]]) -> bool:
        """Note ids; False if one of them was there."""
        table = self._table(self._generation)
        if self._two_tables:
            before = self._table(self._generation - 1)
            sql = (
                f"INSERT OR IGNORE INTO {table}(number, seq) SELECT ?1, ?2 "
                f"WHERE NOT EXISTS (SELECT 1 FROM {before} WHERE number = ?1)"
            )
        else:
            sql = f"INSERT OR IGNORE INTO {table}(number, seq) VALUES (?, ?)"
        changes = self._db.total_changes()
        self._db.executemany(sql, ids)
        return self._db.total_changes() - changes == len(ids)

    def _append_one_by_one(self, request: AppendRequest, at: float) -> None:
        before = self.ends.copy(), self.seq, self._total, self._last_at
        request.at = None
        self._db.execute("SAVEPOINT one")
        try:
            request.result = [self._append_one(item, at) for item in request.items]
        except CorruptData as error:  # the first event under one of the ids
            self._db.execute("ROLLBACK TO one")
            self.ends, self.seq, self._total, self._last_at = before
            request.error = error
        self._db.execute("RELEASE one")

    def _append_one(self, item: Item, at: float) -> Appended | IdConflict:
        partition, event, content = item
        number, fact = id_number(event.source, event.id), fact_number(event)
        for generation in (self._generation, self._generation - 1):
            probe = number
            # Two ids with one number stand side by side: go on until a number is free.
            while (found := self._found(generation, probe)) is not None:
                place, known, stored = found
                if stored is None:
                    same_id, same = known is not None and known >> 32 == fact >> 32, known == fact
                else:
                    same_id = stored.id == event.id and stored.source == event.source
                    same = same_id and same_content(stored, event)
                if same_id:
                    first = Appended(place >> POSITION_BITS, place & POSITION_MASK, duplicate=True)
                    return first if same else self._conflict(event, first)
                probe += 1
            if generation == self._generation:
                free = probe
        position = self.ends[partition]
        place = partition << POSITION_BITS | position
        total = self._total + len(content) + 4
        self._db.execute(
            f"INSERT INTO {self._table(self._generation)}(number, seq) VALUES (?, ?)",
            (free, self.seq),
        )
        self._db.execute(
            self._insert_row,
            (self.seq, place, at, total, seal_row(self.shape.seed, self.seq, place, at, total, content)),
        )
        self.ends[partition] = position + 1
        self.seq += 1
        self._total, self._last_at = total, at
        return Appended(partition, position)

    def _conflict(self, event: Event[Any], first: Appended) -> IdConflict:
        return IdConflict(
            f"topic {self.shape.spec.name!r} has another event with source {event.source!r} and id "
            f"{event.id!r}, at partition {first.partition}, position {first.position}",
            hint="give events ids of their own",
        )

    def _found(self, generation: int, number: int) -> tuple[int, int | None, Event[Any] | None] | None:
        """Return place, checksum and event behind a number; the checksum stands for an event that is deleted."""
        row = one(self._db, f"SELECT seq, place, fact FROM {self._table(generation)} WHERE number = ?", (number,))
        if row is None:
            return None
        seq, place, fact = row
        if place is not None:
            return place, fact, None
        kept = one(self._db, f"SELECT place, at, total, row FROM log_{self.shape.id} WHERE seq = ?", (seq,))
        if kept is None:  # it was damaged when it was deleted: as if it had never been
            return -1, None, None
        return kept[0], None, open_row(self.shape.seed, self.shape.spec.name, seq, *kept)

    @property
    def unmarked(self) -> bool:
        """Whether there are rows above the last mark."""
        return self._mark_seq < self.seq

    def mark(self) -> None:
        """Set a mark here, for all who look for a position later."""
        self._db.execute(
            f"INSERT OR REPLACE INTO mark_{self.shape.id} VALUES (?, ?)",
            (self.seq, seal_mark(self.shape, self.seq, self.ends)),
        )
        self._mark_seq = self.seq

    def _take_turns(self) -> None:
        if self._emptying:
            table = self._table(self._generation - 2)
            row = self._db.execute(
                f"SELECT number FROM {table} ORDER BY number LIMIT 1 OFFSET {_EMPTY_ROWS}"
            ).fetchone()
            if row is None:
                self._db.execute(f"DELETE FROM {table}")
                self._emptying = False
            else:
                self._db.execute(f"DELETE FROM {table} WHERE number < ?", row)
            return
        now = boot_time()
        if self._turn_at is None:
            self._turn_at = now
            self._save_turn()
        if self.seq - self._turn_seq >= self._settings.dedup_ids or now - self._turn_at >= self._settings.dedup_s:
            self._generation += 1
            self._turn_seq, self._turn_at = self.seq, now
            self._two_tables, self._emptying = self._holds(self._generation - 1), self._holds(self._generation - 2)
            self._save_turn()

    def _save_turn(self) -> None:
        self._db.execute(
            "UPDATE topic SET generation = ?, generation_seq = ?, generation_boot = ?, generation_at = ? WHERE id = ?",
            (self._generation, self._turn_seq, BOOT_ID, self._turn_at, self.shape.id),
        )

    def _keep_fact(self, seq: int, place: int, at: float, total: int, row: bytes) -> None:
        """Note with the id of an event that is to be deleted where it was and what it said."""
        try:
            event = open_row(self.shape.seed, self.shape.spec.name, seq, place, at, total, row)
        except CorruptData:
            return
        number, fact = id_number(event.source, event.id), fact_number(event)
        for generation in (self._generation, self._generation - 1):
            probe = number
            while found := one(self._db, f"SELECT seq FROM {self._table(generation)} WHERE number = ?", (probe,)):
                if found[0] == seq:
                    self._db.execute(
                        f"UPDATE {self._table(generation)} SET place = ?, fact = ? WHERE number = ?",
                        (place, fact, probe),
                    )
                    return
                probe += 1

    def free_some(self, rows: int) -> bool:
        """Really delete up to ``rows`` trimmed rows; True if there are more."""
        parts, db, number = self.parts, self._db, self.shape.id
        for partition, first in enumerate(parts.first):
            freed = parts.freed[partition]
            if freed >= first:
                continue
            if self._mark_seq < self.seq:
                self.mark()  # the ends must never be read from rows that go
            gone: list[tuple[int]] = []
            for seq, position, at, total, row in rows_of(db, self.shape, partition, freed):
                if position >= first or len(gone) >= rows:
                    break
                gone.append((seq,))
                if self.shape.spec.dedup:
                    self._keep_fact(seq, partition << POSITION_BITS | position, at, total, row)
                freed = position + 1
            else:
                freed = first
            db.executemany(f"DELETE FROM log_{number} WHERE seq = ?", gone)
            parts.freed[partition] = first if len(gone) < rows else freed
            save_part(db, self.shape, parts, partition)
            db.execute(
                f"DELETE FROM mark_{number} WHERE seq < (SELECT max(seq) FROM mark_{number} WHERE seq <= "
                f"ifnull((SELECT min(seq) FROM log_{number}), ?))",
                (self.seq,),
            )
            return True
        return False
