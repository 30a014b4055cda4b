"""The topics of a store as their journal tells it: how each was made, what is sealed, where each partition begins.

A broker knows that a topic exists and how many partitions it has. That a partition takes no more events, that a
journal knows no duplicates, and where a partition begins on a broker that cannot forget on request: this is said in a
journal of the store, which every process folds in the same order. The first `Define` of a topic decides about its
partitions, the last one about its retention.
"""

from __future__ import annotations

import msgspec

from nexus.spi.backend import TopicSpec


class Define(msgspec.Struct, frozen=True, tag="define"):
    """A topic exists, with this retention from now on."""

    spec: TopicSpec


class Seal(msgspec.Struct, frozen=True, tag="seal"):
    """A partition takes no more events. Those that were on their way when this was said may still land before its
    end, which a later `End` names."""

    topic: str
    partition: int


class End(msgspec.Struct, frozen=True, tag="end"):
    """Where a sealed partition ends: the first one counts."""

    topic: str
    partition: int
    end: int


class Trim(msgspec.Struct, frozen=True, tag="trim"):
    """Events below a position are gone."""

    topic: str
    partition: int
    first: int


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    through: int
    """Place of the last record that is in it."""
    specs: list[TopicSpec]
    sealed: list[tuple[str, int, int | None]]
    first: list[tuple[str, int, int]]


Record = Define | Seal | End | Trim | Snapshot

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)
encode_record = _encoder.encode


def decode_record(body: bytes) -> Record:
    """Read a record. Raises `msgspec.DecodeError`."""
    record: Record = _decoder.decode(body)
    return record


class Catalogue:
    """The fold."""

    def __init__(self) -> None:
        self.specs: dict[str, TopicSpec] = {}
        self.sealed: dict[str, dict[int, int | None]] = {}
        """Per topic: the end of each sealed partition; None while it is not known yet."""
        self.first: dict[tuple[str, int], int] = {}
        """Where partitions begin, as far as they were trimmed by a record."""

    def apply(self, record: Record, at: float = 0.0) -> None:
        """Fold one record in; when it was written does not matter here."""
        match record:
            case Define(spec):
                known = self.specs.get(spec.name, spec)
                self.specs[spec.name] = msgspec.structs.replace(
                    known, retention_age_s=spec.retention_age_s, retention_bytes=spec.retention_bytes
                )
            case Seal(topic, partition):
                self.sealed.setdefault(topic, {}).setdefault(partition, None)
            case End(topic, partition, end):
                sealed = self.sealed.setdefault(topic, {})
                if sealed.get(partition) is None:
                    sealed[partition] = end
            case Trim(topic, partition, first):
                self.first[topic, partition] = max(first, self.first.get((topic, partition), 0))
            case _:
                pass  # a snapshot says nothing new to who has read what it was made of

    def snapshot(self, through: int) -> Snapshot:
        """Return all of it, to be written into the journal; ``through`` is the place of the last record folded in."""
        return Snapshot(
            through,
            list(self.specs.values()),
            [(topic, partition, end) for topic, ends in self.sealed.items() for partition, end in ends.items()],
            [(*place, first) for place, first in self.first.items()],
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Be what a snapshot says."""
        self.specs = {spec.name: spec for spec in snapshot.specs}
        self.sealed = {}
        for topic, partition, end in snapshot.sealed:
            self.sealed.setdefault(topic, {})[partition] = end
        self.first = {(topic, partition): first for topic, partition, first in snapshot.first}
