"""Storing how far the partitions of a consumer are: by time, by count, at once when somebody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

from nexus.clock import Clock
from nexus.core.owner import Owner
from nexus.errors import BackendError
from nexus.runtime.partition import Partition
from nexus.runtime.upkeep import Upkeep
from nexus.spi.backend import Cursor, Member, Settlement

log = logging.getLogger("nexus.consumer")

SETTLE_AFTER = 1_000
"""Completions after which cursors are stored before their time."""
_RETRY_S = 0.1


class Settler:
    """Settles the partitions of one member."""

    def __init__(
        self,
        group: str,
        partitions: Mapping[tuple[str, int], Partition],
        upkeep: Upkeep,
        interval_s: float,
        clock: Clock,
        *,
        fenced: Callable[[Partition], None],
        has_records: Callable[[], None],
        settled: Callable[[], None],
    ) -> None:
        """``fenced`` is told of a partition that is not owned any more, ``has_records`` that an owner has some to
        write, ``settled`` that cursors were stored."""
        self.ended = 0
        """Deliveries that ended since the last settle."""
        self.unsettled = False
        """True if a settle will come by itself."""
        self._group = group
        self._partitions = partitions
        self._upkeep = upkeep
        self._interval_s = interval_s
        self._clock = clock
        self._fenced = fenced
        self._has_records = has_records
        self._settled = settled
        self._member: Member | None = None
        self._wake = asyncio.Event()
        self._now = asyncio.Event()
        self._settling = asyncio.Lock()

    def start(self, member: Member) -> None:
        """Settle by this member from now on."""
        self._member = member

    def note(self, ended: int) -> None:
        """Take in that deliveries ended, or that something else is to be stored."""
        self.ended += ended
        if self.ended >= SETTLE_AFTER:
            self._now.set()
        if not self.unsettled:
            self.unsettled = True
            self._wake.set()

    def hurry(self) -> None:
        """Settle as soon as possible: somebody waits for it."""
        self.note(0)
        self._now.set()

    async def run(self) -> None:
        """Settle whenever it is time, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.unsettled = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._now.wait()
            self._now.clear()
            try:
                await self.settle(list(self._partitions.values()))
            except BackendError as error:
                log.warning("group %s cannot settle: %s", self._group, error)
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

    async def settle(self, partitions: Sequence[Partition], *, clean: bool = False) -> None:
        """Store the cursors that changed; with ``clean``, give the partitions back in the same step."""
        if self._member is None:
            return
        async with self._settling:
            self.ended = 0
            offered: list[tuple[Partition, Owner, Cursor]] = []
            for partition in partitions:
                owner = partition.owner
                if owner is None or owner.deposed or not (owner.dirty or clean):
                    continue
                cursor = owner.cursor(clean=clean)
                if cursor is not None:
                    offered.append((partition, owner, cursor))
            if not offered:
                return
            try:
                answers = await self._member.settle(
                    [Settlement(p.topic, p.number, cursor, release=clean) for p, _, cursor in offered]
                )
            except BaseException:
                for _, owner, _ in offered:
                    owner.not_settled()
                raise
            for (partition, owner, cursor), answer in zip(offered, answers, strict=True):
                if partition.owner is not owner:
                    continue
                if answer == "ok":
                    owner.settled(cursor, self._clock.now())
                    if await self._upkeep.keep(partition, owner):
                        self._has_records()
                elif answer == "fenced":
                    self._fenced(partition)
                else:
                    owner.not_settled()
                    self._wake.set()
        self._settled()
