"""At most so many events per second: what a replay may fetch of one partition by now."""

from __future__ import annotations

BURST_S = 0.1
"""What was left unused is kept for at most so long."""

ROUNDING_S = 1e-6
"""Seconds since 1970 are exact to a quarter of this; who comes back too early by a rounding would find no room."""


class Pace:
    """A token bucket, filled by time. Never asked for less time than before."""

    __slots__ = ("_at", "_rate", "_room")

    def __init__(self, rate: float, now: float) -> None:
        """``rate`` is in events per second, above 0."""
        self._rate = rate
        self._at = now
        self._room = 1.0

    def room(self, now: float) -> int:
        """Return how many events may be taken now."""
        self._room = min(self._room + (now - self._at) * self._rate, max(1.0, BURST_S * self._rate))
        self._at = now
        return max(0, int(self._room))

    def take(self, count: int) -> None:
        """Take so many; what there was no room for is made up for before there is room again."""
        self._room -= count

    @property
    def wake_at(self) -> float:
        """When there is room for one more."""
        return self._at + max(0.0, 1.0 - self._room) / self._rate + ROUNDING_S
