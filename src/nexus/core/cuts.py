"""From which position on which filter of a group judges events, in one partition.

A filter that is altered under traffic holds from the next event that is fetched on. That place is stored before
anything behind it is fetched, so every event is judged once and for all, also when another owner fetches it again.
"""

from __future__ import annotations

CUTS_LIMIT = 16
"""Cuts above the watermark; a further one waits until the watermark has passed some."""

Cut = tuple[int, int]
"""A position, and the number of the filter that holds from there on."""


class Cuts:
    """The cuts of one ownership; before the first of them filter 0 holds."""

    __slots__ = ("_all", "_offered", "_settled")

    def __init__(self, stored: tuple[Cut, ...]) -> None:
        self._all = self._offered = self._settled = stored

    @property
    def in_force(self) -> int:
        """Number of the filter that judges what is fetched next."""
        return self._all[-1][1] if self._all else 0

    def at(self, position: int) -> int:
        """Number of the filter that judges the event at a position that is not below the stored watermark."""
        return next((filter for start, filter in reversed(self._all) if start <= position), 0)

    def add(self, position: int, filter: int) -> bool:
        """Let another filter hold from ``position`` on; False if there are too many cuts for now."""
        if len(self._all) >= CUTS_LIMIT:
            return False
        self._all = (*self._all, (position, filter))
        return True

    @property
    def stored(self) -> bool:
        """False while a cut was added that no stored cursor has: nothing may be fetched."""
        return self._all[-1:] == self._settled[-1:]

    def offer(self, low: int) -> tuple[Cut, ...]:
        """Return what a cursor with this watermark is to hold."""
        passed = sum(start <= low for start, _ in self._all)
        if passed > 1:  # the last of them still holds; the others judge nothing any more
            self._all = self._all[passed - 1 :]
        self._offered = self._all
        return self._all

    def settled(self) -> None:
        """What was last offered is stored."""
        self._settled = self._offered
