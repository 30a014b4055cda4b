"""How a member whose lease ended becomes one of its group again, also when topics that it wants are gone meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from nexus.clock import Clock
from nexus.coordination.groups import Group
from nexus.coordination.member import LogMember
from nexus.core.findings import few
from nexus.errors import Closed, NexusError, UnknownTopic
from nexus.spi.backend import TopicInfo

log = logging.getLogger("nexus.coordination")

AGAIN_S = 0.5
"""How long to wait before trying again."""
GONE_S = 5.0
"""How long a topic is unknown before a member joins again without it, as a broker that came back may not know it yet;
and how often it is looked for then."""


class Rejoining:
    """Has members of one backend join again."""

    def __init__(
        self,
        describe: Callable[[str], Awaitable[TopicInfo]],
        takes_part: Callable[[LogMember], bool],
        clock: Clock,
    ) -> None:
        """``takes_part`` says whether a member has not left, nor its backend been closed."""
        self._describe = describe
        self._takes_part = takes_part
        self._clock = clock

    async def run(
        self, member: LogMember, group: Group, topics: Sequence[str], start: Literal["latest", "earliest"]
    ) -> None:
        """Make a member whose lease ended one of its group again; it goes on without topics that stay unknown."""
        told = ""
        since: float | None = None  # when topics began to be unknown
        while self._takes_part(member):
            try:
                infos, unknown = await self._those_there(topics)
                if not self._takes_part(member):  # it left meanwhile: it must not come back
                    return
                now = self._clock.monotonic()
                if unknown and since is None:
                    since = now
                if not unknown or (infos and since is not None and now - since >= GONE_S):
                    await group.join(member, infos, start)
                    break
                trouble = f"there is no topic {few(unknown)}"
            except Closed:
                return
            except NexusError as error:
                trouble, since = str(error), None
            if trouble != told:
                log.warning("group %s: %s cannot join again: %s", group.name, member.name, trouble)
                told = trouble
            await asyncio.sleep(AGAIN_S)
        else:
            return
        if unknown:
            log.warning("group %s: %s goes on without topic %s", group.name, member.name, few(unknown))
            await self._wait_for(member, unknown)

    async def _wait_for(self, member: LogMember, topics: Sequence[str]) -> None:
        """Have a member join anew, with all its topics, should one that it went on without be there after all."""
        id = member.id
        while True:
            await asyncio.sleep(GONE_S)
            found: list[TopicInfo] = []
            with contextlib.suppress(NexusError):
                found, _ = await self._those_there(topics)
            if not self._takes_part(member) or member.id != id:
                return
            if found:
                member.lapse(f"topic {few([info.spec.name for info in found])} is there again")
                return

    async def _those_there(self, topics: Sequence[str]) -> tuple[list[TopicInfo], list[str]]:
        """Describe topics; return also the names of those that are unknown."""
        infos, unknown = [], []
        for topic in topics:
            try:
                infos.append(await self._describe(topic))
            except UnknownTopic:
                unknown.append(topic)
        return infos, unknown
