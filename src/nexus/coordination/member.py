"""One member of a group on a broker: what it was told, how long its lease runs, and how it joins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from nexus.clock import Clock
from nexus.core.roster import Place, Seat
from nexus.errors import Closed
from nexus.spi.backend import Assigned, Change, Lost, Revoking, Settled, Settlement, Slice, Want


class Hands(Protocol):
    """What a member needs of those around it."""

    async def settle(self, member: LogMember, settlements: Sequence[Settlement]) -> list[Settled]: ...

    async def leave(self, members: Sequence[LogMember]) -> None: ...


class LogMember:
    """See `nexus.spi.backend.Member`."""

    def __init__(
        self,
        name: str,
        group: Hands,
        clock: Clock,
        wake: Callable[[], None],
        read: Callable[[Sequence[Want], int], Awaitable[list[Slice]]],
        rejoin: Callable[[LogMember], None],
        stopped: Callable[[LogMember], None],
        left: Callable[[], Awaitable[None]],
    ) -> None:
        """``rejoin`` is called when its lease has ended, to make it a member again.

        ``stopped`` is called when it stops, and ``left`` after it has told the group, or could not.
        """
        self.name = name
        self.id = ""
        self.joined = False
        """Whether the journal knows it under its present id."""
        self._group = group
        self._clock = clock
        self._wake = wake
        self._read = read
        self._rejoin = rejoin
        self._stopped = stopped
        self._on_left = left
        self._changes: list[Change] = []
        self._view: dict[Place, tuple[int, bool]] = {}
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._settles = 0
        self._settling = asyncio.Lock()
        self._left = False
        self._lapsed = False

    # ---- told by the group ----------------------------------------------------------------------------------------

    def begin(self, id: str, until: float) -> None:
        """Be known under a new id, with a lease until then."""
        self.id = id
        self.joined = self._lapsed = False
        self._until = until
        self._settles = 0
        self._watch()

    def renewed(self, id: str, until: float) -> None:
        """Have a lease until then, if it is known under this id still."""
        if self.id == id:
            self._until = until

    def next_settle(self) -> int:
        self._settles += 1
        return self._settles

    def released(self, topic: str, partition: int) -> None:
        """It gave a partition up itself, so it need not be told."""
        self._view.pop((topic, partition), None)

    def compare(self, owned: Mapping[Place, Seat], revoke_s: float) -> None:
        """Take in what the journal says of it by now."""
        if self._left or self._lapsed:
            return
        newly, self.joined = not self.joined, True
        changes: list[Change] = []
        for place, (token, _) in list(self._view.items()):
            seat = owned.get(place)
            if seat is None or seat.token != token:
                del self._view[place]
                changes.append(Lost(*place, "another member owns it now"))
        for place, seat in owned.items():
            token, revoking = self._view.get(place, (0, False))
            if token != seat.token:
                cursor = seat.cursor
                changes.append(Assigned(*place, cursor, seat.token))
                revoking = False
            if seat.revoking and not revoking:
                changes.append(Revoking(*place, revoke_s))
            self._view[place] = seat.token, seat.revoking
        if changes:
            self._changes += changes
            self._wake()
        if newly:
            self._watch()  # the journal may have said so when the lease was over already

    def _watch(self) -> None:
        """Give up in time, by the clock alone: nobody else may be able to say so while the log does not answer."""
        self._stop_watching()
        rest_s = self._until - self._clock.monotonic()
        if rest_s > 0:
            self._timer = asyncio.get_running_loop().call_later(rest_s, self._watch)
        else:
            self.check()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Give everything up if the lease has ended: others may take it from now on."""
        if not self._left and not self._lapsed and self.joined and self._clock.monotonic() >= self._until:
            self.lapse("the lease could not be renewed in time")

    def lapse(self, reason: str) -> None:
        """Lose everything, and join anew as soon as the broker can be reached."""
        if self._left or self._lapsed:
            return
        self._lapsed = True
        self.joined = False
        self._changes = [change for change in self._changes if not isinstance(change, Assigned)]
        self._changes += [Lost(*place, reason) for place in self._view]
        self._view = {}
        self._wake()
        self._rejoin(self)

    def drop(self) -> None:
        """Stop, without telling anybody."""
        if not self._left:
            self._left = True
            self._stop_watching()
            self._changes = []
            self._view = {}
            self._stopped(self)

    # ---- asked by the runtime -------------------------------------------------------------------------------------

    def changes(self) -> list[Change]:
        """See `nexus.spi.backend.Member.changes`."""
        self.check()
        taken, self._changes = self._changes, []
        return taken

    async def fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """See `nexus.spi.backend.Member.fetch`."""
        if self._left:
            raise Closed("the member has left its group")
        return await self._read(wants, max_bytes)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """See `nexus.spi.backend.Member.settle`."""
        if self._left or self._lapsed or not self.joined:
            return ["fenced"] * len(settlements)
        if not settlements:
            return []
        async with self._settling:  # one after the other, so that they stand in the journal in this order
            return await self._group.settle(self, settlements)

    async def leave(self) -> None:
        """See `nexus.spi.backend.Member.leave`."""
        if self._left:
            return
        self.drop()
        try:
            await self._group.leave([self])
        finally:
            await self._on_left()
