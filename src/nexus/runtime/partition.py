"""What a consumer keeps of each partition that it owns, and what it counts."""

from __future__ import annotations

import msgspec

from nexus.core.owner import Owner


class Stats(msgspec.Struct):
    """What a group did since it started, in events."""

    acked: int = 0
    retried: int = 0
    parked: int = 0
    dead: int = 0
    cancelled: int = 0
    expired: int = 0
    skipped: int = 0
    trimmed: int = 0
    returned_conflicts: int = 0


class Partition(msgspec.Struct, eq=False):
    """One owned partition, as the shell sees it."""

    topic: str
    number: int
    parking: str
    owner: Owner | None = None
    releasing: bool = False
    trimmed_to: int = 0
    checkpoint_at: int = 0

    @property
    def id(self) -> tuple[str, int]:
        return self.topic, self.number
