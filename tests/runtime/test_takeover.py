"""Becoming the owner of a partition that others may have taken meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from nexus import Nexus
from nexus.core.policy import Policy
from nexus.runtime.journal import Journal, parking_spec
from nexus.runtime.subscription import Group
from nexus.runtime.takeover import Taken, Takeover
from nexus.spi.backend import Assigned, Settlement, TopicSpec

GROUP = Group("billing", Policy(), 1, "earliest", "stop")


async def one_partition() -> Nexus:
    bus = Nexus("memory://")
    await bus.start(consume=False)
    await bus.backend.ensure(TopicSpec("orders", 1))
    await bus.backend.ensure(parking_spec("orders", "billing", 1))
    return bus


class Taking:
    """A member and its takeovers."""

    def __init__(self, bus: Nexus, name: str, member: Any) -> None:
        self.takeover = Takeover(GROUP, bus.backend, Journal(bus.backend, bus.clock, bus.new_id, "/t"), name, _nowhere)
        self.member = member

    @classmethod
    async def of(cls, bus: Nexus, name: str) -> Taking:
        return cls(bus, name, await bus.backend.claim("billing", ["orders"], name, lambda: None, "earliest"))

    def assigned(self) -> list[Assigned]:
        return [change for change in self.member.changes() if isinstance(change, Assigned)]

    async def run(self, assigned: list[Assigned]) -> tuple[list[Taken], list[Assigned]]:
        return await self.takeover.run(self.member, assigned)


class HeldUp:
    """A member that is held up after its first settle; meanwhile something happens."""

    def __init__(self, member: Any, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self._member = member
        self._meanwhile: Callable[[], Awaitable[None]] | None = meanwhile

    async def settle(self, settlements: Sequence[Settlement]) -> Any:
        answers = await self._member.settle(settlements)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
        return answers


def _nowhere(id: tuple[str, int]) -> None:
    return None


@pytest.mark.parametrize("settled", [False, True])
async def test_who_was_held_up_does_not_call_a_cursor_lost_that_another_has_moved(settled: bool) -> None:
    bus = await one_partition()
    late, other = await Taking.of(bus, "late"), await Taking.of(bus, "other")
    member, held_up = late.member, late.assigned()
    owned: list[Taken] = []

    async def other_takes_over() -> None:
        member.kill()
        owned.extend((await other.run(other.assigned()))[0])

    if settled:
        late.member = HeldUp(member, other_takes_over)
    else:
        await other_takes_over()
    assert await late.run(held_up) == ([], [])
    assert late.takeover.lost == {}
    assert owned
    assert owned[0].cursor is not None
    assert await other.member.settle([Settlement("orders", 0, owned[0].cursor)]) == ["ok"], "undisturbed"
    await bus.close()
