"""Groups, changed while they run: paused, sent elsewhere, filtered otherwise, created and removed.

Each change is a record in the control topic (`nexus.core.control`), so it is durable, every process sees it, and a
group that nobody runs finds it when it is started.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from nexus.core.control import Alter, Create, Pause, Remove, Resume, Seek
from nexus.core.filter import compile_filter
from nexus.core.pattern import validate_pattern
from nexus.errors import HandlerError, SettingsError, UnknownGroup, UnknownTopic
from nexus.runtime.control import ControlTopic
from nexus.runtime.registering import checked_new_group
from nexus.spi.backend import Backend

Places = Literal["earliest", "latest"] | float | Mapping[str, Mapping[int, int]]
"""The first kept event, the end, a time in seconds since 1970, or positions by topic and partition."""


class Subscriptions:
    """The groups of a store, as operators change them."""

    def __init__(self, backend: Backend, control: ControlTopic) -> None:
        self._backend = backend
        self._control = control

    async def pause(self, group: str, *, who: str = "") -> None:
        """Let nothing of the group start until `resume`; what runs goes on until its end. Raises `UnknownGroup`."""
        await self._known(group)
        await self._control.write(Pause(group, who))

    async def resume(self, group: str, *, who: str = "") -> None:
        """End a pause. Raises `UnknownGroup`."""
        await self._known(group)
        await self._control.write(Resume(group, who))

    async def alter(self, group: str, *, where: str | None, who: str = "") -> None:
        """Let only events that match a filter be the group's, besides what its code wants; None lifts that.

        In each partition it holds from the next event on that its owner fetches: what was fetched before is judged by
        the filter before, also if its delivery is repeated. Raises `FilterError`, `UnknownGroup`.
        """
        if where is not None:
            compile_filter(where)
        await self._known(group)
        await self._control.write(Alter(group, where, who))

    async def seek(
        self,
        group: str,
        to: Places,
        *,
        topic: str | None = None,
        drop_parked: bool = False,
        who: str = "",
    ) -> dict[str, dict[int, int]]:
        """Have the group go on elsewhere; return where, by topic and partition.

        Going back, events are handled again, and what is parked from there on is forgotten with its dead letters.
        Going forward, what lies between is skipped, but for what is parked: that stays owed, unless ``drop_parked``;
        dead letters below stay in any case. Raises `UnknownGroup`, `UnknownTopic`, and `SettingsError` for a place that
        the topic does not have: above its end lies what is not published yet, and nothing may skip that.
        """
        await self._known(group)
        places = await self._places(group, to, topic)
        await self._control.write(Seek(group, places, drop_parked, who))
        return places

    async def _places(self, group: str, to: Places, topic: str | None) -> dict[str, dict[int, int]]:
        lags = [lag for lag in await self._backend.lag(group) if topic in (None, lag.topic)]
        own: dict[str, set[int]] = {}
        for lag in lags:
            own.setdefault(lag.topic, set()).add(lag.partition)
        if topic is not None and not own:
            raise UnknownTopic(f"group {group!r} does not consume a topic {topic!r}")
        if isinstance(to, Mapping):
            for name, positions in to.items():
                end = (await self._backend.describe(name)).end if name in own else ()
                for partition, position in positions.items():
                    known = partition in own.get(name, ())
                    if not known or not isinstance(position, int) or not 0 <= position <= end[partition]:
                        hint = f"it is at most {end[partition]}: one above the last event" if known else None
                        raise SettingsError(
                            f"group {group!r} cannot be sent to {name}[{partition}]@{position}", hint=hint
                        )
            return {name: dict(positions) for name, positions in to.items()}
        if to not in ("earliest", "latest") and not (isinstance(to, int | float) and math.isfinite(to)):
            raise SettingsError(f"{to!r} is no place", hint="earliest, latest, seconds since 1970, or positions")
        places: dict[str, dict[int, int]] = {}
        for name, partitions in own.items():
            info = await self._backend.describe(name)
            for partition in sorted(partitions):
                if to == "earliest":
                    place = info.first[partition]
                elif to == "latest":
                    place = info.end[partition]
                else:
                    place = await self._backend.position_at(name, partition, float(to))
                places.setdefault(name, {})[partition] = place
        return places

    async def create(
        self,
        group: str,
        *patterns: str,
        handler: str,
        where: str | None = None,
        start: Literal["latest", "earliest"] = "latest",
        who: str = "",
    ) -> None:
        """Make a group that no code names: every process that registered the handler (`Nexus.handler`) consumes it.

        One that was removed goes on where it was; ``start`` is for one that is new. Raises `SettingsError` if there is
        such a group, `FilterError`, `HandlerError` for a name that no group can have, and where no pattern is given.
        """
        checked_new_group(group)
        for pattern in patterns:
            validate_pattern(pattern)
        if not patterns:
            raise HandlerError("no event type was given", hint='name one: create(group, "order.placed", handler=…)')
        if start not in ("latest", "earliest"):
            raise HandlerError(f"start is {start!r}; it must be latest or earliest")
        if where is not None:
            compile_filter(where)
        state = await self._control.read_on()
        known = group in state.created or (group not in state.removed and group in await self._backend.groups())
        if known:
            raise SettingsError(f"there is a group {group!r} already", hint="choose another name, or remove it first")
        wish = Create(group, patterns, handler, start, where, who)
        await self._control.write(wish)
        if self._control.state.created.get(group) != wish:
            raise SettingsError(f"group {group!r} was created by somebody else at this moment")

    async def remove(self, group: str, *, who: str = "") -> None:
        """Have nobody consume a group of `create` any more. Its cursors stay, so it can be created anew and go on.

        Raises `UnknownGroup` for any other group.
        """
        state = await self._control.read_on()
        if group not in state.created:
            raise UnknownGroup(f"no group {group!r} was created", hint="what code names, code removes")
        await self._control.write(Remove(group, who))

    async def _known(self, group: str) -> None:
        state = await self._control.read_on()
        if group in state.removed:
            raise UnknownGroup(f"group {group!r} was removed", hint="create it anew: it goes on where it was")
        if group not in state.created and group not in await self._backend.groups():
            raise UnknownGroup(f"there is no group {group!r}", hint="see `nexus groups ls`")
