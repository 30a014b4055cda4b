"""One member of a group: what the loop sees of it.

The writer thread keeps the lease; this side only watches its end. When a lease could not be renewed in time, everything
is `Lost` here before another process may take it, and the member joins anew as soon as the store can be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from nexus.backends.sqlite.files import boot_time
from nexus.backends.sqlite.groups import Owned
from nexus.errors import Closed
from nexus.spi.backend import Assigned, Change, Lost, Revoking, Settled, Settlement, Slice, Want

if TYPE_CHECKING:
    from nexus.backends.sqlite.backend import SqliteBackend

Key = tuple[int, int]
"""Topic id and partition."""


class View(msgspec.Struct):
    """What a member was told about one partition."""

    token: int
    revoke_at: float | None


class Share:
    """The writer's side of a member: which rows are its own. Touched by the writer thread only."""

    def __init__(self, member: SqliteMember, topics: dict[int, str], name: str, group_name: str) -> None:
        self.member = member
        self.topics = topics
        self.name = name
        self.group_name = group_name
        self.group = self.id = 0
        """Its committed rows; 0 until then."""
        self.view: dict[Key, View] = {}
        self.released: set[Key] = set()
        """Given up in the transaction at hand; nobody has to be told."""

    def compare(
        self, owned: Sequence[Owned] | None, now: float, before: dict[Key, View]
    ) -> tuple[dict[Key, View], list[Change]]:
        """Return the new view, and what is new in it for the member that knows the one from ``before``."""
        view: dict[Key, View] = {}
        changes: list[Change] = []
        found = {(row.topic, row.partition): row for row in owned or ()}
        for key, old in before.items():
            row = found.get(key)
            if (row is None or row.token != old.token) and key not in self.released:
                reason = "the lease ended" if owned is None else "another member owns it now"
                changes.append(Lost(self.topics[key[0]], key[1], reason))
        for key, row in found.items():
            known = before.get(key)
            if known is None or known.token != row.token:
                changes.append(Assigned(self.topics[key[0]], key[1], row.cursor, row.token))
                known = None
            if row.revoke_at is not None and (known is None or known.revoke_at is None):
                changes.append(Revoking(self.topics[key[0]], key[1], max(0.0, row.revoke_at - now)))
            view[key] = View(row.token, row.revoke_at)
        return view, changes


class SqliteMember:
    """See `nexus.spi.backend.Member`."""

    def __init__(self, backend: SqliteBackend, wake: Callable[[], None], lease_s: float) -> None:
        self._backend = backend
        self._wake = wake
        self._margin_s = lease_s / 10
        self._changes: list[Change] = []
        self._owned: set[tuple[str, int]] = set()
        self._lost_all = False
        self._left = False
        self._timer: asyncio.TimerHandle | None = None
        self.until = boot_time() + lease_s
        """End of the lease; the writer moves it on after each renewal."""
        self.rejoin: Callable[[], Awaitable[None]]
        self.store: Callable[[Sequence[Settlement]], Awaitable[list[Settled]]]
        self.go: Callable[[], Awaitable[None]]
        self.stopped: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Begin to watch the lease."""
        self._watch()

    def _watch(self) -> None:
        rest_s = self.until - self._margin_s - boot_time()
        if rest_s <= 0:
            self._expire()
            rest_s = self._margin_s
        self._timer = asyncio.get_running_loop().call_later(rest_s, self._watch)

    def _expire(self) -> None:
        if self._lost_all or self._left:
            return
        self._lost_all = True
        self._changes += [Lost(topic, p, "the lease could not be renewed") for topic, p in sorted(self._owned)]
        self._owned.clear()
        self._wake()
        self._backend.own_task(self._join_again())

    async def _join_again(self) -> None:
        while not self._left and not self._backend.closed:
            try:
                await self.rejoin()
            except Exception:
                # The store cannot be written now; the writer waits for it, so this does not spin.
                await asyncio.sleep(0.1)
            else:
                return

    def joined_again(self, until: float) -> None:
        """Take changes again, with a lease until then; called on the loop right before the first of them."""
        self._lost_all = False
        self.until = max(self.until, until)

    def put(self, changes: Sequence[Change]) -> None:
        """Take changes from the writer, on the loop."""
        if self._left or self._lost_all or not changes:
            return
        for change in changes:
            if isinstance(change, Assigned):
                self._owned.add((change.topic, change.partition))
            elif isinstance(change, Lost):
                self._owned.discard((change.topic, change.partition))
        self._changes += changes
        self._wake()

    def wake(self) -> None:
        """Say that there may be news."""
        if not self._left:
            self._wake()

    def changes(self) -> list[Change]:
        """See `nexus.spi.backend.Member.changes`."""
        if self.until - self._margin_s < boot_time():
            self._expire()
        taken, self._changes = self._changes, []
        return taken

    async def fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """See `nexus.spi.backend.Member.fetch`."""
        if self._left:
            raise Closed("the member has left its group")
        return await self._backend.read(wants, max_bytes)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """See `nexus.spi.backend.Member.settle`."""
        if self._left or self._lost_all or self._backend.closed:
            return ["fenced"] * len(settlements)
        if not settlements:
            return []
        answers = await self.store(settlements)
        for settlement, answer in zip(settlements, answers, strict=True):
            if answer == "ok" and settlement.release:
                self._owned.discard((settlement.topic, settlement.partition))
        return answers

    async def leave(self) -> None:
        """See `nexus.spi.backend.Member.leave`."""
        if self._left:
            return
        self.drop()
        if not self._backend.closed:
            await self.go()

    def drop(self) -> None:
        """Stop, without telling the store."""
        self._left = True
        self._changes = []
        self._owned.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.stopped()
