"""What a group wants, told by its members: two programs that want different events in one group lose some.

A member passes over what its handlers do not want, and that holds for the whole group. So each tells its patterns when
it begins, and hears what others told.
"""

from __future__ import annotations

import logging

from nexus.core.control import Declare
from nexus.errors import SettingsError, UnknownGroup
from nexus.runtime.control import ControlTopic
from nexus.runtime.subscription import Group
from nexus.spi.backend import Backend

log = logging.getLogger("nexus.consumer")


async def declare(control: ControlTopic, backend: Backend, group: Group, *, refuse: bool) -> None:
    """Tell what the group wants, if nobody did or it is something else by now.

    If members that are there want something else, that is written into the log; with ``refuse`` it raises
    `SettingsError`.
    """
    patterns = tuple(sorted({pattern for one in group.subscriptions for pattern in one.patterns}))
    state = await control.read_on()
    known = state.declared.get(group.name)
    if known == patterns or group.name in state.created:
        return
    if known is not None and await _has_members(backend, group.name):
        told = f"group {group.name} has members that want {', '.join(known)}, and here it wants {', '.join(patterns)}"
        if refuse:
            raise SettingsError(
                f"{told}: each would pass over what the other wants", hint="consume as another group, or with the same"
            )
        log.warning("%s: each passes over what the other wants, until all run the same code", told)
    await control.write(Declare(group.name, patterns))


async def _has_members(backend: Backend, group: str) -> bool:
    try:
        return any(lag.owner is not None for lag in await backend.lag(group))
    except UnknownGroup:
        return False
