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
from nexus.backends.sqlite.rows import POSITION_BITS, POSITION_MASK, damaged, fact_number, id_number, open_row, seal_row
from nexus.backends.sqlite.settings import Settings
from nexus.core.envelope import same_content
from nexus.errors import IdConflict, Sealed, UnknownTopic
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
        requests = [request for request in requests if self._accepts(request)]
        if not requests:
            return
        at = max(now, self._last_at)
        if self.seq - self._mark_seq >= self.shape.mark_every:
            self.mark()
        if not self.shape.spec.dedup:
            self._append_all(requests, at)
            return
        self._take_turns()
        self._db.execute("SAVEPOINT fast")
        if self._insert_new(requests):
            self._append_all(requests, at)
        else:
            self._db.execute("ROLLBACK TO fast")
            for request in requests:
                request.result = [self._append_one(item, at) for item in request.items]
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

    def _insert_new(self, requests: Sequence[AppendRequest]) -> bool:
        """Note all ids for the rows to come; False if one of them was there."""
        ends = self.ends.copy()
        seq = self.seq
        rows = []
        for request in requests:
            for partition, event, _ in request.items:
                end = ends[partition]
                ends[partition] = end + 1
                place = partition << POSITION_BITS | end
                rows.append((id_number(event.source, event.id), seq, place, fact_number(event)))
                seq += 1
        table = self._table(self._generation)
        if self._two_tables:
            before = self._table(self._generation - 1)
            sql = (
                f"INSERT OR IGNORE INTO {table} SELECT ?1, ?2, ?3, ?4 "
                f"WHERE NOT EXISTS (SELECT 1 FROM {before} WHERE number = ?1)"
            )
        else:
            sql = f"INSERT OR IGNORE INTO {table} VALUES (?, ?, ?, ?)"
        changes = self._db.total_changes()
        self._db.executemany(sql, rows)
        return self._db.total_changes() - changes == len(rows)

    def _append_all(self, requests: Sequence[AppendRequest], at: float) -> None:
        seed, ends, seq, total = self.shape.seed, self.ends, self.seq, self._total
        rows = []
        for request in requests:
            answers = []
            for partition, _, content in request.items:
                position = ends[partition]
                ends[partition] = position + 1
                place = partition << POSITION_BITS | position
                total += len(content) + 4
                rows.append((seq, place, at, total, seal_row(seed, seq, place, at, total, content)))
                answers.append(Appended(partition, position))
                seq += 1
            request.result = answers
        self._db.executemany(self._insert_row, rows)
        self.seq, self._total, self._last_at = seq, total, at

    def _append_one(self, item: Item, at: float) -> Appended | IdConflict:
        partition, event, content = item
        number = id_number(event.source, event.id)
        for generation in (self._generation, self._generation - 1):
            probe = number
            # Two ids with one number stand side by side: go on until a number is free.
            while (found := self._found(generation, probe)) is not None:
                place, fact, stored = found
                if stored is None or (stored.id == event.id and stored.source == event.source):
                    first = Appended(place >> POSITION_BITS, place & POSITION_MASK, duplicate=True)
                    if fact == fact_number(event) if stored is None else same_content(stored, event):
                        return first
                    return IdConflict(
                        f"topic {self.shape.spec.name!r} has another event with source {event.source!r} and id "
                        f"{event.id!r}, at partition {first.partition}, position {first.position}",
                        hint="give events ids of their own",
                    )
                probe += 1
            if generation == self._generation:
                free = probe
        position = self.ends[partition]
        place = partition << POSITION_BITS | position
        total = self._total + len(content) + 4
        self._db.execute(
            f"INSERT INTO {self._table(self._generation)} VALUES (?, ?, ?, ?)",
            (free, self.seq, place, fact_number(event)),
        )
        self._db.execute(
            self._insert_row,
            (self.seq, place, at, total, seal_row(self.shape.seed, self.seq, place, at, total, content)),
        )
        self.ends[partition] = position + 1
        self.seq += 1
        self._total, self._last_at = total, at
        return Appended(partition, position)

    def _found(self, generation: int, number: int) -> tuple[int, int, Event[Any] | None] | None:
        """Return place, content's checksum and event behind a number; no event if its row is gone."""
        row = self._db.execute(
            f"SELECT seq, place, fact FROM {self._table(generation)} WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            return None
        seq, place, fact = row
        if place & POSITION_MASK < self.parts.first[place >> POSITION_BITS]:
            return place, fact, None  # trimmed: that it was there is all that may be known
        kept = one(self._db, f"SELECT place, at, total, row FROM log_{self.shape.id} WHERE seq = ?", (seq,))
        if kept is None:
            raise damaged(self.shape.spec.name, place >> POSITION_BITS, place & POSITION_MASK)
        return place, fact, open_row(self.shape.seed, self.shape.spec.name, seq, *kept)

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
            for seq, position, _, _ in rows_of(db, self.shape, partition, freed):
                if position >= first or len(gone) >= rows:
                    break
                gone.append((seq,))
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
