"""Probation: one delivery at a time, so that an event that takes its process down takes no neighbour with it.

Owners that were taken over uncleanly twice without progress share a `Turn`. Not even an attempt is counted before the
turn is had, and the turn is not given back before the end of the delivery is durable: in both cases a neighbour that
kills the process would use up this one's attempts, one with each crash.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Turn:
    """The right to deliver while on probation; one for all owners of a process."""

    __slots__ = ("_waiting", "holder")

    def __init__(self) -> None:
        self.holder: Hashable | None = None
        self._waiting: dict[Hashable, Callable[[float], None]] = {}

    def take(self, who: tuple[object, Hashable], again: Callable[[float], None]) -> bool:
        """Have the turn if nobody else has it; if not, ``again`` is called with the time once it is free."""
        if self.holder is None or self.holder == who:
            self.holder = who
            return True
        self._waiting[who[0]] = again
        return False

    def free(self, who: tuple[object, Hashable], now: float) -> None:
        """Give the turn back, if it is had."""
        if self.holder == who:
            self.holder = None
            self._call(now)

    def leave(self, owner: object, now: float) -> None:
        """Give the turn back for an owner that is gone."""
        self._waiting.pop(owner, None)
        if isinstance(self.holder, tuple) and self.holder[0] is owner:
            self.holder = None
            self._call(now)

    def _call(self, now: float) -> None:
        waiting, self._waiting = self._waiting, {}
        for again in waiting.values():
            again(now)
