"""A topic's log as seen by one connection: where it ends, where a position is, and what went before.

Rows stand in storing order (``seq``). To find a position of one partition, ``mark_N`` is searched by bisection: a mark
at ``seq`` holds the ends of all partitions over the rows below it. From the mark, at most a few hundred rows are
passed over. Positions of a partition are dense, so a row that is missing is found as surely as one that is damaged.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import apsw
import msgspec

from nexus.backends.sqlite.engine import one
from nexus.backends.sqlite.rows import POSITION_BITS, POSITION_MASK, checksum, damaged, open_row, topic_seed
from nexus.errors import CorruptData, UnknownTopic
from nexus.spi.backend import TopicSpec

MARK_EVERY = 256
"""Rows from one mark to the next, at least: few rows to pass over, and an index of a hundredth of the log."""


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What stays about a topic."""

    id: int
    spec: TopicSpec
    seed: int
    mark_every: int
    """Wide topics have large marks; they are set at longer distances, so that the index stays small."""


def load_shape(db: apsw.Connection, store: bytes, name: str) -> Shape:
    """Read a topic's settings. Raises `UnknownTopic`."""
    row = db.execute(
        "SELECT id, partitions, retention_age_s, retention_bytes, dedup FROM topic WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        raise UnknownTopic(f"no topic {name!r}", hint="create it first")
    number, partitions, age_s, size, dedup = row
    spec = TopicSpec(name, partitions, age_s, size, bool(dedup))
    return Shape(number, spec, topic_seed(store, name), max(MARK_EVERY, 2 * partitions))


def seal_mark(shape: Shape, seq: int, ends: list[int]) -> bytes:
    """Make a mark: checksum and the ends of all partitions."""
    packed = array("q", ends).tobytes()
    return crc32(packed, crc32(seq.to_bytes(8, "little"), shape.seed)).to_bytes(4, "little") + packed


def _open_mark(shape: Shape, seq: int, mark: Any) -> list[int] | None:
    if not isinstance(mark, bytes) or len(mark) != 4 + 8 * shape.spec.partitions:
        return None
    packed = mark[4:]
    if crc32(packed, crc32(seq.to_bytes(8, "little"), shape.seed)).to_bytes(4, "little") != mark[:4]:
        return None
    return list(array("q", packed))


def _mark_below(db: apsw.Connection, shape: Shape, seq: int) -> tuple[int, list[int]] | None:
    """Return the last sound mark at or below ``seq``. A damaged one costs time, no correctness."""
    for at, mark in db.execute(f"SELECT seq, ends FROM mark_{shape.id} WHERE seq <= ? ORDER BY seq DESC", (seq,)):
        ends = _open_mark(shape, at, mark)
        if ends is not None:
            return at, ends
    return None


def load_ends(db: apsw.Connection, shape: Shape, known: tuple[int, list[int]] | None = None) -> tuple[int, list[int]]:
    """Return the next ``seq`` and the end of every partition, going on from what was ``known`` before."""
    mark = _mark_below(db, shape, 1 << 62)
    if known is None or (mark is not None and mark[0] > known[0]):
        if mark is None:
            raise CorruptData(f"topic {shape.spec.name!r} has lost its index", hint="restore the file from a copy")
        known = mark
    seq, ends = known[0], list(known[1])
    for at, place in db.execute(f"SELECT seq, place FROM log_{shape.id} WHERE seq >= ? ORDER BY seq", (seq,)):
        partition, position = place >> POSITION_BITS, place & POSITION_MASK
        if not 0 <= partition < len(ends) or position != ends[partition]:
            # Whose event this was nobody can tell, so no partition's end can be trusted.
            raise CorruptData(f"topic {shape.spec.name!r}: row {at} is damaged", hint="restore the file from a copy")
        ends[partition] = position + 1
        seq = at + 1
    return seq, ends


def check_tail(db: apsw.Connection, shape: Shape) -> None:
    """Raise `CorruptData` if rows at the end of the log are damaged or gone, so that the ends cannot be trusted."""
    mark = _mark_below(db, shape, 1 << 62)
    if mark is None:
        raise CorruptData(f"topic {shape.spec.name!r} has lost its index", hint="restore the file from a copy")
    first, ends = mark[0], list(mark[1])
    for seq, place, at, total, row in db.execute(
        f"SELECT seq, place, at, total, row FROM log_{shape.id} WHERE seq >= ? ORDER BY seq", (first,)
    ):
        open_row(shape.seed, shape.spec.name, seq, place, at, total, row)
        partition, position = place >> POSITION_BITS, place & POSITION_MASK
        if position != ends[partition]:
            raise damaged(shape.spec.name, partition, ends[partition])
        ends[partition] = position + 1
    check_end(db, shape)


def check_end(db: apsw.Connection, shape: Shape) -> None:
    """Raise `CorruptData` if rows are gone from below the last mark.

    When a store is closed, a mark is set at the very end of each log. The row below it may be missing only if its
    partition was trimmed up to its end.
    """
    mark = _mark_below(db, shape, 1 << 62)
    first = mark[0] if mark is not None else 1
    if mark is not None and first > 1 and one(db, f"SELECT 1 FROM log_{shape.id} WHERE seq = ?", (first - 1,)) is None:
        begins = load_parts(db, shape).first
        if not any(0 < end <= begin for begin, end in zip(begins, mark[1], strict=True)):
            raise CorruptData(
                f"topic {shape.spec.name!r}: events at its end are gone", hint="restore the file from a copy"
            )


def _range(db: apsw.Connection, table: str) -> tuple[int, int] | None:
    # Two questions: asked for both at once, SQLite looks at every row.
    low, high = one(db, f"SELECT (SELECT min(seq) FROM {table}), (SELECT max(seq) FROM {table})")
    return None if low is None else (low, high)


def locate(db: apsw.Connection, shape: Shape, partition: int, position: int) -> int:
    """Return a ``seq`` at or below the row of ``position``, with few rows in between."""
    low_row = _range(db, f"mark_{shape.id}")
    if low_row is None:
        return 0
    low, high = low_row
    found = low
    while low <= high:
        middle = (low + high) // 2
        mark = _mark_below(db, shape, middle)
        if mark is None:  # only damaged marks below
            low = middle + 1
        elif mark[1][partition] <= position:
            found = max(found, mark[0])
            low = middle + 1
        else:
            high = mark[0] - 1
    return int(found)


def rows_of(
    db: apsw.Connection, shape: Shape, partition: int, position: int
) -> Iterator[tuple[int, int, float, int, bytes]]:
    """Yield (seq, position, recorded time, total, row) of a partition's rows from ``position`` on."""
    place = partition << POSITION_BITS
    for seq, at_place, at, total, row in db.execute(
        f"SELECT seq, place, at, total, row FROM log_{shape.id} WHERE seq >= ? AND place BETWEEN ? AND ? ORDER BY seq",
        (locate(db, shape, partition, position), place | position, place | POSITION_MASK),
    ):
        yield seq, at_place & POSITION_MASK, at, total, row


def ends_at(db: apsw.Connection, shape: Shape, seq: int) -> list[int]:
    """Return the ends of all partitions over the rows below ``seq``."""
    mark = _mark_below(db, shape, seq)
    if mark is None:
        raise CorruptData(f"topic {shape.spec.name!r} has lost its index", hint="restore the file from a copy")
    ends = mark[1]
    for (place,) in db.execute(f"SELECT place FROM log_{shape.id} WHERE seq >= ? AND seq < ?", (mark[0], seq)):
        partition, position = place >> POSITION_BITS, place & POSITION_MASK
        if 0 <= partition < len(ends):
            ends[partition] = max(ends[partition], position + 1)
    return ends


def seq_at_time(db: apsw.Connection, shape: Shape, time: float) -> int | None:
    """Return the first ``seq`` recorded at or after ``time``, or None. Recorded times never fall along the log."""
    low_row = _range(db, f"log_{shape.id}")
    if low_row is None:
        return None
    low, high = low_row
    found: int | None = None
    while low <= high:
        middle = (low + high) // 2
        row = db.execute(
            f"SELECT seq, at FROM log_{shape.id} WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= time:
            if row is not None:
                found = row[0]
            high = middle - 1
        else:
            low = row[0] + 1
    return found


class Parts(msgspec.Struct):
    """Where each partition of a topic begins, and whether it still takes events."""

    first: list[int]
    freed: list[int]
    sealed: set[int]


def load_parts(db: apsw.Connection, shape: Shape) -> Parts:
    """Read the trimmed and sealed partitions. Raises `CorruptData` for a damaged row."""
    parts = Parts([0] * shape.spec.partitions, [0] * shape.spec.partitions, set())
    for row in db.execute("SELECT partition, first, freed, sealed, crc FROM part WHERE topic = ?", (shape.id,)):
        partition, first, freed, sealed, crc = row
        if crc != checksum(shape.id, *row[:4]) or not 0 <= partition < shape.spec.partitions:
            raise CorruptData(f"topic {shape.spec.name!r}, partition {partition}: its beginning is damaged")
        parts.first[partition], parts.freed[partition] = first, freed
        if sealed:
            parts.sealed.add(partition)
    return parts


def save_part(db: apsw.Connection, shape: Shape, parts: Parts, partition: int) -> None:
    """Write one partition's row."""
    row = (partition, parts.first[partition], parts.freed[partition], int(partition in parts.sealed))
    db.execute(
        "INSERT OR REPLACE INTO part(topic, partition, first, freed, sealed, crc) VALUES (?, ?, ?, ?, ?, ?)",
        (shape.id, *row, checksum(shape.id, *row)),
    )


def size_bytes(db: apsw.Connection, shape: Shape) -> int:
    """Bytes of all kept rows; exact unless single partitions were trimmed ahead of others."""
    first = db.execute(
        f"SELECT total - length(row) FROM log_{shape.id} ORDER BY seq LIMIT 1",
    ).fetchone()
    last = db.execute(f"SELECT total FROM log_{shape.id} ORDER BY seq DESC LIMIT 1").fetchone()
    return 0 if first is None or last is None else last[0] - first[0]
