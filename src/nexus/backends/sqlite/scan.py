"""Read many partitions of a topic in one pass over its log.

A pass starts at the lowest wished row and gives each row to the want that waits for it. Wants that are far apart would
make it pass over much that nobody wants, so after some hundreds of useless rows it jumps to where the next want begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from nexus.backends.sqlite.log import Shape, check_end, load_ends, load_parts, load_shape, locate
from nexus.backends.sqlite.rows import POSITION_BITS, POSITION_MASK, damaged, open_row
from nexus.errors import CorruptData, SettingsError
from nexus.spi.backend import Slice, Stored, Want

_USELESS_ROWS = 512


class Lane:
    """One want while it is served."""

    __slots__ = ("end", "events", "first", "next", "start", "want")

    def __init__(self, want: Want, first: int, end: int) -> None:
        self.want = want
        self.first = first
        self.end = end
        self.next = max(want.position, first)
        self.events: list[Stored] = []
        self.start = 0

    def slice(self) -> Slice:
        """Return what was found."""
        want = self.want
        trimmed = self.first if want.position < self.first else None
        return Slice(want.topic, want.partition, self.events, self.next, self.next < self.end, trimmed)


class TopicReader:
    """Reads one topic on one connection, inside a read transaction of the caller. Remembers where it stood."""

    def __init__(self, db: apsw.Connection, store: bytes, name: str) -> None:
        self._db = db
        self.shape: Shape = load_shape(db, store, name)
        check_end(db, self.shape)
        self._known: tuple[int, list[int]] | None = None
        self._hints: dict[int, tuple[int, int]] = {}  # partition → a position, and a seq at or below its row

    def ends(self) -> list[int]:
        """Return the end of every partition."""
        self._known = load_ends(self._db, self.shape, self._known)
        return self._known[1]

    def read(self, wants: Sequence[Want], room: int, found_before: bool) -> tuple[list[Slice], int]:
        """Serve wants, each partition at most once; return slices in order and the bytes that were taken."""
        ends = self.ends()
        first = load_parts(self._db, self.shape).first
        lanes: list[Lane] = []
        active: dict[int, Lane] = {}
        for want in wants:
            if not 0 <= want.partition < len(ends):
                raise SettingsError(f"topic {want.topic!r} has {len(ends)} partitions; {want.partition} is none")
            lane = Lane(want, first[want.partition], ends[want.partition])
            lanes.append(lane)
            if lane.next < lane.end and want.max_events > 0:
                lane.start = self._start(want.partition, lane.next)
                active[want.partition] = lane
        taken = self._pass(active, room, found_before) if active else 0
        return [lane.slice() for lane in lanes], taken

    def _start(self, partition: int, position: int) -> int:
        hint = self._hints.get(partition)
        if hint is not None and hint[0] == position:
            return hint[1]
        return locate(self._db, self.shape, partition, position)

    def _pass(self, active: dict[int, Lane], room: int, found: bool) -> int:
        name, seed = self.shape.spec.name, self.shape.seed
        sql = f"SELECT seq, place, at, total, row FROM log_{self.shape.id} WHERE seq >= ? ORDER BY seq"
        hints = self._hints
        taken = 0
        start = min(lane.start for lane in active.values())
        while True:
            useless = 0
            cursor = self._db.execute(sql, (start,))
            try:
                for seq, place, at, total, row in cursor:
                    partition = place >> POSITION_BITS
                    lane = active.get(partition)
                    if lane is None or (position := place & POSITION_MASK) < lane.next:
                        useless += 1
                        if useless >= _USELESS_ROWS:
                            break
                        continue
                    useless = 0
                    try:
                        if position > lane.next:
                            raise damaged(name, partition, lane.next)
                        if found and taken + len(row) > room:
                            return taken
                        event = open_row(seed, name, seq, place, at, total, row)
                    except CorruptData:
                        if not lane.events:
                            raise
                        # Give what is sound before it; the next call begins at the damage and says so.
                        del active[partition]
                    else:
                        lane.events.append(Stored(position, at, len(row), event))
                        lane.next = position + 1
                        hints[partition] = (position + 1, seq + 1)
                        found = True
                        taken += len(row)
                        if position + 1 < lane.end and len(lane.events) < lane.want.max_events:
                            continue
                        del active[partition]
                    if not active:
                        return taken
                else:
                    lane = next(iter(active.values()))
                    raise damaged(name, lane.want.partition, lane.next)
            finally:
                cursor.close()
            # At least one row further, whatever the marks say: a jump must not go round in circles.
            start = max(seq + 1, min(locate(self._db, self.shape, p, lane.next) for p, lane in active.items()))
