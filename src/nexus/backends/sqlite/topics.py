"""What can be done to a topic besides appending and reading."""

from __future__ import annotations

from nexus.backends.sqlite.log import (
    ends_at,
    load_parts,
    load_shape,
    save_part,
    seal_mark,
    seq_at_time,
    size_bytes,
)
from nexus.backends.sqlite.reader import Reader
from nexus.backends.sqlite.schema import topic_tables
from nexus.backends.sqlite.writer import Report, Writer
from nexus.errors import SettingsError, UnknownTopic
from nexus.spi.backend import TopicInfo, TopicSpec

PARTITIONS_LIMIT = 4_096


def check(spec: TopicSpec) -> None:
    """Raise `SettingsError` for a topic that cannot be."""
    if not spec.name:
        raise SettingsError("a topic needs a name")
    if not 1 <= spec.partitions <= PARTITIONS_LIMIT:
        raise SettingsError(f"topic {spec.name!r}: {spec.partitions} is not between 1 and {PARTITIONS_LIMIT:,}")


def ensure(writer: Writer, spec: TopicSpec) -> TopicInfo:
    """Create the topic, or take its retention over; inside the writer's transaction."""
    db = writer.db
    row = db.execute("SELECT id, partitions FROM topic WHERE name = ?", (spec.name,)).fetchone()
    if row is None:
        db.execute(
            "INSERT INTO topic(name, partitions, retention_age_s, retention_bytes, dedup) VALUES (?, ?, ?, ?, ?)",
            (spec.name, spec.partitions, spec.retention_age_s, spec.retention_bytes, spec.dedup),
        )
        db.execute(topic_tables(db.last_insert_rowid()))
        shape = load_shape(db, writer.store.id, spec.name)
        db.execute(f"INSERT INTO mark_{shape.id} VALUES (1, ?)", (seal_mark(shape, 1, [0] * spec.partitions),))
    elif row[1] != spec.partitions:
        raise SettingsError(
            f"topic {spec.name!r} has {row[1]} partitions, not {spec.partitions}",
            hint="the number of partitions of a topic stands; use it, or another topic",
        )
    else:
        db.execute(
            "UPDATE topic SET retention_age_s = ?, retention_bytes = ? WHERE id = ?",
            (spec.retention_age_s, spec.retention_bytes, row[0]),
        )
    writer.forget(spec.name)
    topic = writer.topic(spec.name)
    return TopicInfo(
        topic.shape.spec,
        tuple(topic.parts.first),
        tuple(topic.ends),
        tuple(sorted(topic.parts.sealed)),
        size_bytes(db, topic.shape),
        "disk" if writer.store.durable else "process",
    )


def describe(reader: Reader, name: str, durable: bool) -> TopicInfo:
    """Say how a topic is, inside the reader's transaction."""
    shape = load_shape(reader.db, reader.store, name)
    parts = load_parts(reader.db, shape)
    return TopicInfo(
        shape.spec,
        tuple(parts.first),
        tuple(reader.topic(name).ends()),
        tuple(sorted(parts.sealed)),
        size_bytes(reader.db, shape),
        "disk" if durable else "process",
    )


def position_at(reader: Reader, name: str, partition: int, time: float) -> int:
    """Return the lowest position recorded at or after ``time``, or the end."""
    topic = reader.topic(name)
    ends = topic.ends()
    if not 0 <= partition < len(ends):
        raise UnknownTopic(f"topic {name!r} has no partition {partition}")
    seq = seq_at_time(reader.db, topic.shape, time)
    if seq is None:
        return ends[partition]
    first = load_parts(reader.db, topic.shape).first[partition]
    return max(ends_at(reader.db, topic.shape, seq)[partition], first)


def seal(writer: Writer, report: Report, name: str, partition: int) -> int:
    """Refuse further appends to a partition; return its end."""
    topic = writer.topic(name)
    if not 0 <= partition < len(topic.ends):
        raise UnknownTopic(f"topic {name!r} has no partition {partition}")
    if partition not in topic.parts.sealed:
        topic.parts.sealed.add(partition)
        save_part(writer.db, topic.shape, topic.parts, partition)
    report.ends[name] = topic.ends.copy()  # those who watch may want to know that there is no more
    return topic.ends[partition]


def trim(writer: Writer, report: Report, name: str, partition: int, before: int) -> None:
    """Forget events below ``before``; their rows are freed later, a few at a time."""
    topic = writer.topic(name)
    if not 0 <= partition < len(topic.ends):
        raise UnknownTopic(f"topic {name!r} has no partition {partition}")
    before = min(before, topic.ends[partition])
    if before > topic.parts.first[partition]:
        topic.parts.first[partition] = before
        report.trimmed.add(name)
        save_part(writer.db, topic.shape, topic.parts, partition)
