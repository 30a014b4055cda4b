"""Keeps parking topics short: forget what is finished, carry what is old and unfinished forward, trim the start."""

from __future__ import annotations

import contextlib
from typing import Any

from nexus.core.owner import Owner
from nexus.core.parking import Fold
from nexus.errors import BackendError
from nexus.runtime.history import Told, tell
from nexus.runtime.journal import Journal, record_of
from nexus.runtime.partition import Partition
from nexus.spi.backend import Backend

CHECKPOINT_AFTER = 4_096
"""Records in a parking partition after which finished ones are forgotten."""
CARRY_BEHIND = 4 * CHECKPOINT_AFTER
"""How far behind the end an unfinished entry may be known before it is written again."""
CARRY_LIMIT = 256
"""Entries carried at once; where more are that old, the topic is kept as it is."""
CARRY_LIMIT_BYTES = 512 * 1024
"""Bodies above are not carried: a record holds the original and the edited event, and must fit in a body itself."""


class Upkeep:
    """What is done about a parking partition after each settle."""

    def __init__(self, backend: Backend, journal: Journal) -> None:
        self._backend = backend
        self._journal = journal

    async def keep(self, partition: Partition, owner: Owner) -> bool:
        """Trim what nobody reads again, ask for a checkpoint when it pays; True if there is something to write."""
        if owner.trim_below > partition.trimmed_to:
            partition.trimmed_to = owner.trim_below
            if self._backend.capabilities.trim:
                with contextlib.suppress(BackendError):  # it is tried again with the next checkpoint
                    await self._backend.trim(partition.parking, partition.number, owner.trim_below)
        since = owner.fold.place - partition.checkpoint_at
        # With nothing unfinished, forgetting is worth a record at once: the partition is back on the short way.
        due = since >= CHECKPOINT_AFTER or (since > 0 and not owner.fold.unfinished)
        if not due or not owner.request_checkpoint():
            return False
        partition.checkpoint_at = owner.fold.place + 1
        if since >= CHECKPOINT_AFTER:
            with contextlib.suppress(BackendError):  # the next checkpoint tries again
                await self._carry_forward(partition, owner)
        return True

    async def _carry_forward(self, partition: Partition, owner: Owner) -> None:
        before = owner.fold.place - CARRY_BEHIND
        stale = set(owner.stale(before, CARRY_LIMIT + 1))
        if not stale or len(stale) > CARRY_LIMIT:
            return
        fold = Fold(partition.trimmed_to)
        told: dict[Any, Told] = {}
        records, _ = await self._journal.read(partition.parking, partition.number, partition.trimmed_to, before)
        for stored in records:
            record = record_of(stored)
            fold.epoch = max(fold.epoch, getattr(record, "epoch", 0))
            if fold.apply(stored.position, record):
                with contextlib.suppress(KeyError):  # of an entry that was known before this reading begins
                    tell(told, record, fold)
        for key, position in stale & told.keys():
            said = told[key, position]
            if len(said.event.body) + len(said.edited.body if said.edited else b"") > CARRY_LIMIT_BYTES:
                continue
            owner.carry(key, position, said.event, said.edited, said.reason, said.history_lines())
