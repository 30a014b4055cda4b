"""What a consumer keeps of each partition that it owns, and what it counts."""

from __future__ import annotations

import msgspec

from nexus.core.owner import Owner
from nexus.runtime.inbox import Inbox


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
    duplicates: int = 0
    """Second copies of an event that were passed over."""
    returned_conflicts: int = 0


class Partition(msgspec.Struct, eq=False):
    """One owned partition, as the shell sees it."""

    topic: str
    number: int
    parking: str
    owner: Owner | None = None
    inbox: Inbox | None = None
    """Where the backend itself does not recognise every second copy."""
    releasing: bool = False
    moving: bool = False
    """It is wound down to be taken over again, not to be given up."""
    served: int = 0
    """Number of the fetch that last brought something of it."""
    resting_until: float = 0.0
    """When it is tried again, if it could not be read; 0 else."""
    trouble: str = ""
    """Why it could not be read last; empty once it could."""
    trimmed_to: int = 0
    checkpoint_at: int = 0

    @property
    def id(self) -> tuple[str, int]:
        return self.topic, self.number
